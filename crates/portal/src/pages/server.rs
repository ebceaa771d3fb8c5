//! One component: how it is, what it has to do, and how it goes.

mod arrival;
mod bandwidth;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use switchback_control::{Control, ServerView};
use switchback_identity::PeerIdentity;
use switchback_model::component::{AgentState, MasterTargetState, ProcessServerState, State};
use switchback_model::{AccessRole, ByteSize, CheckState, ReadinessCheck};

use super::ask::Form;
use super::servers::{id_of, load, title_of};
use super::widgets::{self, Badge, Moment, Notice, Tone, reasons};
use crate::Portal;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::shown::Moment as Shown;
use crate::visit::{Visit, form, page};

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/servers/{server}", page(show))
        .route("/servers/{server}/remove", form(confirm_removal, remove))
        .merge(arrival::routes())
        .merge(bandwidth::routes())
}

#[derive(Template)]
#[template(path = "server.html")]
struct Page {
    frame: Frame,
    id: String,
    may_remove: bool,
    is_limited: bool,
    health: Badge,
    seen: Option<Moment>,
    problems: Vec<Notice>,
    facts: Vec<(&'static str, String)>,
    load: Vec<String>,
    tables: Vec<Table>,
}

/// What a component has several of.
struct Table {
    title: &'static str,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

/// The component of the address.
fn server_of(control: &Control, visit: &Visit) -> Result<ServerView, Failure> {
    let wanted = visit.param("server");
    let is_wanted = |identity: &PeerIdentity| id_of(identity) == wanted;
    control.servers_if(is_wanted)?.pop().ok_or_else(|| Failure::not_found("server", wanted))
}

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let server = server_of(control, visit)?;
    let identity = &server.identity;
    let mut facts = vec![("Enrolled", Shown::of(server.enrolled, visit.now).text)];
    let (mut problems, mut tables) = (reasons(server.health, &server.reasons), Vec::new());
    if bandwidth::is_limited(identity) {
        facts.push(("Bandwidth", bandwidth::shown(&control.bandwidth(identity)?).join("; ")));
    }
    if let Some((_, report)) = &server.last_report {
        facts.push(("Version", report.build.clone()));
        let said = [("Site", &report.site), ("Address", &report.address)];
        facts.extend(
            said.into_iter().filter(|(_, text)| !text.is_empty()).map(|(what, text)| (what, text.clone())),
        );
        facts.push(("Started", Shown::of(report.started, visit.now).text));
        match &report.state {
            State::ProcessServer(state) => tables = process_server(state),
            State::MasterTarget(state) => {
                (tables, problems) = (master_target(state), with(problems, storage(state)))
            }
            State::Agent(state) => {
                facts.extend([("Host", state.hostname.clone()), ("System", state.system.clone())]);
                tables = agent(state);
                problems = with(problems, agents_problems(state));
            }
        }
    }
    let page = Page {
        frame: visit.frame(Tab::Servers, format!("{} {}", title_of(identity.role), identity.name)),
        id: id_of(identity),
        may_remove: visit.is_contributor(),
        is_limited: bandwidth::is_limited(identity),
        health: widgets::health(server.health),
        seen: server.last_report.as_ref().map(|(at, _)| widgets::moment(*at, visit.now)),
        problems,
        facts,
        load: load(&server),
        tables,
    };
    Ok(page.render()?)
}

fn with(mut all: Vec<Notice>, more: Vec<Notice>) -> Vec<Notice> {
    all.extend(more);
    all
}

fn process_server(state: &ProcessServerState) -> Vec<Table> {
    let spools = state.spools.iter().map(|spool| {
        let waiting = spool.waiting.clone().unwrap_or_else(|| "–".into());
        vec![spool.replica.to_string(), ByteSize(spool.bytes).to_string(), waiting]
    });
    let probes = state
        .probes
        .iter()
        .map(|(address, problem)| vec![address.clone(), problem.clone().unwrap_or_else(|| "yes".into())]);
    vec![
        Table {
            title: "Spools",
            columns: vec!["Replica", "Not forwarded yet", "Waits for"],
            rows: spools.collect(),
        },
        Table {
            title: "Master targets it may need",
            columns: vec!["Address", "Can be reached"],
            rows: probes.collect(),
        },
    ]
}

fn master_target(state: &MasterTargetState) -> Vec<Table> {
    let replicas = state.replicas.iter().map(|replica| {
        let newest = replica.points.last().map_or_else(|| "–".into(), |point| point.seq.to_string());
        let problem = replica.problem.as_ref().map_or_else(|| "–".into(), |problem| problem.message.clone());
        vec![
            replica.replica.to_string(),
            replica.points.len().to_string(),
            newest,
            ByteSize(replica.retention_bytes).to_string(),
            problem,
        ]
    });
    let columns = vec!["Replica", "Points", "Newest", "Retention", "Problem"];
    vec![Table { title: "Replicas", columns, rows: replicas.collect() }]
}

/// What is wrong with the way to storage.
fn storage(state: &MasterTargetState) -> Vec<Notice> {
    state.storage_paths.iter().filter_map(|found| raised(&found.check)).collect()
}

/// A check that did not pass.
fn raised(check: &ReadinessCheck) -> Option<Notice> {
    let tone = match check.state {
        CheckState::Passed => return None,
        CheckState::Failed => Tone::Bad,
        CheckState::Warning | CheckState::Unknown => Tone::Warning,
    };
    Some(widgets::notice(tone, check.as_error()))
}

fn agent(state: &AgentState) -> Vec<Table> {
    let disks = state.disks.iter();
    let disks = disks.map(|disk| {
        vec![disk.name.clone(), disk.serial.clone(), ByteSize(disk.size).to_string(), disk.capture.clone()]
    });
    let cards = state.interfaces.iter();
    let cards = cards.map(|card| vec![card.name.clone(), card.mac.clone(), card.addresses.join(", ")]);
    vec![
        Table {
            title: "Disks",
            columns: vec!["Disk", "Serial number", "Size", "Changes are found by"],
            rows: disks.collect(),
        },
        Table {
            title: "Network cards",
            columns: vec!["Card", "MAC address", "Addresses"],
            rows: cards.collect(),
        },
    ]
}

fn agents_problems(state: &AgentState) -> Vec<Notice> {
    let failure = state.replication.as_ref().and_then(|replication| replication.failure.as_ref());
    let problems = state.problems.iter().chain(failure).map(|problem| {
        let (code, message) = (problem.code.clone(), problem.message.clone());
        let error = switchback_model::JobError { code, message, cause: String::new(), remedy: String::new() };
        widgets::notice(Tone::Warning, error)
    });
    problems.chain(state.guest.iter().filter_map(raised)).collect()
}

/// `GET /portal/servers/{server}/remove`.
fn confirm_removal(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let server = server_of(control, visit)?;
    visit.needs(AccessRole::Contributor, "removing a server")?;
    let id = id_of(&server.identity);
    let name = format!("{} {}", title_of(server.identity.role), server.identity.name);
    Form::new(visit.frame(Tab::Servers, format!("Remove {name}")), "Remove it", format!("/portal/servers/{id}"))
        .note("It is forgotten here, and its certificate is not renewed any more. Its host stays as it is. One that a protected machine needs is refused.")
        .grave()
        .show()
}

/// `POST /portal/servers/{server}/remove`.
fn remove(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let id = id_of(&server_of(control, visit)?.identity);
    Ok(Act::delete(visit.vault.addition("switchbackServers", &id), Then::To("/portal/servers".into())))
}
