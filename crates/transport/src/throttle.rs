//! A limit on bytes sent per second: a token bucket that may go into debt for one piece.

use std::time::Duration;

use tokio::time::Instant;

/// The lowest limit there is, bytes per second: below it not even signs of life would get through in time.
pub(crate) const LIMIT_MIN: u64 = 64 * 1024;
/// Bytes sent at once when there is a limit, so that the rate is even and signs of life are not held up.
pub(crate) const PIECE: usize = 16 * 1024;

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Throttle {
    bytes_per_s: u64,
    /// When the bucket will be (or was) out of debt.
    free_at: Instant,
}

impl Throttle {
    pub(crate) fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(LIMIT_MIN), free_at: Instant::now() }
    }

    /// Waits until `bytes` may be sent.
    pub(crate) async fn take(&mut self, bytes: usize) {
        tokio::time::sleep_until(self.free_at).await;
        // What was not used in the last 100 ms may be caught up on; older rights are gone.
        let oldest = Instant::now().checked_sub(Duration::from_millis(100)).unwrap_or(self.free_at);
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        self.free_at = self.free_at.max(oldest) + cost;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{PIECE, Throttle};

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_also_after_a_pause() {
        for rate in [100_000_u64, 10_000_000, 1_000_000_000] {
            let mut throttle = Throttle::new(rate);
            for _ in 0..3 {
                let began = Instant::now();
                let pieces = rate * 10 / PIECE as u64;
                for _ in 0..pieces {
                    throttle.take(PIECE).await;
                }
                let took = began.elapsed().as_secs_f64();
                // Ten seconds' worth, less the 100 ms that may be caught up on and the last piece's debt.
                assert!((9.6..=10.1).contains(&took), "{rate}: {took}");
                tokio::time::sleep(Duration::from_secs(100)).await;
            }
        }
    }
}
