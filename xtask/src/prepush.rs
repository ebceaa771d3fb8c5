//! `cargo xtask prepush`: the fast part of the gate, for the minute before a change is sent. What it leaves out (guests, licences,
//! fuzzing) `make test` runs.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};

/// Runs the steps in order and stops at the first that fails: the later ones would only repeat its news.
pub(crate) fn run(root: &Path) -> anyhow::Result<ExitCode> {
    cargo(root, &["fmt", "--all", "--check"])?;
    cargo(root, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    let tidy = crate::tidy::run(root, true)?;
    if tidy != ExitCode::SUCCESS {
        return Ok(tidy);
    }
    let no_guests = "not test(/(^|::)guest_/)";
    cargo(root, &["nextest", "run", "--workspace", "--filterset", no_guests])?;
    Ok(ExitCode::SUCCESS)
}

fn cargo(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let shown = format!("cargo {}", arguments.join(" "));
    println!("=== {shown}");
    let status = Command::new("cargo").args(arguments).current_dir(root).status();
    let status = status.with_context(|| format!("`{shown}` could not be started"))?;
    ensure!(status.success(), "`{shown}` failed: {status}");
    Ok(())
}
