//! [`DirVolume`]: a volume that is a directory of a file system.
//!
//! The directory is held open and files are reached relative to it: when the drive is unmounted and the
//! path leads to the empty mount point below, nothing is written there by mistake.
//!
//! The file `lock` belongs to the volume itself: it is locked (`flock`) by the process that has the volume,
//! and tells its number. It is never removed, because removing a locked file lets two processes lock two
//! files of the same name.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};

use crate::error::{OpenVolumeError, in_context};
use crate::file_disk::sync_parent;
use crate::volume::{LOCK_NAME, Volume, VolumeEntry, VolumeFile, VolumeLock, check_name};

/// A volume in a directory.
#[derive(Debug)]
pub struct DirVolume {
    name: String,
    directory: File,
}

impl DirVolume {
    /// Opens the volume in an existing directory.
    ///
    /// # Errors
    /// When it is not there, no directory, or not permitted.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenVolumeError> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| opening_failed(path, "open", error.into()))?;
        Ok(Self { name: path.display().to_string(), directory: directory.into() })
    }

    /// Creates the directory, for its owner only (mode 0700) and durable on return, and opens it.
    ///
    /// # Errors
    /// [`OpenVolumeError::AlreadyExists`], and those of the file system.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, OpenVolumeError> {
        let path = path.as_ref();
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(path)
            .map_err(|error| opening_failed(path, "create", error))?;
        sync_parent(path).map_err(|error| opening_failed(path, "make durable", error))?;
        Self::open(path)
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    fn file(&self, name: &str, doing: &str, flags: OFlags) -> io::Result<Box<dyn VolumeFile>> {
        check_name(name)?;
        let file = self.open_file(name, flags).map_err(|error| self.failed(doing, name, error))?;
        Ok(Box::new(DirFile { name: self.path_of(name), file }))
    }

    fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    fn failed(&self, doing: &str, name: &str, error: io::Error) -> io::Error {
        in_context(error, format!("{doing} {} failed", self.path_of(name)))
    }

    fn entry(&self, entry: &rustix::fs::DirEntry) -> io::Result<Option<VolumeEntry>> {
        let Ok(name) = entry.file_name().to_str() else {
            let message = format!(
                "{} holds a file whose name is not UTF-8, {:?}, which Switchback did not put there: move it away",
                self.name,
                entry.file_name()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        };
        if matches!(name, "." | ".." | LOCK_NAME) {
            return Ok(None);
        }
        let stat = match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return Ok(None), // removed meanwhile
            Err(error) => return Err(self.failed("looking at", name, error.into())),
        };
        // `lost+found` and the like are no files.
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(is_file.then(|| VolumeEntry { name: name.to_owned(), len }))
    }
}

impl Volume for DirVolume {
    fn name(&self) -> &str {
        &self.name
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn VolumeFile>> {
        self.file(name, "creating", OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn VolumeFile>> {
        self.file(name, "opening", OFlags::empty())
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        rustix::fs::renameat(&self.directory, from, &self.directory, to)
            .map_err(|error| self.failed(&format!("giving {from} the name"), to, error.into()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())
            .map_err(|error| self.failed("removing", name, error.into()))
    }

    fn list(&self) -> io::Result<Vec<VolumeEntry>> {
        let failed = |error: rustix::io::Errno| {
            in_context(error.into(), format!("listing the files in {} failed", self.name))
        };
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.directory).map_err(failed)? {
            entries.extend(self.entry(&entry.map_err(failed)?)?);
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn sync(&self) -> io::Result<()> {
        self.directory
            .sync_all()
            .map_err(|error| in_context(error, format!("making the names in {} durable failed", self.name)))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.directory).map_err(|error| {
            in_context(error.into(), format!("asking for the room in {} failed", self.name))
        })?;
        // What is kept back for root is not counted on: others' services need it.
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self) -> io::Result<VolumeLock> {
        let failed = |error: io::Error| self.failed("locking", LOCK_NAME, error);
        let mut file = self.open_file(LOCK_NAME, OFlags::CREATE).map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, holder(&file)));
            }
            Err(error) => return Err(failed(error.into())),
        }
        // The number is for people only, so it need not be durable, nor there at once.
        file.set_len(0).map_err(failed)?;
        file.write_all(std::process::id().to_string().as_bytes()).map_err(failed)?;
        Ok(VolumeLock(Box::new(file)))
    }
}

/// Who says to have locked it.
fn holder(lock: &File) -> String {
    let mut text = String::new();
    // A process number has 7 digits at most; the file might hold anything.
    match lock.take(20).read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok()) {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

#[derive(Debug)]
struct DirFile {
    /// Its path, for messages.
    name: String,
    file: File,
}

impl DirFile {
    fn failed(&self, doing: &str, error: io::Error) -> io::Error {
        in_context(error, format!("{doing} {} failed", self.name))
    }
}

impl VolumeFile for DirFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata().map_err(|error| self.failed("looking at", error))?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let len = buf.len();
        self.file
            .read_exact_at(buf, offset)
            .map_err(|error| self.failed(&format!("reading {len} bytes from byte {offset} of"), error))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let len = data.len();
        self.file
            .write_all_at(data, offset)
            .map_err(|error| self.failed(&format!("writing {len} bytes at byte {offset} of"), error))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len).map_err(|error| self.failed(&format!("setting to {len} bytes"), error))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|error| self.failed("making durable", error))
    }
}

fn opening_failed(path: &Path, doing: &'static str, source: io::Error) -> OpenVolumeError {
    let path = PathBuf::from(path);
    match source.kind() {
        io::ErrorKind::NotFound => OpenVolumeError::NotFound { path },
        io::ErrorKind::NotADirectory => OpenVolumeError::NotADirectory { path },
        io::ErrorKind::AlreadyExists => OpenVolumeError::AlreadyExists { path },
        _ => OpenVolumeError::Io { path, doing, source },
    }
}
