//! Disks handed from one virtual machine to another, and back to where they were.
//!
//! A disk is its file: `[DATASTORE] DIRECTORY/NAME.vmdk`. It is attached with that file name and without a file operation, so nothing is made, and detached
//! without one, so nothing is deleted. At a master target it is `independent_persistent`: no snapshot of the master target ever takes it in.
//!
//! Servers ignore an operation they do not know, and leave out a device they do not like, and say that all is done. So the devices are read again
//! after every change, and what they are is what is told.

use std::path::PathBuf;
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use super::inventory::{Controller, DatastoreInfo, VirtualDisk, VirtualMachine};
use super::paths::{serial, split};
use super::soap::{VimError, Xml};
use super::view::kind;
use super::{VsphereSite, failed};
use crate::SiteError;

/// Units of a SCSI controller that disks may take: 7 is the controller's own.
pub(super) const UNITS: [i32; 15] = [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15];
/// SCSI controllers of a virtual machine: so it has 60 disks at most (*Configuration Maximums*).
pub(super) const CONTROLLERS_MAX: usize = 4;
/// Temporary keys of devices that are being added.
const NEW_CONTROLLER: i32 = -100;
pub(super) const NEW_DISK: i32 = -1000;
/// The mode of a disk that is at a master target.
pub(super) const ATTACHED_MODE: &str = "independent_persistent";
/// The controller that new ones are of.
const CONTROLLER_KIND: &str = "ParaVirtualSCSIController";

/// Where a disk sits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPlace {
    /// `[DATASTORE] DIRECTORY/NAME.vmdk`.
    pub file: String,
    /// The disk's UUID.
    pub uuid: Option<String>,
    /// Bytes.
    pub size: u64,
    /// vSphere's type of the controller: `ParaVirtualSCSIController`.
    pub controller_kind: String,
    /// Which of its kind.
    pub controller_bus: i32,
    /// Where at the controller.
    pub unit: i32,
    /// `persistent`, `independent_persistent`, …
    pub mode: String,
}

/// A disk that is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedDisk {
    /// Its UUID.
    pub uuid: Option<String>,
    /// Where its contents are, once the guest has noticed it.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Which of the SCSI controllers it is at.
    pub controller_bus: i32,
    /// Where at the controller.
    pub unit: i32,
}

impl VsphereSite {
    /// Where the disks of a machine sit, in their order.
    ///
    /// # Errors
    /// [`SiteError::NoSuchMachine`].
    pub fn disk_places(&self, id: &str) -> Result<Vec<DiskPlace>, SiteError> {
        let machine = self.find(id)?;
        let place = |disk: &VirtualDisk| {
            machine.place_of(disk).ok_or_else(|| {
                let detail = format!("the disk {} is at a controller of a kind that is not known", disk.file);
                SiteError::failed(format!("reading where the disks of {id} are"), detail)
            })
        };
        machine.disks.iter().map(place).collect()
    }

    /// Attaches a disk to a master target, which may run, at the first free place; a controller is added when all are full. One that is attached
    /// already stays where it is.
    ///
    /// # Errors
    /// [`SiteError::NoSuchMachine`]; [`SiteError::Failed`]: the disk is in use by a machine that runs (passing); the master target's host does not reach the
    /// disk's datastore; the master target has snapshots, a disk with the same UUID, no place left, or does not tell its guest the UUIDs of disks.
    pub fn attach_disk(&self, master_target: &str, disk: &DiskPlace) -> Result<AttachedDisk, SiteError> {
        let action = format!("attaching the disk {} to {master_target}", disk.file);
        // Between the look for a free place and its use.
        let _one_at_a_time = self.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let machine = self.find(master_target)?;
        if let Some(attached) = machine.disk(&disk.file) {
            return Ok(self.attached(&machine, attached));
        }
        self.must_take(&machine, disk).map_err(|detail| SiteError::failed(&action, detail))?;
        self.must_reach(&machine, disk).map_err(failed(&action))?;
        let Some((bus, unit)) = machine.free_place() else {
            let detail = format!(
                "all {} places for disks are taken: use another master target [vsphere-full]",
                CONTROLLERS_MAX * UNITS.len()
            );
            return Err(SiteError::failed(action, detail));
        };
        let place = DiskPlace {
            controller_kind: machine.scsi_kind(bus),
            controller_bus: bus,
            unit,
            mode: ATTACHED_MODE.to_owned(),
            ..disk.clone()
        };
        let now = self.put(&machine, &place, &action)?;
        let attached = now.disk(&disk.file).ok_or_else(|| ignored(&action))?;
        Ok(self.attached(&now, attached))
    }

    /// Takes a disk from a machine. Its files stay. One that is not attached is detached.
    ///
    /// # Errors
    /// [`SiteError::NoSuchMachine`]; [`SiteError::Failed`]: the machine has snapshots, which would go on looking for the disk.
    pub fn detach_disk(&self, id: &str, file: &str) -> Result<(), SiteError> {
        let action = format!("detaching the disk {file} from {id}");
        let machine = self.find(id)?;
        let Some(disk) = machine.disk(file) else { return Ok(()) };
        if !machine.snapshots.is_empty() && disk.mode != ATTACHED_MODE {
            let detail = "the machine has snapshots, which would go on looking for it: remove them first [vsphere-snapshots]";
            return Err(SiteError::failed(action, detail));
        }
        let device = Xml::new()
            .text("key", disk.key)
            .text("controllerKey", disk.controller_key)
            .text("unitNumber", disk.unit)
            .text("capacityInKB", disk.size / 1024);
        let change = Xml::new().text("operation", "remove").typed("device", "VirtualDisk", device);
        let now = self.reconfigure(&machine, Xml::new().group("deviceChange", change), &action)?;
        match now.disk(file) {
            None => Ok(()),
            Some(_) => Err(ignored(&action)),
        }
    }

    /// Adds a disk whose file is there at its place, and the controller that it needs, in one change; gives the machine as it is then.
    pub(super) fn put(
        &self,
        machine: &VirtualMachine,
        place: &DiskPlace,
        action: &str,
    ) -> Result<VirtualMachine, SiteError> {
        let (changes, controller) = machine.controller_at(place);
        let changes = changes.group("deviceChange", existing_disk(NEW_DISK, controller, place));
        self.reconfigure(machine, changes, action)
    }

    /// Makes a change; gives the machine as it is then.
    pub(super) fn reconfigure(
        &self,
        machine: &VirtualMachine,
        changes: Xml,
        action: &str,
    ) -> Result<VirtualMachine, SiteError> {
        let spec = Xml::new().group("spec", changes);
        self.session.task(&machine.object, "ReconfigVM_Task", spec).map_err(failed(action))?;
        self.find(machine.site_id())
    }

    /// What stands against a disk at a master target.
    fn must_take(&self, machine: &VirtualMachine, disk: &DiskPlace) -> Result<(), String> {
        if !machine.snapshots.is_empty() {
            let name = &machine.name;
            return Err(format!(
                "{name:?} has snapshots; a master target must not: remove them [vsphere-snapshots]"
            ));
        }
        let same = |other: &&VirtualDisk| {
            other.uuid.is_some() && other.uuid.as_deref().map(serial) == disk.uuid.as_deref().map(serial)
        };
        if let Some(other) = machine.disks.iter().find(same) {
            let detail = format!(
                "{:?} has a disk with the same UUID, {}: was one cloned from the other? Give one a new UUID \
                 (vmkfstools -J setuuid) [vsphere-same-uuid]",
                machine.name, other.file
            );
            return Err(detail);
        }
        let is_by_uuid = self.contents_path(&disk.file, disk.uuid.as_deref()).starts_with("/dev/disk");
        if is_by_uuid && !machine.knows_disk_uuids() {
            let name = &machine.name;
            return Err(format!(
                "{name:?} does not tell its guest the UUIDs of disks: set disk.EnableUUID while it is off [vsphere-enable-uuid]"
            ));
        }
        Ok(())
    }

    /// The ESXi host of the master target must have the disk's datastore.
    fn must_reach(&self, machine: &VirtualMachine, disk: &DiskPlace) -> Result<(), VimError> {
        let kind = kind("Datastore");
        let datastores = self.session.list(kind.name, kind.paths)?;
        let datastores: Vec<_> = datastores.iter().map(DatastoreInfo::read).collect();
        let is_of_host =
            |one: &&DatastoreInfo| machine.host.as_ref().is_some_and(|host| one.is_writable_by(host));
        let reached: Vec<_> = datastores.iter().filter(is_of_host).map(|one| one.name.as_str()).collect();
        let needed = split(&disk.file).map_or("", |(datastore, _)| datastore);
        if reached.contains(&needed) {
            return Ok(());
        }
        Err(VimError::Impossible(format!(
            "the ESXi host of {:?} does not reach the datastore {needed:?}, it reaches: {}. Mount it there, or use a master target on a host that has it \
             [vsphere-datastore-out-of-reach]",
            machine.name,
            reached.join(", ")
        )))
    }

    fn attached(&self, machine: &VirtualMachine, disk: &VirtualDisk) -> AttachedDisk {
        let controller = machine.controllers.iter().find(|controller| controller.key == disk.controller_key);
        AttachedDisk {
            uuid: disk.uuid.clone(),
            path: self.contents_path(&disk.base_file, disk.uuid.as_deref()),
            size: disk.size,
            controller_bus: controller.map_or(0, |controller| controller.bus),
            unit: disk.unit,
        }
    }
}

impl DiskPlace {
    fn is_at(&self, controller: &Controller) -> bool {
        (controller.kind.as_str(), controller.bus) == (self.controller_kind.as_str(), self.controller_bus)
    }
}

impl Controller {
    fn is_scsi(&self) -> bool {
        ["SCSI", "SAS", "LsiLogic", "BusLogic"].iter().any(|word| self.kind.contains(word))
    }
}

impl VirtualMachine {
    /// The disk with a file, whatever lies above it.
    pub(super) fn disk(&self, file: &str) -> Option<&VirtualDisk> {
        self.disks.iter().find(|disk| disk.file == file || disk.base_file == file)
    }

    /// Where a disk sits; `None`: at a controller of a kind that is not known.
    pub(super) fn place_of(&self, disk: &VirtualDisk) -> Option<DiskPlace> {
        let controller = self.controllers.iter().find(|controller| controller.key == disk.controller_key)?;
        Some(DiskPlace {
            file: disk.file.clone(),
            uuid: disk.uuid.clone(),
            size: disk.size,
            controller_kind: controller.kind.clone(),
            controller_bus: controller.bus,
            unit: disk.unit,
            mode: disk.mode.clone(),
        })
    }

    fn scsi(&self, bus: i32) -> Option<&Controller> {
        self.controllers.iter().find(|controller| controller.is_scsi() && controller.bus == bus)
    }

    /// The kind of a SCSI controller that is there, or would be.
    pub(super) fn scsi_kind(&self, bus: i32) -> String {
        self.scsi(bus).map_or(CONTROLLER_KIND, |controller| &controller.kind).to_owned()
    }

    /// The disk that sits at a SCSI controller.
    pub(super) fn disk_at(&self, bus: i32, unit: i32) -> Option<&VirtualDisk> {
        let controller = self.scsi(bus)?.key;
        self.disks.iter().find(|disk| disk.controller_key == controller && disk.unit == unit)
    }

    /// The key of the controller of a place, and what adds it if it is not there yet.
    pub(super) fn controller_at(&self, place: &DiskPlace) -> (Xml, i32) {
        match self.controllers.iter().find(|controller| place.is_at(controller)) {
            Some(controller) => (Xml::new(), controller.key),
            None => {
                let new = new_controller(NEW_CONTROLLER, &place.controller_kind, place.controller_bus);
                (Xml::new().group("deviceChange", new), NEW_CONTROLLER)
            }
        }
    }

    /// The first free bus and unit; a bus without a controller is all free.
    fn free_place(&self) -> Option<(i32, i32)> {
        places().find(|(bus, unit)| self.disk_at(*bus, *unit).is_none())
    }
}

/// Each bus and unit that a disk can have, in the order in which guests find them.
pub(super) fn places() -> impl Iterator<Item = (i32, i32)> {
    (0..).take(CONTROLLERS_MAX).flat_map(|bus| UNITS.map(|unit| (bus, unit)))
}

/// `VirtualDeviceConfigSpec` of a controller to be added.
pub(super) fn new_controller(key: i32, kind: &str, bus: i32) -> Xml {
    let mut device = Xml::new().text("key", key).text("busNumber", bus);
    // IDE, SATA and NVMe controllers cannot be shared.
    if ["SCSI", "SAS", "LsiLogic", "BusLogic"].iter().any(|word| kind.contains(word)) {
        device = device.text("sharedBus", "noSharing");
    }
    Xml::new().text("operation", "add").typed_by("device", kind, device)
}

/// `VirtualDeviceConfigSpec` of a disk whose file is there.
pub(super) fn existing_disk(key: i32, controller: i32, place: &DiskPlace) -> Xml {
    let backing = Xml::new().text("fileName", &place.file).text("diskMode", &place.mode);
    let device = Xml::new()
        .text("key", key)
        .typed("backing", "VirtualDiskFlatVer2BackingInfo", backing)
        .text("controllerKey", controller)
        .text("unitNumber", place.unit)
        .text("capacityInKB", place.size / 1024);
    Xml::new().text("operation", "add").typed("device", "VirtualDisk", device)
}

/// What to say of a change that is not there after the server has said that it is done.
pub(super) fn ignored(action: &str) -> SiteError {
    SiteError::failed(action, "the server says it is done, and it is not [vsphere-ignored]")
}
