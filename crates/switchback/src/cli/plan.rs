//! `switchback plan`: recovery plans: which machines fail over in which order, and what is done around them.

mod edit;
mod file;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use switchback_model::Operation;

use self::edit::{ActionArgs, PlacedMachine};
use super::confirm::ConfirmArgs;
use super::machine::Places;
use super::machine::operate::{AskedArgs, HowArgs, check_allowed, source_site_operations};
use super::point::{POINT_HELP, PointArg};
use super::render::{Field, name, plain, printable};
use super::session::{self, Session, SessionArgs, WaitArgs};
use crate::client::path::{self, text_at};

const LIST: &[Field] = &[
    plain("NAME", &["/name"]),
    plain("HOME", &["/properties/primaryFabricFriendlyName"]),
    plain("RECOVERY", &["/properties/recoveryFabricFriendlyName"]),
    plain("MACHINES", &["/shown/machines"]),
    plain("LAST JOB", &["/properties/currentScenarioStatus"]),
    plain("ALLOWED NOW", &["/properties/allowedOperations"]),
];
const MACHINE: &[Field] = &[name("", &["/id"])];

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: PlanCommand,
}

#[derive(Debug, Subcommand)]
enum PlanCommand {
    /// List the recovery plans
    List,
    /// Show a plan with its groups and actions
    Show {
        /// The plan
        plan: String,
        /// As a file that `plan edit` takes
        #[arg(long)]
        as_file: bool,
    },
    /// Make a plan
    Create {
        /// Its name
        plan: String,
        /// The home site of its machines
        #[arg(long, value_name = "SITE")]
        home: String,
        /// Their recovery site
        #[arg(long, value_name = "SITE")]
        recovery: String,
        /// Machines that fail over together: one --group for each group, in order
        #[arg(long, value_name = "MACHINE,…")]
        group: Vec<String>,
    },
    /// Replace the groups of a plan by those of a file (TOML or JSON; `plan show --as-file` writes one)
    Edit {
        /// The plan
        plan: String,
        /// The file; - is standard input
        file: PathBuf,
    },
    /// Delete a plan; its machines stay as they are
    Delete {
        /// The plan
        plan: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Add a machine to a group of a plan
    AddMachine(PlacedMachine),
    /// Add an action before or after a group of a plan
    AddAction(Box<ActionArgs>),
    /// Start the machines at the other site, group by group; when they run away from home, this is the failback
    Failover {
        /// The plan
        plan: String,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Start isolated copies at the other site, to see that it would work
    TestFailover {
        /// The plan
        plan: String,
        #[arg(long, default_value = "latest-processed", help = POINT_HELP)]
        point: PointArg,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Remove the copies of a test failover
    TestFailoverCleanup {
        /// The plan
        plan: String,
        /// The test's result, for the record
        #[arg(long, default_value = "", value_name = "TEXT")]
        comments: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Make the failover of all machines final
    Commit(AskedArgs),
    /// Take the failover of all machines back, before it is committed
    CancelFailover(AskedArgs),
    /// Replicate all machines towards the side they have left
    Reprotect(AskedArgs),
}

pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    session::run(&args.session, async |session| match &args.command {
        PlanCommand::List => {
            let plans = session.client.list(&session.client.id(path::PLANS), &[], None).await?;
            Ok(session.print_list_as(LIST, &plans, |plan| json!({"machines": machines(plan).join(",")})))
        }
        PlanCommand::Show { plan, as_file } => show(&session, plan, *as_file).await,
        PlanCommand::Create { plan, home, recovery, group } => {
            create(&session, plan, [home, recovery], group).await
        }
        PlanCommand::Edit { plan, file } => {
            let groups = file::read(file)?;
            edit::replace_groups(&session, plan, |_| Ok(groups)).await
        }
        PlanCommand::Delete { plan, confirm } => {
            find(&session, plan).await?;
            confirm.confirm(&format!(
                "The recovery plan {plan} will be deleted; its machines stay as they are."
            ))?;
            let reply = session.client.delete(&id(&session, plan)).await?;
            session.conclude(reply, WaitArgs::default(), &format!("the plan {plan} is deleted")).await
        }
        PlanCommand::AddMachine(args) => edit::add_machine(&session, args).await,
        PlanCommand::AddAction(args) => edit::add_action(&session, args).await,
        operation => operate(&session, operation).await,
    })
}

fn id(session: &Session, plan: &str) -> String {
    session.client.id(&format!("{}/{}", path::PLANS, path::encode(plan)))
}

async fn find(session: &Session, plan: &str) -> anyhow::Result<Value> {
    Ok(session.client.get(&id(session, plan)).await?)
}

/// Groups that machines are in; the contract shows others, which are always empty.
fn boot_groups(plan: &Value) -> Vec<&Value> {
    let groups = plan.pointer("/properties/groups").and_then(Value::as_array).into_iter().flatten();
    groups.filter(|group| text_at(group, "/groupType") == "Boot").collect()
}

/// The machines of a plan, in their order.
fn machines(plan: &Value) -> Vec<String> {
    let items = |group: &Value| {
        group.get("replicationProtectedItems").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    boot_groups(plan).into_iter().flat_map(items).map(|item| MACHINE[0].of(&item)).collect()
}

async fn show(session: &Session, plan: &str, as_file: bool) -> anyhow::Result<ExitCode> {
    let plan = find(session, plan).await?;
    if as_file {
        let groups: Vec<_> = boot_groups(&plan).into_iter().cloned().collect();
        print!("{}", file::write(&groups, session.format)?);
        return Ok(ExitCode::SUCCESS);
    }
    session.print_as(LIST, &plan, |plan| json!({"machines": machines(plan).join(",")}));
    if session.is_for_people() {
        for (index, group) in boot_groups(&plan).into_iter().enumerate() {
            println!("\nGroup {}", index + 1);
            actions("before", group.get("startGroupActions"));
            for item in group.get("replicationProtectedItems").and_then(Value::as_array).into_iter().flatten()
            {
                println!("  {}", printable(&MACHINE[0].of(item)));
            }
            actions("after", group.get("endGroupActions"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn actions(title: &str, actions: Option<&Value>) {
    for action in actions.and_then(Value::as_array).into_iter().flatten() {
        println!("  {title}: {}", printable(&file::describe(action)));
    }
}

async fn create(
    session: &Session,
    plan: &str,
    sites: [&String; 2],
    groups: &[String],
) -> anyhow::Result<ExitCode> {
    if find(session, plan).await.is_ok() {
        bail!("there is a plan {plan:?} already; `switchback plan edit` changes it");
    }
    let groups: Vec<_> = groups
        .iter()
        .map(|group| {
            let machines = group.split(',').map(str::trim).filter(|machine| !machine.is_empty());
            edit::boot_group(machines.map(str::to_owned))
        })
        .collect();
    let [home, recovery] =
        sites.map(|site| session.client.id(&format!("{}/{}", path::FABRICS, path::encode(site))));
    let body =
        json!({"properties": {"primaryFabricId": home, "recoveryFabricId": recovery, "groups": groups}});
    let reply = session.client.put(&id(session, plan), &body).await?;
    session.conclude(reply, WaitArgs::default(), &format!("the plan {plan} is made")).await
}

/// Which way a plan's machines go: from where they run.
#[derive(Debug, PartialEq, Eq)]
struct Direction {
    from: String,
    to: String,
    machines: Vec<String>,
    homewards: bool,
}

impl Direction {
    /// A plan serves both directions; its machines tell which one is next. All must go the same way, and be able to.
    async fn of(session: &Session, plan: &Value, operation: Operation) -> anyhow::Result<Self> {
        let machines = machines(plan);
        let mut found = Vec::new();
        for machine in &machines {
            found.push(super::machine::find(session, machine).await?);
        }
        let towards_home: Vec<_> = found.iter().map(|machine| Places::of(machine).towards_home).collect();
        let direction = Self::new(plan, machines, &towards_home)?;
        found.iter().try_for_each(|machine| check_allowed(machine, operation))?;
        Ok(direction)
    }

    fn new(plan: &Value, machines: Vec<String>, towards_home: &[bool]) -> anyhow::Result<Self> {
        let homewards = *towards_home
            .first()
            .context("the plan has no machines; add some with `switchback plan add-machine`")?;
        if towards_home.iter().any(|towards| *towards != homewards) {
            bail!(
                "the plan's machines run at different sites, so they cannot go one way; `switchback machine list` shows where, and each can \
                 be failed over by itself"
            );
        }
        let site = |pointer| text_at(plan, pointer).to_owned();
        let (home, recovery) =
            (site("/properties/primaryFabricFriendlyName"), site("/properties/recoveryFabricFriendlyName"));
        let (from, to) = if homewards { (recovery, home) } else { (home, recovery) };
        Ok(Self { from, to, machines, homewards })
    }

    /// A plan's direction is fixed to its fabrics, unlike a machine's.
    const fn contract(&self) -> &'static str {
        if self.homewards { "RecoveryToPrimary" } else { "PrimaryToRecovery" }
    }

    const fn provider(&self) -> &'static str {
        if self.homewards { "InMage" } else { "InMageAzureV2" }
    }

    fn question(&self, what: &str, how: &HowArgs) -> String {
        let Self { from, to, .. } = self;
        let all = self.machines.join(", ");
        let back = if self.homewards { " This is a failback: they come home." } else { "" };
        if how.planned {
            format!(
                "{what}: {all} will be shut down at {from}, their last changes sent, and started at {to}. Nothing is lost.{back}"
            )
        } else {
            let source = if how.no_shutdown {
                "are left as they are"
            } else {
                "will be shut down, where that can be reached,"
            };
            format!(
                "{what}: {all} {source} at {from} and started at {to} as of the recovery point {}; what they wrote after that is lost.{back}",
                how.point
            )
        }
    }
}

async fn operate(session: &Session, operation: &PlanCommand) -> anyhow::Result<ExitCode> {
    let no_point = "a plan's machines have no recovery point of one number; choose one of the named ones";
    let (plan, action, body, wait) = match operation {
        PlanCommand::Failover { plan, how } => {
            let found = find(session, plan).await?;
            let direction = Direction::of(session, &found, how.operation()).await?;
            let mut body = json!({"failoverDirection": direction.contract()});
            if !how.planned {
                let details = how.point.plan_details(direction.provider()).context(no_point)?;
                body["sourceSiteOperations"] = source_site_operations(how).into();
                body["providerSpecificDetails"] = json!([details]);
            }
            how.confirm.confirm(&direction.question(plan, how))?;
            let action = if how.planned { "plannedFailover" } else { "unplannedFailover" };
            (plan, action, body, how.wait)
        }
        PlanCommand::TestFailover { plan, point, wait } => {
            let found = find(session, plan).await?;
            let direction = Direction::of(session, &found, Operation::TestFailover).await?;
            let details = point.plan_details(direction.provider()).context(no_point)?;
            let body = json!({
                "failoverDirection": direction.contract(), "networkType": "NoNetworkAttachAsInput", "providerSpecificDetails": [details],
            });
            (plan, "testFailover", body, *wait)
        }
        PlanCommand::TestFailoverCleanup { plan, comments, wait } => {
            (plan, "testFailoverCleanup", json!({"comments": comments}), *wait)
        }
        PlanCommand::Commit(args) => asked(session, args, Operation::Commit).await?,
        PlanCommand::CancelFailover(args) => asked(session, args, Operation::CancelFailover).await?,
        PlanCommand::Reprotect(args) => asked(session, args, Operation::Reprotect).await?,
        other => bail!("{other:?} is no operation of a plan"),
    };
    let reply = session
        .client
        .post(&format!("{}/{action}", id(session, plan)), Some(&json!({"properties": body})))
        .await?;
    session.conclude(reply, wait, &format!("{plan}: done")).await
}

/// An operation whose words are those of the machines, one line for each.
async fn asked<'a>(
    session: &Session,
    args: &'a AskedArgs,
    operation: Operation,
) -> anyhow::Result<(&'a String, &'static str, Value, WaitArgs)> {
    let plan = find(session, &args.machine).await?;
    let mut lines = Vec::new();
    for name in machines(&plan) {
        let machine = super::machine::find(session, &name).await?;
        check_allowed(&machine, operation)?;
        let places = Places::of(&machine);
        lines.push(match operation {
            Operation::Commit => places.commit(),
            Operation::CancelFailover => places.cancel_failover(),
            _ => places.reprotect(false, None),
        });
    }
    args.confirm.confirm(&lines.join("\n"))?;
    let action = match operation {
        Operation::Commit => "failoverCommit",
        Operation::CancelFailover => "failoverCancel",
        _ => "reProtect",
    };
    Ok((&args.machine, action, json!({}), args.wait))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Direction, machines};

    fn plan() -> serde_json::Value {
        let group = |kind: &str, names: &[&str]| {
            let items: Vec<_> = names
                .iter()
                .map(|name| json!({"id": format!("/x/replicationProtectedItems/{name}")}))
                .collect();
            json!({"groupType": kind, "replicationProtectedItems": items})
        };
        json!({"name": "p", "properties": {
            "primaryFabricFriendlyName": "munich", "recoveryFabricFriendlyName": "azure",
            "groups": [group("Shutdown", &[]), group("Failover", &[]), group("Boot", &["db01"]), group("Boot", &["web01", "web02"])],
        }})
    }

    #[test]
    fn machines_are_in_the_order_they_start_in() {
        assert_eq!(machines(&plan()), ["db01", "web01", "web02"]);
    }

    #[test]
    fn one_plan_serves_both_directions_and_its_machines_tell_which() {
        let direction = |towards_home: &[bool]| Direction::new(&plan(), machines(&plan()), towards_home);
        let away = direction(&[false; 3]).unwrap();
        assert_eq!(
            (away.from.as_str(), away.to.as_str(), away.contract()),
            ("munich", "azure", "PrimaryToRecovery")
        );
        let back = direction(&[true; 3]).unwrap();
        assert_eq!(
            (back.from.as_str(), back.to.as_str(), back.contract()),
            ("azure", "munich", "RecoveryToPrimary")
        );
        assert_eq!((away.provider(), back.provider()), ("InMageAzureV2", "InMage"));
        assert!(direction(&[true, false, true]).unwrap_err().to_string().contains("different sites"));
        assert!(direction(&[]).is_err());
    }
}
