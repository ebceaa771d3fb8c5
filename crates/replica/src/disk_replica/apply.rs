//! Applying staged cycles to the disks, each with its way back.

use switchback_delta::{DeltaError, DeltaHeader, DeltaSummary, DeltaWriter, Frame};
use switchback_disk::{Volume, parallel, spans};
use switchback_model::{DiskIndex, Extent, ExtentSet, Seq};

use super::DiskReplica;
use super::stage::{VolumeWriter, write_contents};
use crate::ReplicaError;
use crate::error::{delta_error, disk_error, volume_error};
use crate::layer::{FrameAt, Layer, VolumeDelta};
use crate::layout::FileName;
use crate::manifest::{ReverseDelta, ReverseFile, StagedCycle, Work};

/// Bytes that a thread writes before the next batch begins.
const BATCH_BYTES: u64 = 256 << 10;

impl ReverseDelta {
    pub(super) fn name(&self, disk: DiskIndex) -> FileName {
        FileName::Reverse { from: self.from, to: self.to, disk }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = FileName> + '_ {
        self.files.iter().map(|file| self.name(file.disk))
    }
}

impl DiskReplica {
    /// Brings the disks to the newest point.
    ///
    /// # Errors
    /// As [`DiskReplica::maintain`].
    pub fn apply_all(&self) -> Result<(), ReplicaError> {
        while self.apply_next()? {}
        Ok(())
    }

    /// Applies the oldest staged cycle, if there is one.
    ///
    /// # Errors
    /// As [`DiskReplica::maintain`].
    pub fn apply_next(&self) -> Result<bool, ReplicaError> {
        let _working = self.working();
        let (work, staged, applied) = {
            let core = self.core();
            (core.manifest.work, core.manifest.staged.first().cloned(), core.manifest.applied)
        };
        match (work, staged) {
            // Left by a failed attempt of this process. Its reverse deltas are the right ones: by now the disks may
            // be half written.
            (Some(Work::Apply { .. }), _) => self.finish_apply()?,
            (Some(Work::RollBack { to }), _) => self.finish_rollback(to)?,
            (Some(Work::Stand), _) => self.finish_move()?,
            (None, None) => return Ok(false),
            (None, Some(cycle)) => {
                let applied = applied.expect("staged cycles follow an applied point");
                let reverse = self.save_old_contents(&cycle, applied, &self.layers_of(&cycle)?)?;
                self.publish(|manifest| {
                    manifest.work = Some(Work::Apply { seq: cycle.seq });
                    manifest.reverse.push(reverse);
                })?;
                self.finish_apply()?;
            }
        }
        Ok(true)
    }

    /// Writes the cycle that the manifest says is being applied. May be repeated.
    pub(super) fn finish_apply(&self) -> Result<(), ReplicaError> {
        let cycle = {
            let core = self.core();
            core.manifest.staged.first().cloned().expect("an apply has its cycle staged")
        };
        for (disk, layer) in self.disk_indexes().zip(&self.layers_of(&cycle)?) {
            self.write_layer(disk, layer)?;
        }
        self.settle_disks()?;
        self.publish(|manifest| {
            manifest.work = None;
            manifest.applied = Some(cycle.seq);
            manifest.staged.retain(|staged| staged.seq != cycle.seq);
        })?;
        self.remove_files(cycle.parts.iter().map(|part| part.name(cycle.seq)))
    }

    /// A cycle's parts, laid over each other: one layer for each disk.
    pub(super) fn layers_of(&self, cycle: &StagedCycle) -> Result<Vec<Layer>, ReplicaError> {
        let mut layers: Vec<Layer> = self.disks.iter().map(|_| Layer::default()).collect();
        for part in &cycle.parts {
            let delta = VolumeDelta::open(&*self.volume, part.name(cycle.seq), self.config.key.as_ref())?;
            layers[usize::from(part.disk.0)].put_over(delta);
        }
        Ok(layers)
    }

    fn save_old_contents(
        &self,
        cycle: &StagedCycle,
        to: Seq,
        layers: &[Layer],
    ) -> Result<ReverseDelta, ReplicaError> {
        let mut reverse = ReverseDelta { from: cycle.seq, to, files: Vec::new() };
        for (disk, layer) in self.disk_indexes().zip(layers) {
            if let Some(file_len) = self.save_contents(reverse.name(disk), &layer.extents())? {
                reverse.files.push(ReverseFile { disk, file_len });
            }
        }
        self.volume.sync().map_err(|e| volume_error(&*self.volume, "syncing the directory", &e))?;
        Ok(reverse)
    }

    /// Saves what a disk holds in a delta (its contents are durable then, not its name) and returns the file's length;
    /// there is none for no extents.
    pub(super) fn save_contents(
        &self,
        name: FileName,
        extents: &ExtentSet,
    ) -> Result<Option<u64>, ReplicaError> {
        if extents.is_empty() {
            return Ok(None);
        }
        let source = self.disk(name.disk());
        let summary = self.write_delta(name, |mut writer| {
            let unread = |_, error| disk_error(source, "reading", &error);
            let fail = |error: DeltaError| delta_error(&*self.volume, name, &error);
            spans::read_extents(source, extents, self.config.io_threads, Frame::of, unread, |frame| {
                writer.push(&frame).map_err(fail)
            })?;
            writer.finish().map_err(fail)
        })?;
        Ok(Some(summary.file_len))
    }

    /// Writes a delta under its final name and makes its contents durable (not its name).
    pub(super) fn write_delta(
        &self,
        name: FileName,
        fill: impl FnOnce(DeltaWriter<VolumeWriter>) -> Result<(VolumeWriter, DeltaSummary), ReplicaError>,
    ) -> Result<DeltaSummary, ReplicaError> {
        let volume = &*self.volume;
        let header = {
            let core = self.core();
            DeltaHeader {
                replica: core.manifest.id,
                epoch: core.manifest.epoch,
                disk: name.disk(),
                disk_size: core.manifest.disks[usize::from(name.disk().0)].size,
                content: name.content().expect("the name of a delta"),
            }
        };
        let file = create_new(volume, &name.to_string())?;
        let writer = DeltaWriter::new(file, &header, self.config.key.as_ref())
            .map_err(|e| delta_error(volume, name, &e))?;
        let finished = fill(writer).and_then(|(file, summary)| {
            file.sync().map_err(|e| volume_error(volume, &format!("syncing {name}"), &e))?;
            Ok(summary)
        });
        if finished.is_err() {
            // Room for whatever is to come; if even this fails, the next opening removes it.
            volume.remove(&name.to_string()).ok();
        }
        finished
    }

    /// Writes all that a layer holds to a disk and notes the new digests.
    pub(super) fn write_layer(&self, index: DiskIndex, layer: &Layer) -> Result<(), ReplicaError> {
        let disk = self.disk(index);
        let size = self.core().manifest.disks[usize::from(index.0)].size;
        let held = layer.lookup(Extent::new(0, size)).filter_map(|(piece, at)| Some((piece, at?)));
        let batches = batches(held);
        let write = |batch: &Vec<(Extent, FrameAt)>| {
            let write = |(piece, at): &(Extent, FrameAt)| {
                let (contents, digests) = layer.read(&*self.volume, *piece, *at)?;
                let zero = digests.iter().all(|digest| *digest == switchback_delta::Digest::ZERO);
                write_contents(disk, *piece, zero, &contents)?;
                Ok((*piece, digests))
            };
            batch.iter().map(write).collect::<Result<Vec<_>, ReplicaError>>()
        };
        parallel::ordered(batches.iter(), self.config.io_threads, write, |written| {
            let mut digests = self.digests(index);
            let noted = written.iter().try_for_each(|(piece, new)| digests.written(*piece, new));
            noted.map_err(|e| volume_error(&*self.volume, "writing digests", &e))
        })
    }

    /// Makes the disks and their digests durable.
    pub(super) fn settle_disks(&self) -> Result<(), ReplicaError> {
        for (index, disk) in self.disk_indexes().zip(&self.disks) {
            disk.flush().map_err(|e| disk_error(&**disk, "flushing", &e))?;
            let synced = self.digests(index).sync();
            synced.map_err(|e| volume_error(&*self.volume, "syncing the digests", &e))?;
        }
        Ok(())
    }

    /// Removes files that the manifest has ceased to name. Failing is no harm: the next opening does it.
    pub(super) fn remove_files(&self, names: impl Iterator<Item = FileName>) -> Result<(), ReplicaError> {
        for name in names {
            remove_if_there(&*self.volume, &name.to_string())?;
        }
        Ok(())
    }
}

/// Pieces that one thread writes in a row: many small ones, or a few large ones.
fn batches(held: impl Iterator<Item = (Extent, FrameAt)>) -> Vec<Vec<(Extent, FrameAt)>> {
    let mut batches: Vec<Vec<_>> = Vec::new();
    let mut bytes = 0;
    for (piece, at) in held {
        match batches.last_mut() {
            Some(batch) if bytes < BATCH_BYTES => batch.push((piece, at)),
            _ => {
                batches.push(vec![(piece, at)]);
                bytes = 0;
            }
        }
        bytes += piece.len;
    }
    batches
}

fn remove_if_there(volume: &dyn Volume, name: &str) -> Result<(), ReplicaError> {
    match volume.remove(name) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(volume_error(volume, &format!("removing {name}"), &error))
        }
        _ => Ok(()),
    }
}

/// A new file, in place of what an interrupted attempt may have left.
pub(super) fn create_new(volume: &dyn Volume, name: &str) -> Result<VolumeWriter, ReplicaError> {
    remove_if_there(volume, name)?;
    let file = volume.create(name).map_err(|e| volume_error(volume, &format!("creating {name}"), &e))?;
    Ok(VolumeWriter::new(file))
}
