//! Proof, at every attach, that requests of each disk are seen and marked. Changes nothing for anybody.
//!
//! *Read*: 64 KiB of the whole disk, past the page cache, must be counted at issue and at completion.
//! *Write*: if a file system on the disk is mounted for writing, a file without a name is written to it and is
//! gone when it is closed. Else, if nobody uses the disk (it can be opened exclusively, so no mount and no device on
//! top, and no process has it open), 4 KiB in its middle are overwritten by what they hold. The exclusive open
//! does not keep out somebody who opens the disk without asking for exclusiveness within those microseconds, and
//! writes just these 4 KiB: hence the look at who has it open, and the middle, where nobody begins to write.
//! Else nothing is written, and [`Proof::ReadOnly`] says why.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::error::AttachError;
use super::state::{Counts, State};
use crate::devices::{DeviceNumber, MountedFileSystem, Sysfs, WholeDisk, mounted_on};

/// What the self-test has shown of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Requests are seen, and a write is marked.
    ReadAndWrite,
    /// Requests are seen; no write could be tried.
    ReadOnly {
        /// Why not.
        why: String,
    },
}

/// Longest logical block of any disk (64 KiB since Linux 6.15): direct I/O needs multiples of it.
const READ_BYTES: usize = 64 << 10;
/// One block of the bitmap.
const WRITE_BYTES: usize = 4096;

/// Aligned for direct I/O on any disk.
#[repr(align(65536))]
struct Aligned([u8; READ_BYTES]);

/// Tests all disks.
///
/// # Errors
/// For the first that does not show what it must.
pub(super) fn run(state: &State, disks: &[WholeDisk]) -> Result<Vec<Proof>, AttachError> {
    let mut buffer = Box::new(Aligned([0; READ_BYTES]));
    disks
        .iter()
        .zip(state.slots())
        .map(|(disk, slot)| {
            read(state, slot, disk, &mut buffer.0)?;
            write(state, slot, disk, &mut buffer.0)
        })
        .collect()
}

fn counts(state: &State, slot: usize) -> Result<Counts, AttachError> {
    state.counts(slot).map_err(|source| AttachError::kernel("read the change tracker's counts", source))
}

fn read(state: &State, slot: usize, disk: &WholeDisk, buffer: &mut [u8]) -> Result<(), AttachError> {
    let failed = |source| AttachError::SelfTest { disk: disk.name.clone(), source };
    let before = counts(state, slot)?;
    let device = open(disk, OFlags::RDONLY).map_err(failed)?;
    rustix::io::pread(&device, buffer, 0).map_err(|errno| failed(errno.into()))?;
    let after = counts(state, slot)?;
    if after.issued > before.issued && after.completed > before.completed {
        return Ok(());
    }
    Err(AttachError::NoRequestEvents { disk: disk.name.clone() })
}

fn write(state: &State, slot: usize, disk: &WholeDisk, buffer: &mut [u8]) -> Result<Proof, AttachError> {
    let before = counts(state, slot)?;
    let mounted = mounted_on(&Sysfs::default(), &BTreeSet::from([disk.number])).unwrap_or_default();
    let (written, may_be_elsewhere) = match mounted.iter().min_by_key(|mounted| mounted.disks.len()) {
        Some(mounted) => (write_file(mounted, &buffer[..WRITE_BYTES]), mounted.disks.len() > 1),
        None => (rewrite_in_place(disk, &mut buffer[..WRITE_BYTES]), false),
    };
    if let Err(error) = written {
        return Ok(Proof::ReadOnly { why: error.to_string() });
    }
    if counts(state, slot)?.marked > before.marked {
        return Ok(Proof::ReadAndWrite);
    }
    if may_be_elsewhere {
        let why = "its file system has other disks too, and put the test file on one of those".into();
        return Ok(Proof::ReadOnly { why });
    }
    Err(AttachError::NoMarks { disk: disk.name.clone() })
}

fn write_file(mounted: &MountedFileSystem, data: &[u8]) -> io::Result<()> {
    let root = mounted.open().map_err(io::Error::other)?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = match rustix::fs::openat(&root, ".", flags | OFlags::TMPFILE, mode) {
        // Not every file system knows files without names.
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
            let name = format!(".switchback-self-test-{}", std::process::id());
            let file = rustix::fs::openat(&root, &name, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
            rustix::fs::unlinkat(&root, &name, AtFlags::empty())?;
            file
        }
        result => result?,
    };
    rustix::io::pwrite(&file, data, 0)?;
    rustix::fs::fsync(&file)?;
    Ok(())
}

fn rewrite_in_place(disk: &WholeDisk, buffer: &mut [u8]) -> io::Result<()> {
    let device = open(disk, OFlags::RDWR | OFlags::EXCL)?;
    if let Some(process) = opened_by(disk)? {
        return Err(io::Error::other(format!("process {process} has it open")));
    }
    let middle = disk.size_bytes / 2 / READ_BYTES as u64 * READ_BYTES as u64;
    if rustix::io::pread(&device, &mut *buffer, middle)? == buffer.len() {
        rustix::io::pwrite(&device, buffer, middle)?;
    }
    Ok(())
}

fn open(disk: &WholeDisk, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::DIRECT | OFlags::CLOEXEC;
    let device = rustix::fs::open(disk.node(), flags, Mode::empty())?;
    let number = DeviceNumber::from_raw(rustix::fs::fstat(device.as_fd())?.st_rdev);
    if number != disk.number {
        return Err(io::Error::other(format!(
            "{} is device {number}, not {}",
            disk.node().display(),
            disk.number
        )));
    }
    Ok(device)
}

/// Another process that has the disk or a partition of it open.
fn opened_by(disk: &WholeDisk) -> io::Result<Option<String>> {
    let ours = std::process::id().to_string();
    let sysfs = Sysfs::default();
    let same = |number| sysfs.disks_below(number).is_ok_and(|below| below.contains(&disk.number));
    for process in fs::read_dir("/proc")?.flatten() {
        let name = process.file_name().to_string_lossy().into_owned();
        if name == ours || !name.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        // A process that ends meanwhile has nothing open.
        let files = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        if files.map(|file| device_of(&file.path())).any(|number| number.is_some_and(same)) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn device_of(file: &Path) -> Option<DeviceNumber> {
    let metadata = fs::metadata(file).ok()?;
    metadata.file_type().is_block_device().then(|| DeviceNumber::from_raw(metadata.rdev()))
}
