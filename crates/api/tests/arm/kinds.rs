//! Sites of other kinds than local ones, as the contract sees them.

use serde_json::json;
use switchback_api::ApiLimits;
use switchback_identity::{PeerIdentity, Role};

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
    change_and_remove(&server, vcenters).await;
    let none = server.call("GET", "replicationFabrics/home/replicationvCenters/home", None).await;
    assert_eq!(none.status, 404);
}

/// It is changed, and removed, with its site.
async fn change_and_remove(server: &Server, vcenters: &str) {
    let vcenter = format!("{vcenters}/esx");
    let change = async |method: &str, properties: serde_json::Value| {
        server.call(method, &vcenter, Some(json!({ "properties": properties }))).await
    };
    let changed = change("PATCH", json!({ "ipAddress": "fd00::5", "processServerId": "home-ps" })).await;
    let properties = &changed.body["properties"];
    assert_eq!((&properties["ipAddress"], &properties["port"]), (&json!("fd00::5"), &json!("8443")));
    assert_eq!(server.get("switchbackSites/esx").await["properties"]["url"], "https://[fd00::5]:8443/sdk");
    let put = json!({ "friendlyName": "ESX", "ipAddress": "vc.example", "port": "443", "runAsAccountId": "vc-account" });
    assert_eq!(change("PUT", put).await.body["properties"]["ipAddress"], "vc.example");
    for (method, bad, code) in [
        ("PUT", json!({ "ipAddress": "vc.example" }), 400),
        ("PATCH", json!({ "friendlyName": "other" }), 400),
        ("PATCH", json!({ "port": "many" }), 400),
        ("PATCH", json!({ "ipAddress": "a/b" }), 400),
        ("PATCH", json!({ "runAsAccountId": "nobody" }), 404),
    ] {
        let refused = change(method, bad.clone()).await;
        assert_eq!(refused.status, code, "{bad}: {:#}", refused.body);
    }
    let other = server.call("DELETE", &format!("{vcenters}/vc2"), None).await;
    assert_eq!(other.status, 404, "another name is not this one");
    assert_eq!(server.call("DELETE", &vcenter, None).await.status, 204);
    assert_eq!(server.call("GET", "replicationFabrics/esx", None).await.status, 404);
    assert_eq!(server.call("DELETE", &vcenter, None).await.status, 204, "again");
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

#[tokio::test]
async fn the_certificates_of_a_sites_components_are_renewed_when_somebody_asks() {
    let server = Server::new();
    let renew = json!({ "properties": { "renewCertificateType": "Cloud" } });
    let fabric = server.call("POST", "replicationFabrics/HOME/renewCertificate", Some(renew.clone())).await;
    assert_eq!((fabric.status.as_u16(), &fabric.body["name"]), (200, &json!("home")));
    let asked = |name: &str| {
        let peer = PeerIdentity { role: Role::ProcessServer, name: name.parse().unwrap() };
        server.world.control.desired(&peer, None).unwrap().renew_ending_before.is_some()
    };
    assert_eq!((asked("home-ps"), asked("recovery-ps")), (true, false));
    let none = server.call("POST", "replicationFabrics/nowhere/renewCertificate", Some(renew)).await;
    assert_eq!(none.status, 404);
}
