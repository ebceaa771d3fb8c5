//! What comes next in a job: pure, from what is stored.

use switchback_model::{Job, JobState, TaskState};

use super::step::Step;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This task.
    Run(usize),
    /// Take this task back.
    Undo(usize),
    /// Nothing more: the job ends so.
    End(JobState),
    /// Nothing before somebody changes it.
    Rest,
}

/// The next thing to do for a job.
pub(crate) fn next(job: &Job, steps: &[Step]) -> Next {
    if job.state.is_final() || job.state == JobState::Suspended {
        return Next::Rest;
    }
    if let Some(end) = job.undoing {
        let left = (0..job.tasks.len()).rev().find(|index| {
            let has_undo = steps.get(*index).is_some_and(|step| step.undo.is_some());
            has_undo && !matches!(job.tasks[*index].state, TaskState::NotStarted | TaskState::Undone)
        });
        return left.map_or(Next::End(end), Next::Undo);
    }
    let open =
        job.tasks.iter().position(|task| !matches!(task.state, TaskState::Succeeded | TaskState::Skipped));
    open.map_or(Next::End(JobState::Succeeded), Next::Run)
}

/// Whether a job has gone too far to be cancelled.
pub(crate) fn is_past_return(job: &Job, steps: &[Step]) -> bool {
    job.tasks.iter().zip(steps).any(|(task, step)| step.no_return && task.state != TaskState::NotStarted)
}
