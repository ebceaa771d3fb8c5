//! Snapshots: all of a store, put into another one, and noticing that something has changed.

use switchback_model::UnixMillis;

use super::{Fixture, delete, job, one, owned, put};
use crate::{Expect, Kind, Query, Snapshot, Store, StoreError};

pub(super) fn run<F: Fixture>(fresh: &impl Fn() -> F) {
    all_of_a_store_goes_into_another(&fresh(), &fresh());
    a_store_with_records_is_not_filled(&fresh());
    what_no_store_takes_leaves_nothing(&fresh());
    every_change_but_a_report_shows(&fresh());
}

fn filled(store: &dyn Store) -> Snapshot {
    for number in 0..1203 {
        one(store, owned(Kind::Event, &format!("e{number:04}"), "somebody"));
    }
    one(store, put(Kind::Site, "home", Expect::Absent, r#"{"text":"\u0007 é \" \n"}"#));
    let version = one(store, put(Kind::Setting, "a", Expect::Absent, "1"));
    one(store, put(Kind::Setting, "a", Expect::Version(version), "2"));
    one(store, job("j1", Expect::Absent, Some(5)));
    one(store, job("j2", Expect::Absent, None));
    one(store, put(Kind::Group, "gone", Expect::Absent, "1"));
    one(store, delete(Kind::Group, "gone", Expect::Any));
    store.claim_job("owner", UnixMillis(10), UnixMillis(1_000)).unwrap().unwrap();
    store.snapshot().unwrap()
}

fn all_of_a_store_goes_into_another<F: Fixture>(from: &F, to: &F) {
    let (from, to) = (from.open(), to.open());
    let snapshot = filled(&*from);
    assert_eq!(snapshot.records.len(), 1203 + 4);
    to.restore(&snapshot).unwrap();
    assert_eq!(to.snapshot().unwrap(), snapshot);
    for kind in Kind::ALL {
        assert_eq!(to.list(&Query::all(kind)).unwrap(), from.list(&Query::all(kind)).unwrap());
    }
    // Nobody has it any more, though it was leased.
    let claimed = to.claim_job("other", UnixMillis(20), UnixMillis(30)).unwrap();
    assert_eq!(claimed.unwrap().key, "j1");
    // Made again, it goes on above the versions it had before the backup.
    let was = snapshot.last_version;
    assert!(one(&*to, put(Kind::Group, "gone", Expect::Absent, "1")) > was);
}

fn a_store_with_records_is_not_filled<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let empty = store.snapshot().unwrap();
    assert_eq!(empty.records, []);
    one(&*store, put(Kind::Site, "home", Expect::Absent, "1"));
    let before = store.snapshot().unwrap();
    for snapshot in [&empty, &before] {
        let refused = store.restore(snapshot);
        assert!(matches!(refused, Err(StoreError::Invalid { .. })), "{refused:?}");
    }
    assert_eq!(store.snapshot().unwrap(), before);
}

fn what_no_store_takes_leaves_nothing<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    one(&*store, put(Kind::Site, "home", Expect::Absent, "1"));
    let mut snapshot = store.snapshot().unwrap();
    one(&*store, delete(Kind::Site, "home", Expect::Any));
    let mut bad = snapshot.records[0].clone();
    bad.record.body = "{".into();
    snapshot.records.push(bad);
    assert!(matches!(store.restore(&snapshot), Err(StoreError::Invalid { .. })));
    snapshot.records.pop();
    // A key twice: found by the database, in the middle.
    snapshot.records.push(snapshot.records[0].clone());
    assert!(store.restore(&snapshot).is_err());
    assert_eq!(store.snapshot().unwrap().records, []);
    snapshot.records.pop();
    store.restore(&snapshot).unwrap();
}

fn every_change_but_a_report_shows<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let mut seen = vec![store.fingerprint().unwrap()];
    let mut changed = |what: &str| {
        let now = store.fingerprint().unwrap();
        assert!(!seen.contains(&now), "{what}");
        seen.push(now);
    };
    one(&*store, put(Kind::Site, "a", Expect::Absent, "1"));
    changed("made");
    one(&*store, put(Kind::Site, "a", Expect::Any, "1"));
    changed("replaced");
    one(&*store, put(Kind::Site, "b", Expect::Absent, "1"));
    changed("another");
    store.commit(&[delete(Kind::Site, "b", Expect::Any), put(Kind::Site, "c", Expect::Absent, "1")]).unwrap();
    changed("one for another");
    store.prune(Kind::Site, "b").unwrap();
    changed("pruned");
    let before = store.fingerprint().unwrap();
    one(&*store, put(Kind::Report, "target/mt1", Expect::Any, "1"));
    one(&*store, put(Kind::Report, "target/mt1", Expect::Any, "2"));
    assert_eq!(store.fingerprint().unwrap(), before);
}
