//! `switchbackAudit`: who asked for what and how it was answered, newest first. Records have no identity, so this is no resource but a list.

use serde_json::json;
use switchback_control::Control;

use crate::arm::{Answer, ArmError, Call, show_time};
use crate::openapi::operation::{Operation, get};
use crate::openapi::schema::{count, count_within, list as many, object, text, time, titled};

/// Records shown when nothing is said, and at most.
const LIMIT: usize = 200;
const LIMIT_MAX: usize = 10_000;

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let record =
        object([("time", time()), ("by", text()), ("request", text()), ("status", count_within(100, 599))]);
    let records = object([("value", many(titled("SwitchbackAuditRecord", record)))]);
    vec![
        get("switchbackAudit", list, "Who asked for what and how it was answered, newest first.", records)
            .query("$top", count(), "records at most"),
    ]
}

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
