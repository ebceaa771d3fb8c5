//! A restore is harmless, whole or begun again, and never writes over anything.

use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use switchback_disk::SystemClock;
use switchback_identity::{Authority, PeerIdentity, is_proved};
use switchback_model::component::{ReplicaActual, Report};
use switchback_model::{Epoch, ItemOperation, JobRequest, Task};
use switchback_store::SqliteStore;
use zeroize::Zeroizing;

use super::*;
use crate::backup::contents::SavedFile;
use crate::backup::format::Reason;

const MADE: UnixMillis = UnixMillis(1_732_441_234_567);
const NOW: UnixMillis = UnixMillis(1_732_441_300_000);

fn put(snapshot: &mut Snapshot, kind: Kind, key: &str, value: &impl Serialize) {
    add(snapshot, kind, key.into(), value);
}

fn job(id: &str, state: JobState) -> Job {
    let task = |name: &str, state| Task {
        name: name.into(),
        friendly_name: name.into(),
        state,
        started: None,
        ended: None,
        progress: None,
        message: String::new(),
        error: None,
        jobs: Vec::new(),
    };
    Job {
        id: id.parse().unwrap(),
        request: JobRequest::Operate {
            item: "web01".parse().unwrap(),
            operation: ItemOperation::PlannedFailover,
        },
        state,
        tasks: vec![
            task("first", TaskState::Succeeded),
            task("second", TaskState::InProgress),
            task("third", TaskState::NotStarted),
        ],
        by: "tester".into(),
        created: MADE,
        started: None,
        ended: None,
        undoing: None,
        cancel_requested: false,
        parent: None,
        notes: std::collections::BTreeMap::new(),
    }
}

const RUNNING: &str = "0193600000007000800000000000000a";
const ENDED: &str = "0193600000007000800000000000000b";

fn contents() -> Contents {
    let directory = tempfile::tempdir().unwrap();
    let volume = Arc::new(DirVolume::open(directory.path()).unwrap());
    Authority::create(volume, Arc::new(SystemClock)).unwrap();
    let read = |name: &str| Zeroizing::new(std::fs::read(directory.path().join(name)).unwrap());
    let file = |path: &str, executable, contents| SavedFile { path: path.into(), executable, contents };
    let mut snapshot = Snapshot { last_version: 40, records: Vec::new() };
    put(&mut snapshot, Kind::Item, "web01", &crate::testing::item("web01"));
    put(&mut snapshot, Kind::Job, RUNNING, &job(RUNNING, JobState::InProgress));
    put(&mut snapshot, Kind::Job, ENDED, &job(ENDED, JobState::Failed));
    snapshot.records[1].due = Some(MADE);
    let replica = ReplicaActual {
        replica: "web01-1".parse().unwrap(),
        epoch: Epoch(1),
        reached: None,
        applied: None,
        points: Vec::new(),
        retention_bytes: 0,
        views: std::collections::BTreeMap::new(),
        standing: Vec::new(),
        targets: Vec::new(),
        problem: None,
    };
    let peer = PeerIdentity { role: Role::Target, name: "mt1".parse().unwrap() };
    let state = State::MasterTarget(MasterTargetState {
        replicas: vec![replica],
        free_bytes: 5,
        ..MasterTargetState::default()
    });
    let report = Report {
        build: "x".into(),
        address: "mt1:9443".into(),
        site: "recovery".into(),
        started: MADE,
        state,
        incarnation_proof: None,
    };
    put(
        &mut snapshot,
        Kind::Report,
        "target/mt1",
        &StoredReport { peer, received: MADE, report, lied: true },
    );
    let old = Incarnation { number: 5, backup_made: MADE, restored: MADE, signature: Vec::new() };
    put(&mut snapshot, Kind::Setting, INCARNATION, &old);
    let files = vec![
        file("identity/authority.pem", false, read("authority.pem")),
        file("identity/passphrase", false, read("passphrase")),
        file("scripts/below/dns.sh", true, Zeroizing::new(b"#!/bin/sh\n".to_vec())),
    ];
    Contents { files, snapshot }
}

fn header(contents: &Contents) -> Header {
    Header {
        made: MADE,
        build: "1".into(),
        reason: Reason::Continuous,
        incarnation: 5,
        incarnation_proof: None,
        authority: contents.authority_fingerprint().unwrap(),
        settings: std::collections::BTreeMap::new(),
        records: contents.counts(),
        files: contents.files.len() as u64,
    }
}

fn prepared(contents: &Contents) -> Prepared {
    prepare(header(contents), contents.clone(), NOW).unwrap()
}

fn open(directory: &Path) -> Result<Arc<dyn Store>, switchback_store::StoreError> {
    Ok(Arc::new(SqliteStore::open(directory.join("store.db"))?))
}

/// Everything below, with its contents; but for the database, whose pages may differ.
fn tree(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_path_buf()]);
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(directory).unwrap().display().to_string();
            if path.is_dir() {
                open.push(path);
            } else if !name.starts_with("store.db") && name != "lock" {
                found.push((name, std::fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn body<T: serde::de::DeserializeOwned>(store: &dyn Store, kind: Kind, key: &str) -> T {
    serde_json::from_str(&store.get(kind, key).unwrap().unwrap().body).unwrap()
}

#[test]
fn what_is_restored_is_harmless() {
    let contents = contents();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("a/b");
    let prepared = restore(prepared(&contents), &data, &open, &mut |_| {}).unwrap();
    assert_eq!((prepared.suspended, prepared.held, prepared.incarnation.number), (1, 1, NOW.0));
    let store = open(&data).unwrap();
    let running: Job = body(&*store, Kind::Job, RUNNING);
    assert_eq!((running.state, running.tasks[1].state), (JobState::Suspended, TaskState::Suspended));
    assert!(running.tasks[1].message.contains("resume the job"), "{}", running.tasks[1].message);
    assert_eq!(body::<Job>(&*store, Kind::Job, ENDED), job(ENDED, JobState::Failed));
    assert!(
        store.claim_job("anybody", UnixMillis(u64::MAX >> 2), UnixMillis(u64::MAX >> 1)).unwrap().is_none()
    );
    let item: ProtectedItem = body(&*store, Kind::Item, "web01");
    assert_eq!(item.held, Some(Held::Unconfirmed { since: NOW }));
    let report: StoredReport = body(&*store, Kind::Report, "target/mt1");
    assert_eq!((report.received, report.report.address.as_str()), (UnixMillis(0), "mt1:9443"));
    assert_eq!(report.report.state, State::MasterTarget(MasterTargetState::default()));
    assert_eq!(body::<Incarnation>(&*store, Kind::Setting, INCARNATION), prepared.incarnation);
    // Files, for their owner only.
    let script = data.join("scripts/below/dns.sh");
    assert_eq!(std::fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o700);
    let key = data.join("identity/authority.pem");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    check_finished(&data).unwrap();
}

#[test]
fn killed_at_any_step_it_is_begun_again_and_ends_the_same() {
    let contents = contents();
    let whole = tempfile::tempdir().unwrap();
    let mut steps = 0;
    let first = restore(prepared(&contents), whole.path(), &open, &mut |_| steps += 1).unwrap();
    assert!(steps >= 7, "{steps}");
    for killed_at in 1..=steps {
        let directory = tempfile::tempdir().unwrap();
        let mut at = 0;
        let mut die = |_: &str| {
            at += 1;
            assert!(at != killed_at, "killed");
        };
        let died = catch_unwind(AssertUnwindSafe(|| {
            restore(prepared(&contents), directory.path(), &open, &mut die)
        }));
        assert!(died.is_err(), "{killed_at}");
        if killed_at > 2 {
            assert!(check_finished(directory.path()).is_err(), "no server may start: {killed_at}");
        }
        // Another one in the middle, later on: its time is not that of the first.
        let later = prepare(header(&contents), contents.clone(), UnixMillis(NOW.0 + 5)).unwrap();
        let again = restore(later, directory.path(), &open, &mut |_| {}).unwrap();
        check_finished(directory.path()).unwrap();
        assert_eq!(tree(directory.path()), tree(whole.path()));
        let kept: Incarnation = body(&*open(directory.path()).unwrap(), Kind::Setting, INCARNATION);
        assert_eq!(kept, again.incarnation);
        assert!(kept.number == first.incarnation.number || killed_at <= 2, "{killed_at}");
        let identity = DirVolume::open(directory.path().join("identity")).unwrap();
        let authority = Authority::open(Arc::new(identity), Arc::new(SystemClock)).unwrap();
        assert!(is_proved(&kept.proof(), authority.certificate()), "the authority says so: {killed_at}");
    }
}

#[test]
fn a_shared_database_that_was_filled_before_the_kill_is_not_filled_twice() {
    let contents = contents();
    let [directory, elsewhere] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let shared = |_: &Path| open(elsewhere.path());
    let mut die = |step: &str| assert!(step != "finishing", "killed");
    let died =
        catch_unwind(AssertUnwindSafe(|| restore(prepared(&contents), directory.path(), &shared, &mut die)));
    assert!(died.is_err());
    let filled = open(elsewhere.path()).unwrap().snapshot().unwrap();
    restore(prepared(&contents), directory.path(), &shared, &mut |_| {}).unwrap();
    assert_eq!(open(elsewhere.path()).unwrap().snapshot().unwrap(), filled);
    // Somebody else's is left alone.
    let other = tempfile::tempdir().unwrap();
    let refused = restore(prepared(&contents), other.path(), &shared, &mut |_| {}).unwrap_err();
    assert!(matches!(refused, RestoreError::Store(_)), "{refused}");
    assert_eq!(open(elsewhere.path()).unwrap().snapshot().unwrap(), filled);
}

#[test]
fn nothing_is_written_over() {
    let contents = contents();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("precious"), "x").unwrap();
    let refused = restore(prepared(&contents), directory.path(), &open, &mut |_| {}).unwrap_err();
    assert!(matches!(refused, RestoreError::NotEmpty { .. }), "{refused}");
    assert_eq!(tree(directory.path()), [("precious".to_owned(), b"x".to_vec())]);
    let done = tempfile::tempdir().unwrap();
    restore(prepared(&contents), done.path(), &open, &mut |_| {}).unwrap();
    let again = restore(prepared(&contents), done.path(), &open, &mut |_| {});
    assert!(matches!(again, Err(RestoreError::NotEmpty { .. })));
}

#[test]
fn what_does_not_belong_there_is_refused_before_anything_is_written() {
    let good = contents();
    let refused = |change: &dyn Fn(&mut Contents)| {
        let mut bad = good.clone();
        change(&mut bad);
        let error = prepare(header(&good), bad, NOW).unwrap_err();
        assert!(matches!(error, BackupError::Damaged { .. }), "{error}");
        error.to_string()
    };
    for path in [
        "../x",
        "/etc/passwd",
        "scripts/../../x",
        "scripts/./x",
        "store.db",
        "identity/credentials.pem",
        "scripts/",
        "scripts//x",
    ] {
        let said = refused(&|bad: &mut Contents| bad.files[2].path = path.into());
        assert!(said.contains("does not belong"), "{path}: {said}");
    }
    refused(&|bad| bad.files.truncate(1));
    refused(&|bad| bad.files[0].contents = contents().files[0].contents.clone());
    refused(&|bad| bad.files[0].contents = Zeroizing::new(b"nothing".to_vec()));
    let said = refused(&|bad| bad.snapshot.records[0].record.body = r#"{"name":"web01"}"#.into());
    assert!(said.contains("item web01"), "{said}");
}
