//! The tab Machines: all protected machines, found, filtered, sorted and cut into pages here, so that a thousand of them are one short page.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use askama::Template;
use axum::Router;
use switchback_control::{Control, Health, ItemView};
use switchback_model::{JobId, ObjectName, Phase};

use super::list::List;
use super::widgets::{self, Badge, Tone, badge};
use crate::Portal;
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::shown::span;
use crate::visit::{Visit, page};

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/machines", page(show))
}

#[derive(Template)]
#[template(path = "machines.html")]
struct Page {
    frame: Frame,
    may_protect: bool,
    list: List,
    rows: Vec<Row>,
}

struct Row {
    name: ObjectName,
    system: String,
    phase: Badge,
    testing: bool,
    test: Badge,
    direction: String,
    health: Badge,
    rpo: String,
    rpo_target: String,
    rpo_missed: bool,
    failover: Badge,
    failback: Badge,
    job: Option<JobId>,
}

/// What can be filtered by: what the address says, and what people read.
const fn states() -> [(&'static str, &'static str); 6] {
    [
        ("enabling", "enabling protection"),
        ("protected", "protected"),
        ("testing", "with a test failover"),
        ("failed-over", "failed over, commit required"),
        ("committed", "failover committed"),
        ("reprotecting", "reprotecting"),
    ]
}

const fn healths() -> [(&'static str, &'static str); 3] {
    [("normal", "normal"), ("warning", "warning"), ("critical", "critical")]
}

/// The columns, and what they are sorted by, if they are.
const fn columns() -> [(&'static str, &'static str); 8] {
    [
        ("name", "Machine"),
        ("state", "State"),
        ("", "Replicates"),
        ("health", "Health"),
        ("rpo", "RPO"),
        ("", "Fail over"),
        ("", "Come home"),
        ("", "Job"),
    ]
}

const fn state_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Enabling => "enabling",
        Phase::Protected => "protected",
        Phase::FailedOver => "failed-over",
        Phase::Committed => "committed",
        Phase::Reprotecting => "reprotecting",
    }
}

const fn health_of(health: Health) -> &'static str {
    match health {
        Health::Normal => "normal",
        Health::Warning => "warning",
        Health::Critical => "critical",
    }
}

fn is_asked(list: &List, view: &ItemView) -> bool {
    let (item, asked) = (&view.item, &list.asked);
    let protection = &item.protection;
    let state = match asked.state.as_str() {
        "" => true,
        "testing" => protection.testing,
        state => state == state_of(protection.phase),
    };
    let sites = [item.home.site.as_str(), item.away.site.as_str()];
    state
        && (asked.health.is_empty() || asked.health == health_of(view.health))
        && list.finds(&[item.name.as_str(), &view.system, sites[0], sites[1], view.group.as_str()])
}

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let mut list = List::asked(visit, "/portal/machines", "machines");
    let items = control.items()?;
    list.total = items.len();
    let mut found: Vec<_> = items.into_iter().filter(|view| is_asked(&list, view)).collect();
    found.sort_by_cached_key(|view| view.item.name.key());
    match list.asked.sort.as_str() {
        "state" => found.sort_by_key(|view| view.item.protection.phase),
        "health" => found.sort_by_key(|view| Reverse(view.health)),
        "rpo" => found.sort_by_key(|view| Reverse(view.rpo_ms)),
        _ => list.asked.sort = "name".into(),
    }
    let targets = rpo_targets(control)?;
    let rows = list.cut(found).iter().map(|view| row(view, &targets)).collect();
    let frame = visit.frame(Tab::Machines, "Machines");
    Ok(Page { frame, may_protect: visit.is_contributor(), list, rows }.render()?)
}

/// How old the newest recovery point may be, by protection group, in milliseconds.
pub(super) fn rpo_targets(control: &Control) -> Result<HashMap<ObjectKey, u64>, Failure> {
    let groups = control.groups()?.into_iter();
    Ok(groups.map(|group| (group.name.key(), group.policy.rpo_threshold_ms)).collect())
}

/// A name as the store knows it: without case.
type ObjectKey = String;

fn row(view: &ItemView, targets: &HashMap<ObjectKey, u64>) -> Row {
    let item = &view.item;
    let target = targets.get(&view.group.key()).copied();
    let replicates = item.protection.replicates();
    let (active, passive) = (&item.active().site, &item.passive().site);
    let [failover, failback] = view.verdicts.map_or([None; 2], |verdicts| verdicts.map(Some));
    Row {
        name: item.name.clone(),
        system: view.system.clone(),
        phase: widgets::phase(item.protection.phase),
        testing: item.protection.testing,
        test: badge(Tone::Busy, "test failover"),
        direction: if replicates {
            format!("{active} → {passive}")
        } else {
            format!("not; runs at {active}")
        },
        health: widgets::health(view.health),
        rpo: view.rpo_ms.filter(|_| replicates).map_or_else(|| "–".into(), span),
        rpo_target: target.map_or_else(|| "–".into(), span),
        rpo_missed: replicates && view.rpo_ms.zip(target).is_some_and(|(rpo, target)| rpo > target),
        failover: widgets::verdict(failover),
        failback: widgets::verdict(failback),
        job: item.job,
    }
}
