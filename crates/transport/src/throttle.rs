//! A limit on bytes sent per second: a token bucket that may go into debt for one piece, shared by all who send under it, and changed at any time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The lowest limit there is, bytes per second: below it not even signs of life would get through in time.
const LIMIT_MIN: u64 = 64 * 1024;
/// Bytes sent at once when there is a limit, so that the rate is even and signs of life are not held up.
pub(crate) const PIECE: usize = 16 * 1024;

/// A limit. Clones are the same limit: what is sent under it counts together.
#[derive(Clone, Debug)]
pub struct RateLimit(Arc<Mutex<Bucket>>);

#[derive(Debug)]
struct Bucket {
    bytes_per_s: Option<u64>,
    /// When the bucket will be (or was) out of debt.
    free_at: Instant,
}

impl RateLimit {
    /// So many bytes per second, at least 64 KiB; `None`: no limit, until one is set.
    #[must_use]
    pub fn new(bytes_per_s_max: Option<u64>) -> Self {
        let bytes_per_s = bytes_per_s_max.map(|rate| rate.max(LIMIT_MIN));
        Self(Arc::new(Mutex::new(Bucket { bytes_per_s, free_at: Instant::now() })))
    }

    /// Another limit from the next piece on.
    pub fn set(&self, bytes_per_s_max: Option<u64>) {
        self.lock().bytes_per_s = bytes_per_s_max.map(|rate| rate.max(LIMIT_MIN));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in force now, in bytes per second.
    #[must_use]
    pub fn bytes_per_s_max(&self) -> Option<u64> {
        self.lock().bytes_per_s
    }

    /// Whether there is a limit now.
    pub(crate) fn is_set(&self) -> bool {
        self.bytes_per_s_max().is_some()
    }

    /// Waits until `bytes` may be sent.
    pub(crate) async fn take(&self, bytes: usize) {
        let turn = self.reserve(bytes);
        tokio::time::sleep_until(turn).await;
    }

    /// Waits until `bytes` may be sent, on a thread that may block. Another limit holds from the next 64 KiB on: a second later at most.
    pub fn wait(&self, bytes: u64) {
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(LIMIT_MIN);
            let turn = self.reserve(usize::try_from(piece).expect("64 KiB")).into_std();
            std::thread::sleep(turn.saturating_duration_since(std::time::Instant::now()));
            left -= piece;
        }
    }

    /// When `bytes` may be sent: everybody's turn comes after those who asked before.
    fn reserve(&self, bytes: usize) -> Instant {
        let mut bucket = self.lock();
        let now = Instant::now();
        let Some(bytes_per_s) = bucket.bytes_per_s else { return now };
        // What was not used in the last 100 ms may be caught up on; older rights are gone.
        let oldest = now.checked_sub(Duration::from_millis(100)).unwrap_or(bucket.free_at);
        let turn = bucket.free_at.max(oldest);
        bucket.free_at = turn + Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64);
        turn
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{PIECE, RateLimit};

    async fn send(limit: &RateLimit, bytes: u64) -> f64 {
        let began = Instant::now();
        for _ in 0..bytes / PIECE as u64 {
            limit.take(PIECE).await;
        }
        began.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_also_after_a_pause() {
        for rate in [100_000_u64, 10_000_000, 1_000_000_000] {
            let limit = RateLimit::new(Some(rate));
            for _ in 0..3 {
                let took = send(&limit, rate * 10).await;
                // Ten seconds' worth, less the 100 ms that may be caught up on and the last piece's debt.
                assert!((9.6..=10.1).contains(&took), "{rate}: {took}");
                tokio::time::sleep(Duration::from_secs(100)).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_send_under_a_limit_share_it() {
        let limit = RateLimit::new(Some(1_000_000));
        let other = limit.clone();
        let (one, two) = tokio::join!(send(&limit, 5_000_000), send(&other, 5_000_000));
        assert!((9.6..=10.1).contains(&one.max(two)), "{one} {two}");
    }

    #[tokio::test(start_paused = true)]
    async fn another_limit_holds_from_the_next_piece_on() {
        let limit = RateLimit::new(None);
        assert!(!limit.is_set() && send(&limit, 100_000_000).await < 0.01);
        limit.set(Some(1_000_000));
        let took = send(&limit, 10_000_000).await;
        assert!(limit.is_set() && (9.6..=10.1).contains(&took), "{took}");
        limit.set(Some(10_000_000));
        let took = send(&limit, 10_000_000).await;
        assert!((0.8..=1.1).contains(&took), "{took}");
        limit.set(None);
        assert!(send(&limit, 100_000_000).await < 0.01);
    }
}
