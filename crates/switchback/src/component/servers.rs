//! Where the configuration server may be, and which of several is the one.
//!
//! The addresses that the component was started with are tried first, then those that the server has told; whichever answered last is asked
//! first. What is told is kept beside the credentials, so that a component that is started while the server is being restored elsewhere knows the
//! new place too. A restored server has a higher *incarnation* than the one it replaces: nothing is taken from a server whose incarnation is lower than
//! the highest that this component has met, ever.

use serde::{Deserialize, Serialize};
use switchback_disk::Volume;
use switchback_model::component::Answer;

/// The file beside the credentials.
const FILE: &str = "servers";
const FILE_LEN_MAX: usize = 16 << 10;
/// Told addresses that are kept.
const TOLD_MAX: usize = 8;
/// Bytes of one.
const ADDRESS_LEN_MAX: usize = 300;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// The highest that was met.
    pub(super) incarnation: u64,
    /// As the server told.
    pub(super) addresses: Vec<String>,
}

impl Known {
    /// What was kept in `volume`.
    pub(super) fn load(volume: &dyn Volume) -> Self {
        match volume.read_all(FILE, FILE_LEN_MAX) {
            Ok(data) => serde_json::from_slice(&data).unwrap_or_else(|error| {
                tracing::error!(%error, "what is kept of the configuration server's addresses cannot be read");
                Self::default()
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                tracing::error!(%error, "what is kept of the configuration server's addresses cannot be read");
                Self::default()
            }
        }
    }

    /// Durable on return.
    pub(super) fn store(&self, volume: &dyn Volume) -> std::io::Result<()> {
        volume.write_atomic(FILE, &serde_json::to_vec(self).expect("plain data becomes JSON"))
    }
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Servers {
    stated: Vec<String>,
    known: Known,
    /// The one that answered last.
    current: String,
}

impl Servers {
    /// `stated` has one at least.
    pub(super) fn new(stated: Vec<String>, known: Known) -> Self {
        let current = stated.first().cloned().unwrap_or_default();
        Self { stated, known, current }
    }

    pub(super) fn current(&self) -> &str {
        &self.current
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.known.incarnation
    }

    fn all(&self) -> Vec<&str> {
        let mut all: Vec<&str> = Vec::new();
        for address in self.stated.iter().chain(&self.known.addresses) {
            if !all.contains(&address.as_str()) {
                all.push(address);
            }
        }
        all
    }

    pub(super) fn count(&self) -> usize {
        self.all().len()
    }

    /// `address` does not answer, or not as it should: the next one is asked, unless another task has gone on meanwhile.
    pub(super) fn leave(&mut self, address: &str) {
        if self.current != address {
            return;
        }
        let all = self.all();
        let at = all.iter().position(|known| *known == address).map_or(0, |at| (at + 1) % all.len());
        self.current = all[at].to_owned();
    }

    /// What an answer teaches, to be kept; none if it is known.
    pub(super) fn learn(&mut self, answer: &Answer) -> Option<Known> {
        let told = answer.servers.iter().filter(|address| (1..=ADDRESS_LEN_MAX).contains(&address.len()));
        let addresses: Vec<String> = told.take(TOLD_MAX).cloned().collect();
        // A server that tells none has nothing to say of it.
        let addresses = if addresses.is_empty() { self.known.addresses.clone() } else { addresses };
        let incarnation = answer.incarnation.max(self.known.incarnation);
        let learnt = Known { incarnation, addresses };
        if learnt == self.known {
            return None;
        }
        self.known = learnt.clone();
        Some(learnt)
    }
}

#[cfg(test)]
mod tests {
    use switchback_model::component::{Desired, ProcessServerDesired};

    use super::*;

    fn answer(incarnation: u64, servers: &[&str]) -> Answer {
        let desired = Desired::ProcessServer(ProcessServerDesired::default());
        Answer {
            version: 1,
            desired,
            incarnation,
            servers: servers.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn all_are_tried_in_turn_and_told_ones_too() {
        let mut servers = Servers::new(vec!["a:1".into(), "b:1".into()], Known::default());
        let learnt = servers.learn(&answer(0, &["b:1", "c:1"])).unwrap();
        assert_eq!(learnt.addresses, ["b:1", "c:1"]);
        assert_eq!(servers.learn(&answer(0, &["b:1", "c:1"])), None);
        assert_eq!(servers.learn(&answer(0, &[])), None, "nothing is no news");
        let mut asked = Vec::new();
        for _ in 0..servers.count() {
            let current = servers.current().to_owned();
            servers.leave(&current);
            asked.push(current);
        }
        assert_eq!(asked, ["a:1", "b:1", "c:1"]);
        servers.leave("c:1");
        assert_eq!(servers.current(), "a:1", "another task had gone on");
    }

    #[test]
    fn the_highest_incarnation_is_remembered_and_what_is_told_has_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let volume = switchback_disk::DirVolume::open(directory.path()).unwrap();
        let mut servers = Servers::new(vec!["a:1".into()], Known::load(&volume));
        let many: Vec<String> = (0..20).map(|number| format!("s{number}:1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let learnt = servers.learn(&answer(5, &many)).unwrap();
        assert_eq!(learnt.addresses.len(), TOLD_MAX);
        learnt.store(&volume).unwrap();
        let mut again = Servers::new(vec!["a:1".into()], Known::load(&volume));
        assert_eq!((again.incarnation(), again.count()), (5, 1 + TOLD_MAX));
        assert_eq!(again.learn(&answer(4, &[])), None);
        assert_eq!(again.incarnation(), 5);
    }
}
