//! Recovery points.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{DiskIndex, Seq};

/// A moment as milliseconds since 1970-01-01 UTC, from the clock of whoever states it.
///
/// Order between recovery points always comes from [`Seq`], never from this: clocks jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

/// What is known of a recovery point's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Read from a disk that may have been written meanwhile: blocks may belong to different moments.
    Fuzzy,
    /// All disks as they were at one moment, as after a power cut.
    CrashConsistent,
    /// Crash-consistent, and the applications had been told to write out what they hold.
    AppConsistent,
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fuzzy => "fuzzy",
            Self::CrashConsistent => "crash-consistent",
            Self::AppConsistent => "app-consistent",
        })
    }
}

/// A moment to which a machine (all its disks) can be recovered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// Its place in the history of the replica.
    pub seq: Seq,
    /// When the source was in this state, by the source's clock.
    pub time: UnixMillis,
    /// What is known of its contents.
    pub consistency: Consistency,
    /// The multi-VM moment it belongs to, when its replication group took one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_tag: Option<String>,
    /// Disks of the replica that are not in this state here: their initial replication was not complete, or they have been removed since. Ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<DiskIndex>,
}

impl RecoveryPoint {
    /// Whether the other one is the same moment of the same history. Which disks a point holds changes when a disk is removed.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let what = |point: &Self| (point.seq, point.time, point.consistency);
        what(self) == what(other) && self.group_tag == other.group_tag
    }
}
