//! A client of what speaks plain HTTP on this host: storage of tests, metrics.

use std::sync::Arc;
use std::time::Duration;

/// A client whose requests take so long at most, their bodies included.
pub(crate) fn client(limit: Duration) -> reqwest::Result<reqwest::blocking::Client> {
    let builder = reqwest::blocking::Client::builder().tls_backend_preconfigured(no_tls());
    builder.no_proxy().timeout(limit).build()
}

/// Who speaks TLS is not trusted.
fn no_tls() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}
