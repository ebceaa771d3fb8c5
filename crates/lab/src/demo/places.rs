//! The two sites of the demo, as directories of this host, and the machines at home.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use switchback_sites::{AcceleratorChoice, LocalSite, NetworkSettings, Power, Site as _, SiteSettings};

use crate::inspect::Inspection;
use crate::machine::DataDisk;
use crate::{Accelerator, Foundation};

const DATASTORE: &str = "main";
/// How much of a console is looked at.
const CONSOLE_LEN_MAX: usize = 1 << 20;
/// A process that was killed is gone within this time.
const GONE_LIMIT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The networks of a site and what they are called at both.
pub(super) const NETWORKS: [&str; 2] = crate::machine::NETWORKS;

/// The demo's machines, with the file systems of their second disks and the settings of their network cards at the recovery site.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cast {
    pub(super) name: &'static str,
    pub(super) data: DataDisk,
    /// As `machine protect --nic` takes them.
    pub(super) away: [&'static str; 2],
}

/// Causes first: `db01` refers to `web01`.
pub(super) const CAST: [Cast; 2] = [
    Cast { name: "web01", data: DataDisk::Xfs, away: ["untouched", "10.2.0.11/24"] },
    Cast { name: "db01", data: DataDisk::Ext4, away: ["untouched", "10.2.0.12/24"] },
];

/// A site.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) site: LocalSite,
}

impl Place {
    /// Makes an empty site in a directory.
    pub(super) fn make(
        name: &'static str,
        directory: &Path,
        foundation: &Foundation,
    ) -> anyhow::Result<Self> {
        let mut settings = SiteSettings::new([(DATASTORE.to_owned(), PathBuf::from("disks"))]);
        settings.qemu = foundation.qemu();
        // Known already, or found out once for all demos; a site would try for itself.
        settings.accelerator = match Accelerator::detect(foundation)? {
            Accelerator::Kvm => AcceleratorChoice::Kvm,
            Accelerator::Tcg => AcceleratorChoice::Tcg,
        };
        let uplink =
            NetworkSettings::User { cidr: "10.0.2.0/24".to_owned(), forward: Vec::new(), isolated: false };
        // The sites share this host, not a LAN; nor do two demos.
        let segment = NetworkSettings::Segment { segment: directory.to_string_lossy().into_owned() };
        settings.networks = NETWORKS.map(str::to_owned).into_iter().zip([uplink, segment]).collect();
        let site = LocalSite::create(directory, &settings)
            .with_context(|| format!("cannot make the site {name}"))?;
        Ok(Self { name, site })
    }

    /// Where a machine's disks are made.
    pub(super) fn disks(&self, machine: &str) -> PathBuf {
        self.site.directory().join("disks").join(machine)
    }

    pub(super) fn is_off(&self, id: &str) -> anyhow::Result<bool> {
        Ok(self.site.machine(id)?.power == Power::Off)
    }

    pub(super) fn images(&self, id: &str) -> anyhow::Result<[PathBuf; 2]> {
        let disks: Vec<PathBuf> = self.site.machine(id)?.disks.into_iter().map(|disk| disk.path).collect();
        <[PathBuf; 2]>::try_from(disks)
            .ok()
            .with_context(|| format!("{id} at {} has not two disks", self.name))
    }

    /// Looks into the disks of a machine, from outside.
    pub(super) fn inspect(&self, id: &str, cast: Cast, scratch: &Path) -> anyhow::Result<Inspection> {
        let [first, second] = self.images(id)?;
        let name = cast.name.parse().map_err(anyhow::Error::msg)?;
        Ok(Inspection::of(name, cast.data, [&first, &second], scratch)?)
    }

    /// The records from which on the machine's workload has gone on, one for each of its starts, as it says itself.
    pub(super) fn starts(&self, id: &str) -> anyhow::Result<Vec<u64>> {
        Ok(said(&self.site.console(id, CONSOLE_LEN_MAX)?, "writing from="))
    }

    /// The newest record that the machine has spoken of.
    pub(super) fn newest_said(&self, id: &str) -> anyhow::Result<u64> {
        Ok(said(&self.site.console(id, CONSOLE_LEN_MAX)?, "records=").last().copied().unwrap_or(0))
    }

    /// Kills a running machine's QEMU (SIGKILL): to the machine, the power has failed.
    pub(super) fn strike(&self, id: &str) -> anyhow::Result<()> {
        let machine = self.site.machine(id)?;
        let directory = self.site.directory().join("machines").join(id);
        let pid = qemu_of(&machine.system_uuid, &directory)
            .with_context(|| format!("{id} at {} has no QEMU to be killed", self.name))?;
        kill_process(pid, Signal::KILL).with_context(|| format!("the QEMU of {id} cannot be killed"))?;
        let started = std::time::Instant::now();
        while !self.is_off(id)? {
            if started.elapsed() > GONE_LIMIT {
                bail!("{id} at {} still runs after its QEMU was killed", self.name);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Cuts the power of all machines; what cannot be switched off is told.
    pub(super) fn switch_off(&self) -> Vec<String> {
        let machines = self.site.machines().unwrap_or_default();
        let failures = machines.iter().filter_map(|machine| {
            let error = self.site.power_off(&machine.id).err()?;
            Some(format!("{} at {}: {error}", machine.id, self.name))
        });
        failures.collect()
    }
}

/// The numbers after `key` in the lines that a workload has printed.
fn said(console: &str, key: &str) -> Vec<u64> {
    let lines = console.lines().filter(|line| line.starts_with("LEDGER: "));
    let number = |line: &str| line.split(key).nth(1)?.split_whitespace().next()?.parse().ok();
    lines.filter_map(number).collect()
}

/// The process that runs a machine: by its command line and by the directory it was started in, so that nothing else is ever hit.
fn qemu_of(uuid: &str, directory: &Path) -> Option<Pid> {
    let processes = fs::read_dir("/proc").ok()?;
    let mut pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let pid = pids.find(|pid| {
        let is_there = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == directory);
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        is_there && words.split(|byte| *byte == 0).any(|word| word == uuid.as_bytes())
    })?;
    Pid::from_raw(pid)
}

/// An address of this host that guests and the host itself reach: not the loopback.
pub(super) fn host_address() -> anyhow::Result<String> {
    let output = Command::new("ip").args(["-4", "-o", "addr", "show", "scope", "global", "up"]).output();
    let output = output.context("`ip` is needed (Debian package iproute2)")?;
    first_address(&String::from_utf8_lossy(&output.stdout)).context(
        "this host has no IPv4 address beside the loopback; guests need one to reach it: `ip addr add 192.0.2.1/32 dev lo scope global`",
    )
}

/// A line of `ip -o` is `4: eth0    inet 192.0.2.2/24 brd …`.
fn first_address(lines: &str) -> Option<String> {
    let mut words = lines.split_whitespace().skip_while(|word| *word != "inet");
    Some(words.nth(1)?.split('/').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_workload_says_is_read() {
        let console = "boot\r\nLEDGER: machine=web01 disk=0 records=120 last=00 ok\r\nLEDGER: machine=web01 writing from=121\r\n\
            writing from=7\r\nLEDGER: machine=web01 records=200 seen=0\r\nLEDGER: machine=web01 writing from=";
        assert_eq!(said(console, "writing from="), [121]);
        assert_eq!(said(console, "records="), [120, 200]);
    }

    #[test]
    fn the_hosts_address_is_the_first_that_is_global() {
        let lines = "4: eth0    inet 192.0.2.2/24 brd 192.0.2.255 scope global eth0\\  valid_lft forever\n";
        assert_eq!(first_address(lines).as_deref(), Some("192.0.2.2"));
        assert_eq!(first_address(""), None);
    }
}
