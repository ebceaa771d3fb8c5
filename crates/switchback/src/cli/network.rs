//! What commands that talk to other hosts share: the identity of this one, the runtime, the options of a connection.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use switchback_disk::{Clock, DirVolume, SystemClock, Volume};
use switchback_identity::tls::server_config;
use switchback_identity::{Authority, Credentials, EnrolmentPolicy, EnrolmentService, LiveCredentials};
use switchback_model::Epoch;
use switchback_replica::{ReplicaError, ReplicaSession, SessionRequest};
use switchback_transport::{
    ConnectConfig, RateLimit, RemoteSession, RenewalTask, ServerConfig, SessionHandler, serve,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::engine::{Connect, Stop};
use crate::role::DataPort;
pub(crate) use crate::role::runtime;

/// This host's credentials, and where they are kept.
pub(crate) type Identity = (Arc<LiveCredentials>, Arc<dyn Volume>);

/// Where this host's identity is kept.
#[derive(Debug, Args)]
pub(crate) struct IdentityArgs {
    /// Directory of this host's identity
    #[arg(
        long,
        env = "SWITCHBACK_IDENTITY",
        default_value = "/var/lib/switchback/identity",
        value_name = "DIRECTORY"
    )]
    identity: PathBuf,
}

impl IdentityArgs {
    pub(crate) fn directory(&self) -> &Path {
        &self.identity
    }

    /// The directory, made if it is not there.
    pub(crate) fn create(&self) -> anyhow::Result<Arc<dyn Volume>> {
        if let Some(parent) = self.identity.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        }
        match DirVolume::create(&self.identity) {
            Ok(volume) => Ok(Arc::new(volume)),
            Err(_) if self.identity.is_dir() => Ok(Arc::new(DirVolume::open(&self.identity)?)),
            Err(error) => Err(error.into()),
        }
    }

    /// This host's credentials.
    pub(crate) fn credentials(&self) -> anyhow::Result<Identity> {
        let loaded = DirVolume::open(&self.identity).map_err(anyhow::Error::from).and_then(|volume| {
            let volume: Arc<dyn Volume> = Arc::new(volume);
            Ok((Credentials::load(&*volume)?, volume))
        });
        let (credentials, volume) = loaded.with_context(|| {
            format!(
                "this host has no identity in {} yet: `switchback enrol HOST:PORT` joins a site, \
                 `switchback identity init` founds one",
                self.identity.display()
            )
        })?;
        credentials.check(SystemClock.now())?;
        Ok((LiveCredentials::new(credentials)?, volume))
    }

    /// The site's authority, where it lives on this host.
    pub(crate) fn authority(&self) -> anyhow::Result<Option<Arc<Authority>>> {
        if !self.identity.join("authority.pem").exists() {
            return Ok(None);
        }
        let volume = Arc::new(DirVolume::open(&self.identity)?);
        Ok(Some(Arc::new(Authority::open(volume, Arc::new(SystemClock))?)))
    }
}

/// Options of a command that writes to a replica elsewhere.
#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    #[command(flatten)]
    identity: IdentityArgs,
    /// The epoch to write under; a newer one than the replica's fences out whoever wrote before
    #[arg(long, value_name = "NUMBER")]
    epoch: Option<u64>,
    /// Send at most so many KiB per second
    #[arg(long, value_name = "KIB/S", value_parser = clap::value_parser!(u64).range(64..))]
    bwlimit: Option<u64>,
}

/// A way to a replica elsewhere, and what keeps it open.
pub(crate) struct Reach {
    config: ConnectConfig,
    // Both end when this is dropped.
    _renewal: RenewalTask,
    _runtime: Runtime,
}

impl Reach {
    pub(crate) fn session(&self, request: &SessionRequest) -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        Ok(Box::new(RemoteSession::connect(self.config.clone(), request.clone())?))
    }

    /// To the host at `address`, as who the identity says; renews it there.
    pub(crate) fn new(
        (credentials, volume): Identity,
        address: &str,
        bwlimit_kib: Option<u64>,
    ) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let clock = Arc::new(SystemClock);
        let mut config = ConnectConfig::new(address, credentials, clock, runtime.handle().clone());
        config.limits = bwlimit_kib.map(|kib| RateLimit::new(Some(kib * 1024))).into_iter().collect();
        let renewal = RenewalTask::start(config.clone(), volume);
        Ok(Self { config, _renewal: renewal, _runtime: runtime })
    }
}

impl NetworkArgs {
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.epoch.map(Epoch)
    }

    pub(crate) fn connect(&self, address: &str, request: SessionRequest) -> anyhow::Result<Connect> {
        let reach = Reach::new(self.identity.credentials()?, address, self.bwlimit)?;
        Ok(Box::new(move || reach.session(&request)))
    }
}

/// Options of a command that listens.
#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
    /// Address and port to listen on
    #[arg(long, default_value = "0.0.0.0:9443", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// HOST:PORT of the site's authority, where this host's certificate is renewed; not needed on the authority's own
    /// host, nor by a process server that forwards to it
    #[arg(long, value_name = "HOST:PORT")]
    authority: Option<String>,
    /// Write the address that is listened on into this file (with port 0 the system chooses one)
    #[arg(long, value_name = "FILE")]
    address_file: Option<PathBuf>,
}

impl ListenArgs {
    /// Where a role under a configuration server takes data.
    pub(crate) fn port(&self, advertise: Option<&str>) -> DataPort {
        DataPort {
            listen: self.listen,
            advertise: advertise.map(Into::into),
            address_file: self.address_file.clone(),
        }
    }

    /// Serves sessions until interrupted, as who the identity says.
    pub(crate) fn serve(
        &self,
        (credentials, volume): Identity,
        handler: Arc<dyn SessionHandler>,
        what: &str,
    ) -> anyhow::Result<()> {
        let authority = self.identity.authority()?;
        let clock = Arc::new(SystemClock);
        let tls = server_config(&credentials, clock.clone())?;
        let mut config = ServerConfig::new(tls, handler);
        if let Some(authority) = &authority {
            config.enrolment =
                Some(Arc::new(EnrolmentService::new(authority.clone(), EnrolmentPolicy::default())));
            config.authority = Some(authority.clone());
        }
        let stop = Stop::default();
        super::stop_on_interrupt(&stop)?;
        runtime()?.block_on(async {
            let listener = TcpListener::bind(self.listen)
                .await
                .with_context(|| format!("listening on {} (is another process there?)", self.listen))?;
            let address = listener.local_addr()?;
            if let Some(file) = &self.address_file {
                std::fs::write(file, address.to_string())
                    .with_context(|| format!("writing {}", file.display()))?;
            }
            println!("{what} {} listens on {address}", credentials.current().identity());
            let runtime = tokio::runtime::Handle::current();
            let _renewal = match (authority, &self.authority) {
                (Some(authority), _) => {
                    Some(RenewalTask::start_local(authority, credentials.clone(), volume, &runtime))
                }
                (None, Some(address)) => {
                    let config = ConnectConfig::new(address, credentials.clone(), clock, runtime);
                    Some(RenewalTask::start(config, volume))
                }
                (None, None) => None,
            };
            serve(listener, config, async {
                while !stop.is_stopped() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
            .await;
            anyhow::Ok(())
        })
    }
}

/// This host's name as a component's, for when none is given.
pub(crate) fn default_name() -> anyhow::Result<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let valid: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')).take(63).collect();
    if valid.is_empty() {
        bail!("this host's name {name:?} cannot be a component's: choose one with --name");
    }
    Ok(valid)
}
