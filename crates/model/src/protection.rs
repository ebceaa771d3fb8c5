//! The protection of a machine: where it lives, which way it replicates, and what may be done next.
//!
//! What it is: one state machine for both directions. A protected machine has two instances, one on each [`Side`]; replication always
//! leads from the *active* side to the other, so failing back is a failover whose active side is [`Side::Away`], and
//! there is one set of rules, not a forward and a backward copy. What it never does: decide when; know sites, disks or
//! components.
//!
//! ```text
//!              points exist                failover                 commit
//!  Enabling ───────────────▶ Protected ───────────────▶ FailedOver ────────▶ Committed
//!     │                       ▲  │  ▲ └──────────────────────┘                  │ reprotect
//!     │ disable               │  │  │      cancel failover                      ▼
//!     ▼                       │  │  └──────────────────────────────────── Reprotecting
//!   (gone) ◀── disable ───────┴──┘            points exist
//! ```
//! The active side changes at the failover, the epoch with every change of who may write: at a failover (the side that was left is
//! fenced off) and at a reprotect (the new direction's writer begins).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Epoch;

/// One of the two places of a protected machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Where it was when it was first protected.
    Home,
    /// The recovery site.
    Away,
}

impl Side {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Home => Self::Away,
            Self::Away => Self::Home,
        }
    }

    /// The side as text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Away => "away",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far the protection has come on its round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Initial replication: no recovery point yet.
    Enabling,
    /// Recovery points exist at the other side, and new ones follow.
    Protected,
    /// Runs at the other side at a chosen point; that can still be changed or taken back.
    FailedOver,
    /// The failover is final. Nothing replicates until it is reprotected.
    Committed,
    /// Replicating towards the side that was left: no recovery point there yet.
    Reprotecting,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enabling => "enabling protection",
            Self::Protected => "protected",
            Self::FailedOver => "failed over, commit required",
            Self::Committed => "failover committed",
            Self::Reprotecting => "reprotecting",
        })
    }
}

/// What a user can ask for, and what replication itself reports ([`Operation::PointsExist`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// The first recovery point of this direction exists.
    PointsExist,
    /// Start a copy at the other side, isolated, and leave everything else as it is.
    TestFailover,
    /// Remove that copy.
    TestFailoverCleanup,
    /// Shut down, replicate the rest, start at the other side: nothing is lost.
    PlannedFailover,
    /// Start at the other side at a recovery point, whatever has become of this one.
    UnplannedFailover,
    /// Take another recovery point for the failover that was made.
    ChangeRecoveryPoint,
    /// Take the failover back.
    CancelFailover,
    /// Make the failover final.
    Commit,
    /// Replicate towards the side that was left.
    Reprotect,
    /// Compare everything again.
    Resynchronize,
    /// Send through another process server.
    SwitchProcessServer,
    /// Protect disks that the machine has got since, too.
    AddDisks,
    /// Protect disks no more.
    RemoveDisks,
    /// End the protection.
    Disable,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::PointsExist,
        Self::TestFailover,
        Self::TestFailoverCleanup,
        Self::PlannedFailover,
        Self::UnplannedFailover,
        Self::ChangeRecoveryPoint,
        Self::CancelFailover,
        Self::Commit,
        Self::Reprotect,
        Self::Resynchronize,
        Self::SwitchProcessServer,
        Self::AddDisks,
        Self::RemoveDisks,
        Self::Disable,
    ];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PointsExist => "first recovery point",
            Self::TestFailover => "test failover",
            Self::TestFailoverCleanup => "test failover cleanup",
            Self::PlannedFailover => "planned failover",
            Self::UnplannedFailover => "unplanned failover",
            Self::ChangeRecoveryPoint => "change recovery point",
            Self::CancelFailover => "cancel failover",
            Self::Commit => "commit",
            Self::Reprotect => "reprotect",
            Self::Resynchronize => "resynchronize",
            Self::SwitchProcessServer => "switch process server",
            Self::AddDisks => "add disks",
            Self::RemoveDisks => "remove disks",
            Self::Disable => "disable protection",
        })
    }
}

/// The state of a protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// The side whose instance is the machine; replication leads from it to the other.
    pub active: Side,
    /// How far it has come.
    pub phase: Phase,
    /// Who holds an older one is refused.
    pub epoch: Epoch,
    /// A test failover's copy exists.
    #[serde(default)]
    pub testing: bool,
}

/// An operation that the state does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} is not possible while the machine is {state}; possible now: {}", list(allowed))]
pub struct Illegal {
    /// What was asked for.
    pub operation: Operation,
    /// The state in words.
    pub state: String,
    /// What may be asked for.
    pub allowed: Vec<Operation>,
}

fn list(operations: &[Operation]) -> String {
    if operations.is_empty() {
        return "nothing, it has to finish first".into();
    }
    operations.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Protection {
    /// A machine at home, to be replicated away.
    #[must_use]
    pub const fn begin() -> Self {
        Self { active: Side::Home, phase: Phase::Enabling, epoch: Epoch(1), testing: false }
    }

    /// The side that is replicated to, or, after a failover, the side that was left.
    #[must_use]
    pub const fn passive(&self) -> Side {
        self.active.other()
    }

    /// Whether changes are to be sent to the other side in this state.
    #[must_use]
    pub const fn replicates(&self) -> bool {
        matches!(self.phase, Phase::Enabling | Phase::Protected | Phase::Reprotecting)
    }

    /// What may be asked for now.
    #[must_use]
    pub fn allowed(&self) -> Vec<Operation> {
        Operation::ALL
            .into_iter()
            .filter(|operation| *operation != Operation::PointsExist && self.after(*operation).is_some())
            .collect()
    }

    /// The state after an operation has been done.
    ///
    /// # Errors
    /// [`Illegal`], which names what is possible instead.
    pub fn apply(&self, operation: Operation) -> Result<Self, Illegal> {
        self.after(operation).ok_or_else(|| Illegal {
            operation,
            state: self.to_string(),
            allowed: self.allowed(),
        })
    }

    /// The one table of transitions.
    fn after(&self, operation: Operation) -> Option<Self> {
        use Operation as O;
        use Phase as P;
        let same = *self;
        let to = |phase| Self { phase, ..same };
        Some(match (self.phase, operation) {
            (P::Enabling | P::Reprotecting, O::PointsExist) => to(P::Protected),
            (P::Protected, O::TestFailover) if !self.testing => Self { testing: true, ..same },
            (_, O::TestFailoverCleanup) if self.testing => Self { testing: false, ..same },
            (P::Protected, O::PlannedFailover | O::UnplannedFailover) if !self.testing => Self {
                active: self.active.other(),
                epoch: self.epoch.next(),
                phase: P::FailedOver,
                testing: false,
            },
            (P::FailedOver, O::ChangeRecoveryPoint) => same,
            (P::FailedOver, O::CancelFailover) => Self {
                active: self.active.other(),
                epoch: self.epoch.next(),
                phase: P::Protected,
                testing: false,
            },
            (P::FailedOver, O::Commit) => to(P::Committed),
            (P::Committed, O::Reprotect) => Self { epoch: self.epoch.next(), phase: P::Reprotecting, ..same },
            (P::Enabling | P::Protected | P::Reprotecting, O::Resynchronize | O::SwitchProcessServer) => same,
            // A test's copy stands on the replica, which is opened anew. Away, the disks that are written are not ours to add to.
            (P::Protected, O::AddDisks | O::RemoveDisks) if !self.testing && self.active == Side::Home => {
                same
            }
            // A test's copy stands on the recovery points that would go.
            (P::Enabling | P::Protected | P::Committed | P::Reprotecting, O::Disable) if !self.testing => {
                same
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.active {
            Side::Home => "at home",
            Side::Away => "away",
        };
        let test = if self.testing { ", with a test failover running" } else { "" };
        write!(f, "{} ({place}{test})", self.phase)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Operation, Phase, Protection, Side};

    fn do_all(operations: &[Operation]) -> Protection {
        operations.iter().fold(Protection::begin(), |state, operation| state.apply(*operation).unwrap())
    }

    #[test]
    fn the_whole_round_ends_where_it_began_with_a_higher_epoch() {
        use Operation::{Commit, PlannedFailover, PointsExist, Reprotect, UnplannedFailover};
        let away = do_all(&[PointsExist, UnplannedFailover, Commit, Reprotect, PointsExist]);
        assert_eq!((away.active, away.phase), (Side::Away, Phase::Protected));
        let home = [PlannedFailover, Commit, Reprotect, PointsExist]
            .into_iter()
            .fold(away, |state, operation| state.apply(operation).unwrap());
        assert_eq!((home.active, home.phase), (Side::Home, Phase::Protected));
        assert!(home.epoch > away.epoch && away.epoch > Protection::begin().epoch);
    }

    /// Every state that can be reached, with both answers for every operation.
    #[test]
    fn what_is_allowed_works_and_what_is_not_is_refused_with_the_alternatives() {
        let mut seen = BTreeSet::new();
        let mut open = vec![Protection::begin()];
        while let Some(state) = open.pop() {
            if !seen.insert((state.active, state.phase, state.testing)) {
                continue;
            }
            for operation in Operation::ALL {
                match state.apply(operation) {
                    Ok(next) => {
                        assert!(next.epoch >= state.epoch, "{state} {operation}");
                        // Whoever changes sides or directions fences off the former writer.
                        let writer = |p: &Protection| (p.active, p.phase == Phase::Reprotecting);
                        let turned = next.active != state.active
                            || (writer(&next) != writer(&state) && next.phase == Phase::Reprotecting);
                        assert_eq!(turned, next.epoch > state.epoch, "{state} {operation}");
                        open.push(next);
                    }
                    Err(error) => {
                        assert!(!error.allowed.contains(&operation));
                        assert!(error.allowed.iter().all(|other| state.apply(*other).is_ok()));
                        assert!(error.to_string().contains(&operation.to_string()));
                    }
                }
            }
        }
        assert_eq!(seen.len(), 11, "{seen:?}");
    }

    #[test]
    fn a_state_always_has_a_way_out() {
        for active in [Side::Home, Side::Away] {
            for phase in
                [Phase::Enabling, Phase::Protected, Phase::FailedOver, Phase::Committed, Phase::Reprotecting]
            {
                let state = Protection { active, phase, ..Protection::begin() };
                assert!(!state.allowed().is_empty(), "{state}");
            }
        }
    }
}
