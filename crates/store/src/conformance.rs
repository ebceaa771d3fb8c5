//! What every [`Store`] must do, as a suite for the tests of all stores.
//!
//! Each case gets a fresh, empty store, which it may open several times, as several servers do. Panics at the first promise that is not kept.
//! What must hold when a process dies is tested in `tests/`, which can have processes that die.

#![expect(clippy::unwrap_used, reason = "a suite for tests: whatever fails, fails the test")]

mod batches;
mod leases;
mod queries;
mod snapshots;

use std::sync::Arc;

use switchback_model::UnixMillis;

use crate::{Change, Expect, Kind, Record, Store, StoreError};

/// A fresh, empty store.
pub trait Fixture {
    /// Opens it; again and again, as several servers do.
    fn open(&self) -> Arc<dyn Store>;
}

/// Runs all cases; `fresh` makes what each begins with.
///
/// # Panics
/// At the first promise that is not kept.
pub fn stores<F: Fixture>(fresh: impl Fn() -> F) {
    batches::run(&fresh);
    queries::run(&fresh);
    leases::run(&fresh);
    snapshots::run(&fresh);
}

/// A put of a record without owner.
fn put(kind: Kind, key: &str, expect: Expect, body: &str) -> Change {
    Change::Put { kind, key: key.to_owned(), owner: None, expect, body: body.to_owned(), due: None }
}

fn owned(kind: Kind, key: &str, owner: &str) -> Change {
    let owner = Some(owner.to_owned());
    Change::Put { kind, key: key.to_owned(), owner, expect: Expect::Any, body: "{}".to_owned(), due: None }
}

fn job(key: &str, expect: Expect, due: Option<u64>) -> Change {
    let due = due.map(UnixMillis);
    Change::Put { kind: Kind::Job, key: key.to_owned(), owner: None, expect, body: "{}".to_owned(), due }
}

fn delete(kind: Kind, key: &str, expect: Expect) -> Change {
    Change::Delete { kind, key: key.to_owned(), expect }
}

/// Commits one change; returns the record's version.
fn one(store: &dyn Store, change: Change) -> u64 {
    store.commit(&[change]).unwrap()[0]
}

fn keys(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.key.as_str()).collect()
}

/// Panics unless the changes are refused because of this record.
fn expect_conflict(store: &dyn Store, changes: &[Change], kind: Kind, key: &str) {
    match store.commit(changes) {
        Err(StoreError::Conflict { kind: found, key: of }) => {
            assert_eq!((found, of.as_str()), (kind, key), "{changes:?}");
        }
        other => panic!("{changes:?} should be a conflict, got {other:?}"),
    }
}

/// Panics unless the changes are refused as something no store takes, and nothing was done.
fn expect_invalid(store: &dyn Store, changes: &[Change]) {
    match store.commit(changes) {
        Err(StoreError::Invalid { .. }) => {}
        other => panic!("should be invalid, got {other:?}"),
    }
}
