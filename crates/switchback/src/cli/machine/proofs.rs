//! `switchback machine verify`, `proofs` and `proving`: recovery points booted in a sandbox, what was seen of them, and when that is done by itself.
//!
//! The exit code of `verify` is that of its verdict: scripts that rehearse need nothing else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use switchback_model::duration;

use super::super::point::{POINT_HELP, PointArg};
use super::super::render::{Field, bytes, millis, name, plain, time};
use super::super::session::{Session, WaitArgs};
use crate::client::path::{self, id_of, text_at};
use crate::client::{JobEnd, Reply};

const LIST: &[Field] = &[
    time("TIME", &["/properties/outcome/ended"]),
    plain("POINT", &["/properties/outcome/seq"]),
    time("OF", &["/properties/outcome/pointTime"]),
    plain("VERDICT", &["/properties/outcome/verdict"]),
    plain("SEEN", &["/properties/outcome/seen"]),
    bytes("PICTURE", &["/properties/pictureBytes"]),
    plain("PROOF", &["/name"]),
];
const SHOW: &[Field] = &[
    plain("Proof", &["/name"]),
    plain("Verdict", &["/properties/outcome/verdict"]),
    plain("Seen", &["/properties/outcome/seen"]),
    plain("Recovery point", &["/properties/outcome/seq"]),
    time("Of", &["/properties/outcome/pointTime"]),
    time("Began", &["/properties/outcome/started"]),
    time("Ended", &["/properties/outcome/ended"]),
    plain("Probe", &["/shown/probe"]),
    bytes("Picture", &["/properties/pictureBytes"]),
    plain("Console", &["/properties/console"]),
];
const PROVING: &[Field] = &[
    plain("Probe", &["/shown/probe"]),
    millis("Within", &["/properties/probe/limitMs"]),
    plain("Every", &["/shown/every"]),
    time("Last begun", &["/properties/begun"]),
    name("Job", &["/properties/job"]),
];

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The protected machine
    machine: String,
    #[arg(long, default_value = "latest-processed", help = POINT_HELP)]
    point: PointArg,
    #[command(flatten)]
    probe: ProbeArgs,
    /// Save the picture of the sandbox's screen, a PNG
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Default, Args)]
struct ProbeArgs {
    /// A regular expression for a line that the machine writes to its serial console when it works [default: the machine's own, or a login prompt]
    #[arg(long, value_name = "REGEX", conflicts_with = "login")]
    probe: Option<String>,
    /// Look for a login prompt, whatever the machine's own probe is
    #[arg(long)]
    login: bool,
    /// Longest time until that must be seen [default: the machine's own, or 10m]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    probe_limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ProofsArgs {
    /// The protected machine
    machine: String,
    /// One proof: a name that the list shows; with its console
    #[arg(long, value_name = "NAME")]
    proof: Option<String>,
    /// Save the picture of that proof, or of the newest that has one: a PNG
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Only so many
    #[arg(long, default_value_t = 50, value_name = "NUMBER")]
    limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct ProvingArgs {
    /// The protected machine
    machine: String,
    /// Prove its newest recovery point so often by itself; 0: never
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    every: Option<u64>,
    #[command(flatten)]
    probe: ProbeArgs,
}

impl ProbeArgs {
    /// The probe that is asked for; `None`: nothing was said. What was not said of it is as the machine has it.
    fn over(&self, own: &Value) -> Option<Value> {
        if self.probe.is_none() && !self.login && self.probe_limit.is_none() {
            return None;
        }
        let mut probe = own.pointer("/properties/probe").cloned().unwrap_or_else(|| json!({}));
        if self.login || self.probe.is_some() {
            probe["pattern"] = json!(self.probe);
        }
        if let Some(limit) = self.probe_limit {
            probe["limitMs"] = limit.into();
        }
        Some(probe)
    }
}

/// The point as our own resources take it.
fn point(point: &PointArg) -> String {
    match point {
        // The contract's name of a point begins with its number.
        PointArg::Point(name) => name.split('-').next().unwrap_or_default().to_owned(),
        named => named.to_string(),
    }
}

async fn proving_of(session: &Session, machine: &str) -> anyhow::Result<Value> {
    let id = format!("{}/{}/proving", path::MACHINES, path::encode(machine));
    Ok(session.client.get(&session.client.id(&id)).await?)
}

pub(super) async fn verify(session: &Session, args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let machine = super::find(session, &args.machine).await?;
    let probe = args.probe.over(&proving_of(session, &args.machine).await?);
    let body = json!({"properties": {"point": point(&args.point), "probe": probe}});
    let reply = session.client.post(&format!("{}/verify", id_of(&machine)), Some(&body)).await?;
    let Reply::Started(operation) = reply else { bail!("the server has not begun a job") };
    if args.wait.is_not_wished() {
        return session.conclude(Reply::Started(operation), args.wait, "").await;
    }
    let Some((_, end)) = session.watch(&operation, args.wait).await? else { return Ok(ExitCode::from(130)) };
    if end != JobEnd::Succeeded {
        return session.follow(&operation, args.wait).await;
    }
    let id = format!("{}/proofs/{}", id_of(&machine), path::encode(&operation.job));
    let proof = session.client.get(&id).await?;
    if let Some(file) = &args.picture {
        save_picture(session, &proof, file).await?;
    }
    session.print_as(SHOW, &proof, shown);
    let passed = text_at(&proof, "/properties/outcome/verdict") == "passed";
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) async fn proofs(session: &Session, args: &ProofsArgs) -> anyhow::Result<ExitCode> {
    let all = session.client.id(&format!("{}/{}/proofs", path::MACHINES, path::encode(&args.machine)));
    if let Some(name) = &args.proof {
        let proof = session.client.get(&format!("{all}/{}", path::encode(name))).await?;
        if let Some(file) = &args.picture {
            save_picture(session, &proof, file).await?;
        }
        return Ok(session.print_as(SHOW, &proof, shown));
    }
    let proofs = session.client.list(&all, &[], Some(args.limit)).await?;
    if let Some(file) = &args.picture {
        let has_one = |proof: &&Value| picture_len(proof) > 0;
        let newest = proofs.iter().find(has_one);
        let newest = newest.with_context(|| format!("no proof of {} has a picture", args.machine))?;
        save_picture(session, newest, file).await?;
        return Ok(session.print_as(SHOW, newest, shown));
    }
    Ok(session.print_list(LIST, &proofs))
}

pub(super) async fn proving(session: &Session, args: &ProvingArgs) -> anyhow::Result<ExitCode> {
    let present = proving_of(session, &args.machine).await?;
    let probe = args.probe.over(&present);
    if probe.is_none() && args.every.is_none() {
        return Ok(session.print_as(PROVING, &present, shown));
    }
    let body = json!({"properties": {"probe": probe, "everyMs": args.every}});
    match session.client.put(id_of(&present), &body).await? {
        Reply::Done(changed) => Ok(session.print_as(PROVING, &changed, shown)),
        Reply::Started(_) => bail!("the server has begun a job where none was expected"),
    }
}

fn picture_len(proof: &Value) -> u64 {
    proof.pointer("/properties/pictureBytes").and_then(Value::as_u64).unwrap_or_default()
}

async fn save_picture(session: &Session, proof: &Value, file: &Path) -> anyhow::Result<()> {
    if picture_len(proof) == 0 {
        bail!(
            "the proof {} has no picture: the sandbox was off, or the picture was dropped with age",
            text_at(proof, "/name")
        );
    }
    let picture = session.client.bytes(&format!("{}/picture", id_of(proof))).await?;
    std::fs::write(file, picture)
        .with_context(|| format!("the picture cannot be written to {}", file.display()))
}

/// What the tables show beside what the API says in words.
fn shown(resource: &Value) -> Value {
    let pattern = text_at(resource, "/properties/probe/pattern");
    let every = resource.pointer("/properties/everyMs").and_then(Value::as_u64).unwrap_or_default();
    json!({
        "probe": if pattern.is_empty() { "a login prompt".to_owned() } else { format!("/{pattern}/") },
        "every": if every == 0 { "only when asked for".to_owned() } else { duration::show(every) },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{PointArg, ProbeArgs, point};

    #[test]
    fn what_is_not_said_of_a_probe_is_as_the_machine_has_it() {
        let own = json!({"properties": {"probe": {"pattern": "READY", "limitMs": 60_000}}});
        let over = |probe: Option<&str>, login, probe_limit| {
            ProbeArgs { probe: probe.map(Into::into), login, probe_limit }.over(&own)
        };
        assert_eq!(over(None, false, None), None);
        assert_eq!(over(Some("UP"), false, None), Some(json!({"pattern": "UP", "limitMs": 60_000})));
        assert_eq!(over(None, true, None), Some(json!({"pattern": null, "limitMs": 60_000})));
        assert_eq!(over(None, false, Some(90_000)), Some(json!({"pattern": "READY", "limitMs": 90_000})));
    }

    #[test]
    fn a_point_is_told_by_its_number_or_its_kind() {
        assert_eq!(point(&PointArg::Point("7-00ff".into())), "7");
        assert_eq!(point(&PointArg::LatestMultiVm), "latest-multi-vm");
    }
}
