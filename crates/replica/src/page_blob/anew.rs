//! A new history on what the page blobs hold: the machine has lived elsewhere, and is replicated here again.
//!
//! Everything of the former history goes but what its newest point has on the page blobs. That stays, with its digests, as point 0 (as on disks that hold something when a
//! [`DiskReplica`](crate::DiskReplica) is made on them), so that the resync that follows reads no page and sends what differs.

use switchback_model::{Consistency, RecoveryPoint, ReplicaId, Seq, UnixMillis};

use super::PageBlobReplica;
use crate::ReplicaError;

impl PageBlobReplica {
    /// Begins the history `id` at the moment `now`. One that has begun already is left alone, so this may be repeated.
    ///
    /// # Errors
    /// Those of the store: call again.
    pub fn begin_anew(&self, id: ReplicaId, now: UnixMillis) -> Result<(), ReplicaError> {
        if self.id() == id {
            return Ok(());
        }
        // While clones stand, rounds wait; and one that was begun must be ended, or it is not known what the pages hold.
        self.resume()?;
        self.apply_all()?;
        let _turn = self.turn();
        let _working = self.working();
        let before = self.manifest()?;
        let mut core = self.core();
        core.writer = None;
        core.parts.clear();
        let named = core.manifest.blobs();
        self.save(&mut core, |manifest| {
            let base = manifest.bases.pop();
            manifest.bases =
                base.into_iter().map(|base| super::manifest::Base { seq: Seq(0), ..base }).collect();
            manifest.id = id;
            manifest.points = vec![RecoveryPoint {
                seq: Seq(0),
                time: now,
                consistency: Consistency::CrashConsistent,
                group_tag: None,
            }];
            manifest.staged.clear();
            (manifest.open, manifest.generation) = (None, None);
            manifest.views.clear();
        })?;
        self.forget(core, named, &before)
    }
}
