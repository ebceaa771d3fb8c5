//! `switchbackProtectedMachines`: protected machines in our own words, with figures the contract has no place for; and the clean-up of what was
//! left behind, and the change of its process server.

use serde::Deserialize;
use serde_json::{Value, json};
use switchback_control::cost::Cost;
use switchback_control::{Control, ItemView};
use switchback_model::{DiskIndex, Instance, ItemOperation, ReadinessCheck, Side, verdict};

use super::proofs;
use crate::arm::{Answer, ArmError, Call, job_name, page, page_at_once, resource, show_time};
use crate::openapi::operation::{Operation, begin, get as show_one, get_page, post};
use crate::openapi::schema::{object, resource as schema, text};
use crate::openapi::shared;

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let shown = || schema("SwitchbackProtectedMachine", shared::protected_machine());
    let point = schema("SwitchbackRecoveryPoint", shared::recovery_point());
    let ready = schema("SwitchbackReadiness", shared::readiness());
    let costing = || schema("SwitchbackCost", shared::cost());
    let at = [
        "switchbackProtectedMachines/{item}",
        "switchbackProtectedMachines/{item}/recoveryPoints",
        "switchbackProtectedMachines/{item}/readiness",
        "switchbackProtectedMachines/{item}/cost",
        "switchbackProtectedMachines/{item}/cleanUp",
        "switchbackProtectedMachines/{item}/switchProcessServer",
        "switchbackProtectedMachines/{item}/release",
    ];
    vec![
        get_page("switchbackProtectedMachines", list, "Protected machines.", shown()),
        show_one(at[0], get, "A protected machine.", shown()),
        get_page(at[1], points, "Its recovery points, newest first.", point),
        show_one(at[2], readiness, "Whether it could fail over and come home, checked now.", ready),
        show_one(at[3], cost, "What it costs at Azure.", costing()),
        get_page("switchbackCosts", costs, "What each machine costs at Azure.", costing()),
        begin("post", at[4], clean_up, "Deletes instances that were left behind."),
        begin("post", at[5], switch_process_server, "Sends through another process server of its site.")
            .takes(object([("processServer", text())])),
        post(at[6], release, "Lets a machine go that a restored server holds.", shown()),
    ]
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let items = control.protected()?;
    let items = items.iter().map(|item| (item.name.key(), item)).collect();
    Answer::of(&page_at_once(call, items, |shown| {
        control.views(shown)?.iter().map(|view| show(call, view)).collect()
    })?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(call, &control.item(&call.name("item")?)?)?))
}

/// Newest first.
pub(crate) fn points(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("item")?;
    let points = control.recovery_points(&name)?.into_iter();
    let points = points.map(|point| (format!("{:020}", u64::MAX - point.seq.0), point)).collect();
    let machine = call.vault.addition("switchbackProtectedMachines", name.as_str());
    let proofs = control.proofs(&name)?;
    let item = control.item(&name)?.item;
    // No point holds what was removed, and nobody misses it.
    let lacks =
        |disks: &[DiskIndex]| item.present_disks().filter(|disk| disks.contains(disk)).collect::<Vec<_>>();
    Answer::of(&page(call, points, |point| {
        // Numbers of points come again in another replica; with their time they do not.
        let proof = proofs.iter().find(|proof| {
            let proved = &proof.outcome;
            (proved.seq, proved.point_time) == (point.seq, point.time)
        });
        let properties = json!({
            "seq": point.seq, "time": show_time(point.time), "consistency": point.consistency, "multiVmTag": point.group_tag,
            "lacks": lacks(&point.lacks),
            "proof": proof.map(|proof| json!({ "id": job_name(proof.outcome.id), "verdict": proof.outcome.verdict })),
        });
        let seq = point.seq.to_string();
        resource(
            format!("{machine}/recoveryPoints/{seq}"),
            &seq,
            "switchbackProtectedMachines/recoveryPoints",
            properties,
        )
    })?)
}

/// Checked now: it takes as long as the sites take to answer.
pub(crate) fn readiness(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("item")?;
    let readiness = control.readiness(&name)?;
    let machine = call.vault.addition("switchbackProtectedMachines", name.as_str());
    let direction = |checks: &[ReadinessCheck]| json!({ "state": verdict(checks), "checks": checks });
    let properties = json!({
        "checked": show_time(readiness.checked),
        "failover": direction(&readiness.failover),
        "failback": direction(&readiness.failback),
    });
    Ok(Answer::Ok(resource(
        format!("{machine}/readiness"),
        "readiness",
        "switchbackProtectedMachines/readiness",
        properties,
    )?))
}

/// What it costs at Azure, by the table of prices in force.
pub(crate) fn cost(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let cost = control.cost(&call.name("item")?)?;
    Ok(Answer::Ok(show_cost(call, &cost)?))
}

/// What all machines cost whose recovery sites are at Azure.
pub(crate) fn costs(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let costs = control.costs()?.into_iter().map(|cost| (cost.machine.key(), cost)).collect();
    Answer::of(&page(call, costs, |cost| show_cost(call, &cost))?)
}

fn show_cost(call: &Call, cost: &Cost) -> Result<Value, ArmError> {
    let machine = call.vault.addition("switchbackProtectedMachines", cost.machine.as_str());
    resource(
        format!("{machine}/cost"),
        cost.machine.as_str(),
        "switchbackProtectedMachines/cost",
        json!(cost),
    )
}

/// Deletes the instances that were left behind for good.
pub(crate) fn clean_up(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("item")?;
    let item = control.item(&name)?.item;
    let job = control.operate(&call.by, &name, ItemOperation::CleanUp)?;
    Ok(Answer::Accepted { resource: call.vault.protected_item(&item.home.site, &name), job: job.id })
}

#[derive(Deserialize)]
struct SwitchInput {
    properties: SwitchProcessServer,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SwitchProcessServer {
    process_server: String,
}

/// Sends through another process server of the site at which the machine runs.
pub(crate) fn switch_process_server(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("item")?;
    let SwitchProcessServer { process_server } = call.json::<SwitchInput>()?.properties;
    let item = control.item(&name)?.item;
    let job = control.operate(&call.by, &name, ItemOperation::SwitchProcessServer { process_server })?;
    Ok(Answer::Accepted { resource: call.vault.protected_item(&item.home.site, &name), job: job.id })
}

/// Lets a machine go that the restored server holds.
pub(crate) fn release(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("item")?;
    control.release_item(&call.by, &name)?;
    Ok(Answer::Ok(show(call, &control.item(&name)?)?))
}

fn show(call: &Call, view: &ItemView) -> Result<Value, ArmError> {
    let item = &view.item;
    let instance = |instance: &Instance| json!({ "site": instance.site, "id": instance.id, "createdByUs": instance.created_by_us });
    let properties = json!({
        "contractId": call.vault.protected_item(&item.home.site, &item.name),
        "group": view.group,
        "state": item.protection.to_string(),
        "phase": item.protection.phase,
        "active": item.protection.active,
        "epoch": item.protection.epoch,
        "testing": item.protection.testing,
        "allowed": view.allowed,
        "home": instance(item.instance(Side::Home)),
        "away": instance(item.instance(Side::Away)),
        "diskSizesBytes": item.present_disks().map(|disk| item.disk_sizes[usize::from(disk.0)]).collect::<Vec<_>>(),
        "disks": item.present_disks().map(|disk| json!({
            "disk": disk,
            "serial": item.active().disk_serials.get(usize::from(disk.0)),
            "sizeBytes": item.disk_sizes[usize::from(disk.0)],
            "resyncPercent": view.disk_percents.get(&disk.0).copied().or(view.resync_percent),
            "standing": item.disk_standings.get(&disk.0).copied().unwrap_or_default(),
        })).collect::<Vec<_>>(),
        "replication": item.replication.as_ref().map(|path| json!({
            "replica": path.replica, "processServer": path.process_server, "masterTarget": path.master_target, "epoch": path.epoch,
        })),
        "failover": item.failover.as_ref().map(|record| json!({
            "seq": record.seq, "time": show_time(record.time), "consistency": record.consistency,
            "multiVmTag": record.group_tag, "planned": record.planned,
            "lacks": record.lacks,
        })),
        "staleSeen": item.stale_seen.map(show_time),
        "lastFailover": item.last_failover.map(show_time),
        "lastTestFailover": item.last_test_failover.map(show_time),
        "lastProof": item.proving.last.as_ref().map(proofs::show_outcome),
        "job": item.job.map(job_name),
        "held": item.held,
        "health": view.health,
        "readiness": view.verdicts.map(|[failover, failback]| json!({ "failover": failover, "failback": failback })),
        "reasons": view.reasons,
        "rpoMs": view.rpo_ms,
        "resyncPercent": view.resync_percent,
        "sentBytes": view.sent_bytes,
        "resyncSentBytes": view.resync_sent_bytes,
        "changedBytes": view.changed_bytes,
        "transferredBytes": view.transferred_bytes,
        "recoveryPoints": view.points,
        "agentSeen": view.agent_seen.map(show_time),
        "agentBuild": view.agent_build,
        "system": view.system,
        "addresses": view.addresses,
    });
    let id = call.vault.addition("switchbackProtectedMachines", item.name.as_str());
    resource(id, item.name.as_str(), "switchbackProtectedMachines", properties)
}
