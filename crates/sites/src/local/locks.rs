//! Two locks of a machine, both `flock`, so that they go with the process that has them.
//!
//! * `lock`: who has it may change the machine, and start it. Held for one operation.
//! * `run.lock`: held by the QEMU process itself, as its file descriptor 3, from before its first instruction to its very end. While it can be
//!   taken, nothing can write the machine's disks: that is what "off" means here, and no process number is trusted for it.
//!
//! Neither file is removed before the machine's directory is: removing a locked file would let two processes lock two files of one name.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const OPERATION_LOCK: &str = "lock";
/// The file whose lock QEMU holds.
pub(super) const RUN_LOCK: &str = "run.lock";

/// Longest time that an operation waits for another one on the same machine: merging a snapshot takes minutes.
const OPERATION_WAIT: Duration = Duration::from_secs(60);
/// Whoever only looks whether a machine runs holds its lock for microseconds.
const LOOK_WAIT: Duration = Duration::from_secs(2);
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// A lock that is held; free when dropped, unless another process has its file too.
#[derive(Debug)]
pub(super) struct FileLock(pub(super) File);

/// Takes the right to change a machine. `WouldBlock`: another process kept it for all the time.
pub(super) fn operation(directory: &Path) -> io::Result<FileLock> {
    exclusive(&directory.join(OPERATION_LOCK), OPERATION_WAIT)
}

/// The lock to be handed to QEMU. `WouldBlock`: it has it already.
pub(super) fn run(directory: &Path) -> io::Result<FileLock> {
    exclusive(&directory.join(RUN_LOCK), LOOK_WAIT)
}

/// Whether a machine runs.
pub(super) fn is_running(directory: &Path) -> io::Result<bool> {
    let file = match File::open(directory.join(RUN_LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false), // never started
        Err(error) => return Err(error),
    };
    // Shared: those who look do not keep each other away.
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn exclusive(path: &Path, wait: Duration) -> io::Result<FileLock> {
    let started = Instant::now();
    loop {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            // The machine may have been removed, and made again, between opening and locking.
            Ok(()) if is_at(&file, path)? => return Ok(FileLock(file)),
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if started.elapsed() > wait => {
                return Err(ErrorKind::WouldBlock.into());
            }
            Err(TryLockError::WouldBlock) => {}
        }
        thread::sleep(RETRY_INTERVAL);
    }
}

/// Whether `path` leads to this file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match path.metadata() {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_is_what_the_lock_says() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_running(directory.path()).unwrap(), "never started");
        let held = run(directory.path()).unwrap();
        assert!(is_running(directory.path()).unwrap());
        assert_eq!(run(directory.path()).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(held);
        assert!(!is_running(directory.path()).unwrap());
        run(directory.path()).unwrap();
    }

    #[test]
    fn a_lock_of_a_removed_machine_is_no_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let file = File::create(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!is_at(&file, &path).unwrap());
        File::create(&path).unwrap();
        assert!(!is_at(&file, &path).unwrap(), "another file of the same name");
    }
}
