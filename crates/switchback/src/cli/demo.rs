//! `switchback demo`: starts the demo, a program of its own (`switchback-demo`), so that what is shipped has nothing of the lab in it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Options of the demo: `--keep` leaves everything running; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    options: Vec<OsString>,
}

pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe().context("finding out where this program is")?;
    let program = own.with_file_name("switchback-demo");
    if !program.is_file() {
        bail!(
            "{} is not there: the demo is a program of its own, which is not shipped; `make demo` in the source builds and runs it",
            program.display()
        );
    }
    Err(Command::new(&program).args(&args.options).exec())
        .with_context(|| format!("starting {}", program.display()))
}
