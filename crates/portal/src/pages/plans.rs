//! The tab Recovery Plans: all plans, and a new one.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::http::StatusCode;
use switchback_control::Control;
use switchback_model::{AccessRole, Job, JobRequest, ObjectName, ProtectedItem, RecoveryPlan, Side};

use super::ask::{Field, Form};
use super::widgets::{self, Badge, Moment};
use crate::Portal;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::visit::{Visit, form, page};

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/plans", page(show)).route("/new-plan", form(ask_new, make))
}

#[derive(Template)]
#[template(path = "plans.html")]
struct Page {
    frame: Frame,
    may_make: bool,
    rows: Vec<Row>,
}

struct Row {
    name: ObjectName,
    sites: String,
    groups: usize,
    machines: usize,
    runs_at: String,
    last: Option<Last>,
}

/// The newest job of a plan.
struct Last {
    id: String,
    title: &'static str,
    state: Badge,
    when: Moment,
}

/// Whether a job is a plan's own.
pub(super) fn is_of_plan(job: &Job) -> bool {
    matches!(job.request, JobRequest::Plan { .. })
}

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let items = control.protected()?;
    let sides: BTreeMap<String, &ProtectedItem> = items.iter().map(|item| (item.name.key(), item)).collect();
    let mut rows = Vec::new();
    for plan in control.plans()? {
        let last = control.jobs(Some(&plan.name), None, 1, is_of_plan)?.pop();
        rows.push(row(&plan, last.as_ref(), &sides, visit));
    }
    rows.sort_by_key(|row| row.name.key());
    Ok(Page { frame: visit.frame(Tab::Plans, "Recovery Plans"), may_make: visit.is_contributor(), rows }
        .render()?)
}

fn row(
    plan: &RecoveryPlan,
    last: Option<&Job>,
    items: &BTreeMap<String, &ProtectedItem>,
    visit: &Visit,
) -> Row {
    let machines: Vec<_> = plan.groups.iter().flat_map(|group| &group.machines).collect();
    let at = |side| {
        let is_there =
            |name: &&&ObjectName| items.get(&name.key()).is_some_and(|item| item.protection.active == side);
        machines.iter().filter(is_there).count()
    };
    Row {
        name: plan.name.clone(),
        sites: format!("{} ⇄ {}", plan.home_site, plan.away_site),
        groups: plan.groups.len(),
        machines: machines.len(),
        runs_at: match (at(Side::Home), at(Side::Away)) {
            (0, 0) => "–".into(),
            (_, 0) => format!("at {}", plan.home_site),
            (0, _) => format!("at {}", plan.away_site),
            (home, away) => format!("{home} at {}, {away} at {}", plan.home_site, plan.away_site),
        },
        last: last.map(|job| Last {
            id: job.id.to_string(),
            title: switchback_api::job_scenario(&job.request).1,
            state: widgets::job_badge(job.state),
            when: widgets::moment(job.created, visit.now),
        }),
    }
}

/// The pairs of sites that machines are protected between, as the form sends them and as people read them.
fn pairs(control: &Control) -> Result<Vec<(String, String)>, Failure> {
    let groups = control.groups()?;
    let forward = groups.iter().filter(|group| group.towards == Side::Away);
    let mut pairs: Vec<_> = forward
        .map(|group| (&group.source_site, &group.target_site))
        .map(|(home, away)| (format!("{home}/{away}"), format!("{home} (home) and {away} (recovery site)")))
        .collect();
    pairs.sort();
    pairs.dedup();
    Ok(pairs)
}

/// `GET /portal/new-plan`.
fn ask_new(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "making a recovery plan")?;
    let pairs = pairs(control)?;
    if pairs.is_empty() {
        let message = "there is no protection group, so no machines that a plan could have";
        return Err(Failure::new(StatusCode::CONFLICT, "portal.no-groups", message)
            .remedy("make a protection group in the settings first"));
    }
    let name = Field::line("name", "Name").hint("Letters, digits, dashes and underscores.");
    Form::new(visit.frame(Tab::Plans, "New recovery plan"), "Make it", "/portal/plans")
        .note("It begins with one group; machines and actions are put into it next.")
        .field(name)
        .field(Field::choice("sites", "Between", pairs))
        .show()
}

/// `POST /portal/new-plan`. The API replaces a plan of the same name, so one that is there is refused here.
fn make(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let name: ObjectName = visit
        .field("name")
        .parse()
        .map_err(|error: switchback_model::InvalidName| Failure::invalid(error.to_string()))?;
    if control.plans()?.iter().any(|plan| plan.name == name) {
        let message = format!("there is a recovery plan {name} already");
        return Err(
            Failure::new(StatusCode::CONFLICT, "portal.plan-taken", message).remedy("choose another name")
        );
    }
    let site = |text: &str| text.parse::<ObjectName>().map_err(|error| Failure::invalid(error.to_string()));
    let (home, away) = visit.field("sites").split_once('/').unwrap_or_default();
    let properties = serde_json::json!({
        "primaryFabricId": visit.vault.fabric(&site(home)?),
        "recoveryFabricId": visit.vault.fabric(&site(away)?),
        "groups": [{ "groupType": "Boot" }],
    });
    let there = Then::To(format!("/portal/plans/{name}/edit"));
    Ok(Act::put(visit.vault.plan(&name), properties, there))
}
