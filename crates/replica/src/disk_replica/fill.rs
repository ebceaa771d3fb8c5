//! Filling an empty disk: frames written straight to it, several at a time.
//!
//! The frames of a part do not overlap, so their order does not matter; a part ends when all of them are on the disk. The threads live as
//! long as the part. What a thread has in hand may outlive its session (a newer epoch takes over in the middle): it writes only
//! while the session still is the writer, and who takes over waits at the gate for writes in hand. So nothing of an old writer
//! lands behind a new one's back.

use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};
use switchback_delta::Frame;
use switchback_model::DiskIndex;

use super::DiskReplica;
use super::session::SessionKey;
use super::stage::write_contents;
use crate::ReplicaError;
use crate::error::volume_error;

/// Frames that may wait for each thread.
const WAITING_MAX: usize = 2;

/// Threads that write the frames of one part. Dropping it waits for what they have in hand.
#[derive(Debug)]
pub(super) struct FillThreads {
    frames: Option<Sender<Frame>>,
    threads: Vec<JoinHandle<Result<(), ReplicaError>>>,
}

impl FillThreads {
    pub(super) fn start(replica: &Arc<DiskReplica>, key: SessionKey, disk: DiskIndex) -> Self {
        let count = replica.config.io_threads;
        let (frames, queue) = bounded::<Frame>(count * WAITING_MAX);
        let threads = (0..count).map(|_| {
            let (replica, queue) = (Arc::clone(replica), queue.clone());
            std::thread::spawn(move || queue.iter().try_for_each(|frame| replica.fill(key, disk, &frame)))
        });
        Self { frames: Some(frames), threads: threads.collect() }
    }

    /// Hands a frame to the threads.
    ///
    /// # Errors
    /// Why an earlier one could not be written. The part is over then.
    pub(super) fn write(&mut self, frame: Frame) -> Result<(), ReplicaError> {
        // A thread that failed takes no more; the part is told at once instead of at its end.
        if self.threads.iter().any(JoinHandle::is_finished) {
            self.finish()?;
        }
        let sent = self.frames.as_ref().map(|frames| frames.send(frame));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => self.finish().and(Err(ended())),
        }
    }

    /// Waits until everything has been written.
    ///
    /// # Errors
    /// The first failure.
    pub(super) fn finish(&mut self) -> Result<(), ReplicaError> {
        self.frames = None;
        let results: Vec<_> =
            self.threads.drain(..).map(|thread| thread.join().unwrap_or_else(|_| Err(ended()))).collect();
        results.into_iter().collect()
    }
}

impl Drop for FillThreads {
    fn drop(&mut self) {
        // Whoever drops it unfinished has an error of its own.
        let _ = self.finish();
    }
}

fn ended() -> ReplicaError {
    ReplicaError::Io { action: "writing a part to the disk".into(), detail: "a thread ended early".into() }
}

impl DiskReplica {
    /// Verifies a frame and writes it, if the session still is the writer.
    pub(super) fn fill(&self, key: SessionKey, index: DiskIndex, frame: &Frame) -> Result<(), ReplicaError> {
        let (contents, digests) = frame.contents().map_err(|error| ReplicaError::Corrupt {
            detail: format!("a frame of disk {index} as it was received: {error}"),
        })?;
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.check_session(key)?;
        write_contents(self.disk(index), frame.extent, frame.stored.is_empty(), &contents)?;
        let noted = self.digests(index).written(frame.extent, &digests);
        noted.map_err(|e| volume_error(&*self.volume, "writing digests", &e))
    }
}
