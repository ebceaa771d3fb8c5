//! Protected machines as they are shown: what is stored, together with what agents, process servers and master targets last said.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::Arc;

use switchback_identity::Role;
use switchback_model::azure::MachinePlan;
use switchback_model::component::{Activity, DiskStanding, ReplicationState, SeededDisk};
use switchback_model::{
    JobError, ObjectName, Operation, Phase, ProtectedItem, RecoveryPoint, Side, UnixMillis, Verdict,
};
use switchback_store::Kind;

use crate::backup::behind;
use crate::desired::Facts;
use crate::inventory::busy;
use crate::jobs::failover::plan_of;
use crate::records::{Batch, Versioned};
use crate::reports::{StoredReport, agent_key};
use crate::{Control, ControlError, ErrorKind, Health, ItemView};

/// All protected machines as they were stored at one moment.
#[derive(Clone, Debug)]
pub struct Protected(Arc<Facts>);

impl Deref for Protected {
    type Target = [ProtectedItem];

    fn deref(&self) -> &[ProtectedItem] {
        &self.0.items
    }
}

impl Protected {
    /// The one of a name.
    #[must_use]
    pub fn of(&self, name: &ObjectName) -> Option<&ProtectedItem> {
        self.iter().find(|item| item.name == *name)
    }
}

impl Control {
    /// All protected machines.
    ///
    /// # Errors
    /// Those of the store.
    pub fn items(&self) -> Result<Vec<ItemView>, ControlError> {
        self.views(self.protected()?.iter())
    }

    /// All protected machines as they are stored: what is to be shown is chosen among these, and looked at then.
    ///
    /// # Errors
    /// Those of the store.
    pub fn protected(&self) -> Result<Protected, ControlError> {
        Ok(Protected(self.cached_facts()?))
    }

    /// Machines as they are shown, in their order. Nothing is asked for that concerns others.
    ///
    /// # Errors
    /// Those of the store.
    pub fn views<'a>(
        &self,
        items: impl IntoIterator<Item = &'a ProtectedItem>,
    ) -> Result<Vec<ItemView>, ControlError> {
        let facts = self.cached_facts()?;
        let key = |item: &ProtectedItem| agent_key(&item.agent, &item.active().system_uuid);
        let items: Vec<(String, &ProtectedItem)> = items.into_iter().map(|item| (key(item), item)).collect();
        // All at once: one by one, a thousand agents are a thousand questions to the store.
        let wanted: Vec<String> = items.iter().map(|(key, _)| key.clone()).collect();
        let agents: Vec<StoredReport> = self.records().named(Kind::Report, &wanted)?;
        let agents: HashMap<String, &StoredReport> =
            agents.iter().map(|stored| (stored.key(), stored)).collect();
        let view = |(key, item): &(String, &ProtectedItem)| self.view(&facts, item, agents.get(key).copied());
        Ok(items.iter().map(view).collect())
    }

    /// One protected machine.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn item(&self, name: &ObjectName) -> Result<ItemView, ControlError> {
        let item = self.stored_item(name)?.value;
        let agent = self.agent_report(&item.agent, &item.active().system_uuid)?;
        Ok(self.view(&self.facts_of(&item)?, &item, agent.as_ref()))
    }

    /// What a view of one machine is computed from, read now: what concerns it, and not everybody's.
    fn facts_of(&self, item: &ProtectedItem) -> Result<Facts, ControlError> {
        let path = item.replication.as_ref();
        let names = path
            .map(|path| [(Role::ProcessServer, &path.process_server), (Role::Target, &path.master_target)]);
        let mut facts = Facts {
            groups: self.groups()?.into_iter().map(|group| (group.name.key(), group)).collect(),
            ..Facts::default()
        };
        for (role, name) in names.into_iter().flatten() {
            let report = self.server_report(role, name)?;
            facts.servers.extend(report.map(|report| (format!("{role}/{name}"), report)));
        }
        Ok(facts)
    }

    /// Changes what a machine shall be at its recovery site. It is so from its next failover on; readiness judges by it at once.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] while a job works on it; [`ErrorKind::IllegalState`] while it runs there; and what
    /// the recovery site has against the plan.
    pub fn change_plan(&self, name: &ObjectName, plan: &MachinePlan) -> Result<ItemView, ControlError> {
        let Versioned { value: mut item, version } = self.stored_item(name)?;
        if let Some(job) = item.job {
            return Err(busy("machine", name, job));
        }
        let away = &item.away;
        if item.protection.active == Side::Away {
            let message = format!("{name} runs at {}: what it is there cannot be planned now", away.site);
            return Err(ControlError::new(ErrorKind::IllegalState, "plan.runs", message)
                .remedy("change the machine there; or plan it when it has come home"));
        }
        item.plan = plan.clone();
        if let Some(id) = &item.away.id {
            // First: a plan that the site does not take is not kept.
            let planned = self.site(&item.away.site)?.plan_machine(id, &plan_of(&item));
            planned.map_err(ControlError::from)?;
        }
        let mut batch = Batch::default();
        batch.replace_item(&item, version);
        self.records().commit(batch)?;
        self.item(name)
    }

    pub(crate) fn stored_item(&self, name: &ObjectName) -> Result<Versioned<ProtectedItem>, ControlError> {
        self.records().get(Kind::Item, "protected machine", &name.key())
    }

    /// Its recovery points, oldest first.
    ///
    /// # Errors
    /// Those of the store.
    pub fn recovery_points(&self, item: &ObjectName) -> Result<Vec<RecoveryPoint>, ControlError> {
        let facts = self.cached_facts()?;
        let item = facts
            .items
            .iter()
            .find(|known| known.name == *item)
            .ok_or_else(|| ControlError::not_found("protected machine", item))?;
        Ok(points(&facts, item))
    }

    fn view(&self, facts: &Facts, item: &ProtectedItem, agent: Option<&StoredReport>) -> ItemView {
        let now = self.now();
        let state = agent.and_then(StoredReport::agent);
        let replication = state.and_then(|state| state.replication.as_ref());
        let replication = replication
            .filter(|state| item.replication.as_ref().is_some_and(|path| path.replica == state.replica));
        let points = points(facts, item);
        let rpo_ms = points.last().map(|point| now.0.saturating_sub(point.time.0));
        let policy = facts.group(item).map(|group| &group.policy);
        let rpo_threshold_ms = policy.map_or(u64::MAX, |policy| policy.rpo_threshold_ms);
        let reasons = reasons(facts, item, agent, rpo_ms.filter(|rpo| *rpo > rpo_threshold_ms), now);
        let health = reasons.iter().map(|(health, _)| *health).max().unwrap_or(Health::Normal);
        ItemView {
            group: facts.group(item).map_or_else(|| item.group.clone(), |group| group.name.clone()),
            verdicts: self.last_verdicts(&item.name),
            allowed: match (&item.job, &item.held) {
                (None, None) => item.protection.allowed(),
                (None, Some(_)) => vec![Operation::Disable],
                (Some(_), _) => Vec::new(),
            },
            health,
            reasons: reasons.into_iter().map(|(_, reason)| reason).collect(),
            rpo_ms,
            resync_percent: replication.and_then(percent),
            compared_bytes: replication
                .filter(|state| state.activity == Activity::Comparing)
                .map(|state| state.compared_bytes),
            disk_percents: replication.map(|state| disk_percents(item, state)).unwrap_or_default(),
            sent_bytes: replication.map_or(0, |state| state.sent_bytes),
            resync_sent_bytes: replication.map_or(0, |state| state.resync_sent_bytes),
            changed_bytes: replication.map_or(0, |state| state.changed_bytes),
            transferred_bytes: replication.map_or(0, |state| state.transferred_bytes),
            points: points.len(),
            agent_seen: agent.map(|agent| agent.received),
            agent_build: agent.map(|agent| agent.report.build.clone()).unwrap_or_default(),
            system: state.map(|state| state.system.clone()).unwrap_or_default(),
            addresses: state
                .map(|state| state.interfaces.iter().flat_map(|nic| nic.addresses.clone()).collect())
                .unwrap_or_default(),
            item: item.clone(),
        }
    }
}

/// The recovery points of a machine's replica, oldest first; point 0 (what the disks held before) is none.
pub(crate) fn points(facts: &Facts, item: &ProtectedItem) -> Vec<RecoveryPoint> {
    let replica = item.replication.as_ref().and_then(|path| {
        facts.servers.get(&format!("{}/{}", Role::Target, path.master_target))?.replica(&path.replica)
    });
    replica
        .map(|replica| replica.points.iter().filter(|point| point.seq.0 > 0).cloned().collect())
        .unwrap_or_default()
}

/// How far a comparison is.
fn percent(state: &ReplicationState) -> Option<u8> {
    (state.activity == Activity::Comparing && state.disk_bytes > 0).then(|| {
        u8::try_from(state.compared_bytes.min(state.disk_bytes) * 100 / state.disk_bytes).unwrap_or(100)
    })
}

/// How far each disk is that no recovery point holds yet.
fn disk_percents(item: &ProtectedItem, state: &ReplicationState) -> BTreeMap<u16, u8> {
    let percent = |seeded: &SeededDisk| {
        let number = seeded.disk.0;
        let size = item.disk_sizes.get(usize::from(number)).filter(|size| **size > 0)?;
        let is_adding = item.disk_standings.get(&number) == Some(&DiskStanding::Adding);
        let percent = u128::from(seeded.bytes.min(*size)) * 100 / u128::from(*size);
        is_adding.then_some((number, u8::try_from(percent).ok()?))
    };
    state.seeded.iter().filter_map(percent).collect()
}

/// Problems of agents with which nothing is replicated until somebody does something.
const STOPS: [&str; 2] = ["agent.disks-changed", "agent.start"];

/// What a person must know of a machine.
#[derive(Default)]
struct Reasons(Vec<(Health, JobError)>);

impl Reasons {
    fn tell(&mut self, health: Health, code: &str, message: String, cause: &str, remedy: &str) {
        self.0.push((
            health,
            JobError { code: code.into(), message, cause: cause.into(), remedy: remedy.into() },
        ));
    }
}

/// Why a machine is not well.
fn reasons(
    facts: &Facts,
    item: &ProtectedItem,
    agent: Option<&StoredReport>,
    rpo_exceeded_ms: Option<u64>,
    now: UnixMillis,
) -> Vec<(Health, JobError)> {
    let mut reasons = Reasons::default();
    if let Some(held) = &item.held {
        let (health, reason) = behind::reason(&item.name, held);
        reasons.0.push((health, reason));
    }
    if item.stale_seen.is_some() {
        let message = format!(
            "stale: an instance that was left is superseded by the machine at {}",
            item.active().site
        );
        let cause = "it came back to life after the failover";
        let remedy = "shut it down; a reprotect does so by itself, but for a physical server";
        reasons.tell(Health::Critical, "protection.stale-instance", message, cause, remedy);
    }
    if item.protection.phase == Phase::Committed {
        let message = format!("{} is not protected: nothing replicates since its failover", item.name);
        reasons.tell(Health::Warning, "protection.reprotect-needed", message, "", "reprotect it");
    }
    if item.protection.replicates() {
        reasons_of_path(&mut reasons, facts, item, agent, now);
    }
    if let Some(rpo) = rpo_exceeded_ms.filter(|_| item.protection.replicates()) {
        let message = format!(
            "the newest recovery point of {} is {} s old, more than its policy allows",
            item.name,
            rpo / 1000
        );
        let cause = "the network between the sites is cut or too slow, or a server is down";
        reasons.tell(Health::Critical, "rpo.exceeded", message, cause, "see the other reasons");
    }
    reasons_of_proofs(&mut reasons, item);
    let state = agent.and_then(StoredReport::agent);
    let failure = state.and_then(|state| state.replication.as_ref()?.failure.as_ref());
    for problem in state.iter().flat_map(|state| &state.problems).chain(failure) {
        let health = if STOPS.contains(&problem.code.as_str()) { Health::Critical } else { Health::Warning };
        reasons.tell(health, &problem.code, problem.message.clone(), "", "");
    }
    reasons.0
}

/// The last proof of a point of its present replica has not passed.
fn reasons_of_proofs(reasons: &mut Reasons, item: &ProtectedItem) {
    let replica = item.replication.as_ref().map(|path| &path.replica);
    let Some(last) = item.proving.last.as_ref().filter(|last| Some(&last.replica) == replica) else { return };
    let (name, seq, seen) = (&item.name, last.seq, &last.seen);
    let look = format!("look at it with `switchback machine proofs {name} --picture FILE`");
    match last.verdict {
        Verdict::Passed => {}
        Verdict::Failed => reasons.tell(
            Health::Warning,
            "proof.failed",
            format!("recovery point {seq} of {name} has failed its proof: {seen}"),
            "the machine would not come up from this point, or the probe does not fit it",
            &format!("{look}; verify older points to find one that works, mend the machine, then verify a new point"),
        ),
        Verdict::Inconclusive => reasons.tell(
            Health::Warning,
            "proof.inconclusive",
            format!("the proof of recovery point {seq} of {name} tells nothing: {seen}"),
            "the machine writes nothing to its serial console, or the sandbox itself was not well",
            &format!("{look}; let the machine use its serial console (console=ttyS0), or give it a probe, then verify again"),
        ),
    }
}

/// What on the way from the machine to its replica is not well.
fn reasons_of_path(
    reasons: &mut Reasons,
    facts: &Facts,
    item: &ProtectedItem,
    agent: Option<&StoredReport>,
    now: UnixMillis,
) {
    if !agent.is_some_and(|agent| agent.is_alive(now)) {
        let message = format!("the mobility agent of {} does not report", item.name);
        let cause = "the machine is off or hangs, its agent was stopped, or the network is cut";
        reasons.tell(Health::Critical, "agent.no-heartbeat", message, cause, "look at the machine's console");
    }
    let Some(path) = &item.replication else { return };
    for (role, name) in [(Role::ProcessServer, &path.process_server), (Role::Target, &path.master_target)] {
        if !facts.servers.get(&format!("{role}/{name}")).is_some_and(|report| report.is_alive(now)) {
            let message = format!("the {role} {name} does not report");
            let cause = "its process or host is down, or the network is cut";
            let remedy = "look at its host; replication goes on by itself when it is back";
            reasons.tell(Health::Critical, "server.no-heartbeat", message, cause, remedy);
        }
    }
    let spool = facts
        .servers
        .get(&format!("{}/{}", Role::ProcessServer, path.process_server))
        .filter(|report| report.is_alive(now))
        .and_then(|report| {
            report.process_server()?.spools.iter().find(|spool| spool.replica == path.replica)
        });
    if let Some(why) = spool.and_then(|spool| spool.waiting.as_ref()) {
        let message = format!("the process server {} waits: {why}", path.process_server);
        let remedy = "what it has taken is safe there and is delivered when this is over";
        reasons.tell(Health::Warning, "process-server.waiting", message, "", remedy);
    }
    let target = facts.servers.get(&format!("{}/{}", Role::Target, path.master_target));
    let replica = target.and_then(|target| target.replica(&path.replica));
    if let Some(problem) = replica.and_then(|replica| replica.problem.as_ref()) {
        reasons.tell(Health::Critical, &problem.code, problem.message.clone(), "", "");
    }
}
