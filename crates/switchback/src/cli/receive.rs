//! `switchback receive` and `switchback process-server`: the other ends of a sync.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use clap::Args;
use switchback_disk::{DirVolume, SystemClock, Volume};
use switchback_identity::PeerIdentity;
use switchback_model::{ReplicaName, RetentionPolicy, WriterId};
use switchback_replica::{ReplicaError, ReplicaSession, SessionRequest};
use switchback_spool::{Spool, SpoolConfig, SpoolKey};
use switchback_transport::SessionHandler;

use super::network::{ListenArgs, Reach};
use crate::exporting::Exports;
use crate::host::{Host, Placement, new_id};
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

#[derive(Debug, Args)]
pub(crate) struct ProcessServerArgs {
    /// Directory of the spools, on the cache disk
    #[arg(long, value_name = "DIRECTORY")]
    spool: PathBuf,
    /// HOST:PORT to forward to
    #[arg(long, value_name = "HOST:PORT")]
    next: String,
    /// Most GiB to spool for each replica; senders wait beyond it
    #[arg(long, default_value_t = 64, value_name = "GIB", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    spool_gib: u64,
    /// Encrypt what is spooled under the key in this file (`switchback identity storage-key` makes one)
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

pub(crate) fn process_server(args: &ProcessServerArgs) -> anyhow::Result<ExitCode> {
    let root = std::path::absolute(&args.spool)?;
    std::fs::create_dir_all(&root).with_context(|| format!("creating {}", root.display()))?;
    // Shared: what is renewed at the next hop is shown to the senders, too.
    let identity = args.listen.identity.credentials()?;
    let spools = Spools {
        writer: writer_id(&root)?,
        root,
        bytes_max: args.spool_gib << 30,
        key: args.key_file.as_deref().map(storage_key::load).transpose()?.map(|key| SpoolKey::new(*key)),
        next: Arc::new(Reach::new(identity.clone(), &args.next, None)?),
        open: Mutex::default(),
    };
    spools.open_existing()?;
    args.listen.serve(identity, Arc::new(spools), "the process server")?;
    Ok(ExitCode::SUCCESS)
}

/// The same at every start, so that a restarted process server takes over from its dead self at once.
fn writer_id(root: &Path) -> anyhow::Result<WriterId> {
    let volume = DirVolume::open(root)?;
    if let Ok(data) = volume.read_all("writer", 64) {
        let text = String::from_utf8_lossy(&data);
        return text.trim().parse().with_context(|| format!("reading {}", root.join("writer").display()));
    }
    let writer = WriterId(new_id());
    volume.write_atomic("writer", writer.to_string().as_bytes())?;
    Ok(writer)
}

/// The spools of a process server, one for each replica; open from the first session, or the start, until the end.
struct Spools {
    root: PathBuf,
    writer: WriterId,
    bytes_max: u64,
    key: Option<SpoolKey>,
    next: Arc<Reach>,
    open: Mutex<BTreeMap<ReplicaName, Spool>>,
}

impl Spools {
    /// What an earlier run has not forwarded goes on without waiting for its sender.
    fn open_existing(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name().to_str().and_then(|name| name.parse::<ReplicaName>().ok());
            if let (true, Some(name)) = (entry.file_type()?.is_dir(), name) {
                let spool = self.open_spool(&name).with_context(|| format!("opening the spool of {name}"))?;
                self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(name, spool);
            }
        }
        Ok(())
    }

    fn open_spool(&self, name: &ReplicaName) -> Result<Spool, ReplicaError> {
        let directory = self.root.join(name.as_str());
        let failed =
            |detail: String| ReplicaError::Io { action: format!("opening the spool of {name}"), detail };
        let volume = match DirVolume::create(&directory) {
            Err(_) if directory.is_dir() => DirVolume::open(&directory),
            other => other,
        };
        let volume = volume.map_err(|error| failed(error.to_string()))?;
        let mut config = SpoolConfig::new(name.clone(), self.writer, self.bytes_max);
        config.key.clone_from(&self.key);
        let next = Arc::clone(&self.next);
        let next_hop = Box::new(move |request: &SessionRequest| next.session(request));
        Spool::open(Arc::new(volume), config, next_hop).map_err(|error| failed(error.to_string()))
    }
}

impl SessionHandler for Spools {
    fn open(
        &self,
        peer: &PeerIdentity,
        request: SessionRequest,
    ) -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        tracing::info!(%peer, replica = %request.replica, "a session begins");
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.contains_key(&request.replica) {
            open.insert(request.replica.clone(), self.open_spool(&request.replica)?);
        }
        let spool = open.get(&request.replica).expect("just opened");
        Ok(Box::new(spool.session(&request)?))
    }
}
