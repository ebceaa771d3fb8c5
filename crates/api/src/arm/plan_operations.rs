//! What is done with a recovery plan. Unlike an item's, a plan's direction is fixed to its fabrics: `PrimaryToRecovery` is a failover from home,
//! `RecoveryToPrimary` a failback; the user says which, and it must be the way that the plan's machines can go.

use serde::Deserialize;
use switchback_control::{Control, ItemView};
use switchback_model::{ItemOperation, PointChoice, RecoveryPlan, ReprotectOptions, Side};

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::point_choice::{PointInput, by_type};
use super::protected_item_operations::check_test_network;
use super::recovery_plans::machines;
use super::state;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Input {
    properties: InputProperties,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct InputProperties {
    failover_direction: Option<String>,
    source_site_operations: Option<String>,
    network_type: Option<String>,
    network_id: Option<String>,
    comments: Option<String>,
    provider_specific_details: Vec<Details>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Details {
    instance_type: String,
    #[serde(flatten)]
    point: PointInput,
}

pub(crate) fn unplanned_failover(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let (plan, input, target) = read_failover(control, call)?;
    let point = point_of(&input, target)?;
    let shut_down = match input.source_site_operations.as_deref() {
        Some("Required") => true,
        None | Some("NotRequired" | "") => false,
        Some(other) => {
            return Err(ArmError::invalid(format!(
                "sourceSiteOperations is Required or NotRequired, not {other:?}"
            )));
        }
    };
    start(control, call, &plan, ItemOperation::UnplannedFailover { point, shut_down })
}

pub(crate) fn planned_failover(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let (plan, _, _) = read_failover(control, call)?;
    start(control, call, &plan, ItemOperation::PlannedFailover)
}

pub(crate) fn test_failover(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let (plan, input, target) = read_failover(control, call)?;
    check_test_network(input.network_type.as_deref(), input.network_id.as_deref())?;
    let point = point_of(&input, target)?;
    start(control, call, &plan, ItemOperation::TestFailover { point })
}

pub(crate) fn test_failover_cleanup(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let comments = call.json_if_any::<Input>()?.properties.comments.unwrap_or_default();
    start(control, call, &plan_of(control, call)?, ItemOperation::TestFailoverCleanup { comments })
}

pub(crate) fn failover_cancel(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    start(control, call, &plan_of(control, call)?, ItemOperation::CancelFailover)
}

pub(crate) fn failover_commit(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    start(control, call, &plan_of(control, call)?, ItemOperation::Commit)
}

/// The servers are found: a plan's machines may need different ones.
pub(crate) fn reprotect(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    start(control, call, &plan_of(control, call)?, ItemOperation::Reprotect(ReprotectOptions::default()))
}

fn plan_of(control: &Control, call: &Call) -> Result<RecoveryPlan, ArmError> {
    Ok(control.plan(&call.name("plan")?)?)
}

fn start(
    control: &Control,
    call: &Call,
    plan: &RecoveryPlan,
    operation: ItemOperation,
) -> Result<Answer, ArmError> {
    let job = control.operate_plan(&call.by, &plan.name, operation)?;
    Ok(Answer::Accepted { resource: call.vault.plan(&plan.name), job: job.id })
}

fn read_failover(control: &Control, call: &Call) -> Result<(RecoveryPlan, InputProperties, Side), ArmError> {
    let plan = plan_of(control, call)?;
    let input = call.json::<Input>()?.properties;
    let target = check_direction(input.failover_direction.as_deref(), &plan, &machines(control, &plan)?)?;
    Ok((plan, input, target))
}

/// The side that a failover leads to, if that is the way all machines can go.
fn check_direction(said: Option<&str>, plan: &RecoveryPlan, views: &[ItemView]) -> Result<Side, ArmError> {
    let target = match said {
        Some("PrimaryToRecovery") => Side::Away,
        Some("RecoveryToPrimary") => Side::Home,
        other => {
            return Err(ArmError::invalid(format!("failoverDirection is {:?}", other.unwrap_or_default()))
                .remedy("PrimaryToRecovery for a failover from home, RecoveryToPrimary for a failback"));
        }
    };
    if let Some(view) = views.iter().find(|view| view.item.protection.active == target) {
        let site = if target == Side::Home { &plan.home_site } else { &plan.away_site };
        return Err(ArmError::invalid(format!(
            "{} already runs at {site}, where this failover leads to",
            view.item.name
        ))
        .cause("the direction is wrong, or the plan's machines are at different sites")
        .remedy("choose the other direction, or fail the machines over one by one"));
    }
    Ok(target)
}

/// The input for the direction's provider; one that is not there says nothing.
fn point_of(input: &InputProperties, target: Side) -> Result<PointChoice, ArmError> {
    let provider = state::provider(target);
    match input.provider_specific_details.iter().find(|details| details.instance_type == provider) {
        Some(details) => by_type(&details.point),
        None if input.provider_specific_details.is_empty() => Ok(PointChoice::Latest),
        None => {
            let said: Vec<_> = input
                .provider_specific_details
                .iter()
                .map(|details| details.instance_type.as_str())
                .collect();
            Err(ArmError::invalid(format!(
                "providerSpecificDetails are for {}, this direction is {provider}",
                said.join(", ")
            )))
        }
    }
}
