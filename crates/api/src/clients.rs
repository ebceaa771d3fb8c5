//! How much one client may ask, so that it does not shut others out: requests in hand, how often, and failed attempts to be somebody.
//!
//! Whoever has a valid token is a client by it (the token's name, or the issuer's subject), from wherever it asks. Before that, and for what needs no token, a client
//! is its address (IPv6: its /64). An address that shows bad tokens again and again is refused before they are looked up; tokens that were good
//! lately pass nevertheless, because many clients may have one address, and one with an old token must not lock out the others.
//!
//! Invariant: memory is bounded. What is idle is as good as forgotten and goes first; where there is still no room, strangers share one place, and a client with
//! a valid token is told to come back. What is refused here is not in the audit log, which it would fill; nothing of it was done.
//!
//! Times are this process's own, by a clock that never jumps: nothing of this is worth keeping over a restart.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use switchback_identity::{Allowance, Bucket, network_of};
use switchback_model::UnixMillis;

use crate::arm::ArmError;

/// Clients, addresses that failed, and good tokens, remembered at most of each.
const REMEMBERED_MAX: usize = 4096;
/// How long a token that was good passes from an address that fails.
const GOOD_FOR_MS: u64 = 3_600_000;
/// What strangers are when there are too many to tell them apart: no host has this address.
const THE_REST: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Limits on one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Requests in hand of one client; of an address without a token, or until its token has been looked up, as many.
    pub in_hand_max: usize,
    /// Requests of one client.
    pub requests: Allowance,
    /// Tokens that are not good, shown from one address.
    pub failures: Allowance,
}

impl Default for ClientLimits {
    /// 32 in hand; 400 in a row and 100 a second; 60 failures in a row and one a second.
    fn default() -> Self {
        Self::of_requests_per_second(100)
    }
}

impl ClientLimits {
    /// The default, but for requests: so many a second, from 1 to 1,000, and four times as many in a row.
    #[must_use]
    pub fn of_requests_per_second(count: u32) -> Self {
        let count = count.clamp(1, 1000);
        Self {
            in_hand_max: 32,
            requests: Allowance { burst: count * 4, refill_ms: u64::from(1000_u32.div_ceil(count)) },
            failures: Allowance { burst: 60, refill_ms: 1000 },
        }
    }
}

/// Whose limits count.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// A network, see [`network_of`].
    Address(IpAddr),
    /// The holder of a token of ours: its key in the store.
    Token(String),
    /// Somebody of an issuer: the hash of both.
    Subject([u8; 32]),
}

/// All clients that are known for the moment.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    limits: ClientLimits,
    began: Instant,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    clients: HashMap<Client, Use>,
    failures: HashMap<IpAddr, Bucket>,
    /// Hashes of tokens that were good, and when.
    good: HashMap<[u8; 32], UnixMillis>,
}

#[derive(Debug)]
struct Use {
    in_hand: usize,
    requests: Bucket,
}

/// One request of a client, in hand until dropped.
#[derive(Debug)]
pub(crate) struct Place {
    table: Arc<Mutex<Table>>,
    client: Client,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(known) = lock(&self.table).clients.get_mut(&self.client) {
            known.in_hand = known.in_hand.saturating_sub(1);
        }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hash_of(secret: &str) -> [u8; 32] {
    blake3::hash(secret.as_bytes()).into()
}

impl Clients {
    pub(crate) fn new(limits: ClientLimits) -> Self {
        Self { limits, began: Instant::now(), table: Arc::default() }
    }

    fn now(&self) -> UnixMillis {
        UnixMillis(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// A request from somewhere that shows a token, which is still to be looked up.
    pub(crate) fn enter_unknown(&self, address: IpAddr, secret: &str) -> Result<Place, ArmError> {
        self.enter_unknown_at(address, secret, self.now())
    }

    fn enter_unknown_at(&self, address: IpAddr, secret: &str, now: UnixMillis) -> Result<Place, ArmError> {
        let network = network_of(address);
        let mut table = lock(&self.table);
        let was_good = table.good.get(&hash_of(secret)).is_some_and(|seen| now.0 < seen.0 + GOOD_FOR_MS);
        if !was_good {
            let failures = table.failures_of(network, self.limits.failures, now);
            failures.look(self.limits.failures, now).map_err(|wait_ms| {
                refused(format!("too many requests without a valid token came from {address}"), wait_ms)
                    .cause("a client there goes on with a token that was deleted, or has expired")
                    .remedy("stop it, or give it a new token")
            })?;
        }
        self.enter(&mut table, &Client::Address(network), now)
    }

    /// A request of a client that is known, or of anybody at an address.
    pub(crate) fn admit(&self, client: &Client) -> Result<Place, ArmError> {
        self.admit_at(client, self.now())
    }

    fn admit_at(&self, client: &Client, now: UnixMillis) -> Result<Place, ArmError> {
        let mut table = lock(&self.table);
        let place = self.enter(&mut table, client, now);
        let taken = match (&place, table.clients.get_mut(client)) {
            (Ok(_), Some(known)) => known.requests.take(self.limits.requests, now),
            _ => Ok(()),
        };
        // Dropping a place takes the lock.
        drop(table);
        let place = place?;
        taken.map_err(|wait_ms| {
            let per_s = 1000 / self.limits.requests.refill_ms.max(1);
            refused(
                format!("this client has asked more often than it may: {per_s} times a second for long"),
                wait_ms,
            )
            .remedy("ask less often: `Retry-After` says when a job or a list is worth another look")
        })?;
        Ok(place)
    }

    fn enter(&self, table: &mut Table, client: &Client, now: UnixMillis) -> Result<Place, ArmError> {
        let allowance = self.limits.requests;
        let mut client = client.clone();
        if !table.clients.contains_key(&client) && table.clients.len() >= REMEMBERED_MAX {
            table.clients.retain(|_, known| known.in_hand > 0 || !known.requests.is_full(allowance, now));
            if table.clients.len() >= REMEMBERED_MAX {
                if !matches!(client, Client::Address(_)) {
                    return Err(refused("more clients ask than can be told apart", 1000));
                }
                client = Client::Address(THE_REST);
            }
        }
        let known = table
            .clients
            .entry(client.clone())
            .or_insert_with(|| Use { in_hand: 0, requests: Bucket::full(allowance, now) });
        if known.in_hand >= self.limits.in_hand_max {
            let message = format!("{} requests of this client are in hand already", known.in_hand);
            return Err(refused(message, 1000).remedy("wait for their answers before asking more"));
        }
        known.in_hand += 1;
        Ok(Place { table: Arc::clone(&self.table), client })
    }

    /// A token was not good.
    pub(crate) fn failed(&self, address: IpAddr) {
        self.failed_at(address, self.now());
    }

    fn failed_at(&self, address: IpAddr, now: UnixMillis) {
        let allowance = self.limits.failures;
        // Whoever has none left was refused, or asked several times at once.
        let _ = lock(&self.table).failures_of(network_of(address), allowance, now).take(allowance, now);
    }

    /// A token was good.
    pub(crate) fn succeeded(&self, secret: &str) {
        self.succeeded_at(secret, self.now());
    }

    fn succeeded_at(&self, secret: &str, now: UnixMillis) {
        let good = &mut lock(&self.table).good;
        let hash = hash_of(secret);
        if !good.contains_key(&hash) && good.len() >= REMEMBERED_MAX {
            good.retain(|_, seen| now.0 < seen.0 + GOOD_FOR_MS);
            if good.len() >= REMEMBERED_MAX {
                return;
            }
        }
        good.insert(hash, now);
    }
}

impl Table {
    fn failures_of(&mut self, network: IpAddr, allowance: Allowance, now: UnixMillis) -> &mut Bucket {
        let mut key = network;
        if !self.failures.contains_key(&key) && self.failures.len() >= REMEMBERED_MAX {
            self.failures.retain(|_, failures| !failures.is_full(allowance, now));
            if self.failures.len() >= REMEMBERED_MAX {
                key = THE_REST;
            }
        }
        self.failures.entry(key).or_insert_with(|| Bucket::full(allowance, now))
    }
}

fn refused(message: impl Into<String>, wait_ms: u64) -> ArmError {
    let wait = Duration::from_millis(wait_ms);
    ArmError::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
        .retry_after(wait.as_secs() + u64::from(wait.subsec_millis() > 0))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use switchback_identity::Allowance;
    use switchback_model::UnixMillis;

    use super::{Client, ClientLimits, Clients, REMEMBERED_MAX};

    const AT: UnixMillis = UnixMillis(0);

    fn clients() -> Clients {
        Clients::new(ClientLimits {
            in_hand_max: 2,
            requests: Allowance { burst: 3, refill_ms: 1000 },
            failures: Allowance { burst: 2, refill_ms: 60_000 },
        })
    }

    fn token(name: &str) -> Client {
        Client::Token(name.into())
    }

    const fn host(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    #[test]
    fn what_one_has_in_hand_is_not_in_anothers() {
        let clients = clients();
        let first = clients.admit_at(&token("a"), AT).unwrap();
        let _second = clients.admit_at(&token("a"), AT).unwrap();
        assert_eq!(clients.admit_at(&token("a"), AT).unwrap_err().status, 429);
        assert!(clients.admit_at(&token("b"), AT).is_ok());
        drop(first);
        assert!(clients.admit_at(&token("a"), AT).is_ok());
    }

    #[test]
    fn whoever_asks_in_a_loop_is_told_when_to_come_back() {
        let clients = clients();
        for _ in 0..3 {
            clients.admit_at(&token("a"), AT).unwrap();
        }
        let refusal = clients.admit_at(&token("a"), UnixMillis(400)).unwrap_err();
        assert_eq!(refusal.retry_after_s(), Some(1));
        assert!(clients.admit_at(&token("b"), UnixMillis(400)).is_ok());
        assert!(clients.admit_at(&token("a"), UnixMillis(1000)).is_ok());
        assert!(clients.admit_at(&token("a"), UnixMillis(1000)).is_err());
        // A refusal holds no place.
        assert_eq!(super::lock(&clients.table).clients[&token("a")].in_hand, 0);
    }

    #[test]
    fn an_address_that_fails_waits_and_good_tokens_pass() {
        let clients = clients();
        clients.succeeded_at("good", AT);
        for _ in 0..2 {
            clients.enter_unknown_at(host(1), "bad", AT).unwrap();
            clients.failed_at(host(1), AT);
        }
        let refusal = clients.enter_unknown_at(host(1), "another", AT).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.retry_after_s()), (429, Some(60)));
        assert!(clients.enter_unknown_at(host(1), "good", AT).is_ok());
        assert!(clients.enter_unknown_at(host(2), "another", AT).is_ok());
        assert!(clients.enter_unknown_at(host(1), "another", UnixMillis(60_000)).is_ok());
        let later = UnixMillis(super::GOOD_FOR_MS);
        for _ in 0..2 {
            clients.failed_at(host(1), later);
        }
        assert!(clients.enter_unknown_at(host(1), "good", later).is_err(), "it was good too long ago");
    }

    #[test]
    fn memory_is_bounded_and_strangers_do_not_shut_others_out() {
        let clients = clients();
        let max = u32::try_from(REMEMBERED_MAX).unwrap();
        for n in 0..max + 100 {
            clients.failed_at(host(n), AT);
            clients.succeeded_at(&n.to_string(), AT);
            let _ = clients.admit_at(&Client::Address(host(n)), AT);
        }
        {
            let table = super::lock(&clients.table);
            assert!(table.failures.len() <= REMEMBERED_MAX + 1, "{}", table.failures.len());
            assert!(table.clients.len() <= REMEMBERED_MAX + 1, "{}", table.clients.len());
            assert!(table.good.len() <= REMEMBERED_MAX);
        }
        // Those without a place of their own share one, which is empty by now; the others have theirs.
        assert!(clients.enter_unknown_at(host(max + 7), "x", AT).is_err());
        assert!(clients.enter_unknown_at(host(3), "x", AT).is_ok());
        // Idle ones make room.
        assert!(clients.admit_at(&token("a"), AT).is_err());
        assert!(clients.admit_at(&token("a"), UnixMillis(10_000)).is_ok());
        assert!(super::lock(&clients.table).clients.len() < 10);
    }

    #[test]
    fn hosts_of_one_ipv6_network_are_one() {
        let clients = clients();
        for n in 1..=2_u16 {
            clients.failed_at(format!("2001:db8::{n:x}").parse().unwrap(), AT);
        }
        assert!(clients.enter_unknown_at("2001:db8::77".parse().unwrap(), "x", AT).is_err());
    }
}
