//! Disks lent to a master target: attached to its virtual machine beside the machine they belong to, which is off.
//!
//! What it never does: take a disk out of its own machine. While the master target runs with the disk attached, ESXi holds its file locked, so nobody can
//! start the machine above it by mistake; and when the loan ends, the machine is exactly as it was, whatever happened in between.
//!
//! The path of one disk: the checks (the machine is off and has no snapshot, the master target's host reaches the datastore), attached
//! ([`VsphereSite::attach_disk`]), written by the master target, detached from it.

use std::path::PathBuf;

use super::VsphereSite;
use super::attach::DiskPlace;
use super::inventory::{Inventory, VirtualDisk, VirtualMachine};
use super::paths::{serial, split};
use crate::SiteError;

impl VsphereSite {
    pub(super) fn lend(&self, id: &str, serials: &[String], to: &str) -> Result<Vec<PathBuf>, SiteError> {
        let action = format!("handing the disks of {id} to the master target");
        let machine = self.find(id)?;
        if !machine.is_surely_off() {
            return Err(SiteError::Running { action, id: id.to_owned() });
        }
        let disks = wanted(&machine, serials).map_err(|detail| SiteError::failed(&action, detail))?;
        let Some(borrower) = self.machine_of_uuid(to)? else {
            return self.mounted(&disks, to).map_err(|detail| SiteError::failed(&action, detail));
        };
        let inventory = self.inventory()?;
        can_be_lent(&machine, &borrower, &disks, &inventory)
            .map_err(|detail| SiteError::failed(&action, detail))?;
        let places = self.disk_places(id)?;
        let mut paths = Vec::new();
        for disk in disks {
            let place = places.iter().find(|place| place.file == disk.file);
            let place = place.ok_or_else(|| SiteError::passing(&action, "its disks have just changed"))?;
            paths.push(self.attach_disk(borrower.site_id(), place)?.path);
        }
        Ok(paths)
    }

    /// Those that are set aside as well, of a removal that was cut short.
    pub(super) fn take_back(&self, id: &str, serials: &[String], from: &str) -> Result<(), SiteError> {
        let Some(borrower) = self.machine_of_uuid(from)? else { return Ok(()) };
        let machine = match self.find(id) {
            Err(SiteError::NoSuchMachine { .. }) => return Ok(()),
            found => found?,
        };
        if borrower.object == machine.object {
            return Ok(());
        }
        let aside = machine.aside().map_err(|detail| SiteError::failed(format!("reading {id}"), detail))?;
        let attached = machine.disks.iter().map(|disk| (disk.base_file.clone(), machine.place_of(disk)));
        let all = attached.chain(aside.into_iter().map(|place| (place.file.clone(), Some(place))));
        let is_wanted = |place: Option<&DiskPlace>| {
            let is = |serial: &String| place.is_some_and(|place| machine.is_called(place, serial));
            serials.is_empty() || serials.iter().any(is)
        };
        all.filter(|(_, place)| is_wanted(place.as_ref()))
            .try_for_each(|(file, _)| self.detach_disk(borrower.site_id(), &file))
    }

    /// The virtual machine that a master target says it runs in.
    pub(super) fn machine_of_uuid(&self, system_uuid: &str) -> Result<Option<VirtualMachine>, SiteError> {
        if system_uuid.is_empty() {
            return Ok(None);
        }
        let inventory = self.inventory()?;
        let mut found = inventory.machines.into_iter().filter(|machine| machine.system_uuid == system_uuid);
        match (found.next(), found.next()) {
            (Some(one), Some(other)) => {
                let detail = format!(
                    "{:?} and {:?} have the same SMBIOS UUID {system_uuid}: one is a copy of the other; give the copy another one [vsphere-same-uuid]",
                    one.name, other.name
                );
                Err(SiteError::failed("looking up the master target's machine", detail))
            }
            (one, _) => Ok(one),
        }
    }

    /// Where disks are that are reached without being attached; what to do where one is not.
    fn mounted(&self, disks: &[&VirtualDisk], to: &str) -> Result<Vec<PathBuf>, String> {
        let path = |disk: &&VirtualDisk| {
            let datastore = split(&disk.base_file).map_or("", |(datastore, _)| datastore);
            if self.settings.datastore_directories.contains_key(datastore) {
                return Ok(self.contents_path(&disk.base_file, disk.uuid.as_deref()));
            }
            Err(format!(
                "no virtual machine here has the SMBIOS UUID {to:?} that the master target tells, so {} cannot be attached to it, and the datastore \
                 {datastore:?} is not mounted there; run the master target in a virtual machine of this site, or mount the datastore and name its \
                 directory in the site's settings [vsphere-master-target-elsewhere]",
                disk.file
            ))
        };
        disks.iter().map(path).collect()
    }
}

/// The disks with these serial numbers; all without any.
fn wanted<'a>(machine: &'a VirtualMachine, serials: &[String]) -> Result<Vec<&'a VirtualDisk>, String> {
    if serials.is_empty() {
        return Ok(machine.disks.iter().collect());
    }
    let of = |wanted: &String| {
        let is = |disk: &&VirtualDisk| serial(disk.uuid.as_deref().unwrap_or_default()) == *wanted;
        machine.disks.iter().find(is).ok_or_else(|| format!("it has no disk {wanted} any more"))
    };
    serials.iter().map(of).collect()
}

/// Whether disks can be lent; else why not, and what to do.
fn can_be_lent(
    machine: &VirtualMachine,
    borrower: &VirtualMachine,
    disks: &[&VirtualDisk],
    inventory: &Inventory,
) -> Result<(), String> {
    if machine.object == borrower.object {
        return Err(format!("{:?} is the master target itself", machine.name));
    }
    if !machine.snapshots.is_empty() {
        return Err(format!(
            "{:?} has the snapshot {:?}: remove its snapshots first, as the disks below them must not change [vsphere-snapshots]",
            machine.name, machine.snapshots[0].name
        ));
    }
    let host = borrower.host.as_ref();
    for disk in disks {
        let name = split(&disk.base_file).map_or("", |(datastore, _)| datastore);
        let datastore = inventory.datastores.iter().find(|datastore| datastore.name == name);
        if !host.zip(datastore).is_some_and(|(host, datastore)| datastore.is_writable_by(host)) {
            let host = inventory.hosts.iter().find(|one| Some(&one.object) == host);
            return Err(format!(
                "the master target's ESXi host {} does not reach the datastore {name:?} of {}: mount it there, or move the master target or the disk \
                 [vsphere-datastore-unreachable]",
                host.map_or("(unknown)", |host| host.name.as_str()),
                disk.file
            ));
        }
    }
    Ok(())
}
