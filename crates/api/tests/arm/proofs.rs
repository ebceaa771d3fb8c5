//! Proofs of recovery points over the API.

use serde_json::{Value, json};
use switchback_api::{ApiLimits, Vault};
use switchback_model::AccessRole;
use switchback_sites::Sight;

use crate::server::Server;
use crate::world::World;

const MACHINE: &str = "switchbackProtectedMachines/web01";

fn sandboxes(server: &Server, say: &str) {
    say.clone_into(&mut server.world.recovery.sandboxes_say.lock().unwrap());
    *server.world.recovery.sight.lock().unwrap() = Sight { picture: b"\x89PNG".to_vec(), ..Sight::default() };
}

async fn prove(server: &mut Server, properties: Value) -> Value {
    server.done("POST", &format!("{MACHINE}/verify"), json!({ "properties": properties })).await;
    server.get(&format!("{MACHINE}/proofs")).await["value"][0].clone()
}

#[tokio::test]
async fn a_point_is_verified_and_its_verdict_is_kept_with_it() {
    let mut server = Server::new();
    let item = server.protect().await;
    sandboxes(&server, "booting\nREADY\n");
    let probe = json!({ "pattern": "^READY$", "limitMs": 20_000 });
    let proof = prove(&mut server, json!({ "point": "1", "probe": probe })).await;
    let properties = &proof["properties"];
    let outcome = &properties["outcome"];
    assert_eq!((&outcome["verdict"], &outcome["seq"]), (&json!("passed"), &json!(1)), "{proof:#}");
    assert_eq!((&properties["probe"], &properties["console"]), (&probe, &json!("booting\nREADY")));
    let name = proof["name"].as_str().unwrap();
    assert_eq!(server.get(&format!("{MACHINE}/proofs/{name}")).await, proof);
    let picture = server.call("GET", &format!("{MACHINE}/proofs/{name}/picture"), None).await;
    assert_eq!(picture.header("content-type"), "image/png");
    assert!(picture.body.as_str().unwrap().ends_with("PNG"));

    // Without a word: the newest point, and a login prompt, which does not come.
    server.done_put_proving(json!({ "probe": { "limitMs": 10_000 } })).await;
    let newest = prove(&mut server, json!({})).await;
    assert_eq!(newest["properties"]["outcome"]["verdict"], "failed", "{newest:#}");
    assert_ne!(newest["properties"]["outcome"]["seq"], 1);
    let machine = server.get(MACHINE).await;
    assert_eq!(machine["properties"]["lastProof"], newest["properties"]["outcome"]);
    assert_eq!(machine["properties"]["reasons"][0]["code"], "proof.failed", "{machine:#}");
    let points = server.get(&format!("{MACHINE}/recoveryPoints")).await;
    let verdicts: Vec<_> = points["value"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|point| !point["properties"]["proof"].is_null())
        .map(|point| (point["properties"]["seq"].clone(), point["properties"]["proof"]["verdict"].clone()))
        .collect();
    let seq = newest["properties"]["outcome"]["seq"].clone();
    assert_eq!(verdicts, [(seq, json!("failed")), (json!(1), json!("passed"))]);
    // The contract tells it, too, in its own words.
    let shown = server.get(&item).await.to_string();
    assert!(shown.contains("proof.failed"), "{shown}");
}

#[tokio::test]
async fn how_points_are_proved_is_said_piece_by_piece() {
    let mut server = Server::new();
    server.protect().await;
    let shown = server.done_put_proving(json!({ "everyMs": 86_400_000 })).await;
    assert_eq!(shown["properties"]["probe"], json!({ "limitMs": 600_000 }));
    let probe = json!({ "pattern": "UP", "limitMs": 60_000 });
    let shown = server.done_put_proving(json!({ "probe": probe })).await;
    assert_eq!(
        (&shown["properties"]["everyMs"], &shown["properties"]["probe"]),
        (&json!(86_400_000), &probe)
    );
    for (bad, code) in [
        (json!({ "everyMs": 5 }), "proof.too-often"),
        (json!({ "probe": { "pattern": "(" } }), "proof.pattern"),
        (json!({ "probe": { "pattern": "UP", "limitMs": 1 } }), "proof.limit"),
    ] {
        let body = json!({ "properties": bad });
        let refused = server.call("PUT", &format!("{MACHINE}/proving"), Some(body)).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (400, code));
    }
    let body = json!({ "properties": { "point": "newest" } });
    assert_eq!(server.call("POST", &format!("{MACHINE}/verify"), Some(body)).await.status, 400);
    for nothing in ["proofs/nothing", "proofs/00000000-0000-0000-0000-000000000000/picture"] {
        assert_eq!(server.call("GET", &format!("{MACHINE}/{nothing}"), None).await.status, 404, "{nothing}");
    }
}

#[tokio::test]
async fn an_operator_verifies_and_a_reader_looks() {
    let mut server = Server::new();
    server.protect().await;
    sandboxes(&server, "web01 login: ");
    let proof = prove(&mut server, json!({})).await;
    let make = |name: &str, role| server.world.control.create_token(&name.parse().unwrap(), role).unwrap();
    let (reader, operator) = (make("reader", AccessRole::Reader), make("operator", AccessRole::Operator));
    let uri = |path: &str| format!("{}/{MACHINE}/{path}?api-version=2024-04-01", Vault::default().id());
    let picture = format!("proofs/{}/picture", proof["name"].as_str().unwrap());
    let body = || br#"{"properties":{}}"#.to_vec();
    for path in ["proofs", "proving", &picture] {
        assert_eq!(server.raw("GET", &uri(path), Some(&reader), Vec::new()).await.status, 200, "{path}");
    }
    assert_eq!(server.raw("POST", &uri("verify"), Some(&reader), body()).await.status, 403);
    assert_eq!(server.raw("POST", &uri("verify"), Some(&operator), body()).await.status, 202);
    assert_eq!(server.raw("PUT", &uri("proving"), Some(&operator), body()).await.status, 403);
}

/// Azure boots nothing beside its replica: the master target does.
#[tokio::test]
async fn where_the_site_has_no_sandboxes_nothing_is_different() {
    let mut server = Server::over(World::azure(), ApiLimits::default());
    server.protect().await;
    *server.world.recovery.without_sandboxes.lock().unwrap() = true;
    sandboxes(&server, "booting\nweb01 login: ");
    let proof = prove(&mut server, json!({})).await;
    assert_eq!(proof["properties"]["outcome"]["verdict"], "passed", "{proof:#}");
    let name = proof["name"].as_str().unwrap();
    let picture = server.call("GET", &format!("{MACHINE}/proofs/{name}/picture"), None).await;
    assert_eq!((picture.status.as_u16(), picture.header("content-type")), (200, "image/png"));
}

impl Server {
    async fn done_put_proving(&self, properties: Value) -> Value {
        let body = json!({ "properties": properties });
        let answered = self.call("PUT", &format!("{MACHINE}/proving"), Some(body)).await;
        assert_eq!(answered.status, 200, "{:#}", answered.body);
        answered.body
    }
}
