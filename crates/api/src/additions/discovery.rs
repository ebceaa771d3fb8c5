//! `GET /`: where the vault is and what is spoken, without a token and without an api-version.

use serde_json::json;
use switchback_control::Control;

use crate::arm::{Answer, ArmError, Call, VERSIONS};
use crate::openapi::operation::{Operation, get as show_one};
use crate::openapi::schema::{list, object, text, titled};

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let shown =
        object([("service", text()), ("build", text()), ("vault", text()), ("apiVersions", list(text()))]);
    vec![show_one("/", get, "Where the vault is; no token needed.", titled("SwitchbackDiscovery", shown))]
}

#[expect(clippy::unnecessary_wraps, reason = "handlers have one shape")]
pub(crate) fn get(_: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(json!({
        "service": "switchback",
        "build": call.server.build,
        "vault": call.vault.id(),
        "apiVersions": VERSIONS,
    })))
}
