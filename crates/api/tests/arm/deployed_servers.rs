//! Process servers that are made and removed through the API, and the program that they fetch.

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};
use switchback_api::{ApiLimits, Vault};
use switchback_control::PROGRAM_PATH;
use tower::ServiceExt as _;

use crate::server::Server;
use crate::world::{PROGRAM_LEN, World};

const PATH: &str = "switchbackDeployedServers/ps-azure";

fn server() -> Server {
    let mut world = World::azure();
    world.offer_program();
    Server::over(world, ApiLimits::default())
}

fn wanted() -> Value {
    json!({ "properties": {
        "site": "recovery", "network": "lan", "address": "10.20.1.20", "size": "Standard_D2s_v5",
        "administrator": "anna", "sshKey": "ssh-ed25519 AAAA anna",
    } })
}

#[tokio::test]
async fn a_process_server_is_made_shown_and_removed_by_jobs() {
    let mut server = server();
    let made = server.done("PUT", PATH, wanted()).await;
    let shown = &made["properties"];
    assert_eq!(shown["configurationServer"], "cs.example:443", "where the client has reached us");
    assert_eq!((&shown["address"], &shown["diskGib"]), (&json!("10.20.1.20:9443"), &json!(64)));
    assert_eq!(server.get(PATH).await, made);
    assert_eq!(server.get("switchbackDeployedServers").await["value"], json!([made]));
    let listed = server.get("switchbackServers/process-server.ps-azure").await;
    assert_eq!(
        (&listed["properties"]["build"], &listed["properties"]["site"]),
        (&json!("test"), &json!("recovery"))
    );
    assert_eq!(server.call("PUT", PATH, Some(wanted())).await.code(), "server.taken");
    let jobs = server.get("replicationJobs").await;
    let job = &jobs["value"][0]["properties"];
    assert_eq!(
        (&job["scenarioName"], &job["targetInstanceType"]),
        (&json!("DeployProcessServer"), &json!("ProcessServer"))
    );
    assert!(!jobs.to_string().contains("secret"), "{jobs:#}");
    let (status, end) = server.operate("DELETE", PATH, Value::Null).await;
    assert_eq!((status["status"].as_str(), end.status.as_u16()), (Some("Succeeded"), 204));
    assert_eq!(server.call("GET", PATH, None).await.status, 404);
    assert_eq!(server.call("DELETE", PATH, None).await.code(), "server.not-made");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let server = server();
    let mut strange = wanted();
    strange["properties"]["password"] = json!("x");
    assert_eq!(server.call("PUT", PATH, Some(strange)).await.status, 400);
    let mut elsewhere = wanted();
    elsewhere["properties"]["configurationServer"] = json!("10.0.0.4:443");
    let refused = server.call("PUT", PATH, Some(elsewhere)).await;
    assert_eq!(refused.code(), "server.address");
    assert!(refused.body.to_string().contains("cs.example"), "{:#}", refused.body);
    assert_eq!(server.get("switchbackDeployedServers").await["value"], json!([]));
}

#[tokio::test]
async fn the_program_is_given_to_everybody_whole_and_to_a_few_at_a_time() {
    let server = server();
    let fetch = || async {
        let request = Request::builder().uri(PROGRAM_PATH).header(header::HOST, "cs.example");
        server.router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    };
    let whole = fetch().await;
    assert_eq!(whole.headers()[header::CONTENT_LENGTH], PROGRAM_LEN.to_string().as_str());
    let bytes = axum::body::to_bytes(whole.into_body(), 1 << 20).await.unwrap();
    assert!(bytes.len() == PROGRAM_LEN && bytes.iter().all(|byte| *byte == 7));
    let mut begun = Vec::new();
    let refused = loop {
        let answer = fetch().await;
        if !answer.status().is_success() {
            break answer;
        }
        begun.push(answer);
        assert!(begun.len() < 100);
    };
    assert_eq!((refused.status().as_u16(), begun.len()), (429, 8));
    drop(begun);
    assert!(fetch().await.status().is_success(), "their places are free again");
    let bare = Server::new();
    let none = bare.raw("GET", PROGRAM_PATH, None, Vec::new()).await;
    assert_eq!(none.status, 404, "nothing is offered");
    let uri = format!("{}/{PATH}?api-version=2024-04-01", Vault::default().id());
    assert_eq!(bare.raw("GET", &uri, None, Vec::new()).await.status, 401, "all else needs a token");
}
