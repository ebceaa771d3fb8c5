//! A job in the contract's words: scenarios, details, tasks, errors.

use serde::Serialize;
use serde_json::{Value, json};
use switchback_control::{Control, ControlError};
use switchback_model::{
    ItemOperation, Job, JobError, JobId, JobRequest, JobState, Task, TaskState, UnixMillis,
};

use super::call::Call;
use super::id::{job_name, point_name};
use super::time;

/// The name of an operation in the service (`scenarioName`), and for people.
#[must_use]
pub const fn scenario(request: &JobRequest) -> (&'static str, &'static str) {
    let operation = match request {
        JobRequest::Protect(_) => return ("EnableDr", "Enable replication"),
        JobRequest::DeployServer(_) => return ("DeployProcessServer", "Deploy process server"),
        JobRequest::RetireServer { .. } => return ("RetireProcessServer", "Remove process server"),
        JobRequest::Verify(_) => return ("VerifyRecoveryPoint", "Verify recovery point"),
        JobRequest::Operate { operation, .. } | JobRequest::Plan { operation, .. } => operation,
    };
    match operation {
        ItemOperation::TestFailover { .. } => ("TestFailover", "Test failover"),
        ItemOperation::TestFailoverCleanup { .. } => ("TestFailoverCleanup", "Test failover cleanup"),
        ItemOperation::PlannedFailover => ("PlannedFailover", "Planned failover"),
        ItemOperation::UnplannedFailover { .. } => ("UnplannedFailover", "Failover"),
        ItemOperation::ChangeRecoveryPoint { .. } => ("ChangePit", "Change recovery point"),
        ItemOperation::CancelFailover => ("CancelFailover", "Cancel failover"),
        ItemOperation::Commit => ("CommitFailover", "Commit"),
        ItemOperation::Reprotect(_) => ("SwitchReplicationGroupProtection", "Reprotect"),
        ItemOperation::Resynchronize => ("RepairReplication", "Resynchronize"),
        ItemOperation::SwitchProcessServer { .. } => ("SwitchProcessServer", "Switch process server"),
        ItemOperation::AddDisks { .. } => ("AddDisks", "Add disks"),
        ItemOperation::RemoveDisks { .. } => ("RemoveDisks", "Remove disks"),
        ItemOperation::Disable { .. } => ("DisableDr", "Disable replication"),
        ItemOperation::CleanUp => ("CleanUp", "Clean up machines left behind"),
        ItemOperation::CheckAgain { .. } => ("ResolveHealthErrors", "Check again"),
        ItemOperation::UpdateAgent => ("UpdateMobilityService", "Update mobility service"),
    }
}

/// `CurrentScenarioDetails` of the contract: the job in hand.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CurrentScenario {
    scenario_name: String,
    job_id: String,
    start_time: String,
}

impl CurrentScenario {
    /// Nothing is done just now, in the service's words for it.
    pub(crate) fn none(call: &Call) -> Self {
        Self {
            scenario_name: "None".into(),
            job_id: format!("{}/replicationJobs/None", call.vault.id()),
            start_time: time::NEVER.into(),
        }
    }

    pub(crate) fn of(control: &Control, call: &Call, job: Option<JobId>) -> Self {
        // A job that ended between two looks is none.
        let Some(job) = job.and_then(|job| control.job(job).ok()) else { return Self::none(call) };
        Self {
            scenario_name: scenario(&job.request).0.into(),
            job_id: call.vault.job(job.id),
            start_time: time::show(job.started.unwrap_or(job.created)),
        }
    }
}

/// `ASRTask` of the contract.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AsrTask {
    task_id: String,
    name: String,
    friendly_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<String>,
    allowed_actions: Vec<&'static str>,
    state: &'static str,
    state_description: String,
    task_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_details: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_task_custom_details: Option<Value>,
    errors: Vec<JobErrorDetails>,
}

/// `JobErrorDetails` of the contract.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobErrorDetails {
    service_error_details: ServiceError,
    error_level: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    creation_time: Option<String>,
    task_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceError {
    code: String,
    message: String,
    possible_causes: String,
    recommended_action: String,
    activity_id: String,
}

/// A job's tasks; of jobs that are a part of one, `child` tells (so far as they can be found).
pub(crate) fn tasks(job: &Job, child: impl Fn(JobId) -> Option<Job> + Copy, call: &Call) -> Vec<AsrTask> {
    job.tasks.iter().enumerate().map(|(index, task)| show_task(job, index, task, child, call)).collect()
}

fn show_task(
    job: &Job,
    index: usize,
    task: &Task,
    child: impl Fn(JobId) -> Option<Job>,
    call: &Call,
) -> AsrTask {
    let task_id = task_id(job, index);
    let children: Vec<Value> =
        task.jobs.iter().filter_map(|id| child(*id)).map(|job| child_task(&job, call)).collect();
    AsrTask {
        name: task.name.clone(),
        friendly_name: task.friendly_name.clone(),
        start_time: time::show_option(task.started),
        end_time: time::show_option(task.ended),
        allowed_actions: if task.state == TaskState::Suspended { vec!["Resume"] } else { Vec::new() },
        state: task_state(task.state),
        state_description: describe(task),
        task_type: if children.is_empty() { "TaskDetails" } else { "GroupTaskDetails" },
        custom_details: (task.state == TaskState::Suspended).then(|| {
            json!({ "instanceType": "ManualActionTaskDetails", "name": task.friendly_name, "instructions": task.message, "observation": "" })
        }),
        group_task_custom_details: (!children.is_empty())
            .then(|| json!({ "instanceType": "InlineWorkflowTaskDetails", "childTasks": children })),
        errors: task.error.iter().map(|error| error_details(error, task.ended, &task_id)).collect(),
        task_id,
    }
}

/// Stable: the task's place in its job.
fn task_id(job: &Job, index: usize) -> String {
    super::id::guid(&["task", &job_name(job.id), &index.to_string()])
}

/// A job that is part of a task, as the contract nests it.
fn child_task(job: &Job, call: &Call) -> Value {
    let (scenario, friendly) = scenario(&job.request);
    json!({
        "taskId": job_name(job.id),
        "name": scenario,
        "friendlyName": format!("{friendly}: {}", job.request.object()),
        "startTime": time::show(job.started.unwrap_or(job.created)),
        "endTime": time::show_option(job.ended),
        "state": job.state.to_string(),
        "stateDescription": job_state_description(job.state),
        "taskType": "JobTaskDetails",
        "allowedActions": [],
        "errors": [],
        "customDetails": { "instanceType": "JobTaskDetails", "jobTask": {
            "jobId": call.vault.job(job.id),
            "jobFriendlyName": friendly,
            "targetObjectName": job.request.object().as_str(),
            "targetInstanceType": target_type(&job.request),
            "jobScenarioName": scenario,
        } },
    })
}

/// The contract has no `Skipped` and no `Undone`: they are `Other`, with a description.
const fn task_state(state: TaskState) -> &'static str {
    match state {
        TaskState::NotStarted => "NotStarted",
        TaskState::InProgress => "InProgress",
        TaskState::Suspended => "Suspended",
        TaskState::Succeeded => "Succeeded",
        TaskState::Failed => "Failed",
        TaskState::Skipped | TaskState::Undone => "Other",
    }
}

fn describe(task: &Task) -> String {
    let state = match task.state {
        TaskState::Succeeded => "Completed",
        TaskState::Skipped => "Skipped",
        TaskState::Undone => "Undone",
        other => return task_state(other).into(),
    };
    state.into()
}

/// The contract's description of a job's state.
pub(crate) fn job_state_description(state: JobState) -> String {
    if state == JobState::Succeeded { "Completed".into() } else { state.to_string() }
}

/// All errors of a job.
pub(crate) fn errors(job: &Job) -> Vec<JobErrorDetails> {
    let failed =
        job.tasks.iter().enumerate().filter_map(|(index, task)| Some((index, task, task.error.as_ref()?)));
    failed.map(|(index, task, error)| error_details(error, task.ended, &task_id(job, index))).collect()
}

fn error_details(error: &JobError, time: Option<UnixMillis>, task_id: &str) -> JobErrorDetails {
    JobErrorDetails {
        service_error_details: ServiceError {
            code: error.code.clone(),
            message: error.message.clone(),
            possible_causes: error.cause.clone(),
            recommended_action: error.remedy.clone(),
            activity_id: String::new(),
        },
        error_level: "Error",
        creation_time: time::show_option(time),
        task_id: task_id.into(),
    }
}

/// What a user may do with a job now: `Cancel`, `Resume`, `Restart`.
#[must_use]
pub fn allowed_actions(job: &Job) -> Vec<&'static str> {
    match job.state {
        JobState::NotStarted | JobState::InProgress if job.cancel_requested => vec![],
        JobState::NotStarted | JobState::InProgress => vec!["Cancel"],
        JobState::Suspended => vec!["Resume", "Cancel"],
        JobState::Failed => vec!["Restart"],
        JobState::Succeeded | JobState::Cancelled => vec![],
    }
}

/// The kind of what a job is about.
pub(crate) const fn target_type(request: &JobRequest) -> &'static str {
    match request {
        JobRequest::Plan { .. } => "RecoveryPlan",
        JobRequest::DeployServer(_) | JobRequest::RetireServer { .. } => "ProcessServer",
        JobRequest::Protect(_) | JobRequest::Operate { .. } | JobRequest::Verify(_) => "ProtectionEntity",
    }
}

/// `customDetails` by what the job does. `target` is the resource's id, where it still is.
///
/// # Errors
/// Those of the store.
pub(crate) fn custom_details(
    control: &Control,
    job: &Job,
    target: Option<&str>,
) -> Result<Value, ControlError> {
    let operation = match &job.request {
        JobRequest::Protect(_)
        | JobRequest::DeployServer(_)
        | JobRequest::RetireServer { .. }
        | JobRequest::Verify(_) => None,
        JobRequest::Operate { operation, .. } | JobRequest::Plan { operation, .. } => Some(operation),
    };
    let affected = json!({ "objectName": job.request.object().as_str(), "by": job.by });
    Ok(match operation {
        Some(ItemOperation::UnplannedFailover { .. } | ItemOperation::PlannedFailover) => json!({
            "instanceType": "FailoverJobDetails", "affectedObjectDetails": affected, "protectedItemDetails": failed_over(control, job)?,
        }),
        Some(ItemOperation::TestFailover { .. }) => json!({
            "instanceType": "TestFailoverJobDetails", "affectedObjectDetails": affected,
            "testFailoverStatus": job_state_description(job.state), "protectedItemDetails": failed_over(control, job)?,
        }),
        Some(ItemOperation::Reprotect(_)) => json!({
            "instanceType": "SwitchProtectionJobDetails", "affectedObjectDetails": affected,
            "newReplicationProtectedItemId": target.filter(|_| job.state == JobState::Succeeded).unwrap_or_default(),
        }),
        _ => json!({ "instanceType": "AsrJobDetails", "affectedObjectDetails": affected }),
    })
}

/// The machine of a failover with its recovery point, as far as it is the last one.
fn failed_over(control: &Control, job: &Job) -> Result<Vec<Value>, ControlError> {
    let JobRequest::Operate { item, operation } = &job.request else { return Ok(Vec::new()) };
    let protected = control.protected()?;
    let Some(item) = protected.of(item) else { return Ok(Vec::new()) };
    let is_test = matches!(operation, ItemOperation::TestFailover { .. });
    let record = item.failover.as_ref().filter(|_| !is_test && job.state == JobState::Succeeded);
    let mut details = json!({ "name": item.name.as_str(), "friendlyName": item.name.as_str() });
    if let (Some(record), Some(details)) = (record, details.as_object_mut()) {
        details.insert("recoveryPointId".into(), point_name(item.machine, record.seq, record.time).into());
        details.insert("recoveryPointTime".into(), time::show(record.time).into());
    }
    if let (true, Some(test), Some(details)) = (is_test, &item.test, details.as_object_mut()) {
        details.insert("testVmName".into(), test.id.clone().into());
        details.insert("testVmFriendlyName".into(), test.id.clone().into());
    }
    Ok(vec![details])
}

#[cfg(test)]
mod tests {
    use switchback_model::{ItemOperation, JobRequest, PointChoice, ReprotectOptions};

    use super::scenario;

    #[test]
    fn jobs_have_the_names_that_were_recorded() {
        let recorded: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/contract/recorded.json")).unwrap();
        let operations = [
            ("failback", ItemOperation::UnplannedFailover { point: PointChoice::Latest, shut_down: true }),
            ("reprotect", ItemOperation::Reprotect(ReprotectOptions::default())),
        ];
        for (which, operation) in operations {
            let request = JobRequest::Operate { item: "web01".parse().unwrap(), operation };
            let (name, friendly) = scenario(&request);
            assert_eq!(recorded["jobs"][which]["scenarioName"], name);
            assert_eq!(recorded["jobs"][which]["friendlyName"], friendly);
        }
    }
}
