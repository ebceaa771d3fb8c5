//! Readiness: from the day of its protection, whether a machine could fail over, and come home, checked again and again.
//!
//! What it never does: change anything; stop an unplanned failover, which is for the day when things are not as they should be. A reprotect and a planned
//! failover run the same checks first, and refuse with the same words.
//!
//! The path of one check: what is stored and reported is looked at in one place for all machines, each site is asked once for all of its machines, the
//! results are kept in memory; a verdict that changes becomes an event.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use switchback_identity::Role;
use switchback_model::{
    ByteSize, CheckState, ObjectName, Phase, ProtectedItem, Readiness, ReadinessCheck, Severity, Side,
    verdict,
};
use switchback_sites::{Datastore, Machine, Power, Target};

use crate::background::Background;
use crate::conditions::{Finding, Findings};
use crate::desired::Facts;
use crate::items::points;
use crate::jobs::failover::SNAPSHOT;
use crate::jobs::protect::protected_disks;
use crate::reports::StoredReport;
use crate::{Control, ControlError, ErrorKind};

/// Between two looks at everything.
const EVERY: Duration = Duration::from_mins(1);
/// Whose findings they are.
const SOURCE: &str = "readiness";
/// Of a machine's disks, what should be free on the retention drive: histories grow with what changes.
const RETENTION_PERCENT_MIN: u64 = 10;

/// Checks until it is dropped.
pub(crate) fn watch(control: &Control) -> Result<Background, ControlError> {
    let control = control.clone();
    Background::start("readiness", move |ending| {
        if let Err(error) = control.facts().and_then(|facts| control.measure_traffic(&facts)) {
            tracing::warn!(%error, "what is replicated cannot be measured for the moment");
        }
        if let Err(error) = control.take_samples() {
            tracing::warn!(%error, "how machines are cannot be sampled for the moment");
        }
        if let Err(error) = control.check_readiness() {
            tracing::error!(%error, "the readiness of machines cannot be checked for the moment");
        }
        ending.pause(EVERY);
    })
}

/// What a site says of the machines that may be replicated to there, by machine.
type SiteAnswers = BTreeMap<ObjectName, SiteAnswer>;
/// The machine, if it is there, and the site's own checks; or why it cannot be asked.
type SiteAnswer = Result<(Option<Machine>, Vec<ReadinessCheck>), String>;

impl Control {
    /// Whether a machine could fail over and come home, checked now.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn readiness(&self, name: &ObjectName) -> Result<Readiness, ControlError> {
        let facts = self.facts()?;
        let item = facts.items.iter().find(|item| item.name == *name);
        let item = item.ok_or_else(|| ControlError::not_found("protected machine", name))?;
        let [failover, failback] = [Side::Away, Side::Home].map(|to| {
            let answers = self.ask_now(&facts, item, to);
            self.checks(&facts, item, to, answers.get(&item.name))
        });
        let readiness = Readiness { checked: self.now(), failover, failback };
        self.known_readiness().insert(name.key(), readiness.clone());
        self.observe_one(SOURCE, item.name.as_str(), &failed(item, &readiness))?;
        Ok(readiness)
    }

    /// All checks as of the last look, a minute ago at most. `None`: there was none yet.
    #[must_use]
    pub fn last_readiness(&self, name: &ObjectName) -> Option<Readiness> {
        self.known_readiness().get(&name.key()).cloned()
    }

    /// The verdicts as of the last look: for failing over, and for coming home. `None`: there was none yet.
    #[must_use]
    pub fn last_verdicts(&self, name: &ObjectName) -> Option<[CheckState; 2]> {
        let known = self.known_readiness();
        let readiness = known.get(&name.key())?;
        Some([verdict(&readiness.failover), verdict(&readiness.failback)])
    }

    /// Looks at all machines, and tells of verdicts that have changed.
    fn check_readiness(&self) -> Result<(), ControlError> {
        let facts = self.facts()?;
        let items: Vec<_> = facts.items.iter().collect();
        let [away, home] = [Side::Away, Side::Home].map(|to| self.ask_site(&facts, &items, to));
        let mut findings = Findings::new();
        for item in items {
            let new = Readiness {
                checked: self.now(),
                failover: self.checks(&facts, item, Side::Away, away.get(&item.name)),
                failback: self.checks(&facts, item, Side::Home, home.get(&item.name)),
            };
            findings.insert(item.name.to_string(), failed(item, &new));
            self.known_readiness().insert(item.name.key(), new);
        }
        self.known_readiness().retain(|key, _| facts.items.iter().any(|item| item.name.key() == *key));
        self.observe(SOURCE, findings)
    }

    fn known_readiness(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Readiness>> {
        self.inner.readiness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks about one machine, by what is there now: somebody decides by it.
    fn ask_now(&self, facts: &Facts, item: &ProtectedItem, to: Side) -> SiteAnswers {
        // A site that cannot be opened says so when it is asked.
        if let Ok(site) = self.landing_site(item, to).and_then(|site| self.site(&site)) {
            site.look_anew();
        }
        self.ask_site(facts, &[item], to)
    }

    /// Asks each site once about the machines that may go to it.
    fn ask_site(&self, facts: &Facts, items: &[&ProtectedItem], to: Side) -> SiteAnswers {
        let mut answers = SiteAnswers::new();
        let mut by_site: BTreeMap<ObjectName, Vec<&ProtectedItem>> = BTreeMap::new();
        for item in items {
            match self.landing_site(item, to) {
                Ok(site) => by_site.entry(site).or_default().push(item),
                Err(error) => drop(answers.insert(item.name.clone(), Err(error.error.to_string()))),
            }
        }
        for (site, items) in by_site {
            let ask = || -> Result<Vec<_>, ControlError> {
                let opened = self.site(&site)?;
                let targets: Vec<_> = items.iter().map(|item| self.target_of(facts, item, to)).collect();
                let mut checks = opened.check_targets(&targets)?;
                let there = opened.machines()?;
                let machine = |target: &Target| {
                    let id = target.machine.as_ref()?;
                    there.iter().find(|machine| machine.id == *id).cloned()
                };
                let machines: Vec<_> = targets.iter().map(machine).collect();
                for (((item, target), machine), checks) in
                    items.iter().zip(&targets).zip(&machines).zip(&mut checks)
                {
                    if machine.is_none() {
                        let datastores = opened.datastores_beside(&target.master_target)?;
                        checks.push(room_for(item, &datastores));
                    }
                }
                Ok(machines.into_iter().zip(checks).collect())
            };
            match ask() {
                Ok(all) => {
                    answers.extend(items.iter().map(|item| item.name.clone()).zip(all.into_iter().map(Ok)));
                }
                Err(error) => {
                    answers.extend(items.iter().map(|item| (item.name.clone(), Err(error.error.to_string()))))
                }
            }
        }
        answers
    }

    fn target_of(&self, facts: &Facts, item: &ProtectedItem, to: Side) -> Target {
        let instance = item.instance(to);
        let master_target = self.server_for(facts, item, (Role::Target, to));
        let state = master_target.and_then(StoredReport::master_target);
        let is_there = self.place_of(item, (Role::Target, to)) == instance.site;
        Target {
            machine: instance.id.clone().filter(|_| is_there),
            serials: item.present_serials(to),
            master_target: state.map(|state| state.system_uuid.clone()).unwrap_or_default(),
            lent: is_lent(item, to),
        }
    }

    /// Where a server of a role stands for going to a side: a master target where the machine would be written, a process server where it would come from.
    pub(crate) fn place_of(&self, item: &ProtectedItem, (role, to): (Role, Side)) -> ObjectName {
        let side = if role == Role::Target { to } else { to.other() };
        let own = &item.instance(side).site;
        // Where the machine is now, it is; where it would be, may be another place than where it was.
        if role != Role::Target && item.protection.active == side {
            return own.clone();
        }
        self.landing_site(item, side).unwrap_or_else(|_| own.clone())
    }

    /// The server that is used for going to a side, or would be.
    pub(crate) fn server_for<'a>(
        &self,
        facts: &'a Facts,
        item: &ProtectedItem,
        (role, to): (Role, Side),
    ) -> Option<&'a StoredReport> {
        let used = item.replication.as_ref().filter(|_| item.protection.passive() == to);
        let used =
            used.map(|path| if role == Role::Target { &path.master_target } else { &path.process_server });
        if let Some(used) = used {
            return facts.servers.get(&format!("{role}/{used}"));
        }
        let site = self.place_of(item, (role, to));
        let sites = self.serving_sites(&site).unwrap_or_else(|_| vec![site]);
        let mut there = facts
            .servers
            .values()
            .filter(|server| server.peer.role == role && sites.iter().any(|site| server.serves(site)));
        let now = self.now();
        let first = there.next()?;
        // One that works, if there is one.
        Some([first].into_iter().chain(there).find(|server| server.is_alive(now)).unwrap_or(first))
    }

    /// All checks of a machine for going to a side.
    fn checks(
        &self,
        facts: &Facts,
        item: &ProtectedItem,
        to: Side,
        answer: Option<&SiteAnswer>,
    ) -> Vec<ReadinessCheck> {
        if let Err(error) = self.landing_site(item, to) {
            let ControlError { error, .. } = error;
            let check = (error.code.as_str(), "There is a site to be written to");
            let state = CheckState::Failed;
            return vec![ReadinessCheck::raised(state, check, error.message, &error.cause, &error.remedy)];
        }
        let mut checks = vec![self.check_servers(facts, item, to)];
        checks.extend(self.check_way(facts, item, to));
        checks.push(self.check_retention(facts, item, to));
        checks.extend(self.check_storage_path(facts, item, to));
        match answer {
            Some(Ok((machine, of_site))) => {
                checks.push(ReadinessCheck::passed(
                    "site.reached",
                    "The site can be asked",
                    self.place_of(item, (Role::Target, to)).as_str(),
                ));
                checks.push(self.check_machine(item, to, machine.as_ref()));
                checks.extend(of_site.iter().cloned());
            }
            Some(Err(error)) => checks.push(unreached(error)),
            None => {}
        }
        checks.push(self.check_networks(item, to));
        checks.extend(self.check_replication(facts, item, to));
        checks.extend(self.guest_checks(facts, item, to));
        checks.push(self.check_backup());
        checks
    }

    /// A process server where the machine would come from, a master target where it would go.
    fn check_servers(&self, facts: &Facts, item: &ProtectedItem, to: Side) -> ReadinessCheck {
        let check = ("servers.report", "Process server and master target report");
        let now = self.now();
        let mut missing = Vec::new();
        let mut there = Vec::new();
        for role in [Role::ProcessServer, Role::Target] {
            let site = self.place_of(item, (role, to));
            match self.server_for(facts, item, (role, to)) {
                None => missing.push(format!("there is no {role} at {site}")),
                Some(server) if !server.is_alive(now) => {
                    missing.push(format!("the {role} {} at {site} does not report", server.peer.name));
                }
                Some(server) => there.push(format!("{} at {site}", server.peer.name)),
            }
        }
        if missing.is_empty() {
            return ReadinessCheck::passed(check.0, check.1, there.join(", "));
        }
        ReadinessCheck::raised(
            CheckState::Failed,
            check,
            missing.join("; "),
            "it was not installed, or its process or host is down",
            "install one there and enrol it with the passphrase, or start it",
        )
    }

    /// Whether the process server that would send reaches the master target.
    fn check_way(&self, facts: &Facts, item: &ProtectedItem, to: Side) -> Option<ReadinessCheck> {
        let check = ("network.way", "The process server reaches the master target");
        let process_server = self.server_for(facts, item, (Role::ProcessServer, to))?;
        let master_target = self.server_for(facts, item, (Role::Target, to))?;
        let address = &master_target.report.address;
        let tried = process_server.process_server()?.probes.get(address);
        let facts = format!("{} to {} at {address}", process_server.peer.name, master_target.peer.name);
        Some(match tried {
            Some(None) => ReadinessCheck::passed(check.0, check.1, facts),
            Some(Some(why)) => ReadinessCheck::raised(
                CheckState::Failed,
                check,
                format!("{facts}: {why}"),
                "a firewall, a missing route, or a VPN or ExpressRoute that is down",
                "let this port through from the one to the other",
            ),
            None => ReadinessCheck::raised(
                CheckState::Unknown,
                check,
                format!("{facts}: not tried yet"),
                "",
                "wait a minute",
            ),
        })
    }

    fn check_retention(&self, facts: &Facts, item: &ProtectedItem, to: Side) -> ReadinessCheck {
        let check = ("retention.room", "The retention drive has room");
        let state = self.server_for(facts, item, (Role::Target, to)).and_then(StoredReport::master_target);
        let Some(state) = state else {
            return ReadinessCheck::raised(
                CheckState::Unknown,
                check,
                "there is no master target",
                "",
                "install one there",
            );
        };
        let disks: u64 = item.disk_sizes.iter().sum();
        let found = format!("{} free, for disks of {}", ByteSize(state.free_bytes), ByteSize(disks));
        if state.free_bytes >= disks / 100 * RETENTION_PERCENT_MIN {
            return ReadinessCheck::passed(check.0, check.1, found);
        }
        let cause = "what changes on the machine's disks is kept there for as long as its policy says";
        ReadinessCheck::raised(
            CheckState::Warning,
            check,
            found,
            cause,
            "free some, enlarge it, or keep fewer recovery points",
        )
    }

    fn check_machine(&self, item: &ProtectedItem, to: Side, machine: Option<&Machine>) -> ReadinessCheck {
        let lands = self.place_of(item, (Role::Target, to));
        if lands == item.instance(to).site {
            return target_machine(item, to, machine);
        }
        let facts = format!("a physical server: it is made at {lands}, and all data is moved to it");
        ReadinessCheck::passed("machine.new", "It comes home as a new virtual machine", facts)
    }

    /// Each network card has a network to be connected to.
    fn check_networks(&self, item: &ProtectedItem, to: Side) -> ReadinessCheck {
        let check = ("network.mapping", "Every network card has a network there");
        let (from_side, there) = (item.instance(to.other()), item.instance(to));
        let site = self.place_of(item, (Role::Target, to));
        let mappings = self.network_mappings().unwrap_or_default();
        let is_mapped = |network: &str| {
            mappings.iter().any(|mapping| {
                let forth = mapping.site == from_side.site
                    && mapping.target_site == site
                    && mapping.network == network;
                let back = mapping.site == site
                    && mapping.target_site == from_side.site
                    && mapping.target_network == network;
                forth || back
            })
        };
        // An instance that is there keeps its own.
        let unmapped: Vec<_> = if there.site == site && there.nics.iter().any(|nic| !nic.network.is_empty()) {
            there.nics.iter().filter(|nic| nic.network.is_empty()).map(|nic| nic.mac.clone()).collect()
        } else {
            let cards =
                from_side.nics.iter().filter(|nic| nic.network.is_empty() || !is_mapped(&nic.network));
            cards.map(|nic| format!("{} ({})", nic.mac, nic.network)).collect()
        };
        if unmapped.is_empty() {
            return ReadinessCheck::passed(check.0, check.1, site.as_str());
        }
        ReadinessCheck::raised(
            CheckState::Warning,
            check,
            format!("not connected at {site}: {}", unmapped.join(", ")),
            "its network is mapped to none there",
            "map it with `switchback network-mapping set`",
        )
    }

    /// What replicates to that side now has recovery points, and fresh ones.
    fn check_replication(&self, facts: &Facts, item: &ProtectedItem, to: Side) -> Option<ReadinessCheck> {
        let check = ("replication.points", "There are fresh recovery points");
        if item.protection.passive() != to || !item.protection.replicates() {
            return None;
        }
        let Some(newest) = points(facts, item).last().cloned() else {
            let facts = format!("none at {} yet", item.passive().site);
            return Some(ReadinessCheck::raised(
                CheckState::Failed,
                check,
                facts,
                "the first replication is not complete",
                "wait for it",
            ));
        };
        let age_ms = self.now().0.saturating_sub(newest.time.0);
        let found = format!("the newest is {} s old", age_ms / 1000);
        let threshold = facts.group(item).map_or(u64::MAX, |group| group.policy.rpo_threshold_ms);
        if age_ms <= threshold {
            return Some(ReadinessCheck::passed(check.0, check.1, found));
        }
        let remedy = "see the machine's health; an unplanned failover loses what came after that point";
        Some(ReadinessCheck::raised(CheckState::Warning, check, found, "replication does not get on", remedy))
    }

    /// The worst day takes the configuration server along: without a backup elsewhere nobody leads the failover.
    fn check_backup(&self) -> ReadinessCheck {
        let check = ("backup.fresh", "The configuration server is backed up");
        let remedy =
            "`switchback backup schedule` to the other site; `switchback backup show` tells how it stands";
        let raised = |facts: String| {
            let cause = "a configuration server that is lost with its site is restored from its backup at the other one";
            ReadinessCheck::raised(CheckState::Warning, check, facts, cause, remedy)
        };
        match self.backup_status() {
            Ok(status) if status.policy.is_none() => raised("nothing is backed up".into()),
            Ok(status) => match status.reasons.first() {
                Some(reason) => raised(reason.message.clone()),
                None => ReadinessCheck::passed(check.0, check.1, ""),
            },
            Err(error) => raised(error.to_string()),
        }
    }

    /// Refuses what the checks of the site, the machine there, the way to its storage and the guest say would not work, in their words.
    pub(crate) fn must_be_ready(&self, item: &ProtectedItem, to: Side) -> Result<(), ControlError> {
        let facts = self.facts()?;
        let answers = self.ask_now(&facts, item, to);
        let (machine, of_site) = match answers.get(&item.name) {
            Some(Ok(answer)) => answer,
            // Else the machine would be turned off where it runs before that is found out.
            Some(Err(error)) => {
                let error = unreached(error).as_error();
                return Err(ControlError::new(ErrorKind::Unavailable, &error.code, error.message)
                    .cause(&error.cause)
                    .remedy(error.remedy));
            }
            None => return Ok(()),
        };
        let others =
            self.check_storage_path(&facts, item, to).into_iter().chain(self.guest_checks(&facts, item, to));
        let checks =
            of_site.iter().cloned().chain([self.check_machine(item, to, machine.as_ref())]).chain(others);
        // That it runs there is dealt with by fencing it.
        let failed = checks.into_iter().find(|check| check.state == CheckState::Failed && check.code != RUNS);
        match failed {
            None => Ok(()),
            Some(check) => {
                let error = check.as_error();
                Err(ControlError::new(ErrorKind::IllegalState, &error.code, error.message)
                    .cause(&error.cause)
                    .remedy(error.remedy))
            }
        }
    }
}

const RUNS: &str = "machine.off";

/// Of a machine that is to be made it is not known yet where: one datastore must take all of it.
fn room_for(item: &ProtectedItem, datastores: &[Datastore]) -> ReadinessCheck {
    let check = ("site.room", "There is room for a new machine");
    let needed: u64 = item.disk_sizes.iter().sum();
    let Some(roomiest) = datastores.iter().max_by_key(|datastore| datastore.free) else {
        return ReadinessCheck::raised(CheckState::Failed, check, "there is no datastore", "", "add one");
    };
    let facts =
        format!("{}: {} free, of {} needed", roomiest.name, ByteSize(roomiest.free), ByteSize(needed));
    if roomiest.free >= needed {
        return ReadinessCheck::passed(check.0, check.1, facts);
    }
    ReadinessCheck::raised(
        CheckState::Failed,
        check,
        facts,
        "no datastore has more",
        "free some, or add a datastore",
    )
}

fn unreached(error: &str) -> ReadinessCheck {
    ReadinessCheck::raised(
        CheckState::Failed,
        ("site.reached", "The site can be asked"),
        error,
        "it is down, or the network or the account's password has changed",
        "see that it can be reached from the configuration server; `switchback account rotate` gives it another password",
    )
}

/// Whether the disks of a side are with its master target.
fn is_lent(item: &ProtectedItem, side: Side) -> bool {
    item.replication.is_some() && item.protection.passive() == side && item.protection.replicates()
}

/// The machine that would be written to.
fn target_machine(item: &ProtectedItem, to: Side, machine: Option<&Machine>) -> ReadinessCheck {
    let check = ("machine.disks", "The machine there has the protected disks");
    let (instance, is_target) = (item.instance(to), item.protection.passive() == to);
    let Some(machine) = machine else {
        let facts = format!("there is none at {}", instance.site);
        let cause = "it was deleted there; a new one is made, and all data is moved to it";
        let state =
            if is_target && item.protection.replicates() { CheckState::Failed } else { CheckState::Warning };
        return ReadinessCheck::raised(
            state,
            check,
            facts,
            cause,
            "nothing, or bring it back from a copy: then only the delta moves",
        );
    };
    let Some(disks) = protected_disks(item, to, machine) else {
        return ReadinessCheck::raised(
            CheckState::Failed,
            ("machine.disks-differ", check.1),
            format!("those of {} at {} are not", machine.id, instance.site),
            "a protected disk was removed or resized there",
            "bring them back to what they were, or ask for an alternate location at the reprotect",
        );
    };
    let written = item.replication.iter().flat_map(|path| &path.targets);
    let written = written.filter(|target| !target.as_os_str().is_empty());
    let moved = disks.iter().map(|(_, disk)| &disk.path).ne(written);
    if is_lent(item, to) && moved {
        return ReadinessCheck::raised(
            CheckState::Failed,
            ("machine.disks-moved", check.1),
            format!(
                "those of {} at {} are not where the master target writes them",
                machine.id, instance.site
            ),
            "it was moved to another datastore while its disks were lent",
            "move it back; or disable its protection there and reprotect anew",
        );
    }
    let stands = matches!(item.protection.phase, Phase::FailedOver | Phase::Committed);
    if is_target && !stands && machine.power == Power::On {
        return ReadinessCheck::raised(
            CheckState::Failed,
            (RUNS, "The machine there is off"),
            format!("{} at {} runs", machine.id, instance.site),
            "somebody has started it; what it writes is lost, and its disks cannot be written",
            "turn it off",
        );
    }
    if let Some(snapshot) = machine.snapshots.iter().find(|snapshot| *snapshot != SNAPSHOT) {
        return ReadinessCheck::raised(
            CheckState::Failed,
            ("machine.no-snapshots", "The machine there has no snapshots"),
            format!("{} at {} has {snapshot:?}", machine.id, instance.site),
            "disks below a snapshot must not change",
            "remove it",
        );
    }
    ReadinessCheck::passed(check.0, check.1, format!("{} at {}", machine.id, instance.site))
}

/// The ways that a machine could not go now.
fn failed(item: &ProtectedItem, readiness: &Readiness) -> BTreeMap<String, Finding> {
    let ways =
        [(Side::Away, "readiness.failover", "fail over"), (Side::Home, "readiness.failback", "come home")];
    ways.into_iter()
        .filter_map(|(to, code, what)| {
            let first = readiness.to(to).iter().find(|check| check.state == CheckState::Failed)?;
            let message = format!("{} could not {what} now: {}", item.name, first.as_error());
            Some((code.to_owned(), Finding { severity: Severity::Warning, message }))
        })
        .collect()
}
