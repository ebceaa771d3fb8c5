//! One direction of a slow path: when which packet arrives, if it does. Without clock, devices or threads of its own.
//!
//! A packet waits for those before it until the limited rate lets it go (or is dropped, where too much waits), may get lost on its way, and arrives after the
//! delay; never before one that was taken earlier, whatever the delay has become meanwhile. Loss is drawn by the packet's number, so the seed alone decides.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Conditions;

/// Packets on their way at a time: some 100 MB. With more the path is as good as endless, and they are dropped.
const PACKETS_MAX: usize = 1 << 16;
const MILLION: u64 = 1_000_000;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Carried,
    Lost,
    Overflowed,
}

#[derive(Debug)]
pub(super) struct Lane {
    /// Of splitmix64.
    random: u64,
    /// When the last packet so far has left for its way.
    free_at: Option<Instant>,
    under_way: VecDeque<(Instant, Vec<u8>)>,
}

impl Lane {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: seed, free_at: None, under_way: VecDeque::new() }
    }

    pub(super) fn take(&mut self, packet: &[u8], now: Instant, conditions: &Conditions) -> Fate {
        let is_lost = self.draw() % MILLION < u64::from(conditions.loss_ppm);
        let begins = self.free_at.map_or(now, |free_at| free_at.max(now));
        let mut leaves = now;
        if let Some(rate) = conditions.bytes_per_second {
            let len = packet.len() as u64;
            let waiting = (begins - now).as_nanos() * u128::from(rate.get()) / 1_000_000_000;
            if waiting + u128::from(len) > u128::from(conditions.queue_bytes_max) {
                return Fate::Overflowed;
            }
            leaves = begins + Duration::from_nanos(len * 1_000_000_000 / rate);
        }
        if self.under_way.len() == PACKETS_MAX {
            return Fate::Overflowed;
        }
        self.free_at = Some(leaves);
        // It has left, so those behind it have waited for it.
        if is_lost {
            return Fate::Lost;
        }
        self.under_way.push_back((leaves + conditions.delay, packet.to_vec()));
        Fate::Carried
    }

    /// When the next packet arrives.
    pub(super) fn first_due(&self) -> Option<Instant> {
        self.under_way.front().map(|(due, _)| *due)
    }

    /// A packet that has arrived by now. One that would be sooner than those before it waits for them.
    pub(super) fn next_due(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.first_due().filter(|due| *due <= now)?;
        self.under_way.pop_front().map(|(_, packet)| packet)
    }

    /// Loses all that is under way or waits; how many packets that was.
    pub(super) fn cut(&mut self) -> usize {
        self.free_at = None;
        std::mem::take(&mut self.under_way).len()
    }

    /// splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn slow() -> Conditions {
        Conditions { delay: 40 * MS, ..Conditions::default() }
    }

    /// Numbers of the packets that have arrived.
    fn arrived(lane: &mut Lane, now: Instant) -> Vec<u8> {
        std::iter::from_fn(|| lane.next_due(now)).map(|packet| packet[0]).collect()
    }

    #[test]
    fn a_packet_arrives_after_the_delay_and_none_overtakes_another() {
        let (mut lane, began) = (Lane::new(1), Instant::now());
        assert_eq!(lane.take(&[1], began, &slow()), Fate::Carried);
        assert_eq!(lane.take(&[2], began + 10 * MS, &Conditions::default()), Fate::Carried);
        assert_eq!(lane.first_due(), Some(began + 40 * MS));
        assert!(arrived(&mut lane, began + 39 * MS).is_empty());
        assert_eq!(arrived(&mut lane, began + 40 * MS), [1, 2]);
        assert_eq!(lane.first_due(), None);
    }

    #[test]
    fn a_limited_rate_lets_one_go_after_the_other_and_a_full_queue_drops() {
        let rate = std::num::NonZeroU64::new(100_000);
        let limited = Conditions { bytes_per_second: rate, queue_bytes_max: 3000, ..slow() };
        let (mut lane, began) = (Lane::new(1), Instant::now());
        let fates = [1, 2, 3, 4].map(|number| lane.take(&[number; 1000], began, &limited));
        assert_eq!(fates, [Fate::Carried, Fate::Carried, Fate::Carried, Fate::Overflowed]);
        assert_eq!(arrived(&mut lane, began + 50 * MS), [1], "10 ms for each thousand bytes");
        assert_eq!(lane.take(&[5; 1000], began + 10 * MS, &limited), Fate::Carried, "one has left the queue");
        assert_eq!(arrived(&mut lane, began + 70 * MS), [2, 3]);
        assert_eq!(arrived(&mut lane, began + 80 * MS), [5]);
    }

    #[test]
    fn the_seed_decides_what_is_lost() {
        let lossy = Conditions { loss_ppm: 100_000, ..Conditions::default() };
        let fates = |seed| {
            let (mut lane, now) = (Lane::new(seed), Instant::now());
            (0..10_000).map(|_| lane.take(&[1], now, &lossy)).collect::<Vec<_>>()
        };
        for seed in 0..10 {
            let lost = fates(seed).iter().filter(|fate| **fate == Fate::Lost).count();
            // Five standard deviations of a binomial distribution.
            assert!((850..=1150).contains(&lost), "seed {seed}: {lost} of 10000");
        }
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
    }

    #[test]
    fn a_cut_loses_what_is_under_way_and_what_waits() {
        let limited = Conditions { bytes_per_second: std::num::NonZeroU64::new(1000), ..slow() };
        let (mut lane, now) = (Lane::new(1), Instant::now());
        lane.take(&[1; 1000], now, &limited);
        lane.take(&[2; 1000], now, &limited);
        assert_eq!(lane.cut(), 2);
        lane.take(&[3; 1000], now, &limited);
        assert_eq!(lane.first_due(), Some(now + 1040 * MS), "it waits for nothing that is gone");
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let (mut lane, now) = (Lane::new(1), Instant::now());
        let carried = (0..PACKETS_MAX).all(|_| lane.take(&[1], now, &slow()) == Fate::Carried);
        assert!(carried);
        assert_eq!(lane.take(&[1], now, &slow()), Fate::Overflowed);
    }
}
