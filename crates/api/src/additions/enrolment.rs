//! `switchbackEnrolment/default/showPassphrase`: the passphrase with which components enrol. It is a POST, so that the audit log tells who saw it.

use serde_json::json;
use switchback_control::{Control, ControlError};

use crate::arm::{Answer, ArmError, Call};
use crate::openapi::operation::{Operation, post};
use crate::openapi::schema::{object, text, titled};

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let answer = titled("SwitchbackPassphrase", object([("passphrase", text())]));
    let summary = "The passphrase with which components enrol.";
    vec![post("switchbackEnrolment/default/showPassphrase", show_passphrase, summary, answer)]
}

pub(crate) fn show_passphrase(_: &Control, call: &Call) -> Result<Answer, ArmError> {
    let authority = call.server.authority.as_ref().ok_or_else(|| {
        ArmError::not_found("enrolment passphrase", "default")
            .cause("this configuration server was started without one")
    })?;
    let passphrase = authority.passphrase().map_err(ControlError::from)?;
    Ok(Answer::Ok(json!({ "passphrase": passphrase.reveal().as_str() })))
}
