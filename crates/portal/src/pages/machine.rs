//! One protected machine: where it lives, how it is, and what may be done with it.

mod check;
mod disks;
mod drawing;
mod operations;
mod path;
mod points;
mod proofs;
mod reprotect;
mod told;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use switchback_control::{Control, ItemView};
use switchback_model::component::InterfaceSettings;
use switchback_model::{
    Event, Job, JobError, ObjectName, Phase, ReadinessCheck, RecoveryPoint, Severity, Side,
};

use super::widgets::{self, Badge, Moment, Tone, badge, check_badge, job_badge, job_title};
use crate::Portal;
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::shown::span;
use crate::visit::{Visit, form, page, picture};
use disks::Disk;
use drawing::{Chart, HEIGHT, Timeline, WIDTH};
use operations::Offered;
use proofs::Proved;

/// Jobs, events and recovery points that are told of.
const HISTORY: usize = 12;
/// Events of all machines among which those of this one are looked for.
const EVENTS_MAX: usize = 500;

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/machines/{machine}", page(show))
        .route("/machines/{machine}/reprotect", form(reprotect::page, reprotect::ask))
        .route(&format!("/machines/{{machine}}/{}", path::SWITCH), form(path::ask_switch, path::switch))
        .route(&format!("/machines/{{machine}}/{}", path::RELEASE), form(path::ask_release, path::release))
        .route(&format!("/machines/{{machine}}/{}", check::SLUG), form(check::ask, check::check))
        .route(&format!("/machines/{{machine}}/{}", disks::ADD), form(disks::ask_add, disks::add))
        .route(&format!("/machines/{{machine}}/{}", disks::REMOVE), form(disks::ask_remove, disks::remove))
        .route(&format!("/machines/{{machine}}/{}", proofs::VERIFY), form(proofs::ask_verify, proofs::verify))
        .route(
            &format!("/machines/{{machine}}/{}", proofs::PROVING),
            form(proofs::ask_proving, proofs::prove),
        )
        .route("/machines/{machine}/proofs/{proof}", page(proofs::show))
        .route("/machines/{machine}/proofs/{proof}/picture", picture(proofs::picture))
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
    rpo: String,
    rpo_target: String,
    rpo_missed: bool,
    agent_seen: Option<Moment>,
    operations: Vec<Offered>,
    reasons: Vec<JobError>,
    places: [Place; 2],
    arrow: Arrow,
    timeline: Timeline,
    points: Vec<(RecoveryPoint, Moment, Option<Proved>)>,
    last_proof: Option<proofs::Last>,
    disks: Vec<Disk>,
    nics: Vec<Nic>,
    readiness: Option<[Direction; 2]>,
    may_check: bool,
    rpo_chart: Option<Chart>,
    churn_chart: Option<Chart>,
    transfer_chart: Option<Chart>,
    jobs: Vec<Past>,
    events: Vec<Happened>,
}

/// A side, in the picture.
struct Place {
    x: u64,
    label: &'static str,
    site: ObjectName,
    id: String,
    is_active: bool,
    what: String,
}

/// What is between the sides, in the picture.
struct Arrow {
    /// `home`, `away`, or nothing: nothing replicates.
    towards: &'static str,
    /// Process server and master target, as much of their names as there is room for.
    through: [String; 2],
    words: String,
}

struct Nic {
    number: usize,
    sides: [(String, String, String); 2],
}

struct Direction {
    title: &'static str,
    verdict: Badge,
    checked: Moment,
    checks: Vec<(Badge, ReadinessCheck)>,
}

struct Past {
    id: String,
    title: String,
    state: Badge,
    created: Moment,
    by: String,
}

struct Happened {
    severity: Badge,
    time: Moment,
    message: String,
}

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let view = control.item(&visit.name("machine")?)?;
    let (item, now) = (&view.item, visit.now);
    let protection = &item.protection;
    let target_ms = control.group(&view.group)?.policy.rpo_threshold_ms;
    let rpo_ms = view.rpo_ms.filter(|_| protection.replicates());
    let (samples, points) = (control.samples(&item.name), control.recovery_points(&item.name)?);
    let jobs = control.jobs(Some(&item.name), None, HISTORY, |_| true)?;
    let events = control.events(EVENTS_MAX)?.into_iter().filter(|event| event.object == item.name.as_str());
    let (newest, proofs) = (points.iter().rev().take(HISTORY), control.proofs(&item.name)?);
    let newest = newest
        .map(|point| (point.clone(), widgets::moment(point.time, now), proofs::of_point(&proofs, point)));
    let page = Page {
        frame: visit.frame(Tab::Machines, item.name.to_string()),
        phase: widgets::phase(protection.phase),
        health: widgets::health(view.health),
        testing: protection.testing.then(|| badge(Tone::Busy, "test failover")),
        rpo: rpo_ms.map_or_else(|| "–".into(), span),
        rpo_target: span(target_ms),
        rpo_missed: rpo_ms.is_some_and(|rpo| rpo > target_ms),
        agent_seen: view.agent_seen.map(|at| widgets::moment(at, now)),
        operations: [
            operations::offered(visit, &view),
            proofs::offered(visit, &view),
            disks::offered(visit, &view),
            path::offered(visit, &view),
        ]
        .concat(),
        reasons: view.reasons.clone(),
        places: [Side::Home, Side::Away].map(|side| place(&view, side)),
        arrow: arrow(&view),
        timeline: drawing::timeline(&points, now),
        points: newest.collect(),
        last_proof: proofs::last(&proofs, visit),
        disks: disks::rows(&view),
        nics: nics(&view),
        readiness: readiness(control, visit, &view),
        may_check: check::is_offered(visit, &view),
        rpo_chart: drawing::rpo_chart(&samples, target_ms, now),
        churn_chart: drawing::growth_chart(&samples, now, |sample| sample.changed_bytes),
        transfer_chart: drawing::growth_chart(&samples, now, |sample| sample.transferred_bytes),
        jobs: jobs.iter().map(|job| past(job, visit)).collect(),
        events: events.take(HISTORY).map(|event| happened(event, visit)).collect(),
        view,
    };
    Ok(page.render()?)
}

fn place(view: &ItemView, side: Side) -> Place {
    let (item, instance) = (&view.item, view.item.instance(side));
    let is_active = item.protection.active == side;
    let what = match (is_active, item.protection.phase) {
        (true, _) => "runs here",
        (false, Phase::FailedOver | Phase::Committed) => "was left",
        (false, _) => "replica",
    };
    let (x, label) = match side {
        Side::Home => (10, "Home"),
        Side::Away => (490, "Recovery site"),
    };
    let id = instance.id.clone().unwrap_or_else(|| "no machine yet".into());
    Place { x, label, site: instance.site.clone(), id, is_active, what: what.into() }
}

fn arrow(view: &ItemView) -> Arrow {
    let item = &view.item;
    let path = item.replication.as_ref().filter(|_| item.protection.replicates());
    let Some(path) = path else {
        let words = format!("Nothing replicates. It runs at {}.", item.active().site);
        return Arrow { towards: "", through: Default::default(), words };
    };
    Arrow {
        towards: item.protection.passive().as_str(),
        through: [&path.process_server, &path.master_target].map(|server| shortened(server.as_str())),
        words: format!(
            "It runs at {} and is replicated to {}, through {} and {}.",
            item.active().site,
            item.passive().site,
            path.process_server,
            path.master_target
        ),
    }
}

/// A name as far as it fits between the sides.
fn shortened(name: &str) -> String {
    const LETTERS_MAX: usize = 24;
    if name.chars().count() <= LETTERS_MAX {
        return name.to_owned();
    }
    name.chars().take(LETTERS_MAX - 1).chain(['…']).collect()
}

fn nics(view: &ItemView) -> Vec<Nic> {
    let sides = [&view.item.home.nics, &view.item.away.nics];
    let count = sides.iter().map(|nics| nics.len()).max().unwrap_or_default();
    let cell = |nics: &Vec<switchback_model::InstanceNic>, index: usize| {
        let nic = nics.get(index);
        nic.map_or_else(Default::default, |nic| {
            (nic.network.clone(), nic.mac.clone(), settings(&nic.settings))
        })
    };
    (0..count).map(|index| Nic { number: index + 1, sides: sides.map(|nics| cell(nics, index)) }).collect()
}

fn settings(settings: &InterfaceSettings) -> String {
    match settings {
        InterfaceSettings::Untouched => "as the guest has it".into(),
        InterfaceSettings::Dhcp => "DHCP".into(),
        InterfaceSettings::Static { address, gateway, .. } => {
            let gateway = gateway.as_ref().map(|gateway| format!(", gateway {gateway}")).unwrap_or_default();
            format!("{address}{gateway}")
        }
    }
}

/// As of the last look: the page is fetched anew again and again, and sites are asked once a minute.
fn readiness(control: &Control, visit: &Visit, view: &ItemView) -> Option<[Direction; 2]> {
    let readiness = control.last_readiness(&view.item.name)?;
    let directions = [("Fail over", Side::Away), ("Come home", Side::Home)];
    Some(directions.map(|(title, side)| {
        let checks = readiness.to(side);
        Direction {
            title,
            verdict: widgets::verdict(Some(switchback_model::verdict(checks))),
            checked: widgets::moment(readiness.checked, visit.now),
            checks: checks.iter().map(|check| (check_badge(check.state), check.clone())).collect(),
        }
    }))
}

fn past(job: &Job, visit: &Visit) -> Past {
    Past {
        id: job.id.to_string(),
        title: job_title(&job.request),
        state: job_badge(job.state),
        created: widgets::moment(job.created, visit.now),
        by: job.by.clone(),
    }
}

fn happened(event: Event, visit: &Visit) -> Happened {
    let tone = match event.severity {
        Severity::Info => Tone::Plain,
        Severity::Warning => Tone::Warning,
        Severity::Critical => Tone::Bad,
    };
    let severity = badge(tone, format!("{:?}", event.severity).to_lowercase());
    Happened { severity, time: widgets::moment(event.time, visit.now), message: event.message }
}
