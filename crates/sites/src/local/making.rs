//! Machines made and removed.
//!
//! While a machine is being made or removed its description is called `unfinished.toml`. So whatever moment a process is killed at, the next one
//! knows which files belong to it: making it again, or removing it, first removes these. In order: when making, description, images, then the
//! description's real name; when removing, the other way round.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use switchback_disk::Volume;

use super::description::{Description, DiskDescription, NicDescription, SERIAL_LEN_MAX};
use super::toml_file::TomlFile;
use super::{LocalSite, MACHINE, MACHINES, images, locks};
use crate::{DiskOrigin, NewMachine, SiteError};

const UNFINISHED: &str = "unfinished.toml";
/// What images and disks are made of.
const SECTOR: u64 = 512;
/// What the overlay of a disk takes at once.
const LAYER_ROOM: u64 = 1 << 20;
/// How often the directory of a removed machine is tried to be removed, while others still look for its lock.
const REMOVALS_MAX: usize = 10;

impl LocalSite {
    pub(super) fn make(&self, new: &NewMachine) -> Result<(), SiteError> {
        let directory = self.machine_directory(&new.id)?;
        let description = self.describe(new)?;
        let making = || format!("making the machine {}", new.id);
        let failed = |error: io::Error| SiteError::failed(making(), error);
        // Its directory may be removed by another process before it is locked.
        let mut attempts = 0..REMOVALS_MAX;
        let _lock = loop {
            images::create_directory(&directory).map_err(failed)?;
            match locks::operation(&directory) {
                Err(error) if error.kind() == ErrorKind::NotFound && attempts.next().is_some() => {}
                Err(error) => return Err(SiteError::passing(making(), error)),
                Ok(lock) => break lock,
            }
        };
        match self.load(&new.id) {
            // Without a mark, it may as well be one that somebody has written by hand.
            Ok(there) if there.mark == new.mark && (new.mark.is_some() || there.name == new.name) => {
                return Ok(());
            }
            Ok(there) => return Err(SiteError::Taken { id: new.id.clone(), name: there.name }),
            Err(SiteError::NoSuchMachine { .. }) => {}
            Err(error) => return Err(error),
        }
        self.remove_unfinished(&new.id)?;
        let made = self.make_files(new, &description);
        if made.is_err() {
            // The first error is the one to tell; what cannot be removed now is removed by the next attempt.
            if let Err(error) = self.remove_unfinished(&new.id).and_then(|()| self.remove_directory(&new.id))
            {
                tracing::warn!(machine = new.id, %error, "a machine that could not be made left files");
            }
        }
        made
    }

    fn describe(&self, new: &NewMachine) -> Result<Description, SiteError> {
        let nics =
            new.nics.iter().map(|nic| NicDescription { mac: nic.mac.clone(), network: nic.network.clone() });
        let disks =
            new.disks.iter().enumerate().map(|(position, disk)| self.describe_disk(new, position, disk));
        let mut description = Description {
            name: new.name.clone(),
            uuid: new.system_uuid.clone().unwrap_or_default(),
            cpus: new.cpus,
            memory_mib: new.memory_mib,
            mark: new.mark.clone(),
            next_layer: 1,
            boot: new.boot.clone(),
            disks: disks.collect::<Result<_, _>>()?,
            aside: Vec::new(),
            nics: nics.collect(),
            snapshots: Vec::new(),
        };
        new.nics
            .iter()
            .filter_map(|nic| nic.network.as_ref())
            .try_for_each(|name| self.must_have_network(name))?;
        description.fill_in(&self.directory.join(MACHINES).join(&new.id), &self.key(), &new.id);
        description.check(&self.settings).map_err(|(key, problem)| {
            SiteError::failed(format!("making the machine {}", new.id), format!("`{key}`: {problem}"))
        })?;
        Ok(description)
    }

    fn describe_disk(
        &self,
        new: &NewMachine,
        position: usize,
        disk: &crate::NewDisk,
    ) -> Result<DiskDescription, SiteError> {
        let wrong = |detail: String| {
            Err(SiteError::failed(format!("making disk {position} of the machine {}", new.id), detail))
        };
        if disk.size == 0 || !disk.size.is_multiple_of(SECTOR) {
            return wrong(format!("its size, {} bytes, is no multiple of {SECTOR}", disk.size));
        }
        let (datastore, path, layers) = match &disk.origin {
            DiskOrigin::Empty { datastore } => {
                let directory = self.datastore(datastore)?.join(&new.id);
                (datastore, directory.join(format!("disk-{position}.raw")), Vec::new())
            }
            DiskOrigin::Over { image, datastore } => {
                let directory = self.datastore(datastore)?.join(&new.id);
                let len = match images::size(image) {
                    Ok(len) => len,
                    Err(error) => return wrong(format!("it is to lie over {}: {error}", image.display())),
                };
                if len > disk.size {
                    let size = disk.size;
                    return wrong(format!(
                        "it has {size} bytes, the image below, {}, has {len}",
                        image.display()
                    ));
                }
                let image = std::path::absolute(image).unwrap_or_else(|_| image.clone());
                (datastore, image, vec![directory.join(format!("disk-{position}.0.qcow2"))])
            }
        };
        Ok(DiskDescription {
            path,
            // Another site's may be longer than virtio shows: as much of it as a guest would see.
            serial: disk.serial.chars().filter(char::is_ascii_graphic).take(SERIAL_LEN_MAX).collect(),
            datastore: Some(datastore.clone()),
            read_only: !layers.is_empty(),
            layers,
        })
    }

    fn make_files(&self, new: &NewMachine, description: &Description) -> Result<(), SiteError> {
        self.must_have_room(new)?;
        self.save(&new.id, UNFINISHED, description)?;
        for (position, (disk, wanted)) in description.disks.iter().zip(&new.disks).enumerate() {
            self.step("make disk");
            self.make_disk(disk, wanted.size).map_err(|error| {
                let room = disk.datastore.as_ref().and_then(|name| {
                    let (free, _) = images::room(self.settings.datastores.get(name)?).ok()?;
                    Some(SiteError::NoRoom { datastore: name.clone(), needed: wanted.size, free })
                });
                let making = || format!("making disk {position} of the machine {}", new.id);
                // Somebody else was faster with the room that was there.
                let is_full = error.kind() == ErrorKind::StorageFull;
                room.filter(|_| is_full).unwrap_or_else(|| SiteError::failed(making(), error))
            })?;
        }
        self.step("give the machine its name");
        self.give_name(&new.id, UNFINISHED, MACHINE)
    }

    fn make_disk(&self, disk: &DiskDescription, size: u64) -> io::Result<()> {
        let own = disk.layers.first().unwrap_or(&disk.path);
        images::create_directory(own.parent().unwrap_or(own))?;
        match disk.layers.first() {
            None => images::create_raw(own, size),
            Some(layer) => images::create_layer(&self.settings.qemu_img, layer, &disk.path, true, size),
        }
    }

    /// Images take room as they are written; a datastore that has not got it at the start would fail in the middle of a replication.
    fn must_have_room(&self, new: &NewMachine) -> Result<(), SiteError> {
        let mut needed = BTreeMap::<&str, u64>::new();
        for disk in &new.disks {
            let (datastore, bytes) = match &disk.origin {
                DiskOrigin::Empty { datastore } => (datastore, disk.size),
                DiskOrigin::Over { datastore, .. } => (datastore, LAYER_ROOM),
            };
            let sum = needed.entry(datastore).or_default();
            *sum = sum.saturating_add(bytes);
        }
        for (name, needed) in needed {
            let (free, _) = images::room(self.datastore(name)?)
                .map_err(|error| SiteError::failed(format!("looking at the datastore {name}"), error))?;
            if free < needed {
                return Err(SiteError::NoRoom { datastore: name.to_owned(), needed, free });
            }
        }
        Ok(())
    }

    pub(super) fn remove(&self, id: &str) -> Result<(), SiteError> {
        let _lock = match self.lock(id) {
            Err(SiteError::NoSuchMachine { .. }) => return Ok(()),
            lock => lock?,
        };
        self.must_be_off(id, "removing it")?;
        if self.machine_directory(id)?.join(MACHINE).exists() {
            self.load(id)?; // one that cannot be read names no files: it is not removed before a person has looked
            self.give_name(id, MACHINE, UNFINISHED)?;
        }
        self.step("remove its files");
        self.remove_unfinished(id)?;
        self.step("remove its directory");
        self.remove_directory(id)
    }

    fn give_name(&self, id: &str, from: &str, to: &str) -> Result<(), SiteError> {
        let volume = self.volume(&self.machine_directory(id)?)?;
        let named = volume.replace(from, to).and_then(|()| volume.sync());
        named.map_err(|error| SiteError::failed(format!("naming the description of {id}"), error))
    }

    /// Removes what an unfinished machine has in datastores, then its description. Images elsewhere are somebody else's.
    fn remove_unfinished(&self, id: &str) -> Result<(), SiteError> {
        let path = self.machine_directory(id)?.join(UNFINISHED);
        if TomlFile::read(&path)?.is_none() {
            return Ok(());
        }
        for directory in self.own_directories(id) {
            remove_images(&directory).map_err(|error| {
                SiteError::failed(format!("removing the images in {}", directory.display()), error)
            })?;
        }
        images::remove(&path)
            .and_then(|()| images::sync_directory_of(&path))
            .map_err(|error| SiteError::failed(format!("removing {}", path.display()), error))
    }

    /// Where a machine's own images are.
    pub(super) fn own_directories(&self, id: &str) -> Vec<PathBuf> {
        self.settings.datastores.values().map(|path| path.join(id)).filter(|path| path.is_dir()).collect()
    }

    /// The lock goes last: until then nobody makes the machine anew.
    fn remove_directory(&self, id: &str) -> Result<(), SiteError> {
        let directory = self.machine_directory(id)?;
        let remove = || -> io::Result<()> {
            for entry in fs::read_dir(&directory)? {
                let path = entry?.path();
                if path != directory.join("lock") {
                    images::remove(&path)?;
                }
            }
            images::remove(&directory.join("lock"))?;
            fs::remove_dir(&directory)
        };
        let mut attempts = 0..REMOVALS_MAX;
        loop {
            match remove() {
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                // Somebody who waits for the lock has made it again.
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && attempts.next().is_some() => {}
                Err(error) => {
                    return Err(SiteError::failed(format!("removing {}", directory.display()), error));
                }
                Ok(()) => break,
            }
        }
        images::sync_directory_of(&directory)
            .map_err(|error| SiteError::failed(format!("removing {}", directory.display()), error))
    }
}

/// Removes a machine's images and then their directory, unless somebody else has put something there.
fn remove_images(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("disk-") && (name.ends_with(".raw") || name.ends_with(".qcow2")) {
            images::remove(&path)?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(directory = %directory.display(), "files that are not Switchback's stay here");
        }
        removed => removed?,
    }
    images::sync_directory_of(directory)
}
