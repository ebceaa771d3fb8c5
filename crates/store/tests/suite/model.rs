//! Any sequence of calls has the results that it has on a map in memory. Random, and shrunk to a short example on failure.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestCaseError};
use proptest::{prop_assert, prop_assert_eq, proptest};
use switchback_model::UnixMillis;
use switchback_store::testing::PostgresServer;
use switchback_store::{Change, Expect, Kind, PostgresStore, Query, Record, SqliteStore, Store, StoreError};

/// A call. Few different names and times, so that calls meet.
#[derive(Clone, Debug)]
enum Call {
    /// Changes, and whether each is given the version that is really there.
    Commit(Vec<(Change, bool)>),
    List(Query),
    Claim(&'static str, u64, u64),
    Renew(&'static str, &'static str, u64),
    Release(&'static str, &'static str),
    ReleaseAll(&'static str),
    Prune(Kind, &'static str),
}

const KEYS: [&str; 5] = ["a", "B", "c", "_", "ä"];

fn keys() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&KEYS[..])
}

fn owners() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&["cs1", "cs2"][..])
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![3 => Just(Kind::Job), 1 => Just(Kind::Event)]
}

fn changes() -> impl Strategy<Value = (Change, bool)> {
    let expects = prop_oneof![
        2 => Just(Expect::Absent),
        2 => Just(Expect::Any),
        4 => (0..4_u64).prop_map(Expect::Version),
    ];
    let put = (kinds(), keys(), option::of(owners()), expects, 0..100_u8, option::of(0..20_u64)).prop_map(
        |(kind, key, owner, expect, body, due)| Change::Put {
            kind,
            key: key.to_owned(),
            owner: owner.map(str::to_owned),
            expect,
            body: body.to_string(),
            due: due.map(UnixMillis),
        },
    );
    let expects = prop_oneof![Just(Expect::Any), Just(Expect::Version(1))];
    let delete = (kinds(), keys(), expects).prop_map(|(kind, key, expect)| Change::Delete {
        kind,
        key: key.to_owned(),
        expect,
    });
    (prop_oneof![4 => put, 1 => delete], proptest::bool::weighted(0.8))
}

fn queries() -> impl Strategy<Value = Query> {
    (kinds(), option::of(owners()), option::of(keys()), any::<bool>(), 0..7_usize).prop_map(
        |(kind, owner, after, descending, limit)| Query {
            keys: None,
            kind,
            owner: owner.map(str::to_owned),
            after: after.map(str::to_owned),
            descending,
            limit,
        },
    )
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        6 => vec(changes(), 0..4).prop_map(Call::Commit),
        2 => queries().prop_map(Call::List),
        4 => (owners(), 0..30_u64, 0..30_u64).prop_map(|(owner, now, until)| Call::Claim(owner, now, until)),
        2 => (owners(), keys(), 0..30_u64).prop_map(|(owner, job, until)| Call::Renew(owner, job, until)),
        1 => (owners(), keys()).prop_map(|(owner, job)| Call::Release(owner, job)),
        1 => owners().prop_map(Call::ReleaseAll),
        1 => (kinds(), keys()).prop_map(|(kind, key)| Call::Prune(kind, key)),
    ];
    vec(call, 1..40)
}

#[derive(Clone, Debug)]
struct Row {
    record: Record,
    due: Option<u64>,
    lease: Option<(String, u64)>,
}

/// The model: what a store is, without anything that makes it durable or shared.
#[derive(Clone, Debug, Default)]
struct Model {
    rows: BTreeMap<(Kind, String), Row>,
    last_version: u64,
}

impl Model {
    fn version(&self, kind: Kind, key: &str) -> Option<u64> {
        self.rows.get(&(kind, key.to_owned())).map(|row| row.record.version)
    }

    /// The versions, or the record that was not as expected.
    fn commit(&mut self, changes: &[Change]) -> Result<Vec<u64>, (Kind, String)> {
        let mut next = self.clone();
        let mut versions = Vec::new();
        for change in changes {
            next.last_version += 1;
            versions.push(next.change(change)?);
        }
        *self = next;
        Ok(versions)
    }

    fn change(&mut self, change: &Change) -> Result<u64, (Kind, String)> {
        let (Change::Put { kind, key, expect, .. } | Change::Delete { kind, key, expect }) = change;
        let found = self.version(*kind, key);
        let is_expected = match expect {
            Expect::Absent => found.is_none(),
            Expect::Any => true,
            Expect::Version(version) => found == Some(*version),
        };
        if !is_expected {
            return Err((*kind, key.clone()));
        }
        let Change::Put { owner, body, due, .. } = change else {
            self.rows.remove(&(*kind, key.clone()));
            return Ok(0);
        };
        let version = found.map_or(self.last_version, |version| version + 1);
        let record =
            Record { kind: *kind, key: key.clone(), owner: owner.clone(), version, body: body.clone() };
        let due = due.filter(|_| *kind == Kind::Job).map(|due| due.0);
        let lease = self.rows.get(&(*kind, key.clone())).and_then(|row| row.lease.clone());
        self.rows.insert((*kind, key.clone()), Row { record, due, lease });
        Ok(version)
    }

    fn list(&self, query: &Query) -> Vec<Record> {
        let is_beyond = |key: &str| match &query.after {
            None => true,
            Some(after) if query.descending => key < after.as_str(),
            Some(after) => key > after.as_str(),
        };
        let mut found: Vec<Record> = self
            .rows
            .values()
            .map(|row| &row.record)
            .filter(|record| record.kind == query.kind && is_beyond(&record.key))
            .filter(|record| query.owner.is_none() || record.owner == query.owner)
            .cloned()
            .collect();
        if query.descending {
            found.reverse();
        }
        found.truncate(query.limit);
        found
    }

    fn claim(&mut self, owner: &str, now: u64, until: u64) -> Option<Record> {
        let is_free = |row: &Row| row.lease.as_ref().is_none_or(|(_, until)| *until <= now);
        let row = self
            .rows
            .values_mut()
            .filter(|row| row.due.is_some_and(|due| due <= now) && is_free(row))
            .min_by_key(|row| (row.due, row.record.key.clone()))?;
        row.lease = Some((owner.to_owned(), until));
        Some(row.record.clone())
    }

    /// The leases that are this owner's: of one job, or of all.
    fn leased<'a>(&'a mut self, owner: &'a str, job: Option<&'a str>) -> impl Iterator<Item = &'a mut Row> {
        self.rows.values_mut().filter(move |row| {
            job.is_none_or(|job| row.record.key == job)
                && row.lease.as_ref().is_some_and(|(holder, _)| holder == owner)
        })
    }
}

/// Does the same with both, and compares what they say.
fn step(store: &dyn Store, model: &mut Model, call: &Call) -> Result<(), TestCaseError> {
    match call {
        Call::Commit(changes) => {
            let changes = with_real_versions(model, changes);
            let done = match store.commit(&changes) {
                Ok(versions) => Ok(versions),
                Err(StoreError::Conflict { kind, key }) => Err((kind, key)),
                Err(other) => return Err(TestCaseError::fail(other.to_string())),
            };
            let expected = model.commit(&changes);
            prop_assert_eq!(done, expected);
        }
        Call::List(query) => prop_assert_eq!(store.list(query).unwrap(), model.list(query)),
        Call::Claim(owner, now, until) => {
            let claimed = store.claim_job(owner, UnixMillis(*now), UnixMillis(*until)).unwrap();
            prop_assert_eq!(claimed, model.claim(owner, *now, *until));
        }
        Call::Renew(owner, job, until) => {
            let mut held = 0;
            model.leased(owner, Some(job)).for_each(|row| {
                row.lease = Some(((*owner).to_owned(), *until));
                held += 1;
            });
            prop_assert_eq!(store.renew_lease(owner, job, UnixMillis(*until)).unwrap(), held > 0);
        }
        Call::Release(owner, job) => {
            store.release_job(owner, job).unwrap();
            model.leased(owner, Some(job)).for_each(|row| row.lease = None);
        }
        Call::ReleaseAll(owner) => {
            let mut held = 0;
            model.leased(owner, None).for_each(|row| {
                row.lease = None;
                held += 1;
            });
            prop_assert_eq!(store.release_all(owner).unwrap(), held);
        }
        Call::Prune(kind, key) => {
            let before = model.rows.len();
            model.rows.retain(|(of, name), _| of != kind || name.as_str() >= *key);
            prop_assert_eq!(store.prune(*kind, key).unwrap(), (before - model.rows.len()) as u64);
        }
    }
    Ok(())
}

/// Guessed versions would hardly ever be right.
fn with_real_versions(model: &Model, changes: &[(Change, bool)]) -> Vec<Change> {
    let real = |(change, is_real): &(Change, bool)| {
        let mut change = change.clone();
        let (Change::Put { kind, key, expect, .. } | Change::Delete { kind, key, expect }) = &mut change;
        if let (true, Expect::Version(_), Some(version)) = (*is_real, &expect, model.version(*kind, key)) {
            *expect = Expect::Version(version);
        }
        change
    };
    changes.iter().map(real).collect()
}

fn check(store: &dyn Store, calls: &[Call]) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    for call in calls {
        step(store, &mut model, call)?;
    }
    for kind in [Kind::Job, Kind::Event] {
        prop_assert_eq!(store.list(&Query::all(kind)).unwrap(), model.list(&Query::all(kind)));
    }
    for (kind, key) in model.rows.keys() {
        prop_assert!(store.get(*kind, key).unwrap().is_some());
    }
    Ok(())
}

fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

#[test]
fn sqlite_does_what_the_model_does() {
    proptest!(config(100), |(calls in calls())| {
        let directory = tempfile::tempdir().unwrap();
        check(&SqliteStore::open(directory.path().join("store.db")).unwrap(), &calls)?;
    });
}

#[test]
fn postgres_does_what_the_model_does() {
    let server = PostgresServer::start();
    let store: Arc<dyn Store> = Arc::new(PostgresStore::open(&server.database("model")).unwrap());
    proptest!(config(50), |(calls in calls())| {
        let empty = "TRUNCATE switchback.record; UPDATE switchback.store_state SET last_version = 0";
        server.sql("model", empty);
        check(&*store, &calls)?;
    });
}
