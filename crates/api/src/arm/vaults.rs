//! Vaults, and the operations that there are: what a client asks before it knows where everything is.
//!
//! A configuration server is one vault. It is there from the start, so making it is to ask for it, and it cannot be made under another name or
//! removed. Source of the model: `Vault` of `Microsoft.RecoveryServices/vaults`, which is a contract of its own (`azure-mgmt-recoveryservices`).

use axum::http::StatusCode;
use serde_json::{Value, json};
use switchback_control::Control;

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::id::PROVIDER;
use super::without_meaning;

/// Where the vault says that it is: Azure has no region for it.
const LOCATION: &str = "local";

/// The vault of a resource group, or of a subscription.
pub(crate) fn list(_: &Control, call: &Call) -> Result<Answer, ArmError> {
    let is_ours = |param: &str, ours: &str| {
        let said = call.text(param);
        said.is_empty() || said.eq_ignore_ascii_case(ours)
    };
    let here = is_ours("subscription", &call.vault.subscription)
        && is_ours("resource_group", &call.vault.resource_group)
        && is_ours("namespace", PROVIDER);
    let vaults: Vec<Value> = here.then(|| show(call)).into_iter().collect();
    Ok(Answer::Ok(json!({ "value": vaults })))
}

/// The vault; the request has been found to be for it.
pub(crate) fn get(_: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(call)))
}

/// A vault is its configuration server.
pub(crate) fn delete(_: &Control, call: &Call) -> Result<Answer, ArmError> {
    let message = format!("the vault {} cannot be deleted", call.vault.name);
    Err(ArmError::new(StatusCode::BAD_REQUEST, without_meaning::CODE, message)
        .cause("it is this configuration server")
        .remedy("disable what it protects, and stop it"))
}

fn show(call: &Call) -> Value {
    json!({
        "id": call.vault.id(),
        "name": call.vault.name,
        "type": format!("{PROVIDER}/vaults"),
        "location": LOCATION,
        "sku": { "name": "Standard" },
        "properties": { "provisioningState": "Succeeded" },
    })
}

/// Types that can be read, and more.
const TYPES: [(&str, &str, &[&str]); 11] = [
    ("replicationFabrics", "Fabric", &["read", "write", "delete", "checkConsistency/action"]),
    ("replicationFabrics/replicationProtectionContainers", "Protection container", &["read"]),
    (
        "replicationFabrics/replicationProtectionContainers/replicationProtectableItems",
        "Protectable item",
        &["read"],
    ),
    (
        "replicationFabrics/replicationProtectionContainers/replicationProtectedItems",
        "Protected item",
        &[
            "read",
            "write",
            "delete",
            "testFailover/action",
            "testFailoverCleanup/action",
            "plannedFailover/action",
            "unplannedFailover/action",
            "applyRecoveryPoint/action",
            "failoverCancel/action",
            "failoverCommit/action",
            "reProtect/action",
            "repairReplication/action",
        ],
    ),
    (
        "replicationFabrics/replicationProtectionContainers/replicationProtectionContainerMappings",
        "Protection container mapping",
        &["read", "write", "delete"],
    ),
    (
        "replicationFabrics/replicationNetworks/replicationNetworkMappings",
        "Network mapping",
        &["read", "write", "delete"],
    ),
    ("replicationPolicies", "Policy", &["read", "write", "delete"]),
    (
        "replicationRecoveryPlans",
        "Recovery plan",
        &[
            "read",
            "write",
            "delete",
            "testFailover/action",
            "testFailoverCleanup/action",
            "plannedFailover/action",
            "unplannedFailover/action",
            "failoverCancel/action",
            "failoverCommit/action",
            "reProtect/action",
        ],
    ),
    ("replicationJobs", "Job", &["read", "cancel/action", "restart/action", "resume/action"]),
    ("replicationEvents", "Event", &["read"]),
    ("replicationVaultHealth", "Vault health", &["read", "refresh/action"]),
];

/// The operations that roles can be made of, as Azure Resource Manager lists them.
pub(crate) fn operations(_: &Control, _: &Call) -> Result<Answer, ArmError> {
    let one = |kind: &str, resource: &str, operation: &str| {
        json!({
            "name": format!("{PROVIDER}/vaults/{kind}/{operation}"),
            "display": {
                "provider": PROVIDER, "resource": resource, "operation": operation,
                "description": format!("{resource}: {}", operation.trim_end_matches("/action")),
            },
            "origin": "user",
        })
    };
    let all: Vec<Value> = TYPES
        .iter()
        .flat_map(|(kind, resource, operations)| {
            operations.iter().map(move |operation| one(kind, resource, operation))
        })
        .collect();
    Ok(Answer::Ok(json!({ "value": all })))
}
