//! The tab Events: what happened, newest first.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use switchback_control::Control;
use switchback_model::{Event, Severity};

use super::list::List;
use super::widgets::{self, Badge, Moment};
use crate::Portal;
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::visit::{Visit, page};

/// Events that the list reaches back to: as many as the API's.
const LOOKED_AT_MAX: usize = 2000;

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/events", page(show))
}

#[derive(Template)]
#[template(path = "events.html")]
struct Page {
    frame: Frame,
    list: List,
    rows: Vec<Row>,
}

struct Row {
    severity: Badge,
    when: Moment,
    object: String,
    message: String,
    code: String,
}

/// What can be filtered by: what the address says and people read, and the least that is shown.
const SEVERITIES: [(&str, &str, Severity); 3] = [
    ("info", "all", Severity::Info),
    ("warning", "warnings and worse", Severity::Warning),
    ("critical", "critical ones", Severity::Critical),
];

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let mut list = List::asked(visit, "/portal/events", "events");
    let least = SEVERITIES.into_iter().find(|(name, ..)| *name == list.asked.severity);
    let least = least.map_or(Severity::Info, |(_, _, severity)| severity);
    let object = list.asked.object.to_lowercase();
    let is_asked = |event: &Event| {
        event.severity >= least
            && event.object.to_lowercase().contains(&object)
            && list.finds(&[&event.object, &event.message, &event.code])
    };
    let events = control.events(LOOKED_AT_MAX)?;
    let total = events.len();
    let found: Vec<Event> = events.into_iter().filter(is_asked).collect();
    list.total = total;
    let rows = list.cut(found).into_iter().map(|event| Row {
        severity: widgets::severity(event.severity),
        when: widgets::moment(event.time, visit.now),
        object: event.object,
        message: event.message,
        code: event.code,
    });
    let rows = rows.collect();
    Ok(Page { frame: visit.frame(Tab::Events, "Events"), list, rows }.render()?)
}
