//! Clones of a point: for a failover, where the replica *stands* until that is committed or cancelled, and for test failovers.
//!
//! A clone is a page blob of its own, made in the store from the snapshot that is the point's base; the cycles between are written to it. Noted in the
//! manifest before the first is made, and again when all are whole; made anew from the start after a crash, under new names. The page blobs
//! that are replicated to stay as they are.

use switchback_model::{ObjectName, Seq};

use super::PageBlobReplica;
use super::error::blob_error;
use super::manifest::{BlobManifest, Clones};
use super::open::make_footer;
use super::pages::PageBlob;
use super::store::PAGE;
use super::vhd;
use crate::ReplicaError;

impl PageBlobReplica {
    /// Makes clones of the disks as they were at point `seq`, for a failover; until [`PageBlobReplica::resume`] all points stay, and nobody
    /// may write. May be repeated, also with another point: then those of the one before are deleted. The page blobs, one for each disk; empty names for
    /// those that the point lacks.
    ///
    /// # Errors
    /// [`ReplicaError::NoSuchPoint`]; [`ReplicaError::Corrupt`] when what the point is made of is damaged: choose another; those of the
    /// store: call again.
    pub fn stand_at(&self, seq: Seq) -> Result<Vec<String>, ReplicaError> {
        // No session does anything meanwhile.
        let _turn = self.turn();
        let _working = self.working();
        let manifest = self.manifest()?;
        manifest.point(seq)?;
        let before = manifest.standing.clone();
        if let Some(clones) = before.as_ref().filter(|clones| clones.ready && clones.at == seq) {
            return Ok(clones.blobs.clone());
        }
        {
            let mut core = self.core();
            core.writer = None;
            // The source is told what the next part is, and sends the rest again.
            core.keep_acknowledged();
        }
        let made = self.make_clones(&manifest, seq, |manifest, clones| manifest.standing = Some(clones))?;
        self.delete_blobs(before.into_iter().flat_map(|clones| clones.blobs));
        Ok(made)
    }

    /// Deletes the clones, and lets replication go on where it was. Nothing to do when the replica does not stand anywhere.
    ///
    /// # Errors
    /// Those of the store: call again.
    pub fn resume(&self) -> Result<(), ReplicaError> {
        let _turn = self.turn();
        let _working = self.working();
        let Some(clones) = self.manifest()?.standing else { return Ok(()) };
        self.save(&mut self.core(), |manifest| manifest.standing = None)?;
        self.delete_blobs(clones.blobs);
        Ok(())
    }

    /// Makes clones of a point beside replication, which goes on; `name` tells them apart from others. May be repeated; another point replaces
    /// the clones. The page blobs, one for each disk; empty names for those that the point lacks.
    ///
    /// # Errors
    /// As [`PageBlobReplica::stand_at`].
    pub fn view(&self, name: &ObjectName, seq: Seq) -> Result<Vec<String>, ReplicaError> {
        let _working = self.working();
        let manifest = self.manifest()?;
        manifest.point(seq)?;
        let before = manifest.views.get(name.as_str()).cloned();
        if let Some(clones) = before.as_ref().filter(|clones| clones.ready && clones.at == seq) {
            return Ok(clones.blobs.clone());
        }
        let made = self.make_clones(&manifest, seq, |manifest, clones| {
            manifest.views.insert(name.to_string(), clones);
        })?;
        self.delete_blobs(before.into_iter().flat_map(|clones| clones.blobs));
        Ok(made)
    }

    /// Deletes the clones of a view. One that is not there is no error.
    ///
    /// # Errors
    /// Those of the store: call again.
    pub fn drop_view(&self, name: &ObjectName) -> Result<(), ReplicaError> {
        let _working = self.working();
        let Some(clones) = self.manifest()?.views.remove(name.as_str()) else { return Ok(()) };
        self.save(&mut self.core(), |manifest| {
            manifest.views.remove(name.as_str());
        })?;
        self.delete_blobs(clones.blobs);
        Ok(())
    }

    /// Removes everything of the replica, the manifest last. May be repeated; an opening after an interrupted removal can only go on with it.
    ///
    /// # Errors
    /// Those of the store: call again.
    pub fn remove(&self) -> Result<(), ReplicaError> {
        let _turn = self.turn();
        let _working = self.working();
        self.delete_dropped()?;
        let failed = |error: &_| blob_error(&*self.store, "removing the replica", error);
        let mut core = self.core();
        core.settle(&*self.store)?;
        core.writer = None;
        if !core.manifest.removing {
            self.save(&mut core, |manifest| manifest.removing = true)?;
        }
        let leased = core.manifest.leased();
        let listed = self.store.list("").map_err(|e| failed(&e))?;
        let blobs = listed.into_iter().filter(|entry| entry.snapshot.is_none()).map(|entry| entry.name);
        for blob in blobs.filter(|name| super::opening_of(name).is_some() || leased.contains(name)) {
            let lease = leased.contains(&blob).then(|| self.lease.id());
            self.store.delete(&blob, lease).map_err(|e| failed(&e))?;
        }
        self.store.delete(super::manifest::MANIFEST, None).map_err(|e| failed(&e))?;
        core.lost = Some(ReplicaError::Locked { holder: "nobody; the replica was removed".into() });
        Ok(())
    }

    fn make_clones(
        &self,
        manifest: &BlobManifest,
        seq: Seq,
        note: impl Fn(&mut BlobManifest, Clones),
    ) -> Result<Vec<String>, ReplicaError> {
        let lacks = &manifest.point(seq)?.lacks;
        let name = |disk: switchback_model::DiskIndex| match lacks.contains(&disk) {
            true => String::new(),
            false => self.new_name(manifest.opening, &format!("disk-{}-at.vhd", disk.0)),
        };
        let mut clones = Clones { at: seq, blobs: manifest.disk_indexes().map(name).collect(), ready: false };
        self.save(&mut self.core(), |manifest| note(manifest, clones.clone()))?;
        let base = manifest.base_of(seq);
        let from = base.map_or(Seq(0), |base| base.seq);
        let layers = self.layers(manifest, manifest.cycles(from, seq))?;
        for (((disk, spec), layer), blob) in
            manifest.disk_indexes().zip(&manifest.disks).zip(&layers).zip(&clones.blobs)
        {
            if blob.is_empty() {
                continue;
            }
            let snapshot = base.and_then(|base| base.disks[usize::from(disk.0)].as_ref());
            let made = match snapshot {
                Some(snapshot) => self.store.clone_snapshot(&manifest.page_blob(disk), snapshot, blob),
                None => self.store.create_pages(blob, vhd::blob_len(spec.size)),
            };
            // Also over the snapshot's: whatever somebody did to the page blob, a machine can start from its clone.
            let made =
                made.and_then(|()| make_footer(&*self.store, blob, spec.size, None, manifest.id, disk));
            made.map_err(|e| blob_error(&*self.store, &format!("making {blob} as of point {seq}"), &e))?;
            let (store, blob) = (self.store.clone(), blob.clone());
            let target = PageBlob { store, blob, lease: None, size: spec.size.next_multiple_of(PAGE) };
            self.write_layer(&target, spec.size, layer, |_| Ok(()))?;
        }
        clones.ready = true;
        self.save(&mut self.core(), |manifest| note(manifest, clones.clone()))?;
        Ok(clones.blobs)
    }
}
