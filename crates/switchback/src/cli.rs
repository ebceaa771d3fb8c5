//! The command line: one file for each command.
//!
//! Standard output is for results (tables, or JSON on request), standard error for progress and messages. An error
//! says what failed, the likely cause, and what to do, and ends the program with 1; wrong usage with 2.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the command line is where output belongs")]

mod account;
mod agent;
mod alerts;
mod backup;
mod checks;
mod component;
mod configuration_server;
mod confirm;
mod demo;
mod freeze_helper;
mod group;
mod identity;
mod job;
mod job_progress;
mod machine;
mod master_target;
mod network;
mod network_mapping;
mod output;
mod plan;
mod point;
mod process_server;
mod profile;
mod receive;
mod records;
mod render;
mod replica;
mod server;
mod session;
mod shell;
mod sign_in;
mod site;
mod sync;
mod token;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::engine::Stop;
use crate::traces::Traces;

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
    /// Keep replicas at a site, as its configuration server says; check and prepare the host for it
    MasterTarget(master_target::MasterTargetArgs),
    /// Protect this machine, as its configuration server says: the mobility agent
    Agent(agent::AgentArgs),
    /// This host's identity: found a site, show the passphrase
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
    /// Join a site with its passphrase
    Enrol(identity::EnrolArgs),
    /// Sites: the places that machines run at
    Site(site::SiteArgs),
    /// Components that have joined: agents, process servers, master targets
    Server(server::ServerArgs),
    /// Protect machines, fail them over, bring them home
    Machine(machine::MachineArgs),
    /// Protection groups: machines that are replicated in one way
    Group(group::GroupArgs),
    /// How the machines of a group, or of its failback twin, are replicated
    Policy(group::PolicyArgs),
    /// Recovery plans: which machines fail over in which order
    Plan(plan::PlanArgs),
    /// What is being done, and what was done
    Job(job::JobArgs),
    /// To what a machine can be taken back
    RecoveryPoint(records::RecoveryPointArgs),
    /// What happened
    Event(records::EventArgs),
    /// Which network at the one site corresponds to which at the other
    NetworkMapping(network_mapping::NetworkMappingArgs),
    /// Who may use the API
    Token(token::TokenArgs),
    /// Whose tokens are taken beside our own: OpenID Connect, such as Entra ID
    SignIn(sign_in::SignInArgs),
    /// Who asked for what, and how it was answered
    Audit(records::AuditArgs),
    /// Run-as accounts: under whom the configuration server works in a vCenter
    Account(account::AccountArgs),
    /// Who is told, by e-mail and webhooks, of what is not well
    Alerts(Box<alerts::AlertsArgs>),
    /// Back up the configuration server
    Backup(backup::BackupArgs),
    /// Print the passphrase with which components join
    Passphrase(token::PassphraseArgs),
    /// Which configuration servers this user knows
    Profile(profile::ProfileArgs),
    /// Print a shell's completions of all commands
    Completions(shell::CompletionsArgs),
    /// Write manual pages of all commands
    Man(shell::ManArgs),
    /// Lose a site and come home, with real guests on this host (after `make demo` has built it)
    #[command(disable_help_flag = true)]
    Demo(demo::DemoArgs),
    /// Freezes and thaws for a sync; started by it
    #[command(hide = true)]
    FreezeHelper,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    let traces = service_of(&command).map(Traces::of).transpose().map(Option::flatten);
    let (traces, untraced) = traces.map_or_else(|error| (None, Some(error)), |traces| (traces, None));
    let filter = EnvFilter::try_from_env("SWITCHBACK_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt::layer()
        .with_writer(|| crate::frozen_log::LogWriter)
        // Colours are for people: in a journal or a file they only hide words from a search.
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter(filter);
    let spans = traces.as_ref().map(|traces| {
        tracing_opentelemetry::layer().with_tracer(traces.tracer()).with_filter(crate::traces::ours())
    });
    tracing_subscriber::registry().with(log).with(spans).init();
    if let Some(error) = untraced {
        tracing::error!(error = format!("{error:#}"), "no traces are sent");
    }
    let code = run(command).unwrap_or_else(|error| {
        eprint!("{}", session::explain(&error));
        ExitCode::FAILURE
    });
    drop(traces);
    code
}

/// What a process that goes on is called where traces are looked at; commands that end are not traced.
const fn service_of(command: &Command) -> Option<&'static str> {
    match command {
        Command::ConfigurationServer(_) => Some("switchback-configuration-server"),
        Command::ProcessServer(_) => Some("switchback-process-server"),
        Command::MasterTarget(_) => Some("switchback-master-target"),
        Command::Agent(_) => Some("switchback-agent"),
        _ => None,
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Sync(args) => sync::run(&args),
        Command::Replica(command) => replica::run(&command),
        Command::Receive(args) => receive::receive(&args),
        Command::ConfigurationServer(args) => configuration_server::run(&args),
        Command::ProcessServer(args) => process_server::run(&args),
        Command::MasterTarget(args) => master_target::run(&args),
        Command::Agent(args) => agent::run(&args),
        Command::Identity(command) => identity::run(&command),
        Command::Enrol(args) => identity::enrol(&args),
        Command::Site(args) => site::run(&args),
        Command::Server(args) => server::run(&args),
        Command::Machine(args) => machine::run(&args),
        Command::Group(args) => group::run(&args),
        Command::Policy(args) => group::policy(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Job(args) => job::run(&args),
        Command::RecoveryPoint(args) => records::recovery_points(&args),
        Command::Event(args) => records::events(&args),
        Command::NetworkMapping(args) => network_mapping::run(&args),
        Command::Token(args) => token::run(&args),
        Command::SignIn(args) => sign_in::run(&args),
        Command::Audit(args) => records::audit(&args),
        Command::Account(args) => account::run(&args),
        Command::Alerts(args) => alerts::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Passphrase(args) => token::passphrase(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Completions(args) => Ok(shell::completions(&args, Cli::command())),
        Command::Man(args) => shell::man(&args, Cli::command()),
        Command::Demo(args) => demo::run(&args),
        Command::FreezeHelper => freeze_helper::run(),
    }
}

/// Stops `stop` at SIGINT or SIGTERM; a second one ends the program at once.
fn stop_on_interrupt(stop: &Stop) -> std::io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.flag())?;
        signal_hook::flag::register(signal, stop.flag())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::Cli;

    fn leaves<'a>(command: &'a Command, name: &str, found: &mut Vec<(String, &'a Command)>) {
        if !command.has_subcommands() {
            found.push((name.to_owned(), command));
        }
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            leaves(below, &format!("{name} {}", below.get_name()), found);
        }
    }

    #[test]
    fn all_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    /// An argument of a command with the id of a global option would silently take its place.
    #[test]
    fn no_command_has_an_argument_called_like_a_global_option() {
        let mut program = Cli::command();
        program.build();
        let mut commands = Vec::new();
        leaves(&program, "switchback", &mut commands);
        assert!(commands.len() > 60, "{}", commands.len());
        for (name, command) in commands {
            for id in ["profile", "server", "ca_file", "token_file", "output"] {
                let options = command.get_arguments().filter(|argument| argument.get_id() == id);
                let mut long: Vec<_> = options.filter_map(|option| option.get_long()).collect();
                // Role commands and the engine's have options of their own, without the global ones.
                long.retain(|long| long.replace('-', "_") != id);
                assert!(long.is_empty(), "{name}: {id} is --{long:?}");
                let positional = command.get_positionals().find(|argument| argument.get_id() == id);
                assert!(positional.is_none(), "{name}: {id} is an argument");
            }
        }
    }
}
