//! Multi-VM moments: the meetings at which the machines of a replication group stand still together.
//!
//! All members meet twice. At *ready* each waits until the others have little left to send; nothing stands still yet. Then each freezes
//! and comes to *frozen*; when all are there each may read its last blocks and thaw. No member thaws before all were frozen, so no point
//! of the moment can hold an effect without its cause. Whoever is late, or waits for somebody who is, goes on alone: nothing is ever stretched.
//!
//! Meetings live in memory: a restart of the configuration server voids those in hand, and the next cycle makes new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use switchback_identity::{PeerIdentity, Role};
use switchback_model::ProtectedItem;
use switchback_model::component::{Activity, Meeting, MomentAnswer, MomentCall};
use tokio::sync::watch;

use crate::{Control, ControlError, ErrorKind};

/// How long a member that is ready waits for the others: they are on their own intervals.
const READY_WAIT: Duration = Duration::from_secs(20);
/// How long a frozen member waits: its machine stands still.
const FROZEN_WAIT: Duration = Duration::from_secs(5);

/// One gathering of all members.
#[derive(Debug)]
struct Gathering {
    expected: BTreeSet<String>,
    arrived: BTreeSet<String>,
    /// `Some` once it is over.
    outcome: watch::Sender<Option<MomentAnswer>>,
}

impl Gathering {
    fn new(expected: BTreeSet<String>) -> Self {
        Self { expected, arrived: BTreeSet::new(), outcome: watch::channel(None).0 }
    }

    fn is_over(&self) -> bool {
        self.outcome.borrow().is_some()
    }

    fn missing(&self) -> String {
        self.expected.difference(&self.arrived).cloned().collect::<Vec<_>>().join(", ")
    }
}

/// The gatherings in hand.
#[derive(Debug, Default)]
pub(crate) struct Moments {
    /// By group.
    ready: Mutex<BTreeMap<String, Gathering>>,
    /// By tag; and by group, whose last one it was.
    frozen: Mutex<BTreeMap<String, Gathering>>,
}

impl Moments {
    /// A member is ready. Returns where the outcome will be told.
    fn arrive_ready(
        &self,
        group: &str,
        member: &str,
        expected: BTreeSet<String>,
        tag: impl FnOnce() -> String,
    ) -> watch::Receiver<Option<MomentAnswer>> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let gathering = ready.entry(group.to_owned()).or_insert_with(|| Gathering::new(BTreeSet::new()));
        if gathering.is_over() || gathering.arrived.contains(member) {
            // The one before is over, or this member has given up and comes again.
            *gathering = Gathering::new(BTreeSet::new());
        }
        // Who takes part may have changed since the first arrived.
        gathering.expected = expected;
        gathering.arrived.insert(member.to_owned());
        let outcome = gathering.outcome.subscribe();
        if gathering.expected.is_subset(&gathering.arrived) {
            let tag = tag();
            let mut frozen = self.frozen.lock().unwrap_or_else(PoisonError::into_inner);
            frozen.retain(|other, _| !other.starts_with(&format!("{group}/")));
            frozen.insert(tag.clone(), Gathering::new(gathering.arrived.clone()));
            gathering.outcome.send_replace(Some(MomentAnswer::Go { tag }));
        }
        outcome
    }

    /// A member is frozen.
    fn arrive_frozen(&self, tag: &str, member: &str) -> watch::Receiver<Option<MomentAnswer>> {
        let mut frozen = self.frozen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(gathering) = frozen.get_mut(tag) else {
            let reason = format!("the moment {tag} is over");
            return watch::channel(Some(MomentAnswer::Alone { reason })).1;
        };
        gathering.arrived.insert(member.to_owned());
        let outcome = gathering.outcome.subscribe();
        if !gathering.is_over() && gathering.expected.is_subset(&gathering.arrived) {
            gathering.outcome.send_replace(Some(MomentAnswer::Go { tag: tag.to_owned() }));
        }
        outcome
    }

    /// Nobody waits any longer: all that are there go on alone.
    fn give_up(&self, meeting: &Meeting, group: &str) {
        let (gatherings, key) = match meeting {
            Meeting::Ready => (&self.ready, group),
            Meeting::Frozen { tag } => (&self.frozen, tag.as_str()),
        };
        let mut gatherings = gatherings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gathering) = gatherings.get_mut(key)
            && !gathering.is_over()
        {
            let reason = format!("not all came in time; missing: {}", gathering.missing());
            gathering.outcome.send_replace(Some(MomentAnswer::Alone { reason }));
        }
    }
}

impl Control {
    /// A member's arrival at a meeting of a multi-VM moment; answers when all have arrived or the time is up.
    ///
    /// # Errors
    /// [`ErrorKind::Forbidden`] when the caller is no member.
    pub async fn moment(&self, peer: &PeerIdentity, call: MomentCall) -> Result<MomentAnswer, ControlError> {
        let member = peer.name.as_str().to_owned();
        let (mut outcome, wait) = match &call.meeting {
            Meeting::Ready => {
                let expected = self.off_thread({
                    let group = call.group.clone();
                    move |control| control.members(&group)
                });
                let mut expected = expected.await?;
                if !expected.contains(&member) {
                    let message = format!("{peer} takes no part in the moments of {}", call.group);
                    if !self.is_member(peer, &call.group).await? {
                        return Err(ControlError::new(ErrorKind::Forbidden, "moment.no-member", message));
                    }
                    expected.insert(member.clone());
                }
                let tag = || {
                    let number = crate::access::random_hex(4).unwrap_or_default();
                    format!("{}/{}-{number}", call.group, self.now().0)
                };
                (self.inner.moments.arrive_ready(&call.group, &member, expected, tag), READY_WAIT)
            }
            // Answered from memory alone: its machine stands still.
            Meeting::Frozen { tag } => (self.inner.moments.arrive_frozen(tag, &member), FROZEN_WAIT),
        };
        let all_there = tokio::time::timeout(wait, outcome.wait_for(Option::is_some));
        if let Ok(Ok(answer)) = all_there.await {
            return Ok(answer.clone().expect("waited for"));
        }
        self.inner.moments.give_up(&call.meeting, &call.group);
        let alone = MomentAnswer::Alone { reason: "the meeting was dissolved".into() };
        Ok(outcome.borrow().clone().unwrap_or(alone))
    }

    /// Runs something that blocks on a thread for that.
    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, ControlError> {
        let control = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&control)).await;
        done.unwrap_or_else(|error| {
            Err(ControlError::new(ErrorKind::Internal, "control.panicked", error.to_string()))
        })
    }

    async fn is_member(&self, peer: &PeerIdentity, group: &str) -> Result<bool, ControlError> {
        let (name, group) = (peer.name.as_str().to_owned(), group.to_owned());
        self.off_thread(move |control| {
            let facts = control.cached_facts()?;
            Ok(facts.items.iter().any(|item| {
                item.agent == name && facts.group(item).is_some_and(|its| its.name.key() == group)
            }))
        })
        .await
    }

    /// Who takes part in a group's next moment: machines that replicate changes and whose agents are there.
    fn members(&self, group: &str) -> Result<BTreeSet<String>, ControlError> {
        let facts = self.cached_facts()?;
        let now = self.now();
        let takes_part = |item: &&ProtectedItem| -> Result<bool, ControlError> {
            if !item.protection.replicates()
                || item.final_cycle.is_some()
                || facts.group(item).is_none_or(|its| its.name.key() != group)
            {
                return Ok(false);
            }
            let report = self.agent_report(&item.agent, &item.active().system_uuid)?;
            let replicates =
                |activity| !matches!(activity, Activity::Comparing | Activity::Fenced | Activity::Finished);
            Ok(report.is_some_and(|report| {
                report.is_alive(now)
                    && report
                        .agent()
                        .and_then(|agent| agent.replication.as_ref())
                        .is_some_and(|state| replicates(state.activity) && state.received.is_some())
            }))
        };
        let mut members = BTreeSet::new();
        for item in &facts.items {
            if takes_part(&item)? {
                members.insert(item.agent.clone());
            }
        }
        Ok(members)
    }

    /// Components of a role that are alive, for choosing one; none that is being removed. Physical servers are served by those of the site they come home to as well: both stand in one place.
    pub(crate) fn alive(
        &self,
        role: Role,
        site: &switchback_model::ObjectName,
    ) -> Result<Vec<String>, ControlError> {
        let now = self.now();
        let reports = self.reports_of(role)?;
        let sites = self.serving_sites(site)?;
        let is_there = |report: &crate::reports::StoredReport| {
            report.is_alive(now) && sites.iter().any(|site| report.serves(site))
        };
        let retiring = if role == Role::ProcessServer { self.retiring()? } else { Vec::new() };
        let there = reports.into_iter().filter(is_there).map(|report| report.peer.name.to_string());
        Ok(there.filter(|name| !retiring.contains(name)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Meeting, MomentAnswer, Moments};

    fn both() -> BTreeSet<String> {
        ["web01", "db01"].map(str::to_owned).into()
    }

    #[test]
    fn nobody_goes_before_all_are_there() {
        let moments = Moments::default();
        let web = moments.arrive_ready("pg1", "web01", both(), || "pg1/1".into());
        assert_eq!(*web.borrow(), None);
        let db = moments.arrive_ready("pg1", "db01", both(), || "pg1/1".into());
        let go = Some(MomentAnswer::Go { tag: "pg1/1".into() });
        assert_eq!((&*web.borrow(), &*db.borrow()), (&go, &go));
        let web = moments.arrive_frozen("pg1/1", "web01");
        assert_eq!(*web.borrow(), None, "thawing now would let an effect in without its cause");
        let db = moments.arrive_frozen("pg1/1", "db01");
        assert_eq!((&*web.borrow(), &*db.borrow()), (&go, &go));
    }

    #[test]
    fn who_waits_in_vain_goes_alone_and_so_does_who_comes_late() {
        let moments = Moments::default();
        moments.arrive_ready("pg1", "web01", both(), || "t".into());
        moments.arrive_ready("pg1", "db01", both(), || "pg1/7".into());
        let web = moments.arrive_frozen("pg1/7", "web01");
        moments.give_up(&Meeting::Frozen { tag: "pg1/7".into() }, "pg1");
        let late = moments.arrive_frozen("pg1/7", "db01");
        for outcome in [web, late] {
            assert!(
                matches!(&*outcome.borrow(), Some(MomentAnswer::Alone { reason }) if reason.contains("db01"))
            );
        }
        let after = moments.arrive_frozen("pg1/unknown", "db01");
        assert!(matches!(&*after.borrow(), Some(MomentAnswer::Alone { .. })));
    }

    #[test]
    fn a_member_that_comes_again_begins_a_new_gathering() {
        let moments = Moments::default();
        let first = moments.arrive_ready("pg1", "web01", both(), || "a".into());
        let second = moments.arrive_ready("pg1", "web01", both(), || "a".into());
        moments.arrive_ready("pg1", "db01", both(), || "b".into());
        assert_eq!(*first.borrow(), None);
        assert_eq!(*second.borrow(), Some(MomentAnswer::Go { tag: "b".into() }));
    }
}
