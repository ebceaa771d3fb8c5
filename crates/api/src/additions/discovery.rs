//! `GET /`: where the vault is and what is spoken, without a token and without an api-version.

use serde_json::json;
use switchback_control::Control;

use crate::arm::{Answer, ArmError, Call, VERSIONS};

#[expect(clippy::unnecessary_wraps, reason = "handlers have one shape")]
pub(crate) fn get(_: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(json!({
        "service": "switchback",
        "build": call.server.build,
        "vault": call.vault.id(),
        "apiVersions": VERSIONS,
    })))
}
