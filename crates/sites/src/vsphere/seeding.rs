//! New disks filled with what a disk that was left holds, by the server: then a replication to them moves the difference alone.
//!
//! What it never does: write the disk that is copied. The path of one disk: its file is copied beside the new, empty one, gets the empty one's UUID, and
//! takes its place in one change, which deletes the empty one. A copy that was cut short is made anew; what has been put in place is told by its name.

use super::attach::{DiskPlace, existing_disk, ignored};
use super::inventory::{Inventory, VirtualDisk};
use super::paths::{serial, split};
use super::soap::{MoRef, VimError, Xml};
use super::{VsphereSite, failed};
use crate::SiteError;

/// What the name of a copy has more than that of the disk it takes the place of.
const SEEDED: &str = "-seeded";
/// Temporary key of the device that is added.
const NEW_DISK: i32 = -1000;

impl VsphereSite {
    pub(super) fn seed(&self, id: &str, from: &str, serials: &[String]) -> Result<(), SiteError> {
        let action = format!("filling the disks of {id} from those of {from}");
        let (new, left) = (self.find(id)?, self.find(from)?);
        for machine in [&new, &left] {
            if !machine.is_surely_off() {
                return Err(SiteError::Running { action, id: machine.site_id().to_owned() });
            }
        }
        let inventory = self.inventory()?;
        let places = self.disk_places(id)?;
        if places.len() != serials.len() {
            return Err(SiteError::failed(action, "the machines have not the same number of disks"));
        }
        for (place, wanted) in places.iter().zip(serials) {
            let is = |disk: &&VirtualDisk| serial(disk.uuid.as_deref().unwrap_or_default()) == *wanted;
            // One that is gone there begins empty.
            let Some(source) = left.disks.iter().find(is).filter(|disk| disk.size == place.size) else {
                continue;
            };
            let done = place.file.strip_suffix(".vmdk").is_some_and(|stem| stem.ends_with(SEEDED));
            if done {
                continue;
            }
            self.fill(id, place, source, &inventory).map_err(failed(&action))?;
            let now = self.find(id)?;
            if now.disk(&seeded(&place.file)).is_none() || now.disk(&place.file).is_some() {
                return Err(ignored(&action));
            }
        }
        Ok(())
    }

    fn fill(
        &self,
        id: &str,
        place: &DiskPlace,
        source: &VirtualDisk,
        inventory: &Inventory,
    ) -> Result<(), VimError> {
        let manager = self.session.manager("virtualDiskManager")?;
        let copy = seeded(&place.file);
        let datacenter = |file: &str| datacenter_of(inventory, file);
        let (from, to) = (datacenter(&source.base_file), datacenter(&copy));
        // Of an attempt that was cut short.
        let name = |xml: Xml, tag: (&'static str, &'static str), file: &str, at: Option<&MoRef>| {
            let xml = xml.text(tag.0, file);
            match at {
                Some(at) => xml.reference(tag.1, at),
                None => xml,
            }
        };
        let alone = |file| name(Xml::new(), ("name", "datacenter"), file, to);
        match self.session.task(&manager, "DeleteVirtualDisk_Task", alone(&copy)) {
            Err(error) if error.is("FileNotFound") => {}
            result => drop(result?),
        }
        let both = name(Xml::new(), ("sourceName", "sourceDatacenter"), &source.base_file, from);
        let both = name(both, ("destName", "destDatacenter"), &copy, to);
        self.session.task(&manager, "CopyVirtualDisk_Task", both)?;
        if let Some(uuid) = &place.uuid {
            // A copy may have its original's: then a master target could not tell them apart.
            let spelled = uuid.chars().filter(char::is_ascii_hexdigit).collect::<Vec<_>>();
            let spelled: Vec<String> = spelled.chunks(2).map(|byte| byte.iter().collect()).collect();
            self.session.change(
                &manager,
                "SetVirtualDiskUuid",
                alone(&copy).text("uuid", spelled.join(" ")),
            )?;
        }
        self.swap(id, place, copy)
    }

    /// The copy takes the place of the empty disk, which is deleted.
    fn swap(&self, id: &str, place: &DiskPlace, copy: String) -> Result<(), VimError> {
        let machine = self.find(id).map_err(|error| VimError::Impossible(error.to_string()))?;
        let Some(disk) = machine.disk(&place.file) else { return Ok(()) };
        let device = Xml::new()
            .text("key", disk.key)
            .text("controllerKey", disk.controller_key)
            .text("unitNumber", disk.unit)
            .text("capacityInKB", disk.size / 1024);
        let remove = Xml::new().text("operation", "remove").text("fileOperation", "destroy").typed(
            "device",
            "VirtualDisk",
            device,
        );
        let add = existing_disk(NEW_DISK, disk.controller_key, &DiskPlace { file: copy, ..place.clone() });
        let changes = Xml::new().group("deviceChange", remove).group("deviceChange", add);
        self.session.task(&machine.object, "ReconfigVM_Task", Xml::new().group("spec", changes)).map(drop)
    }
}

fn seeded(file: &str) -> String {
    format!("{}{SEEDED}.vmdk", file.strip_suffix(".vmdk").unwrap_or(file))
}

/// The datacenter whose datastore a file is in: names of datastores are unique in one. An ESXi host needs none.
pub(super) fn datacenter_of<'a>(inventory: &'a Inventory, file: &str) -> Option<&'a MoRef> {
    let (name, _) = split(file)?;
    let datastore = inventory.datastores.iter().find(|one| one.name == name)?;
    let mount = datastore.mounts.first()?;
    inventory.datacenter_of(&mount.host).map(|datacenter| &datacenter.object)
}
