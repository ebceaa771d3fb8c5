//! Physical servers: machines without a hypervisor, known by the mobility agents that report from them.
//!
//! What it is: the [`Site`] they are at, and where they come home to. What it never does: make, start or write a machine: a physical server leaves, and comes
//! home as a virtual machine of another site (R09); what it was is never written to again.
//!
//! The path of one server: its agent reports, and it is a machine of the site by the name under which that has enrolled; its disks and cards are those the agent tells of, the networks of the
//! site are the subnets it has addresses in. To be turned off it is asked itself (see `jobs::shutdown`).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Weak;
use std::time::Duration;

use switchback_identity::Role;
use switchback_model::component::{AgentState, InterfaceFacts};
use switchback_model::{Instance, ObjectName, ProtectedItem, Side, Site as SiteRecord, SiteKind, UnixMillis};
use switchback_sites::{
    Boot, Datastore, Machine, MachineDisk, Network, NewMachine, Nic, Power, Site, SiteError,
};
use switchback_store::Kind;

use crate::inventory::values;
use crate::jobs::step::failure;
use crate::reports::StoredReport;
use crate::{Control, ControlError, ErrorKind, Inner};

/// How long a server that has said that it switches itself off must have been silent to be taken for off: two reports are missing then.
pub(crate) const SILENT_MS: u64 = 12_000;

/// All physical servers that report.
#[derive(Debug)]
pub(crate) struct PhysicalSite {
    control: Weak<Inner>,
}

/// A server is off when it has said that it goes off, and nothing has come since.
pub(crate) fn is_off(report: &StoredReport, now: UnixMillis) -> bool {
    let said = report.agent().is_some_and(|agent| agent.powering_off.is_some());
    said && now.0.saturating_sub(report.received.0) >= SILENT_MS
}

fn machine_of(id: &str, agent: &AgentState, power: Power) -> Machine {
    let disk = |disk: &switchback_model::component::DiskFacts| MachineDisk {
        path: PathBuf::new(),
        size: disk.size,
        serial: disk.serial.clone(),
    };
    let nic = |card: &InterfaceFacts| Nic { mac: card.mac.clone(), network: subnet_of(card) };
    Machine {
        id: id.to_owned(),
        name: agent.hostname.clone(),
        system_uuid: agent.system_uuid.clone(),
        power,
        cpus: agent.hardware.cpus.max(1),
        memory_mib: agent.hardware.memory_mib.max(256),
        boot: if agent.hardware.uefi { Boot::Uefi } else { Boot::Bios },
        disks: agent.disks.iter().map(disk).collect(),
        nics: agent.interfaces.iter().map(nic).collect(),
        snapshots: Vec::new(),
        mark: None,
    }
}

/// The subnet of a card's first IPv4 address, `10.1.0.0/24`.
fn subnet_of(card: &InterfaceFacts) -> Option<String> {
    card.addresses.iter().find_map(|address| {
        let (address, length) = address.split_once('/')?;
        let (address, length): (Ipv4Addr, u32) = (address.parse().ok()?, length.parse().ok()?);
        let mask = u32::MAX.checked_shl(32_u32.checked_sub(length)?).unwrap_or(0);
        Some(format!("{}/{length}", Ipv4Addr::from(u32::from(address) & mask)))
    })
}

impl PhysicalSite {
    pub(crate) const fn new(control: Weak<Inner>) -> Self {
        Self { control }
    }

    /// Those that are no instance of a machine at another kind of site: a machine that was failed over reports from there.
    fn servers(&self) -> Result<Vec<Machine>, ControlError> {
        let Some(inner) = self.control.upgrade() else { return Ok(Vec::new()) };
        let control = Control { inner };
        let (now, sites) = (control.now(), control.sites()?);
        let items: Vec<ProtectedItem> = values(control.records().all(Kind::Item)?);
        let elsewhere = |uuid: &str| {
            let mut instances =
                items.iter().flat_map(|item| [&item.home, &item.away].into_iter().chain(&item.left_behind));
            instances.any(|instance| instance.system_uuid == uuid && !is_physical(&sites, &instance.site))
        };
        let mut newest: BTreeMap<String, StoredReport> = BTreeMap::new();
        for report in control.reports_of(Role::Source)? {
            let is_here = report
                .agent()
                .is_some_and(|agent| !agent.system_uuid.is_empty() && !elsewhere(&agent.system_uuid));
            let name = report.peer.name.to_string();
            // A name has several when its disks were put into another server.
            if is_here && newest.get(&name).is_none_or(|other| other.received < report.received) {
                newest.insert(name, report);
            }
        }
        let server = |(name, report): (&String, &StoredReport)| {
            let power = if is_off(report, now) { Power::Off } else { Power::On };
            report.agent().map(|agent| machine_of(name, agent, power))
        };
        Ok(newest.iter().filter_map(server).collect())
    }
}

fn is_physical(sites: &[SiteRecord], name: &ObjectName) -> bool {
    sites.iter().any(|site| site.name == *name && matches!(site.kind, SiteKind::Physical { .. }))
}

/// What a physical server is asked in vain.
fn hardware<T>(action: &str, id: &str) -> Result<T, SiteError> {
    Err(SiteError::Failed {
        action: format!("{action} {id}"),
        detail: "it is a physical server, and nothing but its own mobility agent can be asked".into(),
        passing: false,
    })
}

impl Site for PhysicalSite {
    fn machines(&self) -> Result<Vec<Machine>, SiteError> {
        self.servers().map_err(|error| SiteError::Failed {
            action: "reading what agents report".into(),
            detail: error.to_string(),
            passing: true,
        })
    }
    fn machine(&self, id: &str) -> Result<Machine, SiteError> {
        let found = self.machines()?.into_iter().find(|machine| machine.id == id);
        found.ok_or_else(|| SiteError::NoSuchMachine { id: id.to_owned() })
    }
    fn datastores(&self) -> Result<Vec<Datastore>, SiteError> {
        Ok(Vec::new())
    }
    fn networks(&self) -> Result<Vec<Network>, SiteError> {
        let cards = self.machines()?.into_iter().flat_map(|machine| machine.nics);
        let names: std::collections::BTreeSet<_> = cards.filter_map(|nic| nic.network).collect();
        let network = |name| Network { name, description: "subnet of physical servers".into() };
        Ok(names.into_iter().map(network).collect())
    }
    fn create_machine(&self, machine: &NewMachine) -> Result<Machine, SiteError> {
        hardware("making", &machine.id)
    }
    fn delete_machine(&self, id: &str) -> Result<(), SiteError> {
        hardware("deleting", id)
    }
    fn lend_disks(&self, id: &str, _serials: &[String], _to: &str) -> Result<Vec<PathBuf>, SiteError> {
        hardware("writing the disks of", id)
    }
    fn power_on(&self, id: &str) -> Result<(), SiteError> {
        hardware("starting", id)
    }
    fn shut_down(&self, id: &str, _limit: Duration) -> Result<bool, SiteError> {
        hardware("shutting down", id)
    }
    fn power_off(&self, id: &str) -> Result<(), SiteError> {
        hardware("cutting the power of", id)
    }
    fn connect_nics(&self, id: &str, _networks: &[Option<String>]) -> Result<(), SiteError> {
        hardware("connecting the network cards of", id)
    }
    fn create_snapshot(&self, id: &str, _name: &str) -> Result<(), SiteError> {
        hardware("taking a snapshot of", id)
    }
    fn revert_snapshot(&self, id: &str, _name: &str) -> Result<(), SiteError> {
        hardware("reverting", id)
    }
    fn delete_snapshot(&self, id: &str, _name: &str) -> Result<(), SiteError> {
        hardware("deleting a snapshot of", id)
    }
    fn console(&self, id: &str, _bytes_max: usize) -> Result<String, SiteError> {
        hardware("reading the console of", id)
    }
}

impl Control {
    /// Whether an instance is a physical server.
    pub(crate) fn is_physical(&self, instance: &Instance) -> Result<bool, ControlError> {
        Ok(is_physical(&self.sites()?, &instance.site))
    }

    /// What a site is.
    pub(crate) fn site_kind(&self, name: &ObjectName) -> Result<SiteKind, ControlError> {
        Ok(self.records().get::<SiteRecord>(Kind::Site, "site", &name.key())?.value.kind)
    }

    /// The site at which an instance is written, or made: its own, but for a physical server.
    ///
    /// # Errors
    /// A physical server's site names none.
    pub fn landing_site(&self, item: &ProtectedItem, side: Side) -> Result<ObjectName, ControlError> {
        let instance = item.instance(side);
        match self.site_kind(&instance.site)? {
            SiteKind::Physical { comes_home_to: Some(home) } => Ok(home),
            SiteKind::Physical { comes_home_to: None } => Err(failure(
                ErrorKind::IllegalState,
                "physical.no-way-home",
                format!("{} cannot be failed back to physical hardware", item.name),
                &format!(
                    "a physical server comes home as a new virtual machine, and the site {} names no site for that",
                    instance.site
                ),
                &format!(
                    "add the vCenter, ESXi host or local site, then `switchback site add {} --physical --comes-home-to SITE`",
                    instance.site
                ),
            )),
            _ => Ok(instance.site.clone()),
        }
    }

    /// The sites whose servers serve machines of a site: its own, and where its physical servers come home to.
    pub(crate) fn serving_sites(&self, site: &ObjectName) -> Result<Vec<ObjectName>, ControlError> {
        let home = match self.site_kind(site)? {
            SiteKind::Physical { comes_home_to } => comes_home_to,
            _ => None,
        };
        Ok([site.clone()].into_iter().chain(home).collect())
    }

    /// A physical site must come home to a site that can make machines.
    pub(crate) fn check_landing(&self, kind: &SiteKind) -> Result<(), ControlError> {
        let SiteKind::Physical { comes_home_to: Some(home) } = kind else { return Ok(()) };
        let sites = self.sites()?;
        if sites.iter().any(|site| site.name == *home) && !is_physical(&sites, home) {
            return Ok(());
        }
        Err(failure(
            ErrorKind::Invalid,
            "physical.no-such-home",
            format!("physical servers cannot come home to {home}"),
            "it is not known, or has physical servers itself",
            "name a vCenter, ESXi or local site that `switchback site list` shows",
        ))
    }

    /// A machine of a hypervisor is protected there, where it can be switched off and come home to its own disks.
    pub(crate) fn check_is_hardware(&self, machine: &Machine) -> Result<(), ControlError> {
        let sites = self.sites()?;
        for site in sites.iter().filter(|site| !is_physical(&sites, &site.name)) {
            // One that cannot be asked now is no reason to leave a server unprotected.
            let machines = self.site(&site.name).and_then(|open| Ok(open.machines()?)).unwrap_or_default();
            if let Some(found) = machines.iter().find(|found| found.system_uuid == machine.system_uuid) {
                return Err(failure(
                    ErrorKind::Invalid,
                    "physical.is-virtual",
                    format!(
                        "{} is no physical server but the virtual machine {} at {}",
                        machine.name, found.id, site.name
                    ),
                    "their SMBIOS UUIDs are the same",
                    &format!("protect it in a group from {}", site.name),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use switchback_model::component::InterfaceFacts;

    use super::subnet_of;

    #[test]
    fn a_cards_network_is_the_subnet_of_its_first_ipv4_address() {
        let card = |addresses: &[&str]| InterfaceFacts {
            name: "eth0".into(),
            mac: "52:54:00:00:00:01".into(),
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            gateway: None,
        };
        assert_eq!(subnet_of(&card(&["fd00::5/64", "10.1.2.37/20"])).as_deref(), Some("10.1.0.0/20"));
        assert_eq!(subnet_of(&card(&["192.0.2.1/32"])).as_deref(), Some("192.0.2.1/32"));
        assert_eq!(subnet_of(&card(&["192.0.2.1/0"])).as_deref(), Some("0.0.0.0/0"));
        for odd in [&[][..], &["10.0.0.1"], &["10.0.0.1/33"], &["fd00::5/64"]] {
            assert_eq!(subnet_of(&card(odd)), None, "{odd:?}");
        }
    }
}
