//! `providerSpecificDetails` of a protected item: `InMageAzureV2` while its pair leads away from home, `InMage` while it leads home.
//!
//! Both are rendered from the same facts; the contract only names them differently.

use serde::Serialize;
use serde_json::{Value, json};
use switchback_control::{Health, ItemView};
use switchback_model::{DiskIndex, Phase, ProtectedItem, ProtectionGroup, Side, UnixMillis};

use super::health::{HealthError, machine_errors, show};
use super::id::{guid, machine_guid};
use super::state;
use super::time;

/// The fields that both providers have under one name.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    instance_type: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    infrastructure_vm_id: String,
    protection_stage: &'static str,
    vm_id: String,
    vm_protection_state: &'static str,
    vm_protection_state_description: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpo_in_seconds: Option<u64>,
    ip_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_heartbeat: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process_server_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    master_target_id: Option<String>,
    multi_vm_group_id: String,
    multi_vm_group_name: String,
    multi_vm_sync_status: &'static str,
    protected_disks: Vec<Disk>,
    vm_nics: Vec<Nic>,
    discovery_type: &'static str,
    validation_errors: Vec<HealthError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_rpo_calculated_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replica_id: Option<String>,
    os_version: String,
    is_additional_stats_available: bool,
    total_data_transferred: u64,
    total_progress_health: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Disk {
    disk_id: String,
    disk_name: String,
    protection_stage: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpo_in_seconds: Option<u64>,
    resync_required: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resync_progress_percentage: Option<u8>,
    disk_capacity_in_bytes: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Nic {
    nic_id: String,
    #[serde(rename = "vMNetworkName")]
    vm_network_name: String,
    #[serde(rename = "recoveryVMNetworkId", skip_serializing_if = "Option::is_none")]
    recovery_vm_network_id: Option<String>,
}

/// The details of an item; `group` is its forward group.
pub(crate) fn details(
    view: &ItemView,
    group: Option<&ProtectionGroup>,
    discovery_type: &'static str,
    now: UnixMillis,
) -> Value {
    let target = state::pair_target(&view.item.protection);
    let common = serde_json::to_value(common(view, group, (target, discovery_type), now));
    // Plain data: it cannot fail to become JSON, and a gap would be seen by every client.
    let mut details = common.unwrap_or_default();
    let own = match target {
        Side::Away => forward_fields(view, now),
        Side::Home => home_fields(view),
    };
    if let (Some(details), Value::Object(own)) = (details.as_object_mut(), own) {
        details.extend(own.into_iter().filter(|(_, value)| !value.is_null()));
    }
    details
}

fn common(
    view: &ItemView,
    group: Option<&ProtectionGroup>,
    (target, discovery_type): (Side, &'static str),
    now: UnixMillis,
) -> Details {
    let item = &view.item;
    let shown = state::show(&item.protection);
    let path = item.replication.as_ref();
    let multi_vm = group.filter(|group| group.policy.multi_vm);
    Details {
        instance_type: state::provider(target),
        infrastructure_vm_id: item.active().id.clone().unwrap_or_default(),
        protection_stage: stage(view),
        vm_id: machine_guid(item.machine),
        vm_protection_state: shown.protection_state,
        vm_protection_state_description: shown.description,
        rpo_in_seconds: rpo_s(view),
        ip_address: view.addresses.join(","),
        last_heartbeat: time::show_option(view.agent_seen),
        process_server_id: path.map(|path| path.process_server.clone()),
        master_target_id: path.map(|path| path.master_target.clone()),
        multi_vm_group_id: multi_vm.map(|group| guid(&["multi-vm", &group.name.key()])).unwrap_or_default(),
        multi_vm_group_name: multi_vm.map(|group| group.name.to_string()).unwrap_or_default(),
        multi_vm_sync_status: if multi_vm.is_some() { "Enabled" } else { "Disabled" },
        protected_disks: disks(view),
        vm_nics: nics(view),
        discovery_type,
        validation_errors: machine_errors(&view.reasons, view.health),
        last_rpo_calculated_time: view.rpo_ms.map(|_| time::show(now)),
        replica_id: path.map(|path| path.replica.to_string()),
        os_version: view.system.clone(),
        is_additional_stats_available: true,
        total_data_transferred: view.sent_bytes,
        total_progress_health: if view.health == Health::Normal { "Healthy" } else { show(view.health) },
    }
}

/// How far the data has come, in the contract's words.
const fn stage(view: &ItemView) -> &'static str {
    match (view.item.protection.phase, view.resync_percent) {
        (Phase::Enabling | Phase::Reprotecting, _) => "InitialReplication",
        (Phase::Protected, Some(_)) => "ResyncInProgress",
        (Phase::Protected, None) => "DifferentialSync",
        (Phase::FailedOver | Phase::Committed, _) => "FailedOver",
    }
}

fn rpo_s(view: &ItemView) -> Option<u64> {
    view.rpo_ms.map(|ms| ms / 1000)
}

fn disks(view: &ItemView) -> Vec<Disk> {
    let item = &view.item;
    let standing = |disk: DiskIndex| item.disk_standings.get(&disk.0);
    let disk = |disk: DiskIndex| Disk {
        disk_id: disk_id(item, disk),
        disk_name: format!("disk {disk}"),
        protection_stage: if standing(disk).is_some() { "InitialReplication" } else { stage(view) },
        rpo_in_seconds: rpo_s(view),
        resync_required: if view.resync_percent.is_some() { "True" } else { "False" },
        resync_progress_percentage: view.disk_percents.get(&disk.0).copied().or(view.resync_percent),
        disk_capacity_in_bytes: item.disk_sizes[usize::from(disk.0)],
    };
    item.present_disks().map(disk).collect()
}

/// By which a protected disk is known to clients.
pub(crate) fn disk_id(item: &ProtectedItem, disk: DiskIndex) -> String {
    format!("{}-disk-{disk}", machine_guid(item.machine))
}

/// Network cards of the active instance with the network that the other one's card at the same place has.
fn nics(view: &ItemView) -> Vec<Nic> {
    let others = &view.item.passive().nics;
    let nic = |(index, nic): (usize, &switchback_model::InstanceNic)| Nic {
        nic_id: nic.mac.clone(),
        vm_network_name: nic.network.clone(),
        recovery_vm_network_id: others.get(index).map(|other| other.network.clone()),
    };
    view.item.active().nics.iter().enumerate().map(nic).collect()
}

/// What `InMageAzureV2ReplicationDetails` alone has.
fn forward_fields(view: &ItemView, now: UnixMillis) -> Value {
    let path = view.item.replication.as_ref();
    json!({
        "resyncProgressPercentage": view.resync_percent,
        "agentVersion": view.agent_build,
        "processServerName": path.map(|path| path.process_server.as_str()),
        "targetVmId": view.item.away.id,
        "recoveryAzureVMName": view.item.away.id,
        "recoveryAzureVMSize": view.item.plan.size,
        "recoveryAvailabilitySetId": view.item.plan.availability_set,
        "targetAvailabilityZone": view.item.plan.zone,
        "lastRecoveryPointReceived": view.rpo_ms.map(|rpo| time::show(UnixMillis(now.0.saturating_sub(rpo)))),
    })
}

/// What `InMageReplicationDetails` alone has.
fn home_fields(view: &ItemView) -> Value {
    let active = match view.item.protection.active {
        Side::Home => "OnPrem",
        Side::Away => "Azure",
    };
    json!({
        "activeSiteType": active,
        "agentDetails": { "agentVersion": view.agent_build },
        "resyncDetails": view.resync_percent.map(|percent| json!({
            "initialReplicationType": "Resync", "initialReplicationProgressPercentage": percent.to_string(),
        })),
    })
}
