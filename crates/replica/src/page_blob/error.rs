//! What a failed operation of the store means for whoever uses the replica.

use std::fmt::Display;
use std::io;

use switchback_delta::DeltaError;

use super::store::{BlobError, BlobStore};
use crate::ReplicaError;
use crate::layer::DeltaPlace;

/// As an error of a file or disk made of blobs; [`replica_error`] finds it again in it.
pub(super) fn io_error(error: BlobError) -> io::Error {
    let kind = match &error {
        BlobError::Missing { .. } => io::ErrorKind::NotFound,
        BlobError::Short { .. } => io::ErrorKind::UnexpectedEof,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// What it means for the writer.
pub(super) fn blob_error(store: &dyn BlobStore, action: &str, error: &BlobError) -> ReplicaError {
    let place = store.name();
    match error {
        BlobError::Unavailable { detail } => {
            ReplicaError::Disconnected { peer: place.into(), detail: format!("{action}: {detail}") }
        }
        BlobError::Denied { .. } => {
            ReplicaError::Forbidden { detail: format!("{action} in {place}: {error}") }
        }
        BlobError::Missing { .. } | BlobError::Short { .. } => {
            ReplicaError::Corrupt { detail: format!("{action} in {place}: {error}") }
        }
        BlobError::Refused { .. } | BlobError::Failed { .. } => {
            ReplicaError::Io { action: format!("{action} in {place}"), detail: error.to_string() }
        }
    }
}

/// What an I/O error of a file or disk made of blobs means for the writer.
pub(super) fn replica_error(store: &dyn BlobStore, action: &str, error: &io::Error) -> ReplicaError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<BlobError>()) {
        Some(inner) => blob_error(store, action, inner),
        None => {
            ReplicaError::Io { action: format!("{action} in {}", store.name()), detail: error.to_string() }
        }
    }
}

/// What a failed write to a page blob means, or to the digests beside it. Never damage: that a page blob is gone says nothing about what is staged, which
/// must not be given up for it.
pub(super) fn page_error(store: &dyn BlobStore, action: &str, error: &io::Error) -> ReplicaError {
    match replica_error(store, action, error) {
        ReplicaError::Corrupt { detail } => ReplicaError::Io { action: action.into(), detail },
        other => other,
    }
}

impl DeltaPlace for dyn BlobStore + '_ {
    fn name(&self) -> &str {
        BlobStore::name(self)
    }

    fn failed(&self, delta: &dyn Display, error: &DeltaError) -> ReplicaError {
        match error {
            DeltaError::Io { source, .. } => replica_error(self, &format!("reading {delta}"), source),
            damage => {
                ReplicaError::Corrupt { detail: format!("{delta} in {}: {damage}", BlobStore::name(self)) }
            }
        }
    }
}
