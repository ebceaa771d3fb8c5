//! The portal: the configuration server's pages for people, rendered here and complete without a script.
//!
//! What it is: an [`axum::Router`] ([`router`]) with everything below `/portal/`: sessions, pages (one file for each tab in `pages`), the files they need,
//! all inside the program. What it never does: decide. What may be done and by whom, what a request must be like, what goes into the audit
//! log is the API's, and is there once; the portal asks it in process, with the token of whoever is signed in.
//!
//! ```text
//! GET  /portal/…  ─▶ gate: session, token, role ─▶ a page: reads the control plane on a thread that may block, renders
//! POST /portal/…  ─▶ gate, and origin and form token ─▶ a form becomes a request of the API's contract ─▶ api::router
//!                                                        ├─ done: on to where its result is seen
//!                                                        └─ refused: the API's words, with cause and remedy
//! GET  /portal/live ─▶ "something has changed", at most once a second ─▶ the page fetches its live part anew
//! ```
//! Invariants: no page and no form is reached past the gate; nothing on a page comes from elsewhere, and no script or style is inline; all memory is bounded.
//!
//! | file | what |
//! |---|---|
//! | `gate` | who may pass, and what every answer's head says |
//! | `session` | who is signed in |
//! | `sign_in` | becoming so, and ceasing to be |
//! | `visit` | one request, as pages see it |
//! | `action` | from a form to the API |
//! | `live` | telling pages that something has changed |
//! | `layout` | what all pages have around them |
//! | `shown` | times, ages and sizes for people |
//! | `assets` | the files |

mod action;
mod assets;
mod cookie;
mod failure;
mod gate;
mod layout;
mod live;
mod pages;
mod session;
mod shown;
mod sign_in;
mod visit;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{any, get, post};
use switchback_api::Service;
use switchback_control::Control;
use tokio::sync::Semaphore;

use session::Sessions;

/// Where the portal is.
pub(crate) const HOME: &str = "/portal/";

/// Limits on what the portal takes upon itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortalLimits {
    /// Sessions at once.
    pub sessions_max: usize,
    /// Of these, of one token's holder.
    pub sessions_per_caller_max: usize,
    /// A session that is not used for so long ends.
    pub idle: Duration,
    /// A session ends after so long, however it is used.
    pub session: Duration,
    /// Pages at once that are told of changes. Others are as they were when they were loaded.
    pub streams_max: usize,
    /// Of these, of one session.
    pub streams_per_session_max: usize,
    /// Bytes of a form.
    pub form_len_max: usize,
    /// For a form to arrive.
    pub form_time_max: Duration,
    /// Pages that are in the control plane at a time; more wait.
    pub blocking_max: usize,
}

impl Default for PortalLimits {
    /// 1024 sessions, 32 of one; half an hour idle, twelve hours in all; 256 live pages, 12 of a session; forms of 256 KiB within 20 s; 8 pages at a time.
    fn default() -> Self {
        Self {
            sessions_max: 1024,
            sessions_per_caller_max: 32,
            idle: Duration::from_mins(30),
            session: Duration::from_hours(12),
            streams_max: 256,
            streams_per_session_max: 12,
            form_len_max: 256 << 10,
            form_time_max: Duration::from_secs(20),
            blocking_max: 8,
        }
    }
}

/// The portal's state.
#[derive(Debug)]
pub(crate) struct Portal {
    pub(crate) control: Control,
    pub(crate) api: Service,
    /// The API, to be asked in process.
    pub(crate) contract: Router,
    pub(crate) sessions: Sessions,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) blocking: Semaphore,
    pub(crate) limits: PortalLimits,
}

/// Everything that users reach: the portal, and the API for whatever is not below `/portal/`. Requests carry `ConnectInfo<SocketAddr>`.
pub fn router(control: Control, api: Service, limits: PortalLimits) -> Router {
    let contract = api.router();
    let portal = Arc::new(Portal {
        sessions: Sessions::new(&limits),
        streams: Arc::new(Semaphore::new(limits.streams_max)),
        blocking: Semaphore::new(limits.blocking_max),
        contract: contract.clone(),
        control,
        api,
        limits,
    });
    let behind_gate = pages::routes()
        .route("/live", get(live::stream))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/theme", post(layout::set_theme))
        .fallback(pages::not_found)
        .layer(from_fn_with_state(Arc::clone(&portal), gate::pass));
    let open = Router::new()
        .route("/sign-in", get(sign_in::page).post(sign_in::sign_in))
        .route("/sign-in/{name}", get(sign_in::issuer::begin))
        .route("/sign-in/{name}/answer", get(sign_in::issuer::answer))
        .route("/assets/{name}", get(assets::serve));
    let below = Router::new().merge(open).fallback_service(behind_gate.with_state(Arc::clone(&portal)));
    let below = below.layer(from_fn(gate::secure)).with_state(portal);
    Router::new()
        .nest_service(HOME.trim_end_matches('/'), below)
        .route("/", any(root))
        .fallback_service(contract.clone())
        .layer(axum::Extension(Contract(contract)))
}

/// The API's routes, for the one path that both have.
#[derive(Clone)]
struct Contract(Router);

/// `/`: to people the portal, to programs what the API says there.
async fn root(axum::Extension(Contract(contract)): axum::Extension<Contract>, request: Request) -> Response {
    let wants_page = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    if wants_page && matches!(*request.method(), Method::GET | Method::HEAD) {
        return Redirect::to(HOME).into_response();
    }
    match tower::ServiceExt::oneshot(contract, request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
