//! How other servers (issuers of tokens, receivers of webhooks) are asked by https: without redirects, within a time, and only those that are trusted.

use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Those that a server's TLS is checked by: the authorities in `authority` (PEM) alone, or this host's.
///
/// # Errors
/// What is wrong with the certificates.
pub fn roots(authority: Option<&str>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(pem) = authority else {
        // Those that cannot be read are not needed, unless there are no others.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("the authority is no PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("the authority has no good certificate: {error}"))?;
    }
    if roots.is_empty() {
        return Err("the authority has no certificate in it".into());
    }
    Ok(roots)
}

/// What may be asked for without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// Nothing.
    Never,
    /// What the caller has found to be on this very host; no proxy is asked for it.
    OnThisHost,
}

/// A client that follows no redirects and gives a request up after `limit`.
///
/// # Errors
/// What is wrong with the authority.
pub fn client(authority: Option<&str>, limit: Duration, plain: Plain) -> Result<reqwest::Client, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(authority)?)
        .with_no_client_auth();
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .redirect(Policy::none())
        .timeout(limit)
        .user_agent(concat!("switchback/", env!("CARGO_PKG_VERSION")));
    let builder = match plain {
        Plain::Never => builder.https_only(true),
        Plain::OnThisHost => builder.no_proxy(),
    };
    builder.build().map_err(|error| error.to_string())
}

/// The last cause is the one that tells.
#[must_use]
pub fn root_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
