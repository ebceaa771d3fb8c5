//! One message on its way to one destination: by whichever way, with a time, and an error that says what to do.

use switchback_model::JobError;
use zeroize::Zeroizing;

use super::{AlertDestination, AlertMessage, AlertWay, mail, webhook};
use crate::{ControlError, ErrorKind};

/// Why a message did not get there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeliveryError(pub Box<JobError>);

impl DeliveryError {
    pub(super) fn new(code: &str, message: impl Into<String>, cause: &str, remedy: &str) -> Self {
        let error = JobError {
            code: code.into(),
            message: message.into(),
            cause: cause.into(),
            remedy: remedy.into(),
        };
        Self(Box::new(error))
    }

    /// From what the connection died of, as its deepest cause says it: the same for all protocols.
    pub(super) fn of_connection(to: &str, detail: &str) -> Self {
        let has = |words: &[&str]| words.iter().any(|word| detail.to_ascii_lowercase().contains(word));
        let message = format!("{to} cannot be reached: {detail}");
        if has(&["certificate", "unknownissuer"]) {
            return Self::new(
                "alerts.certificate",
                format!("{to} shows a certificate that is not trusted: {detail}"),
                "its certificate is for another name, has expired, or was issued by an authority that this host does not know",
                "give the certificate of its authority (--ca-file), or have the server show a good one",
            );
        }
        if has(&["lookup", "name or service", "dns", "no such host", "resolve"]) {
            return Self::new(
                "alerts.unknown-host",
                format!("{to} has no address: {detail}"),
                "its name is misspelt, or this host's name server does not know it",
                "check the name on the configuration server's host: `getent hosts NAME`",
            );
        }
        if has(&["timed out", "timeout", "deadline"]) {
            return Self::new(
                "alerts.timeout",
                message,
                "a firewall drops the packets, the port is another one, or TLS is expected from the start (or is not)",
                "check host, port and security",
            );
        }
        Self::new(
            "alerts.unreachable",
            message,
            "the server is down, or listens on another port",
            "check host and port; it is tried again by itself",
        )
    }
}

impl From<DeliveryError> for ControlError {
    fn from(error: DeliveryError) -> Self {
        Self { kind: ErrorKind::Unavailable, error: error.0 }
    }
}

/// Sends a message. Blocks, for a limited time.
pub(super) fn deliver(
    destination: &AlertDestination,
    secret: Option<&Zeroizing<String>>,
    message: &AlertMessage,
) -> Result<(), DeliveryError> {
    let span = tracing::info_span!("alert", destination = %destination.name);
    let _entered = span.enter();
    match &destination.way {
        AlertWay::Mail(way) => mail::send(way, secret, message),
        AlertWay::Webhook(way) => webhook::send(way, secret, message),
    }
}

/// What another server says, for people: one line, not long, nothing that a terminal obeys.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}
