//! Replicas: the copy of a machine's disks at a target, with the recovery points it can go back to.
//!
//! What it is: the [`ReplicaSession`] interface that the source of changes writes into. What it never
//! does: network, control plane.

mod error;
mod session;

pub use error::{PauseReason, ReplicaError};
pub use session::{
    CommitCycle, CycleKind, DiskSpec, LeafDigests, NodeDigest, OpenCycle, OpenCycleStatus, PartHeader,
    ReplicaSession, ReplicaState, ReplicaStatus, SessionRequest, Watermarks,
};
