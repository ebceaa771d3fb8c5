//! Tests of credentials.

use super::{Credentials, CredentialsError, KeyRequest, LiveCredentials};
use crate::memory::{MemoryVolume, TestClock};
use crate::{Authority, CERTIFICATE_LIFETIME_MS, CLOCK_SKEW_MS, PeerIdentity, Role};
use switchback_model::UnixMillis;

const NOW: u64 = 1_800_000_000_000;

fn issued() -> (Authority, Credentials) {
    let authority = Authority::ephemeral(TestClock::at(NOW));
    let identity = PeerIdentity { role: Role::ProcessServer, name: "ps1".parse().unwrap() };
    let credentials = authority.issue(&identity).unwrap();
    (authority, credentials)
}

#[test]
fn come_back_from_their_volume() {
    let volume = MemoryVolume::default();
    assert!(matches!(Credentials::load(&volume), Err(CredentialsError::Missing { .. })));
    let (_, credentials) = issued();
    credentials.store(&volume).unwrap();
    let loaded = Credentials::load(&volume).unwrap();
    assert_eq!(*loaded.to_pem(), *credentials.to_pem());
    assert_eq!(loaded.facts(), credentials.facts());
    volume.edit("credentials.pem", |contents| contents.truncate(400));
    assert!(matches!(Credentials::load(&volume), Err(CredentialsError::Damaged { .. })));
}

#[test]
fn are_renewed_after_two_thirds_and_over_after_their_life() {
    let (_, credentials) = issued();
    let (from, life) = (NOW - CLOCK_SKEW_MS, CERTIFICATE_LIFETIME_MS + CLOCK_SKEW_MS);
    assert!(!credentials.is_due_for_renewal(UnixMillis(from + life / 3 * 2 - 1)));
    assert!(credentials.is_due_for_renewal(UnixMillis(from + life / 3 * 2)));
    credentials.check(UnixMillis(from + life)).unwrap();
    let error = credentials.check(UnixMillis(from + life + 1)).unwrap_err();
    assert!(matches!(error, CredentialsError::Expired { .. }));
    assert!(error.to_string().contains("switchback enrol"), "{error}");
}

#[test]
fn a_certificate_of_another_key_is_no_credentials() {
    let (authority, credentials) = issued();
    let other = KeyRequest::generate()
        .into_credentials(credentials.certificate().clone(), authority.certificate().clone());
    assert!(matches!(other, Err(CredentialsError::Damaged { .. })));
}

#[test]
fn debug_shows_no_key() {
    let (_, credentials) = issued();
    let live = LiveCredentials::new(credentials.clone()).unwrap();
    let shown = format!("{credentials:?} {live:?} {:?}", KeyRequest::generate());
    assert!(shown.contains("ps1"));
    // As numbers, hexadecimal or base64: no form of the key's secret bytes.
    let secret = &credentials.key()[36..68];
    for form in [
        format!("{secret:?}").trim_matches(['[', ']']).to_owned(),
        secret.iter().map(|byte| format!("{byte:02x}")).collect(),
        credentials.to_pem().lines().nth(2).unwrap().to_owned(),
    ] {
        assert!(!shown.contains(&form));
    }
}
