//! The configuration server's one port: enrolment, components and users, told apart by what their TLS handshake asks for.
//!
//! ```text
//! ClientHello ─┬─ switchback-enrol/1   → enrolment (no certificate; the passphrase or a ticket)
//!              ├─ switchback-control/1 → components' routes (a certificate of our authority, or no handshake)
//!              └─ anything else        → the users' routes (no certificate; tokens)
//! ```
//! The three are different TLS settings and different routers: a user's request cannot reach a component's route whatever it says.
//!
//! Everything has a limit ([`Limits`]): handshakes under way, connections in all and from one component, time for a handshake, for a
//! request's head, for a whole request, for data that the other end does not take.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use switchback_identity::tls::{ALPN_CONTROL, ALPN_ENROL, ControlTls, TlsFailure, left_before_hello};
use switchback_identity::{Authority, Certificate, EnrolmentService, PeerIdentity, WebCertificate};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;

use crate::components::{self, ComponentService};

/// How often it is looked whether the users' certificate has to be renewed, or was renewed in its files.
const RENEWAL_EVERY: Duration = Duration::from_secs(60);
/// How long requests under way may go on when the listener stops.
const STOP_MAX: Duration = Duration::from_secs(2);

/// How much a listener takes upon itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of components at once.
    pub components_max: usize,
    /// Of these, from one.
    pub per_component_max: usize,
    /// Connections of users at once.
    pub web_max: usize,
    /// Connections in their handshake, or enrolling, at once; more wait in the kernel's queue.
    pub handshakes_max: usize,
    /// Time for TLS, or for an enrolment.
    pub handshake: Duration,
    /// Time for a request's head, and between two requests of a connection.
    pub head: Duration,
    /// Time from a request's head to its answer's.
    pub request: Duration,
    /// After so long a client that does not take what is sent to it is dead.
    pub stalled_after: Duration,
}

impl Default for Limits {
    /// 4096 connections of components, 8 from each, 512 of users, 64 handshakes of 10 s; heads in 30 s, requests in 90 s.
    fn default() -> Self {
        Self {
            components_max: 4096,
            per_component_max: 8,
            web_max: 512,
            handshakes_max: 64,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            request: Duration::from_secs(90),
            stalled_after: Duration::from_secs(30),
        }
    }
}

/// What a listener needs.
#[derive(Clone)]
pub struct ListenerConfig {
    /// From `switchback_identity::tls::control_server_config`.
    pub tls: ControlTls,
    /// What users are shown; kept renewed here.
    pub web_certificate: Arc<WebCertificate>,
    /// Renews components' certificates.
    pub authority: Arc<Authority>,
    /// Admits new components.
    pub enrolment: Arc<EnrolmentService>,
    /// The control plane.
    pub service: Arc<dyn ComponentService>,
    /// What users reach. Its requests carry `ConnectInfo<SocketAddr>`.
    pub web: Router,
    /// How much at once.
    pub limits: Limits,
}

impl std::fmt::Debug for ListenerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenerConfig").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What all connections share.
struct Listener {
    config: ListenerConfig,
    components: Router,
    component_places: Arc<Semaphore>,
    web_places: Arc<Semaphore>,
    peers: Peers,
}

/// Connections by component.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<HashMap<PeerIdentity, usize>>>);

/// One connection of a component, counted until dropped.
struct PeerPlace {
    peers: Peers,
    peer: PeerIdentity,
}

impl Peers {
    fn enter(&self, peer: &PeerIdentity, max: usize) -> Option<PeerPlace> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer.clone()).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(PeerPlace { peers: self.clone(), peer: peer.clone() })
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let mut counts = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

/// Serves connections until `shutdown` completes.
pub async fn serve(listener: TcpListener, config: ListenerConfig, shutdown: impl Future<Output = ()>) {
    let limits = config.limits;
    let handshakes = Arc::new(Semaphore::new(limits.handshakes_max));
    let shared = Arc::new(Listener {
        components: components::router(config.service.clone(), config.authority.clone()),
        component_places: Arc::new(Semaphore::new(limits.components_max)),
        web_places: Arc::new(Semaphore::new(limits.web_max)),
        peers: Peers::default(),
        config,
    });
    let (stop, stopped) = watch::channel(());
    let mut tasks = JoinSet::new();
    let mut renewal = tokio::time::interval(RENEWAL_EVERY);
    tokio::pin!(shutdown);
    loop {
        let accepted = async {
            let permit = handshakes.clone().acquire_owned().await.expect("never closed");
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = tasks.join_next() => {}
            _ = renewal.tick() => match shared.config.web_certificate.renew_if_due() {
                Ok(true) => tracing::info!("the users' certificate was renewed"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the users' certificate cannot be renewed; the old one is still shown"),
            },
            (permit, accepted) = accepted => match accepted {
                Ok((stream, address)) => {
                    tasks.spawn(connection(shared.clone(), stream, address, permit, stopped.clone()));
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
    // What is left is long polls: their clients come again.
    let ended = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(STOP_MAX, ended).await;
    tasks.abort_all();
}

type Stream = TlsStream<TcpStream>;

/// What a handshake led to.
enum Admitted {
    Component(Box<Stream>, PeerIdentity, (OwnedSemaphorePermit, PeerPlace)),
    User(Box<Stream>, OwnedSemaphorePermit),
    /// Nothing more is to be done.
    Nobody,
}

async fn connection(
    listener: Arc<Listener>,
    stream: TcpStream,
    address: SocketAddr,
    handshake: OwnedSemaphorePermit,
    mut stopped: watch::Receiver<()>,
) {
    let limit = listener.config.limits.handshake;
    let admitted = tokio::select! {
        admitted = tokio::time::timeout(limit, Box::pin(shake_hands(&listener, stream, address))) => admitted,
        _ = stopped.changed() => return,
    };
    drop(handshake);
    match admitted {
        Ok(Ok(Admitted::Component(stream, peer, places))) => {
            let routes = listener.components.clone();
            let who = Some(peer);
            Box::pin(http(&listener.config.limits, *stream, (routes, who, address), stopped)).await;
            drop(places);
        }
        Ok(Ok(Admitted::User(stream, place))) => {
            let routes = listener.config.web.clone();
            Box::pin(http(&listener.config.limits, *stream, (routes, None, address), stopped)).await;
            drop(place);
        }
        Ok(Ok(Admitted::Nobody)) => {}
        Ok(Err(error)) => {
            let failure = TlsFailure::of(&error);
            let reason = failure.map_or_else(|| error.to_string(), |failure| failure.to_string());
            tracing::warn!(%address, %reason, "connection refused");
        }
        Err(_) => tracing::warn!(%address, "connection refused: it took longer than {} s", limit.as_secs()),
    }
}

async fn shake_hands(listener: &Listener, stream: TcpStream, address: SocketAddr) -> io::Result<Admitted> {
    let ListenerConfig { tls, limits, .. } = &listener.config;
    stream.set_nodelay(true)?;
    let stalled_after_ms = u32::try_from(limits.stalled_after.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(&stream, stalled_after_ms)?;
    let start = match LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await {
        Err(error) if left_before_hello(&error) => return Ok(Admitted::Nobody),
        start => start?,
    };
    let asks_for = |protocol: &[u8]| {
        start.client_hello().alpn().is_some_and(|mut protocols| protocols.any(|name| name == protocol))
    };
    let (enrols, is_component) = (asks_for(ALPN_ENROL), asks_for(ALPN_CONTROL));
    let settings = match (enrols, is_component) {
        (true, _) => &tls.enrol,
        (false, true) => &tls.control,
        (false, false) => &tls.web,
    };
    let mut stream = match start.into_stream(settings.clone()).into_fallible().await {
        Ok(stream) => stream,
        Err((error, mut stream)) => {
            // The alert that says why is still to be sent.
            let _ = stream.shutdown().await;
            return Err(error);
        }
    };
    if enrols {
        let service = listener.config.service.clone();
        let record = |newcomer| components::record_enrolment(service, newcomer);
        let enrolment = Some(&*listener.config.enrolment);
        switchback_transport::admit(&mut stream, enrolment, address.ip(), record).await?;
        return Ok(Admitted::Nobody);
    }
    let full =
        |what: &str, max: usize| io::Error::other(format!("there are {max} connections of {what} already"));
    if !is_component {
        let place = listener.web_places.clone().try_acquire_owned();
        let place = place.map_err(|_| full("users", limits.web_max))?;
        return Ok(Admitted::User(Box::new(stream), place));
    }
    let shown = stream.get_ref().1.peer_certificates();
    let peer = Certificate::of_peer(shown).map_err(io::Error::other)?.identity;
    let place = listener.component_places.clone().try_acquire_owned();
    let place = place.map_err(|_| full("components", limits.components_max))?;
    let own = listener.peers.enter(&peer, limits.per_component_max);
    let own = own.ok_or_else(|| full(&peer.to_string(), limits.per_component_max))?;
    Ok(Admitted::Component(Box::new(stream), peer, (place, own)))
}

/// The requests of one connection.
async fn http(
    limits: &Limits,
    stream: Stream,
    (routes, peer, address): (Router, Option<PeerIdentity>, SocketAddr),
    mut stopped: watch::Receiver<()>,
) {
    let limit = limits.request;
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(address));
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        let routes = routes.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(routes, request, limit).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        _ = stopped.changed() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%address, %error, "a connection ended early");
    }
}

async fn answer(routes: Router, request: Request<Incoming>, limit: Duration) -> Response {
    match tokio::time::timeout(limit, routes.oneshot(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => {
            let said = format!("no answer within {} s", limit.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, said).into_response()
        }
    }
}
