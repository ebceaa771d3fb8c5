//! The body of a request, with a limit on its length.
//!
//! Invariant: no more than the limit is kept. What is longer is read on and thrown away, up to [`DRAINED_MAX`] times the limit: a server that
//! answers and closes while its client still sends resets the connection, and the client sees that instead of the answer.

use std::pin::Pin;

use axum::body::{Body, Bytes, HttpBody as _};

/// How many times the limit is read of a body that is too long.
const DRAINED_MAX: usize = 16;

/// Why there is no body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// Longer than the limit.
    TooLong,
    /// The connection ended, or what came is no HTTP.
    CutOff,
}

/// Reads a body of up to `len_max` bytes.
pub(crate) async fn read(mut body: Body, len_max: usize) -> Result<Bytes, BodyError> {
    let mut kept = Vec::new();
    let mut len = 0_usize;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame.map_err(|_| BodyError::CutOff)?.into_data() else { continue };
        len = len.saturating_add(data.len());
        if len <= len_max {
            kept.extend_from_slice(&data);
        } else if len > len_max.saturating_mul(DRAINED_MAX) {
            break;
        } else {
            kept = Vec::new();
        }
    }
    if len > len_max { Err(BodyError::TooLong) } else { Ok(kept.into()) }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use axum::body::{Body, Bytes, HttpBody};
    use hyper::body::Frame;

    use super::{BodyError, DRAINED_MAX, read};

    /// Pieces of ten bytes, and how many were taken.
    struct Pieces(VecDeque<Bytes>, Arc<AtomicUsize>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    async fn read_pieces(count: usize, len_max: usize) -> (Result<usize, BodyError>, usize) {
        let taken = Arc::new(AtomicUsize::new(0));
        let pieces = std::iter::repeat_n(Bytes::from_static(b"0123456789"), count).collect();
        let body = read(Body::new(Pieces(pieces, taken.clone())), len_max).await;
        (body.map(|body| body.len()), taken.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn what_fits_is_read_and_what_does_not_is_read_to_its_end_and_refused() {
        assert_eq!(read_pieces(10, 100).await, (Ok(100), 11));
        assert_eq!(read_pieces(0, 100).await, (Ok(0), 1));
        assert_eq!(read_pieces(11, 100).await, (Err(BodyError::TooLong), 12));
        assert_eq!(read_pieces(100, 100).await, (Err(BodyError::TooLong), 101));
    }

    #[tokio::test]
    async fn nobody_can_send_for_ever() {
        let (refused, taken) = read_pieces(100_000, 100).await;
        assert_eq!((refused, taken), (Err(BodyError::TooLong), 10 * DRAINED_MAX + 1));
    }
}
