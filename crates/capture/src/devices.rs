//! Which whole disks lie below a path, and which file systems lie on a set of disks.
//!
//! Requests are seen (and replicas are kept) for whole disks, while people name partitions, LVM volumes or mount
//! points. The kernel's own account of what is stacked on what, sysfs, is the only source:
//! `/sys/dev/block/M:m` is the device's folder; `partition` in it says that the folder around it is its
//! disk; `slaves/` names the devices a stacked one (device-mapper, md, bcache) is made of. A loop device's backing
//! file is not followed: to the machine a loop device is a disk.

mod mounts;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

pub use mounts::{MountPoint, MountedFileSystem, MountsError, mounted_on};

/// Sectors in sysfs and in requests, whatever the device's own: `SECTOR_SIZE` of `linux/blk_types.h`.
const SECTOR_BYTES: u64 = 512;
/// Deeper stacks of devices than this do not exist; a loop in sysfs would.
const STACK_DEPTH_MAX: usize = 16;
/// Longer serial numbers are cut.
const IDENTITY_BYTES_MAX: usize = 120;

/// The number of a block device, `major:minor`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// Which driver.
    pub major: u32,
    /// Which of the driver's devices.
    pub minor: u32,
}

impl DeviceNumber {
    /// From `st_dev` or `st_rdev`.
    #[must_use]
    pub fn from_raw(dev: u64) -> Self {
        Self { major: rustix::fs::major(dev), minor: rustix::fs::minor(dev) }
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl fmt::Debug for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A disk that is not part of another device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeDisk {
    /// Its number, which another disk may have after this one is gone.
    pub number: DeviceNumber,
    /// The kernel's name, `sda`.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// The kernel's count of disks since boot: tells apart two that had the same number one after the other.
    /// Also increased when the medium changes. 0 before kernel 5.15.
    pub diskseq: u64,
    /// The most telling of its WWID, serial number and the like; empty when it has none.
    pub identity: String,
}

impl WholeDisk {
    /// The device file.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        Path::new("/dev").join(self.name.replace('!', "/"))
    }
}

/// Why no disk can be found for a path, or it cannot be protected.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The path itself.
    #[error("cannot look at {path}: does it exist?")]
    Path {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not kept on a block device.
    #[error("{path} is not kept on a disk of this machine (network, memory or overlay file system?)")]
    NotOnDisk {
        /// Which.
        path: PathBuf,
    },
    /// A disk that accepts writes in sequence only.
    #[error(
        "{disk} is a host-managed zoned disk, which cannot be replicated block by block: protect other disks"
    )]
    Zoned {
        /// Its name.
        disk: String,
    },
    /// No medium.
    #[error("{disk} has no size: is there a medium, is the loop device set up?")]
    Empty {
        /// Its name.
        disk: String,
    },
    /// The device has gone, or sysfs is not mounted.
    #[error("the kernel does not know block device {number} (removed, or is /sys not mounted?)")]
    Unknown {
        /// Which.
        number: DeviceNumber,
        /// What the system said.
        source: io::Error,
    },
    /// Something else in sysfs.
    #[error("cannot understand the kernel's account of {number}: {detail}")]
    Malformed {
        /// Which device.
        number: DeviceNumber,
        /// What is wrong.
        detail: String,
    },
}

/// The kernel's account of its devices.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::at("/sys")
    }
}

impl Sysfs {
    /// A tree elsewhere, for tests.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The whole disks that hold what `path` names: a block device of any kind, a mount point, or any file on a
    /// mounted file system. Sorted by number.
    ///
    /// # Errors
    /// Also for disks that are there but cannot be replicated.
    pub fn resolve(&self, path: &Path) -> Result<Vec<WholeDisk>, DeviceError> {
        let metadata =
            fs::metadata(path).map_err(|source| DeviceError::Path { path: path.into(), source })?;
        let below = if metadata.file_type().is_block_device() {
            self.disks_below(DeviceNumber::from_raw(metadata.rdev()))?
        } else {
            let number = DeviceNumber::from_raw(metadata.dev());
            match number.major {
                // Anonymous: btrfs has a number of its own for each subvolume.
                0 => self.disks_of_mount_of(path)?,
                _ => self.disks_below(number)?,
            }
        };
        if below.is_empty() {
            return Err(DeviceError::NotOnDisk { path: path.into() });
        }
        below.into_iter().map(|number| self.whole_disk(number)).collect()
    }

    fn disks_of_mount_of(&self, path: &Path) -> Result<BTreeSet<DeviceNumber>, DeviceError> {
        let not_on_disk = || DeviceError::NotOnDisk { path: path.into() };
        let fail = |source| DeviceError::Path { path: path.into(), source };
        let path = path.canonicalize().map_err(fail)?;
        let mountinfo = mounts::mountinfo().map_err(fail)?;
        mounts::disks_of_mount_holding(self, &mountinfo, &path).ok_or_else(not_on_disk)
    }

    /// The whole disks below a block device; itself when it is one.
    ///
    /// # Errors
    /// When the device has gone.
    pub fn disks_below(&self, number: DeviceNumber) -> Result<BTreeSet<DeviceNumber>, DeviceError> {
        let mut disks = BTreeSet::new();
        self.collect_below(number, 0, &mut disks)?;
        Ok(disks)
    }

    fn collect_below(
        &self,
        number: DeviceNumber,
        depth: usize,
        disks: &mut BTreeSet<DeviceNumber>,
    ) -> Result<(), DeviceError> {
        let malformed = |detail: &str| DeviceError::Malformed { number, detail: detail.into() };
        if depth > STACK_DEPTH_MAX {
            return Err(malformed("devices stacked too deep"));
        }
        let folder = self.folder(number)?;
        if folder.join("partition").exists() {
            let disk = folder.parent().ok_or_else(|| malformed("a partition without a disk"))?;
            let disk = number_in(disk).ok_or_else(|| malformed("a partition's disk has no number"))?;
            return self.collect_below(disk, depth + 1, disks);
        }
        let slaves = match fs::read_dir(folder.join("slaves")) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let slaves = slaves.map_err(|source| DeviceError::Unknown { number, source })?;
        if slaves.is_empty() {
            disks.insert(number);
        }
        for slave in slaves {
            let slave = number_in(&slave.path()).ok_or_else(|| malformed("a slave has no number"))?;
            self.collect_below(slave, depth + 1, disks)?;
        }
        Ok(())
    }

    /// What is known of a whole disk.
    ///
    /// # Errors
    /// When it has gone or cannot be replicated.
    pub fn whole_disk(&self, number: DeviceNumber) -> Result<WholeDisk, DeviceError> {
        let folder = self.folder(number)?;
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let zoned = text_in(&folder, "queue/zoned");
        if zoned.as_deref() == Some("host-managed") {
            return Err(DeviceError::Zoned { disk: name });
        }
        let size_bytes = self.size_bytes(number)?;
        if size_bytes == 0 {
            return Err(DeviceError::Empty { disk: name });
        }
        let diskseq = text_in(&folder, "diskseq").and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(WholeDisk { number, name, size_bytes, diskseq, identity: identity(&folder) })
    }

    /// The present size of a disk.
    ///
    /// # Errors
    /// When it has gone.
    pub fn size_bytes(&self, number: DeviceNumber) -> Result<u64, DeviceError> {
        let folder = self.folder(number)?;
        let text = fs::read_to_string(folder.join("size"))
            .map_err(|source| DeviceError::Unknown { number, source })?;
        let sectors: Option<u64> = text.trim().parse().ok();
        sectors
            .and_then(|sectors| sectors.checked_mul(SECTOR_BYTES))
            .ok_or_else(|| DeviceError::Malformed { number, detail: format!("size {text:?}") })
    }

    fn folder(&self, number: DeviceNumber) -> Result<PathBuf, DeviceError> {
        let link = self.root.join("dev/block").join(number.to_string());
        link.canonicalize().map_err(|source| DeviceError::Unknown { number, source })
    }

    /// The number of `/dev/<name>`, following the links of `/dev/mapper` and the like.
    fn number_of_node(&self, node: &str) -> Option<DeviceNumber> {
        let node = Path::new(node);
        let node = node.canonicalize().unwrap_or_else(|_| node.into());
        let name = node.strip_prefix("/dev").ok()?.to_str()?.replace('/', "!");
        number_in(&self.root.join("class/block").join(name))
    }

    /// The devices of the btrfs file system that has `node` among its own.
    fn btrfs_devices(&self, node: &str) -> Option<Vec<DeviceNumber>> {
        let first = self.number_of_node(node)?;
        for file_system in fs::read_dir(self.root.join("fs/btrfs")).into_iter().flatten().flatten() {
            let devices = fs::read_dir(file_system.path().join("devices")).into_iter().flatten().flatten();
            let numbers: Option<Vec<_>> = devices.map(|device| number_in(&device.path())).collect();
            if let Some(numbers) = numbers
                && numbers.contains(&first)
            {
                return Some(numbers);
            }
        }
        Some(vec![first])
    }
}

/// The best name there is for the disk itself, whatever its number: of the first attribute it has.
fn identity(folder: &Path) -> String {
    const ATTRIBUTES: [&str; 7] =
        ["wwid", "device/wwid", "serial", "device/serial", "dm/uuid", "md/uuid", "loop/backing_file"];
    let mut text = ATTRIBUTES
        .iter()
        .find_map(|name| text_in(folder, name).filter(|text| !text.is_empty()))
        .unwrap_or_default();
    while text.len() > IDENTITY_BYTES_MAX {
        text.pop();
    }
    text
}

fn number_in(folder: &Path) -> Option<DeviceNumber> {
    DeviceNumber::parse(&text_in(folder, "dev")?)
}

fn text_in(folder: &Path, attribute: &str) -> Option<String> {
    fs::read_to_string(folder.join(attribute)).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests;
