//! The whole round through the contract: protect, fail over, commit, reprotect, fail back, commit, reprotect; and what belongs to it.

use serde_json::{Value, json};

use crate::server::Server;

/// What the contract shows of an item's state.
fn standing(item: &Value) -> [String; 5] {
    let properties = &item["properties"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    [
        text(&properties["providerSpecificDetails"]["instanceType"]),
        text(&properties["protectionState"]),
        text(&properties["activeLocation"]),
        text(&properties["policyFriendlyName"]),
        text(&properties["recoveryFabricFriendlyName"]),
    ]
}

fn failover(provider: &str, direction: &str) -> Value {
    json!({ "properties": { "failoverDirection": direction, "sourceSiteOperations": "Required",
        "providerSpecificDetails": { "instanceType": provider } } })
}

#[tokio::test]
async fn a_machine_goes_all_the_way_round() {
    let mut server = Server::new();
    let item = server.protect().await;
    assert_eq!(
        standing(&server.get(&item).await),
        ["InMageAzureV2", "Protected", "Primary", "PG1", "recovery"]
    );
    let points = server.get(&format!("{item}/recoveryPoints")).await;
    let newest = points["value"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(server.follow(&format!("{newest}?api-version=2025-08-01")).await.body, points["value"][0]);

    let shown = server
        .done("POST", &format!("{item}/unplannedFailover"), failover("InMageAzureV2", "PrimaryToRecovery"))
        .await;
    assert_eq!(
        standing(&shown),
        ["InMageAzureV2", "UnplannedFailoverCommitRequired", "Recovery", "PG1", "recovery"]
    );
    assert_eq!(shown["properties"]["allowedOperations"], json!(["ChangePit", "CancelFailover", "Commit"]));
    assert!(!shown["properties"]["failoverRecoveryPointId"].as_str().unwrap().is_empty());
    let shown = server.done("POST", &format!("{item}/failoverCommit"), json!({})).await;
    assert_eq!(
        standing(&shown),
        ["InMageAzureV2", "UnplannedFailoverCommitted", "Recovery", "PG1", "recovery"]
    );

    let home = json!({ "properties": { "failoverDirection": "RecoveryToPrimary", "providerSpecificDetails": {
        "instanceType": "InMage", "masterTargetId": "home-mt", "processServerId": "recovery-ps", "retentionDrive": "/", "profileId": "PG1-failback" } } });
    server.done("POST", &format!("{item}/reProtect"), home).await;
    server.until(&item, "Protected").await;
    assert_eq!(
        standing(&server.get(&item).await),
        ["InMage", "Protected", "Primary", "PG1-failback", "home"]
    );

    let mut failback = failover("InMage", "PrimaryToRecovery");
    failback["properties"]["providerSpecificDetails"]["recoveryPointType"] = "LatestTime".into();
    server.done("POST", &format!("{item}/unplannedFailover"), failback).await;
    let shown = server.done("POST", &format!("{item}/failoverCommit"), json!({})).await;
    assert_eq!(
        standing(&shown),
        ["InMage", "UnplannedFailoverCommitted", "Recovery", "PG1-failback", "home"]
    );

    let away = json!({ "properties": { "failoverDirection": "RecoveryToPrimary", "providerSpecificDetails": {
        "instanceType": "InMageAzureV2", "policyId": "PG1" } } });
    server.done("POST", &format!("{item}/reProtect"), away).await;
    server.until(&item, "Protected").await;
    assert_eq!(
        standing(&server.get(&item).await),
        ["InMageAzureV2", "Protected", "Primary", "PG1", "recovery"]
    );
    check_jobs(&server).await;
}

/// After the round: its jobs, newest first, in the contract's words.
async fn check_jobs(server: &Server) {
    let jobs = server.get("replicationJobs").await;
    let jobs = jobs["value"].as_array().unwrap();
    let mut scenarios: Vec<_> =
        jobs.iter().map(|job| job["properties"]["scenarioName"].as_str().unwrap()).collect();
    scenarios.sort_unstable();
    let expected = [
        "CommitFailover",
        "CommitFailover",
        "EnableDr",
        "SwitchReplicationGroupProtection",
        "SwitchReplicationGroupProtection",
        "UnplannedFailover",
        "UnplannedFailover",
    ];
    assert_eq!(scenarios, expected);
    for job in jobs {
        let one = server.get(&format!("replicationJobs/{}", job["name"].as_str().unwrap())).await;
        assert_eq!(one["properties"]["state"], "Succeeded");
        assert!(!one["properties"]["tasks"].as_array().unwrap().is_empty());
    }
    let some = server
        .get(
            "replicationJobs?$filter=JobName%20eq%20'UnplannedFailover'%20and%20JobStatus%20eq%20'Succeeded'",
        )
        .await;
    assert_eq!(some["value"].as_array().unwrap().len(), 2);
    assert_eq!(server.get("replicationJobs?$filter=jobStatus%20eq%20'Failed'").await["value"], json!([]));
    assert!(server.get("replicationEvents").await["value"].is_array());
}

#[tokio::test]
async fn a_failover_the_wrong_way_is_refused_and_nothing_is_done() {
    let mut server = Server::new();
    let item = server.protect().await;
    let path = format!("{item}/unplannedFailover");
    for (wrong, why) in [
        (failover("InMageAzureV2", "RecoveryToPrimary"), "failoverDirection"),
        (failover("InMage", "PrimaryToRecovery"), "instanceType"),
        (
            json!({ "properties": { "providerSpecificDetails": { "instanceType": "InMageAzureV2", "recoveryPointId": "4711" } } }),
            "recovery point",
        ),
        (
            json!({ "properties": { "providerSpecificDetails": { "instanceType": "InMageAzureV2", "recoveryPointType": "Best" } } }),
            "recoveryPointType",
        ),
        (json!({ "properties": { "sourceSiteOperations": "Maybe" } }), "sourceSiteOperations"),
    ] {
        let refused = server.call("POST", &path, Some(wrong)).await;
        assert!(refused.status.is_client_error(), "{refused:?}");
        assert!(refused.body["error"]["message"].as_str().unwrap().contains(why), "{:#}", refused.body);
    }
    let illegal = server.call("POST", &format!("{item}/failoverCommit"), None).await;
    assert_eq!((illegal.status.as_u16(), illegal.code()), (409, "protection.illegal"));
    assert!(
        illegal.body["error"]["message"].as_str().unwrap().contains("unplanned failover"),
        "{:#}",
        illegal.body
    );
    let jobs = server.call("GET", "replicationJobs", None).await;
    assert_eq!(jobs.names().len(), 1, "the protection alone");
}

#[tokio::test]
async fn a_rehearsal_and_a_change_of_mind() {
    let mut server = Server::new();
    let item = server.protect().await;
    let test = json!({ "properties": { "failoverDirection": "PrimaryToRecovery", "networkType": "NoNetworkAttachAsInput",
        "providerSpecificDetails": { "instanceType": "InMageAzureV2" } } });
    let shown = server.done("POST", &format!("{item}/testFailover"), test).await;
    assert_eq!(shown["properties"]["testFailoverState"], "WaitingForCompletion");
    assert!(
        shown["properties"]["allowedOperations"].as_array().unwrap().contains(&json!("TestFailoverCleanup"))
    );
    let shown = server
        .done("POST", &format!("{item}/testFailoverCleanup"), json!({ "properties": { "comments": "fine" } }))
        .await;
    assert_eq!(shown["properties"]["testFailoverState"], "None");
    assert!(shown["properties"]["lastSuccessfulTestFailoverTime"].is_string());

    let points = server.get(&format!("{item}/recoveryPoints")).await;
    let (newest, older) = (points["value"][0].clone(), points["value"][1].clone());
    let mut to_newest = failover("InMageAzureV2", "PrimaryToRecovery");
    to_newest["properties"]["providerSpecificDetails"]["recoveryPointId"] = newest["id"].clone();
    let shown = server.done("POST", &format!("{item}/unplannedFailover"), to_newest).await;
    assert_eq!(shown["properties"]["failoverRecoveryPointId"], newest["id"]);
    let change = json!({ "properties": { "recoveryPointId": older["id"], "providerSpecificDetails": { "instanceType": "InMageAzureV2" } } });
    let shown = server.done("POST", &format!("{item}/applyRecoveryPoint"), change).await;
    assert_eq!(shown["properties"]["failoverRecoveryPointId"], older["id"]);
    server.done("POST", &format!("{item}/failoverCancel"), json!({})).await;
    server.until(&item, "Protected").await;
}

#[tokio::test]
async fn a_protection_that_ends_leaves_a_204_and_can_be_ended_twice() {
    let mut server = Server::new();
    let item = server.protect().await;
    let (status, answered) = server.operate("POST", &format!("{item}/remove"), json!({ "properties": {
        "disableProtectionReason": "NotSpecified", "replicationProviderInput": { "instanceType": "InMageAzureV2" } } })).await;
    assert_eq!((&status["status"], answered.status.as_u16()), (&json!("Succeeded"), 204));
    let gone = server.call("GET", &item, None).await;
    assert_eq!(gone.status, 404);
    assert_eq!(server.call("POST", &format!("{item}/remove"), None).await.status, 204);
    assert_eq!(server.get("replicationProtectedItems").await["value"], json!([]));
}

#[tokio::test]
async fn a_job_that_fails_ends_its_operation_with_its_error() {
    let mut server = Server::new();
    *server.world.recovery.full.lock().unwrap() = true;
    let container = server.container("home").await;
    let body = json!({ "properties": { "policyId": "PG1", "protectableItemId": "web01",
        "providerSpecificDetails": { "instanceType": "InMageAzureV2" } } });
    let (status, answered) =
        server.operate("PUT", &format!("{container}/replicationProtectedItems/web01"), body).await;
    assert_eq!((&status["status"], answered.status.as_u16()), (&json!("Failed"), 409));
    assert_eq!(status["error"]["code"], answered.body["error"]["code"]);
    let failed = server.get("replicationJobs?$filter=jobStatus%20eq%20'Failed'").await;
    let job = &failed["value"][0];
    assert_eq!(job["properties"]["errors"][0]["serviceErrorDetails"]["code"], status["error"]["code"]);
    assert_eq!(job["properties"]["allowedActions"], json!(["Restart"]));
}
