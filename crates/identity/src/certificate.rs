//! What a certificate says: whose it is, and how long it holds.

use rustls::pki_types::CertificateDer;
use switchback_model::UnixMillis;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::PeerIdentity;

/// The facts of one certificate. Says nothing of who signed it: that is checked in the TLS handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose.
    pub identity: PeerIdentity,
    /// Valid from.
    pub not_before: UnixMillis,
    /// Valid until.
    pub not_after: UnixMillis,
    /// The public key it certifies (SubjectPublicKeyInfo, DER).
    pub(crate) public_key: Vec<u8>,
}

/// Why a certificate says nothing to us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Not X.509.
    #[error("the certificate cannot be read")]
    Malformed,
    /// Not of ours.
    #[error("the certificate names no component of Switchback (it has no single switchback:// URI)")]
    NoIdentity,
}

impl Certificate {
    /// Reads a certificate's facts.
    ///
    /// # Errors
    /// When it is not X.509 or does not carry exactly one `switchback://` URI.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::Malformed);
        }
        let names = certificate.subject_alternative_name().map_err(|_| CertificateError::Malformed)?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let [GeneralName::URI(uri)] = names else { return Err(CertificateError::NoIdentity) };
        let validity = certificate.validity();
        let millis = |seconds: i64| UnixMillis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
        Ok(Self {
            identity: PeerIdentity::from_uri(uri).ok_or(CertificateError::NoIdentity)?,
            not_before: millis(validity.not_before.timestamp()),
            not_after: millis(validity.not_after.timestamp()),
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// Whose certificate a connection's peer has shown.
    ///
    /// # Errors
    /// As [`Certificate::parse`]; [`CertificateError::NoIdentity`] when it has shown none.
    pub fn of_peer(chain: Option<&[CertificateDer<'_>]>) -> Result<Self, CertificateError> {
        Self::parse(chain.and_then(<[_]>::first).ok_or(CertificateError::NoIdentity)?)
    }
}
