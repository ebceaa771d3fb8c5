//! Who is signed in: sessions, in memory alone. A restart of the configuration server ends them all, and everybody signs in anew.
//!
//! A session is found by the hash of the id that its cookie holds, so nothing that is kept here, or is found in a dump of memory, opens one. It ends when it is not used
//! for a while, after a while in any case, when its holder signs out, and when its token is not good any more (`gate` asks at every request).
//!
//! Invariant: memory is bounded. One holder's sessions take no place from others': beyond that one's number the oldest of them ends. When all places
//! are taken, the one that was not used for longest ends. Times are this process's own, by a clock that never jumps.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::TryRngCore as _;
use zeroize::Zeroizing;

use crate::PortalLimits;

/// Bytes of an id: 256 bits, as many as a hash that finds it has.
const ID_LEN: usize = 32;

/// By what a session is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionKey([u8; 32]);

impl SessionKey {
    /// That of the id in a cookie.
    pub(crate) fn of(id: &str) -> Self {
        Self(blake3::hash(id.as_bytes()).into())
    }
}

/// Somebody who is signed in.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) key: SessionKey,
    /// The token that was signed in with.
    pub(crate) token: Arc<Zeroizing<String>>,
    /// What every form of this session has in it.
    pub(crate) form_token: Arc<str>,
    /// Pages of it that are told of changes.
    streams: Arc<AtomicUsize>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Kept {
    session: Session,
    caller: String,
    made: Duration,
    used: Duration,
}

/// The system gives no random numbers.
#[derive(Debug)]
pub(crate) struct NoRandomness;

/// All sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    began: Instant,
    limits: PortalLimits,
    table: Mutex<HashMap<SessionKey, Kept>>,
}

/// A page that is told of changes, until dropped.
#[derive(Debug)]
pub(crate) struct Stream(Arc<AtomicUsize>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Session {
    /// Counts one more page that is told of changes, if there may be one.
    pub(crate) fn open_stream(&self, max: usize) -> Option<Stream> {
        let more = |open| (open < max).then_some(open + 1);
        self.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Stream(Arc::clone(&self.streams)))
    }

    /// Whether a form is of this session. Hashes are compared, in a time that tells nothing.
    pub(crate) fn made_form(&self, token: &str) -> bool {
        blake3::hash(token.as_bytes()) == blake3::hash(self.form_token.as_bytes())
    }
}

impl Sessions {
    pub(crate) fn new(limits: &PortalLimits) -> Self {
        Self { began: Instant::now(), limits: *limits, table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<SessionKey, Kept>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a session and returns its id, which is kept nowhere.
    pub(crate) fn begin(
        &self,
        caller: &str,
        token: Zeroizing<String>,
    ) -> Result<Zeroizing<String>, NoRandomness> {
        self.begin_at(caller, token, self.began.elapsed())
    }

    fn begin_at(
        &self,
        caller: &str,
        token: Zeroizing<String>,
        now: Duration,
    ) -> Result<Zeroizing<String>, NoRandomness> {
        let (id, form_token) = (random()?, random()?);
        let session = Session {
            key: SessionKey::of(&id),
            token: Arc::new(token),
            form_token: form_token.as_str().into(),
            streams: Arc::default(),
        };
        let mut table = self.table();
        table.retain(|_, kept| !self.is_over(kept, now));
        let oldest = |table: &HashMap<SessionKey, Kept>, is: &dyn Fn(&Kept) -> bool| {
            let of = table.values().filter(|kept| is(kept));
            (of.clone().count(), of.min_by_key(|kept| kept.used).map(|kept| kept.session.key))
        };
        let limits = [(self.limits.sessions_per_caller_max, true), (self.limits.sessions_max, false)];
        for (max, of_caller) in limits {
            let (count, first) = oldest(&table, &|kept| !of_caller || kept.caller == caller);
            if let Some(first) = first.filter(|_| count >= max) {
                table.remove(&first);
            }
        }
        table.insert(session.key, Kept { session, caller: caller.to_owned(), made: now, used: now });
        Ok(id)
    }

    /// The session of a cookie's id. What a person asks for is a use of it; what a page asks for by itself is none, or a page that is left open would keep
    /// its session for ever.
    pub(crate) fn of(&self, id: &str, is_use: bool) -> Option<Session> {
        self.of_at(id, is_use, self.began.elapsed())
    }

    fn of_at(&self, id: &str, is_use: bool, now: Duration) -> Option<Session> {
        let mut table = self.table();
        let key = SessionKey::of(id);
        if table.get(&key).is_some_and(|kept| self.is_over(kept, now)) {
            table.remove(&key);
        }
        let kept = table.get_mut(&key)?;
        if is_use {
            kept.used = now;
        }
        Some(kept.session.clone())
    }

    /// Whether a session goes on; this is no use of it.
    pub(crate) fn is_there(&self, key: SessionKey) -> bool {
        let now = self.began.elapsed();
        self.table().get(&key).is_some_and(|kept| !self.is_over(kept, now))
    }

    /// Ends a session.
    pub(crate) fn end(&self, key: SessionKey) {
        self.table().remove(&key);
    }

    fn is_over(&self, kept: &Kept, now: Duration) -> bool {
        now.saturating_sub(kept.used) >= self.limits.idle
            || now.saturating_sub(kept.made) >= self.limits.session
    }
}

/// 256 random bits of the system, as text for a cookie or a form.
pub(crate) fn random() -> Result<Zeroizing<String>, NoRandomness> {
    let mut bytes = Zeroizing::new([0; ID_LEN]);
    rand::rngs::OsRng.try_fill_bytes(&mut *bytes).map_err(|_| NoRandomness)?;
    Ok(Zeroizing::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zeroize::Zeroizing;

    use super::Sessions;
    use crate::PortalLimits;

    fn sessions(sessions_max: usize, sessions_per_caller_max: usize) -> Sessions {
        Sessions::new(&PortalLimits { sessions_max, sessions_per_caller_max, ..PortalLimits::default() })
    }

    fn begin(sessions: &Sessions, caller: &str, at_s: u64) -> String {
        let token = Zeroizing::new(format!("token of {caller}"));
        sessions.begin_at(caller, token, Duration::from_secs(at_s)).unwrap().to_string()
    }

    fn is(sessions: &Sessions, id: &str, at_s: u64) -> bool {
        sessions.of_at(id, true, Duration::from_secs(at_s)).is_some()
    }

    #[test]
    fn a_session_ends_when_it_is_idle_and_after_its_time() {
        let (sessions, minute) = (sessions(9, 9), 60);
        let id = begin(&sessions, "a", 0);
        assert!(is(&sessions, &id, 29 * minute) && is(&sessions, &id, 58 * minute));
        assert!(!is(&sessions, &id, 88 * minute), "it was idle");
        let id = begin(&sessions, "a", 0);
        assert!((1..72).all(|n| is(&sessions, &id, n * 10 * minute)));
        assert!(!is(&sessions, &id, 720 * minute), "its time is over");
        let id = begin(&sessions, "a", 0);
        let by_itself = |at_s| sessions.of_at(&id, false, Duration::from_secs(at_s)).is_some();
        assert!(by_itself(29 * minute) && !by_itself(30 * minute), "a page that is left open is no use");
    }

    #[test]
    fn ids_are_unlike_and_a_session_is_what_its_id_opens() {
        let sessions = sessions(9, 9);
        let (a, b) = (begin(&sessions, "a", 0), begin(&sessions, "a", 0));
        assert_eq!((a.len(), a == b), (64, false));
        let of = |id: &str| sessions.of_at(id, true, Duration::ZERO).unwrap();
        assert_ne!(of(&a).form_token, of(&b).form_token);
        assert!(of(&a).made_form(&of(&a).form_token) && !of(&a).made_form(&of(&b).form_token));
        let shown = format!("{sessions:?}");
        assert!(!shown.contains(&a) && !shown.contains("token of a"), "{shown}");
        sessions.end(of(&a).key);
        assert!(!is(&sessions, &a, 0) && is(&sessions, &b, 0) && !is(&sessions, "", 0));
    }

    #[test]
    fn places_are_limited_and_nobody_takes_those_of_others() {
        let sessions = sessions(4, 2);
        let other = begin(&sessions, "other", 0);
        let mine: Vec<_> = (1..=3).map(|at| begin(&sessions, "me", at)).collect();
        assert!(!is(&sessions, &mine[0], 4), "the oldest of mine");
        assert!(is(&sessions, &mine[1], 4) && is(&sessions, &mine[2], 4) && is(&sessions, &other, 5));
        for n in 0..9 {
            begin(&sessions, &format!("c{n}"), 10 + n);
        }
        assert_eq!(sessions.table().len(), 4);
    }

    #[test]
    fn pages_that_are_told_of_changes_are_counted() {
        let sessions = sessions(4, 2);
        let id = begin(&sessions, "me", 0);
        let session = sessions.of_at(&id, true, Duration::ZERO).unwrap();
        let first = session.open_stream(2).unwrap();
        let again = sessions.of_at(&id, true, Duration::ZERO).unwrap();
        let _second = again.open_stream(2).unwrap();
        assert!(session.open_stream(2).is_none());
        drop(first);
        assert!(session.open_stream(2).is_some());
    }
}
