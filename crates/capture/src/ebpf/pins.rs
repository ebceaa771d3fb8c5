//! The folder of a tracker in the BPF file system, where the kernel keeps it over restarts of the agent.
//!
//! `/sys/fs/bpf/switchback/<tracker>/`: the links `issue` and `complete` (which keep the programs attached), the
//! maps `disks`, `phase`, `counters`, `bitmaps`, for disk *n* its two bitmaps `disk<n>_0` and `disk<n>_1`, and `meta`.
//! `meta` is pinned last and unpinned first, in one step each by the kernel: a folder that has it is
//! whole. An exclusive lock on the folder itself (flock(2)) keeps a second process out; it ends with the process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::mount::MountFlags;

use super::AttachError;

/// Where systemd, and everyone else, mounts the BPF file system.
const BPF_FS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Ours in it.
const FOLDER: &str = "switchback";
/// How often to try for the lock. Not once only: a child that its former holder has forked and that has not called
/// execve(2) yet holds it too, for a moment; and the folder may be removed between opening and locking it.
const LOCK_TRIES: usize = 50;
/// How long to wait between tries.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The pin that says that the others are complete.
pub(super) const META: &str = "meta";

/// A tracker's folder, locked.
#[derive(Debug)]
pub(super) struct Pins {
    folder: PathBuf,
    _lock: OwnedFd,
}

/// Whether `name` is safe as the name of a folder.
fn is_plain(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        // The BPF file system reserves dots (`bpf_lookup` in kernel/bpf/inode.c).
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

impl Pins {
    /// Opens the tracker's folder, makes it if there is none, and locks it.
    pub(super) fn lock(name: &str) -> Result<Self, AttachError> {
        if !is_plain(name) {
            return Err(AttachError::Name { name: name.into() });
        }
        let failed = |source| AttachError::BpfFs { source };
        mount_bpf_fs().map_err(failed)?;
        let folder = Path::new(BPF_FS).join(FOLDER).join(name);
        let mut in_use = false;
        for attempt in 0..LOCK_TRIES {
            if attempt > 0 {
                std::thread::sleep(LOCK_PAUSE);
            }
            fs::create_dir_all(&folder).map_err(failed)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let lock = match rustix::fs::open(&folder, flags, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) => continue,
                result => result.map_err(|errno| failed(errno.into()))?,
            };
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    in_use = true;
                    continue;
                }
                result => result.map_err(|errno| failed(errno.into()))?,
            }
            // Another process may have removed the folder before the lock was ours.
            let locked = rustix::fs::fstat(lock.as_fd()).map_err(|errno| failed(errno.into()))?;
            if fs::metadata(&folder).is_ok_and(|now| now.ino() == locked.st_ino) {
                return Ok(Self { folder, _lock: lock });
            }
        }
        if in_use {
            return Err(AttachError::InUse { name: name.into() });
        }
        Err(failed(io::Error::other("the folder is removed again and again")))
    }

    /// The path of a pin.
    pub(super) fn path(&self, pin: &str) -> PathBuf {
        self.folder.join(pin)
    }

    /// Removes a pin, if it is there.
    pub(super) fn remove_one(&self, pin: &str) -> io::Result<()> {
        match fs::remove_file(self.path(pin)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes every pin, `meta` first: from then on there is nothing to continue.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.remove_one(META)?;
        for entry in fs::read_dir(&self.folder)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Removes the folder with all pins: the kernel frees what nobody else holds.
    pub(super) fn remove(self) -> io::Result<()> {
        self.clear()?;
        fs::remove_dir(&self.folder)
    }
}

fn mount_bpf_fs() -> io::Result<()> {
    let is_mounted = || rustix::fs::statfs(BPF_FS).map(|stat| stat.f_type.cast_unsigned() == BPF_FS_MAGIC);
    if is_mounted()? {
        return Ok(());
    }
    rustix::mount::mount("bpf", BPF_FS, "bpf", MountFlags::NOSUID | MountFlags::NODEV, None)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn names_cannot_leave_the_folder() {
        for bad in ["", ".", "..", "a/b", "a.b", "-a", "a b", &"x".repeat(64)] {
            assert!(!is_plain(bad), "{bad:?}");
        }
        assert!(is_plain("web01_disks-2"));
    }
}
