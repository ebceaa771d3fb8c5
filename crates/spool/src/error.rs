//! What can go wrong with a spool itself, as opposed to the replica behind it.

use std::io;

use switchback_replica::ReplicaError;

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// What was acknowledged is not there any more as it was written.
    #[error("the spool is damaged: {segment} at byte {offset}: {detail}; the replica needs a resync")]
    Damaged {
        /// Which file.
        segment: String,
        /// Bytes from its start, where the first record that cannot be read begins.
        offset: u64,
        /// What is wrong with it.
        detail: String,
    },
    /// Another process has it.
    #[error("the spool {volume} is in use by {holder}; only one process may serve it")]
    Locked {
        /// Where.
        volume: String,
        /// Who.
        holder: String,
    },
    /// It was encrypted under another key, or a key is missing.
    #[error("{segment} is encrypted under key {key}, which is not the configured one; configure that key")]
    WrongKey {
        /// Which file.
        segment: String,
        /// The key's id, hexadecimal.
        key: String,
    },
    /// It belongs to another replica.
    #[error(
        "the spool {volume} is that of replica {found}, not of {wanted}; give each replica its own folder"
    )]
    OtherReplica {
        /// Where.
        volume: String,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// Settings that cannot work.
    #[error("the spool's settings cannot work: {detail}")]
    Config {
        /// What, and what would.
        detail: String,
    },
    /// The cache disk failed.
    #[error("{action} failed; check the cache disk of the process server")]
    Io {
        /// What was being done, with the file.
        action: String,
        /// The system's words.
        source: io::Error,
    },
}

impl SpoolError {
    /// Wraps the error of `action`.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// Whether the cache disk has no room.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// In the words of a replica, for a writer far away.
    pub(crate) fn for_writer(&self) -> ReplicaError {
        match self {
            Self::Damaged { .. } => ReplicaError::ResyncNeeded { detail: self.to_string() },
            Self::Locked { holder, .. } => ReplicaError::Locked { holder: holder.clone() },
            Self::Io { action, source } => {
                ReplicaError::Io { action: action.clone(), detail: source.to_string() }
            }
            other => ReplicaError::Protocol { detail: other.to_string() },
        }
    }
}
