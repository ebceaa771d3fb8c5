//! The audit log: each request that would change something, with its result.
//!
//! Invariant: a record is made once the answer is known and before the client has it, also when the client has gone away meanwhile. Refusals of
//! a known caller are recorded; a request without a valid token has nobody's name and is only logged, so that strangers cannot fill the store.

use axum::http::{Method, StatusCode};
use switchback_control::Control;
use switchback_model::{AuditRecord, UnixMillis};

/// Longest request line in bytes that is kept.
const REQUEST_LEN_MAX: usize = 1024;

/// Whether a request would change something, or shows a secret.
pub(crate) fn is_recorded(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The line that is kept of a request: method and path. The query and the body may hold secrets, and the names of what was asked for are in
/// the path.
pub(crate) fn request_line(method: &Method, path: &str) -> String {
    let mut line = format!("{method} {path}");
    if line.len() > REQUEST_LEN_MAX {
        let end = (0..=REQUEST_LEN_MAX).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        line.truncate(end);
    }
    line
}

/// Writes a record. When that fails a human must look: something was done that the log does not show.
pub(crate) fn record(control: &Control, time: UnixMillis, by: String, request: String, status: StatusCode) {
    let record = AuditRecord { time, by, request, status: status.as_u16() };
    if let Err(error) = control.record_audit(&record) {
        tracing::error!(%error, by = record.by, request = record.request, status = record.status, "not in the audit log");
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::{is_recorded, request_line};

    #[test]
    fn what_only_looks_is_not_recorded() {
        assert!(!is_recorded(&Method::GET) && !is_recorded(&Method::HEAD));
        for method in [Method::PUT, Method::POST, Method::PATCH, Method::DELETE] {
            assert!(is_recorded(&method), "{method}");
        }
    }

    #[test]
    fn a_line_has_a_limit_and_stays_text() {
        assert_eq!(request_line(&Method::PUT, "/a"), "PUT /a");
        assert_eq!(request_line(&Method::PUT, &"é".repeat(2000)).len(), 1024);
    }
}
