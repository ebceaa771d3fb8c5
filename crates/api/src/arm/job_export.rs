//! Export of jobs. `POST replicationJobs/export` answers at once with a job that has succeeded, whose details name an address; `GET` there is the file.
//!
//! What this never does: keep a file, or a job of its own. The address has all in it that was asked for, and the file is made when it is fetched, of those jobs
//! as they stand then. The contract's service writes a blob and signs for it; here, whoever fetches shows the token that all of the API needs: `sasToken` is
//! empty.

use serde::Deserialize;
use serde_json::{Value, json};
use switchback_control::Control;
use switchback_model::Job;

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::id::guid;
use super::jobs::{Wanted, filter_of, show, show_title};
use super::page::query_of;
use super::resource::resource;
use super::time;

/// Where files are, below the vault.
pub(crate) const AS_JSON: &str = "switchbackJobExport/json";
pub(crate) const AS_CSV: &str = "switchbackJobExport/csv";
/// Most jobs in a file: the newest.
const JOBS_MAX: usize = 5_000;
/// Jobs that are looked at together.
const PAGE_LEN: usize = 500;
pub(crate) const CSV: &str = "text/csv; charset=utf-8";
const COLUMNS: [&str; 10] = [
    "Id",
    "Name",
    "Status",
    "Item type",
    "Item",
    "Asked for by",
    "Start time",
    "End time",
    "Error code",
    "Error",
];

/// `JobQueryParameter` of the contract. Times are written in UTC whatever the offset: it is taken, and changes nothing.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Query {
    start_time: String,
    end_time: String,
    fabric_id: String,
    affected_object_types: String,
    job_status: String,
    job_name: String,
    job_output_type: String,
    #[serde(rename = "timezoneOffset")]
    _timezone_offset: f64,
}

/// `POST replicationJobs/export`.
pub(crate) fn export(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let query: Query = call.json()?;
    let path = match query.job_output_type.as_str() {
        "" => AS_JSON,
        kind if kind.eq_ignore_ascii_case("json") => AS_JSON,
        kind if kind.eq_ignore_ascii_case("excel") => AS_CSV,
        other => {
            return Err(ArmError::invalid(format!("jobs are not written as {other:?}"))
                .remedy("jobOutputType Json, or Excel for values that a spreadsheet reads (CSV)"));
        }
    };
    let now = time::show(control.now());
    // Those of later are not in it, whenever it is fetched.
    let end = if query.end_time.is_empty() { &now } else { &query.end_time };
    let conditions = [
        ("startTime", &query.start_time),
        ("endTime", end),
        ("fabricId", &query.fabric_id),
        ("affectedObjectTypes", &query.affected_object_types),
        ("jobStatus", &query.job_status),
        ("jobName", &query.job_name),
    ];
    let conditions = conditions.iter().filter(|(_, value)| !value.is_empty());
    let filter: Vec<_> =
        conditions.map(|(name, value)| format!("{name} eq '{}'", value.replace('\'', "''"))).collect();
    let filter = filter.join(" and ");
    // What cannot be fetched is refused here already.
    Wanted::read(control, filter_of(Some(&filter))?)?;
    let address = call.link(&format!("{}/{path}", call.vault.id()));
    let address = format!("{address}{}", query_of(&[("$filter", Some(&filter))]));
    let name = guid(&["jobs export", &address, &now]);
    let properties = json!({
        "activityId": name, "scenarioName": "ExportJobs", "friendlyName": "Export jobs", "state": "Succeeded", "stateDescription": "Completed",
        "tasks": [], "errors": [], "startTime": now, "endTime": now, "allowedActions": [], "targetObjectName": "jobs", "targetInstanceType": "Vault",
        "customDetails": {
            "instanceType": "ExportJobDetails", "affectedObjectDetails": { "by": call.by }, "blobUri": address, "sasToken": "",
        },
    });
    let id = format!("{}/replicationJobs/{name}", call.vault.id());
    Ok(Answer::Ok(resource(id, &name, "replicationJobs", properties)?))
}

/// `GET switchbackJobExport/json`.
pub(crate) fn as_json(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let (jobs, is_whole) = jobs(control, call)?;
    let shown =
        jobs.iter().map(|job| show(control, call, job, |_| None)).collect::<Result<Vec<Value>, _>>()?;
    Ok(Answer::Ok(json!({ "value": shown, "isWhole": is_whole })))
}

/// `GET switchbackJobExport/csv`.
pub(crate) fn as_csv(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let (jobs, _) = jobs(control, call)?;
    let lines = jobs.iter().map(|job| line(&fields(job)));
    let file: String = std::iter::once(line(&COLUMNS.map(str::to_owned))).chain(lines).collect();
    Ok(Answer::File { media_type: CSV, bytes: file.into_bytes() })
}

/// The newest jobs that are asked for, and whether there are no more.
fn jobs(control: &Control, call: &Call) -> Result<(Vec<Job>, bool), ArmError> {
    let wanted = Wanted::read(control, filter_of(call.query("$filter"))?)?;
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = control.jobs(wanted.object.as_ref(), after, PAGE_LEN, |_| true)?;
        let is_last = page.len() < PAGE_LEN;
        after = page.last().map(|job| job.id);
        found.extend(page.into_iter().filter(|job| wanted.includes(job)));
        if is_last || found.len() > JOBS_MAX {
            break;
        }
    }
    let is_whole = found.len() <= JOBS_MAX;
    found.truncate(JOBS_MAX);
    Ok((found, is_whole))
}

fn fields(job: &Job) -> [String; COLUMNS.len()] {
    let (name, item_type) = show_title(job);
    let error = job.tasks.iter().find_map(|task| task.error.clone());
    let (code, message) = error.map(|error| (error.code, error.message)).unwrap_or_default();
    [
        super::job_name(job.id),
        name.to_owned(),
        job.state.to_string(),
        item_type.to_owned(),
        job.request.object().to_string(),
        job.by.clone(),
        time::show(job.started.unwrap_or(job.created)),
        time::show_option(job.ended).unwrap_or_default(),
        code,
        message,
    ]
}

/// A line of comma-separated values (RFC 4180). What a spreadsheet would take for a formula is kept from that by an apostrophe.
fn line(fields: &[String; COLUMNS.len()]) -> String {
    let written = fields.iter().map(|field| {
        let guard = if field.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
        format!("\"{guard}{}\"", field.replace('"', "\"\""))
    });
    format!("{}\r\n", written.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::{COLUMNS, line};

    #[test]
    fn values_are_quoted_and_are_no_formulas() {
        let mut fields = [const { String::new() }; COLUMNS.len()];
        fields[0] = "a \"b\", c\nd".into();
        fields[1] = "=HYPERLINK(1)".into();
        let expected =
            format!("\"a \"\"b\"\", c\nd\",\"'=HYPERLINK(1)\"{}\r\n", ",\"\"".repeat(COLUMNS.len() - 2));
        assert_eq!(line(&fields), expected);
    }
}
