//! Views: any recovery point, read-only, without a clone: nothing is made in the store, and only what is read is fetched.
//!
//! A block of a point is in the newest staged cycle up to it that has it, else in the snapshot that is its base. Parts are verified frame by frame, by their
//! digests; snapshots are the store's own.
//!
//! A round may make a newer base, and delete what the point was made of until then. Names are never used twice, so what can be read is right; what cannot be
//! read any more is looked up in the manifest again. A point that is viewed stays ([`Core::viewed`](super::save::Core)): by this process alone, so a view
//! that is opened again after a crash may find its point gone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use switchback_model::{DiskIndex, Extent, RecoveryPoint, ReplicaId, Seq};

use super::apply::PartLayer;
use super::error::blob_error;
use super::manifest::{Base, BlobManifest, StagedCycle};
use super::{PageBlobReplica, Shown};
use crate::{ReadPoint, ReplicaError};

/// Bytes fetched at once: a store answers after a while, whatever it is asked for. And how many such chunks a view keeps.
const CHUNK: u64 = 1 << 20;
const CHUNKS_MAX: usize = 64;
/// How often what a point is made of may change under one read.
const CHANGES_MAX: usize = 8;

/// A recovery point of a replica in page blobs, read-only. The point cannot be pruned while this exists.
#[derive(Debug)]
pub struct BlobPointView {
    replica: Arc<PageBlobReplica>,
    /// The history that the point is of: another one counts from the beginning, too.
    history: ReplicaId,
    point: RecoveryPoint,
    sizes: Vec<u64>,
    laid: Mutex<Arc<Laid>>,
    /// The chunks read last, the newest at the end.
    chunks: Mutex<VecDeque<((DiskIndex, u64), Bytes)>>,
}

/// What a point is made of.
#[derive(Debug, Default)]
struct Laid {
    base: Option<Base>,
    cycles: Vec<StagedCycle>,
    layers: Vec<PartLayer>,
    /// The disks' page blobs, whose snapshots the base names.
    blobs: Vec<String>,
    /// The disks that the point lacks: of one that is being seeded there may be half.
    lacks: Vec<DiskIndex>,
}

/// The same as names.
fn made_of(manifest: &BlobManifest, seq: Seq) -> (Option<Base>, Vec<StagedCycle>) {
    let base = manifest.base_of(seq).cloned();
    let from = base.as_ref().map_or(Seq(0), |base| base.seq);
    (base, manifest.cycles(from, seq).cloned().collect())
}

impl PageBlobReplica {
    /// Opens a view of the point `seq`, in which its disks can be read.
    ///
    /// # Errors
    /// [`ReplicaError::NoSuchPoint`]; damaged parts; those of the store.
    pub fn read_point(self: &Arc<Self>, seq: Seq) -> Result<BlobPointView, ReplicaError> {
        let (point, manifest) = {
            let mut core = self.core();
            core.settle(&*self.store)?;
            let point = core.manifest.point(seq)?.clone();
            *core.viewed.entry(seq).or_default() += 1;
            (point, core.manifest.clone())
        };
        // From here on its drop gives the point free.
        let view = BlobPointView {
            replica: Arc::clone(self),
            history: manifest.id,
            point,
            sizes: manifest.disks.iter().map(|disk| disk.size).collect(),
            laid: Mutex::new(Arc::new(Laid::default())),
            chunks: Mutex::default(),
        };
        for _ in 0..CHANGES_MAX {
            match view.lay_anew() {
                Ok(true) => {}
                Ok(false) => return Ok(view),
                Err(error) if !view.is_outdated()? => return Err(error),
                Err(_) => {}
            }
        }
        Err(view.restless())
    }
}

impl BlobPointView {
    fn laid(&self) -> Arc<Laid> {
        Arc::clone(&self.laid.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the point is made of something else than was laid; an error when there is no such point any more.
    fn is_outdated(&self) -> Result<bool, ReplicaError> {
        let Shown { manifest, .. } = self.replica.shown();
        let lacks = self.lacks(&manifest)?;
        let laid = self.laid();
        Ok(laid.layers.is_empty()
            || laid.lacks != lacks
            || (laid.base.clone(), laid.cycles.clone()) != made_of(&manifest, self.point.seq))
    }

    /// What the point lacks now; an error when there is no such point any more.
    fn lacks(&self, manifest: &BlobManifest) -> Result<Vec<DiskIndex>, ReplicaError> {
        if manifest.id != self.history {
            return Err(ReplicaError::NoSuchPoint { seq: self.point.seq.0 });
        }
        Ok(manifest.point(self.point.seq)?.lacks.clone())
    }

    /// Lays what the point is made of now; `false`: that has been done.
    fn lay_anew(&self) -> Result<bool, ReplicaError> {
        if !self.is_outdated()? {
            return Ok(false);
        }
        let manifest = self.replica.shown().manifest;
        let lacks = self.lacks(&manifest)?;
        let (base, cycles) = made_of(&manifest, self.point.seq);
        let layers = self.replica.layers(&manifest, cycles.iter())?;
        let blobs = manifest.disk_indexes().map(|disk| manifest.page_blob(disk)).collect();
        *self.laid.lock().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Laid { base, cycles, layers, blobs, lacks });
        Ok(true)
    }

    fn restless(&self) -> ReplicaError {
        let detail = format!(
            "what point {} is made of changed again and again while it was looked up",
            self.point.seq
        );
        ReplicaError::Io { action: format!("reading {}", self.replica.store.name()), detail }
    }

    /// A chunk, from those that were read last or from the store.
    fn chunk(&self, disk: DiskIndex, number: u64, size: u64) -> Result<Bytes, ReplicaError> {
        let key = (disk, number);
        let chunks = || self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, data)) = chunks().iter().find(|(held, _)| *held == key) {
            return Ok(data.clone());
        }
        let extent = Extent::between(number * CHUNK, ((number + 1) * CHUNK).min(size));
        let mut changes = 0..CHANGES_MAX;
        let data = loop {
            match self.fetch(&self.laid(), disk, extent) {
                Ok(data) => break data,
                Err(error) if !self.lay_anew()? => return Err(error),
                Err(_) if changes.next().is_some() => {}
                Err(_) => return Err(self.restless()),
            }
        };
        let mut chunks = chunks();
        chunks.push_back((key, data.clone()));
        if chunks.len() > CHUNKS_MAX {
            chunks.pop_front();
        }
        Ok(data)
    }

    fn fetch(&self, laid: &Laid, disk: DiskIndex, extent: Extent) -> Result<Bytes, ReplicaError> {
        let store = &*self.replica.store;
        let place = usize::from(disk.0);
        if laid.lacks.contains(&disk) {
            let detail = format!("recovery point {} lacks disk {disk}", self.point.seq);
            return Err(ReplicaError::Protocol { detail });
        }
        let layer = &laid.layers[place];
        let snapshot = laid.base.as_ref().and_then(|base| base.disks[place].as_ref());
        let is_below = layer.lookup(extent).any(|(_, at)| at.is_none());
        let mut data = match snapshot.filter(|_| is_below) {
            Some(snapshot) => {
                let blob = &laid.blobs[place];
                let read = store.read_snapshot(blob, snapshot, extent);
                BytesMut::from(
                    &read.map_err(|error| blob_error(store, &format!("reading {blob}"), &error))?[..],
                )
            }
            None => BytesMut::zeroed(usize::try_from(extent.len).expect("a chunk")),
        };
        for (piece, at) in layer.lookup(extent) {
            let Some(at) = at else { continue };
            let from = usize::try_from(piece.start - extent.start).expect("within a chunk");
            let (contents, _) = layer.read(store, piece, at)?;
            data[from..from + contents.len()].copy_from_slice(&contents);
        }
        Ok(data.freeze())
    }
}

impl ReadPoint for BlobPointView {
    fn point(&self) -> &RecoveryPoint {
        &self.point
    }

    fn disk_sizes(&self) -> Vec<u64> {
        self.sizes.clone()
    }

    fn read_at(&self, disk: DiskIndex, offset: u64, buf: &mut [u8]) -> Result<(), ReplicaError> {
        let size = self.sizes.get(usize::from(disk.0)).copied().unwrap_or(0);
        let window = Extent::checked(offset, buf.len() as u64).filter(|window| window.end() <= size);
        let Some(window) = window else { return Err(ReplicaError::beyond(disk, size, offset, buf.len())) };
        let mut rest = buf;
        for piece in window.pieces(CHUNK) {
            let chunk = self.chunk(disk, piece.start / CHUNK, size)?;
            let from = usize::try_from(piece.start % CHUNK).expect("within a chunk");
            let (out, behind) = rest.split_at_mut(usize::try_from(piece.len).expect("within a buffer"));
            out.copy_from_slice(&chunk[from..from + out.len()]);
            rest = behind;
        }
        Ok(())
    }
}

impl Drop for BlobPointView {
    fn drop(&mut self) {
        let mut core = self.replica.core();
        if let Some(count) = core.viewed.get_mut(&self.point.seq) {
            *count -= 1;
            if *count == 0 {
                core.viewed.remove(&self.point.seq);
            }
        }
    }
}
