//! A TCP stream that knows how long it has been waiting, and reads in large pieces.
//!
//! Two reasons to stand between TCP and TLS. rustls asks its transport for 4 KiB at a time: one system call for that
//! would cost as much as the decryption, so ciphertext is read 256 KiB at a time here. And a dead peer is noticed by bytes
//! that do not come, whatever message is being read and however slowly: that is best seen here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

const READ_LEN: usize = 256 * 1024;

/// How long each direction has been waiting. A direction nobody polls (back-pressure) is not waiting.
#[derive(Debug)]
pub(crate) struct Activity {
    start: Instant,
    /// Milliseconds after `start`, plus one; 0 when not waiting.
    reading_since: AtomicU64,
    writing_since: AtomicU64,
}

impl Activity {
    fn new() -> Arc<Self> {
        let zero = AtomicU64::default;
        Arc::new(Self { start: Instant::now(), reading_since: zero(), writing_since: zero() })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn note<T>(&self, since: &AtomicU64, poll: &Poll<T>) {
        match poll {
            Poll::Ready(_) => since.store(0, Ordering::Relaxed),
            Poll::Pending if since.load(Ordering::Relaxed) == 0 => since.store(self.now(), Ordering::Relaxed),
            Poll::Pending => {}
        }
    }

    /// Returns when the peer has not sent anything for `limit`, or not taken anything for `limit`, with the words for it.
    /// `writes`: whether it is a fault if the peer takes nothing, or its right (back-pressure).
    pub(crate) async fn until_dead(&self, limit: Duration, writes: bool) -> String {
        let mut tick = tokio::time::interval((limit / 8).max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let over = |since: &AtomicU64| match since.load(Ordering::Relaxed) {
            0 => false,
            since => self.now().saturating_sub(since) >= limit_ms,
        };
        loop {
            tick.tick().await;
            if over(&self.reading_since) {
                return format!("nothing was heard for {} s", limit.as_secs_f32());
            }
            if writes && over(&self.writing_since) {
                return format!("it took nothing for {} s", limit.as_secs_f32());
            }
        }
    }
}

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    buffer: Box<[u8]>,
    /// What of `buffer` has been received and not yet handed on.
    filled: std::ops::Range<usize>,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S) -> Self {
        let buffer = vec![0; READ_LEN].into_boxed_slice();
        Self { stream, buffer, filled: 0..0, activity: Activity::new() }
    }

    pub(crate) fn activity(&self) -> Arc<Activity> {
        self.activity.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.filled.is_empty() {
            let mut buffer = ReadBuf::new(&mut this.buffer);
            let poll = Pin::new(&mut this.stream).poll_read(cx, &mut buffer);
            this.activity.note(&this.activity.reading_since, &poll);
            ready!(poll)?;
            this.filled = 0..buffer.filled().len();
        }
        let len = this.filled.len().min(out.remaining());
        out.put_slice(&this.buffer[this.filled.start..this.filled.start + len]);
        this.filled.start += len;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(cx, data);
        this.activity.note(&this.activity.writing_since, &poll);
        poll
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write_vectored(cx, data);
        this.activity.note(&this.activity.writing_since, &poll);
        poll
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::Watched;

    #[tokio::test(start_paused = true)]
    async fn silence_is_noticed_while_reading_and_not_while_nobody_reads() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut watched = Watched::new(near);
        let activity = watched.activity();
        let limit = Duration::from_secs(30);
        tokio::time::timeout(limit * 10, activity.until_dead(limit, true))
            .await
            .expect_err("nobody waits yet");
        let began = tokio::time::Instant::now();
        let mut byte = [0];
        tokio::select! {
            _ = watched.read_exact(&mut byte) => unreachable!("nothing was sent"),
            detail = activity.until_dead(limit, true) => assert!(detail.contains("nothing was heard")),
        }
        assert!((limit..limit * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        far.write_all(b"x").await.unwrap();
        watched.read_exact(&mut byte).await.unwrap();
        tokio::time::timeout(limit * 10, activity.until_dead(limit, true)).await.expect_err("it lives");
        tokio::select! {
            _ = watched.write_all(&[0; 65]) => unreachable!("it does not fit"),
            detail = activity.until_dead(limit, true) => assert!(detail.contains("took nothing")),
        }
    }
}
