//! What an operation on a protected machine does, in words: before somebody says yes, it must be clear what goes down where and what comes up
//! where, and what is lost.

use serde_json::Value;

use super::super::point::PointArg;
use crate::client::path::text_at;

/// A protected machine as the words need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) machine: String,
    /// The site it runs at.
    pub(crate) active: String,
    /// The other one.
    pub(crate) passive: String,
    /// The other one is its home.
    pub(crate) towards_home: bool,
}

impl Places {
    /// Of a `switchbackProtectedMachines` resource.
    pub(crate) fn of(machine: &Value) -> Self {
        let site = |side: &str| text_at(machine, &format!("/properties/{side}/site")).to_owned();
        let towards_home = text_at(machine, "/properties/active") == "away";
        let (active, passive) = if towards_home { ("away", "home") } else { ("home", "away") };
        Self {
            machine: text_at(machine, "/name").to_owned(),
            active: site(active),
            passive: site(passive),
            towards_home,
        }
    }

    /// The provider of the contract for replication towards the other site.
    pub(crate) const fn provider_towards_passive(&self) -> &'static str {
        if self.towards_home { "InMage" } else { "InMageAzureV2" }
    }

    /// The provider of the pair that led to where it runs.
    pub(crate) const fn provider_towards_active(&self) -> &'static str {
        if self.towards_home { "InMageAzureV2" } else { "InMage" }
    }

    fn failback(&self) -> &'static str {
        if self.towards_home { " This is a failback: it comes home." } else { "" }
    }

    pub(crate) fn planned_failover(&self) -> String {
        let Self { machine, active, passive, .. } = self;
        format!(
            "{machine} will be shut down at {active}, its last changes sent, and started at {passive}. Nothing is lost.{}",
            self.failback()
        )
    }

    pub(crate) fn unplanned_failover(&self, point: &PointArg, shut_down: bool) -> String {
        let Self { machine, active, passive, .. } = self;
        let source = if shut_down {
            format!("will be shut down at {active} if that can be reached")
        } else {
            format!("is left as it is at {active}")
        };
        format!(
            "{machine} {source} and started at {passive} as of the recovery point {point}; what it wrote after that is lost.{}",
            self.failback()
        )
    }

    pub(crate) fn change_recovery_point(&self, point: &PointArg) -> String {
        let Self { machine, active, .. } = self;
        format!(
            "{machine} will be stopped at {active} and started there as of the recovery point {point}; what it wrote since its failover is lost."
        )
    }

    pub(crate) fn cancel_failover(&self) -> String {
        let Self { machine, active, passive, .. } = self;
        format!(
            "{machine} will be stopped at {active} and started again at {passive}, where it was before; what it wrote at {active} is lost."
        )
    }

    pub(crate) fn commit(&self) -> String {
        let Self { machine, active, passive, .. } = self;
        format!(
            "The failover of {machine} to {active} becomes final: no other recovery point can be chosen any more, and it cannot go back to \
             {passive} as it was there."
        )
    }

    pub(crate) fn reprotect(&self, alternate_location: bool, datastore: Option<&str>) -> String {
        let Self { machine, active, passive, .. } = self;
        let place = datastore.map_or_else(String::new, |datastore| format!(" in the datastore {datastore}"));
        if alternate_location {
            return format!(
                "{machine} will be replicated from {active} to {passive}, to a new machine{place}; the one it left there stays, \
                 switched off."
            );
        }
        format!(
            "{machine} will be replicated from {active} to {passive}, onto the disks it left there: what differs on them is \
             overwritten, and it is switched off there if it runs. If that machine is gone, a new one is made{place}."
        )
    }

    pub(crate) fn remove_disks(&self, disks: &[String]) -> String {
        let Self { machine, passive, .. } = self;
        format!(
            "{} of {machine}: not replicated any more, and in no recovery point any more, older ones neither; what {passive} has of it is deleted. A failover \
             gives the machine without it. It stays in the machine as it is.",
            disks.join(", ")
        )
    }

    pub(crate) fn disable(&self, clean_up: bool) -> String {
        let Self { machine, active, passive, .. } = self;
        let replica = if clean_up {
            format!("the machine at {passive} is deleted if Switchback made it")
        } else {
            format!("a machine at {passive} stays")
        };
        format!(
            "The protection of {machine} ends: it goes on at {active}, its recovery points are deleted, {replica}."
        )
    }

    pub(crate) fn clean_up(&self) -> String {
        let Self { machine, passive, .. } = self;
        format!(
            "What {machine} left behind at {passive}, and is not replicated to any more, will be deleted if Switchback made it."
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::point::PointArg;
    use super::Places;

    fn places(active: &str) -> Places {
        Places::of(&json!({"name": "web01", "properties": {
            "active": active, "home": {"site": "munich"}, "away": {"site": "azure"},
        }}))
    }

    #[test]
    fn the_direction_is_that_of_the_machine() {
        let forward = places("home").planned_failover();
        assert_eq!(
            forward,
            "web01 will be shut down at munich, its last changes sent, and started at azure. Nothing is lost."
        );
        let back = places("away").planned_failover();
        assert!(back.contains("shut down at azure") && back.contains("started at munich"), "{back}");
        assert!(back.contains("failback"), "{back}");
    }

    #[test]
    fn what_is_lost_is_said() {
        let point = PointArg::LatestProcessed;
        let with = places("home").unplanned_failover(&point, true);
        assert_eq!(
            with,
            "web01 will be shut down at munich if that can be reached and started at azure as of the recovery point latest-processed; what it \
             wrote after that is lost."
        );
        let without = places("home").unplanned_failover(&point, false);
        assert!(without.starts_with("web01 is left as it is at munich"), "{without}");
    }

    #[test]
    fn the_provider_is_that_of_the_side_it_leads_to() {
        let (home, away) = (places("home"), places("away"));
        assert_eq!(
            (home.provider_towards_passive(), home.provider_towards_active()),
            ("InMageAzureV2", "InMage")
        );
        assert_eq!(
            (away.provider_towards_passive(), away.provider_towards_active()),
            ("InMage", "InMageAzureV2")
        );
    }
}
