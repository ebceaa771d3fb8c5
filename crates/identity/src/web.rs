//! The certificate that users' programs see: host names and addresses instead of a role.
//!
//! Either the authority's own: it lives as long as a component's, in memory only: a restart makes another one, and nobody pins it, as what users trust is the
//! authority. Or a given one ([`given`]): a chain and its key in files that somebody else renews; they are read again when their contents have changed,
//! and a pair that is not good never takes the place of one that was. Handshakes that begin after a renewal show the new one.

mod given;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use switchback_disk::Clock;
use switchback_model::UnixMillis;

pub use self::given::GivenCertificateError;
use self::given::Pair;
use crate::{Authority, AuthorityError, CERTIFICATE_LIFETIME_MS};

/// A server's certificate for users, renewed in place.
pub struct WebCertificate {
    source: Source,
    current: RwLock<Current>,
}

enum Source {
    Issued { authority: Arc<Authority>, names: Vec<String> },
    Given { pair: Pair, clock: Arc<dyn Clock> },
}

struct Current {
    key: Arc<CertifiedKey>,
    /// When it was issued.
    since: UnixMillis,
    /// Of a given one: what the files had.
    digest: [u8; 32],
}

/// Why there is no other certificate; the one that was there is still shown.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// Ours cannot be issued.
    #[error(transparent)]
    Issue(#[from] AuthorityError),
    /// The files are not good.
    #[error(transparent)]
    Given(#[from] GivenCertificateError),
}

impl std::fmt::Debug for WebCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebCertificate").field("names", &self.names()).finish_non_exhaustive()
    }
}

impl WebCertificate {
    /// For a server that users reach under `names`: host names or IP addresses.
    ///
    /// # Errors
    /// [`AuthorityError::BadRequest`] when there is no name, or one is none.
    pub fn issue(authority: Arc<Authority>, names: Vec<String>) -> Result<Arc<Self>, AuthorityError> {
        let current = RwLock::new(make(&authority, &names)?);
        Ok(Arc::new(Self { source: Source::Issued { authority, names }, current }))
    }

    /// A given one: PEM files with a chain, the server's own certificate first, and with its key.
    ///
    /// # Errors
    /// Which file is wrong in which way.
    pub fn given(
        certificate: PathBuf,
        key: PathBuf,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, GivenCertificateError> {
        let pair = Pair { certificate, key };
        let read = pair.read()?;
        let current = Current { key: read.check(clock.now())?, since: clock.now(), digest: read.digest() };
        Ok(Arc::new(Self { source: Source::Given { pair, clock }, current: RwLock::new(current) }))
    }

    /// Replaces it when two thirds of its life are over, or when the given files have changed; says whether.
    ///
    /// # Errors
    /// Why it cannot be replaced, or that a given one is over; the old one is still shown then.
    pub fn renew_if_due(&self) -> Result<bool, RenewalError> {
        let (since, digest) = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            (current.since, current.digest)
        };
        let renewed = match &self.source {
            Source::Issued { authority, names } => {
                if authority.clock().now().0 < since.0.saturating_add(CERTIFICATE_LIFETIME_MS / 3 * 2) {
                    return Ok(false);
                }
                make(authority, names)?
            }
            Source::Given { pair, clock } => {
                let (read, now) = (pair.read()?, clock.now());
                // Also what has not changed is looked at: its time may be over.
                let key = read.check(now)?;
                if read.digest() == digest {
                    return Ok(false);
                }
                Current { key, since: now, digest: read.digest() }
            }
        };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(true)
    }

    /// Whether it states a host name or an address, as it is now.
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        let key = self.signing();
        let certificate = key.cert.first().and_then(|first| ParsedCertificate::try_from(first).ok());
        match (certificate, ServerName::try_from(host)) {
            (Some(certificate), Ok(name)) => rustls::client::verify_server_name(&certificate, &name).is_ok(),
            _ => false,
        }
    }

    /// Host names and addresses that it states.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.signing().cert.first().map(|first| given::names(first)).unwrap_or_default()
    }

    /// The chain of a given certificate, PEM: what a program that knows our authority alone needs beside to trust this server.
    #[must_use]
    pub fn given_chain(&self) -> Option<String> {
        let Source::Given { .. } = self.source else { return None };
        let blocks = self
            .signing()
            .cert
            .iter()
            .map(|der| pem::Pem::new("CERTIFICATE", der.to_vec()))
            .collect::<Vec<_>>();
        Some(pem::encode_many(&blocks))
    }

    pub(crate) fn signing(&self) -> Arc<CertifiedKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).key.clone()
    }
}

fn make(authority: &Authority, names: &[String]) -> Result<Current, AuthorityError> {
    let bad = |detail: String| AuthorityError::BadRequest { detail };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| bad(error.to_string()))?;
    let certificate = authority.certify_web(&key, names)?;
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der.into())
        .map_err(|error| bad(error.to_string()))?;
    let key = Arc::new(CertifiedKey::new(vec![certificate], signing));
    Ok(Current { key, since: authority.clock().now(), digest: [0; 32] })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use switchback_disk::Clock;

    use super::WebCertificate;
    use crate::memory::TestClock;
    use crate::{Authority, CERTIFICATE_LIFETIME_MS, Certificate, CertificateError};

    /// Whether a client that trusts the authority, and nothing of ours, takes it for the server of a name.
    fn trusted(web: &WebCertificate, authority: &CertificateDer<'static>, name: &str, now_ms: u64) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let signing = web.signing();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now_ms));
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            &*verifier,
            &signing.cert[0],
            &[],
            &name,
            &[],
            now,
        )
        .is_ok()
    }

    #[test]
    fn it_is_trusted_for_its_names_and_addresses_only_and_renewed_in_time() {
        const NOW: u64 = 1_800_000_000_000;
        let clock = TestClock::at(NOW);
        let authority = Arc::new(Authority::ephemeral(clock.clone()));
        let root = authority.certificate().clone();
        let names = vec!["cs.example".to_owned(), "192.0.2.7".to_owned()];
        let web = WebCertificate::issue(authority, names).unwrap();
        assert!(trusted(&web, &root, "cs.example", NOW));
        assert!(trusted(&web, &root, "192.0.2.7", NOW));
        assert!(!trusted(&web, &root, "other.example", NOW));
        assert!(web.is_for("CS.example") && web.is_for("192.0.2.7") && !web.is_for("other.example"));
        assert_eq!((web.names(), web.given_chain()), (vec!["cs.example".into(), "192.0.2.7".into()], None));
        let first = web.signing();
        assert_eq!(
            Certificate::parse(&first.cert[0]),
            Err(CertificateError::NoIdentity),
            "it is no component"
        );
        clock.set(NOW + CERTIFICATE_LIFETIME_MS / 2);
        assert!(!web.renew_if_due().unwrap());
        clock.set(NOW + CERTIFICATE_LIFETIME_MS / 3 * 2);
        assert!(web.renew_if_due().unwrap());
        assert!(trusted(&web, &root, "cs.example", clock.now().0 + CERTIFICATE_LIFETIME_MS / 2));
    }

    #[test]
    fn a_server_without_a_name_is_refused() {
        let authority = Arc::new(Authority::ephemeral(TestClock::at(1_800_000_000_000)));
        assert!(WebCertificate::issue(authority.clone(), Vec::new()).is_err());
        assert!(WebCertificate::issue(authority, vec!["no name, but words".into()]).is_err());
    }
}
