//! The handle on a spool: its log, its forwarder, and the thread that drives it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use switchback_disk::Volume;
use switchback_model::{Epoch, Seq};
use switchback_replica::{ReplicaError, SessionRequest, Watermarks};

use crate::config::SpoolConfig;
use crate::error::SpoolError;
use crate::forward::{Forwarder, NextHop, Step};
use crate::lock;
use crate::log::Log;
use crate::session::SpoolSession;

/// Longest that the thread sleeps without looking, so that nothing depends on a wake-up.
const IDLE_WAIT: Duration = Duration::from_secs(5);

/// What sessions and the thread share. Lock order: `forwarder` before `log`; `log` is never held over a call
/// to the next hop.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Arc<SpoolConfig>,
    pub(crate) log: Mutex<Log>,
    pub(crate) forwarder: Mutex<Forwarder>,
    /// Something was acknowledged, or the thread has to stop; waited for with `log`.
    pub(crate) wake: Condvar,
    stop: AtomicBool,
    waiting: Mutex<Option<ReplicaError>>,
}

/// How a spool stands, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolStatus {
    /// Bytes on the cache disk.
    pub bytes: u64,
    /// Most bytes there may be.
    pub bytes_max: u64,
    /// The newest epoch seen.
    pub epoch: Epoch,
    /// How far data has come.
    pub watermarks: Watermarks,
    /// Why nothing is forwarded just now.
    pub waiting: Option<ReplicaError>,
    /// Why the next cycle has to be a resync.
    pub resync_needed: Option<String>,
    /// The last damage found on the cache disk since the spool was opened.
    pub damage: Option<String>,
}

/// A spool: durable here at once, at the next hop later.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Spool {
    /// Opens the spool in `volume`, makes it if there is none, and begins to forward on a thread of its own.
    /// Damage is no error here: see [`SpoolStatus::damage`], and the next writer is told that a
    /// resync is needed.
    ///
    /// # Errors
    /// When the volume cannot be read, belongs to somebody else, or is encrypted under another key.
    pub fn open(
        volume: Arc<dyn Volume>,
        config: SpoolConfig,
        next_hop: Box<NextHop>,
    ) -> Result<Self, SpoolError> {
        let mut spool = Self::open_stepped(volume, config, next_hop)?;
        let shared = Arc::clone(&spool.shared);
        let thread = std::thread::Builder::new()
            .name(format!("spool {}", spool.shared.config.replica))
            .spawn(move || run(&shared))
            .map_err(SpoolError::io("starting the thread that forwards"))?;
        spool.thread = Some(thread);
        Ok(spool)
    }

    /// As [`Spool::open`] without a thread: nothing is forwarded but by [`Spool::forward_one`]. For
    /// simulations, which must be repeatable.
    ///
    /// # Errors
    /// As [`Spool::open`].
    pub fn open_stepped(
        volume: Arc<dyn Volume>,
        config: SpoolConfig,
        next_hop: Box<NextHop>,
    ) -> Result<Self, SpoolError> {
        let config = Arc::new(config);
        let log = Log::open(volume, Arc::clone(&config))?;
        let shared = Shared {
            log: Mutex::new(log),
            forwarder: Mutex::new(Forwarder::new(next_hop, Arc::clone(&config))),
            config,
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            waiting: Mutex::new(None),
        };
        Ok(Self { shared: Arc::new(shared), thread: None })
    }

    /// A session for a writer. The first one of all, and the first after everything had to be dropped,
    /// needs the next hop; the others do not.
    ///
    /// # Errors
    /// [`ReplicaError::Locked`], [`ReplicaError::StaleEpoch`], or those of the next hop or the cache disk.
    pub fn session(&self, request: &SessionRequest) -> Result<SpoolSession, ReplicaError> {
        SpoolSession::open(Arc::clone(&self.shared), request)
    }

    /// Forwards one part, commit or the like, or makes the next hop confirm what was sent.
    pub fn forward_one(&self) -> Step {
        self.shared.forward_one()
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        let waiting = lock(&self.shared.waiting).clone();
        let log = lock(&self.shared.log);
        let recoverable: Option<Seq> = log.state.hop.as_ref().and_then(|hop| hop.watermarks.recoverable);
        let received = log.tip.last_point.as_ref().map(|point| point.seq);
        SpoolStatus {
            bytes: log.bytes(),
            bytes_max: log.config.bytes_max,
            epoch: log.state.epoch,
            watermarks: Watermarks { received, recoverable },
            waiting,
            resync_needed: log.state.resync_needed.as_ref().map(|needed| needed.detail.clone()),
            damage: log.damage.as_ref().map(ToString::to_string),
        }
    }

    /// Stops forwarding, when the step under way is done. What is spooled stays.
    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        {
            // Under the lock, so that the thread is either before its look at `stop` or already waiting.
            let _log = lock(&self.shared.log);
            self.shared.wake.notify_all();
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that forwards has panicked");
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.join();
    }
}

impl Shared {
    fn forward_one(&self) -> Step {
        let step = lock(&self.forwarder).step(&self.log);
        let reason = match &step {
            Step::Wait { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        *lock(&self.waiting) = reason;
        step
    }
}

fn run(shared: &Shared) {
    while !shared.stop.load(Ordering::Acquire) {
        let before = lock(&shared.log).acknowledged();
        let (wait, is_idle) = match shared.forward_one() {
            Step::Forwarded => continue,
            Step::Idle => (IDLE_WAIT, true),
            Step::Wait { wait, reason } => {
                tracing::warn!(replica = %shared.config.replica, %reason, ?wait, "nothing is forwarded for now");
                (wait, false)
            }
        };
        let log = lock(&shared.log);
        let sleeps = |log: &mut Log| {
            let is_new = is_idle && log.acknowledged() != before;
            !(is_new || shared.stop.load(Ordering::Acquire))
        };
        drop(shared.wake.wait_timeout_while(log, wait, sleeps));
    }
}
