//! What is looked at again and again: health of machines and servers, replicas that belong to nobody, old records.
//!
//! Level-triggered: each round looks at everything, and has it compared with what is kept (`conditions`). It may be killed and started anew at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use switchback_identity::Role;
use switchback_model::component::ReplicaMode;
use switchback_model::{JobError, ProtectedItem, Severity};
use switchback_store::Kind;

use crate::background::Background;
use crate::backup;
use crate::conditions::{Finding, Findings};
use crate::inventory::values;
use crate::{Control, ControlError, Health, ItemView};

const EVERY: Duration = Duration::from_secs(3);
/// How long events, the audit log and ended jobs are kept, in milliseconds: 90 days.
const KEEP_MS: u64 = 90 * 24 * 3_600_000;
/// Rounds between two looks for old records: an hour.
const PRUNE_EVERY: u32 = 1200;

/// Looks until it is dropped.
pub(crate) fn watch(control: &Control) -> Result<Background, ControlError> {
    let (control, mut rounds) = (control.clone(), 0_u32);
    Background::start("reconciler", move |ending| {
        let pruned = || if rounds.is_multiple_of(PRUNE_EVERY) { control.prune() } else { Ok(()) };
        if let Err(error) = control.reconcile().and_then(|()| pruned()) {
            tracing::error!(%error, "the configuration server cannot look at its machines for the moment");
        }
        rounds = rounds.wrapping_add(1);
        control.sleep_until_woken(EVERY);
        // Woken for jobs only.
        ending.pause(Duration::from_millis(200));
    })
}

impl Control {
    /// Looks once at everything, and has those told who are to be told: what [`Control::start`] does again and again.
    ///
    /// # Errors
    /// Those of the store.
    pub fn reconcile(&self) -> Result<(), ControlError> {
        // A server that was superseded sees nothing: nobody reports to it any more. That it was is told yet.
        if self.superseded()?.is_none() {
            self.observe("health", self.health_findings()?)?;
            self.observe("orphans", self.orphans()?)?;
            self.observe("alerts", self.undelivered()?)?;
            self.begin_due_proof()?;
        }
        self.raise_alerts()
    }

    /// What is not well with the server itself, with machines and with their servers.
    fn health_findings(&self) -> Result<Findings, ControlError> {
        let backup = self.backup_status()?;
        let reasons: Vec<_> =
            backup.reasons.iter().filter(|reason| reason.code != "backup.none").cloned().collect();
        let mut findings = Findings::new();
        findings.insert(backup::SERVER_OBJECT.into(), findings_of(backup.health, &reasons));
        for view in self.items()? {
            findings.insert(view.item.name.to_string(), findings_of(view.health, &view.reasons));
        }
        for view in self.servers_if(|identity| identity.role != Role::Source)? {
            findings.insert(view.identity.to_string(), findings_of(view.health, &view.reasons));
        }
        Ok(findings)
    }

    /// What is not well with a machine as it has just been seen.
    pub(crate) fn observe_health(&self, view: &ItemView) -> Result<(), ControlError> {
        self.observe_one("health", view.item.name.as_str(), &findings_of(view.health, &view.reasons))
    }

    fn prune(&self) -> Result<(), ControlError> {
        let before = format!("{:015}", self.now().0.saturating_sub(KEEP_MS));
        for kind in [Kind::Event, Kind::Audit] {
            self.records().store().prune(kind, &before)?;
        }
        self.prune_jobs()
    }

    /// Replicas at master targets that no machine knows of take room, and are left alone: they may be all that is left of something.
    fn orphans(&self) -> Result<Findings, ControlError> {
        let items: Vec<ProtectedItem> = values(self.records().all(Kind::Item)?);
        let known: BTreeSet<String> = items
            .iter()
            .flat_map(|item| {
                item.replication
                    .iter()
                    .map(|path| &path.replica)
                    .chain(item.retired.iter().map(|retired| &retired.replica))
            })
            .map(ToString::to_string)
            .collect();
        let mut orphans = Findings::new();
        for target in self.reports_of(Role::Target)?.into_iter().filter(|target| target.is_alive(self.now()))
        {
            for replica in target.master_target().iter().flat_map(|state| &state.replicas) {
                // One that has just been removed is told of once more.
                let is_removed = replica.reached == Some(ReplicaMode::Remove);
                if !is_removed && !known.contains(replica.replica.as_str()) {
                    let orphan = format!("{} at {}", replica.replica, target.peer.name);
                    let message = format!(
                        "the replica {orphan} belongs to no protected machine; if nobody needs it, remove its directory there"
                    );
                    let finding = Finding { severity: Severity::Warning, message };
                    orphans.insert(orphan, [("replica.orphan".to_owned(), finding)].into());
                }
            }
        }
        Ok(orphans)
    }

    /// Job ids sort by time: the first 48 bits are milliseconds.
    fn prune_jobs(&self) -> Result<(), ControlError> {
        let before = format!("{:012x}", self.now().0.saturating_sub(KEEP_MS) & 0xffff_ffff_ffff);
        self.records().store().prune(Kind::Job, &before)?;
        Ok(())
    }
}

/// An object's reasons are as serious as the object is.
fn findings_of(health: Health, reasons: &[JobError]) -> BTreeMap<String, Finding> {
    let severity = if health == Health::Critical { Severity::Critical } else { Severity::Warning };
    let finding = |reason: &JobError| Finding { severity, message: reason.to_string() };
    reasons.iter().map(|reason| (reason.code.clone(), finding(reason))).collect()
}
