//! `switchback master-target check`: whether this host is fit for a master target.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use switchback_model::{CheckState, verdict};

use super::super::output::OutputFormat;
use super::super::{checks, render};
use crate::target_host::Host;
use crate::target_host::checks::{Asked, check};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Where the retention drive is mounted
    #[arg(long, value_name = "DIRECTORY")]
    retention: Option<PathBuf>,
    /// The disk that is the retention drive, best as /dev/disk/by-id/…
    #[arg(long, value_name = "DEVICE")]
    retention_device: Option<PathBuf>,
    /// TCP port on which data is taken
    #[arg(long, default_value_t = 9443, value_name = "PORT")]
    port: u16,
    /// How the checks are printed
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

/// The exit code tells whether nothing failed.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let asked = Asked {
        retention: args.retention.clone(),
        retention_device: args.retention_device.clone(),
        port: args.port,
    };
    let found = check(&Host::this(), &asked);
    let state = verdict(&found);
    let listed = serde_json::to_value(&found).context("the checks have no text")?;
    match args.output {
        OutputFormat::Table => print!("{}", checks::shown(listed.as_array().map_or(&[], Vec::as_slice))),
        OutputFormat::Json => print!("{}", render::json(&json!({"state": state, "checks": listed}))),
    }
    Ok(if state == CheckState::Failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
