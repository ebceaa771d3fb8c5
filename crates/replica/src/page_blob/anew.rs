//! A new history on what the page blobs hold: the machine has lived elsewhere, and is replicated here again.
//!
//! Everything of the former history goes but what its newest point has on the page blobs. That stays, with its digests, as point 0 (as on disks that hold something when a
//! [`DiskReplica`](crate::DiskReplica) is made on them), so that the resync that follows reads no page and sends what differs. A replica without a point has none after it either; what is
//! on its page blobs is compared with all the same.

use std::sync::PoisonError;

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
        self.core().writer = None;
        drop(self.gate.write().unwrap_or_else(PoisonError::into_inner));
        let before = self.manifest()?;
        let mut core = self.core();
        let named = core.manifest.blobs();
        self.save(&mut core, |manifest| {
            let base = manifest.bases.pop();
            manifest.bases =
                base.into_iter().map(|base| super::manifest::Base { seq: Seq(0), ..base }).collect();
            manifest.id = id;
            // Pages that no point was made of are no point now: they will be filled.
            if !manifest.points.is_empty() {
                let (time, consistency) = (now, Consistency::CrashConsistent);
                manifest.points = vec![RecoveryPoint {
                    seq: Seq(0),
                    time,
                    consistency,
                    group_tag: None,
                    lacks: Vec::new(),
                }];
            }
            manifest.staged.clear();
            (manifest.open, manifest.generation) = (None, None);
            manifest.views.clear();
        })?;
        core.keep_acknowledged();
        self.forget(core, named, &before)
    }
}
