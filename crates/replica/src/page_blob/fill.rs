//! Filling the page blobs: as long as there is no point, what is sent is written straight to them, several runs of up to 4 MiB at a time, zeros cleared, or
//! skipped where they are known to be zero.
//!
//! One frame: the session gathers neighbours into a run; a thread verifies it, makes its leaves unknown in the side-car, writes the pages, and notes the
//! digests. Those become durable at the next barrier or commit, the commit takes the snapshots and names them as the base.
//!
//! # After a crash at any request
//! Nothing is done again by itself: the source compares, or sends again what was not acknowledged. So the side-car must never claim what
//! is not on the pages. A record is written only after its pages; before pages that have a record are written once more, their leaves are made unknown there
//! ([`DigestFile::will_be_written`](crate::digest_file::DigestFile)); and from before the first page on the manifest says that what has no record is unknown. Only the process that filled
//! all of it knows what was never written to be zero, and says so with its commit.
//!
//! # Who may write
//! A run is written within the `gate`, after a look whether the session still is the writer's; a new writer waits until nobody is within. Another process
//! has broken the lease before it reads anything.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use switchback_delta::{Digest, Frame};
use switchback_disk::Disk;
use switchback_model::{DiskIndex, Extent, Seq};

use super::PageBlobReplica;
use super::apply::zero_runs;
use super::error::page_error;
use super::manifest::Base;
use super::pages::PageBlob;
use super::session::SessionKey;
use super::stage::Puts;
use super::store::{PAGE, PAGES_MAX};
use crate::ReplicaError;

/// Neighbouring frames of a part, not yet being written.
#[derive(Debug)]
pub(super) struct Gathered {
    disk: DiskIndex,
    size: u64,
    /// Where the next frame may begin.
    end: u64,
    frames: Vec<Frame>,
}

/// Frames without a gap, decoded.
struct Run {
    extent: Extent,
    pieces: Vec<(Extent, Bytes, Vec<Digest>)>,
}

impl Gathered {
    /// Of a disk of `size` bytes.
    pub(super) fn new(disk: DiskIndex, size: u64) -> Self {
        Self { disk, size, end: 0, frames: Vec::new() }
    }

    /// Frames come in order, and lie on the disk.
    pub(super) fn check(&self, frame: &Frame) -> Result<(), ReplicaError> {
        if frame.extent.start < self.end || frame.extent.end() > self.size {
            let detail = format!("{} is out of order or beyond the disk's {} bytes", frame.extent, self.size);
            return Err(ReplicaError::Protocol { detail });
        }
        Ok(())
    }

    /// Whether a frame belongs to the same run: its neighbour, and begun in the same 4 MiB.
    fn takes(&self, frame: &Frame) -> bool {
        let first = self.frames.first().map(|first| first.extent.start / PAGES_MAX);
        first.is_none_or(|first| frame.extent.start == self.end && frame.extent.start / PAGES_MAX == first)
    }
}

impl PageBlobReplica {
    /// Adds a frame to a run; one that does not belong to it begins another.
    pub(super) fn gather(
        self: &Arc<Self>,
        key: SessionKey,
        gathered: &mut Gathered,
        frame: Frame,
        puts: &mut Puts,
    ) -> Result<(), ReplicaError> {
        if !gathered.takes(&frame) {
            self.write_gathered(key, gathered, puts)?;
        }
        gathered.end = frame.extent.end();
        gathered.frames.push(frame);
        Ok(())
    }

    /// Has what was gathered written.
    pub(super) fn write_gathered(
        self: &Arc<Self>,
        key: SessionKey,
        gathered: &mut Gathered,
        puts: &mut Puts,
    ) -> Result<(), ReplicaError> {
        let frames = std::mem::take(&mut gathered.frames);
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return Ok(()) };
        let extent = Extent::between(first.extent.start, last.extent.end());
        let (disk, target) = (gathered.disk, self.disk(&self.manifest()?, gathered.disk));
        let place = (disk, extent.aligned_to(PAGE, target.size));
        if self.lease.has_filled(place) {
            puts.wait(0)?;
            let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            self.renew_leases()?;
        }
        self.lease.fills(place);
        if self.config.io_threads < 2 {
            puts.note(&self.fill(key, disk, &target, &frames));
            return puts.wait(0);
        }
        puts.make_way(place, self.config.io_threads)?;
        let replica = Arc::clone(self);
        puts.start(Some(place), move || replica.fill(key, disk, &target, &frames));
        Ok(())
    }

    /// Verifies frames and writes them, if the session still is the writer's.
    fn fill(
        &self,
        key: SessionKey,
        disk: DiskIndex,
        target: &PageBlob,
        frames: &[Frame],
    ) -> Result<(), ReplicaError> {
        let run = Run::of(frames)
            .map_err(|error| ReplicaError::Corrupt { detail: format!("a frame of disk {disk}: {error}") })?;
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.check_session(key)?;
        let action = format!("filling {} at {}", target.blob, run.extent);
        let written = self.write_filled(disk, target, &run);
        written.map_err(|error| self.lost_or(page_error(&*self.store, &action, &error)))
    }

    fn write_filled(&self, disk: DiskIndex, target: &PageBlob, run: &Run) -> std::io::Result<()> {
        let pages = run.extent.aligned_to(PAGE, target.size);
        let data = run.pages(pages, target)?;
        let mut writes = Vec::new();
        for (part, zero) in zero_runs(&data) {
            let extent = Extent::new(pages.start + part.start, part.len);
            if !(zero && self.digests(disk).is_zero(extent)?) {
                writes.push((extent, part, zero));
            }
        }
        if writes.is_empty() {
            return Ok(());
        }
        self.digests(disk).will_be_written(run.extent)?;
        for (extent, part, zero) in writes {
            if zero {
                target.clear_pages(extent)?;
            } else {
                let place = |at: u64| usize::try_from(at).expect("within a run");
                target.write_pages(extent.start, &data.slice(place(part.start)..place(part.end())))?;
            }
        }
        let mut known = self.digests(disk);
        run.pieces.iter().try_for_each(|(extent, _, digests)| known.written(*extent, digests))
    }

    /// Makes durable what is known of the pages.
    pub(super) fn sync_digests(&self) -> Result<(), ReplicaError> {
        for disk in self.manifest()?.present() {
            let synced = self.digests(disk).sync();
            synced.map_err(|e| self.lost_or(page_error(&*self.store, "writing digests", &e)))?;
        }
        Ok(())
    }

    /// What makes the open cycle, if it is a fill, all of which has been written, point `seq`: the snapshots, and whether what has no record is zero.
    pub(super) fn finish_fill(&self, seq: Seq) -> Result<Option<(Base, bool)>, ReplicaError> {
        let manifest = self.manifest()?;
        if manifest.open.as_ref().is_none_or(|open| open.filled.is_none()) {
            return Ok(None);
        }
        self.sync_digests()?;
        let snapshot = |disk| match manifest.members.has_removed(disk) {
            true => Ok(None),
            false => self.snapshot(&manifest.page_blob(disk), manifest.opening, seq).map(Some),
        };
        let snapshots = manifest.disk_indexes().map(snapshot).collect();
        let disks = Result::<Vec<_>, _>::map_err(snapshots, |error| self.lost_or(error))?;
        let absent_is_zero = manifest.present().all(|disk| self.digests(disk).absent_is_zero());
        Ok(Some((Base { seq, disks }, absent_is_zero)))
    }
}

impl Run {
    fn of(frames: &[Frame]) -> Result<Self, switchback_delta::FrameError> {
        let decode = |frame: &Frame| frame.contents().map(|(data, digests)| (frame.extent, data, digests));
        let pieces = frames.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        let (first, last) = (pieces.first(), pieces.last());
        let (first, last) = first.zip(last).expect("a run is not empty");
        Ok(Self { extent: Extent::between(first.0.start, last.0.end()), pieces })
    }

    /// Its pages. What of them is beyond the source's blocks stays as it is.
    fn pages(&self, pages: Extent, target: &PageBlob) -> std::io::Result<Bytes> {
        if let ([(_, data, _)], true) = (&self.pieces[..], pages == self.extent) {
            return Ok(data.clone());
        }
        let mut out = Vec::with_capacity(usize::try_from(pages.len).expect("some MiB"));
        let around = |from: u64, to: u64, out: &mut Vec<u8>| {
            if from < to {
                out.extend_from_slice(&Disk::read(target, Extent::between(from, to))?);
            }
            std::io::Result::Ok(())
        };
        around(pages.start, self.extent.start, &mut out)?;
        self.pieces.iter().for_each(|(_, data, _)| out.extend_from_slice(data));
        around(self.extent.end(), pages.end(), &mut out)?;
        Ok(out.into())
    }
}
