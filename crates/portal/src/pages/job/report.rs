//! The report of a run of a recovery plan that has ended: what was to be shown, to whom it was shown, and how it came out. A page to be printed and signed.
//!
//! Invariant: everything on it comes from the job and the jobs of its machines, so it says the same as long as they are kept, whatever has become of the machines.

use askama::Template;
use switchback_api::job_scenario;
use switchback_control::Control;
use switchback_model::{ItemOperation, Job, JobError, JobRequest, JobState, Side, TaskState, UnixMillis};

use super::{choice, job_of, parts_of};
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::pages::widgets::{self, Badge, Notice, Tone, notice};
use crate::shown::{Moment, span};
use crate::visit::Visit;

/// Jobs of a plan among which its clean-up is looked for.
const LOOKED_AT_MAX: usize = 50;

#[derive(Template)]
#[template(path = "report.html")]
struct Page {
    frame: Frame,
    job: String,
    state: Badge,
    facts: Vec<(&'static str, String)>,
    steps: Vec<Step>,
    errors: Vec<Notice>,
    /// Of the clean-up: by whom and when, what the test showed, how it ended.
    clean_up: Option<(String, String, Badge)>,
    needs_clean_up: bool,
}

/// A group or an action.
struct Step {
    name: String,
    state: Badge,
    took: String,
    message: String,
    machines: Vec<Machine>,
}

struct Machine {
    name: String,
    state: Badge,
    point: String,
    /// How old the point was when the plan began: what a failover would have lost.
    age: String,
    /// From the plan's beginning until it ran.
    up_after: String,
}

/// Whether there is a report: of failovers and tests of plans, that have ended.
pub(super) fn is_reported(job: &Job) -> bool {
    use ItemOperation::{PlannedFailover, TestFailover, UnplannedFailover};
    let JobRequest::Plan { operation, .. } = &job.request else { return false };
    job.state.is_final()
        && matches!(operation, TestFailover { .. } | PlannedFailover | UnplannedFailover { .. })
}

pub(super) fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let job = job_of(control, visit)?;
    if !is_reported(&job) {
        let failure = Failure::not_found("report of job", &job.id.to_string());
        return Err(failure.cause("there is one of each failover and test of a recovery plan that has ended"));
    }
    let groups: Vec<Vec<Job>> = job.tasks.iter().map(|task| parts_of(control, task)).collect();
    let machines: Vec<&Job> = groups.iter().flatten().collect();
    let errors = job.tasks.iter().chain(machines.iter().flat_map(|job| &job.tasks));
    let errors: Vec<JobError> = errors.filter_map(|task| task.error.clone()).collect();
    let steps = job.tasks.iter().zip(&groups).map(|(task, machines)| Step {
        name: task.friendly_name.clone(),
        state: widgets::task_state(task.state),
        took: match (task.started, task.ended) {
            (Some(started), Some(ended)) => span(ended.0.saturating_sub(started.0)),
            _ => "–".into(),
        },
        message: task.message.clone(),
        machines: machines.iter().map(|machine| of_machine(&job, machine, visit)).collect(),
    });
    let is_test =
        matches!(job.request, JobRequest::Plan { operation: ItemOperation::TestFailover { .. }, .. });
    let clean_up = if is_test { clean_up(control, &job)? } else { None };
    let page = Page {
        frame: visit.frame(
            Tab::Plans,
            format!("{} of {}: report", job_scenario(&job.request).1, job.request.object()),
        ),
        job: job.id.to_string(),
        state: widgets::job_badge(job.state),
        facts: facts(&job, &machines, visit),
        steps: steps.collect(),
        errors: errors.into_iter().map(|error| notice(Tone::Bad, error)).collect(),
        needs_clean_up: is_test && clean_up.is_none(),
        clean_up: clean_up.map(|job| shown_clean_up(&job, visit)),
    };
    Ok(page.render()?)
}

/// Milliseconds from a plan's beginning until a machine of it ran; `None`: it did not.
fn up_after_ms(plan: &Job, machine: &Job) -> Option<u64> {
    let ended = machine.ended.filter(|_| machine.state == JobState::Succeeded)?;
    Some(ended.0.saturating_sub(plan.started.unwrap_or(plan.created).0))
}

/// How old the point of a machine was when its plan began.
fn age_ms(plan: &Job, time: UnixMillis) -> u64 {
    plan.started.unwrap_or(plan.created).0.saturating_sub(time.0)
}

fn of_machine(plan: &Job, machine: &Job, visit: &Visit) -> Machine {
    let point = machine.point();
    let none = || "–".to_owned();
    Machine {
        name: machine.request.object().to_string(),
        state: widgets::job_badge(machine.state),
        point: point.map_or_else(none, |(seq, time)| format!("{seq}, {}", Moment::of(time, visit.now).text)),
        age: point.map_or_else(none, |(_, time)| span(age_ms(plan, time))),
        up_after: up_after_ms(plan, machine).map_or_else(none, span),
    }
}

fn facts(job: &Job, machines: &[&Job], visit: &Visit) -> Vec<(&'static str, String)> {
    let at = |at| Moment::of(at, visit.now).text;
    let direction = match job.towards() {
        Some(Side::Home) => "home",
        _ => "to the recovery site",
    };
    let mut facts = vec![
        ("Recovery plan", job.request.object().to_string()),
        ("Direction", direction.to_owned()),
        ("Asked for by", job.by.clone()),
    ];
    if let JobRequest::Plan { operation, .. } = &job.request
        && let ItemOperation::TestFailover { point } | ItemOperation::UnplannedFailover { point, .. } =
            operation
    {
        facts.push(("Recovery point", choice(point)));
    }
    facts.push(("Began", at(job.started.unwrap_or(job.created))));
    if let Some(ended) = job.ended {
        facts.push(("Ended", at(ended)));
        facts.push(("Took", span(ended.0.saturating_sub(job.started.unwrap_or(job.created).0))));
    }
    let up: Vec<u64> = machines.iter().filter_map(|machine| up_after_ms(job, machine)).collect();
    facts.push(("Machines", format!("{} of {} came up", up.len(), machines.len())));
    facts.extend(up.iter().max().map(|slowest| ("The last one was up after", span(*slowest))));
    let ages = machines.iter().filter_map(|machine| Some(age_ms(job, machine.point()?.1)));
    facts.extend(
        ages.max().map(|oldest| ("Oldest recovery point", format!("{} before the plan began", span(oldest)))),
    );
    let failed = job.tasks.iter().filter(|task| task.state == TaskState::Failed).count();
    if failed > 0 {
        facts.push(("Steps that failed", failed.to_string()));
    }
    facts
}

/// The clean-up that followed a test: the first one after it.
fn clean_up(control: &Control, job: &Job) -> Result<Option<Job>, Failure> {
    let is_later = |later: &Job| {
        later.created >= job.ended.unwrap_or(job.created)
            && matches!(
                later.request,
                JobRequest::Plan { operation: ItemOperation::TestFailoverCleanup { .. }, .. }
            )
    };
    Ok(control.jobs(Some(job.request.object()), None, LOOKED_AT_MAX, is_later)?.pop())
}

fn shown_clean_up(job: &Job, visit: &Visit) -> (String, String, Badge) {
    let comments = match &job.request {
        JobRequest::Plan { operation: ItemOperation::TestFailoverCleanup { comments }, .. } => {
            comments.clone()
        }
        _ => String::new(),
    };
    let by = format!("by {}, {}", job.by, Moment::of(job.created, visit.now).text);
    (by, comments, widgets::job_badge(job.state))
}
