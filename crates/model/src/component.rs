//! What the configuration server and its components say to each other: desired state down, actual state up.
//!
//! What it is: the messages of the control channel as types. What it never does: transport, decisions.
//!
//! Components pull. Each sends a [`Report`] every few seconds and whenever something changed, and is answered with its [`Desired`]
//! state, whole, with a `version`; between reports it waits for a newer version by long poll. Nothing is ever ordered ("do X now"):
//! a component compares what should be with what is, and works on the difference, so a lost message, a restart of either side, or the
//! same message twice change nothing. Who reports is told by the certificate of the connection, never by the message.
//!
//! ```text
//! POST /components/v1/report   Report                → Answer
//! POST /components/v1/wait     Wait { version }      → Answer, at the latest after WAIT_S
//! POST /components/v1/moment   MomentCall            → MomentAnswer (multi-VM moments, see there)
//! POST /components/v1/program  ProgramPiece          → bytes of the program that an agent is offered
//! POST /components/v1/sandbox  SandboxSeen           → SandboxHeard (of a master target's sandbox)
//! ```

mod agent;
mod blobs;
mod sandbox;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use agent::{
    Activity, AgentDesired, AgentState, DiskFacts, DiskStanding, FinalPoint, GuestPlatform, HardwareFacts,
    InterfaceFacts, InterfaceSettings, NetworkProfile, PROGRAM_PIECE_MAX, PowerOff, Problem, ProgramOffer,
    ProgramPiece, ProgramState, ProtectedDisk, Replication, ReplicationState, ScriptCall, ScriptResult,
    SeededDisk, Standing,
};

pub use blobs::{BlobAccess, BlobPlace, Secret, StoragePath, StoragePathFound};
pub use sandbox::{
    PICTURE_LEN_MAX, SANDBOX_ALONE_S, SandboxDesired, SandboxDisk, SandboxHeard, SandboxPlan, SandboxSeen,
    SandboxState,
};

use crate::{Bandwidth, Consistency, Epoch, RecoveryPoint, ReplicaName, RetentionPolicy, Seq, UnixMillis};

/// Longest that a long poll is held open, in seconds.
pub const WAIT_S: u64 = 20;
/// Longest that a machine stands still after its last point, in seconds.
pub const FINAL_HOLD_S: u64 = 120;
/// Bytes of a message at most.
pub const MESSAGE_LEN_MAX: usize = 4 << 20;

/// A component as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Its build, as `switchback --version` shows it.
    pub build: String,
    /// `HOST:PORT` of its data port as others reach it; empty without one.
    #[serde(default)]
    pub address: String,
    /// The site it serves; agents name none, they are recognised by their machine.
    #[serde(default)]
    pub site: String,
    /// When its process started, by its own clock.
    pub started: UnixMillis,
    /// What is particular to its role.
    pub state: State,
    /// The highest incarnation of the configuration server that it has met, as it was proved to it; none if that was never restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation_proof: Option<IncarnationProof>,
}

/// What a component of a role tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "kebab-case")]
pub enum State {
    /// A mobility agent.
    Agent(Box<AgentState>),
    /// A process server.
    ProcessServer(ProcessServerState),
    /// A master target.
    MasterTarget(MasterTargetState),
}

/// That a configuration server was restored, and replaces all that were before: the word of the site's authority. Worth nothing before its signature
/// has been checked (`switchback_identity::is_proved`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncarnationProof {
    /// Which life of the configuration server: higher after each restore. A server that was never restored has number 0, and no proof.
    pub number: u64,
    /// The authority's signature.
    pub signature: Vec<u8>,
}

/// The answer to a report or a wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Another one whenever the desired state has changed: to be compared for equality only.
    pub version: u64,
    /// What the component is to be like.
    pub desired: Desired,
    /// Which life of the configuration server answers; none if it was never restored. Whoever has met a higher one takes nothing from a lower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation_proof: Option<IncarnationProof>,
    /// A certificate of the component that ends before this is to be renewed at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_ending_before: Option<UnixMillis>,
    /// Further addresses of the configuration server, `HOST:PORT`, to be kept and tried when the known ones do not answer.
    #[serde(default)]
    pub servers: Vec<String>,
}

/// A long poll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// The version the component has; answered as soon as there is another.
    pub version: u64,
    /// Agents: the machine they run in, as in their report. Instances of one machine share an identity, and are told apart by this.
    #[serde(default)]
    pub system_uuid: Option<String>,
}

/// What a component is to be like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "kebab-case")]
pub enum Desired {
    /// A mobility agent.
    Agent(Box<AgentDesired>),
    /// A process server.
    ProcessServer(ProcessServerDesired),
    /// A master target.
    MasterTarget(MasterTargetDesired),
}

// ---- Process server

/// What a process server is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessServerDesired {
    /// Replicas it takes data for; others are refused, and their spools removed once empty.
    pub routes: Vec<Route>,
    /// How much it may forward, and when; it looks at the clock itself, so that windows hold while the configuration server is away.
    #[serde(default)]
    pub bandwidth: Bandwidth,
    /// `HOST:PORT` of master targets that it may have to reach one day: to be tried now and then.
    #[serde(default)]
    pub probes: Vec<String>,
    /// Replicas that are to stay as they are: a restored configuration server does not know yet how they stand.
    #[serde(default)]
    pub hold: Vec<ReplicaName>,
}

impl ProcessServerDesired {
    /// With what was desired before of the replicas that are held.
    #[must_use]
    pub fn holding(mut self, before: &Self) -> Self {
        let is_held = |route: &&Route| self.hold.contains(&route.replica);
        let held: Vec<_> = before.routes.iter().filter(is_held).cloned().collect();
        self.routes.retain(|route| !self.hold.contains(&route.replica));
        self.routes.extend(held);
        self
    }
}

/// Where a replica's data goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The replica.
    pub replica: ReplicaName,
    /// The agent that may send it.
    pub source: String,
    /// `HOST:PORT` of the master target.
    pub next: String,
    /// The master target's name.
    pub peer: String,
    /// Older epochs are refused.
    pub epoch: Epoch,
}

/// A process server as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessServerState {
    /// Its spools.
    pub spools: Vec<SpoolState>,
    /// Bytes free on the cache disk.
    pub free_bytes: u64,
    /// Bytes received and forwarded since it started.
    pub received_bytes: u64,
    /// See above.
    pub forwarded_bytes: u64,
    /// What became of [`ProcessServerDesired::probes`]: why an address cannot be reached; `None`: it can.
    #[serde(default)]
    pub probes: BTreeMap<String, Option<String>>,
}

/// A spool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolState {
    /// The replica.
    pub replica: ReplicaName,
    /// Bytes not yet forwarded.
    pub bytes: u64,
    /// Why it does not get on, if it does not.
    #[serde(default)]
    pub waiting: Option<String>,
}

// ---- Master target

/// What a master target is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterTargetDesired {
    /// Replicas it keeps. One that is not named any more is closed and left alone; see [`ReplicaMode::Remove`].
    pub replicas: Vec<ReplicaDesired>,
    /// Replicas that are to stay as they are: a restored configuration server does not know yet how they stand.
    #[serde(default)]
    pub hold: Vec<ReplicaName>,
    /// Ways to storage of its site: to be looked at now and then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub storage_paths: Vec<StoragePath>,
    /// How much it may write into page blobs, all together: the limit for all ([`Bandwidth::total_at`]) alone counts.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

impl MasterTargetDesired {
    /// With what was desired before of the replicas that are held.
    #[must_use]
    pub fn holding(mut self, before: &Self) -> Self {
        let is_held = |replica: &&ReplicaDesired| self.hold.contains(&replica.replica);
        // A sandbox is no state of a replica.
        let without = |replica: &ReplicaDesired| ReplicaDesired { sandbox: None, ..replica.clone() };
        let held: Vec<_> = before.replicas.iter().filter(is_held).map(without).collect();
        self.replicas.retain(|replica| !self.hold.contains(&replica.replica));
        self.replicas.extend(held);
        self
    }

    /// What may be kept on a disk: without what gets into containers.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let mut kept = self.clone();
        kept.replicas
            .iter_mut()
            .filter_map(|replica| replica.blobs.as_mut())
            .for_each(|blobs| blobs.access = None);
        kept
    }
}

/// A replica as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaDesired {
    /// The replica.
    pub replica: ReplicaName,
    /// Target disks, in order: paths at the master target; at a site whose disks are page blobs, their addresses. An empty one: the disk has been
    /// removed. More than there were: disks have been added; others never change.
    pub targets: Vec<PathBuf>,
    /// The replica is in page blobs, here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blobs: Option<BlobPlace>,
    /// Their sizes in bytes.
    pub sizes: Vec<u64>,
    /// Process servers (or agents) that may write it, as `ROLE NAME`.
    pub owners: Vec<String>,
    /// Older epochs are refused from now on.
    pub epoch: Epoch,
    /// Which points to keep.
    pub retention: RetentionPolicy,
    /// What it is for just now.
    pub mode: ReplicaMode,
    /// With [`ReplicaMode::Remove`]: page blobs go, too. (Disks are their site's to remove.)
    #[serde(default)]
    pub purge: bool,
    /// Points to be shown as read-only files, for test failovers: a name and the point.
    #[serde(default)]
    pub views: BTreeMap<String, Seq>,
    /// A machine that is to run over one of its points, beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxDesired>,
}

/// What a replica is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ReplicaMode {
    /// Takes data, applies it. From `StandAt` its disks are first brought back to its newest point, and replication can go on where it was.
    Receive,
    /// Takes nothing; its disks are brought to a point and let go, so that a machine can run above them (on a snapshot, which leaves
    /// them as they are). Newer points are kept, for another choice.
    StandAt {
        /// The point.
        seq: Seq,
    },
    /// Its history is removed; the disks stay as they are: for the next direction, which moves what differs alone.
    Remove,
}

/// A master target as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterTargetState {
    /// SMBIOS system UUID of the machine it runs in, lower case with dashes: by which its site knows to which machine disks are to be attached.
    #[serde(default)]
    pub system_uuid: String,
    /// Its replicas.
    pub replicas: Vec<ReplicaActual>,
    /// Bytes free on the retention drive.
    pub free_bytes: u64,
    /// What became of [`MasterTargetDesired::storage_paths`]. One that has not been looked at yet is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub storage_paths: Vec<StoragePathFound>,
}

/// A replica as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaActual {
    /// The replica.
    pub replica: ReplicaName,
    /// The newest epoch it has seen.
    pub epoch: Epoch,
    /// The mode that has been reached: its disks are let go, if it says so.
    #[serde(default)]
    pub reached: Option<ReplicaMode>,
    /// Where its disks stand.
    #[serde(default)]
    pub applied: Option<Seq>,
    /// Its recovery points, oldest first.
    #[serde(default)]
    pub points: Vec<RecoveryPoint>,
    /// What they take on the retention drive.
    #[serde(default)]
    pub retention_bytes: u64,
    /// Where the views are: the disks' paths, by the view's name.
    #[serde(default)]
    pub views: BTreeMap<String, Vec<PathBuf>>,
    /// Where the disks are at the point that it stands at, in order, when that is not where it writes: clones of page blobs. Empty for a disk that the point lacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standing: Vec<PathBuf>,
    /// [`ReplicaDesired::targets`] as it is on them: while it takes data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<PathBuf>,
    /// What is wrong with it.
    #[serde(default)]
    pub problem: Option<Problem>,
}

// ---- Multi-VM moments

/// An agent's call at a multi-VM moment. All members meet twice: *ready* (little is left to send) and *frozen* (file systems stand
/// still). The answer comes when all have arrived, or the time is up. Only after a joint *frozen* does each swap its bitmap and thaw:
/// no member thaws before all were frozen, so no point holds an effect without its cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MomentCall {
    /// The replication group.
    pub group: String,
    /// At which meeting.
    pub meeting: Meeting,
}

/// The two meetings of a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Meeting {
    /// Ready to freeze.
    Ready,
    /// Frozen, for the moment of this tag.
    Frozen {
        /// As the answer to `Ready` named it.
        tag: String,
    },
}

/// The answer to a [`MomentCall`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum MomentAnswer {
    /// All have arrived.
    Go {
        /// The moment's tag, unique within the group.
        tag: String,
    },
    /// They have not: make a point of your own, or none.
    Alone {
        /// Who was missing.
        reason: String,
    },
}

/// What a group's members must agree on for one of their points to be a multi-VM point.
#[must_use]
pub fn is_group_point(point: &RecoveryPoint, tag: &str) -> bool {
    point.group_tag.as_deref() == Some(tag) && point.consistency >= Consistency::CrashConsistent
}

#[cfg(test)]
mod tests;
