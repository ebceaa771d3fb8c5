//! A plan's groups as a file, in TOML or JSON, and as the contract has them.
//!
//! ```toml
//! [[groups]]
//! machines = ["db01"]
//!
//! [[groups]]
//! machines = ["web01", "web02"]
//!
//! [[groups.end_actions]]
//! name = "switch the DNS record"
//! towards = ["away"]        # "home", "away"; none: both
//! at_test = false
//! action = { kind = "manual", instructions = "point www at the recovery site" }
//! # or { kind = "server-script", script = "dns.sh", limit_s = 60 }
//! # or { kind = "guest-script", machine = "web01", script = "start.sh", limit_s = 60 }
//! # or { kind = "delay", seconds = 30 }
//! ```
//! The shape is that of the model's plan, so there is no third one. A key that is not known is an error: a misspelt one would be an action that
//! does not run on the day it is needed.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use switchback_model::{ActionKind, PlanAction, PlanGroup, Side};

use super::super::output::OutputFormat;
use crate::client::path::{last_name, text_at};

/// Longest file in bytes.
const LEN_MAX: u64 = 4 << 20;
/// Seconds that a script may take when the contract does not say.
const SCRIPT_LIMIT_S: u64 = 600;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PlanFile {
    groups: Vec<PlanGroup>,
}

/// The groups of a file, as the contract has them.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<Value>> {
    let mut text = String::new();
    let shown = file.display();
    let opened: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(file).with_context(|| format!("{shown} cannot be opened"))?)
    };
    opened.take(LEN_MAX).read_to_string(&mut text).with_context(|| format!("{shown} cannot be read"))?;
    let parsed = parse(&text).with_context(|| format!("{shown} is no file with a plan's groups"))?;
    Ok(parsed.groups.iter().map(group_to_contract).collect())
}

/// Groups of the contract as a file.
pub(super) fn write(groups: &[Value], format: OutputFormat) -> anyhow::Result<String> {
    let file = PlanFile { groups: groups.iter().map(group_from_contract).collect::<Result<_, _>>()? };
    Ok(match format {
        OutputFormat::Table => toml::to_string(&file)?,
        OutputFormat::Json => format!("{}\n", serde_json::to_string_pretty(&file)?),
    })
}

fn parse(text: &str) -> anyhow::Result<PlanFile> {
    let value: Value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text)?
    } else {
        serde_json::to_value(toml::from_str::<toml::Table>(text)?)?
    };
    let file = PlanFile::deserialize(&value)?;
    if let Some(unknown) = unknown_key(&value, &serde_json::to_value(&file)?, "") {
        bail!("{unknown} is not known here");
    }
    Ok(file)
}

/// A key of what was written that what was understood does not have.
fn unknown_key(written: &Value, understood: &Value, at: &str) -> Option<String> {
    match (written, understood) {
        (Value::Object(written), Value::Object(understood)) => written.iter().find_map(|(key, value)| {
            let at = format!("{at}.{key}");
            match understood.get(key) {
                Some(known) => unknown_key(value, known, &at),
                None => Some(at.trim_start_matches('.').to_owned()),
            }
        }),
        (Value::Array(written), Value::Array(understood)) => {
            let pairs = written.iter().zip(understood).enumerate();
            pairs.into_iter().find_map(|(index, (written, understood))| {
                unknown_key(written, understood, &format!("{at}[{index}]"))
            })
        }
        _ => None,
    }
}

fn group_to_contract(group: &PlanGroup) -> Value {
    let actions = |actions: &[PlanAction]| actions.iter().map(action_to_contract).collect::<Vec<_>>();
    let mut shown = super::edit::boot_group(group.machines.iter().map(ToString::to_string));
    shown["startGroupActions"] = actions(&group.start_actions).into();
    shown["endGroupActions"] = actions(&group.end_actions).into();
    shown
}

/// An action as the contract has it; delays and guest scripts are additions in its style.
pub(super) fn action_to_contract(action: &PlanAction) -> Value {
    let details = match &action.action {
        ActionKind::Manual { instructions } => {
            json!({"instanceType": "ManualActionDetails", "description": instructions})
        }
        ActionKind::ServerScript { script, limit_s } => json!({
            "instanceType": "ScriptActionDetails", "path": script, "timeout": limit_s.to_string(), "fabricLocation": "Primary",
        }),
        ActionKind::GuestScript { machine, script, limit_s } => json!({
            "instanceType": "GuestScriptActionDetails", "path": script, "timeout": limit_s.to_string(),
            "replicationProtectedItemId": machine,
        }),
        ActionKind::Delay { seconds } => {
            json!({"instanceType": "DelayActionDetails", "delaySeconds": seconds})
        }
    };
    let goes = |side| action.towards.is_empty() || action.towards.contains(&side);
    let directions: Vec<_> = [(Side::Away, "PrimaryToRecovery"), (Side::Home, "RecoveryToPrimary")]
        .into_iter()
        .filter_map(|(side, direction)| goes(side).then_some(direction))
        .collect();
    let mut types = vec!["PlannedFailover", "UnplannedFailover"];
    if action.at_test {
        types.push("TestFailover");
    }
    json!({"actionName": action.name, "failoverTypes": types, "failoverDirections": directions, "customDetails": details})
}

fn group_from_contract(group: &Value) -> anyhow::Result<PlanGroup> {
    let elements = |field: &str| group.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let actions = |field| elements(field).iter().map(action_from_contract).collect::<Result<Vec<_>, _>>();
    let machine = |item: &Value| last_name(text_at(item, "/id")).parse();
    Ok(PlanGroup {
        machines: elements("replicationProtectedItems").iter().map(machine).collect::<Result<_, _>>()?,
        start_actions: actions("startGroupActions")?,
        end_actions: actions("endGroupActions")?,
    })
}

fn action_from_contract(action: &Value) -> anyhow::Result<PlanAction> {
    let details = |pointer: &str| text_at(action, &format!("/customDetails/{pointer}"));
    let script = || details("path").to_owned();
    let limit_s = || limit(details("timeout"));
    let kind = match details("instanceType") {
        "ManualActionDetails" => ActionKind::Manual { instructions: details("description").to_owned() },
        "ScriptActionDetails" => ActionKind::ServerScript { script: script(), limit_s: limit_s()? },
        "GuestScriptActionDetails" => ActionKind::GuestScript {
            machine: last_name(details("replicationProtectedItemId")).parse()?,
            script: script(),
            limit_s: limit_s()?,
        },
        "DelayActionDetails" => {
            let seconds = action.pointer("/customDetails/delaySeconds").and_then(Value::as_u64);
            ActionKind::Delay {
                seconds: seconds.context("the server's plan has a delay without its length")?,
            }
        }
        other => {
            bail!("the server's plan has an action of a kind that this program does not know: {other:?}")
        }
    };
    let has = |field: &str, value: &str| {
        action
            .get(field)
            .and_then(Value::as_array)
            .is_some_and(|values| values.iter().any(|known| known == value))
    };
    let goes = |direction| has("failoverDirections", direction);
    let towards = match (goes("PrimaryToRecovery"), goes("RecoveryToPrimary")) {
        (true, false) => vec![Side::Away],
        (false, true) => vec![Side::Home],
        _ => Vec::new(),
    };
    let name = text_at(action, "/actionName").to_owned();
    Ok(PlanAction { name, towards, at_test: has("failoverTypes", "TestFailover"), action: kind })
}

/// `HH:MM:SS`, or seconds.
fn limit(text: &str) -> anyhow::Result<u64> {
    if text.is_empty() {
        return Ok(SCRIPT_LIMIT_S);
    }
    let mut parts = text.split(':').map(|part| part.parse::<u64>().ok());
    let seconds = parts.try_fold(0_u64, |total, part| total.checked_mul(60)?.checked_add(part?));
    seconds.with_context(|| format!("the server's plan has a timeout that is no time: {text:?}"))
}

/// An action of the contract on one line.
pub(super) fn describe(action: &Value) -> String {
    let Ok(action) = action_from_contract(action) else {
        return format!("{} (of a kind that this program does not know)", text_at(action, "/actionName"));
    };
    let what = match &action.action {
        ActionKind::Manual { instructions } => format!("wait for a person: {instructions}"),
        ActionKind::ServerScript { script, limit_s } => {
            format!("run {script} on the configuration server, at most {limit_s} s")
        }
        ActionKind::GuestScript { machine, script, limit_s } => {
            format!("run {script} in {machine}, at most {limit_s} s")
        }
        ActionKind::Delay { seconds } => format!("wait {seconds} s"),
    };
    let towards = match action.towards[..] {
        [Side::Home] => ", only towards home",
        [Side::Away] => ", only towards the recovery site",
        _ => "",
    };
    let test = if action.at_test { ", also at tests" } else { "" };
    format!("{}: {what}{towards}{test}", action.name)
}

#[cfg(test)]
mod tests {
    use super::{OutputFormat, describe, group_to_contract, parse, write};

    const FILE: &str = r#"
        [[groups]]
        machines = ["db01"]
        [[groups.start_actions]]
        name = "settle"
        towards = ["home"]
        at_test = true
        action = { kind = "delay", seconds = 30 }
        [[groups]]
        machines = ["web01", "web02"]
        [[groups.end_actions]]
        name = "dns"
        action = { kind = "manual", instructions = "change it" }
        [[groups.end_actions]]
        name = "start"
        action = { kind = "guest-script", machine = "web01", script = "start.sh", limit_s = 60 }
        [[groups.end_actions]]
        name = "tell"
        action = { kind = "server-script", script = "tell.sh", limit_s = 90 }
    "#;

    #[test]
    fn a_plan_survives_the_way_to_the_server_and_back() {
        let file = parse(FILE).unwrap();
        let contract: Vec<_> = file.groups.iter().map(group_to_contract).collect();
        for format in [OutputFormat::Table, OutputFormat::Json] {
            assert_eq!(parse(&write(&contract, format).unwrap()).unwrap(), file, "{format:?}");
        }
        assert_eq!(
            describe(&contract[0]["startGroupActions"][0]),
            "settle: wait 30 s, only towards home, also at tests"
        );
    }

    #[test]
    fn a_misspelt_key_is_an_error_and_says_where() {
        let refused = |from: &str, to: &str| format!("{:#}", parse(&FILE.replace(from, to)).unwrap_err());
        assert!(refused("at_test", "at_tests").contains("groups[0].start_actions[0].at_tests"));
        assert!(refused("end_actions", "after").contains("groups[1].after"));
        assert!(refused("limit_s = 90", "limit = 90").contains("limit_s"));
        assert!(refused("\"delay\"", "\"pause\"").contains("pause"));
        assert!(refused("db01", "db 01/").contains("db 01/"));
        assert!(parse("{\"groups\": 1}").is_err());
        assert!(parse("groups = ").is_err());
    }

    #[test]
    fn limits_of_scripts_are_read_as_the_contract_writes_them() {
        assert_eq!(super::limit("00:01:30").unwrap(), 90);
        assert_eq!(super::limit("45").unwrap(), 45);
        assert_eq!(super::limit("").unwrap(), super::SCRIPT_LIMIT_S);
        assert!(super::limit("soon").is_err());
    }
}
