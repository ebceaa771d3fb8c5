//! Backups of a real directory into a real destination; servers that learn that they were replaced.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use switchback_disk::{DirVolume, SystemClock};
use switchback_identity::{Authority, PeerIdentity, Role};
use switchback_model::component::{IncarnationProof, ProcessServerState, Report, State};
use switchback_model::{AccessRole, Account, AccountKind, Event, Severity, UnixMillis};
use switchback_store::SqliteStore;

use super::*;
use crate::ControlConfig;

/// A server with a directory, and a destination.
struct Server {
    directory: tempfile::TempDir,
    control: Control,
    authority: Authority,
    public: String,
}

impl Server {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        for name in ["identity", "scripts"] {
            std::fs::create_dir_all(data.join(name)).unwrap();
        }
        std::fs::create_dir(directory.path().join("backups")).unwrap();
        let identity = DirVolume::open(data.join("identity")).unwrap();
        let authority = Authority::create(Arc::new(identity), Arc::new(SystemClock)).unwrap();
        let control = Control::open(ControlConfig {
            store: Arc::new(SqliteStore::open(data.join("store.db")).unwrap()),
            clock: Arc::new(SystemClock),
            owner: "test".into(),
            scripts: data.join("scripts"),
            opener: Arc::new(crate::open_site),
        })
        .unwrap();
        control.keeps(ServerHome {
            directory: data,
            build: "1".into(),
            settings: BTreeMap::new(),
            addresses: Vec::new(),
            authority: authority.certificate().to_vec(),
        });
        let (_, public) = format::new_identity(None).unwrap();
        Self { directory, control, authority, public }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn policy(&self) -> BackupPolicy {
        BackupPolicy {
            destination: self.path("backups"),
            recipients: vec![self.public.clone()],
            continuous: true,
            every_ms: 0,
            keep: Keep { last: 2, hours: 0, days: 0 },
        }
    }
}

fn report(incarnation_proof: Option<IncarnationProof>) -> Report {
    let state = State::ProcessServer(ProcessServerState::default());
    Report {
        build: "x".into(),
        address: "ps:9443".into(),
        site: "home".into(),
        started: UnixMillis(0),
        state,
        incarnation_proof,
    }
}

#[test]
fn a_backup_is_made_verified_listed_and_thinned() {
    let server = Server::new();
    let error = server.control.back_up(Reason::Demanded).unwrap_err();
    assert_eq!(error.error.code, "backup.none");
    server.control.set_backup_policy(&server.policy()).unwrap();
    let names: Vec<_> = (0..4).map(|_| server.control.back_up(Reason::Demanded).unwrap().name).collect();
    let listed: Vec<_> = server.control.backups().unwrap().into_iter().map(|made| made.name).collect();
    assert_eq!(listed, [names[3].clone(), names[2].clone()], "the last two are kept");
    let header = server.control.verify_backup(&names[3]).unwrap();
    assert_eq!((header.reason, header.records["setting"], header.files), (Reason::Demanded, 1, 2));
    let status = server.control.backup_status().unwrap();
    assert_eq!((status.health, status.last_success.unwrap().name), (Health::Normal, names[3].clone()));
    // For its owner only.
    let file = server.directory.path().join("backups").join(names[3].to_string());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.pop();
    std::fs::write(&file, bytes).unwrap();
    let error = server.control.verify_backup(&names[3]).unwrap_err();
    assert_eq!(error.error.code, "backup.damaged");
}

#[test]
fn a_policy_that_cannot_work_is_refused() {
    let server = Server::new();
    let code =
        |policy: &BackupPolicy| server.control.set_backup_policy(policy).unwrap_err().error.code.clone();
    let good = server.policy();
    assert_eq!(code(&BackupPolicy { recipients: Vec::new(), ..good.clone() }), "backup.recipient");
    assert_eq!(code(&BackupPolicy { every_ms: 5, ..good.clone() }), "backup.policy");
    let inside = server.path("data/scripts");
    assert_eq!(code(&BackupPolicy { destination: inside, ..good.clone() }), "backup.policy");
    for destination in
        [server.path("missing"), "relative".into(), "s3://key:secret@bucket/x".into(), "ftp://a/b".into()]
    {
        let error =
            server.control.set_backup_policy(&BackupPolicy { destination, ..good.clone() }).unwrap_err();
        assert_eq!(error.error.code, "backup.destination", "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    assert_eq!(server.control.backup_policy().unwrap(), None);
}

#[test]
fn a_destination_that_has_gone_is_told_and_forgotten_when_it_is_back() {
    let server = Server::new();
    server.control.set_backup_policy(&server.policy()).unwrap();
    server.control.back_up(Reason::Continuous).unwrap();
    let (there, away) = (server.path("backups"), server.path("away"));
    std::process::Command::new("mv").args([&there, &away]).status().unwrap();
    let error = server.control.back_up(Reason::Continuous).unwrap_err();
    assert_eq!(error.error.code, "backup.destination");
    assert!(error.to_string().contains("create it, or mount the drive"), "{error}");
    let status = server.control.backup_status().unwrap();
    assert_eq!((status.health, status.reasons[0].code.as_str()), (Health::Warning, "backup.failed"));
    assert!(status.last_success.is_some());
    std::process::Command::new("mv").args([&away, &there]).status().unwrap();
    server.control.back_up(Reason::Continuous).unwrap();
    assert_eq!(server.control.backup_status().unwrap().health, Health::Normal);
}

#[test]
fn a_failure_is_told_with_the_systems_own_words() {
    #[derive(Debug, thiserror::Error)]
    #[error("writing failed")]
    struct Outer(#[source] std::io::Error);
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    assert_eq!(destination::words(&Outer(full)), "writing failed: no storage space");
    let twice = std::io::Error::other("writing failed");
    assert_eq!(destination::words(&Outer(twice)), "writing failed");
}

#[test]
fn what_changes_is_seen_and_what_does_not_is_not() {
    let server = Server::new();
    let home = server.control.server_home().unwrap();
    let seen = || server.control.backup_fingerprint(home).unwrap();
    let before = seen();
    let peer = PeerIdentity { role: Role::ProcessServer, name: "ps1".parse().unwrap() };
    server.control.report(&peer, report(None)).unwrap();
    assert_eq!(seen(), before, "a report");
    std::fs::write(home.directory.join("scripts/a.sh"), "x").unwrap();
    let script = seen();
    assert_ne!(script, before, "a script");
    std::fs::write(home.directory.join("prices.toml"), "x").unwrap();
    let prices = seen();
    assert_ne!(prices, script, "the table of prices");
    server.control.create_token(&"t".parse().unwrap(), AccessRole::Reader).unwrap();
    assert_ne!(seen(), prices, "a token");
}

#[test]
fn a_server_that_hears_of_a_later_one_stops() {
    let server = Server::new();
    let peer = PeerIdentity { role: Role::ProcessServer, name: "ps1".parse().unwrap() };
    assert_eq!(server.control.report(&peer, report(None)).unwrap().incarnation_proof, None);
    server.control.set_backup_policy(&server.policy()).unwrap();
    let proof = server.authority.prove_incarnation(7);
    let refused = server.control.report(&peer, report(Some(proof))).unwrap_err();
    assert_eq!(refused.error.code, "server.superseded");
    // Also to those that have not met the other one.
    assert_eq!(server.control.report(&peer, report(None)).unwrap_err().error.code, "server.superseded");
    assert_eq!(server.control.desired(&peer, None).unwrap_err().error.code, "server.superseded");
    assert_eq!(server.control.back_up(Reason::Demanded).unwrap_err().error.code, "server.superseded");
    assert_eq!(server.control.superseded().unwrap().unwrap().by, 7);
    assert!(server.control.backups().unwrap().is_empty());
    let events = server.control.events(10).unwrap();
    assert!(events.iter().any(|event| event.code == "server.superseded"), "{events:?}");
}

#[test]
fn a_component_that_cannot_prove_what_it_says_is_ignored_and_told_of_once() {
    let server = Server::new();
    let [liar, honest] =
        ["ps1", "ps2"].map(|name| PeerIdentity { role: Role::ProcessServer, name: name.parse().unwrap() });
    let other = Authority::ephemeral(Arc::new(SystemClock));
    let forged = IncarnationProof { number: u64::MAX, ..server.authority.prove_incarnation(7) };
    for lie in [forged, other.prove_incarnation(7), other.prove_incarnation(8)] {
        server.control.report(&liar, report(Some(lie))).unwrap();
    }
    server.control.report(&honest, report(None)).unwrap();
    assert_eq!(server.control.superseded().unwrap(), None);
    let told = |code: &str| {
        let events = server.control.events(10).unwrap().into_iter();
        events.filter(|event| event.code == code).map(|event| event.object).collect::<Vec<_>>()
    };
    assert_eq!(told("server.incarnation-unproved"), ["process-server ps1"]);
    server.control.report(&liar, report(None)).unwrap();
    assert_eq!(told("server.incarnation-unproved.resolved"), ["process-server ps1"]);
    // Also while it lies it is no way to keep the truth from the server.
    let proof = server.authority.prove_incarnation(9);
    let refused = server.control.report(&honest, report(Some(proof))).unwrap_err();
    assert_eq!(refused.error.code, "server.superseded");
}

/// A backup at the destination, of a server of incarnation 9 or one that says so.
fn backup_of_9(server: &Server, incarnation_proof: Option<IncarnationProof>) -> PathBuf {
    let contents = contents::read(server.control.records().store(), server.control.server_home().unwrap());
    let contents = contents.unwrap();
    let header = Header {
        made: UnixMillis(1),
        build: "1".into(),
        reason: Reason::Continuous,
        incarnation: 9,
        incarnation_proof,
        authority: contents.authority_fingerprint().unwrap(),
        settings: BTreeMap::new(),
        records: contents.counts(),
        files: contents.files.len() as u64,
    };
    let file = format::encode(&header, &contents, std::slice::from_ref(&server.public)).unwrap();
    let name = BackupName::new(header.made, header.reason, header.incarnation).unwrap();
    let path = server.directory.path().join("backups").join(name.to_string());
    std::fs::write(&path, file).unwrap();
    path
}

#[test]
fn a_backup_that_cannot_prove_whose_it_is_keeps_nobody_from_backing_up() {
    let server = Server::new();
    server.control.set_backup_policy(&server.policy()).unwrap();
    let other = Authority::ephemeral(Arc::new(SystemClock));
    let file = backup_of_9(&server, Some(other.prove_incarnation(9)));
    server.control.back_up(Reason::Demanded).unwrap();
    std::fs::write(&file, "no backup at all").unwrap();
    server.control.back_up(Reason::Demanded).unwrap();
    assert_eq!(server.control.superseded().unwrap(), None);
    let events = server.control.events(10).unwrap();
    let told = events.iter().filter(|event| event.code == "server.incarnation-unproved").count();
    assert_eq!(told, 1, "{events:?}");
}

#[test]
fn a_server_that_finds_a_later_ones_backup_stops_and_leaves_it() {
    let server = Server::new();
    server.control.set_backup_policy(&server.policy()).unwrap();
    let file = backup_of_9(&server, Some(server.authority.prove_incarnation(9)));
    assert_eq!(server.control.back_up(Reason::Demanded).unwrap_err().error.code, "server.superseded");
    assert_eq!(server.control.superseded().unwrap().unwrap().by, 9);
    assert!(file.exists());
}

/// Not a test: what a backup of a large site takes. `cargo test -p switchback-control --release -- --ignored --nocapture what_a_backup_costs`
#[test]
#[ignore = "a measurement"]
fn what_a_backup_costs() {
    let server = Server::new();
    server.control.set_backup_policy(&server.policy()).unwrap();
    let mut changes = Vec::new();
    let mut put = |kind, key: String, body: String| {
        changes.push(switchback_store::Change::Put {
            kind,
            key,
            owner: None,
            expect: Expect::Any,
            body,
            due: None,
        });
    };
    for number in 0..1000 {
        let item = crate::testing::item(&format!("machine{number:04}"));
        put(Kind::Item, item.name.key(), serde_json::to_string(&item).unwrap());
    }
    for number in 0..100_000_u64 {
        let event = Event {
            time: UnixMillis(number * 1000),
            code: "job.succeeded".into(),
            severity: Severity::Info,
            object: format!("machine{:04}", number % 1000),
            message: format!("test failover of machine{:04}: Succeeded", number % 1000),
        };
        put(
            Kind::Event,
            format!("{number:015}-{:012x}", number * 7919),
            serde_json::to_string(&event).unwrap(),
        );
    }
    for chunk in changes.chunks(1000) {
        server.control.records().store().commit(chunk).unwrap();
    }
    for what in ["looking", "backing up", "backing up", "restoring"] {
        let began = std::time::Instant::now();
        let mut len = 0;
        match what {
            "looking" => {
                let home = server.control.server_home().unwrap();
                server.control.backup_fingerprint(home).unwrap();
            }
            "restoring" => {
                let home = server.control.server_home().unwrap();
                let contents = contents::read(server.control.records().store(), home).unwrap();
                let to = SqliteStore::open(server.directory.path().join("other.db")).unwrap();
                switchback_store::Store::restore(&to, &contents.snapshot).unwrap();
            }
            _ => len = server.control.back_up(Reason::Demanded).unwrap().len,
        }
        println!("{what}: {} ms, {len} bytes", began.elapsed().as_millis());
    }
}

fn account(name: &str) -> Account {
    Account {
        name: name.parse().unwrap(),
        kind: AccountKind::Vsphere,
        user: "admin@vsphere".into(),
        changed: UnixMillis(1),
    }
}

#[test]
fn a_password_is_kept_encrypted_shown_to_nobody_and_in_backups() {
    let server = Server::new();
    let control = &server.control;
    let password = zeroize::Zeroizing::new("correct horse".to_owned());
    control.add_account(account("vc"), &password).unwrap();
    assert_eq!(control.add_account(account("VC"), &password).unwrap_err().error.code, "name.taken");
    let (found, secret) = control.account_secret(&"vc".parse().unwrap()).unwrap();
    assert_eq!((found, secret.as_str()), (account("vc"), "correct horse"));
    let kept = control.records().store().get(Kind::Account, "vc").unwrap().unwrap().body;
    assert!(!kept.contains("correct") && kept.contains("admin@vsphere"), "{kept}");
    let home = control.server_home().unwrap();
    let key = home.directory.join("accounts.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let contents = contents::read(control.records().store(), home).unwrap();
    assert!(contents.files.iter().any(|file| file.path == "accounts.key" && file.contents.len() == 32));
    // Another nonce each time; the old password is gone.
    let new = zeroize::Zeroizing::new("battery staple".to_owned());
    control.rotate_account(&"vc".parse().unwrap(), Some("root".into()), &new).unwrap();
    let (found, secret) = control.account_secret(&"vc".parse().unwrap()).unwrap();
    assert_eq!((found.user.as_str(), secret.as_str()), ("root", "battery staple"));
    let error = control.test_account(&"vc".parse().unwrap()).unwrap_err();
    assert_eq!(error.error.code, "account.unused");
    control.remove_account(&"vc".parse().unwrap()).unwrap();
    assert!(control.accounts().unwrap().is_empty());
    assert!(control.add_account(account("a"), &zeroize::Zeroizing::default()).is_err(), "an empty password");
}

#[test]
fn a_password_is_bound_to_its_account_and_its_key() {
    let server = Server::new();
    let control = &server.control;
    control.add_account(account("vc"), &zeroize::Zeroizing::new("one".into())).unwrap();
    control.add_account(account("other"), &zeroize::Zeroizing::new("two".into())).unwrap();
    let body = |key: &str| control.records().store().get(Kind::Account, key).unwrap().unwrap().body;
    let mut moved: serde_json::Value = serde_json::from_str(&body("vc")).unwrap();
    moved["sealed"] = serde_json::from_str::<serde_json::Value>(&body("other")).unwrap()["sealed"].clone();
    let mut batch = Batch::default();
    batch.put(Kind::Account, "vc", Expect::Any, &moved);
    control.records().commit(batch).unwrap();
    let code = |name: &str| control.account_secret(&name.parse().unwrap()).unwrap_err().error.code.clone();
    assert_eq!(code("vc"), "account.unreadable");
    assert!(control.account_secret(&"other".parse().unwrap()).is_ok());
    std::fs::remove_file(control.server_home().unwrap().directory.join("accounts.key")).unwrap();
    assert_eq!(code("other"), "account.unreadable");
    let error = control.add_account(account("third"), &zeroize::Zeroizing::new("x".into())).unwrap_err();
    assert_eq!(
        error.error.code, "account.unreadable",
        "no second key is made beside the first one's secrets"
    );
}
