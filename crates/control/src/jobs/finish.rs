//! Commit, resynchronize, disable, clean up.

use switchback_identity::Role;
use switchback_model::component::DiskStanding;
use switchback_model::{ItemOperation, JobRequest, Operation, ProtectedItem, RetiredReplica, Side};
use switchback_store::{Expect, Kind};

use super::disks::left_out;
use super::failover::SNAPSHOT;
use super::shutdown::{Manner, ensure_off};
use super::step::{Outcome, Step, Work, failure};
use crate::items::points;
use crate::{Control, ControlError, ErrorKind};

/// The disks, in the job's notes, that the machine was started without and that are not wanted any more.
const NOTE_LEFT_OUT: &str = "left-out";
/// Seconds for a master target to remove a replica's history.
const REMOVE_LIMIT_S: u64 = 120;

pub(crate) fn commit_steps() -> Vec<Step> {
    vec![
        Step::new("CommitFailoverTask", "Committing failover", commit).no_return(),
        Step::new("CommitFailoverDisksTask", "Making what was written since final", merge).no_return(),
    ]
}

pub(crate) fn resync_steps() -> Vec<Step> {
    vec![Step::new("ResynchronizeTask", "Resynchronize", resynchronize)]
}

pub(crate) fn disable_steps() -> Vec<Step> {
    vec![
        Step::new("DisableReplicationTask", "Disable replication", end_replication).no_return(),
        Step::new("RemoveReplicaTask", "Removing the replica's history", wait_until_removed).no_return(),
        Step::new(
            "CleanUpReplicaVirtualMachine",
            "Cleaning up the replica virtual machine",
            clean_up_passive,
        )
        .no_return(),
        Step::new("DisableProtectionTask", "Disable protection", forget).no_return(),
    ]
}

pub(crate) fn clean_up_steps() -> Vec<Step> {
    vec![Step::new("CleanUpLeftBehind", "Removing virtual machines that were left behind", clean_up_left)]
}

/// What keeps a machine's replica from now on no longer.
pub(crate) fn retire(item: &mut ProtectedItem) {
    if let Some(path) = item.replication.take() {
        item.retired.push(RetiredReplica {
            replica: path.replica,
            master_target: path.master_target,
            process_server: path.process_server,
            targets: path.targets,
            purge: false,
        });
    }
}

/// The protection first: from here on no other point can be chosen, so the disks may be changed for good.
fn commit(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    if item.value.active().system_uuid.is_empty() {
        // With the commit goes what it would be made from.
        let message = format!("{} has never been started at {}", item.value.name, item.value.active().site);
        return Err(failure(
            ErrorKind::IllegalState,
            "commit.never-started",
            message,
            "its failover has failed before its machine was made",
            "restart the failover's job, or take the failover back",
        ));
    }
    item.value.protection = item.value.protection.apply(Operation::Commit)?;
    retire(&mut item.value);
    // The machine is what runs now: the next replica has these disks, and no others.
    let lacks = item.value.failover.as_ref().map(|record| record.lacks.clone()).unwrap_or_default();
    let left = left_out(&item.value, &lacks);
    work.set_note(NOTE_LEFT_OUT, serde_json::to_string(&left).expect("plain data becomes JSON"));
    let removed = item.value.disks().filter(|(_, standing)| *standing == DiskStanding::Removed);
    let gone: Vec<_> = removed.map(|(disk, _)| disk).chain(lacks).collect();
    item.value.drop_disks(&gone);
    work.change(&item);
    Ok(Outcome::done())
}

fn merge(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let instance = item.active();
    let (site, id) = (work.site(&instance.site)?, instance.id.as_deref().unwrap_or_default());
    site.delete_snapshot(id, SNAPSHOT)?;
    let left = work.note(NOTE_LEFT_OUT).and_then(|text| serde_json::from_str::<Vec<String>>(text).ok());
    for serial in left.unwrap_or_default() {
        site.remove_disk(id, &serial)?;
    }
    Ok(Outcome::done())
}

fn resynchronize(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    // Somebody may have taken one away.
    if let Some(path) = &item.value.replication {
        super::loan::lend(work, &item.value, item.value.protection.passive(), &path.master_target)?;
    }
    item.value.resync_requested += 1;
    work.change(&item);
    Ok(Outcome::Done("all disks are compared in the next cycle".into()))
}

fn end_replication(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    if let Some(wait) = super::proof::make_way(work)? {
        return Ok(wait);
    }
    let mut item = work.item()?;
    if let Some(path) = &item.value.replication {
        work.set_note("master-target", path.master_target.clone());
    }
    retire(&mut item.value);
    let clean_up = matches!(
        &work.job.request,
        JobRequest::Operate { operation: ItemOperation::Disable { clean_up: true }, .. }
    );
    if clean_up && item.value.passive().created_by_us {
        item.value.retired.iter_mut().for_each(|retired| retired.purge = true);
    }
    work.change(&item);
    Ok(Outcome::done())
}

fn wait_until_removed(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let Some(left) = item.retired.first() else {
        if let Some(master_target) = work.note("master-target") {
            super::loan::take_back(work, item.passive(), master_target)?;
        }
        return Ok(Outcome::done());
    };
    if item.held.is_some() {
        return Ok(Outcome::Skipped(format!(
            "it is not known how the replica {} at {} stands: it is left alone",
            left.replica, left.master_target
        )));
    }
    // One whose server was taken out of service for good has nothing to remove.
    if work.control.server_report(Role::Target, &left.master_target)?.is_none() {
        return Ok(Outcome::Skipped(format!(
            "the master target {} is not known any more",
            left.master_target
        )));
    }
    work.wait_for(
        format!("{} removes the history of {}", left.master_target, left.replica),
        REMOVE_LIMIT_S,
        || {
            let message = format!(
                "the master target {} has not removed the history of {}",
                left.master_target, left.replica
            );
            failure(
                ErrorKind::IllegalState,
                "disable.not-removed",
                message,
                "it does not report",
                "bring it back and restart the job, or remove the server",
            )
        },
    )
}

fn clean_up_passive(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let JobRequest::Operate { operation: ItemOperation::Disable { clean_up: true }, .. } = &work.job.request
    else {
        return Ok(Outcome::Skipped("not asked for".into()));
    };
    let item = work.item()?.value;
    let passive = item.passive();
    let (Some(id), true) = (&passive.id, passive.created_by_us) else {
        return Ok(Outcome::Skipped(
            "Switchback did not make the instance at the other side, so it leaves it".into(),
        ));
    };
    ensure_off(work, passive, Manner::AtOnce)?;
    work.site(&passive.site)?.delete_machine(id)?;
    Ok(Outcome::Done(format!("{id} at {} is removed", passive.site)))
}

/// The record goes, and the machine out of its plans.
fn forget(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?;
    let name = &item.value.name;
    for mut plan in work.control.records().all::<switchback_model::RecoveryPlan>(Kind::Plan)? {
        let before = plan.value.clone();
        for group in &mut plan.value.groups {
            group.machines.retain(|machine| machine != name);
        }
        if plan.value != before {
            work.batch.replace(Kind::Plan, plan.value.name.key(), plan.version, &plan.value);
        }
    }
    work.control.forget_proofs(name, work.batch)?;
    work.batch.delete(Kind::Item, name.key(), Expect::Version(item.version));
    Ok(Outcome::done())
}

/// What earlier failovers have left at the passive side's site.
fn left_at_passive(control: &Control, item: &ProtectedItem) -> Result<Vec<String>, ControlError> {
    match &item.passive().id {
        Some(id) => Ok(control.site(&item.passive().site)?.left_behind(id)?),
        None => Ok(Vec::new()),
    }
}

/// Whether there is something to clean up, and it is not needed any more.
pub(crate) fn check_clean_up(control: &Control, item: &ProtectedItem) -> Result<(), ControlError> {
    let refuse = |code: &str, message: String| ControlError::new(ErrorKind::IllegalState, code, message);
    if !left_at_passive(control, item)?.is_empty() {
        if points(&control.facts()?, item).is_empty() {
            let message = format!(
                "what the failover of {} has left at {} may be all that is there: its new replica has no recovery point yet",
                item.name,
                item.passive().site
            );
            return Err(refuse("clean-up.not-verified", message)
                .remedy("wait until `switchback recovery-point list` shows one"));
        }
        return Ok(());
    }
    if item.left_behind.is_empty() {
        let message = format!("{} has left nothing behind that could be cleaned up", item.name);
        return Err(refuse("clean-up.nothing", message));
    }
    Ok(())
}

fn clean_up_left(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    let mut removed = Vec::new();
    for instance in std::mem::take(&mut item.value.left_behind) {
        let in_use = [Side::Home, Side::Away].into_iter().any(|side| {
            let other = item.value.instance(side);
            other.site == instance.site && other.id == instance.id
        });
        let is_physical = work.control.is_physical(&instance)?;
        let Some(id) = instance.id.clone().filter(|_| !in_use && !is_physical) else { continue };
        ensure_off(work, &instance, Manner::AtOnce)?;
        work.site(&instance.site)?.delete_machine(&id)?;
        removed.push(format!("{id} at {}", instance.site));
    }
    let left = left_at_passive(work.control, &item.value)?;
    if let Some(id) = item.value.passive().id.as_ref().filter(|_| !left.is_empty()) {
        let site = &item.value.passive().site;
        work.site(site)?.clean_up(id)?;
        removed.extend(left.iter().map(|left| format!("{left} at {site}")));
    }
    work.change(&item);
    Ok(Outcome::Done(format!("removed: {}", removed.join(", "))))
}
