//! Machines as the site shows them: a description, joined with the virtual machine of its life; or a virtual machine of somebody else.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::AzureSite;
use super::arm::version;
use super::description::{DIRECTORY, Description, Disk, base_name};
use super::error::{AzureError, failed};
use super::networks::Place;
use super::resources::{ManagedDisk, NetworkInterface, Size, Vm};
use crate::{Boot, Machine, MachineDisk, Nic, Power, SiteError};

pub(super) const VMS: &str = "Microsoft.Compute/virtualMachines";
pub(super) const DISKS: &str = "Microsoft.Compute/disks";
pub(super) const CARDS: &str = "Microsoft.Network/networkInterfaces";
/// The tag with the id of the machine that a resource was made for.
pub(super) const ID: &str = "switchback-id";
/// The tag with its mark.
pub(super) const MARK: &str = "switchback-mark";
/// The tag with the container that has its description: sites may share a resource group.
pub(super) const CONTAINER: &str = "switchback-container";

/// What Azure has, read at once.
struct Inventory {
    vms: Vec<Vm>,
    disks: Vec<ManagedDisk>,
    cards: Vec<NetworkInterface>,
    places: Vec<Place>,
    sizes: Vec<Size>,
}

impl AzureSite {
    /// What everything is called that is made for a machine in its present life.
    pub(super) fn base(&self, machine: &Description) -> String {
        base_name(&self.settings.container, &machine.id, machine.life)
    }

    pub(super) fn vm_id(&self, machine: &Description) -> String {
        self.arm.id(&format!("{VMS}/{}", self.base(machine)))
    }

    pub(super) fn is_ours(&self, tags: &BTreeMap<String, String>) -> bool {
        tags.get(CONTAINER).is_some_and(|container| *container == self.settings.container)
    }

    /// A virtual machine with how it is.
    pub(super) fn vm(&self, id: &str) -> Result<Option<Vm>, AzureError> {
        self.arm.get(id, version::COMPUTE, "$expand=instanceView")
    }

    pub(super) fn all_machines(&self) -> Result<Vec<Machine>, SiteError> {
        let reading = || failed("listing the machines");
        let inventory = self.inventory().map_err(reading())?;
        let mut machines = Vec::new();
        for name in self.container.list(DIRECTORY).map_err(reading())? {
            let id =
                name.strip_prefix(DIRECTORY).and_then(|name| name.strip_suffix(".json")).unwrap_or_default();
            match self.look_up(id) {
                // One that was removed meanwhile is none.
                Ok(found) => machines.extend(found.map(|kept| {
                    let own = self.base(&kept.is);
                    let vm = inventory.vms.iter().find(|vm| vm.name.eq_ignore_ascii_case(&own));
                    view(&kept.is, vm, &inventory.cards)
                })),
                Err(error) if error.is_passing() => return Err(reading()(error)),
                Err(error) => tracing::warn!(machine = id, %error, "a machine cannot be used"),
            }
        }
        let foreign =
            inventory.vms.iter().filter(|vm| !self.is_ours(&vm.tags)).map(|vm| inventory.foreign(vm));
        machines.extend(foreign);
        machines.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(machines)
    }

    pub(super) fn one_machine(&self, id: &str) -> Result<Machine, SiteError> {
        let reading = || failed(format!("looking up the machine {id}"));
        if let Some(kept) = self.look_up(id).map_err(reading())? {
            let (vm, cards) = match kept.is.begun {
                true => (
                    self.vm(&self.vm_id(&kept.is)).map_err(reading())?,
                    self.cards_of(&kept.is).map_err(reading())?,
                ),
                false => (None, Vec::new()),
            };
            return Ok(view(&kept.is, vm.as_ref(), &cards));
        }
        let vm = self.foreign_vm(id)?;
        let inventory = self.inventory().map_err(reading())?;
        Ok(inventory.foreign(&vm))
    }

    /// A virtual machine that Switchback did not make, by its name.
    pub(super) fn foreign_vm(&self, id: &str) -> Result<Vm, SiteError> {
        let missing = || SiteError::NoSuchMachine { id: id.to_owned() };
        let is_name =
            !id.is_empty() && id.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if !is_name {
            return Err(missing());
        }
        let found = self.vm(&self.arm.id(&format!("{VMS}/{id}")));
        let found = found.map_err(failed(format!("looking up the machine {id}")))?;
        found.filter(|vm| !self.is_ours(&vm.tags)).ok_or_else(missing)
    }

    /// The cards of a machine in its present life that are there.
    pub(super) fn cards_of(&self, machine: &Description) -> Result<Vec<NetworkInterface>, AzureError> {
        let mut found = Vec::new();
        for position in 0..machine.cards.len() {
            let id = self.card_id(machine, position);
            found.extend(self.arm.get::<NetworkInterface>(&id, version::NETWORK, "")?);
        }
        Ok(found)
    }

    pub(super) fn card_id(&self, machine: &Description, position: usize) -> String {
        self.arm.id(&format!("{CARDS}/{}-nic-{position}", self.base(machine)))
    }

    pub(super) fn disk_id(&self, machine: &Description, position: usize) -> String {
        self.arm.id(&format!("{DISKS}/{}-disk-{position}", self.base(machine)))
    }

    fn inventory(&self) -> Result<Inventory, AzureError> {
        let of_group = |kind: &str, version| (self.arm.id(kind), version);
        let (id, version) = of_group(VMS, version::COMPUTE);
        let mut vms: Vec<Vm> = self.arm.list(&id, version, "")?;
        // Lists of a resource group have no power; those of a subscription have.
        let with_status: Vec<Vm> = match vms.is_empty() {
            true => Vec::new(),
            false => self.arm.list(&self.arm.subscription_id(VMS), version, "statusOnly=true")?,
        };
        for vm in &mut vms {
            let same = with_status.iter().find(|one| one.id.eq_ignore_ascii_case(&vm.id));
            vm.properties.instance_view = same.and_then(|one| one.properties.instance_view.clone());
        }
        let (id, version) = of_group(DISKS, version::DISKS);
        let disks = self.arm.list(&id, version, "")?;
        let (id, version) = of_group(CARDS, version::NETWORK);
        let cards = self.arm.list(&id, version, "")?;
        let (places, sizes) = match vms.iter().all(|vm| self.is_ours(&vm.tags)) {
            true => (Vec::new(), Vec::new()),
            false => (self.places()?, self.sizes()?),
        };
        Ok(Inventory { vms, disks, cards, places, sizes })
    }
}

/// A disk of ours.
pub(super) fn disk(disk: &Disk) -> MachineDisk {
    MachineDisk { path: disk.blob.clone(), size: disk.size, serial: disk.serial.clone() }
}

/// A machine of ours.
fn view(machine: &Description, vm: Option<&Vm>, cards: &[NetworkInterface]) -> Machine {
    let disks = machine.disks.iter().map(disk);
    let card_ids =
        vm.map(|vm| vm.properties.network_profile.network_interfaces.as_slice()).unwrap_or_default();
    let mut connected = card_ids.iter();
    let nics = machine.cards.iter().map(|card| {
        // A card without a network is not made.
        let made = card.network.as_ref().and_then(|_| connected.next());
        let made = made.and_then(|made| cards.iter().find(|one| one.id.eq_ignore_ascii_case(&made.id)));
        Nic { mac: made.map(NetworkInterface::mac).unwrap_or_default(), network: card.network.clone() }
    });
    Machine {
        id: machine.id.clone(),
        name: machine.name.clone(),
        system_uuid: vm.map(|vm| vm.properties.vm_id.to_lowercase()).unwrap_or_default(),
        power: if vm.is_none_or(Vm::is_surely_off) { Power::Off } else { Power::On },
        cpus: machine.cpus,
        memory_mib: machine.memory_mib,
        boot: machine.boot.clone(),
        disks: disks.collect(),
        nics: nics.collect(),
        snapshots: machine.snapshots.clone(),
        mark: machine.mark.clone(),
    }
}

impl Inventory {
    /// A machine of somebody else.
    fn foreign(&self, vm: &Vm) -> Machine {
        let size = self
            .sizes
            .iter()
            .find(|size| size.name.eq_ignore_ascii_case(&vm.properties.hardware_profile.vm_size));
        let ids = vm.disk_ids();
        let disks: Vec<&ManagedDisk> = ids
            .iter()
            .filter_map(|id| self.disks.iter().find(|disk| disk.id.eq_ignore_ascii_case(id)))
            .collect();
        let boot = match disks.first() {
            Some(disk) if disk.properties.generation == "V2" => Boot::Uefi,
            _ => Boot::Bios,
        };
        let cards = vm.properties.network_profile.network_interfaces.iter().filter_map(|card| {
            let card = self.cards.iter().find(|one| one.id.eq_ignore_ascii_case(&card.id))?;
            let place = self.places.iter().find(|place| place.subnet.id.eq_ignore_ascii_case(card.subnet()));
            Some(Nic { mac: card.mac(), network: place.map(|place| place.name.clone()) })
        });
        Machine {
            id: vm.name.clone(),
            name: vm.name.clone(),
            system_uuid: vm.properties.vm_id.to_lowercase(),
            power: if vm.is_surely_off() { Power::Off } else { Power::On },
            cpus: size.map_or(0, |size| size.number_of_cores),
            memory_mib: size.map_or(0, |size| size.memory_mib),
            boot,
            disks: disks
                .iter()
                .map(|disk| MachineDisk {
                    path: PathBuf::from(&disk.id),
                    size: disk.properties.disk_size_bytes,
                    serial: disk.properties.unique_id.clone(),
                })
                .collect(),
            nics: cards.collect(),
            snapshots: Vec::new(),
            mark: vm.tags.get(MARK).cloned(),
        }
    }
}
