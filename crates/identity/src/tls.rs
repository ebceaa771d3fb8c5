//! TLS settings: version 1.3 only, AES-128-GCM first, our authority and nobody else's.
//!
//! Several protocols share a port, told apart by ALPN. [`ALPN_DATA`] and, at the configuration server, [`ALPN_CONTROL`] demand a
//! client certificate of our authority; [`ALPN_ENROL`] takes none and leads to the enrolment service only, [`ALPN_WEB`] takes none and
//! leads to where users show tokens: each is another `ServerConfig`, so there is no flag that could be forgotten.
//!
//! Who the peer is, is decided by the authority that signed and the URI it signed, not by host names. Sessions are never
//! resumed: a resumption would skip the look at the certificate, and connections live long anyway.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
};
use switchback_disk::Clock;

use crate::{Certificate, ComponentName, LiveCredentials, PeerIdentity, Role, WebCertificate};

/// The protocol of everything but enrolment.
pub const ALPN_DATA: &[u8] = b"switchback/1";
/// The protocol of enrolment.
pub const ALPN_ENROL: &[u8] = b"switchback-enrol/1";
/// The protocol of components with their configuration server: HTTP/1.1 between peers that have proved who they are.
pub const ALPN_CONTROL: &[u8] = b"switchback-control/1";
/// The protocol of users: HTTP/1.1 (RFC 7301, section 6).
pub const ALPN_WEB: &[u8] = b"http/1.1";

/// The server name clients send: the same for all, as it means nothing.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("switchback.invalid").expect("a valid DNS name")
}

/// Which server a client wants to speak to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedPeer {
    /// Any of these roles.
    pub roles: Vec<Role>,
    /// This name only, if stated.
    pub name: Option<ComponentName>,
}

impl ExpectedPeer {
    fn admits(&self, peer: &PeerIdentity) -> bool {
        self.roles.contains(&peer.role) && self.name.as_ref().is_none_or(|name| *name == peer.name)
    }
}

/// The peer is of our site but not who was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other end is {found}, expected was {expected}; check the address")]
struct WrongPeer {
    found: PeerIdentity,
    expected: String,
}

/// The settings of a server's two protocols.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// For [`ALPN_DATA`].
    pub data: Arc<ServerConfig>,
    /// For [`ALPN_ENROL`].
    pub enrol: Arc<ServerConfig>,
}

/// The settings of a configuration server's protocols.
#[derive(Clone, Debug)]
pub struct ControlTls {
    /// For [`ALPN_CONTROL`].
    pub control: Arc<ServerConfig>,
    /// For [`ALPN_ENROL`].
    pub enrol: Arc<ServerConfig>,
    /// For [`ALPN_WEB`], and clients that name no protocol.
    pub web: Arc<ServerConfig>,
}

/// The settings of a server that shows `credentials` and admits clients certified by their authority.
///
/// # Errors
/// When the authority's certificate cannot be used.
pub fn server_config(credentials: &Arc<LiveCredentials>, clock: Arc<dyn Clock>) -> Result<ServerTls, Error> {
    let time = Arc::new(ClockTime(clock));
    Ok(ServerTls {
        data: mutual(credentials, &time, ALPN_DATA)?,
        enrol: open_to_all(Arc::new(Shown(credentials.clone())), &time, ALPN_ENROL)?,
    })
}

/// The settings of a configuration server: it shows `credentials` to components and admits those certified by their authority; to users
/// it shows `web`.
///
/// # Errors
/// When the authority's certificate cannot be used.
pub fn control_server_config(
    credentials: &Arc<LiveCredentials>,
    web: &Arc<WebCertificate>,
    clock: Arc<dyn Clock>,
) -> Result<ControlTls, Error> {
    let time = Arc::new(ClockTime(clock));
    Ok(ControlTls {
        control: mutual(credentials, &time, ALPN_CONTROL)?,
        enrol: open_to_all(Arc::new(Shown(credentials.clone())), &time, ALPN_ENROL)?,
        web: open_to_all(Arc::new(ShownToUsers(web.clone())), &time, ALPN_WEB)?,
    })
}

/// A protocol for components only.
fn mutual(
    credentials: &Arc<LiveCredentials>,
    time: &Arc<ClockTime>,
    alpn: &[u8],
) -> Result<Arc<ServerConfig>, Error> {
    let roots = Arc::new(roots(credentials.current().authority())?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::new(provider()))
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let resolver = Arc::new(Shown(credentials.clone()));
    let config = server_builder(time)?.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
    Ok(finish_server(config, alpn))
}

/// A protocol for those who have no certificate.
fn open_to_all(
    resolver: Arc<dyn ResolvesServerCert>,
    time: &Arc<ClockTime>,
    alpn: &[u8],
) -> Result<Arc<ServerConfig>, Error> {
    let config = server_builder(time)?.with_no_client_auth().with_cert_resolver(resolver);
    Ok(finish_server(config, alpn))
}

fn server_builder(
    time: &Arc<ClockTime>,
) -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, Error> {
    ServerConfig::builder_with_details(Arc::new(provider()), time.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
}

fn finish_server(mut config: ServerConfig, alpn: &[u8]) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// The settings of a client that shows `credentials` and speaks only to a server of their authority that is
/// `expected`.
///
/// # Errors
/// When the authority's certificate cannot be used.
pub fn client_config(
    credentials: &Arc<LiveCredentials>,
    expected: ExpectedPeer,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, Error> {
    member_config(credentials, expected, clock, ALPN_DATA)
}

/// The settings of a component towards its configuration server.
///
/// # Errors
/// When the authority's certificate cannot be used.
pub fn control_client_config(
    credentials: &Arc<LiveCredentials>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, Error> {
    let expected = ExpectedPeer { roles: vec![Role::ConfigurationServer], name: None };
    member_config(credentials, expected, clock, ALPN_CONTROL)
}

fn member_config(
    credentials: &Arc<LiveCredentials>,
    expected: ExpectedPeer,
    clock: Arc<dyn Clock>,
    alpn: &[u8],
) -> Result<Arc<ClientConfig>, Error> {
    let verifier =
        ByRole { roots: roots(credentials.current().authority())?, expected, provider: Arc::new(provider()) };
    let config = client_builder(clock)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Shown(credentials.clone())));
    Ok(finish_client(config, alpn))
}

/// The settings of a client that does not know its site's authority yet. Whoever is at the other end, **nothing may be
/// said on such a connection but the messages of the enrolment**, which are made for that.
///
/// # Errors
/// Never in practice: TLS 1.3 is compiled in.
pub fn enrolment_client_config(clock: Arc<dyn Clock>) -> Result<Arc<ClientConfig>, Error> {
    let config = client_builder(clock)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(Arc::new(provider()))))
        .with_no_client_auth();
    Ok(finish_client(config, ALPN_ENROL))
}

fn client_builder(
    clock: Arc<dyn Clock>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Error> {
    ClientConfig::builder_with_details(Arc::new(provider()), Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])
}

fn finish_client(mut config: ClientConfig, alpn: &[u8]) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// AES-128-GCM first: the fastest with AES instructions, and as far from being broken as its 256-bit brother.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    }
}

fn roots(authority: &CertificateDer<'static>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    Ok(roots)
}

#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl rustls::time_provider::TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let since_1970 = std::time::Duration::from_millis(self.0.now().0);
        Some(UnixTime::since_unix_epoch(since_1970))
    }
}

/// Shows whatever credentials are current.
#[derive(Debug)]
struct Shown(Arc<LiveCredentials>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.signing())
    }
}

/// Shows users the certificate that is current.
#[derive(Debug)]
struct ShownToUsers(Arc<WebCertificate>);

impl ResolvesServerCert for ShownToUsers {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.signing())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.signing())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Admits servers of one authority by the role and name it has certified.
#[derive(Debug)]
struct ByRole {
    roots: RootCertStore,
    expected: ExpectedPeer,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ByRole {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        let other = |error: Arc<dyn std::error::Error + Send + Sync>| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(error)))
        };
        let facts = Certificate::parse(certificate).map_err(|error| other(Arc::new(error)))?;
        if !self.expected.admits(&facts.identity) {
            let roles: Vec<_> = self.expected.roles.iter().map(ToString::to_string).collect();
            let expected = match &self.expected.name {
                Some(name) => format!("{} {name}", roles.join(" or ")),
                None => roles.join(" or "),
            };
            return Err(other(Arc::new(WrongPeer { found: facts.identity, expected })));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Admits any server, for enrolment only. The handshake's signature is still checked, so that the connection's
/// exporter belongs to the holder of the certificate's key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a failed TLS connection means to the people at either end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFailure {
    /// The peer's certificate is not valid at this end's time.
    #[error(
        "the other end's certificate has expired or is not valid yet by this machine's clock; check both clocks, and if \
         they are right the other end has to enrol again"
    )]
    PeerExpired,
    /// The peer says so of ours.
    #[error(
        "the other end says that this machine's certificate has expired; check both clocks, and if they are right \
         enrol again with `switchback enrol`"
    )]
    OwnExpired,
    /// Signed by another authority.
    #[error("the other end belongs to another site: its certificate was not issued by this site's authority")]
    PeerUnknown,
    /// The peer says so of ours.
    #[error(
        "the other end does not accept this machine's certificate: it was issued by another site's authority, or none was shown; \
         enrol with that site's passphrase"
    )]
    OwnRefused,
    /// Of our site, but another role or name.
    #[error("{0}")]
    WrongPeer(String),
    /// Something that does not speak our TLS.
    #[error("the other end does not speak Switchback's protocol ({0}); check the address and port")]
    NotOurs(String),
}

impl TlsFailure {
    /// Finds the TLS failure in an I/O error, if that is what it is.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<Error>()?;
        Some(match error {
            Error::InvalidCertificate(certificate) => match certificate {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::PeerExpired,
                CertificateError::Other(OtherError(other)) => Self::WrongPeer(other.to_string()),
                _ => Self::PeerUnknown,
            },
            Error::NoCertificatesPresented => Self::PeerUnknown,
            Error::AlertReceived(AlertDescription::CertificateExpired) => Self::OwnExpired,
            Error::AlertReceived(
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::DecryptError
                | AlertDescription::AccessDenied,
            ) => Self::OwnRefused,
            other => Self::NotOurs(other.to_string()),
        })
    }
}

/// Whether a client was gone before its first message had come, as this error of waiting for that says: a load balancer that looks whether the port is open, or a scanner. Nobody was
/// refused then, and nothing is to be mended.
#[must_use]
pub fn left_before_hello(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted)
}

#[cfg(test)]
pub(crate) mod tests;
