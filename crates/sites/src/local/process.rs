//! The QEMU process of a machine: started so that it outlives us, found again, ended.
//!
//! It is no child of ours: QEMU forks itself into a session of its own (`-daemonize`) once it has taken its arguments, opened its disks and its
//! sockets; what it has to say until then comes back as the error of the start. It holds the machine's `run.lock` as file descriptor 3 (see
//! `locks`), by which its process is found again: a process number from a file may long be another program's.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::locks::{self, FileLock, RUN_LOCK};

/// What QEMU said while it started, in the machine's directory.
const MESSAGES: &str = "qemu.log";
/// Of which this much is shown.
const MESSAGES_SHOWN: u64 = 4096;
/// Longest time for QEMU to come up: it reads no more than kernel and initrd.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Longest time for a killed process to be gone: its last writes must have come to an end.
const KILL_LIMIT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Starts QEMU in the machine's directory and hands it the lock. On success it runs, and the lock is its own.
///
/// # Errors
/// With what QEMU said.
pub(super) fn start(qemu: &Path, directory: &Path, lock: FileLock, arguments: &[OsString]) -> io::Result<()> {
    let messages = File::create(directory.join(MESSAGES))?;
    // The shell moves the lock from where `Command` can put it to a descriptor that nobody closes.
    let mut child = Command::new("/bin/sh")
        .args(["-c", r#"exec "$@" 3<&0 </dev/null"#, "sh"])
        .arg(qemu)
        .args(arguments)
        .current_dir(directory)
        .process_group(0)
        .stdin(Stdio::from(lock.0))
        .stdout(Stdio::from(messages.try_clone()?))
        .stderr(Stdio::from(messages))
        .spawn()?;
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > START_LIMIT {
            child.kill()?;
            child.wait()?;
            let message = format!("QEMU did not come up within {} s", START_LIMIT.as_secs());
            return Err(io::Error::new(ErrorKind::TimedOut, message));
        }
        thread::sleep(POLL_INTERVAL);
    };
    if status.success() {
        return Ok(());
    }
    let said = said(directory).unwrap_or_default();
    let said = if said.is_empty() { format!("it ended with {status} without a word") } else { said };
    Err(io::Error::other(format!("QEMU ({}) says: {said}", qemu.display())))
}

/// The end of what QEMU said.
fn said(directory: &Path) -> io::Result<String> {
    let mut file = File::open(directory.join(MESSAGES))?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(MESSAGES_SHOWN)))?;
    let mut bytes = Vec::new();
    file.take(MESSAGES_SHOWN).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Waits until the machine is off. Returns whether it is.
pub(super) fn wait_off(directory: &Path, limit: Duration) -> io::Result<bool> {
    let started = Instant::now();
    while locks::is_running(directory)? {
        if started.elapsed() > limit {
            return Ok(false);
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(true)
}

/// Kills the machine's QEMU and waits until it is gone.
///
/// # Errors
/// `NotFound`: something holds the machine's lock that is no QEMU of it on this host. `TimedOut`: it does not die.
pub(super) fn kill(directory: &Path, uuid: &str) -> io::Result<()> {
    let started = Instant::now();
    let mut found = false;
    while locks::is_running(directory)? {
        // Again and again: while it starts, QEMU is two processes after each other.
        for pid in processes(directory, uuid)? {
            found = true;
            kill_process(directory, uuid, pid)?;
        }
        if !found && started.elapsed() > KILL_LIMIT / 10 {
            let message = "its lock is held, but not by a QEMU process of this host; does another host or container run it?";
            return Err(io::Error::new(ErrorKind::NotFound, message));
        }
        if started.elapsed() > KILL_LIMIT {
            let message = format!("its QEMU was killed and is not gone after {} s", KILL_LIMIT.as_secs());
            return Err(io::Error::new(ErrorKind::TimedOut, message));
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// Kills a process if it still is the machine's: the descriptor makes sure that the one looked at is the one killed.
fn kill_process(directory: &Path, uuid: &str, pid: Pid) -> io::Result<()> {
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !is_qemu_of(directory, uuid, pid) {
        return Ok(());
    }
    match pidfd_send_signal(handle, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The processes that are this machine's QEMU.
pub(super) fn processes(directory: &Path, uuid: &str) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) =
            entry?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        if is_qemu_of(directory, uuid, pid) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Whether a process has the machine's lock as descriptor 3 and was told to be this machine. Each alone is not enough: we, too, open the lock;
/// and a command line is only words.
fn is_qemu_of(directory: &Path, uuid: &str, pid: Pid) -> bool {
    let process = format!("/proc/{}", pid.as_raw_nonzero());
    let same_file = || {
        let held = fs::metadata(format!("{process}/fd/3")).ok()?;
        let lock = fs::metadata(directory.join(RUN_LOCK)).ok()?;
        Some((held.dev(), held.ino()) == (lock.dev(), lock.ino()))
    };
    let is_told = || {
        let line = fs::read(format!("{process}/cmdline")).ok()?;
        let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let expected = [OsStr::new("-uuid").as_bytes(), uuid.as_bytes()];
        Some(arguments.windows(2).any(|pair| pair == expected))
    };
    same_file() == Some(true) && is_told() == Some(true)
}
