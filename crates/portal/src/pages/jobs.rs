//! The tab Jobs: all jobs, newest first, filtered here. Pages go on after a job, not after a number of them: there may be many, and more come meanwhile.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use switchback_api::{encode, job_scenario};
use switchback_control::Control;
use switchback_model::{Job, JobId, JobRequest, JobState, TaskState};

use super::list::PAGE_LEN;
use super::widgets::{self, Badge, Moment};
use crate::Portal;
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::shown::span;
use crate::visit::{Visit, page};

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/jobs", page(show))
}

#[derive(Template)]
#[template(path = "jobs.html")]
struct Page {
    frame: Frame,
    q: String,
    state: String,
    rows: Vec<Row>,
    newest: Option<String>,
    older: Option<String>,
}

/// A job in a line.
pub(super) struct Row {
    pub(super) id: JobId,
    pub(super) title: &'static str,
    pub(super) object: String,
    pub(super) object_page: String,
    pub(super) state: Badge,
    pub(super) doing: String,
    pub(super) percent: usize,
    pub(super) is_open: bool,
    pub(super) by: String,
    pub(super) created: Moment,
    pub(super) took: String,
    pub(super) parent: Option<JobId>,
    /// The first thing that went wrong.
    pub(super) error: String,
}

/// What can be filtered by: what the address says, and what people read.
const fn states() -> [(&'static str, &'static str, &'static [JobState]); 5] {
    use JobState::{Cancelled, Failed, InProgress, NotStarted, Succeeded, Suspended};
    [
        ("open", "not ended", &[NotStarted, InProgress, Suspended]),
        ("suspended", "wait for somebody", &[Suspended]),
        ("succeeded", "succeeded", &[Succeeded]),
        ("failed", "failed", &[Failed]),
        ("cancelled", "cancelled", &[Cancelled]),
    ]
}

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let (q, state) = (visit.query("q").to_lowercase(), visit.query("state").to_owned());
    let wanted = states().into_iter().find(|(name, ..)| *name == state).map(|(_, _, states)| states);
    let is_asked = |job: &Job| {
        wanted.is_none_or(|states| states.contains(&job.state))
            && (q.is_empty() || job.request.object().key().contains(&q))
    };
    let after: Option<JobId> = visit.query("after").parse().ok();
    // One more than the page has: then there are older ones.
    let mut jobs = control.jobs(None, after, PAGE_LEN + 1, is_asked)?;
    let has_older = jobs.len() > PAGE_LEN;
    jobs.truncate(PAGE_LEN);
    let address = |after: &str| {
        let said = [("q", visit.query("q")), ("state", state.as_str()), ("after", after)];
        let said = said.iter().filter(|(_, value)| !value.is_empty());
        let said: Vec<_> = said.map(|(name, value)| format!("{name}={}", encode(value))).collect();
        format!("/portal/jobs?{}", said.join("&"))
    };
    let older = jobs.last().filter(|_| has_older).map(|last| address(&last.id.to_string()));
    let page = Page {
        frame: visit.frame(Tab::Jobs, "Jobs"),
        q: visit.query("q").to_owned(),
        newest: after.map(|_| address("")),
        older,
        rows: jobs.iter().map(|job| row(job, visit)).collect(),
        state,
    };
    Ok(page.render()?)
}

/// A job in a line.
pub(super) fn row(job: &Job, visit: &Visit) -> Row {
    let (until, is_open) = (job.ended.unwrap_or(visit.now), !job.state.is_final());
    let took = until.0.saturating_sub(job.started.unwrap_or(job.created).0);
    let error = job.tasks.iter().find_map(|task| task.error.as_ref());
    Row {
        id: job.id,
        title: job_scenario(&job.request).1,
        object: job.request.object().to_string(),
        object_page: object_page(job),
        state: widgets::job_badge(job.state),
        doing: doing(job),
        percent: percent(job),
        is_open,
        by: job.by.clone(),
        created: widgets::moment(job.created, visit.now),
        took: if job.started.is_some() || !is_open { span(took) } else { "–".into() },
        parent: job.parent,
        error: error.map(|error| error.message.clone()).unwrap_or_default(),
    }
}

/// The page of what a job is about.
pub(super) fn object_page(job: &Job) -> String {
    let object = job.request.object();
    match &job.request {
        JobRequest::Plan { .. } => format!("/portal/plans/{object}"),
        JobRequest::DeployServer(_) | JobRequest::RetireServer { .. } => "/portal/servers".into(),
        JobRequest::Protect(_) | JobRequest::Operate { .. } | JobRequest::Verify(_) => {
            format!("/portal/machines/{object}")
        }
    }
}

/// The task that an open job is at.
fn doing(job: &Job) -> String {
    if job.state.is_final() {
        return String::new();
    }
    let at =
        job.tasks.iter().position(|task| !matches!(task.state, TaskState::Succeeded | TaskState::Skipped));
    at.map(|at| format!("{} of {}: {}", at + 1, job.tasks.len(), job.tasks[at].friendly_name))
        .unwrap_or_default()
}

/// How much of a job is done: its tasks, and of one in hand what it tells.
pub(super) fn percent(job: &Job) -> usize {
    let of = |state: TaskState, progress: Option<u8>| match state {
        TaskState::Succeeded | TaskState::Skipped => 100,
        TaskState::InProgress => usize::from(progress.unwrap_or(0)),
        _ => 0,
    };
    let done: usize = job.tasks.iter().map(|task| of(task.state, task.progress)).sum();
    done / job.tasks.len().max(1)
}
