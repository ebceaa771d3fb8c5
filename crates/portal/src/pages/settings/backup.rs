//! Backups of the configuration server: how they stand, where they go, one made now.

use std::sync::Arc;

use axum::Router;
use serde_json::json;
use switchback_control::Control;
use switchback_control::backup::BackupPolicy;
use switchback_model::{AccessRole, ByteSize};

use super::HERE;
use crate::Portal;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::Tab;
use crate::pages::ask::{Field, Form};
use crate::pages::widgets::{self, Badge, Notice, reasons};
use crate::shown::{Moment, span};
use crate::visit::{Visit, button, form};

const TYPE: &str = "switchbackBackup";
const HOUR_MS: u64 = 3_600_000;

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/settings/backup", form(ask, change)).route("/settings/backup/run", button(run))
}

/// How backups stand.
pub(super) struct Shown {
    pub(super) health: Badge,
    pub(super) problems: Vec<Notice>,
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) has_policy: bool,
}

pub(super) fn shown(control: &Control, visit: &Visit) -> Result<Shown, Failure> {
    let status = control.backup_status()?;
    let mut facts = Vec::new();
    if let Some(policy) = &status.policy {
        facts.push(("Goes to", policy.destination.clone()));
        facts.push(("When", when(policy)));
        let keep = &policy.keep;
        facts.push((
            "Kept",
            format!(
                "the newest {}, of {} hours the newest of each, of {} days the newest of each",
                keep.last, keep.hours, keep.days
            ),
        ));
        facts.push(("Opened by", policy.recipients.join(", ")));
    }
    facts.extend(status.last_success.as_ref().map(|made| {
        let at = Moment::of(made.name.made, visit.now);
        ("Last backup", format!("{}, {}, {}", at.text, at.ago, ByteSize(made.len)))
    }));
    facts.extend(status.last_failure.as_ref().map(|(at, error)| {
        ("Last failure", format!("{}: {}", Moment::of(*at, visit.now).text, error.message))
    }));
    Ok(Shown {
        health: widgets::health(status.health),
        problems: reasons(status.health, &status.reasons),
        facts,
        has_policy: status.policy.is_some(),
    })
}

fn when(policy: &BackupPolicy) -> String {
    let schedule = (policy.every_ms > 0).then(|| format!("every {}", span(policy.every_ms)));
    let continuous = policy.continuous.then(|| "after each change".to_owned());
    let all: Vec<_> = continuous.into_iter().chain(schedule).collect();
    if all.is_empty() { "only when somebody asks for it".into() } else { all.join(", and ") }
}

/// `GET /portal/settings/backup`.
fn ask(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "changing backups")?;
    let policy = control.backup_policy()?;
    let policy = policy.as_ref();
    let every = policy.map_or(0, |policy| policy.every_ms.div_ceil(HOUR_MS));
    let keys = policy.map(|policy| policy.recipients.join("\n")).unwrap_or_default();
    let every_hint = "0: no schedule.";
    let every_hint = match policy.map(|policy| policy.every_ms).filter(|every_ms| every_ms % HOUR_MS != 0) {
        Some(every_ms) => format!("{every_hint} It is every {} now.", span(every_ms)),
        None => every_hint.to_owned(),
    };
    Form::new(visit.frame(Tab::Settings, "Backup of the configuration server"), "Keep it", HERE)
        .note("The destination is opened at once, to see that it can be written.")
        .field(
            Field::line("destination", "Goes to")
                .value(policy.map_or("", |policy| &policy.destination))
                .hint("An absolute path on another disk, s3://BUCKET/PREFIX or az://CONTAINER/PREFIX."),
        )
        .field(
            Field::text("recipients", "Public keys that open it").value(keys).hint(
                "One in a line, age1…; `switchback backup keygen` makes one. Keep its secret elsewhere.",
            ),
        )
        .field(Field::check("continuous", "After each change", policy.is_none_or(|policy| policy.continuous)))
        .field(
            Field::line("every", "Hours between two, whether or not something has changed")
                .value(every.to_string())
                .hint(every_hint),
        )
        .show()
}

/// `POST /portal/settings/backup`. What the form does not ask for stays as it is.
fn change(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let before = control.backup_policy()?;
    let text = visit.field("every");
    let hours: u64 = text.parse().map_err(|_| Failure::invalid(format!("{text:?} is no number of hours")))?;
    let shown = before.as_ref().filter(|before| before.every_ms.div_ceil(HOUR_MS) == hours);
    let every_ms = match shown {
        Some(before) => before.every_ms,
        None => hours.checked_mul(HOUR_MS).ok_or_else(|| Failure::invalid("that is too long"))?,
    };
    let recipients: Vec<&str> = visit.field("recipients").split_whitespace().collect();
    let mut policy = json!({
        "destination": visit.field("destination"), "recipients": recipients,
        "continuous": visit.field("continuous") == "yes", "everyMs": every_ms,
    });
    if let Some(before) = before {
        policy["keep"] = json!(before.keep);
    }
    let there = Then::To(format!("{HERE}#backup"));
    Ok(Act::put(visit.vault.addition(TYPE, "default"), json!({ "policy": policy }), there))
}

/// `POST /portal/settings/backup/run`: answered when the backup is there.
fn run(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let path = format!("{}/run", visit.vault.addition(TYPE, "default"));
    Ok(Act::post(path, json!({}), Then::To(format!("{HERE}#backup"))))
}
