//! A component's own key, its certificate, and the authority it trusts.
//!
//! # File
//! `credentials.pem`: private key (PKCS #8), own certificate, CA certificate, in this order **in one file**, so that a
//! crash during renewal leaves either the old three or the new three. The volume must give it to its owner only.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::CertificateDer;
use switchback_disk::Volume;
use switchback_model::UnixMillis;
use zeroize::Zeroizing;

use crate::{Certificate, CertificateError, PeerIdentity};

const FILE: &str = "credentials.pem";
const FILE_LEN_MAX: usize = 64 * 1024;

/// Why there are no usable credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// Never enrolled.
    #[error(
        "this machine is not enrolled (no credentials in {volume}); run `switchback enrol` with the passphrase of the target"
    )]
    Missing {
        /// Where they would be.
        volume: String,
    },
    /// Renewed too late: the old certificate cannot vouch for a new one any more.
    #[error(
        "the certificate of {identity} expired at {not_after_ms} ms since 1970, now is {now_ms}: either this machine was cut off \
         for days or its clock is wrong; set the clock, then run `switchback enrol` again"
    )]
    Expired {
        /// Whose.
        identity: PeerIdentity,
        /// Milliseconds since 1970.
        not_after_ms: u64,
        /// Milliseconds since 1970.
        now_ms: u64,
    },
    /// Certificate and key are not a pair, or it is not a certificate of ours.
    #[error("the credentials are damaged: {detail}; run `switchback enrol` again")]
    Damaged {
        /// In which way.
        detail: String,
    },
    /// The authority did not certify the key.
    #[error("the authority did not issue a certificate: {detail}")]
    Refused {
        /// Why.
        detail: String,
    },
    /// The volume failed.
    #[error("{action} the credentials in {volume} failed: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// Where.
        volume: String,
        /// The system's words.
        source: io::Error,
    },
}

impl From<CertificateError> for CredentialsError {
    fn from(error: CertificateError) -> Self {
        Self::Damaged { detail: error.to_string() }
    }
}

/// A new key pair that waits for its certificate. A new one for every certificate.
pub struct KeyRequest {
    key: KeyPair,
    request: Vec<u8>,
}

impl std::fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRequest(..)")
    }
}

impl KeyRequest {
    /// A new ECDSA P-256 key pair.
    ///
    /// # Panics
    /// When the system has no random source.
    #[must_use]
    pub fn generate() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("the system gives random bytes");
        let request =
            CertificateParams::default().serialize_request(&key).expect("a fresh key signs a request");
        let request = request.der().to_vec();
        Self { key, request }
    }

    /// The request to send to the authority (PKCS #10, DER).
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.request
    }

    /// Joins the key with what the authority made of the request.
    ///
    /// # Errors
    /// [`CredentialsError::Damaged`] when it is not a certificate of this key.
    pub fn into_credentials(
        self,
        certificate: CertificateDer<'static>,
        authority: CertificateDer<'static>,
    ) -> Result<Credentials, CredentialsError> {
        Credentials::new(self.key, certificate, authority)
    }

    /// Joins the key with what [`Authority::renew`](crate::Authority::renew) answered, if it is a new certificate of the same component from the same authority.
    ///
    /// # Errors
    /// [`CredentialsError::Damaged`], [`CredentialsError::Refused`].
    pub fn into_renewed(self, answer: &[u8], former: &Credentials) -> Result<Credentials, CredentialsError> {
        let damaged = || CredentialsError::Damaged { detail: "not two certificates".into() };
        let blocks = pem::parse_many(answer).map_err(|_| damaged())?;
        let [certificate, authority] = blocks.as_slice() else { return Err(damaged()) };
        let der = |block: &pem::Pem| CertificateDer::from(block.contents().to_vec());
        let renewed = self.into_credentials(der(certificate), der(authority))?;
        if renewed.identity() != former.identity() || renewed.authority() != former.authority() {
            let detail = format!("it answered {} with one for {}", former.identity(), renewed.identity());
            return Err(CredentialsError::Refused { detail });
        }
        Ok(renewed)
    }
}

/// Key, certificate, authority. `Debug` shows whose and until when, nothing of the key.
#[derive(Clone)]
pub struct Credentials {
    key: Zeroizing<Vec<u8>>,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    facts: Certificate,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.facts.identity)
            .field("not_after", &self.facts.not_after)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    fn new(
        key: KeyPair,
        certificate: CertificateDer<'static>,
        authority: CertificateDer<'static>,
    ) -> Result<Self, CredentialsError> {
        let facts = Certificate::parse(&certificate)?;
        if facts.public_key != key.subject_public_key_info() {
            return Err(CredentialsError::Damaged { detail: "the certificate is of another key".into() });
        }
        Ok(Self { key: Zeroizing::new(key.serialize_der()), certificate, authority, facts })
    }

    /// Reads what [`Credentials::to_pem`] wrote.
    ///
    /// # Errors
    /// [`CredentialsError::Damaged`].
    pub fn from_pem(contents: &[u8]) -> Result<Self, CredentialsError> {
        let damaged = |detail: &str| CredentialsError::Damaged { detail: detail.into() };
        let blocks = pem::parse_many(contents).map_err(|_| damaged("not PEM"))?;
        let [key, certificate, authority] = blocks.as_slice() else {
            return Err(damaged("not a key and two certificates"));
        };
        if [key.tag(), certificate.tag(), authority.tag()] != ["PRIVATE KEY", "CERTIFICATE", "CERTIFICATE"] {
            return Err(damaged("not a key and two certificates"));
        }
        let key = KeyPair::try_from(key.contents()).map_err(|_| damaged("the key cannot be read"))?;
        let der = |block: &pem::Pem| CertificateDer::from(block.contents().to_vec());
        Self::new(key, der(certificate), der(authority))
    }

    /// The contents of the file.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let block = |tag: &str, der: &[u8]| pem::encode(&pem::Pem::new(tag, der));
        let key = Zeroizing::new(block("PRIVATE KEY", &self.key));
        let (certificate, authority) =
            (block("CERTIFICATE", &self.certificate), block("CERTIFICATE", &self.authority));
        Zeroizing::new(format!("{}{certificate}{authority}", *key))
    }

    /// The credentials in `volume`.
    ///
    /// # Errors
    /// [`CredentialsError::Missing`], [`CredentialsError::Damaged`]; those of the volume. Not when they
    /// have expired: see [`Credentials::check`].
    pub fn load(volume: &dyn Volume) -> Result<Self, CredentialsError> {
        match volume.read_all(FILE, FILE_LEN_MAX).map(Zeroizing::new) {
            Ok(contents) => Self::from_pem(&contents),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(CredentialsError::Missing { volume: volume.name().into() })
            }
            Err(source) => {
                Err(CredentialsError::Io { action: "reading", volume: volume.name().into(), source })
            }
        }
    }

    /// Puts them into `volume` in place of older ones, durable on return.
    ///
    /// # Errors
    /// Those of the volume; the older ones then stay.
    pub fn store(&self, volume: &dyn Volume) -> Result<(), CredentialsError> {
        volume.write_atomic(FILE, self.to_pem().as_bytes()).map_err(|source| CredentialsError::Io {
            action: "writing",
            volume: volume.name().into(),
            source,
        })
    }

    /// What the certificate says.
    #[must_use]
    pub fn facts(&self) -> &Certificate {
        &self.facts
    }

    /// Whose they are.
    #[must_use]
    pub fn identity(&self) -> &PeerIdentity {
        &self.facts.identity
    }

    /// The authority's certificate.
    #[must_use]
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// PKCS #8, DER.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether two thirds of the certificate's life are over.
    #[must_use]
    pub fn is_due_for_renewal(&self, now: UnixMillis) -> bool {
        let (from, until) = (self.facts.not_before.0, self.facts.not_after.0);
        now.0 >= from + until.saturating_sub(from) / 3 * 2
    }

    /// Whether they can still be used.
    ///
    /// # Errors
    /// [`CredentialsError::Expired`], which says to enrol again.
    pub fn check(&self, now: UnixMillis) -> Result<(), CredentialsError> {
        if now <= self.facts.not_after {
            return Ok(());
        }
        Err(CredentialsError::Expired {
            identity: self.facts.identity.clone(),
            not_after_ms: self.facts.not_after.0,
            now_ms: now.0,
        })
    }
}

/// The credentials a running component shows, replaceable without a restart: handshakes that begin after
/// [`LiveCredentials::replace`] show the new ones, connections that stand are not touched.
#[derive(Debug)]
pub struct LiveCredentials {
    current: RwLock<(Arc<Credentials>, Arc<rustls::sign::CertifiedKey>)>,
}

impl LiveCredentials {
    /// Begins with `credentials`.
    ///
    /// # Errors
    /// [`CredentialsError::Damaged`] when TLS cannot sign with the key.
    pub fn new(credentials: Credentials) -> Result<Arc<Self>, CredentialsError> {
        let signing = signing_key(&credentials)?;
        Ok(Arc::new(Self { current: RwLock::new((Arc::new(credentials), signing)) }))
    }

    /// The credentials of now.
    #[must_use]
    pub fn current(&self) -> Arc<Credentials> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    pub(crate) fn signing(&self) -> Arc<rustls::sign::CertifiedKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Shows `credentials` from now on.
    ///
    /// # Errors
    /// As [`LiveCredentials::new`]; the older ones then stay.
    pub fn replace(&self, credentials: Credentials) -> Result<(), CredentialsError> {
        let signing = signing_key(&credentials)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = (Arc::new(credentials), signing);
        Ok(())
    }
}

fn signing_key(credentials: &Credentials) -> Result<Arc<rustls::sign::CertifiedKey>, CredentialsError> {
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(credentials.key().to_vec());
    let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key.into())
        .map_err(|error| CredentialsError::Damaged { detail: error.to_string() })?;
    Ok(Arc::new(rustls::sign::CertifiedKey::new(vec![credentials.certificate().clone()], key)))
}

#[cfg(test)]
mod tests;
