//! Failovers: planned, unplanned; another recovery point; taking a failover back. One set of steps for both directions.
//!
//! ```text
//! unplanned:  check ─▶ shut down (if asked and possible) ─▶ take what still comes, choose the point ─▶ ┐
//! planned:    check ─▶ last cycle, the machine stands still ─▶ at the target ─▶ power off, verified ─▶ ┤
//!                                                                                                      ▼
//!                             the protection turns, a new epoch fences off the side that was left  (no return)
//!                                                                                                      ▼
//!                                  the replica stands at the point ─▶ snapshot ─▶ start ─▶ its agent reports
//! ```
//! The machine runs above a snapshot until the failover is committed: so another point can be chosen, and the failover taken back,
//! with nothing lost.

use switchback_identity::Role;
use switchback_model::azure::MachinePlan;
use switchback_model::component::{DiskStanding, FinalPoint, InterfaceSettings, ReplicaMode};
use switchback_model::{
    ItemOperation, Job, JobRequest, Operation, PointChoice, ProtectedItem, RecoveryPoint, ReplicationPath,
    Seq, Side,
};

use super::disks::left_out;
use super::point::{choose, record_of};
use super::proof;
use super::shutdown::{Manner, ensure_off, switch_itself_off};
use super::step::{Outcome, Step, Work, failure};
use crate::items::points;
use crate::reports::StoredReport;
use crate::{ControlError, ErrorKind};

/// The snapshot that a machine runs above until its failover is committed.
pub(crate) const SNAPSHOT: &str = "switchback-failover";
/// Seconds that each kind of waiting may take.
const TARGET_BACK_LIMIT_S: u64 = 60;
const SPOOL_LIMIT_S: u64 = 600;
const FINAL_CYCLE_LIMIT_S: u64 = 600;
const STAND_LIMIT_S: u64 = 1800;
const AGENT_LIMIT_S: u64 = 300;
/// What must be left of a machine's standing still when its power is cut.
const HOLD_MARGIN_MS: u64 = 15_000;

pub(crate) fn unplanned_steps() -> Vec<Step> {
    vec![
        Step::new("UnplannedFailoverPreflightChecksTask", "Prerequisites check for failover", check),
        Step::new("ShutdownVmOnPrimaryForUFO", "Shut down the virtual machine", shut_down_if_asked)
            .undo(withdraw_power_off)
            .undo_on_failure(),
        Step::new("PrepareForUnPlannedFailoverTask", "Synchronizing the latest changes", synchronize),
        Step::new("FailoverTask", "Start failover", turn_and_stand).no_return(),
        Step::new("StartVmOnSecondary", "Start the replica virtual machine", start).no_return(),
    ]
}

pub(crate) fn planned_steps() -> Vec<Step> {
    vec![
        Step::new(
            "PlannedFailoverPreflightChecksTask",
            "Prerequisites check for planned failover",
            check_planned,
        ),
        Step::new("PrepareForPlannedFailoverTask", "Synchronizing the latest changes", last_cycle)
            .undo(withdraw_last_cycle)
            .undo_on_failure(),
        Step::new("ShutdownVmOnPrimary", "Shut down the virtual machine", power_off_standing)
            .undo(power_on_again)
            .undo_on_failure(),
        Step::new("FailoverTask", "Start failover", turn_and_stand).no_return(),
        Step::new("StartVmOnSecondary", "Start the replica virtual machine", start).no_return(),
    ]
}

pub(crate) fn change_steps() -> Vec<Step> {
    vec![
        Step::new("ChangePitPreflightChecksTask", "Prerequisites check for another recovery point", check),
        Step::new("ShutdownVmForChangePit", "Shut down the virtual machine", stop_and_revert).no_return(),
        Step::new("ChangePitTask", "Going to the recovery point", stand_elsewhere).no_return(),
        Step::new("StartVmOnSecondary", "Start the virtual machine", start).no_return(),
    ]
}

pub(crate) fn cancel_steps() -> Vec<Step> {
    vec![
        Step::new("CancelFailoverShutdownVm", "Shut down the replica virtual machine", stop_and_revert)
            .no_return(),
        Step::new("CancelFailoverTask", "Taking the failover back", turn_back).no_return(),
        Step::new("StartVmOnPrimary", "Start the virtual machine", start_left).no_return(),
    ]
}

fn path(item: &ProtectedItem) -> Result<&ReplicationPath, ControlError> {
    let missing = || {
        ControlError::new(
            ErrorKind::Internal,
            "item.no-replication",
            format!("{} has no replication", item.name),
        )
    };
    item.replication.as_ref().ok_or_else(missing)
}

/// The master target, if it reports.
pub(crate) fn target(work: &Work<'_>, item: &ProtectedItem) -> Result<Option<StoredReport>, ControlError> {
    let report = work.control.server_report(Role::Target, &path(item)?.master_target)?;
    let now = work.now();
    Ok(report.filter(|report| report.is_alive(now)))
}

pub(crate) fn target_gone(item: &ProtectedItem) -> ControlError {
    let name = item.replication.as_ref().map(|path| path.master_target.as_str()).unwrap_or_default();
    failure(
        ErrorKind::IllegalState,
        "server.no-heartbeat",
        format!("the master target {name} does not report"),
        "its process or host is down, or the network between it and the configuration server is cut",
        "bring it back, then restart the job",
    )
}

fn choice(work: &Work<'_>) -> PointChoice {
    let JobRequest::Operate { operation, .. } = &work.job.request else { return PointChoice::Latest };
    match operation {
        ItemOperation::UnplannedFailover { point, .. }
        | ItemOperation::ChangeRecoveryPoint { point }
        | ItemOperation::TestFailover { point } => point.clone(),
        _ => PointChoice::Latest,
    }
}

/// The point that the user chose, as the master target has it now.
pub(crate) fn chosen(work: &Work<'_>, item: &ProtectedItem) -> Result<RecoveryPoint, ControlError> {
    choose(item, &points(&work.control.facts()?, item), &choice(work))
}

/// Remembers which point a job takes, and of when that is: it may be pruned before somebody asks.
pub(crate) fn note_point(work: &mut Work<'_>, point: &RecoveryPoint) {
    work.set_note(Job::NOTE_SEQ, point.seq.to_string());
    work.set_note(Job::NOTE_POINT_TIME, point.time.0.to_string());
}

/// The master target must be there, and have the point.
fn check(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    if let Some(wait) = proof::make_way(work)? {
        return Ok(wait);
    }
    let item = work.item()?.value;
    if target(work, &item)?.is_none() {
        return work
            .wait_for("waiting for the master target to report", TARGET_BACK_LIMIT_S, || target_gone(&item));
    }
    let point = chosen(work, &item)?;
    Ok(Outcome::Done(format!("recovery point {} can be had", point.seq)))
}

fn shut_down_if_asked(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let JobRequest::Operate { operation: ItemOperation::UnplannedFailover { shut_down: true, .. }, .. } =
        &work.job.request
    else {
        return Ok(Outcome::Skipped("not asked for".into()));
    };
    let item = work.item()?.value;
    if work.control.is_physical(item.active())? {
        return Ok(match switch_itself_off(work, false) {
            Err(error) => Outcome::Skipped(format!("{error}; it is fenced off instead")),
            Ok(outcome) => outcome,
        });
    }
    // What cannot be reached cannot be shut down: the failover goes on, and the epoch fences it off.
    match ensure_off(work, item.active(), Manner::Orderly) {
        Ok(done) => Ok(Outcome::Done(done)),
        Err(error) => Ok(Outcome::Skipped(format!(
            "{} could not be shut down, and is fenced off instead: {error}",
            item.active().site
        ))),
    }
}

/// A physical server that has not heard of it yet is not to go off when nothing comes of the failover.
fn withdraw_power_off(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    item.value.power_off = None;
    work.change(&item);
    Ok(Outcome::done())
}

/// Whether anything is on its way between the sites yet.
fn is_delivered(work: &Work<'_>, item: &ProtectedItem) -> Result<Option<String>, ControlError> {
    let path = path(item)?;
    let report = work.control.server_report(Role::ProcessServer, &path.process_server)?;
    let Some(report) = report.filter(|report| report.is_alive(work.now())) else { return Ok(None) };
    let spool = report
        .process_server()
        .and_then(|state| state.spools.iter().find(|spool| spool.replica == path.replica));
    Ok(spool
        .filter(|spool| spool.bytes > 0)
        .map(|spool| format!("{} bytes are on their way from {}", spool.bytes, path.process_server)))
}

fn synchronize(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    if choice(work) == PointChoice::Latest
        && let Some(left) = is_delivered(work, &item)?
        && work.waited_ms() < SPOOL_LIMIT_S * 1000
    {
        return Ok(Outcome::wait(left));
    }
    let point = chosen(work, &item)?;
    note_point(work, &point);
    Ok(Outcome::Done(format!(
        "recovery point {} of {} ms since 1970, {}",
        point.seq, point.time.0, point.consistency
    )))
}

fn check_planned(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    if let Some(wait) = proof::make_way(work)? {
        return Ok(wait);
    }
    let item = work.item()?.value;
    let now = work.now();
    let agent = work.control.agent_report(&item.agent, &item.active().system_uuid)?;
    let path = path(&item)?;
    let process_server = work.control.server_report(Role::ProcessServer, &path.process_server)?;
    let missing = [
        (agent, format!("the mobility agent of {}", item.name)),
        (process_server, format!("the process server {}", path.process_server)),
        (target(work, &item)?, format!("the master target {}", path.master_target)),
    ];
    for (report, what) in missing {
        if !report.is_some_and(|report| report.is_alive(now)) {
            let message = format!("{what} does not report; a planned failover needs it, to lose nothing");
            return work.wait_for(format!("waiting for {what}"), TARGET_BACK_LIMIT_S, || {
                failure(
                    ErrorKind::IllegalState,
                    "failover.not-all-there",
                    message,
                    "it is down, or the network is cut",
                    "bring it back, or make an unplanned failover",
                )
            });
        }
    }
    check_all_whole(&item)?;
    work.control.must_be_ready(&item, item.protection.passive())?;
    Ok(Outcome::done())
}

/// A planned failover loses nothing: not the disks either whose initial replication goes on.
fn check_all_whole(item: &ProtectedItem) -> Result<(), ControlError> {
    let lacking = item.disks().find(|(_, standing)| *standing == DiskStanding::Adding);
    let Some((disk, _)) = lacking else { return Ok(()) };
    let serials = &item.active().disk_serials;
    let serial = serials.get(usize::from(disk.0)).map(String::as_str).unwrap_or_default();
    Err(failure(
        ErrorKind::IllegalState,
        "failover.disk-not-whole",
        format!("no recovery point of {} holds its disk {serial} yet", item.name),
        "it was added, and its initial replication is not complete",
        "wait for that, or remove the disk from the protection; an unplanned failover gives the machine without it",
    ))
}

/// The last point, as long as its machine stands still.
fn final_point(work: &Work<'_>, item: &ProtectedItem) -> Result<Option<(FinalPoint, u64)>, ControlError> {
    let token = item.final_cycle.clone().unwrap_or_default();
    let report = work.control.agent_report(&item.agent, &item.active().system_uuid)?;
    let found = report.and_then(|report| {
        let point =
            report.agent()?.replication.as_ref()?.final_point.clone().filter(|point| point.token == token)?;
        let elapsed = work.now().0.saturating_sub(report.received.0);
        let held_ms = point.held_for_ms.saturating_sub(elapsed);
        Some((point, held_ms))
    });
    Ok(found)
}

/// Asks the agent for its last cycle, and waits until its point is at the target, complete.
fn last_cycle(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    let token = format!("{}-{}", work.job.id, work.note("final-attempt").unwrap_or("1"));
    if item.value.final_cycle.as_ref() != Some(&token) {
        item.value.final_cycle = Some(token);
        work.change(&item);
        return Ok(Outcome::wait("asking the mobility agent for its last cycle"));
    }
    let late = |what: &str| {
        let message = format!("the last cycle of {} {what}", item.value.name);
        failure(
            ErrorKind::IllegalState,
            "failover.no-last-cycle",
            message,
            "the machine changes faster than the network carries, or the guest cannot be frozen",
            "see the machine's health, then restart the job",
        )
    };
    let Some((point, held_ms)) = final_point(work, &item.value)? else {
        return work.wait_for(
            "waiting for the machine to stand still after its last cycle",
            FINAL_CYCLE_LIMIT_S,
            || late("did not come"),
        );
    };
    if held_ms < HOLD_MARGIN_MS {
        let attempt = work.note("final-attempt").unwrap_or("1").parse::<u32>().unwrap_or(1);
        if attempt >= 3 {
            return Err(late("was never delivered in time"));
        }
        work.set_note("final-attempt", (attempt + 1).to_string());
        return Ok(Outcome::wait("the last cycle was not delivered in time: another one"));
    }
    let Some(target) = target(work, &item.value)? else {
        return work
            .wait_for("waiting for the master target", FINAL_CYCLE_LIMIT_S, || target_gone(&item.value));
    };
    let replica = target.replica(&path(&item.value)?.replica);
    let arrived = replica.and_then(|replica| replica.points.iter().find(|known| known.seq == point.seq));
    let Some(point) = arrived.cloned() else {
        return work.wait_for("the last cycle is on its way to the target", FINAL_CYCLE_LIMIT_S, || {
            late("did not arrive")
        });
    };
    note_point(work, &point);
    Ok(Outcome::Done(format!("recovery point {} holds everything; the machine stands still", point.seq)))
}

fn withdraw_last_cycle(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    item.value.final_cycle = None;
    work.change(&item);
    Ok(Outcome::done())
}

/// Cuts the power while the machine stands still after its last cycle: nothing can have been written since.
fn power_off_standing(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    if work.note("off") == Some("1") {
        return Ok(Outcome::Done("it is off".into()));
    }
    let thawed = || {
        let message = format!("{} did not stand still any more when its power was to be cut", item.name);
        failure(
            ErrorKind::IllegalState,
            "failover.thawed",
            message,
            "the configuration server or the site took too long",
            "restart the job: it takes another last cycle",
        )
    };
    if work.control.is_physical(item.active())? {
        return power_off_itself(work, thawed);
    }
    let (_, held_ms) = final_point(work, &item)?.ok_or_else(thawed)?;
    if held_ms < HOLD_MARGIN_MS {
        return Err(thawed());
    }
    let done = ensure_off(work, item.active(), Manner::AtOnce)?;
    // The report is older now; what it said must still have held at this moment.
    if final_point(work, &item)?.is_none_or(|(_, held_ms)| held_ms == 0) {
        return Err(thawed());
    }
    work.set_note("off", "1");
    Ok(Outcome::Done(done))
}

/// A physical server does it itself, and only while it stands still: from then on nothing else can come of it.
fn power_off_itself(work: &mut Work<'_>, thawed: impl Fn() -> ControlError) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let said = work
        .control
        .agent_report(&item.agent, &item.active().system_uuid)?
        .is_some_and(|report| report.agent().is_some_and(|agent| agent.powering_off.is_some()));
    let held_ms = final_point(work, &item)?.map_or(0, |(_, held_ms)| held_ms);
    let margin_ms = if item.power_off.is_none() { HOLD_MARGIN_MS } else { 1 };
    if !said && held_ms < margin_ms {
        return Err(thawed());
    }
    let outcome = switch_itself_off(work, true)?;
    if matches!(outcome, Outcome::Done(_)) {
        work.set_note("off", "1");
    }
    Ok(outcome)
}

fn power_on_again(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    work.job.notes.remove("off");
    if work.control.is_physical(item.active())? {
        withdraw_power_off(work)?;
        return Ok(Outcome::Skipped("a physical server is started by hand".into()));
    }
    let Some(id) = &item.active().id else { return Ok(Outcome::done()) };
    work.site(&item.active().site)?.power_on(id)?;
    Ok(Outcome::done())
}

fn seq(work: &Work<'_>) -> Result<Seq, ControlError> {
    let seq = work.note(Job::NOTE_SEQ).and_then(|seq| seq.parse().ok());
    seq.map(Seq).ok_or_else(|| {
        ControlError::new(ErrorKind::Internal, "failover.no-seq", "the job does not know its recovery point")
    })
}

/// The protection turns, in one change with its new epoch; then the replica has to stand at the point.
fn turn_and_stand(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    if work.note("turned").is_none() {
        let planned = work.note("off") == Some("1");
        let (seq, known) = (seq(work)?, points(&work.control.facts()?, &item.value));
        let point = choose(&item.value, &known, &PointChoice::Point { seq })?;
        let operation = if planned { Operation::PlannedFailover } else { Operation::UnplannedFailover };
        item.value.protection = item.value.protection.apply(operation)?;
        item.value.failover = Some(record_of(&point, planned));
        item.value.last_failover = Some(work.now());
        (item.value.final_cycle, item.value.power_off, item.value.stale_seen) = (None, None, None);
        work.set_note("turned", item.value.protection.epoch.to_string());
        work.change(&item);
        return Ok(Outcome::wait("the side that was left is fenced off"));
    }
    stand(work, &item.value)
}

/// Waits until the replica's disks hold the point and are let go, then takes the snapshot above which the machine runs.
fn stand(work: &mut Work<'_>, item: &ProtectedItem) -> Result<Outcome, ControlError> {
    let Some(record) = &item.failover else {
        return Err(ControlError::new(
            ErrorKind::Internal,
            "failover.no-record",
            "no recovery point was chosen",
        ));
    };
    let reached = target(work, item)?.and_then(|target| target.replica(&path(item).ok()?.replica).cloned());
    let wanted = ReplicaMode::StandAt { seq: record.seq };
    if reached.as_ref().and_then(|replica| replica.reached) != Some(wanted) {
        let problem = reached
            .and_then(|replica| replica.problem)
            .map(|problem| format!(": {}", problem.message))
            .unwrap_or_default();
        return work.wait_for(
            format!("the disks are brought to recovery point {}{problem}", record.seq),
            STAND_LIMIT_S,
            || target_gone(item),
        );
    }
    // The side it runs at from now on.
    let instance = item.active();
    let id = instance.id.as_deref().unwrap_or_default();
    super::loan::take_back(work, instance, &path(item)?.master_target)?;
    let site = work.site(&instance.site)?;
    site.set_disks_aside(id, &left_out(item, &record.lacks))?;
    // Of what the point lacks there is none.
    let mut images = reached.map(|replica| replica.standing).unwrap_or_default();
    images.retain(|image| !image.as_os_str().is_empty());
    if !images.is_empty() {
        site.run_from(id, &images)?;
    }
    site.create_snapshot(id, SNAPSHOT)?;
    let without = left_out(item, &record.lacks);
    let without = if without.is_empty() {
        String::new()
    } else {
        format!(", which lacks {}: the machine is without", without.join(", "))
    };
    let done =
        format!("the disks of {id} at {} are at recovery point {}{without}", instance.site, record.seq);
    read_again(work)?;
    Ok(Outcome::Done(done))
}

/// Notes how the active instance is known from now on: a site may make it anew at each failover, with another identity, which is then known after its first
/// start only. Until then it has none, and no agent can claim it.
fn read_again(work: &mut Work<'_>) -> Result<(), ControlError> {
    let mut item = work.item()?;
    let side = item.value.protection.active;
    let machine = {
        let instance = item.value.active();
        work.site(&instance.site)?.machine(instance.id.as_deref().unwrap_or_default())?
    };
    let instance = item.value.instance_mut(side);
    let before = instance.clone();
    instance.system_uuid.clone_from(&machine.system_uuid);
    for (nic, now) in instance.nics.iter_mut().zip(&machine.nics) {
        nic.mac.clone_from(&now.mac);
    }
    if *instance != before {
        work.change(&item);
    }
    Ok(())
}

/// Starts the active instance, and waits for its agent.
fn start(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let instance = item.active();
    let id = instance.id.as_deref().unwrap_or_default();
    let site = work.site(&instance.site)?;
    if work.note("started").is_none() {
        let networks: Vec<_> =
            instance.nics.iter().map(|nic| (!nic.network.is_empty()).then(|| nic.network.clone())).collect();
        if !networks.is_empty() {
            site.connect_nics(id, &networks)?;
        }
        if item.protection.active == Side::Away {
            site.plan_machine(id, &plan_of(&item))?;
        }
        site.power_on(id)?;
        read_again(work)?;
        let now = work.now();
        work.set_note("started", now.0.to_string());
        return Ok(Outcome::wait(format!("{id} at {} is starting", instance.site)));
    }
    let since = work.note("started").and_then(|since| since.parse().ok()).unwrap_or(0_u64);
    let report = work.control.agent_report(&item.agent, &instance.system_uuid)?;
    if report.is_some_and(|report| report.received.0 > since) {
        return Ok(Outcome::Done(format!("{id} runs at {}, its mobility agent reports", instance.site)));
    }
    if work.waited_ms() > AGENT_LIMIT_S * 1000 {
        // It was started, and cannot be un-lived: a person has to look at it.
        return Ok(Outcome::Done(format!(
            "{id} was started at {}, but its mobility agent has not reported yet: look at its console",
            instance.site
        )));
    }
    Ok(Outcome::wait(format!("waiting for the mobility agent of {id} at {}", instance.site)))
}

/// What the machine at the recovery site shall be: as its user wishes, its cards with the addresses that its guest will set.
pub(crate) fn plan_of(item: &ProtectedItem) -> MachinePlan {
    let address = |settings: &InterfaceSettings| match settings {
        InterfaceSettings::Static { address, .. } => {
            address.split('/').next().and_then(|text| text.parse().ok())
        }
        _ => None,
    };
    let addresses = item.away.nics.iter().map(|nic| address(&nic.settings)).collect();
    MachinePlan { addresses, ..item.plan.clone() }
}

/// Stops the machine that was failed over, and takes its disks back to the point: what it wrote since is given up.
fn stop_and_revert(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let instance = item.active();
    let done = ensure_off(work, instance, Manner::Orderly)?;
    let (site, id) = (work.site(&instance.site)?, instance.id.as_deref().unwrap_or_default());
    if site.machine(id)?.snapshots.iter().any(|snapshot| snapshot == SNAPSHOT) {
        site.revert_snapshot(id, SNAPSHOT)?;
        site.delete_snapshot(id, SNAPSHOT)?;
    }
    // Another point may hold what this one lacks; the master target writes them all.
    site.set_disks_aside(id, &[])?;
    Ok(Outcome::Done(done))
}

fn stand_elsewhere(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    if work.note("turned").is_none() {
        let point = chosen(work, &item.value)?;
        lend_again(work, &item.value)?;
        item.value.protection = item.value.protection.apply(Operation::ChangeRecoveryPoint)?;
        item.value.failover = Some(record_of(&point, false));
        work.set_note("turned", "1");
        work.change(&item);
        return Ok(Outcome::wait(format!("going to recovery point {}", point.seq)));
    }
    stand(work, &item.value)
}

/// The machine that was failed over is off and at its point: the master target gets its disks once more.
fn lend_again(work: &Work<'_>, item: &ProtectedItem) -> Result<(), ControlError> {
    super::loan::lend(work, item, item.protection.active, &path(item)?.master_target).map(drop)
}

/// The machine lives where it was again; the replica goes on from its newest point.
fn turn_back(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    lend_again(work, &item.value)?;
    item.value.protection = item.value.protection.apply(Operation::CancelFailover)?;
    let epoch = item.value.protection.epoch;
    if let Some(path) = &mut item.value.replication {
        path.epoch = epoch;
    }
    (item.value.failover, item.value.stale_seen) = (None, None);
    work.change(&item);
    Ok(Outcome::Done("replication goes on".into()))
}

fn start_left(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let instance = item.active();
    let Some(id) = &instance.id else { return Ok(Outcome::Skipped("there is no instance to start".into())) };
    if work.control.is_physical(instance)? {
        return Ok(Outcome::Skipped("a physical server is started by hand: start it now".into()));
    }
    work.site(&instance.site)?.power_on(id)?;
    Ok(Outcome::Done(format!("{id} runs at {}", instance.site)))
}
