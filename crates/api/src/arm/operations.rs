//! Long-running operations after their 202: `replicationOperationStatus/{job}` and `…/operationresults/{job}`.
//!
//! Both only look at the job, so they answer the same after a restart, on any configuration server of one store.

use serde::Serialize;
use serde_json::Value;
use switchback_control::{Control, ErrorKind};
use switchback_model::{ItemOperation, Job, JobError, JobRequest, JobState, ObjectName, TaskState};

use super::answer::Answer;
use super::call::Call;
use super::error::{ArmError, error_object};
use super::id::{job_name, parse_job};
use super::protected_items;
use super::recovery_plans;
use super::time;
use crate::additions::deployed_servers;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    id: String,
    name: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<String>,
    percent_complete: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
}

/// The job of the path.
pub(crate) fn find_job(control: &Control, call: &Call) -> Result<Job, ArmError> {
    let name = call.text("job");
    let id = parse_job(name).ok_or_else(|| ArmError::not_found("job", name))?;
    Ok(control.job(id)?)
}

pub(crate) fn status(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let job = find_job(control, call)?;
    let name = job_name(job.id);
    let error =
        matches!(job.state, JobState::Failed | JobState::Cancelled).then(|| error_object(&failure(&job)));
    let shown = Answer::of(&Status {
        id: format!("{}/replicationOperationStatus/{name}", call.vault.id()),
        name,
        status: status_of(job.state),
        start_time: time::show_option(job.started.or(Some(job.created))),
        end_time: time::show_option(job.ended),
        percent_complete: percent(&job),
        error,
    })?;
    Ok(match shown {
        Answer::Ok(status) if status_of(job.state) == IN_PROGRESS => Answer::InProgress(status),
        other => other,
    })
}

/// The status of an operation that is not over.
const IN_PROGRESS: &str = "InProgress";

/// Azure Resource Manager's words for it (one L in its "canceled").
const fn status_of(state: JobState) -> &'static str {
    match state {
        JobState::Succeeded => "Succeeded",
        JobState::Failed => "Failed",
        JobState::Cancelled => "Canceled",
        JobState::NotStarted | JobState::InProgress | JobState::Suspended => IN_PROGRESS,
    }
}

/// Tasks that are over, of all; 100 only at the end.
fn percent(job: &Job) -> usize {
    if job.state == JobState::Succeeded {
        return 100;
    }
    let over = job
        .tasks
        .iter()
        .filter(|task| matches!(task.state, TaskState::Succeeded | TaskState::Skipped))
        .count();
    (over * 100).checked_div(job.tasks.len()).unwrap_or(0).min(99)
}

/// Why a job did not succeed: its first failed task's error.
pub(crate) fn failure(job: &Job) -> JobError {
    job.tasks.iter().find_map(|task| task.error.clone()).unwrap_or_else(|| JobError {
        code: if job.state == JobState::Cancelled { "job.cancelled".into() } else { "job.failed".into() },
        message: format!("the job {} ended as {}", job_name(job.id), job.state),
        cause: String::new(),
        remedy: "look at the job's tasks".into(),
    })
}

pub(crate) fn result(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let job = find_job(control, call)?;
    let object = job.request.object().clone();
    let param = match job.request {
        JobRequest::Plan { .. } => "plan",
        JobRequest::Protect(_) | JobRequest::Operate { .. } | JobRequest::Verify(_) => "item",
        JobRequest::DeployServer(_) | JobRequest::RetireServer { .. } => "made",
    };
    if call.name(param).ok().as_ref() != Some(&object) {
        return Err(
            ArmError::not_found("operation", call.text("job")).cause("the job is about another resource")
        );
    }
    match job.state {
        JobState::Succeeded => of_success(control, call, &job, &object),
        JobState::Failed | JobState::Cancelled => Err(ArmError::of_job(failure(&job))),
        JobState::NotStarted | JobState::InProgress | JobState::Suspended => {
            let resource = match job.request {
                JobRequest::Plan { .. } => call.vault.plan(&object),
                JobRequest::Protect(_) | JobRequest::Operate { .. } | JobRequest::Verify(_) => {
                    call.vault.protected_item(&call.name("site")?, &object)
                }
                JobRequest::DeployServer(_) | JobRequest::RetireServer { .. } => {
                    call.vault.addition(deployed_servers::KIND, object.as_str())
                }
            };
            Ok(Answer::Accepted { resource, job: job.id })
        }
    }
}

fn of_success(control: &Control, call: &Call, job: &Job, object: &ObjectName) -> Result<Answer, ArmError> {
    match &job.request {
        JobRequest::Plan { .. } => {
            Ok(Answer::Ok(recovery_plans::show(control, call, &control.plan(object)?)?))
        }
        JobRequest::DeployServer(_) => match control.deployment(object) {
            Ok(made) => Ok(Answer::Ok(deployed_servers::show(call, &made)?)),
            // It was removed since.
            Err(error) if error.kind == ErrorKind::NotFound => Ok(Answer::NoContent),
            Err(error) => Err(error.into()),
        },
        JobRequest::RetireServer { .. }
        | JobRequest::Operate { operation: ItemOperation::Disable { .. }, .. } => Ok(Answer::NoContent),
        JobRequest::Protect(_) | JobRequest::Operate { .. } | JobRequest::Verify(_) => {
            match control.item(object) {
                Ok(view) => {
                    let around = protected_items::Around::load(control)?;
                    Ok(Answer::Ok(protected_items::show(control, call, &around, &view)?))
                }
                // Its protection has ended since.
                Err(error) if error.kind == ErrorKind::NotFound => Ok(Answer::NoContent),
                Err(error) => Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use switchback_model::{
        ItemOperation, Job, JobError, JobId, JobRequest, JobState, Task, TaskState, UnixMillis,
    };

    use super::{failure, percent, status_of};

    fn job(states: &[TaskState], state: JobState) -> Job {
        let task = |state: &TaskState| Task {
            name: "T".into(),
            friendly_name: "t".into(),
            state: *state,
            started: None,
            ended: None,
            progress: None,
            message: String::new(),
            error: (*state == TaskState::Failed).then(|| JobError {
                code: "x".into(),
                message: "y".into(),
                cause: String::new(),
                remedy: String::new(),
            }),
            jobs: Vec::new(),
        };
        let request =
            JobRequest::Operate { item: "web01".parse().unwrap(), operation: ItemOperation::Commit };
        serde_json::from_value(serde_json::json!({
            "id": JobId([1; 16]), "request": request, "state": state, "by": "ci", "created": UnixMillis(1),
            "tasks": states.iter().map(task).collect::<Vec<_>>(), "notes": BTreeMap::<String, String>::new(),
        }))
        .unwrap()
    }

    #[test]
    fn a_hundred_percent_only_at_the_end() {
        use TaskState::{InProgress, NotStarted, Skipped, Succeeded};
        let running = |states: &[TaskState]| percent(&job(states, JobState::InProgress));
        assert_eq!(running(&[]), 0);
        assert_eq!(running(&[Succeeded, Skipped, InProgress, NotStarted]), 50);
        assert_eq!(running(&[Succeeded, Succeeded]), 99);
        assert_eq!(percent(&job(&[Succeeded], JobState::Succeeded)), 100);
    }

    #[test]
    fn a_failure_is_that_of_the_task_and_a_waiting_job_is_no_failure() {
        use TaskState::{Failed, Succeeded};
        assert_eq!(failure(&job(&[Succeeded, Failed], JobState::Failed)).code, "x");
        assert_eq!(failure(&job(&[Succeeded], JobState::Cancelled)).code, "job.cancelled");
        assert_eq!(status_of(JobState::Suspended), "InProgress");
        assert_eq!(status_of(JobState::Cancelled), "Canceled");
    }
}
