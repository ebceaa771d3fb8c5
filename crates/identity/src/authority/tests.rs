//! Tests of the authority.

use std::sync::Arc;

use super::{Authority, AuthorityError, CERTIFICATE_LIFETIME_MS, CLOCK_SKEW_MS};
use crate::memory::{MemoryVolume, TestClock};
use crate::{Certificate, KeyRequest, PeerIdentity, Role};

const NOW: u64 = 1_800_000_000_000;

fn web() -> PeerIdentity {
    PeerIdentity { role: Role::Source, name: "web01".parse().unwrap() }
}

#[test]
fn is_the_same_after_a_restart_and_never_overwritten() {
    let (volume, clock) = (Arc::new(MemoryVolume::default()), TestClock::at(NOW));
    assert!(matches!(Authority::open(volume.clone(), clock.clone()), Err(AuthorityError::Missing { .. })));
    let created = Authority::create(volume.clone(), clock.clone()).unwrap();
    assert!(matches!(Authority::create(volume.clone(), clock.clone()), Err(AuthorityError::Exists { .. })));
    let opened = Authority::open(volume.clone(), clock.clone()).unwrap();
    assert_eq!(opened.certificate(), created.certificate());
    assert_eq!(*opened.passphrase().unwrap().reveal(), *created.passphrase().unwrap().reveal());

    let before = created.passphrase().unwrap();
    let rotated = opened.rotate_passphrase().unwrap();
    assert_ne!(*rotated.reveal(), *before.reveal());
    assert_eq!(*created.passphrase().unwrap().reveal(), *rotated.reveal(), "also where it was opened before");
    let again = Authority::open(volume.clone(), clock.clone()).unwrap();
    assert_eq!(*again.passphrase().unwrap().reveal(), *rotated.reveal());

    volume.edit("passphrase", |contents| contents.truncate(7));
    assert!(again.passphrase().is_err(), "the one it had is not fallen back to");
    let error = Authority::open(volume.clone(), clock.clone()).unwrap_err();
    assert!(matches!(error, AuthorityError::Damaged { file: "passphrase", .. }), "{error}");
    volume.edit("authority.pem", |contents| contents.truncate(300));
    let error = Authority::open(volume, clock).unwrap_err();
    assert!(matches!(error, AuthorityError::Damaged { file: "authority.pem", .. }), "{error}");
}

#[test]
fn certifies_the_proven_identity_for_three_days() {
    let authority = Authority::ephemeral(TestClock::at(NOW));
    let request = KeyRequest::generate();
    let certificate = authority.certify(request.der(), &web()).unwrap();
    let facts = Certificate::parse(&certificate).unwrap();
    assert_eq!(facts.identity, web());
    assert_eq!(facts.not_before.0, NOW - CLOCK_SKEW_MS);
    assert_eq!(facts.not_after.0, NOW + CERTIFICATE_LIFETIME_MS);
    assert!(Certificate::parse(authority.certificate()).is_err(), "the authority is no component");
}

#[test]
fn a_request_with_a_broken_signature_or_another_curve_is_refused() {
    let authority = Authority::ephemeral(TestClock::at(NOW));
    let mut request = KeyRequest::generate().der().to_vec();
    *request.last_mut().unwrap() ^= 1;
    assert!(matches!(authority.certify(&request, &web()), Err(AuthorityError::BadRequest { .. })));
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    assert!(matches!(authority.certify(request.der(), &web()), Err(AuthorityError::BadRequest { .. })));
}
