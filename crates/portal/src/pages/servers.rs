//! The tab Servers: the configuration server and all components that have enrolled. How one gets here, by enrolling or by being made, is in `server`.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use switchback_control::{Control, Deployment, ServerView};
use switchback_identity::{PeerIdentity, Role};
use switchback_model::ByteSize;
use switchback_model::component::State;

use super::list::List;
use super::widgets::{self, Badge, HEALTHS, Moment, Notice, Tone, notice, reasons};
use crate::Portal;
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::shown::span;
use crate::visit::{Visit, page};

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/servers", page(show))
}

#[derive(Template)]
#[template(path = "servers.html")]
struct Page {
    frame: Frame,
    may_add: bool,
    own: Own,
    parts: [Part; 2],
    made: Vec<Made>,
    list: List,
    agents: Vec<Row>,
}

/// The configuration server itself.
struct Own {
    build: String,
    incarnation: u64,
    backup: Badge,
    problems: Vec<Notice>,
}

/// All components of a role.
struct Part {
    title: &'static str,
    none: &'static str,
    rows: Vec<Row>,
}

/// A component in a line.
struct Row {
    id: String,
    name: String,
    site: String,
    build: String,
    seen: Option<Moment>,
    health: Badge,
    reason: String,
    load: Vec<String>,
}

/// A process server that was made here, or is being made or removed.
struct Made {
    name: String,
    site: String,
    address: String,
    size: String,
    job: Option<String>,
    is_retiring: bool,
}

/// Its name in addresses and in the API: `ROLE.NAME`.
pub(super) fn id_of(identity: &PeerIdentity) -> String {
    format!("{}.{}", identity.role, identity.name)
}

/// What people call a role.
pub(super) const fn title_of(role: Role) -> &'static str {
    match role {
        Role::Source => "Mobility agent",
        Role::ProcessServer => "Process server",
        Role::Target => "Master target",
        Role::Operator => "Command line",
        Role::ConfigurationServer => "Configuration server",
    }
}

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let mut list = List::asked(visit, "/portal/servers", "mobility agents");
    let mut servers = control.servers()?;
    servers.sort_by_cached_key(|server| server.identity.name.to_string());
    let of = |role: Role| servers.iter().filter(move |server| server.identity.role == role);
    list.total = of(Role::Source).count();
    let agents = of(Role::Source).filter(|server| is_asked(&list, server)).collect();
    let agents = list.cut::<&ServerView>(agents).into_iter().map(|server| row(server, visit)).collect();
    let part =
        |role, title, none| Part { title, none, rows: of(role).map(|server| row(server, visit)).collect() };
    let page = Page {
        frame: visit.frame(Tab::Servers, "Servers"),
        may_add: visit.is_contributor(),
        own: own(control, visit)?,
        parts: [
            part(Role::ProcessServer, "Process servers", "No process server has enrolled."),
            part(Role::Target, "Master targets", "No master target has enrolled."),
        ],
        made: control.deployments()?.iter().map(made).collect(),
        list,
        agents,
    };
    Ok(page.render()?)
}

fn is_asked(list: &List, server: &ServerView) -> bool {
    let asked = HEALTHS.into_iter().find(|(name, _)| *name == list.asked.health);
    asked.is_none_or(|(_, health)| health == server.health)
        && list.finds(&[server.identity.name.as_str(), &host_of(server)])
}

/// What an agent calls its host.
fn host_of(server: &ServerView) -> String {
    match server.last_report.as_ref().map(|(_, report)| &report.state) {
        Some(State::Agent(state)) => state.hostname.clone(),
        _ => String::new(),
    }
}

fn own(control: &Control, visit: &Visit) -> Result<Own, Failure> {
    let backup = control.backup_status()?;
    let mut problems = reasons(backup.health, &backup.reasons);
    if let Some(superseded) = control.superseded()? {
        let error = switchback_model::JobError {
            code: "server.superseded".into(),
            message: format!("incarnation {} of this configuration server is in force", superseded.by),
            cause: "it was restored from a backup elsewhere, and the components follow that one".into(),
            remedy: "use the newer one; switch this one off".into(),
        };
        problems.push(notice(Tone::Bad, error));
    }
    Ok(Own {
        build: visit.build.clone(),
        incarnation: control.incarnation()?,
        backup: widgets::health(backup.health),
        problems,
    })
}

fn row(server: &ServerView, visit: &Visit) -> Row {
    let report = server.last_report.as_ref();
    let text = |of: fn(&switchback_model::component::Report) -> &str| {
        report.map(|(_, report)| of(report).to_owned()).unwrap_or_default()
    };
    Row {
        id: id_of(&server.identity),
        name: server.identity.name.to_string(),
        site: text(|report| &report.site),
        build: text(|report| &report.build),
        seen: report.map(|(at, _)| widgets::moment(*at, visit.now)),
        health: widgets::health(server.health),
        reason: server.reasons.first().map(|reason| reason.message.clone()).unwrap_or_default(),
        load: load(server),
    }
}

/// How much a component has to do, in a few words each.
pub(super) fn load(server: &ServerView) -> Vec<String> {
    let Some((at, report)) = &server.last_report else { return Vec::new() };
    match &report.state {
        State::ProcessServer(state) => {
            let waiting: u64 = state.spools.iter().map(|spool| spool.bytes).sum();
            let seconds = at.0.saturating_sub(report.started.0) / 1000;
            let rate = ByteSize(state.forwarded_bytes / seconds.max(1));
            vec![
                format!(
                    "{} spools, {} wait in the cache, {} are free",
                    state.spools.len(),
                    ByteSize(waiting),
                    ByteSize(state.free_bytes)
                ),
                format!(
                    "{} received, {} forwarded since it started {} ago: {rate}/s",
                    ByteSize(state.received_bytes),
                    ByteSize(state.forwarded_bytes),
                    span(seconds * 1000),
                ),
            ]
        }
        State::MasterTarget(state) => {
            let kept: u64 = state.replicas.iter().map(|replica| replica.retention_bytes).sum();
            let replicas = state.replicas.len();
            vec![format!(
                "{replicas} replicas, {} of retention, {} are free",
                ByteSize(kept),
                ByteSize(state.free_bytes)
            )]
        }
        State::Agent(state) => {
            let size: u64 = state.disks.iter().map(|disk| disk.size).sum();
            let mut load =
                vec![format!("{}, {} disks of {}", state.hostname, state.disks.len(), ByteSize(size))];
            load.extend(state.replication.as_ref().map(|replication| {
                let activity = format!("{:?}", replication.activity).to_lowercase();
                format!("{activity}, {} sent", ByteSize(replication.sent_bytes))
            }));
            load
        }
    }
}

fn made(deployment: &Deployment) -> Made {
    let request = &deployment.request;
    Made {
        name: request.name.to_string(),
        site: request.site.to_string(),
        address: format!("{}:{} in {}", request.address, request.port, request.network),
        size: format!("{}, {} GiB", request.size, request.disk_gib),
        job: deployment.job.map(|job| job.to_string()),
        is_retiring: deployment.is_retiring,
    }
}
