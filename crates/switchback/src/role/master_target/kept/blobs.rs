//! A replica in page blobs, of which this master target is the gateway: all its state is in the container, and another one elsewhere can take it over.
//!
//! What it is: the same transitions as for disks, on a [`PageBlobReplica`]. What it never does: keep how the container is entered on a disk; touch a replica
//! before the configuration server has said, in this life of the process, that it is this master target's; take one back from another that has taken it
//! over, unless the configuration server has said so again since.
//!
//! A disk's page blob is the one that its target is called by, so that a history which counts its disks anew finds them again.
//!
//! A container's folder serves all directions of its machine, one after the other. Whose history it holds is told by the replica's id, made of its name
//! ([`id_of`]): another name begins a new history on what the page blobs hold. A replica that is removed leaves them with their digests, for the next one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use switchback_blobs::{AzureStore, Credentials, Location, StoreConfig};
use switchback_disk::{Clock, SystemClock};
use switchback_model::component::{BlobAccess, BlobPlace, ReplicaDesired, ReplicaMode};
use switchback_model::{ObjectName, ReplicaId, ReplicaName, RetentionPolicy};
use switchback_replica::{
    Applier, BlobDisk, PageBlobConfig, PageBlobReplica, ReplicaError, ReplicaSummary, SessionRequest,
};
use switchback_transport::RateLimit;

use super::{Kept, Obstacle, away, obstacle};
use crate::host::{self, HostedSession, Maintained};
use crate::storage_key;

/// Of each replica's staged parts that are kept in memory until they are applied: a gateway has many replicas.
const CACHE_BYTES_MAX: u64 = 64 << 20;

/// An open replica in page blobs, and the thread that applies its cycles.
#[derive(Debug)]
pub(super) struct HostedBlobs {
    // Dropped first: it waits for the round in hand.
    applier: Applier,
    pub(super) replica: Arc<PageBlobReplica>,
    place: BlobPlace,
    retention: RetentionPolicy,
}

impl Maintained for HostedBlobs {
    fn wake(&self) {
        self.applier.wake();
    }
}

impl HostedBlobs {
    pub(super) fn session(self: &Arc<Self>, request: &SessionRequest) -> Result<HostedSession, ReplicaError> {
        let session = Box::new(self.replica.session(request)?);
        Ok(HostedSession::new(session, self.clone()))
    }

    /// The addresses of clones by their names; empty where there is none, as the point lacks the disk.
    pub(super) fn addresses(&self, blobs: &[String]) -> Vec<PathBuf> {
        let BlobPlace { container, folder, .. } = &self.place;
        let address = |blob: &String| match blob.as_str() {
            "" => PathBuf::new(),
            blob => format!("{container}/{folder}/{blob}").into(),
        };
        blobs.iter().map(address).collect()
    }
}

/// The disks that a replica is to have.
fn disks_of(desired: &ReplicaDesired) -> Vec<BlobDisk> {
    let name = |target: &Path| target.file_name().map(|name| name.to_string_lossy().into_owned());
    let numbered = desired.targets.iter().zip(&desired.sizes);
    numbered.map(|(target, size)| BlobDisk { blob: name(target), size: *size }).collect()
}

/// The history that a replica of this name has.
fn id_of(replica: &ReplicaName) -> ReplicaId {
    derived(&format!("switchback-replica/1 {replica}"))
}

/// The history that what is left of it has.
fn id_of_rest(replica: &ReplicaName) -> ReplicaId {
    derived(&format!("switchback-replica/1 {replica} removed"))
}

fn derived(text: &str) -> ReplicaId {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    ReplicaId(id)
}

fn store_of(place: &BlobPlace, limit: RateLimit) -> Result<AzureStore, Obstacle> {
    let wrong = |detail: String| obstacle("master-target.container", detail);
    let Some(access) = &place.access else {
        return Err(wrong(format!(
            "how {} is entered is not known yet: the configuration server cannot read the account of its site",
            place.container
        )));
    };
    let (url, credentials) = match access.clone() {
        BlobAccess::Sas { sas } => (format!("{}?{}", place.container, sas.expose()), Credentials::Sas),
        BlobAccess::ManagedIdentity { client } => {
            (place.container.clone(), Credentials::ManagedIdentity { client_id: client })
        }
        BlobAccess::ServicePrincipal { tenant, client, secret } => {
            let secret = switchback_blobs::Secret::new(secret.expose().to_owned());
            (
                place.container.clone(),
                Credentials::ServicePrincipal { tenant_id: tenant, client_id: client, secret },
            )
        }
        BlobAccess::WorkloadIdentity { tenant, client, token_file } => (
            place.container.clone(),
            Credentials::WorkloadIdentity {
                tenant_id: Some(tenant),
                client_id: Some(client),
                token_file: Some(token_file),
            },
        ),
    };
    let location = Location::new(&url, &place.folder).map_err(|error| wrong(error.to_string()))?;
    let config =
        StoreConfig { pace: Some(Arc::new(move |bytes| limit.wait(bytes))), ..StoreConfig::default() };
    AzureStore::open(location, &credentials, config).map_err(|error| wrong(error.to_string()))
}

impl Kept {
    /// Brings a replica in page blobs to where it should be; see [`Kept::make`].
    pub(super) fn make_blobs(
        &self,
        desired: &ReplicaDesired,
        place: &BlobPlace,
        confirmed: bool,
    ) -> Result<Option<ReplicaMode>, Obstacle> {
        if !confirmed {
            return Ok(None);
        }
        let done = match desired.mode {
            ReplicaMode::Receive => self.receive_blobs(desired, place),
            ReplicaMode::StandAt { seq } => {
                self.gate.close(&away("the replica stands at a point: its machine has been failed over"));
                let hosted = self.open_blobs(desired, place, false)?.ok_or_else(|| {
                    obstacle(
                        "master-target.no-such-point",
                        format!("{}/{} holds another history, or none", place.container, place.folder),
                    )
                })?;
                hosted.replica.fence(desired.epoch).and_then(|()| hosted.replica.stand_at(seq)).map(drop)
            }
            .map_err(Obstacle::from),
            ReplicaMode::Remove => self.remove_blobs(desired, place),
        };
        if let Err(obstacle) = &done
            && obstacle.is_lost()
        {
            self.lose_blobs();
        }
        done.map(|()| Some(desired.mode))
    }

    fn receive_blobs(&self, desired: &ReplicaDesired, place: &BlobPlace) -> Result<(), Obstacle> {
        let Some(hosted) = self.open_blobs(desired, place, true)? else { return Ok(()) };
        hosted.replica.fence(desired.epoch)?;
        hosted.replica.resume()?;
        let disks = disks_of(desired);
        hosted.replica.begin_anew(id_of(&desired.replica), Some(&disks), SystemClock.now())?;
        if hosted.replica.disks() != disks {
            hosted.replica.reshape(&disks)?;
            self.gate.end(&away("the disks of the replica have changed"));
            tracing::info!(replica = %desired.replica, targets = ?desired.targets, "its disks have changed");
        }
        self.gate.open();
        self.show_clones(&hosted, desired)?;
        self.sandbox.keep(desired.sandbox.as_ref(), move |seq| Ok(Arc::new(hosted.replica.read_point(seq)?)));
        Ok(())
    }

    /// What stays is what the page blobs hold, for the next history; nothing with `purge`.
    fn remove_blobs(&self, desired: &ReplicaDesired, place: &BlobPlace) -> Result<(), Obstacle> {
        self.gate.close(&away("the replica is being removed"));
        if let Some(hosted) = self.open_blobs(desired, place, false)? {
            hosted.replica.fence(desired.epoch)?;
            if desired.purge {
                hosted.replica.remove()?;
            } else {
                hosted.replica.begin_anew(id_of_rest(&desired.replica), None, SystemClock.now())?;
            }
        }
        self.close()
    }

    /// Opens the replica; `make`: also when there is none, or another history. Otherwise `None` then, and that is left alone.
    fn open_blobs(
        &self,
        desired: &ReplicaDesired,
        place: &BlobPlace,
        make: bool,
    ) -> Result<Option<Arc<HostedBlobs>>, Obstacle> {
        // Not within the condition: what is locked there stays so to the end of its block, and closing locks, too.
        let present = self.lock().blobs.clone();
        if let Some(hosted) = present {
            if hosted.place == *place && hosted.retention == desired.retention {
                return Ok(Some(hosted));
            }
            drop(hosted);
            self.gate.close(&away("the replica is opened again with other settings"));
            self.close()?;
        }
        let store = store_of(place, self.to_storage.clone())?;
        let id = id_of(&desired.replica);
        match ReplicaSummary::read_blobs(&store)? {
            // Before anything is taken from whoever has it.
            Some(summary) if summary.epoch > desired.epoch => {
                return Err(ReplicaError::StaleEpoch { given: desired.epoch, current: summary.epoch }.into());
            }
            // A removal that was interrupted is gone on with.
            Some(summary) if !make && summary.id != id && !(desired.purge && is_rest(&summary, desired)) => {
                return Ok(None);
            }
            Some(_) => {}
            None if make => {
                PageBlobReplica::create_named(&store, &disks_of(desired), id)?;
                tracing::info!(replica = %desired.replica, container = place.container, folder = place.folder, "created");
            }
            None => return Ok(None),
        }
        let config = PageBlobConfig {
            retention: desired.retention.clone(),
            key: self.storage_key()?,
            cache_bytes_max: CACHE_BYTES_MAX,
            ..PageBlobConfig::default()
        };
        // The configuration server has said that it is ours: who has it, has died or lost its word.
        let replica = Arc::new(PageBlobReplica::open(Arc::new(store), config, host::new_id(), true)?);
        let maintained = Arc::clone(&replica);
        let (place, retention) = (place.clone(), desired.retention.clone());
        let applier = Applier::of(move || maintained.maintain());
        let hosted = Arc::new(HostedBlobs { applier, replica, place, retention });
        self.lock().blobs = Some(hosted.clone());
        Ok(Some(hosted))
    }

    fn storage_key(&self) -> Result<Option<switchback_delta::DeltaKey>, Obstacle> {
        let Some(path) = &self.key_file else { return Ok(None) };
        match storage_key::load(path) {
            Ok(key) => Ok(Some(switchback_delta::DeltaKey::new(*key))),
            Err(error) => Err(obstacle("master-target.key", format!("{}: {error}", path.display()))),
        }
    }

    /// Another process has taken the replica over: nothing is done with it until the configuration server says again that it is ours.
    fn lose_blobs(&self) {
        self.gate.close(&away("another master target has taken the replica over"));
        self.sandbox.end();
        let mut shared = self.lock();
        shared.lost_at = shared.confirmed;
        shared.done = None;
        shared.reached = None;
        let lost = shared.blobs.take();
        drop(shared);
        drop(lost);
    }

    /// Clones of points beside replication, for test failovers.
    fn show_clones(&self, hosted: &HostedBlobs, desired: &ReplicaDesired) -> Result<(), Obstacle> {
        let failed =
            |name: &str, what: String| obstacle("master-target.view", format!("showing {name:?}: {what}"));
        let valid = |name: &str| name.parse::<ObjectName>().map_err(|error| failed(name, error.to_string()));
        let shown = hosted.replica.view_names();
        for name in shown.iter().filter(|name| !desired.views.contains_key(*name)) {
            hosted.replica.drop_view(&valid(name)?)?;
            self.lock().views.remove(name);
        }
        for (name, seq) in &desired.views {
            let blobs = hosted.replica.view(&valid(name)?, *seq)?;
            self.lock().views.insert(name.clone(), hosted.addresses(&blobs));
        }
        Ok(())
    }

    /// Whether another process has taken it over meanwhile; then it is let go.
    pub(super) fn notice_loss(&self) {
        let lost = self.lock().blobs.as_ref().and_then(|hosted| hosted.replica.lost());
        if let Some(lost) = lost {
            tracing::warn!(%lost, "a replica is another's now");
            self.lose_blobs();
        }
    }
}

fn is_rest(summary: &ReplicaSummary, desired: &ReplicaDesired) -> bool {
    summary.id == id_of_rest(&desired.replica)
}
