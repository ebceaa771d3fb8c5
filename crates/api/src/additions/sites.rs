//! `switchbackSites`: sites made and removed, and what is at them: machines, consoles, networks, datastores.

use serde::Deserialize;
use serde_json::{Value, json};
use switchback_control::{Control, ControlError, DiscoveredMachine};
use switchback_model::{ObjectName, Site, SiteKind};
use switchback_sites::{Boot, Machine, Power};

use crate::arm::{Answer, ArmError, Call, encode, page, resource};
use crate::openapi::operation::{
    Operation, delete as remove, get as show_one, get_page, get_text, put as make,
};
use crate::openapi::schema::{count, resource as schema};
use crate::openapi::shared;

/// Bytes of console text that are shown when nothing is said, and at most.
const CONSOLE_BYTES: usize = 64 << 10;
const CONSOLE_BYTES_MAX: usize = 1 << 20;

#[derive(Deserialize)]
struct Put {
    properties: SiteKind,
}

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let shown = || schema("SwitchbackSite", shared::site());
    let one = "switchbackSites/{site}";
    let found = || schema("SwitchbackMachine", shared::machine());
    vec![
        get_page("switchbackSites", list, "Sites.", shown()),
        show_one(one, get, "A site.", shown()),
        make(one, put, "Makes a site known.", shown()).takes(shared::site()),
        remove(one, delete, "Forgets a site."),
        get_page(
            "switchbackSites/{site}/machines",
            machines,
            "What the site has, with obstacles to protecting it.",
            found(),
        ),
        show_one("switchbackSites/{site}/machines/{machine}", machine, "A machine of a site.", found()),
        get_text(
            "switchbackSites/{site}/machines/{machine}/console",
            console,
            "The end of a machine's console.",
        )
        .query("bytes", count(), "how much of it"),
        get_page("switchbackSites/{site}/networks", networks, "Networks of a site.", {
            schema("SwitchbackNetwork", shared::network())
        }),
        get_page("switchbackSites/{site}/datastores", datastores, "Datastores of a site.", {
            schema("SwitchbackDatastore", shared::datastore())
        }),
    ]
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let sites = control.sites()?.into_iter().map(|site| (site.name.key(), site)).collect();
    Answer::of(&page(call, sites, |site| show(call, &site))?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(call, &find(control, &call.name("site")?)?)?))
}

/// Makes a site known. One that is known already, as it is said to be, is no error.
pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let kind = call.json::<Put>()?.properties;
    if let SiteKind::Local { directory } = &kind
        && !directory.is_absolute()
    {
        let message = format!("the directory {} is not an absolute path", directory.display());
        return Err(ArmError::invalid(message).cause("it is one of the configuration server's host"));
    }
    let site = Site { name: call.name("site")?, kind };
    let known = control.sites()?.into_iter().find(|known| known.name == site.name);
    if known.as_ref().is_none_or(|known| known.kind != site.kind) {
        control.add_site(&site)?;
    }
    Ok(Answer::Ok(show(call, &site)?))
}

pub(crate) fn delete(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("site")?;
    if control.sites()?.iter().any(|site| site.name == name) {
        control.remove_site(&name)?;
    }
    Ok(Answer::NoContent)
}

pub(crate) fn machines(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = find(control, &call.name("site")?)?;
    let machines = control.machines(&site.name)?.into_iter();
    let machines = machines.map(|found| (found.machine.id.clone(), found)).collect();
    Answer::of(&page(call, machines, |found| show_machine(call, &site.name, &found))?)
}

pub(crate) fn machine(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = find(control, &call.name("site")?)?;
    let id = call.text("machine");
    let found = control.machines(&site.name)?.into_iter().find(|found| found.machine.id == id);
    let found = found.ok_or_else(|| ArmError::not_found("machine", id))?;
    Ok(Answer::Ok(show_machine(call, &site.name, &found)?))
}

/// The end of a machine's console, as text; `?bytes=` says how much.
pub(crate) fn console(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let bytes = match call.query("bytes") {
        None => CONSOLE_BYTES,
        Some(text) => {
            let bytes: Option<usize> = text.parse().ok();
            bytes
                .ok_or_else(|| ArmError::invalid(format!("bytes must be a number, not {text:?}")))?
                .min(CONSOLE_BYTES_MAX)
        }
    };
    let site = control.site(&call.name("site")?)?;
    Ok(Answer::Text(site.console(call.text("machine"), bytes).map_err(ControlError::from)?))
}

pub(crate) fn networks(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = find(control, &call.name("site")?)?;
    let networks = control.site(&site.name)?.networks().map_err(ControlError::from)?;
    let networks = networks.into_iter().map(|network| (network.name.clone(), network)).collect();
    Answer::of(&page(call, networks, |network| {
        let properties = json!({ "description": network.description });
        below(call, &site.name, "networks", &network.name, properties)
    })?)
}

pub(crate) fn datastores(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = find(control, &call.name("site")?)?;
    let datastores = control.site(&site.name)?.datastores().map_err(ControlError::from)?;
    let datastores = datastores.into_iter().map(|datastore| (datastore.name.clone(), datastore)).collect();
    Answer::of(&page(call, datastores, |datastore| {
        let properties = json!({ "capacityBytes": datastore.capacity, "freeBytes": datastore.free });
        below(call, &site.name, "datastores", &datastore.name, properties)
    })?)
}

fn find(control: &Control, name: &ObjectName) -> Result<Site, ArmError> {
    let known = control.sites()?.into_iter().find(|site| site.name == *name);
    known.ok_or_else(|| ArmError::not_found("site", name.as_str()))
}

fn show(call: &Call, site: &Site) -> Result<Value, ArmError> {
    // As it is stored: that holds no secret.
    let properties =
        serde_json::to_value(&site.kind).map_err(|error| ArmError::invalid(error.to_string()))?;
    resource(
        call.vault.addition("switchbackSites", site.name.as_str()),
        site.name.as_str(),
        "switchbackSites",
        properties,
    )
}

fn below(
    call: &Call,
    site: &ObjectName,
    kind: &str,
    name: &str,
    properties: Value,
) -> Result<Value, ArmError> {
    let id = format!("{}/{kind}/{}", call.vault.addition("switchbackSites", site.as_str()), encode(name));
    resource(id, name, &format!("switchbackSites/{kind}"), properties)
}

fn show_machine(call: &Call, site: &ObjectName, found: &DiscoveredMachine) -> Result<Value, ArmError> {
    let Machine { id, name, system_uuid, power, cpus, memory_mib, boot, disks, nics, snapshots, .. } =
        &found.machine;
    let disks: Vec<_> = disks
        .iter()
        .map(|disk| json!({ "path": disk.path, "sizeBytes": disk.size, "serial": disk.serial }))
        .collect();
    let nics: Vec<_> = nics.iter().map(|nic| json!({ "mac": nic.mac, "network": nic.network })).collect();
    let properties = json!({
        "friendlyName": name,
        "systemUuid": system_uuid,
        "power": if *power == Power::On { "on" } else { "off" },
        "cpus": cpus,
        "memoryMib": memory_mib,
        "boot": match boot { Boot::Bios => "bios", Boot::Uefi => "uefi", Boot::Kernel { .. } => "kernel" },
        "disks": disks,
        "nics": nics,
        "snapshots": snapshots,
        "protectedMachine": found.item,
        "hasAgent": found.has_agent,
        "obstacles": found.obstacles,
    });
    below(call, site, "machines", id, properties)
}
