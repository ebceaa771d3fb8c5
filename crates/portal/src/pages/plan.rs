//! One recovery plan: its groups with their machines and actions, what may be done with it, its runs.

mod action;
mod edit;
mod run;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::http::StatusCode;
use switchback_control::{Control, ItemView};
use switchback_model::{
    AccessRole, ActionKind, JobId, ObjectName, PlanAction, PlanGroup, ProtectedItem, RecoveryPlan, Side,
};

use super::ask::Form;
use super::jobs::{self, Row};
use super::plans::is_of_plan;
use super::widgets::{self, Badge, Tone, badge};
use crate::Portal;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::shown::span;
use crate::visit::{Visit, form, page};
use run::Offered;

/// Runs that a plan's page shows.
const RUNS_SHOWN: usize = 20;

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/plans/{plan}", page(show))
        .route("/plans/{plan}/edit", form(edit::show, edit::ask))
        .route("/plans/{plan}/edit/action", form(action::show, action::ask))
        .route("/plans/{plan}/delete", form(confirm_delete, delete))
        .route("/plans/{plan}/{operation}", form(run::confirm, run::ask))
}

#[derive(Template)]
#[template(path = "plan.html")]
struct Page {
    frame: Frame,
    name: ObjectName,
    sites: String,
    protection_groups: String,
    job: Option<JobId>,
    may_edit: bool,
    operations: Vec<Offered>,
    groups: Vec<Group>,
    rows: Vec<Row>,
}

struct Group {
    number: usize,
    before: Vec<String>,
    machines: Vec<Machine>,
    after: Vec<String>,
}

/// A machine of a plan as it is now.
struct Machine {
    name: ObjectName,
    phase: Badge,
    testing: Option<Badge>,
    at: String,
    health: Badge,
    rpo: String,
}

/// The plan of the address.
fn plan_of(control: &Control, visit: &Visit) -> Result<RecoveryPlan, Failure> {
    Ok(control.plan(&visit.name("plan")?)?)
}

/// Its machines that are there.
fn views_of(control: &Control, plan: &RecoveryPlan) -> Result<Vec<ItemView>, Failure> {
    let is_in = |item: &&ProtectedItem| plan.groups.iter().any(|group| group.machines.contains(&item.name));
    Ok(control.views(control.protected()?.iter().filter(is_in))?)
}

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let plan = plan_of(control, visit)?;
    let views = views_of(control, &plan)?;
    let runs = control.jobs(Some(&plan.name), None, RUNS_SHOWN, is_of_plan)?;
    let names = plan.protection_groups.iter().map(ToString::to_string).collect::<Vec<_>>();
    let groups = (1..).zip(&plan.groups).map(|(number, group)| Group {
        number,
        before: group.start_actions.iter().map(|action| describe(action, &plan)).collect(),
        machines: group.machines.iter().map(|name| machine(name, &views)).collect(),
        after: group.end_actions.iter().map(|action| describe(action, &plan)).collect(),
    });
    let page = Page {
        frame: visit.frame(Tab::Plans, plan.name.to_string()),
        sites: format!("{} (home) and {} (recovery site)", plan.home_site, plan.away_site),
        protection_groups: names.join(", "),
        job: plan.job,
        may_edit: visit.is_contributor(),
        operations: run::offered(visit, &plan, &views),
        groups: groups.collect(),
        rows: runs.iter().map(|job| jobs::row(job, visit)).collect(),
        name: plan.name,
    };
    Ok(page.render()?)
}

fn machine(name: &ObjectName, views: &[ItemView]) -> Machine {
    let Some(view) = views.iter().find(|view| view.item.name == *name) else {
        let (at, rpo) = ("–".into(), "–".into());
        let gone = badge(Tone::Bad, "not protected any more");
        return Machine { name: name.clone(), phase: gone.clone(), testing: None, at, health: gone, rpo };
    };
    let protection = &view.item.protection;
    Machine {
        name: name.clone(),
        phase: widgets::phase(protection.phase),
        testing: protection.testing.then(|| badge(Tone::Busy, "test failover")),
        at: view.item.active().site.to_string(),
        health: widgets::health(view.health),
        rpo: view.rpo_ms.filter(|_| protection.replicates()).map_or_else(|| "–".into(), span),
    }
}

/// An action in a sentence.
fn describe(action: &PlanAction, plan: &RecoveryPlan) -> String {
    let what = match &action.action {
        ActionKind::ServerScript { script, limit_s } => {
            format!("runs {script} on the configuration server, {limit_s} s at most")
        }
        ActionKind::GuestScript { machine, script, limit_s } => {
            format!("runs {script} in {machine}, {limit_s} s at most")
        }
        ActionKind::Manual { instructions } => format!("waits until somebody confirms: {instructions}"),
        ActionKind::Delay { seconds } => format!("waits {seconds} s"),
    };
    let towards = match action.towards.as_slice() {
        [Side::Home] => format!("; only towards {} (home)", plan.home_site),
        [Side::Away] => format!("; only towards {}", plan.away_site),
        _ => String::new(),
    };
    let test = if action.at_test { "; also at test failovers" } else { "" };
    format!("{}: {what}{towards}{test}", action.name)
}

/// What a plan looks like, in short: a form that was shown for another is refused.
fn mark_of(groups: &[PlanGroup]) -> String {
    let text = serde_json::to_string(groups).unwrap_or_default();
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}

/// Refuses a form whose page showed something else.
fn check_mark(visit: &Visit, now: &str, what: &ObjectName) -> Result<(), Failure> {
    if visit.field("seen") == now {
        return Ok(());
    }
    let message = format!("{what} is not as it was when the page was shown; nothing was done");
    Err(Failure::new(StatusCode::CONFLICT, "portal.stale-form", message)
        .cause("somebody changed it, or its machines went on, meanwhile")
        .remedy("load the page again and see what it says now"))
}

/// `GET /portal/plans/{plan}/delete`.
fn confirm_delete(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let plan = plan_of(control, visit)?;
    visit.needs(AccessRole::Contributor, "deleting a recovery plan")?;
    let name = &plan.name;
    Form::new(visit.frame(Tab::Plans, format!("Delete {name}")), "Delete it", format!("/portal/plans/{name}"))
        .note("Its machines stay as they are, protected and where they run. Its groups, their order and its actions are lost.")
        .grave()
        .show()
}

/// `POST /portal/plans/{plan}/delete`.
fn delete(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    Ok(Act::delete(visit.vault.plan(&visit.name("plan")?), Then::To("/portal/plans".into())))
}
