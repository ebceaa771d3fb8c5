//! The words of Switchback as types: ids, extents, recovery points, retention, reasons.
//!
//! What it is: the pure vocabulary that every other crate speaks (one meaning for each word, see
//! `ARCHITECTURE.md`). What it never does: I/O, clocks, randomness, async.
//!
//! The path of one change through these types: capture finds an [`Extent`] of a disk
//! ([`DiskIndex`]) changed; the extents of one consistent moment make a cycle ([`Seq`]); when every
//! disk of it is durable at the target, the cycle has become a [`RecoveryPoint`]; a
//! [`RetentionPolicy`] decides how long that is kept. All of it happens under an [`Epoch`]; whatever
//! makes the tracking of changes doubtful is a [`ResyncReason`].
//!
//! The control plane's share: [`Protection`], the state machine of a protected machine; [`ProtectedItem`], [`ProtectionGroup`], [`RecoveryPlan`],
//! [`Job`], what the configuration server keeps; and [`component`], what it and its components say to each other.

pub mod azure;
mod bandwidth;
pub mod component;
mod deployment;
pub mod duration;
mod event;
mod extent;
mod ids;
mod inventory;
mod job;
mod plan;
mod point;
mod proof;
mod protection;
mod readiness;
mod reason;
mod retention;
mod units;

pub use bandwidth::text as bandwidth_text;
pub use bandwidth::{BYTES_PER_S_MIN, Bandwidth, Limit as BandwidthLimit, Window as BandwidthWindow};
pub use deployment::{DATA_PORT, DISK_GIB, ServerRequest};
pub use event::{AccessRole, AuditRecord, Event, Severity};
pub use extent::{Extent, ExtentSet, LEN_MAX};
pub use ids::{
    DiskIndex, Epoch, GenerationId, InvalidName, JobId, MachineId, ObjectName, PartIndex, ReplicaId,
    ReplicaName, Seq, WriterId,
};
pub use inventory::{
    Account, AccountKind, FailoverRecord, Held, Instance, InstanceNic, NetworkMapping, PointChoice,
    ProtectedItem, ProtectionGroup, ReplicationPath, ReplicationPolicy, RetiredReplica, Site, SiteKind,
    TestCopy, VsphereKind,
};
pub use job::{
    ItemOperation, Job, JobError, JobRequest, JobState, ProtectRequest, ReprotectOptions, Task, TaskState,
};
pub use plan::{ActionKind, PlanAction, PlanGroup, RecoveryPlan};
pub use point::{Consistency, RecoveryPoint, UnixMillis};
pub use proof::{
    PROBE_LIMIT_MS, PROBE_LIMITS_MS, PROVE_EVERY_MS_MIN, Probe, Proof, ProofInHand, ProofOutcome, Proving,
    Sandbox, Verdict, VerifyRequest,
};
pub use protection::{Illegal, Operation, Phase, Protection, Side};
pub use readiness::{CheckState, Readiness, ReadinessCheck, verdict};
pub use reason::ResyncReason;
pub use retention::{RetentionPolicy, Thinning};
pub use units::ByteSize;
