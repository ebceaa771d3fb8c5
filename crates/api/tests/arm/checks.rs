//! `resolveHealthErrors`: a machine is looked at again, and what it answers for each of its health errors.

use serde_json::{Value, json};
use switchback_model::AccessRole;
use switchback_model::component::Problem;

use crate::server::Server;
use switchback_api::Vault;

fn problem(server: &mut Server, message: &str) {
    let problem = Problem { code: "master-target.disk".into(), message: message.into() };
    server.world.replicas_problem = Some(problem);
    server.world.round();
}

async fn errors(server: &Server, item: &str) -> Vec<Value> {
    server.get(item).await["properties"]["healthErrors"].as_array().unwrap().clone()
}

fn named(id: &Value) -> Value {
    json!({ "properties": { "healthErrors": [{ "healthErrorId": id }] } })
}

#[tokio::test]
async fn an_error_is_checked_again_and_its_id_stays_while_its_figures_change() {
    let mut server = Server::new();
    let item = server.protect().await;
    problem(&mut server, "disk vdb: 3 of 7 blocks are lost");
    let [error] = &errors(&server, &item).await[..] else { panic!() };
    assert_eq!(error["customerResolvability"], "Allowed");
    problem(&mut server, "disk vdb: 4 of 7 blocks are lost");
    assert_eq!(errors(&server, &item).await[0]["errorId"], error["errorId"]);

    let resolve = format!("{item}/resolveHealthErrors");
    let (status, answered) = server.operate("POST", &resolve, named(&error["errorId"])).await;
    assert_eq!((&status["status"], answered.code()), (&json!("Failed"), "master-target.disk"), "{status:#}");
    assert!(answered.body["error"]["message"].as_str().unwrap().contains("still: disk vdb: 4 of 7"));
    server.world.replicas_problem = None;
    let after = server.done("POST", &resolve, named(&error["errorId"])).await;
    assert_eq!(after["properties"]["healthErrors"], json!([]), "{after:#}");
    assert_eq!(after["properties"]["currentScenario"]["scenarioName"], "None");
    let jobs = server.get("replicationJobs").await;
    let newest = &jobs["value"][0]["properties"];
    assert_eq!(
        (&newest["scenarioName"], &newest["state"]),
        (&json!("ResolveHealthErrors"), &json!("Succeeded"))
    );
    assert_eq!(newest["tasks"][0]["name"], "ResolveHealthErrorsTask");
}

#[tokio::test]
async fn what_it_has_not_and_what_no_look_ends_is_refused() {
    let mut server = Server::new();
    let item = server.protect().await;
    let resolve = format!("{item}/resolveHealthErrors");
    problem(&mut server, "the disk is read-only");
    let id = errors(&server, &item).await[0]["errorId"].clone();
    let refused = server.call("POST", &resolve, Some(named(&json!("3:8020")))).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (400, "InvalidRequestContent"));
    let message = refused.body["error"]["message"].as_str().unwrap();
    assert!(message.contains(id.as_str().unwrap()) && message.contains("master-target.disk"), "{message}");
    // None named: all that there are.
    server.world.replicas_problem = None;
    server.done("POST", &resolve, Value::Null).await;
    let failover = json!({ "properties": { "sourceSiteOperations": "Required" } });
    server.done("POST", &format!("{item}/unplannedFailover"), failover).await;
    server.done("POST", &format!("{item}/failoverCommit"), Value::Null).await;
    let [error] = &errors(&server, &item).await[..] else { panic!() };
    assert_eq!(error["customerResolvability"], "NotAllowed", "a reprotect ends it: {error:#}");
    let refused = server.call("POST", &resolve, Some(named(&error["errorId"]))).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (400, "InvalidRequestContent"));
    assert!(refused.body["error"]["message"].as_str().unwrap().contains("reprotect it"));
}

#[tokio::test]
async fn an_operator_may_and_a_reader_may_not() {
    let mut server = Server::new();
    let item = server.protect().await;
    let uri = format!("{}/{item}/resolveHealthErrors?api-version=2024-04-01", Vault::default().id());
    for (role, expected) in [(AccessRole::Reader, 403), (AccessRole::Operator, 202)] {
        let name = format!("{role:?}").to_lowercase().parse().unwrap();
        let token = server.world.control.create_token(&name, role).unwrap();
        assert_eq!(server.raw("POST", &uri, Some(&token), Vec::new()).await.status, expected, "{role:?}");
    }
}
