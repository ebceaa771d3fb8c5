//! Sends what waits in the outbox, a message for each destination at a time, until the other side has it.
//!
//! Invariants: an alert is forgotten in one change with the note that it was sent, after that; a server that is killed between sends it once more. Of
//! several servers on one database one sends to a destination at a time: it takes the destination's [`DeliveryState`] for [`LEASE_MS`]. A destination
//! that fails is tried again after 10 s, and twice as long each time, up to 10 min; meanwhile others get theirs, and the failure is a condition itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use switchback_model::{JobError, Severity, UnixMillis};
use switchback_store::{Expect, Kind, StoreError};
use zeroize::Zeroizing;

use super::delivery::{DeliveryError, deliver};
use super::outbox::{Waiting, prefix};
use super::{AlertDestination, AlertMessage, Stored};
use crate::background::Background;
use crate::conditions::{Finding, Findings};
use crate::records::{Batch, Versioned};
use crate::{Control, ControlError};

const EVERY: Duration = Duration::from_secs(2);
/// Alerts in one message at most.
const TOGETHER_MAX: usize = 200;
/// How long one server keeps others from a destination: far longer than a message takes.
const LEASE_MS: u64 = 10 * 60_000;
const RETRY_MS_MIN: u64 = 10_000;
const RETRY_MS_MAX: u64 = 600_000;

/// How a destination gets on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeliveryState {
    /// When a message last got there.
    pub sent: Option<UnixMillis>,
    /// Tries that failed since.
    pub failures: u32,
    /// Why the last one did.
    pub failure: Option<JobError>,
    /// Not before then.
    pub next: UnixMillis,
    /// Which server is sending, and until when others leave it alone.
    pub lease: Option<(String, UnixMillis)>,
}

impl DeliveryState {
    fn is_free(&self, owner: &str, now: UnixMillis) -> bool {
        self.lease.as_ref().is_none_or(|(other, until)| other == owner || *until <= now)
    }
}

/// How long to wait after so many failures.
fn pause_ms(failures: u32) -> u64 {
    RETRY_MS_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(RETRY_MS_MAX)
}

/// How a message gets to a destination.
type Deliver<'a> =
    &'a dyn Fn(&AlertDestination, Option<&Zeroizing<String>>, &AlertMessage) -> Result<(), DeliveryError>;

/// Sends until it is dropped.
pub(crate) fn watch(control: &Control) -> Result<Background, ControlError> {
    let control = control.clone();
    Background::start("alerts", move |ending| {
        if let Err(error) = control.send_alerts() {
            tracing::error!(%error, "alerts cannot be sent for the moment");
        }
        ending.pause(EVERY);
    })
}

impl Control {
    /// Sends what is due, once: what [`Control::start`] does again and again. Returns how many messages got there.
    ///
    /// # Errors
    /// Those of the store. What does not get there is no error here: it is kept, and tried again.
    pub fn send_alerts(&self) -> Result<usize, ControlError> {
        self.send_alerts_by(&deliver)
    }

    pub(super) fn send_alerts_by(&self, deliver: Deliver<'_>) -> Result<usize, ControlError> {
        let (destinations, _) = self.stored_destinations()?;
        self.forget_undeliverable(&destinations)?;
        let mut sent = 0;
        for stored in &destinations {
            match self.send_to(stored, deliver) {
                Ok(true) => sent += 1,
                Ok(false) => {}
                // Another server was faster, or an alert gave way: looked at again in the next round.
                Err(error) if error.error.code == "store.conflict" => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Whether a message got there.
    fn send_to(&self, stored: &Stored, deliver: Deliver<'_>) -> Result<bool, ControlError> {
        let name = stored.destination.name.key();
        let (now, owner) = (self.now(), &self.inner.config.owner);
        let known: Option<Versioned<DeliveryState>> = self.records().find(Kind::Delivery, &name)?;
        let (mut state, expect) = known.map_or((DeliveryState::default(), Expect::Absent), |known| {
            (known.value, Expect::Version(known.version))
        });
        if state.next > now || !state.is_free(owner, now) {
            return Ok(false);
        }
        let mut waiting = self.records().keyed_below::<Waiting>(Kind::Alert, &prefix(&name))?;
        waiting.truncate(TOGETHER_MAX);
        if waiting.is_empty() {
            return Ok(false);
        }
        state.lease = Some((owner.clone(), UnixMillis(now.0 + LEASE_MS)));
        let version = self.put_delivery(&name, expect, &state)?;
        let result = self.attempt(stored, now, &waiting, deliver);
        self.settle(stored, (state, version), &waiting, result)
    }

    fn attempt(
        &self,
        stored: &Stored,
        now: UnixMillis,
        waiting: &[(String, Versioned<Waiting>)],
        deliver: Deliver<'_>,
    ) -> Result<(), DeliveryError> {
        let alerts = waiting.iter().map(|(_, one)| one.value.alert.clone()).collect();
        let dropped = waiting.iter().map(|(_, one)| one.value.dropped).sum();
        let unwrapped = |error: ControlError| DeliveryError(error.error);
        let secret = self.alert_secret(stored).map_err(unwrapped)?;
        let message = self.message(now, alerts, dropped).map_err(unwrapped)?;
        deliver(&stored.destination, secret.as_ref(), &message)
    }

    /// Notes what became of it, and forgets what got there.
    fn settle(
        &self,
        stored: &Stored,
        (mut state, version): (DeliveryState, u64),
        waiting: &[(String, Versioned<Waiting>)],
        result: Result<(), DeliveryError>,
    ) -> Result<bool, ControlError> {
        let (now, name) = (self.now(), stored.destination.name.key());
        state.lease = None;
        let mut batch = Batch::default();
        match &result {
            Ok(()) => {
                let next = UnixMillis(now.0 + stored.destination.interval_s * 1000);
                state = DeliveryState { sent: Some(now), next, ..DeliveryState::default() };
                for (key, _) in waiting {
                    // Whatever became of it meanwhile, it got there.
                    batch.delete(Kind::Alert, key.clone(), Expect::Any);
                }
            }
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                state.next = UnixMillis(now.0 + pause_ms(state.failures));
                state.failure = Some((*error.0).clone());
                tracing::warn!(destination = name, %error, "alerts did not get there; they are kept and tried again");
            }
        }
        batch.put(Kind::Delivery, name, Expect::Version(version), &state);
        self.records().store().commit(&batch.into_changes())?;
        Ok(result.is_ok())
    }

    fn put_delivery(&self, name: &str, expect: Expect, state: &DeliveryState) -> Result<u64, StoreError> {
        let mut batch = Batch::default();
        batch.put(Kind::Delivery, name, expect, state);
        let versions = self.records().store().commit(&batch.into_changes())?;
        Ok(versions.first().copied().unwrap_or_default())
    }

    /// What waits for a destination that is no more.
    fn forget_undeliverable(&self, destinations: &[Stored]) -> Result<(), ControlError> {
        let is_known = |name: &str| destinations.iter().any(|stored| stored.destination.name.key() == name);
        for (name, _) in self.records().keyed_below::<DeliveryState>(Kind::Delivery, "")? {
            if is_known(&name) {
                continue;
            }
            let mut batch = Batch::default();
            for (key, _) in
                self.records().keyed_below::<Waiting>(Kind::Alert, &prefix(&name))?.iter().take(TOGETHER_MAX)
            {
                batch.delete(Kind::Alert, key.clone(), Expect::Any);
            }
            if batch.is_empty() {
                batch.delete(Kind::Delivery, name, Expect::Any);
            }
            self.records().store().commit(&batch.into_changes())?;
        }
        Ok(())
    }

    /// Destinations that alerts do not get to.
    pub(crate) fn undelivered(&self) -> Result<Findings, ControlError> {
        let mut findings = Findings::new();
        for destination in self.alert_destinations()? {
            let Some(failure) = self.delivery_state(&destination.name)?.failure else { continue };
            let message = format!("alerts do not get to {}: {failure}", destination.name);
            let finding = Finding { severity: Severity::Warning, message };
            findings.insert(
                format!("alert destination {}", destination.name),
                [("alerts.undelivered".to_owned(), finding)].into(),
            );
        }
        Ok(findings)
    }
}
