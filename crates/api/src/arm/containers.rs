//! `replicationProtectionContainers`: the machines of a site, one container for each.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchback_control::Control;
use switchback_model::{ObjectName, ProtectedItem, ProtectionGroup, Site};

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::fabrics;
use super::id::container_name;
use super::page::page;
use super::resource::resource;
use super::without_meaning;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    fabric_friendly_name: String,
    friendly_name: String,
    fabric_type: &'static str,
    protected_item_count: usize,
    pairing_status: &'static str,
    role: &'static str,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Discover {
    properties: DiscoverProperties,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DiscoverProperties {
    friendly_name: Option<String>,
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = find(control, call)?;
    Ok(Answer::Ok(show(call, &site, &control.groups()?, &control.protected()?)?))
}

/// Finds the container that is there, as a client does that makes sure of it.
pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    match find(control, call) {
        Ok(_) => get(control, call),
        Err(error) if error.status == StatusCode::NOT_FOUND => without_meaning::containers(control, call),
        Err(error) => Err(error),
    }
}

/// The one container of a fabric is its site: it is forgotten as by the removal of the fabric, by the same rules. So a client that removes mappings,
/// container and fabric, in this order, finds nothing left to be done at the last.
pub(crate) fn remove(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    match find(control, call) {
        Ok(_) => fabrics::remove(control, call),
        Err(error) if error.error.code == fabrics::MISSING => Ok(Answer::NoContent),
        Err(error) => Err(error),
    }
}

/// Sites are asked for their machines whenever those are listed, so there is nothing to start: it is looked whether the machine is there.
pub(crate) fn discover(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = find(control, call)?;
    let wanted = call.json_if_any::<Discover>()?.properties.friendly_name;
    let machines = control.machines(&site.name)?;
    if let Some(wanted) = wanted
        && !machines
            .iter()
            .any(|found| found.machine.name.eq_ignore_ascii_case(&wanted) || found.machine.id == wanted)
    {
        return Err(ArmError::not_found("machine", &wanted)
            .cause(format!("the site {} has {} machines, none of that name", site.name, machines.len()))
            .remedy("register it at the site; it is then found by itself"));
    }
    Ok(Answer::Ok(show(call, &site, &control.groups()?, &control.protected()?)?))
}

/// Of a fabric, or of all.
pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let sites = fabrics::asked_for(control, call)?;
    let (groups, items) = (control.groups()?, control.protected()?);
    let sites = sites.into_iter().map(|site| (site.name.key(), site)).collect();
    Answer::of(&page(call, sites, |site| show(call, &site, &groups, &items))?)
}

/// The site of the path, if the container in the path is its.
pub(crate) fn find(control: &Control, call: &Call) -> Result<Site, ArmError> {
    let site = fabrics::find(control, call)?;
    let container = call.text("container");
    if container_name(&site.name).eq_ignore_ascii_case(container) {
        Ok(site)
    } else {
        Err(ArmError::not_found("protection container", container).remedy(format!(
            "the one container of the fabric {} is {}",
            site.name,
            container_name(&site.name)
        )))
    }
}

/// The site of a container's id, as a body has it.
pub(crate) fn site_of_id(control: &Control, id: &str) -> Result<Option<ObjectName>, ArmError> {
    let wanted = super::id::name_in(id, "replicationProtectionContainers");
    let Some(wanted) = wanted else { return Ok(None) };
    let sites = control.sites()?;
    Ok(sites
        .into_iter()
        .map(|site| site.name)
        .find(|site| container_name(site).eq_ignore_ascii_case(&wanted)))
}

fn show(
    call: &Call,
    site: &Site,
    groups: &[ProtectionGroup],
    items: &[ProtectedItem],
) -> Result<Value, ArmError> {
    let paired = groups.iter().any(|group| group.source_site == site.name);
    let properties = Properties {
        fabric_friendly_name: site.name.to_string(),
        friendly_name: site.name.to_string(),
        fabric_type: "VMware",
        protected_item_count: items.iter().filter(|item| item.home.site == site.name).count(),
        pairing_status: if paired { "Paired" } else { "NotPaired" },
        role: if paired { "Primary" } else { "" },
    };
    let kinds = "replicationFabrics/replicationProtectionContainers";
    resource(call.vault.container(&site.name), &container_name(&site.name), kinds, properties)
}
