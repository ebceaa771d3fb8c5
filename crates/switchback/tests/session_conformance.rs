//! The conformance suite of sessions, on all that are sessions: a replica on this host, one on another host, and one behind a process server.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use switchback::host::{Host, Placement};
use switchback_disk::{DirVolume, SystemClock};
use switchback_identity::{Authority, LiveCredentials, PeerIdentity, Role, tls};
use switchback_model::{ReplicaName, WriterId};
use switchback_replica::conformance::{Fixture, sessions};
use switchback_replica::{ReplicaError, ReplicaSession, SessionRequest};
use switchback_spool::{Spool, SpoolConfig};
use switchback_transport::{ConnectConfig, RemoteSession, ServerConfig, SessionHandler, serve};
use tokio::runtime::Runtime;

fn name() -> ReplicaName {
    "conformance".parse().unwrap()
}

/// A replica on this host.
struct Local {
    directory: tempfile::TempDir,
    host: Arc<Host>,
}

impl Local {
    fn new() -> Self {
        let directory = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let host = Host::new(directory.path().into(), Placement::default(), Arc::new(SystemClock));
        Self { directory, host: Arc::new(host) }
    }

    fn target(&self, disk: usize) -> PathBuf {
        self.directory.path().join(name().as_str()).join(format!("disk-{disk}.img"))
    }
}

impl Fixture for Local {
    fn session(&self, request: &SessionRequest) -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        Ok(Box::new(self.host.session(None, request)?))
    }

    fn contents(&self, disk: usize) -> Vec<u8> {
        self.host.hosted(&name()).unwrap().replica.apply_all().unwrap();
        std::fs::read(self.target(disk)).unwrap()
    }
}

#[test]
fn on_this_host() {
    sessions(Local::new);
}

/// A replica behind a process server.
struct Spooled {
    spool: Spool,
    local: Local,
    _cache: tempfile::TempDir,
}

impl Spooled {
    fn new() -> Self {
        let (local, cache) = (Local::new(), tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        let host = local.host.clone();
        let next_hop = move |request: &SessionRequest| -> Result<Box<dyn ReplicaSession>, ReplicaError> {
            Ok(Box::new(host.session(None, request)?))
        };
        let config = SpoolConfig::new(name(), WriterId([99; 16]), 1 << 30);
        let volume = Arc::new(DirVolume::open(cache.path()).unwrap());
        Self { spool: Spool::open(volume, config, Box::new(next_hop)).unwrap(), local, _cache: cache }
    }
}

impl Fixture for Spooled {
    fn session(&self, request: &SessionRequest) -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        Ok(Box::new(self.spool.session(request)?))
    }

    fn contents(&self, disk: usize) -> Vec<u8> {
        let began = Instant::now();
        loop {
            let status = self.spool.status();
            if status.watermarks.received == status.watermarks.recoverable {
                return self.local.contents(disk);
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{status:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn behind_a_process_server() {
    sessions(Spooled::new);
}

/// A replica on another host.
struct Remote {
    config: ConnectConfig,
    local: Local,
    _runtime: Runtime,
}

struct Handler(Arc<Host>);

impl SessionHandler for Handler {
    fn open(
        &self,
        peer: &PeerIdentity,
        request: SessionRequest,
    ) -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        Ok(Box::new(self.0.session(Some(&peer.to_string()), &request)?))
    }
}

impl Remote {
    fn new() -> Self {
        let (local, clock) = (Local::new(), Arc::new(SystemClock));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let authority = Authority::ephemeral(clock.clone());
        let live = |role, name: &str| {
            let identity = PeerIdentity { role, name: name.parse().unwrap() };
            LiveCredentials::new(authority.issue(&identity).unwrap()).unwrap()
        };
        let tls = tls::server_config(&live(Role::Target, "target"), clock.clone()).unwrap();
        let server = ServerConfig::new(tls, Arc::new(Handler(local.host.clone())));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        runtime.spawn(serve(listener, server, std::future::pending()));
        let source = live(Role::Source, "source");
        let config = ConnectConfig::new(address, source, clock, runtime.handle().clone());
        Self { config, local, _runtime: runtime }
    }
}

impl Fixture for Remote {
    fn session(&self, request: &SessionRequest) -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        Ok(Box::new(RemoteSession::connect(self.config.clone(), request.clone())?))
    }

    fn contents(&self, disk: usize) -> Vec<u8> {
        self.local.contents(disk)
    }
}

#[test]
fn on_another_host() {
    sessions(Remote::new);
}
