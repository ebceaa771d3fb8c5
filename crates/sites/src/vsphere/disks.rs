//! Disks that come to a machine that was made here, are set aside, and go: while it is off, but for those set aside, which it does not have.
//!
//! What it never does: change a machine that somebody else has made; delete a file that another machine has attached.
//!
//! What is to be known of a disk beside what the server tells is in its machine's advanced settings, so it is wherever the machine goes:
//!
//! ```text
//!   switchback.disk.BUS:UNIT   the serial number that the disk at this place was asked for with; vSphere gave it another
//!   switchback.aside.UUID      a disk that is set aside: its file and its place (DiskPlace, as JSON)
//! ```
//! **Order.** A disk is set aside when it is noted and not attached. It is noted before it is detached, and the note stays until it is attached again or its file
//! is deleted. So after a kill anywhere a disk is one or the other, and the next attempt goes on from there. A new disk and its note are one change.
//! Going back to a snapshot takes the settings along: they are then as the disks are. The settings of a copy of the machine are void.

use std::sync::PoisonError;

use super::attach::{DiskPlace, NEW_DISK, ignored, places};
use super::inventory::{VirtualDisk, VirtualMachine};
use super::making::{MADE_MODE, must_have_room, new_disk, settings};
use super::paths::serial;
use super::seeding::datacenter_of;
use super::soap::Xml;
use super::view::MARK;
use super::{VsphereSite, failed};
use crate::{MachineDisk, NewDisk, SiteError};

/// The advanced settings of disks that were added.
const ADDED: &str = "switchback.disk.";
/// The advanced settings of disks that are set aside.
const ASIDE: &str = "switchback.aside.";

impl VsphereSite {
    pub(super) fn give_disk(&self, id: &str, new: &NewDisk) -> Result<MachineDisk, SiteError> {
        let action = format!("adding the disk {} to the machine {id}", new.serial);
        let wrong = |detail: String| SiteError::failed(&action, detail);
        // Between the look for a place and its use.
        let _one_at_a_time = self.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let machine = self.find(id)?;
        if new.serial.is_empty() {
            return Err(wrong("it has no serial number, by which it would be known again".into()));
        }
        if let Some(there) = machine.disk_called(&new.serial) {
            if there.size != new.size {
                return Err(wrong(format!("the machine has one of that name with {} bytes", there.size)));
            }
            return Ok(self.view_disk(there));
        }
        must_be_changeable(&machine, id, &action)?;
        self.must_have_room_beside(&machine, new, &action)?;
        let aside = machine.aside().map_err(wrong)?;
        let Some((bus, unit)) = machine.place_behind(&aside) else {
            return Err(wrong("all its places for disks are taken [vsphere-full]".into()));
        };
        let place = DiskPlace {
            file: String::new(),
            uuid: None,
            size: new.size,
            controller_kind: machine.scsi_kind(bus),
            controller_bus: bus,
            unit,
            mode: MADE_MODE.to_owned(),
        };
        let (changes, controller) = machine.controller_at(&place);
        let device = new_disk(NEW_DISK, controller, unit, new).map_err(wrong)?;
        let note = settings(&[(added_key(&place), &new.serial)]);
        let now = self.reconfigure(&machine, changes.group("deviceChange", device).with(note), &action)?;
        let made = now.disk_called(&new.serial).filter(|disk| disk.size == new.size);
        made.map(|disk| self.view_disk(disk)).ok_or_else(|| ignored(&action))
    }

    fn must_have_room_beside(
        &self,
        machine: &VirtualMachine,
        new: &NewDisk,
        action: &str,
    ) -> Result<(), SiteError> {
        let inventory = self.inventory()?;
        let Some(host) = &machine.host else {
            return Err(SiteError::passing(action, "the server does not tell the machine's ESXi host"));
        };
        let datastores: Vec<_> = inventory.datastores_of(host).collect();
        must_have_room(&datastores, std::slice::from_ref(new))
    }

    pub(super) fn set_aside(&self, id: &str, serials: &[String]) -> Result<(), SiteError> {
        let action = format!("setting disks of the machine {id} aside");
        let wrong = |detail: String| SiteError::failed(&action, detail);
        let machine = self.find(id)?;
        let is_named = |place: &DiskPlace| serials.iter().any(|serial| machine.is_called(place, serial));
        let mut back = machine.aside().map_err(wrong)?;
        back.retain(|place| !is_named(place));
        let attached: Vec<_> = machine.disks.iter().filter_map(|disk| machine.place_of(disk)).collect();
        let noted = attached.iter().filter_map(aside_key).filter(|key| machine.extra.contains_key(key));
        let stale: Vec<_> = noted.map(|key| (key, String::new())).collect();
        if machine.is_ours() && !stale.is_empty() {
            // Left by an attempt that was cut short.
            self.note(&machine, &stale, &action)?;
        }
        let out: Vec<_> = attached.into_iter().filter(is_named).collect();
        if back.is_empty() && out.is_empty() {
            return Ok(());
        }
        must_be_changeable(&machine, id, &action)?;
        for place in back {
            self.put_back(&machine, &place, &action)?;
        }
        for place in out {
            self.take_out(&machine, &place, &action)?;
        }
        Ok(())
    }

    pub(super) fn take_disk(&self, id: &str, serial: &str) -> Result<(), SiteError> {
        let action = format!("removing the disk {serial} of the machine {id}");
        let machine = self.find(id)?;
        let attached = machine.disk_called(serial).and_then(|disk| machine.place_of(disk));
        let aside = machine.aside().map_err(|detail| SiteError::failed(&action, detail))?;
        let aside = aside.into_iter().find(|place| machine.is_called(place, serial));
        let Some(place) = attached.as_ref().or(aside.as_ref()) else { return Ok(()) };
        if attached.is_some() {
            must_be_changeable(&machine, id, &action)?;
        }
        let users = self.users_of(&place.file, &machine)?;
        if !users.is_empty() {
            let detail = format!(
                "{} has it attached: a master target that lets it go later, or somebody who needs it [vsphere-disk-in-use]",
                users.join(", ")
            );
            return Err(SiteError::passing(action, detail));
        }
        if attached.is_some() {
            self.take_out(&machine, place, &action)?;
        }
        self.delete_aside(&machine, place, &action)
    }

    /// Notes a disk, then detaches it.
    fn take_out(&self, machine: &VirtualMachine, place: &DiskPlace, action: &str) -> Result<(), SiteError> {
        let Some(key) = aside_key(place) else {
            let detail = format!("{} has no UUID, by which it would be found again", place.file);
            return Err(SiteError::failed(action, detail));
        };
        let note = serde_json::to_string(place).expect("plain data becomes JSON");
        self.note(machine, &[(key, note)], action)?;
        self.detach_disk(machine.site_id(), &place.file)
    }

    /// Attaches a disk at the place where it was, then forgets that it was set aside.
    fn put_back(&self, machine: &VirtualMachine, place: &DiskPlace, action: &str) -> Result<(), SiteError> {
        let now = self.put(machine, place, action).map_err(|error| match error {
            SiteError::Failed { action, passing, detail } => {
                let where_it_was = format!(
                    "{} cannot be attached at {}:{}, where it was: was it moved or deleted, or another disk attached there? {detail}",
                    place.file, place.controller_bus, place.unit
                );
                SiteError::Failed { action, passing, detail: where_it_was }
            }
            other => other,
        })?;
        if now.disk(&place.file).is_none() {
            return Err(ignored(action));
        }
        self.note(
            machine,
            &aside_key(place).map(|key| (key, String::new())).into_iter().collect::<Vec<_>>(),
            action,
        )
    }

    /// Deletes a disk that is set aside, then forgets it.
    pub(super) fn delete_aside(
        &self,
        machine: &VirtualMachine,
        place: &DiskPlace,
        action: &str,
    ) -> Result<(), SiteError> {
        let inventory = self.inventory()?;
        let name = Xml::new().text("name", &place.file);
        let name = match datacenter_of(&inventory, &place.file) {
            Some(datacenter) => name.reference("datacenter", datacenter),
            None => name,
        };
        let delete = || {
            let manager = self.session.manager("virtualDiskManager")?;
            match self.session.task(&manager, "DeleteVirtualDisk_Task", name) {
                Err(error) if error.is("FileNotFound") => Ok(None),
                result => result,
            }
        };
        delete().map_err(failed(action))?;
        let keys = [Some(added_key(place)), aside_key(place)].into_iter().flatten();
        self.note(machine, &keys.map(|key| (key, String::new())).collect::<Vec<_>>(), action)
    }

    /// Changes advanced settings; an empty value removes one.
    fn note(
        &self,
        machine: &VirtualMachine,
        notes: &[(String, String)],
        action: &str,
    ) -> Result<(), SiteError> {
        let now = self.reconfigure(machine, settings(notes), action)?;
        let told = |key: &String| now.extra.get(key).map(String::as_str).unwrap_or_default();
        match notes.iter().all(|(key, value)| told(key) == value) {
            true => Ok(()),
            false => Err(ignored(action)),
        }
    }
}

/// What would make a change of its disks wrong.
fn must_be_changeable(machine: &VirtualMachine, id: &str, action: &str) -> Result<(), SiteError> {
    if !machine.is_ours() {
        let detail = format!(
            "{:?} was not made by Switchback, which leaves its disks as they are [vsphere-not-ours]",
            machine.name
        );
        return Err(SiteError::failed(action, detail));
    }
    if !machine.is_surely_off() {
        return Err(SiteError::Running { action: action.to_owned(), id: id.to_owned() });
    }
    if let Some(snapshot) = machine.snapshots.first() {
        let detail = format!(
            "{:?} has the snapshot {:?}, which knows which disks it had: remove it first [vsphere-snapshots]",
            machine.name, snapshot.name
        );
        return Err(SiteError::failed(action, detail));
    }
    Ok(())
}

fn added_key(place: &DiskPlace) -> String {
    format!("{ADDED}{}:{}", place.controller_bus, place.unit)
}

fn aside_key(place: &DiskPlace) -> Option<String> {
    place.uuid.as_deref().map(|uuid| format!("{ASIDE}{}", serial(uuid)))
}

impl VirtualMachine {
    /// It was made here, under an id of its maker's choice.
    fn is_ours(&self) -> bool {
        self.extra.contains_key(MARK) && self.site_id() != self.object.id
    }

    /// The disks that are set aside: noted, and not attached.
    pub(super) fn aside(&self) -> Result<Vec<DiskPlace>, String> {
        let is_noted = |(key, note): &(&String, &String)| key.starts_with(ASIDE) && !note.is_empty();
        let noted = self.extra.iter().filter(|_| self.is_ours()).filter(is_noted);
        let is_attached = |key: &str| {
            let mut uuids = self.disks.iter().filter_map(|disk| disk.uuid.as_deref());
            uuids.any(|uuid| key.strip_prefix(ASIDE) == Some(&serial(uuid)))
        };
        let read = |(key, note): (&String, &String)| {
            serde_json::from_str(note).map_err(|error| {
                format!(
                    "the advanced setting {key} of {:?}, which tells where a disk is that was set aside, was changed: {error} [vsphere-aside-unreadable]",
                    self.name
                )
            })
        };
        noted.filter(|(key, _)| !is_attached(key)).map(read).collect()
    }

    /// Whether a serial number means the disk at a place: its own, or the one that it was asked for with.
    pub(super) fn is_called(&self, place: &DiskPlace, name: &str) -> bool {
        let own = place.uuid.as_deref().map(serial);
        let asked = self.extra.get(&added_key(place)).filter(|_| self.is_ours());
        !name.is_empty() && (own.as_deref() == Some(name) || asked.is_some_and(|asked| asked == name))
    }

    /// The attached disk that a serial number means.
    fn disk_called(&self, name: &str) -> Option<&VirtualDisk> {
        let is = |disk: &&VirtualDisk| self.place_of(disk).is_some_and(|place| self.is_called(&place, name));
        self.disks.iter().find(is)
    }

    /// The place behind all that are taken, also by disks that come back; when the last one is, the first that is free.
    fn place_behind(&self, aside: &[DiskPlace]) -> Option<(i32, i32)> {
        let is_taken = |(bus, unit): &(i32, i32)| {
            let comes_back = aside.iter().any(|place| (place.controller_bus, place.unit) == (*bus, *unit));
            comes_back || self.disk_at(*bus, *unit).is_some()
        };
        let all: Vec<_> = places().collect();
        let behind = all.iter().rposition(is_taken).map_or(0, |last| last + 1);
        all.get(behind).or_else(|| all.iter().find(|place| !is_taken(place))).copied()
    }
}
