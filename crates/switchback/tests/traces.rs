//! Traces, from a real process to a collector: what it takes is decoded by OpenTelemetry's own definitions.

#![expect(clippy::unwrap_used, reason = "tests")]

mod rig;

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use rig::{ConfigurationServer, succeed, wait_until};

/// What a collector was sent.
type Taken = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// A collector on this host; its address.
fn collector(runtime: &tokio::runtime::Runtime) -> (String, Taken) {
    let taken = Taken::default();
    let kept = Arc::clone(&taken);
    let take = move |body: Bytes| async move {
        kept.lock().unwrap().push(ExportTraceServiceRequest::decode(body).unwrap());
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v1/traces", post(take));
    let _entered = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, taken)
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Starts a configuration server that sends its traces there, and asks it for its sites.
fn ask(endpoint: &str) -> ConfigurationServer {
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "200")];
    let server = ConfigurationServer::start(&variables);
    succeed(&mut server.user(&["site", "list"]));
    server
}

#[test]
fn requests_are_told_to_a_collector_and_no_secret_with_them() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (endpoint, taken) = collector(&runtime);
    let server = ask(&endpoint);
    let is_told = |export: &ExportTraceServiceRequest| {
        export.resource_spans.iter().any(|of| {
            let service =
                of.resource.as_ref().and_then(|resource| text(&resource.attributes, "service.name"));
            let mut spans = of.scope_spans.iter().flat_map(|scope| &scope.spans);
            let is_asked = |path: &str| path.to_ascii_lowercase().contains("/switchbacksites");
            service == Some("switchback-configuration-server")
                && spans.any(|span| {
                    span.name == "request"
                        && text(&span.attributes, "method") == Some("GET")
                        && text(&span.attributes, "path").is_some_and(is_asked)
                        && span.end_time_unix_nano > span.start_time_unix_nano
                })
        })
    };
    wait_until("the request is told", || taken.lock().unwrap().iter().any(is_told));
    let token = std::fs::read_to_string(server.path("cs/admin-token")).unwrap();
    let told = format!("{:?}", taken.lock().unwrap());
    assert!(!told.contains(token.trim()), "{told}");
}

#[test]
fn a_collector_that_is_not_there_or_cannot_be_stops_nothing() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    ask(&format!("http://{nobody}"));
    ask("no address at all");
}
