//! What components say: kept with the time it came, and turned into what follows from it.
//!
//! Three things follow at once: a first recovery point makes a machine protected; an instance that was left and reports again is marked as stale;
//! a retired replica that is gone needs no more removing. All else is read from the reports by whoever needs it. A change that meets somebody
//! else's is left: the next report, five seconds later, does it.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use switchback_identity::{PeerIdentity, Role};
use switchback_model::component::{
    AgentState, Answer, DiskStanding, MasterTargetState, ProcessServerState, ReplicaActual, ReplicaMode,
    Report, State,
};
use switchback_model::{
    DiskIndex, Event, Held, ObjectName, Operation, ProtectedItem, ProtectionGroup, ReplicaName, Seq,
    Severity, UnixMillis,
};
use switchback_store::{Expect, Kind, Query, StoreError};

use crate::backup::behind::{BEHIND_REMEDY, Verdict, judge};
use crate::backup::succession::Claim;
use crate::desired::Facts;
use crate::guests;
use crate::records::{Batch, Versioned};
use crate::{Control, ControlError, ErrorKind};

/// A component is taken for dead when it has not reported for so long: they do every five seconds.
pub(crate) const DEAD_AFTER_MS: u64 = 20_000;

/// A report as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredReport {
    pub(crate) peer: PeerIdentity,
    pub(crate) received: UnixMillis,
    pub(crate) report: Report,
    /// It named an incarnation of the configuration server that there is no proof of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) lied: bool,
}

impl StoredReport {
    pub(crate) fn is_alive(&self, now: UnixMillis) -> bool {
        now.0.saturating_sub(self.received.0) <= DEAD_AFTER_MS
    }

    /// Its key in the store. Instances of one machine share an identity: agents are told apart by the machine they run in.
    pub(crate) fn key(&self) -> String {
        match self.agent() {
            Some(agent) => agent_key(self.peer.name.as_str(), &agent.system_uuid),
            None => format!("{}/{}", self.peer.role, self.peer.name),
        }
    }

    pub(crate) fn serves(&self, site: &ObjectName) -> bool {
        self.report.site.eq_ignore_ascii_case(site.as_str())
    }

    pub(crate) fn agent(&self) -> Option<&AgentState> {
        match &self.report.state {
            State::Agent(state) => Some(state),
            _ => None,
        }
    }

    pub(crate) fn process_server(&self) -> Option<&ProcessServerState> {
        match &self.report.state {
            State::ProcessServer(state) => Some(state),
            _ => None,
        }
    }

    pub(crate) fn master_target(&self) -> Option<&MasterTargetState> {
        match &self.report.state {
            State::MasterTarget(state) => Some(state),
            _ => None,
        }
    }

    /// One of a master target's replicas.
    pub(crate) fn replica(&self, name: &ReplicaName) -> Option<&ReplicaActual> {
        self.master_target()?.replicas.iter().find(|replica| replica.replica == *name)
    }
}

pub(crate) fn agent_key(name: &str, system_uuid: &str) -> String {
    format!("{}/{name}/{system_uuid}", Role::Source)
}

/// `ROLE/NAME` of a report's key.
pub(crate) fn component_of(key: &str) -> &str {
    key.match_indices('/').nth(1).map_or(key, |(end, _)| &key[..end])
}

fn role_of(state: &State) -> Role {
    match state {
        State::Agent(_) => Role::Source,
        State::ProcessServer(_) => Role::ProcessServer,
        State::MasterTarget(_) => Role::Target,
    }
}

impl Control {
    /// Takes a component's report, and answers with its desired state.
    ///
    /// # Errors
    /// [`ErrorKind::Forbidden`] when it reports for another role than its certificate states.
    pub fn report(&self, peer: &PeerIdentity, report: Report) -> Result<Answer, ControlError> {
        if role_of(&report.state) != peer.role {
            let message = format!("{peer} cannot report as a {}", role_of(&report.state));
            return Err(ControlError::new(ErrorKind::Forbidden, "component.wrong-role", message));
        }
        let claim = self.judge_claim(report.incarnation_proof.as_ref())?;
        if let Claim::Proved(number) = claim {
            return Err(self.supersede(number, &peer.to_string())?);
        }
        self.check_not_superseded()?;
        let lied = claim != Claim::None;
        let stored = StoredReport { peer: peer.clone(), received: self.now(), report, lied };
        let key = stored.key();
        let before: Option<Versioned<StoredReport>> = self.records().find(Kind::Report, &key)?;
        if lied || before.as_ref().is_some_and(|before| before.value.lied) {
            self.observe_claim(&peer.to_string(), claim)?;
        }
        let mut batch = Batch::default();
        batch.put(Kind::Report, key, Expect::Any, &stored);
        // Not through `Records::commit`: what follows from a report for others is told below, and a thousand agents report.
        self.records().store().commit(&batch.into_changes())?;
        let moved = before.is_none_or(|before| before.value.report.address != stored.report.address);
        if moved {
            self.records().touch();
        }
        self.follow(&stored)?;
        self.inner.heard.store(true, Ordering::Relaxed);
        self.answer(&stored)
    }

    /// The desired state of a component that reported before, from the machine `system_uuid` if it is an agent.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it has not.
    pub fn desired(&self, peer: &PeerIdentity, system_uuid: Option<&str>) -> Result<Answer, ControlError> {
        let key = match system_uuid {
            Some(uuid) => agent_key(peer.name.as_str(), uuid),
            None => format!("{}/{}", peer.role, peer.name),
        };
        let stored: Versioned<StoredReport> = self.records().get(Kind::Report, "report of", &key)?;
        self.answer(&stored.value)
    }

    fn answer(&self, stored: &StoredReport) -> Result<Answer, ControlError> {
        let facts = self.cached_facts()?;
        if let Some(superseded) = &facts.superseded {
            return Err(crate::backup::succession::refusal(superseded));
        }
        Ok(facts.answer(&stored.peer, &stored.report.site, &stored.report.state))
    }

    pub(crate) fn facts(&self) -> Result<Facts, ControlError> {
        let groups = self.records().all::<ProtectionGroup>(Kind::Group)?;
        let servers = [Role::ProcessServer, Role::Target].map(|role| self.reports_of(role));
        let [process_servers, targets] = servers;
        let servers = process_servers?.into_iter().chain(targets?);
        Ok(Facts {
            items: self.records().all(Kind::Item)?.into_iter().map(|item| item.value).collect(),
            groups: groups.into_iter().map(|group| (group.value.name.key(), group.value)).collect(),
            servers: servers
                .map(|stored| (format!("{}/{}", stored.peer.role, stored.peer.name), stored))
                .collect(),
            guest_platforms: self
                .sites()?
                .into_iter()
                .filter_map(|site| Some((site.name.key(), guests::platform(&site.kind)?)))
                .collect(),
            scripts: self.guest_scripts()?,
            containers: self.containers()?,
            storage_paths: self.storage_paths()?,
            bandwidth: self.all_bandwidth()?,
            program: self.program(),
            incarnation_proof: self.own_incarnation()?.map(|own| own.proof()),
            renewals: self.renewals()?,
            superseded: self.superseded()?,
            addresses: self.inner.home.get().map(|home| home.addresses.clone()).unwrap_or_default(),
        })
    }

    /// The last reports of all components of a role.
    pub(crate) fn reports_of(&self, role: Role) -> Result<Vec<StoredReport>, ControlError> {
        self.reports_of_if(role, |_| true)
    }

    /// Those of them whose keys are wanted.
    pub(crate) fn reports_of_if(
        &self,
        role: Role,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<StoredReport>, ControlError> {
        self.records().below(Kind::Report, &format!("{role}/"), is_wanted)
    }

    /// The last report of a process server or master target.
    pub(crate) fn server_report(&self, role: Role, name: &str) -> Result<Option<StoredReport>, ControlError> {
        Ok(self.records().find(Kind::Report, &format!("{role}/{name}"))?.map(|stored| stored.value))
    }

    /// The last report of an instance's agent.
    pub(crate) fn agent_report(
        &self,
        agent: &str,
        system_uuid: &str,
    ) -> Result<Option<StoredReport>, ControlError> {
        Ok(self.records().find(Kind::Report, &agent_key(agent, system_uuid))?.map(|stored| stored.value))
    }

    /// What follows from a report at once.
    fn follow(&self, stored: &StoredReport) -> Result<(), ControlError> {
        let query = match &stored.report.state {
            // Machines are kept under their agent's name: a thousand agents report every five seconds.
            State::Agent(_) => Query { owner: Some(stored.peer.name.to_string()), ..Query::all(Kind::Item) },
            State::MasterTarget(_) => Query::all(Kind::Item),
            State::ProcessServer(_) => return Ok(()),
        };
        for item in self.records().list::<ProtectedItem>(&query)? {
            let mut changed = item.value.clone();
            let events = follow(&mut changed, stored, self.now());
            if changed == item.value {
                continue;
            }
            let mut batch = Batch::default();
            batch.replace_item(&changed, item.version);
            for event in events {
                self.add_event(&mut batch, &event);
            }
            match self.records().commit(batch) {
                // The next report does it.
                Ok(()) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Where an instance that was left is.
fn site_left(item: &ProtectedItem, system_uuid: &str) -> Option<ObjectName> {
    let mut left = [item.passive()].into_iter().chain(&item.left_behind);
    left.find(|left| left.system_uuid == system_uuid).map(|left| left.site.clone())
}

/// What a master target's report means for a machine: the codes and messages of events.
fn follow_target(
    item: &mut ProtectedItem,
    stored: &StoredReport,
    target: &MasterTargetState,
) -> Vec<(&'static str, String)> {
    let mut events = Vec::new();
    let name = stored.peer.name.as_str();
    // What has been removed is told as long as that is desired.
    let has = |replica: &ReplicaName| {
        target
            .replicas
            .iter()
            .any(|actual| actual.replica == *replica && actual.reached != Some(ReplicaMode::Remove))
    };
    item.retired.retain(|retired| retired.master_target != name || has(&retired.replica));
    let actual = item
        .replication
        .as_ref()
        .filter(|path| path.master_target == name)
        .and_then(|path| stored.replica(&path.replica));
    let Some(actual) = actual else { return events };
    for (disk, serial) in made_whole(item, actual) {
        item.disk_standings.remove(&disk.0);
        let message =
            format!("the disk {serial} of {} is protected: recovery points hold it from now on", item.name);
        events.push(("protection.disk-protected", message));
    }
    // Point 0 is what the disks held before.
    let has_point = actual.points.last().is_some_and(|point| point.seq > Seq(0));
    if has_point && let Ok(next) = item.protection.apply(Operation::PointsExist) {
        item.protection = next;
        let site = &item.passive().site;
        let message = format!("{} is protected: its first recovery point is at {site}", item.name);
        events.push(("protection.protected", message));
    }
    events
}

/// The disks that were added to a machine and that its newest point holds.
fn made_whole(item: &ProtectedItem, actual: &ReplicaActual) -> Vec<(DiskIndex, String)> {
    let Some(newest) = actual.points.last() else { return Vec::new() };
    let adding = item.disks().filter(|(_, standing)| *standing == DiskStanding::Adding);
    let is_held =
        |disk: &DiskIndex| actual.targets.len() > usize::from(disk.0) && !newest.lacks.contains(disk);
    let serial =
        |disk: DiskIndex| item.home.disk_serials.get(usize::from(disk.0)).cloned().unwrap_or_default();
    adding.filter(|(disk, _)| is_held(disk)).map(|(disk, _)| (disk, serial(disk))).collect()
}

/// What a report means for a machine.
fn follow(item: &mut ProtectedItem, stored: &StoredReport, now: UnixMillis) -> Vec<Event> {
    let mut events = Vec::new();
    let object = item.name.to_string();
    let mut tell = |code: &str, severity, message: String| {
        events.push(Event { time: now, code: code.into(), severity, object: object.clone(), message });
    };
    match judge(item, stored) {
        Some(Verdict::Confirmed) => {
            item.held = None;
            let message = format!(
                "{}: its components are where the restored configuration server takes them to be",
                item.name
            );
            tell("protection.confirmed", Severity::Info, message);
        }
        Some(Verdict::Behind(evidence)) => {
            let message =
                format!("nothing is ordered for {} any more: {evidence}. {BEHIND_REMEDY}", item.name);
            tell("protection.behind", Severity::Critical, message);
            item.held = Some(Held::Behind { evidence });
        }
        None => {}
    }
    // Nothing follows for a machine of which it is not known how it stands.
    if item.held.is_some() {
        return events;
    }
    if let Some(target) = stored.master_target() {
        for (code, message) in follow_target(item, stored, target) {
            tell(code, Severity::Info, message);
        }
    }
    if let Some(agent) = stored.agent()
        && stored.peer.name.as_str() == item.agent
        && item.stale_seen.is_none()
        && let Some(site) = site_left(item, &agent.system_uuid)
    {
        item.stale_seen = Some(now);
        let by = &item.active().site;
        let message = format!(
            "the instance of {} at {site} is running, but the machine lives at {by} since its failover: what is written at {site} is lost. It is refused as a \
             source; shut it down. A reprotect does so by itself, but for a physical server",
            item.name
        );
        tell("protection.stale-instance", Severity::Critical, message);
    }
    events
}
