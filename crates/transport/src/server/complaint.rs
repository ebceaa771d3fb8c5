//! Why sessions fail, said once: who is refused comes again within a second, for hours.
//!
//! The same complaint about the same writer and replica is a warning the first time and once in [`AGAIN_AFTER`]; in between it is for debugging only.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use switchback_replica::ReplicaError;

const AGAIN_AFTER: Duration = Duration::from_mins(5);
/// Writers and replicas remembered; when there are more, all is forgotten and said once more.
const REMEMBERED_MAX: usize = 4096;

static SAID: Mutex<BTreeMap<String, (String, Instant)>> = Mutex::new(BTreeMap::new());

/// Says it, if it is news. `of`: the writer and the replica.
pub(super) fn complain(of: &str, what: &'static str, error: &ReplicaError) {
    if is_news(of, &format!("{what}: {error}"), Instant::now()) {
        tracing::warn!(%error, "{what}");
    } else {
        tracing::debug!(%error, "{what}");
    }
}

fn is_news(of: &str, text: &str, now: Instant) -> bool {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.get(of).is_some_and(|(before, at)| before == text && now.duration_since(*at) < AGAIN_AFTER) {
        return false;
    }
    if said.len() >= REMEMBERED_MAX {
        said.clear();
    }
    said.insert(of.to_owned(), (text.to_owned(), now));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_and_again_when_it_has_lasted() {
        let now = Instant::now();
        assert!(is_news("a", "full", now));
        assert!(!is_news("a", "full", now + Duration::from_secs(1)));
        assert!(is_news("b", "full", now));
        assert!(is_news("a", "gone", now));
        assert!(is_news("a", "gone", now + AGAIN_AFTER));
    }
}
