//! Going back: the disks are brought to an older recovery point, in place, for good.
//!
//! Unlike standing at a point (`stand`) it needs no room on the retention drive and no intact newer points. The newer points cease to exist, so it is refused while somebody writes, or views any point. A crash in between: it is
//! done again from its start at the next opening; the reverse deltas stay until the disks are settled.

use switchback_disk::Volume;
use switchback_model::Seq;

use super::{Core, DiskReplica};
use crate::ReplicaError;
use crate::layer::{Layer, VolumeDelta};
use crate::manifest::Work;

impl Core {
    /// Notes durably that the disks are on their way back to `to`, at or below the applied point.
    pub(super) fn begin_rollback(&mut self, volume: &dyn Volume, to: Seq) -> Result<(), ReplicaError> {
        self.save(volume, |manifest| {
            manifest.open = None;
            manifest.generation = None;
            manifest.staged.clear();
            let applied = manifest.applied;
            manifest.points.retain(|point| Some(point.seq) <= applied);
            manifest.work = Some(Work::RollBack { to });
        })?;
        self.parts = None;
        Ok(())
    }
}

impl DiskReplica {
    /// Brings the disks to the point `to` and forgets those after it.
    ///
    /// Changed blocks cannot follow: the next session begins with a resync (which compares digests, and so moves
    /// only what differs).
    ///
    /// # Errors
    /// [`ReplicaError::NoSuchPoint`]; [`ReplicaError::Locked`] while a session is open or a point is being viewed.
    pub fn roll_back(&self, to: Seq) -> Result<(), ReplicaError> {
        let stands = self.core().manifest.standing.is_some();
        if stands {
            self.check_no_views()?;
            return self.stand_at(to).and_then(|()| self.settle());
        }
        // What is staged up to the point must be on the disks first.
        while self.applied() < Some(to) && self.apply_next()? {}
        let _working = self.working();
        self.check_no_views()?;
        {
            let mut core = self.core();
            core.manifest.point(to)?;
            core.manifest.check_not_standing()?;
            if let Some(writer) = &core.writer {
                return Err(ReplicaError::Locked { holder: format!("{writer:?}; end replication first") });
            }
            core.begin_rollback(&*self.volume, to)?;
        }
        self.finish_rollback(to)
    }

    /// Also of older points: what a view has laid over each other would not fit the numbers that come again.
    pub(super) fn check_no_views(&self) -> Result<(), ReplicaError> {
        match self.core().views.first_key_value() {
            Some((seq, _)) => Err(ReplicaError::Locked { holder: format!("a view of recovery point {seq}") }),
            None => Ok(()),
        }
    }

    /// Does what the manifest says is being done. May be repeated.
    pub(super) fn finish_rollback(&self, to: Seq) -> Result<(), ReplicaError> {
        let reverse = self.core().manifest.reverse.clone();
        for disk in self.disk_indexes() {
            let mut layer = Layer::default();
            for delta in reverse.iter().filter(|delta| delta.from > to) {
                if delta.files.iter().any(|file| file.disk == disk) {
                    let delta = VolumeDelta::open(&*self.volume, delta.name(disk), self.config.key.as_ref())?;
                    layer.put_under(delta);
                }
            }
            self.write_layer(disk, &layer)?;
        }
        self.settle_disks()?;
        self.publish(|manifest| {
            manifest.work = None;
            manifest.forget_after(to);
        })?;
        self.remove_garbage()
    }
}
