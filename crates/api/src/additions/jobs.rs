//! `switchbackJobs/{job}`: a job with the progress and messages of its tasks, which the contract's job has no place for.

use serde_json::json;
use switchback_control::Control;

use crate::arm::{Answer, ArmError, Call, job_name, parse_job, resource, show_time};

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let wanted = call.text("job");
    let id = parse_job(wanted).ok_or_else(|| ArmError::not_found("job", wanted))?;
    let job = control.job(id)?;
    let tasks: Vec<_> = job
        .tasks
        .iter()
        .map(|task| {
            json!({
                "name": task.name,
                "friendlyName": task.friendly_name,
                "state": task.state,
                "started": task.started.map(show_time),
                "ended": task.ended.map(show_time),
                "progressPercent": task.progress,
                "message": task.message,
                "error": task.error,
                "jobs": task.jobs.iter().copied().map(job_name).collect::<Vec<_>>(),
            })
        })
        .collect();
    let properties = json!({
        "contractId": call.vault.job(id),
        "request": job.request,
        "object": job.request.object(),
        "state": job.state,
        "by": job.by,
        "created": show_time(job.created),
        "started": job.started.map(show_time),
        "ended": job.ended.map(show_time),
        "cancelRequested": job.cancel_requested,
        "parent": job.parent.map(job_name),
        "tasks": tasks,
    });
    let name = job_name(id);
    Ok(Answer::Ok(resource(
        call.vault.addition("switchbackJobs", &name),
        &name,
        "switchbackJobs",
        properties,
    )?))
}
