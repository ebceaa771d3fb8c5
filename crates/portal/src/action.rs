//! From a form to the API: what a page asks for is put through the API's own router, in process, with the token of whoever is signed in.
//!
//! Invariant: nothing is changed in another way. So roles, validation, limits and the audit log are the API's, and a refusal is shown in its words.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use serde_json::Value;
use switchback_api::Refusal;
use switchback_model::JobError;
use tower::ServiceExt as _;
use zeroize::Zeroizing;

use crate::Portal;
use crate::failure::Failure;
use crate::visit::Visit;

/// The version of the contract that the portal speaks.
const VERSION: &str = "2024-04-01";
/// Bytes of an answer of the API that are read.
const ANSWER_LEN_MAX: usize = 4 << 20;

/// With whose token the API is asked, and from where.
#[derive(Clone)]
pub(crate) struct Sender {
    pub(crate) token: Arc<Zeroizing<String>>,
    pub(crate) address: Option<ConnectInfo<SocketAddr>>,
}

/// A request of the API, and where it leads.
#[derive(Debug)]
pub(crate) struct Act {
    pub(crate) method: Method,
    /// A resource's id, and an action of it.
    pub(crate) path: String,
    pub(crate) body: Value,
    pub(crate) then: Then,
}

/// What is shown when the API has done it, or has begun to.
#[derive(Debug)]
pub(crate) enum Then {
    /// A page of the portal.
    To(String),
    /// The job that does it.
    Job,
    /// A page made of the answer: for what is shown once.
    Page(fn(&Visit, &Value) -> Result<String, Failure>),
}

impl Act {
    /// An action on a resource; its `properties`.
    pub(crate) fn post(path: String, properties: Value, then: Then) -> Self {
        Self::with(Method::POST, path, properties, then)
    }

    /// A resource is made, or made otherwise; its `properties`.
    pub(crate) fn put(path: String, properties: Value, then: Then) -> Self {
        Self::with(Method::PUT, path, properties, then)
    }

    /// Some `properties` of a resource changed.
    pub(crate) fn patch(path: String, properties: Value, then: Then) -> Self {
        Self::with(Method::PATCH, path, properties, then)
    }

    /// A resource deleted.
    pub(crate) fn delete(path: String, then: Then) -> Self {
        Self::with(Method::DELETE, path, Value::Null, then)
    }

    fn with(method: Method, path: String, properties: Value, then: Then) -> Self {
        Self { method, path, body: serde_json::json!({ "properties": properties }), then }
    }
}

/// Asks the API, and answers with what is to be seen then.
pub(crate) async fn send(
    portal: &Portal,
    visit: &Visit,
    sender: Sender,
    act: Act,
) -> Result<Response, Failure> {
    let uri = format!("{}?api-version={VERSION}", act.path);
    let mut token = HeaderValue::from_str(&format!("Bearer {}", sender.token.as_str()))
        .map_err(|error| Failure::internal(&error))?;
    token.set_sensitive(true);
    let request = Request::builder().method(act.method).uri(uri).header(header::AUTHORIZATION, token);
    let request =
        request.header(header::CONTENT_TYPE, "application/json").body(Body::from(act.body.to_string()));
    let mut request = request.map_err(|error| Failure::internal(&error))?;
    if let Some(address) = sender.address {
        request.extensions_mut().insert(address);
    }
    let answer = match portal.contract.clone().oneshot(request).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    };
    let (parts, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, ANSWER_LEN_MAX).await.map_err(|error| Failure::internal(&error))?;
    if !parts.status.is_success() {
        return Err(refusal(parts.status, &parts.headers, &body).into());
    }
    tracing::debug!(caller = visit.caller, status = parts.status.as_u16(), "asked for in the portal");
    Ok(match act.then {
        Then::To(there) => Redirect::to(&there).into_response(),
        Then::Job => Redirect::to(&job_page(&parts.headers)).into_response(),
        Then::Page(view) => {
            let answer = serde_json::from_slice(&body).map_err(|error| Failure::internal(&error))?;
            Html(view(visit, &answer)?).into_response()
        }
    })
}

/// The page of the job that an accepted request has made; that of all jobs, where it has made none.
fn job_page(headers: &HeaderMap) -> String {
    let operation = headers.get("azure-asyncoperation").and_then(|value| value.to_str().ok());
    let path = operation.and_then(|operation| operation.split('?').next()).unwrap_or_default();
    let job = path.rsplit('/').next().unwrap_or_default().replace('-', "");
    if job.is_empty() { "/portal/jobs".into() } else { format!("/portal/jobs/{job}") }
}

/// What the API refused, in its words.
fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let error = &body["error"];
    let info = &error["additionalInfo"][0]["info"];
    let message = if info["message"].is_string() { text(&info["message"]) } else { text(&error["message"]) };
    let error = JobError {
        code: text(&error["code"]),
        message: if message.is_empty() { format!("the API refused it: {status}") } else { message },
        cause: text(&info["possibleCauses"]),
        remedy: text(&info["recommendedAction"]),
    };
    let retry_after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Refusal { status, error: Box::new(error), retry_after_s: retry_after }
}

/// What a form chose of servers and datastore, into a request's details; what it left open the control plane finds.
pub(crate) fn choices(visit: &Visit, details: &mut Value) {
    for (field, name) in [
        ("masterTargetId", "master-target"),
        ("processServerId", "process-server"),
        ("datastoreName", "datastore"),
    ] {
        if !visit.field(name).is_empty() {
            details[field] = visit.field(name).into();
        }
    }
}
