//! What may be done with a machine: what is offered, the page with its confirmation, and what the API is asked for then.
//!
//! Invariant: every confirmation names the direction, the recovery point, what is shut down and what is lost (`told`); and what is sent names the state
//! that was shown (the epoch), so that a form that lies about for an hour does nothing to a machine that has gone elsewhere meanwhile.

use askama::Template;
use axum::http::StatusCode;
use serde_json::{Value, json};
use switchback_control::{Control, ItemView};
use switchback_model::{AccessRole, Operation, Side};

use super::points::{self, Choice};
use super::told::{Told, name_of, told};
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::visit::Visit;

/// An operation: its part of the address, itself (`None`: the clean-up of what was left, which changes no protection), and who may ask for it, as the
/// API has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) slug: &'static str,
    operation: Option<Operation>,
    role: AccessRole,
    /// It stops something, or something is lost.
    is_grave: bool,
}

const fn known(slug: &'static str, operation: Operation, is_grave: bool) -> Known {
    Known { slug, operation: Some(operation), role: AccessRole::Operator, is_grave }
}

/// In the order of the round.
const OPERATIONS: [Known; 11] = [
    known("test-failover", Operation::TestFailover, false),
    known("test-failover-cleanup", Operation::TestFailoverCleanup, false),
    known("planned-failover", Operation::PlannedFailover, true),
    known("failover", Operation::UnplannedFailover, true),
    known("commit", Operation::Commit, true),
    known("change-point", Operation::ChangeRecoveryPoint, true),
    known("cancel-failover", Operation::CancelFailover, true),
    known("reprotect", Operation::Reprotect, true),
    known("resynchronize", Operation::Resynchronize, false),
    Known { role: AccessRole::Contributor, ..known("disable", Operation::Disable, true) },
    Known { slug: "clean-up", operation: None, role: AccessRole::Contributor, is_grave: true },
];

/// An operation that a machine's page leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    pub(crate) slug: &'static str,
    pub(crate) name: String,
    pub(crate) is_grave: bool,
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct Page {
    frame: Frame,
    machine: String,
    epoch: String,
    button: String,
    is_grave: bool,
    told: Told,
    points: Vec<Choice>,
    asks_shut_down: bool,
    asks_comments: bool,
    asks_clean_up: bool,
}

impl Known {
    /// Whether the machine's state allows it.
    fn is_allowed(&self, view: &ItemView) -> bool {
        match self.operation {
            Some(operation) => view.allowed.contains(&operation),
            None => !view.item.left_behind.is_empty() && view.item.job.is_none() && view.item.held.is_none(),
        }
    }
}

/// What a machine's state and the caller's role allow.
pub(super) fn offered(visit: &Visit, view: &ItemView) -> Vec<Offered> {
    let may = |known: &Known| visit.may(known.role) && known.is_allowed(view);
    let offered = OPERATIONS.into_iter().filter(may);
    offered
        .map(|known| Offered {
            slug: known.slug,
            name: name_of(known.operation, view),
            is_grave: known.is_grave,
        })
        .collect()
}

/// An operation by its part of the address, if it may be done now and by the caller.
pub(super) fn wanted(visit: &Visit, view: &ItemView, slug: &str) -> Result<Known, Failure> {
    let known = OPERATIONS.into_iter().find(|known| known.slug == slug);
    let known = known.ok_or_else(|| Failure::not_found("operation", slug))?;
    let name = name_of(known.operation, view);
    if !visit.may(known.role) {
        let message =
            format!("{} has the role {:?}; {name} needs {:?}", visit.caller, visit.role, known.role);
        return Err(Failure::new(StatusCode::FORBIDDEN, "AuthorizationFailed", message));
    }
    if known.is_allowed(view) {
        return Ok(known);
    }
    let illegal = known.operation.and_then(|operation| view.item.protection.apply(operation).err());
    let refused = match illegal {
        Some(illegal) => Failure::new(StatusCode::CONFLICT, "protection.illegal", illegal.to_string()),
        None => {
            let message = format!("{name} is not possible with {} now", view.item.name);
            Failure::new(StatusCode::CONFLICT, "protection.busy", message)
                .cause("a job works on it, there is nothing to do, or it is held since the configuration server was restored")
        }
    };
    Err(refused.remedy("see the machine's page"))
}

/// A form that was made for a state that is not the machine's any more does nothing.
pub(super) fn check_epoch(visit: &Visit, view: &ItemView) -> Result<(), Failure> {
    if visit.field("epoch") == view.item.protection.epoch.to_string() {
        return Ok(());
    }
    let message = format!("{} is not as it was when the page was shown; nothing was done", view.item.name);
    Err(Failure::new(StatusCode::CONFLICT, "portal.stale-form", message)
        .cause("it was failed over or re-protected meanwhile")
        .remedy("load the page again and see what it says now"))
}

/// `GET /portal/machines/{machine}/{operation}`: what it means.
pub(super) fn confirm(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let view = control.item(&visit.name("machine")?)?;
    let known = wanted(visit, &view, visit.param("operation"))?;
    let item = &view.item;
    let points = match known.operation {
        Some(Operation::TestFailover | Operation::ChangeRecoveryPoint) => {
            points::choices(control, &view, visit.now, false)?
        }
        Some(Operation::UnplannedFailover) => points::choices(control, &view, visit.now, true)?,
        _ => Vec::new(),
    };
    let name = name_of(known.operation, &view);
    let page = Page {
        frame: visit.frame(Tab::Machines, format!("{name}: {}", item.name)),
        machine: item.name.to_string(),
        epoch: item.protection.epoch.to_string(),
        button: name,
        is_grave: known.is_grave,
        told: told(visit.now, known.operation, &view),
        points,
        asks_shut_down: known.operation == Some(Operation::UnplannedFailover),
        asks_comments: known.operation == Some(Operation::TestFailoverCleanup),
        asks_clean_up: known.operation == Some(Operation::Disable),
    };
    Ok(page.render()?)
}

/// `POST /portal/machines/{machine}/{operation}`: what the API is asked for.
pub(super) fn ask(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let view = control.item(&visit.name("machine")?)?;
    check_epoch(visit, &view)?;
    let known = wanted(visit, &view, visit.param("operation"))?;
    let (item, there) = (&view.item, machine_page(&view));
    let Some(operation) = known.operation else {
        let id = visit.vault.addition("switchbackProtectedMachines", item.name.as_str());
        return Ok(Act::post(format!("{id}/cleanUp"), json!({}), there));
    };
    let (action, properties) = request(visit, &view, operation)?;
    let id = visit.vault.protected_item(&item.home.site, &item.name);
    Ok(Act::post(format!("{id}/{action}"), properties, there))
}

/// Where an operation's progress is seen.
pub(super) fn machine_page(view: &ItemView) -> Then {
    Then::To(format!("/portal/machines/{}", view.item.name))
}

/// The contract's name of an operation, and its properties.
fn request(visit: &Visit, view: &ItemView, operation: Operation) -> Result<(&'static str, Value), Failure> {
    let protection = &view.item.protection;
    let onwards = provider(protection.passive());
    let point = |provider: &str| match visit.field("point") {
        "" => Err(Failure::invalid("no recovery point was chosen").remedy("choose one")),
        chosen => Ok(points::details(provider, chosen)),
    };
    // Said, although it cannot be otherwise: the API compares it with the state.
    let forward = |details: Value| json!({ "failoverDirection": "PrimaryToRecovery", "providerSpecificDetails": details });
    Ok(match operation {
        Operation::TestFailover => ("testFailover", forward(point(onwards)?)),
        Operation::TestFailoverCleanup => {
            ("testFailoverCleanup", json!({ "comments": visit.field("comments") }))
        }
        Operation::PlannedFailover => ("plannedFailover", forward(json!({ "instanceType": onwards }))),
        Operation::UnplannedFailover => {
            let mut properties = forward(point(onwards)?);
            let is_shut_down = visit.field("shut-down") == "yes";
            properties["sourceSiteOperations"] = if is_shut_down { "Required" } else { "NotRequired" }.into();
            ("unplannedFailover", properties)
        }
        Operation::ChangeRecoveryPoint => {
            ("applyRecoveryPoint", json!({ "providerSpecificDetails": point(provider(protection.active))? }))
        }
        Operation::CancelFailover => ("failoverCancel", json!({})),
        Operation::Commit => ("failoverCommit", json!({})),
        Operation::Resynchronize => {
            ("repairReplication", json!({ "providerSpecificDetails": { "instanceType": onwards } }))
        }
        Operation::Disable => {
            let deletion = if visit.field("clean-up") == "yes" { "Delete" } else { "Retain" };
            let input = json!({ "instanceType": "InMage", "replicaVmDeletionStatus": deletion });
            let reason = "NotSpecified";
            ("remove", json!({ "disableProtectionReason": reason, "replicationProviderInput": input }))
        }
        other => return Err(Failure::not_found("operation", &other.to_string())),
    })
}

/// The contract's provider of a pair whose target is this side.
pub(super) const fn provider(target: Side) -> &'static str {
    match target {
        Side::Away => "InMageAzureV2",
        Side::Home => "InMage",
    }
}
