//! Developer commands of this repository: `cargo xtask COMMAND`.
//!
//! Each command is a module of its own; this file only chooses. What the gate (`make test`) and a developer run is the same code.

#![expect(clippy::print_stdout, reason = "a command line program: its output is its result")]

mod bench;
mod openapi;
mod pictures;
mod prepush;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

const USAGE: &str = "usage: cargo xtask COMMAND

  tidy [--hints]   house rules that clippy cannot check; --hints also names files that grow large
  bench engine [--size 8G] [--runs 5] [--only initial|resync|churn] [--work DIRECTORY]
                   performance against peers, as root; the rows are explained in docs/performance.md
  bench azure [--size 2G] [--runs 3] [--only uploads|steady] [--seconds 180] [--interval 10] [--disk 20G] [--scale 1]
              [--work DIRECTORY]
                   the same to page blobs in Azurite, against Microsoft's client; and a steady load under a throttle
  bench api [--requests 300]
                   the REST API with 1,000 machines in the store, on SQLite and PostgreSQL
  openapi          writes docs/reference/openapi.json anew, from the code
  pictures         makes the pictures of portal and command line in docs/pictures anew, by clicking in Chromium and typing
  prepush          format, clippy, tidy and the tests that need no guest: before a change is sent";

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tidy"] => tidy::run(&workspace_root()?, false),
        ["tidy", "--hints"] => tidy::run(&workspace_root()?, true),
        ["bench", "engine", options @ ..] => bench::run(&workspace_root()?, bench::Suite::Engine, options),
        ["bench", "azure", options @ ..] => bench::run(&workspace_root()?, bench::Suite::Azure, options),
        ["bench", "api", options @ ..] => bench::api::run(&workspace_root()?, options),
        ["openapi"] => openapi::run(&workspace_root()?),
        ["pictures"] => pictures::run(&workspace_root()?),
        ["prepush"] => prepush::run(&workspace_root()?),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("no such command: `{}`\n\n{USAGE}", words.join(" ")),
    }
}

/// The directory of the workspace this program was built from.
fn workspace_root() -> anyhow::Result<PathBuf> {
    let parent = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent directory")?;
    Ok(parent.to_owned())
}
