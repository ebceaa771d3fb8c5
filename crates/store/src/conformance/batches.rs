//! Records, versions, conflicts, and batches that are done whole or not at all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::{Fixture, delete, expect_conflict, expect_invalid, one, put};
use crate::{BODY_LEN_MAX, CHANGES_MAX, Change, Expect, KEY_LEN_MAX, Kind, Query, Record, Store, StoreError};

pub(super) fn run<F: Fixture>(fresh: &impl Fn() -> F) {
    a_record_comes_back_as_it_was_put(&fresh());
    versions_go_up_by_one(&fresh());
    what_was_not_expected_is_a_conflict(&fresh());
    a_record_made_again_is_a_new_one(&fresh());
    a_batch_is_done_whole_or_not_at_all(&fresh());
    the_changes_of_a_batch_are_done_in_order(&fresh());
    what_is_committed_is_seen_by_others(&fresh());
    nobody_overwrites_what_he_has_not_seen(&fresh());
    batches_never_wait_for_each_other_for_ever(&fresh());
    what_no_store_takes_is_refused(&fresh());
}

fn a_record_comes_back_as_it_was_put<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    assert_eq!(store.get(Kind::Item, "web01").unwrap(), None);
    let body = r#"{"name":"Wäb\u0000 \"01\"","text":"日本語 🦀 ' -- ; $1 ?1"}"#;
    let long = "k".repeat(KEY_LEN_MAX);
    for (key, owner) in
        [("web01", Some("agent/web01")), ("it's $1 \"%_\\", None), (long.as_str(), Some(long.as_str()))]
    {
        let owner = owner.map(str::to_owned);
        let version = one(
            &*store,
            Change::Put {
                kind: Kind::Item,
                key: key.to_owned(),
                owner: owner.clone(),
                expect: Expect::Absent,
                body: body.to_owned(),
                due: None,
            },
        );
        let expected =
            Record { kind: Kind::Item, key: key.to_owned(), owner, version, body: body.to_owned() };
        assert!(version >= 1, "a version is 1 or more");
        assert_eq!(store.get(Kind::Item, key).unwrap(), Some(expected));
        assert_eq!(store.get(Kind::Plan, key).unwrap(), None, "of another kind");
    }
    let large = format!("\"{}\"", "x".repeat(BODY_LEN_MAX - 2));
    one(&*store, put(Kind::Setting, "large", Expect::Absent, &large));
    assert!(
        store.get(Kind::Setting, "large").unwrap().unwrap().body == large,
        "a large body is not what was put"
    );
}

fn versions_go_up_by_one<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let made = one(&*store, put(Kind::Site, "home", Expect::Absent, "1"));
    one(&*store, put(Kind::Site, "away", Expect::Any, "1"));
    assert_eq!(one(&*store, put(Kind::Site, "home", Expect::Version(made), "2")), made + 1);
    assert_eq!(one(&*store, put(Kind::Site, "home", Expect::Any, "3")), made + 2);
    let record = store.get(Kind::Site, "home").unwrap().unwrap();
    assert_eq!((record.version, record.body.as_str()), (made + 2, "3"));
    assert_eq!(one(&*store, delete(Kind::Site, "home", Expect::Version(made + 2))), 0);
    assert_eq!(store.get(Kind::Site, "home").unwrap(), None);
    assert_eq!(one(&*store, delete(Kind::Site, "home", Expect::Any)), 0, "deleting what is not there");
    assert_eq!(store.commit(&[]).unwrap(), [] as [u64; 0]);
}

fn what_was_not_expected_is_a_conflict<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let made = one(&*store, put(Kind::Plan, "p", Expect::Absent, "1"));
    let now = one(&*store, put(Kind::Plan, "p", Expect::Version(made), "2"));
    for change in [
        put(Kind::Plan, "p", Expect::Absent, "9"),
        put(Kind::Plan, "p", Expect::Version(made), "9"),
        put(Kind::Plan, "p", Expect::Version(now + 1), "9"),
        put(Kind::Plan, "p", Expect::Version(u64::MAX), "9"),
        delete(Kind::Plan, "p", Expect::Version(made)),
    ] {
        expect_conflict(&*store, &[change], Kind::Plan, "p");
    }
    expect_conflict(&*store, &[put(Kind::Plan, "none", Expect::Version(1), "9")], Kind::Plan, "none");
    expect_conflict(&*store, &[delete(Kind::Plan, "none", Expect::Version(1))], Kind::Plan, "none");
    assert_eq!(store.get(Kind::Plan, "p").unwrap().unwrap().body, "2");
    assert_eq!(store.get(Kind::Plan, "none").unwrap(), None);
}

/// Whoever still holds the version of the old one must not change the new one.
fn a_record_made_again_is_a_new_one<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let mut before = 0;
    for round in 0..5 {
        let made = one(&*store, put(Kind::Item, "web01", Expect::Absent, "1"));
        assert!(made > before, "round {round} made it with version {made}, which it had before");
        let mut last = made;
        for _ in 0..round {
            last = one(&*store, put(Kind::Item, "web01", Expect::Version(last), "2"));
        }
        one(&*store, delete(Kind::Item, "web01", Expect::Version(last)));
        before = last;
    }
}

fn a_batch_is_done_whole_or_not_at_all<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let made = one(&*store, put(Kind::Item, "a", Expect::Absent, "1"));
    one(&*store, put(Kind::Item, "gone", Expect::Absent, "1"));
    let batch = [
        put(Kind::Item, "a", Expect::Version(made), "2"),
        put(Kind::Item, "b", Expect::Absent, "2"),
        delete(Kind::Item, "gone", Expect::Any),
        put(Kind::Plan, "p", Expect::Version(7), "2"),
        put(Kind::Plan, "q", Expect::Absent, "2"),
    ];
    expect_conflict(&*store, &batch, Kind::Plan, "p");
    assert_eq!(store.get(Kind::Item, "a").unwrap().unwrap().body, "1");
    assert_eq!(store.get(Kind::Item, "b").unwrap(), None);
    assert!(store.get(Kind::Item, "gone").unwrap().is_some());
    assert_eq!(store.get(Kind::Plan, "q").unwrap(), None);

    // The same without the change that did not fit.
    let whole: Vec<Change> =
        batch.into_iter().filter(|change| !matches!(change, Change::Put { key, .. } if key == "p")).collect();
    let versions = store.commit(&whole).unwrap();
    assert_eq!((versions.len(), versions[0], versions[2]), (4, made + 1, 0));
    assert_eq!(store.get(Kind::Item, "b").unwrap().unwrap().version, versions[1]);
    assert_eq!(store.get(Kind::Plan, "q").unwrap().unwrap().version, versions[3]);
    assert_eq!(store.get(Kind::Item, "gone").unwrap(), None);
}

fn the_changes_of_a_batch_are_done_in_order<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let versions = store
        .commit(&[
            put(Kind::Item, "a", Expect::Absent, "1"),
            put(Kind::Item, "a", Expect::Any, "2"),
            delete(Kind::Item, "a", Expect::Any),
            put(Kind::Item, "a", Expect::Absent, "3"),
        ])
        .unwrap();
    assert!(versions[1] == versions[0] + 1 && versions[3] > versions[1], "{versions:?}");
    assert_eq!(store.get(Kind::Item, "a").unwrap().unwrap().body, "3");
    let twice = [put(Kind::Item, "b", Expect::Absent, "1"), put(Kind::Item, "b", Expect::Absent, "1")];
    expect_conflict(&*store, &twice, Kind::Item, "b");
}

fn what_is_committed_is_seen_by_others<F: Fixture>(fixture: &F) {
    let (one_store, other) = (fixture.open(), fixture.open());
    for round in 0..20 {
        let body = round.to_string();
        one(&*one_store, put(Kind::Setting, "s", Expect::Any, &body));
        assert_eq!(other.get(Kind::Setting, "s").unwrap().unwrap().body, body);
    }
    drop((one_store, other));
    assert_eq!(fixture.open().get(Kind::Setting, "s").unwrap().unwrap().body, "19", "opened again");
}

/// Many count in one record, each by reading and writing: not one step is lost.
fn nobody_overwrites_what_he_has_not_seen<F: Fixture>(fixture: &F) {
    const THREADS: u64 = 4;
    const STEPS: u64 = 25;
    one(&*fixture.open(), put(Kind::Setting, "count", Expect::Absent, "0"));
    let conflicts = AtomicU64::new(0);
    let stores: Vec<_> = (0..THREADS).map(|_| fixture.open()).collect();
    thread::scope(|scope| {
        for store in &stores {
            scope.spawn(|| (0..STEPS).for_each(|_| step(&**store, &conflicts)));
        }
    });
    let record = fixture.open().get(Kind::Setting, "count").unwrap().unwrap();
    assert_eq!(record.body, (THREADS * STEPS).to_string(), "after {} conflicts", conflicts.into_inner());
}

/// One step, however often others are faster.
fn step(store: &dyn Store, conflicts: &AtomicU64) {
    loop {
        let record = store.get(Kind::Setting, "count").unwrap().unwrap();
        let next = record.body.parse::<u64>().unwrap() + 1;
        match store.commit(&[put(Kind::Setting, "count", Expect::Version(record.version), &next.to_string())])
        {
            Ok(_) => return,
            Err(StoreError::Conflict { .. }) => conflicts.fetch_add(1, Ordering::Relaxed),
            Err(error) => panic!("{error}"),
        };
    }
}

/// Batches over the same records in opposite orders, and removals of all of them between.
fn batches_never_wait_for_each_other_for_ever<F: Fixture>(fixture: &F) {
    let names = ["a", "b", "c", "d"];
    let stores: Vec<_> = (0..4).map(|_| fixture.open()).collect();
    thread::scope(|scope| {
        for (number, store) in stores.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..15 {
                    let body = format!("[{number},{round}]");
                    let mut batch: Vec<_> =
                        names.iter().map(|name| put(Kind::Event, name, Expect::Any, &body)).collect();
                    if number % 2 == 1 {
                        batch.reverse();
                    }
                    store.commit(&batch).unwrap();
                    if number == 3 {
                        store.prune(Kind::Event, "z").unwrap();
                    }
                    let found = store.list(&Query::all(Kind::Event)).unwrap();
                    assert!(
                        found.iter().all(|record| record.body == found[0].body),
                        "half of a batch: {found:?}"
                    );
                }
            });
        }
    });
}

fn what_no_store_takes_is_refused<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let good = put(Kind::Item, "good", Expect::Absent, "1");
    for bad in [
        put(Kind::Item, "", Expect::Any, "1"),
        put(Kind::Item, "zero\0byte", Expect::Any, "1"),
        put(Kind::Item, &"k".repeat(KEY_LEN_MAX + 1), Expect::Any, "1"),
        super::owned(Kind::Item, "a", ""),
        super::owned(Kind::Item, "a", "zero\0byte"),
        put(Kind::Item, "a", Expect::Any, ""),
        put(Kind::Item, "a", Expect::Any, "{\"cut\":"),
        put(Kind::Item, "a", Expect::Any, &format!("\"{}\"", "x".repeat(BODY_LEN_MAX - 1))),
        delete(Kind::Item, "a", Expect::Absent),
    ] {
        expect_invalid(&*store, &[good.clone(), bad]);
    }
    expect_invalid(&*store, &vec![delete(Kind::Item, "a", Expect::Any); CHANGES_MAX + 1]);
    assert_eq!(store.list(&Query::all(Kind::Item)).unwrap(), []);
    // Questions about what cannot be there are answered.
    for key in ["", "zero\0byte", "\u{fffd}"] {
        assert_eq!(store.get(Kind::Item, key).unwrap(), None);
        assert!(!store.renew_lease(key, key, switchback_model::UnixMillis(9)).unwrap());
        store.release_job(key, key).unwrap();
        assert_eq!(store.release_all(key).unwrap(), 0);
    }
}
