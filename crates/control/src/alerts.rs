//! Alerts: people are told by e-mail and webhooks of what is not well, and when it is over.
//!
//! What it is: where alerts go ([`AlertDestination`]), when ([`AlertPolicy`]), and the way of each: what `conditions` keeps becomes alerts in an outbox
//! in the store (`outbox`), in one change with what is kept of the condition; `sender` sends them, at least once each, and forgets them when the other
//! side has taken them. What it never does: decide what is not well; send what was not durable before (but for a test); show a password or a key.
//!
//! ```text
//! condition lasts longer than the delay ─▶ Alert (begun) per destination that wants its severity ─▶ message, all that waits together
//!           is over                     ─▶ Alert (ended)                                            (one per interval at most)
//!           lasts on                    ─▶ Alert (reminder), again and again
//! ```
//! Limits: [`DESTINATIONS_MAX`] destinations, [`outbox::WAITING_MAX`] alerts waiting for each (the oldest give way, and that is told), a time for every call.
//! What a destination may be (https, TLS, secrets) is checked in `destination`. See decision 26.

mod delivery;
mod destination;
mod mail;
mod message;
mod outbox;
pub(crate) mod sender;
mod webhook;

use serde::{Deserialize, Serialize};
use switchback_model::{ObjectName, Severity, UnixMillis};
use switchback_store::{Expect, Kind, StoreError};
use zeroize::Zeroizing;

use crate::records::{Batch, Versioned};
use crate::{Control, ControlError, ErrorKind};

pub use delivery::DeliveryError;
pub use destination::{AlertDestination, AlertWay, MailSecurity, MailWay, WebhookWay};
pub use message::{Alert, AlertMessage, AlertPhase};
pub use sender::DeliveryState;
pub use webhook::{SIGNATURE_HEADER, TIMESTAMP_HEADER, signature};

/// Destinations at most.
pub const DESTINATIONS_MAX: usize = 16;
/// The records among the settings.
const DESTINATIONS: &str = "alert-destinations";
const POLICY: &str = "alert-policy";
/// Longest delay and reminder, in seconds: a month.
const SECONDS_MAX: u64 = 31 * 24 * 3600;

/// When people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AlertPolicy {
    /// Seconds that a condition must last before anybody is told: what a restart or a hiccup of the network brings is over by then.
    pub delay_s: u64,
    /// Seconds after which people are told again of what still lasts; 0: never.
    pub remind_after_s: u64,
}

impl Default for AlertPolicy {
    fn default() -> Self {
        Self { delay_s: 60, remind_after_s: 24 * 3600 }
    }
}

/// A destination as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    destination: AlertDestination,
    /// Its password or key; see `sealing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

/// What a secret is bound to: with another address it cannot be opened, so that nobody gets a password by pointing its destination elsewhere.
fn bound(destination: &AlertDestination) -> Vec<u8> {
    serde_json::to_vec(&("switchback-alert/1", destination.name.key(), destination.way.address()))
        .expect("plain data becomes JSON")
}

fn invalid(message: impl Into<String>) -> ControlError {
    ControlError::new(ErrorKind::Invalid, "alerts.invalid", message)
}

impl Control {
    /// When people are told.
    ///
    /// # Errors
    /// Those of the store.
    pub fn alert_policy(&self) -> Result<AlertPolicy, ControlError> {
        let found: Option<Versioned<AlertPolicy>> = self.records().find(Kind::Setting, POLICY)?;
        Ok(found.map(|found| found.value).unwrap_or_default())
    }

    /// Changes it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`].
    pub fn set_alert_policy(&self, policy: AlertPolicy) -> Result<(), ControlError> {
        if policy.delay_s > SECONDS_MAX || policy.remind_after_s > SECONDS_MAX {
            return Err(invalid(format!("delay and reminder are {SECONDS_MAX} seconds at most")));
        }
        let mut batch = Batch::default();
        batch.put(Kind::Setting, POLICY, Expect::Any, &policy);
        Ok(self.records().commit(batch)?)
    }

    /// Where alerts go, by name; without secrets.
    ///
    /// # Errors
    /// Those of the store.
    pub fn alert_destinations(&self) -> Result<Vec<AlertDestination>, ControlError> {
        Ok(self.stored_destinations()?.0.into_iter().map(|stored| stored.destination).collect())
    }

    fn stored_destinations(&self) -> Result<(Vec<Stored>, Expect), ControlError> {
        let found: Option<Versioned<Vec<Stored>>> = self.records().find(Kind::Setting, DESTINATIONS)?;
        Ok(found.map_or((Vec::new(), Expect::Absent), |found| (found.value, Expect::Version(found.version))))
    }

    /// One of them.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn alert_destination(&self, name: &ObjectName) -> Result<AlertDestination, ControlError> {
        Ok(self.stored_destination(name)?.destination)
    }

    fn stored_destination(&self, name: &ObjectName) -> Result<Stored, ControlError> {
        let found = self.stored_destinations()?.0.into_iter().find(|stored| stored.destination.name == *name);
        found.ok_or_else(|| ControlError::not_found("alert destination", name))
    }

    /// Makes a destination, or replaces the one of that name. Without a secret it keeps the one it has, as long as its address stays.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for what makes no sense or lacks its secret; [`ErrorKind::Conflict`] when there is a mail server already, or somebody
    /// changes destinations right now.
    pub fn set_alert_destination(
        &self,
        destination: AlertDestination,
        secret: Option<&Zeroizing<String>>,
    ) -> Result<(), ControlError> {
        destination.check(secret)?;
        let (mut all, expect) = self.stored_destinations()?;
        let before = all.iter().position(|stored| stored.destination.name == destination.name);
        let before = before.map(|position| all.remove(position));
        let sealed = match secret {
            Some(secret) if destination.way.takes_secret() => Some(self.seal(&bound(&destination), secret)?),
            _ => before
                .filter(|before| bound(&before.destination) == bound(&destination))
                .and_then(|before| before.sealed)
                .filter(|_| destination.way.takes_secret()),
        };
        if sealed.is_none() && destination.way.takes_secret() {
            return Err(invalid(format!(
                "{} has no secret for {}",
                destination.name,
                destination.way.address()
            ))
            .cause("it is new, or its address or user has changed")
            .remedy("give the password of the mail server's user, or the key of the webhook"));
        }
        let is_mail = |stored: &Stored| matches!(stored.destination.way, AlertWay::Mail(_));
        if matches!(destination.way, AlertWay::Mail(_))
            && let Some(other) = all.iter().find(|stored| is_mail(stored))
        {
            let message = format!("{} sends e-mail already", other.destination.name);
            return Err(ControlError::new(ErrorKind::Conflict, "alerts.mail-taken", message)
                .remedy("change that one: it may have many recipients"));
        }
        if all.len() >= DESTINATIONS_MAX {
            return Err(invalid(format!("there are {DESTINATIONS_MAX} destinations already")));
        }
        all.push(Stored { destination, sealed });
        all.sort_by(|one, other| one.destination.name.cmp(&other.destination.name));
        self.store_destinations(&all, expect, Batch::default())
    }

    /// Forgets a destination, with what waits for it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn remove_alert_destination(&self, name: &ObjectName) -> Result<(), ControlError> {
        let (mut all, expect) = self.stored_destinations()?;
        let before = all.len();
        all.retain(|stored| stored.destination.name != *name);
        if all.len() == before {
            return Err(ControlError::not_found("alert destination", name));
        }
        // The sender finds it without a destination, and removes what waits with it.
        let mut batch = Batch::default();
        batch.put(Kind::Delivery, name.key(), Expect::Any, &DeliveryState::default());
        self.store_destinations(&all, expect, batch)
    }

    fn store_destinations(
        &self,
        all: &[Stored],
        expect: Expect,
        mut batch: Batch,
    ) -> Result<(), ControlError> {
        batch.put(Kind::Setting, DESTINATIONS, expect, &all);
        self.records().commit(batch).map_err(|error| match error {
            StoreError::Conflict { .. } => {
                let message = "somebody else changes the destinations of alerts at this moment";
                ControlError::new(ErrorKind::Conflict, "store.conflict", message).remedy("try again")
            }
            other => other.into(),
        })
    }

    pub(crate) fn has_alert_secrets(&self) -> Result<bool, ControlError> {
        Ok(self.stored_destinations()?.0.iter().any(|stored| stored.sealed.is_some()))
    }

    fn alert_secret(&self, stored: &Stored) -> Result<Option<Zeroizing<String>>, ControlError> {
        stored.sealed.as_ref().map(|sealed| self.unseal(&bound(&stored.destination), sealed)).transpose()
    }

    /// Sends a test to a destination, now. Blocks for as long as the other side takes, which has a limit.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Unavailable`]: why it did not get there.
    pub fn test_alert_destination(&self, name: &ObjectName) -> Result<(), ControlError> {
        let stored = self.stored_destination(name)?;
        let now = self.now();
        let alert = Alert {
            id: self.time_key(now),
            phase: AlertPhase::Test,
            time: now,
            since: now,
            severity: Severity::Info,
            code: "alerts.test".into(),
            object: "configuration server".into(),
            message: format!("this is a test of {name}: alerts get here"),
        };
        let message = self.message(now, vec![alert], 0)?;
        let secret = self.alert_secret(&stored)?;
        Ok(delivery::deliver(&stored.destination, secret.as_ref(), &message)?)
    }

    /// Who is told of something of that severity.
    fn takers(
        destinations: &[AlertDestination],
        severity: Severity,
    ) -> impl Iterator<Item = &AlertDestination> {
        destinations.iter().filter(move |destination| destination.severity_min <= severity)
    }

    /// How a destination gets on.
    ///
    /// # Errors
    /// Those of the store.
    pub fn delivery_state(&self, name: &ObjectName) -> Result<DeliveryState, ControlError> {
        let found: Option<Versioned<DeliveryState>> = self.records().find(Kind::Delivery, &name.key())?;
        Ok(found.map(|found| found.value).unwrap_or_default())
    }

    fn message(
        &self,
        now: UnixMillis,
        alerts: Vec<Alert>,
        dropped: u64,
    ) -> Result<AlertMessage, ControlError> {
        AlertMessage::new(self.address().unwrap_or_default(), now, alerts, dropped)
    }
}

#[cfg(test)]
mod tests;
