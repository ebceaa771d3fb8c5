//! Our own resources.

use serde_json::json;
use switchback_api::{ApiLimits, Vault};
use switchback_identity::Role;
use switchback_model::AccessRole;

use crate::server::Server;
use crate::world::World;

#[tokio::test]
async fn sites_are_made_looked_at_and_removed() {
    let server = Server::new();
    assert_eq!(server.call("GET", "switchbackSites", None).await.names(), ["home", "recovery"]);
    let body = json!({ "properties": { "kind": "local", "directory": "/third" } });
    for _ in 0..2 {
        assert_eq!(server.call("PUT", "switchbackSites/third", Some(body.clone())).await.status, 200);
    }
    let other = json!({ "properties": { "kind": "local", "directory": "/elsewhere" } });
    assert_eq!(server.call("PUT", "switchbackSites/third", Some(other)).await.status, 409);
    let relative = json!({ "properties": { "kind": "local", "directory": "here" } });
    assert_eq!(server.call("PUT", "switchbackSites/fourth", Some(relative)).await.status, 400);
    let machine = server.get("switchbackSites/home/machines/web01").await;
    assert_eq!(
        (&machine["properties"]["power"], &machine["properties"]["hasAgent"]),
        (&json!("on"), &json!(true))
    );
    assert_eq!(server.get("switchbackSites/home/datastores").await["value"][0]["name"], "store");
    assert_eq!(
        server.call("GET", "switchbackSites/home/machines/web01/console?bytes=10", None).await.status,
        200
    );
    assert_eq!(server.call("DELETE", "switchbackSites/third", None).await.status, 204);
    assert_eq!(server.call("DELETE", "switchbackSites/third", None).await.status, 204);
    assert_eq!(server.call("DELETE", "switchbackSites/home", None).await.status, 409, "a group is at it");
}

#[tokio::test]
async fn a_group_says_everything_to_the_millisecond() {
    let server = Server::new();
    let body = json!({ "properties": { "sourceSite": "home", "targetSite": "recovery", "policy": { "intervalMs": 5000, "multiVm": true,
        "retention": { "steps": [{ "untilAgeMs": 3_600_000, "everyMs": 0 }] } } } });
    let made = server.call("PUT", "switchbackProtectionGroups/PG3", Some(body)).await;
    assert_eq!(made.status, 200, "{:#}", made.body);
    assert_eq!(
        (&made.body["properties"]["twin"], &made.body["properties"]["policy"]["intervalMs"]),
        (&json!("PG3_Failback"), &json!(5000))
    );
    let changed = server
        .call(
            "PUT",
            "switchbackProtectionGroups/PG3_Failback",
            Some(json!({ "properties": { "policy": { "intervalMs": 9000 } } })),
        )
        .await;
    assert_eq!(changed.body["properties"]["policy"]["intervalMs"], 9000);
    assert_eq!(
        server.get("switchbackProtectionGroups/PG3").await["properties"]["policy"]["intervalMs"],
        5000
    );
    let moved = json!({ "properties": { "sourceSite": "recovery" } });
    assert_eq!(server.call("PUT", "switchbackProtectionGroups/PG3", Some(moved)).await.status, 400);
    assert_eq!(server.call("DELETE", "switchbackProtectionGroups/PG3", None).await.status, 204);
}

#[tokio::test]
async fn machines_and_jobs_show_figures_that_the_contract_has_no_place_for() {
    let mut server = Server::new();
    server.protect().await;
    let machine = server.get("switchbackProtectedMachines/web01").await;
    assert_eq!(
        (&machine["properties"]["phase"], &machine["properties"]["active"]),
        (&json!("protected"), &json!("home"))
    );
    assert!(machine["properties"]["rpoMs"].is_u64());
    let points = server.get("switchbackProtectedMachines/web01/recoveryPoints").await;
    let seqs: Vec<_> = points["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["properties"]["seq"].as_u64().unwrap())
        .collect();
    assert!(seqs.is_sorted_by(|newer, older| newer > older) && !seqs.is_empty(), "{seqs:?}");
    let jobs = server.call("GET", "replicationJobs", None).await;
    let job = server.get(&format!("switchbackJobs/{}", jobs.names()[0])).await;
    assert_eq!(
        (&job["properties"]["by"], &job["properties"]["state"]),
        (&json!("root"), &json!("Succeeded"))
    );
    let nothing = server.call("POST", "switchbackProtectedMachines/web01/cleanUp", None).await;
    assert!(nothing.status == 202 || nothing.status == 409, "{nothing:?}");
}

#[tokio::test]
async fn what_machines_cost_is_told_of_those_at_azure_alone() {
    let mut server = Server::over(World::azure(), ApiLimits::default());
    server.protect().await;
    let cost = server.get("switchbackProtectedMachines/web01/cost").await;
    let properties = &cost["properties"];
    assert_eq!((&cost["name"], &properties["currency"]), (&json!("web01"), &json!("USD")));
    assert_eq!(properties["prices"], "built-in examples");
    assert!(properties["monthlyTotal"].is_f64() && properties["monthly"][0]["basis"].is_string(), "{cost:#}");
    assert_eq!(server.get("switchbackCosts").await["value"], json!([cost]));
    let mut server = Server::new();
    server.protect().await;
    let refused = server.call("GET", "switchbackProtectedMachines/web01/cost", None).await;
    assert_eq!(refused.status, 409, "{:#}", refused.body);
    assert_eq!(server.get("switchbackCosts").await["value"], json!([]));
}

#[tokio::test]
async fn what_a_machine_shall_be_at_azure_can_be_changed_until_it_runs_there() {
    let mut server = Server::over(World::azure(), ApiLimits::default());
    let item = server.protect().await;
    let size = |size: &str| {
        json!({ "properties": { "recoveryAzureVMSize": size, "providerSpecificDetails": {
        "instanceType": "InMageAzureV2", "targetAvailabilityZone": "2" } } })
    };
    let changed = server.call("PATCH", &item, Some(size("Standard_B2s"))).await;
    assert_eq!(changed.status, 200, "{:#}", changed.body);
    let details = &changed.body["properties"]["providerSpecificDetails"];
    assert_eq!(
        (&details["recoveryAzureVMSize"], &details["targetAvailabilityZone"]),
        (&json!("Standard_B2s"), &json!("2"))
    );
    let sizes = server.get(&format!("{item}/targetComputeSizes")).await;
    assert!(!sizes["value"].as_array().unwrap().is_empty());
    let none = json!({ "properties": { "recoveryAzureVMSize": "" } });
    let shown = server.call("PATCH", &item, Some(none)).await.body;
    assert!(shown["properties"]["providerSpecificDetails"].get("recoveryAzureVMSize").is_none());
    let away = json!({ "properties": { "failoverDirection": "PrimaryToRecovery",
        "providerSpecificDetails": { "instanceType": "InMageAzureV2" } } });
    server.done("POST", &format!("{item}/unplannedFailover"), away).await;
    let late = server.call("PATCH", &item, Some(size("Standard_B4ms"))).await;
    assert_eq!((late.status.as_u16(), late.code()), (409, "plan.runs"));

    let mut server = Server::new();
    let item = server.protect().await;
    assert_eq!(server.call("PATCH", &item, Some(size("Standard_B2s"))).await.status, 400, "not at Azure");
}

#[tokio::test]
async fn servers_are_listed_and_those_in_use_are_not_removed() {
    let mut server = Server::new();
    for (role, name) in [(Role::ProcessServer, "home-ps"), (Role::Target, "old-mt")] {
        server.world.enrol(role, name);
    }
    server.protect().await;
    let listed = server.call("GET", "switchbackServers", None).await;
    let names: Vec<_> = listed.names().into_iter().map(str::to_owned).collect();
    assert!(
        names.iter().any(|name| name.ends_with(".home-ps"))
            && names.iter().any(|name| name.ends_with(".old-mt")),
        "{names:?}"
    );
    for name in names {
        let expected = if name.ends_with("old-mt") { 204 } else { 409 };
        if name.ends_with("old-mt") || name.ends_with("home-ps") {
            let deleted = server.call("DELETE", &format!("switchbackServers/{name}"), None).await;
            assert_eq!(deleted.status, expected, "{name}");
        }
    }
}

#[tokio::test]
async fn the_passphrase_is_shown_and_that_is_recorded() {
    let server = Server::new();
    let shown = server.call("POST", "switchbackEnrolment/default/showPassphrase", None).await;
    let passphrase = shown.body["passphrase"].as_str().unwrap();
    assert!(!passphrase.is_empty());
    let audit = server.get("switchbackAudit").await.to_string();
    assert!(audit.contains("showpassphrase") && !audit.contains(passphrase), "{audit}");
}

#[tokio::test]
async fn a_password_goes_in_and_never_comes_out() {
    let server = Server::new();
    let directory = tempfile::tempdir().unwrap();
    server.keeps(directory.path());
    let body = |password: &str| json!({ "properties": { "kind": "vsphere", "user": "svc@vsphere", "password": password } });
    let made = server.call("PUT", "switchbackAccounts/vc1", Some(body("first secret"))).await;
    assert_eq!(
        (made.status.as_u16(), &made.body["properties"]["user"]),
        (200, &json!("svc@vsphere")),
        "{:#}",
        made.body
    );
    assert_eq!(server.call("PUT", "switchbackAccounts/vc1", Some(body("other secret"))).await.status, 409);
    let rotated = json!({ "properties": { "password": "second secret" } });
    assert_eq!(server.call("POST", "switchbackAccounts/vc1/rotate", Some(rotated)).await.status, 200);
    let tested = server.call("POST", "switchbackAccounts/vc1/test", None).await;
    assert_eq!((tested.status.as_u16(), tested.code()), (409, "account.unused"));
    let fabric = server.get("replicationFabrics/home").await;
    assert_eq!(fabric["properties"]["customDetails"]["runAsAccounts"][0]["accountName"], "vc1");
    for path in ["switchbackAccounts", "switchbackAccounts/vc1", "switchbackAudit", "replicationFabrics"] {
        let shown = server.get(path).await.to_string();
        assert!(!shown.contains("secret"), "{path}: {shown}");
    }
    let reader = server.world.control.create_token(&"reader".parse().unwrap(), AccessRole::Reader).unwrap();
    let uri = format!("{}/switchbackAccounts?api-version=2024-04-01", Vault::default().id());
    assert_eq!(server.raw("GET", &uri, Some(&reader), Vec::new()).await.status, 403);
    assert_eq!(server.call("DELETE", "switchbackAccounts/vc1", None).await.status, 204);
    assert_eq!(server.call("GET", "switchbackAccounts/vc1", None).await.status, 404);
}

#[tokio::test]
async fn backups_are_asked_for_and_told() {
    let server = Server::new();
    let shown = server.get("switchbackBackup/default").await;
    assert_eq!(shown["properties"]["reasons"][0]["code"], "backup.none");
    assert_eq!(server.get("switchbackBackup/default/backups").await["value"], json!([]));
    let run = server.call("POST", "switchbackBackup/default/run", None).await;
    assert_eq!((run.status.as_u16(), run.code()), (409, "backup.none"));
    let policy = json!({ "properties": { "policy": { "destination": "/nowhere", "recipients": ["AGE-SECRET-KEY-1X"] } } });
    let refused = server.call("PUT", "switchbackBackup/default", Some(policy)).await;
    assert!(
        refused.status.is_client_error() && !refused.body.to_string().contains("KEY-1X"),
        "{:#}",
        refused.body
    );
}
