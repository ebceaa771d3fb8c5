//! `switchback process-server`: takes data from agents, keeps it durably, and forwards it.
//!
//! Two ways to be told where to: `--server`, as the configuration server says for each replica; or `--next`, everything to one place, for
//! hosts that have no configuration server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use clap::Args;
use switchback_identity::{PeerIdentity, Role};
use switchback_model::{ReplicaName, WriterId};
use switchback_replica::{ReplicaError, ReplicaSession, SessionRequest};
use switchback_spool::{Spool, SpoolConfig, SpoolKey};
use switchback_transport::SessionHandler;

use super::component::ComponentArgs;
use super::network::{ListenArgs, Reach};
use crate::engine::Stop;
use crate::role::process_server::{self, ProcessServerConfig, writer_id};
use crate::spooling::open_spool;
use crate::storage_key;

#[derive(Debug, Args)]
pub(crate) struct ProcessServerArgs {
    /// HOST:PORT of the configuration server; again for each other address it may have
    #[arg(
        long = "server",
        required_unless_present = "next",
        conflicts_with = "next",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    servers: Vec<String>,
    /// The site it serves
    #[arg(long, required_unless_present = "next")]
    site: Option<String>,
    /// Directory of the spools, on the cache disk
    #[arg(long, alias = "spool", value_name = "DIRECTORY")]
    data: PathBuf,
    /// HOST:PORT to forward everything to, without a configuration server
    #[arg(long, value_name = "HOST:PORT")]
    next: Option<String>,
    /// Most GiB to spool for each replica; senders wait beyond it
    #[arg(long, default_value_t = 64, value_name = "GIB", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    spool_gib: u64,
    /// Encrypt what is spooled under the key in this file (`switchback identity storage-key` makes one)
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    component: ComponentArgs,
    /// How others reach it, if that is another address than it listens on
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    #[command(flatten)]
    listen: ListenArgs,
}

pub(crate) fn run(args: &ProcessServerArgs) -> anyhow::Result<ExitCode> {
    match &args.next {
        Some(next) => forward_to(args, next)?,
        None => managed(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn key(args: &ProcessServerArgs) -> anyhow::Result<Option<SpoolKey>> {
    Ok(args.key_file.as_deref().map(storage_key::load).transpose()?.map(|key| SpoolKey::new(*key)))
}

/// As the configuration server says.
fn managed(args: &ProcessServerArgs) -> anyhow::Result<()> {
    let stop = Stop::default();
    super::stop_on_interrupt(&stop)?;
    let place = (args.site.as_deref().unwrap_or_default(), args.data.as_path());
    let identity = &args.listen.identity;
    let role = args.component.role(Role::ProcessServer, &args.servers, place, identity, &stop)?;
    println!("the process server {} of {}", role.credentials.current().identity(), role.site);
    let config = ProcessServerConfig {
        role,
        port: args.listen.port(args.advertise.as_deref()),
        spool_bytes_max: args.spool_gib << 30,
        key: key(args)?,
    };
    process_server::run(config, &stop)
}

/// Everything to one place.
fn forward_to(args: &ProcessServerArgs, next: &str) -> anyhow::Result<()> {
    let root = std::path::absolute(&args.data)?;
    std::fs::create_dir_all(&root).with_context(|| format!("creating {}", root.display()))?;
    // Shared: what is renewed at the next hop is shown to the senders, too.
    let identity = args.listen.identity.credentials()?;
    let spools = Spools {
        writer: writer_id(&root)?,
        root,
        bytes_max: args.spool_gib << 30,
        key: key(args)?,
        next: Arc::new(Reach::new(identity.clone(), next, None)?),
        open: Mutex::default(),
    };
    spools.open_existing()?;
    args.listen.serve(identity, Arc::new(spools), "the process server")
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
        let mut config = SpoolConfig::new(name.clone(), self.writer, self.bytes_max);
        config.key.clone_from(&self.key);
        let next = Arc::clone(&self.next);
        open_spool(&self.root, config, Box::new(move |request: &SessionRequest| next.session(request)))
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
