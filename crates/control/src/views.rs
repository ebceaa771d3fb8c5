//! What the configuration server shows: stored objects together with what their components last said.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use switchback_identity::PeerIdentity;
use switchback_model::component::Report;
use switchback_model::{CheckState, JobError, Operation, ProtectedItem, UnixMillis};
use switchback_sites::Machine;

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Health {
    /// As it should be.
    Normal,
    /// Needs a look.
    Warning,
    /// Does not do its work.
    Critical,
}

/// A component that has enrolled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerView {
    /// Who.
    pub identity: PeerIdentity,
    /// When it enrolled.
    pub enrolled: UnixMillis,
    /// What it last said, and when.
    pub last_report: Option<(UnixMillis, Report)>,
    /// How it is.
    pub health: Health,
    /// Why it is not well.
    pub reasons: Vec<JobError>,
}

/// A machine that a site has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredMachine {
    /// As the site tells.
    pub machine: Machine,
    /// The protected machine that it is an instance of.
    pub item: Option<switchback_model::ObjectName>,
    /// A mobility agent reports from it.
    pub has_agent: bool,
    /// Why it cannot be protected as it is; empty: it can be.
    pub obstacles: Vec<JobError>,
}

/// A protected machine.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemView {
    /// As it is stored.
    pub item: ProtectedItem,
    /// The group in force: the forward one or its twin.
    pub group: switchback_model::ObjectName,
    /// What may be asked for now.
    pub allowed: Vec<Operation>,
    /// Whether it could fail over, and come home, as of the last look; `None`: there was none yet.
    pub verdicts: Option<[CheckState; 2]>,
    /// How its replication is.
    pub health: Health,
    /// Why it is not well.
    pub reasons: Vec<JobError>,
    /// Age of its newest recovery point, if it has one.
    pub rpo_ms: Option<u64>,
    /// Percent of the initial replication or resync in hand.
    pub resync_percent: Option<u8>,
    /// Bytes compared in that, one disk after the other.
    pub compared_bytes: Option<u64>,
    /// Percent of the initial replication of each disk that is being added, by its number.
    pub disk_percents: BTreeMap<u16, u8>,
    /// Contents sent since this replication began, in bytes.
    pub sent_bytes: u64,
    /// Contents sent by the last comparison alone.
    pub resync_sent_bytes: u64,
    /// Contents of changed blocks sent since then: the machine's churn.
    pub changed_bytes: u64,
    /// All that was sent since then, as it travelled, compressed.
    pub transferred_bytes: u64,
    /// How many recovery points there are at the target.
    pub points: usize,
    /// Its agent's last report came then.
    pub agent_seen: Option<UnixMillis>,
    /// The agent's build.
    pub agent_build: String,
    /// The operating system, as its agent tells.
    pub system: String,
    /// The active instance's addresses, as its agent tells.
    pub addresses: Vec<String>,
}
