//! Readiness checks for people: a table, and below it what to do about those that did not pass.

use serde_json::Value;

use super::render::{self, Field, plain};
use crate::client::path::text_at;

const CHECKS: &[Field] = &[
    plain("STATE", &["/state"]),
    plain("CHECK", &["/title"]),
    plain("FOUND", &["/facts"]),
    plain("CODE", &["/code"]),
];

/// All of them.
pub(crate) fn shown(checks: &[Value]) -> String {
    let raised = checks.iter().filter(|check| check["state"] != "passed");
    std::iter::once(render::table(CHECKS, checks)).chain(raised.map(advice)).collect()
}

/// Cause and remedy of a check that did not pass.
fn advice(check: &Value) -> String {
    let mut text = format!("{}: {}\n", text_at(check, "/title"), text_at(check, "/facts"));
    for (title, pointer) in [("likely cause", "/cause"), ("what to do", "/remedy")] {
        let said = text_at(check, pointer);
        if !said.is_empty() {
            text.push_str(&format!("  {title}: {said}\n"));
        }
    }
    render::printable(&text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{advice, shown};

    #[test]
    fn what_did_not_pass_is_told_with_what_to_do() {
        let check = json!({"title": "T", "facts": "F", "cause": "", "remedy": "R"});
        assert_eq!(advice(&check), "T: F\n  what to do: R\n");
    }

    #[test]
    fn what_passed_needs_no_advice() {
        let passed = json!({"state": "passed", "title": "P", "facts": "F", "code": "c", "remedy": ""});
        let failed = json!({"state": "failed", "title": "Q", "facts": "G", "code": "d", "remedy": "R"});
        let text = shown(&[passed, failed]);
        assert!(text.ends_with("Q: G\n  what to do: R\n") && !text.contains("P: F"), "{text}");
    }
}
