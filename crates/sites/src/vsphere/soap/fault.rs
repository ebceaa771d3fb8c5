//! What can go wrong in a call, and what to do about it.

use std::time::Duration;

use super::Node;

/// Why a call to a vCenter or ESXi host did not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VimError {
    /// The server refused, or a task of it failed.
    #[error("{method}: {kind}{}{}", told(message), advised(kind))]
    Fault {
        /// The method, as the API calls it.
        method: &'static str,
        /// The fault's type in the API: `InvalidLogin`, `FileLocked`, …
        kind: String,
        /// What the server says, with the names it tells.
        message: String,
    },
    /// The server cannot be reached, or the connection was cut.
    #[error(
        "{server} cannot be reached: {detail}. Is it running, and is its port (443) open from here? [vsphere-unreachable]"
    )]
    Unreachable {
        /// Its address.
        server: String,
        /// What the network says.
        detail: String,
    },
    /// The server's certificate is not trusted.
    #[error(
        "the certificate of {server} is not trusted: {detail}. Name the authority that issued it, or its SHA-256 fingerprint, in the site's settings \
         [vsphere-certificate]"
    )]
    Untrusted {
        /// Its address.
        server: String,
        /// What is wrong.
        detail: String,
    },
    /// No answer in time.
    #[error(
        "{method} was not answered by {server} within {} s: it is overloaded or hangs [vsphere-slow]",
        limit.as_secs()
    )]
    Slow {
        /// Its address.
        server: String,
        /// The method.
        method: &'static str,
        /// What was waited.
        limit: Duration,
    },
    /// A task is not over in time. It goes on at the server.
    #[error(
        "{method} was started, and its task is not over after {} s; it goes on at the server: see its recent tasks [vsphere-task]",
        limit.as_secs()
    )]
    Unfinished {
        /// The method that started it.
        method: &'static str,
        /// What was waited.
        limit: Duration,
    },
    /// The answer makes no sense.
    #[error("{method}: this does not look like a vCenter or ESXi host: {detail} [vsphere-protocol]")]
    Protocol {
        /// The method.
        method: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// What was asked for cannot be done with what there is.
    #[error("{0}")]
    Impossible(String),
    /// The settings have a mistake.
    #[error("the site's settings: {0} [vsphere-settings]")]
    Settings(String),
}

impl VimError {
    /// A fault with what its details name.
    pub(in super::super) fn fault(
        method: &'static str,
        kind: String,
        message: String,
        detail: Option<&Node>,
    ) -> Self {
        // The details that tell a person which thing it is about.
        let names = ["privilegeId", "file", "name", "reason", "existingState", "invalidProperty", "property"];
        let told = names.iter().filter_map(|name| Some(format!("{name}: {}", detail?.text_at(name)?)));
        let told: Vec<_> = told.collect();
        let message = match (message.is_empty(), told.is_empty()) {
            (_, true) => message,
            (true, false) => told.join(", "),
            (false, false) => format!("{message} ({})", told.join(", ")),
        };
        Self::Fault { method, kind, message }
    }

    /// The fault's kind, if it is one.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        match self {
            Self::Fault { kind, .. } => Some(kind),
            _ => None,
        }
    }

    /// Whether it is a fault of this kind.
    #[must_use]
    pub fn is(&self, expected: &str) -> bool {
        self.kind() == Some(expected)
    }

    /// Whether trying again later may help.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Slow { .. } | Self::Unfinished { .. } => true,
            Self::Fault { kind, .. } => PASSING.contains(&kind.as_str()),
            _ => false,
        }
    }
}

/// Faults that go away by themselves, or when somebody else is done.
const PASSING: [&str; 12] = [
    "ConcurrentAccess",
    "FileLocked",
    "HostCommunication",
    "HostNotConnected",
    "HostNotReachable",
    "InsufficientResourcesFault",
    "OperationDisabledByGuest",
    "ResourceInUse",
    "TaskInProgress",
    "Timedout",
    "NotAuthenticated",
    "TooManyTasks",
];

/// What to do about a fault of this kind, by its name in the API; `None`: nothing is known that helps.
pub(super) fn advice(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "InvalidLogin" => {
            "user name or password are wrong, or the account is locked: correct the site's credentials"
        }
        "NoPermission" => {
            "the account lacks a privilege on this object: give its role the privileges that failing back needs, and let them propagate"
        }
        "RestrictedVersion" => {
            "this is the free edition of ESXi, whose API can only be read: license the host, or manage it by a vCenter"
        }
        "FileLocked" => {
            "the disk is in use by another virtual machine that is powered on, or by a backup: power that off, or wait"
        }
        "InvalidPowerState" => "the virtual machine is not in the power state that this needs",
        "InsufficientResourcesFault" => {
            "the host or resource pool has too little processor or memory left: free some, or choose another"
        }
        "NoDiskSpace" | "InsufficientStorageSpace" => {
            "the datastore is full: free some, or choose another datastore"
        }
        "NotAuthenticated" => "the session has ended: it is renewed at the next attempt",
        "ManagedObjectNotFound" => {
            "the object is gone from the inventory: it was removed or registered anew, discover the site again"
        }
        "TaskInProgress" | "ConcurrentAccess" | "ResourceInUse" => {
            "something else is being done with this object: wait"
        }
        "HostNotConnected" | "HostCommunication" | "HostNotReachable" => {
            "the vCenter cannot reach its ESXi host: see the host's connection"
        }
        "DuplicateName" | "AlreadyExists" | "FileAlreadyExists" => "the name is taken: choose another",
        "ToolsUnavailable" => "VMware Tools do not run in the guest",
        _ => return None,
    })
}

fn told(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(", {message}") }
}

fn advised(kind: &str) -> String {
    let code = if kind.is_empty() { "unknown" } else { kind };
    match advice(kind) {
        Some(advice) => format!(": {advice} [vsphere-fault-{code}]"),
        None => format!(" [vsphere-fault-{code}]"),
    }
}
