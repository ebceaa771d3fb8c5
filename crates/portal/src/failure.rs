//! Why there is no page: the API's refusals and the control plane's errors, in one shape.

use axum::http::StatusCode;
use switchback_api::Refusal;
use switchback_control::ControlError;
use switchback_model::JobError;

/// Why there is no page.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) Refusal);

impl Failure {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let error = JobError {
            code: code.into(),
            message: message.into(),
            cause: String::new(),
            remedy: String::new(),
        };
        Self(Refusal { status, error: Box::new(error), retry_after_s: None })
    }

    /// What was asked for makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "portal.invalid", message)
    }

    pub(crate) fn not_found(what: &str, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "portal.not-found", format!("there is no {what} {name:?}"))
    }

    /// A bug, or the system fails; `detail` goes into the log.
    pub(crate) fn internal(detail: &dyn std::fmt::Display) -> Self {
        tracing::error!(%detail, "a page of the portal failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "portal.internal", "the page cannot be shown")
            .cause("a bug in the configuration server")
            .remedy("see the configuration server's log")
    }

    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.0.error.cause = cause.into();
        self
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.error.remedy = remedy.into();
        self
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self(error.into())
    }
}

impl From<askama::Error> for Failure {
    fn from(error: askama::Error) -> Self {
        Self::internal(&error)
    }
}
