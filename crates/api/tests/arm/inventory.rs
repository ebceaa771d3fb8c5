//! Fabrics, containers, machines, networks.

use serde_json::json;
use switchback_api::{ApiLimits, Vault};
use switchback_identity::Role;

use crate::server::Server;

#[tokio::test]
async fn a_site_is_a_fabric_with_its_servers_and_one_container() {
    let mut server = Server::new();
    for (role, name) in
        [(Role::ProcessServer, "home-ps"), (Role::Target, "home-mt"), (Role::Target, "recovery-mt")]
    {
        server.world.enrol(role, name);
    }
    server.world.round();
    assert_eq!(server.call("GET", "replicationFabrics", None).await.names(), ["home", "recovery"]);
    let home = server.get("replicationFabrics/HOME").await;
    assert_eq!(home["id"], format!("{}/replicationFabrics/home", Vault::default().id()));
    let details = &home["properties"]["customDetails"];
    assert_eq!(details["processServers"][0]["id"], "home-ps");
    assert_eq!(details["masterTargetServers"].as_array().unwrap().len(), 1);
    assert_eq!(details["masterTargetServers"][0]["dataStores"][0]["symbolicName"], "store");
    assert_eq!(home["properties"]["health"], "Normal");
    assert_eq!(server.call("GET", "replicationProtectionContainers", None).await.names().len(), 2);
    let (here, there) = (server.container("home").await, server.container("recovery").await);
    let foreign = format!("replicationFabrics/home/{}", there.split_once("recovery/").unwrap().1);
    assert_eq!(server.call("GET", &foreign, None).await.status, 404, "another site's container");
    let container = server.get(&here).await;
    assert_eq!(container["properties"]["pairingStatus"], "Paired");
    let found = server
        .call(
            "POST",
            &format!("{here}/discoverProtectableItem"),
            Some(json!({ "properties": { "friendlyName": "web01" } })),
        )
        .await;
    assert_eq!(found.status, 200);
    let missing = server
        .call(
            "POST",
            &format!("{here}/discoverProtectableItem"),
            Some(json!({ "properties": { "friendlyName": "web99" } })),
        )
        .await;
    assert_eq!(missing.status, 404);
}

#[tokio::test]
async fn a_sites_machines_are_protectable_items_that_know_when_they_are_protected() {
    let mut server = Server::new();
    let items = format!("{}/replicationProtectableItems", server.container("home").await);
    let before = server.get(&format!("{items}/web01")).await;
    assert_eq!(
        (&before["properties"]["protectionStatus"], &before["properties"]["protectionReadinessErrors"]),
        (&json!("Unprotected"), &json!([]))
    );
    let item = server.protect().await;
    let after = server.get(&format!("{items}/web01")).await;
    assert_eq!(after["properties"]["protectionStatus"], "Protected");
    assert_eq!(after["properties"]["replicationProtectedItemId"], server.get(&item).await["id"]);
    assert_eq!(server.get(&format!("{items}?$filter=State%20eq%20'Unprotected'")).await["value"], json!([]));
    let there =
        server.get(&format!("{}/replicationProtectableItems", server.container("recovery").await)).await;
    assert_eq!(there["value"][0]["properties"]["supportedReplicationProviders"], json!(["InMage"]));
    let filtered = |filter: &str| format!("replicationProtectedItems?$filter={filter}");
    for (filter, found) in [
        ("instanceType%20eq%20'InMageAzureV2'", 1),
        ("instanceType%20eq%20'InMage'", 0),
        ("sourceFabricName%20eq%20'home'", 1),
    ] {
        assert_eq!(server.get(&filtered(filter)).await["value"].as_array().unwrap().len(), found, "{filter}");
    }
    assert_eq!(server.call("GET", &filtered("color%20eq%20'red'"), None).await.status, 400);
}

#[tokio::test]
async fn health_of_the_vault_counts_what_is_not_well() {
    let mut server = Server::new();
    for name in ["home-ps", "home-mt"] {
        let role = if name == "home-ps" { Role::ProcessServer } else { Role::Target };
        server.world.enrol(role, name);
    }
    server.protect().await;
    let path = "replicationVaultHealth";
    let well = server.get(path).await;
    assert_eq!(well["properties"]["protectedItemsHealth"]["resourceCount"], 1);
    assert_eq!(well["properties"]["fabricsHealth"], json!({ "resourceCount": 2, "issues": [] }));
    server.world.down = vec!["home-ps"];
    for _ in 0..600 {
        server.world.round();
    }
    let ill = server.call("POST", &format!("{path}/default/refresh"), None).await;
    assert_eq!(ill.status, 200);
    let issues = ill.body["properties"]["fabricsHealth"]["issues"].as_array().unwrap();
    assert!(
        issues.iter().any(|issue| issue["affectedResourceType"] == "replicationFabrics"
            && issue["severity"] == "Error"
            && issue["affectedResourceCorrelationIds"].as_array().unwrap().len() == 1),
        "{:#}",
        ill.body
    );
}

#[tokio::test]
async fn networks_are_mapped_and_a_test_network_is_kept() {
    let server = Server::new();
    let network = "replicationFabrics/home/replicationNetworks/lan";
    assert_eq!(server.get(network).await["name"], "lan");
    assert_eq!(server.get("replicationNetworks").await["value"].as_array().unwrap().len(), 2);
    let mapping = format!("{network}/replicationNetworkMappings/recovery");
    let target = format!("{}/replicationFabrics/recovery/replicationNetworks/lan", Vault::default().id());
    let body = json!({ "properties": { "recoveryFabricName": "recovery", "recoveryNetworkId": target, "testNetworkId": target } });
    let made = server.call("PUT", &mapping, Some(body)).await;
    assert_eq!((made.status.as_u16(), &made.body["properties"]["recoveryNetworkId"]), (200, &json!(target)));
    // A client that knows the contract alone does not take the test network away.
    let patched =
        server.call("PATCH", &mapping, Some(json!({ "properties": { "recoveryNetworkId": target } }))).await;
    assert_eq!(patched.status, 200);
    let ours = server.get("switchbackNetworkMappings").await;
    assert_eq!(ours["value"][0]["properties"]["testNetwork"], "lan");
    assert_eq!(server.get("replicationNetworkMappings").await["value"][0], patched.body);
    let misnamed = server
        .call(
            "PUT",
            &format!("{network}/replicationNetworkMappings/mine"),
            Some(json!({ "properties": { "recoveryNetworkId": target } })),
        )
        .await;
    assert_eq!(misnamed.status, 400);
    assert_eq!(server.call("DELETE", &mapping, None).await.status, 204);
    assert_eq!(server.call("GET", &mapping, None).await.status, 404);
    assert_eq!(server.call("DELETE", &mapping, None).await.status, 204);
}

#[tokio::test]
async fn a_long_list_comes_in_pages() {
    let server = Server::with_limits(ApiLimits { page_len_max: 1, ..ApiLimits::default() });
    let first = server.call("GET", "replicationPolicies", None).await;
    assert_eq!(first.names(), ["PG1"]);
    let link = first.body["nextLink"].as_str().unwrap();
    assert!(link.starts_with("https://cs.example:443/subscriptions/"), "{link}");
    let second = server.follow(link).await;
    assert_eq!((second.names(), second.body.get("nextLink")), (vec!["PG1-failback"], None));
}
