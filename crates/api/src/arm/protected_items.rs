//! `replicationProtectedItems`: protected machines. An item's name and container never change; policy, provider and `protectableItemId`
//! follow the direction.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchback_control::{Control, Health, ItemView};
use switchback_model::azure::MachinePlan;
use switchback_model::component::InterfaceSettings;
use switchback_model::{ObjectName, ProtectRequest, ProtectedItem, ProtectionGroup, Side, SiteKind};

use super::answer::Answer;
use super::call::Call;
use super::containers;
use super::error::ArmError;
use super::filter::Filter;
use super::health::{HealthError, machine_errors, show as show_health};
use super::id::{named_segment, point_name, policy_name};
use super::job_details::CurrentScenario;
use super::page::page_at_once;
use super::policies;
use super::replication_details::details;
use super::resource::resource;
use super::state;
use super::time;

/// What a list can be filtered by.
const FILTERS: [&str; 4] = ["sourceFabricName", "recoveryPlanName", "instanceType", "processServerId"];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    friendly_name: String,
    protected_item_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    protectable_item_id: Option<String>,
    primary_fabric_friendly_name: String,
    primary_fabric_provider: &'static str,
    recovery_fabric_friendly_name: String,
    recovery_fabric_id: String,
    primary_protection_container_friendly_name: String,
    recovery_protection_container_friendly_name: String,
    protection_state: &'static str,
    protection_state_description: &'static str,
    active_location: &'static str,
    test_failover_state: &'static str,
    test_failover_state_description: &'static str,
    allowed_operations: Vec<&'static str>,
    replication_health: &'static str,
    failover_health: &'static str,
    health_errors: Vec<HealthError>,
    policy_id: String,
    policy_friendly_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_successful_failover_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_successful_test_failover_time: Option<String>,
    current_scenario: CurrentScenario,
    failover_recovery_point_id: String,
    provider_specific_details: Value,
    recovery_container_id: String,
}

#[derive(Deserialize)]
struct Enable {
    properties: EnableProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnableProperties {
    policy_id: String,
    protectable_item_id: String,
    provider_specific_details: EnableDetails,
}

/// `InMageAzureV2EnableProtectionInput` of the contract as far as it means something here; the last three are ours.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnableDetails {
    instance_type: String,
    #[serde(default)]
    process_server_id: Option<String>,
    #[serde(default)]
    master_target_id: Option<String>,
    #[serde(default)]
    datastore_name: Option<String>,
    #[serde(default)]
    nics: Vec<InterfaceSettings>,
    #[serde(default)]
    machine: MachinePlan,
}

pub(crate) fn list_all(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let filter = Filter::parse(call.query("$filter"), &FILTERS)?;
    let in_plan = filter
        .get("recoveryPlanName")
        .map(|plan| control.plan(&super::call::name(plan)?).map_err(ArmError::from))
        .transpose()?;
    let is_asked_for = |item: &ProtectedItem| {
        let server = item.replication.as_ref().map_or("", |path| path.process_server.as_str());
        filter.allows("sourceFabricName", item.home.site.as_str())
            && filter.allows("instanceType", state::provider(state::pair_target(&item.protection)))
            && filter.allows("processServerId", server)
            && in_plan
                .as_ref()
                .is_none_or(|plan| plan.groups.iter().any(|group| group.machines.contains(&item.name)))
    };
    show_list(control, call, is_asked_for)
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = containers::find(control, call)?;
    show_list(control, call, |item| item.home.site == site.name)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(control, call, &Around::load(control)?, &find(control, call)?)?))
}

/// Begins to protect a machine.
pub(crate) fn enable(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = containers::find(control, call)?;
    let properties = call.json::<Enable>()?.properties;
    let details = properties.provider_specific_details;
    if details.instance_type != state::AWAY {
        return Err(ArmError::invalid(format!(
            "instanceType is {:?}; machines are protected with {:?}",
            details.instance_type,
            state::AWAY
        )));
    }
    let group = policies::find(control, &properties.policy_id)?;
    if group.towards != Side::Away {
        let message = format!(
            "{} is a failback policy; machines are protected with {}",
            policy_name(&group),
            group.twin
        );
        return Err(ArmError::invalid(message));
    }
    if group.source_site != site.name {
        let message = format!(
            "the policy {} is for machines at {}, not at {}",
            group.name, group.source_site, site.name
        );
        return Err(ArmError::invalid(message));
    }
    let machine = super::id::name_in(&properties.protectable_item_id, "replicationProtectableItems");
    let machine = machine.ok_or_else(|| ArmError::invalid("protectableItemId names no protectable item"))?;
    if let Some(other) = named_segment(&properties.protectable_item_id, "replicationFabrics")
        && !other.eq_ignore_ascii_case(site.name.as_str())
    {
        return Err(ArmError::invalid(format!(
            "protectableItemId is a machine at {other}, the item would be at {}",
            site.name
        )));
    }
    let said = |text: Option<String>| text.filter(|text| !text.is_empty());
    let request = ProtectRequest {
        name: call.name("item")?,
        machine,
        group: group.name,
        process_server: said(details.process_server_id),
        master_target: said(details.master_target_id),
        datastore: said(details.datastore_name),
        nics: details.nics,
        plan: details.machine,
    };
    let resource = call.vault.protected_item(&site.name, &request.name);
    let job = control.protect(&call.by, request)?;
    Ok(Answer::Accepted { resource, job: job.id })
}

/// The item of the path.
pub(crate) fn find(control: &Control, call: &Call) -> Result<ItemView, ArmError> {
    let site = containers::find(control, call)?;
    let name = call.name("item")?;
    let view = control.item(&name)?;
    if view.item.home.site != site.name {
        return Err(ArmError::not_found("protected item", name.as_str()).cause(format!(
            "its home is {}: an item stays in the container it was first protected in",
            view.item.home.site
        )));
    }
    Ok(view)
}

/// The items that are asked for; those of the page alone are looked at.
fn show_list(
    control: &Control,
    call: &Call,
    is_asked_for: impl Fn(&ProtectedItem) -> bool,
) -> Result<Answer, ArmError> {
    let (around, items) = (Around::load(control)?, control.protected()?);
    let items = items.iter().filter(|item| is_asked_for(item)).map(|item| (item.name.key(), item)).collect();
    Answer::of(&page_at_once(call, items, |shown| {
        control.views(shown)?.iter().map(|view| show(control, call, &around, view)).collect()
    })?)
}

/// What items are shown with: looked up once for all of a list.
pub(crate) struct Around {
    groups: Vec<ProtectionGroup>,
    /// Sites of physical servers.
    physical: Vec<ObjectName>,
}

impl Around {
    pub(crate) fn load(control: &Control) -> Result<Self, ArmError> {
        let sites = control.sites()?.into_iter();
        let physical = sites.filter(|site| matches!(site.kind, SiteKind::Physical { .. }));
        Ok(Self { groups: control.groups()?, physical: physical.map(|site| site.name).collect() })
    }
}

/// The resource of an item.
pub(crate) fn show(
    control: &Control,
    call: &Call,
    around: &Around,
    view: &ItemView,
) -> Result<Value, ArmError> {
    let scenario = CurrentScenario::of(control, call, view.item.job);
    render(call, around, view, scenario)
}

fn render(
    call: &Call,
    around: &Around,
    view: &ItemView,
    current_scenario: CurrentScenario,
) -> Result<Value, ArmError> {
    let item = &view.item;
    let groups = &around.groups[..];
    let protection = &item.protection;
    let shown = state::show(protection);
    let target = state::pair_target(protection);
    let (primary, recovery) = (item.instance(target.other()), item.instance(target));
    let forward = groups.iter().find(|group| group.name == item.group);
    let policy = forward
        .map_or_else(|| item.group.to_string(), |forward| policy_name(of_pair(forward, groups, target)));
    let (test_state, test_description) = state::test_failover(protection);
    let active = item.active();
    let properties = Properties {
        friendly_name: item.name.to_string(),
        protected_item_type: "VMwareVirtualMachine",
        protectable_item_id: active.id.as_ref().map(|id| call.vault.protectable_item(&active.site, id)),
        primary_fabric_friendly_name: primary.site.to_string(),
        primary_fabric_provider: "VMware",
        recovery_fabric_friendly_name: recovery.site.to_string(),
        recovery_fabric_id: call.vault.fabric(&recovery.site),
        primary_protection_container_friendly_name: primary.site.to_string(),
        recovery_protection_container_friendly_name: recovery.site.to_string(),
        protection_state: shown.protection_state,
        protection_state_description: shown.description,
        active_location: shown.active_location,
        test_failover_state: test_state,
        test_failover_state_description: test_description,
        allowed_operations: state::allowed(&view.allowed, protection.phase),
        replication_health: show_health(view.health),
        failover_health: show_health(failover_health(view)),
        health_errors: machine_errors(&view.reasons, view.health),
        policy_id: call.vault.policy(&policy),
        policy_friendly_name: policy,
        last_successful_failover_time: time::show_option(item.last_failover),
        last_successful_test_failover_time: time::show_option(item.last_test_failover),
        current_scenario,
        failover_recovery_point_id: failover_point(call, view),
        provider_specific_details: details(
            view,
            forward,
            state::discovery_type(around.physical.contains(&item.home.site)),
            call.now,
        ),
        recovery_container_id: call.vault.container(&recovery.site),
    };
    let kinds = "replicationFabrics/replicationProtectionContainers/replicationProtectedItems";
    resource(call.vault.protected_item(&item.home.site, &item.name), item.name.as_str(), kinds, properties)
}

/// The group of a pair: it keeps its policy until the reprotect turns it round, also when the machine runs at its target already.
fn of_pair<'a>(
    forward: &'a ProtectionGroup,
    groups: &'a [ProtectionGroup],
    target: Side,
) -> &'a ProtectionGroup {
    let twin = groups.iter().find(|group| group.name == forward.twin);
    if target == Side::Home { twin.unwrap_or(forward) } else { forward }
}

/// A machine that could not fail over now is critical; one whose failover was never rehearsed deserves a look, as the service has it.
const fn failover_health(view: &ItemView) -> Health {
    if view.points == 0 {
        Health::Critical
    } else if view.item.last_test_failover.is_none() {
        Health::Warning
    } else {
        Health::Normal
    }
}

fn failover_point(call: &Call, view: &ItemView) -> String {
    let item = &view.item;
    let point = item.failover.as_ref().map(|record| point_name(item.machine, record.seq, record.time));
    point.map(|point| call.vault.recovery_point(&item.home.site, &item.name, &point)).unwrap_or_default()
}

#[cfg(test)]
#[path = "protected_items/tests.rs"]
mod tests;
