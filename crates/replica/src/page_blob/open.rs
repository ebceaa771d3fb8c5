//! Creating a replica in blobs, and opening one after whatever happened to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use switchback_delta::{NODE_RECORD_LEN, NodeRecord, nodes_of_disk};
use switchback_disk::Disk;
use switchback_model::{DiskIndex, Epoch, Extent, ReplicaId};

use super::cache::PartCache;
use super::error::{blob_error, replica_error};
use super::lease::Lease;
use super::manifest::{BlobManifest, DISKS_MAX, Digests, MANIFEST, disk_blob};
use super::pages::{NoFile, PageBlob};
use super::reshape::{self, BlobDisk};
use super::save::{Core, load, replace};
use super::store::{BlobError, BlobStore, LeaseId, PutIf};
use super::{PageBlobConfig, PageBlobReplica, Shown, opening_of, vhd};
use crate::digest_file::DigestFile;
use crate::membership::Membership;
use crate::{DiskSpec, ReplicaError};

/// What a side-car's name ends with.
pub(super) const SIDE_CAR: &str = "digests";

impl PageBlobReplica {
    /// Makes a replica of a machine with disks of these sizes: an empty page blob for each, and the manifest.
    ///
    /// # Errors
    /// When there is a replica already, or a blob in the way that holds something; those of the store. May be repeated.
    pub fn create(store: &dyn BlobStore, sizes: Vec<DiskSpec>, id: ReplicaId) -> Result<(), ReplicaError> {
        let numbered = (0..)
            .zip(&sizes)
            .map(|(disk, spec)| BlobDisk { blob: Some(disk_blob(DiskIndex(disk))), size: spec.size });
        Self::create_named(store, &numbered.collect::<Vec<_>>(), id)
    }

    /// The same, on page blobs of these names.
    ///
    /// # Errors
    /// As [`PageBlobReplica::create`].
    pub fn create_named(
        store: &dyn BlobStore,
        disks: &[BlobDisk],
        id: ReplicaId,
    ) -> Result<(), ReplicaError> {
        check_sizes(disks)?;
        let exists = || {
            let detail = format!("{} holds a replica already", store.name());
            Err(ReplicaError::Protocol { detail })
        };
        if load(store)?.is_some() {
            return exists();
        }
        let failed = |blob: &str, error: &BlobError| blob_error(store, &format!("making {blob}"), error);
        let mut digests = Digests { blobs: Vec::new(), absent_is_zero: true };
        for (disk, BlobDisk { blob, size }) in (0..).zip(disks) {
            let Some(blob) = blob else {
                digests.blobs.push(String::new());
                continue;
            };
            make_empty(store, blob, vhd::blob_len(*size)).map_err(|error| failed(blob, &error))?;
            make_footer(store, blob, *size, None, id, DiskIndex(disk))
                .map_err(|error| failed(blob, &error))?;
            let side_car = format!("{:08}-{disk:08}-digests", 0);
            make_empty(store, &side_car, digests_len(*size)).map_err(|error| failed(&side_car, &error))?;
            digests.blobs.push(side_car);
        }
        let mut manifest = BlobManifest {
            id,
            epoch: Epoch(0),
            opening: 0,
            version: 0,
            disks: disks.iter().map(BlobDisk::spec).collect(),
            page_blobs: Vec::new(),
            members: Membership { seeding: Vec::new(), removed: reshape::removed(disks) },
            dropped: Vec::new(),
            points: Vec::new(),
            bases: Vec::new(),
            staged: Vec::new(),
            applying: None,
            digests,
            generation: None,
            open: None,
            standing: None,
            views: BTreeMap::new(),
            removing: false,
        };
        manifest.set_page_blobs(disks.iter().map(BlobDisk::name).collect());
        match replace(store, &manifest, &PutIf::Absent) {
            Ok(_) => Ok(()),
            Err(BlobError::Refused { .. }) => exists(),
            Err(error) => Err(failed(MANIFEST, &error)),
        }
    }

    /// Opens a replica for this process alone, and deletes what its manifest does not name. `host` tells this process apart from any
    /// other, random for each.
    ///
    /// `take_over`: another process may have the replica yet; it loses it in this moment. Without: [`ReplicaError::Locked`] then.
    ///
    /// # Errors
    /// [`ReplicaError::Locked`]; when there is no replica, or it is damaged; those of the store.
    pub fn open(
        store: Arc<dyn BlobStore>,
        config: PageBlobConfig,
        host: [u8; 16],
        take_over: bool,
    ) -> Result<Self, ReplicaError> {
        let none = || ReplicaError::Corrupt { detail: format!("there is no replica in {}", store.name()) };
        let (mut manifest, etag) = load(&*store)?.ok_or_else(none)?;
        let lease = LeaseId(host);
        for blob in manifest.leased() {
            match take_lease(&*store, &blob, lease, take_over) {
                Err(ReplicaError::Corrupt { .. }) if manifest.removing => {}
                other => other?,
            }
        }
        // Behind the leases: whoever had them before can write no page from here on, and whoever takes them from now on finds this.
        manifest.opening += 1;
        manifest.version += 1;
        let etag = match replace(&*store, &manifest, &PutIf::Unchanged(etag)) {
            Err(BlobError::Refused { .. }) => {
                let holder = "another host, which opened it at the same time".into();
                return Err(ReplicaError::Locked { holder });
            }
            other => other.map_err(|error| blob_error(&*store, "writing the manifest", &error))?,
        };
        let lease = Lease::new(lease);
        let digests = std::array::from_fn(|disk| Mutex::new(digest_file(&store, &manifest, &lease, disk)));
        let shown = Shown { manifest: Arc::new(manifest.clone()), paused: None };
        let mut core = Core {
            manifest,
            etag,
            uncertain: false,
            lost: None,
            parts: Vec::new(),
            filled: 0,
            writer: None,
            sessions: 0,
            paused: None,
            viewed: BTreeMap::new(),
        };
        core.keep_acknowledged();
        let replica = Self {
            lease,
            cache: PartCache::new(config.cache_bytes_max),
            names: Mutex::new(0),
            turn: Mutex::new(()),
            work: Mutex::new(()),
            gate: RwLock::new(()),
            core: Mutex::new(core),
            shown: Mutex::new(shown),
            shown_anew: Condvar::new(),
            digests,
            store,
            config,
        };
        replica.remove_garbage()?;
        // Else it is removed with the rest.
        if !replica.manifest()?.removing {
            replica.delete_dropped()?;
        }
        Ok(replica)
    }

    /// Deletes what older openings made and nothing names. What a newer one may be making is left alone: this process may have lost
    /// the replica without knowing.
    fn remove_garbage(&self) -> Result<(), ReplicaError> {
        let manifest = self.manifest()?;
        let listed = self.store.list("").map_err(|e| blob_error(&*self.store, "listing blobs", &e))?;
        let needed = manifest.blobs();
        let is_old = |opening: Option<u64>| opening.is_some_and(|opening| opening < manifest.opening);
        let disks = manifest.snapshots();
        for entry in listed {
            let Some(snapshot) = entry.snapshot else {
                if !needed.contains(&entry.name) && is_old(opening_of(&entry.name)) {
                    self.delete_blobs([entry.name]);
                }
                continue;
            };
            let opening = entry.metadata.get(super::apply::OPENING).and_then(|text| text.parse().ok());
            if disks.get(&entry.name).is_some_and(|kept| !kept.contains(&snapshot)) && is_old(opening) {
                let deleted = self.store.delete_snapshot(&entry.name, &snapshot);
                deleted.map_err(|e| blob_error(&*self.store, "deleting a snapshot", &e))?;
            }
        }
        Ok(())
    }

    /// Forgets all digests: what is on the page blobs is not known any more. The caller names the new side-car in the manifest.
    pub(super) fn new_digests(&self, manifest: &BlobManifest) -> Result<Digests, ReplicaError> {
        let mut blobs = Vec::new();
        for (disk, spec) in manifest.disk_indexes().zip(&manifest.disks) {
            blobs.push(match manifest.members.has_removed(disk) {
                true => String::new(),
                false => {
                    let blob = self.new_name(manifest.opening, SIDE_CAR);
                    self.make_side_car(&blob, spec.size)?;
                    blob
                }
            });
        }
        Ok(Digests { blobs, absent_is_zero: false })
    }

    /// Makes a side-car, empty, for a disk of so many bytes.
    pub(super) fn make_side_car(&self, blob: &str, disk_size: u64) -> Result<(), ReplicaError> {
        let made = make_empty(&*self.store, blob, digests_len(disk_size));
        made.and_then(|()| self.store.acquire_lease(blob, self.lease.id()))
            .map_err(|e| blob_error(&*self.store, "making digests", &e))
    }

    /// Takes the digests that the manifest names.
    pub(super) fn reopen_digests(&self, manifest: &BlobManifest) {
        for (disk, slot) in self.digests.iter().enumerate() {
            let opened = digest_file(&self.store, manifest, &self.lease, disk);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = opened;
        }
    }
}

impl Drop for PageBlobReplica {
    /// Gives the leases back, so that another process need not take them over.
    fn drop(&mut self) {
        let core = self.core();
        if core.lost.is_some() {
            return;
        }
        let leased = core.manifest.leased();
        drop(core);
        for blob in leased {
            for id in self.lease.ids() {
                if let Err(error) = self.store.release_lease(&blob, id) {
                    tracing::debug!(blob, %error, "a lease was not released; the next host takes it over");
                    return;
                }
            }
        }
    }
}

/// The digests of a disk; of one that was removed, or is none, nothing.
fn digest_file(
    store: &Arc<dyn BlobStore>,
    manifest: &BlobManifest,
    lease: &Lease,
    disk: usize,
) -> DigestFile {
    let Digests { blobs, absent_is_zero } = &manifest.digests;
    let absent = if *absent_is_zero { NodeRecord::zero() } else { NodeRecord::unknown() };
    match (manifest.disks.get(disk), blobs.get(disk).filter(|blob| !blob.is_empty())) {
        (Some(spec), Some(blob)) => {
            let (store, blob, size) = (Arc::clone(store), blob.clone(), digests_len(spec.size));
            let file = PageBlob { store, blob, lease: Some(lease.clone()), size };
            DigestFile::over(Box::new(file), spec.size, absent)
        }
        _ => DigestFile::over(Box::new(NoFile), 0, absent),
    }
}

fn digests_len(disk_size: u64) -> u64 {
    u64::from(nodes_of_disk(disk_size)) * NODE_RECORD_LEN as u64
}

pub(super) fn take_lease(
    store: &dyn BlobStore,
    blob: &str,
    lease: LeaseId,
    take_over: bool,
) -> Result<(), ReplicaError> {
    let failed = |error: BlobError| blob_error(store, &format!("taking the lease of {blob}"), &error);
    match store.acquire_lease(blob, lease) {
        Err(BlobError::Refused { .. }) if take_over => {
            store.break_lease(blob).map_err(failed)?;
            store.acquire_lease(blob, lease).map_err(failed)
        }
        Err(BlobError::Refused { .. }) => {
            Err(ReplicaError::Locked { holder: format!("another host, which has the lease of {blob}") })
        }
        other => other.map_err(failed),
    }
}

/// A page blob of zeros; one that an interrupted attempt has made serves as well, if nothing was written to it.
pub(super) fn make_empty(store: &dyn BlobStore, blob: &str, len: u64) -> Result<(), BlobError> {
    match store.create_pages(blob, len) {
        Err(BlobError::Refused { .. }) => {
            let data = Extent::new(0, len - vhd::FOOTER_LEN);
            let is_empty = store.allocated(blob, data).map(|used| used.is_empty());
            if is_empty.unwrap_or(false) {
                return Ok(());
            }
            let detail =
                "it is there already and holds data, or has another size; delete it if it is not needed"
                    .into();
            Err(BlobError::Refused { blob: blob.into(), detail })
        }
        other => other,
    }
}

/// Makes a page blob a VHD.
pub(super) fn make_footer(
    store: &dyn BlobStore,
    blob: &str,
    disk_size: u64,
    lease: Option<LeaseId>,
    id: ReplicaId,
    disk: DiskIndex,
) -> Result<(), BlobError> {
    let data_len = vhd::data_len(disk_size);
    let mut unique_id = id.0;
    unique_id[14] ^= disk.0.to_be_bytes()[0];
    unique_id[15] ^= disk.0.to_be_bytes()[1];
    let footer = vhd::footer(data_len, unique_id);
    store.write_pages(blob, lease, data_len, Bytes::copy_from_slice(&footer))
}

/// The end of a disk's page blob, where its footer must be.
pub(super) fn read_footer(blob: &PageBlob, disk_size: u64) -> Result<[u8; 512], ReplicaError> {
    let mut footer = [0; 512];
    let whole = PageBlob { size: vhd::blob_len(disk_size), ..blob.clone() };
    let read = Disk::read_at(&whole, vhd::data_len(disk_size), &mut footer);
    read.map_err(|error| replica_error(&*blob.store, "reading a footer", &error))?;
    Ok(footer)
}

pub(super) fn check_sizes(disks: &[BlobDisk]) -> Result<(), ReplicaError> {
    /// What Azure imports: 32 TiB less 512 bytes of footer would be the page blob's, 8 TiB is the limit of a page blob.
    const SIZE_MAX: u64 = (8 << 40) - (1 << 20);
    let refuse = |detail: String| Err(ReplicaError::DisksChanged { detail });
    if disks.is_empty() || disks.len() > DISKS_MAX {
        return refuse(format!("the source has {} disks; 1 to {DISKS_MAX} are supported", disks.len()));
    }
    match disks.iter().find(|disk| disk.size == 0 || disk.size > SIZE_MAX) {
        Some(disk) => refuse(format!("a disk has {} bytes; a page blob takes 1 byte to 8 TiB", disk.size)),
        None => Ok(()),
    }
}
