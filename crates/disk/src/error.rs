//! What goes wrong with disks and volumes, as users see it.
//!
//! Errors of single reads and writes stay [`io::Error`]s, so that their kind (`StorageFull`,
//! `UnexpectedEof`) can be told; [`in_context`] puts the path and the place into them and keeps the
//! operating system's error as their source.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a disk could not be opened or created.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenDiskError {
    /// Nothing there.
    #[error("there is no disk {}: check the path, and for a device that it is attached", path.display())]
    NotFound {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Not allowed.
    #[error("not allowed to open disk {}: run as root, or as a user who may read and write it", path.display())]
    PermissionDenied {
        /// What was to be opened.
        path: PathBuf,
        /// Of the operating system.
        source: io::Error,
    },
    /// Neither a block device nor a regular file.
    #[error("{} is neither a block device nor a regular file: give the path of a disk or of a disk image", path.display())]
    NotADisk {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Something else uses it.
    #[error(
        "disk {} is in use: it is mounted, part of another device, or open for writing in another program; \
         unmount it or stop that program (`lsblk` and `fuser -v` show which), then try again",
        path.display()
    )]
    InUse {
        /// What was to be opened.
        path: PathBuf,
    },
    /// [`FileDisk::create`](crate::FileDisk::create) never overwrites.
    #[error("{} exists already: remove it or choose another path", path.display())]
    AlreadyExists {
        /// What was to be created.
        path: PathBuf,
    },
    /// The path led to two different things within one call.
    #[error("{} was replaced by another file while it was being opened: try again", path.display())]
    Replaced {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Beyond [`LEN_MAX`](switchback_model::LEN_MAX).
    #[error("a disk of {size} bytes is larger than any can be")]
    TooLarge {
        /// Bytes asked for.
        size: u64,
    },
    /// Everything else.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was to be opened.
        path: PathBuf,
        /// The step that failed.
        doing: &'static str,
        /// Of the operating system.
        source: io::Error,
    },
}

/// Why a volume could not be opened or created.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenVolumeError {
    /// Nothing there.
    #[error("there is no directory {}: create it, or mount the drive it is on", path.display())]
    NotFound {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Something else has the name.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// What was to be opened.
        path: PathBuf,
    },
    /// A volume is created only where nothing is.
    #[error("{} exists already: choose another path, or open it", path.display())]
    AlreadyExists {
        /// What was to be created.
        path: PathBuf,
    },
    /// Everything else.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was to be opened.
        path: PathBuf,
        /// The step that failed.
        doing: &'static str,
        /// Of the operating system.
        source: io::Error,
    },
}

/// An [`io::Error`] with the place where it happened; the cause is its source.
#[derive(Debug)]
struct InContext {
    what: String,
    source: io::Error,
}

impl fmt::Display for InContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for InContext {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// `source` with `what` failed and where before it, of the same kind.
pub(crate) fn in_context(source: io::Error, what: String) -> io::Error {
    io::Error::new(source.kind(), InContext { what, source })
}
