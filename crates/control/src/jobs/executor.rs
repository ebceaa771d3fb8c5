//! Runs jobs: claims one that is due, does one step, stores what came of it, lets it go.
//!
//! ```text
//! claim ─▶ note that the task has begun ─▶ do it ─▶ store its outcome and all its changes, in one change ─▶ due again, or ended
//!                    │ killed anywhere: the lease ends (or the owner starts again), and the step is done again
//! ```
//! Nobody waits in a thread: a step that waits says when it wants to be asked again. So a few threads serve any number of jobs.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use switchback_model::{Event, Job, JobRequest, JobState, RecoveryPlan, Severity, TaskState, UnixMillis};
use switchback_sites::trace_context;
use switchback_store::{Expect, Kind, Record};

use super::next::{Next, next};
use super::step::{Outcome, Step, Work};
use super::steps_of;
use crate::records::{Batch, Versioned};
use crate::{Control, ControlError, ErrorKind};

/// Jobs that are worked on at once.
const THREADS: usize = 4;
/// How long a claimed job is ours; prolonged while a step is at work.
const LEASE_MS: u64 = 60_000;
const RENEW_EVERY: Duration = Duration::from_secs(15);
/// How often to look for a job that has become due without anybody saying so.
const IDLE: Duration = Duration::from_millis(200);
/// A step that meets a site or component that is not there is tried so often before it has failed.
const ATTEMPTS: u32 = 3;
const ATTEMPT_PAUSE_MS: u64 = 2_000;

/// Where a test lets the executor die: as if killed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// After a task was marked as begun, before it is done.
    BeforeStep,
    /// After it was done, before that is stored.
    AfterStep,
}

/// What one turn of the executor did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// No job was due.
    Idle,
    /// A step, or a part of one.
    Worked,
    /// It died where the test wanted it to.
    Crashed,
}

/// Threads that run jobs until dropped.
#[derive(Debug)]
pub(crate) struct Executor {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    control: Control,
}

impl Executor {
    pub(crate) fn start(control: &Control) -> Result<Self, ControlError> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let failed = |error: std::io::Error| {
            ControlError::new(ErrorKind::Internal, "executor.no-thread", error.to_string())
        };
        for number in 0..THREADS {
            let (control, stop) = (control.clone(), Arc::clone(&stop));
            let run = move || {
                while !stop.load(Ordering::Relaxed) {
                    let turn = control
                        .may_work()
                        .and_then(|may| if may { control.work_once(None) } else { Ok(Turn::Idle) });
                    match turn {
                        Ok(Turn::Worked) => {}
                        Ok(_) => control.sleep_until_woken(IDLE),
                        Err(error) => {
                            tracing::error!(%error, "jobs cannot be worked on for the moment");
                            std::thread::sleep(Duration::from_secs(1));
                        }
                    }
                }
            };
            threads
                .push(std::thread::Builder::new().name(format!("jobs-{number}")).spawn(run).map_err(failed)?);
        }
        let (keeper, keeper_stop) = (control.clone(), Arc::clone(&stop));
        let keep = move || {
            let mut slept = Duration::ZERO;
            while !keeper_stop.load(Ordering::Relaxed) {
                std::thread::sleep(IDLE);
                slept += IDLE;
                if slept >= RENEW_EVERY {
                    slept = Duration::ZERO;
                    keeper.renew_leases();
                }
            }
        };
        threads.push(std::thread::Builder::new().name("jobs-leases".into()).spawn(keep).map_err(failed)?);
        Ok(Self { stop, threads, control: control.clone() })
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.control.wake();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the executor had panicked");
            }
        }
    }
}

/// The jobs that threads of this process are at work on.
#[derive(Debug, Default)]
pub(crate) struct AtWork(Mutex<BTreeSet<String>>);

impl AtWork {
    fn keys(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task's span: a part of the trace of whoever asked for the job.
fn span_of(job: &Job, index: usize) -> tracing::Span {
    let span = tracing::info_span!("job", job = %job.id, object = %job.request.object(), task = job.tasks[index].name);
    let noted = |name: &str| Some((name.to_owned(), job.notes.get(name)?.clone()));
    let headers = [trace_context::TRACEPARENT, trace_context::TRACESTATE].into_iter().filter_map(noted);
    trace_context::follow(&span, &headers.collect());
    span
}

impl Control {
    fn renew_leases(&self) {
        let keys = self.inner.at_work.keys().clone();
        let until = UnixMillis(self.now().0 + LEASE_MS);
        for key in keys {
            match self.records().store().renew_lease(&self.inner.config.owner, &key, until) {
                Ok(true) => {}
                Ok(false) => tracing::error!(
                    job = key,
                    "the lease of a job was lost while it was worked on; its outcome will not be stored"
                ),
                Err(error) => tracing::warn!(job = key, %error, "the lease of a job could not be prolonged"),
            }
        }
    }

    /// Whether jobs may go on. Not before a component has reported to this process: a server that comes back when another one has been
    /// restored in its place would work on what is no longer its own, and components that follow the other one do not report here. Whoever reports
    /// and has met the other one, says so.
    fn may_work(&self) -> Result<bool, ControlError> {
        Ok(self.superseded()?.is_none()
            && (self.inner.heard.load(Ordering::Relaxed) || self.enrolled_servers()?.is_empty()))
    }

    /// Claims a job that is due, and does one step of it.
    ///
    /// # Errors
    /// Those of the store; a step's own failure is stored with its job.
    pub fn work_once(&self, crash: Option<Crash>) -> Result<Turn, ControlError> {
        let (owner, now) = (self.inner.config.owner.clone(), self.now());
        let Some(record) = self.records().store().claim_job(&owner, now, UnixMillis(now.0 + LEASE_MS))?
        else {
            return Ok(Turn::Idle);
        };
        let key = record.key.clone();
        self.inner.at_work.keys().insert(key.clone());
        let turn = self.turn(&record, crash);
        self.inner.at_work.keys().remove(&key);
        if turn.as_ref().is_ok_and(|turn| *turn == Turn::Crashed) {
            return turn;
        }
        self.records().store().release_job(&owner, &key)?;
        match turn {
            // Somebody changed the job or the machine meanwhile: it is due still, and is looked at anew.
            Err(error) if error.kind == ErrorKind::Conflict && error.error.code == "store.conflict" => {
                Ok(Turn::Worked)
            }
            other => other,
        }
    }

    fn turn(&self, record: &Record, crash: Option<Crash>) -> Result<Turn, ControlError> {
        let mut job = Versioned {
            value: serde_json::from_str::<Job>(&record.body).map_err(|error| {
                ControlError::new(
                    ErrorKind::Internal,
                    "store.unreadable",
                    format!("job {}: {error}", record.key),
                )
            })?,
            version: record.version,
        };
        let steps = steps_of(&job.value)?;
        if job.value.cancel_requested
            && job.value.undoing.is_none()
            && !super::next::is_past_return(&job.value, &steps)
        {
            job.value.undoing = Some(JobState::Cancelled);
        }
        match next(&job.value, &steps) {
            Next::Rest => self.store_job(&mut job, Batch::default(), None)?,
            Next::End(state) => self.end(&mut job, state)?,
            Next::Run(index) => return self.run_step(&mut job, &steps, index, crash),
            Next::Undo(index) => return self.undo_step(&mut job, &steps, index, crash),
        }
        Ok(Turn::Worked)
    }

    fn run_step(
        &self,
        job: &mut Versioned<Job>,
        steps: &[Step],
        index: usize,
        crash: Option<Crash>,
    ) -> Result<Turn, ControlError> {
        self.mark_begun(job, index)?;
        if crash == Some(Crash::BeforeStep) {
            return Ok(Turn::Crashed);
        }
        let span = span_of(&job.value, index);
        let _entered = span.enter();
        let mut batch = Batch::default();
        let outcome =
            (steps[index].run)(&mut Work { control: self, job: &mut job.value, index, batch: &mut batch });
        if crash == Some(Crash::AfterStep) {
            return Ok(Turn::Crashed);
        }
        let now = self.now();
        let task = &mut job.value.tasks[index];
        let due = match outcome {
            Ok(Outcome::Done(message)) => {
                (task.state, task.ended, task.message, task.progress) =
                    (TaskState::Succeeded, Some(now), message, None);
                Some(now)
            }
            Ok(Outcome::Skipped(message)) => {
                (task.state, task.ended, task.message, task.progress) =
                    (TaskState::Skipped, Some(now), message, None);
                Some(now)
            }
            Ok(Outcome::Wait { message, percent, pause_ms }) => {
                (task.message, task.progress) = (message, percent);
                Some(UnixMillis(now.0 + pause_ms))
            }
            Ok(Outcome::Suspend(message)) => {
                (task.state, task.message) = (TaskState::Suspended, message);
                job.value.state = JobState::Suspended;
                None
            }
            Err(error) if error.error.code == "store.conflict" => return Err(error),
            Err(error) => {
                // What it had prepared is not to be stored.
                batch = Batch::default();
                self.failed(job, steps, index, error)
            }
        };
        self.store_job(job, batch, due)?;
        Ok(Turn::Worked)
    }

    /// Notes a failed attempt; returns when to go on.
    fn failed(
        &self,
        job: &mut Versioned<Job>,
        steps: &[Step],
        index: usize,
        error: ControlError,
    ) -> Option<UnixMillis> {
        let now = self.now();
        let attempts = job.value.notes.entry(format!("attempts-{index}")).or_insert_with(|| "0".into());
        let number = attempts.parse::<u32>().unwrap_or(0) + 1;
        *attempts = number.to_string();
        if error.kind == ErrorKind::Unavailable && number < ATTEMPTS {
            tracing::warn!(%error, number, "a step is tried again");
            job.value.tasks[index].message = format!("to be tried again: {error}");
            return Some(UnixMillis(now.0 + ATTEMPT_PAUSE_MS));
        }
        tracing::error!(%error, "a step has failed");
        let task = &mut job.value.tasks[index];
        (task.state, task.ended, task.error) = (TaskState::Failed, Some(now), Some(*error.error));
        let undoes = steps[index].undo_on_failure;
        job.value.undoing = Some(JobState::Failed);
        if !undoes {
            // Ends as it is: to be restarted at this task.
            job.value.notes.insert("keep".into(), "1".into());
        }
        Some(now)
    }

    fn undo_step(
        &self,
        job: &mut Versioned<Job>,
        steps: &[Step],
        index: usize,
        crash: Option<Crash>,
    ) -> Result<Turn, ControlError> {
        if job.value.notes.contains_key("keep") {
            self.end(job, JobState::Failed)?;
            return Ok(Turn::Worked);
        }
        let Some(undo) = steps[index].undo else { return Ok(Turn::Worked) };
        let was_failed = job.value.tasks[index].state == TaskState::Failed;
        let span = span_of(&job.value, index);
        let _entered = span.enter();
        let mut batch = Batch::default();
        let outcome = undo(&mut Work { control: self, job: &mut job.value, index, batch: &mut batch });
        if crash.is_some() {
            return Ok(Turn::Crashed);
        }
        let now = self.now();
        let task = &mut job.value.tasks[index];
        let due = match outcome {
            Ok(Outcome::Wait { message, pause_ms, .. }) => {
                task.message = message;
                UnixMillis(now.0 + pause_ms)
            }
            Ok(_) => {
                // A failed task stays failed, for its error to be seen.
                if was_failed {
                    task.message = "failed, and what it had done was undone".into();
                    job.value.notes.insert(format!("undone-{index}"), "1".into());
                } else {
                    task.message = "undone".into();
                }
                task.state = TaskState::Undone;
                now
            }
            Err(error) if error.error.code == "store.conflict" => return Err(error),
            Err(error) => {
                tracing::error!(%error, "a step could not be undone");
                batch = Batch::default();
                task.message = format!("could not be undone: {error}");
                task.error.get_or_insert(*error.error);
                task.state = TaskState::Undone;
                now
            }
        };
        self.store_job(job, batch, Some(due))?;
        Ok(Turn::Worked)
    }

    fn mark_begun(&self, job: &mut Versioned<Job>, index: usize) -> Result<(), ControlError> {
        let now = self.now();
        let task = &mut job.value.tasks[index];
        if task.state == TaskState::InProgress && job.value.started.is_some() {
            return Ok(());
        }
        task.state = TaskState::InProgress;
        task.started.get_or_insert(now);
        job.value.started.get_or_insert(now);
        job.value.state = JobState::InProgress;
        self.store_job(job, Batch::default(), Some(now))
    }

    fn store_job(
        &self,
        job: &mut Versioned<Job>,
        mut batch: Batch,
        due: Option<UnixMillis>,
    ) -> Result<(), ControlError> {
        batch.put_job(&job.value, Expect::Version(job.version), due);
        self.records().commit(batch)?;
        job.version += 1;
        Ok(())
    }

    /// Ends a job: its machine or plan is free again, in the same change.
    fn end(&self, job: &mut Versioned<Job>, state: JobState) -> Result<(), ControlError> {
        let (id, now) = (job.value.id, self.now());
        (job.value.state, job.value.ended) = (state, Some(now));
        job.value.notes.remove("keep");
        if state != JobState::Succeeded {
            for task in job.value.tasks.iter_mut().filter(|task| task.state == TaskState::InProgress) {
                task.state = TaskState::Failed;
            }
        }
        let mut batch = Batch::default();
        match &job.value.request {
            JobRequest::Plan { plan: name, .. } => {
                if let Some(mut plan) = self
                    .records()
                    .find::<RecoveryPlan>(Kind::Plan, &name.key())?
                    .filter(|plan| plan.value.job == Some(id))
                {
                    plan.value.job = None;
                    batch.replace(Kind::Plan, name.key(), plan.version, &plan.value);
                }
            }
            JobRequest::DeployServer(_) | JobRequest::RetireServer { .. } => {
                self.free_deployment(&job.value, state, &mut batch)?;
            }
            JobRequest::Verify(request) => self.free_proof(&request.item, id, &mut batch)?,
            request => match self.stored_item(request.object()) {
                // It is not protected, so it is not kept: whatever had been made for it has been undone.
                Ok(item)
                    if item.value.job == Some(id)
                        && matches!(request, JobRequest::Protect(_))
                        && state != JobState::Succeeded =>
                {
                    batch.delete(Kind::Item, item.value.name.key(), Expect::Version(item.version));
                }
                Ok(mut item) if item.value.job == Some(id) => {
                    item.value.job = None;
                    batch.replace_item(&item.value, item.version);
                }
                Err(error) if error.kind != ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
        let event = event_of(&job.value, now);
        match job.value.state {
            JobState::Failed => self.add_happening(&mut batch, &event),
            _ => self.add_event(&mut batch, &event),
        }
        self.store_job(job, batch, None)
    }
}

fn event_of(job: &Job, time: UnixMillis) -> Event {
    let (code, severity) = match job.state {
        JobState::Failed => ("job.failed", Severity::Critical),
        JobState::Cancelled => ("job.cancelled", Severity::Warning),
        _ => ("job.succeeded", Severity::Info),
    };
    let error = job
        .tasks
        .iter()
        .find_map(|task| task.error.as_ref())
        .map(|error| format!(": {error}"))
        .unwrap_or_default();
    let message = format!("{} of {}: {}{error}", describe(&job.request), job.request.object(), job.state);
    Event { time, code: code.into(), severity, object: job.request.object().to_string(), message }
}

/// What a job does, in words.
pub(crate) fn describe(request: &JobRequest) -> String {
    match request {
        JobRequest::Protect(_) => "enable protection".into(),
        JobRequest::DeployServer(_) => "deploying the process server".into(),
        JobRequest::RetireServer { .. } => "removing the process server".into(),
        JobRequest::Verify(_) => "verify recovery point".into(),
        JobRequest::Operate { operation, .. } | JobRequest::Plan { operation, .. } => {
            operation.operation().map_or_else(|| "clean-up".into(), |operation| operation.to_string())
        }
    }
}

impl Batch {
    /// A job is found by the machine or plan it is about.
    pub(crate) fn put_job(&mut self, job: &Job, expect: Expect, due: Option<UnixMillis>) {
        self.put_owned(Kind::Job, job.id.to_string(), Some(job.request.object().key()), expect, job, due);
    }

    /// A protected machine is found by its agent.
    pub(crate) fn replace_item(&mut self, item: &switchback_model::ProtectedItem, version: u64) {
        self.put_owned(
            Kind::Item,
            item.name.key(),
            Some(item.agent.clone()),
            Expect::Version(version),
            item,
            None,
        );
    }
}
