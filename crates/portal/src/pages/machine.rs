//! One protected machine: where it lives, how it is, and what may be done with it.

mod operations;
mod points;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use switchback_control::{Control, ItemView};
use switchback_model::{JobError, JobId, Side};

use super::widgets::{self, Badge, Moment, Tone, badge};
use crate::Portal;
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::shown::span;
use crate::visit::{Visit, form, page};
use operations::Offered;

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/machines/{machine}", page(show))
        .route("/machines/{machine}/{operation}", form(operations::confirm, operations::ask))
}

#[derive(Template)]
#[template(path = "machine.html")]
struct Page {
    frame: Frame,
    view: ItemView,
    phase: Badge,
    health: Badge,
    testing: Option<Badge>,
    /// Site and side of where it runs, and of the other one.
    active: (String, Side),
    passive: (String, Side),
    rpo: String,
    agent_seen: Option<Moment>,
    operations: Vec<Offered>,
    reasons: Vec<JobError>,
    job: Option<JobId>,
}

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let view = control.item(&visit.name("machine")?)?;
    let item = &view.item;
    let protection = &item.protection;
    let page = Page {
        frame: visit.frame(Tab::Machines, item.name.to_string()),
        phase: widgets::phase(protection.phase),
        health: widgets::health(view.health),
        testing: protection.testing.then(|| badge(Tone::Busy, "test failover")),
        active: (item.active().site.to_string(), protection.active),
        passive: (item.passive().site.to_string(), protection.passive()),
        rpo: view.rpo_ms.filter(|_| protection.replicates()).map_or_else(|| "–".into(), span),
        agent_seen: view.agent_seen.map(|at| widgets::moment(at, visit.now)),
        operations: operations::offered(visit, &view),
        reasons: view.reasons.clone(),
        job: item.job,
        view,
    };
    Ok(page.render()?)
}
