//! `replicationNetworkMappings`: networks that correspond. There is one mapping from a network to each other site, so its name is that site's.
//!
//! The contract's mapping has no network for test failovers; ours takes and keeps it (`switchbackNetworkMappings` shows it). A change through the
//! contract alone leaves it as it was.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchback_control::Control;
use switchback_model::NetworkMapping;

use super::answer::Answer;
use super::call::{Call, name};
use super::error::ArmError;
use super::fabrics;
use super::id::{name_in, named_segment};
use super::networks;
use super::page::page;
use super::resource::resource;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    state: &'static str,
    primary_network_friendly_name: String,
    primary_network_id: String,
    primary_fabric_friendly_name: String,
    recovery_network_friendly_name: String,
    recovery_network_id: String,
    recovery_fabric_arm_id: String,
    recovery_fabric_friendly_name: String,
}

#[derive(Deserialize)]
struct Put {
    properties: PutProperties,
}

/// `CreateNetworkMappingInputProperties` and `UpdateNetworkMappingInputProperties` of the contract, and our test network.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PutProperties {
    #[serde(default)]
    recovery_fabric_name: Option<String>,
    #[serde(default)]
    recovery_network_id: Option<String>,
    #[serde(default)]
    test_network_id: Option<String>,
}

pub(crate) fn list_all(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    show_list(call, control.network_mappings()?)
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = fabrics::find(control, call)?;
    let network = networks::find(control, &site.name, call.text("network"))?;
    let mappings = control.network_mappings()?.into_iter();
    show_list(
        call,
        mappings.filter(|mapping| mapping.site == site.name && mapping.network == network.name).collect(),
    )
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let found =
        find(control, call)?.ok_or_else(|| ArmError::not_found("network mapping", call.text("mapping")))?;
    Ok(Answer::Ok(show(call, &found)?))
}

pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let before = find(control, call)?;
    change(control, call, before)
}

pub(crate) fn patch(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let before = find(control, call)?;
    let before = before.ok_or_else(|| ArmError::not_found("network mapping", call.text("mapping")))?;
    change(control, call, Some(before))
}

pub(crate) fn delete(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    if let Some(found) = find(control, call)? {
        control.delete_network_mapping(&found.site, &found.network, &found.target_site)?;
    }
    Ok(Answer::NoContent)
}

fn change(control: &Control, call: &Call, before: Option<NetworkMapping>) -> Result<Answer, ArmError> {
    let input = call.json::<Put>()?.properties;
    let site = fabrics::find(control, call)?;
    let network = networks::find(control, &site.name, call.text("network"))?;
    let target_site = call.name("mapping")?;
    let said = input.recovery_fabric_name.or_else(|| {
        input.recovery_network_id.as_deref().and_then(|id| named_segment(id, "replicationFabrics"))
    });
    if let Some(said) = said
        && name(&said)? != target_site
    {
        return Err(ArmError::invalid(format!(
            "a network mapping has its target site's name: {said}, not {target_site}"
        ))
        .remedy(format!("PUT it as …/replicationNetworkMappings/{said}")));
    }
    let named = |id: Option<String>| {
        id.and_then(|id| name_in(&id, "replicationNetworks")).filter(|network| !network.is_empty())
    };
    let target_network = named(input.recovery_network_id)
        .or_else(|| before.as_ref().map(|before| before.target_network.clone()));
    let target_network = target_network.ok_or_else(|| ArmError::invalid("recoveryNetworkId is missing"))?;
    let test_network = named(input.test_network_id).or_else(|| before.and_then(|before| before.test_network));
    let mapping =
        NetworkMapping { site: site.name, network: network.name, target_site, target_network, test_network };
    control.put_network_mapping(&mapping)?;
    Ok(Answer::Ok(show(call, &mapping)?))
}

fn find(control: &Control, call: &Call) -> Result<Option<NetworkMapping>, ArmError> {
    let (site, target) = (call.name("site")?, call.name("mapping")?);
    let network = call.text("network");
    let found = control.network_mappings()?.into_iter().find(|mapping| {
        mapping.site == site && mapping.target_site == target && mapping.network.eq_ignore_ascii_case(network)
    });
    Ok(found)
}

fn show_list(call: &Call, mappings: Vec<NetworkMapping>) -> Result<Answer, ArmError> {
    let key = |mapping: &NetworkMapping| {
        format!("{}/{}/{}", mapping.site.key(), mapping.network, mapping.target_site.key())
    };
    let mappings = mappings.into_iter().map(|mapping| (key(&mapping), mapping)).collect();
    Answer::of(&page(call, mappings, |mapping| show(call, &mapping))?)
}

fn show(call: &Call, mapping: &NetworkMapping) -> Result<Value, ArmError> {
    let properties = Properties {
        state: "Paired",
        primary_network_friendly_name: mapping.network.clone(),
        primary_network_id: call.vault.network(&mapping.site, &mapping.network),
        primary_fabric_friendly_name: mapping.site.to_string(),
        recovery_network_friendly_name: mapping.target_network.clone(),
        recovery_network_id: call.vault.network(&mapping.target_site, &mapping.target_network),
        recovery_fabric_arm_id: call.vault.fabric(&mapping.target_site),
        recovery_fabric_friendly_name: mapping.target_site.to_string(),
    };
    let id = call.vault.network_mapping(&mapping.site, &mapping.network, &mapping.target_site);
    let kinds = "replicationFabrics/replicationNetworks/replicationNetworkMappings";
    resource(id, mapping.target_site.as_str(), kinds, properties)
}
