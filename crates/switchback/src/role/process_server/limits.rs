//! The limits under which a process server forwards: one for all together, one towards each master target.
//!
//! Invariants: a limit is one object for as long as the process lives, shared by all sessions it is for, so that they keep it together and follow a change
//! at once; which rate is in force is looked up again and again (`Bandwidth` with its windows is pure).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use switchback_model::{Bandwidth, UnixMillis};
use switchback_transport::RateLimit;

/// See the module's header.
#[derive(Debug)]
pub(super) struct Limits {
    total: RateLimit,
    /// As many as there are master targets that it has had a route to.
    targets: Mutex<BTreeMap<String, RateLimit>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { total: RateLimit::new(None), targets: Mutex::default() }
    }
}

impl Limits {
    /// Those that hold towards a master target. Its own is first: who waits for that keeps nobody else waiting.
    pub(super) fn towards(&self, target: &str) -> Vec<RateLimit> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let own = targets.entry(target.to_owned()).or_insert_with(|| RateLimit::new(None));
        vec![own.clone(), self.total.clone()]
    }

    /// Sets what is in force at a time.
    pub(super) fn pace(&self, bandwidth: &Bandwidth, now: UnixMillis) {
        self.total.set(bandwidth.total_at(now));
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        for (target, limit) in &*targets {
            limit.set(bandwidth.target_at(target, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use switchback_model::{Bandwidth, BandwidthLimit, BandwidthWindow, UnixMillis};

    use super::Limits;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn sessions_that_are_open_follow_the_clock() {
        let limits = Limits::default();
        let [own, total] = &limits.towards("mt1")[..] else { panic!("two limits") };
        let [other, _] = &limits.towards("mt2")[..] else { panic!("two limits") };
        let window = BandwidthWindow {
            days: (0..7).collect(),
            from_minute: 8 * 60,
            to_minute: 18 * 60,
            bytes_per_s_max: Some(1_000_000),
        };
        let mut bandwidth = Bandwidth::default();
        bandwidth.total.windows.push(window);
        let night = BandwidthLimit { bytes_per_s_max: Some(500_000), windows: Vec::new() };
        bandwidth.targets.insert("mt1".into(), night);
        for (hour, expected) in [(7, None), (8, Some(1_000_000)), (17, Some(1_000_000)), (18, None)] {
            limits.pace(&bandwidth, UnixMillis(hour * HOUR));
            assert_eq!(total.bytes_per_s_max(), expected, "{hour}");
            assert_eq!((own.bytes_per_s_max(), other.bytes_per_s_max()), (Some(500_000), None));
        }
        limits.pace(&Bandwidth::default(), UnixMillis(9 * HOUR));
        assert_eq!((own.bytes_per_s_max(), total.bytes_per_s_max()), (None, None));
    }
}
