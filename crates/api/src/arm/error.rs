//! Refusals in Azure Resource Manager's shape: `{"error":{"code","message"}}`.
//!
//! What does not exist has the code that Azure has for it. Resource Manager's own: `SubscriptionNotFound`, `ResourceGroupNotFound`, `ResourceNotFound` (the
//! vault), `InvalidResourceType`. In the vault, Site Recovery's: `NotFound`, and what exactly under `details`, with causes and action (as in
//! <https://github.com/hashicorp/terraform-provider-azurerm/issues/11180>): a code of ours, or its own where it is known (`FabricArmEntityMissing`).
//!
//! Invariant: every answer that is no success has this shape, whoever refuses: the router, a limit, the control plane. Possible causes and the
//! recommended action are in the message, because Microsoft's clients show nothing else, and again apart from it in `additionalInfo`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use switchback_control::{ControlError, ErrorKind};
use switchback_model::JobError;

/// A refusal, for those who ask without HTTP.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {error}")]
pub struct Refusal {
    /// The HTTP status it would be.
    pub status: StatusCode,
    /// What failed, why, and what to do.
    pub error: Box<JobError>,
    /// Seconds after which trying again makes sense.
    pub retry_after_s: Option<u64>,
}

impl From<ArmError> for Refusal {
    fn from(refusal: ArmError) -> Self {
        let ArmError { status, error, retry_after_s, .. } = refusal;
        Self { status, error, retry_after_s }
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        ArmError::from(error).into()
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {error}")]
pub(crate) struct ArmError {
    pub(crate) status: StatusCode,
    pub(crate) error: Box<JobError>,
    /// Seconds after which trying again makes sense.
    retry_after_s: Option<u64>,
    /// The code that the contract has for all of its kind; the error's own goes under `details`.
    contract_code: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    possible_causes: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    recommended_action: &'a str,
}

/// What Site Recovery says of all that is not in a vault.
const NOT_FOUND: (StatusCode, &str) = (StatusCode::NOT_FOUND, "NotFound");
/// What `additionalInfo` says that its `info` is.
const INFO_TYPE: &str = "SwitchbackError";

impl ArmError {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let error = JobError {
            code: code.into(),
            message: message.into(),
            cause: String::new(),
            remedy: String::new(),
        };
        Self { status, error: Box::new(error), retry_after_s: None, contract_code: None }
    }

    /// The request makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidRequestContent", message)
    }

    /// There is no such resource.
    pub(crate) fn not_found(what: &str, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "ResourceNotFound", format!("there is no {what} {name:?}"))
    }

    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.error.cause = cause.into();
        self
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.error.remedy = remedy.into();
        self
    }

    pub(crate) const fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Seconds after which trying again makes sense, if that was said.
    #[cfg(test)]
    pub(crate) const fn retry_after_s(&self) -> Option<u64> {
        self.retry_after_s
    }

    /// A job's failure as the final answer of its operation.
    pub(crate) fn of_job(error: JobError) -> Self {
        Self {
            status: StatusCode::CONFLICT,
            error: Box::new(error),
            retry_after_s: None,
            contract_code: None,
        }
    }

    /// As Site Recovery answers it, when the resource at `path` is one of the contract.
    pub(crate) fn of_contract(mut self, path: &str) -> Self {
        let (status, code) = NOT_FOUND;
        if self.status == status && is_in_contract(path) {
            self.contract_code = Some(code);
        }
        self
    }

    fn body(&self) -> serde_json::Value {
        let mut error = error_object(&self.error);
        if let Some(code) = self.contract_code {
            error["details"] =
                serde_json::json!([Info { code: Some(&self.error.code), ..Info::of(&self.error) }]);
            error["code"] = code.into();
        }
        serde_json::json!({ "error": error })
    }
}

impl<'a> Info<'a> {
    fn of(error: &'a JobError) -> Self {
        let JobError { message, cause, remedy, .. } = error;
        Self { code: None, message, possible_causes: cause, recommended_action: remedy }
    }
}

/// Whether a normalised path is in a vault, and not one of our own resources there.
fn is_in_contract(path: &str) -> bool {
    let mut segments = path.split('/').skip(1);
    let is_vault = segments.nth(6) == Some("vaults");
    is_vault && segments.nth(1).is_some_and(|kind| !kind.starts_with("switchback"))
}

/// The error object that goes under `error`, also of an operation's status.
pub(crate) fn error_object(error: &JobError) -> serde_json::Value {
    let info = Info::of(error);
    serde_json::json!({
        "code": error.code,
        "message": message_of(error),
        "additionalInfo": [{ "type": INFO_TYPE, "info": info }],
    })
}

/// Everything that is known, in the order that Azure Site Recovery has it.
pub(crate) fn message_of(error: &JobError) -> String {
    let mut message = error.message.clone();
    for (title, text) in [("Possible causes", &error.cause), ("Recommended action", &error.remedy)] {
        if !text.is_empty() {
            message.push_str(&format!("\n{title}: {text}"));
        }
    }
    message
}

impl From<ControlError> for ArmError {
    fn from(refusal: ControlError) -> Self {
        let status = match refusal.kind {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict | ErrorKind::IllegalState => StatusCode::CONFLICT,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error: refusal.error, retry_after_s: None, contract_code: None }
    }
}

impl IntoResponse for ArmError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use switchback_control::{ControlError, ErrorKind};

    use super::{ArmError, error_object};

    #[test]
    fn each_kind_of_refusal_has_its_status() {
        let status = |kind| ArmError::from(ControlError::new(kind, "a.b", "c")).status.as_u16();
        let kinds = [
            (ErrorKind::Invalid, 400),
            (ErrorKind::NotFound, 404),
            (ErrorKind::Conflict, 409),
            (ErrorKind::IllegalState, 409),
            (ErrorKind::Forbidden, 403),
            (ErrorKind::Unavailable, 503),
            (ErrorKind::Internal, 500),
        ];
        for (kind, expected) in kinds {
            assert_eq!(status(kind), expected, "{kind:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_told_as_site_recovery_does_and_ours_is_not_lost() {
        let vault = "/subscriptions/s/resourcegroups/g/providers/microsoft.recoveryservices/vaults/v";
        let refused = |kind, path: &str| {
            let error = ControlError::new(kind, "job.not-found", "no job").cause("gone").remedy("list");
            ArmError::from(error).of_contract(&format!("{vault}{path}")).body()["error"].clone()
        };
        let told = refused(ErrorKind::NotFound, "/replicationjobs/j");
        let ours = serde_json::json!({
            "code": "job.not-found", "message": "no job", "possibleCauses": "gone", "recommendedAction": "list" });
        assert_eq!((&told["code"], &told["details"]), (&"NotFound".into(), &serde_json::json!([ours])));
        assert!(told["message"].as_str().unwrap().contains("Possible causes: gone"), "{told}");
        for (kind, path) in [
            (ErrorKind::NotFound, "/switchbackjobs/j"),
            (ErrorKind::NotFound, ""),
            (ErrorKind::Conflict, "/replicationjobs/j"),
        ] {
            let told = refused(kind, path);
            assert_eq!((&told["code"], told.get("details")), (&"job.not-found".into(), None), "{path}");
        }
    }

    #[test]
    fn cause_and_remedy_are_in_the_message_and_apart_from_it() {
        let error =
            ArmError::new(StatusCode::CONFLICT, "x.y", "it failed").cause("the disk").remedy("buy one");
        assert_eq!(
            error_object(&error.error),
            serde_json::json!({
                "code": "x.y",
                "message": "it failed\nPossible causes: the disk\nRecommended action: buy one",
                "additionalInfo": [{ "type": "SwitchbackError", "info": {
                    "message": "it failed", "possibleCauses": "the disk", "recommendedAction": "buy one" } }],
            })
        );
        let plain = error_object(&ArmError::invalid("no").error);
        assert_eq!(plain["message"], "no");
        assert_eq!(plain["additionalInfo"][0]["info"], serde_json::json!({ "message": "no" }));
    }
}
