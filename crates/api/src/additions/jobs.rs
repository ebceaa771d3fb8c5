//! `switchbackJobs/{job}`: a job with the progress and messages of its tasks, which the contract's job has no place for; `switchbackJobExport`: the files that
//! the contract's export of jobs leads to.

use serde_json::json;
use switchback_control::Control;

use crate::arm::{
    AS_CSV, AS_JSON, Answer, ArmError, CSV, Call, as_csv, as_json, job_name, parse_job, resource, show_time,
};
use crate::openapi::operation::{Operation, get as show_one, get_file};
use crate::openapi::schema::{
    choice, count_within, flag, list, object, or_null, problem, resource as schema, text, time, titled,
};

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let task_states = ["NotStarted", "InProgress", "Suspended", "Succeeded", "Skipped", "Failed", "Undone"];
    let task = object([
        ("name", text()),
        ("friendlyName", text()),
        ("state", choice(&task_states)),
        ("started", or_null(time())),
        ("ended", or_null(time())),
        ("progressPercent", or_null(count_within(0, 100))),
        ("message", text()),
        ("error", or_null(problem())),
        ("jobs", list(text())),
    ]);
    let states = ["NotStarted", "InProgress", "Suspended", "Succeeded", "Failed", "Cancelled"];
    let properties = object([
        ("contractId", text()),
        // As it is stored: what it has depends on its kind.
        ("request", json!({ "type": "object", "required": ["kind"], "properties": { "kind": text() } })),
        ("object", text()),
        ("state", choice(&states)),
        ("by", text()),
        ("created", time()),
        ("started", or_null(time())),
        ("ended", or_null(time())),
        ("cancelRequested", flag()),
        ("parent", or_null(text())),
        ("tasks", list(titled("SwitchbackTask", task))),
    ]);
    let summary = "A job with the progress and messages of its tasks.";
    let file = object([("value", list(json!({ "type": "object" }))), ("isWhole", flag())]);
    let filter = |operation: Operation| operation.query("$filter", text(), "as of replicationJobs");
    vec![
        show_one("switchbackJobs/{job}", get, summary, schema("SwitchbackJob", properties)),
        filter(show_one(
            AS_JSON,
            as_json,
            "The newest jobs, as replicationJobs has them: up to 5,000.",
            file,
        )),
        filter(get_file(AS_CSV, as_csv, "The same as comma-separated values.", CSV)),
    ]
}

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
