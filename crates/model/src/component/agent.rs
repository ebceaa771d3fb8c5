//! A mobility agent: what it is to be like, and as it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DiskIndex, Epoch, GenerationId, ReadinessCheck, ReplicaName, Seq, UnixMillis};

/// What an agent is to do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentDesired {
    /// How this instance of the machine stands.
    pub standing: Standing,
    /// Replicate so; `None`: do not (keep tracking if `keep_tracking`).
    #[serde(default)]
    pub replication: Option<Replication>,
    /// The network settings of each place where this machine may wake up, to be kept on its disk.
    #[serde(default)]
    pub networks: Vec<NetworkProfile>,
    /// Scripts of recovery plans to be run once each; the answers come in [`AgentState::scripts`].
    #[serde(default)]
    pub scripts: Vec<ScriptCall>,
    /// Switch the machine off: it has no hypervisor that could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_off: Option<PowerOff>,
    /// Where the machine may wake up one day; its guest is checked, and prepared, for that. `None`: nowhere that asks something of guests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_for: Option<GuestPlatform>,
    /// The machine may wake up one day on firmware that has never started it; its guest is checked, and prepared, for that.
    #[serde(default)]
    pub new_firmware: bool,
    /// Go on as this program, fetched with [`ProgramPiece`]; `None`: as what you are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramOffer>,
    /// Go on as you are, whatever the rest says: a restored configuration server does not know yet how things stand.
    #[serde(default)]
    pub hold: bool,
}

/// Longest piece of a program in bytes that is asked for at a time.
pub const PROGRAM_PIECE_MAX: usize = 1 << 20;

/// A program that an agent is to go on as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramOffer {
    /// Tells one request from another: what has failed is not tried again for the same one.
    pub token: String,
    /// SHA-256, 64 hexadecimal digits in lower case.
    pub sha256: String,
    /// Bytes.
    pub len: u64,
}

/// Asks for the bytes of an offered program from `offset` on, at most [`PROGRAM_PIECE_MAX`]. None: its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramPiece {
    /// Of which program; refused when the configuration server has another one by now.
    pub sha256: String,
    /// Bytes before it.
    pub offset: u64,
}

/// How an agent stands to a [`ProgramOffer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramState {
    /// Of the offer.
    pub token: String,
    /// What the agent runs, as the offer names it.
    pub sha256: String,
    /// Bytes of the offered program that it has.
    pub fetched: u64,
    /// Why it does not go on as what was offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// A platform that asks something of the guests that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestPlatform {
    /// Microsoft Azure: Hyper-V's drivers in the initramfs, a console on the serial port, file systems mounted by what is on the disk.
    Azure,
}

/// A request to a machine to switch itself off. The agent says that it does, in [`AgentState::powering_off`], before it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerOff {
    /// Tells one request from another.
    pub token: String,
    /// The boot it is meant for ([`AgentState::boot_id`]): who starts the machine again does not find it switched off once more.
    pub boot_id: String,
    /// At once, while the machine stands still after its last cycle ([`Replication::final_cycle`]), and only then; else in order.
    pub standing_still: bool,
}

/// A script to be run in the guest, once for each token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptCall {
    /// Tells one call from another; also over restarts of the agent.
    pub token: String,
    /// A file in the guest's script directory (`/etc/switchback/scripts`), nothing else.
    pub script: String,
    /// Seconds it may take.
    pub limit_s: u64,
}

/// What became of a [`ScriptCall`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptResult {
    /// Of the call.
    pub token: String,
    /// Exit status 0.
    pub succeeded: bool,
    /// The end of what it printed, or why it could not be run.
    pub output: String,
}

/// How an instance of a machine stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Standing {
    /// Not protected.
    #[default]
    Unprotected,
    /// This instance is the machine.
    Active,
    /// The machine lives elsewhere by now; what is written here is lost. The agent sends nothing.
    Superseded {
        /// Where it lives.
        by: String,
    },
}

/// A replication as the agent runs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replication {
    /// The replica at the target.
    pub replica: ReplicaName,
    /// `HOST:PORT` of the process server (or of the master target itself) to send to.
    pub address: String,
    /// Who must answer there: the component's name.
    pub peer: String,
    /// The epoch to write under.
    pub epoch: Epoch,
    /// Milliseconds between recovery points.
    pub interval_ms: u64,
    /// Milliseconds between app-consistent points; 0: none.
    #[serde(default)]
    pub app_interval_ms: u64,
    /// Longest time in milliseconds that file systems may stand still.
    pub freeze_budget_ms: u64,
    /// zstd level, if data is to be compressed on its way.
    #[serde(default)]
    pub compression: Option<i32>,
    /// Bytes per second at most.
    #[serde(default)]
    pub bytes_per_s_max: Option<u64>,
    /// Take moments together with the other members of this replication group.
    #[serde(default)]
    pub group: Option<String>,
    /// The disks that are protected, in the replica's order. Others in the machine are left alone and told of; one of these that is not there
    /// as it says means that the machine has changed: nothing is sent until its protection is adapted.
    pub disks: Vec<ProtectedDisk>,
    /// Grows with each request of a user to compare everything again.
    #[serde(default)]
    pub resync_requested: u64,
    /// For a planned failover: run the guest's stop script if it has one, freeze, make one more point, **and stay frozen**
    /// (for [`FINAL_HOLD_S`](super::FINAL_HOLD_S) at most), so that nothing can be written that is not in the point: then the machine's power is cut. The token
    /// tells one request from another and comes back in [`ReplicationState::final_point`]. When the hold is over, or the request is
    /// withdrawn, the machine thaws, the point is no final one any more, and replication goes on.
    #[serde(default)]
    pub final_cycle: Option<String>,
}

/// A disk that is protected, as its machine's site told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectedDisk {
    /// Its serial number as the guest sees it; empty when that is not known: then its place among all disks counts.
    #[serde(default)]
    pub serial: String,
    /// Bytes.
    pub size: u64,
    /// What has become of it since.
    #[serde(default, skip_serializing_if = "DiskStanding::is_protected")]
    pub standing: DiskStanding,
}

/// How a disk of a protected machine stands. Its place among them is its number at the replica, and stays its own when it is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskStanding {
    /// Protected with the others.
    #[default]
    Protected,
    /// A job adds it: its machine's agent has not been told yet.
    Preparing,
    /// It was added while the others were protected, and no recovery point holds it yet: its initial replication goes on beside them.
    Adding,
    /// It has been removed from the protection: nothing of it is replicated, and no recovery point holds it.
    Removed,
}

impl DiskStanding {
    /// Whether nothing is to be said of it.
    #[must_use]
    pub const fn is_protected(&self) -> bool {
        matches!(self, Self::Protected)
    }
}

/// The network settings of a machine at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkProfile {
    /// The place: the SMBIOS system UUID of the instance, lower case with dashes.
    pub system_uuid: String,
    /// Interface settings by MAC address (lower case, colons) at that place.
    pub interfaces: BTreeMap<String, InterfaceSettings>,
}

/// How an interface gets its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum InterfaceSettings {
    /// As the guest has it by itself: nothing is changed.
    Untouched,
    /// By DHCP.
    Dhcp,
    /// Fixed.
    Static {
        /// `ADDRESS/PREFIX`.
        address: String,
        /// Default gateway.
        #[serde(default)]
        gateway: Option<String>,
        /// Name servers.
        #[serde(default)]
        name_servers: Vec<String>,
    },
}

/// An agent as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentState {
    /// SMBIOS system UUID, lower case with dashes: which instance this is.
    pub system_uuid: String,
    /// SMBIOS manufacturer and product.
    pub platform: String,
    /// Host name.
    pub hostname: String,
    /// Operating system and kernel.
    pub system: String,
    /// Identity of this boot, as the kernel gives it.
    pub boot_id: String,
    /// What it has of processors and memory, and how it boots.
    #[serde(default)]
    pub hardware: HardwareFacts,
    /// The request ([`PowerOff::token`]) that it is about to follow: nothing comes from it any more after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub powering_off: Option<String>,
    /// All disks that would be protected, in order.
    pub disks: Vec<DiskFacts>,
    /// Network interfaces.
    pub interfaces: Vec<InterfaceFacts>,
    /// How replication stands.
    pub replication: Option<ReplicationState>,
    /// Scripts that have been run.
    #[serde(default)]
    pub scripts: Vec<ScriptResult>,
    /// How its guest is ready for [`AgentDesired::guest_for`]; empty: that was not asked for, or not looked at yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guest: Vec<ReadinessCheck>,
    /// How it stands to the program that it is offered; `None`: it is offered none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramState>,
    /// What a person should know: failed scripts, unsupported disks, refused sessions.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// What a machine has, besides disks and network cards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardwareFacts {
    /// Processors that it sees.
    pub cpus: u32,
    /// Memory, rounded up to whole GiB: what firmware and kernel keep for themselves is not told.
    pub memory_mib: u32,
    /// It was booted by UEFI.
    pub uefi: bool,
}

/// A disk in a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// Kernel name, `vda`.
    pub name: String,
    /// Serial number, if it has one.
    #[serde(default)]
    pub serial: String,
    /// Bytes.
    pub size: u64,
    /// How changes are found: `ebpf` or `scan`.
    pub capture: String,
}

/// A network interface in a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceFacts {
    /// Kernel name.
    pub name: String,
    /// MAC address, lower case with colons.
    pub mac: String,
    /// `ADDRESS/PREFIX` of each address.
    pub addresses: Vec<String>,
    /// Default gateway through it.
    #[serde(default)]
    pub gateway: Option<String>,
}

/// What a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable, for looking it up: `agent.freeze-failed`.
    pub code: String,
    /// What is wrong, the likely cause, what to do.
    pub message: String,
}

/// How a replication stands, as its source sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicationState {
    /// The replica.
    pub replica: ReplicaName,
    /// Under which epoch.
    pub epoch: Epoch,
    /// The tracker's generation.
    #[serde(default)]
    pub generation: Option<GenerationId>,
    /// What it is doing.
    pub activity: Activity,
    /// Bytes of disks compared in this resync, of `disk_bytes`.
    #[serde(default)]
    pub compared_bytes: u64,
    /// Bytes of all disks.
    pub disk_bytes: u64,
    /// Contents sent since this replication began.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Contents sent by its last comparison (initial replication, resync) alone.
    #[serde(default)]
    pub resync_sent_bytes: u64,
    /// Of what was sent since then, contents of blocks that had changed: the machine's churn. A block that is written again before it is sent counts once; so do
    /// those of a disk that was added, as its initial replication goes beside the changes.
    #[serde(default)]
    pub changed_bytes: u64,
    /// All that was sent since then as it travelled, compressed.
    #[serde(default)]
    pub transferred_bytes: u64,
    /// Its newest point durable at the next hop, with the moment's time.
    #[serde(default)]
    pub received: Option<(Seq, UnixMillis)>,
    /// Its newest point that is a recovery point at the target.
    #[serde(default)]
    pub recoverable: Option<Seq>,
    /// How long the last moment stood still, in milliseconds.
    #[serde(default)]
    pub frozen_ms: u64,
    /// The point that answers a request for a last cycle, as long as the machine stands still.
    #[serde(default)]
    pub final_point: Option<FinalPoint>,
    /// How far the initial replication of disks that are being added is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeded: Vec<SeededDisk>,
    /// The last failure, until a cycle succeeds.
    #[serde(default)]
    pub failure: Option<Problem>,
}

/// How far the initial replication of a disk is that goes beside the cycles of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeededDisk {
    /// The disk.
    pub disk: DiskIndex,
    /// Bytes of it, from its first on, that were sent with a cycle that is durable at the next hop.
    pub bytes: u64,
}

/// The last point before a planned failover; see [`Replication::final_cycle`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalPoint {
    /// Of the request.
    pub token: String,
    /// The point, durable at the next hop.
    pub seq: Seq,
    /// Milliseconds for which the machine stands still yet, as of this report.
    pub held_for_ms: u64,
}

/// What a replication is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// Waiting for its next cycle.
    Idle,
    /// Comparing with the replica (initial replication or resync).
    Comparing,
    /// Sending changed blocks.
    Sending,
    /// Waiting for the other end.
    Waiting,
    /// The last cycle was asked for and is durable; nothing is sent any more.
    Finished,
    /// Refused as superseded: the replica knows a newer epoch.
    Fenced,
}
