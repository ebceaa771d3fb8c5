//! `switchback job`: what is being done, and what was done.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::confirm::ConfirmArgs;
use super::job_progress::{tasks, title_of};
use super::render::{Field, name, plain, printable, time};
use super::session::{self, Session, SessionArgs, WaitArgs};
use crate::client::path::{self, id_of, text_at};
use crate::client::{JobEnd, Operation, Reply};

const LIST: &[Field] = &[
    name("JOB", &["/name"]),
    plain("WHAT", &["/properties/friendlyName"]),
    plain("OF", &["/properties/targetObjectName"]),
    plain("STATE", &["/properties/state"]),
    time("BEGUN", &["/properties/startTime"]),
    time("ENDED", &["/properties/endTime"]),
    plain("BY", &["/properties/customDetails/affectedObjectDetails/by"]),
];
const TASKS: &[Field] = &[
    plain("TASK", &["/friendlyName", "/name"]),
    plain("STATE", &["/state"]),
    time("BEGUN", &["/started"]),
    time("ENDED", &["/ended"]),
    plain("MESSAGE", &["/error/message", "/message"]),
];
/// Jobs that a beginning of a name is looked for in.
const PREFIX_AMONG: usize = 1000;
const PREFIX_LEN_MIN: usize = 4;

#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// List jobs, the newest first
    List {
        /// Only those in these states
        #[arg(long, value_enum, value_delimiter = ',')]
        state: Vec<JobState>,
        /// Only those of this machine or recovery plan
        #[arg(long, value_name = "NAME")]
        of: Option<String>,
        /// Only so many
        #[arg(long, default_value_t = 50, value_name = "NUMBER")]
        limit: usize,
    },
    /// Show a job with its tasks and errors
    Show {
        /// The job's name, or enough of its beginning
        job: String,
    },
    /// Follow a job to its end; the exit code is 0 only if it succeeded
    Wait {
        /// The job's name, or enough of its beginning
        job: String,
        /// Longest time to wait, in seconds; the job goes on after it
        #[arg(long, default_value_t = 86_400, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        wait_limit: u64,
    },
    /// Give a job up; what it has done is undone as far as it can be
    Cancel {
        /// The job's name, or enough of its beginning
        job: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Go on with a failed job at the task that failed
    Restart {
        /// The job's name, or enough of its beginning
        job: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Confirm the manual action that a job waits for
    Resume {
        /// The job's name, or enough of its beginning
        job: String,
        /// What was done or observed, for the record
        #[arg(long, default_value = "", value_name = "TEXT")]
        comments: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum JobState {
    /// Waits for its turn
    NotStarted,
    /// Runs
    InProgress,
    /// Waits for a person
    Suspended,
    /// All done
    Succeeded,
    /// A task failed
    Failed,
    /// Given up
    Cancelled,
}

pub(crate) fn run(args: &JobArgs) -> anyhow::Result<ExitCode> {
    session::run(&args.session, async |session| match &args.command {
        JobCommand::List { state, of, limit } => {
            let filter = filter(state, of.as_deref());
            let query = filter.as_deref().map(|filter| ("$filter", filter));
            let jobs =
                session.client.list(&session.client.id(path::JOBS), query.as_slice(), Some(*limit)).await?;
            Ok(session.print_list(LIST, &jobs))
        }
        JobCommand::Show { job } => show(&session, job).await,
        JobCommand::Wait { job, wait_limit } => {
            let operation = Operation::of_job(&find(&session, job).await?);
            session.follow(&operation, WaitArgs::until(*wait_limit)).await
        }
        JobCommand::Cancel { job, confirm, wait } => {
            let job = find(&session, job).await?;
            let found = session.client.get(&id(&session, &job)).await?;
            let (what, of) = (
                text_at(&found, "/properties/friendlyName"),
                text_at(&found, "/properties/targetObjectName"),
            );
            confirm.confirm(&format!(
                "The job {job} ({what} of {of}) will be given up; what it has done is undone as far as it can be."
            ))?;
            let code = act(&session, &job, "cancel", json!({}), *wait).await?;
            // It is what was asked for: a cancelled job is this command's success.
            let now = session.client.get(&id(&session, &job)).await?;
            Ok(if JobEnd::of(&now) == Some(JobEnd::Cancelled) { ExitCode::SUCCESS } else { code })
        }
        JobCommand::Restart { job, wait } => {
            let job = find(&session, job).await?;
            act(&session, &job, "restart", json!({}), *wait).await
        }
        JobCommand::Resume { job, comments, wait } => {
            let job = find(&session, job).await?;
            act(&session, &job, "resume", json!({"properties": {"comments": comments}}), *wait).await
        }
    })
}

fn filter(states: &[JobState], of: Option<&str>) -> Option<String> {
    let states: Vec<_> = states.iter().map(|state| format!("{state:?}")).collect();
    let states = (!states.is_empty()).then(|| format!("jobStatus eq '{}'", states.join(",")));
    // A quote within a value is doubled (OData 4.01, ABNF, SQUOTE-in-string).
    let of = of.map(|of| format!("targetObjectName eq '{}'", of.replace('\'', "''")));
    let conditions: Vec<_> = [states, of].into_iter().flatten().collect();
    (!conditions.is_empty()).then(|| conditions.join(" and "))
}

fn id(session: &Session, job: &str) -> String {
    session.client.id(&format!("{}/{}", path::JOBS, path::encode(job)))
}

/// A job's whole name from its beginning.
async fn find(session: &Session, given: &str) -> anyhow::Result<String> {
    let plain = |text: &str| text.replace('-', "").to_ascii_lowercase();
    let wanted = plain(&path::last_name(given));
    if wanted.len() >= 32 {
        return Ok(path::last_name(given));
    }
    if wanted.len() < PREFIX_LEN_MIN {
        bail!("{given:?} is too short for the beginning of a job's name; `switchback job list` shows them");
    }
    let jobs = session.client.list(&session.client.id(path::JOBS), &[], Some(PREFIX_AMONG)).await?;
    let found: Vec<_> = jobs
        .iter()
        .map(|job| text_at(job, "/name"))
        .filter(|name| plain(name).starts_with(&wanted))
        .collect();
    match found[..] {
        [one] => Ok(one.to_owned()),
        [] => bail!("no job's name begins with {given:?}; `switchback job list` shows them"),
        _ => bail!("the names of {} jobs begin with {given:?}; give more of it", found.len()),
    }
}

async fn show(session: &Session, given: &str) -> anyhow::Result<ExitCode> {
    let name = find(session, given).await?;
    let job = session.client.get(&id(session, &name)).await?;
    session.print(LIST, &job);
    if session.is_for_people() {
        let progress = format!("{}/{}", path::JOB_PROGRESS, path::encode(&name));
        let progress = session.client.get(&session.client.id(&progress)).await?;
        let tasks: Vec<_> = tasks(&progress).cloned().collect();
        print!("\n{}{}", super::render::table(TASKS, &tasks), errors(&progress));
    }
    Ok(ExitCode::SUCCESS)
}

async fn act(
    session: &Session,
    job: &str,
    action: &str,
    body: Value,
    wait: WaitArgs,
) -> anyhow::Result<ExitCode> {
    let reply = session.client.post(&format!("{}/{action}", id(session, job)), Some(&body)).await?;
    // The server answers with the job as it is; what was asked for shows in its state a little later.
    let operation = match reply {
        Reply::Started(operation) => operation,
        Reply::Done(_) => Operation::of_job(job),
    };
    session.conclude(Reply::Started(operation), wait, "").await
}

/// How a job ended, for people; the job in our own words.
pub(crate) fn ending(job: &Value, end: JobEnd) -> String {
    let name = path::last_name(id_of(job));
    let object = printable(text_at(job, "/properties/object"));
    let what = text_at(job, "/properties/request/operation/operation");
    let what = if what.is_empty() { text_at(job, "/properties/request/kind") } else { what };
    let head = format!("job {name} ({} {object})", what.replace('-', " "));
    match end {
        JobEnd::Succeeded => format!("{head} succeeded\n"),
        JobEnd::Cancelled => format!("{head} was cancelled\n{}", errors(job)),
        JobEnd::Failed => {
            format!(
                "{head} failed\n{}  When the cause is removed: `switchback job restart {name}`\n",
                errors(job)
            )
        }
        JobEnd::Suspended => {
            let waiting = tasks(job).find(|task| text_at(task, "/state") == "Suspended");
            let instructions =
                waiting.map(|task| format!("{}: {}", title_of(task), printable(text_at(task, "/message"))));
            format!(
                "{head} waits for a person\n  {}\n  When it is done: `switchback job resume {name}`\n",
                instructions.unwrap_or_default()
            )
        }
    }
}

/// The errors of a job's tasks and of the jobs within them: what failed, why, what to do.
fn errors(job: &Value) -> String {
    let mut text = String::new();
    for task in tasks(job) {
        if let Some(error) = task.get("error").filter(|error| !error.is_null()) {
            let part = |pointer| printable(text_at(error, pointer));
            text.push_str(&format!("  {}: {}\n", title_of(task), part("/message")));
            for (title, pointer) in [("likely cause", "/cause"), ("what to do", "/remedy"), ("code", "/code")]
            {
                let said = part(pointer);
                if !said.is_empty() {
                    text.push_str(&format!("    {title}: {said}\n"));
                }
            }
        }
        for child in task.get("children").and_then(Value::as_array).into_iter().flatten() {
            let below = errors(child);
            if !below.is_empty() {
                text.push_str(&format!("  {}:\n{below}", printable(text_at(child, "/properties/object"))));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{JobEnd, JobState, ending, filter};

    #[test]
    fn filters_are_conditions_of_the_contract() {
        assert_eq!(filter(&[], None), None);
        assert_eq!(
            filter(&[JobState::Failed, JobState::InProgress], Some("o'web")).as_deref(),
            Some("jobStatus eq 'Failed,InProgress' and targetObjectName eq 'o''web'")
        );
    }

    #[test]
    fn a_failed_job_says_what_why_and_what_to_do() {
        let error = json!({"code": "failover.no-point", "message": "no recovery point", "cause": "too new", "remedy": "wait"});
        let child = json!({"properties": {"object": "db01", "tasks": [{"name": "Check", "error": error}]}});
        let job = json!({
            "id": "/vaults/v/switchbackJobs/0a1b",
            "properties": {
                "object": "plan1", "request": {"kind": "plan", "operation": {"operation": "unplanned-failover"}},
                "tasks": [{"friendlyName": "Group 1", "error": null, "children": [child]}],
            },
        });
        assert_eq!(
            ending(&job, JobEnd::Failed),
            "job 0a1b (unplanned failover plan1) failed\n  db01:\n  Check: no recovery point\n    likely cause: too new\n    \
             what to do: wait\n    code: failover.no-point\n  When the cause is removed: `switchback job restart 0a1b`\n"
        );
        assert_eq!(ending(&job, JobEnd::Succeeded), "job 0a1b (unplanned failover plan1) succeeded\n");
    }

    #[test]
    fn a_suspended_job_says_whom_it_waits_for() {
        let job = json!({
            "id": "/x/j1",
            "properties": {
                "object": "plan1", "request": {"kind": "plan"},
                "tasks": [{"friendlyName": "DNS", "state": "Suspended", "message": "change the record"}],
            },
        });
        let text = ending(&job, JobEnd::Suspended);
        assert!(text.contains("DNS: change the record") && text.contains("job resume j1"), "{text}");
    }
}
