//! One exchange with a server: a request, an answer, limits on both. No address with a query gets into an error: it may be a SAS.

use std::error::Error;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::blocking::Client;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::error::AzureError;
use crate::trace_context;

/// TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// Azure closes idle connections after some minutes; one of ours is not used again when that may just be happening.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// Longest answer in bytes: a page of a list has some hundred KiB, a serial log less than 1 MiB.
const ANSWER_LEN_MAX: usize = 64 << 20;
const CHUNK_LEN: usize = 64 << 10;

/// What is sent.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) bearer: Option<zeroize::Zeroizing<String>>,
    pub(super) body: Vec<u8>,
}

impl Call {
    pub(super) fn new(method: Method, url: impl Into<String>) -> Self {
        Self { method, url: url.into(), headers: Vec::new(), bearer: None, body: Vec::new() }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    headers: reqwest::header::HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// How long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after")?.trim().parse().ok().map(Duration::from_secs)
    }
}

/// The way to all servers.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    /// For what is not encrypted: a proxy would see it, and could not reach this host's own metadata service.
    direct: Client,
}

impl Http {
    /// `certificates`: a PEM file with authorities; `None`: those of this host.
    pub(super) fn new(certificates: Option<&Path>) -> Result<Self, AzureError> {
        let wrong = |error: &dyn ToString| {
            AzureError::Settings(format!("HTTP cannot be set up: {}", error.to_string()))
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(&error))?
            .with_root_certificates(roots(certificates)?)
            .with_no_client_auth();
        let client = || {
            Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .redirect(Policy::none())
                .connect_timeout(CONNECT_LIMIT)
                .pool_idle_timeout(IDLE_LIMIT)
                .http1_only()
                .user_agent(concat!("switchback/", env!("CARGO_PKG_VERSION")))
        };
        Ok(Self {
            client: client().build().map_err(|error| wrong(&error))?,
            direct: client().no_proxy().build().map_err(|error| wrong(&error))?,
        })
    }

    /// Sends it, and reads the answer, in `limit` at most.
    pub(super) fn send(&self, call: &Call, limit: Duration) -> Result<Reply, AzureError> {
        let client = if call.url.starts_with("http:") { &self.direct } else { &self.client };
        let mut request = client.request(call.method.clone(), &call.url).timeout(limit);
        for (name, value) in &call.headers {
            request = request.header(HeaderName::from_static(name), value);
        }
        for (name, value) in trace_context::current() {
            request = request.header(name, value);
        }
        if let Some(token) = &call.bearer {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.as_str()))
                .map_err(|_| AzureError::Protocol("its token is no text".into()))?;
            value.set_sensitive(true);
            request = request.header(reqwest::header::AUTHORIZATION, value);
        }
        let mut response = request
            .body(call.body.clone())
            .send()
            .map_err(|error| unreachable(call, &error.without_url()))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = Vec::new();
        let mut chunk = vec![0; CHUNK_LEN];
        loop {
            let len = response.read(&mut chunk).map_err(|error| unreachable(call, &error))?;
            if len == 0 {
                return Ok(Reply { status, headers, body });
            }
            body.extend_from_slice(&chunk[..len]);
            if body.len() > ANSWER_LEN_MAX {
                return Err(AzureError::Protocol(format!("it is longer than {ANSWER_LEN_MAX} bytes")));
            }
        }
    }
}

fn roots(certificates: Option<&Path>) -> Result<RootCertStore, AzureError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = certificates else {
        // Those that cannot be read are not needed, unless there are no others.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    let wrong = |error: &dyn ToString| {
        AzureError::Settings(format!("`cloud.certificates`, {}: {}", file.display(), error.to_string()))
    };
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))? {
        roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"there is no certificate in it"));
    }
    Ok(roots)
}

/// Scheme and host of an address: what may be shown of it.
pub(super) fn origin(url: &str) -> String {
    url::Url::parse(url).map_or_else(|_| "the server".into(), |url| url.origin().ascii_serialization())
}

fn unreachable(call: &Call, error: &(dyn Error + 'static)) -> AzureError {
    let server = origin(&call.url);
    let mut last = error.to_string();
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(problem)) = error.downcast_ref() {
            return AzureError::Untrusted { server, detail: problem.to_string() };
        }
        // An I/O error that wraps another hides it from `source`.
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => {
                last = error.to_string();
                error.source()
            }
        };
    }
    AzureError::Unreachable { server, detail: last }
}
