//! Recovery plans: which machines fail over in which order, and what is done around them.

use serde::{Deserialize, Serialize};

use crate::{ObjectName, Side};

/// Ordered groups of machines with actions between them. One plan serves both directions: at a failback the groups run in the
/// same order, and actions say for which direction they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPlan {
    /// Its name.
    pub name: ObjectName,
    /// The home site.
    pub home_site: ObjectName,
    /// The recovery site.
    pub away_site: ObjectName,
    /// Groups, in order.
    pub groups: Vec<PlanGroup>,
    /// The protection groups of its machines, failback twins included: a twin is added by itself when the first machine of it is reprotected.
    #[serde(default)]
    pub protection_groups: Vec<ObjectName>,
    /// The job that works on it.
    #[serde(default)]
    pub job: Option<crate::JobId>,
}

/// Machines that fail over together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanGroup {
    /// Names of protected machines.
    pub machines: Vec<ObjectName>,
    /// Done one after the other before.
    #[serde(default)]
    pub start_actions: Vec<PlanAction>,
    /// Done one after the other afterwards.
    #[serde(default)]
    pub end_actions: Vec<PlanAction>,
}

/// Something done before or after a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanAction {
    /// What it is called.
    pub name: String,
    /// For failovers towards these sides; empty: both.
    #[serde(default)]
    pub towards: Vec<Side>,
    /// Also at test failovers.
    #[serde(default)]
    pub at_test: bool,
    /// What it does.
    pub action: ActionKind,
}

/// What an action of a plan does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ActionKind {
    /// Runs a script on the configuration server: a file in its `scripts` directory, nothing else.
    ServerScript {
        /// The file's name.
        script: String,
        /// Seconds it may take.
        limit_s: u64,
    },
    /// Runs a command in a guest, by its agent, if the guest allows it.
    GuestScript {
        /// The machine.
        machine: ObjectName,
        /// The file's name in the guest's script directory.
        script: String,
        /// Seconds it may take.
        limit_s: u64,
    },
    /// Waits until somebody confirms.
    Manual {
        /// What that person is to do.
        instructions: String,
    },
    /// Waits.
    Delay {
        /// Seconds.
        seconds: u64,
    },
}
