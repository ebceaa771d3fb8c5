//! Views: any recovery point, read-only, without copying the disk, while newer cycles are being applied.
//!
//! A view lays the deltas between its point and the disk over each other once, when it is opened. What is
//! applied later adds ways back, and those are laid under it before each read, in the same critical
//! section as the read of the disk: see the header of [`super`] about `ways`.

use std::sync::{Arc, PoisonError, RwLock};

use switchback_model::{DiskIndex, Extent, RecoveryPoint, Seq};

use super::{DiskReplica, Ways};
use crate::error::disk_error;
use crate::layer::{Layer, VolumeDelta};
use crate::manifest::ReverseDelta;
use crate::{ReadPoint, ReplicaError};

/// A recovery point of a replica, read-only. The point cannot be pruned while this exists.
#[derive(Debug)]
pub struct PointView {
    replica: Arc<DiskReplica>,
    point: RecoveryPoint,
    layers: RwLock<Layers>,
}

#[derive(Debug)]
struct Layers {
    disks: Vec<Layer>,
    /// Ways back from points above this are not laid yet.
    laid: Seq,
    /// The version of [`Ways`] that has been laid.
    version: u64,
}

impl DiskReplica {
    /// Opens a view of the point `seq`.
    ///
    /// # Errors
    /// [`ReplicaError::NoSuchPoint`]; I/O.
    pub fn view(self: &Arc<Self>, seq: Seq) -> Result<PointView, ReplicaError> {
        // Nothing is applied, pruned or rolled back meanwhile.
        let _working = self.working();
        let (point, manifest) = {
            let core = self.core();
            (core.manifest.point(seq)?.clone(), core.manifest.clone())
        };
        let mut disks: Vec<Layer> = self.disks.iter().map(|_| Layer::default()).collect();
        for cycle in manifest.staged.iter().rev().filter(|cycle| cycle.seq <= seq) {
            for part in cycle.parts.iter().rev() {
                let delta = VolumeDelta::open(&*self.volume, part.name(cycle.seq), self.config.key.as_ref())?;
                disks[usize::from(part.disk.0)].put_under(delta);
            }
        }
        let mut layers = Layers { disks, laid: seq, version: 0 };
        layers.lay(self, &self.ways.read().unwrap_or_else(PoisonError::into_inner))?;
        *self.core().views.entry(seq).or_default() += 1;
        Ok(PointView { replica: Arc::clone(self), point, layers: RwLock::new(layers) })
    }
}

impl Layers {
    /// Lays the ways back that came since the last time under the others, and what the newest point has under all of them. What is laid
    /// already and comes again covers nothing more.
    fn lay(&mut self, replica: &DiskReplica, ways: &Ways) -> Result<(), ReplicaError> {
        let back = ways.reverse.iter().filter(|delta| delta.from > self.laid).flat_map(ReverseDelta::names);
        for name in back.chain(ways.newest.iter().copied()) {
            let opened = VolumeDelta::open(&*replica.volume, name, replica.config.key.as_ref())?;
            self.disks[usize::from(name.disk().0)].put_under(opened);
        }
        self.laid = ways.reverse.last().map_or(self.laid, |delta| delta.from.max(self.laid));
        self.version = ways.version;
        Ok(())
    }
}

impl ReadPoint for PointView {
    fn point(&self) -> &RecoveryPoint {
        &self.point
    }

    fn disk_sizes(&self) -> Vec<u64> {
        self.replica.core().manifest.disks.iter().map(|disk| disk.size).collect()
    }

    fn read_at(&self, disk: DiskIndex, offset: u64, buf: &mut [u8]) -> Result<(), ReplicaError> {
        let size = self.replica.core().manifest.disks.get(usize::from(disk.0)).map_or(0, |spec| spec.size);
        let window = Extent::checked(offset, buf.len() as u64).filter(|window| window.end() <= size);
        let Some(window) = window else { return Err(ReplicaError::beyond(disk, size, offset, buf.len())) };
        let published = self.replica.ways.read().unwrap_or_else(PoisonError::into_inner);
        self.lay_new(&published)?;
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        let layer = &layers.disks[usize::from(disk.0)];
        for (piece, at) in layer.lookup(window) {
            let from = usize::try_from(piece.start - window.start).expect("within a buffer");
            let len = usize::try_from(piece.len).expect("within a buffer");
            let out = &mut buf[from..from + len];
            match at {
                Some(at) => out.copy_from_slice(&layer.read(&*self.replica.volume, piece, at)?.0),
                None => {
                    let source = self.replica.disk(disk);
                    source.read_at(piece.start, out).map_err(|e| disk_error(source, "reading", &e))?;
                }
            }
        }
        Ok(())
    }
}

impl PointView {
    fn lay_new(&self, published: &Ways) -> Result<(), ReplicaError> {
        if self.layers.read().unwrap_or_else(PoisonError::into_inner).version == published.version {
            return Ok(());
        }
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        if layers.version == published.version { Ok(()) } else { layers.lay(&self.replica, published) }
    }
}

impl Drop for PointView {
    fn drop(&mut self) {
        let mut core = self.replica.core();
        if let Some(count) = core.views.get_mut(&self.point.seq) {
            *count -= 1;
            if *count == 0 {
                core.views.remove(&self.point.seq);
            }
        }
    }
}
