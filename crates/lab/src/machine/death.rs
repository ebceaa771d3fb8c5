//! The end of a machine by `kill -9` of its QEMU: to the machine, the power has failed; to its site, nobody has told anything.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::{MachineError, io_error};

/// Kills the QEMU that runs machine `id` of the local site in `site`. It may take a moment until it is gone.
///
/// # Errors
/// [`MachineError::NotRunning`].
pub fn kill(site: &Path, id: &str) -> Result<(), MachineError> {
    let pid = process(site, id).and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| MachineError::NotRunning { id: id.to_owned() })?;
    kill_process(pid, Signal::KILL)
        .map_err(|error| io_error("killing the QEMU of a machine of", site)(error.into()))
}

/// The QEMU that runs machine `id` of the local site in `site`: the process that holds the machine's lock, which it has for as long as it lives, and is a QEMU: nothing else is ever hit. (Its working directory
/// tells nothing: QEMU goes to `/` when it becomes a daemon.)
#[must_use]
pub fn process(site: &Path, id: &str) -> Option<i32> {
    let lock = site.join("machines").join(id).join("run.lock").canonicalize().ok()?;
    let processes = fs::read_dir("/proc").ok()?;
    let mut pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_qemu = words.split(|byte| *byte == 0).any(|word| word == b"-uuid");
        let files = || fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        is_qemu && files().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == lock))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_the_lock_but_is_no_qemu_is_not_killed() {
        let site = tempfile::tempdir().unwrap();
        let machine = site.path().join("machines/web01");
        fs::create_dir_all(&machine).unwrap();
        let _held = fs::File::create(machine.join("run.lock")).unwrap();
        let killed = kill(site.path(), "web01");
        assert!(matches!(killed, Err(MachineError::NotRunning { .. })), "{killed:?}");
    }
}
