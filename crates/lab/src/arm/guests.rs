//! Virtual machines that really run: each is a machine of a [`LocalSite`] whose disks are the raw files of its managed disks.
//!
//! Its SMBIOS UUID is the virtual machine's `vmId`, so that an agent finds itself. (In a real guest `dmidecode` shows that UUID with the bytes of its
//! first three groups swapped where the firmware's SMBIOS is older than 2.6; the kernel's `/sys/class/dmi/id/product_uuid` shows what `vmId` is.)

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use switchback_sites::{Boot, LocalSite, Power, Site as _};

use super::answer::{Answer, ArmError, Request};
use super::world::{Resource, World};
use super::{machines, sizes};

/// How long a machine may take to shut down when it is asked once; it is asked again until its time is over.
const ASK_LIMIT: Duration = Duration::from_millis(500);
const CONSOLE_LEN_MAX: usize = 1 << 20;
/// What QEMU's virtio disks show of a serial number.
const SERIAL_LEN_MAX: usize = 20;

/// What runs them.
#[derive(Debug, Clone)]
pub struct Guests {
    /// The directory of a local site that is there.
    pub site: PathBuf,
    /// Networks of that site by names of subnets. A card in another subnet is not connected.
    pub networks: BTreeMap<String, String>,
    /// Boots them; `None`: from their own disks, by BIOS or UEFI as the generation of their disk says.
    pub boot: Option<Boot>,
    /// MiB at most: a lab has less memory than a cloud.
    pub memory_mib_max: u32,
    /// Processors at most.
    pub cpus_max: u32,
    /// The tag of managed disks that has the serial number which their guest sees. Azure has nothing like it.
    pub serial_tag: Option<String>,
}

/// Answers `GET /boot-diagnostics/NAME/serial`.
pub(super) fn answer(world: &World, request: &Request) -> Option<Answer> {
    let [first, name, what] = request.segments.as_slice() else { return None };
    if first != "boot-diagnostics" {
        return None;
    }
    let is_signed = request.query("sig") == "once" && what == "serial";
    if !is_signed {
        return Some(Answer::empty(403));
    }
    let text = match world.local() {
        Ok(Some((local, _))) => local.console(&name.to_lowercase(), CONSOLE_LEN_MAX).unwrap_or_default(),
        _ => format!("{name}: nothing runs here\n"),
    };
    Some(Answer::empty(200).header("content-type", "text/plain").bytes(text.into_bytes()))
}

fn failed(error: impl ToString) -> ArmError {
    ArmError::new(409, "VMStartFailed", error.to_string())
}

impl World {
    fn local(&self) -> Result<Option<(LocalSite, &Guests)>, ArmError> {
        let Some(guests) = &self.options.guests else { return Ok(None) };
        Ok(Some((LocalSite::open(&guests.site).map_err(failed)?, guests)))
    }

    /// Starts the guest of a virtual machine, which has its disks.
    pub(super) fn start_guest(&self, id: &str) -> Result<(), ArmError> {
        let Some((local, guests)) = self.local()? else { return Ok(()) };
        let Some((name, mut description)) = self.describe(id, guests) else { return Ok(()) };
        let directory = local.directory().join("machines").join(&name);
        fs::create_dir_all(&directory).map_err(failed)?;
        self.provision(id, &mut description, &directory)?;
        let description = without_null(description);
        let text = toml::to_string(&description).map_err(failed)?;
        fs::write(directory.join("machine.toml"), text).map_err(failed)?;
        local.power_on(&name).map_err(failed)
    }

    /// Asks the guest to shut down, in a moment's time. Whether it is off.
    pub(super) fn ask_guest(&self, id: &str) -> bool {
        let Ok(Some((local, _))) = self.local() else { return false };
        local.shut_down(&name_of(id), ASK_LIMIT).unwrap_or(false)
    }

    /// Cuts its power.
    pub(super) fn stop_guest(&self, id: &str) {
        if let Ok(Some((local, _))) = self.local() {
            // One that was never started is off.
            let _ = local.power_off(&name_of(id));
        }
    }

    /// Removes what is left of a guest that is off, but for its managed disks.
    pub(super) fn remove_guest(&self, id: &str) -> Result<(), ArmError> {
        let Some((local, _)) = self.local()? else { return Ok(()) };
        local.delete_machine(&name_of(id)).map_err(failed)
    }

    pub(super) fn stop_guests(&self) {
        let ids: Vec<String> =
            self.state().of_kind(machines::KIND).map(|machine| machine.text("/id").to_owned()).collect();
        ids.iter().for_each(|id| self.stop_guest(id));
    }

    /// Whether the guest has ended by itself.
    pub(super) fn has_ended(&self, id: &str) -> bool {
        let Ok(Some((local, _))) = self.local() else { return false };
        local.machine(&name_of(id)).is_ok_and(|machine| machine.power == Power::Off)
    }

    /// The machine's name and its `machine.toml`.
    fn describe(&self, id: &str, guests: &Guests) -> Option<(String, Value)> {
        let state = self.state();
        let machine = state.get(id)?;
        let storage = &machine.json["properties"]["storageProfile"];
        let mut data = storage["dataDisks"].as_array().cloned().unwrap_or_default();
        data.sort_by_key(|disk| disk["lun"].as_u64());
        let disks = std::iter::once(&storage["osDisk"]).chain(&data).filter_map(|disk| {
            let disk = state.get(disk["managedDisk"]["id"].as_str()?)?;
            Some(json!({ "path": self.disk_file(&disk.name()), "serial": serial(disk, guests) }))
        });
        let cards = machine.json["properties"]["networkProfile"]["networkInterfaces"].as_array()?;
        let nics = cards.iter().filter_map(|card| {
            let card = state.get(card["id"].as_str()?)?;
            let mac = card.text("/properties/macAddress").replace('-', ":").to_lowercase();
            let subnet = card.text("/properties/ipConfigurations/0/properties/subnet/id");
            let mut nic = json!({ "mac": mac });
            if let Some(network) = guests.networks.get(subnet.rsplit('/').next()?) {
                nic["network"] = json!(network);
            }
            Some(nic)
        });
        let size = sizes::named(machine.text("/properties/hardwareProfile/vmSize"))?;
        let by_disk = if machine.text("/emulated/generation") == "V2" { Boot::Uefi } else { Boot::Bios };
        let description = json!({
            "name": machine.name(),
            "uuid": machine.text("/properties/vmId").to_lowercase(),
            "cpus": size.1.min(guests.cpus_max),
            "memory_mib": size.2.min(guests.memory_mib_max),
            "boot": guests.boot.as_ref().unwrap_or(&by_disk),
            "disks": disks.collect::<Vec<_>>(),
            "nics": nics.collect::<Vec<_>>(),
        });
        Some((name_of(id), description))
    }
}

/// TOML has no null: what would be one in a description's `boot` is left out.
fn without_null(mut description: Value) -> Value {
    if let Some(boot) = description["boot"].as_object_mut() {
        boot.retain(|_, value| !value.is_null());
    }
    description
}

fn name_of(id: &str) -> String {
    id.rsplit('/').next().unwrap_or_default().to_lowercase()
}

/// What the guest sees: Hyper-V's NAA name, of which Azure promises nothing, or what the lab's tag says.
fn serial(disk: &Resource, guests: &Guests) -> String {
    let tag = guests.serial_tag.as_ref();
    let tagged = tag.and_then(|tag| disk.json["tags"][tag].as_str()).filter(|serial| !serial.is_empty());
    let naa = || format!("60022480{}", disk.text("/properties/uniqueId").replace('-', ""));
    tagged.map_or_else(naa, str::to_owned).chars().take(SERIAL_LEN_MAX).collect()
}
