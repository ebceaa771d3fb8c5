//! A site in one process: an authority, a server with replicas in memory, clients, and proxies between them.

pub(crate) mod proxy;
pub(crate) mod replica;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use std::sync::atomic::{AtomicU64, Ordering};

use switchback_disk::{Clock, SystemClock};
use switchback_identity::{
    Authority, EnrolmentPolicy, EnrolmentService, LiveCredentials, PeerIdentity, Role, tls,
};
use switchback_model::UnixMillis;
use switchback_model::{Epoch, WriterId};
use switchback_replica::{DiskSpec, ReplicaError, SessionRequest};
use switchback_transport::{ConnectConfig, RemoteSession, ServerConfig, Timeouts, serve};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use self::replica::FakeReplicas;

/// Long enough that a working step never takes it on a busy machine, short enough to fail a test soon.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The machine's clock, set ahead by so many milliseconds.
#[derive(Debug, Default)]
pub(crate) struct AheadClock(AtomicU64);

impl AheadClock {
    pub(crate) fn by(millis: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(millis)))
    }

    pub(crate) fn set(&self, millis: u64) {
        self.0.store(millis, Ordering::SeqCst);
    }
}

impl Clock for AheadClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(SystemClock.now().0 + self.0.load(Ordering::SeqCst))
    }
}

pub(crate) struct Site {
    pub(crate) runtime: Runtime,
    pub(crate) authority: Arc<Authority>,
    pub(crate) clock: Arc<AheadClock>,
    pub(crate) replicas: FakeReplicas,
    pub(crate) address: SocketAddr,
    pub(crate) server: Arc<LiveCredentials>,
    stop: Option<oneshot::Sender<()>>,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// A site whose server's settings are changed first.
    pub(crate) fn with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let clock = Arc::new(AheadClock::default());
        let authority = Arc::new(Authority::ephemeral(clock.clone()));
        let replicas = FakeReplicas::default();
        let server = live(&authority, Role::Target, "mt1");
        let tls = tls::server_config(&server, clock.clone()).unwrap();
        let mut config = ServerConfig::new(tls, Arc::new(replicas.clone()));
        config.authority = Some(authority.clone());
        config.enrolment =
            Some(Arc::new(EnrolmentService::new(authority.clone(), EnrolmentPolicy::default())));
        change(&mut config);
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        runtime.spawn(serve(listener, config, async {
            let _ = stopped.await;
        }));
        Self { runtime, authority, clock, replicas, address, server, stop: Some(stop) }
    }

    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    pub(crate) fn live(&self, role: Role) -> Arc<LiveCredentials> {
        live(&self.authority, role, "web01")
    }

    /// How an agent of this site connects to `address`.
    pub(crate) fn config(&self, address: SocketAddr) -> ConnectConfig {
        let mut config = ConnectConfig::new(
            address.to_string(),
            self.live(Role::Source),
            self.clock.clone(),
            self.runtime.handle().clone(),
        );
        config.timeouts = Timeouts { connect: PATIENCE, dead_after: PATIENCE, stalled_after: PATIENCE };
        config
    }

    pub(crate) fn connect(&self) -> Result<RemoteSession, ReplicaError> {
        RemoteSession::connect(self.config(self.address), request(1))
    }

    /// What shows that the server still serves others.
    pub(crate) fn still_serves(&self) {
        let mut session = RemoteSession::connect(self.config(self.address), request(99)).unwrap();
        replica::send_part(&mut session, 0, 3).unwrap();
        switchback_replica::ReplicaSession::barrier(&mut session).unwrap();
    }
}

pub(crate) fn live(authority: &Authority, role: Role, name: &str) -> Arc<LiveCredentials> {
    let identity = PeerIdentity { role, name: name.parse().unwrap() };
    LiveCredentials::new(authority.issue(&identity).unwrap()).unwrap()
}

/// A request for a session, by the writer of this number.
pub(crate) fn request(writer: u8) -> SessionRequest {
    SessionRequest {
        replica: "web01".parse().unwrap(),
        epoch: Some(Epoch(5)),
        writer: WriterId([writer; 16]),
        disks: vec![DiskSpec { size: 1 << 30 }],
    }
}

/// Waits until `condition` holds; for what another thread does, where no signal can be had.
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..PATIENCE.as_millis() / 5 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never: {what}");
}
