//! `switchback group` and `switchback policy`: sets of machines that are replicated in one way, and the way.
//!
//! A group is made together with its failback twin (`PG1`, `PG1_Failback`); each has its own policy.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use switchback_model::{RetentionPolicy, Thinning, duration};

use super::confirm::ConfirmArgs;
use super::render::{Field, bytes, millis, plain};
use super::session::{self, Session, SessionArgs, WaitArgs};
use crate::client::path::{self, text_at};

const LIST: &[Field] = &[
    plain("NAME", &["/name"]),
    plain("FROM", &["/properties/sourceSite"]),
    plain("TO", &["/properties/targetSite"]),
    plain("TOWARDS", &["/properties/towards"]),
    plain("TWIN", &["/properties/twin"]),
    millis("INTERVAL", &["/properties/policy/intervalMs"]),
    plain("MULTI-VM", &["/properties/policy/multiVm"]),
];
const POLICY: &[Field] = &[
    plain("Group", &["/name"]),
    plain("From", &["/properties/sourceSite"]),
    plain("To", &["/properties/targetSite"]),
    plain("Twin", &["/properties/twin"]),
    millis("Point every", &["/properties/policy/intervalMs"]),
    millis("App-consistent every", &["/properties/policy/appIntervalMs"]),
    millis("Alarm after", &["/properties/policy/rpoThresholdMs"]),
    plain("Points kept", &["/shown/retention"]),
    bytes("History at most", &["/properties/policy/retention/bytesMax"]),
    millis("Freeze at most", &["/properties/policy/freezeBudgetMs"]),
    plain("Compression", &["/properties/policy/compression"]),
    bytes("Bytes per second", &["/properties/policy/bytesPerSMax"]),
    plain("Multi-VM", &["/properties/policy/multiVm"]),
];

#[derive(Debug, Args)]
pub(crate) struct GroupArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// List protection groups and their failback twins
    List,
    /// Show a group with its policy
    Show {
        /// The group
        group: String,
    },
    /// Make a group; its failback twin makes itself
    Create {
        /// Its name
        group: String,
        /// The site its machines run at
        #[arg(long, value_name = "SITE")]
        from: String,
        /// The site they are replicated to
        #[arg(long, value_name = "SITE")]
        to: String,
        #[command(flatten)]
        policy: PolicyFields,
    },
    /// Change a group's policy
    Update {
        /// The group, or a failback twin
        group: String,
        #[command(flatten)]
        policy: PolicyFields,
    },
    /// Delete a group and its failback twin
    Delete {
        /// The group
        group: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Show how the machines of a group or a failback twin are replicated
    Show {
        /// The group, or a failback twin
        group: String,
    },
    /// Change it; what is not said stays as it is
    Update {
        /// The group, or a failback twin
        group: String,
        #[command(flatten)]
        policy: PolicyFields,
    },
}

/// What a policy says. Times are like `15s`, `500ms`, `1h`, `3d`.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Policy")]
struct PolicyFields {
    /// Time between recovery points
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    interval: Option<u64>,
    /// Time between app-consistent recovery points; 0: none
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    app_interval: Option<u64>,
    /// Age of the newest recovery point from which on an alarm is raised
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    rpo_threshold: Option<u64>,
    /// Longest time that file systems may stand still for a point
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    freeze_budget: Option<u64>,
    /// Which points are kept, as AGE:EVERY steps: `1d:0s,3d:1h,15d:1d` keeps all of one day, hourly ones of three, daily ones of fifteen
    #[arg(long, value_name = "STEPS", value_parser = retention_steps)]
    retention: Option<Steps>,
    /// zstd level on the way; 0: none
    #[arg(long, value_name = "LEVEL", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-7..=19))]
    compression: Option<i32>,
    /// Bytes per second at most, for each machine; 0: no limit
    #[arg(long, value_name = "BYTES")]
    bytes_per_second: Option<u64>,
    /// Whether the machines take their recovery points together (multi-VM consistency)
    #[arg(long, value_name = "BOOL")]
    multi_vm: Option<bool>,
}

/// Steps of a retention.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Steps(Vec<Thinning>);

fn retention_steps(text: &str) -> Result<Steps, String> {
    RetentionPolicy::read_steps(text).map(Steps)
}

impl PolicyFields {
    /// What was said, in the API's shape. The limit on the history's bytes is a part of the retention there, so what is known of it stays.
    fn body(&self, now: Option<&Value>) -> Value {
        let mut policy = json!({});
        let numbers = [
            ("intervalMs", self.interval),
            ("appIntervalMs", self.app_interval),
            ("rpoThresholdMs", self.rpo_threshold),
            ("freezeBudgetMs", self.freeze_budget),
            ("bytesPerSMax", self.bytes_per_second),
        ];
        for (field, value) in numbers {
            if let Some(value) = value {
                policy[field] = value.into();
            }
        }
        if let Some(level) = self.compression {
            policy["compression"] = level.into();
        }
        if let Some(multi_vm) = self.multi_vm {
            policy["multiVm"] = multi_vm.into();
        }
        if let Some(Steps(steps)) = &self.retention {
            let shown = |step: &Thinning| json!({"untilAgeMs": step.until_age_ms, "everyMs": step.every_ms});
            let steps: Vec<_> = steps.iter().map(shown).collect();
            let bytes_max = now.and_then(|now| now.pointer("/properties/policy/retention/bytesMax")).cloned();
            policy["retention"] = json!({"steps": steps, "bytesMax": bytes_max});
        }
        policy
    }
}

pub(crate) fn run(args: &GroupArgs) -> anyhow::Result<ExitCode> {
    session::run(&args.session, async |session| {
        let client = &session.client;
        match &args.command {
            GroupCommand::List => {
                Ok(session.print_list(LIST, &client.list(&client.id(path::GROUPS), &[], None).await?))
            }
            GroupCommand::Show { group } => show(&session, group).await,
            GroupCommand::Create { group, from, to, policy } => {
                let found = client.get(&id(&session, group)).await;
                if found.is_ok() {
                    bail!("there is a group {group:?} already; `switchback group update` changes it");
                }
                let properties = json!({"sourceSite": from, "targetSite": to, "policy": policy.body(None)});
                let reply = client.put(&id(&session, group), &json!({"properties": properties})).await?;
                let done = format!(
                    "the group {group} (from {from} to {to}) and its failback twin {group}_Failback are made"
                );
                session.conclude(reply, WaitArgs::default(), &done).await
            }
            GroupCommand::Update { group, policy } => update(&session, group, policy).await,
            GroupCommand::Delete { group, confirm } => {
                let found = client.get(&id(&session, group)).await?;
                let (group, twin) = (text_at(&found, "/name"), text_at(&found, "/properties/twin"));
                confirm.confirm(&format!("The group {group} and its twin {twin} will be deleted."))?;
                let reply = client.delete(&id(&session, group)).await?;
                session
                    .conclude(
                        reply,
                        WaitArgs::default(),
                        &format!("the groups {group} and {twin} are deleted"),
                    )
                    .await
            }
        }
    })
}

pub(crate) fn policy(args: &PolicyArgs) -> anyhow::Result<ExitCode> {
    session::run(&args.session, async |session| match &args.command {
        PolicyCommand::Show { group } => show(&session, group).await,
        PolicyCommand::Update { group, policy } => update(&session, group, policy).await,
    })
}

fn id(session: &Session, group: &str) -> String {
    session.client.id(&format!("{}/{}", path::GROUPS, path::encode(group)))
}

async fn show(session: &Session, group: &str) -> anyhow::Result<ExitCode> {
    let group = session.client.get(&id(session, group)).await?;
    Ok(session.print_as(POLICY, &group, |group| json!({"retention": retention(group)})))
}

async fn update(session: &Session, group: &str, policy: &PolicyFields) -> anyhow::Result<ExitCode> {
    if *policy == PolicyFields::default() {
        bail!("nothing to change was said; `switchback policy update --help` shows what can be");
    }
    let now = session.client.get(&id(session, group)).await?;
    let body = json!({"properties": {"policy": policy.body(Some(&now))}});
    let reply = session.client.put(&id(session, group), &body).await?;
    let name = text_at(&now, "/name");
    let twin = text_at(&now, "/properties/twin");
    let done = format!("the policy of {name} is changed; that of {twin} stays as it is");
    session.conclude(reply, WaitArgs::default(), &done).await
}

fn retention(group: &Value) -> String {
    let steps =
        group.pointer("/properties/policy/retention/steps").and_then(Value::as_array).into_iter().flatten();
    let step = |step: &Value| {
        let millis = |field: &str| step.get(field).and_then(Value::as_u64).unwrap_or_default();
        let every = match millis("everyMs") {
            0 => "all".to_owned(),
            every => format!("one every {}", duration::show(every)),
        };
        format!("{every} until {} old", duration::show(millis("untilAgeMs")))
    };
    let steps: Vec<_> = steps.map(step).collect();
    if steps.is_empty() { "all".into() } else { steps.join(", ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{PolicyFields, retention, retention_steps};

    #[test]
    fn only_what_was_said_is_sent() {
        assert_eq!(PolicyFields::default().body(None), json!({}));
        let said = PolicyFields { interval: Some(5000), multi_vm: Some(true), ..PolicyFields::default() };
        assert_eq!(said.body(None), json!({"intervalMs": 5000, "multiVm": true}));
    }

    #[test]
    fn another_retention_leaves_the_limit_on_bytes() {
        let steps = Some(retention_steps("1d:0s,3d:1h").unwrap());
        let said = PolicyFields { retention: steps, ..PolicyFields::default() };
        let now = json!({"properties": {"policy": {"retention": {"bytesMax": 7}}}});
        let body = json!({"retention": {"bytesMax": 7, "steps": [
            {"untilAgeMs": 86_400_000, "everyMs": 0}, {"untilAgeMs": 259_200_000, "everyMs": 3_600_000},
        ]}});
        assert_eq!(said.body(Some(&now)), body);
        let group = json!({"properties": {"policy": body}});
        assert_eq!(retention(&group), "all until 1d old, one every 1h until 3d old");
    }
}
