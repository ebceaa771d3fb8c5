//! Renewal of certificates: asked for with the one that is still valid, long before it expires.

use std::sync::Arc;
use std::time::Duration;

use switchback_disk::Volume;
use switchback_identity::{Authority, Credentials, KeyRequest, LiveCredentials};
use switchback_replica::ReplicaError;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::connect::{ConnectConfig, connect, unexpected};
use crate::wire::{self, Kind, Renew, Renewed, Request};

/// How often it is looked whether renewal is due, and how soon a failed one is tried again. A renewal has a third of the
/// certificate's life, a day, to succeed.
const LOOK_EVERY: Duration = Duration::from_secs(5 * 60);

/// Asks the authority at `config.address` for a new certificate of the same identity for a new key. The caller stores it and
/// shows it from then on.
///
/// # Errors
/// As `RemoteSession::connect`; [`ReplicaError::Forbidden`] when there is no authority there.
pub async fn renew(config: &ConnectConfig) -> Result<Credentials, ReplicaError> {
    let attempt = async {
        let key = KeyRequest::generate();
        let mut connection = Box::pin(connect(config)).await?;
        let message = Request::Renew(Renew { key_request: key.der().to_vec() }).encode();
        let (head, payload) = connection.ask(config, &message, None).await?;
        if head.kind != Kind::Done {
            return Err(unexpected(config, head.kind));
        }
        let renewed: Renewed =
            wire::json(head.kind, &payload).map_err(|error| config.receive_error(error.into()))?;
        let _ = connection.sender.close(None).await;
        let credentials = key
            .into_credentials(renewed.certificate.into(), renewed.authority.into())
            .map_err(|error| ReplicaError::Corrupt { detail: error.to_string() })?;
        let current = config.credentials.current();
        if credentials.identity() != current.identity() || credentials.authority() != current.authority() {
            let detail = format!("{} renewed for {}", config.address, credentials.identity());
            return Err(ReplicaError::Forbidden { detail });
        }
        Ok(credentials)
    };
    let limit = config.timeouts.connect;
    tokio::time::timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| Err(config.lost(format!("no answer within {} s", limit.as_secs_f32()))))
}

/// Renews a component's credentials in the background for as long as it is not dropped.
#[derive(Debug)]
pub struct RenewalTask(JoinHandle<()>);

/// Where a new certificate comes from.
enum Issuer {
    /// The authority on another host.
    Remote(ConnectConfig),
    /// The authority on this host, where nobody needs to be asked.
    Local(Arc<Authority>, Arc<LiveCredentials>),
}

impl RenewalTask {
    /// Looks every five minutes whether `config.credentials` are due; then renews them at `config.address`, stores
    /// them in `volume`, shows them.
    #[must_use]
    pub fn start(config: ConnectConfig, volume: Arc<dyn Volume>) -> Self {
        let runtime = config.runtime.clone();
        Self(runtime.spawn(keep_renewed(Issuer::Remote(config), volume)))
    }

    /// The same on the authority's own host.
    #[must_use]
    pub fn start_local(
        authority: Arc<Authority>,
        credentials: Arc<LiveCredentials>,
        volume: Arc<dyn Volume>,
        runtime: &Handle,
    ) -> Self {
        Self(runtime.spawn(keep_renewed(Issuer::Local(authority, credentials), volume)))
    }
}

impl Drop for RenewalTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep_renewed(issuer: Issuer, volume: Arc<dyn Volume>) {
    let (credentials, clock) = match &issuer {
        Issuer::Remote(config) => (&config.credentials, &config.clock),
        Issuer::Local(authority, credentials) => (credentials, authority.clock()),
    };
    loop {
        let current = credentials.current();
        if current.is_due_for_renewal(clock.now()) {
            let outcome = async {
                let renewed = match &issuer {
                    Issuer::Remote(config) => renew(config).await?,
                    Issuer::Local(authority, _) => authority
                        .issue(current.identity())
                        .map_err(|error| ReplicaError::Forbidden { detail: error.to_string() })?,
                };
                store_and_show(renewed, credentials, volume.clone()).await
            };
            match outcome.await {
                Ok(()) => tracing::info!(identity = %current.identity(), "certificate renewed"),
                // A human must look once it is over, not while there is time.
                Err(error) => match current.check(clock.now()) {
                    Ok(()) => tracing::warn!(%error, "the certificate could not be renewed yet"),
                    Err(expired) => tracing::error!(%error, "{expired}"),
                },
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn store_and_show(
    renewed: Credentials,
    credentials: &LiveCredentials,
    volume: Arc<dyn Volume>,
) -> Result<(), ReplicaError> {
    let io = |detail: String| ReplicaError::Io { action: "storing the renewed certificate".into(), detail };
    // Stored before it is shown: after a crash the newer one may be gone, but never the only one.
    let stored = renewed.clone();
    tokio::task::spawn_blocking(move || stored.store(&*volume))
        .await
        .map_err(|error| io(error.to_string()))?
        .map_err(|error| io(error.to_string()))?;
    credentials.replace(renewed).map_err(|error| io(error.to_string()))
}
