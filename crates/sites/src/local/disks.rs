//! Disks that come to a machine, are set aside, and go: while their machine is off, but for those set aside, which it does not see.
//!
//! The description is saved before a file of it is removed, and after one of it was made. A file that was made for a description that was never saved is
//! made anew by the next attempt.

use std::path::PathBuf;

use super::description::{AsideDescription, Description, DiskDescription, SERIAL_LEN_MAX};
use super::{LocalSite, MACHINE, images};
use crate::{DiskOrigin, MachineDisk, NewDisk, SiteError};

impl LocalSite {
    pub(super) fn give_disk(&self, id: &str, new: &NewDisk) -> Result<MachineDisk, SiteError> {
        let _lock = self.lock(id)?;
        let adding = || format!("adding a disk to the machine {id}");
        let wrong = |detail: String| Err(SiteError::failed(adding(), detail));
        let mut description = self.load(id)?;
        let serial = shown(&new.serial);
        if serial.is_empty() {
            return wrong("it has no serial number, by which it would be known again".into());
        }
        if let Some(there) = description.disks.iter().find(|disk| disk.serial == serial) {
            let size = images::size(&there.path).map_err(|error| SiteError::failed(adding(), error))?;
            if size != new.size {
                return wrong(format!("it has one with the serial number {serial} and {size} bytes"));
            }
            return Ok(MachineDisk { path: there.path.clone(), size, serial });
        }
        self.must_be_off(id, "adding a disk to it")?;
        if !description.snapshots.is_empty() {
            return wrong("it has snapshots, which would not know of the disk".into());
        }
        let DiskOrigin::Empty { datastore } = &new.origin else {
            return wrong("it can be an empty one only".into());
        };
        let directory = self.datastore(datastore)?.join(id);
        let (free, _) = images::room(self.datastore(datastore)?)
            .map_err(|error| SiteError::failed(format!("looking at the datastore {datastore}"), error))?;
        if free < new.size {
            return Err(SiteError::NoRoom { datastore: datastore.clone(), needed: new.size, free });
        }
        let path = unused(&description, &directory);
        let make = || {
            images::create_directory(&directory)?;
            images::remove(&path)?;
            images::create_raw(&path, new.size)
        };
        self.step("make the disk");
        make().map_err(|error| SiteError::failed(adding(), error))?;
        description.disks.push(DiskDescription {
            path: path.clone(),
            serial: serial.clone(),
            datastore: Some(datastore.clone()),
            read_only: false,
            layers: Vec::new(),
        });
        description
            .check(&self.settings)
            .map_err(|(key, problem)| SiteError::failed(adding(), format!("`{key}`: {problem}")))?;
        self.step("note the disk");
        self.save(id, MACHINE, &description)?;
        Ok(MachineDisk { path, size: new.size, serial })
    }

    /// What is set aside stays, and comes back to its place when it is not named any more.
    pub(super) fn set_aside(&self, id: &str, serials: &[String]) -> Result<(), SiteError> {
        let _lock = self.lock(id)?;
        let before = self.load(id)?;
        let mut description = before.clone();
        let mut aside = std::mem::take(&mut description.aside);
        aside.sort_by_key(|aside| aside.place);
        for AsideDescription { place, disk } in aside {
            description.disks.insert(place.min(description.disks.len()), disk);
        }
        let all = std::mem::take(&mut description.disks).into_iter().enumerate();
        for (place, disk) in all {
            if serials.contains(&disk.serial) {
                description.aside.push(AsideDescription { place, disk });
            } else {
                description.disks.push(disk);
            }
        }
        if description == before {
            return Ok(());
        }
        self.must_be_off(id, "setting disks of it aside")?;
        if !description.snapshots.is_empty() {
            let detail = "it has snapshots, which know which disks it had";
            return Err(SiteError::failed(format!("setting disks of the machine {id} aside"), detail));
        }
        self.step("set disks aside");
        self.save(id, MACHINE, &description)
    }

    pub(super) fn take_disk(&self, id: &str, serial: &str) -> Result<(), SiteError> {
        let _lock = self.lock(id)?;
        let mut description = self.load(id)?;
        let removing = || format!("removing the disk {serial} of the machine {id}");
        let serial = shown(serial);
        if let Some(place) = description.disks.iter().position(|disk| disk.serial == serial) {
            self.must_be_off(id, "removing a disk of it")?;
            if !description.snapshots.is_empty() || description.disks[place].read_only {
                let detail = "it has snapshots, or the disk lies over an image of somebody else";
                return Err(SiteError::failed(removing(), detail));
            }
            let disk = description.disks.remove(place);
            description.aside.push(AsideDescription { place, disk });
            self.step("set the disk aside");
            self.save(id, MACHINE, &description)?;
        }
        let Some(place) = description.aside.iter().position(|aside| aside.disk.serial == serial) else {
            return Ok(());
        };
        let path = description.aside.remove(place).disk.path;
        // An image elsewhere is somebody else's.
        if self.own_directories(id).iter().any(|own| path.starts_with(own)) {
            self.step("remove the disk");
            images::remove(&path)
                .and_then(|()| images::sync_directory_of(&path))
                .map_err(|error| SiteError::failed(removing(), error))?;
        }
        self.step("forget the disk");
        self.save(id, MACHINE, &description)
    }
}

/// What a guest sees of a serial number.
fn shown(serial: &str) -> String {
    serial.chars().filter(char::is_ascii_graphic).take(SERIAL_LEN_MAX).collect()
}

/// A name for another image that no disk has.
fn unused(description: &Description, directory: &std::path::Path) -> PathBuf {
    let known = |path: &PathBuf| {
        let aside = description.aside.iter().map(|aside| &aside.disk);
        description.disks.iter().chain(aside).any(|disk| disk.path == *path)
    };
    let mut names = (0_usize..).map(|number| directory.join(format!("disk-{number}.raw")));
    names.find(|path| !known(path)).expect("there are more numbers than disks")
}
