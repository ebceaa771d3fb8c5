//! Time, injected: the one home of the wall clock.

use std::fmt::Debug;
use std::time::SystemTime;

use switchback_model::UnixMillis;

/// A source of wall-clock time. It may jump in either direction: nothing may depend on its order.
pub trait Clock: Send + Sync + Debug {
    /// Now.
    fn now(&self) -> UnixMillis;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        #[expect(clippy::disallowed_methods, reason = "this is the one home of the wall clock")]
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
