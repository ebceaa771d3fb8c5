//! Sites of other kinds than local ones, as the contract sees them.

use serde_json::json;
use switchback_api::ApiLimits;

use crate::server::Server;
use crate::world::World;

#[tokio::test]
async fn a_site_of_kind_vsphere_is_a_fabric_with_its_vcenter() {
    let server = Server::new();
    let directory = tempfile::tempdir().unwrap();
    server.keeps(directory.path());
    let account =
        json!({ "properties": { "kind": "vsphere", "user": "switchback@vsphere.local", "password": "p" } });
    assert_eq!(server.call("PUT", "switchbackAccounts/vc-account", Some(account)).await.status, 200);
    let site = json!({ "properties": { "kind": "vsphere", "url": "https://vc.example:8443/sdk", "account": "vc-account" } });
    let made = server.call("PUT", "switchbackSites/esx", Some(site)).await;
    assert_eq!(made.status, 200, "{:#}", made.body);
    let all = server.call("GET", "replicationvCenters", None).await;
    assert_eq!(all.names(), ["esx"], "the other sites have none");
    let vcenters = "replicationFabrics/esx/replicationvCenters";
    let vcenter = server.get(&format!("{vcenters}/esx")).await;
    assert_eq!(vcenter, all.body["value"][0]);
    let properties = &vcenter["properties"];
    assert_eq!(
        (&properties["ipAddress"], &properties["port"], &properties["runAsAccountId"]),
        (&json!("vc.example"), &json!("8443"), &json!("vc-account"))
    );
    assert_eq!(properties["discoveryStatus"], "Completed");
    let change = json!({ "properties": { "ipAddress": "other.example" } });
    let refused = server.call("PATCH", &format!("{vcenters}/esx"), Some(change)).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (400, "OperationNotSupported"));
    let none = server.call("GET", "replicationFabrics/home/replicationvCenters/home", None).await;
    assert_eq!(none.status, 404);
}

#[tokio::test]
async fn physical_servers_say_what_they_are() {
    let mut server = Server::over(World::physical(true), ApiLimits::default());
    let container = server.container("hardware").await;
    let machines = server.get(&format!("{container}/replicationProtectableItems")).await;
    let machine = &machines["value"][0];
    assert_eq!(machine["properties"]["customDetails"]["discoveryType"], "Physical", "{machine:#}");
    let item = format!("{container}/replicationProtectedItems/web01");
    let protect = json!({ "properties": { "policyId": "HW", "protectableItemId": machine["id"],
        "providerSpecificDetails": { "instanceType": "InMageAzureV2" } } });
    let shown = server.done("PUT", &item, protect).await;
    assert_eq!(shown["properties"]["providerSpecificDetails"]["discoveryType"], "Physical");
}
