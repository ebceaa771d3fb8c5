//! TLS towards a configuration server: the site's authority is the only one that counts.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Why this is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is no certificate in it.
    #[error("there is no certificate in PEM (`-----BEGIN CERTIFICATE-----`) in it")]
    None,
    /// A certificate cannot be read.
    #[error("its certificate cannot be used: {0}")]
    Unusable(String),
}

/// The certificates of an authority, from PEM. Private keys that stand beside them are not looked at.
///
/// # Errors
/// [`AuthorityError`].
pub fn parse_authority(pem: &str) -> Result<RootCertStore, AuthorityError> {
    let unusable = |error: &dyn std::fmt::Display| AuthorityError::Unusable(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() { Err(AuthorityError::None) } else { Ok(roots) }
}

/// TLS 1.3 alone, as everywhere in the product.
pub(super) fn client_config(authority_pem: &str) -> Result<ClientConfig, super::ClientError> {
    let roots = parse_authority(authority_pem)?;
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| AuthorityError::Unusable(error.to_string()))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
