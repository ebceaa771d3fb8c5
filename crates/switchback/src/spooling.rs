//! A process server's spool of one replica, in a directory of its own: the same for a process server with one next hop and one under a
//! configuration server.

use std::path::Path;
use std::sync::Arc;

use switchback_disk::DirVolume;
use switchback_replica::ReplicaError;
use switchback_spool::{NextHop, Spool, SpoolConfig};

/// Opens the spool in `root`'s directory of the replica, made if it is not there.
pub(crate) fn open_spool(
    root: &Path,
    config: SpoolConfig,
    next_hop: Box<NextHop>,
) -> Result<Spool, ReplicaError> {
    let directory = root.join(config.replica.as_str());
    let action = format!("opening the spool of {}", config.replica);
    let failed = |detail: String| ReplicaError::Io { action: action.clone(), detail };
    let volume = match DirVolume::create(&directory) {
        // There from an earlier run.
        Err(_) if directory.is_dir() => DirVolume::open(&directory),
        other => other,
    };
    let volume = volume.map_err(|error| failed(error.to_string()))?;
    Spool::open(Arc::new(volume), config, next_hop).map_err(|error| failed(error.to_string()))
}
