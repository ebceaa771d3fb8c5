//! Protection groups with their failback twins, and what their policies say.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use switchback_control::Control;
use switchback_model::bandwidth_text::{read_rate, write_rate};
use switchback_model::{
    AccessRole, ByteSize, ObjectName, ProtectionGroup, ReplicationPolicy, RetentionPolicy, Side, Thinning,
};

use super::{HERE, new_name};
use crate::Portal;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::Tab;
use crate::pages::ask::{Field, Form};
use crate::shown::span;
use crate::visit::{Visit, form};

const TYPE: &str = "switchbackProtectionGroups";
const SECOND_MS: u64 = 1000;
const MINUTE_MS: u64 = 60_000;

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/settings/groups/new", form(ask_new, make))
        .route("/settings/groups/{group}/edit", form(ask_policy, change))
        .route("/settings/groups/{group}/delete", form(confirm_delete, delete))
}

/// A group in a line.
pub(super) struct Row {
    pub(super) name: ObjectName,
    pub(super) is_forward: bool,
    pub(super) direction: String,
    pub(super) policy: Vec<String>,
}

/// All groups, each before its failback twin.
pub(super) fn rows(control: &Control) -> Result<Vec<Row>, Failure> {
    let mut groups = control.groups()?;
    groups.sort_by_key(|group| {
        let forward = if group.towards == Side::Away { &group.name } else { &group.twin };
        (forward.key(), group.towards == Side::Home)
    });
    let row = |group: ProtectionGroup| Row {
        is_forward: group.towards == Side::Away,
        direction: format!("{} → {}", group.source_site, group.target_site),
        policy: describe(&group.policy),
        name: group.name,
    };
    Ok(groups.into_iter().map(row).collect())
}

/// A policy in a few words each.
fn describe(policy: &ReplicationPolicy) -> Vec<String> {
    let mut lines = vec![format!("a recovery point every {}", span(policy.interval_ms))];
    if policy.app_interval_ms > 0 {
        lines.push(format!("an app-consistent one every {}", span(policy.app_interval_ms)));
    }
    lines.push(format!("an alarm when the newest is older than {}", span(policy.rpo_threshold_ms)));
    lines.push(retention(&policy.retention));
    if policy.multi_vm {
        lines.push("multi-VM consistency".into());
    }
    if let Some(limit) = policy.bytes_per_s_max {
        lines.push(format!("{}/s at most for each machine", ByteSize(limit)));
    }
    lines
}

fn retention(policy: &RetentionPolicy) -> String {
    let steps = policy.steps.iter().map(|step| {
        let until = span(step.until_age_ms);
        if step.every_ms == 0 {
            format!("all for {until}")
        } else {
            format!("one each {} until {until}", span(step.every_ms))
        }
    });
    let steps = steps.collect::<Vec<_>>().join(", ");
    let limit = policy.bytes_max.map(|limit| format!(", {} at most", ByteSize(limit))).unwrap_or_default();
    format!("keeps {steps}{limit}")
}

fn group_of(control: &Control, visit: &Visit) -> Result<ProtectionGroup, Failure> {
    Ok(control.group(&visit.name("group")?)?)
}

/// The fields of a policy that have a number: in the form and in the API, and its unit in milliseconds.
const NUMBERS: [(&str, &str, u64); 3] = [
    ("interval", "intervalMs", SECOND_MS),
    ("app-interval", "appIntervalMs", MINUTE_MS),
    ("rpo", "rpoThresholdMs", MINUTE_MS),
];

/// A number as the form shows it: `15`, `0.5`.
fn in_units(ms: u64, unit_ms: u64) -> String {
    let (whole, rest) = (ms / unit_ms, ms % unit_ms);
    if rest == 0 {
        return whole.to_string();
    }
    let thousandths = format!("{:03}", rest * 1000 / unit_ms);
    format!("{whole}.{}", thousandths.trim_end_matches('0'))
}

/// The same read: up to three places after the point.
fn from_units(text: &str, unit_ms: u64) -> Option<u64> {
    let (whole, places) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || places.len() > 3 || !is_number(whole) || !is_number(places) {
        return None;
    }
    let thousandths: u64 = format!("{places:0<3}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(unit_ms)?.checked_add(thousandths * unit_ms / 1000)
}

fn policy_fields(form: Form, policy: &ReplicationPolicy) -> Form {
    let value = |ms, unit_ms| in_units(ms, unit_ms);
    form.field(
        Field::line("interval", "Seconds between recovery points")
            .value(value(policy.interval_ms, SECOND_MS)),
    )
    .field(
        Field::line("app-interval", "Minutes between app-consistent points")
            .value(value(policy.app_interval_ms, MINUTE_MS))
            .hint("0: none."),
    )
    .field(
        Field::line("rpo", "Minutes after which a missing point is an alarm")
            .value(value(policy.rpo_threshold_ms, MINUTE_MS)),
    )
    .field(
        Field::line("retention", "Recovery points that are kept")
            .value(policy.retention.write_steps())
            .hint("AGE:EVERY, between commas: 1d:0s,3d:1h,15d:1d keeps all of one day, hourly ones of three, daily ones of fifteen."),
    )
    .field(
        Field::line("limit", "Bytes per second that a machine sends at most")
            .value(write_rate(policy.bytes_per_s_max))
            .hint("As 10M (k, M, G: thousands), or none."),
    )
    .field(Field::check(
        "multi-vm",
        "Machines of the group take recovery points together (multi-VM consistency)",
        policy.multi_vm,
    ))
}

/// What of a policy is not as it was.
fn said(visit: &Visit, before: &ReplicationPolicy) -> Result<Value, Failure> {
    let mut policy = Map::new();
    let was = [before.interval_ms, before.app_interval_ms, before.rpo_threshold_ms];
    for ((field, name, unit_ms), was) in NUMBERS.into_iter().zip(was) {
        let text = visit.field(field);
        let wrong = || Failure::invalid(format!("{field} is a number such as 15 or 0.5, not {text:?}"));
        let ms = from_units(text, unit_ms).ok_or_else(wrong)?;
        if text != in_units(was, unit_ms) {
            policy.insert(name.into(), ms.into());
        }
    }
    let text = visit.field("retention");
    if !text.is_empty() && text != before.retention.write_steps() {
        let steps = RetentionPolicy::read_steps(text).map_err(Failure::invalid)?;
        let step = |step: &Thinning| json!({ "untilAgeMs": step.until_age_ms, "everyMs": step.every_ms });
        let steps: Vec<_> = steps.iter().map(step).collect();
        policy.insert("retention".into(), json!({ "steps": steps, "bytesMax": before.retention.bytes_max }));
    }
    let text = visit.field("limit");
    if !text.is_empty() && text != write_rate(before.bytes_per_s_max) {
        let limit = read_rate(text).map_err(Failure::invalid)?;
        policy.insert("bytesPerSMax".into(), limit.unwrap_or_default().into());
    }
    policy.insert("multiVm".into(), (visit.field("multi-vm") == "yes").into());
    Ok(Value::Object(policy))
}

fn ask_new(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "making a protection group")?;
    let sites: Vec<_> =
        control.sites()?.into_iter().map(|site| (site.name.to_string(), site.name.to_string())).collect();
    let form = Form::new(visit.frame(Tab::Settings, "New protection group"), "Make it", HERE)
        .note("Its failback twin, NAME_Failback, is made with it: machines are in that while they replicate home.")
        .field(Field::line("name", "Name"))
        .field(Field::choice("source", "Machines run at", sites.clone()))
        .field(Field::choice("target", "And are replicated to", sites));
    policy_fields(form, &ReplicationPolicy::default()).show()
}

/// The API changes a group of the same name, so one that is there is refused here.
fn make(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let name = new_name(visit)?;
    if control.groups()?.iter().any(|group| group.name == name) {
        let message = format!("there is a protection group {name} already");
        return Err(
            Failure::new(StatusCode::CONFLICT, "portal.group-taken", message).remedy("choose another name")
        );
    }
    let properties = json!({
        "sourceSite": visit.field("source"), "targetSite": visit.field("target"),
        "policy": said(visit, &ReplicationPolicy::default())?,
    });
    Ok(Act::put(visit.vault.addition(TYPE, name.as_str()), properties, Then::To(HERE.into())))
}

fn ask_policy(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let group = group_of(control, visit)?;
    visit.needs(AccessRole::Contributor, "changing a policy")?;
    let form = Form::new(visit.frame(Tab::Settings, format!("Policy of {}", group.name)), "Keep it", HERE)
        .told("Direction", format!("from {} to {}", group.source_site, group.target_site))
        .note("It is in force for all machines of the group at once, and not for its twin.");
    policy_fields(form, &group.policy).show()
}

fn change(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let group = group_of(control, visit)?;
    let properties = json!({ "policy": said(visit, &group.policy)? });
    Ok(Act::put(visit.vault.addition(TYPE, group.name.as_str()), properties, Then::To(HERE.into())))
}

fn confirm_delete(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let group = group_of(control, visit)?;
    visit.needs(AccessRole::Contributor, "deleting a protection group")?;
    Form::new(visit.frame(Tab::Settings, format!("Delete {}", group.name)), "Delete it", HERE)
        .note(format!("{} goes with it. A group with machines is refused.", group.twin))
        .grave()
        .show()
}

fn delete(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let path = visit.vault.addition(TYPE, visit.name("group")?.as_str());
    Ok(Act::delete(path, Then::To(HERE.into())))
}

#[cfg(test)]
mod tests {
    use super::{MINUTE_MS, SECOND_MS, from_units, in_units};

    #[test]
    fn numbers_survive_the_form() {
        for (ms, unit_ms, text) in [
            (15_000, SECOND_MS, "15"),
            (250, SECOND_MS, "0.25"),
            (90_000, MINUTE_MS, "1.5"),
            (0, MINUTE_MS, "0"),
        ] {
            assert_eq!(in_units(ms, unit_ms), text);
            assert_eq!(from_units(text, unit_ms), Some(ms));
        }
        for wrong in ["", "-1", "1.2345", "x", "1,5", ".5", "99999999999999999999"] {
            assert_eq!(from_units(wrong, SECOND_MS), None, "{wrong}");
        }
    }
}
