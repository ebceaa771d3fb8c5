//! The mounted file systems, from `/proc/self/mountinfo` (proc(5)).
//!
//! One entry for each file system, however often it is mounted, in the order of its first mount: to freeze all,
//! go backwards, so that a file system kept in a file of another (a loop device) comes before that.
//! Only this process's mount namespace is seen: a file system mounted nowhere but in a container is not found here;
//! that its writes went on is noticed by `ChangeTracker::touched`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::{DeviceNumber, Sysfs};

/// One place where a file system is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// The kernel's number of the mount.
    pub id: u64,
    /// Where.
    pub path: PathBuf,
}

/// A file system that is mounted for writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedFileSystem {
    /// Its own number: of its device, or an anonymous one.
    pub number: DeviceNumber,
    /// `ext4`, `xfs`.
    pub fs_type: String,
    /// The device, as it was named when it was mounted.
    pub source: String,
    /// Everywhere it is mounted, in order.
    pub mounts: Vec<MountPoint>,
    /// The whole disks that hold it.
    pub disks: BTreeSet<DeviceNumber>,
}

/// Why the mounted file systems cannot be known or reached.
#[derive(Debug, thiserror::Error)]
pub enum MountsError {
    /// No list.
    #[error("cannot read /proc/self/mountinfo: is /proc mounted?")]
    List(#[source] io::Error),
    /// None of a file system's mount points leads to it.
    #[error(
        "cannot open {point}, where a {fs_type} of a protected disk is mounted (hidden below another mount?)"
    )]
    Unreachable {
        /// The first of its mount points.
        point: PathBuf,
        /// What kind it is.
        fs_type: String,
        /// What the system said, if it said something.
        source: io::Error,
    },
}

impl MountedFileSystem {
    /// Opens the file system's root as far as it is mounted, for freezing and syncing. While it is open, the file
    /// system cannot be unmounted.
    ///
    /// # Errors
    /// When no mount point leads to it.
    pub fn open(&self) -> Result<OwnedFd, MountsError> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for mount in &self.mounts {
            match open_mount(mount) {
                Ok(fd) => return Ok(fd),
                Err(error) => last = error,
            }
        }
        let point = self.mounts.first().map(|mount| mount.path.clone()).unwrap_or_default();
        Err(MountsError::Unreachable { point, fs_type: self.fs_type.clone(), source: last })
    }
}

/// The path may lead to what was mounted over it since: the kernel says which mount was opened.
fn open_mount(mount: &MountPoint) -> io::Result<OwnedFd> {
    let fd =
        rustix::fs::open(&mount.path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    if id == Some(mount.id) { Ok(fd) } else { Err(io::Error::other("another mount hides it")) }
}

/// The file systems mounted for writing that keep anything on one of `disks`, in the order they were mounted.
///
/// # Errors
/// When there is no list of mounts.
pub fn mounted_on(
    sysfs: &Sysfs,
    disks: &BTreeSet<DeviceNumber>,
) -> Result<Vec<MountedFileSystem>, MountsError> {
    Ok(mounted_on_in(sysfs, &mountinfo().map_err(MountsError::List)?, disks))
}

/// The list itself. Mount points that are not UTF-8 are not lost with the others' lines, only unreachable.
pub(super) fn mountinfo() -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read("/proc/self/mountinfo")?).into_owned())
}

pub(super) fn mounted_on_in(
    sysfs: &Sysfs,
    mountinfo: &str,
    disks: &BTreeSet<DeviceNumber>,
) -> Vec<MountedFileSystem> {
    let mut found: Vec<MountedFileSystem> = Vec::new();
    for line in mountinfo.lines().filter_map(Line::parse).filter(|line| !line.read_only) {
        if let Some(known) = found.iter_mut().find(|known| known.number == line.number) {
            known.mounts.push(line.point);
            continue;
        }
        let below = line.disks(sysfs);
        if below.is_disjoint(disks) {
            continue;
        }
        let Line { number, fs_type, source, point, .. } = line;
        found.push(MountedFileSystem { number, fs_type, source, mounts: vec![point], disks: below });
    }
    found
}

/// The disks of the mount that holds `path`: the last one mounted at the longest prefix of it.
pub(super) fn disks_of_mount_holding(
    sysfs: &Sysfs,
    mountinfo: &str,
    path: &Path,
) -> Option<BTreeSet<DeviceNumber>> {
    let lines = mountinfo.lines().filter_map(Line::parse).filter(|line| path.starts_with(&line.point.path));
    let disks = lines.max_by_key(|line| line.point.path.components().count())?.disks(sysfs);
    (!disks.is_empty()).then_some(disks)
}

/// What is of interest in a line of mountinfo:
/// `36 35 98:0 /root /mount/point rw,noatime shared:1 - ext3 /dev/root rw,errors=continue`.
struct Line {
    number: DeviceNumber,
    point: MountPoint,
    fs_type: String,
    source: String,
    /// By the file system's options, the last field: a mount point can be read-only while another is not.
    read_only: bool,
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mount: Vec<&str> = mount.split(' ').collect();
        let file_system: Vec<&str> = file_system.split(' ').collect();
        let point = MountPoint { id: mount.first()?.parse().ok()?, path: unescaped(mount.get(4)?).into() };
        Some(Self {
            number: DeviceNumber::parse(mount.get(2)?)?,
            point,
            fs_type: (*file_system.first()?).into(),
            source: unescaped(file_system.get(1)?),
            read_only: file_system.get(2)?.split(',').any(|option| option == "ro"),
        })
    }

    /// Empty for what is on no disk, or on one that is going away.
    fn disks(&self, sysfs: &Sysfs) -> BTreeSet<DeviceNumber> {
        let devices = match (self.number.major, self.fs_type.as_str()) {
            (0, "btrfs") => sysfs.btrfs_devices(&self.source).unwrap_or_default(),
            (0, _) => sysfs.number_of_node(&self.source).into_iter().collect(),
            _ => vec![self.number],
        };
        devices.into_iter().filter_map(|number| sysfs.disks_below(number).ok()).flatten().collect()
    }
}

/// Undoes the kernel's `\040` for the characters that would break a line.
fn unescaped(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'\\'
            && let Some(digits) = tail.get(..3)
            && let Some(byte) = octal(digits)
        {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}
