//! `switchback machine wait`: until a machine has its first recovery point in the direction it replicates in.
//!
//! The job of a protect or a reprotect ends when replication has begun; how far the data has come is the machine's own progress.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use switchback_model::ByteSize;

use super::super::session::Session;
use super::{SHOW, shown};
use crate::client::path::text_at;

/// Between two looks.
const PACE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct WaitedArgs {
    /// The protected machine
    machine: String,
    /// Longest time to wait, in seconds; replication goes on after it
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    wait_limit: u64,
}

/// How far a machine is.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Done,
    Replicating,
    /// Waiting would not help.
    Never,
}

impl Stage {
    fn of(machine: &Value) -> Self {
        match text_at(machine, "/properties/phase") {
            "protected" => Self::Done,
            "enabling" | "reprotecting" => Self::Replicating,
            _ => Self::Never,
        }
    }
}

pub(super) async fn run(session: &Session, args: &WaitedArgs) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(100), target);
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {percent:>3}% {msg}");
    bar.set_style(style.expect("a valid template"));
    bar.set_prefix(args.machine.clone());
    loop {
        let machine = super::find(session, &args.machine).await?;
        match Stage::of(&machine) {
            Stage::Done => {
                bar.finish_and_clear();
                return Ok(session.print_as(SHOW, &machine, shown));
            }
            Stage::Never => {
                let state = text_at(&machine, "/properties/state");
                bail!("{} does not replicate ({state}), so there is nothing to wait for", args.machine);
            }
            Stage::Replicating => draw(&bar, &machine),
        }
        if begun.elapsed().as_secs() >= args.wait_limit {
            bail!("{} has no recovery point after {} s; replication goes on", args.machine, args.wait_limit);
        }
        tokio::time::sleep(PACE).await;
    }
}

fn draw(bar: &ProgressBar, machine: &Value) {
    let number = |pointer: &str| machine.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    bar.set_position(number("/properties/resyncPercent"));
    bar.set_message(format!("{} sent", ByteSize(number("/properties/sentBytes"))));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Stage;

    #[test]
    fn only_what_replicates_is_waited_for() {
        let stage = |phase: &str| Stage::of(&json!({"properties": {"phase": phase}}));
        assert_eq!(stage("protected"), Stage::Done);
        assert_eq!([stage("enabling"), stage("reprotecting")], [Stage::Replicating, Stage::Replicating]);
        assert_eq!(
            [stage("failed-over"), stage("committed"), stage("")],
            [Stage::Never, Stage::Never, Stage::Never]
        );
    }
}
