//! `switchback agent`: the mobility agent.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use switchback_identity::Role;

use super::component::ComponentArgs;
use super::network::IdentityArgs;
use crate::engine::Stop;
use crate::machine::CaptureMethod;
use crate::role::agent::{self, AgentConfig, Ended, update};

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// HOST:PORT of the configuration server; again for each other address it may have
    #[arg(long = "server", required = true, value_delimiter = ',', value_name = "HOST:PORT")]
    servers: Vec<String>,
    /// Where the agent keeps what must survive a restart, also one at another site: on a protected disk
    #[arg(long, default_value = "/var/lib/switchback/agent", value_name = "DIRECTORY")]
    data: PathBuf,
    /// How changed blocks are found
    #[arg(long, value_enum, default_value_t)]
    capture: CaptureMethod,
    /// Only look whether this guest is ready for the other site, and tell; without this, what is safe is put right (see the guide to Azure's guests)
    #[arg(long)]
    leave_guest_alone: bool,
    /// Stay this version, also when the configuration server offers its own (`machine update-agent`)
    #[arg(long)]
    no_updates: bool,
    #[command(flatten)]
    component: ComponentArgs,
    #[command(flatten)]
    identity: IdentityArgs,
}

pub(crate) fn run(args: &AgentArgs) -> anyhow::Result<ExitCode> {
    update::go_on(&args.data);
    let stop = Stop::default();
    super::stop_on_interrupt(&stop)?;
    // Before anything else: without its network the machine does not reach its configuration server.
    agent::wake_up(&args.data);
    let role = args.component.role(Role::Source, &args.servers, ("", &args.data), &args.identity, &stop)?;
    println!("the mobility agent {}", role.credentials.current().identity());
    let config = AgentConfig {
        role,
        capture: args.capture,
        leave_guest_alone: args.leave_guest_alone,
        no_updates: args.no_updates,
    };
    match agent::run(config, &stop)? {
        Ended::Stopped => Ok(ExitCode::SUCCESS),
        Ended::As(successor) => Err(successor.become_it(&args.data)),
    }
}
