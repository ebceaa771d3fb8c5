//! Sessions that can be ended from outside: when a route goes, or a replica is to stand still.
//!
//! A [`Gate`] knows the sessions that went through it. Closing it drops them, one that is in the middle of a call after that; whoever
//! uses one afterwards gets the reason. Nothing goes through a closed gate until it is opened again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use switchback_delta::Frame;
use switchback_model::DiskIndex;
use switchback_replica::{
    CommitCycle, LeafDigests, NodeDigest, OpenCycle, OpenCycleStatus, PartHeader, ReplicaError,
    ReplicaSession, ReplicaStatus, Watermarks,
};

type Slot = Mutex<Result<Box<dyn ReplicaSession>, ReplicaError>>;

/// See the module's header.
#[derive(Default)]
pub(crate) struct Gate {
    sessions: Mutex<Vec<Weak<Slot>>>,
    closed: Mutex<Option<ReplicaError>>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    /// Lets a session through; the bytes of its frames are counted in `bytes`.
    pub(crate) fn admit(
        &self,
        bytes: Arc<AtomicU64>,
        open: impl FnOnce() -> Result<Box<dyn ReplicaSession>, ReplicaError>,
    ) -> Result<Gated, ReplicaError> {
        // Held over the opening: whoever closes the gate waits for it, and then finds the session.
        let mut sessions = lock(&self.sessions);
        if let Some(reason) = &*lock(&self.closed) {
            return Err(reason.clone());
        }
        let slot = Arc::new(Mutex::new(Ok(open()?)));
        sessions.retain(|session| session.strong_count() > 0);
        sessions.push(Arc::downgrade(&slot));
        Ok(Gated { slot, bytes })
    }

    /// Ends all sessions, and admits none until [`Gate::open`].
    pub(crate) fn close(&self, reason: &ReplicaError) {
        *lock(&self.closed) = Some(reason.clone());
        self.end(reason);
    }

    /// Ends the sessions that there are.
    pub(crate) fn end(&self, reason: &ReplicaError) {
        let mut sessions = lock(&self.sessions);
        for session in sessions.drain(..).filter_map(|session| session.upgrade()) {
            *lock(&session) = Err(reason.clone());
        }
    }

    /// Admits again.
    pub(crate) fn open(&self) {
        *lock(&self.closed) = None;
    }
}

/// A session that can be taken away.
pub(crate) struct Gated {
    slot: Arc<Slot>,
    bytes: Arc<AtomicU64>,
}

impl Gated {
    fn call<T>(
        &self,
        call: impl FnOnce(&mut dyn ReplicaSession) -> Result<T, ReplicaError>,
    ) -> Result<T, ReplicaError> {
        match &mut *lock(&self.slot) {
            Ok(session) => call(&mut **session),
            Err(reason) => Err(reason.clone()),
        }
    }
}

impl ReplicaSession for Gated {
    fn status(&mut self) -> Result<ReplicaStatus, ReplicaError> {
        self.call(|session| session.status())
    }

    fn open_cycle(&mut self, request: &OpenCycle) -> Result<OpenCycleStatus, ReplicaError> {
        self.call(|session| session.open_cycle(request))
    }

    fn begin_part(&mut self, header: PartHeader) -> Result<(), ReplicaError> {
        self.call(|session| session.begin_part(header))
    }

    fn put_frame(&mut self, frame: Frame) -> Result<(), ReplicaError> {
        let len = frame.stored.len() as u64;
        self.call(|session| session.put_frame(frame))?;
        self.bytes.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    fn end_part(&mut self, checksum: [u8; 32]) -> Result<(), ReplicaError> {
        self.call(|session| session.end_part(checksum))
    }

    fn barrier(&mut self) -> Result<Watermarks, ReplicaError> {
        self.call(|session| session.barrier())
    }

    fn commit(&mut self, commit: &CommitCycle) -> Result<Watermarks, ReplicaError> {
        self.call(|session| session.commit(commit))
    }

    fn abort_cycle(&mut self) -> Result<(), ReplicaError> {
        self.call(|session| session.abort_cycle())
    }

    fn node_digests(
        &mut self,
        disk: DiskIndex,
        first: u32,
        count: u32,
    ) -> Result<Vec<NodeDigest>, ReplicaError> {
        self.call(|session| session.node_digests(disk, first, count))
    }

    fn leaf_digests(&mut self, disk: DiskIndex, nodes: &[u32]) -> Result<Vec<LeafDigests>, ReplicaError> {
        self.call(|session| session.leaf_digests(disk, nodes))
    }
}
