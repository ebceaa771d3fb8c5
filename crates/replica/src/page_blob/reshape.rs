//! Disks that come to a replica in blobs, and that leave it: see [`crate::membership`]. And which page blob is which disk's in another history.
//!
//! # Names
//! A page blob is known by its name, which its site has given to it and gives to no other disk of the folder again. Within a history each disk keeps its page blob;
//! another history counts its disks anew, and finds those it takes over by the names of their page blobs.
//!
//! # Blobs that come and go
//! ```text
//! a disk comes   page blob and side-car are noted (`dropped`) ─▶ they are made, their leases taken ─▶ the manifest has the disk
//! a disk goes    the manifest has it no more, and notes its page blob and side-car (`dropped`) ─▶ they are deleted, whoever had their leases
//! ```
//! So a process that is killed between any two requests leaves nothing that is not noted: what was being made is deleted by the next opening or attempt, what was to be
//! deleted as well. Requests of a process that has lost the replica find no lease of theirs.

use std::sync::{MutexGuard, PoisonError};

use switchback_model::{DiskIndex, RecoveryPoint};

use super::PageBlobReplica;
use super::error::blob_error;
use super::manifest::{Base, BlobManifest, Clones};
use super::open::{SIDE_CAR, check_sizes, make_empty, make_footer, take_lease};
use super::save::Core;
use super::store::BlobError;
use super::vhd;
use crate::membership::Membership;
use crate::{DiskSpec, ReplicaError};

/// A disk that a replica in blobs is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobDisk {
    /// The name of its page blob, which is no other disk's and never was; `None`: the disk was removed.
    pub blob: Option<String>,
    /// Bytes.
    pub size: u64,
}

impl BlobDisk {
    pub(super) fn spec(&self) -> DiskSpec {
        DiskSpec { size: self.size }
    }

    pub(super) fn name(&self) -> String {
        self.blob.clone().unwrap_or_default()
    }
}

/// Those that were removed. Ascending.
pub(super) fn removed(disks: &[BlobDisk]) -> Vec<DiskIndex> {
    let numbered = (0..).map(DiskIndex).zip(disks);
    numbered.filter(|(_, disk)| disk.blob.is_none()).map(|(disk, _)| disk).collect()
}

impl PageBlobReplica {
    /// Its disks, with those that were removed.
    #[must_use]
    pub fn disks(&self) -> Vec<BlobDisk> {
        self.shown().manifest.blob_disks()
    }

    /// Gives the replica these disks: some may have come behind the others, some may have been removed. Sessions end, if anything changes. May be repeated.
    ///
    /// # Errors
    /// [`ReplicaError::DisksChanged`] when a disk would be resized, be on another page blob, be taken away without being removed, or come back; or none would be left.
    /// [`ReplicaError::Standing`]; [`ReplicaError::Protocol`] before its first point, when it can simply be made anew; those of the store.
    pub fn reshape(&self, disks: &[BlobDisk]) -> Result<(), ReplicaError> {
        let _turn = self.turn();
        let _working = self.working();
        self.delete_dropped()?;
        self.core().check_not_standing()?;
        let before = self.manifest()?;
        let mut shaped = before.clone();
        let BlobManifest { members, disks: specs, points, .. } = &mut shaped;
        let sizes: Vec<_> = disks.iter().map(BlobDisk::spec).collect();
        let change = members.reshape(specs, points, &sizes, &removed(disks))?;
        check_sizes(disks)?;
        for disk in before.present() {
            let (is, wanted) = (before.page_blob(disk), &disks[usize::from(disk.0)].blob);
            if let Some(wanted) = wanted.as_ref().filter(|wanted| **wanted != is) {
                let detail = format!("disk {disk} is in the page blob {is}, and cannot be in {wanted} now");
                return Err(ReplicaError::DisksChanged { detail });
            }
        }
        if shaped == before {
            return Ok(());
        }
        self.end_sessions();
        let mut core = self.owned()?;
        let side_cars = self.make_disks(&mut core, &change.added, disks)?;
        let before = core.manifest.clone();
        self.save(&mut core, |manifest| {
            for (at, side_car) in (before.disks.len()..).zip(side_cars) {
                manifest.digests.blobs.insert(at, side_car);
                manifest.bases.iter_mut().for_each(|base| base.disks.push(None));
                clones_of(manifest).for_each(|clones| clones.blobs.push(String::new()));
            }
            manifest.dropped.clear();
            for disk in &change.removed {
                let left = forget_disk(manifest, *disk);
                manifest.dropped.extend(left);
            }
            (manifest.disks, manifest.members, manifest.points) =
                (shaped.disks, shaped.members, shaped.points);
            manifest.set_page_blobs(disks.iter().map(BlobDisk::name).collect());
        })?;
        self.end_former(core, &before)
    }

    /// Other disks are saved: what is known of their pages is read anew, and what only `before` had is deleted.
    pub(super) fn end_former(
        &self,
        mut core: MutexGuard<'_, Core>,
        before: &BlobManifest,
    ) -> Result<(), ReplicaError> {
        core.keep_acknowledged();
        let now = core.manifest.clone();
        self.reopen_digests(&now);
        self.forget(core, before.blobs(), before)?;
        self.delete_dropped()
    }

    /// Nobody writes any more, and what is being filled has ended.
    pub(super) fn end_sessions(&self) {
        self.core().writer = None;
        drop(self.gate.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The manifest, read anew: blobs are going to be made that another process may have made, had it taken the replica over.
    pub(super) fn owned(&self) -> Result<MutexGuard<'_, Core>, ReplicaError> {
        let mut core = self.core();
        core.uncertain = true;
        core.settle(&*self.store)?;
        Ok(core)
    }

    /// Makes the page blobs of some disks, empty, and a side-car beside each: the names of these.
    pub(super) fn make_disks(
        &self,
        core: &mut Core,
        new: &[DiskIndex],
        disks: &[BlobDisk],
    ) -> Result<Vec<String>, ReplicaError> {
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let (id, opening) = (core.manifest.id, core.manifest.opening);
        let side_cars: Vec<_> = new.iter().map(|_| self.new_name(opening, SIDE_CAR)).collect();
        let page_blobs = new.iter().map(|disk| disks[usize::from(disk.0)].name());
        self.save(core, |manifest| manifest.dropped.extend(page_blobs.chain(side_cars.iter().cloned())))?;
        for (disk, side_car) in new.iter().zip(&side_cars) {
            let (blob, size) = (disks[usize::from(disk.0)].name(), disks[usize::from(disk.0)].size);
            let failed = |error: BlobError| blob_error(&*self.store, &format!("making {blob}"), &error);
            make_empty(&*self.store, &blob, vhd::blob_len(size)).map_err(failed)?;
            take_lease(&*self.store, &blob, self.lease.id(), true)?;
            make_footer(&*self.store, &blob, size, Some(self.lease.id()), id, *disk).map_err(failed)?;
            self.make_side_car(side_car, size)?;
        }
        Ok(side_cars)
    }

    /// Deletes what is of no use any more, and notes that it is gone.
    pub(super) fn delete_dropped(&self) -> Result<(), ReplicaError> {
        let dropped = self.manifest()?.dropped;
        if dropped.is_empty() {
            return Ok(());
        }
        for blob in &dropped {
            let freed = match self.store.break_lease(blob) {
                Err(BlobError::Missing { .. }) => Ok(()),
                other => other,
            };
            let deleted = freed.and_then(|()| self.store.delete(blob, None));
            deleted.map_err(|e| blob_error(&*self.store, &format!("deleting {blob}"), &e))?;
        }
        self.save(&mut self.core(), |manifest| manifest.dropped.clear())
    }
}

fn clones_of(manifest: &mut BlobManifest) -> impl Iterator<Item = &mut Clones> {
    manifest.standing.iter_mut().chain(manifest.views.values_mut())
}

/// Names nothing of a disk any more but its parts in the open cycle, which are counted. What is to be deleted whoever has its lease.
fn forget_disk(manifest: &mut BlobManifest, disk: DiskIndex) -> [String; 2] {
    let (at, page_blob) = (usize::from(disk.0), manifest.page_blob(disk));
    manifest.bases.iter_mut().for_each(|base| base.disks[at] = None);
    manifest.staged.iter_mut().for_each(|cycle| cycle.parts.retain(|part| part.disk != disk));
    clones_of(manifest).for_each(|clones| clones.blobs[at].clear());
    [page_blob, std::mem::take(&mut manifest.digests.blobs[at])]
}

/// Which disks of a former history another one has, and which are new to it.
pub(super) struct Successors {
    /// By number, what they were; `None`: new, or removed.
    former: Vec<Option<DiskIndex>>,
    pub(super) new: Vec<DiskIndex>,
    /// Blobs of disks that it does not have.
    left: Vec<String>,
}

impl Successors {
    /// By the names of their page blobs.
    ///
    /// # Errors
    /// [`ReplicaError::DisksChanged`]: one has another size now.
    pub(super) fn find(manifest: &BlobManifest, disks: &[BlobDisk]) -> Result<Self, ReplicaError> {
        check_sizes(disks)?;
        let (mut former, mut new) = (Vec::new(), Vec::new());
        for (disk, wanted) in (0..).map(DiskIndex).zip(disks) {
            let name = wanted.name();
            let found = manifest.present().find(|former| manifest.page_blob(*former) == name);
            let size = found.map(|former| manifest.disks[usize::from(former.0)].size);
            if let Some(size) = size.filter(|size| *size != wanted.size) {
                let detail = format!(
                    "the page blob {name} is of a disk of {size} bytes, and is to be one of {} now",
                    wanted.size
                );
                return Err(ReplicaError::DisksChanged { detail });
            }
            if found.is_none() && wanted.blob.is_some() {
                new.push(disk);
            }
            former.push(found);
        }
        let left = manifest
            .present()
            .filter(|disk| !former.contains(&Some(*disk)))
            .flat_map(|disk| [manifest.page_blob(disk), manifest.digests.blobs[usize::from(disk.0)].clone()]);
        Ok(Self { left: left.collect(), former, new })
    }

    /// Counts the disks of a manifest that has one base at most, and no other point than what that is made of, as the successor does.
    pub(super) fn apply(self, manifest: &mut BlobManifest, disks: &[BlobDisk], side_cars: Vec<String>) {
        let mut side_cars = side_cars.into_iter();
        let digests = self.former.iter().zip(disks).map(|(former, wanted)| match (former, &wanted.blob) {
            (Some(former), _) => manifest.digests.blobs[usize::from(former.0)].clone(),
            (None, Some(_)) => side_cars.next().unwrap_or_default(),
            (None, None) => String::new(),
        });
        manifest.digests.blobs = digests.collect();
        for Base { disks, .. } in &mut manifest.bases {
            let of =
                |former: &Option<DiskIndex>| former.and_then(|former| disks[usize::from(former.0)].clone());
            *disks = self.former.iter().map(of).collect();
        }
        for RecoveryPoint { lacks, .. } in &mut manifest.points {
            let is_held = |former: &Option<DiskIndex>| former.is_some_and(|former| !lacks.contains(&former));
            let numbered = (0..).map(DiskIndex).zip(&self.former);
            *lacks = numbered.filter(|(_, former)| !is_held(former)).map(|(disk, _)| disk).collect();
        }
        manifest.disks = disks.iter().map(BlobDisk::spec).collect();
        manifest.members = Membership { seeding: Vec::new(), removed: removed(disks) };
        manifest.set_page_blobs(disks.iter().map(BlobDisk::name).collect());
        manifest.dropped = self.left;
    }
}
