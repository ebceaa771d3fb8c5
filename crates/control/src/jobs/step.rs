//! A step of a job, and what it works with.

use switchback_model::{Job, JobRequest, ObjectName, ProtectedItem, Task, UnixMillis};

use crate::records::{Batch, Versioned};
use crate::{Control, ControlError, ErrorKind};

/// What a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is done.
    Done(String),
    /// There was nothing to do.
    Skipped(String),
    /// Something has to happen first: to be asked again.
    Wait {
        /// What is waited for.
        message: String,
        /// How far that is.
        percent: Option<u8>,
        /// When to ask again, in milliseconds.
        pause_ms: u64,
    },
    /// A person has to do something.
    Suspend(String),
}

impl Outcome {
    pub(crate) fn wait(message: impl Into<String>) -> Self {
        Self::Wait { message: message.into(), percent: None, pause_ms: 250 }
    }

    pub(crate) fn done() -> Self {
        Self::Done(String::new())
    }
}

/// May be called again after it was done or half done: looks first at what is there. What it wants to change in the store it puts into
/// [`Work::batch`]: that becomes durable in one change with the step's being done.
pub(crate) type Run = fn(&mut Work<'_>) -> Result<Outcome, ControlError>;

/// A step.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) friendly_name: String,
    pub(crate) run: Run,
    /// Takes back what `run` did, or half did.
    pub(crate) undo: Option<Run>,
    /// Once it has begun the job cannot be cancelled.
    pub(crate) no_return: bool,
    /// When it fails, what the steps before it (and it) did is undone.
    pub(crate) undo_on_failure: bool,
}

impl Step {
    pub(crate) fn new(name: &str, friendly_name: &str, run: Run) -> Self {
        Self {
            name: name.into(),
            friendly_name: friendly_name.into(),
            run,
            undo: None,
            no_return: false,
            undo_on_failure: false,
        }
    }

    pub(crate) fn undo(mut self, undo: Run) -> Self {
        self.undo = Some(undo);
        self
    }

    pub(crate) fn no_return(mut self) -> Self {
        self.no_return = true;
        self
    }

    pub(crate) fn undo_on_failure(mut self) -> Self {
        self.undo_on_failure = true;
        self
    }
}

/// What a step works with.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    pub(crate) control: &'a Control,
    pub(crate) job: &'a mut Job,
    /// The task that is being done.
    pub(crate) index: usize,
    /// See [`Run`].
    pub(crate) batch: &'a mut Batch,
}

impl Work<'_> {
    pub(crate) fn now(&self) -> UnixMillis {
        self.control.now()
    }

    /// For how long this task has been at work, in milliseconds.
    pub(crate) fn waited_ms(&self) -> u64 {
        let started = self.job.tasks[self.index].started.unwrap_or_else(|| self.now());
        self.now().0.saturating_sub(started.0)
    }

    /// Waits, up to a limit in seconds; then it is `late`.
    pub(crate) fn wait_for(
        &self,
        message: impl Into<String>,
        limit_s: u64,
        late: impl FnOnce() -> ControlError,
    ) -> Result<Outcome, ControlError> {
        if self.waited_ms() > limit_s * 1000 { Err(late()) } else { Ok(Outcome::wait(message)) }
    }

    pub(crate) fn task(&mut self) -> &mut Task {
        &mut self.job.tasks[self.index]
    }

    pub(crate) fn note(&self, name: &str) -> Option<&str> {
        self.job.notes.get(name).map(String::as_str)
    }

    pub(crate) fn set_note(&mut self, name: &str, value: impl Into<String>) {
        self.job.notes.insert(name.into(), value.into());
    }

    /// The protected machine the job is about.
    pub(crate) fn item(&self) -> Result<Versioned<ProtectedItem>, ControlError> {
        let name = match &self.job.request {
            JobRequest::Protect(request) => &request.name,
            JobRequest::Operate { item, .. } => item,
            JobRequest::Verify(request) => &request.item,
            JobRequest::Plan { .. } | JobRequest::DeployServer(_) | JobRequest::RetireServer { .. } => {
                let message = "the job is about no machine";
                return Err(ControlError::new(ErrorKind::Internal, "job.no-item", message));
            }
        };
        self.control.stored_item(name)
    }

    /// Has the changed machine become durable with this step.
    pub(crate) fn change(&mut self, item: &Versioned<ProtectedItem>) {
        self.batch.replace_item(&item.value, item.version);
    }

    pub(crate) fn site(
        &self,
        name: &ObjectName,
    ) -> Result<std::sync::Arc<dyn switchback_sites::Site>, ControlError> {
        self.control.site(name)
    }
}

/// A failure with all that a person needs.
pub(crate) fn failure(
    kind: ErrorKind,
    code: &str,
    message: impl Into<String>,
    cause: &str,
    remedy: &str,
) -> ControlError {
    ControlError::new(kind, code, message).cause(cause).remedy(remedy)
}
