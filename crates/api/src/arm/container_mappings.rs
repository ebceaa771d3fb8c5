//! `replicationProtectionContainerMappings`: which container is replicated with which policy to where.
//!
//! Our group holds that itself, so a mapping is a group seen from its home container, under its policy's name or the one that its client gave it: `PG1` leads to the recovery site's
//! container (for clients that only know the cloud as a target, `Microsoft Azure` names it too), `PG1-failback` from the home container to itself, as
//! the contract has it. Making one checks that it agrees with the policy's group, and stores nothing; the mapping of a policy that names no sites yet is
//! where they come from, and makes the group.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchback_control::Control;
use switchback_model::{ObjectName, ProtectionGroup, Side, SiteKind};

use super::answer::Answer;
use super::call::Call;
use super::containers;
use super::error::ArmError;
use super::health::HealthError;
use super::id::{MICROSOFT_AZURE, policy_name};
use super::page::page;
use super::policies;
use super::resource::resource;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    target_protection_container_id: String,
    target_protection_container_friendly_name: String,
    health: &'static str,
    health_error_details: Vec<HealthError>,
    policy_id: String,
    state: &'static str,
    source_protection_container_friendly_name: String,
    source_fabric_friendly_name: String,
    target_fabric_friendly_name: String,
    policy_friendly_name: String,
}

#[derive(Deserialize)]
struct Put {
    properties: PutProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PutProperties {
    target_protection_container_id: String,
    policy_id: String,
}

pub(crate) fn list_all(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    show_list(call, control.groups()?)
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = containers::find(control, call)?;
    show_list(call, control.groups()?.into_iter().filter(|group| *group.home() == site.name).collect())
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(call, &find(control, call)?)?))
}

pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = containers::find(control, call)?;
    let wanted = call.json::<Put>()?.properties;
    let target = wanted.target_protection_container_id;
    if let Some(draft) = policies::find_draft(control, &wanted.policy_id)? {
        let recovery = recovery_site(control, &site.name, &target)?;
        check_free(control, call, &site.name, draft.name.as_str())?;
        let (group, _) = control.create_group(&draft.name, &site.name, &recovery, &draft.policy)?;
        return Ok(Answer::Ok(show(call, &named(control, call, group)?)?));
    }
    let group = policies::find(control, &wanted.policy_id)?;
    let mapping = policy_name(&group);
    if *group.home() != site.name {
        return Err(ArmError::invalid(format!(
            "the policy {mapping} is for machines at home at {}, not {}",
            group.home(),
            site.name
        )));
    }
    let is_cloud = target.eq_ignore_ascii_case(MICROSOFT_AZURE) && group.towards == Side::Away;
    if !is_cloud && containers::site_of_id(control, &target)?.as_ref() != Some(target_container(&group)) {
        let container = call.vault.container(target_container(&group));
        return Err(ArmError::invalid(format!("the policy {mapping} does not lead to {target}"))
            .remedy(format!("its target is {container}; for another one, make another group")));
    }
    check_free(control, call, &site.name, &mapping)?;
    Ok(Answer::Ok(show(call, &named(control, call, group)?)?))
}

/// Whether the path's name is not that of another policy, by which its mapping would be found, too.
fn check_free(control: &Control, call: &Call, home: &ObjectName, policy: &str) -> Result<(), ArmError> {
    let said = call.text("mapping");
    let other = control.groups()?.into_iter().find(|other| {
        let name = policy_name(other);
        other.home() == home && name.eq_ignore_ascii_case(said) && !name.eq_ignore_ascii_case(policy)
    });
    match other {
        None => Ok(()),
        Some(_) => Err(ArmError::invalid(format!("the mapping {said} is that of the policy {said}"))
            .remedy(format!("choose another name for that of {policy}"))),
    }
}

/// The group with its mapping under the path's name.
fn named(control: &Control, call: &Call, group: ProtectionGroup) -> Result<ProtectionGroup, ArmError> {
    let said = call.name("mapping")?;
    if is_called(&group, said.as_str()) {
        return Ok(group);
    }
    Ok(control.name_mapping(&group.name, &said)?)
}

/// A mapping is found by its own name, and by its policy's.
fn is_called(group: &ProtectionGroup, name: &str) -> bool {
    mapping_name(group).eq_ignore_ascii_case(name) || policy_name(group).eq_ignore_ascii_case(name)
}

fn mapping_name(group: &ProtectionGroup) -> String {
    group.mapping.as_ref().map_or_else(|| policy_name(group), ObjectName::to_string)
}

/// The site that a new mapping leads to. `Microsoft Azure` is the site at Azure; where there is none, the one site that there is beside the home.
fn recovery_site(control: &Control, home: &ObjectName, target: &str) -> Result<ObjectName, ArmError> {
    if !target.eq_ignore_ascii_case(MICROSOFT_AZURE) {
        return containers::site_of_id(control, target)?
            .ok_or_else(|| ArmError::not_found("protection container", target));
    }
    let others: Vec<_> = control.sites()?.into_iter().filter(|site| site.name != *home).collect();
    let at_azure: Vec<_> = others.iter().filter(|site| matches!(site.kind, SiteKind::Azure(_))).collect();
    let all: Vec<_> = others.iter().collect();
    match if at_azure.is_empty() { &all[..] } else { &at_azure[..] } {
        [one] => Ok(one.name.clone()),
        found => {
            Err(ArmError::invalid(format!("{MICROSOFT_AZURE:?} could be any of {} sites here", found.len()))
                .remedy("say the recovery site's container as targetProtectionContainerId"))
        }
    }
}

/// Takes the sites from a policy that no machine uses; it stays, and can be mapped again. A mapping that is not there is no error.
pub(crate) fn remove(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    // Nothing of it is needed.
    call.json_if_any::<serde_json::Map<String, Value>>()?;
    let group = match find(control, call) {
        Ok(group) => group,
        Err(error) if error.status == StatusCode::NOT_FOUND => return Ok(Answer::NoContent),
        Err(error) => return Err(error),
    };
    if group.towards == Side::Home {
        let mapping = policy_name(&group);
        return Err(ArmError::invalid(format!("the mapping {mapping} cannot be removed alone"))
            .cause("a way home belongs to every way away")
            .remedy(format!("remove the mapping of the policy {}", group.twin)));
    }
    control.unmap_group(&group.name)?;
    Ok(Answer::NoContent)
}

fn find(control: &Control, call: &Call) -> Result<ProtectionGroup, ArmError> {
    let site = containers::find(control, call)?;
    let mapping = call.text("mapping");
    let known = control.groups()?.into_iter().filter(|group| *group.home() == site.name);
    let found = known.into_iter().find(|group| is_called(group, mapping));
    found.ok_or_else(|| ArmError::not_found("container mapping", mapping))
}

/// The site whose container a mapping leads to. A group's target; for a failback that is home, the container itself.
const fn target_container(group: &ProtectionGroup) -> &ObjectName {
    &group.target_site
}

fn show_list(call: &Call, groups: Vec<ProtectionGroup>) -> Result<Answer, ArmError> {
    let groups = groups
        .into_iter()
        .map(|group| (format!("{}/{}", group.home().key(), mapping_name(&group).to_ascii_lowercase()), group))
        .collect();
    Answer::of(&page(call, groups, |group| show(call, &group))?)
}

fn show(call: &Call, group: &ProtectionGroup) -> Result<Value, ArmError> {
    let (policy, home, target) = (policy_name(group), group.home(), target_container(group));
    let mapping = mapping_name(group);
    let properties = Properties {
        target_protection_container_id: call.vault.container(target),
        target_protection_container_friendly_name: target.to_string(),
        health: "Normal",
        health_error_details: Vec::new(),
        policy_id: call.vault.policy(&policy),
        state: "Paired",
        source_protection_container_friendly_name: home.to_string(),
        source_fabric_friendly_name: home.to_string(),
        target_fabric_friendly_name: target.to_string(),
        policy_friendly_name: policy.clone(),
    };
    let kinds = "replicationFabrics/replicationProtectionContainers/replicationProtectionContainerMappings";
    resource(call.vault.container_mapping(home, &mapping), &mapping, kinds, properties)
}

#[cfg(test)]
mod tests {
    use switchback_model::ProtectionGroup;

    use super::show;
    use crate::arm::call::Call;

    /// As recorded: the failback mapping leads from the container to itself.
    #[test]
    fn a_pair_of_groups_is_two_mappings_of_the_home_container() {
        let name = |text: &str| text.parse().unwrap();
        let (group, twin) =
            ProtectionGroup::pair(name("PG1"), name("home"), name("recovery"), <_>::default()).unwrap();
        let call = Call::for_test("/x", "", 1);
        let container = |site: &str| call.vault.container(&name(site));
        for (group, named, target) in [(group, "PG1", "recovery"), (twin, "PG1-failback", "home")] {
            let shown = show(&call, &group).unwrap();
            assert_eq!(
                shown["id"],
                format!("{}/replicationProtectionContainerMappings/{named}", container("home"))
            );
            assert_eq!(shown["properties"]["targetProtectionContainerId"], container(target));
            assert_eq!(shown["properties"]["policyId"], call.vault.policy(named));
            assert_eq!(shown["properties"]["state"], "Paired");
        }
    }
}
