//! Proofs: recovery points that were booted in a sandbox, and what was seen of them.
//!
//! What it is: plain data, as it is stored and shown: what is looked for ([`Probe`]), when ([`Proving`]), what came of it ([`Proof`]). What it never does:
//! boot or judge (that is the control plane's `jobs::proof`).
//!
//! Invariant: a proof is of one point of one replica. Numbers of points come again in another replica, so both are kept.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::component::SandboxPlan;
use crate::{JobId, ObjectName, PointChoice, ReplicaName, Seq, UnixMillis};

/// Milliseconds that a sandbox has at most, when nothing is said: a guest without hardware virtualization takes minutes.
pub const PROBE_LIMIT_MS: u64 = 10 * 60_000;
/// The shortest and the longest limit that makes sense. While it lasts, the point and what it needs is kept.
pub const PROBE_LIMITS_MS: [u64; 2] = [10_000, 60 * 60_000];
/// The shortest time between two proofs by schedule, in milliseconds.
pub const PROVE_EVERY_MS_MIN: u64 = 10 * 60_000;

/// What shows that a machine works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// A regular expression that must match what the machine writes to its serial console (or shows on its screen in text mode), line by line;
    /// `None`: its login prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Milliseconds from its start within which that must be seen.
    #[serde(default = "default_limit")]
    pub limit_ms: u64,
}

const fn default_limit() -> u64 {
    PROBE_LIMIT_MS
}

impl Default for Probe {
    fn default() -> Self {
        Self { pattern: None, limit_ms: PROBE_LIMIT_MS }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pattern {
            None => f.write_str("a login prompt"),
            Some(pattern) => write!(f, "/{pattern}/"),
        }
    }
}

/// How and when a machine's recovery points are proved, and how that stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proving {
    /// What is looked for, when nothing else is said.
    #[serde(default)]
    pub probe: Probe,
    /// Milliseconds between two proofs of the newest point; 0: only when somebody asks.
    #[serde(default)]
    pub every_ms: u64,
    /// When one was last begun, whatever came of it.
    #[serde(default)]
    pub begun: Option<UnixMillis>,
    /// The one in hand, or one whose sandbox could not be removed.
    #[serde(default)]
    pub in_hand: Option<ProofInHand>,
    /// When one last came to a verdict.
    #[serde(default)]
    pub ended: Option<UnixMillis>,
    /// What was last found of the newest point that was ever proved: an older point, proved later, tells nothing of the machine as it is.
    #[serde(default)]
    pub last: Option<ProofOutcome>,
}

impl Proving {
    /// Notes a verdict.
    pub fn conclude(&mut self, outcome: ProofOutcome) {
        self.ended = Some(outcome.ended);
        let is_older = |last: &ProofOutcome| last.replica == outcome.replica && last.seq > outcome.seq;
        if !self.last.as_ref().is_some_and(is_older) {
            self.last = Some(outcome);
        }
    }
}

/// A proof at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofInHand {
    /// Its job.
    pub job: JobId,
    /// Its sandbox, as long as something of it may be there.
    #[serde(default)]
    pub sandbox: Option<Sandbox>,
}

/// A machine over a view of a recovery point, without a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Where it is.
    pub site: ObjectName,
    /// Its id there.
    pub id: String,
    /// The replica.
    pub replica: ReplicaName,
    /// The point of that replica.
    pub seq: Seq,
    /// When the machine was in that state.
    pub point_time: UnixMillis,
    /// The view at the master target that its disks stand on.
    pub view: String,
    /// It is no machine of the site, which has none for this: the master target runs it, over a view of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<SandboxPlan>,
}

/// What is to be proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// The protected machine.
    pub item: ObjectName,
    /// Which point.
    pub point: PointChoice,
    /// What is looked for.
    pub probe: Probe,
}

/// Whether a recovery point works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// What was looked for was seen.
    Passed,
    /// The machine came up otherwise, or not at all.
    Failed,
    /// It cannot be told: nothing to be read came from the machine, or the sandbox itself was not well.
    Inconclusive,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// A verdict and what it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofOutcome {
    /// Its identity: its job's.
    pub id: JobId,
    /// The replica.
    pub replica: ReplicaName,
    /// The point of that replica.
    pub seq: Seq,
    /// When the machine was in that state.
    pub point_time: UnixMillis,
    /// When the proof began.
    pub started: UnixMillis,
    /// When the verdict was there.
    pub ended: UnixMillis,
    /// What came of it.
    pub verdict: Verdict,
    /// What was seen, in a sentence.
    pub seen: String,
}

/// A proof as it is kept. Its picture is kept beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The machine.
    pub item: ObjectName,
    /// Verdict and point.
    pub outcome: ProofOutcome,
    /// What was looked for.
    pub probe: Probe,
    /// The last lines of its serial console, or of its screen in text mode.
    pub console: String,
    /// Bytes of the picture of its screen (PNG); 0: there is none (any more).
    pub picture_len: u64,
}

#[cfg(test)]
mod tests {
    use super::{JobId, ProofOutcome, Proving, Seq, UnixMillis, Verdict};

    fn outcome(replica: &str, seq: u64, verdict: Verdict) -> ProofOutcome {
        ProofOutcome {
            id: JobId([1; 16]),
            replica: replica.parse().unwrap(),
            seq: Seq(seq),
            point_time: UnixMillis(0),
            started: UnixMillis(1),
            ended: UnixMillis(2),
            verdict,
            seen: String::new(),
        }
    }

    #[test]
    fn an_older_point_that_works_does_not_excuse_the_newest() {
        let mut proving = Proving::default();
        for (replica, seq, verdict, told) in [
            ("web01-e1", 7, Verdict::Failed, (7, Verdict::Failed)),
            ("web01-e1", 3, Verdict::Passed, (7, Verdict::Failed)),
            ("web01-e1", 7, Verdict::Passed, (7, Verdict::Passed)),
            ("web01-e1", 9, Verdict::Inconclusive, (9, Verdict::Inconclusive)),
            // The other direction counts anew.
            ("web01-e2", 1, Verdict::Passed, (1, Verdict::Passed)),
        ] {
            proving.conclude(outcome(replica, seq, verdict));
            let last = proving.last.as_ref().unwrap();
            assert_eq!((last.seq.0, last.verdict), told);
            assert_eq!(proving.ended, Some(UnixMillis(2)));
        }
    }
}
