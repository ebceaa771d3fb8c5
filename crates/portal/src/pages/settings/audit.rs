//! The audit log: who asked for what, and whether it was allowed.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use switchback_control::Control;
use switchback_model::{AccessRole, AuditRecord};

use crate::Portal;
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::pages::list::List;
use crate::pages::widgets::{self, Badge, Moment, Tone, badge};
use crate::visit::{Visit, page};

/// Lines that the list reaches back to.
const LOOKED_AT_MAX: usize = 2000;

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/settings/audit", page(show))
}

#[derive(Template)]
#[template(path = "audit.html")]
struct Page {
    frame: Frame,
    list: List,
    rows: Vec<Row>,
}

struct Row {
    when: Moment,
    by: String,
    request: String,
    status: Badge,
}

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "the audit log")?;
    let mut list = List::asked(visit, "/portal/settings/audit", "requests");
    let lines = control.audit(LOOKED_AT_MAX)?;
    list.total = lines.len();
    let is_asked = |line: &AuditRecord| list.finds(&[&line.by, &line.request, &line.status.to_string()]);
    let found: Vec<_> = lines.into_iter().filter(is_asked).collect();
    let rows = list.cut(found).into_iter().map(|line| Row {
        when: widgets::moment(line.time, visit.now),
        by: line.by,
        request: line.request,
        status: badge(if line.status < 400 { Tone::Good } else { Tone::Bad }, line.status),
    });
    let rows = rows.collect();
    Ok(Page { frame: visit.frame(Tab::Settings, "Audit log"), list, rows }.render()?)
}
