//! `switchback receive`: the other end of a sync.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use switchback_disk::SystemClock;
use switchback_identity::PeerIdentity;
use switchback_model::{ReplicaName, RetentionPolicy};
use switchback_replica::{ReplicaError, ReplicaSession, SessionRequest};
use switchback_transport::SessionHandler;

use super::network::ListenArgs;
use crate::exporting::Exports;
use crate::host::{Host, Placement};
use crate::storage_key;

#[derive(Debug, Args)]
pub(crate) struct ReceiveArgs {
    /// Directory of the replicas; each gets one of its own below it
    #[arg(long, value_name = "DIRECTORY")]
    root: PathBuf,
    /// Disks for a new replica, instead of image files in its directory: NAME=DISK[,DISK…]
    #[arg(long, value_name = "NAME=DISKS", value_parser = target)]
    target: Vec<(ReplicaName, Vec<PathBuf>)>,
    /// Most GiB that a new replica may keep for going back; the oldest points go first
    #[arg(long, value_name = "GIB")]
    retention_gib: Option<u64>,
    /// Encrypt the history of new replicas under the key in this file (`switchback identity storage-key` makes one). Their
    /// settings name the file; keep it, and a copy elsewhere: without it the history is lost
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    listen: ListenArgs,
}

fn target(text: &str) -> Result<(ReplicaName, Vec<PathBuf>), String> {
    let (name, disks) = text.split_once('=').ok_or("it must be NAME=DISK[,DISK…]")?;
    let name = name.parse().map_err(|error: switchback_model::InvalidName| error.to_string())?;
    Ok((name, disks.split(',').map(PathBuf::from).collect()))
}

pub(crate) fn receive(args: &ReceiveArgs) -> anyhow::Result<ExitCode> {
    let retention =
        RetentionPolicy { bytes_max: args.retention_gib.map(|gib| gib << 30), ..RetentionPolicy::default() };
    let key_file = args.key_file.as_deref().map(usable_key_file).transpose()?;
    let placement = Placement { targets: args.target.iter().cloned().collect(), retention, key_file };
    let root = std::path::absolute(&args.root)?;
    let host = Arc::new(Host::new(root.clone(), placement, Arc::new(SystemClock)));
    let _exports = Exports::serve(Arc::clone(&host), &root)
        .with_context(|| format!("serving exports in {}", root.display()))?;
    args.listen.serve(args.listen.identity.credentials()?, Arc::new(Receiver(host)), "the receiver")?;
    Ok(ExitCode::SUCCESS)
}

/// The file's absolute path, if it holds a key: better now than at the first replica.
pub(super) fn usable_key_file(path: &Path) -> anyhow::Result<PathBuf> {
    storage_key::load(path)?;
    Ok(std::path::absolute(path)?)
}

struct Receiver(Arc<Host>);

impl SessionHandler for Receiver {
    fn open(
        &self,
        peer: &PeerIdentity,
        request: SessionRequest,
    ) -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        tracing::info!(%peer, replica = %request.replica, "a session begins");
        Ok(Box::new(self.0.session(Some(&peer.to_string()), &request)?))
    }
}
