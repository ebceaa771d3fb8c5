//! The certificate that users' programs see: host names and addresses instead of a role.
//!
//! It lives as long as a component's, in memory only: a restart makes another one, and nobody pins it, as what users trust is the
//! authority. Handshakes that begin after a renewal show the new one.

use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::sign::CertifiedKey;
use switchback_model::UnixMillis;

use crate::{Authority, AuthorityError, CERTIFICATE_LIFETIME_MS};

/// A server's certificate for users, renewed in place.
pub struct WebCertificate {
    authority: Arc<Authority>,
    names: Vec<String>,
    current: RwLock<(UnixMillis, Arc<CertifiedKey>)>,
}

impl std::fmt::Debug for WebCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebCertificate").field("names", &self.names).finish_non_exhaustive()
    }
}

impl WebCertificate {
    /// For a server that users reach under `names`: host names or IP addresses.
    ///
    /// # Errors
    /// [`AuthorityError::BadRequest`] when there is no name, or one is none.
    pub fn issue(authority: Arc<Authority>, names: Vec<String>) -> Result<Arc<Self>, AuthorityError> {
        let current = RwLock::new(make(&authority, &names)?);
        Ok(Arc::new(Self { authority, names, current }))
    }

    /// Replaces it when two thirds of its life are over; says whether.
    ///
    /// # Errors
    /// As [`WebCertificate::issue`]; the old one is still shown then.
    pub fn renew_if_due(&self) -> Result<bool, AuthorityError> {
        let issued = self.current.read().unwrap_or_else(PoisonError::into_inner).0;
        if self.authority.clock().now().0 < issued.0.saturating_add(CERTIFICATE_LIFETIME_MS / 3 * 2) {
            return Ok(false);
        }
        let renewed = make(&self.authority, &self.names)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(true)
    }

    pub(crate) fn signing(&self) -> Arc<CertifiedKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

fn make(authority: &Authority, names: &[String]) -> Result<(UnixMillis, Arc<CertifiedKey>), AuthorityError> {
    let bad = |detail: String| AuthorityError::BadRequest { detail };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| bad(error.to_string()))?;
    let certificate = authority.certify_web(&key, names)?;
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der.into())
        .map_err(|error| bad(error.to_string()))?;
    Ok((authority.clock().now(), Arc::new(CertifiedKey::new(vec![certificate], signing))))
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
