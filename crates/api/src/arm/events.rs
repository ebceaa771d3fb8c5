//! `replicationEvents`: what happened, newest first.

use serde::Serialize;
use serde_json::Value;
use switchback_control::Control;
use switchback_model::{Event, Severity};

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::filter::Filter;
use super::health::HealthError;
use super::id::guid;
use super::page::{newest_first, page};
use super::resource::resource;
use super::time;

/// What a list can be filtered by: the contract's `EventQueryParameter`.
const FILTERS: [&str; 6] =
    ["eventCode", "severity", "eventType", "affectedObjectFriendlyName", "startTime", "endTime"];
/// Newest events that a list reaches back to.
const LIST_MAX: usize = 2000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    event_code: String,
    description: String,
    event_type: String,
    affected_object_friendly_name: String,
    severity: &'static str,
    time_of_occurrence: String,
    health_errors: Vec<HealthError>,
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let filter = Filter::parse(call.query("$filter"), &FILTERS)?;
    let moment = |title: &str| match filter.get(title) {
        None => Ok(None),
        Some(text) => time::parse(text)
            .map(Some)
            .ok_or_else(|| ArmError::invalid(format!("{title} is no time: {text:?}"))),
    };
    let (from, to) = (moment("startTime")?, moment("endTime")?);
    let events = control.events(LIST_MAX)?.into_iter().filter(|event| {
        filter.allows("eventCode", &event.code)
            && filter.allows("severity", severity(event.severity))
            && filter.allows("eventType", event_type(event))
            && filter.allows("affectedObjectFriendlyName", &event.object)
            && from.is_none_or(|from| event.time >= from)
            && to.is_none_or(|to| event.time <= to)
    });
    let events = events.map(|event| (newest_first(event.time.0, &name(&event)), event)).collect();
    Answer::of(&page(call, events, |event| show(call, &event))?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let wanted = call.text("event");
    let found = control.events(LIST_MAX)?.into_iter().find(|event| name(event).eq_ignore_ascii_case(wanted));
    Ok(Answer::Ok(show(call, &found.ok_or_else(|| ArmError::not_found("event", wanted))?)?))
}

/// Made from what the event says: events have no identity of their own.
fn name(event: &Event) -> String {
    format!(
        "{};{}",
        event_type(event),
        guid(&["event", &event.time.0.to_string(), &event.code, &event.object, &event.message])
    )
}

/// What an event is about: the part of its code before the dot.
fn event_type(event: &Event) -> &str {
    event.code.split('.').next().unwrap_or(&event.code)
}

const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "Information",
        Severity::Warning => "Warning",
        Severity::Critical => "Critical",
    }
}

fn show(call: &Call, event: &Event) -> Result<Value, ArmError> {
    let name = name(event);
    let properties = Properties {
        event_code: event.code.clone(),
        description: event.message.clone(),
        event_type: event_type(event).to_owned(),
        affected_object_friendly_name: event.object.clone(),
        severity: severity(event.severity),
        time_of_occurrence: time::show(event.time),
        health_errors: Vec::new(),
    };
    resource(call.vault.event(&name), &name, "replicationEvents", properties)
}
