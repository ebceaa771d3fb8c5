//! A new history on what the page blobs hold: the machine has lived elsewhere, and is replicated here again.
//!
//! Everything of the former history goes but what its newest point has on the page blobs. That stays, with its digests, as point 0 (as on disks that hold something when a
//! [`DiskReplica`](crate::DiskReplica) is made on them), so that the resync that follows reads no page and sends what differs. A replica without a point has none after it either; what is
//! on its page blobs is compared with all the same. The disks may be counted anew (see `reshape`): point 0 lacks what is new, and what the newest point lacked.

use switchback_model::{Consistency, RecoveryPoint, ReplicaId, Seq, UnixMillis};

use super::PageBlobReplica;
use super::manifest::Base;
use super::reshape::{BlobDisk, Successors};
use crate::ReplicaError;

impl PageBlobReplica {
    /// Begins the history `id` at the moment `now`; `disks`: those that it has, if they are not just the same. One that has begun already is left alone, so this may
    /// be repeated.
    ///
    /// # Errors
    /// [`ReplicaError::DisksChanged`]: a page blob is of a disk of another size. Those of the store: call again.
    pub fn begin_anew(
        &self,
        id: ReplicaId,
        disks: Option<&[BlobDisk]>,
        now: UnixMillis,
    ) -> Result<(), ReplicaError> {
        if self.id() == id {
            return Ok(());
        }
        // While clones stand, rounds wait; and one that was begun must be ended, or it is not known what the pages hold.
        self.resume()?;
        self.apply_all()?;
        let _turn = self.turn();
        let _working = self.working();
        self.delete_dropped()?;
        self.end_sessions();
        let mut core = self.owned()?;
        let disks = disks.map(<[_]>::to_vec).unwrap_or_else(|| core.manifest.blob_disks());
        let successors = Successors::find(&core.manifest, &disks)?;
        let side_cars = self.make_disks(&mut core, &successors.new, &disks)?;
        let before = core.manifest.clone();
        self.save(&mut core, |manifest| {
            let base = manifest.bases.pop();
            manifest.bases = base.into_iter().map(|base| Base { seq: Seq(0), ..base }).collect();
            manifest.id = id;
            // Pages that no point was made of are no point now: they will be filled.
            if let Some(newest) = manifest.points.pop() {
                let (seq, consistency) = (Seq(0), Consistency::CrashConsistent);
                manifest.points =
                    vec![RecoveryPoint { seq, time: now, consistency, group_tag: None, ..newest }];
            }
            manifest.staged.clear();
            (manifest.open, manifest.generation) = (None, None);
            manifest.views.clear();
            successors.apply(manifest, &disks, side_cars);
        })?;
        self.end_former(core, &before)
    }
}
