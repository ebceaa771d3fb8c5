//! `switchback site prices`: the table of prices of this host's configuration server.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use switchback_control::cost::prices::{BUILT_IN, FILE, PriceTable};

#[derive(Debug, Args)]
pub(crate) struct PricesArgs {
    /// Write a table of examples to be edited, if there is none yet
    #[arg(long)]
    init: bool,
    /// The directory of this host's configuration server
    #[arg(long, default_value = "/var/lib/switchback/configuration-server", value_name = "DIRECTORY")]
    data: PathBuf,
}

/// Says which table is in force; fails when it cannot be read.
pub(super) fn run(args: &PricesArgs) -> anyhow::Result<ExitCode> {
    let path = args.data.join(FILE);
    if args.init {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
        let mut file = made.with_context(|| {
            format!(
                "{} cannot be made; one that is there is not written over, and its directory must be",
                path.display()
            )
        })?;
        file.write_all(BUILT_IN.as_bytes())?;
        file.sync_all()?;
        println!("{} is there, with examples: put your own prices in it", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::ensure!(
        args.data.is_dir(),
        "{} is no directory; name this host's configuration server's with --data",
        args.data.display()
    );
    let (table, origin) = PriceTable::in_force(Some(&args.data))?;
    println!("prices of {} in {}: {origin} ({})", table.date, table.currency, table.source);
    Ok(ExitCode::SUCCESS)
}
