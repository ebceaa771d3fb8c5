//! One job with its tasks as they go on, and what may be done with it. For a recovery plan's job this is the view of its run: group after group, with the jobs of
//! the machines in it, and the manual steps that wait for somebody.

mod report;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use switchback_api::job_actions;
use switchback_control::Control;
use switchback_model::{
    AccessRole, ItemOperation, Job, JobId, JobRequest, JobState, PointChoice, Side, Task, TaskState,
};

use super::ask::{Field, Form};
use super::jobs::{self, Row};
use super::widgets::{self, Badge, Moment, Notice, Tone, badge, notice};
use crate::Portal;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::shown::{Moment as Shown, span};
use crate::visit::{Visit, form, page};

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/jobs/{job}", page(show))
        .route("/jobs/{job}/report", page(report::show))
        .route("/jobs/{job}/{action}", form(confirm, ask))
}

#[derive(Template)]
#[template(path = "job.html")]
struct Page {
    frame: Frame,
    row: Row,
    /// Part of the address, and what people read.
    actions: Vec<(&'static str, &'static str)>,
    waits_for: Option<Waits>,
    turns_back: Option<Badge>,
    facts: Vec<(&'static str, String)>,
    tasks: Vec<TaskRow>,
    has_report: bool,
}

/// A manual step that waits for somebody.
struct Waits {
    name: String,
    instructions: String,
}

struct TaskRow {
    name: String,
    state: Badge,
    message: String,
    percent: Option<u8>,
    started: Option<Moment>,
    took: String,
    error: Option<Notice>,
    jobs: Vec<Row>,
}

/// The job of the address.
fn job_of(control: &Control, visit: &Visit) -> Result<Job, Failure> {
    let text = visit.param("job").replace('-', "");
    let id: JobId = text.parse().map_err(|_| Failure::not_found("job", visit.param("job")))?;
    Ok(control.job(id)?)
}

/// The jobs that are part of a task, as far as they are kept.
fn parts_of(control: &Control, task: &Task) -> Vec<Job> {
    task.jobs.iter().filter_map(|id| control.job(*id).ok()).collect()
}

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let job = job_of(control, visit)?;
    let waiting = job.tasks.iter().find(|task| task.state == TaskState::Suspended);
    let page = Page {
        frame: visit.frame(Tab::Jobs, widgets::job_title(&job.request)),
        row: jobs::row(&job, visit),
        actions: offered(visit, &job),
        waits_for: waiting
            .filter(|_| job.state == JobState::Suspended)
            .map(|task| Waits { name: task.friendly_name.clone(), instructions: task.message.clone() }),
        turns_back: turns_back(&job),
        facts: facts(&job, visit),
        tasks: job.tasks.iter().map(|task| task_row(control, visit, task)).collect(),
        has_report: report::is_reported(&job),
    };
    Ok(page.render()?)
}

fn turns_back(job: &Job) -> Option<Badge> {
    let is_asked = job.cancel_requested && !job.state.is_final();
    let text = if job.undoing.is_some() { "is being undone" } else { "is to be cancelled" };
    (is_asked || (job.undoing.is_some() && !job.state.is_final())).then(|| badge(Tone::Warning, text))
}

/// What was asked for.
fn facts(job: &Job, visit: &Visit) -> Vec<(&'static str, String)> {
    let at = |at| Shown::of(at, visit.now).text;
    let mut facts = vec![("Asked for by", job.by.clone()), ("Asked for", at(job.created))];
    let operation = match &job.request {
        JobRequest::Operate { operation, .. } | JobRequest::Plan { operation, .. } => Some(operation),
        _ => None,
    };
    match operation {
        Some(ItemOperation::UnplannedFailover { point, shut_down }) => {
            facts.push(("Recovery point", choice(point)));
            let text = if *shut_down { "yes, where it can be reached" } else { "no" };
            facts.push(("Shut down first", text.into()));
        }
        Some(ItemOperation::TestFailover { point } | ItemOperation::ChangeRecoveryPoint { point }) => {
            facts.push(("Recovery point", choice(point)));
        }
        Some(ItemOperation::TestFailoverCleanup { comments }) if !comments.is_empty() => {
            facts.push(("What the test showed", comments.clone()));
        }
        _ => {}
    }
    if let Some((seq, time)) = job.point() {
        facts.push(("Taken", format!("recovery point {seq} of {}", at(time))));
    }
    match job.towards() {
        Some(Side::Away) => facts.push(("Direction", "to the recovery site".into())),
        Some(Side::Home) => facts.push(("Direction", "home".into())),
        None => {}
    }
    facts.extend(job.started.map(|started| ("Began", at(started))));
    facts.extend(job.ended.map(|ended| ("Ended", at(ended))));
    facts
}

/// Which point was chosen, in words.
fn choice(point: &PointChoice) -> String {
    match point {
        PointChoice::Latest => "the latest: what was on its way was delivered first".into(),
        other => other.to_string(),
    }
}

fn task_row(control: &Control, visit: &Visit, task: &Task) -> TaskRow {
    TaskRow {
        name: task.friendly_name.clone(),
        state: widgets::task_state(task.state),
        message: task.message.clone(),
        percent: task.progress.filter(|_| task.state == TaskState::InProgress),
        started: task.started.map(|started| widgets::moment(started, visit.now)),
        took: task
            .started
            .zip(task.ended)
            .map(|(from, to)| span(to.0.saturating_sub(from.0)))
            .unwrap_or_default(),
        error: task.error.clone().map(|error| notice(Tone::Bad, error)),
        jobs: parts_of(control, task).iter().map(|job| jobs::row(job, visit)).collect(),
    }
}

/// Each action's part of the address, the API's word for it, and what people read.
const ACTIONS: [(&str, &str, &str); 3] = [
    ("resume", "Resume", "Confirm and go on"),
    ("restart", "Restart", "Restart"),
    ("cancel", "Cancel", "Cancel"),
];

fn offered(visit: &Visit, job: &Job) -> Vec<(&'static str, &'static str)> {
    if !visit.may(AccessRole::Operator) {
        return Vec::new();
    }
    let allowed = job_actions(job);
    let actions = ACTIONS.into_iter().filter(|(_, word, _)| allowed.contains(word));
    actions.map(|(slug, _, name)| (slug, name)).collect()
}

/// `GET /portal/jobs/{job}/{action}`: what it means.
fn confirm(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let (slug, job) = (visit.param("action"), job_of(control, visit)?);
    let known = ACTIONS.iter().find(|(known, ..)| *known == slug);
    let (_, word, name) = known.ok_or_else(|| Failure::not_found("action", slug))?;
    visit.needs(AccessRole::Operator, slug)?;
    if !job_actions(&job).contains(word) {
        let message = format!("{slug} is not possible with this job now: it is {}", job.state);
        let failure = Failure::new(axum::http::StatusCode::CONFLICT, "portal.job-state", message);
        return Err(failure.cause("it went on meanwhile").remedy("see the job's page"));
    }
    let frame = visit.frame(Tab::Jobs, format!("{name}: {}", widgets::job_title(&job.request)));
    let form = Form::new(frame, *name, format!("/portal/jobs/{}", job.id));
    match *word {
        "Resume" => {
            let waiting = job.tasks.iter().find(|task| task.state == TaskState::Suspended);
            let (step, instructions) =
                waiting.map(|task| (task.friendly_name.clone(), task.message.clone())).unwrap_or_default();
            let comments = Field::text("comments", "What you did").optional();
            let form = form.told("Step", step).told("To be done", instructions);
            form.note("Confirm when it is done: the job goes on at once.").field(comments).show()
        }
        "Restart" => {
            let error = job.tasks.iter().find_map(|task| task.error.clone());
            let failed = error.map_or_else(|| job.state.to_string(), |error| error.to_string());
            let form = form.told("It failed", failed);
            form.note("It begins again at the task that failed; what was done is not done twice.").show()
        }
        _ => {
            let form = form.told("Stops", widgets::job_title(&job.request)).grave();
            form.note("What it has done is undone, as far as that is possible. A job that has gone too far refuses.").show()
        }
    }
}

/// `POST /portal/jobs/{job}/{action}`.
fn ask(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let (slug, job) = (visit.param("action"), job_of(control, visit)?);
    if !ACTIONS.iter().any(|(known, ..)| *known == slug) {
        return Err(Failure::not_found("action", slug));
    }
    let properties = match slug {
        "resume" => serde_json::json!({ "comments": visit.field("comments") }),
        _ => serde_json::json!({}),
    };
    let there = Then::To(format!("/portal/jobs/{}", job.id));
    Ok(Act::post(format!("{}/{slug}", visit.vault.job(job.id)), properties, there))
}
