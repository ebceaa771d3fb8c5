//! Sandboxes beside a replica: a machine over one of its points that a master target runs, where the replica's site has no such machines; and what is seen of it.
//!
//! It is desired like everything else: it runs as long as the configuration server says so and its time lasts, and what a master target sees of it is told apart
//! from its report, which must stay small: `POST /components/v1/sandbox`, [`SandboxSeen`] → [`SandboxHeard`], each second while something changes.

use serde::{Deserialize, Serialize};

use super::Problem;
use crate::{DiskIndex, Seq, UnixMillis};

/// Bytes of a picture that is sent at most.
pub const PICTURE_LEN_MAX: usize = 2 << 20;
/// Seconds that a sandbox goes on while nobody answers for it: a configuration server that is restarted, or restored, finds it where it was.
pub const SANDBOX_ALONE_S: u64 = 60;

/// A sandbox that is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxDesired {
    /// Another id is another sandbox. It becomes a directory's name.
    pub id: String,
    /// The point of the replica.
    pub seq: Seq,
    /// What machine it is.
    pub plan: SandboxPlan,
}

/// A machine without a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxPlan {
    /// Processors: fewer, where the host has fewer.
    pub cpus: u32,
    /// Memory: less, where the host has not so much to give.
    pub memory_mib: u32,
    /// It boots by UEFI; else by BIOS.
    pub uefi: bool,
    /// Its disks, in order.
    pub disks: Vec<SandboxDisk>,
    /// The MAC addresses of its network cards, which lead nowhere; an empty one is chosen.
    pub macs: Vec<String>,
    /// Milliseconds from its start after which it is ended, whatever else is desired.
    pub limit_ms: u64,
}

/// A disk of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxDisk {
    /// Which of the replica's.
    pub disk: DiskIndex,
    /// The serial number that its guest sees.
    pub serial: String,
}

/// What a master target sees of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxSeen {
    /// [`SandboxDesired::id`].
    pub id: String,
    /// How it is.
    pub state: SandboxState,
    /// When it was started; another time is another start, from nothing.
    pub started: UnixMillis,
    /// Memory that it has.
    pub memory_mib: u32,
    /// The end of what it has written to its serial console.
    pub console: String,
    /// What stands on its screen, where that is text.
    pub screen: String,
    /// A picture of its screen: PNG, in base64. None that is too large.
    pub picture: String,
    /// Requests of its disks that have failed.
    pub failed_requests: u64,
}

/// How a sandbox is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum SandboxState {
    /// It is being made.
    Starting,
    /// It runs.
    Runs,
    /// It went off by itself.
    Off,
    /// It does not run, and will not.
    Refused {
        /// Why.
        problem: Problem,
    },
}

/// The answer to [`SandboxSeen`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxHeard {
    /// Whether somebody waits for it, as far as that is known where it was asked. What is desired says so for certain.
    pub is_wanted: bool,
}
