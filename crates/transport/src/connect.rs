//! From an address to a connection on which both ends have agreed on a version.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use switchback_disk::Clock;
use switchback_identity::tls::{ExpectedPeer, TlsFailure, client_config, server_name};
use switchback_identity::{ComponentName, LiveCredentials, Role};
use switchback_replica::ReplicaError;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::stream::{ReceiveError, Sender, receive_head, receive_payload};
use crate::throttle::RateLimit;
use crate::watched::{Activity, Watched};
use crate::wire::{self, Head, Hello, Kind, Outgoing, VERSION_MAX, VERSION_MIN, Welcome};

/// What rustls may hold of encrypted records that TCP has not taken yet: one frame.
pub(crate) const TLS_BUFFER_LEN: usize = 256 * 1024;

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the address to an open session, all steps together.
    pub connect: Duration,
    /// After so long without a byte the other end is dead. Both ends send a sign of life every third of it. The server
    /// must be set to the same or more.
    pub dead_after: Duration,
    /// How long the other end may live but not get on with a request, or take no more data. Long, as it may have to
    /// read some GiB of disk.
    pub stalled_after: Duration,
}

impl Default for Timeouts {
    /// 20 s, 30 s, 15 min.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            dead_after: Duration::from_secs(30),
            stalled_after: Duration::from_secs(15 * 60),
        }
    }
}

/// Where to connect to, and as whom.
#[derive(Clone, Debug)]
pub struct ConnectConfig {
    /// `host:port`.
    pub address: String,
    /// What is shown to the server; also says which authority's servers are believed.
    pub credentials: Arc<LiveCredentials>,
    /// Which servers will do.
    pub roles: Vec<Role>,
    /// Only the server of this name, if stated.
    pub name: Option<ComponentName>,
    /// Limits on bytes sent per second, all of which hold; none: as many as can be.
    pub limits: Vec<RateLimit>,
    /// Most bytes queued for sending, 1 MiB at least in effect; more block the caller.
    pub queue_bytes_max: usize,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// The wall clock by which certificates are judged.
    pub clock: Arc<dyn Clock>,
    /// The runtime the connection's task runs on.
    pub runtime: Handle,
}

impl ConnectConfig {
    /// To a target or a process server, without limit of bandwidth, a queue of 16 MiB, the default timeouts.
    #[must_use]
    pub fn new(
        address: impl Into<String>,
        credentials: Arc<LiveCredentials>,
        clock: Arc<dyn Clock>,
        runtime: Handle,
    ) -> Self {
        Self {
            address: address.into(),
            credentials,
            roles: vec![Role::Target, Role::ProcessServer],
            name: None,
            limits: Vec::new(),
            queue_bytes_max: 16 << 20,
            timeouts: Timeouts::default(),
            clock,
            runtime,
        }
    }

    pub(crate) fn lost(&self, detail: impl ToString) -> ReplicaError {
        ReplicaError::Disconnected { peer: self.address.clone(), detail: detail.to_string() }
    }

    /// What an I/O error means to the caller: whether the peer is gone or will never be the right one.
    pub(crate) fn io_error(&self, error: &io::Error) -> ReplicaError {
        match TlsFailure::of(error) {
            None => self.lost(error),
            Some(failure @ TlsFailure::NotOurs(_)) => self.lost(failure),
            Some(failure) => ReplicaError::Forbidden { detail: format!("{}: {failure}", self.address) },
        }
    }

    pub(crate) fn receive_error(&self, error: ReceiveError) -> ReplicaError {
        match error {
            ReceiveError::Io(error) => self.io_error(&error),
            ReceiveError::Closed => self.lost(ReceiveError::Closed),
            ReceiveError::Wire(error) => {
                ReplicaError::Protocol { detail: format!("what {} sends: {error}", self.address) }
            }
        }
    }
}

type Stream = TlsStream<Watched<TcpStream>>;

/// A connection after `hello` and `welcome`.
pub(crate) struct Connection {
    pub(crate) reader: ReadHalf<Stream>,
    pub(crate) sender: Sender<WriteHalf<Stream>>,
    pub(crate) activity: Arc<Activity>,
}

/// Connects.
pub(crate) async fn connect(config: &ConnectConfig) -> Result<Connection, ReplicaError> {
    let credentials = config.credentials.current();
    credentials
        .check(config.clock.now())
        .map_err(|error| ReplicaError::Forbidden { detail: error.to_string() })?;
    let expected = ExpectedPeer { roles: config.roles.clone(), name: config.name.clone() };
    let tls = client_config(&config.credentials, expected, config.clock.clone())
        .map_err(|error| ReplicaError::Forbidden { detail: error.to_string() })?;
    let stream = dial(&config.address).await.map_err(|error| config.lost(error))?;
    let stream = Watched::new(stream);
    let activity = stream.activity();
    let stream = TlsConnector::from(tls)
        .connect_with(server_name(), stream, |connection| connection.set_buffer_limit(Some(TLS_BUFFER_LEN)))
        .await
        .map_err(|error| config.io_error(&error))?;
    let (reader, writer) = tokio::io::split(stream);
    let mut connection = Connection { reader, sender: Sender::new(writer, config.limits.clone()), activity };
    connection.agree(config).await?;
    Ok(connection)
}

/// A TCP connection to `address`. No delay: bursts end with a flush. No buffer sizes: the kernel's own tuning goes beyond
/// what an explicit size may have (`net.core.rmem_max`).
pub(crate) async fn dial(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Connection {
    /// Sends a request and receives its reply, before the session's own task takes over.
    pub(crate) async fn ask(
        &mut self,
        config: &ConnectConfig,
        message: &Outgoing,
        epoch: Option<switchback_model::Epoch>,
    ) -> Result<(Head, Vec<u8>), ReplicaError> {
        let sent = async {
            self.sender.send(message, 0, false, epoch).await?;
            self.sender.flush().await
        };
        // If it cannot be sent, the peer may have said why.
        let sent = sent.await;
        let received = async {
            let head = receive_head(&mut self.reader).await?;
            let payload = receive_payload(&mut self.reader, head).await?;
            Ok((head, payload))
        };
        let (head, payload) = received.await.map_err(|error| config.receive_error(error))?;
        if head.kind == Kind::Failed {
            return Err(
                wire::json(head.kind, &payload).unwrap_or_else(|error| config.receive_error(error.into()))
            );
        }
        sent.map_err(|error| config.io_error(&error))?;
        Ok((head, payload))
    }

    async fn agree(&mut self, config: &ConnectConfig) -> Result<(), ReplicaError> {
        let hello = Hello { min: VERSION_MIN, max: VERSION_MAX, build: build() };
        let (head, payload) = self.ask(config, &Outgoing::json(Kind::Hello, &hello), None).await?;
        let welcome: Welcome = match head.kind {
            Kind::Welcome => {
                wire::json(head.kind, &payload).map_err(|error| config.receive_error(error.into()))?
            }
            other => return Err(unexpected(config, other)),
        };
        if !(VERSION_MIN..=VERSION_MAX).contains(&welcome.version) {
            let detail = format!(
                "{} (build {}) chose version {} of the protocol, which was not offered",
                config.address, welcome.build, welcome.version
            );
            return Err(ReplicaError::Protocol { detail });
        }
        Ok(())
    }
}

pub(crate) fn unexpected(config: &ConnectConfig, kind: Kind) -> ReplicaError {
    ReplicaError::Protocol { detail: format!("{} answered with {kind:?} out of order", config.address) }
}

/// What this end calls itself in messages to the other.
pub(crate) fn build() -> String {
    format!("switchback {}", env!("CARGO_PKG_VERSION"))
}
