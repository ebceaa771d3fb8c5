//! Recovery plans: made, changed, failed over and back.

use serde_json::{Value, json};
use switchback_api::Vault;

use crate::server::Server;

const PLAN: &str = "replicationRecoveryPlans/RP1";

fn body(item: &Value) -> Value {
    let fabric = |site: &str| format!("{}/replicationFabrics/{site}", Vault::default().id());
    json!({ "properties": { "primaryFabricId": fabric("home"), "recoveryFabricId": fabric("recovery"), "failoverDeploymentModel": "NotApplicable",
        "groups": [{ "groupType": "Boot", "replicationProtectedItems": [{ "id": item["id"], "virtualMachineId": "any" }],
            "startGroupActions": [], "endGroupActions": [] }] } })
}

fn failover(provider: &str, direction: &str) -> Value {
    json!({ "properties": { "failoverDirection": direction, "sourceSiteOperations": "Required",
        "providerSpecificDetails": [{ "instanceType": provider, "recoveryPointType": "Latest" }] } })
}

#[tokio::test]
async fn a_plan_fails_over_and_back_the_way_its_user_says() {
    let mut server = Server::new();
    let item = server.protect().await;
    let resource = server.get(&item).await;
    let made = server.call("PUT", PLAN, Some(body(&resource))).await;
    assert_eq!(made.status, 200, "{:#}", made.body);
    assert_eq!(made.body["properties"]["replicationProviders"], json!(["InMageAzureV2"]));
    assert!(
        made.body["properties"]["allowedOperations"]
            .as_array()
            .unwrap()
            .contains(&json!("UnplannedFailover"))
    );
    assert_eq!(made.body["properties"]["groups"].as_array().unwrap().len(), 3);

    let wrong = server
        .call("POST", &format!("{PLAN}/unplannedFailover"), Some(failover("InMage", "RecoveryToPrimary")))
        .await;
    assert_eq!(wrong.status, 400, "it is at home already");
    let wrong = server
        .call("POST", &format!("{PLAN}/unplannedFailover"), Some(failover("InMage", "PrimaryToRecovery")))
        .await;
    assert_eq!(wrong.status, 400, "the other direction's provider");
    server
        .done("POST", &format!("{PLAN}/unplannedFailover"), failover("InMageAzureV2", "PrimaryToRecovery"))
        .await;
    server.done("POST", &format!("{PLAN}/failoverCommit"), json!({})).await;
    assert_eq!(server.get(&item).await["properties"]["protectionState"], "UnplannedFailoverCommitted");
    server.done("POST", &format!("{PLAN}/reProtect"), json!({})).await;
    server.until(&item, "Protected").await;
    assert_eq!(server.get(PLAN).await["properties"]["replicationProviders"], json!(["InMage"]));
    let back = json!({ "properties": { "failoverDirection": "RecoveryToPrimary" } });
    server.done("POST", &format!("{PLAN}/plannedFailover"), back).await;
    let shown = server.done("POST", &format!("{PLAN}/failoverCommit"), json!({})).await;
    assert_eq!(shown["properties"]["currentScenarioStatus"], "Succeeded");
    assert_eq!(
        server.world.control.item(&"web01".parse().unwrap()).unwrap().item.protection.active,
        switchback_model::Side::Home
    );
    check_children(&server).await;
}

/// A plan's job shows the jobs of its machines.
async fn check_children(server: &Server) {
    let jobs = server.get("replicationJobs?$filter=targetObjectName%20eq%20'RP1'").await;
    let failover = jobs["value"]
        .as_array()
        .unwrap()
        .iter()
        .find(|job| job["properties"]["scenarioName"] == "PlannedFailover")
        .unwrap();
    assert_eq!(failover["properties"]["targetInstanceType"], "RecoveryPlan");
    let job = server.get(&format!("replicationJobs/{}", failover["name"].as_str().unwrap())).await;
    let groups = job["properties"]["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|task| task["taskType"] == "GroupTaskDetails");
    let children: Vec<_> =
        groups.flat_map(|task| task["groupTaskCustomDetails"]["childTasks"].as_array().unwrap()).collect();
    assert!(
        children.iter().any(|child| child["customDetails"]["jobTask"]["targetObjectName"] == "web01"),
        "{job:#}"
    );
}

#[tokio::test]
async fn a_plans_actions_are_kept_and_a_manual_one_waits_for_its_confirmation() {
    let mut server = Server::new();
    let item = server.protect().await;
    let mut with_action = body(&server.get(&item).await);
    with_action["properties"]["groups"][0]["startGroupActions"] = json!([{ "actionName": "call", "failoverTypes": ["UnplannedFailover"],
        "failoverDirections": ["PrimaryToRecovery"], "customDetails": { "instanceType": "ManualActionDetails", "description": "call the boss" } }]);
    server.call("PUT", PLAN, Some(with_action)).await;
    let kept = server.get(PLAN).await;
    assert_eq!(
        kept["properties"]["groups"][2]["startGroupActions"][0]["customDetails"]["description"],
        "call the boss"
    );
    let accepted = server
        .call(
            "POST",
            &format!("{PLAN}/unplannedFailover"),
            Some(failover("InMageAzureV2", "PrimaryToRecovery")),
        )
        .await;
    assert_eq!(accepted.status, 202);
    let job = format!("replicationJobs/{}", accepted.header("x-ms-request-id").rsplit('/').next().unwrap());
    for _ in 0..50 {
        if server.get(&job).await["properties"]["state"] == "Suspended" {
            break;
        }
        if server.world.control.work_once(None).unwrap() == switchback_control::Turn::Idle {
            server.world.round();
        }
    }
    let waiting = server.get(&job).await;
    assert_eq!(waiting["properties"]["allowedActions"], json!(["Resume", "Cancel"]), "{waiting:#}");
    let status = server.follow(accepted.header("azure-asyncoperation")).await.body;
    assert_eq!(status["status"], "InProgress", "it waits, it has not failed");
    let resumed = server
        .call("POST", &format!("{job}/resume"), Some(json!({ "properties": { "comments": "called" } })))
        .await;
    assert_eq!(resumed.status, 200, "{:#}", resumed.body);
    assert_ne!(resumed.body["properties"]["state"], "Suspended");
}

#[tokio::test]
async fn a_plan_of_unknown_machines_is_refused_and_one_can_be_deleted_twice() {
    let server = Server::new();
    let unknown = json!({ "id": "web77" });
    assert_eq!(server.call("PUT", PLAN, Some(body(&unknown))).await.status, 404);
    assert_eq!(server.call("DELETE", PLAN, None).await.status, 204);
}
