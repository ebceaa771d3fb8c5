//! `switchback machine readiness`: whether a machine could fail over and come home, check by check.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::super::checks;
use super::super::render;
use super::super::session::Session;
use crate::client::path::{self, text_at};

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
            let found = readiness.pointer(&format!("/properties/{direction}/checks"));
            print!("{}", checks::shown(found.and_then(Value::as_array).map_or(&[], Vec::as_slice)));
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
