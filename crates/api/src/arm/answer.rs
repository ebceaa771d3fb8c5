//! What a handler answers, and how that goes onto the wire; above all the contract's long-running operations.
//!
//! ```text
//! POST …/unplannedFailover             → 202, empty, Retry-After, Location, Azure-AsyncOperation, x-ms-request-id
//! GET  (Azure-AsyncOperation)          → 200 {"status":"InProgress"}, Retry-After … 200 {"status":"Succeeded"}
//! GET  (Location) …/operationresults/  → 202 while it runs; then 200 and the resource, 204 when that is gone, or the job's error
//! ```
//! Invariant: once the status is final, the Location answers at once with the result: clients do not poll it again.

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use switchback_model::JobId;

use super::call::Call;
use super::error::ArmError;
use super::id::job_name;

/// Where an operation's status is.
pub(crate) const ASYNC_OPERATION: HeaderName = HeaderName::from_static("azure-asyncoperation");
/// What tells one request from another; of an operation, its job's id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
/// The media type of pictures.
pub(crate) const PNG: &str = "image/png";
/// Seconds between two looks at an operation. The service says 30; ours are often done in less.
pub(crate) const RETRY_AFTER_S: u64 = 2;

/// An answer.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    /// 200 with a resource, a list or a status.
    Ok(Value),
    /// 200 with the status of an operation that is not over. It says when to look again, or clients wait as long as they like: half a minute.
    InProgress(Value),
    /// 200 with plain text.
    Text(String),
    /// 200 with a file.
    File {
        /// What it is.
        media_type: &'static str,
        /// What is in it.
        bytes: Vec<u8>,
    },
    /// 202: a job works on it.
    Accepted {
        /// The resource that it works on.
        resource: String,
        /// The job.
        job: JobId,
    },
    /// 204: it is gone.
    NoContent,
}

impl Answer {
    /// 200 with something that becomes JSON.
    pub(crate) fn of(value: &impl Serialize) -> Result<Self, ArmError> {
        serde_json::to_value(value).map(Self::Ok).map_err(|error| {
            ArmError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "InternalServerError",
                format!("the answer cannot be written: {error}"),
            )
        })
    }

    pub(crate) fn into_response(self, call: &Call) -> Response {
        match self {
            Self::Ok(value) => Json(value).into_response(),
            Self::InProgress(status) => {
                ([(header::RETRY_AFTER, RETRY_AFTER_S.to_string())], Json(status)).into_response()
            }
            Self::Text(text) => text.into_response(),
            Self::File { media_type, bytes } => ([(header::CONTENT_TYPE, media_type)], bytes).into_response(),
            Self::NoContent => StatusCode::NO_CONTENT.into_response(),
            Self::Accepted { resource, job } => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::ACCEPTED;
                operation_headers(response.headers_mut(), call, &resource, job);
                response
            }
        }
    }
}

fn operation_headers(headers: &mut HeaderMap, call: &Call, resource: &str, job: JobId) {
    let name = job_name(job);
    let vault = call.vault.id();
    let addresses = [
        (header::LOCATION, call.link(&format!("{resource}/operationresults/{name}"))),
        (ASYNC_OPERATION, call.link(&format!("{vault}/replicationOperationStatus/{name}"))),
        (REQUEST_ID, call.vault.job(job)),
    ];
    headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    for (header, text) in addresses {
        // Names are percent-encoded, so this holds.
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(header, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{Response, header};
    use serde_json::Value;
    use switchback_model::JobId;

    use super::{ASYNC_OPERATION, Answer, REQUEST_ID, RETRY_AFTER_S};
    use crate::arm::call::Call;

    const RECORDED: &str = include_str!("../../tests/contract/recorded.json");

    fn text<'a, B>(response: &'a Response<B>, name: &header::HeaderName) -> &'a str {
        response.headers()[name].to_str().unwrap()
    }

    /// A pattern with `{…}` for any segment, and `...` for any beginning.
    fn matches(pattern: &str, text: &str) -> bool {
        let path = |text: &str| {
            let text = text.to_ascii_lowercase();
            let start = text.find("/vaults/").unwrap_or(0);
            text[start..].split('?').next().unwrap_or_default().to_owned()
        };
        let (pattern, text) = (path(pattern), path(text));
        let (pattern, text): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), text.split('/').collect());
        pattern.len() == text.len()
            && pattern.iter().zip(&text).all(|(want, have)| want.starts_with('{') || want == have)
    }

    #[tokio::test]
    async fn an_accepted_operation_has_the_headers_that_were_recorded() {
        let recorded: Value = serde_json::from_str(RECORDED).unwrap();
        let call = Call::for_test("/x", "", 1);
        let job = JobId(*b"0123456789abcdef");
        let home = "home".parse().unwrap();
        let resource = call.vault.protected_item(&home, &"web01".parse().unwrap());
        let response = Answer::Accepted { resource, job }.into_response(&call);
        assert_eq!(response.status(), 202);
        assert_eq!(text(&response, &header::CONTENT_LENGTH), "0");
        assert_eq!(text(&response, &header::RETRY_AFTER), RETRY_AFTER_S.to_string());
        let lro = &recorded["lro"];
        for (name, header) in [("Location", header::LOCATION), ("Azure-AsyncOperation", ASYNC_OPERATION)] {
            let ours = text(&response, &header);
            assert!(matches(lro[name].as_str().unwrap(), ours), "{ours}");
            assert!(
                ours.starts_with("https://cs.example:443/") && ours.ends_with("?api-version=2024-04-01"),
                "{ours}"
            );
            assert!(ours.contains("30313233-3435-3637-3839-616263646566"), "{ours}");
        }
        assert!(matches(lro["x-ms-request-id"].as_str().unwrap(), text(&response, &REQUEST_ID)));
        let body = axum::body::to_bytes(response.into_body(), 1).await.unwrap();
        assert!(body.is_empty());
    }
}
