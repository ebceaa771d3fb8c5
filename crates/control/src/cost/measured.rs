//! What was replicated in the last day, as agents tell: by looking at their counters now and then.
//!
//! Kept in memory: after a restart of the configuration server the time that was measured begins anew, and answers say how long it is.

use std::collections::{BTreeMap, VecDeque};

use switchback_model::UnixMillis;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Looks that are kept of one machine: one for each hour of a day, and its ends.
const LOOKS_MAX: usize = 26;

/// A machine's counters at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) time: UnixMillis,
    /// Contents sent, in bytes; begins anew with each replication.
    pub(crate) sent_bytes: u64,
    /// The newest point's number; begins anew with each replica.
    pub(crate) seq: u64,
}

/// What was replicated in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) for_ms: u64,
    pub(crate) bytes: u64,
    pub(crate) cycles: u64,
}

/// Looks at one machine, oldest first.
#[derive(Debug, Default)]
struct Looks(VecDeque<Look>);

impl Looks {
    fn add(&mut self, look: Look) {
        let last = self.0.back().copied();
        // Begun anew: what was before cannot be compared.
        if last.is_some_and(|last| {
            look.sent_bytes < last.sent_bytes || look.seq < last.seq || look.time < last.time
        }) {
            self.0.clear();
        }
        // The newest moves on until it is an hour younger than the one before it.
        let before_last = self.0.len().checked_sub(2).and_then(|index| self.0.get(index));
        if let (Some(before), Some(last)) = (before_last, last)
            && last.time.0.saturating_sub(before.time.0) < HOUR_MS
        {
            self.0.pop_back();
        }
        self.0.push_back(look);
        while self.0.len() > LOOKS_MAX
            || self.0.get(1).is_some_and(|second| look.time.0.saturating_sub(second.time.0) >= DAY_MS)
        {
            self.0.pop_front();
        }
    }

    fn measured(&self) -> Option<Measured> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let for_ms = last.time.0.saturating_sub(first.time.0);
        (for_ms >= HOUR_MS).then(|| Measured {
            for_ms,
            bytes: last.sent_bytes - first.sent_bytes,
            cycles: last.seq - first.seq,
        })
    }
}

/// By the machine's key.
#[derive(Debug, Default)]
pub(crate) struct Traffic(BTreeMap<String, Looks>);

impl Traffic {
    pub(crate) fn add(&mut self, machine: String, look: Look) {
        self.0.entry(machine).or_default().add(look);
    }

    /// `None`: for less than an hour.
    pub(crate) fn measured(&self, machine: &str) -> Option<Measured> {
        self.0.get(machine)?.measured()
    }

    /// Forgets machines that are not protected any more.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|machine, _| is_there(machine));
    }
}

#[cfg(test)]
mod tests {
    use switchback_model::UnixMillis;

    use super::{HOUR_MS, LOOKS_MAX, Look, Measured, Traffic};

    const MINUTE_MS: u64 = HOUR_MS / 60;

    fn look(minute: u64, sent_bytes: u64, seq: u64) -> Look {
        Look { time: UnixMillis(minute * MINUTE_MS), sent_bytes, seq }
    }

    #[test]
    fn a_day_is_measured_and_what_is_older_is_forgotten() {
        let mut traffic = Traffic::default();
        for minute in 0..59 {
            traffic.add("a".into(), look(minute, minute * 100, minute));
        }
        assert_eq!(traffic.measured("a"), None, "too short to say anything");
        // 100 bytes and one cycle a minute for two days, then ten times as much for a day.
        for minute in 59..=48 * 60 {
            traffic.add("a".into(), look(minute, minute * 100, minute));
        }
        for minute in 1..=25 * 60 {
            traffic.add("a".into(), look(48 * 60 + minute, 288_000 + minute * 1000, 2880 + minute));
        }
        let measured = traffic.measured("a").unwrap();
        assert!((24 * HOUR_MS..=26 * HOUR_MS).contains(&measured.for_ms), "{measured:?}");
        assert_eq!(measured.bytes / measured.cycles, 1000, "{measured:?}");
        assert!(traffic.0["a"].0.len() <= LOOKS_MAX);
    }

    #[test]
    fn counters_that_begin_anew_begin_a_new_measure() {
        let mut traffic = Traffic::default();
        traffic.add("a".into(), look(0, 5000, 50));
        traffic.add("a".into(), look(60, 9000, 90));
        assert_eq!(traffic.measured("a"), Some(Measured { for_ms: HOUR_MS, bytes: 4000, cycles: 40 }));
        traffic.add("a".into(), look(61, 10, 1));
        assert_eq!(traffic.measured("a"), None);
        traffic.retain(|_| false);
        assert_eq!(traffic.measured("a"), None);
    }
}
