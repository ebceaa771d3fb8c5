//! Who may talk to whom: the certificate authority, enrolment, short-lived certificates, TLS settings.
//!
//! What it is: every component (mobility agent, process server, master target, operator) has a [`PeerIdentity`],
//! a role and a name, written into a certificate by the site's [`Authority`]. The certificate lives for three
//! days and is renewed by its owner after two; nothing has to be revoked, it is enough not to renew it.
//!
//! What it never does: sockets, async, deciding what a role may do. The TLS settings and the enrolment's
//! messages are handed to `transport`, which moves the bytes.
//!
//! The path of one component: its installer is given the [`Passphrase`]; [`EnrolmentClient`] proves it to the
//! [`EnrolmentService`] without sending it (`docs/decisions/0005-enrolment.md`) and gets [`Credentials`];
//! they are kept in a volume, shown by [`LiveCredentials`] in every handshake ([`tls::server_config`],
//! [`tls::client_config`]), and replaced in place long before they expire.

mod authority;
mod certificate;
mod credentials;
mod enrol;
mod incarnation;
mod passphrase;
mod rate;
mod role;
mod ticket;
pub mod tls;
mod web;

#[cfg(test)]
mod memory;

pub use authority::{
    Authority, AuthorityError, CERTIFICATE_LIFETIME_MS, CLOCK_SKEW_MS, check_files, fingerprint,
};
pub use certificate::{Certificate, CertificateError};
pub use credentials::{Credentials, CredentialsError, KeyRequest, LiveCredentials};
pub use enrol::{
    ChannelBinding, EnrolError, EnrolledClient, EnrolmentClient, EnrolmentPolicy, EnrolmentService,
    MESSAGE_LEN_MAX, Newcomer, PendingEnrolment,
};
pub use incarnation::{is_proved, prove_incarnation};
pub use passphrase::{InvalidPassphrase, Passphrase};
pub use rate::{Allowance, Bucket, RateLimits, network_of};
pub use role::{ComponentName, PeerIdentity, Role};
pub use ticket::{EnrolmentSecret, InvalidTicketId, Ticket, TicketId};
pub use web::{GivenCertificateError, RenewalError, WebCertificate};

/// One function per decoder of bytes from outside, for fuzzers and property tests.
#[doc(hidden)]
pub mod fuzz {
    /// A certificate of an unknown peer.
    pub fn certificate(bytes: &[u8]) {
        let _ = crate::Certificate::parse(bytes);
    }
    /// Any message of an enrolment, at either end.
    pub fn enrolment(bytes: &[u8]) {
        crate::enrol::decode_any(bytes);
    }
    /// A stored credentials file.
    pub fn credentials(bytes: &[u8]) {
        let _ = crate::Credentials::from_pem(bytes);
    }
}
