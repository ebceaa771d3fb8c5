//! The manifest as this process has it, and how it is replaced.
//!
//! A replacement whose answer is lost may have happened, and may yet happen. So after any failure the manifest is read again: it is what was
//! to be written, or an earlier state of this opening, from which everything goes on; or another's, and then this process has lost the
//! replica for good. As long as it cannot be read nothing is done (`uncertain`).

use std::collections::BTreeMap;
use std::sync::PoisonError;

use bytes::Bytes;
use switchback_model::{Epoch, PartIndex, Seq, WriterId};

use super::error::blob_error;
use super::manifest::{BlobManifest, MANIFEST, OpenRecord};
use super::store::{BlobError, BlobStore, ETag, PutIf};
use super::{PageBlobReplica, StagedPart};
use crate::{OpenCycleStatus, PauseReason, ReplicaError};

/// What changes.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) manifest: BlobManifest,
    pub(super) etag: ETag,
    /// A replacement of the manifest failed, and what is there could not be read yet.
    pub(super) uncertain: bool,
    /// Another process has the replica, or a newer epoch: why nothing is done here any more.
    pub(super) lost: Option<ReplicaError>,
    /// The open cycle's parts, the acknowledged ones first.
    pub(super) parts: Vec<StagedPart>,
    /// As many parts of the open cycle have ended, if they go straight to the page blobs.
    pub(super) filled: u32,
    /// Who writes, and in which of the sessions opened so far.
    pub(super) writer: Option<(WriterId, u64)>,
    pub(super) sessions: u64,
    /// Why the page blobs cannot be brought to the newest point.
    pub(super) paused: Option<PauseReason>,
    /// How many views of a point are open: it stays.
    pub(super) viewed: BTreeMap<Seq, usize>,
}

pub(super) fn open_status(open: &OpenRecord, parts: u32) -> OpenCycleStatus {
    OpenCycleStatus {
        seq: open.seq,
        generation: open.generation,
        kind: open.kind.clone(),
        next_part: PartIndex(parts),
    }
}

/// The manifest in a store; `None`: there is none.
pub(super) fn load(store: &dyn BlobStore) -> Result<Option<(BlobManifest, ETag)>, ReplicaError> {
    match store.get(MANIFEST) {
        Err(BlobError::Missing { .. }) => Ok(None),
        Err(error) => Err(blob_error(store, "reading the manifest", &error)),
        Ok((data, etag)) => {
            let manifest = BlobManifest::decode(&data).map_err(|detail| ReplicaError::Corrupt {
                detail: format!("the manifest in {}: {detail}", store.name()),
            })?;
            Ok(Some((manifest, etag)))
        }
    }
}

/// Replaces a manifest. What could not be said for certain is looked up.
pub(super) fn replace(
    store: &dyn BlobStore,
    manifest: &BlobManifest,
    condition: &PutIf,
) -> Result<ETag, BlobError> {
    let data = Bytes::from(manifest.encode());
    let error = match store.put(MANIFEST, &data, condition) {
        Ok(etag) => return Ok(etag),
        Err(error) => error,
    };
    match store.get(MANIFEST) {
        Ok((found, etag)) if found == data => Ok(etag),
        _ => Err(error),
    }
}

impl Core {
    pub(super) fn check_epoch(&self, given: Epoch) -> Result<(), ReplicaError> {
        let current = self.manifest.epoch;
        if given < current { Err(ReplicaError::StaleEpoch { given, current }) } else { Ok(()) }
    }

    pub(super) fn check_not_standing(&self) -> Result<(), ReplicaError> {
        match &self.manifest.standing {
            Some(clones) => Err(ReplicaError::Standing { at: clones.at.0 }),
            None => Ok(()),
        }
    }

    pub(super) fn open_status(&self) -> Option<OpenCycleStatus> {
        let staged = || u32::try_from(self.parts.len()).expect("parts are numbered with 32 bits");
        let open = self.manifest.open.as_ref()?;
        Some(open_status(open, if open.filled.is_some() { self.filled } else { staged() }))
    }

    /// Forgets the parts of the open cycle that have ended and have not been acknowledged.
    pub(super) fn keep_acknowledged(&mut self) {
        let open = self.manifest.open.as_ref();
        self.parts = open.map(|open| open.parts.clone()).unwrap_or_default();
        self.filled = open.and_then(|open| open.filled).unwrap_or(0);
    }

    fn take(&mut self, manifest: BlobManifest, etag: ETag) {
        // What has ended meanwhile in the same cycle is where it was put; a session may be waiting to have it acknowledged.
        let same = match (&manifest.open, &self.manifest.open) {
            (Some(now), Some(before)) => {
                let of = |open: &OpenRecord| (open.seq, open.generation, open.filled.is_some());
                of(now) == of(before)
                    && self.parts.starts_with(&now.parts)
                    && now.filled.is_none_or(|filled| filled <= self.filled)
            }
            _ => false,
        };
        (self.manifest, self.etag, self.uncertain) = (manifest, etag, false);
        if !same {
            self.keep_acknowledged();
        }
    }

    /// Makes sure that this process has the replica and knows its manifest.
    pub(super) fn settle(&mut self, store: &dyn BlobStore) -> Result<(), ReplicaError> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        if !self.uncertain {
            return Ok(());
        }
        let gone = || ReplicaError::Corrupt { detail: format!("the manifest in {} is gone", store.name()) };
        let (found, etag) = load(store)?.ok_or_else(gone)?;
        if found.opening == self.manifest.opening {
            self.take(found, etag);
            return Ok(());
        }
        let (given, current) = (self.manifest.epoch, found.epoch);
        let lost = if current > given {
            ReplicaError::StaleEpoch { given, current }
        } else {
            ReplicaError::Locked { holder: format!("another host, which opened {} since", store.name()) }
        };
        tracing::error!(%lost, "the replica was taken over; this process does nothing with it any more");
        self.lost = Some(lost.clone());
        Err(lost)
    }

    /// Replaces the manifest by a changed one, durably, or leaves everything as it was.
    pub(super) fn save(
        &mut self,
        store: &dyn BlobStore,
        change: impl FnOnce(&mut BlobManifest),
    ) -> Result<(), ReplicaError> {
        self.settle(store)?;
        let mut changed = self.manifest.clone();
        change(&mut changed);
        changed.version += 1;
        match replace(store, &changed, &PutIf::Unchanged(self.etag.clone())) {
            Ok(etag) => {
                (self.manifest, self.etag) = (changed, etag);
                Ok(())
            }
            Err(error) => {
                self.uncertain = true;
                self.settle(store)?;
                if self.manifest == changed {
                    return Ok(());
                }
                Err(blob_error(store, "writing the manifest", &error))
            }
        }
    }
}

impl PageBlobReplica {
    /// Saves a changed manifest, and shows it.
    pub(super) fn save(
        &self,
        core: &mut Core,
        change: impl FnOnce(&mut BlobManifest),
    ) -> Result<(), ReplicaError> {
        let saved = core.save(&*self.store, change);
        self.show(core);
        saved
    }

    pub(super) fn show(&self, core: &Core) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.paused.clone_from(&core.paused);
        if shown.manifest.version != core.manifest.version {
            shown.manifest = core.manifest.clone().into();
            self.shown_anew.notify_all();
        }
    }

    /// The manifest, if this process still has the replica.
    pub(super) fn manifest(&self) -> Result<BlobManifest, ReplicaError> {
        let mut core = self.core();
        core.settle(&*self.store)?;
        Ok(core.manifest.clone())
    }

    /// Deletes blobs that the manifest has ceased to name. Failing is no harm: the next opening does it.
    pub(super) fn delete_blobs(&self, blobs: impl IntoIterator<Item = String>) {
        for blob in blobs.into_iter().filter(|blob| !blob.is_empty()) {
            self.cache.remove(&blob);
            if let Err(error) = self.store.delete(&blob, None) {
                tracing::warn!(blob, %error, "a blob that is not needed any more could not be deleted yet");
            }
        }
    }
}
