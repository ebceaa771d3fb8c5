//! `switchbackBackup/default`: where the configuration server is backed up to, when, and how that stands; and its backups.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use switchback_control::backup::format::Reason;
use switchback_control::backup::retention::{BackupName, Keep};
use switchback_control::backup::{BackupPolicy, Made};
use switchback_control::{Control, ErrorKind};

use crate::arm::{Answer, ArmError, Call, page, resource, show_time};
use crate::openapi::operation::{Operation, delete as remove, get as show_one, get_page, post, put as make};
use crate::openapi::schema::{
    choice, count, flag, list as many, map_of, object, open, or_null, problem, resource as schema, text,
    time, titled,
};
use crate::openapi::shared::health;

const TYPE: &str = "switchbackBackup";
const BACKUPS: &str = "switchbackBackup/backups";

#[derive(Deserialize)]
struct Put {
    properties: PutProperties,
}

#[derive(Deserialize)]
struct PutProperties {
    policy: Policy,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Policy {
    destination: String,
    recipients: Vec<String>,
    #[serde(default)]
    continuous: bool,
    #[serde(default)]
    every_ms: u64,
    #[serde(default)]
    keep: Keep,
}

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let one = "switchbackBackup/default";
    vec![
        show_one(
            one,
            get,
            "Where backups of the configuration server go, and how that stands.",
            status_schema(),
        ),
        make(one, put, "Sets where and when it is backed up.", status_schema())
            .takes(open(object([("policy", policy_schema())]))),
        remove(one, delete, "Makes no more backups."),
        post(
            "switchbackBackup/default/run",
            run,
            "Makes a backup; answered when it is there.",
            backup_schema(),
        ),
        get_page("switchbackBackup/default/backups", list, "Backups, newest first.", backup_schema()),
        post(
            "switchbackBackup/default/backups/{backup}/verify",
            verify,
            "Reads a backup back and checks it.",
            {
                let names = || map_of(text());
                schema(
                    "SwitchbackBackupHeader",
                    object([
                        ("made", time()),
                        ("reason", reason()),
                        ("bytes", count()),
                        ("build", text()),
                        ("incarnation", count()),
                        ("authority", text()),
                        ("settings", names()),
                        ("records", map_of(count())),
                        ("files", count()),
                    ]),
                )
            },
        ),
    ]
}

fn reason() -> Value {
    choice(&["continuous", "scheduled", "demanded"])
}

fn policy_schema() -> Value {
    let keep = object([("last", count()), ("hours", count()), ("days", count())]);
    let policy = object([
        ("destination", text()),
        ("recipients", many(text())),
        ("continuous?", flag()),
        ("everyMs?", count()),
        ("keep?", keep),
    ]);
    titled("SwitchbackBackupPolicy", policy)
}

fn backup_schema() -> Value {
    let properties =
        object([("made", time()), ("reason", reason()), ("bytes", count()), ("incarnation", count())]);
    schema("SwitchbackBackupFile", properties)
}

fn status_schema() -> Value {
    let success = object([("name", text()), ("made", time()), ("bytes", count()), ("ageSeconds", count())]);
    let failure = object([("time", time()), ("error", problem())]);
    let properties = object([
        ("policy", or_null(policy_schema())),
        ("lastSuccess", or_null(success)),
        ("lastFailure", or_null(failure)),
        ("health", health()),
        ("reasons", many(problem())),
        ("incarnation", count()),
        ("supersededBy", or_null(count())),
    ]);
    schema("SwitchbackBackup", properties)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(control, call)?))
}

pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let Policy { destination, recipients, continuous, every_ms, keep } =
        call.json::<Put>()?.properties.policy;
    control.set_backup_policy(&BackupPolicy { destination, recipients, continuous, every_ms, keep })?;
    Ok(Answer::Ok(show(control, call)?))
}

/// Makes no more backups.
pub(crate) fn delete(control: &Control, _: &Call) -> Result<Answer, ArmError> {
    control.delete_backup_policy()?;
    Ok(Answer::NoContent)
}

/// Makes one now; answered when it is there.
pub(crate) fn run(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let made = control.back_up(Reason::Demanded)?;
    Ok(Answer::Ok(show_backup(call, &made)?))
}

/// Newest first.
pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let backups = match control.backups() {
        Err(error) if error.kind == ErrorKind::IllegalState => Vec::new(),
        other => other?,
    };
    let backups = backups.into_iter().enumerate();
    let backups = backups.map(|(at, made)| (format!("{at:08}"), made)).collect();
    Answer::of(&page(call, backups, |made| show_backup(call, &made))?)
}

/// Reads it whole, and checks what can be checked without its key.
pub(crate) fn verify(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let text = call.text("backup");
    let name: BackupName = text.parse().map_err(|_| ArmError::not_found("backup", text))?;
    let len = control.backups()?.into_iter().find(|made| made.name == name).map(|made| made.len);
    let len = len.ok_or_else(|| ArmError::not_found("backup", text))?;
    let header = control.verify_backup(&name)?;
    let text = name.to_string();
    let properties = json!({
        "made": show_time(header.made), "reason": header.reason, "bytes": len, "build": header.build, "incarnation": header.incarnation,
        "authority": header.authority, "settings": header.settings, "records": header.records, "files": header.files,
    });
    Ok(Answer::Ok(resource(id(call, &text), &text, BACKUPS, properties)?))
}

fn id(call: &Call, name: &str) -> String {
    format!("{}/backups/{name}", call.vault.addition(TYPE, "default"))
}

fn show_backup(call: &Call, made: &Made) -> Result<Value, ArmError> {
    let name = made.name.to_string();
    let properties = json!({
        "made": show_time(made.name.made), "reason": made.name.reason, "bytes": made.len, "incarnation": made.name.incarnation,
    });
    resource(id(call, &name), &name, BACKUPS, properties)
}

fn show(control: &Control, call: &Call) -> Result<Value, ArmError> {
    let status = control.backup_status()?;
    let now = control.now();
    let policy = status.policy.map(|policy| Policy {
        destination: policy.destination,
        recipients: policy.recipients,
        continuous: policy.continuous,
        every_ms: policy.every_ms,
        keep: policy.keep,
    });
    let properties = json!({
        "policy": policy,
        "lastSuccess": status.last_success.map(|made| json!({
            "name": made.name.to_string(), "made": show_time(made.name.made), "bytes": made.len,
            "ageSeconds": now.0.saturating_sub(made.name.made.0) / 1000,
        })),
        "lastFailure": status.last_failure.map(|(time, error)| json!({ "time": show_time(time), "error": error })),
        "health": status.health,
        "reasons": status.reasons,
        "incarnation": control.incarnation()?,
        "supersededBy": control.superseded()?.map(|superseded| superseded.by),
    });
    resource(call.vault.addition(TYPE, "default"), "default", TYPE, properties)
}
