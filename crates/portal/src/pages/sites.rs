//! The tab Sites: the places that machines run at, and what each has.
//!
//! Invariant: the list asks no site, so it is there when one is not; a site's own page asks it, once for each time that it is loaded.

mod known;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use switchback_control::{Control, ControlError, DiscoveredMachine, Health, ServerView};
use switchback_identity::Role;
use switchback_model::azure::AzureIdentity;
use switchback_model::{ByteSize, JobError, ObjectName, ProtectedItem, Side, Site, SiteKind};

use super::list::List;
use super::widgets::{self, Badge, Notice, Tone, badge, notice};
use crate::Portal;
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::visit::{Visit, page};

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/sites", page(list)).route("/sites/{site}", page(show)).merge(known::routes())
}

#[derive(Template)]
#[template(path = "sites.html")]
struct ListPage {
    frame: Frame,
    may_add: bool,
    rows: Vec<Row>,
}

struct Row {
    name: ObjectName,
    kind: &'static str,
    place: String,
    runs: usize,
    replicas: usize,
    servers: Vec<Server>,
}

/// A process server or master target of a site.
struct Server {
    id: String,
    name: String,
    health: Badge,
}

#[derive(Template)]
#[template(path = "site.html")]
struct Page {
    frame: Frame,
    /// The groups that machines of the site can be protected in, for those who may.
    groups: Vec<ObjectName>,
    may_remove: bool,
    site: Row,
    facts: Vec<(&'static str, String)>,
    answers: Badge,
    problems: Vec<Notice>,
    list: List,
    machines: Vec<Machine>,
    datastores: Vec<(String, ByteSize, ByteSize)>,
    networks: Vec<(String, String)>,
}

/// A machine that the site has.
struct Machine {
    id: String,
    name: String,
    is_on: bool,
    size: String,
    disks: String,
    networks: String,
    snapshots: usize,
    has_agent: bool,
    item: Option<ObjectName>,
    obstacles: Vec<Notice>,
}

/// What machines can be filtered by: what the address says, and what people read.
const fn states() -> [(&'static str, &'static str); 4] {
    [
        ("protected", "protected"),
        ("protectable", "can be protected"),
        ("obstacles", "with obstacles"),
        ("no-agent", "without an agent"),
    ]
}

fn list(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let (items, servers) = (control.protected()?, servers(control)?);
    let mut sites = control.sites()?;
    sites.sort_by_key(|site| site.name.key());
    let items: Vec<&ProtectedItem> = items.iter().collect();
    let rows = sites.iter().map(|site| row(site, &items, &servers)).collect();
    Ok(ListPage { frame: visit.frame(Tab::Sites, "Sites"), may_add: visit.is_contributor(), rows }
        .render()?)
}

/// Process servers and master targets.
fn servers(control: &Control) -> Result<Vec<ServerView>, Failure> {
    Ok(control.servers_if(|identity| matches!(identity.role, Role::ProcessServer | Role::Target))?)
}

fn row(site: &Site, items: &[&ProtectedItem], servers: &[ServerView]) -> Row {
    let (kind, place) = match &site.kind {
        SiteKind::Local { directory } => ("local machines", directory.display().to_string()),
        SiteKind::Vsphere(kind) => ("vSphere", kind.url.clone()),
        SiteKind::Physical { comes_home_to: None } => ("physical servers", "can only leave".into()),
        SiteKind::Physical { comes_home_to: Some(home) } => {
            ("physical servers", format!("come home to {home}"))
        }
        SiteKind::Azure(kind) => {
            ("Azure", format!("{} in {}", kind.settings.resource_group, kind.settings.region))
        }
        _ => ("another kind", String::new()),
    };
    let is_here = |server: &&ServerView| {
        server
            .last_report
            .as_ref()
            .is_some_and(|(_, report)| report.site.eq_ignore_ascii_case(site.name.as_str()))
    };
    let servers = servers.iter().filter(is_here).map(|server| Server {
        id: super::servers::id_of(&server.identity),
        name: server.identity.name.to_string(),
        health: widgets::health(server.health),
    });
    Row {
        name: site.name.clone(),
        kind,
        place,
        runs: items.iter().filter(|item| item.active().site == site.name).count(),
        replicas: items.iter().filter(|item| item.passive().site == site.name).count(),
        servers: servers.collect(),
    }
}

/// What is known of a site without asking it. Nothing of it is secret: accounts are told by their names.
fn facts(site: &Site) -> Vec<(&'static str, String)> {
    match &site.kind {
        SiteKind::Vsphere(kind) => {
            let mut facts = vec![("Run-as account", kind.account.to_string())];
            facts.extend(kind.host.clone().map(|host| ("Host for new machines", host)));
            facts.extend(kind.resource_pool.clone().map(|pool| ("Resource pool", pool)));
            facts.extend(kind.folder.clone().map(|folder| ("Folder", folder)));
            facts
        }
        SiteKind::Azure(kind) => {
            let identity = match &kind.identity {
                AzureIdentity::ManagedIdentity { .. } => "this host's managed identity".to_owned(),
                AzureIdentity::WorkloadIdentity { .. } => "this pod's workload identity".to_owned(),
                AzureIdentity::ServicePrincipal { account, .. } => format!("the account {account}"),
            };
            vec![
                ("Subscription", kind.settings.subscription.clone()),
                ("Replicas in", kind.settings.container.clone()),
                ("Way to storage", kind.settings.storage_path.to_string()),
                ("Entered as", identity),
            ]
        }
        _ => Vec::new(),
    }
}

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let name = visit.name("site")?;
    let site = control.sites()?.into_iter().find(|site| site.name == name);
    let site = site.ok_or_else(|| Failure::not_found("site", name.as_str()))?;
    let mut problems = Vec::new();
    let found = or_problem(control.machines(&site.name), &mut problems);
    let (datastores, networks) = match control.site(&site.name) {
        Ok(opened) => (
            or_problem(opened.datastores().map_err(ControlError::from), &mut problems),
            or_problem(opened.networks().map_err(ControlError::from), &mut problems),
        ),
        Err(error) => (or_problem(Err(error), &mut problems), Vec::new()),
    };
    let mut list = List::asked(visit, format!("/portal/sites/{}", site.name), "machines");
    list.total = found.len();
    let mut found: Vec<_> = found.into_iter().filter(|found| is_asked(&list, found)).collect();
    found.sort_by_cached_key(|found| found.machine.name.to_lowercase());
    let machines = list.cut(found).into_iter().map(machine).collect();
    let health = if problems.is_empty() { Health::Normal } else { Health::Critical };
    let groups = control.groups()?.into_iter();
    let groups = groups.filter(|group| group.towards == Side::Away && group.source_site == site.name);
    let items = control.protected()?;
    let items: Vec<&ProtectedItem> = items.iter().collect();
    let page = Page {
        frame: visit.frame(Tab::Sites, site.name.to_string()),
        groups: if visit.is_contributor() { groups.map(|group| group.name).collect() } else { Vec::new() },
        may_remove: visit.is_contributor(),
        facts: facts(&site),
        answers: match health {
            Health::Normal => badge(Tone::Good, "answers"),
            _ => badge(Tone::Bad, "does not answer"),
        },
        site: row(&site, &items, &servers(control)?),
        problems,
        list,
        machines,
        datastores: datastores
            .into_iter()
            .map(|datastore| (datastore.name, ByteSize(datastore.capacity), ByteSize(datastore.free)))
            .collect(),
        networks: networks.into_iter().map(|network| (network.name, network.description)).collect(),
    };
    Ok(page.render()?)
}

/// What a site answers. What it does not is said, and the rest is shown.
fn or_problem<T>(answer: Result<Vec<T>, ControlError>, problems: &mut Vec<Notice>) -> Vec<T> {
    answer.unwrap_or_else(|error| {
        problems.push(notice(Tone::Bad, *Failure::from(error).0.error));
        Vec::new()
    })
}

fn is_asked(list: &List, found: &DiscoveredMachine) -> bool {
    let is_free = found.item.is_none();
    let state = match list.asked.state.as_str() {
        "protected" => !is_free,
        "protectable" => is_free && found.obstacles.is_empty(),
        "obstacles" => is_free && !found.obstacles.is_empty(),
        "no-agent" => !found.has_agent,
        _ => true,
    };
    let item = found.item.as_ref().map_or("", |item| item.as_str());
    state && list.finds(&[&found.machine.name, &found.machine.id, item])
}

fn machine(found: DiscoveredMachine) -> Machine {
    let DiscoveredMachine { machine, item, has_agent, obstacles } = found;
    let size: u64 = machine.disks.iter().map(|disk| disk.size).sum();
    let networks = machine.nics.iter().filter_map(|nic| nic.network.as_deref()).collect::<Vec<_>>();
    let as_notice = |obstacle: JobError| notice(Tone::Warning, obstacle);
    Machine {
        is_on: machine.power == switchback_sites::Power::On,
        size: format!("{} processors, {} MiB", machine.cpus, machine.memory_mib),
        disks: format!("{} of {}", machine.disks.len(), ByteSize(size)),
        networks: networks.join(", "),
        snapshots: machine.snapshots.len(),
        has_agent,
        // Of one that is protected nothing stands in the way any more.
        obstacles: obstacles.into_iter().filter(|_| item.is_none()).map(as_notice).collect(),
        item,
        id: machine.id,
        name: machine.name,
    }
}

#[cfg(test)]
mod tests {
    use switchback_control::{ControlError, ErrorKind};

    use super::or_problem;

    #[test]
    fn what_a_site_does_not_answer_is_said_with_its_remedy() {
        let mut problems = Vec::new();
        assert_eq!(or_problem(Ok(vec![1]), &mut problems), [1]);
        let error =
            ControlError::new(ErrorKind::Unavailable, "site.down", "the site <b>home</b> does not answer");
        let error = error.cause("a cable").remedy("plug it in");
        assert!(or_problem::<u8>(Err(error), &mut problems).is_empty());
        let shown: String = problems.iter().map(ToString::to_string).collect();
        for text in ["&#60;b&#62;home", "Likely cause: a cable", "What to do: plug it in", "site.down"] {
            assert!(shown.contains(text), "{text}: {shown}");
        }
        assert_eq!(problems.len(), 1);
    }
}
