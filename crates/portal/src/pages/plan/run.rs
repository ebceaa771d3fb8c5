//! What may be done with a recovery plan: what is offered, what a person is told before the button, and what the API is asked for then.
//!
//! Invariant: every confirmation names the direction, the machines group by group, the recovery points, what is shut down and what is lost; and what is sent names the state
//! that was shown.

use axum::http::StatusCode;
use serde_json::{Value, json};
use switchback_api::provider;
use switchback_control::{Control, ItemView};
use switchback_model::{AccessRole, Consistency, Operation, RecoveryPlan, RecoveryPoint, Side};

use super::{check_mark, mark_of, plan_of, views_of};
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::Tab;
use crate::pages::ask::{Field, Form};
use crate::shown::span;
use crate::visit::Visit;

/// An operation of plans.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Its part of the portal's address.
    slug: &'static str,
    operation: Operation,
    /// The contract's name.
    action: &'static str,
    /// It stops something, or something is lost.
    is_grave: bool,
}

const OPERATIONS: [Known; 7] = [
    Known {
        slug: "test-failover",
        operation: Operation::TestFailover,
        action: "testFailover",
        is_grave: false,
    },
    Known {
        slug: "test-failover-cleanup",
        operation: Operation::TestFailoverCleanup,
        action: "testFailoverCleanup",
        is_grave: false,
    },
    Known {
        slug: "planned-failover",
        operation: Operation::PlannedFailover,
        action: "plannedFailover",
        is_grave: true,
    },
    Known {
        slug: "failover",
        operation: Operation::UnplannedFailover,
        action: "unplannedFailover",
        is_grave: true,
    },
    Known {
        slug: "cancel-failover",
        operation: Operation::CancelFailover,
        action: "failoverCancel",
        is_grave: true,
    },
    Known { slug: "commit", operation: Operation::Commit, action: "failoverCommit", is_grave: true },
    Known { slug: "reprotect", operation: Operation::Reprotect, action: "reprotect", is_grave: false },
];

/// An operation that a plan's page leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offered {
    pub(super) slug: &'static str,
    pub(super) name: String,
    pub(super) is_grave: bool,
}

/// Failovers take all machines along; what follows one is done with those that are there, and the others are left alone.
const fn takes_all(operation: Operation) -> bool {
    use Operation::{PlannedFailover, TestFailover, UnplannedFailover};
    matches!(operation, TestFailover | PlannedFailover | UnplannedFailover)
}

/// Whether a plan could be run so now.
fn is_possible(plan: &RecoveryPlan, views: &[ItemView], operation: Operation) -> bool {
    let allows = |view: &ItemView| view.allowed.contains(&operation);
    let machines: usize = plan.groups.iter().map(|group| group.machines.len()).sum();
    let is_whole = views.len() == machines && target_of(views).is_some();
    plan.job.is_none()
        && if takes_all(operation) { is_whole && views.iter().all(allows) } else { views.iter().any(allows) }
}

/// The side that the machines do not run at, if it is the same one for all.
fn target_of(views: &[ItemView]) -> Option<Side> {
    let first = views.first()?.item.protection.passive();
    views.iter().all(|view| view.item.protection.passive() == first).then_some(first)
}

/// What the plan's machines and the caller's role allow, in the order of the round.
pub(super) fn offered(visit: &Visit, plan: &RecoveryPlan, views: &[ItemView]) -> Vec<Offered> {
    if !visit.may(AccessRole::Operator) {
        return Vec::new();
    }
    let possible = OPERATIONS.into_iter().filter(|known| is_possible(plan, views, known.operation));
    possible
        .map(|known| Offered {
            slug: known.slug,
            name: name_of(known.operation, views),
            is_grave: known.is_grave,
        })
        .collect()
}

/// What people call it: a failover whose direction is home is a failback.
fn name_of(operation: Operation, views: &[ItemView]) -> String {
    let is_homewards = target_of(views) == Some(Side::Home);
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
fn wanted(visit: &Visit, plan: &RecoveryPlan, views: &[ItemView]) -> Result<Known, Failure> {
    let slug = visit.param("operation");
    let known = OPERATIONS.into_iter().find(|known| known.slug == slug);
    let known = known.ok_or_else(|| Failure::not_found("operation", slug))?;
    visit.needs(AccessRole::Operator, &known.operation.to_string())?;
    if is_possible(plan, views, known.operation) {
        return Ok(known);
    }
    let message = format!("{} is not possible with the recovery plan {} now", known.operation, plan.name);
    let cause = if plan.job.is_some() {
        "a job works on it"
    } else if views.is_empty() {
        "it has no machines"
    } else if takes_all(known.operation) {
        "not all of its machines are in a state for it, or they do not all run at one site"
    } else {
        "none of its machines is in a state for it"
    };
    Err(Failure::new(StatusCode::CONFLICT, "plan.not-ready", message)
        .cause(cause)
        .remedy("see the states of its machines on the plan's page"))
}

/// The plan and how its machines stand, in short.
fn mark(plan: &RecoveryPlan, views: &[ItemView]) -> String {
    let states: Vec<String> = views
        .iter()
        .map(|view| {
            let protection = &view.item.protection;
            format!("{} {} {:?} {}", view.item.name, protection.epoch, protection.phase, protection.testing)
        })
        .collect();
    blake3::hash(format!("{}{}", mark_of(&plan.groups), states.join(",")).as_bytes()).to_hex()[..16]
        .to_owned()
}

/// `GET /portal/plans/{plan}/{operation}`: what it means.
pub(super) fn confirm(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let plan = plan_of(control, visit)?;
    let views = views_of(control, &plan)?;
    let known = wanted(visit, &plan, &views)?;
    let name = name_of(known.operation, &views);
    let back = format!("/portal/plans/{}", plan.name);
    let mut form = Form::new(visit.frame(Tab::Plans, format!("{name}: {}", plan.name)), name, back);
    form = form.told("Direction", direction(&plan, &views, known.operation));
    let newest = newest_points(control, &views)?;
    for (number, group) in (1..).zip(&plan.groups).filter(|(_, group)| !group.machines.is_empty()) {
        let told: Vec<_> = group
            .machines
            .iter()
            .filter_map(|name| views.iter().zip(&newest).find(|(view, _)| view.item.name == *name))
            .map(|(view, points)| machine(visit, known.operation, view, points))
            .collect();
        form = form.told(format!("Group {number}"), told.join("; "));
    }
    let [point, shut_down, lost, after] = consequences(known.operation);
    form = form.told("Recovery point", point).told("Shut down", shut_down).told("Lost", lost);
    if !after.is_empty() {
        form = form.note(after);
    }
    if matches!(known.operation, Operation::TestFailover | Operation::UnplannedFailover) {
        form = form.field(Field::choice("point", "Recovery point", choices(visit, &newest)));
    }
    form = match known.operation {
        Operation::UnplannedFailover => form.field(Field::check(
            "shut-down",
            "Shut the machines down first where they run now, if that can be reached",
            true,
        )),
        Operation::TestFailoverCleanup => form.field(
            Field::text("comments", "What the test showed").hint("It is kept in the report.").optional(),
        ),
        _ => form,
    };
    form = form.field(Field::hidden("seen", mark(&plan, &views)));
    if known.is_grave { form.grave().show() } else { form.show() }
}

fn direction(plan: &RecoveryPlan, views: &[ItemView], operation: Operation) -> String {
    let (home, away) = (&plan.home_site, &plan.away_site);
    let towards = match target_of(views) {
        Some(Side::Home) => format!("from {away} home to {home}"),
        Some(Side::Away) => format!("from {home} to the recovery site {away}"),
        None => format!("each machine its own way between {home} and {away}"),
    };
    match operation {
        Operation::TestFailover => format!("{towards}, copies alone: the machines go on where they run"),
        Operation::TestFailoverCleanup => "none: the copies go, the machines go on where they run".into(),
        Operation::Commit => "none: the machines stay where they run".into(),
        Operation::CancelFailover => format!("back, {towards}, where the machines start again as they were"),
        Operation::Reprotect => format!("replication {towards}; nothing is failed over"),
        _ => towards,
    }
}

/// A machine in the told list: how it is, and whether it takes part.
fn machine(visit: &Visit, operation: Operation, view: &ItemView, points: &[RecoveryPoint]) -> String {
    let (name, phase) = (&view.item.name, view.item.protection.phase);
    let age = points.last().map(|point| span(visit.now.0.saturating_sub(point.time.0)));
    let point = age.filter(|_| takes_all(operation)).map(|age| format!(", newest point {age} old"));
    let left = if view.allowed.contains(&operation) { "" } else { ", is left as it is" };
    format!("{name} ({phase}{}{left})", point.unwrap_or_default())
}

/// Recovery point, what is shut down, what is lost, and what comes then.
const fn consequences(operation: Operation) -> [&'static str; 4] {
    match operation {
        Operation::TestFailover => [
            "as chosen below",
            "nothing",
            "nothing",
            "The copies are isolated, in the test networks of the network mappings. Clean them up when you have seen them.",
        ],
        Operation::TestFailoverCleanup => ["none", "the copies", "what was written in the copies", ""],
        Operation::PlannedFailover => [
            "one more of each machine, made when it stands still",
            "each machine where it runs now; its job verifies that it is off",
            "nothing",
            "The machines start at the other site, group after group. Commit when you have seen that they are well; until then it can be taken back.",
        ],
        Operation::UnplannedFailover => [
            "as chosen below",
            "each machine where it runs now, if it can be reached and you leave the mark below",
            "what was written after the recovery point: each choice says how much that is",
            "The machines start at the other site, group after group. It can be taken back until it is committed.",
        ],
        Operation::CancelFailover => {
            ["none", "the machines where they run now", "what they wrote since the failover", ""]
        }
        Operation::Commit => [
            "the one that each machine runs at; others can not be chosen any more",
            "nothing",
            "the way back to where they were, as they were there",
            "Nothing protects the machines until they are reprotected.",
        ],
        _ => [
            "the first comes when everything has been compared",
            "nothing",
            "nothing of the machines; the disks of the side that was left are overwritten",
            "Process servers and master targets are found for each machine. To say which, reprotect it on its own page.",
        ],
    }
}

/// The points of each machine, oldest first.
fn newest_points(control: &Control, views: &[ItemView]) -> Result<Vec<Vec<RecoveryPoint>>, Failure> {
    views.iter().map(|view| Ok(control.recovery_points(&view.item.name)?)).collect()
}

/// What can be chosen: kinds of points that all machines have, each with what would be lost.
fn choices(visit: &Visit, machines: &[Vec<RecoveryPoint>]) -> Vec<(String, String)> {
    let is_app = |point: &RecoveryPoint| point.consistency == Consistency::AppConsistent;
    let mut choices = Vec::new();
    let mut offer = |value: &str, what: &str, oldest: Option<u64>| {
        if let Some(time) = oldest {
            let lost = span(visit.now.0.saturating_sub(time));
            choices.push((value.to_owned(), format!("{what}; at most the last {lost} are lost")));
        }
    };
    let newest = oldest_of_newest(machines, |_| true);
    offer("Latest", "Latest: what is still on its way is delivered first", newest);
    offer("LatestProcessed", "The newest that each machine has at the target", newest);
    offer(
        "LatestApplicationConsistent",
        "The newest app-consistent one of each machine",
        oldest_of_newest(machines, is_app),
    );
    let shared = |app| newest_shared(machines, app);
    offer("LatestMultiVmProcessed", "The newest moment that all machines share", shared(false));
    offer(
        "LatestMultiVmAppConsistent",
        "The newest app-consistent moment that all machines share",
        shared(true),
    );
    choices
}

/// Of the newest points of a kind, the oldest; `None`: a machine has none.
fn oldest_of_newest(machines: &[Vec<RecoveryPoint>], is: impl Fn(&RecoveryPoint) -> bool) -> Option<u64> {
    let newest =
        machines.iter().map(|points| points.iter().rev().find(|point| is(point)).map(|point| point.time.0));
    newest.collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// When the newest multi-VM moment was that all machines have a point of.
fn newest_shared(machines: &[Vec<RecoveryPoint>], app_consistent: bool) -> Option<u64> {
    let (first, others) = machines.split_first()?;
    let is_wanted =
        |point: &&RecoveryPoint| !app_consistent || point.consistency == Consistency::AppConsistent;
    let is_shared = |tag: &String| {
        let has = |points: &Vec<RecoveryPoint>| {
            points.iter().filter(is_wanted).any(|point| point.group_tag.as_ref() == Some(tag))
        };
        others.iter().all(has)
    };
    let shared = first.iter().rev().filter(is_wanted);
    shared.filter(|point| point.group_tag.as_ref().is_some_and(is_shared)).map(|point| point.time.0).next()
}

/// `POST /portal/plans/{plan}/{operation}`: what the API is asked for.
pub(super) fn ask(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let plan = plan_of(control, visit)?;
    let views = views_of(control, &plan)?;
    check_mark(visit, &mark(&plan, &views), &plan.name)?;
    let known = wanted(visit, &plan, &views)?;
    let properties = properties(visit, known.operation, target_of(&views))?;
    Ok(Act::post(format!("{}/{}", visit.vault.plan(&plan.name), known.action), properties, Then::Job))
}

fn properties(visit: &Visit, operation: Operation, target: Option<Side>) -> Result<Value, Failure> {
    let target = target.unwrap_or(Side::Away);
    // A plan's direction is fixed to its fabrics, unlike that of a machine.
    let direction = if target == Side::Away { "PrimaryToRecovery" } else { "RecoveryToPrimary" };
    let details = || match visit.field("point") {
        "" => Err(Failure::invalid("no recovery point was chosen").remedy("choose one")),
        chosen => Ok(json!([{ "instanceType": provider(target), "recoveryPointType": chosen }])),
    };
    Ok(match operation {
        Operation::TestFailover => {
            json!({ "failoverDirection": direction, "providerSpecificDetails": details()? })
        }
        Operation::UnplannedFailover => {
            let shut_down = if visit.field("shut-down") == "yes" { "Required" } else { "NotRequired" };
            json!({
                "failoverDirection": direction, "sourceSiteOperations": shut_down, "providerSpecificDetails": details()?,
            })
        }
        Operation::PlannedFailover => json!({ "failoverDirection": direction }),
        Operation::TestFailoverCleanup => json!({ "comments": visit.field("comments") }),
        _ => json!({}),
    })
}
