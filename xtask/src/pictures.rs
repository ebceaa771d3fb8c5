//! `cargo xtask pictures`: makes the pictures of the portal that README and documentation show.
//!
//! The test that clicks through the portal photographs each page that it looks at (`crates/portal/tests/browser`). This runs it and takes some of them over, so
//! that none is older than the pages it shows, and none is made by hand.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};

/// What is shown: its name as the test has it, and in `docs/pictures`.
const SHOWN: [(&str, &str); 3] = [
    ("machine-comes-home-1280-light.png", "portal-machine.png"),
    ("reprotect-1280-light.png", "portal-reprotect.png"),
    ("tab-overview-1280-light.png", "portal-overview.png"),
];

/// Runs the test and copies.
pub(crate) fn run(root: &Path) -> anyhow::Result<ExitCode> {
    let mut command = Command::new("cargo");
    command.args(["test", "--package", "switchback-portal", "--test", "browser"]);
    let status = command.current_dir(root).status().context("cargo could not be started")?;
    ensure!(status.success(), "the portal was not photographed: see the test's message");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    for (taken, shown) in SHOWN {
        let (taken, shown) =
            (target.join("portal-pages").join(taken), root.join("docs/pictures").join(shown));
        fs::copy(&taken, &shown).with_context(|| format!("taking over {}", taken.display()))?;
        println!("{}", shown.display());
    }
    Ok(ExitCode::SUCCESS)
}
