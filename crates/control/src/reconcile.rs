//! What is looked at again and again: health of machines and servers, replicas that belong to nobody, old records.
//!
//! Level-triggered: each round looks at everything, compares it with what it saw last and tells of changes. It may be killed and started
//! anew at any time; then it tells once more of what is not well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use switchback_identity::Role;
use switchback_model::component::ReplicaMode;
use switchback_model::{Event, ProtectedItem, Severity};
use switchback_store::Kind;

use crate::background::Background;
use crate::backup;
use crate::inventory::values;
use crate::records::Batch;
use crate::{Control, ControlError, Health};

const EVERY: Duration = Duration::from_secs(3);
/// How long events, the audit log and ended jobs are kept, in milliseconds: 90 days.
const KEEP_MS: u64 = 90 * 24 * 3_600_000;
/// Rounds between two looks for old records: an hour.
const PRUNE_EVERY: u32 = 1200;

/// What was seen last.
#[derive(Debug, Default)]
struct Seen {
    /// Codes of what was not well, by object.
    reasons: BTreeMap<String, BTreeSet<String>>,
    orphans: BTreeSet<String>,
    rounds: u32,
}

/// Looks until it is dropped.
pub(crate) fn watch(control: &Control) -> Result<Background, ControlError> {
    let (control, mut seen) = (control.clone(), Seen::default());
    Background::start("reconciler", move |ending| {
        if let Err(error) = control.reconcile(&mut seen) {
            tracing::error!(%error, "the configuration server cannot look at its machines for the moment");
        }
        control.sleep_until_woken(EVERY);
        // Woken for jobs only.
        ending.pause(Duration::from_millis(200));
    })
}

impl Control {
    fn reconcile(&self, seen: &mut Seen) -> Result<(), ControlError> {
        // Nobody reports to it any more.
        if self.superseded()?.is_some() {
            return Ok(());
        }
        let mut batch = Batch::default();
        let backup = self.backup_status()?;
        let reasons = backup.reasons.iter().filter(|reason| reason.code != "backup.none");
        let reasons = reasons.map(|reason| (reason.code.clone(), reason.to_string())).collect();
        self.tell_changes(seen, &mut batch, backup::SERVER_OBJECT, backup.health, reasons);
        for view in self.items()? {
            let reasons = view.reasons.iter().map(|reason| (reason.code.clone(), reason.to_string()));
            self.tell_changes(seen, &mut batch, view.item.name.as_str(), view.health, reasons.collect());
        }
        for view in self.servers_if(|identity| identity.role != Role::Source)? {
            let reasons = view.reasons.iter().map(|reason| (reason.code.clone(), reason.to_string()));
            self.tell_changes(seen, &mut batch, &view.identity.to_string(), view.health, reasons.collect());
        }
        self.tell_orphans(seen, &mut batch)?;
        self.records().commit(batch)?;
        if seen.rounds.is_multiple_of(PRUNE_EVERY) {
            let before = format!("{:015}", self.now().0.saturating_sub(KEEP_MS));
            for kind in [Kind::Event, Kind::Audit] {
                self.records().store().prune(kind, &before)?;
            }
            self.prune_jobs()?;
        }
        seen.rounds = seen.rounds.wrapping_add(1);
        Ok(())
    }

    fn tell_changes(
        &self,
        seen: &mut Seen,
        batch: &mut Batch,
        object: &str,
        health: Health,
        reasons: BTreeMap<String, String>,
    ) {
        let before = seen.reasons.remove(object).unwrap_or_default();
        let severity = if health == Health::Critical { Severity::Critical } else { Severity::Warning };
        let event = |code: &str, severity, message: String| Event {
            time: self.now(),
            code: code.into(),
            severity,
            object: object.into(),
            message,
        };
        for (code, message) in &reasons {
            if !before.contains(code) {
                self.add_event(batch, &event(code, severity, message.clone()));
            }
        }
        for code in before.iter().filter(|code| !reasons.contains_key(*code)) {
            self.add_event(
                batch,
                &event(&format!("{code}.resolved"), Severity::Info, format!("{object}: {code} is over")),
            );
        }
        if !reasons.is_empty() {
            seen.reasons.insert(object.into(), reasons.into_keys().collect());
        }
    }

    /// Replicas at master targets that no machine knows of take room, and are left alone: they may be all that is left of something.
    fn tell_orphans(&self, seen: &mut Seen, batch: &mut Batch) -> Result<(), ControlError> {
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
        let mut orphans = BTreeSet::new();
        for target in self.reports_of(Role::Target)?.into_iter().filter(|target| target.is_alive(self.now()))
        {
            for replica in target.master_target().iter().flat_map(|state| &state.replicas) {
                // One that has just been removed is told of once more.
                let is_removed = replica.reached == Some(ReplicaMode::Remove);
                if !is_removed && !known.contains(replica.replica.as_str()) {
                    orphans.insert(format!("{} at {}", replica.replica, target.peer.name));
                }
            }
        }
        for orphan in orphans.difference(&seen.orphans) {
            let message = format!(
                "the replica {orphan} belongs to no protected machine; if nobody needs it, remove its directory there"
            );
            let event = Event {
                time: self.now(),
                code: "replica.orphan".into(),
                severity: Severity::Warning,
                object: orphan.clone(),
                message,
            };
            self.add_event(batch, &event);
        }
        seen.orphans = orphans;
        Ok(())
    }

    /// Job ids sort by time: the first 48 bits are milliseconds.
    fn prune_jobs(&self) -> Result<(), ControlError> {
        let before = format!("{:012x}", self.now().0.saturating_sub(KEEP_MS) & 0xffff_ffff_ffff);
        self.records().store().prune(Kind::Job, &before)?;
        Ok(())
    }
}
