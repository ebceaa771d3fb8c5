//! `switchback configuration-server restore`: a configuration server from a backup, at another place if need be.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use switchback_control::backup::destination::Destination;
use switchback_control::backup::format::{FILE_LEN_MAX, inspect};
use switchback_control::backup::restore::{Prepared, prepare, restore};
use switchback_disk::{Clock, SystemClock};

use super::open_store;
use crate::cli::backup::IdentityFileArgs;
use crate::cli::render;

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Where the backups are: a directory, the URL of an object store (its keys in the environment), or one backup's file
    #[arg(long, value_name = "PLACE")]
    from: String,
    /// The backup's name there [default: the newest]
    #[arg(long, value_name = "NAME")]
    backup: Option<String>,
    #[command(flatten)]
    identity: IdentityFileArgs,
    /// The new server's directory: empty, or not there yet
    #[arg(long, default_value = "/var/lib/switchback/configuration-server", value_name = "DIRECTORY")]
    data: PathBuf,
    /// Restore into the empty PostgreSQL database whose connection string is in this file [default: SQLite in the directory]
    #[arg(long, value_name = "FILE")]
    database_file: Option<PathBuf>,
}

pub(super) fn run(args: &RestoreArgs) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let data = std::path::absolute(&args.data)?;
    let (name, file) = fetch(&args.from, args.backup.as_deref())?;
    let inspected = inspect(&file).with_context(|| format!("checking {name}"))?;
    let identities = args.identity.read()?;
    let contents = inspected.open(&identities).with_context(|| format!("opening {name}"))?;
    let header = inspected.header;
    let prepared =
        prepare(header, contents, SystemClock.now()).with_context(|| format!("checking {name}"))?;
    println!("{name} is whole: {} records, made by switchback {}", total(&prepared), prepared.header.build);
    let open = |data: &Path| {
        open_store(args.database_file.as_deref(), data).map_err(|error| match error.downcast() {
            Ok(error) => error,
            Err(error) => switchback_store::StoreError::Database {
                action: "opening the store".into(),
                detail: format!("{error:#}"),
                passing: false,
            },
        })
    };
    let prepared = restore(prepared, &data, &open, &mut |step| tracing::info!(step, "restoring"))?;
    print!("{}", report(&prepared, &data, args.database_file.as_deref()));
    println!("restored in {:.1} s", began.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

fn total(prepared: &Prepared) -> u64 {
    prepared.header.records.values().sum()
}

/// The backup's file, and what to call it.
fn fetch(from: &str, name: Option<&str>) -> anyhow::Result<(String, Vec<u8>)> {
    let path = Path::new(from);
    if path.is_file() {
        let len = path.metadata()?.len();
        if len > FILE_LEN_MAX as u64 {
            bail!("{from} has {len} bytes, more than any backup");
        }
        let file = std::fs::read(path).with_context(|| format!("reading {from}"))?;
        return Ok((from.to_owned(), file));
    }
    let location =
        if from.contains("://") { from.to_owned() } else { std::path::absolute(path)?.display().to_string() };
    let destination = Destination::open(&location)?;
    let name = match name {
        Some(name) => name.parse()?,
        None => {
            let newest = destination.list()?.into_iter().map(|made| made.name).max();
            newest.with_context(|| format!("there is no backup in {location}"))?
        }
    };
    Ok((name.to_string(), destination.get(&name)?))
}

/// What there is now, and what to do next.
fn report(prepared: &Prepared, data: &Path, database: Option<&Path>) -> String {
    let header = &prepared.header;
    let age_s = prepared.incarnation.restored.0.saturating_sub(header.made.0) / 1000;
    let setting = |name: &str| header.settings.get(name).map(String::as_str).unwrap_or_default();
    let mut text = format!(
        "The configuration server of {age_s} s ago is in {}.\nsite's authority: {}\n",
        data.display(),
        header.authority
    );
    let mut start = format!("switchback configuration-server --data {}", data.display());
    if let Some(file) = database {
        start.push_str(&format!(" --database-file {}", file.display()));
    }
    let advertise = setting("advertise");
    if !advertise.is_empty() {
        start.push_str(&format!(" --advertise {advertise}"));
    }
    text.push_str(&format!(
        "It listened on {}. What to do next:\n 1. See that the old server is off, and stays off.\n 2. {start}\n    \
         with --listen and --advertise as this host is reached.\n 3. Components look for it at the addresses of their --server and those it was advertised \
         at.\n    Elsewhere: start them with a further --server.\n",
        setting("listen")
    ));
    if prepared.held > 0 {
        text.push_str(&format!(
            " 4. {} machines are held until their components have shown that nothing newer has happened to them:\n    `switchback machine list`.\n",
            prepared.held
        ));
    }
    if prepared.suspended > 0 {
        text.push_str(&format!(
            " 5. {} jobs were in hand, and wait for you: `switchback job list --state suspended`, then\n    `switchback job resume` or `switchback job cancel`.\n",
            prepared.suspended
        ));
    }
    render::printable(&text)
}
