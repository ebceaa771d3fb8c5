//! Opening and creating a [`FileDisk`]: what it is, how large, and how it can be read and written.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{AtFlags, StatxFlags};
use switchback_model::LEN_MAX;

use super::{Access, Direct, FileDisk, Kind};
use crate::error::OpenDiskError;
use crate::pool::{AlignedPool, BUFFER_ALIGN};
use crate::sys;

/// Unit of direct I/O on regular files, in bytes: the page size, so that the tail of a file, which goes
/// through the page cache, and the rest, which does not, never share a page; and what ext4 and XFS have as
/// blocks, below which they would themselves read before they write.
const FILE_UNIT: u64 = 4096;

impl FileDisk {
    /// Opens a block device, or a regular file that is the image of one.
    ///
    /// # Errors
    /// When it is not there, not one of the two, or not permitted.
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Self, OpenDiskError> {
        Self::open_as(path.as_ref(), access, false)
    }

    /// Opens for reading and writing what nothing else uses, and keeps other careful openers out until
    /// dropped: a block device with `O_EXCL`, so it may not be mounted, swapped to, nor part of a RAID or
    /// volume group; a regular file with a lock that QEMU honours too.
    ///
    /// # Errors
    /// [`OpenDiskError::InUse`], and those of [`FileDisk::open`].
    pub fn open_exclusive(path: impl AsRef<Path>) -> Result<Self, OpenDiskError> {
        Self::open_as(path.as_ref(), Access::ReadWrite, true)
    }

    /// Creates a sparse image of `size` bytes that only its owner may read (mode 0600), durable on return,
    /// and opens it.
    ///
    /// # Errors
    /// [`OpenDiskError::AlreadyExists`], and those of the file system.
    pub fn create(path: impl AsRef<Path>, size: u64) -> Result<Self, OpenDiskError> {
        let path = path.as_ref();
        if size > LEN_MAX {
            return Err(OpenDiskError::TooLarge { size });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| opening_failed(path, "create", error))?;
        let made = size_durably(&file, path, size)
            .map_err(|error| opening_failed(path, "make room for", error))
            .and_then(|()| Self::open(path, Access::ReadWrite));
        if made.is_err() {
            // Best effort: the error at hand says more than one about the cleaning up would.
            let _ = fs::remove_file(path);
        }
        made
    }

    fn open_as(path: &Path, access: Access, exclusive: bool) -> Result<Self, OpenDiskError> {
        // Looked at before it is opened, because opening a FIFO waits and opening a tape rewinds it.
        let metadata = fs::metadata(path).map_err(|error| opening_failed(path, "look at", error))?;
        let kind = kind_of(&metadata).ok_or_else(|| OpenDiskError::NotADisk { path: path.into() })?;
        let flags = if exclusive && kind == Kind::BlockDevice { libc::O_EXCL } else { 0 };
        let buffered = open_file(path, access, flags).map_err(|error| opening_failed(path, "open", error))?;
        if !is_same(&buffered, &metadata).map_err(|error| opening_failed(path, "look at", error))? {
            return Err(OpenDiskError::Replaced { path: path.into() });
        }
        if exclusive && kind == Kind::File {
            sys::lock_whole_file(&buffered).map_err(|error| opening_failed(path, "lock", error))?;
        }
        let (size, sector) =
            measure(&buffered, kind).map_err(|error| opening_failed(path, "find out the size of", error))?;
        let direct = open_direct(path, &buffered, access, kind, size, sector)?;
        Ok(Self {
            name: path.display().to_string(),
            kind,
            access,
            size,
            buffered,
            direct,
            pool: AlignedPool::shared().clone(),
            edges: Mutex::new(()),
        })
    }
}

fn kind_of(metadata: &fs::Metadata) -> Option<Kind> {
    if metadata.is_file() {
        Some(Kind::File)
    } else if metadata.file_type().is_block_device() {
        Some(Kind::BlockDevice)
    } else {
        None
    }
}

fn open_file(path: &Path, access: Access, flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).write(access == Access::ReadWrite).custom_flags(flags).open(path)
}

/// Whether the open `file` is what `metadata` was taken of.
fn is_same(file: &File, metadata: &fs::Metadata) -> io::Result<bool> {
    let opened = file.metadata()?;
    let identity = |m: &fs::Metadata| (m.dev(), m.ino(), m.rdev(), m.mode() & libc::S_IFMT);
    Ok(identity(&opened) == identity(metadata))
}

/// Size, and the logical sector size of block devices, in bytes.
fn measure(file: &File, kind: Kind) -> io::Result<(u64, u64)> {
    match kind {
        Kind::File => Ok((file.metadata()?.len(), FILE_UNIT)),
        Kind::BlockDevice => {
            Ok((sys::block_device_bytes(file)?, u64::from(rustix::fs::ioctl_blksszget(file)?)))
        }
    }
}

/// The second, direct way to the same file, or `None` when its file system or size has none.
fn open_direct(
    path: &Path,
    buffered: &File,
    access: Access,
    kind: Kind,
    size: u64,
    sector: u64,
) -> Result<Option<Direct>, OpenDiskError> {
    let (memory_unit, unit) = direct_units(buffered, kind, sector);
    // A device with larger sectors than pages: our buffers could be too little aligned.
    if memory_unit > BUFFER_ALIGN || !unit.is_power_of_two() {
        return Ok(None);
    }
    let end = size / unit * unit;
    if end == 0 {
        return Ok(None);
    }
    let file = match open_file(path, access, libc::O_DIRECT) {
        Ok(file) => file,
        Err(error) if is_refusal(&error) => return Ok(None),
        Err(error) => return Err(opening_failed(path, "open", error)),
    };
    let metadata = buffered.metadata().map_err(|error| opening_failed(path, "look at", error))?;
    if !is_same(&file, &metadata).map_err(|error| opening_failed(path, "look at", error))? {
        return Err(OpenDiskError::Replaced { path: path.into() });
    }
    // Some file systems refuse only the first read. Other errors are left to who reads that place.
    let mut probe = AlignedPool::shared().take(usize::try_from(unit).unwrap_or(BUFFER_ALIGN));
    match file.read_at(&mut probe, 0) {
        Err(error) if is_refusal(&error) => Ok(None),
        _ => Ok(Some(Direct { file, unit, memory_unit, end })),
    }
}

/// Alignment that direct I/O needs of memory, and of offsets and lengths, in bytes: what the kernel says
/// (`statx`, Linux 6.1), or what suffices for all disks known.
fn direct_units(file: &File, kind: Kind, sector: u64) -> (usize, u64) {
    let told = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
    let told = told.filter(|statx| statx.stx_mask & StatxFlags::DIOALIGN.bits() != 0);
    let (memory, offset) = told.map_or((0, 0), |statx| (statx.stx_dio_mem_align, statx.stx_dio_offset_align));
    let unit = u64::from(offset).max(sector);
    // The kernel says 4 for some devices, whose drivers were seen to disagree; 512 costs nothing.
    let memory = if memory == 0 { sector } else { u64::from(memory.max(512)) };
    let unit = if kind == Kind::File { unit.max(page_size()) } else { unit };
    (usize::try_from(memory).unwrap_or(usize::MAX), unit)
}

fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// Whether the error says that direct I/O is not to be had here.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

fn size_durably(file: &File, path: &Path, size: u64) -> io::Result<()> {
    file.set_len(size)?;
    file.sync_all()?;
    sync_parent(path)
}

/// Makes the name `path` durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) => Path::new("."),
        None => return Ok(()), // the root has no name
    };
    File::open(parent)?.sync_all()
}

fn opening_failed(path: &Path, doing: &'static str, source: io::Error) -> OpenDiskError {
    let path = PathBuf::from(path);
    match source.kind() {
        io::ErrorKind::NotFound => OpenDiskError::NotFound { path },
        io::ErrorKind::PermissionDenied => OpenDiskError::PermissionDenied { path, source },
        io::ErrorKind::AlreadyExists => OpenDiskError::AlreadyExists { path },
        // O_EXCL on a device in use gives EBUSY, a lock that another has EAGAIN.
        io::ErrorKind::ResourceBusy | io::ErrorKind::WouldBlock => OpenDiskError::InUse { path },
        _ => OpenDiskError::Io { path, doing, source },
    }
}
