//! What a page-blob replica needs of a storage account: few, small operations on the blobs of one container, below one prefix.
//!
//! Names are relative to that prefix. An implementation retries what may pass by itself, within limits; so an operation that fails may
//! have had its effect all the same, and the replica never takes an error for "nothing happened". Listing shows whatever was written
//! before (Azure's listings are consistent).

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use switchback_model::Extent;

/// Most bytes of one write of pages (Put Page).
pub const PAGES_MAX: u64 = 4 << 20;
/// Bytes of a page: reads may begin anywhere, writes are of whole pages.
pub const PAGE: u64 = 512;

/// The version of a blob's contents, as the store states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ETag(pub String);

/// A snapshot of a blob: the moment by which the store names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(pub String);

/// The right to write a page blob; nobody without it can while it is held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LeaseId(pub [u8; 16]);

impl Debug for LeaseId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeaseId(…)")
    }
}

/// Under which condition a blob is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutIf {
    /// There is none of that name.
    Absent,
    /// It still is this version.
    Unchanged(ETag),
}

/// A blob, or a snapshot of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobEntry {
    /// Name.
    pub name: String,
    /// Of which snapshot, if it is one.
    pub snapshot: Option<SnapshotId>,
    /// What was said when it was made.
    pub metadata: BTreeMap<String, String>,
}

/// Why a storage account did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// No such blob, snapshot or container.
    #[error("{blob} is missing: somebody has deleted it, or what it is in")]
    Missing {
        /// Which.
        blob: String,
    },
    /// It has fewer bytes than were asked for.
    #[error("{blob} ends too early")]
    Short {
        /// Which.
        blob: String,
    },
    /// A condition is not met: the blob is there already, has changed, or somebody else has its lease.
    #[error("{blob}: {detail}")]
    Refused {
        /// Which.
        blob: String,
        /// The store's words.
        detail: String,
    },
    /// The credentials do not suffice.
    #[error("{detail}; look at the credentials, their roles and their expiry")]
    Denied {
        /// The store's words.
        detail: String,
    },
    /// Throttled, unreachable or broken for longer than retries go on.
    #[error("{detail}")]
    Unavailable {
        /// What happened last.
        detail: String,
    },
    /// Anything else.
    #[error("{action} failed: {detail}")]
    Failed {
        /// What was being done.
        action: String,
        /// The store's words.
        detail: String,
    },
}

/// The blobs of one replica. Methods may be called from several threads.
///
/// # Errors
/// All methods: [`BlobError`].
pub trait BlobStore: Send + Sync + Debug {
    /// What it is called in messages: account, container and prefix, without secrets.
    fn name(&self) -> &str;

    /// Writes a whole block blob, durably, if the condition holds.
    fn put(&self, blob: &str, data: &Bytes, condition: &PutIf) -> Result<ETag, BlobError>;

    /// A whole block blob.
    fn get(&self, blob: &str) -> Result<(Bytes, ETag), BlobError>;

    /// Some bytes of a blob of either kind; [`BlobError::Short`] when it ends before.
    fn read(&self, blob: &str, range: Extent) -> Result<Bytes, BlobError>;

    /// The same of a snapshot of it.
    fn read_snapshot(&self, blob: &str, snapshot: &SnapshotId, range: Extent) -> Result<Bytes, BlobError>;

    /// All blobs and snapshots whose names begin so.
    fn list(&self, prefix: &str) -> Result<Vec<BlobEntry>, BlobError>;

    /// Deletes a blob with its snapshots. One that is not there is no error.
    fn delete(&self, blob: &str, lease: Option<LeaseId>) -> Result<(), BlobError>;

    /// Makes a page blob of zeros; [`BlobError::Refused`] if there is a blob of that name.
    fn create_pages(&self, blob: &str, size: u64) -> Result<(), BlobError>;

    /// Writes whole pages, at most [`PAGES_MAX`], durably.
    fn write_pages(
        &self,
        blob: &str,
        lease: Option<LeaseId>,
        offset: u64,
        data: Bytes,
    ) -> Result<(), BlobError>;

    /// Makes whole pages read as zeros, without keeping space for them.
    fn clear_pages(&self, blob: &str, lease: Option<LeaseId>, range: Extent) -> Result<(), BlobError>;

    /// The pages of `window` that may hold anything but zeros, in order.
    fn allocated(&self, blob: &str, window: Extent) -> Result<Vec<Extent>, BlobError>;

    /// Takes a snapshot of a page blob.
    fn snapshot(
        &self,
        blob: &str,
        lease: Option<LeaseId>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<SnapshotId, BlobError>;

    /// Deletes a snapshot. One that is not there is no error.
    fn delete_snapshot(&self, blob: &str, snapshot: &SnapshotId) -> Result<(), BlobError>;

    /// Makes a page blob of the contents of a snapshot, in the store, and waits (within limits) until all of it is there. One of
    /// that name is replaced.
    fn clone_snapshot(&self, blob: &str, snapshot: &SnapshotId, target: &str) -> Result<(), BlobError>;

    /// Takes the lease of a blob until it is released or broken; [`BlobError::Refused`] when somebody has another one. Whoever has this
    /// very lease gets it again.
    fn acquire_lease(&self, blob: &str, lease: LeaseId) -> Result<(), BlobError>;

    /// Puts another lease in the place of one, at once; that it is there already is no error. [`BlobError::Refused`] when neither is held.
    fn change_lease(&self, blob: &str, from: LeaseId, to: LeaseId) -> Result<(), BlobError>;

    /// Gives a lease back. One that is not held any more is no error.
    fn release_lease(&self, blob: &str, lease: LeaseId) -> Result<(), BlobError>;

    /// Ends whatever lease there is, at once. None is no error.
    fn break_lease(&self, blob: &str) -> Result<(), BlobError>;
}
