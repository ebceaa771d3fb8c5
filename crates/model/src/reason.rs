//! Why changed-block tracking cannot be trusted to be complete.

use serde::{Deserialize, Serialize};

/// Why a replica must be compared again instead of receiving the changed blocks alone.
///
/// Any doubt is one of these; there is no "probably fine".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ResyncReason {
    /// The replica has never held this machine.
    #[error("first replication of this machine")]
    Initial,
    /// The machine has booted since tracking began; writes between are unknown.
    #[error("the machine was restarted since the last recovery point, so writes may have been missed")]
    Rebooted,
    /// The tracker's pinned state is gone or of another format.
    #[error("changed-block tracking was interrupted: {detail}")]
    TrackingLost {
        /// What is missing.
        detail: String,
    },
    /// The kernel skipped runs of the tracking program.
    #[error("the kernel skipped {misses} runs of the change tracker, so writes may have been missed")]
    MissedEvents {
        /// How many.
        misses: u64,
    },
    /// A request was seen whose effect on the disk cannot be told.
    #[error("{count} requests changed the disk in a way that cannot be tracked (pass-through or zone reset)")]
    UntrackableRequest {
        /// How many.
        count: u64,
    },
    /// The disk has another size than when tracking began.
    #[error("disk {disk} changed its size from {from} to {to} bytes")]
    Resized {
        /// Which, by its position.
        disk: u16,
        /// Bytes before.
        from: u64,
        /// Bytes now.
        to: u64,
    },
    /// The replica does not stand where this tracker left it.
    #[error("the replica's last point was not made by this tracker: {detail}")]
    ReplicaMismatch {
        /// What differs.
        detail: String,
    },
    /// The target lost or refused part of a cycle.
    #[error("the target gave up a cycle: {detail}")]
    CycleLost {
        /// Why.
        detail: String,
    },
    /// The capture in use compares instead of tracking.
    #[error("this capture method compares instead of tracking")]
    NoTracking,
    /// Somebody asked for it.
    #[error("requested by the user")]
    Requested,
}
