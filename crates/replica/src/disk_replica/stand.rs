//! Standing at a point: the disks hold an older point for a time, and can be brought to any other, or back.
//!
//! A failover starts a machine from the disks, and until it is committed the user may choose another point, also a newer one, or
//! cancel. So nothing is forgotten here: points, ways back, the generation and the acknowledged parts of the open cycle stay.
//!
//! # How
//! Before the disks leave the newest point, what it has in every block that the ways back will overwrite is saved in forward
//! deltas, durable: the *newest files*. What is in none of them is never written while the replica stands. So, whatever the disks hold
//! of the rest,
//! ```text
//! newest point = newest files, else the disk
//! any point    = the first way back from above it that holds the block, else the newest files, else the disk
//! ```
//! and every move is the same: note in the manifest where to, write all blocks that differ anywhere, flush, note that it is done. It never
//! reads the disks, so it may be repeated from any state they are left in, and a move that failed may be replaced by a move to another
//! point. Moving below the oldest point at which the replica has stood yet begins by saving what the newest files lack: those blocks are on the
//! disks as they were.
//!
//! # Who else
//! Writers are refused ([`ReplicaError::Standing`]) from the moment the manifest says so; a session that is open is ended. Of the open
//! cycle only what was acknowledged is kept: the source sends the rest again when it joins the cycle after [`DiskReplica::resume`].
//! Nothing is applied (there is nothing staged) and nothing is pruned. Views go on: the newest files are published to them, like ways
//! back, before the first block is written.
//!
//! The newest files do not count against the limit of the retention policy, which is there to trade history for space, not to stop
//! a failover. A drive that is full stops it, before anything is changed.

use switchback_model::{Epoch, ExtentSet, PartIndex, Seq};

use super::DiskReplica;
use crate::ReplicaError;
use crate::error::volume_error;
use crate::layer::{Layer, VolumeDelta};
use crate::layout::FileName;
use crate::manifest::{Manifest, NewestFile, ReverseDelta, Standing, Work};

impl NewestFile {
    pub(super) fn name(&self, of: Seq) -> FileName {
        FileName::Newest { of, part: self.part, disk: self.disk }
    }
}

impl DiskReplica {
    /// The point at which it stands and which its disks hold, durably. `None` also while they are being brought there, or when that failed.
    #[must_use]
    pub fn standing(&self) -> Option<Seq> {
        self.core().manifest.stands_at()
    }

    /// Brings the disks to the point `seq`, older or newer than what they hold, and keeps them there: until [`DiskReplica::resume`] or
    /// [`DiskReplica::settle`] all points stay, and nobody may write. May be repeated, also with another point, after an error too.
    ///
    /// # Errors
    /// [`ReplicaError::NoSuchPoint`]; [`ReplicaError::Paused`] when the retention drive has no room for the way back to the newest
    /// point, [`ReplicaError::Corrupt`] when a staged cycle cannot be applied: nothing was changed then, and
    /// [`DiskReplica::roll_back`], which needs neither, can still bring the disks to an applied point. Other errors: call again.
    pub fn stand_at(&self, seq: Seq) -> Result<(), ReplicaError> {
        // No session does anything meanwhile, so nothing is committed behind what is applied here.
        let _turn = self.turn();
        self.core().manifest.point(seq)?;
        if self.core().manifest.standing.is_none() {
            self.apply_all()?;
        }
        let _working = self.working();
        let manifest = self.core().manifest.clone();
        manifest.point(seq)?;
        if manifest.stands_at() == Some(seq) { Ok(()) } else { self.move_to(seq, &manifest) }
    }

    /// Brings the disks back to the newest point, and lets replication go on where it was, under the same generation. Nothing to do when
    /// the replica does not stand anywhere.
    ///
    /// # Errors
    /// When the disks cannot be written or a delta is damaged: it stands yet, call again.
    pub fn resume(&self) -> Result<(), ReplicaError> {
        let _turn = self.turn();
        let _working = self.working();
        let manifest = self.core().manifest.clone();
        if manifest.standing.is_none() {
            return Ok(());
        }
        let newest = manifest.applied.expect("it stands, so it has points");
        if manifest.stands_at() != Some(newest) {
            self.move_to(newest, &manifest)?;
        }
        self.publish(|manifest| manifest.standing = None)?;
        self.remove_garbage()
    }

    /// Makes the point at which the replica stands its newest one: those after it cease to exist, and changed blocks cannot follow.
    /// Nothing to do when it does not stand anywhere.
    ///
    /// # Errors
    /// [`ReplicaError::Locked`] while a point is being viewed; as [`DiskReplica::resume`] when the disks are not there yet.
    pub fn settle(&self) -> Result<(), ReplicaError> {
        let _turn = self.turn();
        let _working = self.working();
        self.check_no_views()?;
        if self.core().manifest.work == Some(Work::Stand) {
            self.finish_move()?;
        }
        let Some(at) = self.standing() else { return Ok(()) };
        self.core().parts = None;
        self.publish(|manifest| {
            manifest.standing = None;
            manifest.open = None;
            manifest.forget_after(at);
        })?;
        self.remove_garbage()
    }

    /// Refuses all writers of older epochs from now on: what a session with a newer epoch does, also while none may be opened.
    ///
    /// # Errors
    /// [`ReplicaError::StaleEpoch`] when it knows a newer one; I/O.
    pub fn fence(&self, epoch: Epoch) -> Result<(), ReplicaError> {
        let _turn = self.turn();
        let mut core = self.core();
        core.check_epoch(epoch)?;
        if epoch > core.manifest.epoch {
            core.save(&*self.volume, |manifest| manifest.epoch = epoch)?;
        }
        Ok(())
    }

    /// Saves what may be overwritten, notes the move, does it. `manifest` is what is now, nothing staged.
    fn move_to(&self, to: Seq, manifest: &Manifest) -> Result<(), ReplicaError> {
        let mut standing = manifest.standing.clone().unwrap_or(Standing {
            at: to,
            lowest: manifest.applied.expect("there is a point"),
            newest: Vec::new(),
        });
        if to < standing.lowest {
            let added = self.save_newest(to, manifest, &standing)?;
            standing.newest.extend(added);
            standing.lowest = to;
        }
        standing.at = to;
        {
            let mut core = self.core();
            core.writer = None;
            // The rest has no durable name; the source is told what the next part is.
            if let Some(parts) = &mut core.parts {
                parts.done.truncate(parts.synced);
            }
        }
        self.publish(|manifest| {
            manifest.standing = Some(standing);
            manifest.work = Some(Work::Stand);
        })?;
        self.finish_move()
    }

    /// Saves what the newest point has in the blocks of the ways back from above `to` that no file holds yet.
    fn save_newest(
        &self,
        to: Seq,
        manifest: &Manifest,
        standing: &Standing,
    ) -> Result<Vec<NewestFile>, ReplicaError> {
        let newest = manifest.applied.expect("there is a point");
        let part = standing.newest.last().map_or(PartIndex(0), |file| file.part.next());
        let mut added: Vec<NewestFile> = Vec::new();
        let saved = self.disk_indexes().try_for_each(|disk| {
            let mut lacking = ExtentSet::new();
            for delta in above(&manifest.reverse, to).flat_map(ReverseDelta::names) {
                if delta.disk() == disk {
                    lacking.extend(self.open_delta(delta)?.file.entries().iter().map(|entry| entry.extent));
                }
            }
            for file in standing.newest.iter().filter(|file| file.disk == disk) {
                let held = self.open_delta(file.name(newest))?;
                for entry in held.file.entries() {
                    lacking.remove(entry.extent);
                }
            }
            let file = NewestFile { part, disk, file_len: 0 };
            if let Some(file_len) = self.save_contents(file.name(newest), &lacking)? {
                added.push(NewestFile { file_len, ..file });
            }
            Ok(())
        });
        let saved = saved.and_then(|()| {
            self.volume.sync().map_err(|e| volume_error(&*self.volume, "syncing the directory", &e))
        });
        if saved.is_err() {
            // Room for what comes instead; if even this fails, the next opening removes them.
            self.remove_files(added.iter().map(|file| file.name(newest))).ok();
        }
        saved.map(|()| added)
    }

    /// Brings the disks to where the manifest says that they are to stand. May be repeated.
    pub(super) fn finish_move(&self) -> Result<(), ReplicaError> {
        let manifest = self.core().manifest.clone();
        let (standing, newest) =
            manifest.standing.as_ref().zip(manifest.applied).expect("a move has its destination noted");
        for disk in self.disk_indexes() {
            let mut layer = Layer::default();
            let back = above(&manifest.reverse, standing.at).flat_map(ReverseDelta::names);
            // At the oldest point ever stood at, and below, the ways back hold all of it.
            let forward = standing.newest.iter().filter(|_| standing.at > standing.lowest);
            for name in back.chain(forward.map(|file| file.name(newest))) {
                if name.disk() == disk {
                    layer.put_under(self.open_delta(name)?);
                }
            }
            self.write_layer(disk, &layer)?;
        }
        self.settle_disks()?;
        self.publish(|manifest| manifest.work = None)?;
        self.remove_garbage()
    }

    fn open_delta(&self, name: FileName) -> Result<VolumeDelta, ReplicaError> {
        VolumeDelta::open(&*self.volume, name, self.config.key.as_ref())
    }
}

/// The ways back from points above `seq`.
fn above(reverse: &[ReverseDelta], seq: Seq) -> impl Iterator<Item = &ReverseDelta> {
    reverse.iter().filter(move |delta| delta.from > seq)
}
