//! Replicas: the copy of a machine's disks at a target, with the recovery points it can go back to.
//!
//! What it is: the [`ReplicaSession`] interface that a source of changes writes into, and [`DiskReplica`], the
//! replica on block devices and image files. What it never does: network, control plane, deciding when a point is taken.
//!
//! The path of one changed block: it arrives in a frame of a part (`put_frame`), is verified and **staged** on the
//! retention drive; the commit makes its cycle a [`RecoveryPoint`](switchback_model::RecoveryPoint); the [`Applier`] saves what the disk
//! held in a reverse delta and **applies** it; a [`PointView`] finds the old block there as long as its point is kept; pruning
//! merges it into an older way back, and at last lets it go.

mod applier;
pub mod conformance;
mod digest_file;
mod disk_replica;
mod error;
mod layer;
mod layout;
mod manifest;
mod membership;
mod page_blob;
mod read_point;
mod rules;
mod sealed_text;
mod session;

#[doc(hidden)]
pub mod fuzz {
    //! Entry points for fuzzing: each takes any bytes and must return.

    /// Decodes a manifest; what decodes must encode to something that decodes to the same.
    pub fn manifest(data: &[u8]) {
        if let Ok(manifest) = crate::manifest::Manifest::decode(data) {
            let again = crate::manifest::Manifest::decode(&manifest.encode());
            assert_eq!(again.as_ref(), Ok(&manifest));
        }
        crate::page_blob::fuzz_manifest(data);
    }
}

pub use applier::Applier;
pub use disk_replica::{
    DiskReplica, DiskSession, Finding, FsckReport, PointView, ReplicaConfig, ReplicaSummary,
};
pub use error::{PauseReason, ReplicaError};
pub use page_blob::{
    Behind, BlobDisk, BlobPointView, BlobSession, PageBlobConfig, PageBlobReplica, sim, store,
};
pub use read_point::ReadPoint;
pub use session::{
    CommitCycle, CycleKind, DiskSpec, LeafDigests, NodeDigest, OpenCycle, OpenCycleStatus, PartHeader,
    ReplicaSession, ReplicaState, ReplicaStatus, SessionRequest, Watermarks,
};
