//! Traces for OpenTelemetry, for those who want them: requests of the API, tasks of jobs, and replication sessions, each a span with what it is about.
//!
//! Off unless the standard variables of OpenTelemetry name a collector (`OTEL_EXPORTER_OTLP_ENDPOINT`, or that of traces alone); then what this process does
//! goes there in batches, by OTLP over HTTP, from a thread of its own. What this never does: wait for a collector, stop anything when there is none, or hold more
//! spans than the SDK's queue has (2048; what does not fit is dropped). Spans have names of machines and paths of requests in them, and no bodies, headers or
//! secrets.
//!
//! | variable | what |
//! |---|---|
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | `https://collector.example.com:4318`; `/v1/traces` is added |
//! | `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` | the whole address, instead |
//! | `OTEL_EXPORTER_OTLP_HEADERS` | `authorization=…`, for a collector that wants it |
//! | `OTEL_EXPORTER_OTLP_CERTIFICATE` | a file of the authorities (PEM) that the collector is trusted by, instead of this host's |
//! | `OTEL_SERVICE_NAME` | instead of `switchback-configuration-server` and so on |

use std::env;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use switchback_control::https;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// The variables that turn it on (OpenTelemetry Protocol Exporter, "Configuration Options").
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
/// Longest time for a batch on its way, and for the last one when the process ends.
const SEND_LIMIT: Duration = Duration::from_secs(10);
const END_LIMIT: Duration = Duration::from_secs(3);

/// Traces that are sent until this is dropped.
#[derive(Debug)]
pub(crate) struct Traces(SdkTracerProvider);

impl Traces {
    /// Traces of this service, if a collector is named.
    ///
    /// # Errors
    /// An address or a certificate that cannot be used.
    pub(crate) fn of(service: &'static str) -> anyhow::Result<Option<Self>> {
        if ENDPOINTS.iter().all(|name| env::var_os(name).is_none_or(|value| value.is_empty())) {
            return Ok(None);
        }
        let exporter = SpanExporter::builder().with_http().with_http_client(client()?).build();
        let exporter = exporter.context("the collector of traces that OTEL_EXPORTER_OTLP_ENDPOINT names")?;
        let resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let resource =
            if env::var_os(SERVICE_NAME).is_some() { resource } else { resource.with_service_name(service) };
        let provider = SdkTracerProvider::builder();
        Ok(Some(Self(provider.with_resource(resource.build()).with_batch_exporter(exporter).build())))
    }

    /// What makes spans of it.
    pub(crate) fn tracer(&self) -> SdkTracer {
        self.0.tracer("switchback")
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // Whoever ends a process does not wait long for a collector.
        let _ = self.0.shutdown_with_timeout(END_LIMIT);
    }
}

/// Our own spans alone: those of libraries tell how they work, not what we do.
pub(crate) fn ours() -> Targets {
    Targets::new().with_target("switchback", LevelFilter::INFO)
}

fn client() -> anyhow::Result<reqwest::blocking::Client> {
    let authority = match env::var(CERTIFICATE) {
        Ok(file) if !file.is_empty() => {
            Some(std::fs::read_to_string(&file).with_context(|| format!("{CERTIFICATE}: reading {file}"))?)
        }
        _ => None,
    };
    let roots = https::roots(authority.as_deref()).map_err(anyhow::Error::msg).context(CERTIFICATE)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = reqwest::blocking::Client::builder().tls_backend_preconfigured(tls);
    Ok(builder.redirect(reqwest::redirect::Policy::none()).timeout(SEND_LIMIT).build()?)
}
