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

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};
use switchback_delta::{DeltaKey, Frame};
use switchback_disk::{Clock, DirVolume, Disk, FileDisk, Volume};
use switchback_model::{DiskIndex, ReplicaId, ReplicaName, RetentionPolicy};
use switchback_replica::{
    Applier, CommitCycle, DiskReplica, DiskSession, DiskSpec, LeafDigests, NodeDigest, OpenCycle,
    OpenCycleStatus, PartHeader, ReplicaConfig, ReplicaError, ReplicaSession, ReplicaStatus, SessionRequest,
    Watermarks,
};

use crate::storage_key;

const SETTINGS: &str = "settings";
const SETTINGS_LEN_MAX: usize = 1 << 20;

/// What the owner of a replica's directory decided about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Paths of the target disks, in order.
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
}

/// An open replica and the thread that applies its cycles.
#[derive(Debug)]
pub struct Hosted {
    // Dropped first: it waits for the cycle in hand.
    applier: Applier,
    /// The replica.
    pub replica: Arc<DiskReplica>,
}

impl Host {
    /// A host of the replicas in the directories below `root`.
    #[must_use]
    pub fn new(root: PathBuf, placement: Placement, clock: Arc<dyn Clock>) -> Self {
        Self { root, placement, clock, open: Mutex::default() }
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
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, hosted| hosted.strong_count() > 0);
        let directory = self.root.join(request.replica.as_str());
        let hosted = match open.get(&request.replica).and_then(Weak::upgrade) {
            Some(hosted) => {
                check_owner(&load_settings(&directory)?, owner)?;
                hosted
            }
            None => {
                let hosted = Arc::new(self.open_or_create(&directory, owner, request)?);
                open.insert(request.replica.clone(), Arc::downgrade(&hosted));
                hosted
            }
        };
        drop(open);
        hosted.session(request)
    }

    /// The replica of a name, whether somebody writes it or not. Whoever holds it keeps it open.
    ///
    /// # Errors
    /// When there is none, or it cannot be opened.
    pub fn hosted(&self, name: &ReplicaName) -> Result<Arc<Hosted>, ReplicaError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hosted) = open.get(name).and_then(Weak::upgrade) {
            return Ok(hosted);
        }
        let hosted = Arc::new(Hosted::open(&self.root.join(name.as_str()))?);
        open.insert(name.clone(), Arc::downgrade(&hosted));
        Ok(hosted)
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
    for (target, size) in settings.targets.iter().zip(sizes) {
        if !target.exists() {
            FileDisk::create(target, size.size)
                .map_err(|error| io_error("creating the target", target, &error))?;
        }
    }
    let config = config(settings)?;
    save_settings(&*volume, settings)?;
    let (disks, id) = (open_targets(settings)?, ReplicaId(new_id()));
    DiskReplica::create(volume, disks, sizes.to_vec(), id, clock.now(), config).map(drop)
}

fn open_targets(settings: &Settings) -> Result<Vec<Arc<dyn Disk>>, ReplicaError> {
    let open = |path: &PathBuf| -> Result<Arc<dyn Disk>, ReplicaError> {
        let disk =
            FileDisk::open_exclusive(path).map_err(|error| io_error("opening the target", path, &error))?;
        Ok(Arc::new(disk))
    };
    settings.targets.iter().map(open).collect()
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
        Ok(Self { applier: Applier::start(Arc::clone(&replica)), replica })
    }

    /// Opens a session, which keeps it open.
    ///
    /// # Errors
    /// As `DiskReplica::session`.
    pub fn session(self: &Arc<Self>, request: &SessionRequest) -> Result<HostedSession, ReplicaError> {
        let session = self.replica.session(request)?;
        Ok(HostedSession { session, hosted: Arc::clone(self) })
    }
}

/// Opens the replica in a directory, without a thread that applies its cycles.
///
/// # Errors
/// [`ReplicaError::Locked`] when another process has it.
pub fn open_replica(directory: &Path) -> Result<DiskReplica, ReplicaError> {
    let settings = load_settings(directory)?;
    let volume =
        DirVolume::open(directory).map_err(|error| io_error("opening the replica", directory, &error))?;
    // Asked before the disks are: a process that has the replica has them too, and its name is the better answer.
    drop(volume.lock().map_err(|error| ReplicaError::Locked { holder: error.to_string() })?);
    let config = config(&settings)?;
    DiskReplica::open(Arc::new(volume), open_targets(&settings)?, config)
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

/// A session that wakes the applier at each commit, and keeps its replica open.
#[derive(Debug)]
pub struct HostedSession {
    // Dropped before the replica it belongs to.
    session: DiskSession,
    hosted: Arc<Hosted>,
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
        self.hosted.applier.wake();
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
