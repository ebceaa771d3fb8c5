//! One replica of a master target: from what it is to what it should be.
//!
//! # States
//! ```text
//!             create ──▶ receiving (disks open, sessions) ──StandAt──▶ sessions ended, disks brought there, closed
//!                              ▲                                            │
//!                              └───────────── Receive: resume ──────────────┤
//!                                                                           └──Remove──▶ history gone, disks stay
//! ```
//! The work of a transition is done on a thread of its own; while it runs the replica's former mode is not claimed any more
//! (`reached` is empty), and it takes no sessions. A transition that fails is tried again every [`RETRY_AFTER`].

mod blobs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use switchback_disk::{DirVolume, SystemClock};
use switchback_identity::PeerIdentity;
use switchback_model::component::{Problem, ReplicaActual, ReplicaDesired, ReplicaMode};
use switchback_model::{ByteSize, ObjectName, Seq};
use switchback_replica::{
    Behind, DiskSpec, ReadPoint, ReplicaError, ReplicaSession, ReplicaSummary, SessionRequest,
};
use switchback_transport::RateLimit;

use self::blobs::HostedBlobs;
use super::removal::remove_history;
use super::sandbox::{Place, Sandboxes};
use crate::export::Export;
use crate::host::{self, Hosted, Settings};
use crate::role::gate::Gate;

/// After so long a failed transition is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long to wait for whoever still looks at a replica that is to be closed.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// A replica.
pub(super) struct Kept {
    directory: PathBuf,
    views_directory: PathBuf,
    key_file: Option<PathBuf>,
    /// Under which it writes into page blobs.
    to_storage: RateLimit,
    gate: Gate,
    busy: AtomicBool,
    shared: Mutex<Shared>,
    /// Mounted views. Held by whoever works on the replica.
    views: Mutex<BTreeMap<String, (Seq, Export)>>,
    sandbox: Place,
}

struct Shared {
    /// `None`: not assigned to this master target any more.
    desired: Option<ReplicaDesired>,
    /// How often the configuration server has said something in this life of the process.
    confirmed: u64,
    /// What it had said until then does not count: another process has taken the replica over since.
    lost_at: u64,
    /// Whose work has been done.
    done: Option<(Option<ReplicaDesired>, bool)>,
    failed: Option<Instant>,
    problem: Option<Problem>,
    reached: Option<ReplicaMode>,
    hosted: Option<Arc<Hosted>>,
    /// The same, if it is in page blobs.
    blobs: Option<Arc<HostedBlobs>>,
    views: BTreeMap<String, Vec<PathBuf>>,
}

impl Shared {
    /// The configuration server has said so, and nothing has happened since that makes it doubtful.
    const fn is_confirmed(&self) -> bool {
        self.confirmed > self.lost_at
    }
}

/// What stands in the way.
struct Obstacle {
    code: &'static str,
    message: String,
}

impl Obstacle {
    /// Another process has the replica.
    fn is_lost(&self) -> bool {
        matches!(self.code, "master-target.in-use" | "master-target.stale-epoch")
    }
}

impl From<ReplicaError> for Obstacle {
    fn from(error: ReplicaError) -> Self {
        let code = match &error {
            ReplicaError::NoSuchPoint { .. } => "master-target.no-such-point",
            ReplicaError::Paused(_) => "master-target.retention-full",
            ReplicaError::Locked { .. } => "master-target.in-use",
            ReplicaError::StaleEpoch { .. } => "master-target.stale-epoch",
            ReplicaError::Corrupt { .. } => "master-target.damaged",
            ReplicaError::DiskTooSmall { .. } | ReplicaError::DisksChanged { .. } => "master-target.disks",
            _ => "master-target.failed",
        };
        Self { code, message: error.to_string() }
    }
}

fn obstacle(code: &'static str, message: impl Into<String>) -> Obstacle {
    Obstacle { code, message: message.into() }
}

/// What a writer hears while a replica is not there for it; it comes again.
fn away(detail: &str) -> ReplicaError {
    ReplicaError::Disconnected { peer: "the master target".into(), detail: detail.into() }
}

impl Kept {
    pub(super) fn new(
        desired: ReplicaDesired,
        directory: PathBuf,
        views_directory: PathBuf,
        (key_file, to_storage): (Option<PathBuf>, RateLimit),
        sandboxes: Arc<Sandboxes>,
    ) -> Self {
        let sandbox = Place::new(sandboxes, views_directory.clone());
        let shared = Shared {
            desired: Some(desired),
            confirmed: 0,
            lost_at: 0,
            done: None,
            failed: None,
            problem: None,
            reached: None,
            hosted: None,
            blobs: None,
            views: BTreeMap::new(),
        };
        let (gate, busy) = (Gate::default(), AtomicBool::new(false));
        gate.close(&away("the replica is not open yet"));
        let (shared, views) = (Mutex::new(shared), Mutex::default());
        Self { directory, views_directory, key_file, to_storage, gate, busy, shared, views, sandbox }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what it should be.
    pub(super) fn want(&self, desired: Option<&ReplicaDesired>, confirmed: u64) {
        let mut shared = self.lock();
        shared.confirmed = confirmed;
        if shared.desired.as_ref() == desired {
            return;
        }
        shared.desired = desired.cloned();
        shared.failed = None;
        if shared.reached != desired.map(|desired| desired.mode) {
            shared.reached = None;
        }
    }

    /// Not assigned any more, and closed.
    pub(super) fn is_forgotten(&self) -> bool {
        let shared = self.lock();
        shared.desired.is_none()
            && !self.is_busy()
            && shared.done.as_ref().is_some_and(|(done, _)| done.is_none())
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    /// Starts to work on it, if there is something to do and nobody does; says whether.
    pub(super) fn begin_work(this: &Arc<Self>, done: &Arc<dyn Fn() + Send + Sync>) -> bool {
        if !this.is_busy() {
            this.notice_loss();
        }
        {
            let shared = this.lock();
            let wanted = (shared.desired.clone(), shared.is_confirmed());
            let waits = shared.failed.is_some_and(|at| at.elapsed() < RETRY_AFTER);
            if waits || shared.done.as_ref() == Some(&wanted) || this.busy.swap(true, Ordering::AcqRel) {
                return false;
            }
        }
        let (kept, done) = (this.clone(), done.clone());
        let started = std::thread::Builder::new().name("replica".into()).spawn(move || {
            kept.work();
            kept.busy.store(false, Ordering::Release);
            done();
        });
        if let Err(error) = started {
            tracing::error!(%error, "no thread to work on a replica");
            this.busy.store(false, Ordering::Release);
            return false;
        }
        true
    }

    fn work(&self) {
        let (desired, confirmed, fences) = {
            let shared = self.lock();
            let done = shared.done.as_ref().and_then(|(done, _)| done.as_ref());
            let changed = |(was, is): (&ReplicaDesired, &ReplicaDesired)| {
                was.epoch != is.epoch || was.owners != is.owners
            };
            (
                shared.desired.clone(),
                shared.is_confirmed(),
                done.zip(shared.desired.as_ref()).is_some_and(changed),
            )
        };
        if fences {
            // Those that may, come again; the others are refused then.
            self.gate.end(&away("who may write the replica has changed"));
        }
        let outcome = match &desired {
            None => {
                self.let_go();
                Ok(None)
            }
            Some(desired) => self.make(desired, confirmed),
        };
        let mut shared = self.lock();
        match outcome {
            Ok(reached) => {
                // Unless something else is wanted by now.
                if shared.desired.as_ref().map(|desired| desired.mode)
                    == desired.as_ref().map(|desired| desired.mode)
                {
                    shared.reached = reached;
                }
                shared.problem = None;
                shared.failed = None;
                shared.done = Some((desired, confirmed));
            }
            Err(Obstacle { code, message }) => {
                let problem = Problem { code: code.into(), message };
                if shared.problem.as_ref() != Some(&problem) {
                    tracing::error!(directory = %self.directory.display(), code, message = problem.message, "a replica is not as it should be");
                }
                shared.problem = Some(problem);
                shared.failed = Some(Instant::now());
            }
        }
    }

    /// Brings it to where it should be. The mode that is reached: none yet, if that is not for this process to decide now.
    fn make(&self, desired: &ReplicaDesired, confirmed: bool) -> Result<Option<ReplicaMode>, Obstacle> {
        // Before the replica goes anywhere.
        if desired.mode != ReplicaMode::Receive || desired.sandbox.is_none() {
            self.sandbox.end();
        }
        if let Some(place) = &desired.blobs {
            return self.make_blobs(desired, place, confirmed);
        }
        // Before anything is opened: the machine may be running on these disks.
        if let Some(summary) = self.summary().filter(|summary| summary.epoch > desired.epoch) {
            return Err(ReplicaError::StaleEpoch { given: desired.epoch, current: summary.epoch }.into());
        }
        match desired.mode {
            ReplicaMode::Receive => {
                if let Some(summary) = self.summary()
                    && (summary.standing.is_some() || summary.moving)
                {
                    if !confirmed {
                        // A machine may be running on these disks.
                        return Ok(None);
                    }
                    let hosted = self.open()?;
                    hosted.replica.fence(desired.epoch)?;
                    tracing::info!(replica = %desired.replica, "goes on receiving: its disks are brought back to the newest point");
                    hosted.replica.resume()?;
                }
                self.create_or_adjust(desired)?;
                let hosted = self.open()?;
                hosted.replica.fence(desired.epoch)?;
                self.gate.open();
                self.show_views(&hosted, &desired.views)?;
                self.sandbox.keep(desired.sandbox.as_ref().filter(|_| confirmed), move |seq| {
                    Ok(Arc::new(hosted.replica.view(seq)?))
                });
                Ok(Some(ReplicaMode::Receive))
            }
            _ if !confirmed => Ok(None),
            ReplicaMode::StandAt { seq } => {
                self.gate.close(&away("the replica stands at a point: its machine has been failed over"));
                if self.summary().is_none_or(|summary| summary.standing != Some(seq) || summary.moving) {
                    self.show_views_none();
                    let hosted = self.open()?;
                    hosted.replica.fence(desired.epoch)?;
                    tracing::info!(replica = %desired.replica, %seq, "its disks are brought to the point");
                    hosted.replica.stand_at(seq)?;
                }
                self.close()?;
                Ok(Some(ReplicaMode::StandAt { seq }))
            }
            ReplicaMode::Remove => {
                self.gate.close(&away("the replica is being removed"));
                self.close()?;
                remove_history(&self.directory).map_err(|error| {
                    obstacle(
                        "master-target.not-removed",
                        format!("removing {}: {error}", self.directory.display()),
                    )
                })?;
                Ok(Some(ReplicaMode::Remove))
            }
        }
    }

    fn volume(&self) -> Option<DirVolume> {
        DirVolume::open(&self.directory).ok()
    }

    /// What its manifest says, without opening it; `None`: there is no replica.
    fn summary(&self) -> Option<ReplicaSummary> {
        ReplicaSummary::read(&self.volume()?).ok()
    }

    /// Makes it if there is none; else takes over what may change.
    fn create_or_adjust(&self, desired: &ReplicaDesired) -> Result<(), Obstacle> {
        let settings = Settings {
            targets: desired.targets.clone(),
            owner: None,
            retention: desired.retention.clone(),
            key_file: self.key_file.clone(),
        };
        if !self.directory.join("manifest").exists() {
            let sizes: Vec<_> = desired.sizes.iter().map(|size| DiskSpec { size: *size }).collect();
            host::create_replica(&self.directory, &settings, &sizes, &SystemClock)?;
            tracing::info!(replica = %desired.replica, targets = ?settings.targets, "created");
            return Ok(());
        }
        let present = host::load_settings(&self.directory)?;
        if !may_become(&present.targets, &settings.targets) {
            let message = format!(
                "the replica was made on {:?} and is to be on {:?} now; its history fits those disks only: remove it and protect anew, or \
                 bring the disks back to where they were",
                present.targets, settings.targets
            );
            return Err(obstacle("master-target.targets-changed", message));
        }
        let settings = Settings { key_file: present.key_file.clone(), ..settings };
        if present != settings {
            self.gate.close(&away("the replica is opened again with other settings"));
            self.close()?;
            let sizes: Vec<_> = desired.sizes.iter().map(|size| DiskSpec { size: *size }).collect();
            host::adjust_replica(&self.directory, &settings, &sizes)?;
        }
        Ok(())
    }

    fn open(&self) -> Result<Arc<Hosted>, Obstacle> {
        if let Some(hosted) = self.lock().hosted.clone() {
            return Ok(hosted);
        }
        let hosted = Arc::new(Hosted::open(&self.directory)?);
        self.lock().hosted = Some(hosted.clone());
        Ok(hosted)
    }

    /// Closes disks and history: on return nothing of them is open or locked.
    fn close(&self) -> Result<(), Obstacle> {
        self.show_views_none();
        self.gate.end(&away("the replica is being closed"));
        let blobs = self.lock().blobs.take();
        drop(blobs);
        let Some(mut hosted) = self.lock().hosted.take() else { return Ok(()) };
        let until = Instant::now() + CLOSE_MAX;
        loop {
            // The state's reporter looks at it for a moment now and then.
            match Arc::try_unwrap(hosted) {
                Ok(last) => {
                    drop(last);
                    return Ok(());
                }
                Err(shared) if Instant::now() < until => {
                    hosted = shared;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(shared) => {
                    self.lock().hosted = Some(shared);
                    return Err(obstacle(
                        "master-target.in-use",
                        "somebody still reads or writes the replica; end exports of it, then it goes on by itself",
                    ));
                }
            }
        }
    }

    /// Ends everything, as far as it goes: the process ends, or the replica is another's.
    pub(super) fn let_go(&self) {
        self.gate.close(&ReplicaError::Forbidden {
            detail: "the replica is not assigned to this master target any more".into(),
        });
        if let Err(Obstacle { message, .. }) = self.close() {
            tracing::warn!(message, "a replica could not be closed");
        }
    }

    fn show_views_none(&self) {
        self.sandbox.end();
        self.views.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.lock().views.clear();
    }

    fn show_views(&self, hosted: &Arc<Hosted>, wanted: &BTreeMap<String, Seq>) -> Result<(), Obstacle> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.retain(|name, (seq, _)| {
            let stays = wanted.get(name) == Some(seq);
            if !stays {
                self.lock().views.remove(name);
            }
            stays
        });
        for (name, seq) in wanted {
            if views.contains_key(name) {
                continue;
            }
            let failed = |what: String| {
                obstacle("master-target.view", format!("showing point {seq} as {name:?}: {what}"))
            };
            // It becomes a directory's name.
            let valid: ObjectName =
                name.parse().map_err(|error: switchback_model::InvalidName| failed(error.to_string()))?;
            let at = self.views_directory.join(valid.as_str());
            std::fs::create_dir_all(&at).map_err(|error| failed(error.to_string()))?;
            let view = Arc::new(hosted.replica.view(*seq)?);
            let disks = view.disk_sizes().len();
            let export = Export::mount(view, &at)
                .map_err(|error| failed(format!("{error} (is FUSE there, /dev/fuse?)")))?;
            views.insert(name.clone(), (*seq, export));
            let paths = (0..disks).map(|disk| at.join(format!("disk-{disk}.raw"))).collect();
            self.lock().views.insert(name.clone(), paths);
        }
        Ok(())
    }

    /// Opens a session for a writer.
    pub(super) fn session(
        &self,
        peer: &PeerIdentity,
        request: &SessionRequest,
    ) -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        let (desired, hosted, blobs) = {
            let shared = self.lock();
            (shared.desired.clone(), shared.hosted.clone(), shared.blobs.clone())
        };
        let forbidden = |detail: String| Err(ReplicaError::Forbidden { detail });
        let Some(desired) = desired else { return Err(away("the replica is not assigned to it any more")) };
        if !desired.owners.iter().any(|owner| *owner == peer.to_string()) {
            return forbidden(format!(
                "{} is written by {}, not by {peer}",
                desired.replica,
                desired.owners.join(", ")
            ));
        }
        match request.epoch {
            None => {
                return forbidden(
                    "a session must state its epoch: replication is led by the configuration server".into(),
                );
            }
            Some(given) if given < desired.epoch => {
                return Err(ReplicaError::StaleEpoch { given, current: desired.epoch });
            }
            Some(_) => {}
        }
        let bytes = Arc::default();
        let session = self.gate.admit(bytes, || match (hosted, blobs) {
            (Some(hosted), _) => Ok(Box::new(hosted.session(request)?)),
            (None, Some(blobs)) => Ok(Box::new(blobs.session(request)?)),
            (None, None) => Err(away("the replica is not open yet")),
        })?;
        tracing::info!(%peer, replica = %desired.replica, "a session begins");
        Ok(Box::new(session))
    }

    /// How it is; `None` when it is not assigned any more.
    pub(super) fn actual(&self) -> Option<ReplicaActual> {
        let (hosted, blobs, mut actual) = {
            let shared = self.lock();
            let desired = shared.desired.clone()?;
            // Of what has been done, not of what is wanted: whoever waits for it relies on older ones being refused.
            let done = shared.done.as_ref().and_then(|(done, _)| done.as_ref());
            let actual = ReplicaActual {
                replica: desired.replica.clone(),
                epoch: done.map(|done| done.epoch).unwrap_or_default(),
                reached: shared.reached,
                applied: None,
                points: Vec::new(),
                retention_bytes: 0,
                views: shared.views.clone(),
                standing: Vec::new(),
                targets: done
                    .filter(|_| shared.reached == Some(ReplicaMode::Receive))
                    .map(|done| done.targets.clone())
                    .unwrap_or_default(),
                problem: shared.problem.clone(),
            };
            (shared.hosted.clone(), shared.blobs.clone(), actual)
        };
        if let Some(blobs) = blobs {
            let replica = &blobs.replica;
            actual.epoch = actual.epoch.max(replica.status().epoch);
            actual.applied = replica.standing().or_else(|| replica.applied());
            actual.points = replica.points();
            actual.retention_bytes = replica.bytes_kept();
            actual.standing = blobs.addresses(&replica.standing_blobs());
            if actual.problem.is_none() {
                actual.problem = replica.too_far_behind().map(pages_behind);
            }
            return Some(actual);
        }
        if let Some(hosted) = hosted {
            let replica = &hosted.replica;
            actual.epoch = actual.epoch.max(replica.status().epoch);
            actual.applied = replica.standing().or_else(|| replica.applied());
            actual.points = replica.points();
            actual.retention_bytes = replica.bytes_kept();
            if let (None, Some(reason)) = (&actual.problem, replica.status().paused) {
                let code = "master-target.retention-full".into();
                actual.problem = Some(Problem { code, message: reason.to_string() });
            }
        } else if let Some(summary) = self.summary() {
            actual.applied = summary.standing.or(summary.applied);
            actual.points = summary.points;
            actual.retention_bytes = summary.kept_bytes;
            actual.epoch = actual.epoch.max(summary.epoch);
        }
        Some(actual)
    }
}

/// Told in time: its points are whole, and come as they should yet.
fn pages_behind(behind: Behind) -> Problem {
    let Behind { cycles, bytes } = behind;
    let message = format!(
        "the page blobs are {cycles} cycles behind the newest point ({} staged): the machine writes more, in smaller pieces, than they take (some 500 requests a \
         second each). A failover takes longer, and once they are twice as far behind new points wait for them; spread what is written most over more disks, or \
         let points be further apart",
        ByteSize(bytes)
    );
    Problem { code: "master-target.pages-behind".into(), message }
}

/// Whether a replica on these disks can be one on those: disks were added behind the others, or removed.
fn may_become(present: &[PathBuf], wanted: &[PathBuf]) -> bool {
    let stays = |(is, shall): (&PathBuf, &PathBuf)| is == shall || shall.as_os_str().is_empty();
    wanted.len() >= present.len() && present.iter().zip(wanted).all(stays)
}

/// Unmounts the views of a process that was killed: their files answer with errors only.
pub(super) fn unmount_left_behind(views: &Path) {
    let folders = |path: &Path| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    for view in folders(views).iter().flat_map(|replica| folders(replica)) {
        // Not mounted is the usual case.
        let _ = rustix::mount::unmount(&view, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&view);
    }
}
