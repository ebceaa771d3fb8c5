//! Re-protect: replication towards the side that was left. What has to be chosen, and beside each choice what is known of it.

use askama::Template;
use serde_json::json;
use switchback_control::{Control, Health, ItemView, ServerView};
use switchback_identity::Role;
use switchback_model::component::State;
use switchback_model::{ByteSize, ObjectName, ReadinessCheck, Side, SiteKind};

use super::operations::{check_epoch, machine_page, provider, wanted};
use super::told::towards;
use crate::action::{Act, choices};
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::pages::widgets::{Badge, Tone, badge, check_badge};
use crate::visit::Visit;

/// What may be chosen.
struct Choice {
    value: String,
    /// What is known of it, and how good that is.
    verdict: Badge,
    facts: String,
    is_first: bool,
}

#[derive(Template)]
#[template(path = "reprotect.html")]
struct Page {
    frame: Frame,
    machine: String,
    epoch: String,
    direction: String,
    active: ObjectName,
    landing: ObjectName,
    /// The group that is in force afterwards.
    group: ObjectName,
    account: Option<ObjectName>,
    master_targets: Vec<Choice>,
    process_servers: Vec<Choice>,
    datastores: Vec<Choice>,
    /// The disks that were left are there.
    left: String,
    is_homewards: bool,
    checks: Vec<(Badge, ReadinessCheck)>,
}

/// `GET /portal/machines/{machine}/reprotect`.
pub(super) fn page(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let view = control.item(&visit.name("machine")?)?;
    wanted(visit, &view, "reprotect")?;
    let item = &view.item;
    let side = item.protection.passive();
    let landing = control.landing_site(item, side)?;
    let (servers, needed) = (
        control.servers_if(|server| matches!(server.role, Role::ProcessServer | Role::Target))?,
        item.disk_sizes.iter().sum::<u64>(),
    );
    // What the site says of its datastores is a help, not a condition: the API has the last word.
    let datastores = control.site(&landing).and_then(|site| Ok(site.datastores()?)).unwrap_or_default();
    let mut datastores: Vec<_> = datastores
        .into_iter()
        .map(|store| {
            let facts = format!("{} free of {}", ByteSize(store.free), ByteSize(store.capacity));
            let is_enough = store.free >= needed;
            let verdict =
                if is_enough { badge(Tone::Good, "has room") } else { badge(Tone::Bad, "too small") };
            (store.free, Choice { value: store.name, verdict, facts, is_first: false })
        })
        .collect();
    datastores.sort_by_key(|(free, _)| std::cmp::Reverse(*free));
    let readiness = control.readiness(&item.name)?;
    let left = item.passive().id.as_ref().map_or_else(
        || {
            format!(
                "There is no machine of it at {} any more: a new one is made, and all data is moved.",
                item.passive().site
            )
        },
        |id| {
            format!(
                "What differs on the disks of {id} at {} is overwritten: only the delta moves.",
                item.passive().site
            )
        },
    );
    let page = Page {
        frame: visit.frame(Tab::Machines, format!("Re-protect: {}", item.name)),
        machine: item.name.to_string(),
        epoch: item.protection.epoch.to_string(),
        direction: towards(&view),
        active: item.active().site.clone(),
        group: group_after(control, &view)?,
        account: account_of(control, &landing)?,
        master_targets: servers_at(&servers, Role::Target, &landing),
        process_servers: servers_at(&servers, Role::ProcessServer, &item.active().site),
        landing,
        datastores: datastores.into_iter().map(|(_, choice)| choice).collect(),
        left,
        is_homewards: side == Side::Home,
        checks: readiness.to(side).iter().map(|check| (check_badge(check.state), check.clone())).collect(),
    };
    Ok(page.render()?)
}

/// The group that is in force after it: the twin of the forward one, or that.
fn group_after(control: &Control, view: &ItemView) -> Result<ObjectName, Failure> {
    let forward = control.group(&view.item.group)?;
    Ok(if view.item.protection.passive() == Side::Home { forward.twin } else { forward.name })
}

/// The account with which a site is entered, if it is one that is entered.
fn account_of(control: &Control, site: &ObjectName) -> Result<Option<ObjectName>, Failure> {
    let site = control.sites()?.into_iter().find(|known| known.name == *site);
    Ok(site.and_then(|site| match site.kind {
        SiteKind::Vsphere(kind) => Some(kind.account),
        _ => None,
    }))
}

/// The servers of a role at a site, those that work first.
fn servers_at(servers: &[ServerView], role: Role, site: &ObjectName) -> Vec<Choice> {
    let mut there: Vec<_> = servers
        .iter()
        .filter(|server| server.identity.role == role)
        .filter_map(|server| Some((server, &server.last_report.as_ref()?.1)))
        .filter(|(_, report)| report.site.eq_ignore_ascii_case(site.as_str()))
        .collect();
    there.sort_by_key(|(server, _)| (server.health, server.identity.name.clone()));
    let choice =
        |(index, (server, report)): (usize, &(&ServerView, &switchback_model::component::Report))| {
            let free = match &report.state {
                State::MasterTarget(state) => format!("retention drive: {} free", ByteSize(state.free_bytes)),
                State::ProcessServer(state) => format!("cache: {} free", ByteSize(state.free_bytes)),
                State::Agent(_) => String::new(),
            };
            let reasons = server.reasons.iter().map(|reason| reason.message.clone());
            let facts = [free].into_iter().chain(reasons).collect::<Vec<_>>().join("; ");
            let verdict = match server.health {
                Health::Normal => badge(Tone::Good, "works"),
                Health::Warning => badge(Tone::Warning, "warning"),
                Health::Critical => badge(Tone::Bad, "does not work"),
            };
            Choice { value: server.identity.name.to_string(), verdict, facts, is_first: index == 0 }
        };
    there.iter().enumerate().map(choice).collect()
}

/// `POST /portal/machines/{machine}/reprotect`.
pub(super) fn ask(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let view = control.item(&visit.name("machine")?)?;
    check_epoch(visit, &view)?;
    wanted(visit, &view, "reprotect")?;
    let item = &view.item;
    let mut details = json!({ "instanceType": provider(item.protection.passive()) });
    choices(visit, &mut details);
    if visit.field("location") == "alternate" {
        details["switchbackAlternateLocation"] = true.into();
    }
    let properties = json!({ "failoverDirection": "RecoveryToPrimary", "providerSpecificDetails": details });
    let id = visit.vault.protected_item(&item.home.site, &item.name);
    Ok(Act::post(format!("{id}/reProtect"), properties, machine_page(&view)))
}
