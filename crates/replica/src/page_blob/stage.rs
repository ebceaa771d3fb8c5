//! Staging: a part is written into memory as a delta (it has at most 64 MiB of contents) and put as one block blob when it ends. The next barrier
//! or commit names it in the manifest: only then it counts. In the first replication parts go straight to the page blobs instead: see `fill`.
//!
//! Puts run beside the session, so that the source can go on with the next part; a barrier waits for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use switchback_delta::{DeltaContent, DeltaHeader, DeltaWriter, Frame, PartHasher};
use switchback_model::{DiskIndex, Extent};

use super::PageBlobReplica;
use super::error::blob_error;
use super::fill::Gathered;
use super::manifest::StagedPart;
use super::session::SessionKey;
use super::store::{BlobError, PutIf};
use crate::{PartHeader, ReplicaError, rules};

/// Bytes of a delta in memory; the contents of a part are limited by its sender, this is the limit for one that does not keep to that.
const PART_LEN_MAX: u64 = 256 << 20;

/// Puts under way at a time: each holds its part in memory.
const PUTS_MAX: usize = 4;

/// A part being received.
#[derive(Debug)]
pub(super) struct PartWriter {
    header: PartHeader,
    hasher: PartHasher,
    kind: PartKind,
}

#[derive(Debug)]
enum PartKind {
    /// A delta in memory.
    Stage(Box<DeltaWriter<Vec<u8>>>),
    /// Straight to the page blob.
    Fill(Gathered),
    /// For a disk that was removed: nothing is kept of it.
    Void,
}

impl PartWriter {
    pub(super) fn header(&self) -> PartHeader {
        self.header
    }
}

/// Puts and writes of pages under way, the oldest first. After one that failed nothing more succeeds: the session is over.
#[derive(Debug, Default)]
pub(super) struct Puts {
    running: VecDeque<Running>,
    failed: Option<ReplicaError>,
}

/// Where it writes pages, and the thread.
type Running = (Option<Place>, JoinHandle<Result<(), ReplicaError>>);

/// Pages of a disk.
pub(super) type Place = (DiskIndex, Extent);

impl Puts {
    /// Waits until no more than `left` are under way.
    pub(super) fn wait(&mut self, left: usize) -> Result<(), ReplicaError> {
        while self.running.len() > left {
            let Some((_, put)) = self.running.pop_front() else { break };
            let ended = put.join().unwrap_or_else(|_| {
                let detail = "a thread ended early".into();
                Err(ReplicaError::Io { action: "writing to the store".into(), detail })
            });
            self.note(&ended);
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Waits until none is under way that has pages of `place`, and fewer than `max` are.
    pub(super) fn make_way(&mut self, place: Place, max: usize) -> Result<(), ReplicaError> {
        let overlaps = |other: &Place| other.0 == place.0 && !other.1.intersection(place.1).is_empty();
        let last = self.running.iter().rposition(|(other, _)| other.as_ref().is_some_and(overlaps));
        self.wait((self.running.len() - last.map_or(0, |at| at + 1)).min(max - 1))
    }

    pub(super) fn start(
        &mut self,
        place: Option<Place>,
        work: impl FnOnce() -> Result<(), ReplicaError> + Send + 'static,
    ) {
        self.running.push_back((place, std::thread::spawn(work)));
    }

    pub(super) fn note(&mut self, ended: &Result<(), ReplicaError>) {
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
        let hasher = PartHasher::default();
        if manifest.members.has_removed(header.disk) {
            return Ok(PartWriter { header, hasher, kind: PartKind::Void });
        }
        if manifest.open.as_ref().is_some_and(|open| open.filled.is_some()) {
            let size = manifest.disks[usize::from(header.disk.0)].size;
            return Ok(PartWriter { header, hasher, kind: PartKind::Fill(Gathered::new(header.disk, size)) });
        }
        let delta = DeltaHeader {
            replica: manifest.id,
            epoch: manifest.epoch,
            disk: header.disk,
            disk_size: manifest.disks[usize::from(header.disk.0)].size,
            content: DeltaContent::Forward { seq: header.seq, part: header.part },
        };
        let writer = DeltaWriter::new(Vec::new(), &delta, self.config.key.as_ref());
        let writer = writer.map_err(|error| self.part_error(header, &error))?;
        Ok(PartWriter { header, hasher, kind: PartKind::Stage(Box::new(writer)) })
    }

    pub(super) fn put_frame(
        self: &Arc<Self>,
        key: SessionKey,
        part: &mut PartWriter,
        frame: Frame,
        puts: &mut Puts,
    ) -> Result<(), ReplicaError> {
        let PartWriter { header, hasher, kind } = part;
        let writer = match kind {
            PartKind::Stage(writer) => writer,
            PartKind::Fill(gathered) => {
                gathered.check(&frame)?;
                hasher.push(&frame);
                return self.gather(key, gathered, frame, puts);
            }
            PartKind::Void => {
                hasher.push(&frame);
                return Ok(());
            }
        };
        frame.contents().map_err(|error| ReplicaError::Corrupt {
            detail: format!("a frame of part {} as it was received: {error}", header.part),
        })?;
        if writer.file_len() + frame.extent.len > PART_LEN_MAX {
            let detail = format!("part {} is longer than {PART_LEN_MAX} bytes", header.part);
            return Err(ReplicaError::Protocol { detail });
        }
        hasher.push(&frame);
        writer.push(&frame).map_err(|error| self.part_error(*header, &error))
    }

    /// Ends a part and has it put; not yet durable, and not yet named.
    pub(super) fn end_part(
        self: &Arc<Self>,
        key: SessionKey,
        part: PartWriter,
        checksum: [u8; 32],
        puts: &mut Puts,
    ) -> Result<(), ReplicaError> {
        let PartWriter { header, hasher, kind } = part;
        let data = match kind {
            PartKind::Stage(writer) => {
                Some(writer.finish().map_err(|error| self.part_error(header, &error))?.0)
            }
            PartKind::Fill(mut gathered) => self.write_gathered(key, &mut gathered, puts).map(|()| None)?,
            PartKind::Void => None,
        };
        if hasher.finish() != checksum {
            let detail =
                format!("part {} of cycle {} does not match its sender's checksum", header.part, header.seq);
            return Err(ReplicaError::Corrupt { detail });
        }
        let mut core = self.core();
        rules::expect_part(core.open_status().as_ref(), core.manifest.disks.len(), header)?;
        let Some(data) = data.map(Bytes::from) else {
            if core.manifest.open.as_ref().is_some_and(|open| open.filled.is_some()) {
                core.filled += 1;
            } else {
                core.parts.push(StagedPart { disk: header.disk, blob: String::new(), len: 0 });
            }
            return Ok(());
        };
        let what = format!("stage-{:016}-{:06}-{:03}.delta", header.seq.0, header.part.0, header.disk.0);
        let blob = self.new_name(core.manifest.opening, &what);
        core.parts.push(StagedPart { disk: header.disk, blob: blob.clone(), len: data.len() as u64 });
        drop(core);
        if self.config.io_threads < 2 {
            puts.note(&self.put_part(&blob, &data));
            return puts.wait(0);
        }
        puts.wait(self.config.io_threads.min(PUTS_MAX) - 1)?;
        let replica = Arc::clone(self);
        puts.start(None, move || replica.put_part(&blob, &data));
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
        let Some(open) = core.manifest.open.clone() else { return Ok(()) };
        let parts = core.parts.clone();
        if open.filled.map_or(open.parts == parts, |filled| filled == core.filled) {
            return Ok(());
        }
        let filled = open.filled.map(|_| core.filled);
        if filled.is_some() {
            drop(core);
            self.sync_digests()?;
            core = self.core();
        }
        self.save(&mut core, |manifest| {
            if let Some(open) = &mut manifest.open {
                (open.parts, open.filled) = (parts, filled);
            }
        })
    }

    fn part_error(&self, header: PartHeader, error: &switchback_delta::DeltaError) -> ReplicaError {
        crate::layer::DeltaPlace::failed(&*self.store, &format!("part {}", header.part), error)
    }
}
