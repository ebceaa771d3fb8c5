//! The applier: a thread that keeps a replica's disks near its newest point.
//!
//! It is told of each commit ([`Applier::wake`]) and calls [`DiskReplica::maintain`]. When that is paused (the retention
//! drive is full) it tries again every few seconds, until there is space. Dropping it waits for the cycle in hand.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::{DiskReplica, ReplicaError};

/// Pause before another attempt after one that failed.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// At least this often, so that points expire without new ones.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// See the module's header.
#[derive(Debug)]
pub struct Applier {
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Applier {
    /// Starts the thread.
    ///
    /// # Panics
    /// When the system gives no thread.
    #[must_use]
    pub fn start(replica: Arc<DiskReplica>) -> Self {
        Self::of(move || replica.maintain())
    }

    /// Starts the thread for anything that is maintained so.
    ///
    /// # Panics
    /// When the system gives no thread.
    #[must_use]
    pub fn of(maintain: impl Fn() -> Result<(), ReplicaError> + Send + 'static) -> Self {
        // One pending wake-up is enough: maintain does all there is to do.
        let (wake, woken) = bounded::<()>(1);
        wake.try_send(()).ok();
        let thread = std::thread::spawn(move || {
            let mut wait = IDLE_MAX;
            loop {
                match woken.recv_timeout(wait) {
                    Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                wait = match maintain() {
                    Ok(()) => IDLE_MAX,
                    Err(ReplicaError::Paused(reason)) => {
                        tracing::warn!(%reason, "applying is paused");
                        RETRY_AFTER
                    }
                    Err(error) => {
                        tracing::error!(%error, "a cycle could not be applied; its recovery point is safe, staged");
                        RETRY_AFTER
                    }
                };
            }
        });
        Self { wake: Some(wake), thread: Some(thread) }
    }

    /// Tells it that there may be something to do.
    pub fn wake(&self) {
        if let Some(wake) = &self.wake {
            wake.try_send(()).ok();
        }
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
