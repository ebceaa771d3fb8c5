//! Who is connected: counts per peer, and the takeover of a writer's own dead session.
//!
//! A client whose connection broke comes back at once, while its former connection may look alive here for another half
//! minute. The same peer with the same [`WriterId`] and replica is the same process: its former session is ended and
//! waited for before the new one is opened. Another writer is not: that is for the replica's lock to decide.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use switchback_identity::PeerIdentity;
use switchback_model::{ReplicaName, WriterId};
use tokio::sync::{Notify, watch};

/// How long a former session may take to end: it can be in the middle of one disk operation. Less than a handshake may
/// take, so that the client hears of it.
const TAKEOVER_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) peer: PeerIdentity,
    pub(super) replica: ReplicaName,
    pub(super) writer: WriterId,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Tells the connection to end.
    end: Arc<Notify>,
    /// Closed when its session has been dropped.
    gone: watch::Receiver<()>,
    number: u64,
}

#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<Key, Entry>,
    peers: HashMap<PeerIdentity, usize>,
    next: u64,
}

/// See the module's header.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry(Arc<Mutex<Table>>);

/// One connection of a peer, counted until dropped.
#[derive(Debug)]
pub(super) struct PeerPermit {
    registry: Registry,
    peer: PeerIdentity,
}

/// A session's place, kept until the session has been dropped.
#[derive(Debug)]
pub(super) struct Place {
    registry: Registry,
    key: Key,
    number: u64,
    _gone: watch::Sender<()>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection of `peer`, if there are fewer than `max`.
    pub(super) fn count(&self, peer: &PeerIdentity, max: usize) -> Option<PeerPermit> {
        let mut table = self.lock();
        let count = table.peers.entry(peer.clone()).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(PeerPermit { registry: self.clone(), peer: peer.clone() })
    }

    /// A place for a session of `key`; `end` is notified when a later connection takes it over. The former holder of the
    /// place is ended and waited for. `None` when it does not end in time.
    pub(super) async fn take_over(&self, key: Key, end: Arc<Notify>) -> Option<Place> {
        let (gone_sender, gone) = watch::channel(());
        let (number, former) = {
            let mut table = self.lock();
            table.next += 1;
            let number = table.next;
            (number, table.sessions.insert(key.clone(), Entry { end, gone, number }))
        };
        let place = Place { registry: self.clone(), key, number, _gone: gone_sender };
        if let Some(mut former) = former {
            former.end.notify_one();
            let ended = async { while former.gone.changed().await.is_ok() {} };
            if tokio::time::timeout(TAKEOVER_MAX, ended).await.is_err() {
                // Whoever tries next must wait for it too.
                let mut table = self.lock();
                if let Some(entry) = table.sessions.get_mut(&place.key)
                    && entry.number == place.number
                {
                    *entry = former;
                }
                drop(table);
                return None;
            }
        }
        Some(place)
    }
}

impl Drop for PeerPermit {
    fn drop(&mut self) {
        let mut table = self.registry.lock();
        if let Some(count) = table.peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                table.peers.remove(&self.peer);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.registry.lock();
        if table.sessions.get(&self.key).is_some_and(|entry| entry.number == self.number) {
            table.sessions.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use switchback_identity::{PeerIdentity, Role};
    use switchback_model::WriterId;
    use tokio::sync::Notify;

    use super::{Key, Registry};

    fn key() -> Key {
        let peer = PeerIdentity { role: Role::Source, name: "web01".parse().unwrap() };
        Key { peer, replica: "web01".parse().unwrap(), writer: WriterId([1; 16]) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_taken_over_when_its_former_session_is_gone_and_not_before() {
        let registry = Registry::default();
        let (first_end, second_end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let first = registry.take_over(key(), first_end.clone()).await.unwrap();
        assert!(registry.take_over(key(), second_end.clone()).await.is_none(), "it does not end");
        first_end.notified().await;
        assert!(registry.take_over(key(), second_end.clone()).await.is_none(), "still not");
        let waiting = registry.take_over(key(), second_end.clone());
        tokio::pin!(waiting);
        drop(first);
        let second = waiting.await.unwrap();
        drop(second);
        assert!(registry.lock().sessions.is_empty());
    }

    #[test]
    fn connections_are_counted_per_peer() {
        let registry = Registry::default();
        let peer = key().peer;
        let permits: Vec<_> = (0..3).map(|_| registry.count(&peer, 3).unwrap()).collect();
        assert!(registry.count(&peer, 3).is_none());
        drop(permits);
        assert!(registry.count(&peer, 1).is_some());
        assert!(registry.lock().peers.is_empty());
    }
}
