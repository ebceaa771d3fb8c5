//! `switchback machine readiness`: whether a machine could fail over and come home, check by check.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::super::render::{self, Field, plain};
use super::super::session::Session;
use crate::client::path::{self, text_at};

const CHECKS: &[Field] = &[
    plain("STATE", &["/state"]),
    plain("CHECK", &["/title"]),
    plain("FOUND", &["/facts"]),
    plain("CODE", &["/code"]),
];

#[derive(Debug, Args)]
pub(super) struct ReadinessArgs {
    /// The protected machine
    machine: String,
}

/// The exit code tells whether nothing failed.
pub(super) async fn run(session: &Session, args: &ReadinessArgs) -> anyhow::Result<ExitCode> {
    let id = session.client.id(&format!("{}/{}/readiness", path::MACHINES, path::encode(&args.machine)));
    let readiness = session.client.get(&id).await?;
    let failed = ["failover", "failback"].iter().any(|direction| state(&readiness, direction) == "failed");
    if session.is_for_people() {
        for (direction, title) in [("failover", "To the recovery site"), ("failback", "Home")] {
            println!("{title}: {}", state(&readiness, direction));
            let checks = readiness.pointer(&format!("/properties/{direction}/checks"));
            let checks = checks.and_then(Value::as_array).cloned().unwrap_or_default();
            print!("{}", render::list(session.format, CHECKS, &checks));
            for check in checks.iter().filter(|check| check["state"] != "passed") {
                print!("{}", advice(check));
            }
            println!();
        }
    } else {
        print!("{}", render::json(&readiness));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn state<'a>(readiness: &'a Value, direction: &str) -> &'a str {
    text_at(readiness, &format!("/properties/{direction}/state"))
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

    use super::advice;

    #[test]
    fn what_did_not_pass_is_told_with_what_to_do() {
        let check = json!({"title": "T", "facts": "F", "cause": "", "remedy": "R"});
        assert_eq!(advice(&check), "T: F\n  what to do: R\n");
    }
}
