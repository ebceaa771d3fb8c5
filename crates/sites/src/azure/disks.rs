//! Disks that come to a machine, are set aside, and go: in its description, as long as its virtual machine has not been made of it.
//!
//! A virtual machine that was made keeps the disks that it was made with: what is changed here counts from the next life on, so nothing is changed between the beginning of
//! a life and its end. But for disks that were set aside, which that life has nothing of.

use super::AzureSite;
use super::description::{Aside, Description};
use super::making::own_datastore;
use super::{CAPACITY, view};
use crate::{DiskOrigin, MachineDisk, NewDisk, SiteError};

impl AzureSite {
    pub(super) fn describe_another(&self, id: &str, new: &NewDisk) -> Result<MachineDisk, SiteError> {
        let adding = format!("adding a disk to the machine {id}");
        let wrong = |detail: &str| Err(SiteError::failed(&adding, detail));
        if new.serial.is_empty() {
            return wrong("it has no serial number, by which it would be known again [azure-disk-serial]");
        }
        let DiskOrigin::Empty { datastore } = &new.origin else {
            return wrong("it can be an empty one only [azure-disk-origin]");
        };
        own_datastore(datastore, self.settings.container_name())?;
        if new.size > CAPACITY {
            return Err(SiteError::NoRoom { datastore: datastore.clone(), needed: new.size, free: CAPACITY });
        }
        self.can_be_changed(id, "adding a disk to it", &adding, |is| {
            is.disks.iter().all(|disk| disk.serial != new.serial)
        })?;
        let (_, added) = self.change(id, &adding, |is| {
            if let Some(there) = is.all_disks().find(|disk| disk.serial == new.serial) {
                if there.size != new.size {
                    let detail = format!(
                        "it has one with the serial number {} and {} bytes [azure-disk-serial]",
                        new.serial, there.size
                    );
                    return Err(SiteError::failed(&adding, detail));
                }
                return Ok(view::disk(there));
            }
            must_not_have_begun(is, &adding)?;
            let number = is.numbered.unwrap_or(is.disks.len() + is.aside.len());
            let disk = self.describe_disk(id, number, new, &adding)?;
            let added = view::disk(&disk);
            is.disks.push(disk);
            is.numbered = Some(number + 1);
            Ok(added)
        })?;
        Ok(added)
    }

    /// What is set aside stays, and comes back to its place when it is not named any more.
    pub(super) fn set_aside(&self, id: &str, serials: &[String]) -> Result<(), SiteError> {
        let setting = format!("setting disks of the machine {id} aside");
        self.can_be_changed(id, "setting disks of it aside", &setting, |is| {
            aside(is, serials).is_some_and(|other| other != *is)
        })?;
        self.change(id, &setting, |is| {
            let other = aside(is, serials).ok_or_else(|| {
                SiteError::failed(&setting, "a machine at Azure needs a disk to boot from [azure-no-disk]")
            })?;
            if other != *is {
                must_not_have_begun(is, &setting)?;
                *is = other;
            }
            Ok(())
        })
        .map(drop)
    }

    pub(super) fn forget_disk(&self, id: &str, serial: &str) -> Result<(), SiteError> {
        let removing = format!("removing the disk {serial} of the machine {id}");
        self.can_be_changed(id, "removing a disk of it", &removing, |is| {
            is.disks.iter().any(|disk| disk.serial == serial)
        })?;
        self.change(id, &removing, |is| {
            let count = is.disks.len() + is.aside.len();
            if is.disks.iter().any(|disk| disk.serial == serial) {
                must_not_have_begun(is, &removing)?;
                is.disks.retain(|disk| disk.serial != serial);
            }
            is.aside.retain(|aside| aside.disk.serial != serial);
            if is.disks.len() + is.aside.len() < count {
                is.numbered.get_or_insert(count);
            }
            Ok(())
        })
        .map(drop)
    }

    /// What would change something, changes nothing of a machine that runs.
    fn can_be_changed(
        &self,
        id: &str,
        action: &str,
        doing: &str,
        changes: impl FnOnce(&Description) -> bool,
    ) -> Result<(), SiteError> {
        let is = self.described(id, doing)?.is;
        if changes(&is) && is.begun { self.must_be_off(&is, action, doing) } else { Ok(()) }
    }
}

fn must_not_have_begun(is: &Description, doing: &str) -> Result<(), SiteError> {
    if is.begun {
        let detail = "its virtual machine has been made, and keeps the disks that it was made with: take the failover back, or protect the machine again, first [azure-made]";
        return Err(SiteError::failed(doing, detail));
    }
    if !is.snapshots.is_empty() {
        let detail = "it has snapshots, which know which disks it had [azure-snapshot]";
        return Err(SiteError::failed(doing, detail));
    }
    Ok(())
}

/// The machine with these of its disks aside, and no others; `None`: it would have none left.
fn aside(is: &Description, serials: &[String]) -> Option<Description> {
    let mut other = is.clone();
    let mut before = std::mem::take(&mut other.aside);
    before.sort_by_key(|aside| aside.place);
    for Aside { place, disk } in before {
        other.disks.insert(place.min(other.disks.len()), disk);
    }
    for (place, disk) in std::mem::take(&mut other.disks).into_iter().enumerate() {
        if serials.contains(&disk.serial) {
            other.aside.push(Aside { place, disk });
        } else {
            other.disks.push(disk);
        }
    }
    (!other.disks.is_empty()).then_some(other)
}
