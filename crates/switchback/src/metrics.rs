//! What a process measures of itself, for Prometheus: `GET /metrics` on a port of its own, in OpenMetrics' text format.
//!
//! What it is: each role has a list of [`Definition`]s and a pure function from what it reports anyway to [`Sample`]s; a scrape calls it. What it never
//! does: count anything itself; keep figures between scrapes; show names of people, addresses or secrets. It is off unless an address is given
//! (`--metrics`), and has neither TLS nor a login: give it a loopback address, or one that only the monitoring reaches.
//!
//! Invariants: names begin with `switchback_` and end with their unit (`_seconds`, `_bytes`), or `_total` where they only grow; labels are names of
//! machines, servers, replicas and disks, or of a fixed set, so their number is bounded by what is configured; [`CONNECTIONS_MAX`] scrapes are answered
//! at a time, each within [`LIMIT`]. `docs/guides/monitoring.md` lists all of them (a test compares).

pub mod component;
pub mod configuration_server;

use std::convert::Infallible;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Scrapes at a time.
const CONNECTIONS_MAX: usize = 4;
/// For one scrape.
const LIMIT: Duration = Duration::from_secs(10);
/// OpenMetrics 1.0, section 4.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It goes up and down.
    Gauge,
    /// It grows, from 0 at the process's start: `_total` is added to its name.
    Counter,
}

/// A figure that is measured.
#[derive(Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its name, without `_total`.
    pub name: &'static str,
    /// What it says, for people.
    pub help: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
}

impl Definition {
    /// A figure that goes up and down.
    const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge, labels }
    }

    /// A figure that grows.
    const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter, labels }
    }

    /// As Prometheus knows it.
    #[must_use]
    pub fn full_name(&self) -> String {
        match self.kind {
            Kind::Gauge => self.name.to_owned(),
            Kind::Counter => format!("{}_total", self.name),
        }
    }

    /// A measured value; the values of its labels are in the order of their names.
    fn is<const N: usize>(&'static self, labels: [&str; N], value: f64) -> Sample {
        debug_assert_eq!(N, self.labels.len(), "{}", self.name);
        Sample { definition: self, labels: labels.map(str::to_owned).to_vec(), value }
    }
}

/// A measured value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    definition: &'static Definition,
    labels: Vec<String>,
    value: f64,
}

/// Whatever measures.
pub type Measure = Arc<dyn Fn() -> anyhow::Result<Vec<Sample>> + Send + Sync>;

/// Bytes and counts as figures: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "figures of 8 PiB and more need not be exact")]
const fn figure(value: u64) -> f64 {
    value as f64
}

/// Milliseconds as seconds.
const fn seconds(millis: u64) -> f64 {
    figure(millis) / 1000.0
}

#[derive(Debug)]
struct Measured(Vec<Sample>);

impl Collector for Measured {
    /// All values of a figure together, as the format wants it.
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut left: Vec<&Sample> = self.0.iter().collect();
        while let Some(definition) = left.first().map(|sample| sample.definition) {
            let (these, others): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|sample| std::ptr::eq(sample.definition, definition));
            left = others;
            let kind = match definition.kind {
                Kind::Gauge => MetricType::Gauge,
                Kind::Counter => MetricType::Counter,
            };
            let mut family = encoder.encode_descriptor(definition.name, definition.help, None, kind)?;
            for Sample { labels, value, .. } in these {
                let labels: Vec<_> = definition.labels.iter().copied().zip(labels.clone()).collect();
                let one = family.encode_family(&labels)?;
                match definition.kind {
                    Kind::Gauge => ConstGauge::new(*value).encode(one)?,
                    Kind::Counter => ConstCounter::new(*value).encode(one)?,
                }
            }
        }
        Ok(())
    }
}

/// The text of a scrape.
fn encode(samples: Vec<Sample>) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Measured(samples)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Serves metrics where that was asked for. That it cannot be done is told, and stops nothing: who watches sees that nothing is there.
pub fn serve_if(listen: Option<SocketAddr>, runtime: &Handle, measure: Measure) {
    if let Some(Err(error)) = listen.map(|listen| serve(listen, runtime, measure)) {
        tracing::error!(error = format!("{error:#}"), "metrics are not served");
    }
}

/// Answers scrapes for as long as the runtime lives. Returns the address that is listened on.
///
/// # Errors
/// When it cannot be listened there.
pub fn serve(listen: SocketAddr, runtime: &Handle, measure: Measure) -> anyhow::Result<SocketAddr> {
    let _inside = runtime.enter();
    let listener = std::net::TcpListener::bind(listen)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .and_then(TcpListener::from_std)
        .with_context(|| format!("listening for metrics on {listen} (is another process there?)"))?;
    let address = listener.local_addr()?;
    if address.ip().is_loopback() {
        tracing::info!(%address, "metrics are served");
    } else {
        tracing::warn!(%address, "metrics are served in clear to whoever reaches this address");
    }
    runtime.spawn(accept(listener, measure));
    Ok(address)
}

async fn accept(listener: TcpListener, measure: Measure) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, usually: others may give some back.
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let measure = Arc::clone(&measure);
        tokio::spawn(async move {
            let _place = place;
            if tokio::time::timeout(LIMIT, answer(stream, measure)).await.is_err() {
                tracing::debug!("a scrape took too long");
            }
        });
    }
}

async fn answer(stream: TcpStream, measure: Measure) {
    let service = service_fn(move |request| {
        let measure = Arc::clone(&measure);
        async move { Ok::<_, Infallible>(respond(&request, measure).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(LIMIT).keep_alive(false);
    // Whoever goes away early has no metrics: nothing to be told.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(request: &Request<Incoming>, measure: Measure) -> Response<Body> {
    let of = |status: StatusCode, kind: &'static str, text: String| {
        let mut response = Response::new(Body(Some(Bytes::from(text))));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        response
    };
    if request.method() != Method::GET || request.uri().path() != "/metrics" {
        return of(StatusCode::NOT_FOUND, "text/plain", "metrics are at GET /metrics\n".into());
    }
    // Reading what is measured may block on a lock or a database.
    let text = tokio::task::spawn_blocking(move || Ok::<_, anyhow::Error>(encode(measure()?)?)).await;
    match text.map_err(anyhow::Error::from).and_then(|text| text) {
        Ok(text) => of(StatusCode::OK, CONTENT_TYPE, text),
        Err(error) => {
            tracing::warn!(%error, "a scrape cannot be answered");
            of(
                StatusCode::SERVICE_UNAVAILABLE,
                "text/plain",
                "nothing can be measured for the moment\n".into(),
            )
        }
    }
}

/// One piece of text.
#[derive(Debug)]
struct Body(Option<Bytes>);

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests;
