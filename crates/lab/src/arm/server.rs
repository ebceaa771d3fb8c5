//! The emulator's HTTPS server: a runtime of its own, one handler for everything.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::EmulatorError;
use super::answer::{Answer, Request};
use super::route;
use super::world::World;

/// Longest request: a whole blob of a test.
const BODY_LEN_MAX: usize = 80 << 20;
/// A client that does not finish its handshake holds up nobody for longer.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Requests under way are given up after this.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// The server's runtime.
#[derive(Debug)]
pub(super) struct Server {
    runtime: Option<Runtime>,
}

/// A listener, and a certificate for it; the authority goes to a file in `directory`.
pub(super) fn bind(directory: &Path) -> Result<(TcpListener, ServerConfig), EmulatorError> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "the ARM emulator's authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    let certificate = leaf.signed_by(&key, &Issuer::from_params(&authority, &authority_key))?;
    fs::write(directory.join("authority.pem"), authority_certificate.pem())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    Ok((listener, tls))
}

impl Server {
    pub(super) fn start(
        listener: TcpListener,
        tls: ServerConfig,
        world: Arc<World>,
    ) -> Result<Self, EmulatorError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(async { tokio::net::TcpListener::from_std(listener) })?;
        let tls = TlsListener { listener, acceptor: TlsAcceptor::from(Arc::new(tls)) };
        let app = Router::new().fallback(handle).with_state(world);
        runtime.spawn(async move { axum::serve(tls, app).await });
        Ok(Self { runtime: Some(runtime) })
    }

    pub(super) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(STOP_LIMIT);
        }
    }
}

struct TlsListener {
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            // One after the other: a test has few clients.
            let shaken = tokio::time::timeout(HANDSHAKE_LIMIT, self.acceptor.accept(stream)).await;
            if let Ok(Ok(stream)) = shaken {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn handle(State(world): State<Arc<World>>, request: axum::extract::Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_LEN_MAX).await else { return response(Answer::empty(413)) };
    let headers: BTreeMap<String, String> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let Some(request) = Request::new(head.method.as_str(), target, headers, body.to_vec()) else {
        return response(Answer::empty(400));
    };
    let is_head = request.method == "HEAD";
    // It may read and write files.
    let answered = tokio::task::spawn_blocking(move || route::answer(&world, &request)).await;
    let mut answer = answered.unwrap_or_else(|_| Answer::empty(500));
    if is_head {
        answer.body.clear();
    }
    response(answer)
}

fn response(answer: Answer) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}
