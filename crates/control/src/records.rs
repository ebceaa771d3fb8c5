//! Typed access to the store: records of the model's types, changed in batches.
//!
//! Every batch that is committed tells those who wait for a change ([`Records::changes`]). With several configuration servers on one store
//! the others notice by looking again each second.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use switchback_model::UnixMillis;
use switchback_store::{Change, Expect, KEYS_MAX, Kind, Query, Record, Store, StoreError};
use tokio::sync::watch;

use crate::{ControlError, ErrorKind};

/// Records that are read at a time where it is not known how many belong together.
const PAGE_LEN: usize = 100;

/// A value and the version it was read at.
#[derive(Clone, Debug)]
pub(crate) struct Versioned<T> {
    pub(crate) value: T,
    pub(crate) version: u64,
}

/// See the module's header.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    store: Arc<dyn Store>,
    changed: watch::Sender<u64>,
}

impl Records {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, changed: watch::channel(0).0 }
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Tells those who wait that something may have changed.
    pub(crate) fn touch(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn find<T: DeserializeOwned>(
        &self,
        kind: Kind,
        key: &str,
    ) -> Result<Option<Versioned<T>>, ControlError> {
        self.store.get(kind, key)?.map(|record| parse(&record)).transpose()
    }

    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        kind: Kind,
        what: &str,
        key: &str,
    ) -> Result<Versioned<T>, ControlError> {
        self.find(kind, key)?.ok_or_else(|| ControlError::not_found(what, key))
    }

    pub(crate) fn all<T: DeserializeOwned>(&self, kind: Kind) -> Result<Vec<Versioned<T>>, ControlError> {
        self.list(&Query::all(kind))
    }

    pub(crate) fn list<T: DeserializeOwned>(&self, query: &Query) -> Result<Vec<Versioned<T>>, ControlError> {
        self.store.list(query)?.iter().map(parse).collect()
    }

    /// All whose keys begin with `prefix` and are wanted. What comes after them is not read beyond a page; no other is parsed, which is what costs
    /// most of reading it.
    pub(crate) fn below<T: DeserializeOwned>(
        &self,
        kind: Kind,
        prefix: &str,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<T>, ControlError> {
        Ok(self.keyed_below_if(kind, prefix, is_wanted)?.into_iter().map(|(_, found)| found.value).collect())
    }

    /// All whose keys begin with `prefix`, with their keys and versions.
    pub(crate) fn keyed_below<T: DeserializeOwned>(
        &self,
        kind: Kind,
        prefix: &str,
    ) -> Result<Vec<(String, Versioned<T>)>, ControlError> {
        self.keyed_below_if(kind, prefix, |_| true)
    }

    fn keyed_below_if<T: DeserializeOwned>(
        &self,
        kind: Kind,
        prefix: &str,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<(String, Versioned<T>)>, ControlError> {
        let mut found = Vec::new();
        let mut after = prefix.to_owned();
        loop {
            let query = Query { after: Some(after.clone()), limit: PAGE_LEN, ..Query::all(kind) };
            let page = self.store.list(&query)?;
            for record in &page {
                if !record.key.starts_with(prefix) {
                    return Ok(found);
                }
                if is_wanted(&record.key) {
                    found.push((record.key.clone(), parse(record)?));
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE_LEN => after.clone_from(&last.key),
                _ => return Ok(found),
            }
        }
    }

    /// Those with these keys that there are, in the order of their keys within each [`KEYS_MAX`]. No others are read.
    pub(crate) fn named<T: DeserializeOwned>(
        &self,
        kind: Kind,
        keys: &[String],
    ) -> Result<Vec<T>, ControlError> {
        let mut found = Vec::with_capacity(keys.len());
        for keys in keys.chunks(KEYS_MAX) {
            let query = Query { keys: Some(keys.to_vec()), ..Query::all(kind) };
            found.extend(self.list(&query)?.into_iter().map(|found| found.value));
        }
        Ok(found)
    }

    /// The first `count` of a query that are kept, of those that its limit reaches; what comes after them is not read beyond a page.
    pub(crate) fn first<T: DeserializeOwned>(
        &self,
        query: Query,
        count: usize,
        keep: impl Fn(&T) -> bool,
    ) -> Result<Vec<T>, ControlError> {
        let (mut found, mut left, mut after) = (Vec::new(), query.limit, query.after.clone());
        while left > 0 && found.len() < count {
            let limit = left.min(PAGE_LEN);
            let page = self.store.list(&Query { after, limit, ..query.clone() })?;
            for record in &page {
                let value = parse(record)?.value;
                if keep(&value) {
                    found.push(value);
                }
            }
            if page.len() < limit {
                break;
            }
            left -= limit;
            after = page.last().map(|last| last.key.clone());
        }
        found.truncate(count);
        Ok(found)
    }

    /// Does all of a batch or nothing.
    pub(crate) fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        if !batch.changes.is_empty() {
            self.store.commit(&batch.changes)?;
            self.touch();
        }
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(record: &Record) -> Result<Versioned<T>, ControlError> {
    let value = serde_json::from_str(&record.body).map_err(|error| {
        let message = format!("the stored {:?} {} cannot be read: {error}", record.kind, record.key);
        ControlError::new(ErrorKind::Internal, "store.unreadable", message)
            .remedy("restore a backup, or run the version of switchback that wrote it")
    })?;
    Ok(Versioned { value, version: record.version })
}

/// Changes that belong together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    changes: Vec<Change>,
}

impl Batch {
    pub(crate) fn put<T: Serialize>(
        &mut self,
        kind: Kind,
        key: impl Into<String>,
        expect: Expect,
        value: &T,
    ) {
        self.put_owned(kind, key, None, expect, value, None);
    }

    /// Replaces what was read at `version`.
    pub(crate) fn replace<T: Serialize>(
        &mut self,
        kind: Kind,
        key: impl Into<String>,
        version: u64,
        value: &T,
    ) {
        self.put(kind, key, Expect::Version(version), value);
    }

    pub(crate) fn put_owned<T: Serialize>(
        &mut self,
        kind: Kind,
        key: impl Into<String>,
        owner: Option<String>,
        expect: Expect,
        value: &T,
        due: Option<UnixMillis>,
    ) {
        let body = serde_json::to_string(value).expect("the model's types become JSON");
        self.changes.push(Change::Put { kind, key: key.into(), owner, expect, body, due });
    }

    pub(crate) fn delete(&mut self, kind: Kind, key: impl Into<String>, expect: Expect) {
        self.changes.push(Change::Delete { kind, key: key.into(), expect });
    }

    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn append(&mut self, other: Self) {
        self.changes.extend(other.changes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use switchback_store::{CHANGES_MAX, Expect, KEYS_MAX, Kind, Query, SqliteStore};

    use super::{Batch, PAGE_LEN, Records};

    #[test]
    fn what_is_below_a_prefix_is_read_whole_and_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(Arc::new(SqliteStore::open(directory.path().join("store.db")).unwrap()));
        let all: Vec<usize> = (0..PAGE_LEN * 2 + 50).collect();
        let mut batch = Batch::default();
        for number in &all {
            batch.put(Kind::Report, format!("b/{number:03}"), Expect::Absent, number);
        }
        for key in ["a/1", "c/1"] {
            batch.put(Kind::Report, key, Expect::Absent, &"no number");
        }
        records.commit(batch).unwrap();
        assert_eq!(records.below::<usize>(Kind::Report, "b/", |_| true).unwrap(), all);
        assert_eq!(records.below::<usize>(Kind::Report, "d/", |_| true).unwrap(), [0_usize; 0]);
        let wanted = |key: &str| key.ends_with("/000") || key.ends_with("/249");
        assert_eq!(records.below::<usize>(Kind::Report, "b/", wanted).unwrap(), [0, 249]);
    }

    #[test]
    fn those_that_are_named_are_read_however_many_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(Arc::new(SqliteStore::open(directory.path().join("store.db")).unwrap()));
        let all: Vec<usize> = (0..KEYS_MAX + 50).collect();
        for some in all.chunks(CHANGES_MAX) {
            let mut batch = Batch::default();
            for number in some {
                batch.put(Kind::Report, format!("{number:03}"), Expect::Absent, number);
            }
            records.commit(batch).unwrap();
        }
        let mut batch = Batch::default();
        batch.put(Kind::Report, "other", Expect::Absent, &"no number");
        records.commit(batch).unwrap();
        let named: Vec<String> = all.iter().map(|number| format!("{number:03}")).collect();
        assert_eq!(records.named::<usize>(Kind::Report, &named).unwrap(), all);
        let missing = ["001".to_owned(), "nobody".to_owned()];
        assert_eq!(records.named::<usize>(Kind::Report, &missing).unwrap(), [1]);
        assert_eq!(records.named::<usize>(Kind::Report, &[]).unwrap(), [0_usize; 0]);
    }

    #[test]
    fn the_first_that_are_kept_are_found_as_far_as_the_query_reaches() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(Arc::new(SqliteStore::open(directory.path().join("store.db")).unwrap()));
        let mut batch = Batch::default();
        for number in 0..=PAGE_LEN * 3 {
            batch.put(Kind::Job, format!("{number:03}"), Expect::Absent, &number);
        }
        records.commit(batch).unwrap();
        let newest = |limit, after: Option<&str>| {
            let query =
                Query { descending: true, limit, after: after.map(Into::into), ..Query::all(Kind::Job) };
            let kept = |number: &usize| number.is_multiple_of(PAGE_LEN);
            records.first::<usize>(query, 3, kept).unwrap()
        };
        assert_eq!(newest(1000, None), [300, 200, 100]);
        assert_eq!(newest(1000, Some("200")), [100, 0]);
        assert_eq!(newest(200, None), [300, 200]);
        assert_eq!(newest(201, None), [300, 200, 100]);
        assert_eq!(newest(0, None), [0; 0]);
    }
}
