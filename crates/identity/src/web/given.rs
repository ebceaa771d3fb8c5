//! A certificate for users that somebody else issues and renews: a chain and its key, in PEM files.
//!
//! Invariant: a pair is taken whole or not at all. What would fail later, at users, is found here and said with its file: a key of another
//! certificate, a chain out of order, a time that is over, no name. Whom users trust is their matter: the chain is not checked up to a root.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use switchback_model::UnixMillis;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

/// Longest file in bytes. A chain goes into the first start of process servers too, which has 64 KiB at Azure.
const FILE_LEN_MAX: u64 = 24 << 10;

/// Which file is wrong, and in which way.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be used for users' TLS: {problem}", file.display())]
pub struct GivenCertificateError {
    file: PathBuf,
    problem: String,
}

/// Where they are.
pub(super) struct Pair {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// What the files have.
pub(super) struct Contents<'a> {
    pair: &'a Pair,
    certificate: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
}

impl Pair {
    pub(super) fn read(&self) -> Result<Contents<'_>, GivenCertificateError> {
        Ok(Contents { pair: self, certificate: read(&self.certificate)?, key: read(&self.key)? })
    }
}

fn wrong(file: &Path, problem: impl ToString) -> GivenCertificateError {
    GivenCertificateError { file: file.to_owned(), problem: problem.to_string() }
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, GivenCertificateError> {
    let mut bytes = Zeroizing::new(Vec::new());
    let opened = std::fs::File::open(file).map_err(|error| wrong(file, error))?;
    opened.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes).map_err(|error| wrong(file, error))?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        return Err(wrong(
            file,
            format!("it is over {FILE_LEN_MAX} bytes; only the server's chain belongs into it"),
        ));
    }
    Ok(bytes)
}

impl Contents<'_> {
    /// By which a change is seen.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(blake3::hash(&self.certificate).as_bytes()).update(blake3::hash(&self.key).as_bytes());
        hasher.finalize().into()
    }

    /// The pair, if it is a good one.
    pub(super) fn check(&self, now: UnixMillis) -> Result<Arc<CertifiedKey>, GivenCertificateError> {
        let Pair { certificate: certificate_file, key: key_file } = self.pair;
        let bad = |problem: String| wrong(certificate_file, problem);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.map_err(|error| bad(format!("it is no PEM: {error}")))?;
        let parsed: Result<Vec<_>, _> =
            chain.iter().map(|der| X509Certificate::from_der(der).map(|(_, parsed)| parsed)).collect();
        let parsed = parsed.map_err(|error| bad(format!("a certificate in it cannot be read: {error}")))?;
        let Some(own) = parsed.first() else { return Err(bad("it has no `BEGIN CERTIFICATE`".into())) };
        for (at, pair) in parsed.windows(2).enumerate() {
            if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
                let (one, next) = (at + 1, at + 2);
                return Err(bad(format!(
                    "certificate {one} was not issued by certificate {next} ({}); put the server's own first, then each one's issuer",
                    pair[1].subject()
                )));
            }
        }
        let now_s = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
        let validity = own.validity();
        if now_s > validity.not_after.timestamp() {
            return Err(bad(format!("it was valid until {}; renew it", validity.not_after)));
        }
        if now_s < validity.not_before.timestamp() {
            return Err(bad(format!(
                "it is valid only from {}; is this host's clock right?",
                validity.not_before
            )));
        }
        if chain.first().is_none_or(|own| names(own).is_empty()) {
            return Err(bad("it states no host name or address (subjectAltName)".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| {
            let text = String::from_utf8_lossy(&self.key);
            let is_encrypted = text.contains("ENCRYPTED");
            wrong(
                key_file,
                if is_encrypted {
                    "the key is encrypted; give it without a passphrase, readable for this server's user only"
                        .into()
                } else {
                    format!("it has no private key in PEM: {error}")
                },
            )
        })?;
        let key = rustls::crypto::aws_lc_rs::default_provider().key_provider.load_private_key(key);
        let key = key.map_err(|error| wrong(key_file, format!("the key cannot be used: {error}")))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Arc::new(certified)),
            Err(_) => Err(wrong(
                key_file,
                format!("it is not the key of the first certificate in {}", certificate_file.display()),
            )),
        }
    }
}

/// Host names and addresses that a certificate states.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    let shown = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(shown).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use crate::memory::TestClock;
    use crate::{GivenCertificateError, WebCertificate};

    const NOW: u64 = 1_800_000_000_000;

    /// An issuer's certificate, and one for `name` with its key, all PEM.
    fn made(name: &str) -> (String, String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("Issuer of {name}"));
        let issuer_key = KeyPair::generate().unwrap();
        let issuer = params.self_signed(&issuer_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut own = CertificateParams::new(vec![name.to_owned()]).unwrap();
        own.not_before = rcgen::date_time_ymd(2026, 1, 1);
        own.not_after = rcgen::date_time_ymd(2028, 1, 1);
        let own = own.signed_by(&key, &Issuer::new(params, &issuer_key)).unwrap();
        (issuer.pem(), own.pem(), key.serialize_pem())
    }

    fn open(
        at: &Path,
        chain: &str,
        key: &str,
        now: u64,
    ) -> Result<Arc<WebCertificate>, GivenCertificateError> {
        let (chain_file, key_file) = (at.join("chain.pem"), at.join("key.pem"));
        std::fs::write(&chain_file, chain).unwrap();
        std::fs::write(&key_file, key).unwrap();
        WebCertificate::given(chain_file, key_file, TestClock::at(now))
    }

    #[test]
    fn bad_pairs_are_refused_with_what_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let (issuer, own, key) = made("*.cs.example");
        let (other_issuer, _, other_key) = made("other.example");
        let web = open(at, &format!("{own}{issuer}"), &key, NOW).unwrap();
        assert_eq!(web.names(), ["*.cs.example"]);
        assert!(web.is_for("dr.cs.example") && !web.is_for("cs.example"));
        assert_eq!(web.given_chain().unwrap().matches("BEGIN CERTIFICATE").count(), 2);
        assert!(!format!("{web:?}").contains("PRIVATE"));
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        for (chain, key, now, file, said) in [
            (own.as_str(), other_key.as_str(), NOW, "key.pem", "not the key of the first certificate"),
            (&format!("{issuer}{own}"), &key, NOW, "chain.pem", "was not issued by certificate 2"),
            (&format!("{own}{other_issuer}"), &key, NOW, "chain.pem", "certificate 1 was not issued"),
            (&issuer, &key, NOW, "chain.pem", "states no host name"),
            (&own, &key, NOW * 2, "chain.pem", "was valid until"),
            (&own, &key, NOW / 2, "chain.pem", "is valid only from"),
            (&key, &key, NOW, "chain.pem", "no `BEGIN CERTIFICATE`"),
            (&own, &own, NOW, "key.pem", "no private key"),
            (&own, encrypted, NOW, "key.pem", "encrypted"),
            (&own.repeat(100), &key, NOW, "chain.pem", "over 24576 bytes"),
        ] {
            let error = open(at, chain, key, now).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(said), "{said}: {error}");
            assert!(!error.contains("BEGIN PRIVATE"), "{error}");
        }
        let missing = WebCertificate::given(at.join("none"), at.join("key.pem"), TestClock::at(NOW));
        assert!(missing.unwrap_err().to_string().contains("No such file"));
    }

    #[test]
    fn changed_files_are_taken_and_bad_ones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let (_, own, key) = made("old.example");
        std::fs::write(at.join("chain.pem"), &own).unwrap();
        std::fs::write(at.join("key.pem"), &key).unwrap();
        let clock = TestClock::at(NOW);
        let web = WebCertificate::given(at.join("chain.pem"), at.join("key.pem"), clock.clone()).unwrap();
        assert!(!web.renew_if_due().unwrap());
        let (_, new, new_key) = made("new.example");
        // Between the two files: not a pair.
        std::fs::write(at.join("chain.pem"), &new).unwrap();
        assert!(web.renew_if_due().unwrap_err().to_string().contains("not the key"));
        assert_eq!(web.names(), ["old.example"]);
        std::fs::write(at.join("key.pem"), &new_key).unwrap();
        assert!(web.renew_if_due().unwrap());
        assert_eq!(web.names(), ["new.example"]);
        clock.set(NOW * 2);
        assert!(web.renew_if_due().unwrap_err().to_string().contains("was valid until"), "a human must look");
        std::fs::remove_file(at.join("key.pem")).unwrap();
        assert!(web.renew_if_due().is_err());
        assert_eq!(web.names(), ["new.example"]);
    }
}
