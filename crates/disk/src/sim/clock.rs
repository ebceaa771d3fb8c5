//! A clock that is set by hand.

use std::sync::atomic::{AtomicU64, Ordering};

use switchback_model::UnixMillis;

use crate::clock::Clock;

/// A clock that stands still until it is set; for tests.
#[derive(Debug)]
pub struct SimClock(AtomicU64);

impl SimClock {
    /// A clock that shows `now`.
    #[must_use]
    pub const fn new(now: UnixMillis) -> Self {
        Self(AtomicU64::new(now.0))
    }

    /// Sets it, back too.
    pub fn set(&self, now: UnixMillis) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    /// Moves it by so many milliseconds, back too; it stops at either end of time.
    pub fn jump(&self, millis: i64) {
        let moved = |now: u64| Some(now.saturating_add_signed(millis));
        // The closure always gives a value, so this cannot fail.
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, moved);
    }
}

impl Clock for SimClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.0.load(Ordering::SeqCst))
    }
}
