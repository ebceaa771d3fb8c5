//! The site's certificate authority: one ECDSA P-256 key, its self-signed certificate, the passphrase.
//!
//! # Files
//! `authority.pem`: the private key and the CA certificate **in one file**, so that no crash leaves a key without its
//! certificate. `passphrase`: the current passphrase as a person types it. Both are secrets: the volume must give files
//! to its owner only (mode 0600). Written atomically; an authority that is returned is durable.
//!
//! The passphrase is read anew whenever it is needed, so that one that another process has replaced (`switchback identity passphrase --rotate`) counts at
//! once, and the old one no more; the key is read once.
//!
//! What is issued is not recorded: certificates live for [`CERTIFICATE_LIFETIME_MS`] and are not revoked but run out.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, ServerName};
use switchback_disk::{Clock, Volume};
use switchback_model::UnixMillis;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{Credentials, CredentialsError, InvalidPassphrase, KeyRequest, Passphrase, PeerIdentity};

/// How long a component's certificate holds: 72 hours. Renewal begins after two thirds, so a component may be cut off for a
/// day before it must enrol again.
pub const CERTIFICATE_LIFETIME_MS: u64 = 72 * 3600 * 1000;
/// How far certificates are dated back, for components whose clocks are slow: 5 minutes.
pub const CLOCK_SKEW_MS: u64 = 5 * 60 * 1000;
/// How long the authority itself holds: ten years.
const AUTHORITY_LIFETIME_MS: u64 = 3652 * 24 * 3600 * 1000;

const AUTHORITY_FILE: &str = "authority.pem";
const PASSPHRASE_FILE: &str = "passphrase";
const FILE_LEN_MAX: usize = 64 * 1024;

/// Why the authority cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// There is one already; a second one would lock out everything the first has enrolled.
    #[error("{volume} already holds a certificate authority; it is never overwritten")]
    Exists {
        /// Where.
        volume: String,
    },
    /// There is none.
    #[error("there is no certificate authority in {volume}; `switchback identity init` makes one")]
    Missing {
        /// Where.
        volume: String,
    },
    /// The file is not what was written.
    #[error(
        "{file} of the certificate authority in {volume} is damaged ({detail}); restore it from a backup"
    )]
    Damaged {
        /// Which file.
        file: &'static str,
        /// Where.
        volume: String,
        /// In which way.
        detail: String,
    },
    /// The volume failed.
    #[error("{action} {file} of the certificate authority in {volume} failed: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// Which file.
        file: &'static str,
        /// Where.
        volume: String,
        /// The system's words.
        source: io::Error,
    },
    /// What a component asked to have certified is no sound P-256 key request.
    #[error("the key request is not valid: {detail}")]
    BadRequest {
        /// In which way.
        detail: String,
    },
}

/// The key and the certificate in an authority's file; an error says what is wrong with them.
pub(crate) fn read_authority(
    contents: &[u8],
) -> Result<(Issuer<'static, KeyPair>, CertificateDer<'static>), String> {
    let text = std::str::from_utf8(contents).map_err(|_| "it is not text".to_owned())?;
    let key = KeyPair::from_pem(text).map_err(|error| format!("its private key: {error}"))?;
    let bad = |error: String| format!("its certificate: {error}");
    let certificate = CertificateDer::from_pem_slice(contents).map_err(|error| bad(error.to_string()))?;
    let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| bad(error.to_string()))?;
    Ok((issuer, certificate))
}

fn read(volume: &dyn Volume, file: &'static str) -> Result<Zeroizing<Vec<u8>>, AuthorityError> {
    match volume.read_all(file, FILE_LEN_MAX) {
        Ok(contents) => Ok(Zeroizing::new(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(AuthorityError::Missing { volume: volume.name().into() })
        }
        Err(source) => {
            Err(AuthorityError::Io { action: "reading", file, volume: volume.name().into(), source })
        }
    }
}

fn damaged(volume: &dyn Volume, file: &'static str) -> impl FnOnce(String) -> AuthorityError {
    let volume = volume.name().into();
    move |detail| AuthorityError::Damaged { file, volume, detail }
}

fn read_passphrase(volume: &dyn Volume) -> Result<Passphrase, AuthorityError> {
    let text = read(volume, PASSPHRASE_FILE)?;
    let passphrase = std::str::from_utf8(&text).map_err(|_| InvalidPassphrase).and_then(str::parse);
    passphrase.map_err(|_| damaged(volume, PASSPHRASE_FILE)("it is not a passphrase".into()))
}

fn write_passphrase(volume: &dyn Volume, passphrase: &Passphrase) -> Result<(), AuthorityError> {
    volume.write_atomic(PASSPHRASE_FILE, passphrase.reveal().as_bytes()).map_err(|source| {
        let volume = volume.name().into();
        AuthorityError::Io { action: "writing", file: PASSPHRASE_FILE, volume, source }
    })
}

/// Which authority a certificate (DER) is: its BLAKE3 in hex.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> String {
    blake3::hash(certificate).to_hex().to_string()
}

/// Checks the two files of an authority that are to be restored (`authority.pem` and `passphrase`), and tells which one it is
/// ([`fingerprint`]).
///
/// # Errors
/// What is wrong with them: one cannot be read, or the key is not that of the certificate.
pub fn check_files(authority: &[u8], passphrase: &[u8]) -> Result<String, String> {
    let (issuer, certificate) = read_authority(authority)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
        .map_err(|error| format!("its certificate: {error}"))?;
    if parsed.public_key().subject_public_key.data.as_ref() != issuer.key().public_key_raw() {
        return Err("its private key is not that of its certificate".into());
    }
    let text = std::str::from_utf8(passphrase).map_err(|_| "its passphrase is not text".to_owned())?;
    text.parse::<Passphrase>().map_err(|_| "its passphrase is none".to_owned())?;
    Ok(fingerprint(&certificate))
}

/// The certificate authority. Usable from several threads.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    passphrase: Kept,
    clock: Arc<dyn Clock>,
}

/// Where the passphrase is.
enum Kept {
    /// In a file, which other processes may replace.
    File(Arc<dyn Volume>),
    /// Nowhere else.
    Memory(RwLock<Passphrase>),
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let volume = match &self.passphrase {
            Kept::File(volume) => Some(volume),
            Kept::Memory(_) => None,
        };
        f.debug_struct("Authority").field("volume", &volume).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority with a new passphrase, durable in `volume` on return.
    ///
    /// # Errors
    /// [`AuthorityError::Exists`]; those of the volume.
    pub fn create(volume: Arc<dyn Volume>, clock: Arc<dyn Clock>) -> Result<Self, AuthorityError> {
        let failed = |action, file| {
            let volume = volume.name().to_owned();
            move |source| AuthorityError::Io { action, file, volume, source }
        };
        let files = volume.list().map_err(failed("looking for", AUTHORITY_FILE))?;
        if files.iter().any(|entry| entry.name == AUTHORITY_FILE) {
            return Err(AuthorityError::Exists { volume: volume.name().into() });
        }
        let mut authority = Self::ephemeral(clock);
        // The passphrase first: an authority without one could not be opened, one that is not there yet can be made again.
        write_passphrase(&*volume, &Passphrase::generate())?;
        let key = Zeroizing::new(authority.issuer.key().serialize_pem());
        let certificate = pem::encode(&pem::Pem::new("CERTIFICATE", authority.certificate.to_vec()));
        let contents = Zeroizing::new(format!("{}{certificate}", *key));
        volume
            .write_atomic(AUTHORITY_FILE, contents.as_bytes())
            .map_err(failed("writing", AUTHORITY_FILE))?;
        authority.passphrase = Kept::File(volume);
        Ok(authority)
    }

    /// The authority in `volume`.
    ///
    /// # Errors
    /// [`AuthorityError::Missing`], [`AuthorityError::Damaged`]; those of the volume.
    pub fn open(volume: Arc<dyn Volume>, clock: Arc<dyn Clock>) -> Result<Self, AuthorityError> {
        let contents = read(&*volume, AUTHORITY_FILE)?;
        let (issuer, certificate) = read_authority(&contents).map_err(damaged(&*volume, AUTHORITY_FILE))?;
        read_passphrase(&*volume)?;
        Ok(Self { issuer, certificate, passphrase: Kept::File(volume), clock })
    }

    /// An authority that is kept nowhere, for tests and demonstrations.
    ///
    /// # Panics
    /// When the system has no random source.
    #[must_use]
    pub fn ephemeral(clock: Arc<dyn Clock>) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("the system gives random bytes");
        let now = clock.now();
        let mut params = CertificateParams::default();
        params.not_before = date(UnixMillis(now.0.saturating_sub(CLOCK_SKEW_MS)));
        params.not_after = date(UnixMillis(now.0.saturating_add(AUTHORITY_LIFETIME_MS)));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Switchback site authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("a fresh key signs its own certificate");
        let certificate = certificate.der().clone();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
            passphrase: Kept::Memory(RwLock::new(Passphrase::generate())),
            clock,
        }
    }

    /// The certificate everybody of this site trusts.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// The clock it dates certificates by.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The current passphrase, as it is in the volume now.
    ///
    /// # Errors
    /// [`AuthorityError::Missing`], [`AuthorityError::Damaged`]; those of the volume. An older one is not fallen back to: it may have been replaced because
    /// somebody knows it.
    pub fn passphrase(&self) -> Result<Passphrase, AuthorityError> {
        match &self.passphrase {
            Kept::File(volume) => read_passphrase(&**volume),
            Kept::Memory(kept) => Ok(kept.read().unwrap_or_else(PoisonError::into_inner).clone()),
        }
    }

    /// Replaces the passphrase. The old one admits nobody from then on; who has enrolled with it stays.
    ///
    /// # Errors
    /// Those of the volume; the old one then stays valid.
    pub fn rotate_passphrase(&self) -> Result<Passphrase, AuthorityError> {
        let new = Passphrase::generate();
        match &self.passphrase {
            Kept::File(volume) => write_passphrase(&**volume, &new)?,
            Kept::Memory(kept) => *kept.write().unwrap_or_else(PoisonError::into_inner) = new.clone(),
        }
        Ok(new)
    }

    /// Certifies the key in `request` (PKCS #10, DER; its signature proves possession) for `identity`. Whatever names the
    /// request itself states are ignored: who the caller has proved to be counts.
    ///
    /// # Errors
    /// [`AuthorityError::BadRequest`].
    pub fn certify(
        &self,
        request: &[u8],
        identity: &PeerIdentity,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let bad = |detail: String| AuthorityError::BadRequest { detail };
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
            .map_err(|error| bad(error.to_string()))?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(bad("its key is not on the curve P-256".into()));
        }
        let now = self.clock.now();
        let mut params = CertificateParams::default();
        params.not_before = date(UnixMillis(now.0.saturating_sub(CLOCK_SKEW_MS)));
        params.not_after = date(UnixMillis(now.0.saturating_add(CERTIFICATE_LIFETIME_MS)));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, identity.to_string());
        let uri = identity.uri().try_into().map_err(|error: rcgen::Error| bad(error.to_string()))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Both, as a process server is a server to its agents and a client to its target.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate =
            params.signed_by(&request.public_key, &self.issuer).map_err(|error| bad(error.to_string()))?;
        Ok(certificate.der().clone())
    }

    /// A new key and certificate for a server that users reach under `names` (host names or IP addresses); who trusts the authority's
    /// certificate trusts it. No component takes it for one of its peers: it carries no `switchback://` URI.
    ///
    /// # Errors
    /// [`AuthorityError::BadRequest`] when a name is none.
    pub(crate) fn certify_web(
        &self,
        key: &KeyPair,
        names: &[String],
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let bad = |detail: String| AuthorityError::BadRequest { detail };
        if let Some(name) = names.iter().find(|name| ServerName::try_from(name.as_str()).is_err()) {
            return Err(bad(format!("{name:?} is no host name or address of a server")));
        }
        // Addresses among the names become addresses in the certificate.
        let mut params = CertificateParams::new(names)
            .map_err(|error| bad(format!("{names:?} are no names of a server: {error}")))?;
        let first = names.first().ok_or_else(|| bad("a server needs a name".into()))?;
        let now = self.clock.now();
        params.not_before = date(UnixMillis(now.0.saturating_sub(CLOCK_SKEW_MS)));
        params.not_after = date(UnixMillis(now.0.saturating_add(CERTIFICATE_LIFETIME_MS)));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, first.chars().take(64).collect::<String>());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(|error| bad(error.to_string()))?;
        Ok(certificate.der().clone())
    }

    /// The authority's certificate as a file that browsers, `curl --cacert` and SDKs take.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        pem::encode(&pem::Pem::new("CERTIFICATE", self.certificate.to_vec()))
    }

    /// Certifies a new key of a member: [`Authority::certify`], with both certificates as text for
    /// [`KeyRequest::into_renewed`].
    ///
    /// # Errors
    /// [`AuthorityError::BadRequest`].
    pub fn renew(&self, request: &[u8], identity: &PeerIdentity) -> Result<String, AuthorityError> {
        let certificate = self.certify(request, identity)?;
        let own = pem::encode(&pem::Pem::new("CERTIFICATE", certificate.to_vec()));
        Ok(format!("{own}{}", self.certificate_pem()))
    }

    /// Credentials for a component on the authority's own machine, without the way over the network.
    ///
    /// # Errors
    /// As [`Authority::certify`], and when the clock is beyond what certificates can state.
    pub fn issue(&self, identity: &PeerIdentity) -> Result<Credentials, CredentialsError> {
        let request = KeyRequest::generate();
        let certificate = self
            .certify(request.der(), identity)
            .map_err(|error| CredentialsError::Refused { detail: error.to_string() })?;
        request.into_credentials(certificate, self.certificate.clone())
    }
}

/// A moment as certificates have it, in whole seconds; beyond the year 9999 the last they can state.
fn date(moment: UnixMillis) -> OffsetDateTime {
    const LAST: i64 = 253_402_300_799;
    let seconds = i64::try_from(moment.0 / 1000).unwrap_or(LAST).min(LAST);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
