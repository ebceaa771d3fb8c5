//! Enrolment over TLS connections in memory: the good, the wrong, the man in the middle.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::{ChannelBinding, EnrolError, EnrolmentClient, EnrolmentPolicy, EnrolmentService, Newcomer};
use crate::tls::enrolment_client_config;
use crate::tls::tests::{Site, connect};
use crate::{Credentials, EnrolmentSecret, Passphrase, PeerIdentity, RateLimits, Role, TicketId};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn web() -> PeerIdentity {
    PeerIdentity { role: Role::Source, name: "web01".parse().unwrap() }
}

/// The bindings of the two ends of one connection to a server.
fn bindings(site: &Site) -> (ChannelBinding, ChannelBinding) {
    let config = enrolment_client_config(site.clock.clone()).unwrap();
    let (client, server, failures) = connect(config, site.server().enrol);
    assert_eq!(failures, [None, None]);
    (ChannelBinding::of(&client).unwrap(), ChannelBinding::of(&server).unwrap())
}

/// The whole exchange; `seen` gets every message.
fn enrol(
    service: &EnrolmentService,
    secret: impl Into<EnrolmentSecret>,
    identity: PeerIdentity,
    (client, server): (ChannelBinding, ChannelBinding),
    seen: &mut Vec<Vec<u8>>,
) -> Result<Credentials, EnrolError> {
    let mut send = |message: Vec<u8>| {
        seen.push(message.clone());
        message
    };
    let (ours, start) = EnrolmentClient::start(&secret.into(), identity, client);
    let (pending, challenge) = match service.begin(HOST, server, &send(start)) {
        Ok(begun) => begun,
        Err(error) => return Err(ours.prove(&send(EnrolmentService::refusal(&error))).unwrap_err()),
    };
    let (ours, proof) = ours.prove(&send(challenge))?;
    let grant = match service.finish(pending, &send(proof)) {
        Ok((_, grant)) => grant,
        Err(error) => EnrolmentService::refusal(&error),
    };
    ours.finish(&send(grant))
}

fn service(site: &Site) -> EnrolmentService {
    EnrolmentService::new(site.authority.clone(), EnrolmentPolicy::default())
}

#[test]
fn who_knows_the_passphrase_gets_a_certificate_and_the_true_authority() {
    let site = Site::new();
    let (service, passphrase) = (service(&site), site.authority.passphrase().unwrap());
    let mut seen = Vec::new();
    let credentials = enrol(&service, passphrase.clone(), web(), bindings(&site), &mut seen).unwrap();
    assert_eq!(*credentials.identity(), web());
    assert_eq!(credentials.authority(), site.authority.certificate());
    // Not even inside TLS does the passphrase travel, in no form a person or this code writes it.
    let shown = passphrase.reveal();
    for message in &seen {
        let text = String::from_utf8_lossy(message).to_uppercase();
        assert!(!text.contains(&*shown) && !text.contains(&shown.replace('-', "")));
        assert!(shown.split('-').filter(|group| text.contains(group)).count() < 2);
        let bytes = format!("{:?}", passphrase.symbols()).replace(' ', "");
        assert!(!text.contains(bytes.trim_matches(['[', ']'])));
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_wrong_or_replaced_passphrase_is_refused_and_the_message_says_where_to_look() {
    let site = Site::new();
    let service = service(&site);
    let old = site.authority.passphrase().unwrap();
    site.authority.rotate_passphrase().unwrap();
    for wrong in [Passphrase::generate(), old] {
        let error = enrol(&service, wrong, web(), bindings(&site), &mut Vec::new()).unwrap_err();
        assert!(matches!(error, EnrolError::WrongPassphrase), "{error}");
        assert!(error.to_string().contains("switchback identity passphrase"), "{error}");
    }
    let current = site.authority.passphrase().unwrap();
    enrol(&service, current, web(), bindings(&site), &mut Vec::new()).unwrap();
}

#[test]
fn failures_are_limited_per_source_and_the_limit_ends() {
    let site = Site::new();
    let service = service(&site);
    let passphrase = site.authority.passphrase().unwrap();
    let try_with = |passphrase: &Passphrase| {
        enrol(&service, passphrase.clone(), web(), bindings(&site), &mut Vec::new())
    };
    for _ in 0..5 {
        assert!(matches!(try_with(&Passphrase::generate()), Err(EnrolError::WrongPassphrase)));
    }
    let Err(EnrolError::TooManyAttempts { retry_after_ms }) = try_with(&passphrase) else {
        panic!("the sixth attempt is not looked at, right or wrong");
    };
    assert_eq!(retry_after_ms, RateLimits::default().source.refill_ms);
    let now = switchback_disk::Clock::now(&*site.clock).0;
    site.clock.set(now + retry_after_ms);
    for _ in 0..20 {
        try_with(&passphrase).expect("successes do not use the limit up");
    }
}

#[test]
fn a_man_in_the_middle_can_pass_nothing_on() {
    let site = Site::new();
    let service = service(&site);
    // Two connections, one on each side of him: all messages passed on unchanged.
    let ((client, _), (_, server)) = (bindings(&site), bindings(&site));
    let passphrase = site.authority.passphrase().unwrap();
    let error = enrol(&service, passphrase.clone(), web(), (client, server), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, EnrolError::WrongPassphrase), "{error}");
}

#[test]
fn a_false_server_cannot_make_a_client_believe_it() {
    let (site, false_site) = (Site::new(), Site::new());
    let (client, server) = bindings(&false_site);
    let (ours, start) = EnrolmentClient::start(&site.authority.passphrase().unwrap().into(), web(), client);
    // It does not know the passphrase, skips the check of the proof and grants at once.
    let false_service = service(&false_site);
    let (pending, challenge) = false_service.begin(HOST, server, &start).unwrap();
    let (ours, proof) = ours.prove(&challenge).unwrap();
    let super::FromClient::Proof { request, .. } = serde_json::from_slice(&proof).unwrap() else { panic!() };
    let mac = super::hmac::sign(&pending.keys.client, request.as_bytes()).as_ref().to_vec();
    let forged = super::encode(&super::FromClient::Proof { request, mac });
    let (_, grant) = false_service.finish(pending, &forged).unwrap();
    assert!(matches!(ours.finish(&grant), Err(EnrolError::WrongPassphrase)));
}

#[test]
fn a_changed_message_is_noticed() {
    let site = Site::new();
    let service = service(&site);
    let (client, server) = bindings(&site);
    let (ours, start) = EnrolmentClient::start(&site.authority.passphrase().unwrap().into(), web(), client);
    let (pending, challenge) = service.begin(HOST, server, &start).unwrap();
    let (_, proof) = ours.prove(&challenge).unwrap();
    let proof = String::from_utf8(proof).unwrap().replace("web01", "web02");
    assert!(matches!(service.finish(pending, proof.as_bytes()), Err(EnrolError::WrongPassphrase)));
}

#[test]
fn the_passphrase_makes_nobody_an_operator() {
    let site = Site::new();
    let operator = PeerIdentity { role: Role::Operator, name: "eve".parse().unwrap() };
    let passphrase = site.authority.passphrase().unwrap();
    let error = enrol(&service(&site), passphrase, operator, bindings(&site), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, EnrolError::RoleRefused { role: Role::Operator }), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        crate::fuzz::certificate(&bytes);
        crate::fuzz::enrolment(&bytes);
        crate::fuzz::credentials(&bytes);
    }
}

#[test]
fn messages_out_of_order_or_too_long_are_refused() {
    let site = Site::new();
    let service = Arc::new(service(&site));
    let (client, server) = bindings(&site);
    let long = vec![b' '; super::MESSAGE_LEN_MAX + 1];
    for message in [&b"{}"[..], b"", &long, br#"{"message":"proof","request":"","mac":[]}"#] {
        assert!(matches!(service.begin(HOST, server, message), Err(EnrolError::Protocol { .. })));
    }
    let (ours, _) = EnrolmentClient::start(&Passphrase::generate().into(), web(), client);
    assert!(ours.prove(br#"{"message":"grant","certificates":"","mac":[]}"#).is_err());
}

fn with_tickets(site: &Site) -> EnrolmentService {
    let policy = EnrolmentPolicy { tickets: true, ..EnrolmentPolicy::default() };
    EnrolmentService::new(site.authority.clone(), policy)
}

#[test]
fn a_ticket_admits_and_who_records_the_enrolment_is_told_which() {
    let site = Site::new();
    let service = with_tickets(&site);
    let id = TicketId::generate();
    let (client, server) = bindings(&site);
    let secret: EnrolmentSecret = site.authority.ticket(&id).unwrap().into();
    let (ours, start) = EnrolmentClient::start(&secret, web(), client);
    let (pending, challenge) = service.begin(HOST, server, &start).unwrap();
    let (ours, proof) = ours.prove(&challenge).unwrap();
    let (newcomer, grant) = service.finish(pending, &proof).unwrap();
    assert_eq!(newcomer, Newcomer { identity: web(), ticket: Some(id) });
    assert_eq!(*ours.finish(&grant).unwrap().identity(), web());
    // The passphrase does as before, and is nobody's ticket.
    enrol(&service, site.authority.passphrase().unwrap(), web(), bindings(&site), &mut Vec::new()).unwrap();
}

#[test]
fn a_ticket_is_worth_nothing_under_another_id_or_where_none_are_taken() {
    let site = Site::new();
    let (id, other) = (TicketId::generate(), TicketId::generate());
    let of = |id: &TicketId| site.authority.ticket(id).unwrap();
    let mut stolen = EnrolmentSecret::from(of(&id));
    stolen.ticket = Some(other);
    let refused = |service: &EnrolmentService, secret: EnrolmentSecret| {
        enrol(service, secret, web(), bindings(&site), &mut Vec::new()).unwrap_err()
    };
    let error = refused(&with_tickets(&site), stolen.clone());
    assert!(matches!(error, EnrolError::WrongPassphrase), "{error}");
    stolen.ticket = None;
    let error = refused(&with_tickets(&site), stolen);
    assert!(matches!(error, EnrolError::WrongPassphrase), "it is not the site's passphrase: {error}");
    let error = refused(&service(&site), of(&id).into());
    assert!(error.to_string().contains("gives no tickets"), "{error}");
}
