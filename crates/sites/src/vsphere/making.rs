//! Machines made and removed.
//!
//! A machine is made whole by one task, with the instance UUID that is derived from its id: an attempt whose answer was lost is found by the next one.

use std::collections::BTreeMap;

use super::attach::{ATTACHED_MODE, CONTROLLERS_MAX, UNITS, ignored};
use super::inventory::{
    DatastoreInfo, Host, Inventory, NetworkInfo, VirtualDisk, VirtualMachine, encoded_name,
};
use super::soap::{MoRef, VimError, Xml};
use super::view::{ID, MARK, derived_uuid, networks_of};
use super::{VsphereSite, cards, failed};
use crate::{Boot, DiskOrigin, NewDisk, NewMachine, SiteError};

/// What vSphere accounts disks in.
const KIB: u64 = 1024;
/// What is known of the guest when a machine is made: nothing. It decides defaults alone, and every disk and card is named.
const GUEST_KIND: &str = "otherGuest64";
/// The mode of a disk that is its machine's own: snapshots take it in.
pub(super) const MADE_MODE: &str = "persistent";
/// Temporary keys of devices that are being made: any numbers below zero.
const CONTROLLER_KEY: i32 = -100;
const DISK_KEY: i32 = -1000;
const CARD_KEY: i32 = -5000;

/// Where a machine goes.
struct Place<'a> {
    host: &'a Host,
    pool: MoRef,
    folder: MoRef,
    datastores: Vec<&'a DatastoreInfo>,
    networks: Vec<&'a NetworkInfo>,
}

impl VsphereSite {
    pub(super) fn make(&self, new: &NewMachine) -> Result<(), SiteError> {
        match self.find(&new.id) {
            Ok(there) => {
                let mark = there.extra.get(MARK);
                let is_it = mark == new.mark.as_ref() && (mark.is_some() || there.name == new.name);
                return match is_it {
                    true => Ok(()),
                    false => Err(SiteError::Taken { id: new.id.clone(), name: there.name }),
                };
            }
            Err(SiteError::NoSuchMachine { .. }) => {}
            Err(error) => return Err(error),
        }
        let making = format!("making the machine {}", new.id);
        let inventory = self.inventory()?;
        let beside = new.beside.as_deref().unwrap_or_default();
        let place = self.place(&inventory, beside).map_err(failed(&making))?;
        must_have_room(&place.datastores, &new.disks)?;
        // Of those in one folder each has a name of its own: one that stands in for another cannot have that one's.
        let is_taken = new.mark.is_some() && inventory.machines.iter().any(|one| one.name == new.name);
        let name = if is_taken { format!("{} ({})", new.name, new.id) } else { new.name.clone() };
        let new = &NewMachine { name, ..new.clone() };
        let machine = place.describe(new, &making)?;
        let arguments = Xml::new()
            .group("config", machine)
            .reference("pool", &place.pool)
            .reference("host", &place.host.object);
        self.session.task(&place.folder, "CreateVM_Task", arguments).map_err(failed(&making))?;
        self.must_be_whole(new, &making)
    }

    /// A server that leaves out a device says nothing. On an error nothing of the machine is left.
    fn must_be_whole(&self, new: &NewMachine, making: &str) -> Result<(), SiteError> {
        let made = match self.find(&new.id) {
            Err(SiteError::NoSuchMachine { .. }) => return Err(ignored(making)),
            made => made?,
        };
        let sizes = made.disks.iter().map(|disk| disk.size);
        if sizes.eq(new.disks.iter().map(|disk| disk.size)) && made.cards.len() == new.nics.len() {
            return Ok(());
        }
        self.remove(&new.id)?;
        Err(ignored(making))
    }

    fn place<'a>(&self, inventory: &'a Inventory, beside: &str) -> Result<Place<'a>, VimError> {
        let settings = &self.settings.placement;
        let Some(host) = self.host_beside(inventory, beside)? else {
            let known = inventory.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", ");
            let problem =
                format!("`placement.host` must say on which ESXi host machines are made, there are: {known}");
            return Err(VimError::Settings(problem));
        };
        if host.is_in_maintenance || !host.is_connected {
            let name = &host.name;
            return Err(VimError::Impossible(format!(
                "the ESXi host {name:?} is in maintenance mode or not connected: nothing can be made there [vsphere-host-away]"
            )));
        }
        let compute =
            inventory.compute_resources.iter().find(|one| Some(&one.object) == host.parent.as_ref());
        let pool = match &settings.resource_pool {
            None => compute.and_then(|compute| compute.root_pool.clone()),
            Some(name) => {
                let owner = compute.map(|compute| &compute.object);
                let mut pools = inventory.resource_pools.iter();
                pools
                    .find(|pool| pool.name == *name && pool.owner.as_ref() == owner)
                    .map(|pool| pool.object.clone())
            }
        };
        let root =
            inventory.datacenter_of(&host.object).and_then(|datacenter| datacenter.machine_folder.clone());
        let folder = match (&settings.folder, root) {
            (Some(name), Some(root)) => {
                let mut folders =
                    inventory.folders.iter().filter(|one| inventory.is_below(&one.object, &root));
                folders.find(|folder| folder.name == *name).map(|folder| folder.object.clone())
            }
            (_, root) => root,
        };
        let missing = |what, name: &Option<String>| {
            VimError::Settings(format!(
                "`placement`: there is no {what} {:?} for the host",
                name.as_deref().unwrap_or("")
            ))
        };
        Ok(Place {
            host,
            pool: pool.ok_or_else(|| missing("resource pool", &settings.resource_pool))?,
            folder: folder.ok_or_else(|| missing("folder", &settings.folder))?,
            datastores: inventory.datastores_of(&host.object).collect(),
            networks: networks_of(inventory, Some(host)).collect(),
        })
    }

    pub(super) fn remove(&self, id: &str) -> Result<(), SiteError> {
        let machine = match self.find(id) {
            Err(SiteError::NoSuchMachine { .. }) => return Ok(()),
            found => found?,
        };
        if !machine.is_surely_off() {
            return Err(SiteError::Running { action: "removing it".to_owned(), id: id.to_owned() });
        }
        let removing = || format!("removing the machine {id}");
        // What is set aside is no device of the machine.
        for place in machine.aside().map_err(|detail| SiteError::failed(removing(), detail))? {
            if self.users_of(&place.file, &machine)?.is_empty() {
                self.delete_aside(&machine, &place, &removing())?;
            }
        }
        // Destroy_Task deletes whatever disks the machine has attached, whosesoever they are.
        for file in self.foreign_disks(&machine)? {
            self.detach_disk(id, &file)?;
        }
        match self.session.task(&machine.object, "Destroy_Task", Xml::new()) {
            Err(error) if error.is("ManagedObjectNotFound") => Ok(()),
            Err(error) if error.is("InvalidPowerState") => {
                Err(SiteError::Running { action: "removing it".to_owned(), id: id.to_owned() })
            }
            result => result.map(drop).map_err(failed(removing())),
        }
    }

    /// Files of disks that were attached to it as to a master target, or that another machine has attached as well.
    fn foreign_disks(&self, machine: &VirtualMachine) -> Result<Vec<String>, SiteError> {
        let others = self.others(machine)?;
        let is_used = |file: &str| others.iter().any(|other| other.disk(file).is_some());
        let is_foreign = |disk: &&VirtualDisk| disk.mode == ATTACHED_MODE || is_used(&disk.base_file);
        Ok(machine.disks.iter().filter(is_foreign).map(|disk| disk.file.clone()).collect())
    }

    /// Names of other machines that have a disk attached.
    pub(super) fn users_of(&self, file: &str, machine: &VirtualMachine) -> Result<Vec<String>, SiteError> {
        let others = self.others(machine)?.into_iter();
        Ok(others.filter(|other| other.disk(file).is_some()).map(|other| other.name).collect())
    }

    /// The other machines: their names and disks.
    fn others(&self, machine: &VirtualMachine) -> Result<Vec<VirtualMachine>, SiteError> {
        const NEEDED: [&str; 2] = ["name", "config.hardware.device"];
        let looking = format!("looking who else uses the disks of {:?}", machine.name);
        let all = self.session.list("VirtualMachine", &NEEDED).map_err(failed(looking))?;
        let others = all.iter().filter(|object| object.reference != machine.object);
        Ok(others.map(VirtualMachine::read).collect())
    }
}

/// Thin disks take room as they are written; a datastore that has not got it at the start would fail in the middle of a replication.
pub(super) fn must_have_room(datastores: &[&DatastoreInfo], disks: &[NewDisk]) -> Result<(), SiteError> {
    let mut needed = BTreeMap::<&str, u64>::new();
    for disk in disks {
        let (DiskOrigin::Empty { datastore } | DiskOrigin::Over { datastore, .. }) = &disk.origin;
        let sum = needed.entry(datastore).or_default();
        *sum = sum.saturating_add(disk.size);
    }
    for (name, needed) in needed {
        let known = || datastores.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = datastores.iter().find(|one| one.name == name);
        let found =
            found.ok_or_else(|| SiteError::NoSuchDatastore { name: name.to_owned(), known: known() })?;
        if found.free < needed {
            return Err(SiteError::NoRoom { datastore: name.to_owned(), needed, free: found.free });
        }
    }
    Ok(())
}

/// Advanced settings of a machine; an empty value removes one.
pub(super) fn settings<K: AsRef<str>, V: AsRef<str>>(all: &[(K, V)]) -> Xml {
    all.iter().fold(Xml::new(), |xml, (key, value)| {
        let option = Xml::new().text("key", key.as_ref()).string_value("value", value.as_ref());
        xml.typed("extraConfig", "OptionValue", option)
    })
}

/// `VirtualDeviceConfigSpec` of a disk whose file is made with it.
pub(super) fn new_disk(key: i32, controller: i32, unit: i32, disk: &NewDisk) -> Result<Xml, String> {
    let DiskOrigin::Empty { datastore } = &disk.origin else {
        return Err(
            "a vSphere site lays no disk over an image of somebody else's [vsphere-overlay]".to_owned()
        );
    };
    if disk.size == 0 || !disk.size.is_multiple_of(KIB) {
        return Err(format!("its size, {} bytes, is no multiple of {KIB}", disk.size));
    }
    let backing = Xml::new()
        .text("fileName", format!("[{datastore}]"))
        .text("diskMode", MADE_MODE)
        .text("thinProvisioned", true);
    let device = Xml::new()
        .text("key", key)
        .typed("backing", "VirtualDiskFlatVer2BackingInfo", backing)
        .text("controllerKey", controller)
        .text("unitNumber", unit)
        .text("capacityInKB", disk.size / KIB)
        .text("capacityInBytes", disk.size);
    Ok(Xml::new().text("operation", "add").text("fileOperation", "create").typed(
        "device",
        "VirtualDisk",
        device,
    ))
}

impl Place<'_> {
    /// `VirtualMachineConfigSpec`.
    fn describe(&self, new: &NewMachine, making: &str) -> Result<Xml, SiteError> {
        let firmware = match new.boot {
            Boot::Bios => "bios",
            Boot::Uefi => "efi",
            Boot::Kernel { .. } => {
                let detail = "vSphere hands no kernel to a machine: it boots from its disk [vsphere-kernel]";
                return Err(SiteError::failed(making, detail));
            }
        };
        let mut devices = Self::disks(new, making)?;
        for (position, nic) in new.nics.iter().enumerate() {
            let network = match &nic.network {
                Some(name) => cards::named(&self.networks, name)?,
                // A card must be somewhere to be made; it is not connected there.
                None => self.networks.first().copied().ok_or_else(|| SiteError::NoSuchNetwork {
                    name: String::new(),
                    known: "none at all".to_owned(),
                })?,
            };
            devices = devices.group("deviceChange", cards::new(CARD_KEY - small(position), nic, network));
        }
        // The machine's own files lie with its first disk.
        let home = match new.disks.first().map(|disk| &disk.origin) {
            Some(DiskOrigin::Empty { datastore } | DiskOrigin::Over { datastore, .. }) => datastore.clone(),
            None => self.datastores.first().map(|datastore| datastore.name.clone()).unwrap_or_default(),
        };
        let mut options = vec![("disk.EnableUUID", "TRUE"), (ID, new.id.as_str())];
        options.extend(new.mark.as_deref().map(|mark| (MARK, mark)));
        let spec = Xml::new()
            .text("name", encoded_name(&new.name))
            .maybe("uuid", new.system_uuid.as_ref())
            .text("instanceUuid", derived_uuid(&new.id))
            .text("guestId", GUEST_KIND)
            .group("files", Xml::new().text("vmPathName", format!("[{home}]")))
            .text("numCPUs", new.cpus)
            .text("memoryMB", new.memory_mib)
            .with(devices)
            .with(settings(&options));
        Ok(spec.text("firmware", firmware))
    }

    /// Controllers and disks, in order.
    fn disks(new: &NewMachine, making: &str) -> Result<Xml, SiteError> {
        let controllers = new.disks.len().div_ceil(UNITS.len());
        if controllers > CONTROLLERS_MAX {
            let detail =
                format!("it has {} disks, {} are possible", new.disks.len(), CONTROLLERS_MAX * UNITS.len());
            return Err(SiteError::failed(making, detail));
        }
        let mut devices = Xml::new();
        for bus in 0..controllers {
            let bus = small(bus);
            let controller =
                super::attach::new_controller(CONTROLLER_KEY - bus, "ParaVirtualSCSIController", bus);
            devices = devices.group("deviceChange", controller);
        }
        for (position, disk) in new.disks.iter().enumerate() {
            let wrong = |detail: String| SiteError::failed(format!("{making}, disk {position}"), detail);
            let controller = CONTROLLER_KEY - small(position / UNITS.len());
            let unit = UNITS[position % UNITS.len()];
            let device = new_disk(DISK_KEY - small(position), controller, unit, disk).map_err(wrong)?;
            devices = devices.group("deviceChange", device);
        }
        Ok(devices)
    }
}

/// A position of a device: there are some ten of each kind.
fn small(position: usize) -> i32 {
    i32::try_from(position).unwrap_or(i32::MAX)
}
