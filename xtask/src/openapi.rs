//! `cargo xtask openapi`: writes `docs/reference/openapi.json` anew, as the test that otherwise compares it makes it.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};

/// Runs the test with the switch that makes it write.
pub(crate) fn run(root: &Path) -> anyhow::Result<ExitCode> {
    let mut command = Command::new("cargo");
    command.args(["test", "--package", "switchback-api", "--test", "arm", "document::the_file_is_what"]);
    let status = command.env("SWITCHBACK_WRITE_OPENAPI", "1").current_dir(root).status();
    let status = status.context("cargo could not be started")?;
    ensure!(status.success(), "the document was not written: see the test's message");
    println!("docs/reference/openapi.json is written: look at the change, and check it in.");
    Ok(ExitCode::SUCCESS)
}
