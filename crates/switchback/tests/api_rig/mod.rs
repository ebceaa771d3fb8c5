//! A configuration server for tests: real TLS and HTTP on a port of its own, with answers that were written down before.
//!
//! Each exchange is a method and a path with the answers that it gives, one after the other; the last one is repeated. What has no exchange is
//! answered with 404 in Azure Resource Manager's shape. Requests are kept to be looked at.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::Response;
use axum::serve::Listener;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The vault of the server: not the default one, so that a client must ask.
pub(crate) const VAULT: &str =
    "/subscriptions/s/resourceGroups/rg/providers/Microsoft.RecoveryServices/vaults/v1";
/// The token that it knows.
pub(crate) const TOKEN: &str = "sb-good-token";

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

/// 200 with a resource.
pub(crate) fn ok(body: Value) -> Answer {
    Answer { status: 200, headers: Vec::new(), body: body.to_string() }
}

/// 200 with a list of one page.
pub(crate) fn list(elements: &[Value]) -> Answer {
    ok(json!({"value": elements}))
}

/// 202 with a job, as the contract has it.
pub(crate) fn accepted(job: &str) -> Answer {
    let header = |name: &str, value: String| (name.to_owned(), value);
    let headers = vec![
        header("retry-after", "0".into()),
        header("x-ms-request-id", format!("{VAULT}/replicationJobs/{job}")),
        header(
            "azure-asyncoperation",
            format!("https://cs{VAULT}/replicationOperationStatus/{job}?api-version=2024-04-01"),
        ),
    ];
    Answer { status: 202, headers, body: String::new() }
}

/// A refusal in Azure Resource Manager's shape.
pub(crate) fn refusal(status: u16, code: &str, message: &str, cause: &str, remedy: &str) -> Answer {
    let info = json!({"message": message, "possibleCauses": cause, "recommendedAction": remedy});
    let error = json!({"code": code, "message": format!("{message}\nand more"), "additionalInfo": [{"type": "SwitchbackError", "info": info}]});
    Answer { status, headers: Vec::new(), body: json!({"error": error}).to_string() }
}

/// Something that is no JSON.
pub(crate) fn text(body: &str) -> Answer {
    Answer { status: 200, headers: Vec::new(), body: body.to_owned() }
}

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Within the vault; with its query, but without the version.
    pub(crate) target: String,
    pub(crate) body: Value,
}

#[derive(Debug, Default)]
struct Script {
    exchanges: Mutex<HashMap<(String, String), Vec<Answer>>>,
    seen: Mutex<Vec<Seen>>,
}

/// A running server; it ends with the test.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    /// The authority's certificate.
    pub(crate) authority: String,
    script: Arc<Script>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    /// Starts a server that knows its vault and nothing else.
    pub(crate) fn start() -> Self {
        let script = Arc::new(Script::default());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
        let Tls { url, authority, runtime } = Tls::serve(router);
        let server = Self { url, authority, script, _runtime: runtime };
        server.play("GET", "/", &[ok(json!({"service": "switchback", "vault": VAULT}))]);
        server
    }

    /// What to answer to a method and a path; a path that does not begin with a slash is within the vault.
    pub(crate) fn play(&self, method: &str, path: &str, answers: &[Answer]) {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("{VAULT}/{path}") };
        let mut answers = answers.to_vec();
        answers.reverse();
        self.script.exchanges.lock().unwrap().insert((method.to_owned(), path), answers);
    }

    /// The requests that changed something.
    pub(crate) fn changes(&self) -> Vec<Seen> {
        self.requests().into_iter().filter(|seen| seen.method != "GET").collect()
    }

    /// All requests.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.script.seen.lock().unwrap().clone()
    }
}

async fn answer(State(script): State<Arc<Script>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let bytes: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default();
    let rest = query.strip_prefix("api-version=2024-04-01").unwrap_or(query).trim_start_matches('&');
    let within = path.strip_prefix(VAULT).map_or(path.as_str(), |within| within.trim_start_matches('/'));
    let target = if rest.is_empty() { within.to_owned() } else { format!("{within}?{rest}") };
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    script.seen.lock().unwrap().push(Seen { method: parts.method.to_string(), target, body });
    let token = parts.headers.get("authorization").and_then(|value| value.to_str().ok());
    let is_known = path == "/" || token == Some(&format!("Bearer {TOKEN}"));
    let chosen = if is_known {
        let mut exchanges = script.exchanges.lock().unwrap();
        let played = exchanges.get_mut(&(parts.method.to_string(), path.clone()));
        played.and_then(|answers| if answers.len() > 1 { answers.pop() } else { answers.last().cloned() })
    } else {
        Some(refusal(401, "AuthenticationFailed", "the token is not known here", "", ""))
    };
    let chosen =
        chosen.unwrap_or_else(|| refusal(404, "ResourceNotFound", &format!("there is no {path}"), "", ""));
    let mut response = Response::builder().status(chosen.status);
    for (name, value) in chosen.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(chosen.body)).unwrap()
}

/// An authority, and what a server with a certificate of it needs.
pub(crate) fn certificates(name: &str) -> (String, ServerConfig) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    (authority_certificate.pem(), config.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

/// A router behind TLS, on a port of its own.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) url: String,
    /// The authority's certificate.
    pub(crate) authority: String,
    /// It serves until this is dropped.
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl Tls {
    pub(crate) fn serve(router: Router) -> Self {
        let (authority, tls) = certificates("localhost");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let tcp = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("https://localhost:{}", tcp.local_addr().unwrap().port());
        let listener = TlsListener { tcp, acceptor: TlsAcceptor::from(Arc::new(tls)) };
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { url, authority, runtime }
    }
}

struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, peer)) = self.tcp.accept().await else { continue };
            // Who does not trust us has hung up.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
