//! The long-running roles that a configuration server leads: process server, master target, mobility agent.
//!
//! Each is a loop on one thread: take the desired state, compare it with what is, do the difference, say how things are. What takes long is
//! done beside it. Nothing is remembered of earlier orders, as there are none: see `switchback_model::component`.

pub mod agent;
mod gate;
pub mod master_target;
pub mod process_server;
pub(crate) mod smbios;

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use switchback_disk::{Clock, DirVolume, SystemClock, Volume};
use switchback_identity::LiveCredentials;
use switchback_identity::tls::server_config;
use switchback_model::UnixMillis;
use switchback_model::component::{Report, State};
use switchback_transport::{ServerConfig, SessionHandler, serve};
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

use crate::component::{Channel, ChannelConfig, Compose};
use crate::engine::Stop;

/// What the desired state of an earlier run is kept as, in a role's directory.
const DESIRED: &str = "desired";
/// More than any has.
const DESIRED_LEN_MAX: usize = switchback_model::component::MESSAGE_LEN_MAX;

/// What all roles need.
#[derive(Clone)]
pub struct RoleConfig {
    /// Addresses of the configuration server, `HOST:PORT`.
    pub servers: Vec<String>,
    /// Who this is.
    pub credentials: Arc<LiveCredentials>,
    /// Where that is kept.
    pub identity: Arc<dyn Volume>,
    /// Where the role keeps what it must not lose.
    pub data: PathBuf,
    /// The site it serves; empty for agents.
    pub site: String,
    /// Where metrics are served, if they are.
    pub metrics: Option<SocketAddr>,
}

impl std::fmt::Debug for RoleConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoleConfig")
            .field("servers", &self.servers)
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

impl RoleConfig {
    pub(crate) fn channel(&self, runtime: &Handle) -> ChannelConfig {
        ChannelConfig {
            servers: self.servers.clone(),
            credentials: self.credentials.clone(),
            volume: self.identity.clone(),
            clock: Arc::new(SystemClock),
            runtime: runtime.clone(),
        }
    }

    /// Begins to report, and to serve the same as metrics.
    pub(crate) fn start_channel(&self, runtime: &Handle, compose: Arc<Compose>) -> anyhow::Result<Channel> {
        let measured = Arc::clone(&compose);
        let measure = move || Ok(crate::metrics::component::measure(&measured()));
        crate::metrics::serve_if(self.metrics, runtime, Arc::new(measure));
        Channel::start(self.channel(runtime), compose)
    }

    /// The role's directory, made if it is not there.
    pub(crate) fn volume(&self) -> anyhow::Result<DirVolume> {
        std::fs::create_dir_all(&self.data).with_context(|| format!("creating {}", self.data.display()))?;
        Ok(DirVolume::open(&self.data)?)
    }
}

/// Where a role takes data.
#[derive(Clone, Debug)]
pub struct DataPort {
    /// Where to listen.
    pub listen: SocketAddr,
    /// `HOST:PORT` under which others reach it, if that is another one.
    pub advertise: Option<String>,
    /// Where to write the address that is listened on.
    pub address_file: Option<PathBuf>,
}

/// A data port that is being served; ends with its runtime.
pub(crate) struct Served {
    /// As others reach it.
    pub(crate) address: String,
    task: JoinHandle<()>,
}

impl Served {
    /// Waits until all sessions have ended after the stop.
    pub(crate) fn join(self, runtime: &Runtime) {
        let _ = runtime.block_on(self.task);
    }
}

impl DataPort {
    /// Serves sessions of `handler` until `stop`.
    pub(crate) fn serve(
        &self,
        config: &RoleConfig,
        handler: Arc<dyn SessionHandler>,
        runtime: &Runtime,
        stop: &Stop,
    ) -> anyhow::Result<Served> {
        let tls = server_config(&config.credentials, Arc::new(SystemClock))?;
        let server = ServerConfig::new(tls, handler);
        let listener = runtime
            .block_on(TcpListener::bind(self.listen))
            .with_context(|| format!("listening on {} (is another process there?)", self.listen))?;
        let bound = listener.local_addr()?;
        if let Some(file) = &self.address_file {
            std::fs::write(file, bound.to_string()).with_context(|| format!("writing {}", file.display()))?;
        }
        let address = match &self.advertise {
            Some(address) => address.clone(),
            None if bound.ip().is_unspecified() => {
                let ip = own_address(config.servers.first().map_or("", String::as_str))
                    .context("finding this host's own address; --advertise HOST:PORT states it")?;
                SocketAddr::new(ip, bound.port()).to_string()
            }
            None => bound.to_string(),
        };
        let stop = stop.clone();
        let stopped = async move {
            while !stop.is_stopped() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        Ok(Served { address, task: runtime.spawn(serve(listener, server, stopped)) })
    }
}

/// The address from which `server` is reached. Sends nothing: connecting a datagram socket only looks up the route.
fn own_address(server: &str) -> std::io::Result<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}

/// A report of this process.
pub(crate) fn report(address: &str, site: &str, started: UnixMillis, state: State) -> Report {
    Report {
        build: format!("switchback {}", env!("CARGO_PKG_VERSION")),
        address: address.into(),
        site: site.into(),
        started,
        state,
        // The channel says what it has met.
        incarnation_proof: None,
    }
}

/// Now, by this host's clock.
pub(crate) fn now() -> UnixMillis {
    SystemClock.now()
}

/// The desired state that an earlier run was told last, for as long as the configuration server is away; nothing if it cannot be read.
pub(crate) fn remembered<T: DeserializeOwned + Default>(volume: &dyn Volume) -> T {
    match volume.read_all(DESIRED, DESIRED_LEN_MAX) {
        Ok(data) => serde_json::from_slice(&data).unwrap_or_else(|error| {
            tracing::warn!(%error, "what is remembered of the desired state cannot be read; waiting for the configuration server");
            T::default()
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => T::default(),
        Err(error) => {
            tracing::warn!(%error, "the desired state of the last run cannot be read; waiting for the configuration server");
            T::default()
        }
    }
}

/// Keeps the desired state for the next run.
pub(crate) fn remember(volume: &dyn Volume, desired: &impl Serialize) {
    let data = serde_json::to_vec(desired).expect("plain data becomes JSON");
    if let Err(error) = volume.write_atomic(DESIRED, &data) {
        // What is true now does not depend on it.
        tracing::warn!(%error, "the desired state cannot be kept for the next start");
    }
}

/// A runtime for the connections of this process.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.context("starting the network runtime")
}
