//! From conditions to alerts: what waits to be sent is in the store, one record for each alert and destination.
//!
//! Invariants: an alert comes into the outbox in one change with what its condition says of having been told, so a server that is killed anywhere neither
//! loses nor doubles it; at most [`WAITING_MAX`] wait for a destination: then the oldest give way, the next one after them carries how many, and an
//! event tells. Keys are `DESTINATION/TIME`, so what waits for one destination is read in order.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use switchback_model::{Event, Severity, UnixMillis};
use switchback_store::{Expect, Kind, StoreError};

use super::{Alert, AlertDestination, AlertPhase, AlertPolicy};
use crate::conditions::{Condition, Stage, Standing, put_condition};
use crate::records::{Batch, Versioned};
use crate::{Control, ControlError};

/// Alerts that wait for one destination at most.
pub(super) const WAITING_MAX: usize = 1_000;

/// Changes after which a batch is committed: what one more condition may add, for all destinations, fits the store's limit too.
const CHANGES_ENOUGH: usize = 200;

/// An alert on its way to one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub(super) alert: Alert,
    /// So many before it gave way.
    #[serde(default)]
    pub(super) dropped: u64,
}

/// What waits for each destination, read when it is first needed; as it will be when the batch is committed.
#[derive(Default)]
struct Outbox(BTreeMap<String, VecDeque<Held>>);

struct Held {
    key: String,
    waiting: Waiting,
    /// It is as it was read; what this very round has put has none known yet.
    expect: Expect,
}

impl Held {
    fn read((key, Versioned { value, version }): (String, Versioned<Waiting>)) -> Self {
        Self { key, waiting: value, expect: Expect::Version(version) }
    }
}

pub(super) fn prefix(destination: &str) -> String {
    format!("{destination}/")
}

/// The phase of the alert that is due for a standing condition.
fn due(standing: &Standing, policy: AlertPolicy, now: UnixMillis) -> Option<AlertPhase> {
    let past = |since: UnixMillis, seconds: u64| now.0.saturating_sub(since.0) >= seconds * 1000;
    match standing.stage {
        Stage::New => past(standing.since, policy.delay_s).then_some(AlertPhase::Begun),
        Stage::Told { at } => {
            (policy.remind_after_s > 0 && past(at, policy.remind_after_s)).then_some(AlertPhase::Reminder)
        }
        Stage::Over { .. } => Some(AlertPhase::Ended),
        Stage::Happened => Some(AlertPhase::Happened),
    }
}

impl Control {
    /// Turns what conditions have to tell into alerts.
    pub(crate) fn raise_alerts(&self) -> Result<(), ControlError> {
        let (destinations, policy) = (self.alert_destinations()?, self.alert_policy()?);
        let mut outbox = Outbox::default();
        let mut batch = Batch::default();
        for (key, known) in self.conditions()? {
            let mut condition = known.value.clone();
            self.raise(&mut condition, &destinations, policy, &mut outbox, &mut batch)?;
            if condition != known.value {
                put_condition(&mut batch, &key, Some(known.version), &condition);
            }
            if batch.len() >= CHANGES_ENOUGH && !self.commit_raised(std::mem::take(&mut batch))? {
                return Ok(());
            }
        }
        self.commit_raised(batch).map(|_| ())
    }

    /// `false`: somebody else sent or raised one of these just now; all of them are looked at again in the next round.
    fn commit_raised(&self, batch: Batch) -> Result<bool, ControlError> {
        match self.records().commit(batch) {
            Ok(()) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn raise(
        &self,
        condition: &mut Condition,
        destinations: &[AlertDestination],
        policy: AlertPolicy,
        outbox: &mut Outbox,
        batch: &mut Batch,
    ) -> Result<(), ControlError> {
        let now = self.now();
        let mut told = Vec::new();
        for (code, standing) in &condition.standing {
            let Some(phase) = due(standing, policy, now) else { continue };
            let alert = Alert {
                id: self.time_key(now),
                phase,
                time: if let Stage::Over { at } = standing.stage { at } else { now },
                since: standing.since,
                severity: standing.severity,
                code: code.clone(),
                object: condition.object.clone(),
                message: standing.message.clone(),
            };
            let mut takers = Self::takers(destinations, standing.severity).peekable();
            // While nobody wants to know it is kept as new: who comes later hears of what lasts.
            let is_open = matches!(phase, AlertPhase::Begun | AlertPhase::Reminder);
            if takers.peek().is_none() && is_open {
                continue;
            }
            for taker in takers {
                self.put_alert(&taker.name.key(), &alert, outbox, batch)?;
            }
            told.push((code.clone(), is_open));
        }
        for (code, is_open) in told {
            match condition.standing.get_mut(&code) {
                Some(standing) if is_open => standing.stage = Stage::Told { at: now },
                _ => drop(condition.standing.remove(&code)),
            }
        }
        Ok(())
    }

    fn put_alert(
        &self,
        destination: &str,
        alert: &Alert,
        outbox: &mut Outbox,
        batch: &mut Batch,
    ) -> Result<(), ControlError> {
        if !outbox.0.contains_key(destination) {
            let waiting = self.records().keyed_below(Kind::Alert, &prefix(destination))?;
            outbox.0.insert(destination.into(), waiting.into_iter().map(Held::read).collect());
        }
        let waiting = outbox.0.entry(destination.into()).or_default();
        if waiting.len() >= WAITING_MAX
            && let Some(oldest) = waiting.pop_front()
        {
            self.give_way(destination, &oldest, batch);
            if let Some(next) = waiting.front_mut() {
                next.waiting.dropped += oldest.waiting.dropped + 1;
                batch.put(Kind::Alert, next.key.clone(), next.expect, &next.waiting);
                next.expect = Expect::Any;
            }
        }
        let key = format!("{}{}", prefix(destination), alert.id);
        let new = Waiting { alert: alert.clone(), dropped: 0 };
        batch.put(Kind::Alert, key.clone(), Expect::Absent, &new);
        waiting.push_back(Held { key, waiting: new, expect: Expect::Any });
        Ok(())
    }

    fn give_way(&self, destination: &str, oldest: &Held, batch: &mut Batch) {
        batch.delete(Kind::Alert, oldest.key.clone(), oldest.expect);
        let Alert { object, code, .. } = &oldest.waiting.alert;
        let message = format!(
            "the alert {code} of {object} was not sent to {destination} and is dropped: {WAITING_MAX} wait for it, and the oldest give way"
        );
        let event = Event {
            time: self.now(),
            code: "alerts.dropped".into(),
            severity: Severity::Warning,
            object: format!("alert destination {destination}"),
            message,
        };
        self.add_event(batch, &event);
    }
}
