//! What a source of changes says to a replica, wherever that replica is.
//!
//! One cycle through a session:
//! ```text
//! open_cycle → (begin_part → put_frame* → end_part)* → barrier → … → commit
//! ```
//! `begin_part`, `put_frame` and `end_part` may return before anything is durable or even sent; an error
//! of theirs may therefore surface at a later call, at the latest at the next `barrier` or `commit`.
//! Within a part only `put_frame`, `end_part`, `status`, `barrier` and `abort_cycle` are allowed. After [`ReplicaError::Paused`] the part
//! in hand is void: it is begun anew, with the same number.
//! After any error but [`ReplicaError::Paused`] the session is dead: open a new one, ask for its status, go on from there.
//!
//! Every request carries the epoch of its [`SessionRequest`]; a replica that knows a newer one answers
//! [`ReplicaError::StaleEpoch`], also in the middle of a session. All of it is held to by [`conformance`](crate::conformance).

use serde::{Deserialize, Serialize};
use switchback_delta::{Digest, Frame};
use switchback_model::{
    Consistency, DiskIndex, Epoch, GenerationId, PartIndex, RecoveryPoint, ReplicaId, ReplicaName,
    ResyncReason, Seq, UnixMillis, WriterId,
};

use crate::{PauseReason, ReplicaError};

/// One disk of a machine, as the source has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Bytes.
    pub size: u64,
}

/// Who wants to write which replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRequest {
    /// Which replica; created by its first session.
    pub replica: ReplicaName,
    /// The epoch the writer believes in. Newer than the replica's: the replica takes it and refuses older
    /// ones from then on. `None`: whatever the replica has (a first contact, the one-off `sync`).
    pub epoch: Option<Epoch>,
    /// Told apart from another writer by this.
    pub writer: WriterId,
    /// All disks of the machine, in the order of their [`DiskIndex`].
    pub disks: Vec<DiskSpec>,
}

/// What kind of cycle is to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum CycleKind {
    /// The blocks changed since the last point.
    Changes,
    /// What differs by comparison of digests.
    Resync {
        /// Why changed blocks alone are not enough.
        reason: ResyncReason,
    },
}

/// Opens a cycle, or joins the open one again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCycle {
    /// The tracker's generation. [`CycleKind::Changes`] demands that the last point was made under it.
    pub generation: GenerationId,
    /// What kind.
    pub kind: CycleKind,
}

/// The open cycle as the replica has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCycleStatus {
    /// The point it will become.
    pub seq: Seq,
    /// Under which generation.
    pub generation: GenerationId,
    /// What kind.
    pub kind: CycleKind,
    /// The next part to send: all before it are durable.
    pub next_part: PartIndex,
}

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartHeader {
    /// The cycle.
    pub seq: Seq,
    /// Its number within the cycle: exactly the next one.
    pub part: PartIndex,
    /// The disk.
    pub disk: DiskIndex,
}

/// Makes the open cycle a recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitCycle {
    /// The cycle.
    pub seq: Seq,
    /// How many parts it has, over all disks: a replica that has another number refuses.
    pub parts: u32,
    /// The source's moment.
    pub time: UnixMillis,
    /// What the source knows of it.
    pub consistency: Consistency,
    /// The multi-VM moment it belongs to.
    pub group_tag: Option<String>,
    /// Disks added to a replica that had points whose initial replication is complete with this cycle, or was before: only if they are named here does
    /// the point, and do those after it, hold them. Naming others changes nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub whole: Vec<DiskIndex>,
}

/// How far a source's data has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermarks {
    /// The last committed cycle that is durable at the next hop.
    pub received: Option<Seq>,
    /// The last cycle that is a recovery point at the target. Equal to `received` without a process server between.
    pub recoverable: Option<Seq>,
}

/// What a replica is good for just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaState {
    /// No recovery point yet.
    Empty,
    /// At least one recovery point; the disks can be brought to any of them.
    Ready,
}

/// A replica as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Its identity.
    pub id: ReplicaId,
    /// The newest epoch it has seen.
    pub epoch: Epoch,
    /// Its disks.
    pub disks: Vec<DiskSpec>,
    /// What it is good for.
    pub state: ReplicaState,
    /// Under which generation its last point was made, if changed blocks may follow it.
    pub generation: Option<GenerationId>,
    /// The open cycle.
    pub open: Option<OpenCycleStatus>,
    /// Its newest recovery point.
    pub last_point: Option<RecoveryPoint>,
    /// How far data has come.
    pub watermarks: Watermarks,
    /// Why it takes nothing just now.
    pub paused: Option<PauseReason>,
}

/// One node (16 MiB) of a disk's digest tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeDigest(pub Digest);

/// The leaf digests of one node, in order; fewer than 256 at the end of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafDigests {
    /// Which node.
    pub node: u32,
    /// Its leaves.
    pub leaves: Vec<Digest>,
}

/// A replica as a source of changes sees it. See the module's header for the order of calls.
pub trait ReplicaSession: Send {
    /// How the replica stands.
    ///
    /// # Errors
    /// All methods: [`ReplicaError`], which says whether trying again can help.
    fn status(&mut self) -> Result<ReplicaStatus, ReplicaError>;

    /// Opens the next cycle. An open cycle of the same generation and kind is joined (its durable parts
    /// stay); any other open cycle is dropped first.
    fn open_cycle(&mut self, request: &OpenCycle) -> Result<OpenCycleStatus, ReplicaError>;

    /// Begins a part; frames follow in order of their start, without overlap.
    fn begin_part(&mut self, header: PartHeader) -> Result<(), ReplicaError>;

    /// Adds a frame to the part.
    fn put_frame(&mut self, frame: Frame) -> Result<(), ReplicaError>;

    /// Ends the part. `checksum` is what the source computed over its frames (`delta::PartHasher`); a part
    /// that came to another one is refused as [`ReplicaError::Corrupt`].
    fn end_part(&mut self, checksum: [u8; 32]) -> Result<(), ReplicaError>;

    /// Waits until every part ended so far is durable at the next hop.
    fn barrier(&mut self) -> Result<Watermarks, ReplicaError>;

    /// Makes the open cycle a recovery point (at the next hop: durable, with the promise that it will be one).
    /// Repeating the commit of the last committed cycle is answered as the first time.
    fn commit(&mut self, commit: &CommitCycle) -> Result<Watermarks, ReplicaError>;

    /// Drops the open cycle, if there is one. If parts of it had been acknowledged, or it was a resync, no changed blocks can follow: the source may
    /// have forgotten which they were.
    fn abort_cycle(&mut self) -> Result<(), ReplicaError>;

    /// The digests of `count` nodes of a disk from node `first`, as they are once everything sent before is
    /// applied. Unknown leaves are read for it, so this may take as long as reading `count` × 16 MiB.
    fn node_digests(
        &mut self,
        disk: DiskIndex,
        first: u32,
        count: u32,
    ) -> Result<Vec<NodeDigest>, ReplicaError>;

    /// The leaf digests of some nodes of a disk.
    fn leaf_digests(&mut self, disk: DiskIndex, nodes: &[u32]) -> Result<Vec<LeafDigests>, ReplicaError>;
}
