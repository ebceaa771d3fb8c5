//! Policies and container mappings: protection groups as the contract sees them.

use serde_json::json;
use switchback_api::Vault;

use crate::server::Server;

#[tokio::test]
async fn a_policy_comes_with_its_failback_policy_and_goes_with_it() {
    let server = Server::new();
    let input = json!({ "instanceType": "InMageAzureV2", "recoveryPointThresholdInMinutes": 30, "recoveryPointHistory": 1440,
        "crashConsistentFrequencyInMinutes": 5, "appConsistentFrequencyInMinutes": 60, "multiVmSyncStatus": "Enable" });
    let fabric = |site: &str| format!("{}/replicationFabrics/{site}", Vault::default().id());
    let half = json!({ "properties": { "providerSpecificInput": input, "sourceFabricId": fabric("home") } });
    let refused = server.call("PUT", "replicationPolicies/PG2", Some(half)).await;
    assert_eq!(refused.status, 400);
    assert!(refused.body["error"]["message"].as_str().unwrap().contains("targetFabricId"));
    let body = json!({ "properties": { "providerSpecificInput": input, "sourceFabricId": fabric("home"), "targetFabricId": fabric("recovery") } });
    let made = server.call("PUT", "replicationPolicies/PG2", Some(body)).await;
    assert_eq!(made.status, 200, "{:#}", made.body);
    let mut shown = input.clone();
    shown["multiVmSyncStatus"] = "Enabled".into();
    assert_eq!(made.body["properties"]["providerSpecificDetails"], shown);
    assert_eq!(
        server.call("GET", "replicationPolicies", None).await.names(),
        ["PG1", "PG1-failback", "PG2", "PG2-failback"]
    );

    let change = json!({ "properties": { "replicationProviderSettings": { "instanceType": "InMage", "recoveryPointHistory": 60, "multiVmSyncStatus": "Disable" } } });
    let twin = server.call("PATCH", "replicationPolicies/PG2-Failback", Some(change)).await;
    assert_eq!(twin.body["properties"]["providerSpecificDetails"]["recoveryPointHistory"], 60);
    assert_eq!(server.get("replicationPolicies/PG2").await, made.body, "the forward policy stays as it is");
    assert_eq!(server.call("DELETE", "replicationPolicies/PG2-failback", None).await.status, 400);
    assert_eq!(server.call("DELETE", "replicationPolicies/PG2", None).await.status, 204);
    assert_eq!(server.call("GET", "replicationPolicies/PG2-failback", None).await.status, 404);
    assert_eq!(server.call("DELETE", "replicationPolicies/PG2", None).await.status, 204);
}

/// As clients do it that know the contract alone.
#[tokio::test]
async fn a_policy_without_sites_gets_them_with_its_mapping() {
    let server = Server::new();
    let input = json!({ "instanceType": "InMageAzureV2", "recoveryPointThresholdInMinutes": 30, "recoveryPointHistory": 1440,
        "crashConsistentFrequencyInMinutes": 5, "appConsistentFrequencyInMinutes": 60, "multiVmSyncStatus": "Enable" });
    let made = server
        .call(
            "PUT",
            "replicationPolicies/PG2",
            Some(json!({ "properties": { "providerSpecificInput": input } })),
        )
        .await;
    assert_eq!(made.status, 200, "{:#}", made.body);
    assert_eq!(server.get("replicationPolicies/pg2").await, made.body);
    assert_eq!(
        server.call("GET", "replicationPolicies", None).await.names(),
        ["PG1", "PG1-failback", "PG2"],
        "its failback policy comes with its sites"
    );
    let container = server.container("home").await;
    let item = format!("{container}/replicationProtectedItems/web01");
    let protect = json!({ "properties": { "policyId": "PG2", "protectableItemId": "web01",
        "providerSpecificDetails": { "instanceType": "InMageAzureV2" } } });
    let early = server.call("PUT", &item, Some(protect.clone())).await;
    assert_eq!(early.status, 400);
    assert!(
        early.body["error"]["message"].as_str().unwrap().contains("container mapping"),
        "{:#}",
        early.body
    );
    let change = json!({ "properties": { "replicationProviderSettings": { "instanceType": "InMageAzureV2", "recoveryPointHistory": 2880 } } });
    server.call("PATCH", "replicationPolicies/PG2", Some(change)).await;

    let mapping = |name: &str| format!("{container}/replicationProtectionContainerMappings/{name}");
    let body = json!({ "properties": { "policyId": made.body["id"], "targetProtectionContainerId": "Microsoft Azure" } });
    let taken = server.call("PUT", &mapping("PG1"), Some(body.clone())).await;
    assert_eq!(taken.status, 400, "that is found as another policy's");
    let again = body.clone();
    let mapped = server.call("PUT", &mapping("PG2"), Some(body)).await;
    assert_eq!(mapped.status, 200, "{:#}", mapped.body);
    assert_eq!(mapped.body["properties"]["targetFabricFriendlyName"], "recovery");
    assert_eq!(
        server.call("GET", "replicationPolicies", None).await.names(),
        ["PG1", "PG1-failback", "PG2", "PG2-failback"]
    );
    let policy = server.get("replicationPolicies/PG2").await;
    assert_eq!(policy["properties"]["providerSpecificDetails"]["recoveryPointHistory"], 2880);
    let removed = server.call("DELETE", &mapping("PG2-failback"), None).await;
    assert_eq!(removed.status, 400, "it goes with the other");
    for _ in 0..2 {
        assert_eq!(server.call("DELETE", &mapping("PG2"), None).await.status, 204);
    }
    assert_eq!(
        server.call("GET", "replicationPolicies", None).await.names(),
        ["PG1", "PG1-failback", "PG2"],
        "the policy is left, without its sites"
    );
    server.call("PUT", &mapping("PG2"), Some(again)).await;
    assert_eq!(server.call("PUT", &item, Some(protect)).await.status, 202);
    let used = server.call("POST", &format!("{}/remove", mapping("PG2")), None).await;
    assert_eq!((used.status.as_u16(), used.code()), (409, "group.in-use"));
}

#[tokio::test]
async fn a_policy_that_was_never_mapped_is_deleted() {
    let server = Server::new();
    let body = json!({ "properties": { "providerSpecificInput": { "instanceType": "InMageAzureV2" } } });
    server.call("PUT", "replicationPolicies/PG2", Some(body)).await;
    for _ in 0..2 {
        assert_eq!(server.call("DELETE", "replicationPolicies/PG2", None).await.status, 204);
    }
    assert_eq!(server.call("GET", "replicationPolicies/PG2", None).await.status, 404);
}

#[tokio::test]
async fn a_policy_in_use_is_not_deleted() {
    let mut server = Server::new();
    server.protect().await;
    let refused = server.call("DELETE", "replicationPolicies/PG1", None).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (409, "group.in-use"));
}

#[tokio::test]
async fn mappings_agree_with_their_policies() {
    let server = Server::new();
    let (home, recovery) = (server.container("home").await, server.container("recovery").await);
    let mapping = |name: &str| format!("{home}/replicationProtectionContainerMappings/{name}");
    assert_eq!(
        server.call("GET", "replicationProtectionContainerMappings", None).await.names(),
        ["PG1", "PG1-failback"]
    );
    let id = |path: &str| format!("{}/{path}", Vault::default().id());
    let body = |policy: &str, target: String| json!({ "properties": { "policyId": id(&format!("replicationPolicies/{policy}")), "targetProtectionContainerId": target } });
    for (name, target) in
        [("PG1", "Microsoft Azure".into()), ("PG1", id(&recovery)), ("PG1-failback", id(&home))]
    {
        let made = server.call("PUT", &mapping(name), Some(body(name, target))).await;
        assert_eq!(made.status, 200, "{:#}", made.body);
        assert_eq!(made.body, server.get(&mapping(name)).await);
    }
    assert_eq!(server.get(&mapping("PG1")).await["properties"]["targetProtectionContainerId"], id(&recovery));
    for (name, target) in
        [("PG1", id(&home)), ("PG1-failback", id(&recovery)), ("PG1-failback", "Microsoft Azure".into())]
    {
        assert_eq!(server.call("PUT", &mapping(name), Some(body(name, target))).await.status, 400, "{name}");
    }
    let named = server.call("PUT", &mapping("mine"), Some(body("PG1", id(&recovery)))).await;
    assert_eq!((named.status.as_u16(), &named.body["name"]), (200, &json!("mine")));
    for name in ["mine", "PG1"] {
        assert_eq!(server.get(&mapping(name)).await, named.body, "it is found by its policy's name, too");
    }
    assert_eq!(
        server.call("GET", "replicationProtectionContainerMappings", None).await.names(),
        ["mine", "PG1-failback"]
    );
    let other = server.call("PUT", &mapping("other"), Some(body("PG1", id(&recovery)))).await;
    assert_eq!((other.status.as_u16(), other.code()), (409, "mapping.named"));
    let both = server.call("PUT", &mapping("mine"), Some(body("PG1-failback", id(&home)))).await;
    assert_eq!((both.status.as_u16(), both.code()), (409, "mapping.named"));
    let home_again = server.call("PUT", &mapping("back"), Some(body("PG1-failback", id(&home)))).await;
    assert_eq!((home_again.status.as_u16(), &home_again.body["name"]), (200, &json!("back")));
    assert_eq!(
        server
            .call("GET", &format!("{recovery}/replicationProtectionContainerMappings"), None)
            .await
            .names()
            .len(),
        0
    );
}
