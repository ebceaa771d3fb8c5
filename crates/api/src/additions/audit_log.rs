//! `switchbackAudit`: who asked for what and how it was answered, newest first. Records have no identity, so this is no resource but a list.

use serde_json::json;
use switchback_control::Control;

use crate::arm::{Answer, ArmError, Call, show_time};

/// Records shown when nothing is said, and at most.
const LIMIT: usize = 200;
const LIMIT_MAX: usize = 10_000;

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let limit = match call.query("$top") {
        None => LIMIT,
        Some(text) => {
            text.parse().map_err(|_| ArmError::invalid(format!("$top must be a number, not {text:?}")))?
        }
    };
    let records = control.audit(limit.min(LIMIT_MAX))?.into_iter();
    let records: Vec<_> = records
        .map(|record| json!({ "time": show_time(record.time), "by": record.by, "request": record.request, "status": record.status }))
        .collect();
    Ok(Answer::Ok(json!({ "value": records })))
}
