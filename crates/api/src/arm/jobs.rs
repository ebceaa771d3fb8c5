//! `replicationJobs`: list, look, cancel, restart, resume; for export see `job_export`.
//!
//! The last three answer with the job at once: what they ask for shows in its state, and a client that waited for a *cancelled* job's
//! operation would be told of a failure.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchback_control::{Control, Protected};
use switchback_model::{Job, JobId, JobRequest, JobState, ObjectName, UnixMillis};

use super::answer::Answer;
use super::call::{Call, name};
use super::error::ArmError;
use super::filter::Filter;
use super::id::{job_name, name_in};
use super::job_details::{self, AsrTask, JobErrorDetails, scenario};
use super::operations::find_job;
use super::page::{len_max, page, token};
use super::resource::resource;
use super::time;
use crate::additions::deployed_servers;

/// What a list can be filtered by: the contract's `JobQueryParameter`, and the name of what a job is about.
const FILTERS: [&str; 7] =
    ["startTime", "endTime", "jobStatus", "jobName", "affectedObjectTypes", "targetObjectName", "fabricId"];
const STATES: [JobState; 6] = [
    JobState::NotStarted,
    JobState::InProgress,
    JobState::Suspended,
    JobState::Succeeded,
    JobState::Failed,
    JobState::Cancelled,
];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    activity_id: String,
    scenario_name: &'static str,
    friendly_name: &'static str,
    state: String,
    state_description: String,
    tasks: Vec<AsrTask>,
    errors: Vec<JobErrorDetails>,
    start_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<String>,
    allowed_actions: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_object_id: Option<String>,
    target_object_name: String,
    target_instance_type: &'static str,
    custom_details: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resume {
    properties: ResumeProperties,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResumeProperties {
    comments: String,
}

/// A filter of jobs.
pub(super) fn filter_of(text: Option<&str>) -> Result<Filter, ArmError> {
    Filter::parse(text, &FILTERS)
}

/// Which jobs are asked for.
pub(super) struct Wanted {
    filter: Filter,
    states: Vec<JobState>,
    from: Option<UnixMillis>,
    to: Option<UnixMillis>,
    /// What they are about, by its name.
    pub(super) object: Option<ObjectName>,
    /// Where the machine is at home that they are about, and the machines there are.
    site: Option<(ObjectName, Protected)>,
}

impl Wanted {
    pub(super) fn read(control: &Control, filter: Filter) -> Result<Self, ArmError> {
        let states: Vec<JobState> =
            STATES.into_iter().filter(|state| filter.allows("jobStatus", &state.to_string())).collect();
        if states.is_empty() {
            let known = STATES.map(|state| state.to_string()).join(", ");
            return Err(ArmError::invalid(format!("there is no such jobStatus; there are: {known}")));
        }
        let moment = |title: &str| match filter.get(title) {
            None => Ok(None),
            Some(text) => time::parse(text)
                .map(Some)
                .ok_or_else(|| ArmError::invalid(format!("{title} is no time: {text:?}"))),
        };
        let site = match filter.get("fabricId") {
            None => None,
            Some(id) => {
                let site = name_in(id, "replicationFabrics");
                let site = site.ok_or_else(|| ArmError::invalid(format!("{id:?} is no fabric's id")))?;
                Some((name(&site)?, control.protected()?))
            }
        };
        let (from, to) = (moment("startTime")?, moment("endTime")?);
        let object = filter.get("targetObjectName").map(name).transpose()?;
        Ok(Self { filter, states, from, to, object, site })
    }

    pub(super) fn includes(&self, job: &Job) -> bool {
        let is_at = |(site, protected): &(ObjectName, Protected)| {
            protected.of(job.request.object()).is_some_and(|item| item.home.site == *site)
        };
        self.states.contains(&job.state)
            && self.from.is_none_or(|from| job.created >= from)
            && self.to.is_none_or(|to| job.created <= to)
            && self.filter.allows("jobName", scenario(&job.request).0)
            && self.filter.allows("affectedObjectTypes", job_details::target_type(&job.request))
            && self.site.as_ref().is_none_or(is_at)
    }
}

/// What people call it, and the kind of what it is about.
pub(super) fn show_title(job: &Job) -> (&'static str, &'static str) {
    (scenario(&job.request).1, job_details::target_type(&job.request))
}

/// Newest first.
pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let wanted = Wanted::read(control, filter_of(call.query("$filter"))?)?;
    let after = token(call).map(id_of_key).transpose()?;
    // One more than the page has: then there is another.
    let jobs = control.jobs(wanted.object.as_ref(), after, len_max(call)? + 1, |job| wanted.includes(job))?;
    let jobs = jobs.into_iter().map(|job| (key(job.id), job)).collect();
    // Jobs that are part of a task are looked up for a single job only.
    Answer::of(&page(call, jobs, |job| show(control, call, &job, |_| None))?)
}

/// A key that sorts as the store has jobs, newest first: their ids sort by time.
fn key(id: JobId) -> String {
    JobId(id.0.map(|byte| !byte)).to_string()
}

fn id_of_key(token: &str) -> Result<JobId, ArmError> {
    let key: JobId =
        token.parse().map_err(|_| ArmError::invalid(format!("there is no page after {token:?}")))?;
    Ok(JobId(key.0.map(|byte| !byte)))
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    answer(control, call, &find_job(control, call)?)
}

pub(crate) fn cancel(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let id = find_job(control, call)?.id;
    answer(control, call, &control.cancel_job(&call.by, id)?)
}

pub(crate) fn restart(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let id = find_job(control, call)?.id;
    answer(control, call, &control.restart_job(&call.by, id)?)
}

pub(crate) fn resume(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let comments = call.json_if_any::<Resume>()?.properties.comments;
    let id = find_job(control, call)?.id;
    answer(control, call, &control.resume_job(&call.by, id, &comments)?)
}

fn answer(control: &Control, call: &Call, job: &Job) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(control, call, job, |id| control.job(id).ok())?))
}

pub(super) fn show(
    control: &Control,
    call: &Call,
    job: &Job,
    child: impl Fn(JobId) -> Option<Job> + Copy,
) -> Result<Value, ArmError> {
    let (scenario_name, friendly_name) = scenario(&job.request);
    let object = job.request.object();
    let target = match &job.request {
        JobRequest::Plan { plan, .. } => Some(call.vault.plan(plan)),
        JobRequest::DeployServer(_) | JobRequest::RetireServer { .. } => {
            let is_there = control.deployment(object).is_ok();
            is_there.then(|| call.vault.addition(deployed_servers::KIND, object.as_str()))
        }
        JobRequest::Protect(_) | JobRequest::Operate { .. } | JobRequest::Verify(_) => {
            // As it is stored: a view is computed from what components report, and a list has many jobs.
            control.protected()?.of(object).map(|item| call.vault.protected_item(&item.home.site, object))
        }
    };
    let name = job_name(job.id);
    let properties = Properties {
        activity_id: name.clone(),
        scenario_name,
        friendly_name,
        state: job.state.to_string(),
        state_description: job_details::job_state_description(job.state),
        tasks: job_details::tasks(job, child, call),
        errors: job_details::errors(job),
        start_time: time::show(job.started.unwrap_or(job.created)),
        end_time: time::show_option(job.ended),
        allowed_actions: job_details::allowed_actions(job),
        custom_details: job_details::custom_details(control, job, target.as_deref())?,
        target_object_id: target,
        target_object_name: object.to_string(),
        target_instance_type: job_details::target_type(&job.request),
    };
    resource(call.vault.job(job.id), &name, "replicationJobs", properties)
}
