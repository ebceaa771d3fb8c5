//! What people read and receivers of webhooks parse: one message with all alerts that waited.
//!
//! The JSON is a format that others rely on: fields are added, never changed; `version` says so if that ever has to be. Each alert has an `id` that is
//! the same in whatever message it comes, so that one that is sent twice can be told.

use serde::Serialize;
use switchback_model::{Severity, UnixMillis};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{ControlError, ErrorKind};

/// Of the JSON.
const VERSION: u32 = 1;

/// Why somebody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlertPhase {
    /// It has begun.
    Begun,
    /// It lasts.
    Reminder,
    /// It is over.
    Ended,
    /// It has no duration.
    Happened,
    /// Nothing is wrong: somebody wants to know whether this gets there.
    Test,
}

/// One thing that people are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Alert {
    /// Unique; sorts by time.
    pub id: String,
    /// Why.
    pub phase: AlertPhase,
    /// When this alert was made.
    pub time: UnixMillis,
    /// When the condition began.
    pub since: UnixMillis,
    /// How serious the condition is, or was.
    pub severity: Severity,
    /// Its stable code.
    pub code: String,
    /// What it is about: a machine, a server.
    pub object: String,
    /// In words: what, the likely cause, what to do.
    pub message: String,
}

/// What is sent at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertMessage {
    /// Its id: that of its last alert. The same alerts make the same message.
    pub id: String,
    /// For people.
    pub subject: String,
    /// For people, too.
    pub text: String,
    /// For programs.
    pub json: String,
    /// When it was made.
    pub time: UnixMillis,
}

#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    id: &'a str,
    time: String,
    server: &'a str,
    dropped: u64,
    alerts: Vec<JsonAlert<'a>>,
}

#[derive(Serialize)]
struct JsonAlert<'a> {
    id: &'a str,
    phase: AlertPhase,
    time: String,
    since: String,
    severity: Severity,
    code: &'a str,
    object: &'a str,
    message: &'a str,
}

/// RFC 3339, to the second.
fn shown(time: UnixMillis) -> String {
    let seconds = i64::try_from(time.0 / 1000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds}"))
}

impl Alert {
    fn headline(&self) -> String {
        let what = match self.phase {
            AlertPhase::Begun | AlertPhase::Happened => String::new(),
            AlertPhase::Reminder => " lasts".into(),
            AlertPhase::Ended => " is over".into(),
            AlertPhase::Test => " (test)".into(),
        };
        format!("{:?}: {}: {}{what}", self.severity, self.object, self.code)
    }
}

impl AlertMessage {
    /// Of alerts in order of time, of which there is at least one; `dropped` before them never got here.
    pub(super) fn new(
        server: String,
        time: UnixMillis,
        alerts: Vec<Alert>,
        dropped: u64,
    ) -> Result<Self, ControlError> {
        let last = alerts.last().ok_or_else(|| {
            ControlError::new(ErrorKind::Internal, "alerts.empty", "there is nothing to be sent")
        })?;
        let subject = match &alerts[..] {
            [one] => format!("[Switchback] {}", one.headline()),
            many => {
                let begun = many.iter().filter(|alert| alert.phase != AlertPhase::Ended);
                let critical = begun.filter(|alert| alert.severity == Severity::Critical).count();
                let ended = many.iter().filter(|alert| alert.phase == AlertPhase::Ended).count();
                format!("[Switchback] {} alerts: {critical} critical, {ended} over", many.len())
            }
        };
        let json = Json {
            version: VERSION,
            id: &last.id,
            time: shown(time),
            server: &server,
            dropped,
            alerts: alerts.iter().map(json_of).collect(),
        };
        let json = serde_json::to_string(&json).expect("plain data becomes JSON");
        let (id, text) = (last.id.clone(), text(&server, &alerts, dropped));
        Ok(Self { id, subject: one_line(&subject), text, json, time })
    }
}

fn json_of(alert: &Alert) -> JsonAlert<'_> {
    JsonAlert {
        id: &alert.id,
        phase: alert.phase,
        time: shown(alert.time),
        since: shown(alert.since),
        severity: alert.severity,
        code: &alert.code,
        object: &alert.object,
        message: &alert.message,
    }
}

fn text(server: &str, alerts: &[Alert], dropped: u64) -> String {
    let mut text = String::new();
    if dropped > 0 {
        text.push_str(&format!(
            "{dropped} alerts before these were dropped: too many waited. `switchback event list` has all events.\n\n"
        ));
    }
    for alert in alerts {
        text.push_str(&alert.headline());
        text.push_str(&format!("\n  since {}", shown(alert.since)));
        if alert.phase == AlertPhase::Ended {
            text.push_str(&format!(", over {}", shown(alert.time)));
        }
        text.push_str(&format!("\n  {}\n\n", alert.message));
    }
    if !server.is_empty() {
        text.push_str(&format!("-- \nSwitchback configuration server {server}\n"));
    }
    text
}

/// A subject has no line breaks: an object's name may be anything.
fn one_line(subject: &str) -> String {
    subject.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}
