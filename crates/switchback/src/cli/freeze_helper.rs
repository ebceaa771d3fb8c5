//! `switchback freeze-helper`: the process that freezes and thaws for a sync, and thaws whatever happens to that.

use std::process::ExitCode;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    switchback_capture::freeze::helper_main()?;
    Ok(ExitCode::SUCCESS)
}
