//! `switchback-demo`: the whole cycle on one machine, for real: protect, fail over, reprotect, fail back, reprotect.
//!
//! Every role is a process of its own, as an administrator would start it; machines are QEMU guests; everything is asked for with the `switchback`
//! command line. What came out is verified twice: by the guests themselves, and from outside on the disk images. It is a program of its own because the
//! shipped one has nothing of the lab in it.
//!
//! * [`stage`]: processes, their logs and their end;
//! * [`client`]: the `switchback` command line, and what its JSON says;
//! * [`world`]: the two sites, the machines, the roles' command lines;
//! * [`acts`]: the eight steps, to be read as a script;
//! * [`findings`]: what was verified.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program: its output is its result"
)]

mod acts;
mod client;
mod findings;
mod stage;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

/// Protects two machines, loses their site, runs them at another one, and brings them home.
#[derive(Debug, Parser)]
struct Arguments {
    /// Leave everything running at the end, and say how to look around
    #[arg(long)]
    keep: bool,
    /// The program to show [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    switchback: Option<PathBuf>,
    /// The machines' workload [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Where sites, disks and logs are kept; a new directory is made in it
    #[arg(long, default_value = "/var/tmp", value_name = "DIRECTORY")]
    directory: PathBuf,
    /// End after this step
    #[arg(long, default_value_t = acts::STEPS, value_name = "STEP")]
    until: usize,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all that was verified holds.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let switchback = program(arguments.switchback.as_ref(), "switchback")?;
    let ledger = program(arguments.ledger.as_ref(), "switchback-ledger")?;
    let mut stage = stage::Stage::new(&arguments.directory, arguments.keep)?;
    let mut findings = findings::Findings::default();
    let played = acts::play(&mut stage, &switchback, &ledger, &mut findings, arguments.until);
    // What has been found so far is worth seeing also when something broke.
    findings.print();
    match played {
        Ok(world) if arguments.keep => world.say_how_to_look_around(&stage),
        Ok(_) => {}
        Err(error) => {
            stage.keep_logs();
            return Err(error);
        }
    }
    Ok(findings.all_hold())
}

fn program(given: Option<&PathBuf>, name: &str) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name(name),
    };
    path.canonicalize().with_context(|| format!("{} is not there: build it first", path.display()))
}
