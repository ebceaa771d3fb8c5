//! Hosting replicas: directories of them, opened when a session asks and closed when the last one has gone.
//!
//! # A replica's directory
//! ```text
//! settings      JSON: the target disks' paths, who may write it, which points to keep
//! manifest, digests-*, stage-*, reverse-*, lock      see the crate `switchback-replica`
//! disk-<n>.img  the target disks, unless the settings name others
//! ```
//! Closing a replica when nobody writes it frees its lock, so that `switchback replica` can work on it at the same
//! time as a `receive` that merely waits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use switchback_delta::{DeltaKey, Frame};
use switchback_disk::{Access, Clock, DirVolume, Disk, FileDisk, OpenDiskError, VoidDisk, Volume};
use switchback_model::{DiskIndex, ReplicaId, ReplicaName, RetentionPolicy};
use switchback_replica::{
    Applier, CommitCycle, DiskReplica, DiskSpec, LeafDigests, NodeDigest, OpenCycle, OpenCycleStatus,
    PartHeader, ReplicaConfig, ReplicaError, ReplicaSession, ReplicaStatus, ReplicaSummary, SessionRequest,
    Watermarks,
};

use crate::storage_key;

const SETTINGS: &str = "settings";
const SETTINGS_LEN_MAX: usize = 1 << 20;
/// How long a session waits for a replica that is being closed after its last one: it finishes the cycle in hand first.
const CLOSING_MAX: Duration = Duration::from_mins(1);

/// What the owner of a replica's directory decided about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Paths of the target disks, in order. Empty where a disk has been removed.
    pub targets: Vec<PathBuf>,
    /// The component whose sessions may write it: the first that did. `None`: local use only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Which points to keep.
    #[serde(default)]
    pub retention: RetentionPolicy,
    /// Where the key is that its history is encrypted under (`storage_key`), an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// Where new replicas go, and how they are kept.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Target disks of replicas that are not to get image files in their directory.
    pub targets: BTreeMap<ReplicaName, Vec<PathBuf>>,
    /// For new replicas.
    pub retention: RetentionPolicy,
    /// Encrypts the history of new replicas under the key in this file, an absolute path.
    pub key_file: Option<PathBuf>,
}

/// A directory of replicas.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    placement: Placement,
    clock: Arc<dyn Clock>,
    open: Mutex<BTreeMap<ReplicaName, Weak<Hosted>>>,
    closing: Arc<Closing>,
}

/// The replicas that are open or being closed here, each with its lock.
#[derive(Debug, Default)]
struct Closing {
    names: Mutex<BTreeSet<ReplicaName>>,
    closed: Condvar,
}

impl Closing {
    fn names(&self) -> MutexGuard<'_, BTreeSet<ReplicaName>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a replica that nobody uses any more has been closed; `false`: it takes too long.
    fn wait(&self, name: &ReplicaName, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.closed.wait_timeout_while(self.names(), left, |names| names.contains(name));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// Tells that a replica has been closed.
#[derive(Debug)]
struct ClosedNote(Arc<Closing>, ReplicaName);

impl Drop for ClosedNote {
    fn drop(&mut self) {
        self.0.names().remove(&self.1);
        self.0.closed.notify_all();
    }
}

/// An open replica and the thread that applies its cycles.
#[derive(Debug)]
pub struct Hosted {
    // Dropped first: it waits for the cycle in hand.
    applier: Applier,
    /// The replica.
    pub replica: Arc<DiskReplica>,
    // Dropped last: its lock is free by then.
    _closed: Option<ClosedNote>,
}

impl Host {
    /// A host of the replicas in the directories below `root`.
    #[must_use]
    pub fn new(root: PathBuf, placement: Placement, clock: Arc<dyn Clock>) -> Self {
        Self { root, placement, clock, open: Mutex::default(), closing: Arc::default() }
    }

    /// Opens a session for `owner` (a component's name; `None` on the same host), creating the replica at its first.
    ///
    /// # Errors
    /// [`ReplicaError`].
    pub fn session(
        &self,
        owner: Option<&str>,
        request: &SessionRequest,
    ) -> Result<HostedSession, ReplicaError> {
        let directory = self.root.join(request.replica.as_str());
        let hosted =
            self.get_or_open(&request.replica, || self.open_or_create(&directory, owner, request))?;
        check_owner(&load_settings(&directory)?, owner)?;
        hosted.session(request)
    }

    /// The replica of a name, whether somebody writes it or not. Whoever holds it keeps it open.
    ///
    /// # Errors
    /// When there is none, or it cannot be opened.
    pub fn hosted(&self, name: &ReplicaName) -> Result<Arc<Hosted>, ReplicaError> {
        self.get_or_open(name, || Hosted::open(&self.root.join(name.as_str())))
    }

    /// The open replica of a name, or what `open` makes of it once nobody closes it any more.
    fn get_or_open(
        &self,
        name: &ReplicaName,
        open: impl FnOnce() -> Result<Hosted, ReplicaError>,
    ) -> Result<Arc<Hosted>, ReplicaError> {
        let until = Instant::now() + CLOSING_MAX;
        loop {
            let mut known = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, hosted| hosted.strong_count() > 0);
            if let Some(hosted) = known.get(name).and_then(Weak::upgrade) {
                return Ok(hosted);
            }
            if self.closing.names().insert(name.clone()) {
                let closed = ClosedNote(Arc::clone(&self.closing), name.clone());
                let hosted = Arc::new(Hosted { _closed: Some(closed), ..open()? });
                known.insert(name.clone(), Arc::downgrade(&hosted));
                return Ok(hosted);
            }
            drop(known);
            if !self.closing.wait(name, until) {
                let holder = "its former session, which is still being closed".into();
                return Err(ReplicaError::Locked { holder });
            }
        }
    }

    fn open_or_create(
        &self,
        directory: &Path,
        owner: Option<&str>,
        request: &SessionRequest,
    ) -> Result<Hosted, ReplicaError> {
        if directory.join("manifest").exists() {
            check_owner(&load_settings(directory)?, owner)?;
            return Hosted::open(directory);
        }
        let targets = self.placement.targets.get(&request.replica).cloned();
        let settings = Settings {
            targets: targets.unwrap_or_else(|| default_targets(directory, request.disks.len())),
            owner: owner.map(Into::into),
            retention: self.placement.retention.clone(),
            key_file: self.placement.key_file.clone(),
        };
        create_replica(directory, &settings, &request.disks, &*self.clock)?;
        Hosted::open(directory)
    }
}

/// Image files in the replica's own directory.
fn default_targets(directory: &Path, count: usize) -> Vec<PathBuf> {
    (0..count).map(|disk| directory.join(format!("disk-{disk}.img"))).collect()
}

fn check_owner(settings: &Settings, owner: Option<&str>) -> Result<(), ReplicaError> {
    match (&settings.owner, owner) {
        // Whoever runs commands on the host may do what its files allow.
        (_, None) => Ok(()),
        (Some(has), Some(asks)) if has == asks => Ok(()),
        (has, Some(asks)) => {
            let has = has.as_deref().unwrap_or("this host itself");
            let detail = format!("the replica belongs to {has}, not to {asks}; choose another name for it");
            Err(ReplicaError::Forbidden { detail })
        }
    }
}

/// Makes a new replica: its directory, its target disks where they are files that do not exist, its manifest.
///
/// # Errors
/// [`ReplicaError`]; a directory that was being made when something failed can simply be used again.
pub fn create_replica(
    directory: &Path,
    settings: &Settings,
    sizes: &[DiskSpec],
    clock: &dyn Clock,
) -> Result<(), ReplicaError> {
    if let Some(parent) = directory.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|error| io_error("creating the directory", parent, &error))?;
    }
    let volume = DirVolume::create(directory).or_else(|error| {
        // There from an attempt that failed, or made by its owner.
        DirVolume::open(directory).map_err(|_| error)
    });
    let volume: Arc<dyn Volume> =
        Arc::new(volume.map_err(|error| io_error("creating the replica", directory, &error))?);
    if settings.targets.len() != sizes.len() {
        let detail =
            format!("{} target disks are configured, the source has {}", settings.targets.len(), sizes.len());
        return Err(ReplicaError::DisksChanged { detail });
    }
    make_targets(settings, sizes)?;
    let config = config(settings)?;
    save_settings(&*volume, settings)?;
    let sizes_of: Vec<_> = sizes.iter().map(|spec| spec.size).collect();
    let (disks, id) = (open_targets(settings, &sizes_of)?, ReplicaId(new_id()));
    DiskReplica::create(volume.clone(), disks, sizes.to_vec(), id, clock.now(), config)?;
    let removed = removed(settings);
    if removed.is_empty() { Ok(()) } else { DiskReplica::reshape(&*volume, sizes, &removed) }
}

/// Takes over other settings for a replica that nobody has open. Disks may have come behind the others, or been removed.
///
/// # Errors
/// As `DiskReplica::reshape`. It may be repeated.
pub fn adjust_replica(directory: &Path, settings: &Settings, sizes: &[DiskSpec]) -> Result<(), ReplicaError> {
    let volume =
        DirVolume::open(directory).map_err(|error| io_error("opening the replica", directory, &error))?;
    make_targets(settings, sizes)?;
    // The settings last: as long as they differ from what is wanted, this is done again.
    DiskReplica::reshape(&volume, sizes, &removed(settings))?;
    save_settings(&volume, settings)
}

/// Makes the target disks where they are files that do not exist. A device comes by itself, perhaps a moment after it was attached: a file in its place would be
/// in memory, and hide it.
fn make_targets(settings: &Settings, sizes: &[DiskSpec]) -> Result<(), ReplicaError> {
    let there = settings.targets.iter().zip(sizes).filter(|(target, _)| !target.as_os_str().is_empty());
    for (target, size) in there {
        if !target.exists() {
            if target.starts_with("/dev") {
                let missing = "there is no such device, or not yet: is the disk attached to this machine?";
                return Err(io_error("opening the target", target, &missing));
            }
            FileDisk::create(target, size.size)
                .map_err(|error| io_error("creating the target", target, &error))?;
        }
    }
    Ok(())
}

/// The disks that have been removed.
fn removed(settings: &Settings) -> Vec<DiskIndex> {
    let targets = (0..).map(DiskIndex).zip(&settings.targets);
    targets.filter(|(_, target)| target.as_os_str().is_empty()).map(|(disk, _)| disk).collect()
}

fn open_targets(settings: &Settings, sizes: &[u64]) -> Result<Vec<Arc<dyn Disk>>, ReplicaError> {
    targets(settings, sizes, |path| FileDisk::open_exclusive(path))
}

fn targets(
    settings: &Settings,
    sizes: &[u64],
    open: impl Fn(&Path) -> Result<FileDisk, OpenDiskError>,
) -> Result<Vec<Arc<dyn Disk>>, ReplicaError> {
    let open = |(place, path): (usize, &PathBuf)| -> Result<Arc<dyn Disk>, ReplicaError> {
        if path.as_os_str().is_empty() {
            return Ok(Arc::new(VoidDisk::new(sizes.get(place).copied().unwrap_or_default())));
        }
        Ok(Arc::new(open(path).map_err(|error| io_error("opening the target", path, &error))?))
    };
    settings.targets.iter().enumerate().map(open).collect()
}

/// The settings of the replica in a directory.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn load_settings(directory: &Path) -> Result<Settings, ReplicaError> {
    let volume =
        DirVolume::open(directory).map_err(|error| io_error("opening the replica", directory, &error))?;
    let data = volume
        .read_all(SETTINGS, SETTINGS_LEN_MAX)
        .map_err(|error| io_error("reading the settings of the replica", directory, &error))?;
    serde_json::from_slice(&data).map_err(|error| ReplicaError::Corrupt {
        detail: format!("{}: {error}", directory.join(SETTINGS).display()),
    })
}

pub(crate) fn save_settings(volume: &dyn Volume, settings: &Settings) -> Result<(), ReplicaError> {
    let data = serde_json::to_vec_pretty(settings).expect("paths come from text");
    let saved = volume.write_atomic(SETTINGS, &data);
    saved.map_err(|error| io_error("writing the settings of the replica", Path::new(volume.name()), &error))
}

impl Hosted {
    /// Opens the replica in a directory.
    ///
    /// # Errors
    /// [`ReplicaError::Locked`] when another process has it.
    pub fn open(directory: &Path) -> Result<Self, ReplicaError> {
        let replica = Arc::new(open_replica(directory)?);
        Ok(Self { applier: Applier::start(Arc::clone(&replica)), replica, _closed: None })
    }

    /// Opens a session, which keeps it open.
    ///
    /// # Errors
    /// As `DiskReplica::session`.
    pub fn session(self: &Arc<Self>, request: &SessionRequest) -> Result<HostedSession, ReplicaError> {
        let session = Box::new(self.replica.session(request)?);
        Ok(HostedSession::new(session, self.clone()))
    }
}

/// Opens the replica in a directory, without a thread that applies its cycles.
///
/// # Errors
/// [`ReplicaError::Locked`] when another process has it.
pub fn open_replica(directory: &Path) -> Result<DiskReplica, ReplicaError> {
    open_with(directory, open_targets)
}

/// The same, for looking only. A replica that stands at a point has given its disks to a machine, which may run above a snapshot of them: they are only
/// read then.
///
/// # Errors
/// [`ReplicaError::Locked`] when another process has it.
pub fn open_replica_to_verify(directory: &Path) -> Result<DiskReplica, ReplicaError> {
    let volume =
        DirVolume::open(directory).map_err(|error| io_error("opening the replica", directory, &error))?;
    let summary = ReplicaSummary::read(&volume)?;
    if summary.standing.is_none() || summary.moving {
        return open_replica(directory);
    }
    open_with(directory, |settings, sizes| {
        targets(settings, sizes, |path| FileDisk::open(path, Access::ReadOnly))
    })
}

fn open_with(
    directory: &Path,
    targets: impl Fn(&Settings, &[u64]) -> Result<Vec<Arc<dyn Disk>>, ReplicaError>,
) -> Result<DiskReplica, ReplicaError> {
    let settings = load_settings(directory)?;
    let volume =
        DirVolume::open(directory).map_err(|error| io_error("opening the replica", directory, &error))?;
    // Asked before the disks are: a process that has the replica has them too, and its name is the better answer.
    drop(volume.lock().map_err(|error| ReplicaError::Locked { holder: error.to_string() })?);
    let config = config(&settings)?;
    let sizes = ReplicaSummary::read(&volume)?.disk_sizes;
    DiskReplica::open(Arc::new(volume), targets(&settings, &sizes)?, config)
}

fn config(settings: &Settings) -> Result<ReplicaConfig, ReplicaError> {
    let key = match &settings.key_file {
        None => None,
        Some(path) => {
            let key = storage_key::load(path).map_err(|error| ReplicaError::Io {
                action: "opening the replica's history, which is encrypted".into(),
                detail: with_causes(&error),
            })?;
            Some(DeltaKey::new(*key))
        }
    };
    Ok(ReplicaConfig { retention: settings.retention.clone(), key, ..ReplicaConfig::default() })
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Sixteen random bytes from the system.
pub(crate) fn new_id() -> [u8; 16] {
    use rand::TryRngCore;
    let mut id = [0; 16];
    rand::rngs::OsRng
        .try_fill_bytes(&mut id)
        .expect("the kernel's generator works once the machine has booted");
    id
}

fn io_error(action: &str, path: &Path, error: &dyn std::fmt::Display) -> ReplicaError {
    ReplicaError::Io { action: format!("{action} {}", path.display()), detail: error.to_string() }
}

/// What has a thread that applies cycles.
pub trait Maintained: Send + Sync + std::fmt::Debug {
    /// There is something to apply.
    fn wake(&self);
}

impl Maintained for Hosted {
    fn wake(&self) {
        self.applier.wake();
    }
}

/// A session that wakes the applier at each commit, and keeps its replica open.
pub struct HostedSession {
    // Dropped before the replica it belongs to.
    session: Box<dyn ReplicaSession>,
    hosted: Arc<dyn Maintained>,
}

impl std::fmt::Debug for HostedSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostedSession").field("hosted", &self.hosted).finish_non_exhaustive()
    }
}

impl HostedSession {
    pub(crate) fn new(session: Box<dyn ReplicaSession>, hosted: Arc<dyn Maintained>) -> Self {
        Self { session, hosted }
    }
}

impl ReplicaSession for HostedSession {
    fn status(&mut self) -> Result<ReplicaStatus, ReplicaError> {
        self.session.status()
    }

    fn open_cycle(&mut self, request: &OpenCycle) -> Result<OpenCycleStatus, ReplicaError> {
        self.session.open_cycle(request)
    }

    fn begin_part(&mut self, header: PartHeader) -> Result<(), ReplicaError> {
        self.session.begin_part(header)
    }

    fn put_frame(&mut self, frame: Frame) -> Result<(), ReplicaError> {
        self.session.put_frame(frame)
    }

    fn end_part(&mut self, checksum: [u8; 32]) -> Result<(), ReplicaError> {
        self.session.end_part(checksum)
    }

    fn barrier(&mut self) -> Result<Watermarks, ReplicaError> {
        self.session.barrier()
    }

    fn commit(&mut self, commit: &CommitCycle) -> Result<Watermarks, ReplicaError> {
        let watermarks = self.session.commit(commit)?;
        self.hosted.wake();
        Ok(watermarks)
    }

    fn abort_cycle(&mut self) -> Result<(), ReplicaError> {
        self.session.abort_cycle()
    }

    fn node_digests(
        &mut self,
        disk: DiskIndex,
        first: u32,
        count: u32,
    ) -> Result<Vec<NodeDigest>, ReplicaError> {
        self.session.node_digests(disk, first, count)
    }

    fn leaf_digests(&mut self, disk: DiskIndex, nodes: &[u32]) -> Result<Vec<LeafDigests>, ReplicaError> {
        self.session.leaf_digests(disk, nodes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use switchback_delta::{Frame, PartHasher};
    use switchback_disk::SystemClock;
    use switchback_model::{
        Consistency, DiskIndex, Epoch, Extent, GenerationId, PartIndex, ResyncReason, UnixMillis, WriterId,
    };
    use switchback_replica::{
        CommitCycle, CycleKind, DiskSpec, OpenCycle, PartHeader, ReplicaSession, SessionRequest,
    };

    use super::{Host, Placement, Settings, adjust_replica, create_replica};

    const SIZE: u64 = 16 << 20;

    /// A cycle that takes its time to be applied.
    fn cycle(session: &mut dyn ReplicaSession, kind: CycleKind) {
        let seq = session.open_cycle(&OpenCycle { generation: GenerationId([1; 16]), kind }).unwrap().seq;
        session.begin_part(PartHeader { seq, part: PartIndex(0), disk: DiskIndex(0) }).unwrap();
        let mut hasher = PartHasher::default();
        for start in (0..SIZE).step_by(1 << 20) {
            let byte = u8::try_from(seq.0 % 200).unwrap() + 1;
            let frame = Frame::of(Extent::new(start, 1 << 20), vec![byte; 1 << 20].into());
            hasher.push(&frame);
            session.put_frame(frame).unwrap();
        }
        session.end_part(hasher.finish()).unwrap();
        let commit = CommitCycle {
            seq,
            parts: 1,
            time: UnixMillis(seq.0),
            consistency: Consistency::CrashConsistent,
            group_tag: None,
            whole: Vec::new(),
        };
        session.commit(&commit).unwrap();
    }

    #[test]
    fn a_session_that_follows_at_once_waits_for_the_replica_to_be_closed() {
        let directory = tempfile::tempdir().unwrap();
        let host = Arc::new(Host::new(directory.path().into(), Placement::default(), Arc::new(SystemClock)));
        let request = SessionRequest {
            replica: "web01".parse().unwrap(),
            epoch: Some(Epoch(1)),
            writer: WriterId([1; 16]),
            disks: vec![DiskSpec { size: SIZE }],
        };
        for round in 0..20 {
            let mut session =
                host.session(None, &request).unwrap_or_else(|error| panic!("round {round}: {error}"));
            let kind = match round {
                0 => CycleKind::Resync { reason: ResyncReason::Initial },
                _ => CycleKind::Changes,
            };
            cycle(&mut session, kind);
            // Closed by somebody else, who is on his way when the next one asks.
            let (begun, wait) = std::sync::mpsc::sync_channel(0);
            let closing = std::thread::spawn(move || {
                begun.send(()).unwrap();
                drop(session);
            });
            wait.recv().unwrap();
            drop(closing);
        }
    }

    /// As on the day a disk is attached to a virtual machine: its device is there a moment later.
    #[test]
    fn a_device_that_is_not_there_yet_is_not_made_as_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let absent = std::path::PathBuf::from(format!("/dev/switchback-absent-{}", std::process::id()));
        let settings = |targets: Vec<std::path::PathBuf>| Settings {
            targets,
            owner: None,
            retention: Default::default(),
            key_file: None,
        };
        let sizes = [1_u64 << 20; 2].map(|size| DiskSpec { size });
        let path = directory.path().join("replica");
        let refused = create_replica(&path, &settings(vec![absent.clone()]), &sizes[..1], &SystemClock);
        assert!(refused.unwrap_err().to_string().contains("not yet"));
        let first = directory.path().join("disk.raw");
        create_replica(&path, &settings(vec![first.clone()]), &sizes[..1], &SystemClock).unwrap();
        let refused = adjust_replica(&path, &settings(vec![first, absent.clone()]), &sizes);
        let made = absent.exists();
        std::fs::remove_file(&absent).ok();
        assert!(refused.unwrap_err().to_string().contains("not yet") && !made);
    }
}
