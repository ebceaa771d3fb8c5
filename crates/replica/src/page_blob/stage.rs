//! Staging: a part is written into memory as a delta (it has at most 64 MiB of contents) and put as one block blob when it ends. The next barrier
//! or commit names it in the manifest: only then it counts.
//!
//! Puts run beside the session, so that the source can go on with the next part; a barrier waits for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use switchback_delta::{DeltaContent, DeltaHeader, DeltaWriter, Frame, PartHasher};

use super::PageBlobReplica;
use super::error::blob_error;
use super::manifest::StagedPart;
use super::store::{BlobError, PutIf};
use crate::{PartHeader, ReplicaError, rules};

/// Bytes of a delta in memory; the contents of a part are limited by its sender, this is the limit for one that does not keep to that.
const PART_LEN_MAX: u64 = 256 << 20;

/// Puts under way at a time: each holds its part in memory.
const PUTS_MAX: usize = 4;

/// A part being received.
#[derive(Debug)]
pub(super) struct PartWriter {
    pub(super) header: PartHeader,
    writer: DeltaWriter<Vec<u8>>,
    hasher: PartHasher,
}

/// Puts under way, the oldest first. After one that failed nothing more succeeds: the session is over.
#[derive(Debug, Default)]
pub(super) struct Puts {
    running: VecDeque<JoinHandle<Result<(), ReplicaError>>>,
    failed: Option<ReplicaError>,
}

impl Puts {
    /// Waits until no more than `left` are under way.
    pub(super) fn wait(&mut self, left: usize) -> Result<(), ReplicaError> {
        while self.running.len() > left {
            let Some(put) = self.running.pop_front() else { break };
            let ended = put.join().unwrap_or_else(|_| {
                let detail = "a thread ended early".into();
                Err(ReplicaError::Io { action: "putting a part".into(), detail })
            });
            self.note(&ended);
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn note(&mut self, ended: &Result<(), ReplicaError>) {
        if let (Err(error), None) = (ended, &self.failed) {
            self.failed = Some(error.clone());
        }
    }
}

impl PageBlobReplica {
    pub(super) fn begin_part(&self, header: PartHeader) -> Result<PartWriter, ReplicaError> {
        let core = self.core();
        let manifest = &core.manifest;
        rules::expect_part(core.open_status().as_ref(), manifest.disks.len(), header)?;
        let delta = DeltaHeader {
            replica: manifest.id,
            epoch: manifest.epoch,
            disk: header.disk,
            disk_size: manifest.disks[usize::from(header.disk.0)].size,
            content: DeltaContent::Forward { seq: header.seq, part: header.part },
        };
        let writer = DeltaWriter::new(Vec::new(), &delta, self.config.key.as_ref());
        let writer = writer.map_err(|error| self.part_error(header, &error))?;
        Ok(PartWriter { header, writer, hasher: PartHasher::default() })
    }

    pub(super) fn put_frame(&self, part: &mut PartWriter, frame: &Frame) -> Result<(), ReplicaError> {
        frame.contents().map_err(|error| ReplicaError::Corrupt {
            detail: format!("a frame of part {} as it was received: {error}", part.header.part),
        })?;
        if part.writer.file_len() + frame.extent.len > PART_LEN_MAX {
            let detail = format!("part {} is longer than {PART_LEN_MAX} bytes", part.header.part);
            return Err(ReplicaError::Protocol { detail });
        }
        part.hasher.push(frame);
        part.writer.push(frame).map_err(|error| self.part_error(part.header, &error))
    }

    /// Ends a part and has it put; not yet durable, and not yet named.
    pub(super) fn end_part(
        self: &Arc<Self>,
        part: PartWriter,
        checksum: [u8; 32],
        puts: &mut Puts,
    ) -> Result<(), ReplicaError> {
        let PartWriter { header, writer, hasher } = part;
        let (data, _) = writer.finish().map_err(|error| self.part_error(header, &error))?;
        if hasher.finish() != checksum {
            let detail =
                format!("part {} of cycle {} does not match its sender's checksum", header.part, header.seq);
            return Err(ReplicaError::Corrupt { detail });
        }
        let data = Bytes::from(data);
        let blob = {
            let mut core = self.core();
            rules::expect_part(core.open_status().as_ref(), core.manifest.disks.len(), header)?;
            let what = format!("stage-{:016}-{:06}-{:03}.delta", header.seq.0, header.part.0, header.disk.0);
            let blob = self.new_name(core.manifest.opening, &what);
            core.parts.push(StagedPart { disk: header.disk, blob: blob.clone(), len: data.len() as u64 });
            blob
        };
        if self.config.io_threads < 2 {
            puts.note(&self.put_part(&blob, &data));
            return puts.wait(0);
        }
        puts.wait(self.config.io_threads.min(PUTS_MAX) - 1)?;
        let replica = Arc::clone(self);
        puts.running.push_back(std::thread::spawn(move || replica.put_part(&blob, &data)));
        Ok(())
    }

    fn put_part(&self, blob: &str, data: &Bytes) -> Result<(), ReplicaError> {
        match self.store.put(blob, data, &PutIf::Absent) {
            // The name is new: what is there is this very part, by an attempt whose answer was lost and which the store tried again.
            Ok(_) | Err(BlobError::Refused { .. }) => {}
            Err(error) => return Err(blob_error(&*self.store, &format!("putting {blob}"), &error)),
        }
        self.cache.put(blob, data.clone());
        Ok(())
    }

    /// Names every ended part in the manifest. All of them have been put.
    pub(super) fn name_parts(&self) -> Result<(), ReplicaError> {
        let mut core = self.core();
        core.settle(&*self.store)?;
        let named = core.manifest.open.as_ref().map_or(0, |open| open.parts.len());
        if named == core.parts.len() {
            return Ok(());
        }
        let parts = core.parts.clone();
        self.save(&mut core, |manifest| {
            if let Some(open) = &mut manifest.open {
                open.parts = parts;
            }
        })
    }

    fn part_error(&self, header: PartHeader, error: &switchback_delta::DeltaError) -> ReplicaError {
        crate::layer::DeltaPlace::failed(&*self.store, &format!("part {}", header.part), error)
    }
}
