//! What Terraform's providers send, replayed: requests as their public source makes them (method, path, api-version, body), and the parts of the answers that
//! they read. What came of it is told in `docs/reference/terraform.md`. Terraform itself is not run.
//!
//! `azurerm` looks whether a resource is there before it makes it, asks for it once more afterwards, and compares what it reads with what was written down:
//! what is not given back as it was sent would be changed, or made anew, at every run. It parses ids strictly by the case of their segments.

use serde_json::{Value, json};
use switchback_api::Vault;

use crate::server::{Answered, Server};

/// What `azurerm` speaks for Site Recovery.
const SITE_RECOVERY: &str = "2024-04-01";
/// What it speaks for vaults, in its newer and its older releases.
const VAULTS: [&str; 2] = ["2025-08-01", "2024-01-01"];
/// What it asks for a vault's settings of Azure Backup.
const BACKUP: &str = "2025-02-01";

/// A path below the vault, as the providers write it.
fn id(rest: &str) -> String {
    format!("{}/{rest}", Vault::default().id())
}

async fn ask(server: &Server, method: &str, id: &str, version: &str, body: Option<&Value>) -> Answered {
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    server.raw(method, &format!("{id}?api-version={version}"), Some(&server.token), body).await
}

/// What a resource is read as, which must be there under the very id that the provider made.
async fn read(server: &Server, id: &str) -> Value {
    let answered = ask(server, "GET", id, SITE_RECOVERY, None).await;
    assert_eq!(
        (answered.status.as_u16(), answered.body["id"].as_str()),
        (200, Some(id)),
        "{:#}",
        answered.body
    );
    answered.body
}

async fn is_not_there(server: &Server, id: &str) {
    let answered = ask(server, "GET", id, SITE_RECOVERY, None).await;
    assert_eq!(answered.status, 404, "{id}: {:#}", answered.body);
}

/// Made as the providers do it: looked for, put, read.
async fn create(server: &Server, id: &str, body: &Value) -> Value {
    is_not_there(server, id).await;
    let made = ask(server, "PUT", id, SITE_RECOVERY, Some(body)).await;
    assert_eq!(made.status, 200, "{:#}", made.body);
    read(server, id).await
}

/// Nothing of it is made, and the refusal says why.
async fn is_refused(server: &Server, method: &str, id: &str, body: &Value, why: &str) {
    let refused = ask(server, method, id, SITE_RECOVERY, Some(body)).await;
    assert_eq!(refused.status, 400, "{:#}", refused.body);
    let message = refused.body["error"]["message"].as_str().unwrap();
    assert!(message.contains(why), "{message}");
}

#[tokio::test]
async fn data_sources_are_found_under_the_ids_that_the_provider_makes() {
    let server = Server::new();
    for version in VAULTS {
        let vault = ask(&server, "GET", &Vault::default().id(), version, None).await;
        assert_eq!(vault.status, 200);
        assert_eq!(vault.body["id"], json!(Vault::default().id()));
        assert_eq!(
            (&vault.body["sku"]["name"], &vault.body["location"]),
            (&json!("Standard"), &json!("local"))
        );
    }
    read(&server, &id("replicationFabrics/home")).await;
    read(&server, &id(&server.container("home").await)).await;
    read(&server, &id("replicationPolicies/PG1")).await;
}

/// Both groups that the provider wants, and one with a machine and two actions. It sends no machines with the first two.
fn groups(item: &str, instruction: &str) -> Value {
    let types = json!(["PlannedFailover", "TestFailover", "UnplannedFailover"]);
    json!([
        { "groupType": "Shutdown", "startGroupActions": [], "endGroupActions": [] },
        { "groupType": "Failover", "startGroupActions": [], "endGroupActions": [] },
        {
            "groupType": "Boot",
            "replicationProtectedItems": [{ "id": item }],
            "startGroupActions": [{
                "actionName": "call", "failoverDirections": ["PrimaryToRecovery"], "failoverTypes": types,
                "customDetails": { "instanceType": "ManualActionDetails", "description": instruction },
            }],
            "endGroupActions": [{
                "actionName": "switch", "failoverDirections": ["PrimaryToRecovery", "RecoveryToPrimary"], "failoverTypes": types,
                "customDetails": { "instanceType": "ScriptActionDetails", "path": "switch-dns", "fabricLocation": "Primary" },
            }],
        },
    ])
}

/// The groups as `azurerm` keeps them: kind, machines' ids, and of actions all that its configuration has. Directions and types are sets there.
fn as_kept(groups: &Value) -> Value {
    let sorted = |set: &Value| {
        let mut values: Vec<&str> = set.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
        values.sort_unstable();
        json!(values)
    };
    let action = |action: &Value| {
        let details = &action["customDetails"];
        json!([
            action["actionName"],
            sorted(&action["failoverDirections"]),
            sorted(&action["failoverTypes"]),
            [&details["instanceType"], &details["description"], &details["path"], &details["fabricLocation"]],
        ])
    };
    let actions =
        |group: &Value, at: &str| group[at].as_array().unwrap().iter().map(action).collect::<Vec<_>>();
    let group = |group: &Value| {
        let items = group["replicationProtectedItems"].as_array().into_iter().flatten();
        let items: Vec<&Value> = items.map(|item| &item["id"]).collect();
        json!([
            group["groupType"],
            items,
            actions(group, "startGroupActions"),
            actions(group, "endGroupActions")
        ])
    };
    groups.as_array().unwrap().iter().map(group).collect()
}

/// `azurerm_site_recovery_replication_recovery_plan`: made, read without a difference, changed, removed.
#[tokio::test]
async fn a_recovery_plan_is_managed_without_a_difference() {
    let mut server = Server::new();
    let item = id(&server.protect().await);
    let plan = id("replicationRecoveryPlans/RP1");
    let (home, recovery) = (id("replicationFabrics/home"), id("replicationFabrics/recovery"));
    let wanted = groups(&item, "call the boss");
    let body = json!({ "properties": {
        "primaryFabricId": home, "recoveryFabricId": recovery, "failoverDeploymentModel": "ResourceManager", "groups": wanted,
    } });
    let made = create(&server, &plan, &body).await;
    let properties = &made["properties"];
    assert_eq!(
        (&properties["primaryFabricId"], &properties["recoveryFabricId"]),
        (&json!(home), &json!(recovery))
    );
    assert_eq!(as_kept(&properties["groups"]), as_kept(&wanted));
    let details = properties["providerSpecificDetails"].as_array().map_or(0, Vec::len);
    assert_eq!(details, 0, "they would be kept as settings of Azure to Azure");
    // A change sends what it has read where its configuration is the same, and its own groups where not.
    for wanted in [properties["groups"].clone(), groups(&item, "call the other boss")] {
        let change = json!({ "properties": { "groups": wanted } });
        let changed = ask(&server, "PATCH", &plan, SITE_RECOVERY, Some(&change)).await;
        assert_eq!(changed.status, 200, "{:#}", changed.body);
        assert_eq!(as_kept(&read(&server, &plan).await["properties"]["groups"]), as_kept(&wanted));
    }
    let gone = ask(&server, "DELETE", &plan, SITE_RECOVERY, None).await;
    assert_eq!(gone.status, 204);
    is_not_there(&server, &plan).await;
}

/// What `azurerm` would give a difference for at every run is named in the documentation.
#[tokio::test]
async fn what_a_plan_cannot_keep_is_refused_or_shown_otherwise() {
    let mut server = Server::new();
    let item = id(&server.protect().await);
    let plan = id("replicationRecoveryPlans/RP1");
    let body = |groups: Value| {
        json!({ "properties": { "primaryFabricId": id("replicationFabrics/home"), "recoveryFabricId": id("replicationFabrics/recovery"),
            "failoverDeploymentModel": "ResourceManager", "groups": groups } })
    };
    let mut shut_down = groups(&item, "");
    shut_down[0]["startGroupActions"] = shut_down[2]["startGroupActions"].clone();
    is_refused(&server, "PUT", &plan, &body(shut_down), "Boot groups").await;
    let mut runbook = groups(&item, "");
    runbook[2]["startGroupActions"][0]["customDetails"] = json!({ "instanceType": "AutomationRunbookActionDetails", "runbookId": "/x", "fabricLocation": "Primary" });
    is_refused(&server, "PUT", &plan, &body(runbook), "AutomationRunbookActionDetails").await;
    let mut otherwise = groups(&item, "");
    otherwise[2]["startGroupActions"][0]["failoverTypes"] = json!(["UnplannedFailover"]);
    otherwise[2]["endGroupActions"][0]["customDetails"]["fabricLocation"] = json!("Recovery");
    let made = create(&server, &plan, &body(otherwise)).await;
    let shown = &made["properties"]["groups"][2];
    assert_eq!(
        shown["startGroupActions"][0]["failoverTypes"],
        json!(["PlannedFailover", "UnplannedFailover"])
    );
    assert_eq!(shown["endGroupActions"][0]["customDetails"]["fabricLocation"], "Primary");
}

/// `azurerm_site_recovery_protection_container`, by import; its creation finds what is there and says so, its removal is that of its site.
#[tokio::test]
async fn a_container_can_be_imported_and_is_removed_with_its_site() {
    let server = Server::new();
    let container = id(&server.container("home").await);
    read(&server, &container).await;
    let other = id("replicationFabrics/home/replicationProtectionContainers/other");
    is_not_there(&server, &other).await;
    is_refused(&server, "PUT", &other, &json!({ "properties": {} }), "fabric").await;
    let remove =
        async |path: String| ask(&server, "POST", &format!("{path}/remove"), SITE_RECOVERY, None).await;
    let fabric = id("replicationFabrics/home");
    for used in [&container, &fabric] {
        let refused = remove(used.clone()).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (409, "site.in-use"));
        let message = refused.body["error"]["message"].as_str().unwrap();
        assert!(message.contains("the site home is in use by the protection group PG1"), "{message}");
    }
    assert_eq!(remove(other).await.status, 404, "home has no such container");
    let mapping = format!("{container}/replicationProtectionContainerMappings/PG1");
    for gone in [&mapping, &container, &container, &fabric] {
        assert_eq!(remove(gone.clone()).await.status, 204, "{gone}");
    }
    is_not_there(&server, &container).await;
    is_not_there(&server, &fabric).await;
}

/// `azurerm_site_recovery_protection_container_mapping`: served; one field is another name of the same container.
#[tokio::test]
async fn a_container_mapping_is_made_and_removed() {
    let server = Server::new();
    let policy = id("replicationPolicies/PG2");
    let details = json!({ "instanceType": "InMageAzureV2" });
    create(&server, &policy, &json!({ "properties": { "providerSpecificInput": details } })).await;
    let (home, recovery) = (server.container("home").await, id(&server.container("recovery").await));
    let mapping = id(&format!("{home}/replicationProtectionContainerMappings/there"));
    let body = json!({ "properties": {
        "policyId": policy, "targetProtectionContainerId": recovery, "providerSpecificInput": { "instanceType": "A2A" },
    } });
    let made = create(&server, &mapping, &body).await;
    let properties = &made["properties"];
    assert_eq!(
        (&properties["policyId"], &properties["targetProtectionContainerId"]),
        (&json!(policy), &json!(recovery))
    );
    assert_eq!(
        properties["sourceProtectionContainerFriendlyName"], "home",
        "the provider keeps the container's own name"
    );
    let body = json!({ "properties": { "providerSpecificInput": { "instanceType": "A2A" } } });
    let removed = ask(&server, "POST", &format!("{mapping}/remove"), SITE_RECOVERY, Some(&body)).await;
    assert_eq!(removed.status, 204, "{:#}", removed.body);
    is_not_there(&server, &mapping).await;
}

/// Resources of other architectures: each refusal names what the provider's user has to know.
#[tokio::test]
async fn what_is_of_another_architecture_is_refused_in_words() {
    let server = Server::new();
    let fabric =
        json!({ "properties": { "customDetails": { "instanceType": "Azure", "location": "westeurope" } } });
    is_refused(&server, "PUT", &id("replicationFabrics/new"), &fabric, "switchbackSites").await;
    let (policy, existing) = (id("replicationPolicies/new"), id("replicationPolicies/PG1"));
    for input in [
        json!({ "instanceType": "A2A", "recoveryPointHistory": 1440, "appConsistentFrequencyInMinutes": 60, "multiVmSyncStatus": "Enable" }),
        json!({ "instanceType": "InMageRcm", "recoveryPointHistoryInMinutes": 1440, "appConsistentFrequencyInMinutes": 60,
            "crashConsistentFrequencyInMinutes": 10, "enableMultiVmSync": "True" }),
    ] {
        let kind = input["instanceType"].as_str().unwrap();
        is_not_there(&server, &policy).await;
        is_refused(
            &server,
            "PUT",
            &policy,
            &json!({ "properties": { "providerSpecificInput": input } }),
            kind,
        )
        .await;
        let change = json!({ "properties": { "replicationProviderSettings": input } });
        is_refused(&server, "PATCH", &existing, &change, kind).await;
    }
    // By this, azurerm_site_recovery_vmware_replication_policy_association finds a vault of the classic architecture, and stops.
    let setting = read(&server, &id("replicationVaultSettings/default")).await;
    assert_eq!(setting["properties"]["vmwareToAzureProviderType"], "InMageAzureV2");
    // azurerm_site_recovery_vmware_replicated_vm looks for an appliance in the fabric.
    let fabric = read(&server, &id("replicationFabrics/home")).await;
    assert_eq!(fabric["properties"]["customDetails"]["instanceType"], "VMware");
    // azurerm_recovery_services_vault reads what belongs to Azure Backup.
    let backup = ask(&server, "GET", &id("backupconfig/vaultconfig"), BACKUP, None).await;
    assert_eq!(backup.status.as_u16() / 100, 4, "{:#}", backup.body);
}

/// `azapi_resource` puts the body that its user has written: it serves for everything that the contract has.
#[tokio::test]
async fn azapi_makes_reads_and_removes_what_the_contract_has() {
    let mut server = Server::new();
    let policy = id("replicationPolicies/PG2");
    let details = json!({ "instanceType": "InMageAzureV2", "recoveryPointHistory": 1440, "crashConsistentFrequencyInMinutes": 5,
        "appConsistentFrequencyInMinutes": 60, "multiVmSyncStatus": "Enable" });
    let body = json!({ "properties": { "providerSpecificInput": details } });
    let made = create(&server, &policy, &body).await;
    // A change is the same PUT again.
    assert_eq!(ask(&server, "PUT", &policy, SITE_RECOVERY, Some(&body)).await.status, 200);
    assert_eq!(read(&server, &policy).await, made);
    let container = server.container("home").await;
    let mapping = id(&format!("{container}/replicationProtectionContainerMappings/there"));
    let body =
        json!({ "properties": { "policyId": policy, "targetProtectionContainerId": "Microsoft Azure" } });
    create(&server, &mapping, &body).await;
    let item = format!("{container}/replicationProtectedItems/web01");
    is_not_there(&server, &id(&item)).await;
    let body = json!({ "properties": {
        "policyId": policy, "protectableItemId": id(&format!("{container}/replicationProtectableItems/web01")),
        "providerSpecificDetails": { "instanceType": "InMageAzureV2" },
    } });
    server.done("PUT", &item, body).await;
    read(&server, &id(&item)).await;
    server.operate("DELETE", &item, Value::Null).await;
    is_not_there(&server, &id(&item)).await;
    for made in [&mapping, &policy] {
        assert_eq!(ask(&server, "DELETE", made, SITE_RECOVERY, None).await.status, 204);
        is_not_there(&server, made).await;
    }
}
