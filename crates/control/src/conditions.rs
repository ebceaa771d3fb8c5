//! What is not as it should be, and since when: kept, so that each condition is told of once when it begins and once when it is over, whoever looks.
//!
//! Each source (health, readiness, …) says again and again what it finds; [`Control::observe`] compares that with what is kept, and writes the event
//! of a change together with the new record. A restart tells nothing twice, and of several servers on one database one is first: the others meet a
//! conflict and find, at their next look, that it has been told.
//!
//! ```text
//! key  SOURCE/OBJECT   a record is there as long as something is not well, or is to be told yet
//!      happened/TIME   something that has no duration: a job has failed; gone when it was told
//! New ──(delay)──▶ Told ──▶ Over ──▶ gone      New ──▶ gone, when it is over before anybody was told
//! ```
//! Who is told is `alerts::outbox`'s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use switchback_model::{Event, Severity, UnixMillis};
use switchback_store::{Expect, Kind, StoreError};

use crate::records::{Batch, Versioned};
use crate::{Control, ControlError};

/// Objects whose changes are written together: a batch of the store has a limit, and a conflict delays all of them.
const TOGETHER: usize = 50;
/// The source of what has no duration.
const HAPPENED: &str = "happened";

/// What is not well with one object, as one source sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Condition {
    /// A machine, a server, a destination.
    pub(crate) object: String,
    /// By its code.
    pub(crate) standing: BTreeMap<String, Standing>,
}

/// One thing that is not well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    pub(crate) severity: Severity,
    /// As it was when it began.
    pub(crate) message: String,
    pub(crate) since: UnixMillis,
    pub(crate) stage: Stage,
}

/// What has been said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// Nobody was told.
    New,
    /// Somebody was, the last time then.
    Told {
        /// When.
        at: UnixMillis,
    },
    /// Those who were told are to hear that it is over.
    Over {
        /// Since when.
        at: UnixMillis,
    },
    /// It has no duration.
    Happened,
}

impl Standing {
    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::New | Stage::Told { .. })
    }
}

/// What a source finds not to be well: by object, then by code.
pub(crate) type Findings = BTreeMap<String, BTreeMap<String, Finding>>;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) message: String,
}

fn key(source: &str, object: &str) -> String {
    format!("{source}/{}", object.to_lowercase())
}

impl Control {
    /// Takes all that a source finds: what it does not name is well.
    pub(crate) fn observe(&self, source: &str, mut findings: Findings) -> Result<(), ControlError> {
        let known = self.records().keyed_below::<Condition>(Kind::Condition, &format!("{source}/"))?;
        let mut changes: Vec<_> = known
            .into_iter()
            .map(|(_, known)| {
                let found = findings.remove(&known.value.object).unwrap_or_default();
                (known.value.object.clone(), Some(known), found)
            })
            .collect();
        changes.extend(findings.into_iter().map(|(object, found)| (object, None, found)));
        for some in changes.chunks(TOGETHER) {
            let mut batch = Batch::default();
            for (object, known, found) in some {
                self.change(source, object, known.as_ref(), found, &mut batch);
            }
            self.commit_observed(batch)?;
        }
        Ok(())
    }

    /// Takes what a source finds of one object.
    pub(crate) fn observe_one(
        &self,
        source: &str,
        object: &str,
        found: &BTreeMap<String, Finding>,
    ) -> Result<(), ControlError> {
        let known = self.records().find(Kind::Condition, &key(source, object))?;
        let mut batch = Batch::default();
        self.change(source, object, known.as_ref(), found, &mut batch);
        self.commit_observed(batch)
    }

    /// Another server saw the same at the same moment and has told of it; what it has not is told at the next look.
    fn commit_observed(&self, batch: Batch) -> Result<(), ControlError> {
        match self.records().commit(batch) {
            Ok(()) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps that something has happened which people are to be told of, with its event.
    pub(crate) fn add_happening(&self, batch: &mut Batch, event: &Event) {
        self.add_event(batch, event);
        let standing = Standing {
            severity: event.severity,
            message: event.message.clone(),
            since: event.time,
            stage: Stage::Happened,
        };
        let condition =
            Condition { object: event.object.clone(), standing: [(event.code.clone(), standing)].into() };
        let key = key(HAPPENED, &self.time_key(event.time));
        batch.put(Kind::Condition, key, Expect::Absent, &condition);
    }

    /// All of them, with their keys.
    pub(crate) fn conditions(&self) -> Result<Vec<(String, Versioned<Condition>)>, ControlError> {
        self.records().keyed_below(Kind::Condition, "")
    }

    fn change(
        &self,
        source: &str,
        object: &str,
        known: Option<&Versioned<Condition>>,
        found: &BTreeMap<String, Finding>,
        batch: &mut Batch,
    ) {
        let before = known.map(|known| known.value.clone()).unwrap_or_default();
        let mut after = Condition { object: object.into(), standing: before.standing.clone() };
        let now = self.now();
        for (code, finding) in found {
            if before.standing.get(code).is_some_and(Standing::is_open) {
                continue;
            }
            // Over and here again before anybody heard: to those who were told it has lasted.
            let stage = match before.standing.get(code).map(|standing| standing.stage) {
                Some(Stage::Over { at }) => Stage::Told { at },
                _ => Stage::New,
            };
            let Finding { severity, message } = finding.clone();
            self.add_event(batch, &event(now, code.clone(), severity, object, message.clone()));
            after.standing.insert(code.clone(), Standing { severity, message, since: now, stage });
        }
        for (code, standing) in &before.standing {
            if found.contains_key(code) || !standing.is_open() {
                continue;
            }
            let message = format!("{object}: {code} is over");
            self.add_event(batch, &event(now, format!("{code}.resolved"), Severity::Info, object, message));
            if let (Stage::Told { .. }, Some(kept)) = (standing.stage, after.standing.get_mut(code)) {
                kept.stage = Stage::Over { at: now };
            } else {
                after.standing.remove(code);
            }
        }
        if after != before {
            put_condition(batch, &key(source, object), known.map(|known| known.version), &after);
        }
    }
}

/// Keeps a condition that was read at a version, or forgets it when there is nothing left of it.
pub(crate) fn put_condition(batch: &mut Batch, key: &str, version: Option<u64>, condition: &Condition) {
    match (version, condition.standing.is_empty()) {
        (Some(version), true) => batch.delete(Kind::Condition, key, Expect::Version(version)),
        (Some(version), false) => batch.replace(Kind::Condition, key, version, condition),
        (None, false) => batch.put(Kind::Condition, key, Expect::Absent, condition),
        (None, true) => {}
    }
}

fn event(time: UnixMillis, code: String, severity: Severity, object: &str, message: String) -> Event {
    Event { time, code, severity, object: object.into(), message }
}
