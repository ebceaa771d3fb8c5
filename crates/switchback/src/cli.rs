//! The command line: one file for each command.
//!
//! Standard output is for results (tables, or JSON on request), standard error for progress and messages. An error
//! says what failed, the likely cause, and what to do, and ends the program with 1; wrong usage with 2.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the command line is where output belongs")]

mod configuration_server;
mod agent;
mod component;
mod freeze_helper;
mod identity;
mod master_target;
mod network;
mod output;
mod process_server;
mod receive;
mod replica;
mod sync;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;

use crate::engine::Stop;

pub use output::OutputFormat;

/// Replicates machines' disks, block by block, and goes back to any recovery point.
#[derive(Debug, Parser)]
#[command(name = "switchback", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy disks to a replica, moving only what differs; with --follow again and again
    Sync(Box<sync::SyncArgs>),
    /// Look at a replica, go back to a recovery point, check it
    #[command(subcommand)]
    Replica(replica::ReplicaCommand),
    /// Keep replicas for others, on port 9443
    Receive(receive::ReceiveArgs),
    /// Take replication data from others, keep it durably, and forward it
    ProcessServer(process_server::ProcessServerArgs),
    /// The control plane of a site: inventory, jobs, API, certificate authority
    ConfigurationServer(configuration_server::ConfigurationServerArgs),
    /// Keep replicas at a site, as its configuration server says
    MasterTarget(master_target::MasterTargetArgs),
    /// Protect this machine, as its configuration server says: the mobility agent
    Agent(agent::AgentArgs),
    /// This host's identity: found a site, show the passphrase
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
    /// Join a site with its passphrase
    Enrol(identity::EnrolArgs),
    /// Freezes and thaws for a sync; started by it
    #[command(hide = true)]
    FreezeHelper,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("SWITCHBACK_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| crate::frozen_log::LogWriter).init();
    let done = match Cli::parse().command {
        Command::Sync(args) => sync::run(&args),
        Command::Replica(command) => replica::run(&command),
        Command::Receive(args) => receive::receive(&args),
        Command::ConfigurationServer(args) => configuration_server::run(&args),
        Command::ProcessServer(args) => process_server::run(&args),
        Command::MasterTarget(args) => master_target::run(&args),
        Command::Agent(args) => agent::run(&args),
        Command::Identity(command) => identity::run(&command),
        Command::Enrol(args) => identity::enrol(&args),
        Command::FreezeHelper => freeze_helper::run(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Stops `stop` at SIGINT or SIGTERM; a second one ends the program at once.
fn stop_on_interrupt(stop: &Stop) -> std::io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.flag())?;
        signal_hook::flag::register(signal, stop.flag())?;
    }
    Ok(())
}
