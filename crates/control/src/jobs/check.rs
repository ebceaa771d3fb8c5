//! A machine is looked at again at once, because somebody has mended what was not well with it.
//!
//! What its components say is waited for, once from each; then readiness is checked as it is every minute, its sites asked anew, and the reasons for its health
//! are taken together again. The job has succeeded when all that it was asked about has gone; else it fails with cause and remedy of what still holds. What never happens
//! here: an error is declared to be over, or anything but what is known of the machine changed.

use std::collections::BTreeSet;

use switchback_identity::Role;
use switchback_model::{CheckState, ItemOperation, JobError, JobRequest, ProtectedItem, Readiness, Side};

use super::step::{Outcome, Step, Work};
use crate::reports::StoredReport;
use crate::{Control, ControlError, ErrorKind, ItemView};

/// Seconds that a component is waited for: it reports every five.
const LIMIT_S: u64 = 15;
/// What no look ends, only an operation: it says so itself.
const ENDED_BY_OPERATIONS: [&str; 6] = [
    "proof.failed",
    "proof.inconclusive",
    "protection.behind",
    "protection.reprotect-needed",
    "protection.stale-instance",
    "protection.unconfirmed",
];

pub(crate) fn steps() -> Vec<Step> {
    // One: a job that is restarted hears everybody again.
    vec![Step::new("ResolveHealthErrorsTask", "Checking the machine again", check)]
}

/// Whether it goes when its cause has been mended, so that looking again makes sense.
#[must_use]
pub fn is_checkable(error: &JobError) -> bool {
    !ENDED_BY_OPERATIONS.contains(&error.code.as_str())
}

impl Control {
    /// What is not well with a machine as far as a look can tell that it has gone: reasons for its health, and what readiness found at the last look to
    /// keep it from going one way or the other. Each once.
    #[must_use]
    pub fn raised(&self, view: &ItemView) -> Vec<JobError> {
        let readiness = self.last_readiness(&view.item.name);
        raised(view.reasons.clone(), readiness.as_ref())
    }
}

fn raised(reasons: Vec<JobError>, readiness: Option<&Readiness>) -> Vec<JobError> {
    let checks =
        readiness.into_iter().flat_map(|readiness| readiness.failover.iter().chain(&readiness.failback));
    let failed = checks.filter(|check| check.state == CheckState::Failed).map(|check| check.as_error());
    let mut told = BTreeSet::new();
    reasons
        .into_iter()
        .filter(is_checkable)
        .chain(failed)
        .filter(|error| told.insert(error.problem()))
        .collect()
}

/// Each component that knows of the machine is to have reported since it began; who does not in time is silent, which is found then.
fn check(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let began = work.job.tasks[work.index].started.unwrap_or_else(|| work.now());
    let silent: Vec<String> = components(work.control, &item)?
        .into_iter()
        .filter(|(_, report)| report.as_ref().is_none_or(|report| report.received <= began))
        .map(|(name, _)| name)
        .collect();
    if silent.is_empty() || work.waited_ms() > LIMIT_S * 1000 {
        return look(work);
    }
    Ok(Outcome::wait(format!("waiting for the next report of {}", silent.join(", "))))
}

/// The machine's agent, and the servers on both ways, with what they said last.
fn components(
    control: &Control,
    item: &ProtectedItem,
) -> Result<Vec<(String, Option<StoredReport>)>, ControlError> {
    let facts = control.facts()?;
    let agent = control.agent_report(&item.agent, &item.active().system_uuid)?;
    let ways =
        [Side::Away, Side::Home].into_iter().flat_map(|to| [(Role::ProcessServer, to), (Role::Target, to)]);
    let mut servers: Vec<_> = ways
        .filter_map(|way| control.server_for(&facts, item, way))
        .map(|report| (report.peer.to_string(), Some(report.clone())))
        .collect();
    servers.sort_by(|(one, _), (other, _)| one.cmp(other));
    servers.dedup_by(|(one, _), (other, _)| one == other);
    servers.insert(0, (format!("the agent of {}", item.name), agent));
    Ok(servers)
}

fn look(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let JobRequest::Operate { item: name, operation: ItemOperation::CheckAgain { raised: asked } } =
        &work.job.request
    else {
        return Err(ControlError::new(ErrorKind::Internal, "job.no-item", "the job checks no machine"));
    };
    let readiness = work.control.readiness(name)?;
    let view = work.control.item(name)?;
    work.control.observe_health(&view)?;
    let now = raised(view.reasons, Some(&readiness));
    let holds = |error: &JobError| now.iter().find(|other| other.problem() == error.problem());
    let (still, gone): (Vec<_>, Vec<_>) = asked.iter().partition(|error| holds(error).is_some());
    let is_asked = |error: &&JobError| asked.iter().any(|asked| asked.problem() == error.problem());
    let besides: Vec<_> = now.iter().filter(|error| !is_asked(error)).collect();
    let told = [("gone", messages(gone)), ("not well besides", messages(besides))];
    let told = told
        .into_iter()
        .filter(|(_, which)| !which.is_empty())
        .map(|(what, which)| format!("{what}: {which}"));
    let told = told.collect::<Vec<_>>().join("; ");
    // As it is now: ages and counts have moved on.
    let Some(first) = still.iter().find_map(|error| holds(error)) else {
        return Ok(Outcome::Done(if told.is_empty() { format!("{name} is well") } else { told }));
    };
    let still = messages(still.iter().filter_map(|error| holds(error)).collect());
    let message = if told.is_empty() { format!("still: {still}") } else { format!("still: {still}; {told}") };
    Err(ControlError::new(ErrorKind::IllegalState, &first.code, message)
        .cause(&first.cause)
        .remedy(&first.remedy))
}

fn messages(errors: Vec<&JobError>) -> String {
    errors.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join("; ")
}
