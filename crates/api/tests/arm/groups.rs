//! Policies and container mappings: protection groups as the contract sees them.

use serde_json::json;
use switchback_api::Vault;

use crate::server::Server;

#[tokio::test]
async fn a_policy_comes_with_its_failback_policy_and_goes_with_it() {
    let server = Server::new();
    let input = json!({ "instanceType": "InMageAzureV2", "recoveryPointThresholdInMinutes": 30, "recoveryPointHistory": 1440,
        "crashConsistentFrequencyInMinutes": 5, "appConsistentFrequencyInMinutes": 60, "multiVmSyncStatus": "Enable" });
    let contract_only = server
        .call(
            "PUT",
            "replicationPolicies/PG2",
            Some(json!({ "properties": { "providerSpecificInput": input } })),
        )
        .await;
    assert_eq!(contract_only.status, 400);
    assert!(contract_only.body["error"]["message"].as_str().unwrap().contains("sourceFabricId"));
    let fabric = |site: &str| format!("{}/replicationFabrics/{site}", Vault::default().id());
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
    assert_eq!(server.call("PUT", &mapping("mine"), Some(body("PG1", id(&recovery)))).await.status, 400);
    assert_eq!(
        server
            .call("GET", &format!("{recovery}/replicationProtectionContainerMappings"), None)
            .await
            .names()
            .len(),
        0
    );
}
