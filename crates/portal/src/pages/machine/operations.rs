//! What may be done with a machine: what is offered, what a person is told before the button, and what the API is asked for then.
//!
//! Invariant: every confirmation names the direction, the recovery point, what is shut down and what is lost; and what is sent names the state that was
//! shown (the epoch), so that a form that lies about for an hour does nothing to a machine that has gone elsewhere meanwhile.

use askama::Template;
use axum::http::StatusCode;
use serde_json::{Value, json};
use switchback_control::{Control, ItemView};
use switchback_model::{AccessRole, Operation, Side, UnixMillis};

use super::points::{self, Choice};
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::shown::span;
use crate::visit::Visit;

/// Who may: as the API has it. Here it decides only what is shown.
const CONTRIBUTORS: [&str; 3] = ["disable", "clean-up", "switch-process-server"];

/// Each operation's part of the address, itself, and whether it needs thought: it stops something, or something is lost.
const OPERATIONS: [(&str, Operation, bool); 8] = [
    ("test-failover", Operation::TestFailover, false),
    ("test-failover-cleanup", Operation::TestFailoverCleanup, false),
    ("planned-failover", Operation::PlannedFailover, true),
    ("failover", Operation::UnplannedFailover, true),
    ("change-point", Operation::ChangeRecoveryPoint, true),
    ("cancel-failover", Operation::CancelFailover, true),
    ("commit", Operation::Commit, true),
    ("resynchronize", Operation::Resynchronize, false),
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
}

/// What a person is told before the button.
#[derive(Debug, Default)]
struct Told {
    direction: String,
    point: String,
    shut_down: String,
    lost: String,
    after: String,
}

/// What a machine's state and the caller's role allow, in the order of the round.
pub(super) fn offered(visit: &Visit, view: &ItemView) -> Vec<Offered> {
    let may = |slug: &str| visit.may(role_for(slug));
    let is_allowed = |operation: Operation| view.allowed.contains(&operation);
    let operations =
        OPERATIONS.into_iter().filter(|(slug, operation, _)| may(slug) && is_allowed(*operation));
    operations
        .map(|(slug, operation, is_grave)| Offered { slug, name: name_of(operation, view), is_grave })
        .collect()
}

fn role_for(slug: &str) -> AccessRole {
    if CONTRIBUTORS.contains(&slug) { AccessRole::Contributor } else { AccessRole::Operator }
}

/// What people call it: a failover whose direction is home is a failback.
fn name_of(operation: Operation, view: &ItemView) -> String {
    let is_homewards = view.item.protection.passive() == Side::Home;
    let text = match operation {
        Operation::PlannedFailover if is_homewards => "planned failback".into(),
        Operation::UnplannedFailover if is_homewards => "failback".into(),
        Operation::UnplannedFailover => "failover".into(),
        other => other.to_string(),
    };
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The operation of the address, if it may be done now and by the caller.
fn wanted(visit: &Visit, view: &ItemView) -> Result<(&'static str, Operation, bool), Failure> {
    let slug = visit.param("operation");
    let known = OPERATIONS.into_iter().find(|(known, ..)| *known == slug);
    let known = known.ok_or_else(|| Failure::not_found("operation", slug))?;
    let needed = role_for(slug);
    if !visit.may(needed) {
        let message = format!("{} has the role {:?}; {} needs {needed:?}", visit.caller, visit.role, known.1);
        return Err(Failure::new(StatusCode::FORBIDDEN, "AuthorizationFailed", message));
    }
    if view.allowed.contains(&known.1) {
        return Ok(known);
    }
    let item = &view.item;
    let refused = match item.protection.apply(known.1) {
        Err(illegal) => Failure::new(StatusCode::CONFLICT, "protection.illegal", illegal.to_string()),
        Ok(_) => {
            let message = format!("{} is not possible with {} now", known.1, item.name);
            Failure::new(StatusCode::CONFLICT, "protection.busy", message)
                .cause("a job works on it, or it is held since the configuration server was restored")
        }
    };
    Err(refused.remedy("see the machine's page"))
}

/// `GET /portal/machines/{machine}/{operation}`: what it means.
pub(super) fn confirm(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let view = control.item(&visit.name("machine")?)?;
    let (_, operation, is_grave) = wanted(visit, &view)?;
    let item = &view.item;
    let points = match operation {
        Operation::TestFailover => points::choices(control, &view, visit.now, false)?,
        Operation::UnplannedFailover => points::choices(control, &view, visit.now, true)?,
        Operation::ChangeRecoveryPoint => points::choices(control, &view, visit.now, false)?,
        _ => Vec::new(),
    };
    let name = name_of(operation, &view);
    let page = Page {
        frame: visit.frame(Tab::Machines, format!("{name}: {}", item.name)),
        machine: item.name.to_string(),
        epoch: item.protection.epoch.to_string(),
        button: name,
        is_grave,
        told: told(visit.now, operation, &view),
        points,
        asks_shut_down: operation == Operation::UnplannedFailover,
        asks_comments: operation == Operation::TestFailoverCleanup,
    };
    Ok(page.render()?)
}

/// What happens, in words.
fn told(now: UnixMillis, operation: Operation, view: &ItemView) -> Told {
    let item = &view.item;
    let (name, active, passive) = (&item.name, &item.active().site, &item.passive().site);
    let towards = match item.protection.passive() {
        Side::Home => format!("from {active} home to {passive}"),
        Side::Away => format!("from {active} to the recovery site {passive}"),
    };
    let since = item.last_failover.map(|at| span(now.0.saturating_sub(at.0)));
    let since = since.map_or_else(
        || "what it wrote since the failover".into(),
        |span| format!("what it wrote since the failover, {span} ago"),
    );
    let nothing = || "nothing".to_owned();
    match operation {
        Operation::TestFailover => Told {
            direction: format!("{towards}, a copy alone: {name} goes on at {active}, and goes on being replicated"),
            point: "as chosen below".into(),
            shut_down: nothing(),
            lost: nothing(),
            after: "The copy is isolated, in the test network of the network mapping. Clean it up when you have seen it.".into(),
        },
        Operation::TestFailoverCleanup => Told {
            direction: format!("the copy at {passive} goes; {name} goes on at {active}"),
            point: "none".into(),
            shut_down: format!("the copy at {passive}"),
            lost: "what was written in the copy".into(),
            after: String::new(),
        },
        Operation::PlannedFailover => Told {
            direction: towards,
            point: "one more, made when the machine stands still".into(),
            shut_down: format!("{name} at {active}; the job verifies that it is off"),
            lost: nothing(),
            after: format!("{name} starts at {passive}. Commit the failover when you have seen that it is well; until then it can be taken back."),
        },
        Operation::UnplannedFailover => Told {
            direction: towards,
            point: "as chosen below".into(),
            shut_down: format!("{name} at {active}, if it can be reached and you leave the mark below"),
            lost: "what was written after the recovery point: each says how much that is".into(),
            after: format!("{name} starts at {passive}. The failover can be taken back, or another point be chosen, until it is committed."),
        },
        Operation::ChangeRecoveryPoint => Told {
            direction: format!("none: {name} stays at {active}"),
            point: "as chosen below".into(),
            shut_down: format!("{name} at {active}; it starts there anew"),
            lost: since,
            after: String::new(),
        },
        Operation::CancelFailover => Told {
            direction: format!("back: {name} starts at {passive} again, as it was there"),
            point: "none".into(),
            shut_down: format!("{name} at {active}"),
            lost: since,
            after: String::new(),
        },
        Operation::Commit => Told {
            direction: format!("none: {name} stays at {active}"),
            point: "the one it runs at; the others can not be chosen any more".into(),
            shut_down: nothing(),
            lost: format!("the way back to {passive} as it was there"),
            after: format!("Nothing protects {name} until it is reprotected towards {passive}."),
        },
        _ => Told {
            direction: towards,
            point: "those there are stay".into(),
            shut_down: nothing(),
            lost: nothing(),
            after: "Everything is compared, and what differs is sent again.".into(),
        },
    }
}

/// `POST /portal/machines/{machine}/{operation}`: what the API is asked for.
pub(super) fn ask(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let view = control.item(&visit.name("machine")?)?;
    let item = &view.item;
    if visit.field("epoch") != item.protection.epoch.to_string() {
        let message = format!("{} is not as it was when the page was shown; nothing was done", item.name);
        return Err(Failure::new(StatusCode::CONFLICT, "portal.stale-form", message)
            .cause("it was failed over or reprotected meanwhile")
            .remedy("load the page again and see what it says now"));
    }
    let (_, operation, _) = wanted(visit, &view)?;
    let (action, properties) = request(visit, &view, operation)?;
    let id = visit.vault.protected_item(&item.home.site, &item.name);
    let there = Then::To(format!("/portal/machines/{}", item.name));
    Ok(Act::post(format!("{id}/{action}"), properties, there))
}

/// The contract's name of an operation, and its properties.
fn request(visit: &Visit, view: &ItemView, operation: Operation) -> Result<(&'static str, Value), Failure> {
    let item = &view.item;
    let onwards = provider(item.protection.passive());
    let point = |provider: &str| match visit.field("point") {
        "" => Err(Failure::invalid("no recovery point was chosen").remedy("choose one")),
        chosen => Ok(points::details(provider, chosen)),
    };
    Ok(match operation {
        Operation::TestFailover => (
            "testFailover",
            json!({ "failoverDirection": "PrimaryToRecovery", "providerSpecificDetails": point(onwards)? }),
        ),
        Operation::TestFailoverCleanup => {
            ("testFailoverCleanup", json!({ "comments": visit.field("comments") }))
        }
        Operation::PlannedFailover => (
            "plannedFailover",
            json!({ "failoverDirection": "PrimaryToRecovery", "providerSpecificDetails": { "instanceType": onwards } }),
        ),
        Operation::UnplannedFailover => {
            let shut_down = if visit.field("shut-down") == "yes" { "Required" } else { "NotRequired" };
            let properties = json!({
                "failoverDirection": "PrimaryToRecovery", "sourceSiteOperations": shut_down,
                "providerSpecificDetails": point(onwards)?,
            });
            ("unplannedFailover", properties)
        }
        Operation::ChangeRecoveryPoint => (
            "applyRecoveryPoint",
            json!({ "providerSpecificDetails": point(provider(item.protection.active))? }),
        ),
        Operation::CancelFailover => ("failoverCancel", json!({})),
        Operation::Commit => ("failoverCommit", json!({})),
        Operation::Resynchronize => {
            ("repairReplication", json!({ "providerSpecificDetails": { "instanceType": onwards } }))
        }
        other => return Err(Failure::not_found("operation", &other.to_string())),
    })
}

/// The contract's provider of a pair whose target is this side.
const fn provider(target: Side) -> &'static str {
    match target {
        Side::Away => "InMageAzureV2",
        Side::Home => "InMage",
    }
}
