//! How often enrolment may be tried: one token bucket per source and one for all.
//!
//! A success gives its token back, so that a roll-out to a thousand machines is not slowed down; only failures
//! (and attempts given up half-way, which could be guesses) cost. An attacker who keeps the common bucket empty
//! keeps others from enrolling, never from replicating: renewal does not pass here.

use std::collections::HashMap;
use std::net::IpAddr;

use switchback_model::UnixMillis;

/// A token bucket's size and speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Attempts in a row.
    pub burst: u32,
    /// One more attempt every so many milliseconds.
    pub refill_ms: u64,
}

/// The limits of enrolment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// Per source address (IPv6: per /64, which is what one host can choose from).
    pub source: Allowance,
    /// For all sources together.
    pub total: Allowance,
}

impl Default for RateLimits {
    /// 5 in a row and then one a minute per source; 100 in a row and then one a second for all. With 2¹⁴⁰ passphrases this
    /// is for the log's sake more than for secrecy.
    fn default() -> Self {
        Self {
            source: Allowance { burst: 5, refill_ms: 60_000 },
            total: Allowance { burst: 100, refill_ms: 1_000 },
        }
    }
}

/// Sources remembered at most; a full bucket is as good as a forgotten one, so those go first.
const SOURCES_MAX: usize = 4096;

/// What is left of an allowance. Times are those of any one clock.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: u32,
    /// When `tokens` was right. A clock that jumps back gives nothing, one that jumps ahead at most `burst`.
    since: UnixMillis,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub const fn full(allowance: Allowance, now: UnixMillis) -> Self {
        Self { tokens: allowance.burst, since: now }
    }

    /// Whether nothing was taken lately: a full bucket is as good as a forgotten one.
    pub fn is_full(&mut self, allowance: Allowance, now: UnixMillis) -> bool {
        self.refill(allowance, now);
        self.tokens >= allowance.burst
    }

    /// Whether there is one left; otherwise after how many milliseconds there will be.
    ///
    /// # Errors
    /// The milliseconds, at least 1.
    pub fn look(&mut self, allowance: Allowance, now: UnixMillis) -> Result<(), u64> {
        self.refill(allowance, now);
        match self.wait_ms(allowance, now) {
            0 => Ok(()),
            wait_ms => Err(wait_ms),
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// The milliseconds after which there is one.
    pub fn take(&mut self, allowance: Allowance, now: UnixMillis) -> Result<(), u64> {
        self.look(allowance, now)?;
        self.tokens -= 1;
        Ok(())
    }

    fn refill(&mut self, allowance: Allowance, now: UnixMillis) {
        let interval = allowance.refill_ms.max(1);
        if now < self.since {
            self.since = now;
        }
        let gained = (now.0 - self.since.0) / interval;
        let tokens = u64::from(self.tokens).saturating_add(gained);
        if tokens >= u64::from(allowance.burst) {
            *self = Self { tokens: allowance.burst, since: now };
        } else {
            self.tokens = u32::try_from(tokens).unwrap_or(allowance.burst);
            self.since = UnixMillis(self.since.0 + gained * interval);
        }
    }

    /// Milliseconds until there is a token; 0 if there is one.
    fn wait_ms(&self, allowance: Allowance, now: UnixMillis) -> u64 {
        if self.tokens > 0 {
            return 0;
        }
        (self.since.0 + allowance.refill_ms.max(1)).saturating_sub(now.0).max(1)
    }
}

/// Counts attempts.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    limits: RateLimits,
    total: Bucket,
    sources: HashMap<IpAddr, Bucket>,
}

impl RateLimiter {
    pub(crate) fn new(limits: RateLimits, now: UnixMillis) -> Self {
        let total = Bucket::full(limits.total, now);
        Self { limits, total, sources: HashMap::new() }
    }

    /// Takes a token for an attempt from `source`.
    ///
    /// # Errors
    /// The milliseconds after which the next attempt can be made.
    pub(crate) fn take(&mut self, source: IpAddr, now: UnixMillis) -> Result<(), u64> {
        let RateLimits { source: per_source, total } = self.limits;
        let key = network_of(source);
        if !self.sources.contains_key(&key) && self.sources.len() >= SOURCES_MAX {
            self.sources.retain(|_, bucket| !bucket.is_full(per_source, now));
        }
        self.total.refill(total, now);
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&key) {
            return Err(per_source.refill_ms);
        }
        let bucket = self.sources.entry(key).or_insert_with(|| Bucket::full(per_source, now));
        bucket.refill(per_source, now);
        let wait = bucket.wait_ms(per_source, now).max(self.total.wait_ms(total, now));
        if wait > 0 {
            return Err(wait);
        }
        bucket.tokens -= 1;
        self.total.tokens -= 1;
        Ok(())
    }

    /// Gives the token of a successful attempt back.
    pub(crate) fn give_back(&mut self, source: IpAddr) {
        self.total.tokens = (self.total.tokens + 1).min(self.limits.total.burst);
        if let Some(bucket) = self.sources.get_mut(&network_of(source)) {
            bucket.tokens = (bucket.tokens + 1).min(self.limits.source.burst);
        }
    }
}

/// What one host can choose its addresses from: all of IPv4's address, the /64 of IPv6's.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use switchback_model::UnixMillis;

    use super::{RateLimiter, RateLimits, SOURCES_MAX};

    const fn host(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    #[test]
    fn failures_cost_successes_do_not_and_time_heals() {
        let mut limiter = RateLimiter::new(RateLimits::default(), UnixMillis(0));
        for _ in 0..50 {
            limiter.take(host(1), UnixMillis(0)).unwrap();
            limiter.give_back(host(1));
        }
        for _ in 0..5 {
            limiter.take(host(1), UnixMillis(0)).unwrap();
        }
        assert_eq!(limiter.take(host(1), UnixMillis(1000)), Err(59_000));
        limiter.take(host(2), UnixMillis(1000)).unwrap();
        limiter.take(host(1), UnixMillis(60_000)).unwrap();
        assert!(limiter.take(host(1), UnixMillis(60_000)).is_err());
        assert!(limiter.take(host(1), UnixMillis(0)).is_err(), "a clock set back gives nothing");
    }

    #[test]
    fn many_sources_share_the_total_and_bounded_memory() {
        let mut limiter = RateLimiter::new(RateLimits::default(), UnixMillis(0));
        let taken = (0..10_000).filter(|n| limiter.take(host(*n), UnixMillis(0)).is_ok()).count();
        assert_eq!(taken, 100);
        assert!(limiter.sources.len() <= SOURCES_MAX);
    }

    #[test]
    fn hosts_of_one_ipv6_network_are_one_source() {
        let mut limiter = RateLimiter::new(RateLimits::default(), UnixMillis(0));
        let taken = (0..10_u16)
            .filter(|n| limiter.take(format!("2001:db8::{n:x}").parse().unwrap(), UnixMillis(0)).is_ok())
            .count();
        assert_eq!(taken, 5);
    }
}
