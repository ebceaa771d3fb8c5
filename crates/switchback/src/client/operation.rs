//! Long-running operations: a request was accepted, and a job works on it.
//!
//! The job itself is watched, not the operation's status: it has the same end, and tells how far it is. The pace is the server's
//! (`Retry-After`), within limits. A server that restarts meanwhile is waited for: jobs survive that, and so does watching them.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::header::{self, HeaderMap};
use serde_json::Value;
use tokio::time::Instant;

use super::{Client, ClientError, path};

/// The operation's id is its job's.
const REQUEST_ID: &str = "x-ms-request-id";
/// Where a status is; its last name is the job's.
const ASYNC_OPERATION: &str = "azure-asyncoperation";
/// Between two looks when the server does not say.
const PACE: Duration = Duration::from_secs(1);
/// Jobs within a job that are looked at each time; those beyond show without their tasks.
const CHILDREN_MAX: usize = 64;
/// A server may not make us hurry more, or sleep longer.
const PACE_MIN: Duration = Duration::from_millis(250);
const PACE_MAX: Duration = Duration::from_secs(30);

/// Work that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The job's name.
    pub job: String,
    pace: Option<Duration>,
}

/// How long to wait for a job.
#[derive(Clone, Copy, Debug)]
pub struct WaitOptions {
    /// For its end.
    pub limit: Duration,
    /// For a server that does not answer.
    pub silence_max: Duration,
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self { limit: Duration::from_secs(24 * 3600), silence_max: Duration::from_secs(300) }
    }
}

/// How a job ended, or that it waits for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// All done.
    Succeeded,
    /// It failed; it can be restarted.
    Failed,
    /// It was given up.
    Cancelled,
    /// It waits until somebody confirms a manual action.
    Suspended,
}

impl JobEnd {
    /// Of a job's resource; `None`: it goes on.
    #[must_use]
    pub fn of(job: &Value) -> Option<Self> {
        match path::text_at(job, "/properties/state") {
            "Succeeded" => Some(Self::Succeeded),
            "Failed" => Some(Self::Failed),
            "Cancelled" => Some(Self::Cancelled),
            "Suspended" => Some(Self::Suspended),
            _ => None,
        }
    }
}

impl Operation {
    /// From the headers of a 202.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let named = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let request = named(REQUEST_ID).filter(|id| id.to_ascii_lowercase().contains("/replicationjobs/"));
        let status = || named(ASYNC_OPERATION).and_then(|link| link.split('?').next());
        let id = request.or_else(status).filter(|id| !id.ends_with('/'))?;
        Some(Self { job: path::last_name(id), pace: retry_after(headers) })
    }

    /// A job that is known by its name.
    #[must_use]
    pub fn of_job(job: &str) -> Self {
        Self { job: job.to_owned(), pace: None }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).clamp(PACE_MIN, PACE_MAX))
}

impl Client {
    /// Watches a job until it ends or waits for a person; tells each look to `seen`: the job in our own words, with the jobs that are part of a
    /// task under its `children`.
    ///
    /// # Errors
    /// [`ClientError::StillRunning`] after the limit; else as for every request, but what passes is waited for.
    pub async fn wait(
        &self,
        operation: &Operation,
        options: WaitOptions,
        mut seen: impl FnMut(Result<&Value, &ClientError>),
    ) -> Result<(Value, JobEnd), ClientError> {
        let begun = Instant::now();
        let mut heard = begun;
        let mut ended = HashMap::new();
        loop {
            match self.look(&operation.job, &mut ended).await {
                Ok(job) => {
                    heard = Instant::now();
                    seen(Ok(&job));
                    if let Some(end) = JobEnd::of(&job) {
                        return Ok((job, end));
                    }
                }
                Err(error) if error.is_passing() && heard.elapsed() < options.silence_max => {
                    seen(Err(&error))
                }
                Err(error) => return Err(error),
            }
            let Some(left) = options.limit.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) else {
                let seconds = options.limit.as_secs();
                return Err(ClientError::StillRunning { job: operation.job.clone(), seconds });
            };
            tokio::time::sleep(operation.pace.unwrap_or(PACE).min(left)).await;
        }
    }

    /// A job with its children; those that have ended are not asked for again.
    async fn look(&self, name: &str, ended: &mut HashMap<String, Value>) -> Result<Value, ClientError> {
        let id = |name: &str| self.id(&format!("{}/{}", path::JOB_PROGRESS, path::encode(name)));
        let mut job = self.get(&id(name)).await?;
        let tasks = job.pointer_mut("/properties/tasks").and_then(Value::as_array_mut);
        let mut looked = 0;
        for task in tasks.into_iter().flatten() {
            let mut children = Vec::new();
            for child in
                task.get("jobs").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
            {
                if let Some(known) = ended.get(child) {
                    children.push(known.clone());
                } else if looked < CHILDREN_MAX {
                    looked += 1;
                    let found = self.get(&id(child)).await?;
                    if JobEnd::of(&found).is_some_and(|end| end != JobEnd::Suspended) {
                        ended.insert(child.to_owned(), found.clone());
                    }
                    children.push(found);
                }
            }
            if let Some(task) = task.as_object_mut().filter(|_| !children.is_empty()) {
                task.insert("children".into(), children.into());
            }
        }
        Ok(job)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
    use serde_json::json;

    use super::{JobEnd, Operation};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_job_is_named_by_the_request_id_or_else_by_the_status() {
        let request = headers(&[("x-ms-request-id", "/vaults/v/replicationJobs/j1"), ("retry-after", "2")]);
        assert_eq!(
            Operation::of(&request),
            Some(Operation { job: "j1".into(), pace: Some(Duration::from_secs(2)) })
        );
        let status = headers(&[
            ("x-ms-request-id", "0f0f"),
            ("azure-asyncoperation", "https://cs/vaults/v/replicationOperationStatus/j2?api-version=1"),
        ]);
        assert_eq!(Operation::of(&status), Some(Operation { job: "j2".into(), pace: None }));
        assert_eq!(Operation::of(&headers(&[("x-ms-request-id", "0f0f")])), None);
    }

    #[test]
    fn the_servers_pace_has_limits() {
        let pace = |text| {
            Operation::of(&headers(&[("x-ms-request-id", "/replicationJobs/j"), ("retry-after", text)]))
                .unwrap()
                .pace
        };
        assert_eq!(pace("0"), Some(super::PACE_MIN));
        assert_eq!(pace("86400"), Some(super::PACE_MAX));
        assert_eq!(pace("soon"), None);
    }

    #[test]
    fn a_job_that_waits_for_a_person_ends_the_waiting() {
        let end = |state: &str| JobEnd::of(&json!({ "properties": { "state": state } }));
        assert_eq!(end("InProgress"), None);
        assert_eq!(end("NotStarted"), None);
        assert_eq!(end("Suspended"), Some(JobEnd::Suspended));
        assert_eq!(end("Failed"), Some(JobEnd::Failed));
    }
}
