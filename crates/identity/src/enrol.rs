//! Enrolment: a component that knows the site's passphrase gets its first certificate.
//!
//! It runs inside a TLS 1.3 connection whose server certificate the client cannot judge yet. Four messages, each one JSON
//! object of at most [`MESSAGE_LEN_MAX`] bytes:
//! ```text
//! client → server  start      { share, ticket? }             SPAKE2, client's share; whose passphrase is the ticket's
//! server → client  challenge  { share }                      SPAKE2, server's share
//! client → server  proof      { request, mac }               who it wants to be and its key, under the shared key
//! server → client  grant      { certificates, mac }          its certificate and the authority's, under the shared key
//! ```
//! or, at any time from the server, `refused`. With `K` the SPAKE2 key, `B` the TLS exporter (RFC 9266) and `|` joining
//! length-prefixed fields:
//! ```text
//! P = HMAC(K, "switchback-enrol/1" | B | start | challenge)
//! proof.mac = HMAC(HMAC(P, "client proof"), request)      grant.mac = HMAC(HMAC(P, "server grant"), certificates)
//! ```
//! Why so: SPAKE2 lets nobody who listens or plays one of the ends test more than one guess per attempt. `B` differs on the
//! two sides of a man in the middle, who therefore cannot pass one side's MAC to the other. The MACs confirm the key both
//! ways, and cover what each side must be able to trust: the authority the names and the key it certifies, the client the
//! authority it will believe from then on. The client proves itself first, so a stranger learns nothing from the server.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::hmac;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use spake2::{Ed25519Group, Identity, Password, Spake2};

use crate::rate::RateLimiter;
use crate::{
    Authority, AuthorityError, Credentials, CredentialsError, EnrolmentSecret, KeyRequest, PeerIdentity,
    RateLimits, Role, TicketId,
};

/// Most bytes of one message.
pub const MESSAGE_LEN_MAX: usize = 64 * 1024;

const PROTOCOL: &[u8] = b"switchback-enrol/1";

/// Why somebody was not enrolled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The two ends do not know the same passphrase, or somebody sits between them.
    #[error(
        "the passphrase is not that of this site (a ticket: it is void); `switchback identity passphrase` on the target shows it. If it is right, something \
         between here and there intercepts the connection"
    )]
    WrongPassphrase,
    /// Too many failures.
    #[error("too many failed attempts to enrol; try again in {} s", retry_after_ms.div_ceil(1000))]
    TooManyAttempts {
        /// Milliseconds.
        retry_after_ms: u64,
    },
    /// This role is not given to whoever knows the passphrase.
    #[error("the role {role} cannot be had by enrolment here; an administrator issues it on the target")]
    RoleRefused {
        /// Asked for.
        role: Role,
    },
    /// Not the protocol.
    #[error("enrolment failed: {detail}")]
    Protocol {
        /// What was wrong.
        detail: String,
    },
    /// What came back is no usable pair of certificates.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

fn protocol(detail: impl Into<String>) -> EnrolError {
    EnrolError::Protocol { detail: detail.into() }
}

/// What ties an enrolment to one TLS connection: the exporter of RFC 9266 (`tls-exporter`), 32 bytes.
#[derive(Clone, Copy)]
pub struct ChannelBinding([u8; 32]);

impl std::fmt::Debug for ChannelBinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChannelBinding(..)")
    }
}

impl ChannelBinding {
    /// RFC 9266, section 4.2.
    const LABEL: &[u8] = b"EXPORTER-Channel-Binding";

    /// Of a connection whose handshake is complete.
    ///
    /// # Errors
    /// When it is not.
    pub fn of<Data>(connection: &rustls::ConnectionCommon<Data>) -> Result<Self, rustls::Error> {
        connection.export_keying_material([0; 32], Self::LABEL, Some(b"")).map(Self)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case", deny_unknown_fields)]
enum FromClient {
    Start {
        share: Vec<u8>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ticket: Option<TicketId>,
    },
    Proof {
        request: String,
        mac: Vec<u8>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case", deny_unknown_fields)]
enum FromServer {
    Challenge { share: Vec<u8> },
    Grant { certificates: String, mac: Vec<u8> },
    Refused { refusal: Refusal },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "kebab-case")]
enum Refusal {
    WrongPassphrase,
    TooManyAttempts { retry_after_ms: u64 },
    RoleRefused { role: Role },
    Other { detail: String },
}

/// What the client asks for; travels as text so that the MAC covers exactly what is read.
#[derive(Serialize, Deserialize)]
struct Request {
    identity: PeerIdentity,
    key_request: Vec<u8>,
}

/// What the server grants; travels as text for the same reason.
#[derive(Serialize, Deserialize)]
struct Certificates {
    certificate: Vec<u8>,
    authority: Vec<u8>,
}

fn decode<'a, T: Deserialize<'a>>(message: &'a [u8]) -> Result<T, EnrolError> {
    if message.len() > MESSAGE_LEN_MAX {
        return Err(protocol("a message is too long"));
    }
    serde_json::from_slice(message).map_err(|_| protocol("a message cannot be read"))
}

fn encode(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("plain data becomes JSON")
}

pub(crate) fn decode_any(message: &[u8]) {
    let _ = decode::<FromClient>(message);
    let _ = decode::<FromServer>(message);
    let _ = decode::<Request>(message);
    let _ = decode::<Certificates>(message);
}

/// The two keys that both ends derive from the exchange.
struct Keys {
    client: hmac::Key,
    server: hmac::Key,
}

impl Keys {
    fn derive(shared: &[u8], binding: ChannelBinding, start: &[u8], challenge: &[u8]) -> Self {
        let mac = |key: &[u8], fields: &[&[u8]]| {
            let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
            for field in fields {
                context.update(&(field.len() as u64).to_le_bytes());
                context.update(field);
            }
            context.sign()
        };
        let root = mac(shared, &[PROTOCOL, &binding.0, start, challenge]);
        let key = |label: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, mac(root.as_ref(), &[label]).as_ref());
        Self { client: key(b"client proof"), server: key(b"server grant") }
    }
}

fn ends() -> (Identity, Identity) {
    (Identity::new(b"switchback component"), Identity::new(b"switchback authority"))
}

/// The enrolling end, before it has heard from the server.
pub struct EnrolmentClient {
    exchange: Spake2<Ed25519Group>,
    share: Vec<u8>,
    binding: ChannelBinding,
    identity: PeerIdentity,
}

impl std::fmt::Debug for EnrolmentClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EnrolmentClient({})", self.identity)
    }
}

impl EnrolmentClient {
    /// Begins to enrol as `identity`; gives the first message.
    #[must_use]
    pub fn start(
        secret: &EnrolmentSecret,
        identity: PeerIdentity,
        binding: ChannelBinding,
    ) -> (Self, Vec<u8>) {
        let (client, server) = ends();
        let password = Password::new(secret.passphrase.symbols());
        let (exchange, share) = Spake2::<Ed25519Group>::start_a(&password, &client, &server);
        let message = encode(&FromClient::Start { share: share.clone(), ticket: secret.ticket.clone() });
        (Self { exchange, share, binding, identity }, message)
    }

    /// Answers the server's challenge; gives the second message.
    ///
    /// # Errors
    /// What the server refused, or that it does not speak this protocol.
    pub fn prove(self, challenge: &[u8]) -> Result<(EnrolledClient, Vec<u8>), EnrolError> {
        let FromServer::Challenge { share } = from_server(challenge)? else {
            return Err(protocol("the server answered out of order"));
        };
        let shared =
            self.exchange.finish(&share).map_err(|_| protocol("the server's share is not a point"))?;
        let keys = Keys::derive(&shared, self.binding, &self.share, &share);
        let key = KeyRequest::generate();
        let request = Request { identity: self.identity.clone(), key_request: key.der().to_vec() };
        let request = serde_json::to_string(&request).expect("plain data becomes JSON");
        let mac = hmac::sign(&keys.client, request.as_bytes()).as_ref().to_vec();
        let message = encode(&FromClient::Proof { request, mac });
        Ok((EnrolledClient { keys, key, identity: self.identity }, message))
    }
}

/// The enrolling end, waiting for its certificate.
pub struct EnrolledClient {
    keys: Keys,
    key: KeyRequest,
    identity: PeerIdentity,
}

impl std::fmt::Debug for EnrolledClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EnrolledClient({})", self.identity)
    }
}

impl EnrolledClient {
    /// Takes the certificates, if whoever sent them knows the passphrase.
    ///
    /// # Errors
    /// [`EnrolError::WrongPassphrase`] when the server did not prove to know it; what it refused.
    pub fn finish(self, grant: &[u8]) -> Result<Credentials, EnrolError> {
        let FromServer::Grant { certificates, mac } = from_server(grant)? else {
            return Err(protocol("the server answered out of order"));
        };
        hmac::verify(&self.keys.server, certificates.as_bytes(), &mac)
            .map_err(|_| EnrolError::WrongPassphrase)?;
        let Certificates { certificate, authority } = decode(certificates.as_bytes())?;
        let credentials =
            self.key.into_credentials(CertificateDer::from(certificate), CertificateDer::from(authority))?;
        if *credentials.identity() != self.identity {
            return Err(protocol(format!("the certificate is that of {}", credentials.identity())));
        }
        Ok(credentials)
    }
}

fn from_server(message: &[u8]) -> Result<FromServer, EnrolError> {
    match decode(message)? {
        FromServer::Refused { refusal } => Err(match refusal {
            Refusal::WrongPassphrase => EnrolError::WrongPassphrase,
            Refusal::TooManyAttempts { retry_after_ms } => EnrolError::TooManyAttempts { retry_after_ms },
            Refusal::RoleRefused { role } => EnrolError::RoleRefused { role },
            Refusal::Other { detail } => EnrolError::Protocol { detail },
        }),
        other => Ok(other),
    }
}

/// Who may enrol, and how often it may be tried.
#[derive(Clone, Debug)]
pub struct EnrolmentPolicy {
    /// The roles the passphrase admits to. Not [`Role::Operator`] by default: the passphrase is given to whoever installs
    /// an agent, an operator may delete what the agents have sent.
    pub roles: Vec<Role>,
    /// How often.
    pub limits: RateLimits,
    /// Whether tickets are taken: whoever records enrolments must know which may be used.
    pub tickets: bool,
}

/// Who is about to be enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// As whom.
    pub identity: PeerIdentity,
    /// The ticket it has shown to know, which may be used up, expired or another one's: that is still to be judged. `None`: it knows the passphrase.
    pub ticket: Option<TicketId>,
}

impl Default for EnrolmentPolicy {
    fn default() -> Self {
        Self {
            roles: vec![Role::Source, Role::ProcessServer, Role::Target],
            limits: RateLimits::default(),
            tickets: false,
        }
    }
}

/// The end that admits components. Usable from several threads.
#[derive(Debug)]
pub struct EnrolmentService {
    authority: Arc<Authority>,
    roles: Vec<Role>,
    takes_tickets: bool,
    limiter: Mutex<RateLimiter>,
}

/// An enrolment whose client has not proved anything yet.
pub struct PendingEnrolment {
    keys: Keys,
    from: IpAddr,
    ticket: Option<TicketId>,
}

impl std::fmt::Debug for PendingEnrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PendingEnrolment({})", self.from)
    }
}

impl EnrolmentService {
    /// Admits components to the site of `authority`.
    #[must_use]
    pub fn new(authority: Arc<Authority>, policy: EnrolmentPolicy) -> Self {
        let limiter = Mutex::new(RateLimiter::new(policy.limits, authority.clock().now()));
        Self { authority, roles: policy.roles, takes_tickets: policy.tickets, limiter }
    }

    /// Takes the first message of a client at `from`; gives the answer. Counts as a failed attempt until
    /// [`EnrolmentService::finish`] has succeeded.
    ///
    /// # Errors
    /// [`EnrolError::TooManyAttempts`], [`EnrolError::Protocol`]; send [`EnrolmentService::refusal`] and close.
    pub fn begin(
        &self,
        from: IpAddr,
        binding: ChannelBinding,
        message: &[u8],
    ) -> Result<(PendingEnrolment, Vec<u8>), EnrolError> {
        let now = self.authority.clock().now();
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.take(from, now).map_err(|retry_after_ms| EnrolError::TooManyAttempts { retry_after_ms })?;
        drop(limiter);
        let FromClient::Start { share: theirs, ticket } = decode(message)? else {
            return Err(protocol("an enrolment begins with `start`"));
        };
        let (client, server) = ends();
        // Why it cannot be read is not for strangers.
        let unreadable = |error: AuthorityError| {
            tracing::error!(%error, "nobody can enrol");
            protocol("the authority cannot read its passphrase; its log says why")
        };
        let passphrase = match &ticket {
            Some(_) if !self.takes_tickets => {
                return Err(protocol("this authority gives no tickets; use the site's passphrase"));
            }
            Some(id) => EnrolmentSecret::from(self.authority.ticket(id).map_err(unreadable)?).passphrase,
            None => self.authority.passphrase().map_err(unreadable)?,
        };
        let password = Password::new(passphrase.symbols());
        let (exchange, ours) = Spake2::<Ed25519Group>::start_b(&password, &client, &server);
        let shared = exchange.finish(&theirs).map_err(|_| protocol("the client's share is not a point"))?;
        let keys = Keys::derive(&shared, binding, &theirs, &ours);
        Ok((PendingEnrolment { keys, from, ticket }, encode(&FromServer::Challenge { share: ours })))
    }

    /// Takes the proof; gives who is enrolled once the answer is sent, and the answer. That of a [`Newcomer`] with a ticket must not be sent before the
    /// ticket has been used up.
    ///
    /// # Errors
    /// [`EnrolError::WrongPassphrase`] and others; send [`EnrolmentService::refusal`] and close.
    pub fn finish(
        &self,
        pending: PendingEnrolment,
        message: &[u8],
    ) -> Result<(Newcomer, Vec<u8>), EnrolError> {
        let FromClient::Proof { request, mac } = decode(message)? else {
            return Err(protocol("`start` is followed by `proof`"));
        };
        hmac::verify(&pending.keys.client, request.as_bytes(), &mac)
            .map_err(|_| EnrolError::WrongPassphrase)?;
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner).give_back(pending.from);
        let Request { identity, key_request } = decode(request.as_bytes())?;
        if !self.roles.contains(&identity.role) {
            return Err(EnrolError::RoleRefused { role: identity.role });
        }
        let certificate = self
            .authority
            .certify(&key_request, &identity)
            .map_err(|error: AuthorityError| protocol(error.to_string()))?;
        let certificates = Certificates {
            certificate: certificate.to_vec(),
            authority: self.authority.certificate().to_vec(),
        };
        let certificates = serde_json::to_string(&certificates).expect("plain data becomes JSON");
        let mac = hmac::sign(&pending.keys.server, certificates.as_bytes()).as_ref().to_vec();
        let newcomer = Newcomer { identity, ticket: pending.ticket };
        Ok((newcomer, encode(&FromServer::Grant { certificates, mac })))
    }

    /// What to tell a client that was not enrolled.
    #[must_use]
    pub fn refusal(error: &EnrolError) -> Vec<u8> {
        let refusal = match error {
            EnrolError::WrongPassphrase => Refusal::WrongPassphrase,
            EnrolError::TooManyAttempts { retry_after_ms } => {
                Refusal::TooManyAttempts { retry_after_ms: *retry_after_ms }
            }
            EnrolError::RoleRefused { role } => Refusal::RoleRefused { role: *role },
            EnrolError::Protocol { detail } => Refusal::Other { detail: detail.clone() },
            EnrolError::Credentials(error) => Refusal::Other { detail: error.to_string() },
        };
        encode(&FromServer::Refused { refusal })
    }
}

#[cfg(test)]
mod tests;
