//! The spools of a process server, one for each route.
//!
//! A spool is opened with its route, so that what an earlier run has not forwarded goes on without waiting for its agent. When a route's
//! target changes the spool is opened anew towards the new one: what that one lacks, or has otherwise, is found there, and ends in a
//! resync. When its epoch or source changes, sessions of before are ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Context;
use switchback_disk::{DirVolume, SystemClock, Volume};
use switchback_identity::{LiveCredentials, PeerIdentity, Role};
use switchback_model::component::{ProcessServerDesired, ProcessServerState, Route, SpoolState};
use switchback_model::{Bandwidth, ReplicaName, UnixMillis, WriterId};
use switchback_replica::{ReplicaError, ReplicaSession, SessionRequest};
use switchback_spool::{Spool, SpoolConfig, SpoolKey};
use switchback_transport::{ConnectConfig, RateLimit, RemoteSession, SessionHandler};
use tokio::runtime::Handle;

use super::RETIRED_MAX;
use super::limits::Limits;
use crate::host::new_id;
use crate::role::gate::Gate;
use crate::spooling::open_spool;

/// What is needed to forward.
pub(super) struct Forwarding {
    pub(super) credentials: Arc<LiveCredentials>,
    pub(super) runtime: Handle,
}

/// See the module's header.
pub(super) struct Spools {
    root: PathBuf,
    writer: WriterId,
    bytes_max: u64,
    key: Option<SpoolKey>,
    forwarding: Forwarding,
    limits: Limits,
    received: Arc<AtomicU64>,
    forwarded: Arc<AtomicU64>,
    open: Mutex<BTreeMap<ReplicaName, Entry>>,
}

/// A route and its spool.
struct Entry {
    route: Route,
    /// Shared with the closure that connects to the target.
    way: Arc<Mutex<Way>>,
    gate: Arc<Gate>,
    spool: Result<Arc<Spool>, ReplicaError>,
    /// Since when there is no route for it.
    retired: Option<Instant>,
}

/// Where to, how fast.
#[derive(Clone)]
struct Way {
    next: String,
    peer: String,
    limits: Vec<RateLimit>,
}

impl Spools {
    pub(super) fn new(
        data: &Path,
        bytes_max: u64,
        key: Option<SpoolKey>,
        forwarding: Forwarding,
    ) -> anyhow::Result<Self> {
        let root = data.join("spools");
        std::fs::create_dir_all(&root).with_context(|| format!("creating {}", root.display()))?;
        let writer = writer_id(data)?;
        let (received, forwarded) = Default::default();
        let (limits, open) = (Limits::default(), Mutex::default());
        Ok(Self { root, writer, bytes_max, key, forwarding, limits, received, forwarded, open })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ReplicaName, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the routes those that are desired.
    pub(super) fn apply(&self, desired: &ProcessServerDesired) {
        let mut open = self.lock();
        for (name, entry) in open.iter_mut() {
            if entry.retired.is_none() && !desired.routes.iter().any(|route| route.replica == *name) {
                tracing::info!(replica = %name, "its route has gone: nothing is taken for it any more");
                entry.gate.close(&no_route(name));
                entry.retired = Some(Instant::now());
            }
        }
        for route in &desired.routes {
            let limits = self.limits.towards(&route.peer);
            let way = Way { next: route.next.clone(), peer: route.peer.clone(), limits };
            match open.get_mut(&route.replica) {
                Some(entry) if entry.leads_as(route) && entry.spool.is_ok() => entry.update(route, way),
                former => {
                    if let Some(entry) = former {
                        entry.gate.close(&moved(&route.replica));
                    }
                    // Its lock must be free before it is opened again.
                    open.remove(&route.replica);
                    open.insert(route.replica.clone(), self.entry(route, way));
                }
            }
        }
    }

    /// Sets the limits that are in force at a time; sessions that are open follow with their next piece.
    pub(super) fn pace(&self, bandwidth: &Bandwidth, now: UnixMillis) {
        self.limits.pace(bandwidth, now);
    }

    fn entry(&self, route: &Route, way: Way) -> Entry {
        let way = Arc::new(Mutex::new(way));
        let spool = self.open_spool(&route.replica, way.clone()).map(Arc::new);
        if let Err(error) = &spool {
            tracing::error!(replica = %route.replica, %error, "its spool cannot be opened; tried again with every look at the routes");
        }
        Entry { route: route.clone(), way, gate: Arc::default(), spool, retired: None }
    }

    fn open_spool(&self, name: &ReplicaName, way: Arc<Mutex<Way>>) -> Result<Spool, ReplicaError> {
        let mut config = SpoolConfig::new(name.clone(), self.writer, self.bytes_max);
        config.key.clone_from(&self.key);
        let (credentials, runtime) = (self.forwarding.credentials.clone(), self.forwarding.runtime.clone());
        let forwarded = self.forwarded.clone();
        let gate = Gate::default();
        let next_hop = move |request: &SessionRequest| -> Result<Box<dyn ReplicaSession>, ReplicaError> {
            let way = way.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let connect = connection(&way, &credentials, &runtime)?;
            let session = gate.admit(forwarded.clone(), || {
                Ok(Box::new(RemoteSession::connect(connect, request.clone())?))
            })?;
            Ok(Box::new(session))
        };
        open_spool(&self.root, config, Box::new(next_hop))
    }

    /// Lets go what has been forwarded, or never will be.
    pub(super) fn look_after_retired(&self) {
        let mut open = self.lock();
        let done: Vec<_> =
            open.iter().filter(|(_, entry)| entry.is_done()).map(|(name, _)| name.clone()).collect();
        for name in done {
            // Stops forwarding and frees the lock, before the files go.
            open.remove(&name);
            self.remove(&name);
        }
        drop(open);
    }

    /// Removes the spools of routes that went while this process server did not run: where they led to is not known any more. To be called
    /// when the configuration server has said which routes there are.
    pub(super) fn remove_orphans(&self) {
        let open = self.lock();
        let Ok(entries) = std::fs::read_dir(&self.root) else { return };
        let names =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<ReplicaName>().ok());
        for name in names.filter(|name| !open.contains_key(name)) {
            self.remove(&name);
        }
    }

    fn remove(&self, name: &ReplicaName) {
        let directory = self.root.join(name.as_str());
        let removed =
            std::fs::remove_dir_all(&directory).and_then(|()| std::fs::File::open(&self.root)?.sync_all());
        match removed {
            Ok(()) => tracing::info!(replica = %name, "its spool has been removed"),
            Err(error) => tracing::warn!(replica = %name, %error, "its spool cannot be removed"),
        }
    }

    /// How everything stands.
    pub(super) fn state(&self) -> ProcessServerState {
        let spools = self.lock().iter().map(|(name, entry)| entry.state(name)).collect();
        let free = DirVolume::open(&self.root).ok().and_then(|volume| volume.free_bytes().ok());
        ProcessServerState {
            spools,
            free_bytes: free.unwrap_or(0),
            received_bytes: self.received.load(Ordering::Relaxed),
            forwarded_bytes: self.forwarded.load(Ordering::Relaxed),
            probes: BTreeMap::new(),
        }
    }
}

impl Entry {
    /// Whether its spool leads where `route` does.
    fn leads_as(&self, route: &Route) -> bool {
        self.route.next == route.next && self.route.peer == route.peer
    }

    /// Takes over what is new in a route to the same target.
    fn update(&mut self, route: &Route, way: Way) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = way;
        if self.route.epoch != route.epoch || self.route.source != route.source {
            self.gate.end(&moved(&route.replica));
        }
        if self.retired.take().is_some() {
            self.gate.open();
        }
        self.route = route.clone();
    }

    /// Retired, and nothing of it is wanted any more.
    fn is_done(&self) -> bool {
        let Some(since) = self.retired else { return false };
        let too_long = since.elapsed() > RETIRED_MAX;
        let Ok(spool) = &self.spool else { return too_long };
        let status = spool.status();
        let arrived = status.watermarks.received == status.watermarks.recoverable;
        let superseded = matches!(status.waiting, Some(ReplicaError::StaleEpoch { .. }));
        if too_long && !arrived && !superseded {
            tracing::warn!(replica = %self.route.replica, waiting = ?status.waiting, "given up: its target does not take what is spooled");
        }
        arrived || superseded || too_long
    }

    fn state(&self, name: &ReplicaName) -> SpoolState {
        let replica = name.clone();
        match &self.spool {
            Ok(spool) => {
                let status = spool.status();
                let arrived = status.watermarks.received == status.watermarks.recoverable;
                let waiting = status.waiting.map(|error| error.to_string()).or(status.damage);
                // A segment is deleted whole: what has arrived may still lie there.
                let bytes = if arrived && waiting.is_none() { 0 } else { status.bytes };
                SpoolState { replica, bytes, waiting }
            }
            Err(error) => SpoolState { replica, bytes: 0, waiting: Some(error.to_string()) },
        }
    }
}

impl SessionHandler for Spools {
    fn open(
        &self,
        peer: &PeerIdentity,
        request: SessionRequest,
    ) -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        let (gate, spool) = {
            let open = self.lock();
            let entry = open.get(&request.replica).filter(|entry| entry.retired.is_none());
            let entry = entry.ok_or_else(|| no_route(&request.replica))?;
            check(&entry.route, peer, &request)?;
            let spool = entry.spool.as_ref().map_err(Clone::clone)?;
            (entry.gate.clone(), spool.clone())
        };
        tracing::info!(%peer, replica = %request.replica, "a session begins");
        // Not under the lock: the first session of a spool waits for its target.
        let session = gate.admit(self.received.clone(), || Ok(Box::new(spool.session(&request)?)))?;
        Ok(Box::new(session))
    }
}

/// Whether a session is one that the route is for.
fn check(route: &Route, peer: &PeerIdentity, request: &SessionRequest) -> Result<(), ReplicaError> {
    let forbidden = |detail: String| Err(ReplicaError::Forbidden { detail });
    if peer.role != Role::Source || peer.name.as_str() != route.source {
        return forbidden(format!("{} is sent by source {}, not by {peer}", route.replica, route.source));
    }
    match request.epoch {
        None => {
            forbidden("a session must state its epoch: replication is led by the configuration server".into())
        }
        Some(given) if given < route.epoch => Err(ReplicaError::StaleEpoch { given, current: route.epoch }),
        // The agent has heard of it before this process server: in a moment it will have, too.
        Some(given) if given > route.epoch => Err(ReplicaError::Disconnected {
            peer: "the process server".into(),
            detail: format!("it has not heard of epoch {given} yet"),
        }),
        Some(_) => Ok(()),
    }
}

fn connection(
    way: &Way,
    credentials: &Arc<LiveCredentials>,
    runtime: &Handle,
) -> Result<ConnectConfig, ReplicaError> {
    let mut config =
        ConnectConfig::new(&way.next, credentials.clone(), Arc::new(SystemClock), runtime.clone());
    config.roles = vec![Role::Target];
    let name = way.peer.parse();
    config.name = Some(name.map_err(|error: switchback_model::InvalidName| ReplicaError::Protocol {
        detail: format!("the route names a master target that cannot be: {error}"),
    })?);
    config.limits.clone_from(&way.limits);
    Ok(config)
}

fn no_route(name: &ReplicaName) -> ReplicaError {
    let detail = format!(
        "the configuration server has given this process server no route for {name}: its replication goes elsewhere, or has ended"
    );
    ReplicaError::Forbidden { detail }
}

/// Ends sessions so that their agents come again, and are judged anew.
fn moved(name: &ReplicaName) -> ReplicaError {
    let detail = format!("the route of {name} has changed");
    ReplicaError::Disconnected { peer: "the process server".into(), detail }
}

/// The same at every start, so that a restarted process server takes over from its dead self at once.
pub(crate) fn writer_id(root: &Path) -> anyhow::Result<WriterId> {
    let volume = DirVolume::open(root)?;
    if let Ok(data) = volume.read_all("writer", 64) {
        let text = String::from_utf8_lossy(&data);
        return text.trim().parse().with_context(|| format!("reading {}", root.join("writer").display()));
    }
    let writer = WriterId(new_id());
    volume.write_atomic("writer", writer.to_string().as_bytes())?;
    Ok(writer)
}
