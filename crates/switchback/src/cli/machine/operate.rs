//! What is done with a protected machine: failovers, commit, reprotect and the rest.
//!
//! Each is one call of the contract with the direction that the machine's state gives it: it always goes from where the machine runs to the other
//! site, so there is no way to ask for the wrong one; the user is told which that is.

use std::process::ExitCode;

use anyhow::bail;
use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};
use switchback_model::Operation;

use super::super::confirm::ConfirmArgs;
use super::super::point::{POINT_HELP, PointArg};
use super::super::session::{Session, WaitArgs};
use super::words::Places;
use crate::client::Reply;
use crate::client::path::{self, text_at};

/// The server's code for a clean-up that has nothing to do.
const NOTHING_LEFT: &str = "clean-up.nothing";

#[derive(Debug, Subcommand)]
pub(crate) enum OperateCommand {
    /// Start an isolated copy at the other site, to see that it would work; the machine itself goes on
    TestFailover {
        /// The protected machine
        machine: String,
        #[arg(long, default_value = "latest-processed", help = POINT_HELP)]
        point: PointArg,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Remove the copy of a test failover
    TestFailoverCleanup {
        /// The protected machine
        machine: String,
        /// The test's result, for the record
        #[arg(long, default_value = "", value_name = "TEXT")]
        comments: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Start the machine at the other site; when it runs away from home, this is the failback
    Failover(FailoverArgs),
    /// Take another recovery point for the failover that was made, before it is committed
    ChangeRecoveryPoint {
        /// The protected machine
        machine: String,
        #[arg(long, help = POINT_HELP)]
        point: PointArg,
        #[command(flatten)]
        confirm: ConfirmArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Take the failover back, before it is committed
    CancelFailover(AskedArgs),
    /// Make the failover final
    Commit(AskedArgs),
    /// Replicate the machine towards the side it has left
    Reprotect(ReprotectArgs),
    /// Compare everything again, and send what differs
    Resync {
        /// The protected machine
        machine: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Send through another process server of the site at which the machine runs; `server replace` does it for all machines of one
    SwitchProcessServer {
        /// The protected machine
        machine: String,
        /// The process server's name
        #[arg(long, value_name = "NAME")]
        to: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Protect disks too that the machine has got since it was protected; the others go on as they are
    AddDisk {
        /// The protected machine
        machine: String,
        /// Each by its serial number, or the name that the machine has for it: `vdb`
        #[arg(required = true, value_name = "DISK")]
        disks: Vec<String>,
        /// Where their replicas go [default: the one with most room]
        #[arg(long, value_name = "NAME")]
        datastore: Option<String>,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Protect disks no more; the others go on as they are
    RemoveDisk {
        /// The protected machine
        machine: String,
        /// Each by its serial number, or the name that the machine has for it: `vdb`
        #[arg(required = true, value_name = "DISK")]
        disks: Vec<String>,
        #[command(flatten)]
        confirm: ConfirmArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// End the protection
    Disable {
        /// The protected machine
        machine: String,
        /// Also delete the machine at the other site, if Switchback made it
        #[arg(long)]
        clean_up: bool,
        #[command(flatten)]
        confirm: ConfirmArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Delete the machines that were left behind for good, if Switchback made them
    CleanUp(AskedArgs),
    /// Look at a machine again at once, because its troubles were mended; succeeds when all of them have gone
    Check {
        /// The protected machine
        machine: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Have the machine's mobility agent go on as the configuration server's version; the machine runs, and goes on being tracked
    UpdateAgent {
        /// The protected machine
        machine: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AskedArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    pub(crate) machine: String,
    #[command(flatten)]
    pub(crate) confirm: ConfirmArgs,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

/// How a failover is made; of a machine or a plan.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("how").required(true)))]
pub(crate) struct HowArgs {
    /// Shut down, send the last changes, start at the other site: nothing is lost
    #[arg(long, group = "how")]
    pub(crate) planned: bool,
    /// Start at the other site at a recovery point, whatever has become of this one
    #[arg(long, group = "how")]
    pub(crate) unplanned: bool,
    #[arg(long, default_value = "latest", conflicts_with = "planned", help = POINT_HELP)]
    pub(crate) point: PointArg,
    /// Leave what still runs at the side that is left as it is, instead of shutting it down if it can be reached
    #[arg(long, conflicts_with = "planned")]
    pub(crate) no_shutdown: bool,
    #[command(flatten)]
    pub(crate) confirm: ConfirmArgs,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

impl HowArgs {
    pub(crate) const fn operation(&self) -> Operation {
        if self.planned { Operation::PlannedFailover } else { Operation::UnplannedFailover }
    }
}

#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    /// The protected machine
    machine: String,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReprotectArgs {
    /// The protected machine
    machine: String,
    /// The process server at the site it runs at [default: the one there is]
    #[arg(long, value_name = "NAME")]
    process_server: Option<String>,
    /// The master target at the other site [default: the one there is]
    #[arg(long, value_name = "NAME")]
    master_target: Option<String>,
    /// Where a new machine goes if one is needed: the machine that was left is gone, or --alternate-location [default: the one with most room]
    #[arg(long, value_name = "NAME")]
    datastore: Option<String>,
    /// To a new machine, although the disks that were left are there
    #[arg(long)]
    alternate_location: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

/// A call of the contract: an action, and its body.
#[derive(Debug, PartialEq)]
struct Request {
    action: &'static str,
    body: Value,
    /// What is asked before, if anything.
    question: Option<String>,
    done: String,
}

impl OperateCommand {
    fn machine(&self) -> &str {
        match self {
            Self::TestFailover { machine, .. }
            | Self::TestFailoverCleanup { machine, .. }
            | Self::ChangeRecoveryPoint { machine, .. }
            | Self::Resync { machine, .. }
            | Self::Check { machine, .. }
            | Self::UpdateAgent { machine, .. }
            | Self::SwitchProcessServer { machine, .. }
            | Self::AddDisk { machine, .. }
            | Self::RemoveDisk { machine, .. }
            | Self::Disable { machine, .. } => machine,
            Self::Failover(args) => &args.machine,
            Self::Reprotect(args) => &args.machine,
            Self::CancelFailover(args) | Self::Commit(args) | Self::CleanUp(args) => &args.machine,
        }
    }

    /// What it is in the machine's table of transitions; a clean-up, a check and an update change no protection.
    const fn operation(&self) -> Option<Operation> {
        Some(match self {
            Self::TestFailover { .. } => Operation::TestFailover,
            Self::TestFailoverCleanup { .. } => Operation::TestFailoverCleanup,
            Self::Failover(args) => args.how.operation(),
            Self::ChangeRecoveryPoint { .. } => Operation::ChangeRecoveryPoint,
            Self::CancelFailover(_) => Operation::CancelFailover,
            Self::Commit(_) => Operation::Commit,
            Self::Reprotect(_) => Operation::Reprotect,
            Self::Resync { .. } => Operation::Resynchronize,
            Self::SwitchProcessServer { .. } => Operation::SwitchProcessServer,
            Self::AddDisk { .. } => Operation::AddDisks,
            Self::RemoveDisk { .. } => Operation::RemoveDisks,
            Self::Disable { .. } => Operation::Disable,
            Self::CleanUp(_) | Self::Check { .. } | Self::UpdateAgent { .. } => return None,
        })
    }

    const fn wait(&self) -> WaitArgs {
        match self {
            Self::TestFailover { wait, .. }
            | Self::TestFailoverCleanup { wait, .. }
            | Self::ChangeRecoveryPoint { wait, .. }
            | Self::Resync { wait, .. }
            | Self::Check { wait, .. }
            | Self::UpdateAgent { wait, .. }
            | Self::SwitchProcessServer { wait, .. }
            | Self::AddDisk { wait, .. }
            | Self::RemoveDisk { wait, .. }
            | Self::Disable { wait, .. } => *wait,
            Self::Failover(args) => args.how.wait,
            Self::Reprotect(args) => args.wait,
            Self::CancelFailover(args) | Self::Commit(args) | Self::CleanUp(args) => args.wait,
        }
    }

    fn confirm(&self) -> ConfirmArgs {
        match self {
            Self::TestFailover { .. }
            | Self::TestFailoverCleanup { .. }
            | Self::Resync { .. }
            | Self::Check { .. }
            | Self::UpdateAgent { .. }
            | Self::AddDisk { .. }
            | Self::SwitchProcessServer { .. } => ConfirmArgs::default(),
            Self::ChangeRecoveryPoint { confirm, .. }
            | Self::RemoveDisk { confirm, .. }
            | Self::Disable { confirm, .. } => *confirm,
            Self::Failover(args) => args.how.confirm,
            Self::Reprotect(args) => args.confirm,
            Self::CancelFailover(args) | Self::Commit(args) | Self::CleanUp(args) => args.confirm,
        }
    }
}

pub(super) async fn run(session: &Session, command: &OperateCommand) -> anyhow::Result<ExitCode> {
    let client = &session.client;
    let machine = super::find(session, command.machine()).await?;
    let places = Places::of(&machine);
    if let Some(operation) = command.operation() {
        check_allowed(&machine, operation)?;
    }
    let request = request(command, &places);
    if let Some(question) = &request.question {
        command.confirm().confirm(question)?;
    }
    let id = match command {
        // The contract has no words for them; they are actions on our own resource.
        OperateCommand::CleanUp(_) | OperateCommand::SwitchProcessServer { .. } => {
            client.id(&format!("{}/{}", path::MACHINES, path::encode(&places.machine)))
        }
        _ => text_at(&machine, "/properties/contractId").to_owned(),
    };
    let reply = match client.post(&format!("{id}/{}", request.action), Some(&request.body)).await {
        // What was asked for is so already; a script may clean up again and again.
        Err(error) if error.refusal().is_some_and(|refusal| refusal.code == NOTHING_LEFT) => {
            Reply::Done(machine)
        }
        other => other?,
    };
    session.conclude(reply, command.wait(), &request.done).await
}

/// Whether a machine's state allows an operation. The server decides; this is so that nobody is asked about what cannot be.
pub(crate) fn check_allowed(machine: &Value, operation: Operation) -> anyhow::Result<()> {
    let Some(allowed) = machine.pointer("/properties/allowed").and_then(Value::as_array) else {
        return Ok(());
    };
    let wanted = serde_json::to_value(operation)?;
    if allowed.contains(&wanted) {
        return Ok(());
    }
    let (name, state) = (text_at(machine, "/name"), text_at(machine, "/properties/state"));
    if machine.pointer("/properties/held").is_some_and(|held| !held.is_null()) {
        let why = super::messages(machine, "/properties/reasons");
        bail!(
            "{operation} is not possible with {name}, which is held since the configuration server was restored:\n{why}"
        );
    }
    let possible: Vec<_> = allowed.iter().filter_map(Value::as_str).collect();
    let possible =
        if possible.is_empty() { "nothing, while a job works on it".to_owned() } else { possible.join(", ") };
    bail!("{operation} is not possible with {name}, which is {state}; possible now: {possible}")
}

#[expect(clippy::too_many_lines, reason = "a table: one line or a few for each command")]
fn request(command: &OperateCommand, places: &Places) -> Request {
    let machine = &places.machine;
    let ask = |action, properties: Value, question: String, done: &str| Request {
        action,
        body: json!({"properties": properties}),
        question: Some(question),
        done: format!("{machine}: {done}"),
    };
    let forward = places.provider_towards_passive();
    match command {
        OperateCommand::TestFailover { point, .. } => {
            let body = json!({"failoverDirection": "PrimaryToRecovery", "providerSpecificDetails": point.details(forward)});
            unasked(ask("testFailover", body, String::new(), "the test copy runs"))
        }
        OperateCommand::TestFailoverCleanup { comments, .. } => unasked(ask(
            "testFailoverCleanup",
            json!({"comments": comments}),
            String::new(),
            "the test copy is gone",
        )),
        OperateCommand::Failover(FailoverArgs { how, .. }) if how.planned => {
            let body = json!({
                "failoverDirection": "PrimaryToRecovery", "providerSpecificDetails": {"instanceType": forward},
            });
            ask("plannedFailover", body, places.planned_failover(), "failed over")
        }
        OperateCommand::Failover(FailoverArgs { how, .. }) => {
            let body = json!({
                "failoverDirection": "PrimaryToRecovery",
                "sourceSiteOperations": source_site_operations(how),
                "providerSpecificDetails": how.point.details(forward),
            });
            ask(
                "unplannedFailover",
                body,
                places.unplanned_failover(&how.point, !how.no_shutdown),
                "failed over",
            )
        }
        OperateCommand::ChangeRecoveryPoint { point, .. } => {
            let body = json!({"providerSpecificDetails": point.details(places.provider_towards_active())});
            let question = places.change_recovery_point(point);
            ask("applyRecoveryPoint", body, question, "the recovery point was changed")
        }
        OperateCommand::CancelFailover(_) => {
            ask("failoverCancel", json!({}), places.cancel_failover(), "the failover was taken back")
        }
        OperateCommand::Commit(_) => {
            ask("failoverCommit", json!({}), places.commit(), "the failover is final")
        }
        OperateCommand::Reprotect(args) => {
            let question = places.reprotect(args.alternate_location, args.datastore.as_deref());
            ask("reProtect", reprotect_body(args, forward), question, "it replicates")
        }
        OperateCommand::Resync { .. } => {
            let body = json!({"providerSpecificDetails": {"instanceType": forward}});
            unasked(ask("repairReplication", body, String::new(), "everything is compared again"))
        }
        OperateCommand::SwitchProcessServer { to, .. } => {
            let body = json!({"processServer": to});
            unasked(ask("switchProcessServer", body, String::new(), &format!("it sends through {to}")))
        }
        OperateCommand::Disable { clean_up, .. } => {
            ask("remove", disable_body(*clean_up), places.disable(*clean_up), "it is not protected any more")
        }
        OperateCommand::AddDisk { disks, datastore, .. } => {
            let body = disks_body(forward, disks, datastore.as_deref());
            unasked(ask("addDisks", body, String::new(), "initial replication of the disks follows"))
        }
        OperateCommand::RemoveDisk { disks, .. } => {
            let (body, question) = (disks_body(forward, disks, None), places.remove_disks(disks));
            ask("removeDisks", body, question, "the disks are not protected any more")
        }
        // None is named: all that there are.
        OperateCommand::Check { .. } => {
            unasked(ask("resolveHealthErrors", json!({}), String::new(), "what was not well has gone"))
        }
        OperateCommand::UpdateAgent { .. } => {
            unasked(ask("updateMobilityService", json!({}), String::new(), "its agent runs this version"))
        }
        OperateCommand::CleanUp(_) => ask("cleanUp", json!({}), places.clean_up(), "nothing is left behind"),
    }
}

fn unasked(request: Request) -> Request {
    Request { question: None, ..request }
}

pub(crate) const fn source_site_operations(how: &HowArgs) -> &'static str {
    if how.no_shutdown { "NotRequired" } else { "Required" }
}

fn disks_body(provider: &str, disks: &[String], datastore: Option<&str>) -> Value {
    let disks: Vec<_> = disks.iter().map(|disk| json!({"diskId": disk})).collect();
    json!({"providerSpecificDetails": {"instanceType": provider, "disks": disks, "datastoreName": datastore}})
}

fn disable_body(clean_up: bool) -> Value {
    let deletion = if clean_up { "Delete" } else { "Retain" };
    let input = json!({"instanceType": "InMage", "replicaVmDeletionStatus": deletion});
    json!({"disableProtectionReason": "NotSpecified", "replicationProviderInput": input})
}

/// Against the pair's direction, with the provider of the new one.
fn reprotect_body(args: &ReprotectArgs, provider: &str) -> Value {
    let mut details = json!({"instanceType": provider});
    let said = [
        ("processServerId", &args.process_server),
        ("masterTargetId", &args.master_target),
        ("datastoreName", &args.datastore),
    ];
    for (field, value) in said {
        if let Some(value) = value {
            details[field] = value.as_str().into();
        }
    }
    if args.alternate_location {
        details["switchbackAlternateLocation"] = true.into();
    }
    json!({"failoverDirection": "RecoveryToPrimary", "providerSpecificDetails": details})
}

#[cfg(test)]
mod tests;
