//! Who may do what, what is refused how, and what the audit log says of it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{Request, header};
use hyper::body::Frame;
use serde_json::{Value, json};
use switchback_api::{ApiLimits, ClientLimits, Vault};
use switchback_identity::Allowance;
use switchback_model::AccessRole;
use tower::ServiceExt as _;

use crate::server::Server;

fn uri(path: &str) -> String {
    format!("{}/{path}?api-version=2024-04-01", Vault::default().id())
}

#[tokio::test]
async fn without_a_valid_token_there_is_nothing() {
    let server = Server::new();
    for token in [None, Some("sbt_wrong"), Some("x")] {
        for path in [uri("replicationFabrics"), uri("noSuchThing"), "/elsewhere".into()] {
            let refused = server.raw("GET", &path, token, Vec::new()).await;
            assert_eq!((refused.status.as_u16(), refused.code()), (401, "AuthenticationFailed"), "{path}");
            assert_eq!(refused.header("www-authenticate"), "Bearer");
        }
    }
    let discovery = server.raw("GET", "/", None, Vec::new()).await;
    assert_eq!(
        (discovery.status.as_u16(), &discovery.body["vault"]),
        (200, &Value::from(Vault::default().id()))
    );
}

#[tokio::test]
async fn roles_limit_and_the_audit_log_tells() {
    let server = Server::new();
    let make = |name: &str, role| server.world.control.create_token(&name.parse().unwrap(), role).unwrap();
    let (reader, operator) = (make("reader", AccessRole::Reader), make("operator", AccessRole::Operator));
    let policy = uri("replicationPolicies/PG1");
    assert_eq!(server.raw("GET", &policy, Some(&reader), Vec::new()).await.status, 200);
    for token in [&reader, &operator] {
        let refused = server.raw("DELETE", &policy, Some(token), Vec::new()).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (403, "AuthorizationFailed"));
    }
    assert_eq!(server.raw("GET", &uri("switchbackAudit"), Some(&operator), Vec::new()).await.status, 403);
    assert_eq!(server.raw("DELETE", &policy, Some(&server.token), Vec::new()).await.status, 204);
    let audit = server.get("switchbackAudit").await;
    let lines: Vec<_> = audit["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["by"].as_str().unwrap(), line["status"].as_u64().unwrap()))
        .collect();
    assert_eq!(lines.len(), 3);
    for expected in [("root", 204), ("operator", 403), ("reader", 403)] {
        assert!(lines.contains(&expected), "{lines:?}");
    }
    let text = audit.to_string();
    assert!(text.contains("DELETE /subscriptions/") && !text.contains("sbt_"), "{text}");
}

#[tokio::test]
async fn every_refusal_has_the_contracts_shape() {
    let limits = ApiLimits { body_len_max: 100, ..ApiLimits::default() };
    let server = Server::with_limits(limits);
    let token = Some(server.token.as_str());
    let plain = Vault::default().id();
    let cases = [
        ("GET", uri("noSuchThing"), Vec::new(), 404, "InvalidResourceType"),
        ("GET", uri("replicationPolicies/PG7"), Vec::new(), 404, "NotFound"),
        (
            "GET",
            uri("replicationFabrics").replace("0000-000000000000", "0000-000000000001"),
            Vec::new(),
            404,
            "SubscriptionNotFound",
        ),
        (
            "GET",
            uri("replicationFabrics").replace("esourceGroups/switchback", "esourceGroups/other"),
            Vec::new(),
            404,
            "ResourceGroupNotFound",
        ),
        (
            "GET",
            uri("replicationFabrics").replace("vaults/switchback", "vaults/other"),
            Vec::new(),
            404,
            "ResourceNotFound",
        ),
        ("PUT", uri("replicationEvents/x"), Vec::new(), 405, "MethodNotAllowed"),
        ("GET", format!("{plain}/replicationFabrics"), Vec::new(), 400, "MissingApiVersionParameter"),
        (
            "GET",
            format!("{plain}/replicationFabrics?api-version=2018-01-10"),
            Vec::new(),
            400,
            "InvalidApiVersionParameter",
        ),
        ("PUT", uri("replicationPolicies/PG7"), b"{".to_vec(), 400, "InvalidRequestContent"),
        ("PUT", uri("replicationPolicies/PG7"), vec![b' '; 101], 413, "RequestEntityTooLarge"),
        ("GET", uri("replicationFabrics/no%20name"), Vec::new(), 400, "InvalidResourceName"),
        ("GET", uri("replicationJobs/None"), Vec::new(), 404, "NotFound"),
        ("GET", uri("switchbackJobs/None"), Vec::new(), 404, "ResourceNotFound"),
    ];
    for (method, uri, body, status, code) in cases {
        let refused = server.raw(method, &uri, token, body).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (status, code),
            "{method} {uri}: {:#}",
            refused.body
        );
        assert!(refused.body["error"]["message"].is_string());
        assert!(!refused.header("x-ms-request-id").is_empty());
    }
}

#[tokio::test]
async fn paths_have_no_case_and_names_keep_theirs() {
    let server = Server::new();
    let path = uri("replicationPolicies/PG1");
    let expected = server.raw("GET", &path, Some(&server.token), Vec::new()).await;
    let (path, query) = path.split_once('?').unwrap();
    for other in [path.to_uppercase(), path.to_lowercase(), format!("/{path}/")] {
        let answered = server.raw("GET", &format!("{other}?{query}"), Some(&server.token), Vec::new()).await;
        assert_eq!(answered.body, expected.body, "{other}");
    }
    assert_eq!(expected.body["name"], "PG1");
}

#[tokio::test]
async fn too_many_at_once_are_told_to_come_back() {
    let server = Server::with_limits(ApiLimits { requests_max: 0, ..ApiLimits::default() });
    let refused = server.raw("GET", &uri("replicationFabrics"), Some(&server.token), Vec::new()).await;
    assert_eq!(
        (refused.status.as_u16(), refused.code(), refused.header("retry-after")),
        (429, "TooManyRequests", "1")
    );
}

#[tokio::test]
async fn one_client_that_asks_in_a_loop_does_not_shut_others_out() {
    let requests = Allowance { burst: 5, refill_ms: 60_000 };
    let client = ClientLimits { requests, ..ClientLimits::default() };
    let server = Server::with_limits(ApiLimits { client, ..ApiLimits::default() });
    let other =
        server.world.control.create_token(&"other".parse().unwrap(), AccessRole::Contributor).unwrap();
    let look = async |token: &str| server.raw("GET", &uri("replicationJobs"), Some(token), Vec::new()).await;
    for _ in 0..5 {
        assert_eq!(look(&server.token).await.status, 200);
    }
    let delete = server.raw("DELETE", &uri("replicationPolicies/PG1"), Some(&server.token), Vec::new()).await;
    assert_eq!((delete.status.as_u16(), delete.code()), (429, "TooManyRequests"));
    let wait: u64 = delete.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(look(&other).await.status, 200);
    assert_eq!(
        server.world.control.audit(10).unwrap().len(),
        0,
        "nothing was done, and the log is not filled"
    );
    // What needs no token is counted by address.
    for _ in 0..5 {
        assert_eq!(server.raw("GET", "/", None, Vec::new()).await.status, 200);
    }
    assert_eq!(server.raw("GET", "/", None, Vec::new()).await.status, 429);
    assert_eq!(look(&other).await.status, 200);
}

#[tokio::test]
async fn a_client_has_so_many_requests_in_hand_and_no_more() {
    let client = ClientLimits { in_hand_max: 0, ..ClientLimits::default() };
    let server = Server::with_limits(ApiLimits { client, ..ApiLimits::default() });
    let refused = server.raw("GET", &uri("replicationJobs"), Some(&server.token), Vec::new()).await;
    assert_eq!(
        (refused.status.as_u16(), refused.code(), refused.header("retry-after")),
        (429, "TooManyRequests", "1")
    );
}

#[tokio::test]
async fn whoever_guesses_is_stopped_and_good_clients_of_that_address_are_not() {
    let failures = Allowance { burst: 3, refill_ms: 3_600_000 };
    let client = ClientLimits { failures, ..ClientLimits::default() };
    let server = Server::with_limits(ApiLimits { client, ..ApiLimits::default() });
    let look = async |token: &str| server.raw("GET", &uri("replicationJobs"), Some(token), Vec::new()).await;
    assert_eq!(look(&server.token).await.status, 200);
    for n in 0..3 {
        assert_eq!(look(&format!("sbt_guess{n}")).await.status, 401);
    }
    let refused = look("sbt_guess").await;
    assert_eq!((refused.status.as_u16(), refused.code()), (429, "TooManyRequests"));
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 3000);
    assert_eq!(look("a.b.c").await.status, 429, "an issuer's token is none the better");
    assert_eq!(look(&server.token).await.status, 200);
}

#[tokio::test]
async fn tokens_are_made_shown_once_and_deleted() {
    let server = Server::new();
    let made = server
        .call("PUT", "switchbackTokens/ci", Some(json!({ "properties": { "role": "Operator" } })))
        .await;
    let secret = made.body["properties"]["secret"].as_str().unwrap().to_owned();
    assert_eq!(server.raw("GET", &uri("replicationFabrics"), Some(&secret), Vec::new()).await.status, 200);
    let again =
        server.call("PUT", "switchbackTokens/CI", Some(json!({ "properties": { "role": "Reader" } }))).await;
    assert_eq!(again.status, 409);
    let list = server.get("switchbackTokens").await;
    assert!(!list.to_string().contains(&secret), "{list}");
    assert_eq!(server.call("DELETE", "switchbackTokens/ci", None).await.status, 204);
    assert_eq!(server.raw("GET", &uri("replicationFabrics"), Some(&secret), Vec::new()).await.status, 401);
}

/// A body that must not be read.
struct Untouched;

impl hyper::body::Body for Untouched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic!("the body of a request that is refused was read")
    }
}

/// A stranger, or somebody who may not, costs no memory for what they send.
#[tokio::test]
async fn whoever_may_not_is_refused_before_the_body_is_read() {
    let server = Server::new();
    let reader = server.world.control.create_token(&"reader".parse().unwrap(), AccessRole::Reader).unwrap();
    let put = async |token: Option<&str>| {
        let mut request = Request::builder().method("PUT").uri(uri("replicationPolicies/PG2"));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Body::new(Untouched)).unwrap();
        server.router().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!(put(None).await, 401);
    assert_eq!(put(Some("sbt_nobody")).await, 401);
    assert_eq!(put(Some(&reader)).await, 403);
    // A panic is a 500: this one would be read.
    assert_eq!(put(Some(&server.token)).await, 500);
}
