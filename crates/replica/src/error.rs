//! What can go wrong with a replica, in terms of what its writer can do about it.

use std::io;

use serde::{Deserialize, Serialize};
use switchback_delta::DeltaError;
use switchback_disk::{Disk, Volume};
use switchback_model::{ByteSize, DiskIndex, Epoch};

/// Why a replica takes no data just now; it goes on by itself when the cause is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PauseReason {
    /// The retention drive is full, and no recovery point may be pruned to make room.
    #[error(
        "the retention drive is full ({detail}); free space there, raise its limit, or keep fewer recovery points"
    )]
    RetentionFull {
        /// Figures.
        detail: String,
    },
    /// The process server's cache disk is full.
    #[error(
        "the cache disk of the process server is full ({detail}); it goes on when the target has taken what is spooled"
    )]
    SpoolFull {
        /// Figures.
        detail: String,
    },
}

/// Why a replica did not do what it was asked.
///
/// Serialized as it is over the wire, so that a source far away sees what a local one would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ReplicaError {
    /// The writer has been superseded.
    #[error(
        "epoch {given} is over, the replica is at epoch {current}: the direction of replication has changed since; \
             this side must not write any more"
    )]
    StaleEpoch {
        /// The writer's.
        given: Epoch,
        /// The replica's.
        current: Epoch,
    },
    /// Somebody else is writing.
    #[error("the replica is in use by {holder}; only one may write it")]
    Locked {
        /// Who, as far as known.
        holder: String,
    },
    /// It takes no data just now. The session stays usable; what the failed call brought was not taken.
    #[error("replication is paused: {0}")]
    Paused(PauseReason),
    /// The disks do not fit the source's.
    #[error(
        "disk {disk}: the target has {target} bytes and the source {source_size}; the target must be at least as large"
    )]
    DiskTooSmall {
        /// Position.
        disk: u16,
        /// Bytes.
        target: u64,
        /// Bytes.
        source_size: u64,
    },
    /// The set of disks is another one than before.
    #[error("the replica was made for other disks: {detail}")]
    DisksChanged {
        /// What differs.
        detail: String,
    },
    /// Changed blocks were offered that do not follow the replica's last point: a resync is needed.
    #[error("a resync is needed: {detail}")]
    ResyncNeeded {
        /// Why.
        detail: String,
    },
    /// Data or a file is not what was written.
    #[error("damaged data: {detail}")]
    Corrupt {
        /// What, where.
        detail: String,
    },
    /// A request that does not fit the state of the session: a defect of the caller.
    #[error("request refused: {detail}")]
    Protocol {
        /// What.
        detail: String,
    },
    /// Its disks hold an older point for a time, and take nothing.
    #[error(
        "the replica stands at recovery point {at}, for a failover that is not committed yet; replication goes on when that \
             is cancelled"
    )]
    Standing {
        /// The point.
        at: u64,
    },
    /// No such recovery point.
    #[error("there is no recovery point {seq}; `switchback replica points` lists those there are")]
    NoSuchPoint {
        /// Asked for.
        seq: u64,
    },
    /// A disk or a file failed.
    #[error("{action} failed: {detail}")]
    Io {
        /// What was being done, with the path.
        action: String,
        /// The system's words.
        detail: String,
    },
    /// The other end cannot be reached or was lost; a new session may succeed.
    #[error("the connection to {peer} was lost: {detail}")]
    Disconnected {
        /// Address.
        peer: String,
        /// How it ended.
        detail: String,
    },
    /// Not allowed for this client.
    #[error("not allowed: {detail}")]
    Forbidden {
        /// Why.
        detail: String,
    },
}

impl ReplicaError {
    /// Somebody reads behind the end of a disk.
    pub(crate) fn beyond(disk: DiskIndex, size: u64, offset: u64, len: usize) -> Self {
        Self::Protocol { detail: format!("bytes {offset}+{len} are beyond disk {disk} of {size} bytes") }
    }
}

/// What a failed file operation of the retention drive means for the writer.
pub(crate) fn volume_error(volume: &dyn Volume, action: &str, error: &io::Error) -> ReplicaError {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        let free = volume.free_bytes().map_or_else(|_| "unknown".into(), |free| ByteSize(free).to_string());
        let detail = format!("{} has {free} free", volume.name());
        return ReplicaError::Paused(PauseReason::RetentionFull { detail });
    }
    ReplicaError::Io { action: format!("{action} in {}", volume.name()), detail: error.to_string() }
}

/// What a failed operation of a disk means for the writer.
pub(crate) fn disk_error(disk: &dyn Disk, action: &str, error: &io::Error) -> ReplicaError {
    ReplicaError::Io { action: format!("{action} {}", disk.name()), detail: error.to_string() }
}

/// What a delta that cannot be read means for the writer.
pub(crate) fn delta_error(
    volume: &dyn Volume,
    name: impl std::fmt::Display,
    error: &DeltaError,
) -> ReplicaError {
    match error {
        DeltaError::Io { source, .. } => volume_error(volume, &format!("reading or writing {name}"), source),
        damage => ReplicaError::Corrupt { detail: format!("{name} in {}: {damage}", volume.name()) },
    }
}
