//! Virtual machines: made from managed disks and cards that are there, and started by that, as Azure does.
//!
//! A later wish about a machine's power overtakes an earlier one that is still under way: that one ends with `OperationPreempted`.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answer::{Answer, ArmError, Request};
use super::faults::Fault;
use super::operations::{self, Begun};
use super::world::{Power, Resource, State, World};
use super::{REGION, disks, groups, images, network, route, sizes};

pub(super) const KIND: &str = "Microsoft.Compute/virtualMachines";
const LOOK: Duration = Duration::from_millis(20);
/// Microsoft's block of addresses.
const VENDOR: &str = "00-0D-3A";

/// `action` are the segments behind the machine's name, in lower case.
pub(super) fn answer(
    world: &Arc<World>,
    request: &Request,
    action: &[&str],
    fault: Option<Fault>,
) -> Result<Answer, ArmError> {
    let (_, id) = route::id_of(request);
    match (request.method.as_str(), action) {
        ("PUT", []) => put(world, request, &id, fault),
        ("DELETE", []) => delete(world, id, fault),
        _ => {
            look_at_guest(world, &id);
            let there = world.state().get(&id).cloned().ok_or_else(|| route::not_found(&id))?;
            match (request.method.as_str(), action) {
                ("GET", []) => {
                    let with_view = request.query("$expand").eq_ignore_ascii_case("instanceView");
                    Ok(Answer::json(200, &shown(&there, with_view)))
                }
                ("GET", ["instanceview"]) => Ok(Answer::json(200, &view(&there))),
                ("POST", ["start"]) => change_power(world, id, Power::Running, Duration::ZERO, fault),
                ("POST", ["poweroff"]) => {
                    let grace = if request.query("skipshutdown") == "true" {
                        Duration::ZERO
                    } else {
                        world.options.grace
                    };
                    change_power(world, id, Power::Stopped, grace, fault)
                }
                ("POST", ["deallocate"]) => {
                    change_power(world, id, Power::Deallocated, Duration::ZERO, fault)
                }
                ("POST", ["retrievebootdiagnosticsdata"]) => boot_diagnostics(world, &there),
                (method, _) => Err(ArmError::not_emulated(&format!("{method} {}", request.path()))),
            }
        }
    }
}

/// A guest that has ended by itself leaves its machine stopped, hardware and all.
fn look_at_guest(world: &World, id: &str) {
    let is_settled = |machine: &Resource| {
        machine.power == Power::Running && machine.text("/properties/provisioningState") == "Succeeded"
    };
    let looked = world.state().get(id).filter(|machine| is_settled(machine)).map(|machine| machine.wish);
    let Some(wish) = looked.filter(|_| world.has_ended(id)) else { return };
    if let Some(machine) = world.state().get_mut(id)
        && machine.wish == wish
    {
        machine.power = Power::Stopped;
    }
}

/// A resource as lists and reads show it.
pub(super) fn shown(resource: &Resource, with_view: bool) -> Value {
    let mut json = resource.json.clone();
    if with_view && resource.text("/type") == KIND {
        json["properties"]["instanceView"] = view(resource);
    }
    json
}

fn view(machine: &Resource) -> Value {
    let state = machine.text("/properties/provisioningState");
    let code = format!("ProvisioningState/{}", state.to_lowercase());
    let mut statuses = vec![json!({ "code": code, "level": "Info", "displayStatus": state })];
    if state != "Failed" || machine.power == Power::Running {
        let code = machine.power.code();
        let shown = format!("VM {}", code.trim_start_matches("PowerState/"));
        statuses.push(json!({ "code": code, "level": "Info", "displayStatus": shown }));
    }
    json!({ "statuses": statuses, "hyperVGeneration": machine.text("/emulated/generation") })
}

/// Cores of all machines that have hardware.
pub(super) fn cores_used(state: &State) -> u32 {
    let cores = |machine: &Resource| {
        let size = sizes::named(machine.text("/properties/hardwareProfile/vmSize"));
        size.filter(|_| machine.power != Power::Deallocated).map_or(0, |size| size.1)
    };
    state.of_kind(KIND).map(cores).sum()
}

fn put(world: &Arc<World>, request: &Request, id: &str, fault: Option<Fault>) -> Result<Answer, ArmError> {
    let mut json = request.json()?;
    if json["location"].as_str().is_none_or(|location| !location.eq_ignore_ascii_case(REGION)) {
        return Err(groups::no_region(json["location"].as_str().unwrap_or_default()));
    }
    let mut state = world.state();
    if let Some(there) = state.get(id) {
        let stays = |pointer: &str| there.json.pointer(pointer) == json.pointer(pointer);
        let by_image = images::is_wanted(&json);
        let disk = if by_image { "name" } else { "managedDisk/id" };
        if !stays(&format!("/properties/storageProfile/osDisk/{disk}")) {
            return Err(ArmError::new(
                409,
                "PropertyChangeNotAllowed",
                "Changing property 'osDisk.managedDisk.id' is not allowed.",
            ));
        }
        if there.text("/properties/provisioningState") != "Failed" {
            return Ok(Answer::json(200, &there.json));
        }
    }
    let parts = Parts::check(world, &state, id, &json)?;
    let number = state.number();
    json["id"] = json!(id);
    json["name"] = json!(request.segments[7]);
    json["type"] = json!(KIND);
    json["properties"]["vmId"] = json!(world.uuid(number));
    json["properties"]["provisioningState"] = json!("Creating");
    json["emulated"] = json!({ "generation": parts.generation });
    if let Some(image) = &parts.image {
        images::make_disk(world, &mut state, image, id, &mut json)?;
    }
    images::keep_custom_data(&mut state, id, &mut json);
    for disk in &parts.disks {
        if let Some(disk) = state.get_mut(disk) {
            disk.json["managedBy"] = json!(id);
            disk.json["properties"]["diskState"] = json!("Attached");
        }
    }
    for card in &parts.cards {
        let number = state.number();
        let [_, _, _, _, _, a, b, c] = number.wrapping_add(world.salt).to_be_bytes();
        if let Some(card) = state.get_mut(card) {
            card.json["properties"]["virtualMachine"] = json!({ "id": id });
            if card.json["properties"].get("macAddress").is_none() {
                card.json["properties"]["macAddress"] = json!(format!("{VENDOR}-{a:02X}-{b:02X}-{c:02X}"));
            }
        }
    }
    state.put(json.clone(), Power::Running);
    drop(state);
    let begun = Begun {
        provider: "Microsoft.Compute",
        answer: Answer::json(201, &json),
        resource: Some(id.to_owned()),
    };
    let id = id.to_owned();
    operations::begin(world, begun, fault, move |world| {
        world.write_image(&id)?;
        world.start_guest(&id)?;
        if let Some(machine) = world.state().get_mut(&id) {
            machine.set_state("Succeeded");
        }
        Ok(())
    })
}

/// What a machine is made of: ids that have been looked at.
struct Parts {
    disks: Vec<String>,
    cards: Vec<String>,
    generation: String,
    image: Option<images::NewDisk>,
}

impl Parts {
    fn check(world: &World, state: &State, id: &str, json: &Value) -> Result<Self, ArmError> {
        let wrong = |text: String| ArmError::new(400, "InvalidParameter", text);
        let properties = &json["properties"];
        let size_name = properties["hardwareProfile"]["vmSize"].as_str().unwrap_or_default();
        let size = sizes::named(size_name)
            .ok_or_else(|| wrong(format!("The value {size_name} provided for the VM size is not valid.")))?;
        let image = images::check(state, id, json)?;
        if image.is_none() && properties.get("osProfile").is_some() {
            return Err(wrong("Parameter 'osProfile' is not allowed.".into()));
        }
        let disks = Self::disks(state, id, json, size.3)?;
        let cards = Self::cards(state, id, properties)?;
        let set = properties["availabilitySet"]["id"].as_str().unwrap_or_default();
        if !set.is_empty() && state.get(set).is_none() {
            return Err(network::invalid_reference(set));
        }
        let used = cores_used(state);
        if used + size.1 > world.options.cores_max {
            return Err(ArmError::new(
                409,
                "OperationNotAllowed",
                format!(
                    "Operation could not be completed as it results in exceeding approved Total Regional Cores quota. Additional details - Location: {REGION}, Current Limit: {}, Current Usage: {used}, Additional Required: {}",
                    world.options.cores_max, size.1
                ),
            ));
        }
        let attached = disks.first().and_then(|disk| state.get(disk));
        let attached = attached.map(|disk| disk.text("/properties/hyperVGeneration"));
        let own = image.as_ref().map(|image| image.generation).or(attached);
        let generation = own.filter(|text| !text.is_empty()).unwrap_or("V1").to_owned();
        Ok(Self { disks, cards, generation, image })
    }

    fn disks(state: &State, id: &str, json: &Value, data_max: u32) -> Result<Vec<String>, ArmError> {
        let wrong = |text: String| ArmError::new(400, "InvalidParameter", text);
        let storage = &json["properties"]["storageProfile"];
        let system = &storage["osDisk"];
        if system["osType"].as_str().is_none_or(str::is_empty) {
            return Err(wrong("Required parameter 'osDisk.osType' is missing (null).".into()));
        }
        let data = storage["dataDisks"].as_array().cloned().unwrap_or_default();
        if data.len() > usize::try_from(data_max).unwrap_or(usize::MAX) {
            return Err(ArmError::new(
                409,
                "OperationNotAllowed",
                format!(
                    "The maximum number of data disks allowed to be attached to a VM of this size is {data_max}."
                ),
            ));
        }
        let mut luns: Vec<u64> = data.iter().filter_map(|disk| disk["lun"].as_u64()).collect();
        luns.sort_unstable();
        luns.dedup();
        if luns.len() != data.len() {
            return Err(wrong(
                "The value of parameter dataDisks.lun is invalid: each must be different.".into(),
            ));
        }
        let mut found = Vec::new();
        let system = Some(system).filter(|_| !images::is_wanted(json));
        for disk in system.into_iter().chain(&data) {
            if disk["createOption"].as_str() != Some("Attach")
                || disk["deleteOption"].as_str() == Some("Delete")
            {
                return Err(ArmError::not_emulated(
                    "disks that are not attached, or deleted with their machine",
                ));
            }
            let disk = disk["managedDisk"]["id"].as_str().unwrap_or_default();
            let there = state
                .get(disk)
                .filter(|one| one.text("/type") == disks::KIND)
                .ok_or_else(|| ArmError::new(404, "NotFound", format!("Disk {disk} is not found.")))?;
            let owner = there.text("/managedBy");
            if !owner.is_empty() && !owner.eq_ignore_ascii_case(id) {
                return Err(ArmError::new(
                    409,
                    "ConflictingUserInput",
                    format!("Disk '{disk}' cannot be attached as the disk is already owned by VM '{owner}'."),
                ));
            }
            if there.text("/properties/provisioningState") != "Succeeded" {
                return Err(ArmError::new(409, "ResourceNotReady", format!("Disk '{disk}' is not ready.")));
            }
            if there.json.get("zones") != json.get("zones") {
                return Err(ArmError::new(
                    400,
                    "BadRequest",
                    format!(
                        "Disk {disk} cannot be attached to the VM because it is not in the same zone as the VM."
                    ),
                ));
            }
            found.push(disk.to_owned());
        }
        Ok(found)
    }

    fn cards(state: &State, id: &str, properties: &Value) -> Result<Vec<String>, ArmError> {
        let cards = properties["networkProfile"]["networkInterfaces"].as_array().cloned().unwrap_or_default();
        if cards.is_empty() {
            return Err(ArmError::new(
                400,
                "InvalidParameter",
                "Required parameter 'networkInterfaces' is missing (null).",
            ));
        }
        let primary = cards.iter().filter(|card| card["properties"]["primary"] == json!(true)).count();
        if cards.len() > 1 && primary != 1 {
            return Err(ArmError::new(
                400,
                "VirtualMachineMustHaveOneNetworkInterfaceAsPrimary",
                "Virtual machine must have one network interface set as the primary.",
            ));
        }
        let mut found = Vec::new();
        for card in cards {
            let card = card["id"].as_str().unwrap_or_default();
            let there = state.get(card).ok_or_else(|| network::invalid_reference(card))?;
            let owner = there.text("/properties/virtualMachine/id");
            if !owner.is_empty() && !owner.eq_ignore_ascii_case(id) {
                return Err(ArmError::new(
                    400,
                    "NicInUse",
                    format!("Network Interface {card} is used by existing resource {owner}."),
                ));
            }
            found.push(card.to_owned());
        }
        Ok(found)
    }
}

fn delete(world: &Arc<World>, id: String, fault: Option<Fault>) -> Result<Answer, ArmError> {
    match world.state().get_mut(&id) {
        None => return Ok(Answer::empty(204)),
        Some(machine) => {
            machine.set_state("Deleting");
            machine.wish += 1;
        }
    }
    let begun = Begun { provider: "Microsoft.Compute", answer: Answer::empty(202), resource: None };
    operations::begin(world, begun, fault, move |world| {
        switch_off(world, &id);
        world.remove_guest(&id)?;
        let mut state = world.state();
        images::delete_with(world, &mut state, &id);
        for resource in state.resources.values_mut() {
            if resource.text("/managedBy").eq_ignore_ascii_case(&id) {
                resource.json["managedBy"] = Value::Null;
                resource.json["properties"]["diskState"] = json!("Unattached");
            }
            if resource.text("/properties/virtualMachine/id").eq_ignore_ascii_case(&id)
                && let Some(properties) = resource.json["properties"].as_object_mut()
            {
                properties.remove("virtualMachine");
            }
        }
        state.resources.remove(&id.to_lowercase());
        Ok(())
    })
}

/// Whatever it takes.
pub(super) fn switch_off(world: &World, id: &str) {
    world.stop_guest(id);
    if let Some(machine) = world.state().get_mut(id) {
        machine.power = Power::Stopped;
    }
}

fn change_power(
    world: &Arc<World>,
    id: String,
    to: Power,
    grace: Duration,
    fault: Option<Fault>,
) -> Result<Answer, ArmError> {
    let (wish, was) = {
        let mut state = world.state();
        let used = cores_used(&state);
        let machine = state.get_mut(&id).ok_or_else(|| route::not_found(&id))?;
        let size = sizes::named(machine.text("/properties/hardwareProfile/vmSize")).map_or(0, |size| size.1);
        if to == Power::Running
            && machine.power == Power::Deallocated
            && used + size > world.options.cores_max
        {
            return Err(ArmError::new(
                409,
                "OperationNotAllowed",
                "Operation could not be completed as it results in exceeding approved Total Regional Cores quota.",
            ));
        }
        machine.wish += 1;
        (machine.wish, machine.power)
    };
    let begun = Begun { provider: "Microsoft.Compute", answer: Answer::empty(202), resource: None };
    operations::begin(world, begun, fault, move |world| {
        if to == Power::Running {
            world.start_guest(&id)?;
        } else if was == Power::Running && !grace.is_zero() {
            wait_for_guest(world, &id, wish, grace)?;
        }
        if to != Power::Running {
            world.stop_guest(&id);
        }
        if let Some(machine) = world.state().get_mut(&id) {
            let keeps = to == Power::Stopped && machine.power == Power::Deallocated;
            if !keeps {
                machine.power = to;
            }
            machine.set_state("Succeeded");
        }
        Ok(())
    })
}

/// Asks the guest to shut down, and waits as long as Azure would.
fn wait_for_guest(world: &World, id: &str, wish: u64, grace: Duration) -> Result<(), ArmError> {
    let until = Instant::now() + grace;
    while Instant::now() < until {
        let now = world.state().get(id).map(|machine| machine.wish);
        if now != Some(wish) {
            let text = "Operation execution has been preempted by a more recent operation.";
            return Err(ArmError::new(409, "OperationPreempted", text));
        }
        if world.ask_guest(id) {
            return Ok(());
        }
        sleep(LOOK);
    }
    Ok(())
}

fn boot_diagnostics(world: &World, machine: &Resource) -> Result<Answer, ArmError> {
    let enabled = machine.json.pointer("/properties/diagnosticsProfile/bootDiagnostics/enabled");
    if enabled != Some(&json!(true)) {
        return Err(ArmError::new(
            409,
            "OperationNotAllowed",
            "Boot diagnostics is not enabled for the virtual machine.",
        ));
    }
    let address = |what: &str| format!("{}/boot-diagnostics/{}/{what}?sig=once", world.url, machine.name());
    Ok(Answer::json(
        200,
        &json!({ "consoleScreenshotBlobUri": address("screenshot"), "serialConsoleLogBlobUri": address("serial") }),
    ))
}
