//! Cutting frames into parts and handing them to a session.

use switchback_delta::{Frame, PartHasher};
use switchback_model::{DiskIndex, PartIndex, Seq};
use switchback_replica::{PartHeader, ReplicaError, ReplicaSession};

/// Sends frames as parts of at most so many bytes. Dropping it in the middle of a part leaves that part void.
pub(super) struct Sender<'a> {
    session: &'a mut dyn ReplicaSession,
    seq: Seq,
    part_bytes_max: u64,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    next_part: PartIndex,
    current: Option<Current>,
    /// Contents handed over, in bytes.
    pub(super) sent_bytes: u64,
    /// The same as they travel.
    pub(super) stored_bytes: u64,
}

struct Current {
    disk: DiskIndex,
    bytes: u64,
    end: u64,
    hasher: PartHasher,
}

impl<'a> Sender<'a> {
    pub(super) fn new(
        session: &'a mut dyn ReplicaSession,
        (seq, next_part): (Seq, PartIndex),
        part_bytes_max: u64,
        compression: Option<i32>,
    ) -> Self {
        // zstd refuses no level; without a compressor frames travel as they are.
        let compressor = compression.and_then(|level| zstd::bulk::Compressor::new(level).ok());
        let (current, sent_bytes, stored_bytes) = (None, 0, 0);
        Self { session, seq, part_bytes_max, compressor, next_part, current, sent_bytes, stored_bytes }
    }

    /// The session, for a question between parts: what a question is about must not change while it is answered, so the
    /// part in hand is ended.
    pub(super) fn ask(&mut self) -> Result<&mut dyn ReplicaSession, ReplicaError> {
        self.end()?;
        Ok(&mut *self.session)
    }

    /// The number of the next part.
    pub(super) fn next_part(&self) -> PartIndex {
        self.next_part
    }

    /// Sends a frame, in a new part if it does not follow the last one.
    pub(super) fn send(&mut self, disk: DiskIndex, frame: Frame) -> Result<(), ReplicaError> {
        let fits = self.current.as_ref().is_some_and(|part| {
            part.disk == disk
                && part.end <= frame.extent.start
                && part.bytes + frame.extent.len <= self.part_bytes_max
        });
        if !fits {
            self.end()?;
            let header = PartHeader { seq: self.seq, part: self.next_part, disk };
            self.session.begin_part(header)?;
            self.current = Some(Current { disk, bytes: 0, end: 0, hasher: PartHasher::default() });
        }
        let frame = match &mut self.compressor {
            Some(compressor) => frame.compressed(compressor),
            None => frame,
        };
        let part = self.current.as_mut().expect("begun");
        part.hasher.push(&frame);
        part.bytes += frame.extent.len;
        part.end = frame.extent.end();
        self.sent_bytes += frame.extent.len;
        self.stored_bytes += frame.stored.len() as u64;
        self.session.put_frame(frame)
    }

    /// Ends the part in hand.
    pub(super) fn end(&mut self) -> Result<(), ReplicaError> {
        if let Some(part) = self.current.take() {
            self.session.end_part(part.hasher.finish())?;
            self.next_part = self.next_part.next();
        }
        Ok(())
    }

    /// Ends the part in hand and waits until everything sent is durable.
    pub(super) fn barrier(&mut self) -> Result<(), ReplicaError> {
        self.end()?;
        self.session.barrier().map(drop)
    }
}
