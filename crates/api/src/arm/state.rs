//! How the states of our protection show themselves in the contract: the one table.
//!
//! Our model is symmetrical (home and away, active side, phase). The contract names a *pair*, primary and recovery, which is turned round
//! at every reprotect: so "primary" is where a pair replicates from, "recovery" where it replicates to, and a machine that replicates home is at
//! its pair's primary although it runs at the recovery site. What a pair's target is decides the provider: `InMageAzureV2` away from
//! home, `InMage` towards home.
//!
//! Source: the rows "protected at home", "failed over and committed" and "failed back and committed" were recorded from the real service
//! (`tests/contract/recorded.json`); the others follow the contract's examples of sister providers.

use switchback_model::{Operation, Phase, Protection, Side};

/// The provider of a pair whose target is away from home.
pub(crate) const AWAY: &str = "InMageAzureV2";
/// The provider of a pair whose target is home.
pub(crate) const HOME: &str = "InMage";

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) protection_state: &'static str,
    pub(crate) description: &'static str,
    pub(crate) active_location: &'static str,
}

/// By phase; the provider comes from [`pair_target`].
const fn shown(phase: Phase) -> Shown {
    let (protection_state, description, active_location) = match phase {
        Phase::Enabling => ("EnablingProtection", "Enabling protection", "Primary"),
        Phase::Protected => ("Protected", "Protected", "Primary"),
        Phase::FailedOver => {
            ("UnplannedFailoverCommitRequired", "Failover completed; commit required", "Recovery")
        }
        Phase::Committed => ("UnplannedFailoverCommitted", "Failover committed", "Recovery"),
        Phase::Reprotecting => {
            ("EnablingProtection", "Reprotecting: replicating towards the side that was left", "Primary")
        }
    };
    Shown { protection_state, description, active_location }
}

/// The state of a protection as the contract shows it.
pub(crate) const fn show(protection: &Protection) -> Shown {
    shown(protection.phase)
}

/// The side that the pair replicates to. After a failover and until the reprotect it is still the old pair, on whose target the machine runs.
pub(crate) const fn pair_target(protection: &Protection) -> Side {
    match protection.phase {
        Phase::FailedOver | Phase::Committed => protection.active,
        Phase::Enabling | Phase::Protected | Phase::Reprotecting => protection.active.other(),
    }
}

/// The provider of a pair with this target: an `instanceType` of the contract.
#[must_use]
pub const fn provider(target: Side) -> &'static str {
    match target {
        Side::Away => AWAY,
        Side::Home => HOME,
    }
}

/// How a machine was found at home: the contract knows `vCenter` and `physical` (`VMwareVirtualMachineDetails`), the service writes the second with a
/// capital letter (recorded). Machines of local sites are virtual like those of a vCenter.
pub(crate) const fn discovery_type(is_physical: bool) -> &'static str {
    if is_physical { "Physical" } else { "vCenter" }
}

/// What may be asked for, in the contract's words (`ReplicationProtectedItemOperation`).
pub(crate) fn allowed(operations: &[Operation], phase: Phase) -> Vec<&'static str> {
    operations.iter().flat_map(|operation| words(*operation, phase)).copied().collect()
}

const fn words(operation: Operation, phase: Phase) -> &'static [&'static str] {
    match operation {
        // The contract has the second for all machines of a fabric at once, and no word for it and the others here.
        Operation::PointsExist
        | Operation::SwitchProcessServer
        | Operation::AddDisks
        | Operation::RemoveDisks => &[],
        Operation::TestFailover => &["TestFailover"],
        Operation::TestFailoverCleanup => &["TestFailoverCleanup"],
        Operation::PlannedFailover => &["PlannedFailover"],
        Operation::UnplannedFailover => &["UnplannedFailover"],
        Operation::ChangeRecoveryPoint => &["ChangePit"],
        Operation::CancelFailover => &["CancelFailover"],
        Operation::Commit => &["Commit"],
        // The service lists the first, its newer providers the second; clients look for either.
        Operation::Reprotect => &["SwitchProtection", "ReverseReplicate"],
        Operation::Resynchronize => &["RepairReplication"],
        // To stay where it was failed over to is to disable with the reason `MigrationComplete`.
        Operation::Disable if matches!(phase, Phase::Committed) => {
            &["CompleteMigration", "DisableProtection"]
        }
        Operation::Disable => &["DisableProtection"],
    }
}

/// The state of a test failover, and its description.
pub(crate) const fn test_failover(protection: &Protection) -> (&'static str, &'static str) {
    if protection.testing {
        ("WaitingForCompletion", "A test failover runs; it waits for its cleanup")
    } else {
        ("None", "None")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use switchback_model::{Epoch, Phase, Protection, Side};

    use super::{allowed, pair_target, provider, show};

    const RECORDED: &str = include_str!("../../tests/contract/recorded.json");

    fn protection(active: Side, phase: Phase) -> Protection {
        Protection { active, phase, epoch: Epoch(1), testing: false }
    }

    /// Ours must say what the real service says, and allow at least what it allows.
    #[test]
    fn the_table_agrees_with_what_was_recorded() {
        let recorded: Value = serde_json::from_str(RECORDED).unwrap();
        let rows = [
            ("protected on-prem->Azure", Side::Home, Phase::Protected),
            ("failed over to Azure + committed", Side::Away, Phase::Committed),
            ("failed back + committed (before reprotect to Azure)", Side::Home, Phase::Committed),
        ];
        for (when, active, phase) in rows {
            let states = recorded["rpiStates"].as_array().unwrap();
            let row = states.iter().find(|row| row["when"] == when).unwrap();
            let ours = protection(active, phase);
            assert_eq!(row["instanceType"], provider(pair_target(&ours)), "{when}");
            assert_eq!(row["protectionState"], show(&ours).protection_state, "{when}");
            assert_eq!(row["protectionStateDescription"], show(&ours).description, "{when}");
            assert_eq!(row["activeLocation"], show(&ours).active_location, "{when}");
            let words = allowed(&ours.allowed(), phase);
            for operation in row["allowedOperations"].as_array().unwrap() {
                assert!(
                    words.contains(&operation.as_str().unwrap()),
                    "{when}: {operation} is not in {words:?}"
                );
            }
        }
    }

    #[test]
    fn the_provider_follows_the_direction() {
        let of = |active, phase| provider(pair_target(&protection(active, phase)));
        for phase in [Phase::Enabling, Phase::Protected, Phase::Reprotecting] {
            assert_eq!(
                (of(Side::Home, phase), of(Side::Away, phase)),
                ("InMageAzureV2", "InMage"),
                "{phase}"
            );
        }
        for phase in [Phase::FailedOver, Phase::Committed] {
            assert_eq!(
                (of(Side::Away, phase), of(Side::Home, phase)),
                ("InMageAzureV2", "InMage"),
                "{phase}"
            );
        }
    }
}
