//! Groups and actions of recovery plans, both ways.
//!
//! The contract shows a `Shutdown` and a `Failover` group before the `Boot` groups that machines are in; ours are the boot groups, the first two
//! are shown empty, and refused with contents (nothing would run them). An action's directions are its sides: `PrimaryToRecovery` leads away,
//! `RecoveryToPrimary` home. Beside the contract's `ScriptActionDetails` (on the configuration server) and `ManualActionDetails` there are two of our
//! own: `DelayActionDetails {delaySeconds}` and `GuestScriptActionDetails {path, timeout, replicationProtectedItemId}`.

use serde::Deserialize;
use serde_json::{Value, json};
use switchback_control::ItemView;
use switchback_model::{ActionKind, ObjectName, PlanAction, PlanGroup, RecoveryPlan, Side};

use super::call::name;
use super::error::ArmError;
use super::id::{Vault, machine_guid, name_in};

/// Seconds that a script may take when nothing is said: the service's limit for an action.
const SCRIPT_LIMIT_S: u64 = 600;
const TEST: &str = "TestFailover";
const REAL: [&str; 2] = ["PlannedFailover", "UnplannedFailover"];

/// `RecoveryPlanGroup` of the contract.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GroupInput {
    group_type: String,
    #[serde(default)]
    replication_protected_items: Vec<ItemInput>,
    #[serde(default)]
    start_group_actions: Vec<ActionInput>,
    #[serde(default)]
    end_group_actions: Vec<ActionInput>,
}

#[derive(Deserialize)]
struct ItemInput {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ActionInput {
    action_name: String,
    failover_types: Vec<String>,
    failover_directions: Vec<String>,
    custom_details: Details,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    instance_type: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    timeout: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    delay_seconds: Option<u64>,
    #[serde(default)]
    replication_protected_item_id: String,
}

/// The groups of a request.
pub(crate) fn read_groups(groups: &[GroupInput]) -> Result<Vec<PlanGroup>, ArmError> {
    let mut read = Vec::new();
    for group in groups {
        let is_empty = group.replication_protected_items.is_empty()
            && group.start_group_actions.is_empty()
            && group.end_group_actions.is_empty();
        match group.group_type.as_str() {
            "Boot" => read.push(read_group(group)?),
            "Shutdown" | "Failover" if is_empty => {}
            "Shutdown" | "Failover" => {
                return Err(ArmError::invalid(format!(
                    "the group {} cannot have machines or actions",
                    group.group_type
                ))
                .remedy(
                    "put them into Boot groups: their start actions run before the machines are failed over",
                ));
            }
            other => {
                return Err(ArmError::invalid(format!(
                    "there is no groupType {other:?}; there are Shutdown, Failover, Boot"
                )));
            }
        }
    }
    Ok(read)
}

fn read_group(group: &GroupInput) -> Result<PlanGroup, ArmError> {
    let machines =
        group.replication_protected_items.iter().map(|item| item_name(&item.id)).collect::<Result<_, _>>()?;
    let actions = |actions: &[ActionInput]| actions.iter().map(read_action).collect::<Result<_, ArmError>>();
    Ok(PlanGroup {
        machines,
        start_actions: actions(&group.start_group_actions)?,
        end_actions: actions(&group.end_group_actions)?,
    })
}

fn item_name(id: &str) -> Result<ObjectName, ArmError> {
    name(
        &name_in(id, "replicationProtectedItems")
            .ok_or_else(|| ArmError::invalid(format!("{id:?} names no protected item")))?,
    )
}

fn read_action(action: &ActionInput) -> Result<PlanAction, ArmError> {
    let title = &action.action_name;
    let has = |wanted: &str| action.failover_types.iter().any(|kind| kind == wanted);
    if !REAL.into_iter().any(has) {
        return Err(ArmError::invalid(format!(
            "the action {title:?} would run at test failovers only, or never"
        ))
        .remedy("add UnplannedFailover or PlannedFailover to its failoverTypes; it runs at both"));
    }
    let mut towards = Vec::new();
    for direction in &action.failover_directions {
        towards.push(match direction.as_str() {
            "PrimaryToRecovery" => Side::Away,
            "RecoveryToPrimary" => Side::Home,
            other => {
                return Err(ArmError::invalid(format!("the action {title:?} has the direction {other:?}")));
            }
        });
    }
    if towards.is_empty() {
        return Err(ArmError::invalid(format!("the action {title:?} has no failoverDirections")));
    }
    towards.sort_unstable();
    towards.dedup();
    if towards.len() == 2 {
        towards.clear();
    }
    Ok(PlanAction {
        name: title.clone(),
        towards,
        at_test: has(TEST),
        action: read_kind(title, &action.custom_details)?,
    })
}

fn read_kind(title: &str, details: &Details) -> Result<ActionKind, ArmError> {
    let script = || {
        let path = details.path.trim();
        if path.is_empty() {
            Err(ArmError::invalid(format!("the action {title:?} has no path")))
        } else {
            Ok(path.to_owned())
        }
    };
    Ok(match details.instance_type.as_str() {
        "ScriptActionDetails" => {
            ActionKind::ServerScript { script: script()?, limit_s: limit(title, details)? }
        }
        "ManualActionDetails" => ActionKind::Manual { instructions: details.description.clone() },
        "DelayActionDetails" => ActionKind::Delay {
            seconds: details
                .delay_seconds
                .ok_or_else(|| ArmError::invalid(format!("the action {title:?} has no delaySeconds")))?,
        },
        "GuestScriptActionDetails" => ActionKind::GuestScript {
            machine: item_name(&details.replication_protected_item_id)?,
            script: script()?,
            limit_s: limit(title, details)?,
        },
        other => {
            return Err(ArmError::invalid(format!(
                "the action {title:?} is a {other:?}, which cannot be run here"
            ))
            .remedy(
                "ScriptActionDetails, ManualActionDetails, DelayActionDetails, GuestScriptActionDetails can",
            ));
        }
    })
}

/// `HH:MM:SS`, or seconds.
fn limit(title: &str, details: &Details) -> Result<u64, ArmError> {
    let Some(text) = details.timeout.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(SCRIPT_LIMIT_S);
    };
    let parts: Option<Vec<u64>> = text.split(':').map(|part| part.parse().ok()).collect();
    let seconds = match parts.as_deref() {
        Some([seconds]) => Some(*seconds),
        Some([hours, minutes, seconds]) if *hours < 1000 && *minutes < 60 && *seconds < 60 => {
            Some(hours * 3600 + minutes * 60 + seconds)
        }
        _ => None,
    };
    seconds.filter(|seconds| *seconds > 0).ok_or_else(|| {
        ArmError::invalid(format!(
            "the timeout {text:?} of the action {title:?} is neither HH:MM:SS nor seconds"
        ))
    })
}

/// The groups of a plan as the contract shows and takes them. A machine that is in none of the views is told by its name.
#[must_use]
pub fn show_groups(vault: &Vault, plan: &RecoveryPlan, views: &[ItemView]) -> Vec<Value> {
    let empty = |kind: &str| json!({ "groupType": kind, "replicationProtectedItems": [], "startGroupActions": [], "endGroupActions": [] });
    let item_id = |name: &ObjectName| vault.protected_item(&plan.home_site, name);
    let boot = plan.groups.iter().map(|group| {
        let items: Vec<Value> = group
            .machines
            .iter()
            .map(|name| {
                let view = views.iter().find(|view| view.item.name == *name);
                json!({
                    "id": item_id(name),
                    "virtualMachineId": view.map_or_else(|| name.to_string(), |view| machine_guid(view.item.machine)),
                })
            })
            .collect();
        let actions = |actions: &[PlanAction]| actions.iter().map(|action| show_action(action, item_id)).collect::<Vec<_>>();
        json!({
            "groupType": "Boot",
            "replicationProtectedItems": items,
            "startGroupActions": actions(&group.start_actions),
            "endGroupActions": actions(&group.end_actions),
        })
    });
    [empty("Shutdown"), empty("Failover")].into_iter().chain(boot).collect()
}

fn show_action(action: &PlanAction, item_id: impl Fn(&ObjectName) -> String) -> Value {
    let mut types: Vec<&str> = REAL.to_vec();
    if action.at_test {
        types.push(TEST);
    }
    let towards = |side: Side| action.towards.is_empty() || action.towards.contains(&side);
    let directions = [(Side::Away, "PrimaryToRecovery"), (Side::Home, "RecoveryToPrimary")];
    let directions: Vec<_> =
        directions.into_iter().filter(|(side, _)| towards(*side)).map(|(_, direction)| direction).collect();
    let details = match &action.action {
        // The contract asks at which fabric a script runs; ours run on the configuration server, which is at neither.
        ActionKind::ServerScript { script, limit_s } => json!({
            "instanceType": "ScriptActionDetails", "path": script, "timeout": hms(*limit_s), "fabricLocation": "Primary",
        }),
        ActionKind::GuestScript { machine, script, limit_s } => json!({
            "instanceType": "GuestScriptActionDetails", "path": script, "timeout": hms(*limit_s),
            "replicationProtectedItemId": item_id(machine),
        }),
        ActionKind::Manual { instructions } => {
            json!({ "instanceType": "ManualActionDetails", "description": instructions })
        }
        ActionKind::Delay { seconds } => {
            json!({ "instanceType": "DelayActionDetails", "delaySeconds": seconds })
        }
    };
    json!({ "actionName": action.name, "failoverTypes": types, "failoverDirections": directions, "customDetails": details })
}

fn hms(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
#[path = "plan_groups/tests.rs"]
mod tests;
