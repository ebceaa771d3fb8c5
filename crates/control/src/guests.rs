//! Guests: whether what runs in a machine is ready for the platform that it may be failed over to, as its own agent has looked.
//!
//! What it never does: look into a guest. The agent is told what to be ready for ([`AgentDesired::guest_for`](switchback_model::component::AgentDesired), and `new_firmware`), prepares
//! it, and reports checks; they are the machine's readiness for that way, beside the sites'. A machine that UEFI starts is looked at wherever it goes to a machine that is made anew.

use switchback_model::component::GuestPlatform;
use switchback_model::{CheckState, ProtectedItem, ReadinessCheck, Side, SiteKind};

use crate::Control;
use crate::desired::Facts;

/// Checks of an agent all have such codes: it cannot speak for others.
const PREFIX: &str = "guest.";
/// Of one agent.
const CHECKS_MAX: usize = 16;
const CHECK: (&str, &str) = ("guest.looked-at", "The guest has been looked at");

/// What a site's platform asks of the guests that run there.
pub(crate) fn platform(kind: &SiteKind) -> Option<GuestPlatform> {
    match kind {
        SiteKind::Azure(_) => Some(GuestPlatform::Azure),
        _ => None,
    }
}

impl Control {
    /// The checks of a machine's guest for going to a side, if that is where it would go next and the platform, or the firmware, there asks something.
    pub(crate) fn guest_checks(&self, facts: &Facts, item: &ProtectedItem, to: Side) -> Vec<ReadinessCheck> {
        if item.protection.passive() != to {
            return Vec::new();
        }
        let unknown = |facts: &str, cause: &str, remedy: &str| {
            vec![ReadinessCheck::raised(CheckState::Unknown, CHECK, facts, cause, remedy)]
        };
        let report = self.agent_report(&item.agent, &item.active().system_uuid).ok().flatten();
        let alive = report.filter(|report| report.is_alive(self.now()));
        let by_uefi =
            alive.as_ref().and_then(|report| report.agent()).is_some_and(|agent| agent.hardware.uefi);
        if facts.guest_for(item).is_none() && !(by_uefi && item.passive().created_by_us) {
            return Vec::new();
        }
        let Some(agent) = alive.as_ref().and_then(|report| report.agent()) else {
            return unknown("its agent does not report", "the machine or its agent is down", "start it");
        };
        let of_guest = agent.guest.iter().filter(|check| check.code.starts_with(PREFIX));
        let checks: Vec<_> = of_guest.take(CHECKS_MAX).cloned().collect();
        if checks.is_empty() {
            let cause = "its agent has just been told to, or is of an older build";
            return unknown("not yet", cause, "wait some minutes, or install the agent of this build");
        }
        checks
    }
}
