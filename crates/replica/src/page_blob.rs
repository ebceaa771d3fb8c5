//! `PageBlobReplica`: a replica whose disks are Azure page blobs, each a fixed VHD, with its history in the same container.
//!
//! All state is in the store: the process that hosts the replica may die, and another one elsewhere goes on.
//!
//! # Stage, then apply
//! A cycle's parts are **staged** as block blobs; a barrier names them in the manifest, which is replaced under the condition that nobody else has
//! replaced it. The commit is one more such replacement, and from then on the recovery point of *all* disks exists. **Applying** follows, in
//! rounds, each of which takes all cycles that are waiting:
//!
//! 1. the manifest says up to which cycle (`applying`);
//! 2. what these cycles have in the end is written to the page blobs: pages of up to 4 MiB at once, long runs of zeros cleared; and the digests, to
//!    the side-car, a page blob too;
//! 3. a snapshot of each page blob that has changed is taken;
//! 4. the manifest names the snapshots: they are the *base* of this point and those after it.
//!
//! A crash anywhere: the round is done again from its start. It never reads the page blobs (but for a source whose blocks are not whole pages), so it
//! may be repeated from any state they are left in.
//!
//! # The first replication
//! As long as there is no point, a cycle is not staged: its parts go straight to the page blobs (see `fill`), and its commit takes the snapshots and names
//! them as the base.
//!
//! # Contents of a point
//! The newest base at or below it, and the staged cycles between. No base: an empty disk. So staged cycles and snapshots stay as long as
//! some kept point needs them, and nothing is ever read back from the page blobs to keep a point. A failover and a test failover get *clones*: page blobs of their
//! own, made in the store from the base, to which the cycles between are written. Who only reads a point needs none (see `view`).
//!
//! # Who may write
//! Whoever opened the replica last. It has put its number into the manifest, so that no other opening can replace that; and it has the leases of
//! the page blobs, taken *before* that, so that whoever was before can write no page after; nor can what it has sent itself and given up (see `lease`). See
//! `manifest` about names.
//!
//! # Threads and locks
//! As [`DiskReplica`](crate::DiskReplica): `turn` lets one call of one session at a time in, `work` serializes what changes page blobs or history, but for fills, which are behind
//! `gate`; `core` holds the manifest, also while that is being written. Who only looks reads `shown`. Order: `turn`, `work`, `gate`, `core`, `digests`.

mod anew;
mod apply;
mod cache;
mod error;
mod fill;
mod fsck;
mod lease;
mod manifest;
mod open;
mod pages;
mod points;
mod reshape;
mod save;
mod session;
pub mod sim;
mod stage;
pub mod store;
mod vhd;
mod view;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use switchback_delta::DeltaKey;
use switchback_model::{DiskIndex, RecoveryPoint, ReplicaId, RetentionPolicy, Seq};

pub use reshape::BlobDisk;
pub use session::BlobSession;
pub use view::BlobPointView;

use crate::digest_file::DigestFile;
use crate::disk_replica::ReplicaSummary;
use crate::{PauseReason, ReplicaError, ReplicaState, ReplicaStatus, Watermarks};
use cache::PartCache;
use lease::Lease;
use manifest::{BlobManifest, StagedPart};
use pages::PageBlob;
use save::Core;
use store::BlobStore;

/// How a replica in blobs is kept.
#[derive(Debug)]
pub struct PageBlobConfig {
    /// Which points to keep. Its limit of bytes counts the staged cycles alone, and lets the oldest points go.
    pub retention: RetentionPolicy,
    /// Encrypts staged deltas at rest. The page blobs are as plain as the source's disks: a machine boots from them.
    pub key: Option<DeltaKey>,
    /// Requests under way at a time; 1 does everything in order on the calling thread.
    pub io_threads: usize,
    /// Committed cycles that may wait to be applied; beyond it new cycles wait for the page blobs.
    pub staged_cycles_max: usize,
    /// Bytes of staged parts that are kept in memory too, so that applying does not read them from the store.
    pub cache_bytes_max: u64,
}

impl Default for PageBlobConfig {
    fn default() -> Self {
        Self {
            retention: RetentionPolicy::default(),
            key: None,
            io_threads: 8,
            staged_cycles_max: 512,
            cache_bytes_max: 256 << 20,
        }
    }
}

/// A replica in page blobs. See the module's header.
#[derive(Debug)]
pub struct PageBlobReplica {
    store: Arc<dyn BlobStore>,
    config: PageBlobConfig,
    lease: Lease,
    cache: PartCache,
    /// For the names of blobs.
    names: Mutex<u64>,
    turn: Mutex<()>,
    work: Mutex<()>,
    /// Whoever fills a page blob is within; a new writer waits until nobody is.
    gate: RwLock<()>,
    core: Mutex<Core>,
    shown: Mutex<Shown>,
    /// Another manifest is shown.
    shown_anew: Condvar,
    /// By disk, as many as there can be.
    digests: [Mutex<DigestFile>; manifest::DISKS_MAX],
}

/// How far the page blobs are behind the newest point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Committed cycles that are not on the page blobs.
    pub cycles: usize,
    /// Bytes of their parts, as they are staged.
    pub bytes: u64,
}

/// For those who only look, and must not wait for the store.
#[derive(Clone, Debug)]
struct Shown {
    manifest: Arc<BlobManifest>,
    paused: Option<PauseReason>,
}

impl PageBlobReplica {
    /// Its recovery points, oldest first.
    #[must_use]
    pub fn points(&self) -> Vec<RecoveryPoint> {
        self.shown().manifest.points.clone()
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.shown().manifest.id
    }

    /// The newest point that is on the page blobs.
    #[must_use]
    pub fn applied(&self) -> Option<Seq> {
        self.shown().manifest.applied()
    }

    /// What is staged and not on the page blobs yet.
    #[must_use]
    pub fn behind(&self) -> Behind {
        self.shown().manifest.behind()
    }

    /// How far the page blobs are behind, once it is half as far as they may be: from [`PageBlobConfig::staged_cycles_max`] on new cycles wait
    /// for them, and points come late.
    #[must_use]
    pub fn too_far_behind(&self) -> Option<Behind> {
        Some(self.behind()).filter(|behind| behind.cycles >= self.config.staged_cycles_max.div_ceil(2))
    }

    /// Bytes that staged cycles take.
    #[must_use]
    pub fn bytes_kept(&self) -> u64 {
        self.shown().manifest.bytes_kept()
    }

    /// The point of which clones stand ready for a failover, durably. `None` also while they are being made.
    #[must_use]
    pub fn standing(&self) -> Option<Seq> {
        self.shown().manifest.standing.as_ref().filter(|clones| clones.ready).map(|clones| clones.at)
    }

    /// The page blobs of the clones that [`PageBlobReplica::standing`] tells of, one for each disk; their names in the store, empty for a disk that the point lacks.
    #[must_use]
    pub fn standing_blobs(&self) -> Vec<String> {
        let shown = self.shown();
        let ready = shown.manifest.standing.as_ref().filter(|clones| clones.ready);
        ready.map(|clones| clones.blobs.clone()).unwrap_or_default()
    }

    /// The names of its views.
    #[must_use]
    pub fn view_names(&self) -> Vec<String> {
        self.shown().manifest.views.keys().cloned().collect()
    }

    /// Why this process has lost the replica, if it knows already that it has: every call fails from then on, and it is to be dropped. Does not wait.
    #[must_use]
    pub fn lost(&self) -> Option<ReplicaError> {
        self.core.try_lock().ok()?.lost.clone()
    }

    /// How it stands, as far as it is durable.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        let shown = self.shown();
        let open = shown.manifest.open.as_ref().map(|open| save::open_status(open, open.acknowledged()));
        status_of(&shown.manifest, open, shown.paused)
    }

    fn shown(&self) -> Shown {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        // A panic elsewhere must not take the replica down with it: the manifest is only replaced whole.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn working(&self) -> MutexGuard<'_, ()> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn digests(&self, disk: DiskIndex) -> MutexGuard<'_, DigestFile> {
        self.digests[usize::from(disk.0)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page blob of a disk that was not removed; as long as the source's disk, rounded up to whole pages.
    fn disk(&self, manifest: &BlobManifest, disk: DiskIndex) -> PageBlob {
        PageBlob {
            store: Arc::clone(&self.store),
            blob: manifest.page_blob(disk),
            lease: Some(self.lease.clone()),
            size: manifest.disks[usize::from(disk.0)].size.next_multiple_of(store::PAGE),
        }
    }

    /// A name that no blob has had: of the opening, and a number.
    fn new_name(&self, opening: u64, what: &str) -> String {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        *names += 1;
        format!("{opening:08}-{names:08}-{what}")
    }
}

/// Under which opening a blob was named, if it was so.
fn opening_of(blob: &str) -> Option<u64> {
    blob.split_once('-').and_then(|(opening, _)| opening.parse().ok())
}

fn status_of(
    manifest: &BlobManifest,
    open: Option<crate::OpenCycleStatus>,
    paused: Option<PauseReason>,
) -> ReplicaStatus {
    let last = manifest.points.last().cloned();
    let seq = last.as_ref().map(|point| point.seq);
    ReplicaStatus {
        id: manifest.id,
        epoch: manifest.epoch,
        disks: manifest.disks.clone(),
        state: if last.is_some() { ReplicaState::Ready } else { ReplicaState::Empty },
        generation: manifest.generation,
        open,
        last_point: last,
        watermarks: Watermarks { received: seq, recoverable: seq },
        paused,
    }
}

impl ReplicaSummary {
    /// Reads it from the manifest in a store, also while a process has the replica. `None`: there is none.
    ///
    /// # Errors
    /// When the store cannot be read, or the manifest is damaged.
    pub fn read_blobs(store: &dyn BlobStore) -> Result<Option<Self>, ReplicaError> {
        let Some((manifest, _)) = save::load(store)? else { return Ok(None) };
        Ok(Some(Self {
            id: manifest.id,
            disk_sizes: manifest.disks.iter().map(|disk| disk.size).collect(),
            kept_bytes: manifest.bytes_kept(),
            standing: manifest.standing.as_ref().filter(|clones| clones.ready).map(|clones| clones.at),
            moving: manifest.removing || manifest.standing.as_ref().is_some_and(|clones| !clones.ready),
            applied: manifest.applied(),
            points: manifest.points,
            epoch: manifest.epoch,
        }))
    }
}

/// See [`crate::fuzz::manifest`].
pub(crate) fn fuzz_manifest(data: &[u8]) {
    if let Ok(manifest) = BlobManifest::decode(data) {
        assert_eq!(BlobManifest::decode(&manifest.encode()).as_ref(), Ok(&manifest));
    }
}
