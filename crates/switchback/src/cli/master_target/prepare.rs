//! `switchback master-target prepare`: makes this host fit for a master target.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use super::super::confirm::ConfirmArgs;
use super::super::render::printable;
use crate::target_host::Host;
use crate::target_host::prepare::{Retention, apply, plan, steps};

#[derive(Debug, Args)]
pub(super) struct PrepareArgs {
    /// The empty disk that becomes the retention drive, as /dev/disk/by-id/…; without it no disk is touched
    #[arg(long, value_name = "DEVICE")]
    retention_device: Option<PathBuf>,
    /// Where the retention drive is mounted
    #[arg(long, default_value = "/var/lib/switchback/retention", value_name = "DIRECTORY")]
    retention: PathBuf,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

pub(super) fn run(args: &PrepareArgs) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("preparing this host failed: only root may; nothing was done. Repeat it with sudo");
    }
    let host = Host::this();
    let retention = args
        .retention_device
        .as_ref()
        .map(|device| Retention { device: device.clone(), mount_point: args.retention.clone() });
    let steps = steps(true, retention.as_ref());
    let planned =
        plan(&host, &steps).map_err(|error| anyhow::anyhow!("nothing was done: {error} [{}]", error.code))?;
    if planned.is_empty() {
        println!("Nothing to do.");
        return Ok(ExitCode::SUCCESS);
    }
    let lines: String = planned.iter().map(|what| format!("  {what}\n")).collect();
    args.confirm
        .confirm(&printable(&format!("This host will be changed:\n{}", lines.trim_end_matches('\n'))))?;
    let outcome = apply(&host, &steps);
    for done in &outcome.done {
        println!("{}", printable(&format!("done: {done}")));
    }
    let Some((what, error)) = outcome.failed else { return Ok(ExitCode::SUCCESS) };
    bail!(
        "this did not succeed: {what}: {error} [{}]. What is done stays as it is; the same command goes on from here",
        error.code
    )
}
