//! Changes of a plan: its groups are read, changed and written back, as the contract has them.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{ArgGroup, Args, ValueEnum};
use serde_json::{Value, json};
use switchback_model::{ActionKind, PlanAction, Side, duration};

use super::super::session::{Session, WaitArgs};
use super::{boot_groups, find, id};
use crate::client::path::{last_name, text_at};

#[derive(Debug, Args)]
pub(crate) struct PlacedMachine {
    /// The plan
    plan: String,
    /// The protected machine
    machine: String,
    /// The group, from 1; one more than there are makes a new one [default: the last]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    group: Option<u64>,
}

/// An action of a plan.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("kind").required(true)), group(ArgGroup::new("when").required(true)))]
pub(crate) struct ActionArgs {
    /// The plan
    plan: String,
    /// What the action is called
    #[arg(long)]
    name: String,
    /// The group, from 1 [default: the last]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    group: Option<u64>,
    /// Before the group's machines are failed over
    #[arg(long, group = "when")]
    before: bool,
    /// After they run
    #[arg(long, group = "when")]
    after: bool,
    /// Wait until a person has done this and confirmed it with `switchback job resume`
    #[arg(long, group = "kind", value_name = "INSTRUCTIONS")]
    manual: Option<String>,
    /// Run this script of the configuration server's `scripts` directory
    #[arg(long, group = "kind", value_name = "FILE")]
    server_script: Option<String>,
    /// Run this script in a guest, by its agent
    #[arg(long, group = "kind", value_name = "MACHINE:FILE", value_parser = guest_script)]
    guest_script: Option<(String, String)>,
    /// Wait this long
    #[arg(long, group = "kind", value_name = "TIME", value_parser = duration::parse)]
    delay: Option<u64>,
    /// Time that a script may take
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = duration::parse)]
    limit: u64,
    /// Only when machines go this way [default: both]
    #[arg(long, value_enum)]
    towards: Option<Towards>,
    /// Also at test failovers
    #[arg(long)]
    at_test: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Towards {
    /// At failbacks
    Home,
    /// At failovers from home
    Recovery,
}

fn guest_script(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((machine, file)) if !machine.is_empty() && !file.is_empty() => Ok((machine.into(), file.into())),
        _ => Err("MACHINE:FILE".into()),
    }
}

/// A group of machines, as the contract has it. A name alone is as good as an id.
pub(super) fn boot_group(machines: impl Iterator<Item = String>) -> Value {
    let items: Vec<_> = machines.map(|machine| json!({"id": machine})).collect();
    json!({"groupType": "Boot", "replicationProtectedItems": items, "startGroupActions": [], "endGroupActions": []})
}

/// Replaces the groups of a plan.
pub(super) async fn replace_groups(
    session: &Session,
    plan: &str,
    change: impl FnOnce(Vec<Value>) -> anyhow::Result<Vec<Value>>,
) -> anyhow::Result<ExitCode> {
    let found = find(session, plan).await?;
    let groups = change(boot_groups(&found).into_iter().cloned().collect())?;
    let reply = session.client.patch(&id(session, plan), &json!({"properties": {"groups": groups}})).await?;
    session.conclude(reply, WaitArgs::default(), &format!("the plan {plan} is changed")).await
}

pub(super) async fn add_machine(session: &Session, args: &PlacedMachine) -> anyhow::Result<ExitCode> {
    replace_groups(session, &args.plan, |groups| with_machine(groups, &args.machine, args.group)).await
}

fn with_machine(mut groups: Vec<Value>, machine: &str, number: Option<u64>) -> anyhow::Result<Vec<Value>> {
    let is_it = |item: &Value| last_name(text_at(item, "/id")).eq_ignore_ascii_case(machine);
    let items = |group: &Value| {
        group.get("replicationProtectedItems").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    if let Some(at) = groups.iter().position(|group| items(group).iter().any(is_it)) {
        bail!("{machine} is in group {} of the plan already", at + 1);
    }
    let count = groups.len();
    let index = match number.map(usize::try_from).transpose()? {
        Some(number) => number - 1,
        None => count.saturating_sub(1),
    };
    if index == count {
        groups.push(boot_group(std::iter::empty()));
    }
    let group = groups
        .get_mut(index)
        .with_context(|| format!("the plan has {count} groups, there is no group {}", index + 1))?;
    let items = group.get_mut("replicationProtectedItems").and_then(Value::as_array_mut);
    items.context("the server's plan has a group without machines")?.push(json!({"id": machine}));
    Ok(groups)
}

pub(super) async fn add_action(session: &Session, args: &ActionArgs) -> anyhow::Result<ExitCode> {
    replace_groups(session, &args.plan, |groups| with_action(groups, args)).await
}

fn with_action(mut groups: Vec<Value>, args: &ActionArgs) -> anyhow::Result<Vec<Value>> {
    let count = groups.len();
    let number = args.group.map(usize::try_from).transpose()?.unwrap_or(count);
    let group = number.checked_sub(1).and_then(|index| groups.get_mut(index));
    let group = group.with_context(|| format!("the plan has {count} groups, there is no group {number}"))?;
    let actions = if args.before { "startGroupActions" } else { "endGroupActions" };
    if group.get(actions).is_none_or(|actions| !actions.is_array()) {
        group[actions] = json!([]);
    }
    if let Some(actions) = group[actions].as_array_mut() {
        actions.push(action(args)?);
    }
    Ok(groups)
}

fn action(args: &ActionArgs) -> anyhow::Result<Value> {
    let limit_s = seconds(args.limit);
    let kind = if let Some(instructions) = &args.manual {
        ActionKind::Manual { instructions: instructions.clone() }
    } else if let Some(script) = &args.server_script {
        ActionKind::ServerScript { script: script.clone(), limit_s }
    } else if let Some((machine, script)) = &args.guest_script {
        ActionKind::GuestScript { machine: machine.parse()?, script: script.clone(), limit_s }
    } else {
        ActionKind::Delay { seconds: seconds(args.delay.unwrap_or_default()) }
    };
    let towards = match args.towards {
        None => Vec::new(),
        Some(Towards::Recovery) => vec![Side::Away],
        Some(Towards::Home) => vec![Side::Home],
    };
    let action = PlanAction { name: args.name.clone(), towards, at_test: args.at_test, action: kind };
    Ok(super::file::action_to_contract(&action))
}

/// Whole seconds, none of them lost.
const fn seconds(millis: u64) -> u64 {
    millis.div_ceil(1000)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::{ActionArgs, boot_group, with_action, with_machine};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        action: ActionArgs,
    }

    fn groups() -> Vec<Value> {
        let group = |names: &[&str]| {
            boot_group(names.iter().map(|name| format!("/x/replicationProtectedItems/{name}")))
        };
        vec![group(&["db01"]), group(&["web01"])]
    }

    fn names(groups: &[Value]) -> Vec<Vec<String>> {
        let name = |item: &Value| crate::client::path::last_name(item["id"].as_str().unwrap());
        groups
            .iter()
            .map(|group| group["replicationProtectedItems"].as_array().unwrap().iter().map(name).collect())
            .collect()
    }

    #[test]
    fn a_machine_goes_into_the_group_that_was_said() {
        let with = |number| with_machine(groups(), "web02", number).map(|groups| names(&groups));
        assert_eq!(with(None).unwrap(), [vec!["db01"], vec!["web01", "web02"]]);
        assert_eq!(with(Some(1)).unwrap(), [vec!["db01", "web02"], vec!["web01"]]);
        assert_eq!(with(Some(3)).unwrap(), [vec!["db01"], vec!["web01"], vec!["web02"]]);
        assert!(with(Some(4)).unwrap_err().to_string().contains("2 groups"));
        assert!(with_machine(groups(), "DB01", None).unwrap_err().to_string().contains("group 1"));
        assert_eq!(names(&with_machine(Vec::new(), "web02", None).unwrap()), [["web02"]]);
    }

    #[test]
    fn actions_are_those_of_the_contract_and_ours() {
        let action = |line: &str| {
            let line =
                Line::try_parse_from(["add-action", "p", "--name", "n"].into_iter().chain(line.split(' ')));
            line.map(|line| with_action(groups(), &line.action))
        };
        let changed = action("--after --group 1 --delay 1500ms --towards home").unwrap().unwrap();
        assert_eq!(
            changed[0]["endGroupActions"],
            json!([{
                "actionName": "n", "failoverTypes": ["PlannedFailover", "UnplannedFailover"],
                "failoverDirections": ["RecoveryToPrimary"],
                "customDetails": {"instanceType": "DelayActionDetails", "delaySeconds": 2},
            }])
        );
        let changed = action("--before --guest-script web01:start.sh --limit 1m --at-test").unwrap().unwrap();
        let added = &changed[1]["startGroupActions"][0];
        assert_eq!(added["failoverTypes"], json!(["PlannedFailover", "UnplannedFailover", "TestFailover"]));
        assert_eq!(
            added["customDetails"],
            json!({
                "instanceType": "GuestScriptActionDetails", "path": "start.sh", "timeout": "60",
                "replicationProtectedItemId": "web01",
            })
        );
        assert!(action("--after --delay 1s --group 3").unwrap().is_err());
        for bad in [
            "--after",
            "--delay 1s",
            "--after --before --delay 1s",
            "--after --delay 1s --manual x",
            "--after --guest-script x",
        ] {
            assert!(action(bad).is_err(), "{bad}");
        }
    }
}
