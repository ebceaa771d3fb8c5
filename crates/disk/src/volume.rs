//! A volume: one flat directory of files on a cache or retention drive.
//!
//! Spool and replica keep everything in volumes. File names are plain (no separators, not `.` or `..`).
//! Durability is as POSIX gives it and no more: a file's bytes after [`VolumeFile::sync`], its name after
//! [`Volume::sync`].

use std::any::Any;
use std::fmt::Debug;
use std::io;

/// The one name a volume keeps for itself: of the file with which [`Volume::lock`] is kept.
pub(crate) const LOCK_NAME: &str = "lock";

/// Longest name in bytes: `NAME_MAX` of Linux's file systems.
const NAME_LEN_MAX: usize = 255;

/// `InvalidInput` unless `name` is a plain file name that is not the volume's own.
pub(crate) fn check_name(name: &str) -> io::Result<()> {
    let wrong = if name.is_empty() || name.len() > NAME_LEN_MAX {
        "must have 1 to 255 bytes"
    } else if name == "." || name == ".." || name.contains(['/', '\0']) {
        "must be a plain file name"
    } else if name == LOCK_NAME {
        "is the volume's own"
    } else {
        return Ok(());
    };
    let message = format!("a file cannot be called {name:?}: the name {wrong}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// A file of a volume and its length.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeEntry {
    /// Name.
    pub name: String,
    /// Bytes.
    pub len: u64,
}

/// Holds the volume for one process, against others; free when dropped, also when the process dies.
#[derive(Debug)]
pub struct VolumeLock(#[expect(dead_code, reason = "held, not read")] pub(crate) Box<dyn Any + Send + Sync>);

/// One flat directory of files.
pub trait Volume: Send + Sync + Debug {
    /// What the volume is called in messages: a path.
    fn name(&self) -> &str;

    /// A new, empty file; `AlreadyExists` if there is one of that name.
    ///
    /// # Errors
    /// All methods: those of the file system, `StorageFull` among them.
    fn create(&self, name: &str) -> io::Result<Box<dyn VolumeFile>>;

    /// An existing file, for reading and writing; `NotFound` if there is none.
    fn open(&self, name: &str) -> io::Result<Box<dyn VolumeFile>>;

    /// Gives the file `from` the name `to`, replacing what had it, in one step.
    fn replace(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Whoever has it open can go on reading it. `NotFound` if there is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// All files, by name.
    fn list(&self) -> io::Result<Vec<VolumeEntry>>;

    /// Makes creations, replacements and removals so far durable.
    fn sync(&self) -> io::Result<()>;

    /// Bytes that can still be written.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Locks the volume for this process; `WouldBlock` with the holder (`process 123`) as the error's
    /// message if another has it. Readers that only need a consistent look do without.
    fn lock(&self) -> io::Result<VolumeLock>;

    /// Writes a small file so that after a crash it has either its old contents or `data`, whole; durable
    /// on return.
    fn write_atomic(&self, name: &str, data: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.new");
        match self.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.create(&temporary)?;
        file.write_at(0, data)?;
        file.sync()?;
        self.replace(&temporary, name)?;
        self.sync()
    }

    /// The contents of a small file.
    ///
    /// # Errors
    /// `InvalidData` when it is longer than `len_max`.
    fn read_all(&self, name: &str, len_max: usize) -> io::Result<Vec<u8>> {
        let file = self.open(name)?;
        let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
        if len > len_max {
            let message = format!("{name} has {len} bytes, more than the {len_max} it may have");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let mut data = vec![0; len];
        file.read_at(0, &mut data)?;
        Ok(data)
    }
}

/// An open file of a volume.
pub trait VolumeFile: Send + Sync + Debug {
    /// Bytes.
    ///
    /// # Errors
    /// All methods: those of the file system, `StorageFull` among them.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` from `offset`; `UnexpectedEof` beyond the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset`, making the file longer if needed.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Cuts the file, or makes it longer with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the file's bytes and length durable (not its name: [`Volume::sync`]).
    fn sync(&self) -> io::Result<()>;
}
