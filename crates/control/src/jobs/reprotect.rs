//! Reprotect: replication towards the side that was left. The same steps home (stage 1) and away again (stage 3).
//!
//! The instance that was left is **fenced first**: off, and verified off; without that nothing else happens. Its disks become the target of a
//! new replica, and a comparison moves what differs. A deleted one, or another location, gets a new machine.

use switchback_identity::Role;
use switchback_model::{ItemOperation, JobRequest, Operation, ProtectedItem, RecoveryPlan, ReprotectOptions};
use switchback_sites::{Site, SiteError};
use switchback_store::Kind;

use super::failover::SNAPSHOT;
use super::protect::{choose_server, create_instance, disks_differ, instance_of, new_path, protected_disks};
use super::shutdown::{Manner, ensure_off};
use super::step::{Outcome, Step, Work, failure};
use crate::{ControlError, ErrorKind};

/// Seconds for the machine's agent to report.
const AGENT_LIMIT_S: u64 = 120;

pub(crate) fn steps() -> Vec<Step> {
    vec![
        Step::new("SwitchReplicationGroupProtectionPreflightTask", "Prerequisite check", check),
        Step::new("CommitFailoverTask", "Committing failover", committed),
        Step::new("DiscoverReplicaTask", "Discovering replica virtual machine", fence),
        Step::new("GetSwitchProtectionRequirementsTask", "Getting reprotection requirements", find_target)
            .undo(give_disks_back),
        Step::new("ProtectReplicaTask", "Reprotecting virtual machine", turn).no_return(),
    ]
}

fn options(work: &Work<'_>) -> ReprotectOptions {
    match &work.job.request {
        JobRequest::Operate { operation: ItemOperation::Reprotect(options), .. } => options.clone(),
        _ => ReprotectOptions::default(),
    }
}

fn check(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let now = work.now();
    let agent = work.control.agent_report(&item.agent, &item.active().system_uuid)?;
    if !agent.is_some_and(|agent| agent.is_alive(now)) {
        return work.wait_for(
            format!("waiting for the mobility agent of {}", item.name),
            AGENT_LIMIT_S,
            || {
                let message =
                    format!("the mobility agent of {} at {} does not report", item.name, item.active().site);
                failure(
                    ErrorKind::IllegalState,
                    "agent.no-heartbeat",
                    message,
                    "the machine is off or hangs, or cannot reach the configuration server from there",
                    "look at its console, then restart the job",
                )
            },
        );
    }
    let landing = work.control.landing_site(&item, item.protection.passive())?;
    let options = options(work);
    if !options.alternate_location {
        work.control.must_be_ready(&item, item.protection.passive())?;
    }
    let process_server =
        choose_server(work, Role::ProcessServer, &item.active().site, options.process_server.as_deref())?;
    let master_target = choose_server(work, Role::Target, &landing, options.master_target.as_deref())?;
    work.set_note("process-server", process_server);
    work.set_note("master-target", master_target);
    Ok(Outcome::done())
}

/// A commit that could not make its disks final has that done now.
fn committed(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let instance = item.active();
    let id = instance.id.as_deref().unwrap_or_default();
    let site = work.site(&instance.site)?;
    if !site.machine(id)?.snapshots.iter().any(|snapshot| snapshot == SNAPSHOT) {
        return Ok(Outcome::Skipped("it is committed".into()));
    }
    site.delete_snapshot(id, SNAPSHOT)?;
    Ok(Outcome::done())
}

/// The instance that was left is off before anything writes its disks, or nothing does.
fn fence(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    if work.control.is_physical(item.passive())? {
        return Ok(Outcome::Skipped(format!(
            "what was left at {} is a physical server: its disks are not written, and what it writes is refused by the epoch",
            item.passive().site
        )));
    }
    let done = ensure_off(work, item.passive(), Manner::AtOnce).map_err(|error| {
        let message = format!(
            "{} cannot be reprotected: the instance at {} cannot be fenced off: {error}",
            item.name,
            item.passive().site
        );
        failure(
            ErrorKind::IllegalState,
            "reprotect.not-fenced",
            message,
            "it may still run and write its disks",
            "turn it off at the site, then restart the job",
        )
    })?;
    Ok(Outcome::Done(done))
}

/// The disks that were left, or a new machine: the original is gone, has other disks, or another location is wanted.
fn find_target(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    let side = item.value.protection.passive();
    let passive = item.value.passive().clone();
    let landing = work.control.landing_site(&item.value, side)?;
    let site = work.site(&landing)?;
    let id = passive.id.as_deref().filter(|_| landing == passive.site);
    let left = match id.map(|id| site.machine(id)) {
        Some(Ok(machine)) => Some(machine),
        None | Some(Err(SiteError::NoSuchMachine { .. })) => None,
        Some(Err(error)) => return Err(error.into()),
    };
    let options = options(work);
    let active = item.value.active().clone();
    let source = work.site(&active.site)?.machine(active.id.as_deref().unwrap_or_default())?;
    if let Some(machine) = left.as_ref().filter(|_| !options.alternate_location) {
        if protected_disks(&item.value, side, machine).is_some() {
            for snapshot in machine.snapshots.iter().filter(|snapshot| *snapshot == SNAPSHOT) {
                site.delete_snapshot(&machine.id, snapshot)?;
            }
            return Ok(Outcome::Done(format!(
                "original location: the disks of {} at {}",
                machine.id, passive.site
            )));
        }
        return Err(disks_differ(
            &item.value,
            side,
            "bring them back to what they were, or ask for an alternate location",
        ));
    }
    let datastore = match options.datastore {
        Some(datastore) => datastore,
        None => site
            .datastores_beside(&super::loan::machine_of(
                work,
                work.note("master-target").unwrap_or_default(),
            )?)?
            .into_iter()
            .max_by_key(|datastore| datastore.free)
            .map(|datastore| datastore.name)
            .unwrap_or_default(),
    };
    if work.note("new-identity").is_none() {
        // Its own id at the site, so that the one that was left stays as it is.
        work.set_note("new-identity", crate::access::random_hex(4)?);
        return Ok(Outcome::wait("a new machine is needed"));
    }
    let id = format!("{}-{}", item.value.name.key(), work.note("new-identity").unwrap_or_default());
    let made = create_instance(work, &item.value, &source, (side, &landing, &id), &datastore)?;
    let settings: Vec<_> = passive.nics.iter().map(|nic| nic.settings.clone()).collect();
    let mut seeded = "";
    let made = match left.filter(|left| left.id != made.id) {
        None => {
            // A physical server is none of the site that it comes home to.
            if landing != passive.site {
                item.value.left_behind.push(passive.clone());
            }
            made
        }
        Some(left) => {
            seeded = seed(&*site, &made.id, &left.id, &passive.disk_serials);
            item.value.left_behind.push(passive.clone());
            // Disks that were filled may be others than those that were empty.
            site.machine(&made.id)?
        }
    };
    *item.value.instance_mut(side) = instance_of(&landing, &made, &settings);
    work.change(&item);
    Ok(Outcome::Done(format!(
        "alternate location: the new machine {} in {datastore} at {landing}{seeded}",
        made.id
    )))
}

/// Fills the disks of a new machine from those that were left, if the site can: whatever they hold, less is moved. What was done, in words.
fn seed(site: &dyn Site, made: &str, left: &str, serials: &[String]) -> &'static str {
    match site.seed_disks(made, left, serials) {
        Ok(true) => ", filled from the disks that were left: only the delta moves",
        Ok(false) => "",
        Err(error) => {
            tracing::warn!(%error, "a new machine begins empty");
            ", empty, as the disks that were left could not be copied"
        }
    }
}

/// Some may have been handed to the master target when it failed.
fn give_disks_back(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    if let Some(master_target) = work.note("master-target") {
        super::loan::take_back(work, work.item()?.value.passive(), master_target)?;
    }
    Ok(Outcome::done())
}

/// The direction turns, in one change: the new epoch, the new replica, the twin group in every plan of the machine.
fn turn(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    item.value.protection = item.value.protection.apply(Operation::Reprotect)?;
    let path = new_path(
        work,
        &item.value,
        work.note("process-server").unwrap_or_default(),
        work.note("master-target").unwrap_or_default(),
    )?;
    super::finish::retire(&mut item.value);
    item.value.replication = Some(path);
    item.value.stale_seen = None;
    work.change(&item);
    let group = in_force(work, &item.value)?;
    for mut plan in work.control.records().all::<RecoveryPlan>(Kind::Plan)? {
        let has_machine = plan.value.groups.iter().any(|group| group.machines.contains(&item.value.name));
        if has_machine && !plan.value.protection_groups.contains(&group) {
            plan.value.protection_groups.push(group.clone());
            work.batch.replace(Kind::Plan, plan.value.name.key(), plan.version, &plan.value);
        }
    }
    Ok(Outcome::Done(format!("replicates towards {} in {group}", item.value.passive().site)))
}

fn in_force(work: &Work<'_>, item: &ProtectedItem) -> Result<switchback_model::ObjectName, ControlError> {
    let group = work.control.group(&item.group)?;
    Ok(if item.protection.active == switchback_model::Side::Home { group.name } else { group.twin })
}
