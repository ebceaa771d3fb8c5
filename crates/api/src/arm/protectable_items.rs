//! `replicationProtectableItems`: the machines that a site has, protected or not. A machine's name here is its id at its site.

use std::collections::BTreeSet;
use std::slice;

use serde::Serialize;
use serde_json::Value;
use switchback_control::{Control, DiscoveredMachine, Health, ItemView};
use switchback_model::{ObjectName, Side, Site, SiteKind};
use switchback_sites::{MachineDisk, Power};

use super::answer::Answer;
use super::call::Call;
use super::containers;
use super::error::ArmError;
use super::filter::Filter;
use super::health::{HealthError, health_errors};
use super::page::page_at_once;
use super::resource::resource;
use super::state;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    friendly_name: String,
    protection_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    replication_protected_item_id: Option<String>,
    protection_readiness_errors: Vec<String>,
    supported_replication_providers: Vec<&'static str>,
    custom_details: VMwareMachine,
}

/// `VMwareVirtualMachineDetails` of the contract.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VMwareMachine {
    instance_type: &'static str,
    agent_generated_id: String,
    agent_installed: &'static str,
    powered_on: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    ip_address: String,
    discovery_type: &'static str,
    disk_details: Vec<Disk>,
    validation_errors: Vec<HealthError>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Disk {
    disk_id: String,
    disk_name: String,
    #[serde(rename = "diskSizeInMB")]
    disk_size_in_mb: String,
    disk_type: &'static str,
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = containers::find(control, call)?;
    let filter = Filter::parse(call.query("$filter"), &["state"])?;
    let machines = control
        .machines(&site.name)?
        .into_iter()
        .filter(|found| filter.allows("state", status(found)))
        .map(|found| (found.machine.id.clone(), found))
        .collect();
    Answer::of(&page_at_once(call, machines, |shown: Vec<DiscoveredMachine>| {
        let views = views(control, &shown)?;
        shown.iter().map(|found| show(call, &site, found, &views)).collect()
    })?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = containers::find(control, call)?;
    let id = call.text("machine");
    let found =
        control.machines(&site.name)?.into_iter().find(|found| found.machine.id.eq_ignore_ascii_case(id));
    let found = found.ok_or_else(|| ArmError::not_found("protectable item", id))?;
    Ok(Answer::Ok(show(call, &site, &found, &views(control, slice::from_ref(&found))?)?))
}

/// Of the protected machines among them.
fn views(control: &Control, shown: &[DiscoveredMachine]) -> Result<Vec<ItemView>, ArmError> {
    let names: BTreeSet<&ObjectName> = shown.iter().filter_map(|found| found.item.as_ref()).collect();
    Ok(control.views(control.protected()?.iter().filter(|item| names.contains(&item.name)))?)
}

const fn status(found: &DiscoveredMachine) -> &'static str {
    if found.item.is_some() { "Protected" } else { "Unprotected" }
}

fn show(call: &Call, site: &Site, found: &DiscoveredMachine, items: &[ItemView]) -> Result<Value, ArmError> {
    let machine = &found.machine;
    let view = found.item.as_ref().and_then(|name| items.iter().find(|view| view.item.name == *name));
    let is_away = view.is_some_and(|view| {
        view.item.away.id.as_ref() == Some(&machine.id) && view.item.away.site == site.name
    });
    // The instance at the recovery site can only go home; any other machine can be protected.
    let provider = state::provider(if is_away { Side::Home } else { Side::Away });
    let is_active = view.is_some_and(|view| view.item.active().id.as_ref() == Some(&machine.id));
    let flag = |is: bool| if is { "True" } else { "False" };
    let properties = Properties {
        friendly_name: machine.name.clone(),
        protection_status: status(found),
        replication_protected_item_id: view
            .map(|view| call.vault.protected_item(&view.item.home.site, &view.item.name)),
        protection_readiness_errors: found.obstacles.iter().map(|obstacle| obstacle.code.clone()).collect(),
        supported_replication_providers: vec![provider],
        custom_details: VMwareMachine {
            instance_type: "VMwareVirtualMachine",
            agent_generated_id: machine.system_uuid.clone(),
            agent_installed: flag(found.has_agent),
            powered_on: flag(machine.power == Power::On),
            ip_address: view.filter(|_| is_active).map(|view| view.addresses.join(",")).unwrap_or_default(),
            discovery_type: state::discovery_type(matches!(site.kind, SiteKind::Physical { .. })),
            disk_details: machine
                .disks
                .iter()
                .enumerate()
                .map(|(index, disk)| show_disk(index, disk))
                .collect(),
            validation_errors: health_errors(&found.obstacles, Health::Warning),
        },
    };
    let kinds = "replicationFabrics/replicationProtectionContainers/replicationProtectableItems";
    resource(call.vault.protectable_item(&site.name, &machine.id), &machine.id, kinds, properties)
}

fn show_disk(index: usize, disk: &MachineDisk) -> Disk {
    let name = disk.path.file_name().map(|name| name.to_string_lossy().into_owned());
    Disk {
        disk_id: if disk.serial.is_empty() { index.to_string() } else { disk.serial.clone() },
        disk_name: name.unwrap_or_else(|| format!("disk {index}")),
        disk_size_in_mb: disk.size.div_ceil(1 << 20).to_string(),
        disk_type: "Fixed",
    }
}
