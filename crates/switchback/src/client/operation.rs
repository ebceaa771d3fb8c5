//! Long-running operations: a request was accepted, and a job works on it.
//!
//! The job itself is watched, not the operation's status: it has the same end, and tells how far it is. The pace is the server's
//! (`Retry-After`), within limits. A server that restarts meanwhile is waited for: jobs survive that, and so does watching them.

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
            "Succeeded" | "CompletedWithInformation" => Some(Self::Succeeded),
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
        let job = path::last_name(request.or_else(status)?);
        (!job.is_empty()).then(|| Self { job, pace: retry_after(headers) })
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
    /// Watches a job until it ends or waits for a person; tells each look to `seen`.
    ///
    /// # Errors
    /// [`ClientError::StillRunning`] after the limit; else as for every request, but what passes is waited for.
    pub async fn wait(
        &self,
        operation: &Operation,
        options: WaitOptions,
        mut seen: impl FnMut(Result<&Value, &ClientError>),
    ) -> Result<(Value, JobEnd), ClientError> {
        let id = self.id(&format!("{}/{}", path::JOBS, path::encode(&operation.job)));
        let begun = Instant::now();
        let mut heard = begun;
        loop {
            match self.get(&id).await {
                Ok(job) => {
                    heard = Instant::now();
                    seen(Ok(&job));
                    if let Some(end) = JobEnd::of(&job) {
                        return Ok((job, end));
                    }
                }
                Err(error) if error.is_passing() && heard.elapsed() < options.silence_max => seen(Err(&error)),
                Err(error) => return Err(error),
            }
            if begun.elapsed() >= options.limit {
                return Err(ClientError::StillRunning {
                    job: operation.job.clone(),
                    seconds: options.limit.as_secs(),
                });
            }
            let left = options.limit.saturating_sub(begun.elapsed());
            tokio::time::sleep(operation.pace.unwrap_or(PACE).min(left)).await;
        }
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
        assert_eq!(Operation::of(&request), Some(Operation { job: "j1".into(), pace: Some(Duration::from_secs(2)) }));
        let status = headers(&[
            ("x-ms-request-id", "0f0f"),
            ("azure-asyncoperation", "https://cs/vaults/v/replicationOperationStatus/j2?api-version=1"),
        ]);
        assert_eq!(Operation::of(&status), Some(Operation { job: "j2".into(), pace: None }));
        assert_eq!(Operation::of(&headers(&[("x-ms-request-id", "0f0f")])), None);
    }

    #[test]
    fn the_servers_pace_has_limits() {
        let pace = |text| Operation::of(&headers(&[("x-ms-request-id", "/replicationJobs/j"), ("retry-after", text)])).unwrap().pace;
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
