//! Protect a machine: a protection group, a machine of its site that nobody protects yet, and where its replica goes.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::http::StatusCode;
use serde_json::json;
use switchback_control::{Control, DiscoveredMachine};
use switchback_model::{AccessRole, ByteSize, JobError, ObjectName, ProtectionGroup, Side};

use super::widgets::{Badge, Tone, badge};
use crate::Portal;
use crate::action::{Act, Then, choices};
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::visit::{Visit, form};

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/protect", form(page, ask))
}

/// A machine that may be chosen, or why it may not.
struct Candidate {
    id: String,
    name: String,
    /// What its protected machine would be called.
    suggested: String,
    disks: String,
    verdict: Badge,
    obstacles: Vec<JobError>,
}

#[derive(Template)]
#[template(path = "protect.html")]
struct Page {
    frame: Frame,
    groups: Vec<ProtectionGroup>,
    chosen: Option<ProtectionGroup>,
    candidates: Vec<Candidate>,
    protected: usize,
}

fn check_role(visit: &Visit) -> Result<(), Failure> {
    if visit.is_contributor() {
        return Ok(());
    }
    let message = format!(
        "{} has the role {:?}; protecting a machine needs {:?}",
        visit.caller,
        visit.role,
        AccessRole::Contributor
    );
    Err(Failure::new(StatusCode::FORBIDDEN, "AuthorizationFailed", message))
}

/// `GET /portal/protect?group=…`.
fn page(control: &Control, visit: &Visit) -> Result<String, Failure> {
    check_role(visit)?;
    let groups: Vec<_> = control.groups()?.into_iter().filter(|group| group.towards == Side::Away).collect();
    let asked = visit.query("group");
    let chosen = match groups.iter().find(|group| group.name.as_str().eq_ignore_ascii_case(asked)) {
        Some(group) => Some(group.clone()),
        None => groups.first().filter(|_| groups.len() == 1).cloned(),
    };
    let machines = match &chosen {
        Some(group) => control.machines(&group.source_site)?,
        None => Vec::new(),
    };
    let free: Vec<_> = machines.iter().filter(|machine| machine.item.is_none()).map(candidate).collect();
    let frame = visit.frame(Tab::Machines, "Protect a machine");
    Ok(Page { frame, groups, chosen, protected: machines.len() - free.len(), candidates: free }.render()?)
}

fn candidate(found: &DiscoveredMachine) -> Candidate {
    let machine = &found.machine;
    let sizes = machine.disks.iter().map(|disk| ByteSize(disk.size).to_string());
    let is_free = found.obstacles.is_empty();
    let as_name: String = machine
        .name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '-' })
        .collect();
    Candidate {
        id: machine.id.clone(),
        name: machine.name.clone(),
        suggested: as_name.parse::<ObjectName>().map(|name| name.to_string()).unwrap_or_default(),
        disks: sizes.collect::<Vec<_>>().join(", "),
        verdict: if is_free { badge(Tone::Good, "can be protected") } else { badge(Tone::Bad, "cannot yet") },
        obstacles: found.obstacles.clone(),
    }
}

/// `POST /portal/protect`.
fn ask(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let group = visit.field("group");
    let group: ObjectName = group.parse().map_err(|_| Failure::not_found("protection group", group))?;
    let group = control.group(&group)?;
    let machine = visit.field("machine");
    if machine.is_empty() {
        return Err(Failure::invalid("no machine was chosen").remedy("choose one"));
    }
    let said = visit.field("name");
    let suggested = control.machines(&group.source_site)?;
    let suggested = suggested.iter().find(|found| found.machine.id == machine).map(candidate);
    let name = if said.is_empty() {
        suggested.map(|found| found.suggested).unwrap_or_default()
    } else {
        said.to_owned()
    };
    let name: ObjectName = name.parse().map_err(|_| {
        Failure::invalid(format!("a protected machine cannot be called {name:?}"))
            .remedy("choose a name of letters, digits, `-`, `_` and `.`")
    })?;
    let site = &group.source_site;
    let mut details = json!({ "instanceType": "InMageAzureV2" });
    choices(visit, &mut details);
    let properties = json!({
        "policyId": visit.vault.policy(group.name.as_str()),
        "protectableItemId": visit.vault.protectable_item(site, machine),
        "providerSpecificDetails": details,
    });
    let there = Then::To(format!("/portal/machines/{name}"));
    Ok(Act::put(visit.vault.protected_item(site, &name), properties, there))
}
