//! A store in memory.
use std::collections::BTreeMap;
use std::sync::Mutex;
use switchback_model::UnixMillis;
use switchback_store::{Change, Expect, Kind, Query, Record, Store, StoreError};

#[derive(Debug, Default)]
pub(crate) struct SqliteStore(Mutex<Inner>);
type Row = (Record, Option<u64>, Option<(String, u64)>);
#[derive(Debug, Default)]
struct Inner { rows: BTreeMap<(Kind, String), Row> }
impl SqliteStore { pub(crate) fn open(_: &std::path::Path) -> Result<Self, StoreError> { Ok(Self::default()) } }
impl Store for SqliteStore {
    fn get(&self, kind: Kind, key: &str) -> Result<Option<Record>, StoreError> { Ok(self.0.lock().unwrap().rows.get(&(kind, key.to_owned())).map(|r| r.0.clone())) }
    fn list(&self, q: &Query) -> Result<Vec<Record>, StoreError> {
        let inner = self.0.lock().unwrap();
        let mut all: Vec<Record> = inner.rows.values().filter(|r| r.0.kind == q.kind && q.owner.as_ref().is_none_or(|o| r.0.owner.as_ref() == Some(o))).map(|r| r.0.clone()).collect();
        if q.descending { all.reverse(); }
        Ok(all.into_iter().filter(|r| q.after.as_ref().is_none_or(|a| if q.descending { r.key < *a } else { r.key > *a })).take(q.limit).collect())
    }
    fn commit(&self, changes: &[Change]) -> Result<Vec<u64>, StoreError> {
        let mut inner = self.0.lock().unwrap();
        let mut rows = inner.rows.clone();
        let mut versions = Vec::new();
        for change in changes {
            let (kind, key, expect) = match change { Change::Put { kind, key, expect, .. } | Change::Delete { kind, key, expect } => (*kind, key.clone(), *expect) };
            let found = rows.get(&(kind, key.clone())).map(|r| r.0.version);
            let ok = match expect { Expect::Any => true, Expect::Absent => found.is_none(), Expect::Version(v) => found == Some(v) };
            if !ok { return Err(StoreError::Conflict { kind, key }); }
            match change {
                Change::Put { owner, body, due, .. } => {
                    let lease = rows.get(&(kind, key.clone())).and_then(|r| r.2.clone());
                    let version = found.unwrap_or(0) + 1;
                    versions.push(version);
                    rows.insert((kind, key.clone()), (Record { kind, key, owner: owner.clone(), version, body: body.clone() }, due.map(|d| d.0), lease));
                }
                Change::Delete { .. } => { versions.push(0); rows.remove(&(kind, key)); }
            }
        }
        inner.rows = rows;
        Ok(versions)
    }
    fn claim_job(&self, owner: &str, now: UnixMillis, until: UnixMillis) -> Result<Option<Record>, StoreError> {
        let mut inner = self.0.lock().unwrap();
        let best = inner.rows.iter().filter(|(k, r)| k.0 == Kind::Job && r.1.is_some_and(|d| d <= now.0) && r.2.as_ref().is_none_or(|l| l.1 <= now.0)).min_by_key(|(_, r)| r.1).map(|(k, _)| k.clone());
        Ok(best.map(|k| { let row = inner.rows.get_mut(&k).unwrap(); row.2 = Some((owner.into(), until.0)); row.0.clone() }))
    }
    fn renew_lease(&self, _: &str, _: &str, _: UnixMillis) -> Result<bool, StoreError> { Ok(true) }
    fn release_job(&self, _: &str, job: &str) -> Result<(), StoreError> { if let Some(r) = self.0.lock().unwrap().rows.get_mut(&(Kind::Job, job.to_owned())) { r.2 = None; } Ok(()) }
    fn release_all(&self, _: &str) -> Result<u64, StoreError> { let mut n = 0; for r in self.0.lock().unwrap().rows.values_mut() { if r.2.take().is_some() { n += 1; } } Ok(n) }
    fn prune(&self, _: Kind, _: &str) -> Result<u64, StoreError> { Ok(0) }
}
