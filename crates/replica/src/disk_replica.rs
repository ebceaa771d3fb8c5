//! `DiskReplica`: a replica on block devices or image files, with its history on a retention drive.
//!
//! # Stage, then apply
//! A cycle's parts are **staged**: written to the retention drive and made durable. The commit writes one
//! manifest, and from then on the recovery point of *all* disks exists. **Applying** follows, and can be done again after a
//! crash at any step:
//!
//! 1. the old contents of everything that will be overwritten are written as *reverse deltas*, durable;
//! 2. the manifest says `Apply` (and names them);
//! 3. the disks are written and flushed, the digests updated and synced;
//! 4. the manifest says that it is done; the staged parts are removed.
//!
//! A crash before 2 leaves garbage; between 2 and 4 the apply is done again from the staged parts, and the reverse deltas
//! stay as they are (reading them again from a half-written disk would be the one fatal mistake).
//!
//! # Contents of a point
//! For a point at or below the applied one: the first reverse delta above it that holds the block, else the disk. Above: the
//! newest staged part up to it that holds the block, else the disk. So a point can be *viewed* while
//! newer cycles are applied, and the disks can be *rolled back* in place; or *stand* at any point for a time, see `stand`.
//!
//! # The first replication
//! There is nothing to protect on empty disks: frames are written straight to them (`filling`), and the
//! commit makes the first point. Until then a crash only forgets the digests, so that the next attempt reads what is there. Disks
//! that hold something when the replica is created keep it as point 0: a resync onto them can be undone.
//!
//! # Threads and locks
//! `turn` lets one call of one session at a time in. `work` serializes everything that changes disks or history.
//! `core` holds the manifest and is taken for short steps (a manifest save included). `ways` is held
//! for reading while a view reads, and for writing when a reverse delta is published: so a reader either
//! has the old block from the disk, or finds it in the reverse delta (or, where disks are brought to another point, in the newest files). Order: `turn`, `work`, `core`,
//! `ways`, `digests`.

mod apply;
mod fill;
mod fsck;
mod open;
mod prune;
mod reshape;
mod rollback;
mod session;
mod stage;
mod stand;
mod view;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use switchback_delta::DeltaKey;
use switchback_disk::{Disk, Volume, VolumeLock};
use switchback_model::{DiskIndex, Epoch, RecoveryPoint, ReplicaId, RetentionPolicy, Seq};

pub use fsck::{Finding, FsckReport};
pub use session::DiskSession;
pub use view::PointView;

use crate::digest_file::DigestFile;
use crate::error::{PauseReason, ReplicaError};
use crate::layout::FileName;
use crate::manifest::{Manifest, ReverseDelta, Work};
use crate::{ReplicaState, ReplicaStatus, Watermarks};

/// How a replica keeps its history.
#[derive(Debug)]
pub struct ReplicaConfig {
    /// Which points to keep.
    pub retention: RetentionPolicy,
    /// Encrypts staged and reverse deltas at rest.
    pub key: Option<DeltaKey>,
    /// Threads that read and write disks during an apply or a rollback; 1 does everything in order on the calling
    /// thread.
    pub io_threads: usize,
    /// Committed cycles that may wait to be applied; beyond it new cycles wait for the applier.
    pub staged_cycles_max: usize,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self { retention: RetentionPolicy::default(), key: None, io_threads: 4, staged_cycles_max: 64 }
    }
}

/// A replica on disks. See the module's header.
#[derive(Debug)]
pub struct DiskReplica {
    volume: Arc<dyn Volume>,
    disks: Vec<Arc<dyn Disk>>,
    config: ReplicaConfig,
    core: Mutex<Core>,
    turn: Mutex<()>,
    /// Held shared by whoever writes for a session beside its thread, see `fill`.
    gate: RwLock<()>,
    work: Mutex<()>,
    /// For those who must not wait for `core`.
    ways: RwLock<Ways>,
    digests: Vec<Mutex<DigestFile>>,
    _lock: VolumeLock,
}

/// What leads from the disks to other points, as views see it.
#[derive(Debug)]
struct Ways {
    reverse: Vec<ReverseDelta>,
    /// See [`crate::manifest::Standing`].
    newest: Vec<FileName>,
    /// Counts the changes.
    version: u64,
}

impl Ways {
    fn of(manifest: &Manifest, version: u64) -> Self {
        let standing = manifest.standing.as_ref().zip(manifest.applied);
        let newest = standing.map(|(standing, newest)| {
            standing.newest.iter().map(|file| file.name(newest)).collect::<Vec<_>>()
        });
        Self { reverse: manifest.reverse.clone(), newest: newest.unwrap_or_default(), version }
    }
}

/// What changes.
#[derive(Debug)]
struct Core {
    manifest: Manifest,
    /// The open cycle's parts; `None` when no cycle is open.
    parts: Option<stage::OpenParts>,
    /// Who writes.
    writer: Option<session::Writer>,
    /// Sessions opened so far: each has its own number, and only the last may write.
    sessions: u64,
    /// Why the disks cannot be brought to the newest point.
    paused: Option<PauseReason>,
    /// Why nothing more can be taken.
    full: Option<PauseReason>,
    /// Points that somebody is viewing, and how many of them.
    views: BTreeMap<Seq, usize>,
}

/// What a look at a replica tells that opens nothing and disturbs nobody.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSummary {
    /// Its identity.
    pub id: ReplicaId,
    /// The sizes of its disks in bytes.
    pub disk_sizes: Vec<u64>,
    /// Its recovery points, oldest first.
    pub points: Vec<RecoveryPoint>,
    /// The newest point that is on the disks, unless they are away from it: see `standing`.
    pub applied: Option<Seq>,
    /// The older (or same) point at which it stands and which its disks hold, durably.
    pub standing: Option<Seq>,
    /// The disks are being brought to another point: they hold none.
    pub moving: bool,
    /// Bytes that staged cycles and the ways back to older points take.
    pub kept_bytes: u64,
    /// The newest epoch that it has been fenced with, or written under.
    pub epoch: Epoch,
}

impl ReplicaSummary {
    /// Reads it, also while a process has the replica: a manifest is only ever replaced whole.
    ///
    /// # Errors
    /// When there is no manifest, or it is damaged.
    pub fn read(volume: &dyn Volume) -> Result<Self, ReplicaError> {
        let manifest = Manifest::load(volume)?;
        Ok(Self {
            id: manifest.id,
            disk_sizes: manifest.disks.iter().map(|disk| disk.size).collect(),
            kept_bytes: manifest.bytes_kept(),
            standing: manifest.stands_at(),
            moving: manifest.work.is_some_and(|work| !matches!(work, Work::Apply { .. })),
            points: manifest.points,
            applied: manifest.applied,
            epoch: manifest.epoch,
        })
    }
}

impl DiskReplica {
    /// Its recovery points, oldest first.
    #[must_use]
    pub fn points(&self) -> Vec<RecoveryPoint> {
        self.core().manifest.points.clone()
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.core().manifest.id
    }

    /// The newest point that is on the disks, unless they are away from it: see [`DiskReplica::standing`].
    #[must_use]
    pub fn applied(&self) -> Option<Seq> {
        self.core().manifest.applied
    }

    /// Bytes that staged cycles and the ways back to older points take.
    #[must_use]
    pub fn bytes_kept(&self) -> u64 {
        self.core().manifest.bytes_kept()
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        self.core().status()
    }

    /// Brings the disks to the newest point and lets expired points go. Called after each commit, by a thread of its own
    /// (see [`crate::Applier`]).
    ///
    /// # Errors
    /// [`ReplicaError::Paused`] when the retention drive is full: nothing is lost, call again when there is
    /// space. Anything else needs attention.
    pub fn maintain(&self) -> Result<(), ReplicaError> {
        let done = self.apply_all().and_then(|()| self.prune());
        let mut core = self.core();
        match &done {
            Ok(()) => core.paused = None,
            Err(ReplicaError::Paused(reason)) => core.paused = Some(reason.clone()),
            Err(_) => {}
        }
        done
    }

    /// Remembers, for whoever asks how it stands, whether data can be taken.
    fn took<T>(&self, taken: Result<T, ReplicaError>) -> Result<T, ReplicaError> {
        match &taken {
            Ok(_) => self.core().full = None,
            Err(ReplicaError::Paused(reason)) => self.core().full = Some(reason.clone()),
            Err(_) => {}
        }
        taken
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        // A panic elsewhere must not take the replica down with it: the manifest is only replaced whole.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn working(&self) -> MutexGuard<'_, ()> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves a changed manifest and publishes its ways back in one step as far as views are concerned: it
    /// waits for those that are reading, and those that read next see both.
    fn publish(&self, change: impl FnOnce(&mut Manifest)) -> Result<(), ReplicaError> {
        let mut core = self.core();
        let mut published = self.ways.write().unwrap_or_else(PoisonError::into_inner);
        core.save(&*self.volume, change)?;
        *published = Ways::of(&core.manifest, published.version + 1);
        Ok(())
    }

    fn digests(&self, disk: DiskIndex) -> MutexGuard<'_, DigestFile> {
        self.digests[usize::from(disk.0)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self, disk: DiskIndex) -> &dyn Disk {
        &*self.disks[usize::from(disk.0)]
    }

    fn disk_indexes(&self) -> impl Iterator<Item = DiskIndex> + Clone + use<> {
        let count = u16::try_from(self.disks.len()).expect("checked when opened");
        (0..count).map(DiskIndex)
    }
}

impl Core {
    /// Replaces the manifest by a changed one, durably, or leaves everything as it was.
    fn save(&mut self, volume: &dyn Volume, change: impl FnOnce(&mut Manifest)) -> Result<(), ReplicaError> {
        let mut changed = self.manifest.clone();
        change(&mut changed);
        changed.save(volume)?;
        self.manifest = changed;
        Ok(())
    }

    fn status(&self) -> ReplicaStatus {
        let manifest = &self.manifest;
        let last = manifest.points.last().cloned();
        let seq = last.as_ref().map(|point| point.seq);
        ReplicaStatus {
            id: manifest.id,
            epoch: manifest.epoch,
            disks: manifest.disks.clone(),
            state: if last.is_some() { ReplicaState::Ready } else { ReplicaState::Empty },
            generation: manifest.generation,
            open: self.open_status(),
            last_point: last,
            watermarks: Watermarks { received: seq, recoverable: seq },
            paused: self.paused.clone().or_else(|| self.full.clone()),
        }
    }
}
