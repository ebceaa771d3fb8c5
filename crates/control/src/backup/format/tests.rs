//! Whatever is changed, cut off or read with another key is refused; what was put in comes out.

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;

fn keys() -> (Identities, String) {
    let (file, public) = new_identity(None).unwrap();
    (Identities::read(&file, None).unwrap(), public)
}

fn header_of(contents: &Contents) -> Header {
    Header {
        made: UnixMillis(1_732_441_234_567),
        build: "1.2.3".into(),
        reason: Reason::Demanded,
        incarnation: 3,
        incarnation_proof: None,
        authority: "ab".repeat(32),
        settings: BTreeMap::from([("name".into(), "cs".into())]),
        records: contents.counts(),
        files: contents.files.len() as u64,
    }
}

fn saved(kind: Kind, key: &str, body: &str) -> Saved {
    let record = Record { kind, key: key.into(), owner: Some("o".into()), version: 7, body: body.into() };
    Saved { record, due: Some(UnixMillis(9)) }
}

fn small() -> Contents {
    let file = SavedFile {
        path: "scripts/a.sh".into(),
        executable: true,
        contents: Zeroizing::new(b"#!\xff\0".to_vec()),
    };
    let records = vec![saved(Kind::Site, "home", r#"{"a":"é\n"}"#), saved(Kind::Job, "j", "1")];
    Contents { files: vec![file], snapshot: Snapshot { last_version: 12, records } }
}

fn reseal(mut body: Vec<u8>) -> Vec<u8> {
    let checksum = *blake3::hash(&body).as_bytes();
    body.extend(checksum);
    body
}

fn open(file: &[u8], identities: &Identities) -> Result<(Header, Contents), BackupError> {
    let inspected = inspect(file)?;
    let contents = inspected.open(identities)?;
    Ok((inspected.header, contents))
}

#[test]
fn what_is_cut_off_anywhere_is_refused() {
    let (identities, public) = keys();
    let contents = small();
    let file = encode(&header_of(&contents), &contents, &[public]).unwrap();
    assert_eq!(open(&file, &identities).unwrap(), (header_of(&contents), contents));
    for len in 0..file.len() {
        let error = inspect(&file[..len]).unwrap_err();
        assert!(matches!(error, BackupError::Damaged { .. }), "{len}: {error}");
    }
    // By somebody who mends the checksum.
    for len in 0..file.len() - CHECKSUM_LEN {
        assert!(open(&reseal(file[..len].to_vec()), &identities).is_err(), "{len}");
    }
    let mut longer = file[..file.len() - CHECKSUM_LEN].to_vec();
    longer.push(0);
    assert!(open(&reseal(longer), &identities).is_err());
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let (identities, public) = keys();
    let contents = small();
    let file = encode(&header_of(&contents), &contents, &[public]).unwrap();
    for at in 0..file.len() * 8 {
        let mut flipped = file.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        assert!(inspect(&flipped).is_err(), "bit {at}");
    }
    // By somebody who mends the checksum. One bit of each byte: each costs a key exchange.
    for at in 0..file.len() - CHECKSUM_LEN {
        let mut body = file[..file.len() - CHECKSUM_LEN].to_vec();
        body[at] ^= 1 << (at % 8);
        let opened = open(&reseal(body), &identities);
        assert!(opened.is_err(), "byte {at}: {opened:?}");
    }
}

#[test]
fn what_it_is_is_told_from_other_things() {
    assert!(matches!(inspect(b"PK\x03\x04 whatever"), Err(BackupError::NotOurs)));
    assert!(
        matches!(inspect(b"switchback-backup 2\n{}\n"), Err(BackupError::TooNew { format }) if format == "2")
    );
    assert!(matches!(inspect(b""), Err(BackupError::Damaged { .. })));
}

#[test]
fn only_the_right_identity_opens_it_and_any_of_several_does() {
    let [(a, public_a), (b, public_b), (other, _)] = [keys(), keys(), keys()];
    let contents = small();
    let file = encode(&header_of(&contents), &contents, &[public_a, public_b]).unwrap();
    assert!(open(&file, &a).is_ok() && open(&file, &b).is_ok());
    assert!(matches!(open(&file, &other), Err(BackupError::WrongIdentity)));
}

#[test]
fn nothing_secret_is_readable_without_the_key() {
    let (_, public) = keys();
    let mut contents = small();
    contents.files[0].contents = Zeroizing::new(b"very secret".to_vec());
    let file = encode(&header_of(&contents), &contents, &[public]).unwrap();
    for secret in ["very secret", "dmVyeSBzZWNyZXQ", "scripts/a.sh", "\"home\""] {
        assert!(!file.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
    }
}

#[test]
fn an_identity_can_have_a_passphrase() {
    let passphrase = Zeroizing::new("correct horse".to_owned());
    let (file, public) = new_identity(Some(&passphrase)).unwrap();
    assert!(needs_passphrase(&file));
    let identities = Identities::read(&file, Some(&passphrase)).unwrap();
    let contents = small();
    let backup = encode(&header_of(&contents), &contents, &[public]).unwrap();
    assert!(open(&backup, &identities).is_ok());
    assert!(Identities::read(&file, None).is_err());
    let error = Identities::read(&file, Some(&Zeroizing::new("wrong".into()))).unwrap_err();
    assert!(error.to_string().contains("the passphrase is another one"), "{error}");
    assert!(Identities::read(b"# nothing\n", None).is_err());
}

#[test]
fn a_secret_key_given_for_the_public_one_is_not_repeated() {
    let (file, _) = new_identity(None).unwrap();
    let secret = std::str::from_utf8(&file).unwrap().lines().last().unwrap().to_owned();
    let error = recipients(std::slice::from_ref(&secret)).unwrap_err().to_string();
    assert!(!error.contains(&secret[20..30]), "{error}");
    assert!(recipients(&[]).is_err());
    let shown = format!("{:?}", Identities::read(secret.as_bytes(), None).unwrap());
    assert_eq!(shown, "Identities(1)");
}

fn any_saved() -> impl Strategy<Value = Saved> {
    let kind = proptest::sample::select(Kind::ALL.to_vec());
    let record = (
        kind,
        ".{1,20}",
        proptest::option::of(".{1,10}"),
        any::<u64>(),
        ".{0,200}",
        proptest::option::of(any::<u64>()),
    );
    record.prop_map(|(kind, key, owner, version, body, due)| Saved {
        record: Record { kind, key, owner, version, body },
        due: due.map(UnixMillis),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn contents_survive(
        records in proptest::collection::vec(any_saved(), 0..40), last_version in any::<u64>(),
        files in proptest::collection::vec((".{1,30}", any::<bool>(), proptest::collection::vec(any::<u8>(), 0..3000)), 0..5),
    ) {
        let (identities, public) = keys();
        let file = |(path, executable, contents)| SavedFile { path, executable, contents: Zeroizing::new(contents) };
        let files = files.into_iter().map(file).collect();
        let contents = Contents { files, snapshot: Snapshot { last_version, records } };
        let header = header_of(&contents);
        let encoded = encode(&header, &contents, &[public]).unwrap();
        prop_assert_eq!(open(&encoded, &identities).unwrap(), (header, contents));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), ours in any::<bool>()) {
        let mut file = if ours { MAGIC.to_vec() } else { Vec::new() };
        file.extend(bytes);
        let _ = inspect(&file);
        let sealed = reseal(file);
        let _ = inspect(&sealed);
    }
}
