//! `switchback machine`: protect machines, fail them over, bring them home.

mod cost;
pub(super) mod operate;
mod proofs;
mod protect;
mod readiness;
mod wait;
mod words;

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::Value;

use self::cost::CostArgs;
use self::operate::OperateCommand;
use self::proofs::{ProofsArgs, ProvingArgs, VerifyArgs};
use self::protect::ProtectArgs;
use self::readiness::ReadinessArgs;
use self::wait::WaitedArgs;
use super::confirm::ConfirmArgs;
use super::render::{Field, bytes, count, millis, name, percent, plain, time};
use super::session::{self, Session, SessionArgs};
use crate::client::path::{self, id_of, text_at};
pub(super) use words::Places;

const LIST: &[Field] = &[
    plain("NAME", &["/name"]),
    plain("STATE", &["/properties/state"]),
    plain("RUNS AT", &["/shown/active"]),
    plain("OTHER SITE", &["/shown/passive"]),
    plain("GROUP", &["/properties/group"]),
    millis("RPO", &["/properties/rpoMs"]),
    plain("POINTS", &["/properties/recoveryPoints"]),
    percent("RESYNC", &["/properties/resyncPercent"]),
    plain("HEALTH", &["/properties/health"]),
    plain("HOME?", &["/properties/readiness/failback"]),
];
const SHOW: &[Field] = &[
    plain("Name", &["/name"]),
    plain("State", &["/properties/state"]),
    plain("Runs at", &["/shown/active"]),
    plain("Other site", &["/shown/passive"]),
    plain("Machine at home", &["/properties/home/id"]),
    plain("Machine away", &["/properties/away/id"]),
    plain("Group", &["/properties/group"]),
    plain("Epoch", &["/properties/epoch"]),
    plain("Process server", &["/properties/replication/processServer"]),
    plain("Master target", &["/properties/replication/masterTarget"]),
    millis("Newest point's age", &["/properties/rpoMs"]),
    plain("Recovery points", &["/properties/recoveryPoints"]),
    percent("Resync", &["/properties/resyncPercent"]),
    bytes("Sent", &["/properties/sentBytes"]),
    bytes("Sent by last resync", &["/properties/resyncSentBytes"]),
    plain("Disks (bytes)", &["/properties/diskSizesBytes"]),
    plain("Disks being added", &["/shown/adding"]),
    plain("System", &["/properties/system"]),
    plain("Addresses", &["/properties/addresses"]),
    time("Agent seen", &["/properties/agentSeen"]),
    time("Last failover", &["/properties/lastFailover"]),
    time("Last test failover", &["/properties/lastTestFailover"]),
    plain("Last proof", &["/properties/lastProof/verdict"]),
    time("Last proof of", &["/properties/lastProof/pointTime"]),
    time("Stale copy seen", &["/properties/staleSeen"]),
    plain("Could fail over", &["/properties/readiness/failover"]),
    plain("Could come home", &["/properties/readiness/failback"]),
    plain("Health", &["/properties/health"]),
    plain("Reasons", &["/shown/reasons"]),
    plain("Allowed now", &["/properties/allowed"]),
    name("Job", &["/properties/job"]),
];
const AT_SITE: &[Field] = &[
    plain("NAME", &["/properties/friendlyName"]),
    plain("ID", &["/name"]),
    plain("POWER", &["/properties/power"]),
    plain("CPUS", &["/properties/cpus"]),
    plain("MIB", &["/properties/memoryMib"]),
    count("DISKS", &["/properties/disks"]),
    plain("AGENT", &["/properties/hasAgent"]),
    plain("PROTECTED AS", &["/properties/protectedMachine"]),
    plain("OBSTACLES", &["/shown/obstacles"]),
];
/// Bytes of a console's text that can be had at most.
const CONSOLE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct MachineArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: MachineCommand,
}

#[derive(Debug, Subcommand)]
enum MachineCommand {
    /// List the protected machines; with --site all machines of a site, protected or not
    List {
        /// The site
        #[arg(long)]
        site: Option<String>,
    },
    /// Show a protected machine; with --site any machine of a site
    Show {
        /// The machine
        machine: String,
        /// The site
        #[arg(long)]
        site: Option<String>,
    },
    /// Begin to protect a machine
    Protect(Box<ProtectArgs>),
    /// Wait until a machine has its first recovery point in the direction it replicates in; shows how far it is
    Wait(WaitedArgs),
    /// Check now whether a machine could fail over, and come home; the exit code tells whether nothing failed
    Readiness(ReadinessArgs),
    /// Show what machines cost at Azure, protected and failed over: an estimate, by the table of prices in the configuration server's directory
    Cost(CostArgs),
    #[command(flatten)]
    Operate(Box<OperateCommand>),
    /// Boot a recovery point in a sandbox without a network, and tell whether it comes up; the exit code tells, too. Nothing of the machine or its replication is touched
    Verify(Box<VerifyArgs>),
    /// List the proofs of a machine's recovery points, the newest first; show one; save its picture
    Proofs(ProofsArgs),
    /// Show or change what is looked for when a machine's points are proved, and how often that is done by itself
    Proving(ProvingArgs),
    /// Let a machine go that a restored configuration server holds, because its view of it is right
    Release {
        /// The machine
        machine: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Print the end of a machine's console
    Console {
        /// The protected machine, or with --site any machine of that site
        machine: String,
        /// The site
        #[arg(long)]
        site: Option<String>,
        /// How much of it
        #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u64).range(1..=CONSOLE_BYTES_MAX))]
        bytes: u64,
    },
}

pub(crate) fn run(args: &MachineArgs) -> anyhow::Result<ExitCode> {
    session::run(&args.session, async |session| match &args.command {
        MachineCommand::List { site: None } => {
            let machines = session.client.list(&session.client.id(path::MACHINES), &[], None).await?;
            Ok(session.print_list_as(LIST, &machines, shown))
        }
        MachineCommand::List { site: Some(site) } => {
            Ok(session.print_list_as(AT_SITE, &at_site(&session, site).await?, shown_at_site))
        }
        MachineCommand::Show { machine, site: None } => {
            Ok(session.print_as(SHOW, &find(&session, machine).await?, shown))
        }
        MachineCommand::Show { machine, site: Some(site) } => {
            Ok(session.print_as(AT_SITE, &find_at_site(&session, site, machine).await?, shown_at_site))
        }
        MachineCommand::Protect(protect) => protect::run(&session, protect).await,
        MachineCommand::Wait(args) => wait::run(&session, args).await,
        MachineCommand::Readiness(args) => readiness::run(&session, args).await,
        MachineCommand::Cost(args) => cost::run(&session, args).await,
        MachineCommand::Operate(command) => operate::run(&session, command).await,
        MachineCommand::Verify(args) => proofs::verify(&session, args).await,
        MachineCommand::Proofs(args) => proofs::proofs(&session, args).await,
        MachineCommand::Proving(args) => proofs::proving(&session, args).await,
        MachineCommand::Release { machine, confirm } => {
            let found = find(&session, machine).await?;
            confirm.confirm(&format!(
                "{machine} will be led as the restored backup has it: {}, running at the side {:?}. If it lives elsewhere by now, its disks there can be written over.",
                text_at(&found, "/properties/state"),
                text_at(&found, "/properties/active"),
            ))?;
            let reply = session.client.post(&format!("{}/release", id_of(&found)), None).await?;
            session.conclude(reply, session::WaitArgs::default(), &format!("{machine} is released")).await
        }
        MachineCommand::Console { machine, site, bytes } => {
            console(&session, machine, site.as_deref(), *bytes).await
        }
    })
}

/// A protected machine, in our own words.
pub(crate) async fn find(session: &Session, machine: &str) -> anyhow::Result<Value> {
    let id = format!("{}/{}", path::MACHINES, path::encode(machine));
    Ok(session.client.get(&session.client.id(&id)).await?)
}

/// All machines of a site.
pub(crate) async fn at_site(session: &Session, site: &str) -> anyhow::Result<Vec<Value>> {
    let id = format!("{}/{}/machines", path::SITES, path::encode(site));
    Ok(session.client.list(&session.client.id(&id), &[], None).await?)
}

/// A machine of a site, by its id there, or by its name if only one has it.
pub(crate) async fn find_at_site(session: &Session, site: &str, wanted: &str) -> anyhow::Result<Value> {
    choose(at_site(session, site).await?, site, wanted)
}

fn choose(machines: Vec<Value>, site: &str, wanted: &str) -> anyhow::Result<Value> {
    if let Some(found) = machines.iter().find(|machine| text_at(machine, "/name") == wanted) {
        return Ok(found.clone());
    }
    let is_named =
        |machine: &&Value| text_at(machine, "/properties/friendlyName").eq_ignore_ascii_case(wanted);
    let named: Vec<_> = machines.iter().filter(is_named).collect();
    match named[..] {
        [one] => Ok(one.clone()),
        [] => bail!(
            "{site} has no machine {wanted:?}; `switchback machine list --site {site}` shows those it has"
        ),
        _ => {
            let ids: Vec<_> = named.iter().map(|machine| text_at(machine, "/name")).collect();
            bail!("{site} has several machines called {wanted:?}; give an id: {}", ids.join(", "))
        }
    }
}

/// A machine's console: of the instance that is the machine.
async fn console(
    session: &Session,
    machine: &str,
    site: Option<&str>,
    bytes: u64,
) -> anyhow::Result<ExitCode> {
    let id = match site {
        Some(site) => id_of(&find_at_site(session, site, machine).await?).to_owned(),
        None => {
            let found = find(session, machine).await?;
            let places = Places::of(&found);
            let side = text_at(&found, "/properties/active");
            let instance = text_at(&found, &format!("/properties/{side}/id"));
            if instance.is_empty() {
                bail!("{machine} has no machine at {} just now", places.active);
            }
            let id = format!(
                "{}/{}/machines/{}",
                path::SITES,
                path::encode(&places.active),
                path::encode(instance)
            );
            session.client.id(&id)
        }
    };
    let text = session.client.text(&format!("{id}/console"), &[("bytes", &bytes.to_string())]).await?;
    // A console's own control characters would steer the terminal; line ends and tabs are text.
    let plain = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { None } else { Some(c) };
    print!("{}", text.chars().filter_map(plain).collect::<String>());
    Ok(ExitCode::SUCCESS)
}

/// What the tables show of a protected machine beside what the API says in words.
fn shown(machine: &Value) -> Value {
    let places = Places::of(machine);
    serde_json::json!({
        "active": places.active, "passive": places.passive, "adding": adding(machine),
        "reasons": messages(machine, "/properties/reasons"),
    })
}

/// Disks that no recovery point holds yet, and how far each is.
fn adding(machine: &Value) -> String {
    let disks = machine.pointer("/properties/disks").and_then(Value::as_array).into_iter().flatten();
    let new = disks.filter(|disk| disk["standing"] != "protected");
    let told = new.map(|disk| match disk["resyncPercent"].as_u64() {
        Some(percent) => format!("{}: {percent} %", text_at(disk, "/serial")),
        None => text_at(disk, "/serial").to_owned(),
    });
    told.collect::<Vec<_>>().join(", ")
}

fn shown_at_site(machine: &Value) -> Value {
    serde_json::json!({"obstacles": messages(machine, "/properties/obstacles")})
}

/// The messages of a list of errors.
pub(crate) fn messages(resource: &Value, pointer: &str) -> String {
    let errors = resource.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let said = errors.map(|error| {
        let remedy = text_at(error, "/remedy");
        let message = text_at(error, "/message");
        if remedy.is_empty() { message.to_owned() } else { format!("{message} ({remedy})") }
    });
    said.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{adding, choose, messages};

    #[test]
    fn a_machine_of_a_site_is_found_by_id_or_by_a_name_that_only_one_has() {
        let machine = |id: &str, name: &str| json!({"name": id, "properties": {"friendlyName": name}});
        let all = vec![
            machine("vm-1", "web"),
            machine("vm-2", "db"),
            machine("vm-3", "db"),
            machine("web", "other"),
        ];
        let find = |wanted: &str| choose(all.clone(), "home", wanted).map(|found| found["name"].clone());
        assert_eq!(find("vm-2").unwrap(), "vm-2");
        assert_eq!(find("web").unwrap(), "web", "an id is unmistakable");
        assert_eq!(find("Other").unwrap(), "web");
        assert!(find("db").unwrap_err().to_string().contains("vm-2, vm-3"));
        assert!(find("none").unwrap_err().to_string().contains("--site home"));
    }

    #[test]
    fn disks_that_are_added_are_shown_with_how_far_they_are() {
        let disk = |serial: &str, standing: &str, percent| json!({"serial": serial, "standing": standing, "resyncPercent": percent});
        let disks =
            [disk("a", "protected", Some(7)), disk("b", "adding", Some(42)), disk("c", "preparing", None)];
        assert_eq!(adding(&json!({"properties": {"disks": disks}})), "b: 42 %, c");
        assert_eq!(adding(&json!({})), "");
    }

    #[test]
    fn reasons_are_shown_with_what_to_do() {
        let machine = json!({"r": [{"message": "late", "remedy": "wait"}, {"message": "lost"}]});
        assert_eq!(messages(&machine, "/r"), "late (wait)\nlost");
    }
}
