//! `replicationRecoveryPlans`: our recovery plans. A plan's primary fabric is the home site, whichever way its machines go.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchback_control::{Control, ItemView};
use switchback_model::{Job, JobRequest, JobState, ObjectName, ProtectedItem, RecoveryPlan};

use super::answer::Answer;
use super::call::{Call, name};
use super::error::ArmError;
use super::id::{MICROSOFT_AZURE, name_in};
use super::job_details::CurrentScenario;
use super::page::page;
use super::plan_groups::{GroupInput, read_groups, show_groups};
use super::resource::resource;
use super::state;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    friendly_name: String,
    primary_fabric_id: String,
    primary_fabric_friendly_name: String,
    recovery_fabric_id: String,
    recovery_fabric_friendly_name: String,
    failover_deployment_model: &'static str,
    replication_providers: Vec<&'static str>,
    allowed_operations: Vec<&'static str>,
    current_scenario: CurrentScenario,
    current_scenario_status: String,
    current_scenario_status_description: String,
    groups: Vec<Value>,
}

#[derive(Deserialize)]
struct Put {
    properties: PutProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PutProperties {
    primary_fabric_id: String,
    recovery_fabric_id: String,
    groups: Vec<GroupInput>,
}

#[derive(Deserialize)]
struct Patch {
    properties: PatchProperties,
}

#[derive(Deserialize)]
struct PatchProperties {
    groups: Option<Vec<GroupInput>>,
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let plans = control.plans()?.into_iter().map(|plan| (plan.name.key(), plan)).collect();
    Answer::of(&page(call, plans, |plan| show(control, call, &plan))?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(control, call, &control.plan(&call.name("plan")?)?)?))
}

pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let properties = call.json::<Put>()?.properties;
    let home_site = fabric(&properties.primary_fabric_id)?;
    let groups = read_groups(&properties.groups)?;
    let away_site = if properties.recovery_fabric_id.eq_ignore_ascii_case(MICROSOFT_AZURE) {
        away_of(control, &groups)?
    } else {
        fabric(&properties.recovery_fabric_id)?
    };
    let plan = RecoveryPlan {
        name: call.name("plan")?,
        home_site,
        away_site,
        groups,
        protection_groups: Vec::new(),
        job: None,
    };
    Ok(Answer::Ok(show(control, call, &control.put_plan(&plan)?)?))
}

pub(crate) fn patch(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let mut plan = control.plan(&call.name("plan")?)?;
    if let Some(groups) = call.json::<Patch>()?.properties.groups {
        plan.groups = read_groups(&groups)?;
        plan = control.put_plan(&plan)?;
    }
    Ok(Answer::Ok(show(control, call, &plan)?))
}

pub(crate) fn delete(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    match control.delete_plan(&call.name("plan")?) {
        Ok(()) => Ok(Answer::NoContent),
        Err(error) if error.kind == switchback_control::ErrorKind::NotFound => Ok(Answer::NoContent),
        Err(error) => Err(error.into()),
    }
}

fn fabric(id: &str) -> Result<ObjectName, ArmError> {
    let site = name_in(id, "replicationFabrics")
        .ok_or_else(|| ArmError::invalid(format!("{id:?} names no fabric")))?;
    name(&site)
}

/// The recovery site for clients that only know `Microsoft Azure`: that of the plan's machines.
fn away_of(control: &Control, groups: &[switchback_model::PlanGroup]) -> Result<ObjectName, ArmError> {
    let first = groups.iter().flat_map(|group| &group.machines).next();
    let first =
        first.ok_or_else(|| ArmError::invalid("a plan without machines must name its recovery fabric"))?;
    Ok(control.item(first)?.item.away.site)
}

/// The resource of a plan.
pub(crate) fn show(control: &Control, call: &Call, plan: &RecoveryPlan) -> Result<Value, ArmError> {
    let views: Vec<ItemView> = machines(control, plan)?;
    let mut replication_providers: Vec<&str> =
        views.iter().map(|view| state::provider(state::pair_target(&view.item.protection))).collect();
    replication_providers.sort_unstable();
    replication_providers.dedup();
    let last = last_job(control, plan)?;
    let (status, description) = match &last {
        Some(job) => (job.to_string(), super::job_details::job_state_description(*job)),
        None => ("None".into(), "None".into()),
    };
    let properties = Properties {
        friendly_name: plan.name.to_string(),
        primary_fabric_id: call.vault.fabric(&plan.home_site),
        primary_fabric_friendly_name: plan.home_site.to_string(),
        recovery_fabric_id: call.vault.fabric(&plan.away_site),
        recovery_fabric_friendly_name: plan.away_site.to_string(),
        failover_deployment_model: "NotApplicable",
        replication_providers,
        allowed_operations: if plan.job.is_some() { Vec::new() } else { allowed(&views) },
        current_scenario: CurrentScenario::of(control, call, plan.job),
        current_scenario_status: status,
        current_scenario_status_description: description,
        groups: show_groups(&call.vault, plan, &views),
    };
    resource(call.vault.plan(&plan.name), plan.name.as_str(), "replicationRecoveryPlans", properties)
}

/// The plan's machines that are there.
pub(crate) fn machines(control: &Control, plan: &RecoveryPlan) -> Result<Vec<ItemView>, ArmError> {
    let is_in = |item: &&ProtectedItem| plan.groups.iter().any(|group| group.machines.contains(&item.name));
    Ok(control.views(control.protected()?.iter().filter(is_in))?)
}

/// What all machines of a plan allow: the operations of a plan are done with each.
fn allowed(views: &[ItemView]) -> Vec<&'static str> {
    let of = |view: &ItemView| state::allowed(&view.allowed, view.item.protection.phase);
    let Some((first, others)) = views.split_first() else { return Vec::new() };
    let others: Vec<_> = others.iter().map(of).collect();
    let everywhere = |operation: &&'static str| others.iter().all(|allowed| allowed.contains(operation));
    of(first)
        .into_iter()
        .filter(|operation| *operation != "RepairReplication" && !operation.starts_with("Disable"))
        .filter(everywhere)
        .collect()
}

/// How the newest job of a plan stands.
fn last_job(control: &Control, plan: &RecoveryPlan) -> Result<Option<JobState>, ArmError> {
    let of_plan = |job: &Job| matches!(job.request, JobRequest::Plan { .. });
    Ok(control.jobs(Some(&plan.name), None, 1, of_plan)?.pop().map(|job| job.state))
}
