//! Makes backups in time: after changes, on the schedule, and again after a failure.
//!
//! Level-triggered: each look compares what is with what the last backup held, so nothing that changes while a backup is made is missed, and a
//! restart begins with a backup if the server cannot tell that nothing has changed since the last.

use std::sync::{Mutex, MutexGuard, PoisonError};

use switchback_model::{JobError, UnixMillis};
use switchback_store::Fingerprint;

use super::destination::Destination;
use super::format::Reason;
use super::{BackupPolicy, GAP_MS, LOOK_EVERY, Made, RETRY_MS};
use crate::background::Background;
use crate::{Control, ControlError};

/// What changes when something does that a backup would hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) store: Fingerprint,
    pub(crate) files: [u8; 32],
}

/// What this process knows of its backups; a restart finds it again at the destination.
#[derive(Debug, Default)]
pub(crate) struct Backups {
    state: Mutex<State>,
    turn: Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// What the newest backup holds.
    saved: Option<Seen>,
    success: Option<Made>,
    scheduled: Option<UnixMillis>,
    failure: Option<(UnixMillis, JobError)>,
    /// The destination has been looked at.
    found: bool,
}

impl Backups {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy is another one.
    pub(super) fn forget(&self) {
        *self.state() = State::default();
    }

    pub(super) fn saved(&self, seen: Seen) {
        self.state().saved = Some(seen);
    }

    pub(super) fn last(&self) -> (Option<Made>, Option<(UnixMillis, JobError)>) {
        let state = self.state();
        (state.success.clone(), state.failure.clone())
    }

    pub(super) fn note(&self, made: &Result<Made, ControlError>, now: UnixMillis) {
        let mut state = self.state();
        match made {
            Ok(made) => {
                state.failure = None;
                if made.name.reason == Reason::Scheduled {
                    state.scheduled = Some(made.name.made);
                }
                state.success = Some(made.clone());
            }
            Err(error) => state.failure = Some((now, (*error.error).clone())),
        }
    }
}

/// Which backup is to be made now, if any.
fn due(policy: &BackupPolicy, state: &State, seen: Seen, now: UnixMillis) -> Option<Reason> {
    let age = |since: UnixMillis| now.0.saturating_sub(since.0);
    if state.failure.as_ref().is_some_and(|(at, _)| age(*at) < RETRY_MS) {
        return None;
    }
    let scheduled = state.scheduled.map(age);
    if policy.every_ms > 0 && scheduled.is_none_or(|age| age >= policy.every_ms) {
        return Some(Reason::Scheduled);
    }
    let has_changed = state.saved != Some(seen);
    let last = state.success.as_ref().map(|made| age(made.name.made));
    (policy.continuous && has_changed && last.is_none_or(|age| age >= GAP_MS)).then_some(Reason::Continuous)
}

/// Makes them until it is dropped.
pub(crate) fn watch(control: &Control) -> Result<Background, ControlError> {
    let (control, mut said) = (control.clone(), String::new());
    Background::start("backup", move |ending| {
        let text = control.keep_backups().err().map(|error| error.to_string()).unwrap_or_default();
        if text != said && !text.is_empty() {
            tracing::error!(error = text, "the configuration server is not backed up");
        }
        said = text;
        ending.pause(LOOK_EVERY);
    })
}

impl Control {
    /// One look; makes the backup that is due.
    fn keep_backups(&self) -> Result<(), ControlError> {
        let Some(policy) = self.backup_policy()? else { return Ok(()) };
        if self.superseded()?.is_some() {
            return Ok(());
        }
        let home = self.server_home()?;
        if !self.inner.backups.state().found {
            self.find_backups(&policy);
        }
        let seen = self.backup_fingerprint(home)?;
        let state = self.inner.backups.state().clone();
        match due(&policy, &state, seen, self.now()) {
            Some(reason) => self.back_up(reason).map(|_| ()),
            None => Ok(()),
        }
    }

    /// After a start: what was made before. Also a superseding server's backups are met here, at the first attempt.
    fn find_backups(&self, policy: &BackupPolicy) {
        let listed = Destination::open(&policy.destination).and_then(|destination| destination.list());
        // What is wrong with it is told by the attempt that follows.
        let Ok(mut found) = listed else { return };
        found.sort_by(|a, b| b.name.cmp(&a.name));
        let scheduled = found.iter().find(|made| made.name.reason == Reason::Scheduled);
        let mut state = self.inner.backups.state();
        state.scheduled = scheduled.map(|made| made.name.made);
        state.success = found.into_iter().next();
        state.found = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::retention::{BackupName, Keep};

    fn seen(count: u64) -> Seen {
        Seen { store: Fingerprint { count, versions: count }, files: [0; 32] }
    }

    fn policy(continuous: bool, every_ms: u64) -> BackupPolicy {
        let (destination, recipients) = ("/backups".into(), vec!["age1".into()]);
        BackupPolicy { destination, recipients, continuous, every_ms, keep: Keep::default() }
    }

    fn made(at: u64, reason: Reason) -> Made {
        Made { name: BackupName::new(UnixMillis(at), reason, 0).unwrap(), len: 1 }
    }

    #[test]
    fn a_change_is_in_a_backup_within_a_minute_and_calm_makes_none() {
        let policy = policy(true, 0);
        let mut state = State::default();
        assert_eq!(due(&policy, &state, seen(1), UnixMillis(0)), Some(Reason::Continuous), "the first");
        state.saved = Some(seen(1));
        state.success = Some(made(1_000, Reason::Continuous));
        assert_eq!(due(&policy, &state, seen(1), UnixMillis(1 << 40)), None, "nothing has changed");
        assert_eq!(due(&policy, &state, seen(2), UnixMillis(2_000)), None, "one has just been made");
        let next = (2..62).find(|second| due(&policy, &state, seen(2), UnixMillis(second * 1000)).is_some());
        assert!(next.is_some_and(|second| second * 1000 <= 1_000 + GAP_MS + 1_000), "{next:?}");
    }

    #[test]
    fn the_schedule_is_kept_whether_or_not_anything_has_changed() {
        let policy = policy(false, 3_600_000);
        let mut state = State { saved: Some(seen(1)), ..State::default() };
        assert_eq!(due(&policy, &state, seen(1), UnixMillis(5)), Some(Reason::Scheduled));
        state.scheduled = Some(UnixMillis(5));
        assert_eq!(due(&policy, &state, seen(2), UnixMillis(3_600_004)), None);
        assert_eq!(due(&policy, &state, seen(2), UnixMillis(3_600_005)), Some(Reason::Scheduled));
    }

    #[test]
    fn a_failure_is_tried_again_but_not_at_once() {
        let error =
            JobError { code: "x".into(), message: "x".into(), cause: String::new(), remedy: String::new() };
        let state = State { failure: Some((UnixMillis(1_000), error)), ..State::default() };
        assert_eq!(due(&policy(true, 0), &state, seen(1), UnixMillis(1_000 + RETRY_MS - 1)), None);
        assert!(due(&policy(true, 0), &state, seen(1), UnixMillis(1_000 + RETRY_MS)).is_some());
    }
}
