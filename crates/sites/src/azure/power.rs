//! Virtual machines made and started, stopped and given back.
//!
//! In this order, each with a look at what an earlier attempt has left: the life is noted in the description; what earlier lives have left is
//! deleted, since it has the addresses; cards; managed disks; the virtual machine, which is started by being made.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::AzureSite;
use super::arm::version;
use super::description::Description;
use super::error::{AzureError, failed};
use super::http::Call;
use super::networks;
use super::resources::{ManagedDisk, NetworkInterface, Size, Vm};
use super::view::{CONTAINER, ID, MARK, VMS};
use crate::{Boot, SiteError};

/// Between two looks at whether a guest has stopped.
const LOOK: Duration = Duration::from_secs(1);
/// What a managed disk is made of is known by this tag.
const SOURCE: &str = "switchback-source";
/// The serial number that the disk had at home, for people.
const SERIAL: &str = "switchback-serial";

impl AzureSite {
    pub(super) fn start(&self, id: &str) -> Result<(), SiteError> {
        let starting = format!("starting the machine {id}");
        let Some(kept) = self.look_up(id).map_err(failed(&starting))? else {
            let vm = self.foreign_vm(id)?;
            return self.switch_on(&vm).map_err(failed(starting));
        };
        let is = match kept.is.begun {
            true => kept.is,
            false => {
                // What Azure would refuse at the end is found out before anything is made.
                self.can_be_made(&kept.is).map_err(failed(&starting))?;
                self.change(id, &starting, |is| {
                    is.begun = true;
                    Ok(())
                })?
                .0
            }
        };
        if let Some(vm) = self.vm(&self.vm_id(&is)).map_err(failed(&starting))?
            && vm.properties.provisioning_state != "Failed"
        {
            return self.switch_on(&vm).map_err(failed(starting));
        }
        self.delete_made(id, Some(&self.base(&is)), &starting)?;
        self.make(&is).map_err(|error| {
            let so_far = "What has been made so far is kept, and the next attempt goes on with it; taking the failover back deletes it";
            SiteError::Failed { action: starting, passing: error.is_passing(), detail: format!("{error}. {so_far}") }
        })
    }

    /// Whether the replica stands at a point, a size suffices, and the cards have a network.
    fn can_be_made(&self, is: &Description) -> Result<(), AzureError> {
        self.size_for(is, &self.sizes()?)?;
        if is.cards.iter().all(|card| card.network.is_none()) {
            let detail = "a machine at Azure needs a network card that is connected: map its network, or connect it [azure-nic]";
            return Err(AzureError::Impossible(detail.into()));
        }
        (0..is.disks.len()).try_for_each(|position| self.source(is, position).map(drop))
    }

    /// The blob that a managed disk is imported from, and what it is known by.
    fn source(&self, is: &Description, position: usize) -> Result<(String, String), AzureError> {
        let none = |what: String| {
            AzureError::Impossible(format!(
                "{what}. Fail over from a recovery point of its own [azure-no-point]"
            ))
        };
        let place = is.disks[position].source.as_ref();
        let place = place.ok_or_else(|| none("the replica stands at no recovery point".into()))?;
        let etag = self.container.etag(place)?.ok_or_else(|| {
            none(format!(
                "there is no blob {}: the replica has left that recovery point, or was removed",
                place.display()
            ))
        })?;
        Ok((place.to_string_lossy().into_owned(), etag))
    }

    fn switch_on(&self, vm: &Vm) -> Result<(), AzureError> {
        if vm.power_state() == "running" {
            return Ok(());
        }
        let vm: Vm = self.arm.settled(&vm.id, version::COMPUTE)?;
        self.arm.post(&format!("{}/start", vm.id), version::COMPUTE, "").map(drop)
    }

    fn tags(&self, is: &Description) -> Value {
        let mut tags = self.settings.machines.tags.clone();
        tags.insert(ID.into(), is.id.clone());
        tags.insert(CONTAINER.into(), self.settings.container.clone());
        if let Some(mark) = &is.mark {
            tags.insert(MARK.into(), mark.clone());
        }
        json!(tags)
    }

    fn zones(&self, is: &Description) -> Option<Value> {
        let set = is.plan.availability_set.as_ref();
        let zone = is.plan.zone.as_ref().or(self.settings.machines.zone.as_ref().filter(|_| set.is_none()));
        zone.map(|zone| json!([zone]))
    }

    fn make(&self, is: &Description) -> Result<(), AzureError> {
        let size = self.size_for(is, &self.sizes()?)?;
        let places = self.places()?;
        let mut cards = Vec::new();
        for (position, card) in is.cards.iter().enumerate() {
            let Some(network) = &card.network else { continue };
            let place = networks::named(&places, network)
                .map_err(|error| AzureError::Impossible(format!("{error} [azure-network]")))?;
            cards.push(self.make_card(is, position, &place.subnet.id)?.id);
        }
        let mut disks = Vec::new();
        for position in 0..is.disks.len() {
            disks.push(self.make_disk(is, position)?);
        }
        self.make_vm(is, &size, &cards, &disks)
    }

    fn make_card(
        &self,
        is: &Description,
        position: usize,
        subnet: &str,
    ) -> Result<NetworkInterface, AzureError> {
        let id = self.card_id(is, position);
        let mut address = json!({ "subnet": { "id": subnet }, "privateIPAllocationMethod": "Dynamic" });
        if let Some(Some(wanted)) = is.plan.addresses.get(position) {
            address["privateIPAllocationMethod"] = json!("Static");
            address["privateIPAddress"] = json!(wanted.to_string());
        }
        let mut body = json!({
            "location": self.settings.region, "tags": self.tags(is),
            "properties": { "ipConfigurations": [{ "name": "primary", "properties": address }] },
        });
        let group = is.plan.security_group.as_ref().or(self.settings.machines.security_group.as_ref());
        if let Some(group) = group {
            body["properties"]["networkSecurityGroup"] = json!({ "id": group });
        }
        let made: NetworkInterface = self.arm.put(&id, version::NETWORK, &body)?;
        must_have_succeeded(&id, &made.properties.provisioning_state)?;
        Ok(made)
    }

    /// A managed disk of what the replica stands at now.
    fn make_disk(&self, is: &Description, position: usize) -> Result<String, AzureError> {
        let id = self.disk_id(is, position);
        let (uri, etag) = self.source(is, position)?;
        if self.arm.get::<ManagedDisk>(&id, version::DISKS, "")?.is_some() {
            let there: ManagedDisk = self.arm.settled(&id, version::DISKS)?;
            let is_whole = there.properties.provisioning_state == "Succeeded";
            if is_whole && there.tags.get(SOURCE) == Some(&etag) {
                return Ok(id);
            }
            // Half imported, or of a point that the replica has left.
            self.arm.delete(&id, version::DISKS)?;
        }
        let mut tags = self.tags(is);
        tags[SOURCE] = json!(etag);
        tags[SERIAL] = json!(is.disks[position].serial);
        let mut properties = json!({
            "creationData": {
                "createOption": "Import", "sourceUri": uri, "storageAccountId": self.settings.storage_account,
            },
        });
        if position == 0 {
            properties["osType"] = json!(system(is));
            properties["hyperVGeneration"] = json!(if is.boot == Boot::Uefi { "V2" } else { "V1" });
        }
        let mut body = json!({
            "location": self.settings.region, "tags": tags, "properties": properties,
            "sku": { "name": self.settings.machines.disk_kind },
        });
        if let Some(zones) = self.zones(is) {
            body["zones"] = zones;
        }
        let made: ManagedDisk = self.arm.put(&id, version::DISKS, &body)?;
        must_have_succeeded(&id, &made.properties.provisioning_state)?;
        // The replica may have moved while Azure was reading.
        let (_, now) = self.source(is, position)?;
        if now != etag {
            self.arm.delete(&id, version::DISKS)?;
            return Err(AzureError::Impossible(format!(
                "{uri} was changed while Azure imported it: the replica must stand still until its machine runs [azure-moved]"
            )));
        }
        Ok(id)
    }

    fn make_vm(
        &self,
        is: &Description,
        size: &Size,
        cards: &[String],
        disks: &[String],
    ) -> Result<(), AzureError> {
        let attach = |id: &String| json!({ "createOption": "Attach", "managedDisk": { "id": id }, "deleteOption": "Detach" });
        let (system_disk, data) =
            disks.split_first().ok_or_else(|| AzureError::Impossible("it has no disk".into()))?;
        let mut first = attach(system_disk);
        first["osType"] = json!(system(is));
        let data = data.iter().enumerate().map(|(lun, id)| {
            let mut disk = attach(id);
            disk["lun"] = json!(lun);
            disk
        });
        let cards = cards
            .iter()
            .enumerate()
            .map(|(position, id)| json!({ "id": id, "properties": { "primary": position == 0 } }));
        let mut body = json!({
            "location": self.settings.region, "tags": self.tags(is),
            "properties": {
                "hardwareProfile": { "vmSize": size.name },
                "storageProfile": { "osDisk": first, "dataDisks": data.collect::<Vec<_>>() },
                "networkProfile": { "networkInterfaces": cards.collect::<Vec<_>>() },
                "diagnosticsProfile": { "bootDiagnostics": { "enabled": true } },
            },
        });
        let zones = self.zones(is);
        let set = is.plan.availability_set.as_ref().or(self.settings.machines.availability_set.as_ref());
        if let Some(set) = set.filter(|_| zones.is_none()) {
            body["properties"]["availabilitySet"] = json!({ "id": set });
        }
        if let Some(zones) = zones {
            body["zones"] = zones;
        }
        let id = self.vm_id(is);
        let made: Vm = self.arm.put(&id, version::COMPUTE, &body)?;
        must_have_succeeded(&id, &made.properties.provisioning_state)
    }

    /// The virtual machine of an id, whoever made it; `None`: there is none yet.
    fn made_vm(&self, id: &str, action: &str) -> Result<Option<Vm>, SiteError> {
        match self.look_up(id).map_err(failed(action))? {
            Some(kept) if kept.is.begun => self.vm(&self.vm_id(&kept.is)).map_err(failed(action)),
            Some(_) => Ok(None),
            None => self.foreign_vm(id).map(Some),
        }
    }

    pub(super) fn cut_power(&self, id: &str) -> Result<(), SiteError> {
        let action = format!("cutting the power of {id}");
        let Some(vm) = self.made_vm(id, &action)? else { return Ok(()) };
        if vm.power_state() == "deallocated" {
            return Ok(());
        }
        let stop = || {
            if !vm.is_surely_off() {
                self.arm.post(&format!("{}/powerOff", vm.id), version::COMPUTE, "skipShutdown=true")?;
            }
            self.arm.post(&format!("{}/deallocate", vm.id), version::COMPUTE, "").map(drop)
        };
        let result = stop();
        // Whatever the operations say, what counts is how the machine is.
        if self.vm(&vm.id).map_err(failed(&action))?.is_none_or(|vm| vm.power_state() == "deallocated") {
            return Ok(());
        }
        match result {
            Err(error) => Err(failed(action)(error)),
            Ok(()) => Err(SiteError::passing(
                action,
                "Azure says it is done, and the machine is not off [azure-power]",
            )),
        }
    }

    pub(super) fn ask_guest_to_stop(&self, id: &str, limit: Duration) -> Result<bool, SiteError> {
        let action = format!("asking {id} to shut down");
        let until = Instant::now() + limit;
        let mut is_asked = false;
        loop {
            match self.made_vm(id, &action)? {
                None => return Ok(true),
                Some(vm) if vm.is_surely_off() => {
                    self.cut_power(id)?;
                    return Ok(true);
                }
                Some(vm) if !is_asked => {
                    let ask = format!("{}/powerOff", vm.id);
                    self.arm.begin(&ask, version::COMPUTE, "skipShutdown=false").map_err(failed(&action))?;
                    is_asked = true;
                }
                Some(_) => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            sleep(LOOK.min(left));
        }
    }

    pub(super) fn serial_log(&self, id: &str, bytes_max: usize) -> Result<String, SiteError> {
        let action = format!("reading the console of {id}");
        let Some(vm) = self.made_vm(id, &action)? else { return Ok(String::new()) };
        self.serial_log_of(&vm, bytes_max, &action)
    }

    pub(super) fn serial_log_of(&self, vm: &Vm, bytes_max: usize, action: &str) -> Result<String, SiteError> {
        let read = || {
            let asked =
                self.arm.post(&format!("{}/retrieveBootDiagnosticsData", vm.id), version::COMPUTE, "")?;
            let addresses: Value = super::arm::read(&asked)?;
            // It has a signature: nothing of it gets into an error, and no token goes there.
            let Some(address) = addresses["serialConsoleLogBlobUri"].as_str() else { return Ok(Vec::new()) };
            let reply =
                self.http.send(&Call::new(reqwest::Method::GET, address), self.settings.limits.request())?;
            match reply.status {
                200 => Ok(reply.body),
                // Nothing was written yet.
                404 => Ok(Vec::new()),
                status => Err(AzureError::Refused {
                    status,
                    code: "Unknown".into(),
                    message: "the serial log is refused".into(),
                }),
            }
        };
        let log = read().map_err(failed(action))?;
        Ok(String::from_utf8_lossy(&log[log.len().saturating_sub(bytes_max)..]).into_owned())
    }
}

fn system(is: &Description) -> &'static str {
    if is.plan.is_windows { "Windows" } else { "Linux" }
}

/// An operation that ends well may have left a resource that did not.
pub(super) fn must_have_succeeded(id: &str, state: &str) -> Result<(), AzureError> {
    if state == "Succeeded" {
        return Ok(());
    }
    let kind = id.split("/providers/").nth(1).unwrap_or(VMS);
    Err(AzureError::Refused {
        status: 200,
        code: format!("ProvisioningState{state}"),
        message: format!("{kind} could not be made"),
    })
}
