//! Handshakes in memory: who is admitted, and what both ends are told when somebody is not.

use std::io;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection, SideData};

use super::{ExpectedPeer, TlsFailure, client_config, enrolment_client_config, server_config, server_name};
use crate::memory::TestClock;
use crate::{Authority, CERTIFICATE_LIFETIME_MS, Certificate, LiveCredentials, PeerIdentity, Role};

const NOW: u64 = 1_800_000_000_000;

pub(crate) struct Site {
    pub(crate) authority: Arc<Authority>,
    pub(crate) clock: Arc<TestClock>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let clock = TestClock::at(NOW);
        Self { authority: Arc::new(Authority::ephemeral(clock.clone())), clock }
    }

    pub(crate) fn live(&self, role: Role) -> Arc<LiveCredentials> {
        let identity = PeerIdentity { role, name: "one".parse().unwrap() };
        LiveCredentials::new(self.authority.issue(&identity).unwrap()).unwrap()
    }

    pub(crate) fn server(&self) -> super::ServerTls {
        server_config(&self.live(Role::Target), self.clock.clone()).unwrap()
    }

    fn client(&self, roles: &[Role]) -> Arc<ClientConfig> {
        let expected = ExpectedPeer { roles: roles.to_vec(), name: None };
        client_config(&self.live(Role::Source), expected, self.clock.clone()).unwrap()
    }
}

type Failures = [Option<TlsFailure>; 2];

/// Both ends after all has been said, and what each end failed with: the client, the server.
pub(crate) fn connect(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (ClientConnection, ServerConnection, Failures) {
    let mut client = ClientConnection::new(client, server_name()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let mut failures = [None, None];
    for _ in 0..10 {
        pass(&mut client, &mut server, &mut failures[1]);
        pass(&mut server, &mut client, &mut failures[0]);
    }
    (client, server, failures)
}

fn pass<A: SideData, B: SideData>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
    failure: &mut Option<TlsFailure>,
) {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut wire = wire.as_slice();
    while failure.is_none() && !wire.is_empty() && to.read_tls(&mut wire).unwrap() > 0 {
        if let Err(error) = to.process_new_packets() {
            *failure = TlsFailure::of(&io::Error::new(io::ErrorKind::InvalidData, error));
        }
    }
}

#[test]
fn two_components_of_a_site_know_each_other() {
    let site = Site::new();
    let (client, server, failures) = connect(site.client(&[Role::Target]), site.server().data);
    assert_eq!(failures, [None, None]);
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let suite = client.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(Certificate::of_peer(client.peer_certificates()).unwrap().identity.role, Role::Target);
    assert_eq!(Certificate::of_peer(server.peer_certificates()).unwrap().identity.role, Role::Source);
}

#[test]
fn another_sites_component_is_refused_at_either_end() {
    let (site, other) = (Site::new(), Site::new());
    let (.., failures) = connect(other.client(&[Role::Target]), site.server().data);
    assert_eq!(failures[0], Some(TlsFailure::PeerUnknown));
    // A client that believes the server, so that the server has to judge the client.
    let mut config = (*enrolment_client_config(site.clock.clone()).unwrap()).clone();
    config.alpn_protocols = vec![super::ALPN_DATA.to_vec()];
    config.client_auth_cert_resolver = Arc::new(super::Shown(other.live(Role::Source)));
    let (.., failures) = connect(Arc::new(config.clone()), site.server().data);
    assert_eq!(failures, [Some(TlsFailure::OwnRefused), Some(TlsFailure::PeerUnknown)]);
    let none = enrolment_client_config(site.clock.clone()).unwrap().client_auth_cert_resolver.clone();
    config.client_auth_cert_resolver = none;
    let (.., failures) = connect(Arc::new(config), site.server().data);
    assert_eq!(failures, [Some(TlsFailure::OwnRefused), Some(TlsFailure::PeerUnknown)]);
}

#[test]
fn an_expired_certificate_is_called_that_at_both_ends() {
    let site = Site::new();
    let (client, server) = (site.client(&[Role::Target]), site.server());
    let later = NOW + CERTIFICATE_LIFETIME_MS + 1000;
    // Each end's clock on its own, as clocks jump on their own.
    let clock = TestClock::at(later);
    let jumped = server_config(&site.live(Role::Target), clock).unwrap();
    let (.., failures) = connect(client, jumped.data);
    assert_eq!(failures, [Some(TlsFailure::OwnExpired), Some(TlsFailure::PeerExpired)]);
    let expected = ExpectedPeer { roles: vec![Role::Target], name: None };
    let jumped = client_config(&site.live(Role::Source), expected, TestClock::at(later)).unwrap();
    let (.., failures) = connect(jumped, server.data);
    assert_eq!(failures, [Some(TlsFailure::PeerExpired), Some(TlsFailure::OwnExpired)]);
}

#[test]
fn a_server_of_another_role_or_name_is_not_the_one() {
    let site = Site::new();
    let (.., failures) = connect(site.client(&[Role::ProcessServer]), site.server().data);
    let Some(TlsFailure::WrongPeer(message)) = &failures[0] else { panic!("{failures:?}") };
    assert!(message.contains("target one") && message.contains("process-server"), "{message}");
    let expected = ExpectedPeer { roles: vec![Role::Target], name: Some("two".parse().unwrap()) };
    let client = client_config(&site.live(Role::Source), expected, site.clock.clone()).unwrap();
    let (.., failures) = connect(client, site.server().data);
    assert!(matches!(failures[0], Some(TlsFailure::WrongPeer(_))), "{failures:?}");
}

#[test]
fn enrolment_needs_no_certificate_but_gets_no_further() {
    let site = Site::new();
    let client = enrolment_client_config(site.clock.clone()).unwrap();
    let (_, server, failures) = connect(client.clone(), site.server().enrol);
    assert_eq!(failures, [None, None]);
    assert_eq!(server.alpn_protocol(), Some(super::ALPN_ENROL));
    assert!(Certificate::of_peer(server.peer_certificates()).is_err());
    let (.., failures) = connect(client, site.server().data);
    assert!(failures[0].is_some() && failures[1].is_some(), "{failures:?}");
}

#[test]
fn replaced_credentials_are_shown_from_the_next_handshake_on() {
    let site = Site::new();
    let live = site.live(Role::Source);
    let expected = ExpectedPeer { roles: vec![Role::Target], name: None };
    let config = client_config(&live, expected, site.clock.clone()).unwrap();
    let tls = site.server();
    let shown = |config| {
        let (_, server, failures) = connect(config, tls.data.clone());
        assert_eq!(failures, [None, None]);
        Certificate::of_peer(server.peer_certificates()).unwrap()
    };
    let before = shown(config.clone());
    site.clock.set(NOW + CERTIFICATE_LIFETIME_MS / 2);
    live.replace(site.authority.issue(&before.identity).unwrap()).unwrap();
    let after = shown(config);
    assert!(after.not_after > before.not_after);
    assert_ne!(after.public_key, before.public_key);
}
