//! The master target under a configuration server: replicas on the disks it is told of, with their history on its retention drive.
//!
//! # Its directory, on the retention drive
//! ```text
//! desired                            what it was told last
//! replicas/<replica>/                history, see `crate::host`
//! views/<replica>/<name>/disk-N.raw  points shown for test failovers and sandboxes (FUSE mounts)
//! sandboxes/                         machines over points that are proved, see `sandbox`
//! ```
//! # What holds the disks
//! While a replica receives, this process has its disks open and locked: nobody can start a machine on them by mistake. When it stands at a
//! point they are closed, and stay closed, also over a restart: then they are the machine's. What is remembered of an earlier run is
//! therefore used for taking data only; nothing but the word of the configuration server, now, makes disks move.

mod kept;
mod removal;
mod sandbox;
mod storage_watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use switchback_disk::{DirVolume, Volume};
use switchback_identity::PeerIdentity;
use switchback_model::ReplicaName;
use switchback_model::component::{Desired, MasterTargetDesired, MasterTargetState, State};
use switchback_replica::{ReplicaError, ReplicaSession, SessionRequest};
use switchback_transport::{RateLimit, SessionHandler};

use super::smbios::system_uuid;
use super::{DataPort, RoleConfig, now, remember, remembered, report, runtime};
use crate::component::Channel;
use crate::engine::Stop;
use kept::Kept;
use sandbox::Sandboxes;
use storage_watch::StorageWatch;

/// How often it looks around by itself.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Replicas worked on at a time.
const WORK_MAX: usize = 4;

/// How a master target is to run.
#[derive(Debug)]
pub struct MasterTargetConfig {
    /// What all roles need; its directory is the retention drive.
    pub role: RoleConfig,
    /// Where it takes data.
    pub port: DataPort,
    /// Encrypts the history of new replicas under the key in this file, an absolute path.
    pub key_file: Option<PathBuf>,
    /// SMBIOS system UUID of the machine it runs in; `None`: as the firmware tells.
    pub machine_uuid: Option<String>,
    /// The QEMU that boots recovery points which are proved.
    pub qemu: PathBuf,
}

/// The replicas.
struct Replicas {
    system_uuid: String,
    root: PathBuf,
    views: PathBuf,
    key_file: Option<PathBuf>,
    /// Under which all of them write into page blobs.
    to_storage: RateLimit,
    sandboxes: Arc<Sandboxes>,
    kept: Mutex<BTreeMap<ReplicaName, Arc<Kept>>>,
}

/// Runs until `stop`.
///
/// # Errors
/// When it cannot begin. What happens later is reported, and tried again.
pub fn run(config: MasterTargetConfig, stop: &Stop) -> anyhow::Result<()> {
    let MasterTargetConfig { role, port, key_file, machine_uuid, qemu } = config;
    let volume = role.volume()?;
    let runtime = runtime()?;
    let replicas = Replicas::new(&role.data, key_file, machine_uuid.unwrap_or_else(system_uuid), qemu)?;
    let replicas = Arc::new(replicas);
    let mut known: MasterTargetDesired = remembered(&volume);
    replicas.apply(&known, 0);
    let served = port.serve(&role, replicas.clone(), &runtime, stop)?;
    tracing::info!(address = served.address, "the master target listens");
    // What is kept is told from the first report on: a configuration server that was restored judges by it.
    let watch = StorageWatch::start()?;
    let state = Arc::new(Mutex::new(replicas.state(&watch)));
    let (shown, address, site, started) = (state.clone(), served.address.clone(), role.site.clone(), now());
    let compose = move || {
        let state = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        report(&address, &site, started, State::MasterTarget(state))
    };
    let channel = Arc::new(role.start_channel(runtime.handle(), Arc::new(compose))?);
    replicas.sandboxes.tell_by(channel.clone());
    let waker = channel.clone();
    let done: Arc<dyn Fn() + Send + Sync> = Arc::new(move || waker.wake());
    let (mut seen, mut confirmed) = (0, 0);
    while !stop.is_stopped() {
        let (count, answer) = channel.next(seen, LOOK_EVERY);
        if count > seen {
            seen = count;
            match answer.map(|answer| answer.desired) {
                Some(Desired::MasterTarget(desired)) => {
                    let desired = desired.holding(&known);
                    if desired != known {
                        remember(&volume, &desired.without_secrets());
                        known = desired;
                    }
                    confirmed = count;
                }
                other => tracing::error!(
                    ?other,
                    "told to be something else than a master target; is it enrolled as what it is?"
                ),
            }
        }
        replicas.to_storage.set(known.bandwidth.total_at(now()));
        replicas.apply(&known, confirmed);
        watch.want(&known.storage_paths);
        replicas.work(&done);
        publish(&state, replicas.state(&watch), &channel);
    }
    replicas.close();
    served.join(&runtime);
    Ok(())
}

/// Shows a new state; what the configuration server waits for is reported at once.
fn publish(state: &Mutex<MasterTargetState>, new: MasterTargetState, channel: &Channel) {
    let mut shown = state.lock().unwrap_or_else(PoisonError::into_inner);
    let differs = shown.replicas != new.replicas || shown.storage_paths != new.storage_paths;
    *shown = new;
    drop(shown);
    if differs {
        channel.report_now();
    }
}

impl Replicas {
    fn new(
        data: &Path,
        key_file: Option<PathBuf>,
        system_uuid: String,
        qemu: PathBuf,
    ) -> anyhow::Result<Self> {
        let data = std::path::absolute(data)?;
        let (root, views) = (data.join("replicas"), data.join("views"));
        std::fs::create_dir_all(&root)?;
        std::fs::create_dir_all(&views)?;
        // First what stands on them.
        let sandboxes = Arc::new(Sandboxes::new(data.join("sandboxes"), qemu));
        kept::unmount_left_behind(&views);
        Ok(Self {
            system_uuid,
            root,
            views,
            key_file,
            to_storage: RateLimit::new(None),
            sandboxes,
            kept: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ReplicaName, Arc<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is desired; `confirmed`: how often the configuration server has said something in this life of the process.
    fn apply(&self, desired: &MasterTargetDesired, confirmed: u64) {
        let mut kept = self.lock();
        for wanted in &desired.replicas {
            let replica = kept.entry(wanted.replica.clone()).or_insert_with(|| {
                let (directory, views) =
                    (self.root.join(wanted.replica.as_str()), self.views.join(wanted.replica.as_str()));
                let keeping = (self.key_file.clone(), self.to_storage.clone());
                Arc::new(Kept::new(wanted.clone(), directory, views, keeping, self.sandboxes.clone()))
            });
            replica.want(Some(wanted), confirmed);
        }
        for (name, replica) in kept.iter() {
            if !desired.replicas.iter().any(|wanted| wanted.replica == *name) {
                replica.want(None, confirmed);
            }
        }
        kept.retain(|_, replica| !replica.is_forgotten());
    }

    /// Works on those that are not as they should be, each on a thread of its own; `done` is called at the end of each.
    fn work(&self, done: &Arc<dyn Fn() + Send + Sync>) {
        let kept = self.lock();
        let mut busy = kept.values().filter(|replica| replica.is_busy()).count();
        for replica in kept.values() {
            if busy >= WORK_MAX {
                return;
            }
            if Kept::begin_work(replica, done) {
                busy += 1;
            }
        }
    }

    fn state(&self, watch: &StorageWatch) -> MasterTargetState {
        let kept: Vec<_> = self.lock().values().cloned().collect();
        let replicas = kept.iter().filter_map(|replica| replica.actual()).collect();
        let free = DirVolume::open(&self.root).ok().and_then(|volume| volume.free_bytes().ok());
        MasterTargetState {
            system_uuid: self.system_uuid.clone(),
            replicas,
            free_bytes: free.unwrap_or(0),
            storage_paths: watch.found(),
        }
    }

    /// Ends views and sessions.
    fn close(&self) {
        for replica in self.lock().values() {
            replica.want(None, u64::MAX);
            replica.let_go();
        }
    }
}

impl SessionHandler for Replicas {
    fn open(
        &self,
        peer: &PeerIdentity,
        request: SessionRequest,
    ) -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        let replica = self.lock().get(&request.replica).cloned();
        let replica = replica.ok_or_else(|| ReplicaError::Forbidden {
            detail: format!(
                "the configuration server has not assigned {} to this master target",
                request.replica
            ),
        })?;
        replica.session(peer, &request)
    }
}
