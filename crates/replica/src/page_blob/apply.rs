//! Rounds: what is staged, coalesced, onto the page blobs; then snapshots. And what lets go of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

use bytes::Bytes;
use switchback_delta::{DeltaFile, Digest, LEAF};
use switchback_disk::{Disk, parallel};
use switchback_model::{Extent, ExtentSet, Seq};

use super::cache::PartReader;
use super::error::{blob_error, io_error, page_error};
use super::manifest::{Base, BlobManifest, StagedCycle};
use super::pages::PageBlob;
use super::store::{PAGE, PAGES_MAX, SnapshotId};
use super::{Behind, PageBlobReplica};
use crate::ReplicaError;
use crate::digest_file::nodes_of;
use crate::layer::{Layer, NamedDelta};

/// A snapshot's metadata: under which opening it was taken, and of which point it is.
pub(super) const OPENING: &str = "switchback_opening";
const POINT: &str = "switchback_point";

/// Zeros that are cleared rather than written, where they lie within other data: as many as a leaf. Shorter runs go along with their
/// neighbours, as a page blob takes few requests a second.
const ZERO_RUN_MIN: u64 = LEAF as u64;

/// Between two looks at whether somebody is at work on the page blobs yet.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(super) type PartLayer = Layer<String, PartReader>;

/// What was written to a disk: for the digests.
type Written = Vec<(Extent, Vec<Digest>)>;

impl PageBlobReplica {
    /// Brings the page blobs to the newest point and lets expired points go. Called after each commit, by a thread of its own (see
    /// [`crate::Applier::of`]). While clones of a point stand, nothing is done.
    ///
    /// # Errors
    /// Those of the store: nothing is lost, call again. [`ReplicaError::Locked`] and [`ReplicaError::StaleEpoch`]: another process has the
    /// replica; this one must be dropped.
    pub fn maintain(&self) -> Result<(), ReplicaError> {
        self.apply_all().and_then(|()| self.prune())
    }

    /// Brings the page blobs to the newest point.
    ///
    /// # Errors
    /// As [`PageBlobReplica::maintain`].
    pub fn apply_all(&self) -> Result<(), ReplicaError> {
        while self.apply_round()? {}
        Ok(())
    }

    /// Waits until the page blobs are near enough to the newest point for another cycle to be staged. The round in hand may be all that it
    /// takes: the next one is not waited for then.
    pub(super) fn make_room(&self) -> Result<(), ReplicaError> {
        let mut told = false;
        loop {
            self.manifest()?;
            let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            let Behind { cycles, bytes } = shown.manifest.behind();
            if cycles < self.config.staged_cycles_max {
                return Ok(());
            }
            if !matches!(self.work.try_lock(), Err(TryLockError::WouldBlock)) {
                drop(shown);
                return self.maintain();
            }
            if !told {
                tracing::warn!(
                    cycles,
                    bytes,
                    "the page blobs are so far behind that a new cycle waits for them"
                );
                told = true;
            }
            // It ends with the round at the latest, whatever becomes of that.
            let waited = self.shown_anew.wait_timeout(shown, LOOK_AGAIN);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn apply_round(&self) -> Result<bool, ReplicaError> {
        let _working = self.working();
        let mut manifest = self.manifest()?;
        if manifest.standing.is_some() || manifest.removing {
            return Ok(false);
        }
        if manifest.applying.is_none() {
            let newest = manifest.staged.last().map(|cycle| cycle.seq);
            let Some(to) = newest.filter(|to| Some(*to) > manifest.applied()) else { return Ok(false) };
            let mut core = self.core();
            self.save(&mut core, |manifest| manifest.applying = Some(to))?;
            manifest = core.manifest.clone();
        }
        match self.finish_round(&manifest) {
            Err(ReplicaError::Corrupt { detail }) => self.give_up_staged(&detail)?,
            Err(error) => return Err(self.lost_or(error)),
            Ok(()) => {}
        }
        Ok(true)
    }

    /// A page could not be written: perhaps because another process has taken the replica over.
    pub(super) fn lost_or(&self, error: ReplicaError) -> ReplicaError {
        let mut core = self.core();
        core.uncertain = true;
        if let Err(lost @ (ReplicaError::Locked { .. } | ReplicaError::StaleEpoch { .. })) =
            core.settle(&*self.store)
        {
            return lost;
        }
        let leased = core.manifest.leased();
        drop(core);
        for blob in leased {
            // Somebody ended it by hand: this process still has the replica. If it was not that, this changes nothing.
            self.store.acquire_lease(&blob, self.lease.id()).ok();
        }
        error
    }

    /// Does the round that the manifest says is being done. May be repeated.
    fn finish_round(&self, manifest: &BlobManifest) -> Result<(), ReplicaError> {
        self.renew_leases()?;
        let to = manifest.applying.expect("the caller noted it");
        let applied = manifest.applied();
        let layers = self.layers(manifest, manifest.cycles(applied.unwrap_or(Seq(0)), to))?;
        let mut base = Base { seq: to, disks: Vec::new() };
        for ((disk, spec), layer) in manifest.disk_indexes().zip(&manifest.disks).zip(&layers) {
            let before = manifest.bases.last().and_then(|base| base.disks[usize::from(disk.0)].clone());
            if layer.extents().is_empty() {
                base.disks.push(before);
                continue;
            }
            let target = self.disk(manifest, disk);
            self.digests(disk).expect(nodes_of(&layer.extents()));
            self.write_layer(&target, spec.size, layer, |written| {
                let mut digests = self.digests(disk);
                written.iter().try_for_each(|(extent, new)| digests.written(*extent, new))
            })?;
            let synced = self.digests(disk).sync();
            synced.map_err(|e| page_error(&*self.store, "writing digests", &e))?;
            base.disks.push(Some(self.snapshot(&target.blob, manifest.opening, to)?));
        }
        let mut core = self.core();
        let before = core.manifest.blobs();
        self.save(&mut core, |manifest| {
            manifest.applying = None;
            manifest.bases.push(base);
            manifest.let_go(&BTreeSet::new());
        })?;
        self.forget(core, before, manifest)
    }

    /// Deletes the blobs and snapshots that a change of the manifest has ceased to name.
    pub(super) fn forget(
        &self,
        core: std::sync::MutexGuard<'_, super::save::Core>,
        mut before: BTreeSet<String>,
        old: &BlobManifest,
    ) -> Result<(), ReplicaError> {
        let now = core.manifest.clone();
        drop(core);
        let kept = now.blobs();
        before.retain(|blob| !kept.contains(blob));
        self.delete_blobs(before);
        // Those of a page blob that goes, go with it.
        let kept = now.snapshots();
        for (blob, snapshots) in old.snapshots() {
            let Some(kept) = kept.get(&blob) else { continue };
            for snapshot in snapshots.difference(kept) {
                let deleted = self.store.delete_snapshot(&blob, snapshot);
                deleted.map_err(|e| blob_error(&*self.store, "deleting a snapshot", &e))?;
            }
        }
        Ok(())
    }

    pub(super) fn snapshot(&self, blob: &str, opening: u64, of: Seq) -> Result<SnapshotId, ReplicaError> {
        let metadata =
            BTreeMap::from([(OPENING.into(), opening.to_string()), (POINT.into(), of.to_string())]);
        let taken = self.store.snapshot(blob, Some(self.lease.id()), &metadata);
        taken.map_err(|error| page_error(&*self.store, "taking a snapshot", &io_error(error)))
    }

    /// A staged cycle turns out to be damaged or gone. The points above the newest base are lost with it, and what is on the page blobs is not
    /// known any more: a resync reads them, and sends what differs. The points in snapshots are whole.
    fn give_up_staged(&self, detail: &str) -> Result<(), ReplicaError> {
        let manifest = self.manifest()?;
        let digests = self.new_digests(&manifest)?;
        let applied = manifest.applied();
        tracing::error!(%detail, back_to = ?applied, "a staged cycle is damaged and given up; a resync will follow");
        let mut core = self.core();
        core.writer = None;
        let before = core.manifest.blobs();
        self.save(&mut core, |manifest| {
            manifest.applying = None;
            manifest.open = None;
            manifest.generation = None;
            manifest.digests = digests;
            manifest.points.retain(|point| Some(point.seq) <= applied);
            manifest.members.follow(&manifest.points);
            if manifest.points.is_empty() {
                // The point that was made of the newest snapshots has been let go: the numbers begin anew.
                manifest.bases.clear();
            }
            manifest.staged.retain(|cycle| Some(cycle.seq) <= applied);
        })?;
        core.keep_acknowledged();
        let now = core.manifest.clone();
        self.reopen_digests(&now);
        for blob in manifest.digests.blobs.iter().filter(|blob| !blob.is_empty()) {
            self.store.release_lease(blob, self.lease.id()).ok();
        }
        self.forget(core, before, &manifest)
    }

    /// Some cycles laid over each other: one layer for each disk.
    pub(super) fn layers<'a>(
        &self,
        manifest: &BlobManifest,
        cycles: impl Iterator<Item = &'a StagedCycle>,
    ) -> Result<Vec<PartLayer>, ReplicaError> {
        let mut layers: Vec<PartLayer> = manifest.disks.iter().map(|_| Layer::default()).collect();
        for part in cycles.flat_map(|cycle| &cycle.parts) {
            let file = self.open_part(manifest, &part.blob, part.len)?;
            layers[usize::from(part.disk.0)].put_over(NamedDelta { name: part.blob.clone(), file });
        }
        Ok(layers)
    }

    pub(super) fn open_part(
        &self,
        manifest: &BlobManifest,
        blob: &str,
        len: u64,
    ) -> Result<DeltaFile<PartReader>, ReplicaError> {
        let reader = PartReader::new(&self.store, &self.cache, blob, len);
        let file = DeltaFile::open(reader, self.config.key.as_ref());
        let file = file.map_err(|e| crate::layer::DeltaPlace::failed(&*self.store, &blob, &e))?;
        if file.header().replica != manifest.id {
            let detail = format!("{blob} is of replica {}, not of {}", file.header().replica, manifest.id);
            return Err(ReplicaError::Corrupt { detail });
        }
        Ok(file)
    }

    /// Writes all that a layer holds to a page blob.
    pub(super) fn write_layer(
        &self,
        target: &PageBlob,
        disk_size: u64,
        layer: &PartLayer,
        mut note: impl FnMut(&Written) -> std::io::Result<()>,
    ) -> Result<(), ReplicaError> {
        let held = layer.extents();
        let pages: ExtentSet = held.iter().map(|extent| extent.aligned_to(PAGE, target.size)).collect();
        let runs: Vec<_> = pages.iter().flat_map(|run| run.pieces(PAGES_MAX)).collect();
        let write = |run: &Extent| self.write_run(target, disk_size, layer, *run);
        parallel::ordered(runs.iter(), self.config.io_threads, write, |written| {
            note(&written).map_err(|e| page_error(&*self.store, "writing digests", &e))
        })
    }

    /// Writes one run of pages, all of which the layer holds but for some bytes at the ends of its extents.
    fn write_run(
        &self,
        target: &PageBlob,
        disk_size: u64,
        layer: &PartLayer,
        run: Extent,
    ) -> Result<Written, ReplicaError> {
        let failed =
            |error: &std::io::Error| page_error(&*self.store, &format!("writing {}", target.blob), error);
        let mut data = vec![0; usize::try_from(run.len).expect("at most PAGES_MAX")];
        let place = |extent: Extent| {
            let from = usize::try_from(extent.start - run.start).expect("within a run");
            from..from + usize::try_from(extent.len).expect("within a run")
        };
        let mut written = Written::new();
        for (piece, at) in layer.lookup(run.intersection(Extent::new(0, disk_size))) {
            if let Some(at) = at {
                let (contents, digests) = layer.read(&*self.store, piece, at)?;
                data[place(piece)].copy_from_slice(&contents);
                written.push((piece, digests));
                continue;
            }
            // Only where the source's blocks are not whole pages: the rest of these pages stays as it is.
            Disk::read_at(target, piece.start, &mut data[place(piece)]).map_err(|e| failed(&e))?;
        }
        let data = Bytes::from(data);
        for (part, zero) in zero_runs(&data) {
            let extent = Extent::new(run.start + part.start, part.len);
            let done = if zero {
                target.clear_pages(extent)
            } else {
                target.write_pages(extent.start, &data.slice(place(extent)))
            };
            done.map_err(|e| failed(&e))?;
        }
        Ok(written)
    }

    /// Lets go what the retention policy does not keep.
    ///
    /// # Errors
    /// As [`PageBlobReplica::maintain`].
    pub fn prune(&self) -> Result<(), ReplicaError> {
        let manifest = self.manifest()?;
        let mut unwanted: BTreeSet<_> = self.config.retention.expired(&manifest.points).into_iter().collect();
        if let Some(limit) = self.config.retention.bytes_max {
            let mut trial = manifest.clone();
            trial.let_go(&unwanted);
            while trial.bytes_kept() > limit && trial.points.len() > 1 {
                let oldest = trial.points[0].seq;
                unwanted.insert(oldest);
                trial.let_go(&BTreeSet::from([oldest]));
            }
        }
        self.drop_points(&unwanted)
    }

    /// Drops these points, but for the newest one and those that are viewed, with what only they need. While clones of a point stand somebody is choosing among
    /// all of them, and none goes.
    ///
    /// # Errors
    /// As [`PageBlobReplica::maintain`].
    pub fn drop_points(&self, unwanted: &BTreeSet<Seq>) -> Result<(), ReplicaError> {
        let _working = self.working();
        let manifest = self.manifest()?;
        let newest = manifest.points.last().map(|point| point.seq);
        // Held to the end: nobody opens a view of what is about to go.
        let mut core = self.core();
        let goes =
            |seq: &Seq| Some(*seq) != newest && unwanted.contains(seq) && !core.viewed.contains_key(seq);
        let dropped: BTreeSet<_> = manifest.points.iter().map(|point| point.seq).filter(goes).collect();
        if dropped.is_empty() || manifest.standing.is_some() {
            return Ok(());
        }
        let before = core.manifest.blobs();
        self.save(&mut core, |manifest| manifest.let_go(&dropped))?;
        self.forget(core, before, &manifest)
    }
}

/// Cuts whole pages into runs that are zero and long enough to be cleared, and the rest.
pub(super) fn zero_runs(data: &[u8]) -> Vec<(Extent, bool)> {
    let mut runs: Vec<(Extent, bool)> = Vec::new();
    for (at, page) in (0_u64..).step_by(512).zip(data.chunks(512)) {
        let zero = *page == [0; 512][..page.len()];
        match runs.last_mut() {
            Some((run, is_zero)) if *is_zero == zero => run.len += page.len() as u64,
            _ => runs.push((Extent::new(at, page.len() as u64), zero)),
        }
    }
    let whole = runs.len() == 1;
    let mut joined: Vec<(Extent, bool)> = Vec::new();
    for (run, zero) in runs {
        let cleared = zero && (whole || run.len >= ZERO_RUN_MIN);
        match joined.last_mut() {
            Some((last, false)) if !cleared => last.len += run.len,
            _ => joined.push((run, cleared)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use switchback_model::Extent;

    use super::zero_runs;

    #[test]
    fn only_long_runs_of_zeros_are_cleared_between_data() {
        let mut data = vec![0; 300 << 10];
        assert_eq!(zero_runs(&data[..512]), [(Extent::new(0, 512), true)]);
        data[0] = 1;
        data[1000] = 1;
        data[(100 << 10) + 5] = 1;
        data[(120 << 10) + 5] = 1;
        let data_from = 100 << 10;
        assert_eq!(
            zero_runs(&data),
            [
                (Extent::new(0, 1024), false),
                (Extent::between(1024, data_from), true),
                (Extent::between(data_from, (120 << 10) + 512), false),
                (Extent::between((120 << 10) + 512, 300 << 10), true),
            ]
        );
    }
}
