//! `switchback server`: the components that have joined: agents, process servers, master targets.

mod bandwidth;
mod deploy;

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::confirm::ConfirmArgs;
use super::machine::messages;
use super::render::{Field, bytes, plain, time};
use super::session::{self, Session, SessionArgs, WaitArgs};
use crate::client::path::{self, id_of, text_at};
use crate::client::{JobEnd, Reply};

const LIST: &[Field] = &[
    plain("NAME", &["/properties/friendlyName"]),
    plain("ROLE", &["/properties/role"]),
    plain("SITE", &["/properties/site"]),
    plain("ADDRESS", &["/properties/address"]),
    time("LAST REPORT", &["/properties/lastReport"]),
    plain("HEALTH", &["/properties/health"]),
];
const SHOW: &[Field] = &[
    plain("Name", &["/properties/friendlyName"]),
    plain("Role", &["/properties/role"]),
    plain("Site", &["/properties/site"]),
    plain("Address", &["/properties/address"]),
    plain("Build", &["/properties/build"]),
    time("Enrolled", &["/properties/enrolled"]),
    time("Last report", &["/properties/lastReport"]),
    plain("Machines", &["/properties/state/spools", "/properties/state/replicas"]),
    bytes("Free", &["/properties/state/freeBytes"]),
    bytes("Received", &["/properties/state/receivedBytes"]),
    bytes("Forwarded", &["/properties/state/forwardedBytes"]),
    plain("Bandwidth", &["/shown/bandwidth"]),
    plain("System", &["/properties/state/system"]),
    plain("Health", &["/properties/health"]),
    plain("Reasons", &["/shown/reasons"]),
];

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: ServerCommand,
}

#[derive(Debug, Subcommand)]
enum ServerCommand {
    /// List the components that have joined
    List,
    /// Show a component
    Show {
        /// Its name, or ROLE.NAME where several roles share one
        #[arg(id = "component", value_name = "NAME")]
        server: String,
    },
    /// Have all machines that send through one process server send through another of its site: the one is lost, or has too much to do
    Replace {
        /// The process server they use
        former: String,
        /// The one to use
        #[arg(long, value_name = "NAME")]
        by: String,
        /// Longest time to wait for each machine, in seconds
        #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        wait_limit: u64,
    },
    /// Show or change how much a process server may forward, and when
    Bandwidth(bandwidth::BandwidthArgs),
    /// Make a process server at a site of Azure: a virtual machine that installs itself, enrols and reports
    Deploy(deploy::DeployArgs),
    /// Remove a process server that was made so, with its virtual machine; refused while a machine is replicated through it
    Retire(deploy::RetireArgs),
    /// Remove a component: it is not talked to any more, and its certificate not renewed
    Remove {
        /// Its name, or ROLE.NAME where several roles share one
        #[arg(id = "component", value_name = "NAME")]
        server: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

pub(crate) fn run(args: &ServerArgs) -> anyhow::Result<ExitCode> {
    session::run(&args.session, async |session| match &args.command {
        ServerCommand::List => Ok(session.print_list(LIST, &all(&session).await?)),
        ServerCommand::Show { server } => {
            let found = choose(&all(&session).await?, server)?;
            Ok(session.print_as(
                SHOW,
                &found,
                |server| json!({"reasons": messages(server, "/properties/reasons"), "bandwidth": bandwidth::shown(server)}),
            ))
        }
        ServerCommand::Replace { former, by, wait_limit } => {
            replace(&session, former, by, WaitArgs::until(*wait_limit)).await
        }
        ServerCommand::Bandwidth(args) => bandwidth::run(&session, args).await,
        ServerCommand::Deploy(args) => deploy::deploy(&session, args).await,
        ServerCommand::Retire(args) => deploy::retire(&session, args).await,
        ServerCommand::Remove { server, confirm } => {
            let found = choose(&all(&session).await?, server)?;
            let (role, name) =
                (text_at(&found, "/properties/role"), text_at(&found, "/properties/friendlyName"));
            confirm.confirm(&format!(
                "The {role} {name} will be removed: it is not talked to any more. Machines that replicate through it need another one."
            ))?;
            let reply = session.client.delete(id_of(&found)).await?;
            session.conclude(reply, WaitArgs::default(), &format!("the {role} {name} is removed")).await
        }
    })
}

/// One job for each machine, one after the other: each is short. The first that fails ends it; typed again it goes on with those that are left.
async fn replace(session: &Session, former: &str, by: &str, wait: WaitArgs) -> anyhow::Result<ExitCode> {
    let machines = session.client.list(&session.client.id(path::MACHINES), &[], None).await?;
    let uses = |machine: &&Value| {
        text_at(machine, "/properties/replication/processServer").eq_ignore_ascii_case(former)
    };
    let users: Vec<_> = machines.iter().filter(uses).collect();
    if users.is_empty() {
        bail!(
            "no machine sends through a process server {former:?}; `switchback machine show` tells through which it does"
        );
    }
    let body = json!({"properties": {"processServer": by}});
    let mut jobs = Vec::new();
    for machine in users {
        let name = text_at(machine, "/name");
        let reply =
            session.client.post(&format!("{}/switchProcessServer", id_of(machine)), Some(&body)).await?;
        let Reply::Started(operation) = reply else { bail!("the server began no job for {name}") };
        let Some((job, end)) = session.watch(&operation, wait).await? else { return Ok(ExitCode::from(130)) };
        if session.is_for_people() && end == JobEnd::Succeeded {
            println!("{name} sends through {by}");
        } else if session.is_for_people() {
            print!("{}", super::job::ending(&job, end));
        } else {
            jobs.push(session.job(&operation).await?);
        }
        if end != JobEnd::Succeeded {
            session.print_json(&jobs);
            return Ok(ExitCode::FAILURE);
        }
    }
    session.print_json(&jobs);
    Ok(ExitCode::SUCCESS)
}

async fn all(session: &Session) -> anyhow::Result<Vec<Value>> {
    Ok(session.client.list(&session.client.id(path::SERVERS), &[], None).await?)
}

/// By `ROLE.NAME`, or by a name that only one role has.
fn choose(servers: &[Value], wanted: &str) -> anyhow::Result<Value> {
    let is =
        |pointer: &'static str| move |server: &&Value| text_at(server, pointer).eq_ignore_ascii_case(wanted);
    if let Some(found) = servers.iter().find(is("/name")) {
        return Ok(found.clone());
    }
    let named: Vec<_> = servers.iter().filter(is("/properties/friendlyName")).collect();
    match named[..] {
        [one] => Ok(one.clone()),
        [] => bail!("there is no component {wanted:?}; `switchback server list` shows those there are"),
        _ => {
            let names: Vec<_> = named.iter().map(|server| text_at(server, "/name")).collect();
            bail!("several components are called {wanted:?}; give one of {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::choose;

    #[test]
    fn a_name_that_two_roles_share_must_be_told_apart() {
        let server = |role: &str, name: &str| json!({"name": format!("{role}.{name}"), "properties": {"friendlyName": name}});
        let servers = [server("target", "a"), server("process-server", "a"), server("target", "b")];
        assert_eq!(choose(&servers, "B").unwrap()["name"], "target.b");
        assert_eq!(choose(&servers, "target.a").unwrap()["name"], "target.a");
        assert!(choose(&servers, "a").unwrap_err().to_string().contains("target.a, process-server.a"));
        assert!(choose(&servers, "c").is_err());
    }
}
