//! Why a cycle did not become a recovery point.

use switchback_model::ResyncReason;
use switchback_replica::ReplicaError;

/// Why a cycle failed. Nothing that was acknowledged before is lost by any of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The tracker has lost track: make a new one, and compare.
    #[error(transparent)]
    Doubt(#[from] ResyncReason),
    /// The replica refused, or stayed out of reach too long.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// The source cannot be read.
    #[error("reading {disk} at byte {offset} failed: {source}")]
    Source {
        /// Path.
        disk: String,
        /// Where.
        offset: u64,
        /// The system's words.
        source: std::io::Error,
    },
    /// No consistent moment could be had.
    #[error(
        "no consistent moment in {attempts} attempts: {reason}; raise the freeze budget, or look for what writes past the file system"
    )]
    NoMoment {
        /// How many.
        attempts: u32,
        /// The last one's failure.
        reason: String,
    },
    /// It was told to stop.
    #[error(
        "stopped before the cycle was complete; what had arrived is kept, and the next run goes on from there"
    )]
    Stopped,
}
