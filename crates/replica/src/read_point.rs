//! Reading a recovery point, wherever its replica is.

use std::fmt::Debug;

use switchback_model::{DiskIndex, RecoveryPoint};

use crate::ReplicaError;

/// A recovery point of a replica, read-only; it stays as long as this exists. From several threads.
pub trait ReadPoint: Send + Sync + Debug {
    /// The point.
    fn point(&self) -> &RecoveryPoint;

    /// The sizes of its disks in bytes.
    fn disk_sizes(&self) -> Vec<u64>;

    /// Fills `buf` with the bytes of a disk from `offset`, as they were at the point.
    ///
    /// # Errors
    /// Beyond the end of the disk; damaged deltas; I/O.
    fn read_at(&self, disk: DiskIndex, offset: u64, buf: &mut [u8]) -> Result<(), ReplicaError>;
}
