//! Jobs: asked for, listed, cancelled, restarted; the executor that runs them is in [`executor`], their steps in the files beside it.
//!
//! A job and the mark on the machine or plan it works on are made in one change of the store, and the mark goes with the job's end in one change: two
//! operators at once cannot both get one machine. Every step is done again when the configuration server dies in it, so each first looks at
//! what is there already.

mod agent_update;
pub(crate) mod check;
pub(crate) mod deployment;
mod disks;
pub(crate) mod executor;
pub(crate) mod failover;
mod finish;
mod loan;
pub(crate) mod next;
mod plan;
mod point;
mod process_server;
pub(crate) mod proof;
pub(crate) mod protect;
mod reprotect;
mod shutdown;
pub(crate) mod step;
mod test_failover;

use switchback_model::{
    ItemOperation, Job, JobId, JobRequest, JobState, ObjectName, ProtectRequest, ProtectedItem, RecoveryPlan,
    Task, TaskState,
};
use switchback_sites::trace_context;
use switchback_store::{Expect, Kind, Query};

use crate::backup::{behind, restore};
use crate::inventory::busy;
use crate::records::{Batch, Versioned};
use crate::{Control, ControlError, ErrorKind};
use step::Step;

/// Jobs that a list returns at most.
const LIST_MAX: usize = 1000;

/// The steps of what was asked for. The same request always has the same steps: they are found again after a restart.
fn steps_of(job: &Job) -> Result<Vec<Step>, ControlError> {
    Ok(match &job.request {
        JobRequest::Protect(_) => protect::steps(),
        JobRequest::Operate { operation, .. } => match operation {
            ItemOperation::TestFailover { .. } => test_failover::steps(),
            ItemOperation::TestFailoverCleanup { .. } => test_failover::cleanup_steps(),
            ItemOperation::PlannedFailover => failover::planned_steps(),
            ItemOperation::UnplannedFailover { .. } => failover::unplanned_steps(),
            ItemOperation::ChangeRecoveryPoint { .. } => failover::change_steps(),
            ItemOperation::CancelFailover => failover::cancel_steps(),
            ItemOperation::Commit => finish::commit_steps(),
            ItemOperation::Reprotect(_) => reprotect::steps(),
            ItemOperation::Resynchronize => finish::resync_steps(),
            ItemOperation::SwitchProcessServer { .. } => process_server::steps(),
            ItemOperation::AddDisks { .. } => disks::add_steps(),
            ItemOperation::RemoveDisks { .. } => disks::remove_steps(),
            ItemOperation::Disable { .. } => finish::disable_steps(),
            ItemOperation::CleanUp => finish::clean_up_steps(),
            ItemOperation::UpdateAgent => agent_update::steps(),
            ItemOperation::CheckAgain { .. } => check::steps(),
        },
        JobRequest::Plan { operation, .. } => plan::steps(job, operation)?,
        JobRequest::DeployServer(_) => deployment::steps(),
        JobRequest::RetireServer { .. } => deployment::retire_steps(),
        JobRequest::Verify(_) => proof::steps(),
    })
}

impl Control {
    /// Begins to protect a machine.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it is protected already; [`ErrorKind::NotFound`] for a group or machine that is not there.
    pub fn protect(&self, by: &str, request: ProtectRequest) -> Result<Job, ControlError> {
        let item = protect::new_item(self, &request)?;
        let mut job = self.new_job(by, JobRequest::Protect(Box::new(request)))?;
        let mut batch = Batch::default();
        let item = ProtectedItem { job: Some(job.id), ..item };
        batch.put_owned(Kind::Item, item.name.key(), Some(item.agent.clone()), Expect::Absent, &item, None);
        self.submit(&mut job, batch).map_err(|error| match error.kind {
            ErrorKind::Conflict => ControlError::new(
                ErrorKind::Conflict,
                "item.taken",
                format!("there is a protected machine {} already", item.name),
            )
            .remedy("it is protected, or choose another name"),
            _ => error,
        })?;
        Ok(job)
    }

    /// An operation on a protected machine.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] with what is possible instead; [`ErrorKind::Conflict`] while another job works on it.
    pub fn operate(
        &self,
        by: &str,
        item: &ObjectName,
        operation: ItemOperation,
    ) -> Result<Job, ControlError> {
        let mut job = self.new_job(by, JobRequest::Operate { item: item.clone(), operation })?;
        let mut batch = Batch::default();
        self.lock_item(&job, &mut batch)?;
        self.submit(&mut job, batch)?;
        Ok(job)
    }

    /// Marks the machine of a job as worked on.
    fn lock_item(&self, job: &Job, batch: &mut Batch) -> Result<(), ControlError> {
        let JobRequest::Operate { item: name, operation } = &job.request else { return Ok(()) };
        let Versioned { value: mut item, version } = self.stored_item(name)?;
        if let Some(other) = item.job.filter(|other| *other != job.id) {
            return Err(busy("machine", name, other));
        }
        check_not_held(&item, operation)?;
        if let Some(operation) = operation.operation() {
            item.protection.apply(operation)?;
        }
        if matches!(operation, ItemOperation::CleanUp) {
            finish::check_clean_up(self, &item)?;
        }
        item.job = Some(job.id);
        batch.replace_item(&item, version);
        Ok(())
    }

    /// An operation on the machines of a recovery plan.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a plan without machines; [`ErrorKind::Conflict`] while another job works on it.
    pub fn operate_plan(
        &self,
        by: &str,
        plan: &ObjectName,
        operation: ItemOperation,
    ) -> Result<Job, ControlError> {
        let Versioned { value: mut stored, version }: Versioned<RecoveryPlan> =
            self.records().get(Kind::Plan, "recovery plan", &plan.key())?;
        if let Some(other) = stored.job {
            return Err(busy("recovery plan", plan, other));
        }
        let mut job = self.new_job(by, JobRequest::Plan { plan: plan.clone(), operation })?;
        plan::prepare(self, &mut job, &stored)?;
        job.tasks = tasks_of(&steps_of(&job)?);
        stored.job = Some(job.id);
        let mut batch = Batch::default();
        batch.replace(Kind::Plan, plan.key(), version, &stored);
        self.submit(&mut job, batch)?;
        Ok(job)
    }

    pub(crate) fn new_job(&self, by: &str, request: JobRequest) -> Result<Job, ControlError> {
        let mut job = Job {
            id: self.new_job_id()?,
            request,
            state: JobState::NotStarted,
            tasks: Vec::new(),
            by: by.into(),
            created: self.now(),
            started: None,
            ended: None,
            undoing: None,
            cancel_requested: false,
            parent: None,
            notes: trace_context::current().into_iter().collect(),
        };
        if !matches!(job.request, JobRequest::Plan { .. }) {
            job.tasks = tasks_of(&steps_of(&job)?);
        }
        Ok(job)
    }

    /// As UUID version 7 has it (RFC 9562, 5.7): 48 bits of milliseconds first, so that ids sort by time.
    fn new_job_id(&self) -> Result<JobId, ControlError> {
        let random = crate::access::random_hex(10)?;
        let text = format!("{:012x}7{}8{}", self.now().0 & 0xffff_ffff_ffff, &random[..3], &random[4..19]);
        Ok(text.parse()?)
    }

    pub(crate) fn submit(&self, job: &mut Job, mut batch: Batch) -> Result<(), ControlError> {
        self.check_not_superseded()?;
        batch.put_job(job, Expect::Absent, Some(job.created));
        self.records().commit(batch)?;
        self.wake();
        Ok(())
    }

    /// The newest `count` jobs that are kept, newest first: of one machine or plan; older than `after`, by their ids, which sort by time. A thousand are looked
    /// at, and no more than are needed.
    ///
    /// # Errors
    /// Those of the store.
    pub fn jobs(
        &self,
        object: Option<&ObjectName>,
        after: Option<JobId>,
        count: usize,
        keep: impl Fn(&Job) -> bool,
    ) -> Result<Vec<Job>, ControlError> {
        let query = Query {
            descending: true,
            owner: object.map(ObjectName::key),
            after: after.map(|id| id.to_string()),
            limit: LIST_MAX,
            ..Query::all(Kind::Job)
        };
        self.records().first(query, count, keep)
    }

    /// One job.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn job(&self, id: JobId) -> Result<Job, ControlError> {
        Ok(self.stored_job(id)?.value)
    }

    fn stored_job(&self, id: JobId) -> Result<Versioned<Job>, ControlError> {
        self.records().get(Kind::Job, "job", &id.to_string())
    }

    /// Asks a job to stop; what it has done is undone as far as it can be.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] when it has ended, or has gone too far to go back.
    pub fn cancel_job(&self, by: &str, id: JobId) -> Result<Job, ControlError> {
        self.change_job(id, |job| {
            if job.state.is_final() {
                return Err(ended(job, "cancelled"));
            }
            self.check_job_not_held(job)?;
            if next::is_past_return(job, &steps_of(job)?) {
                let message = "the job has gone too far to be cancelled: let it end, then use the next operation (for a failover: cancel it, or change its recovery point)";
                return Err(ControlError::new(ErrorKind::IllegalState, "job.past-return", message));
            }
            tracing::info!(job = %job.id, by, "a job is to be cancelled");
            job.cancel_requested = true;
            if job.state == JobState::Suspended {
                job.state = JobState::InProgress;
                self.wake_restored(job);
            }
            Ok(Batch::default())
        })
    }

    /// Starts a failed job again, at the task that failed.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] unless it has failed; [`ErrorKind::Conflict`] while another job works on its machine.
    pub fn restart_job(&self, by: &str, id: JobId) -> Result<Job, ControlError> {
        self.change_job(id, |job| {
            if job.state != JobState::Failed {
                let message = format!("only a failed job can be restarted; this one is {}", job.state);
                return Err(ControlError::new(ErrorKind::IllegalState, "job.not-failed", message));
            }
            tracing::info!(job = %job.id, by, "a job is restarted");
            self.check_job_not_held(job)?;
            let batch = self.lock_again(job)?;
            plan::forget_failed(self, job)?;
            for task in &mut job.tasks {
                if !matches!(task.state, TaskState::Succeeded | TaskState::Skipped) {
                    let (name, friendly_name) =
                        (std::mem::take(&mut task.name), std::mem::take(&mut task.friendly_name));
                    *task = Task { jobs: std::mem::take(&mut task.jobs), ..new_task(name, friendly_name) };
                }
            }
            (job.state, job.ended, job.undoing, job.cancel_requested) =
                (JobState::InProgress, None, None, false);
            job.notes.retain(|note, _| !note.starts_with("attempts-"));
            Ok(batch)
        })
    }

    /// A restored server does not let go on what concerns a machine of which it is not known how it stands.
    fn check_job_not_held(&self, job: &Job) -> Result<(), ControlError> {
        match &job.request {
            JobRequest::Operate { item, operation } => match self.stored_item(item) {
                Ok(item) => check_not_held(&item.value, operation),
                Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            },
            JobRequest::Protect(_) | JobRequest::Verify(_) => match self.stored_item(job.request.object()) {
                Ok(item) => item
                    .value
                    .held
                    .as_ref()
                    .map_or(Ok(()), |held| Err(behind::refusal(&item.value.name, held))),
                Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            },
            JobRequest::Plan { .. } | JobRequest::DeployServer(_) | JobRequest::RetireServer { .. } => Ok(()),
        }
    }

    /// Marks the objects of a job that ended, as worked on once more.
    fn lock_again(&self, job: &Job) -> Result<Batch, ControlError> {
        let mut batch = Batch::default();
        match &job.request {
            JobRequest::DeployServer(_) | JobRequest::RetireServer { .. } => {
                return self.lock_deployment_again(job);
            }
            JobRequest::Verify(request) => return self.mark_proof(&request.item, job),
            JobRequest::Operate { item: name, .. } => {
                let Versioned { value: mut item, version } = self.stored_item(name)?;
                if let Some(other) = item.job {
                    return Err(busy("machine", name, other));
                }
                item.job = Some(job.id);
                batch.replace_item(&item, version);
            }
            JobRequest::Protect(request) => {
                let item = ProtectedItem { job: Some(job.id), ..protect::new_item(self, request)? };
                batch.put_owned(
                    Kind::Item,
                    item.name.key(),
                    Some(item.agent.clone()),
                    Expect::Absent,
                    &item,
                    None,
                );
            }
            JobRequest::Plan { plan: name, .. } => {
                let Versioned { value: mut plan, version }: Versioned<RecoveryPlan> =
                    self.records().get(Kind::Plan, "recovery plan", &name.key())?;
                if let Some(other) = plan.job {
                    return Err(busy("recovery plan", name, other));
                }
                plan.job = Some(job.id);
                batch.replace(Kind::Plan, name.key(), version, &plan);
            }
        }
        Ok(batch)
    }

    /// Confirms the manual action that a job waits for.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] unless it waits.
    pub fn resume_job(&self, by: &str, id: JobId, comments: &str) -> Result<Job, ControlError> {
        self.change_job(id, |job| {
            if job.state != JobState::Suspended {
                let message = format!("only a suspended job waits to be resumed; this one is {}", job.state);
                return Err(ControlError::new(ErrorKind::IllegalState, "job.not-suspended", message));
            }
            self.check_job_not_held(job)?;
            if job.notes.contains_key(restore::NOTE) {
                tracing::info!(job = %job.id, by, comments, "a job goes on that a restore had suspended");
                self.wake_restored(job);
                job.state = JobState::InProgress;
                return Ok(Batch::default());
            }
            let Some(index) = job.tasks.iter().position(|task| task.state == TaskState::Suspended) else {
                return Err(ControlError::new(
                    ErrorKind::Internal,
                    "job.nothing-suspended",
                    "no task of the job is suspended",
                ));
            };
            job.notes.insert(
                format!("confirmed-{index}"),
                format!("confirmed by {by}{}{comments}", if comments.is_empty() { "" } else { ": " }),
            );
            job.state = JobState::InProgress;
            Ok(Batch::default())
        })
    }

    /// A job that a restore had suspended is as it was before, but that its waiting begins anew.
    fn wake_restored(&self, job: &mut Job) {
        if job.notes.remove(restore::NOTE).is_none() {
            return;
        }
        for task in job.tasks.iter_mut().filter(|task| task.state == TaskState::Suspended) {
            (task.state, task.started, task.message) =
                (TaskState::InProgress, Some(self.now()), String::new());
        }
        job.notes.retain(|note, _| !note.starts_with("attempts-"));
    }

    /// Changes a job and lets the executor look at it; tries again when the executor was faster.
    fn change_job(
        &self,
        id: JobId,
        change: impl Fn(&mut Job) -> Result<Batch, ControlError>,
    ) -> Result<Job, ControlError> {
        const ATTEMPTS: usize = 20;
        self.check_not_superseded()?;
        for _ in 0..ATTEMPTS {
            let Versioned { value: mut job, version } = self.stored_job(id)?;
            let mut batch = change(&mut job)?;
            batch.put_job(&job, Expect::Version(version), Some(self.now()));
            match self.records().commit(batch) {
                Err(switchback_store::StoreError::Conflict { .. }) => {}
                other => {
                    other?;
                    self.wake();
                    return Ok(job);
                }
            }
        }
        Err(ControlError::new(ErrorKind::Conflict, "job.busy", "the job changes all the time; try again"))
    }

    /// The scripts that jobs want run in guests, by the agent's name.
    pub(crate) fn guest_scripts(
        &self,
    ) -> Result<std::collections::BTreeMap<String, Vec<switchback_model::component::ScriptCall>>, ControlError>
    {
        let jobs = self.records().list::<Job>(&Query {
            descending: true,
            limit: LIST_MAX,
            ..Query::all(Kind::Job)
        })?;
        let mut calls: std::collections::BTreeMap<String, Vec<_>> = std::collections::BTreeMap::new();
        for job in jobs.iter().filter(|job| !job.value.state.is_final()) {
            for (agent, call) in plan::guest_calls(&job.value) {
                calls.entry(agent).or_default().push(call);
            }
        }
        Ok(calls)
    }
}

/// Of a machine that is held nothing may be asked but to end its protection, which leaves its instances alone.
fn check_not_held(item: &ProtectedItem, operation: &ItemOperation) -> Result<(), ControlError> {
    match &item.held {
        Some(held) if !matches!(operation, ItemOperation::Disable { clean_up: false }) => {
            Err(behind::refusal(&item.name, held))
        }
        _ => Ok(()),
    }
}

fn ended(job: &Job, what: &str) -> ControlError {
    let message = format!("the job has ended ({}) and cannot be {what}", job.state);
    ControlError::new(ErrorKind::IllegalState, "job.ended", message)
}

fn tasks_of(steps: &[Step]) -> Vec<Task> {
    steps.iter().map(|step| new_task(step.name.clone(), step.friendly_name.clone())).collect()
}

fn new_task(name: String, friendly_name: String) -> Task {
    Task {
        name,
        friendly_name,
        state: TaskState::NotStarted,
        started: None,
        ended: None,
        progress: None,
        message: String::new(),
        error: None,
        jobs: Vec::new(),
    }
}
