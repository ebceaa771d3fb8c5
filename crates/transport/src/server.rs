//! The server: who is let in, how many at once, and what becomes of each connection.

mod complaint;
mod connection;
mod registry;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use switchback_identity::tls::{ALPN_DATA, ALPN_ENROL, ServerTls, TlsFailure, left_before_hello};
use switchback_identity::{Authority, Certificate, EnrolmentService, PeerIdentity, Role};
use switchback_replica::{ReplicaError, ReplicaSession, SessionRequest};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::connect::TLS_BUFFER_LEN;
use crate::enrol::linger;
use crate::watched::{Activity, Watched};
use registry::{PeerPermit, Registry};

/// What gives sessions to clients.
pub trait SessionHandler: Send + Sync + 'static {
    /// Opens a session for `peer`, whom its certificate has proved to be that. Called, as the session will be, on a thread
    /// that may block.
    ///
    /// # Errors
    /// Sent to the client as they are.
    fn open(
        &self,
        peer: &PeerIdentity,
        request: SessionRequest,
    ) -> Result<Box<dyn ReplicaSession>, ReplicaError>;
}

/// How much a server takes upon itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections with a proven peer at once.
    pub connections_max: usize,
    /// Of these, from one component. A process server forwards for many machines, over a connection for each: it may have them all.
    pub per_peer_max: usize,
    /// Connections in their handshake, or enrolling, at once; more wait in the kernel's queue.
    pub handshakes_max: usize,
    /// Time for TLS, the hello and the first request, or for an enrolment.
    pub handshake: Duration,
    /// After so long without a byte a client is dead; see [`crate::Timeouts::dead_after`].
    pub dead_after: Duration,
    /// Bytes received and not yet taken by a session, per connection; more are left in the network.
    pub queue_bytes_max: usize,
}

impl Default for Limits {
    /// 256 connections, 8 per peer, 64 handshakes of 10 s, dead after 30 s, 16 MiB each.
    fn default() -> Self {
        Self {
            connections_max: 256,
            per_peer_max: 8,
            handshakes_max: 64,
            handshake: Duration::from_secs(10),
            dead_after: Duration::from_secs(30),
            queue_bytes_max: 16 << 20,
        }
    }
}

/// What a server needs.
#[derive(Clone)]
pub struct ServerConfig {
    /// From `switchback_identity::tls::server_config`.
    pub tls: ServerTls,
    /// Gives sessions.
    pub handler: Arc<dyn SessionHandler>,
    /// The roles whose components get sessions; others may only renew.
    pub roles: Vec<Role>,
    /// The authority, where it lives on this host: renews certificates.
    pub authority: Option<Arc<Authority>>,
    /// Admits new components, where the authority lives on this host.
    pub enrolment: Option<Arc<EnrolmentService>>,
    /// How much at once.
    pub limits: Limits,
}

impl std::fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerConfig")
            .field("roles", &self.roles)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl ServerConfig {
    /// Sessions of `handler` for agents and process servers; no authority, the default limits.
    #[must_use]
    pub fn new(tls: ServerTls, handler: Arc<dyn SessionHandler>) -> Self {
        Self {
            tls,
            handler,
            roles: vec![Role::Source, Role::ProcessServer],
            authority: None,
            enrolment: None,
            limits: Limits::default(),
        }
    }
}

/// What all connections of a server share.
struct Server {
    config: ServerConfig,
    registry: Registry,
    connections: Arc<Semaphore>,
}

/// Serves connections until `shutdown` completes, then ends them all and waits for their sessions to be dropped, for ten
/// seconds at most.
pub async fn serve(listener: TcpListener, config: ServerConfig, shutdown: impl Future<Output = ()>) {
    let handshakes = Arc::new(Semaphore::new(config.limits.handshakes_max));
    let connections_max = config.limits.connections_max;
    let connections = Arc::new(Semaphore::new(connections_max));
    let server = Arc::new(Server { config, registry: Registry::default(), connections: connections.clone() });
    let (stop, stopped) = watch::channel(());
    let mut tasks = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = async {
            let permit = handshakes.clone().acquire_owned().await.expect("never closed");
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = tasks.join_next() => {}
            (permit, accepted) = accepted => match accepted {
                Ok((stream, address)) => {
                    tasks.spawn(connection(server.clone(), stream, address, permit, stopped.clone()));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: those who have one will go.
                    tracing::error!(%error, "no connection can be accepted for the moment");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
        }
    }
    drop(listener);
    drop(stop);
    let ended = async {
        while tasks.join_next().await.is_some() {}
        // Each session's thread holds its permit until the session is dropped.
        let all = u32::try_from(connections_max).unwrap_or(u32::MAX);
        let _ = connections.acquire_many(all).await;
    };
    if tokio::time::timeout(Duration::from_secs(10), ended).await.is_err() {
        tracing::warn!("sessions are still busy with their disks; they are left to it");
    }
}

type Stream = TlsStream<Watched<TcpStream>>;

/// A connection whose peer has proved who it is.
struct Proven {
    stream: Stream,
    activity: Arc<Activity>,
    peer: PeerIdentity,
    address: SocketAddr,
    slot: Slot,
}

/// What a connection, and then its session's thread, holds of the server's limits.
struct Slot {
    _connection: OwnedSemaphorePermit,
    _peer: PeerPermit,
}

async fn connection(
    server: Arc<Server>,
    stream: TcpStream,
    address: SocketAddr,
    handshake: OwnedSemaphorePermit,
    mut stopped: watch::Receiver<()>,
) {
    let limit = server.config.limits.handshake;
    let proven = tokio::select! {
        proven = tokio::time::timeout(limit, Box::pin(shake_hands(&server, stream, address))) => proven,
        _ = stopped.changed() => return,
    };
    let proven = match proven {
        Ok(Ok(Some(proven))) => proven,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            let failure = TlsFailure::of(&error);
            let reason = failure.map_or_else(|| error.to_string(), |failure| failure.to_string());
            tracing::warn!(%address, %reason, "connection refused");
            return;
        }
        Err(_) => {
            tracing::warn!(%address, "connection refused: it took longer than {} s", limit.as_secs_f32());
            return;
        }
    };
    drop(handshake);
    Box::pin(connection::run(server, proven, stopped)).await;
}

/// TLS, and enrolment if that is what the client came for. `None`: nothing more is to be done.
async fn shake_hands(server: &Server, stream: TcpStream, address: SocketAddr) -> io::Result<Option<Proven>> {
    stream.set_nodelay(true)?;
    // A client that vanishes while its session is too busy for us to read: what it does not acknowledge gives it away.
    // (Clients must not set this: it also counts the time in which a busy server takes nothing.)
    let dead_after_ms = u32::try_from(server.config.limits.dead_after.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(&stream, dead_after_ms)?;
    let stream = Watched::new(stream);
    let activity = stream.activity();
    let start = match LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await {
        Err(error) if left_before_hello(&error) => return Ok(None),
        start => start?,
    };
    let enrols =
        start.client_hello().alpn().is_some_and(|mut protocols| protocols.any(|name| name == ALPN_ENROL));
    let tls = if enrols { &server.config.tls.enrol } else { &server.config.tls.data };
    let accept =
        start.into_stream_with(tls.clone(), |connection| connection.set_buffer_limit(Some(TLS_BUFFER_LEN)));
    let mut stream = match accept.into_fallible().await {
        Ok(stream) => stream,
        Err((error, mut stream)) => {
            let _ = stream.shutdown().await;
            linger(&mut stream).await;
            return Err(error);
        }
    };
    if enrols {
        let service = server.config.enrolment.as_deref();
        // Nobody keeps a list here: who has a certificate belongs to the site.
        crate::enrol::admit(&mut stream, service, address.ip(), async |_| Ok(())).await?;
        return Ok(None);
    }
    if stream.get_ref().1.alpn_protocol() != Some(ALPN_DATA) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the client names no protocol"));
    }
    let peer =
        Certificate::of_peer(stream.get_ref().1.peer_certificates()).map_err(io::Error::other)?.identity;
    let limits = server.config.limits;
    let Ok(connection) = server.connections.clone().try_acquire_owned() else {
        return Err(io::Error::other(format!("there are {} connections already", limits.connections_max)));
    };
    let per_peer_max =
        if peer.role == Role::ProcessServer { limits.connections_max } else { limits.per_peer_max };
    let Some(permit) = server.registry.count(&peer, per_peer_max) else {
        return Err(io::Error::other(format!("{peer} has {per_peer_max} connections already")));
    };
    let slot = Slot { _connection: connection, _peer: permit };
    Ok(Some(Proven { stream, activity, peer, address, slot }))
}
