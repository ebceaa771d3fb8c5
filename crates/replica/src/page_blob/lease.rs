//! The lease under which this process writes to the page blobs.
//!
//! A request that was given up, or tried again by the client, may still be under way: somewhere between here and the store it waits, and lands minutes later,
//! over what was written since. So before pages are written that may have been written before (a round; in the first replication a new writer, and a page that
//! this one has written already), the lease gets another id ([`PageBlobReplica::renew_leases`]): what was sent under the former one is refused whenever it arrives. All that is sent takes the id as it is
//! then; so nobody may be writing meanwhile (`work`, or `gate`).
//!
//! Not covered are records of digests, which are written often: a late one claims for a moment what was true before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use switchback_model::{DiskIndex, Extent, ExtentSet};

use super::PageBlobReplica;
use super::error::{io_error, page_error};
use super::store::{BlobError, LeaseId};
use crate::ReplicaError;

/// Clones are the same lease.
#[derive(Clone, Debug)]
pub(super) struct Lease(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    id: LeaseId,
    /// Some page blobs may have the next id already.
    in_doubt: bool,
    /// What was filled under this id, by disk.
    filled: BTreeMap<DiskIndex, ExtentSet>,
}

impl Lease {
    pub(super) fn new(id: LeaseId) -> Self {
        Self(Arc::new(Mutex::new(Held { id, in_doubt: false, filled: BTreeMap::new() })))
    }

    pub(super) fn id(&self) -> LeaseId {
        self.held().id
    }

    /// Those that a page blob may have.
    pub(super) fn ids(&self) -> Vec<LeaseId> {
        let held = self.held();
        if held.in_doubt { vec![held.id, next(held.id)] } else { vec![held.id] }
    }

    /// Whether some of these pages were filled under this id already.
    pub(super) fn has_filled(&self, (disk, pages): (DiskIndex, Extent)) -> bool {
        self.held().filled.get(&disk).is_some_and(|filled| filled.intersects(pages))
    }

    /// They are, from now on.
    pub(super) fn fills(&self, (disk, pages): (DiskIndex, Extent)) {
        self.held().filled.entry(disk).or_default().insert(pages);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ids begin with a random one for each process: those of another are far away.
fn next(id: LeaseId) -> LeaseId {
    LeaseId(u128::from_be_bytes(id.0).wrapping_add(1).to_be_bytes())
}

impl PageBlobReplica {
    /// From here on nothing lands any more that was sent before. When it fails nothing can be written until it has been done: the page blobs are of two ids.
    ///
    /// # Errors
    /// Those of the store: call again. [`ReplicaError::Locked`] and [`ReplicaError::StaleEpoch`]: another process has the replica.
    pub(super) fn renew_leases(&self) -> Result<(), ReplicaError> {
        let (now, then) = {
            let mut held = self.lease.held();
            held.in_doubt = true;
            (held.id, next(held.id))
        };
        for blob in self.manifest()?.leased() {
            let changed = match self.store.change_lease(&blob, now, then) {
                // Somebody ended it by hand.
                Err(BlobError::Refused { .. }) => self.store.acquire_lease(&blob, then),
                other => other,
            };
            let action = || format!("renewing the lease of {blob}");
            changed.map_err(|e| self.lost_or(page_error(&*self.store, &action(), &io_error(e))))?;
        }
        *self.lease.held() = Held { id: then, in_doubt: false, filled: BTreeMap::new() };
        Ok(())
    }
}
