//! Traces that begin elsewhere: a request that names one is a part of it, and so are the job that it begins and what is sent to others for it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use opentelemetry::Context;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanProcessor};
use serde_json::{Value, json};
use switchback_api::Vault;
use switchback_control::Turn;
use tower::ServiceExt as _;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::server::Server;

/// Spans as they ended.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Kept {
    fn on_start(&self, _: &mut Span, _: &Context) {}
    fn on_end(&self, span: SpanData) {
        self.0.lock().unwrap().push(span);
    }
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Kept {
    fn of(&self, trace: &str, name: &str) -> Vec<SpanData> {
        let spans = self.0.lock().unwrap();
        let is_it = |span: &&SpanData| span.name == name && span.span_context.trace_id().to_string() == trace;
        spans.iter().filter(is_it).cloned().collect()
    }
}

/// Asks as a Contributor, in a trace.
async fn ask(server: &Server, (method, path): (&str, &str), traceparent: &str, body: &Value) -> StatusCode {
    let uri = format!("{}/{path}?api-version=2024-04-01", Vault::default().id());
    let request = Request::builder().method(method).uri(uri).header("traceparent", traceparent);
    let request = request.header(header::AUTHORIZATION, format!("Bearer {}", server.token));
    let request = request.body(Body::from(body.to_string())).unwrap();
    server.router().oneshot(request).await.unwrap().status()
}

/// The head of the one request that comes to this host, which is answered well; and where it comes.
fn receiver() -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let take = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
        String::from_utf8(head).unwrap().to_ascii_lowercase()
    };
    (url, std::thread::spawn(take))
}

#[tokio::test]
async fn a_request_its_job_and_what_is_sent_for_it_are_part_of_the_trace_that_it_names() {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder().with_span_processor(kept.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let server = Server::new();
    server.keeps(directory.path());
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");

    let container = server.container("home").await;
    let item = format!("{container}/replicationProtectedItems/web01");
    let vault = Vault::default().id();
    let body = json!({ "properties": {
        "policyId": format!("{vault}/replicationPolicies/PG1"),
        "protectableItemId": format!("{vault}/{container}/replicationProtectableItems/web01"),
        "providerSpecificDetails": { "instanceType": "InMageAzureV2" },
    } });
    let status = ask(&server, ("PUT", &item), &format!("00-{trace}-{parent}-01"), &body).await;
    assert_eq!(status, 202);
    let [request] = &kept.of(trace, "request")[..] else { panic!("{kept:?}") };
    assert_eq!(
        (request.parent_span_id.to_string(), request.parent_span_is_remote),
        (parent.to_owned(), true)
    );
    assert_eq!(server.world.control.work_once(None).unwrap(), Turn::Worked);
    let [task] = &kept.of(trace, "job")[..] else { panic!("{kept:?}") };
    assert_eq!(task.parent_span_id, request.span_context.span_id(), "the job is the request's");

    let (url, taken) = receiver();
    let hook = "switchbackAlertDestinations/hook";
    let webhook = json!({ "url": url, "allowPlainLoopback": true });
    let body = json!({ "properties": { "webhook": webhook, "secret": "0123456789abcdef" } });
    assert_eq!(server.call("PUT", hook, Some(body)).await.status, 200);
    let test = format!("{hook}/test");
    ask(&server, ("POST", &test), &format!("00-{trace}-{parent}-01"), &Value::Null).await;
    let [alert] = &kept.of(trace, "alert")[..] else { panic!("{kept:?}") };
    let sent = format!("traceparent: 00-{trace}-{}-01", alert.span_context.span_id());
    let head = taken.join().unwrap();
    assert!(head.contains(&sent), "{sent} in {head}");

    let unsampled = "11111111111111111111111111111111";
    ask(&server, ("GET", &item), &format!("00-{unsampled}-{parent}-00"), &Value::Null).await;
    assert!(kept.of(unsampled, "request").is_empty(), "whoever began it does not want it");
    let before = kept.0.lock().unwrap().len();
    for malformed in
        ["00-1-2-01", &format!("ff-{trace}-{parent}-01"), &format!("00-{}-{parent}-01", "0".repeat(32))]
    {
        ask(&server, ("GET", &item), malformed, &Value::Null).await;
    }
    let spans = kept.0.lock().unwrap();
    assert_eq!(spans.len(), before + 3);
    let is_own = |span: &SpanData| span.span_context.trace_id().to_string() != trace;
    assert!(spans[before..].iter().all(is_own), "each a trace of its own: {spans:#?}");
}
