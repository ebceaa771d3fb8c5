//! Where the configuration server may be, and which of several is the one.
//!
//! The addresses that the component was started with are tried first, then those that the server has told; whichever answered last is asked
//! first. What is told is kept beside the credentials, so that a component that is started while the server is being restored elsewhere knows the
//! new place too. A restored server has a higher *incarnation* than the one it replaces, and the authority's word for it: nothing is taken from a server
//! whose incarnation is lower than the highest that this component has met, ever, and nothing from one that cannot prove its own.

use serde::{Deserialize, Serialize};
use switchback_disk::Volume;
use switchback_identity::is_proved;
use switchback_model::component::{Answer, IncarnationProof};

use super::ChannelError;

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
    /// The highest that was met, if any server was ever restored.
    #[serde(default)]
    pub(super) incarnation_proof: Option<IncarnationProof>,
    /// As the server told.
    pub(super) addresses: Vec<String>,
}

impl Known {
    /// What was kept in `volume`. An incarnation that `authority` (its certificate, DER) has not proved does not count: it may be another site's.
    pub(super) fn load(volume: &dyn Volume, authority: &[u8]) -> Self {
        let mut known = Self::read(volume);
        known.incarnation_proof.take_if(|proof| !is_proved(proof, authority));
        known
    }

    fn read(volume: &dyn Volume) -> Self {
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
    /// The certificate of the site's authority, DER.
    authority: Vec<u8>,
    known: Known,
    /// The one that answered last.
    current: String,
}

impl Servers {
    /// `stated` has one at least.
    pub(super) fn new(stated: Vec<String>, authority: Vec<u8>, volume: &dyn Volume) -> Self {
        let current = stated.first().cloned().unwrap_or_default();
        let known = Known::load(volume, &authority);
        Self { stated, authority, known, current }
    }

    pub(super) fn current(&self) -> &str {
        &self.current
    }

    pub(super) fn incarnation_proof(&self) -> Option<&IncarnationProof> {
        self.known.incarnation_proof.as_ref()
    }

    fn incarnation(&self) -> u64 {
        self.incarnation_proof().map_or(0, |known| known.number)
    }

    /// Whether an answer of `server` may be followed.
    pub(super) fn check(&self, server: &str, answer: &Answer) -> Result<(), ChannelError> {
        let (claimed, known) = (answer.incarnation_proof.as_ref(), self.incarnation());
        let found = claimed.map_or(0, |claimed| claimed.number);
        if found < known {
            return Err(ChannelError::Outdated { server: server.into(), found, known });
        }
        // What is known is proved.
        match claimed.filter(|claimed| Some(*claimed) != self.incarnation_proof()) {
            Some(claimed) if !is_proved(claimed, &self.authority) => {
                Err(ChannelError::Unproved { server: server.into(), found })
            }
            _ => Ok(()),
        }
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

    /// What an answer teaches that was checked ([`Servers::check`]), to be kept; none if it is known.
    pub(super) fn learn(&mut self, answer: &Answer) -> Option<Known> {
        let told = answer.servers.iter().filter(|address| (1..=ADDRESS_LEN_MAX).contains(&address.len()));
        let addresses: Vec<String> = told.take(TOLD_MAX).cloned().collect();
        // A server that tells none has nothing to say of it.
        let addresses = if addresses.is_empty() { self.known.addresses.clone() } else { addresses };
        let newer = answer.incarnation_proof.clone().filter(|proof| proof.number > self.incarnation());
        let incarnation_proof = newer.or_else(|| self.known.incarnation_proof.clone());
        let learnt = Known { incarnation_proof, addresses };
        if learnt == self.known {
            return None;
        }
        self.known = learnt.clone();
        Some(learnt)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use switchback_disk::{DirVolume, SystemClock};
    use switchback_identity::Authority;
    use switchback_model::component::{Desired, ProcessServerDesired};

    use super::*;

    struct Host {
        directory: tempfile::TempDir,
        authority: Authority,
    }

    impl Host {
        fn new() -> Self {
            let authority = Authority::ephemeral(Arc::new(SystemClock));
            Self { directory: tempfile::tempdir().unwrap(), authority }
        }

        fn volume(&self) -> DirVolume {
            DirVolume::open(self.directory.path()).unwrap()
        }

        fn servers(&self, stated: &[&str]) -> Servers {
            let stated = stated.iter().map(ToString::to_string).collect();
            Servers::new(stated, self.authority.certificate().to_vec(), &self.volume())
        }

        fn answer(&self, incarnation: u64, servers: &[&str]) -> Answer {
            let incarnation_proof = (incarnation > 0).then(|| self.authority.prove_incarnation(incarnation));
            Answer {
                renew_ending_before: None,
                version: 1,
                desired: Desired::ProcessServer(ProcessServerDesired::default()),
                incarnation_proof,
                servers: servers.iter().map(ToString::to_string).collect(),
            }
        }
    }

    #[test]
    fn all_are_tried_in_turn_and_told_ones_too() {
        let host = Host::new();
        let mut servers = host.servers(&["a:1", "b:1"]);
        let learnt = servers.learn(&host.answer(0, &["b:1", "c:1"])).unwrap();
        assert_eq!(learnt.addresses, ["b:1", "c:1"]);
        assert_eq!(servers.learn(&host.answer(0, &["b:1", "c:1"])), None);
        assert_eq!(servers.learn(&host.answer(0, &[])), None, "nothing is no news");
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
        let host = Host::new();
        let mut servers = host.servers(&["a:1"]);
        let many: Vec<String> = (0..20).map(|number| format!("s{number}:1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let answer = host.answer(5, &many);
        servers.check("a:1", &answer).unwrap();
        let learnt = servers.learn(&answer).unwrap();
        assert_eq!(learnt.addresses.len(), TOLD_MAX);
        learnt.store(&host.volume()).unwrap();
        let mut again = host.servers(&["a:1"]);
        assert_eq!((again.incarnation(), again.count()), (5, 1 + TOLD_MAX));
        let outdated = again.check("a:1", &host.answer(4, &[])).unwrap_err();
        assert!(matches!(outdated, ChannelError::Outdated { found: 4, known: 5, .. }), "{outdated}");
        assert_eq!(again.learn(&host.answer(4, &[])), None);
        assert_eq!(again.learn(&host.answer(5, &[])), None, "another signature of the same is no news");
        assert_eq!(again.incarnation(), 5);
    }

    #[test]
    fn what_the_authority_has_not_said_is_not_followed_and_not_remembered() {
        let (host, other) = (Host::new(), Host::new());
        let servers = host.servers(&["a:1"]);
        let unproved = |answer: &Answer| {
            matches!(servers.check("a:1", answer), Err(ChannelError::Unproved { found: 9, .. }))
        };
        assert!(unproved(&other.answer(9, &[])), "another authority's");
        let five = host.answer(5, &[]);
        let nine = IncarnationProof { number: 9, ..five.incarnation_proof.clone().unwrap() };
        assert!(
            unproved(&Answer { incarnation_proof: Some(nine.clone()), ..five.clone() }),
            "another number"
        );
        servers.check("a:1", &five).unwrap();
        let kept = Known { incarnation_proof: Some(nine), addresses: vec!["b:1".into()] };
        kept.store(&host.volume()).unwrap();
        let again = host.servers(&["a:1"]);
        assert_eq!((again.incarnation(), again.count()), (0, 2), "a file that somebody has written");
    }
}
