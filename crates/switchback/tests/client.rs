//! The API's client against a server with real TLS: pages, refusals, jobs, and whom it trusts.

#![expect(clippy::unwrap_used, reason = "tests")]

#[expect(dead_code, reason = "shared with the command line's tests")]
mod api_rig;

use std::future::Future;
use std::time::Duration;

use api_rig::{Server, TOKEN, VAULT, accepted, certificates, list, ok, refusal, text};
use serde_json::json;
use switchback::client::{Client, ClientError, Endpoint, JobEnd, Operation, Reply, Token, WaitOptions};

fn client_with(server: &Server, authority: &str, token: &str) -> Client {
    let endpoint = Endpoint {
        server: server.url.clone(),
        authority: authority.into(),
        token: Token::new(token).unwrap(),
    };
    Client::new(endpoint).unwrap()
}

fn client(server: &Server) -> Client {
    let mut client = client_with(server, &server.authority, TOKEN);
    run(client.discover()).unwrap();
    client
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn the_vault_is_asked_for_and_resources_are_found_in_it() {
    let server = Server::start();
    server.play("GET", "replicationJobs/j1", &[ok(json!({"name": "j1"}))]);
    let client = client(&server);
    assert_eq!(client.id("x"), format!("{VAULT}/x"));
    assert_eq!(run(client.get(&client.id("replicationJobs/j1"))).unwrap(), json!({"name": "j1"}));
}

#[test]
fn lists_are_read_page_by_page_from_the_server_that_was_asked() {
    let server = Server::start();
    // The server believes to be called otherwise; the token must not go there.
    let next = format!("https://elsewhere.invalid{VAULT}/replicationEvents?api-version=2024-04-01&page=2");
    server.play(
        "GET",
        "replicationEvents",
        &[ok(json!({"value": [1, 2], "nextLink": next})), list(&[json!(3)])],
    );
    let client = client(&server);
    let id = client.id("replicationEvents");
    assert_eq!(
        run(client.list(&id, &[("$filter", "a eq 'b'")], None)).unwrap(),
        [json!(1), json!(2), json!(3)]
    );
    let targets: Vec<_> = server.requests().into_iter().skip(1).map(|seen| seen.target).collect();
    assert_eq!(targets, ["replicationEvents?$filter=a%20eq%20%27b%27", "replicationEvents?page=2"]);
}

#[test]
fn a_list_is_not_read_further_than_needed() {
    let server = Server::start();
    let next = format!("{VAULT}/replicationEvents?page=2");
    server.play("GET", "replicationEvents", &[ok(json!({"value": [1, 2], "nextLink": next}))]);
    let client = client(&server);
    assert_eq!(run(client.list(&client.id("replicationEvents"), &[], Some(1))).unwrap(), [json!(1)]);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn each_refusal_is_told_apart_with_what_the_server_said() {
    let server = Server::start();
    let client = client(&server);
    let asked = |status| {
        server.play("GET", "x", &[refusal(status, "a.b", "it failed", "the disk", "buy one")]);
        run(client.get(&client.id("x"))).unwrap_err()
    };
    assert!(matches!(asked(403), ClientError::Forbidden { .. }));
    assert!(matches!(asked(404), ClientError::NotFound { .. }));
    assert!(matches!(asked(503), ClientError::Busy { status: 503, .. }));
    assert!(matches!(asked(500), ClientError::Refused { status: 500, .. }));
    let conflict = asked(409);
    assert!(matches!(conflict, ClientError::Conflict { .. }));
    assert_eq!(conflict.to_string(), "it failed");
    assert_eq!(conflict.advice(), ("the disk".into(), "buy one".into()));
    assert_eq!(conflict.refusal().unwrap().code, "a.b");
    let stranger = client_with(&server, &server.authority, "bad-token");
    let unknown = run(stranger.get("/y")).unwrap_err();
    assert!(matches!(unknown, ClientError::Unauthenticated { .. }));
    assert!(!unknown.to_string().contains("bad-token"));
    assert!(unknown.advice().1.contains("token create"));
}

#[test]
fn a_server_of_another_authority_gets_no_token() {
    let server = Server::start();
    let (other, _) = certificates("localhost");
    let client = client_with(&server, &other, TOKEN);
    let error = run(client.get("/x")).unwrap_err();
    assert!(matches!(error, ClientError::Untrusted { foreign: true, .. }), "{error:?}");
    assert!(server.requests().is_empty());
}

#[test]
fn a_server_under_a_name_that_it_does_not_have_is_not_trusted() {
    let server = Server::start();
    let url = server.url.replace("localhost", "127.0.0.1");
    let endpoint =
        Endpoint { server: url, authority: server.authority.clone(), token: Token::new(TOKEN).unwrap() };
    let error = run(Client::new(endpoint).unwrap().get("/x")).unwrap_err();
    assert!(matches!(error, ClientError::Untrusted { foreign: false, .. }), "{error:?}");
}

#[test]
fn a_server_that_is_not_there_cannot_be_reached() {
    let server = Server::start();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = Endpoint {
        server: format!("https://localhost:{port}"),
        authority: server.authority.clone(),
        token: Token::new(TOKEN).unwrap(),
    };
    let error = run(Client::new(endpoint).unwrap().get("/x")).unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert!(error.is_passing());
}

#[test]
fn tokens_travel_over_tls_only() {
    let server = Server::start();
    for bad in ["http://localhost:1", "localhost:1", "https://", "https://localhost/path", ""] {
        let endpoint = Endpoint {
            server: bad.into(),
            authority: server.authority.clone(),
            token: Token::new(TOKEN).unwrap(),
        };
        assert!(matches!(Client::new(endpoint), Err(ClientError::Address { .. })), "{bad:?}");
    }
}

#[test]
fn an_answer_that_is_not_understood_is_no_success() {
    let server = Server::start();
    server.play("GET", "x", &[text("<html>")]);
    server.play("GET", "y", &[ok(json!({"values": []}))]);
    server.play("POST", "z", &[accepted("")]);
    let client = client(&server);
    let strange = [
        run(client.get(&client.id("x"))).unwrap_err(),
        run(client.list(&client.id("y"), &[], None)).unwrap_err(),
        run(client.post(&client.id("z"), None)).unwrap_err(),
    ];
    for error in strange {
        assert!(matches!(error, ClientError::Strange { .. }), "{error:?}");
    }
}

fn job(state: &str, tasks: serde_json::Value) -> api_rig::Answer {
    ok(json!({"id": "/x/j1", "properties": {"state": state, "object": "web01", "tasks": tasks}}))
}

const QUICK: WaitOptions =
    WaitOptions { limit: Duration::from_secs(20), silence_max: Duration::from_secs(20) };

#[test]
fn a_job_is_followed_through_a_restart_of_the_server_with_the_jobs_within_it() {
    let server = Server::start();
    let parts = json!([{"name": "Group 1", "state": "InProgress", "jobs": ["j2"]}]);
    let restarting = refusal(503, "", "starting", "", "");
    server.play("POST", "x/failover", &[accepted("j1")]);
    let answers =
        [job("NotStarted", json!([])), restarting, job("InProgress", parts.clone()), job("Failed", parts)];
    server.play("GET", "switchbackJobs/j1", &answers);
    let child = ok(json!({"id": "/x/j2", "properties": {"state": "Failed", "tasks": []}}));
    server.play("GET", "switchbackJobs/j2", &[child]);
    let client = client(&server);
    let Reply::Started(operation) = run(client.post(&client.id("x/failover"), None)).unwrap() else {
        panic!("a job was expected")
    };
    let mut looks = Vec::new();
    let waiting = client.wait(&operation, QUICK, |look| match look {
        Ok(job) => looks.push(job.pointer("/properties/state").unwrap().as_str().unwrap().to_owned()),
        Err(error) => looks.push(error.to_string().split(' ').next_back().unwrap().to_owned()),
    });
    let (job, end) = run(waiting).unwrap();
    assert_eq!(looks, ["NotStarted", "starting", "InProgress", "Failed"]);
    assert_eq!(end, JobEnd::Failed);
    assert_eq!(job.pointer("/properties/tasks/0/children/0/id").unwrap(), "/x/j2");
    let children = server.requests().iter().filter(|seen| seen.target.ends_with("j2")).count();
    assert_eq!(children, 1, "a job that has ended is not asked for again");
}

#[test]
fn waiting_has_a_limit_and_a_job_that_is_gone_is_an_error() {
    let server = Server::start();
    server.play("GET", "switchbackJobs/j1", &[job("InProgress", json!([]))]);
    let client = client(&server);
    let options = WaitOptions { limit: Duration::from_millis(30), ..QUICK };
    let wait = |name| run(client.wait(&Operation::of_job(name), options, |_| {}));
    assert!(matches!(wait("j1"), Err(ClientError::StillRunning { .. })));
    assert!(matches!(wait("none"), Err(ClientError::NotFound { .. })));
}
