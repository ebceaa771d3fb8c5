//! `switchback-demo`: protects two machines, loses them, and brings them home, on one host. See `switchback_lab::demo`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program: its output is its result"
)]

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use clap::Parser;
use switchback_lab::demo::{self, Options, Screen, Story};

/// Protects two machines, loses them, and brings them home: on this host, with real guests. Ends with a table of what was verified; the exit code is 0
/// only if all of it holds. Needs root, for looking into the machines' disks from outside.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// Play what fails around protected machines instead: a network that is cut, a process server that is lost for good, disks that change
    #[arg(long, group = "story")]
    faults: bool,
    /// Play a failover from a vCenter (simulated but for the bytes of its disks) and the failback to the original virtual machine instead
    #[arg(long, group = "story")]
    vmware: bool,
    /// The same with an original that was deleted, a configuration server that is restored from its backup meanwhile, and an alternate location
    #[arg(long, group = "story")]
    vmware_elsewhere: bool,
    /// The same with what happens at a vCenter while a machine is replicated home
    #[arg(long, group = "story")]
    vmware_faults: bool,
    /// Play what happens to a physical server, which comes home as a virtual machine of a (simulated) vCenter
    #[arg(long, group = "story")]
    physical: bool,
    /// Play a failover from a (simulated) vCenter to Azure (Azurite, and an emulator of Resource Manager), and the way home
    #[arg(long, group = "story")]
    azure: bool,
    /// Play a physical server's failover to Azure with what happens there meanwhile, and its way home as a virtual machine
    #[arg(long, group = "story")]
    azure_faults: bool,
    /// Play the main story with Microsoft's SDKs for Azure Site Recovery instead of the command line
    #[arg(long, group = "story")]
    sdk: bool,
    /// Play the main story by clicking in the portal, in a browser
    #[arg(long, group = "story")]
    portal: bool,
    /// Play proofs of recovery points in a sandbox instead: of points that work, and of one from after the machine was broken
    #[arg(long, group = "story")]
    proof: bool,
    /// Leave everything running at the end, and print how to look around
    #[arg(long)]
    keep: bool,
    /// The program that is shown [default: `switchback` beside this one]
    #[arg(long, value_name = "FILE")]
    switchback: Option<PathBuf>,
    /// Where everything is kept while it runs [default: a new directory in /var/tmp, removed at the end]
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

fn main() -> ExitCode {
    match play(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let beside = std::env::current_exe().context("this program does not know where it is")?;
    let beside = beside.parent().unwrap_or_else(|| Path::new("/"));
    let switchback = arguments.switchback.clone().unwrap_or_else(|| beside.join("switchback"));
    let mut temporary = None;
    let directory = match &arguments.directory {
        Some(directory) => directory.clone(),
        None => {
            let made = tempfile::Builder::new().prefix("switchback-demo-").tempdir_in("/var/tmp");
            temporary.insert(made.context("cannot make a directory in /var/tmp")?).path().to_owned()
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot listen for signals")?;
    }
    let ledger = beside.join("switchback-ledger");
    let stories = [
        (arguments.faults, Story::Faults),
        (arguments.vmware, Story::Vmware),
        (arguments.vmware_elsewhere, Story::VmwareElsewhere),
        (arguments.vmware_faults, Story::VmwareFaults),
        (arguments.physical, Story::Physical),
        (arguments.azure, Story::Azure),
        (arguments.azure_faults, Story::AzureFaults),
        (arguments.sdk, Story::Sdk),
        (arguments.portal, Story::Portal),
        (arguments.proof, Story::Proof),
    ];
    let story =
        stories.into_iter().find(|(is_asked, _)| *is_asked).map_or(Story::WholeCycle, |(_, story)| story);
    let options =
        Options { switchback, ledger, directory: directory.clone(), story, keep: arguments.keep, stop };
    let screen = Screen::new(Box::new(std::io::stdout()), std::io::stdout().is_terminal());
    let (table, played) = demo::run(&options, screen);
    let holds = played.is_ok() && table.holds();
    println!("\n{table}");
    if arguments.keep || !holds {
        // What is kept needs its files; what went wrong is to be looked into.
        let _kept = temporary.map(tempfile::TempDir::keep);
        eprintln!("everything that was written is in {}", directory.display());
    }
    played?;
    println!("{}", if holds { "All of it holds." } else { "NOT all of it holds." });
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
