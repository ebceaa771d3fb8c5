//! The spool: a process server's store-and-forward log, one for each replica.
//!
//! What it is: a [`ReplicaSession`](switchback_replica::ReplicaSession) for the source of changes
//! ([`SpoolSession`]) that acknowledges what is durable on the cache disk, and a forwarder that drives the
//! `ReplicaSession` of the next hop with it, in order. The source goes on while the next hop is away, and is told how
//! far its data has come: `received` (safe here) and `recoverable` (a recovery point at the target).
//!
//! What it never does: acknowledge what is not durable, forward what is not acknowledged, change the order, skip
//! what it cannot read, merge or look into changes, listen on a network.
//!
//! # The path of one frame
//! 1. `session`: `put_frame` verifies the contents and hands the frame to the log.
//! 2. `log`: it becomes a `record` in the last `segment`, in memory, then in the file; `seal` binds it to its place.
//! 3. `barrier` or `commit`: the segment is synced, then the `position` that says so. Now it is acknowledged.
//! 4. `forward`: it is read again, verified, and put into the next hop's session with the rest of its part.
//! 5. The next hop's `barrier` or `commit`: the `state` file says so, and whole segments before it are deleted.
//!
//! After a crash, `recovery` keeps exactly what had been acknowledged; damage to that is an error
//! and ends in a resync, never in silence. `standing` is the pure part: how the replica stands after a sequence of records.

mod config;
mod error;
mod forward;
#[doc(hidden)]
pub mod fuzz;
mod log;
mod position;
mod record;
mod recovery;
mod seal;
mod segment;
mod session;
mod spool;
mod standing;
mod state;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use config::{Entropy, PART_BYTES_MAX, SpoolConfig};
pub use error::SpoolError;
pub use forward::{NextHop, Step};
pub use seal::SpoolKey;
pub use session::SpoolSession;
pub use spool::{Spool, SpoolStatus};

/// Locks, also after a panic under the lock: each use leaves the data in a state the next can work with or
/// marked as broken, and a panic elsewhere must not spread to every writer.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
