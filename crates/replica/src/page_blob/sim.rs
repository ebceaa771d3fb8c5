//! A storage account in memory for tests, with the faults of a real one: answers lost after the effect, throttling, a process that dies
//! at a given operation. Everything is drawn from a seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use switchback_model::Extent;

use super::store::{BlobEntry, BlobError, BlobStore, ETag, LeaseId, PAGE, PAGES_MAX, PutIf, SnapshotId};

/// The account. Clones are other ways to the same one.
#[derive(Clone, Debug)]
pub struct SimAccount(Arc<Mutex<State>>);

/// One process's way to the account: it may be cut.
#[derive(Debug)]
pub struct SimStore {
    account: SimAccount,
    crash: Mutex<Crash>,
    /// How many snapshots may be taken; the next one waits.
    snapshots_left: Mutex<u64>,
    more_snapshots: Condvar,
}

/// How often things go wrong, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The effect happens, the answer does not come.
    pub lost_answers: u16,
    /// Nothing happens: the store is busy.
    pub throttled: u16,
    /// Of writes to page blobs: one is given up, or sent twice, and lands some time later.
    pub late: u16,
}

#[derive(Debug)]
struct Crash {
    ops: u64,
    at: u64,
}

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<String, Blob>,
    /// Counts changes: names versions and snapshots.
    changes: u64,
    random: u64,
    faults: Faults,
    /// Under way still.
    late: Vec<PageWrite>,
    /// Bytes that clients read from page blobs.
    page_bytes_read: u64,
    /// Bytes that clients wrote to page blobs, and the requests.
    page_bytes_written: u64,
    page_writes: u64,
}

/// `data` of `None`: zeros.
#[derive(Clone, Debug)]
struct PageWrite {
    blob: String,
    lease: Option<LeaseId>,
    range: Extent,
    data: Option<Bytes>,
}

#[derive(Debug)]
struct Blob {
    data: Vec<u8>,
    pages: bool,
    version: u64,
    lease: Option<[u8; 16]>,
    snapshots: BTreeMap<String, (Vec<u8>, BTreeMap<String, String>)>,
}

impl SimAccount {
    /// An empty one.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State { random: seed.wrapping_mul(2) | 1, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// A way to it for one process.
    #[must_use]
    pub fn connect(&self) -> Arc<SimStore> {
        Arc::new(SimStore {
            account: self.clone(),
            crash: Mutex::new(Crash { ops: 0, at: u64::MAX }),
            snapshots_left: Mutex::new(u64::MAX),
            more_snapshots: Condvar::new(),
        })
    }

    /// How often things go wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// The contents of a blob, as they are.
    #[must_use]
    pub fn contents(&self, blob: &str) -> Option<Vec<u8>> {
        self.state().blobs.get(blob).map(|blob| blob.data.clone())
    }

    /// Changes the contents of a blob behind everybody's back; `None` removes it.
    pub fn tamper(&self, blob: &str, change: impl FnOnce(&mut Vec<u8>) -> Option<()>) {
        let mut state = self.state();
        if let Some(found) = state.blobs.get_mut(blob)
            && change(&mut found.data).is_none()
        {
            state.blobs.remove(blob);
        }
    }

    /// The names of all blobs, and how many snapshots each has.
    #[must_use]
    pub fn blobs(&self) -> Vec<(String, usize)> {
        self.state().blobs.iter().map(|(name, blob)| (name.clone(), blob.snapshots.len())).collect()
    }

    /// Bytes of page blobs read, bytes written, requests that wrote or cleared pages; so far.
    #[must_use]
    pub fn page_traffic(&self) -> (u64, u64, u64) {
        let state = self.state();
        (state.page_bytes_read, state.page_bytes_written, state.page_writes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// xorshift64*: enough for dice.
    fn dice(&mut self) -> u16 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let [high, low, ..] = self.random.wrapping_mul(0x2545_F491_4F6C_DD1D).to_be_bytes();
        u16::from_be_bytes([high, low]) % 1000
    }

    fn blob(&mut self, name: &str) -> Result<&mut Blob, BlobError> {
        self.blobs.get_mut(name).ok_or_else(|| BlobError::Missing { blob: name.into() })
    }

    /// A page blob that may be written with this lease.
    fn writable(&mut self, name: &str, lease: Option<LeaseId>) -> Result<&mut Blob, BlobError> {
        self.changes += 1;
        let version = self.changes;
        let blob = self.blob(name)?;
        if blob.lease != lease.map(|lease| lease.0) {
            let detail = "the lease is another one, or there is none".into();
            return Err(BlobError::Refused { blob: name.into(), detail });
        }
        blob.version = version;
        Ok(blob)
    }

    fn write(&mut self, write: &PageWrite) -> Result<(), BlobError> {
        let blob = self.writable(&write.blob, write.lease)?;
        let place = blob.data.get_mut(span(write.range));
        let place = place.ok_or_else(|| BlobError::Short { blob: write.blob.clone() })?;
        match &write.data {
            Some(data) => place.copy_from_slice(data),
            None => place.fill(0),
        }
        self.page_bytes_written += write.data.as_ref().map_or(0, |_| write.range.len);
        self.page_writes += 1;
        Ok(())
    }

    /// A write as the faults have it.
    fn write_or_delay(&mut self, write: PageWrite) -> Result<(), BlobError> {
        // Of records of digests see `lease`.
        if self.faults.late == 0 || write.blob.ends_with("digests") || self.dice() >= self.faults.late {
            return self.write(&write);
        }
        let is_given_up = self.dice().is_multiple_of(2);
        self.late.push(write.clone());
        if is_given_up {
            return Err(BlobError::Unavailable { detail: "simulated write that is given up".into() });
        }
        self.write(&write)
    }

    /// Perhaps one that is late lands.
    fn land(&mut self) {
        if !self.late.is_empty() && self.dice() < LANDS {
            let at = usize::from(self.dice()) % self.late.len();
            let write = self.late.swap_remove(at);
            // Its sender does not hear of it.
            self.write(&write).ok();
        }
    }
}

/// How often, in thousandths of operations.
const LANDS: u16 = 100;

fn span(range: Extent) -> std::ops::Range<usize> {
    let place = |at| usize::try_from(at).expect("simulated blobs fit in memory");
    place(range.start)..place(range.end())
}

fn simulated() -> BlobError {
    BlobError::Unavailable { detail: "simulated crash".into() }
}

impl SimStore {
    /// The process dies at its `n`-th operation from now on.
    pub fn crash_after(&self, n: u64) {
        let mut crash = self.crash.lock().unwrap_or_else(PoisonError::into_inner);
        crash.at = crash.ops.saturating_add(n);
    }

    /// Lets so many more snapshots be taken; whoever wants another one waits until this is called again.
    pub fn allow_snapshots(&self, count: u64) {
        *self.snapshots_left.lock().unwrap_or_else(PoisonError::into_inner) = count;
        self.more_snapshots.notify_all();
    }

    /// Operations so far.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.crash.lock().unwrap_or_else(PoisonError::into_inner).ops
    }

    /// Does an operation, or does not, as the faults have it.
    fn run<T>(&self, operation: impl FnOnce(&mut State) -> Result<T, BlobError>) -> Result<T, BlobError> {
        let crashes = {
            let mut crash = self.crash.lock().unwrap_or_else(PoisonError::into_inner);
            crash.ops += 1;
            if crash.ops > crash.at {
                return Err(simulated());
            }
            crash.ops == crash.at
        };
        let mut state = self.account.state();
        state.land();
        let dice = state.dice();
        if crashes {
            // Sent, or not sent; nobody will know.
            if dice.is_multiple_of(2) {
                operation(&mut state).ok();
            }
            return Err(simulated());
        }
        let Faults { lost_answers, throttled, .. } = state.faults;
        if dice < throttled {
            return Err(BlobError::Unavailable { detail: "simulated throttling".into() });
        }
        let done = operation(&mut state)?;
        if dice < throttled + lost_answers {
            return Err(BlobError::Unavailable { detail: "simulated loss of an answer".into() });
        }
        Ok(done)
    }
}

impl BlobStore for SimStore {
    fn name(&self) -> &'static str {
        "simulated account"
    }

    fn put(&self, name: &str, data: &Bytes, condition: &PutIf) -> Result<ETag, BlobError> {
        self.run(|state| {
            let found = state.blobs.get(name).map(|blob| ETag(blob.version.to_string()));
            let holds = match condition {
                PutIf::Absent => found.is_none(),
                PutIf::Unchanged(tag) => found.as_ref() == Some(tag),
            };
            if !holds {
                let detail = format!("the condition {condition:?} does not hold, there is {found:?}");
                return Err(BlobError::Refused { blob: name.into(), detail });
            }
            state.changes += 1;
            let version = state.changes;
            let blob =
                Blob { data: data.to_vec(), pages: false, version, lease: None, snapshots: BTreeMap::new() };
            state.blobs.insert(name.into(), blob);
            Ok(ETag(version.to_string()))
        })
    }

    fn get(&self, name: &str) -> Result<(Bytes, ETag), BlobError> {
        self.run(|state| {
            let blob = state.blob(name)?;
            Ok((blob.data.clone().into(), ETag(blob.version.to_string())))
        })
    }

    fn read(&self, name: &str, range: Extent) -> Result<Bytes, BlobError> {
        self.run(|state| {
            let blob = state.blob(name)?;
            let pages = blob.pages;
            let bytes = blob.data.get(span(range)).map(Bytes::copy_from_slice);
            let bytes = bytes.ok_or_else(|| BlobError::Short { blob: name.into() })?;
            state.page_bytes_read += if pages { range.len } else { 0 };
            Ok(bytes)
        })
    }

    fn read_snapshot(&self, name: &str, snapshot: &SnapshotId, range: Extent) -> Result<Bytes, BlobError> {
        self.run(|state| {
            let found = state.blob(name)?.snapshots.get(&snapshot.0);
            let (contents, _) =
                found.ok_or_else(|| BlobError::Missing { blob: format!("{name} at {}", snapshot.0) })?;
            let bytes = contents.get(span(range)).map(Bytes::copy_from_slice);
            bytes.ok_or_else(|| BlobError::Short { blob: name.into() })
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<BlobEntry>, BlobError> {
        self.run(|state| {
            let named = state.blobs.iter().filter(|(name, _)| name.starts_with(prefix));
            let entries = named.flat_map(|(name, blob)| {
                let entry = |snapshot, metadata| BlobEntry { name: name.clone(), snapshot, metadata };
                let snapshots = blob
                    .snapshots
                    .iter()
                    .map(move |(id, (_, metadata))| entry(Some(SnapshotId(id.clone())), metadata.clone()));
                let base = BlobEntry { name: name.clone(), snapshot: None, metadata: BTreeMap::new() };
                snapshots.chain([base])
            });
            Ok(entries.collect())
        })
    }

    fn delete(&self, name: &str, lease: Option<LeaseId>) -> Result<(), BlobError> {
        self.run(|state| {
            if state.blobs.contains_key(name) {
                state.writable(name, lease)?;
                state.blobs.remove(name);
            }
            Ok(())
        })
    }

    fn create_pages(&self, name: &str, size: u64) -> Result<(), BlobError> {
        assert_eq!(size % PAGE, 0, "page blobs are made of pages");
        self.run(|state| {
            if state.blobs.contains_key(name) {
                return Err(BlobError::Refused { blob: name.into(), detail: "it is there already".into() });
            }
            state.changes += 1;
            let (version, data) = (state.changes, vec![0; span(Extent::new(0, size)).end]);
            let blob = Blob { data, pages: true, version, lease: None, snapshots: BTreeMap::new() };
            state.blobs.insert(name.into(), blob);
            Ok(())
        })
    }

    fn write_pages(
        &self,
        name: &str,
        lease: Option<LeaseId>,
        offset: u64,
        data: Bytes,
    ) -> Result<(), BlobError> {
        let range = Extent::new(offset, data.len() as u64);
        assert!(offset.is_multiple_of(PAGE) && range.len.is_multiple_of(PAGE), "whole pages: {range}");
        assert!(range.len <= PAGES_MAX && !range.is_empty(), "{range}");
        let write = PageWrite { blob: name.into(), lease, range, data: Some(data) };
        self.run(|state| state.write_or_delay(write))
    }

    fn clear_pages(&self, name: &str, lease: Option<LeaseId>, range: Extent) -> Result<(), BlobError> {
        assert!(range.start.is_multiple_of(PAGE) && range.len.is_multiple_of(PAGE), "whole pages: {range}");
        let write = PageWrite { blob: name.into(), lease, range, data: None };
        self.run(|state| state.write_or_delay(write))
    }

    fn allocated(&self, name: &str, window: Extent) -> Result<Vec<Extent>, BlobError> {
        self.run(|state| {
            let data = &state.blob(name)?.data;
            let pages = window.pieces(PAGE).filter(|page| data[span(*page)].iter().any(|byte| *byte != 0));
            Ok(pages.collect::<switchback_model::ExtentSet>().iter().collect())
        })
    }

    fn snapshot(
        &self,
        name: &str,
        lease: Option<LeaseId>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<SnapshotId, BlobError> {
        let left = self.snapshots_left.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.more_snapshots.wait_while(left, |left| *left == 0);
        *left.unwrap_or_else(PoisonError::into_inner) -= 1;
        self.run(|state| {
            let blob = state.writable(name, lease)?;
            let id = format!("{:012}", blob.version);
            let contents = blob.data.clone();
            blob.snapshots.insert(id.clone(), (contents, metadata.clone()));
            Ok(SnapshotId(id))
        })
    }

    fn delete_snapshot(&self, name: &str, snapshot: &SnapshotId) -> Result<(), BlobError> {
        self.run(|state| {
            if let Ok(blob) = state.blob(name) {
                blob.snapshots.remove(&snapshot.0);
            }
            Ok(())
        })
    }

    fn clone_snapshot(&self, name: &str, snapshot: &SnapshotId, target: &str) -> Result<(), BlobError> {
        self.run(|state| {
            let found = state.blob(name)?.snapshots.get(&snapshot.0);
            let found = found.map(|(contents, _)| contents.clone());
            let data =
                found.ok_or_else(|| BlobError::Missing { blob: format!("{name} at {}", snapshot.0) })?;
            state.changes += 1;
            let version = state.changes;
            let blob = Blob { data, pages: true, version, lease: None, snapshots: BTreeMap::new() };
            state.blobs.insert(target.into(), blob);
            Ok(())
        })
    }

    fn acquire_lease(&self, name: &str, lease: LeaseId) -> Result<(), BlobError> {
        self.run(|state| {
            let blob = state.blob(name)?;
            if blob.lease.is_some_and(|held| held != lease.0) {
                let detail = "somebody else has its lease".into();
                return Err(BlobError::Refused { blob: name.into(), detail });
            }
            blob.lease = Some(lease.0);
            Ok(())
        })
    }

    fn change_lease(&self, name: &str, from: LeaseId, to: LeaseId) -> Result<(), BlobError> {
        self.run(|state| {
            let blob = state.blob(name)?;
            if blob.lease.is_none_or(|held| held != from.0 && held != to.0) {
                let detail = "its lease is another one, or there is none".into();
                return Err(BlobError::Refused { blob: name.into(), detail });
            }
            blob.lease = Some(to.0);
            Ok(())
        })
    }

    fn release_lease(&self, name: &str, lease: LeaseId) -> Result<(), BlobError> {
        self.run(|state| {
            let blob = state.blob(name)?;
            blob.lease = blob.lease.filter(|held| *held != lease.0);
            Ok(())
        })
    }

    fn break_lease(&self, name: &str) -> Result<(), BlobError> {
        self.run(|state| {
            state.blob(name)?.lease = None;
            Ok(())
        })
    }
}
