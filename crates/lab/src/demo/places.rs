//! The two sites of the demo, as directories of this host, and the machines at home.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use switchback_sites::{AcceleratorChoice, LocalSite, NetworkSettings, Power, Site as _, SiteSettings};

use super::stage::At;
use crate::inspect::Inspection;
use crate::machine::{self, DataDisk};
use crate::{Accelerator, Foundation};

const DATASTORE: &str = "main";
/// How much of a console is looked at.
const CONSOLE_LEN_MAX: usize = 1 << 20;
/// A process that was killed is gone within this time.
const GONE_LIMIT: Duration = Duration::from_secs(5);
/// An address of no network (RFC 5737): what leads there leads anywhere.
const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 9);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The networks of a site and what they are called at both.
pub(super) const NETWORKS: [&str; 2] = machine::NETWORKS;

/// The demo's machines, with the file systems of their second disks and the settings of their network cards at the recovery site.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cast {
    pub(super) name: &'static str,
    pub(super) data: DataDisk,
    /// As `machine protect --nic` takes them.
    pub(super) away: [&'static str; 2],
    /// The addresses of its two network cards at home, which it sets by itself, and at recovery.
    pub(super) addresses: [[&'static str; 2]; 2],
}

/// Networks of the sites' uplinks, home's first, and the address that their DHCP gives to the first who asks.
const UPLINKS: [(&str, &str); 2] = [("10.0.2.0/24", "10.0.2.15/24"), ("10.0.3.0/24", "10.0.3.15/24")];

/// Causes first: `db01` refers to `web01`.
pub(super) const CAST: [Cast; 2] = [
    Cast {
        name: "web01",
        data: DataDisk::Xfs,
        away: ["untouched", "10.2.0.11/24"],
        addresses: [[UPLINKS[0].1, "10.1.0.11/24"], [UPLINKS[1].1, "10.2.0.11/24"]],
    },
    Cast {
        name: "db01",
        data: DataDisk::Ext4,
        away: ["untouched", "10.2.0.12/24"],
        addresses: [[UPLINKS[0].1, "10.1.0.12/24"], [UPLINKS[1].1, "10.2.0.12/24"]],
    },
];

/// A site.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) site: LocalSite,
}

impl Place {
    /// Makes an empty site in a directory.
    pub(super) fn make(at: At, directory: &Path, foundation: &Foundation) -> anyhow::Result<Self> {
        let (name, (cidr, _)) = match at {
            At::Home => ("home", UPLINKS[0]),
            At::Recovery => ("recovery", UPLINKS[1]),
        };
        let mut settings = SiteSettings::new([(DATASTORE.to_owned(), PathBuf::from("disks"))]);
        settings.qemu = foundation.qemu();
        // Known already, or found out once for all demos; a site would try for itself.
        settings.accelerator = match Accelerator::detect(foundation)? {
            Accelerator::Kvm => AcceleratorChoice::Kvm,
            Accelerator::Tcg => AcceleratorChoice::Tcg,
        };
        let uplink = NetworkSettings::User { cidr: cidr.to_owned(), forward: Vec::new(), isolated: false };
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

    /// The images of its two protected disks; one that it has got since comes after them.
    pub(super) fn images(&self, id: &str) -> anyhow::Result<[PathBuf; 2]> {
        let disks: Vec<PathBuf> =
            self.site.machine(id)?.disks.into_iter().map(|disk| disk.path).take(2).collect();
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
        machine::kill(self.site.directory(), id).with_context(|| format!("at {}", self.name))?;
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

/// The address at which guests, through their uplink, and other processes of this host reach a role: not the loopback. Nothing is sent to find it out.
pub(super) fn host_address() -> anyhow::Result<String> {
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(ELSEWHERE)?;
        socket.local_addr()
    });
    match routed.map(|address| address.ip()) {
        Ok(address) if !address.is_loopback() => Ok(address.to_string()),
        _ => bail!(
            "this host has no way to other hosts, so no address at which its guests reach it; give it one, for example: \
             ip addr add 10.255.255.1/24 dev lo; ip route add default via 10.255.255.2 dev lo"
        ),
    }
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
}
