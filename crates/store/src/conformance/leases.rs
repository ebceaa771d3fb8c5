//! The queue of due jobs, and their leases.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;

use switchback_model::UnixMillis;

use super::{Fixture, delete, job, one};
use crate::{Expect, Kind, Store};

pub(super) fn run<F: Fixture>(fresh: &impl Fn() -> F) {
    the_job_that_has_been_due_longest_comes_first(&fresh());
    a_job_that_is_not_due_is_not_claimed(&fresh());
    only_jobs_are_claimed(&fresh());
    a_leased_job_is_nobody_elses(&fresh());
    a_lease_that_is_over_can_be_taken(&fresh());
    a_commit_keeps_the_lease(&fresh());
    what_is_given_back_is_claimed_again(&fresh());
    a_job_that_is_gone_has_no_lease(&fresh());
    each_job_goes_to_one_of_many(&fresh());
    jobs_are_claimed_while_they_are_changed(&fresh());
}

/// The key of the job that `owner` gets at `now`, for ten milliseconds.
fn claim(store: &dyn Store, owner: &str, now: u64) -> Option<String> {
    store.claim_job(owner, UnixMillis(now), UnixMillis(now + 10)).unwrap().map(|record| record.key)
}

fn the_job_that_has_been_due_longest_comes_first<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    for (key, due) in [("c", 30), ("a", 20), ("b", 10), ("d", 20)] {
        one(&*store, job(key, Expect::Absent, Some(due)));
    }
    let claimed: Vec<_> = (0..5).filter_map(|_| claim(&*store, "cs1", 30)).collect();
    assert_eq!(claimed, ["b", "a", "d", "c"]);
}

fn a_job_that_is_not_due_is_not_claimed<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let version = one(&*store, job("never", Expect::Absent, None));
    one(&*store, job("later", Expect::Absent, Some(100)));
    assert_eq!(claim(&*store, "cs1", 99), None);
    assert_eq!(
        store.claim_job("cs1", UnixMillis(u64::MAX), UnixMillis(u64::MAX)).unwrap().map(|job| job.key),
        Some("later".to_owned())
    );
    assert_eq!(
        store.claim_job("cs1", UnixMillis(u64::MAX - 1), UnixMillis(u64::MAX)).unwrap().map(|job| job.key),
        Some("later".to_owned()),
        "to the end of time"
    );
    one(&*store, job("later", Expect::Any, None));
    assert_eq!(claim(&*store, "cs1", u64::MAX - 10), None);
    let version = one(&*store, job("never", Expect::Version(version), Some(5)));
    let claimed = store.claim_job("cs1", UnixMillis(5), UnixMillis(6)).unwrap().unwrap();
    assert_eq!((claimed.key.as_str(), claimed.version, claimed.body.as_str()), ("never", version, "{}"));
    assert_eq!(
        store.get(Kind::Job, "never").unwrap(),
        Some(claimed),
        "a claim changes nothing of the record"
    );
    // What was due is not any more.
    one(&*store, job("never", Expect::Any, None));
    store.release_all("cs1").unwrap();
    assert_eq!(claim(&*store, "cs1", 1_000_000), None);
}

fn only_jobs_are_claimed<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let change = crate::Change::Put {
        kind: Kind::Event,
        key: "e".to_owned(),
        owner: None,
        expect: Expect::Absent,
        body: "1".to_owned(),
        due: Some(UnixMillis(1)),
    };
    one(&*store, change);
    assert_eq!(claim(&*store, "cs1", 1_000), None);
    assert!(!store.renew_lease("cs1", "e", UnixMillis(2_000)).unwrap());
}

fn a_leased_job_is_nobody_elses<F: Fixture>(fixture: &F) {
    let (first, second) = (fixture.open(), fixture.open());
    one(&*first, job("j", Expect::Absent, Some(1)));
    assert_eq!(claim(&*first, "cs1", 100).as_deref(), Some("j"));
    assert_eq!(claim(&*second, "cs2", 109), None);
    assert_eq!(claim(&*first, "cs1", 109), None, "nor is it given twice to the same");
    assert!(!second.renew_lease("cs2", "j", UnixMillis(900)).unwrap());
    second.release_job("cs2", "j").unwrap();
    assert_eq!(second.release_all("cs2").unwrap(), 0);
    assert_eq!(claim(&*second, "cs2", 109), None, "others cannot give it back");
    assert!(first.renew_lease("cs1", "j", UnixMillis(200)).unwrap());
    assert_eq!(claim(&*second, "cs2", 199), None, "prolonged");
}

fn a_lease_that_is_over_can_be_taken<F: Fixture>(fixture: &F) {
    let (first, second) = (fixture.open(), fixture.open());
    one(&*first, job("j", Expect::Absent, Some(1)));
    assert_eq!(claim(&*first, "cs1", 100).as_deref(), Some("j"));
    assert_eq!(claim(&*second, "cs2", 110).as_deref(), Some("j"), "over at 110");
    assert!(!first.renew_lease("cs1", "j", UnixMillis(300)).unwrap(), "the loser is told");
    first.release_job("cs1", "j").unwrap();
    assert_eq!(claim(&*first, "cs1", 119), None, "and cannot give back what is not his");
    assert!(second.renew_lease("cs2", "j", UnixMillis(130)).unwrap(), "late, but nobody else has it");
}

fn a_commit_keeps_the_lease<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let made = one(&*store, job("j", Expect::Absent, Some(1)));
    assert_eq!(claim(&*store, "cs1", 100).as_deref(), Some("j"));
    one(&*store, job("j", Expect::Version(made), Some(2)));
    assert_eq!(claim(&*store, "cs2", 109), None);
    one(&*store, job("j", Expect::Any, Some(3)));
    assert_eq!(claim(&*store, "cs2", 109), None);
    assert!(store.renew_lease("cs1", "j", UnixMillis(111)).unwrap());
    assert_eq!(claim(&*store, "cs2", 111).as_deref(), Some("j"));
}

fn what_is_given_back_is_claimed_again<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    for key in ["a", "b", "c"] {
        one(&*store, job(key, Expect::Absent, Some(1)));
    }
    assert_eq!(claim(&*store, "cs1", 100).as_deref(), Some("a"));
    assert_eq!(claim(&*store, "cs2", 100).as_deref(), Some("b"));
    assert_eq!(claim(&*store, "cs1", 100).as_deref(), Some("c"));
    store.release_job("cs1", "a").unwrap();
    assert!(!store.renew_lease("cs1", "a", UnixMillis(900)).unwrap());
    assert_eq!(claim(&*store, "cs2", 100).as_deref(), Some("a"));
    assert_eq!(store.release_all("cs2").unwrap(), 2);
    assert_eq!(store.release_all("cs2").unwrap(), 0);
    assert_eq!(claim(&*store, "cs3", 100).as_deref(), Some("a"));
    assert_eq!(claim(&*store, "cs3", 100).as_deref(), Some("b"));
    assert_eq!(claim(&*store, "cs3", 100), None, "c is still leased");
}

fn a_job_that_is_gone_has_no_lease<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    one(&*store, job("j", Expect::Absent, Some(1)));
    assert_eq!(claim(&*store, "cs1", 100).as_deref(), Some("j"));
    one(&*store, delete(Kind::Job, "j", Expect::Any));
    assert!(!store.renew_lease("cs1", "j", UnixMillis(900)).unwrap());
    one(&*store, job("j", Expect::Absent, Some(1)));
    assert_eq!(claim(&*store, "cs2", 101).as_deref(), Some("j"), "made again, it is nobody's");
}

/// Six servers, each with its own connection, and forty jobs.
fn each_job_goes_to_one_of_many<F: Fixture>(fixture: &F) {
    const SERVERS: usize = 6;
    const JOBS: usize = 40;
    let store = fixture.open();
    let names: Vec<String> = (0..JOBS).map(|number| format!("{number:03}")).collect();
    let batch: Vec<_> = names.iter().map(|name| job(name, Expect::Absent, Some(1))).collect();
    store.commit(&batch).unwrap();

    let claimed: Mutex<BTreeMap<String, Vec<usize>>> = Mutex::default();
    let stores: Vec<_> = (0..SERVERS).map(|_| fixture.open()).collect();
    thread::scope(|scope| {
        for (server, store) in stores.iter().enumerate() {
            let claimed = &claimed;
            scope.spawn(move || {
                // The last jobs may be passed over while another server takes them: a few more questions.
                let mut nothing = 0;
                while nothing < 3 {
                    match claim(&**store, &format!("cs{server}"), 100) {
                        Some(key) => claimed.lock().unwrap().entry(key).or_default().push(server),
                        None => nothing += 1,
                    }
                }
            });
        }
    });
    let claimed = claimed.into_inner().unwrap();
    assert_eq!(claimed.keys().collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    assert!(claimed.values().all(|servers| servers.len() == 1), "given to several: {claimed:?}");
}

/// Servers take jobs, finish them and give them back while others ask: every job is finished once.
fn jobs_are_claimed_while_they_are_changed<F: Fixture>(fixture: &F) {
    const JOBS: usize = 12;
    let store = fixture.open();
    let names: Vec<String> = (0..JOBS).map(|number| format!("{number:03}")).collect();
    let batch: Vec<_> = names.iter().map(|name| job(name, Expect::Absent, Some(1))).collect();
    store.commit(&batch).unwrap();
    let finished: Mutex<Vec<String>> = Mutex::default();
    let stores: Vec<_> = (0..4).map(|_| fixture.open()).collect();
    thread::scope(|scope| {
        for (server, store) in stores.iter().enumerate() {
            let finished = &finished;
            scope.spawn(move || {
                let owner = format!("cs{server}");
                // Far more questions than are needed, so that a job that never comes back ends the test.
                for _ in 0..100_000 {
                    if finished.lock().unwrap().len() >= JOBS {
                        return;
                    }
                    let Some(record) = store.claim_job(&owner, UnixMillis(100), UnixMillis(110)).unwrap()
                    else {
                        thread::yield_now();
                        continue;
                    };
                    // A step, and the end.
                    let version = one(&**store, job(&record.key, Expect::Version(record.version), Some(1)));
                    one(&**store, job(&record.key, Expect::Version(version), None));
                    finished.lock().unwrap().push(record.key.clone());
                    store.release_job(&owner, &record.key).unwrap();
                }
            });
        }
    });
    let mut finished = finished.into_inner().unwrap();
    finished.sort_unstable();
    assert_eq!(finished, names);
    assert_eq!(claim(&*store, "cs9", 1_000_000), None);
}
