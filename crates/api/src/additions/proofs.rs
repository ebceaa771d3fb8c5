//! `switchbackProtectedMachines/…/proofs`: recovery points that were booted in a sandbox, with verdict, console and picture; how and when that is done.

use serde::Deserialize;
use serde_json::{Value, json};
use switchback_control::{Control, ItemView};
use switchback_model::{JobId, ObjectName, PointChoice, Probe, Proof, ProofOutcome, Seq};

use crate::arm::{Answer, ArmError, Call, PNG, job_name, page, parse_job, resource, show_time};
use crate::openapi::operation::{Operation, begin, get as show_one, get_file, get_page, put};
use crate::openapi::schema::{count, object, or_null, resource as schema, text};
use crate::openapi::shared;

const MACHINES: &str = "switchbackProtectedMachines";
/// Points that are not told by their numbers.
const POINTS: [(&str, PointChoice); 5] = [
    ("latest", PointChoice::Latest),
    ("latest-processed", PointChoice::LatestProcessed),
    ("latest-app-consistent", PointChoice::LatestAppConsistent),
    ("latest-multi-vm", PointChoice::LatestMultiVm),
    ("latest-multi-vm-app-consistent", PointChoice::LatestMultiVmAppConsistent),
];

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let proof = || schema("SwitchbackProof", shared::proof());
    let proving = || schema("SwitchbackProving", shared::proving());
    let at = [
        "switchbackProtectedMachines/{item}/verify",
        "switchbackProtectedMachines/{item}/proofs",
        "switchbackProtectedMachines/{item}/proofs/{proof}",
        "switchbackProtectedMachines/{item}/proofs/{proof}/picture",
        "switchbackProtectedMachines/{item}/proving",
    ];
    let wanted = object([("point?", or_null(text())), ("probe?", or_null(shared::probe()))]);
    let settings = object([("probe?", or_null(shared::probe())), ("everyMs?", or_null(count()))]);
    vec![
        begin(
            "post",
            at[0],
            verify,
            "Boots a recovery point in a sandbox without a network, and keeps what was seen.",
        )
        .takes(wanted),
        get_page(at[1], list, "Proofs of its recovery points, newest first.", proof()),
        show_one(at[2], get, "A proof.", proof()),
        get_file(at[3], picture, "The screen of the sandbox when the verdict was there.", PNG),
        show_one(at[4], get_proving, "How and when its points are proved.", proving()),
        put(at[4], put_proving, "Says how and when its points are proved.", proving()).takes(settings),
    ]
}

#[derive(Deserialize)]
struct VerifyInput {
    properties: Verify,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Verify {
    /// A number, or as [`POINTS`] has it.
    #[serde(default)]
    point: Option<String>,
    #[serde(default)]
    probe: Option<Probe>,
}

fn point_of(text: Option<&str>) -> Result<PointChoice, ArmError> {
    let Some(text) = text else { return Ok(PointChoice::LatestProcessed) };
    if let Some((_, point)) = POINTS.iter().find(|(name, _)| *name == text) {
        return Ok(point.clone());
    }
    text.parse().map(|seq| PointChoice::Point { seq: Seq(seq) }).map_err(|_| {
        let names = POINTS.map(|(name, _)| name).join(", ");
        ArmError::invalid(format!("{text:?} is no recovery point"))
            .remedy(format!("a number, or one of {names}"))
    })
}

pub(crate) fn verify(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("item")?;
    let Verify { point, probe } = call.json::<VerifyInput>()?.properties;
    let item = control.item(&name)?.item;
    let job = control.verify(&call.by, &name, point_of(point.as_deref())?, probe)?;
    Ok(Answer::Accepted { resource: call.vault.protected_item(&item.home.site, &name), job: job.id })
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("item")?;
    // In their order, newest first.
    let proofs = control.proofs(&name)?.into_iter().enumerate();
    let proofs = proofs.map(|(age, proof)| (format!("{age:020}"), proof)).collect();
    Answer::of(&page(call, proofs, |proof| show(call, &name, &proof))?)
}

fn proof_id(call: &Call) -> Result<JobId, ArmError> {
    let text = call.text("proof");
    parse_job(text).ok_or_else(|| ArmError::not_found("proof", text))
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("item")?;
    Ok(Answer::Ok(show(call, &name, &control.proof(&name, proof_id(call)?)?)?))
}

pub(crate) fn picture(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let bytes = control.proof_picture(&call.name("item")?, proof_id(call)?)?;
    Ok(Answer::File { media_type: PNG, bytes })
}

pub(crate) fn get_proving(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show_proving(call, &control.item(&call.name("item")?)?)?))
}

#[derive(Deserialize)]
struct PutInput {
    properties: PutProving,
}

/// What is not said stays as it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PutProving {
    #[serde(default)]
    probe: Option<Probe>,
    #[serde(default)]
    every_ms: Option<u64>,
}

pub(crate) fn put_proving(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("item")?;
    let PutProving { probe, every_ms } = call.json::<PutInput>()?.properties;
    let present = control.item(&name)?.item.proving;
    let (probe, every_ms) = (probe.unwrap_or(present.probe), every_ms.unwrap_or(present.every_ms));
    Ok(Answer::Ok(show_proving(call, &control.set_proving(&name, probe, every_ms)?)?))
}

fn show_proving(call: &Call, view: &ItemView) -> Result<Value, ArmError> {
    let proving = &view.item.proving;
    let properties = json!({
        "probe": proving.probe,
        "everyMs": proving.every_ms,
        "begun": proving.begun.map(show_time),
        "job": proving.in_hand.as_ref().map(|proof| job_name(proof.job)),
    });
    let machine = call.vault.addition(MACHINES, view.item.name.as_str());
    resource(format!("{machine}/proving"), "proving", "switchbackProtectedMachines/proving", properties)
}

/// A verdict, as it is shown with its proof and its machine.
pub(crate) fn show_outcome(outcome: &ProofOutcome) -> Value {
    json!({
        "id": job_name(outcome.id),
        "seq": outcome.seq,
        "pointTime": show_time(outcome.point_time),
        "started": show_time(outcome.started),
        "ended": show_time(outcome.ended),
        "verdict": outcome.verdict,
        "seen": outcome.seen,
    })
}

fn show(call: &Call, name: &ObjectName, proof: &Proof) -> Result<Value, ArmError> {
    let properties = json!({
        "outcome": show_outcome(&proof.outcome),
        "replica": proof.outcome.replica,
        "probe": proof.probe,
        "console": proof.console,
        "pictureBytes": proof.picture_len,
    });
    let (machine, id) = (call.vault.addition(MACHINES, name.as_str()), job_name(proof.outcome.id));
    resource(format!("{machine}/proofs/{id}"), &id, "switchbackProtectedMachines/proofs", properties)
}
