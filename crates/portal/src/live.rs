//! `GET /portal/live`: tells a page that something has changed, so that it fetches its live part anew. Server-sent events (HTML, section 9.2).
//!
//! Invariants: nothing is told but that; a page is told once a second at most, however much changes, and now and then although nothing was told (ages grow, and
//! components' reports are no changes); streams are limited in number, in all and of one session, and in time: a browser comes again by itself, and its token
//! is looked at anew.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use crate::Portal;
use crate::session::{Session, Stream};

/// Between two times that a page is told.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// A page is told after so long in any case.
const AT_LEAST_EVERY: Duration = Duration::from_secs(5);
/// A stream ends after so long.
const STREAM_MAX: Duration = Duration::from_mins(5);

/// One page's stream.
struct Live {
    portal: Arc<Portal>,
    session: Session,
    changes: watch::Receiver<u64>,
    ends: Instant,
    _place: OwnedSemaphorePermit,
    _of_session: Stream,
}

pub(crate) async fn stream(
    State(portal): State<Arc<Portal>>,
    Extension(session): Extension<Session>,
) -> Response {
    let place = Arc::clone(&portal.streams).try_acquire_owned().ok();
    let of_session = session.open_stream(portal.limits.streams_per_session_max);
    let (Some(place), Some(of_session)) = (place, of_session) else {
        // Without a word: the page is complete without it, and a browser does not ask again after such an answer.
        return StatusCode::NO_CONTENT.into_response();
    };
    let live = Live {
        changes: portal.control.changes(),
        portal,
        session,
        ends: Instant::now() + STREAM_MAX,
        _place: place,
        _of_session: of_session,
    };
    Sse::new(futures::stream::unfold(live, next)).into_response()
}

/// Waits for the next time that the page is to be told; `None`: the stream ends.
async fn next(mut live: Live) -> Option<(Result<Event, Infallible>, Live)> {
    tokio::time::sleep(AT_MOST_EVERY).await;
    let waited = tokio::time::timeout(AT_LEAST_EVERY - AT_MOST_EVERY, live.changes.changed()).await;
    let is_over = Instant::now() >= live.ends || !live.portal.sessions.is_there(live.session.key);
    if is_over || waited.is_ok_and(|changed| changed.is_err()) {
        return None;
    }
    // An event without data is none.
    Some((Ok(Event::default().event("changed").data("-")), live))
}
