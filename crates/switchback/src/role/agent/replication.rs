//! Replication as the configuration server wants it: one thread that makes one cycle after the other.
//!
//! # What it must not forget
//! `acknowledged` in the agent's directory: the last point that was acknowledged, under which generation, and which request to compare
//! everything has been met. Written after each cycle. The tracker lives on in the kernel when the agent is restarted, and has forgotten
//! what was acknowledged; if the process server has lost it meanwhile (it died, another took its place), this note tells that a comparison is
//! needed. A note that is one cycle late costs a comparison, never data.
//!
//! Settings that change while it runs are taken over at the next cycle or connection; another replica, epoch or compression needs another
//! [`Replicator`].

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use switchback_capture::scripts::{Script, Scripts};
use switchback_disk::{SystemClock, Volume};
use switchback_identity::{LiveCredentials, Role};
use switchback_model::component::{
    Activity, FINAL_HOLD_S, FinalPoint, Problem, Replication, ReplicationState,
};
use switchback_model::{Consistency, GenerationId, ResyncReason, Seq, WriterId};
use switchback_replica::{CycleKind, DiskSpec, ReplicaError, ReplicaSession, SessionRequest};
use switchback_transport::{ConnectConfig, RateLimit, RemoteSession};
use tokio::runtime::Handle;

use super::moments::{AgentMoments, Kind, Meet, Plan, Shared as Moments, lock};
use crate::engine::{CycleReport, Engine, EngineError, EngineOptions, Event, Stop};
use crate::machine::{Comparing, Machine, MomentOptions};
use crate::role::now;
use crate::slots::SeedPace;

/// Trackers attached again in a row before a pause: something is wrong with the machine then.
const DOUBTS_MAX: u32 = 3;
/// Pause after a cycle that failed.
const PAUSE: Duration = Duration::from_secs(3);
/// How often the target is asked how far data has come, while it is behind.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked whether a hold is over.
const HOLD_LOOK: Duration = Duration::from_millis(100);
/// Scripts around app-consistent points, and the last one; each may be missing.
const PRE_FREEZE: &str = "/etc/switchback/pre-freeze";
const POST_THAW: &str = "/etc/switchback/post-thaw";
const STOP: &str = "/etc/switchback/stop";
const START: &str = "/etc/switchback/start";
/// How long each of them may take.
const SCRIPT_MAX: Duration = Duration::from_secs(60);
const ACKNOWLEDGED: &str = "acknowledged";

/// What a replicator needs.
pub(super) struct ReplicatorConfig {
    pub(super) machine: Arc<Machine>,
    pub(super) volume: Arc<dyn Volume>,
    pub(super) credentials: Arc<LiveCredentials>,
    pub(super) runtime: Handle,
    pub(super) writer: WriterId,
    pub(super) meet: Arc<dyn Meet>,
    /// Called when something has changed that should be reported at once.
    pub(super) changed: Arc<dyn Fn() + Send + Sync>,
}

/// What its thread and the agent's loop share.
struct Shared {
    wanted: Mutex<Replication>,
    news: Condvar,
    state: Mutex<ReplicationState>,
    moments: Moments,
    pace: SeedPace,
    stop: Stop,
}

/// A replication under way; ends when dropped.
pub(super) struct Replicator {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// See the module's header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Acknowledged {
    point: Option<(GenerationId, Seq)>,
    #[serde(default)]
    resync_met: u64,
}

impl Replicator {
    pub(super) fn start(config: ReplicatorConfig, wanted: Replication) -> anyhow::Result<Self> {
        let disk_bytes = config.machine.disks().iter().map(|disk| disk.size()).sum();
        let state = ReplicationState {
            replica: wanted.replica.clone(),
            epoch: wanted.epoch,
            generation: None,
            activity: Activity::Waiting,
            compared_bytes: 0,
            seeded: Vec::new(),
            disk_bytes,
            sent_bytes: 0,
            resync_sent_bytes: 0,
            changed_bytes: 0,
            transferred_bytes: 0,
            received: None,
            recoverable: None,
            frozen_ms: 0,
            final_point: None,
            failure: None,
        };
        let plan = Plan { kind: Kind::Own, options: options(&wanted, false) };
        let shared = Arc::new(Shared {
            wanted: Mutex::new(wanted),
            news: Condvar::new(),
            state: Mutex::new(state),
            moments: Moments { plan: Arc::new(Mutex::new(plan)), hold: Arc::default() },
            pace: config.machine.pace().clone(),
            stop: Stop::default(),
        });
        let run = shared.clone();
        let thread = std::thread::Builder::new()
            .name("replication".into())
            .spawn(move || replicate(&run, &config))
            .context("starting the replication's thread")?;
        Ok(Self { shared, thread })
    }

    /// Takes over new settings; `false`: they need another replicator.
    pub(super) fn update(&self, new: &Replication) -> bool {
        let mut wanted = lock(&self.shared.wanted);
        let same =
            (&wanted.replica, wanted.epoch, wanted.compression) == (&new.replica, new.epoch, new.compression);
        if same && *wanted != *new {
            let withdrawn = wanted.final_cycle.is_some() && wanted.final_cycle != new.final_cycle;
            wanted.clone_from(new);
            drop(wanted);
            self.shared.news.notify_all();
            if withdrawn {
                // Its thread may be waiting for a target that is away, with the file systems frozen.
                self.shared.thaw();
            }
        }
        same
    }

    /// Asks it to end; see [`Replicator::is_finished`].
    pub(super) fn stop(&self) {
        self.shared.stop.stop();
        self.shared.news.notify_all();
    }

    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// How it stands.
    pub(super) fn state(&self) -> ReplicationState {
        let mut state = lock(&self.shared.state).clone();
        state.seeded = self.shared.pace.done();
        let left =
            lock(&self.shared.moments.hold).as_ref().map_or(Duration::ZERO, super::moments::Hold::left);
        match &mut state.final_point {
            Some(point) if !left.is_zero() => {
                point.held_for_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            }
            // It does not stand still any more, whatever its thread is doing.
            _ => state.final_point = None,
        }
        state
    }
}

impl Drop for Replicator {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How moments are taken; `app_consistent`: with the guest's scripts, if it has any.
fn options(wanted: &Replication, app_consistent: bool) -> MomentOptions {
    let freeze_budget = Duration::from_millis(wanted.freeze_budget_ms);
    let scripts = if app_consistent {
        Scripts { pre_freeze: script(PRE_FREEZE), while_frozen: None, post_thaw: script(POST_THAW) }
    } else {
        Scripts::default()
    };
    MomentOptions { freeze_budget, scripts }
}

/// A script of the guest, if it is there.
fn script(path: &str) -> Option<Script> {
    std::path::Path::new(path).exists().then(|| Script {
        program: path.into(),
        arguments: Vec::new(),
        limit: SCRIPT_MAX,
    })
}

/// The thread: an engine, and another one whenever it must be built anew.
fn replicate(shared: &Arc<Shared>, config: &ReplicatorConfig) {
    while !shared.stop.is_stopped() {
        let run = Run::begin(shared, config);
        let ended = run.and_then(|mut run| run.go());
        if let Err(error) = ended {
            let message = format!("{error:#}");
            tracing::error!(error = message, "replication cannot begin");
            shared.failed("agent.tracking", message, config);
            shared.stop.sleep(PAUSE);
        }
    }
}

impl Shared {
    fn wanted(&self) -> Replication {
        lock(&self.wanted).clone()
    }

    fn change(&self, change: impl FnOnce(&mut ReplicationState)) {
        change(&mut lock(&self.state));
    }

    fn failed(&self, code: &str, message: String, config: &ReplicatorConfig) {
        self.change(|state| {
            state.activity = if code == "agent.fenced" { Activity::Fenced } else { Activity::Waiting };
            state.failure = Some(Problem { code: code.into(), message });
        });
        (config.changed)();
    }

    /// Ends a hold, if there is one. Not under the lock, for which reports wait.
    fn thaw(&self) {
        let held = lock(&self.moments.hold).take();
        drop(held);
    }

    /// Waits for new settings, at most so long.
    fn wait(&self, limit: Duration) {
        let wanted = lock(&self.wanted);
        if !self.stop.is_stopped() {
            drop(self.news.wait_timeout(wanted, limit).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// An engine at work.
struct Run<'a> {
    shared: &'a Arc<Shared>,
    config: &'a ReplicatorConfig,
    engine: Engine,
    noted: Acknowledged,
    doubts: u32,
    /// Where the engine's session leads.
    at: (String, String),
    /// When the last app-consistent point was tried.
    app_tried: Option<Instant>,
    /// The last request for a last cycle that has been met; its hold is over.
    last_met: Option<String>,
    /// For which request the applications were stopped, and whether the guest's script did that.
    stopped_for: Option<(String, bool)>,
}

impl<'a> Run<'a> {
    fn begin(shared: &'a Arc<Shared>, config: &'a ReplicatorConfig) -> anyhow::Result<Self> {
        let wanted = shared.wanted();
        let mut ready = config.machine.ready()?;
        if let Some(numbers) = config.machine.tracked() {
            let disks = numbers.iter().copied().collect();
            ready.source.moments =
                Box::new(AgentMoments::new(disks, shared.moments.clone(), config.meet.clone()));
        }
        if let Some(reason) = &ready.doubt {
            tracing::info!(%reason, "changed-block tracking starts anew");
        }
        let noted = load(&*config.volume);
        let generation = ready.source.tracker.generation();
        shared.change(|state| state.generation = Some(generation));
        let engine_options = EngineOptions {
            compression: wanted.compression,
            give_up_after: None,
            // Comparing again does not help against a writer: the point is fuzzy, and says so.
            moments_max: if config.machine.is_tracked() { EngineOptions::default().moments_max } else { 1 },
            ..EngineOptions::default()
        };
        let connect = connect(shared, config);
        let observer = observer(shared, config);
        let mut engine = Engine::new(ready.source, connect, engine_options, shared.stop.clone(), observer);
        if let Some((generation, seq)) = noted.point {
            engine.remember(generation, seq);
        }
        let at = (wanted.address, wanted.peer);
        Ok(Self {
            shared,
            config,
            engine,
            noted,
            doubts: 0,
            at,
            app_tried: None,
            last_met: None,
            stopped_for: None,
        })
    }

    fn go(&mut self) -> anyhow::Result<()> {
        let (mut due, mut not_before) = (Instant::now(), Instant::now());
        while !self.shared.stop.is_stopped() {
            let wanted = self.shared.wanted();
            if self.at != (wanted.address.clone(), wanted.peer.clone()) {
                self.at = (wanted.address.clone(), wanted.peer.clone());
                self.engine.disconnect();
                (due, not_before) = (Instant::now(), Instant::now());
            }
            if self.stopped_for.as_ref().is_some_and(|(token, _)| wanted.final_cycle.as_ref() != Some(token))
            {
                self.start_applications();
            }
            let wants_last = wanted.final_cycle.is_some() && wanted.final_cycle != self.last_met;
            let wants_resync = wanted.resync_requested > self.noted.resync_met;
            let next = if wants_last || wants_resync { not_before } else { due.max(not_before) };
            if Instant::now() < next {
                self.idle(next);
                continue;
            }
            due = next_due(&wanted);
            if let Err(pause) = self.cycle(&wanted, wants_last)? {
                not_before = Instant::now() + pause;
            }
        }
        Ok(())
    }

    /// Until the next cycle: asks how far data has come, if it is not there yet.
    fn idle(&mut self, due: Instant) {
        let left = due.saturating_duration_since(Instant::now());
        let is_behind = {
            let state = lock(&self.shared.state);
            state.activity == Activity::Idle
                && state.received.is_some_and(|(seq, _)| Some(seq) > state.recoverable)
        };
        if !is_behind {
            return self.shared.wait(left);
        }
        match self.engine.watermarks() {
            Ok(watermarks) => {
                let mut has_come = false;
                self.shared.change(|state| {
                    has_come = state.recoverable != watermarks.recoverable;
                    state.recoverable = watermarks.recoverable;
                });
                if has_come {
                    (self.config.changed)();
                }
            }
            Err(_) => self.engine.disconnect(),
        }
        self.shared.wait(left.min(ASK_EVERY));
    }

    /// One cycle. `Err` within: how long to wait before the next.
    fn cycle(&mut self, wanted: &Replication, last: bool) -> anyhow::Result<Result<(), Duration>> {
        let app = self.app_is_due(wanted);
        let stopped_apps = last && self.stop_applications(wanted.final_cycle.as_deref().unwrap_or_default());
        let kind = match &wanted.group {
            _ if last => Kind::Last { hold: Duration::from_secs(FINAL_HOLD_S), app_consistent: stopped_apps },
            Some(group) => Kind::Group(group.clone()),
            None => Kind::Own,
        };
        *lock(&self.shared.moments.plan) = Plan { kind, options: options(wanted, app) };
        let resync = (wanted.resync_requested > self.noted.resync_met).then_some(ResyncReason::Requested);
        match self.engine.cycle(resync.as_ref()) {
            Ok(report) => {
                self.doubts = 0;
                self.committed(&report, wanted);
                let is_met = !last || self.stand_still(&report, wanted.final_cycle.clone());
                self.note(&report, wanted);
                Ok(if is_met { Ok(()) } else { Err(PAUSE) })
            }
            Err(error) => {
                // A moment that failed later thaws here.
                self.shared.thaw();
                // A request for the last cycle stands until it is met or withdrawn.
                self.failed(error)
            }
        }
    }

    /// Once for each request; says whether the guest has a script that did it.
    fn stop_applications(&mut self, token: &str) -> bool {
        if self.stopped_for.as_ref().is_none_or(|(stopped, _)| stopped != token) {
            self.stopped_for = Some((token.to_owned(), run_script(STOP)));
        }
        self.stopped_for.as_ref().is_some_and(|(_, stopped)| *stopped)
    }

    fn start_applications(&mut self) {
        if self.stopped_for.take().is_some() {
            run_script(START);
        }
    }

    fn app_is_due(&mut self, wanted: &Replication) -> bool {
        let interval = Duration::from_millis(wanted.app_interval_ms);
        let due = !interval.is_zero() && self.app_tried.is_none_or(|at| at.elapsed() >= interval);
        if due {
            self.app_tried = Some(Instant::now());
        }
        due
    }

    fn committed(&self, report: &CycleReport, wanted: &Replication) {
        self.shared.change(|state| {
            state.activity = Activity::Idle;
            state.received = Some((report.seq, report.time));
            state.recoverable = report.watermarks.recoverable;
            state.frozen_ms = u64::try_from(report.frozen.as_millis()).unwrap_or(u64::MAX);
            state.failure = None;
            if let CycleKind::Resync { .. } = report.kind {
                state.resync_sent_bytes = report.sent_bytes;
            }
        });
        tracing::debug!(seq = %report.seq, epoch = %wanted.epoch, "a point is safe");
        let interval = Duration::from_millis(wanted.interval_ms);
        self.config.machine.pace().took(report.took, interval);
        (self.config.changed)();
    }

    /// The last point is durable: the machine stands still until its power is cut, the request is withdrawn, or the time is up. Nothing may be
    /// written to a disk of the machine here. `false`: it did not stand still at that point.
    fn stand_still(&mut self, report: &CycleReport, token: Option<String>) -> bool {
        let Some(token) = token else { return true };
        let hold = self.shared.moments.hold.clone();
        let is_last = report.consistency >= Consistency::CrashConsistent && lock(&hold).is_some();
        if is_last {
            self.shared.change(|state| {
                state.activity = Activity::Finished;
                state.final_point =
                    Some(FinalPoint { token: token.clone(), seq: report.seq, held_for_ms: 0 });
            });
            (self.config.changed)();
            let is_held = || lock(&hold).as_ref().is_some_and(|hold| !hold.left().is_zero());
            while is_held()
                && !self.shared.stop.is_stopped()
                && self.shared.wanted().final_cycle.as_ref() == Some(&token)
            {
                std::thread::sleep(HOLD_LOOK);
            }
        }
        self.shared.thaw();
        let is_withdrawn = self.shared.wanted().final_cycle.as_ref() != Some(&token);
        self.shared.change(|state| {
            state.activity = Activity::Idle;
            state.final_point = None;
            if !is_last && !is_withdrawn {
                let message = "the last cycle found no moment at which nothing was written; look for what writes past the file systems, \
                               then try again";
                state.failure = Some(Problem { code: "agent.no-final-moment".into(), message: message.into() });
            }
        });
        if is_last {
            tracing::warn!("the machine was not switched off after its last point: it goes on");
            self.last_met = Some(token);
            self.start_applications();
        }
        (self.config.changed)();
        is_last
    }

    fn note(&mut self, report: &CycleReport, wanted: &Replication) {
        let generation = self.engine.source_mut().tracker.generation();
        let was_compared = matches!(report.kind, CycleKind::Resync { .. });
        if was_compared {
            self.noted.resync_met = wanted.resync_requested;
        }
        self.noted.point = Some((generation, report.seq));
        let data = serde_json::to_vec(&self.noted).expect("plain data becomes JSON");
        if let Err(error) = self.config.volume.write_atomic(ACKNOWLEDGED, &data) {
            tracing::error!(%error, "the acknowledged point cannot be noted; if the agent is restarted, everything will be compared");
        }
    }

    /// What a failed cycle means. `Err` ends this engine.
    fn failed(&mut self, error: EngineError) -> anyhow::Result<Result<(), Duration>> {
        let code = match &error {
            EngineError::Stopped => return Ok(Ok(())),
            EngineError::Doubt(reason) if self.doubts < DOUBTS_MAX => {
                tracing::warn!(%reason, "changed-block tracking starts anew");
                self.doubts += 1;
                // The old one must be gone before the new one is attached.
                self.engine.source_mut().tracker = Box::new(Comparing::new(Vec::new()));
                self.config.machine.detach().ok();
                let (tracker, _) = self.config.machine.tracker()?;
                let generation = tracker.generation();
                self.engine.source_mut().tracker = tracker;
                self.shared.change(|state| state.generation = Some(generation));
                return Ok(Err(Duration::ZERO));
            }
            EngineError::Doubt(_) => {
                self.doubts = 0;
                "agent.tracking-lost"
            }
            EngineError::Replica(ReplicaError::StaleEpoch { .. }) => "agent.fenced",
            EngineError::Replica(_) => "agent.refused",
            EngineError::Source { .. } => "agent.disk",
            EngineError::NoMoment { .. } => "agent.freeze-failed",
        };
        let message = error.to_string();
        if lock(&self.shared.state).failure.as_ref().is_none_or(|failure| failure.message != message) {
            tracing::error!(%error, "no recovery point");
        }
        self.shared.failed(code, message, self.config);
        Ok(Err(PAUSE))
    }
}

/// When the next cycle begins. Members of a replication group come at the same times by the clock, so that they meet.
fn next_due(wanted: &Replication) -> Instant {
    let interval_ms = wanted.interval_ms.max(100);
    let left_ms = if wanted.group.is_some() { interval_ms - now().0 % interval_ms } else { interval_ms };
    Instant::now() + Duration::from_millis(left_ms)
}

/// Runs a script of the guest, if it is there; says whether it has done its work.
fn run_script(path: &str) -> bool {
    let Some(script) = script(path) else { return false };
    match switchback_capture::scripts::run(&script, switchback_capture::scripts::Phase::OnRequest) {
        Ok(_) => true,
        Err(error) => {
            tracing::error!(%error, "a script of this machine has failed");
            false
        }
    }
}

fn load(volume: &dyn Volume) -> Acknowledged {
    let data = volume.read_all(ACKNOWLEDGED, 4096);
    data.ok().and_then(|data| serde_json::from_slice(&data).ok()).unwrap_or_default()
}

/// A way to wherever the replica is written just now.
fn connect(shared: &Arc<Shared>, config: &ReplicatorConfig) -> crate::engine::Connect {
    let (shared, credentials, runtime) = (shared.clone(), config.credentials.clone(), config.runtime.clone());
    let disks: Vec<_> = config.machine.disks().iter().map(|disk| DiskSpec { size: disk.size() }).collect();
    let writer = config.writer;
    Box::new(move || -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        let wanted = shared.wanted();
        let mut to =
            ConnectConfig::new(&wanted.address, credentials.clone(), Arc::new(SystemClock), runtime.clone());
        to.roles = vec![Role::ProcessServer, Role::Target];
        let name = wanted.peer.parse().map_err(|error: switchback_model::InvalidName| {
            ReplicaError::Protocol { detail: format!("the process server's name: {error}") }
        });
        to.name = Some(name?);
        to.limits = wanted.bytes_per_s_max.map(|rate| RateLimit::new(Some(rate))).into_iter().collect();
        let epoch = Some(wanted.epoch);
        let request = SessionRequest { replica: wanted.replica, epoch, writer, disks: disks.clone() };
        Ok(Box::new(RemoteSession::connect(to, request)?))
    })
}

/// Keeps the state with what the engine tells.
fn observer(shared: &Arc<Shared>, config: &ReplicatorConfig) -> Box<dyn FnMut(Event) + Send> {
    let (shared, changed) = (shared.clone(), config.changed.clone());
    Box::new(move |event| match event {
        Event::Opened { kind, .. } => {
            shared.change(|state| {
                state.activity = match kind {
                    CycleKind::Resync { .. } => Activity::Comparing,
                    CycleKind::Changes => Activity::Sending,
                };
                if let CycleKind::Resync { .. } = kind {
                    (state.compared_bytes, state.resync_sent_bytes) = (0, 0);
                }
            });
            changed();
        }
        Event::Compared { bytes } => shared.change(|state| {
            state.activity = Activity::Comparing;
            state.compared_bytes += bytes;
        }),
        Event::Sent { bytes, stored_bytes } => shared.change(|state| {
            state.sent_bytes += bytes;
            state.transferred_bytes += stored_bytes;
            if state.activity == Activity::Comparing {
                state.resync_sent_bytes += bytes;
            } else {
                state.changed_bytes += bytes;
            }
            if state.activity == Activity::Waiting {
                state.activity = Activity::Sending;
            }
        }),
        Event::Round { .. } => shared.change(|state| state.activity = Activity::Sending),
        Event::Waiting { reason, .. } => shared.change(|state| {
            state.activity = Activity::Waiting;
            state.failure = Some(Problem { code: "agent.waiting".into(), message: reason });
        }),
        Event::MomentVoid { .. } | Event::Committed(_) => {}
    })
}
