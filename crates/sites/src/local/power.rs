//! Machines started, asked to shut down, switched off.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddrV4;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use qapi::qmp::{self, RunState};
use switchback_disk::Volume;

use super::description::Description;
use super::monitor::{Monitor, SOCKET};
use super::settings::NetworkSettings;
use super::{LocalSite, arguments, images, locks, process};
use crate::{Boot, SiteError};

/// Longest time to get a word with QEMU while other clients have it.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for QEMU to end when it was asked to: it still flushes its images.
const QUIT_LIMIT: Duration = Duration::from_secs(10);
/// A guest that was still booting has not seen the button: it is pressed again.
const PRESS_INTERVAL: Duration = Duration::from_secs(10);
/// From this length on the console's log is put aside at the next start; one older log is kept.
const CONSOLE_LEN_MAX: u64 = 4 << 20;

/// A port of the host that leads into a running machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Where the host listens.
    pub host: SocketAddrV4,
    /// TCP port of the machine.
    pub guest_port: u16,
}

impl LocalSite {
    pub(super) fn start(&self, id: &str) -> Result<(), SiteError> {
        let _lock = self.lock(id)?;
        let mut description = self.load(id)?;
        let starting = || format!("starting the machine {id}");
        if self.is_running(id)? {
            return self.resume(id, &mut description);
        }
        let directory = self.machine_directory(id)?;
        must_have_files(&description).map_err(|detail| SiteError::failed(starting(), detail))?;
        let accelerator = self.accelerator()?;
        self.prepare(&directory, &description).map_err(|error| SiteError::failed(starting(), error))?;
        let arguments = arguments::all(id, &description, &self.settings, accelerator);
        let lock = locks::run(&directory).map_err(|error| SiteError::passing(starting(), error))?;
        self.step("start QEMU");
        if let Err(error) = process::start(&self.settings.qemu, &directory, lock, &arguments) {
            // It may have come up to some point, and beyond our time limit.
            process::kill(&directory, &description.uuid).map_err(|error| {
                SiteError::failed(format!("ending the QEMU of {id} that did not come up"), error)
            })?;
            return Err(SiteError::failed(starting(), error));
        }
        self.step("talk to QEMU");
        let mut monitor = self.monitor(id, &description.uuid)?;
        let state = monitor.state().map_err(|error| SiteError::passing(starting(), error))?;
        tracing::info!(machine = id, ?accelerator, ?state, "started");
        Ok(())
    }

    /// A machine that runs but stands still, because a process was killed while it merged a snapshot or its datastore was full, goes on.
    pub(super) fn resume(&self, id: &str, description: &mut Description) -> Result<(), SiteError> {
        let mut monitor = match self.monitor(id, &description.uuid) {
            Ok(monitor) => monitor,
            Err(_) if !self.is_running(id)? => {
                return Err(SiteError::passing(
                    format!("starting the machine {id}"),
                    "it was just ending: try again",
                ));
            }
            Err(error) => return Err(error),
        };
        let resuming = |error: io::Error| SiteError::passing(format!("resuming the machine {id}"), error);
        let state = monitor.state().map_err(resuming)?;
        if !matches!(state, RunState::paused | RunState::io_error) {
            return Ok(());
        }
        // Nothing may be written before it is on record which images are written to.
        self.settle(id, description, &mut monitor)?;
        monitor.execute(&qmp::cont {}).map_err(resuming)?;
        tracing::info!(machine = id, ?state, "resumed");
        Ok(())
    }

    pub(super) fn monitor(&self, id: &str, uuid: &str) -> Result<Monitor, SiteError> {
        Monitor::connect(&self.machine_directory(id)?, id, uuid, CONNECT_LIMIT)
            .map_err(|error| SiteError::passing(format!("talking to the QEMU of {id}"), error))
    }

    /// What QEMU will not do by itself.
    fn prepare(&self, directory: &Path, description: &Description) -> io::Result<()> {
        // QEMU that was killed leaves its socket.
        images::remove(&directory.join(SOCKET))?;
        let console = directory.join(arguments::CONSOLE);
        if console.metadata().is_ok_and(|metadata| metadata.len() > CONSOLE_LEN_MAX) {
            let volume = switchback_disk::DirVolume::open(directory).map_err(io::Error::other)?;
            volume.replace(arguments::CONSOLE, "console.log.1")?;
        }
        let variables = directory.join(arguments::UEFI_VARIABLES);
        if description.boot == Boot::Uefi && !variables.exists() {
            let contents = fs::read(&self.settings.uefi.variables).map_err(|error| {
                let path = self.settings.uefi.variables.display();
                io::Error::new(
                    error.kind(),
                    format!("no UEFI firmware in {path} ({error}): install ovmf, or set `uefi` in site.toml"),
                )
            })?;
            let volume = switchback_disk::DirVolume::open(directory).map_err(io::Error::other)?;
            volume.write_atomic(arguments::UEFI_VARIABLES, &contents)?;
        }
        for (position, nic) in description.nics.iter().enumerate() {
            let network = nic.network.as_ref().and_then(|name| self.settings.networks.get(name));
            if let Some(NetworkSettings::Bridge { bridge }) = network {
                let path = directory.join(arguments::bridge_script(position));
                let script = format!("#!/bin/sh\nexec ip link set dev \"$1\" master {bridge} up\n");
                images::remove(&path)?;
                let mut file = fs::File::options().write(true).create_new(true).mode(0o755).open(&path)?;
                file.write_all(script.as_bytes())?;
            }
        }
        Ok(())
    }

    pub(super) fn press_power_button(&self, id: &str, limit: Duration) -> Result<bool, SiteError> {
        let description = self.load(id)?;
        let directory = self.machine_directory(id)?;
        let waiting = |error: io::Error| SiteError::failed(format!("waiting for {id} to shut down"), error);
        let started = Instant::now();
        while self.is_running(id)? {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            let connected = Monitor::connect(&directory, id, &description.uuid, left.min(CONNECT_LIMIT));
            let pressed = connected.and_then(|mut monitor| monitor.execute(&qmp::system_powerdown {}));
            if let Err(error) = pressed {
                tracing::debug!(machine = id, %error, "the power button could not be pressed"); // it may be ending
            }
            if process::wait_off(&directory, left.min(PRESS_INTERVAL)).map_err(waiting)? {
                break;
            }
        }
        Ok(true)
    }

    /// Without the machine's lock: whoever merges a snapshot for hours must not keep an operator from this.
    pub(super) fn cut_power(&self, id: &str) -> Result<(), SiteError> {
        let description = self.load(id)?;
        let directory = self.machine_directory(id)?;
        if !self.is_running(id)? {
            return Ok(());
        }
        let failed = |error: io::Error| SiteError::Failed {
            action: format!("switching off the machine {id}"),
            detail: format!("{error}; it may still run"),
            passing: error.kind() == ErrorKind::TimedOut,
        };
        let asked = Monitor::connect(&directory, id, &description.uuid, CONNECT_LIMIT)
            .and_then(|mut monitor| monitor.execute(&qmp::quit {}));
        match asked {
            Ok(_) => {
                if process::wait_off(&directory, QUIT_LIMIT).map_err(failed)? {
                    return Ok(());
                }
            }
            Err(error) => tracing::info!(machine = id, %error, "its QEMU does not listen and is killed"),
        }
        process::kill(&directory, &description.uuid).map_err(failed)
    }

    /// The ports of the host that lead into a running machine; none when it is off.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn forwarded(&self, id: &str) -> Result<Vec<Forwarded>, SiteError> {
        let description = self.load(id)?;
        if !self.is_running(id)? {
            return Ok(Vec::new());
        }
        let mut monitor = self.monitor(id, &description.uuid)?;
        let command = qmp::human_monitor_command { cpu_index: None, command_line: "info usernet".to_owned() };
        let table = monitor
            .execute(&command)
            .map_err(|error| SiteError::passing(format!("asking for the ports of {id}"), error))?;
        Ok(table.lines().filter_map(forwarded).collect())
    }
}

/// A line of QEMU's table: `TCP[HOST_FORWARD]  13  127.0.0.1 41235  10.1.0.15  22  0  0`.
fn forwarded(line: &str) -> Option<Forwarded> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["TCP[HOST_FORWARD]", _, host, port, _, guest_port, ..] = words[..] else { return None };
    let host = SocketAddrV4::new(host.parse().ok()?, port.parse().ok()?);
    Some(Forwarded { host, guest_port: guest_port.parse().ok()? })
}

/// What QEMU would complain about in less helpful words.
fn must_have_files(description: &Description) -> Result<(), String> {
    for (position, disk) in description.disks.iter().enumerate() {
        for path in disk.layers.iter().chain([&disk.path]) {
            let size = images::size(path).map_err(|error| {
                format!("image {} of disk {position} cannot be opened: {error}", path.display())
            })?;
            if path == &disk.path && (size == 0 || !size.is_multiple_of(512)) {
                return Err(format!(
                    "image {} of disk {position} has {size} bytes, no multiple of 512",
                    path.display()
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_ports_are_read_from_qemus_table() {
        let table = "Hub -1 (net0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n  \
            TCP[HOST_FORWARD]  13       127.0.0.1 41235       10.1.0.15    22     0     0\n  \
            UDP[236 sec]       41       10.1.0.15 40000         1.1.1.1    53     0     0\n";
        let found: Vec<Forwarded> = table.lines().filter_map(forwarded).collect();
        let expected = Forwarded { host: "127.0.0.1:41235".parse().unwrap(), guest_port: 22 };
        assert_eq!(found, [expected]);
    }
}
