//! Events: what happened, and what is not as it should be.

use serde::{Deserialize, Serialize};

use crate::UnixMillis;

/// How serious an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Will become a problem.
    Warning,
    /// Is one.
    Critical,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: UnixMillis,
    /// Stable: `rpo.exceeded`.
    pub code: String,
    /// How serious.
    pub severity: Severity,
    /// What it is about: a machine, a server, a site.
    pub object: String,
    /// In words: what, the likely cause, what to do.
    pub message: String,
}

/// A line of the audit log: who asked for what, and whether it was allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When.
    pub time: UnixMillis,
    /// The token's name.
    pub by: String,
    /// `POST /…`.
    pub request: String,
    /// The HTTP status it was answered with.
    pub status: u16,
}

/// What a token's holder may do: ASR's three roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AccessRole {
    /// Look.
    Reader,
    /// Look; fail over, commit, run plans, manage jobs.
    Operator,
    /// All of it; protect and disable, sites, groups, plans, servers, tokens.
    Contributor,
}
