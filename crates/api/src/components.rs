//! The components' routes: what agents, process servers and master targets ask of the configuration server.
//!
//! ```text
//! POST /components/v1/report   Report                → Answer
//! POST /components/v1/wait     Wait                  → Answer, at the latest after WAIT_S
//! POST /components/v1/moment   MomentCall            → MomentAnswer
//! POST /components/v1/program  ProgramPiece          → bytes
//! POST /components/v1/sandbox  SandboxSeen           → SandboxHeard
//! POST /components/v1/renew    PKCS #10, DER         → two certificates, PEM: the component's new one, the authority's
//! ```
//! Who was removed from the site is refused at once, whatever the certificate says; but for moments, whose members are agents of protected machines, which
//! cannot be removed, and stand still while they ask.
//!
//! Messages are those of `switchback_model::component`, as JSON. An error is a [`JobError`] with a status that says whose fault it is. Who asks
//! is the [`PeerIdentity`] that the listener has put into the request, as its certificate proves; nothing here is reachable without.
//!
//! A wait costs nothing while nothing changes. When something has, all that wait are woken: their look into the store is limited to
//! [`BLOCKING_MAX`] at a time, so that a change in a large site is no flood.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use serde::de::DeserializeOwned;
use switchback_control::{Control, ControlError, ErrorKind};
use switchback_identity::{Authority, Newcomer, PeerIdentity};
use switchback_model::JobError;
use switchback_model::component::{
    Answer, MESSAGE_LEN_MAX, MomentAnswer, MomentCall, ProgramPiece, Report, SandboxHeard, SandboxSeen,
    WAIT_S, Wait,
};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// Calls that block (the store) at a time.
const BLOCKING_MAX: usize = 16;
/// Changes within this time are looked at together.
const SETTLE: Duration = Duration::from_millis(50);

/// The code by which those are refused who were removed.
const REMOVED: &str = "component.removed";

/// The answer to a [`ComponentService::moment`].
pub type MomentFuture<'a> = Pin<Box<dyn Future<Output = Result<MomentAnswer, ControlError>> + Send + 'a>>;

/// What components need of the control plane. All calls but `changes` and `moment` may block.
pub trait ComponentService: Send + Sync + 'static {
    /// A component is about to get its certificate: it belongs to the site from now on, and its ticket is used up.
    ///
    /// # Errors
    /// When that cannot be written down, or its ticket is void; it gets none then.
    fn enrolled(&self, newcomer: &Newcomer) -> Result<(), ControlError>;

    /// Takes a report, and answers with the desired state.
    ///
    /// # Errors
    /// When the component does not belong to the site, or the store fails.
    fn report(&self, peer: &PeerIdentity, report: Report) -> Result<Answer, ControlError>;

    /// The desired state as of the last report; an agent's, of the machine `system_uuid`: instances of one machine share an identity.
    ///
    /// # Errors
    /// As [`ComponentService::report`].
    fn desired(&self, peer: &PeerIdentity, system_uuid: Option<&str>) -> Result<Answer, ControlError>;

    /// Whether a component belongs to the site still.
    ///
    /// # Errors
    /// When the store fails.
    fn is_enrolled(&self, peer: &PeerIdentity) -> Result<bool, ControlError>;

    /// Changes whenever a desired state may have changed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Bytes of the program that agents are offered; none at its end.
    ///
    /// # Errors
    /// When it is another one by now, or cannot be read.
    fn program_piece(&self, wanted: &ProgramPiece) -> Result<Vec<u8>, ControlError>;

    /// Takes what a master target sees of a sandbox that it runs.
    ///
    /// # Errors
    /// When it is too much, or the store fails.
    fn sandbox_seen(&self, peer: &PeerIdentity, seen: SandboxSeen) -> Result<SandboxHeard, ControlError>;

    /// A member's arrival at a meeting of a multi-VM moment. Dropped when its connection is lost.
    fn moment<'a>(&'a self, peer: &'a PeerIdentity, call: MomentCall) -> MomentFuture<'a>;
}

impl ComponentService for Control {
    fn enrolled(&self, newcomer: &Newcomer) -> Result<(), ControlError> {
        Self::enrolled(self, newcomer)
    }

    fn report(&self, peer: &PeerIdentity, report: Report) -> Result<Answer, ControlError> {
        Self::report(self, peer, report)
    }

    fn desired(&self, peer: &PeerIdentity, system_uuid: Option<&str>) -> Result<Answer, ControlError> {
        Self::desired(self, peer, system_uuid)
    }

    fn is_enrolled(&self, peer: &PeerIdentity) -> Result<bool, ControlError> {
        Self::is_enrolled(self, peer)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        Self::changes(self)
    }

    fn program_piece(&self, wanted: &ProgramPiece) -> Result<Vec<u8>, ControlError> {
        Self::program_piece(self, wanted)
    }

    fn sandbox_seen(&self, peer: &PeerIdentity, seen: SandboxSeen) -> Result<SandboxHeard, ControlError> {
        Self::sandbox_seen(self, peer, seen)
    }

    fn moment<'a>(&'a self, peer: &'a PeerIdentity, call: MomentCall) -> MomentFuture<'a> {
        Box::pin(Self::moment(self, peer, call))
    }
}

/// What the routes share.
#[derive(Clone)]
struct Components {
    service: Arc<dyn ComponentService>,
    authority: Arc<Authority>,
    blocking: Arc<Semaphore>,
}

/// The routes, without the listener that says who asks.
pub(crate) fn router(service: Arc<dyn ComponentService>, authority: Arc<Authority>) -> Router {
    let components = Components { service, authority, blocking: Arc::new(Semaphore::new(BLOCKING_MAX)) };
    Router::new()
        .route("/components/v1/report", post(report))
        .route("/components/v1/wait", post(wait))
        .route("/components/v1/moment", post(moment))
        .route("/components/v1/program", post(program))
        .route("/components/v1/sandbox", post(sandbox))
        .route("/components/v1/renew", post(renew))
        .layer(DefaultBodyLimit::max(MESSAGE_LEN_MAX))
        .with_state(components)
}

/// A refusal on its way to a component.
struct Refusal(ControlError);

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.kind {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict | ErrorKind::IllegalState => StatusCode::CONFLICT,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let error: &JobError = &self.0.error;
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(code = %error.code, %error, "a component could not be answered");
        }
        (status, Json(error)).into_response()
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let message = format!("the message cannot be read: {error}");
        let error = ControlError::new(ErrorKind::Invalid, "component.message", message);
        error.cause("another version of Switchback").remedy("bring both ends to the same version").into()
    })
}

impl Components {
    /// Calls what may block, off the network's threads.
    async fn call<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn ComponentService) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let failed = |detail: String| ControlError::new(ErrorKind::Internal, "component.failed", detail);
        let permit = self.blocking.clone().acquire_owned().await.map_err(|e| failed(e.to_string()))?;
        let service = self.service.clone();
        let called = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            ask(&*service)
        });
        Ok(called.await.map_err(|error| failed(error.to_string()))??)
    }

    /// Refuses who does not belong to the site any more.
    async fn admit(&self, peer: &PeerIdentity) -> Result<(), Refusal> {
        let who = peer.clone();
        if self.call(move |service| service.is_enrolled(&who)).await? {
            return Ok(());
        }
        let message = format!("{peer} does not belong to this site any more");
        Err(ControlError::new(ErrorKind::Forbidden, REMOVED, message)
            .cause(
                "it was removed; or it has enrolled after the backup was made that this configuration server was restored from",
            )
            .remedy("if it is to belong to it, enrol it again: `switchback enrol`, on its host")
            .into())
    }
}

async fn report(
    State(components): State<Components>,
    Extension(peer): Extension<PeerIdentity>,
    body: Bytes,
) -> Result<Json<Answer>, Refusal> {
    let report: Report = decode(&body)?;
    components.admit(&peer).await?;
    Ok(Json(components.call(move |service| service.report(&peer, report)).await?))
}

async fn wait(
    State(components): State<Components>,
    Extension(peer): Extension<PeerIdentity>,
    body: Bytes,
) -> Result<Json<Answer>, Refusal> {
    let wait: Wait = decode(&body)?;
    let until = Instant::now() + Duration::from_secs(WAIT_S);
    let mut changes = components.service.changes();
    loop {
        // Marked as seen before the look: a change during it wakes this again.
        changes.mark_unchanged();
        components.admit(&peer).await?;
        let (who, uuid) = (peer.clone(), wait.system_uuid.clone());
        let answer = components.call(move |service| service.desired(&who, uuid.as_deref())).await?;
        if answer.version != wait.version || Instant::now() >= until {
            return Ok(Json(answer));
        }
        tokio::select! {
            changed = changes.changed() => match changed {
                Ok(()) => tokio::time::sleep(SETTLE).await,
                // The control plane is going: there will be no more changes.
                Err(_) => tokio::time::sleep_until(until).await,
            },
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

async fn moment(
    State(components): State<Components>,
    Extension(peer): Extension<PeerIdentity>,
    body: Bytes,
) -> Result<Json<MomentAnswer>, Refusal> {
    let call: MomentCall = decode(&body)?;
    Ok(Json(components.service.moment(&peer, call).await?))
}

async fn program(
    State(components): State<Components>,
    Extension(peer): Extension<PeerIdentity>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let wanted: ProgramPiece = decode(&body)?;
    components.admit(&peer).await?;
    let piece = components.call(move |service| service.program_piece(&wanted)).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], piece).into_response())
}

async fn sandbox(
    State(components): State<Components>,
    Extension(peer): Extension<PeerIdentity>,
    body: Bytes,
) -> Result<Json<SandboxHeard>, Refusal> {
    let seen: SandboxSeen = decode(&body)?;
    components.admit(&peer).await?;
    Ok(Json(components.call(move |service| service.sandbox_seen(&peer, seen)).await?))
}

async fn renew(
    State(components): State<Components>,
    Extension(peer): Extension<PeerIdentity>,
    body: Bytes,
) -> Result<Response, Refusal> {
    // A store that is away must not let certificates expire.
    if let Err(refusal) = components.admit(&peer).await
        && refusal.0.error.code == REMOVED
    {
        return Err(refusal);
    }
    let certificates = components
        .authority
        .renew(&body, &peer)
        .map_err(|error| ControlError::new(ErrorKind::Invalid, "component.key-request", error.to_string()))?;
    tracing::info!(%peer, "certificate renewed");
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], certificates).into_response())
}

/// Writes down that a component has enrolled; for people, why that failed.
pub(crate) async fn record_enrolment(
    service: Arc<dyn ComponentService>,
    newcomer: Newcomer,
) -> Result<(), String> {
    match tokio::task::spawn_blocking(move || service.enrolled(&newcomer)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
