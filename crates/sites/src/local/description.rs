//! `machine.toml`: what a machine is, on disk; the one truth about its chain of images.
//!
//! A disk is a raw image at the bottom and layers (qcow2 overlays) on it, oldest first; the topmost is written. A disk that began over somebody
//! else's image (`read_only = true`) always has one layer more than the machine has snapshots. Snapshot *n* is the state below the *n*-th of the other
//! layers. So: a disk has a layer for each snapshot, and one more if it is `read_only`.
//!
//! A snapshot that is `merging` is being removed: the images below its layers have begun to take these layers' contents, so what each chain
//! shows stays the same, while the snapshot's own state is gone. It is no longer listed. `merged` names the disks (by position) that
//! have its layer no longer.
//!
//! The file is only ever replaced whole. Image files in `DATASTORE/ID/` that it does not name are left-overs of an interrupted operation.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::derived;
use super::settings::SiteSettings;
use super::toml_file::TomlFile;
use crate::{Boot, SiteError};

/// Serial numbers of virtio-blk have 20 bytes (VIRTIO 1.2, section 5.2.6: `VIRTIO_BLK_T_GET_ID`).
pub(super) const SERIAL_LEN_MAX: usize = 20;
/// A PCI bus has 32 slots; QEMU's own devices take a few.
const DEVICES_MAX: usize = 26;
/// As QEMU's machine type `pc` has it.
const CPUS_MAX: u32 = 255;
/// What a BIOS needs to come up at least.
const MEMORY_MIB_MIN: u32 = 4;

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    /// What people call it.
    pub(super) name: String,
    /// SMBIOS system UUID; empty: derived from the id.
    #[serde(default)]
    pub(super) uuid: String,
    pub(super) cpus: u32,
    pub(super) memory_mib: u32,
    /// By what Switchback knows what it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<String>,
    /// Number of the next layer's file: never used twice.
    #[serde(default)]
    pub(super) next_layer: u64,
    #[serde(default)]
    pub(super) boot: Boot,
    #[serde(default)]
    pub(super) disks: Vec<DiskDescription>,
    /// Disks that it is started without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) aside: Vec<AsideDescription>,
    #[serde(default)]
    pub(super) nics: Vec<NicDescription>,
    /// Oldest first.
    #[serde(default)]
    pub(super) snapshots: Vec<SnapshotDescription>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiskDescription {
    /// The raw image or block device; relative to the machine's directory.
    pub(super) path: PathBuf,
    /// Empty: derived from the id and the position.
    #[serde(default)]
    pub(super) serial: String,
    /// Where layers are made; `None`: in the first datastore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) datastore: Option<String>,
    /// The image belongs to somebody else and is only read.
    #[serde(default)]
    pub(super) read_only: bool,
    /// Oldest first.
    #[serde(default)]
    pub(super) layers: Vec<PathBuf>,
}

/// A disk that is not the machine's for the time being.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AsideDescription {
    /// Its place among all disks.
    pub(super) place: usize,
    pub(super) disk: DiskDescription,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NicDescription {
    /// Empty: derived from the id and the position.
    #[serde(default)]
    pub(super) mac: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) network: Option<String>,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SnapshotDescription {
    pub(super) name: String,
    #[serde(default)]
    pub(super) merging: bool,
    #[serde(default)]
    pub(super) merged: BTreeSet<usize>,
}

impl DiskDescription {
    /// What lies directly below layer `layer`.
    pub(super) fn below(&self, layer: usize) -> &Path {
        layer.checked_sub(1).map_or(&self.path, |below| &self.layers[below])
    }

    /// What is written: the topmost layer or the image itself.
    pub(super) fn top(&self) -> &Path {
        self.layers.last().unwrap_or(&self.path)
    }
}

impl Description {
    /// Reads a machine's description as it is used: what it leaves open is filled in, paths are absolute, all is checked.
    pub(super) fn read(
        file: &TomlFile,
        directory: &Path,
        site: &str,
        id: &str,
        settings: &SiteSettings,
    ) -> Result<Self, SiteError> {
        let mut description: Self = file.parse()?;
        description.fill_in(directory, site, id);
        description.check(settings).map_err(|(key, problem)| file.wrong(&key, problem))?;
        Ok(description)
    }

    pub(super) fn fill_in(&mut self, directory: &Path, site: &str, id: &str) {
        if self.uuid.is_empty() {
            self.uuid = derived::uuid(site, id);
        }
        self.uuid.make_ascii_lowercase();
        for (position, disk) in self.disks.iter_mut().enumerate() {
            if disk.serial.is_empty() {
                disk.serial = derived::serial(site, id, position);
            }
            for path in disk.layers.iter_mut().chain([&mut disk.path]) {
                *path = directory.join(&*path);
            }
        }
        for (position, nic) in self.nics.iter_mut().enumerate() {
            if nic.mac.is_empty() {
                nic.mac = derived::mac(site, id, position);
            }
            nic.mac.make_ascii_lowercase();
        }
    }

    /// What is wrong, and at which key.
    pub(super) fn check(&self, settings: &SiteSettings) -> Result<(), (String, String)> {
        let wrong = |key: &str, problem: &str| Err((key.to_owned(), problem.to_owned()));
        if self.name.is_empty() {
            return wrong("name", "must not be empty");
        }
        if !is_uuid(&self.uuid) {
            return wrong("uuid", "must be a UUID such as 1b4e28ba-2fa1-11d2-883f-0016d3cca427");
        }
        if !(1..=CPUS_MAX).contains(&self.cpus) {
            return wrong("cpus", &format!("must be 1 to {CPUS_MAX}"));
        }
        if self.memory_mib < MEMORY_MIB_MIN {
            return wrong("memory_mib", &format!("must be {MEMORY_MIB_MIN} at least"));
        }
        if self.disks.len() + self.nics.len() > DEVICES_MAX {
            return wrong("disks", &format!("a machine has room for {DEVICES_MAX} disks and network cards"));
        }
        self.check_boot()?;
        self.check_disks(settings)?;
        self.check_nics(settings)?;
        let names: BTreeSet<&str> = self.snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
        if names.len() != self.snapshots.len() {
            return wrong("snapshots", "two have the same name");
        }
        Ok(())
    }

    fn check_boot(&self) -> Result<(), (String, String)> {
        let Boot::Kernel { kernel, initrd, .. } = &self.boot else { return Ok(()) };
        for (key, path) in [("boot.kernel", Some(kernel)), ("boot.initrd", initrd.as_ref())] {
            if path.is_some_and(|path| !path.is_absolute()) {
                return Err((key.to_owned(), "must be an absolute path".to_owned()));
            }
        }
        Ok(())
    }

    fn check_disks(&self, settings: &SiteSettings) -> Result<(), (String, String)> {
        let mut seen = BTreeSet::new();
        for (position, disk) in self.disks.iter().enumerate() {
            let wrong = |key: &str, problem: String| Err((format!("disks.{position}.{key}"), problem));
            if disk.serial.len() > SERIAL_LEN_MAX || !disk.serial.bytes().all(|b| b.is_ascii_graphic()) {
                return wrong("serial", format!("must have 1 to {SERIAL_LEN_MAX} letters and digits"));
            }
            if let Some(store) = &disk.datastore
                && !settings.datastores.contains_key(store)
            {
                let known = settings.datastores.keys().cloned().collect::<Vec<_>>().join(", ");
                return wrong("datastore", format!("the site has no datastore {store:?}, but {known}"));
            }
            let layers = self.layer_of(position, self.snapshots.len());
            if disk.layers.len() != layers {
                let has = disk.layers.len();
                return wrong(
                    "layers",
                    format!("there are {has}, with these snapshots there must be {layers}"),
                );
            }
            for path in disk.layers.iter().chain([&disk.path]) {
                if !seen.insert(path) {
                    return wrong("path", format!("{} is used twice", path.display()));
                }
            }
        }
        Ok(())
    }

    fn check_nics(&self, settings: &SiteSettings) -> Result<(), (String, String)> {
        let mut seen = BTreeSet::new();
        for (position, nic) in self.nics.iter().enumerate() {
            let wrong = |key: &str, problem: String| Err((format!("nics.{position}.{key}"), problem));
            if !is_unicast_mac(&nic.mac) {
                return wrong(
                    "mac",
                    format!("{:?} is no unicast address such as 02:00:5e:10:00:01", nic.mac),
                );
            }
            if !seen.insert(&nic.mac) {
                return wrong("mac", format!("another card of the machine has {}", nic.mac));
            }
            if let Some(network) = &nic.network
                && !settings.networks.contains_key(network)
            {
                let known = settings.networks.keys().cloned().collect::<Vec<_>>().join(", ");
                return wrong("network", format!("the site has no network {network:?}, but: {known}"));
            }
        }
        Ok(())
    }

    /// Index, among the layers of the disk at `position`, of the one written since the `snapshot`-th snapshot.
    pub(super) fn layer_of(&self, position: usize, snapshot: usize) -> usize {
        let earlier = self.snapshots[..snapshot].iter().filter(|one| !one.merged.contains(&position)).count();
        earlier + usize::from(self.disks[position].read_only)
    }

    /// The disk at `position` has the layer of this snapshot no longer.
    pub(super) fn remove_layer(&mut self, position: usize, snapshot: usize) {
        let layer = self.layer_of(position, snapshot);
        self.disks[position].layers.remove(layer);
        self.snapshots[snapshot].merged.insert(position);
    }

    /// Position of a snapshot, also of one that is being removed.
    pub(super) fn snapshot(&self, name: &str) -> Option<usize> {
        self.snapshots.iter().position(|snapshot| snapshot.name == name)
    }
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_unicast_mac(text: &str) -> bool {
    let octets: Vec<Option<u8>> = text
        .split(':')
        .map(|octet| if octet.len() == 2 { u8::from_str_radix(octet, 16).ok() } else { None })
        .collect();
    octets.len() == 6 && octets.iter().all(Option::is_some) && octets[0].is_some_and(|first| first & 1 == 0)
}

#[cfg(test)]
mod tests;
