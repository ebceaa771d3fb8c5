//! schemathesis (made by others) asks the server whatever the OpenAPI document allows, and much that it does not: nothing may end in a 5xx, and no
//! answer may be other than the document says.
//!
//! The world stands still meanwhile, so that a seed makes the same exchanges each time: a job that is begun stays where it is.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;
use switchback_api::Vault;
use tokio::net::TcpListener;

use crate::server::Server;

/// Requests made up for an operation in its last phase; the phase before tries each limit of each parameter once.
const EXAMPLES: &str = "2";
/// Seconds until a request is given up, which is a failure.
const REQUEST_LIMIT_S: &str = "20";

/// The program, prepared by `scripts/lab-schemathesis`.
fn program() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/lab-schemathesis");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A server whose lists are not empty.
async fn furnished() -> (Server, String) {
    let mut server = Server::unlimited();
    let item = server.protect().await;
    let vault = Vault::default().id().to_string();
    let plan = json!({ "properties": {
        "primaryFabricId": format!("{vault}/replicationFabrics/home"), "recoveryFabricId": format!("{vault}/replicationFabrics/recovery"),
        "failoverDeploymentModel": "ResourceManager",
        "groups": [{ "groupType": "Boot", "replicationProtectedItems": [{ "id": format!("{vault}/{item}") }] }],
    } });
    let made = server.call("PUT", "replicationRecoveryPlans/RP1", Some(plan)).await;
    assert!(made.status.is_success(), "{made:?}");
    let mapping = json!({ "properties": { "targetNetwork": "lan" } });
    let mapped =
        server.call("PUT", "switchbackSites/home/networks/lan/mappings/recovery", Some(mapping)).await;
    assert!(mapped.status.is_success(), "{mapped:?}");
    (server, item)
}

async fn run(server: &Server, item: &str) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = server.router();
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let job = server.call("GET", "replicationJobs", None).await.names()[0].to_owned();
    let container = item.split('/').nth(3).unwrap().to_owned();
    let token = server.token.clone();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = tokio::task::spawn_blocking(move || {
        let directory = tempfile::tempdir().unwrap();
        Command::new(program())
            .arg("--config-file")
            .arg(root.join("tests/arm/schemathesis.toml"))
            .arg("run")
            .arg(root.join("../../docs/reference/openapi.json"))
            .args(["--url", &url, "--phases", "coverage,fuzzing"])
            .args(["--max-examples", EXAMPLES, "--request-timeout", REQUEST_LIMIT_S, "--continue-on-failure"])
            // A schema cannot say what there is, and what may be done with it now.
            .args(["--exclude-checks", "positive_data_acceptance"])
            .args(["--suppress-health-check", "all", "--warnings", "off"])
            .env("SWITCHBACK_TOKEN", token)
            .env("SWITCHBACK_JOB", job)
            .env("SWITCHBACK_CONTAINER", container)
            .env("NO_PROXY", "127.0.0.1")
            .current_dir(directory.path())
            .output()
            .unwrap()
    });
    let output = output.await.unwrap();
    serving.abort();
    output
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_asked_no_answer_is_a_5xx_or_other_than_the_document_says() {
    let (server, item) = furnished().await;
    let output = run(&server, &item).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // Something was asked.
    assert!(
        server.call("GET", "switchbackAudit?$top=10000", None).await.body["value"].as_array().unwrap().len()
            > 500
    );
}
