//! A store that is watched: which requests were made, when, and how long each kind was waited for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use switchback_model::Extent;
use switchback_replica::store::{BlobEntry, BlobError, BlobStore, ETag, LeaseId, PutIf, SnapshotId};

/// Requests of one kind.
#[derive(Clone, Copy, Debug)]
struct Tally {
    count: u64,
    bytes: u64,
    /// Seconds of all of them, those at the same time counted each.
    waited_s: f64,
    /// Of the first one's start and the last one's end, in seconds.
    from_s: f64,
    to_s: f64,
}

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Watched {
    store: Arc<dyn BlobStore>,
    since: Instant,
    kinds: Mutex<BTreeMap<&'static str, Tally>>,
}

impl Watched {
    pub(crate) fn new(store: Arc<dyn BlobStore>) -> Self {
        Self { store, since: Instant::now(), kinds: Mutex::default() }
    }

    fn time<T>(
        &self,
        kind: &'static str,
        bytes: usize,
        call: impl FnOnce() -> Result<T, BlobError>,
    ) -> Result<T, BlobError> {
        let began = self.since.elapsed().as_secs_f64();
        let done = call();
        let ended = self.since.elapsed().as_secs_f64();
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let none = Tally { count: 0, bytes: 0, waited_s: 0.0, from_s: began, to_s: ended };
        let tally = kinds.entry(kind).or_insert(none);
        tally.count += 1;
        tally.bytes += bytes as u64;
        tally.waited_s += ended - began;
        tally.to_s = ended;
        done
    }

    /// A line for each kind.
    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "{:<24}{:>8}{:>10}{:>10}{:>9}{:>9}\n",
            "request", "count", "MiB", "waited s", "from s", "to s"
        );
        for (kind, tally) in self.kinds.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let Tally { count, bytes, waited_s, from_s, to_s } = tally;
            let mib = bytes >> 20;
            writeln!(table, "{kind:<24}{count:>8}{mib:>10}{waited_s:>10.3}{from_s:>9.3}{to_s:>9.3}").ok();
        }
        table
    }
}

fn what(blob: &str) -> bool {
    blob.ends_with("-digests")
}

impl BlobStore for Watched {
    fn name(&self) -> &str {
        self.store.name()
    }

    fn put(&self, blob: &str, data: &Bytes, condition: &PutIf) -> Result<ETag, BlobError> {
        let kind = if blob == "manifest" { "put manifest" } else { "put part" };
        self.time(kind, data.len(), || self.store.put(blob, data, condition))
    }

    fn get(&self, blob: &str) -> Result<(Bytes, ETag), BlobError> {
        self.time("get manifest", 0, || self.store.get(blob))
    }

    fn read(&self, blob: &str, range: Extent) -> Result<Bytes, BlobError> {
        let kind = match (what(blob), blob.starts_with("disk-")) {
            (true, _) => "read digests",
            (_, true) => "read pages",
            _ => "read part",
        };
        self.time(kind, usize::try_from(range.len).unwrap_or(0), || self.store.read(blob, range))
    }

    fn read_snapshot(&self, blob: &str, snapshot: &SnapshotId, range: Extent) -> Result<Bytes, BlobError> {
        let bytes = usize::try_from(range.len).unwrap_or(0);
        self.time("read snapshot", bytes, || self.store.read_snapshot(blob, snapshot, range))
    }

    fn list(&self, prefix: &str) -> Result<Vec<BlobEntry>, BlobError> {
        self.time("list", 0, || self.store.list(prefix))
    }

    fn delete(&self, blob: &str, lease: Option<LeaseId>) -> Result<(), BlobError> {
        self.time("delete", 0, || self.store.delete(blob, lease))
    }

    fn create_pages(&self, blob: &str, size: u64) -> Result<(), BlobError> {
        self.time("create", 0, || self.store.create_pages(blob, size))
    }

    fn write_pages(
        &self,
        blob: &str,
        lease: Option<LeaseId>,
        offset: u64,
        data: Bytes,
    ) -> Result<(), BlobError> {
        let kind = if what(blob) { "write digests" } else { "write pages" };
        self.time(kind, data.len(), || self.store.write_pages(blob, lease, offset, data))
    }

    fn clear_pages(&self, blob: &str, lease: Option<LeaseId>, range: Extent) -> Result<(), BlobError> {
        self.time("clear pages", 0, || self.store.clear_pages(blob, lease, range))
    }

    fn allocated(&self, blob: &str, window: Extent) -> Result<Vec<Extent>, BlobError> {
        self.time("list pages", 0, || self.store.allocated(blob, window))
    }

    fn snapshot(
        &self,
        blob: &str,
        lease: Option<LeaseId>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<SnapshotId, BlobError> {
        self.time("snapshot", 0, || self.store.snapshot(blob, lease, metadata))
    }

    fn delete_snapshot(&self, blob: &str, snapshot: &SnapshotId) -> Result<(), BlobError> {
        self.time("delete snapshot", 0, || self.store.delete_snapshot(blob, snapshot))
    }

    fn clone_snapshot(&self, blob: &str, snapshot: &SnapshotId, target: &str) -> Result<(), BlobError> {
        self.time("clone", 0, || self.store.clone_snapshot(blob, snapshot, target))
    }

    fn acquire_lease(&self, blob: &str, lease: LeaseId) -> Result<(), BlobError> {
        self.time("lease", 0, || self.store.acquire_lease(blob, lease))
    }

    fn change_lease(&self, blob: &str, from: LeaseId, to: LeaseId) -> Result<(), BlobError> {
        self.time("lease", 0, || self.store.change_lease(blob, from, to))
    }

    fn release_lease(&self, blob: &str, lease: LeaseId) -> Result<(), BlobError> {
        self.time("lease", 0, || self.store.release_lease(blob, lease))
    }

    fn break_lease(&self, blob: &str) -> Result<(), BlobError> {
        self.time("lease", 0, || self.store.break_lease(blob))
    }
}
