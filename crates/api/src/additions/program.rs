//! `GET /install/switchback`: the program, for process servers that are made at a site. Anybody may have it: there is no secret in it, and whoever fetches it
//! knows its digest from elsewhere.
//!
//! A few downloads at a time, each of limited duration; it is read as it is sent, a piece at a time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Bytes, Frame, SizeHint};
use switchback_control::Program;
use tokio::sync::OwnedSemaphorePermit;

use crate::arm::ArmError;
use crate::service::Api;

/// Downloads at a time.
pub(crate) const DOWNLOADS_MAX: usize = 8;
/// Longer than a fetching server waits.
const LIMIT: Duration = Duration::from_secs(20 * 60);
const PIECE: usize = 256 << 10;

pub(crate) async fn serve(State(api): State<Arc<Api>>) -> Response {
    let Some(program) = api.control().program() else {
        return ArmError::not_found("program", "switchback").into_response();
    };
    let Ok(permit) = Arc::clone(api.downloads()).try_acquire_owned() else {
        let message = format!("{DOWNLOADS_MAX} downloads are under way already");
        return ArmError::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
            .retry_after(5)
            .into_response();
    };
    let kind = HeaderValue::from_static("application/octet-stream");
    let body = Download { program, at: 0, until: Instant::now() + LIMIT, _permit: permit };
    ([(header::CONTENT_TYPE, kind)], Body::new(body)).into_response()
}

struct Download {
    program: Arc<Program>,
    at: u64,
    until: Instant,
    _permit: OwnedSemaphorePermit,
}

impl hyper::body::Body for Download {
    type Data = Bytes;
    type Error = io::Error;

    /// The program that runs is in memory mostly: reading it takes no time that others would notice.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.at == self.program.len() {
            return Poll::Ready(None);
        }
        if Instant::now() > self.until {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        Poll::Ready(Some(match self.program.read(self.at, PIECE) {
            Ok(piece) if piece.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(piece) => {
                self.at += piece.len() as u64;
                Ok(Frame::data(piece.into()))
            }
            Err(error) => Err(error),
        }))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.program.len() - self.at)
    }
}
