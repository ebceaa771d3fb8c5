//! Disks that come to the protection of a machine, and that leave it, while the others go on being replicated.
//!
//! ```text
//! add      check ─▶ a disk at the recovery site ─▶ the master target has it ─▶ the agent is told: initial replication
//! remove   check ─▶ no recovery point holds it any more ─▶ the master target has let it go ─▶ its disk at the recovery site is removed
//! ```
//! A disk keeps its place in the lists of its machine for as long as the replica lives (see `switchback_replica`), also when adding it is given up: then
//! it is one that was removed. Nobody is told of it before who comes behind it knows it: the master target takes data from an agent that has
//! not heard of a new disk, never the other way round. Where a site lends disks to the master target, that has a new one before it is told of it, and gives one
//! that goes back after it has said that it has let it go. The job does not wait for the initial replication: what a failover gives meanwhile is the machine
//! without the disk.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use switchback_model::component::{DiskFacts, DiskStanding};
use switchback_model::{DiskIndex, ItemOperation, JobRequest, ProtectedItem};
use switchback_sites::{DiskOrigin, NewDisk};

use super::failover::{target, target_gone};
use super::step::{Outcome, Step, Work, failure};
use super::{loan, proof};
use crate::{ControlError, ErrorKind};

/// Seconds for the master target to open the replica anew.
const RESHAPE_LIMIT_S: u64 = 120;
/// Seconds for servers to report.
const SERVER_LIMIT_S: u64 = 60;
/// Disks of a replica, with those that were removed from it (`DiskReplica::create`).
const DISKS_MAX: usize = 64;
/// What is to be added, in the job's notes.
const NOTE_DISKS: &str = "disks";
/// The longest serial number that guests and sites agree on: what virtio shows (the virtio specification, 5.2.6).
const SERIAL_LEN_MAX: usize = 20;

pub(crate) fn add_steps() -> Vec<Step> {
    vec![
        Step::new("AddDisksPrerequisitesCheck", "Prerequisites check for adding disks", check_addition)
            .undo_on_failure(),
        Step::new("CreateReplicaDisks", "Creating the replica disks", create).undo(give_up).undo_on_failure(),
        Step::new("PrepareReplicaForDisks", "Adding the disks to the replica", wait_for_replica)
            .undo_on_failure(),
        Step::new("EnableReplicationOfDisks", "Enable replication of the disks", begin).no_return(),
    ]
}

pub(crate) fn remove_steps() -> Vec<Step> {
    vec![
        Step::new("RemoveDisksPrerequisitesCheck", "Prerequisites check for removing disks", check_removal),
        Step::new("DisableReplicationOfDisks", "Disable replication of the disks", exclude).no_return(),
        Step::new("RemoveDisksFromReplica", "Removing the disks from the replica", wait_for_replica)
            .no_return(),
        Step::new("RemoveReplicaDisks", "Removing the replica disks", remove_from_site).no_return(),
    ]
}

/// A disk to be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Addition {
    serial: String,
    size: u64,
}

fn refuse(code: &str, message: impl Into<String>, cause: &str, remedy: &str) -> ControlError {
    failure(ErrorKind::IllegalState, code, message, cause, remedy)
}

/// The disks that were named, and the datastore.
fn named<'a>(work: &'a Work<'_>) -> (&'a [String], Option<&'a str>) {
    match &work.job.request {
        JobRequest::Operate { operation: ItemOperation::AddDisks { disks, datastore }, .. } => {
            (disks, datastore.as_deref())
        }
        JobRequest::Operate { operation: ItemOperation::RemoveDisks { disks }, .. } => (disks, None),
        _ => (&[], None),
    }
}

/// The disks that the machine's agent sees; whether it is heard of now.
fn seen(work: &Work<'_>, item: &ProtectedItem) -> Result<(Vec<DiskFacts>, bool), ControlError> {
    let report = work.control.agent_report(&item.agent, &item.active().system_uuid)?;
    let is_alive = report.as_ref().is_some_and(|report| report.is_alive(work.now()));
    let disks = report.and_then(|report| Some(report.agent()?.disks.clone())).unwrap_or_default();
    Ok((disks, is_alive))
}

/// Whether two serial numbers are of one disk: a guest may see the beginning alone.
fn is_serial(shown: &str, serial: &str) -> bool {
    !shown.is_empty() && (shown == serial || serial.get(..SERIAL_LEN_MAX) == Some(shown))
}

/// What must be so for either: the site can, and each protected disk is known by its serial number, as the places of the others change.
fn check_both(work: &Work<'_>, item: &ProtectedItem, seen: &[DiskFacts]) -> Result<(), ControlError> {
    let passive = item.passive();
    if !passive.created_by_us || !work.site(&passive.site)?.changes_disks() {
        return Err(refuse(
            "disks.site-cannot",
            format!(
                "disks of {} cannot be added or removed while it replicates to {}",
                item.name, passive.site
            ),
            "Switchback has not made the machine there, so it changes no disks of it",
            "disable the machine's protection and protect it anew",
        ));
    }
    let serials = &item.active().disk_serials;
    let is_known = |disk: &DiskIndex| {
        let serial = serials.get(usize::from(disk.0)).map(String::as_str).unwrap_or_default();
        seen.iter().any(|seen| is_serial(&seen.serial, serial))
    };
    match item.present_disks().find(|disk| !is_known(disk)) {
        None => Ok(()),
        Some(disk) => Err(refuse(
            "disks.no-serial",
            format!(
                "the mobility agent of {} does not see the serial number of its protected disk {disk}",
                item.name
            ),
            "the disk has none, or is gone: by its place alone it could be taken for another one",
            "give the disks serial numbers at their site (a virtual machine: `serial=` or its disk UUIDs), or disable the protection and protect anew",
        )),
    }
}

/// For proofs to give way, and for the master target.
fn wait_first(work: &mut Work<'_>) -> Result<Option<Outcome>, ControlError> {
    if let Some(wait) = proof::make_way(work)? {
        return Ok(Some(wait));
    }
    let item = work.item()?.value;
    if target(work, &item)?.is_some() {
        return Ok(None);
    }
    let waits = "waiting for the master target to report";
    work.wait_for(waits, SERVER_LIMIT_S, || target_gone(&item)).map(Some)
}

fn check_addition(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    if let Some(wait) = wait_first(work)? {
        return Ok(wait);
    }
    let item = work.item()?.value;
    let (seen, is_alive) = seen(work, &item)?;
    if !is_alive {
        return Err(refuse(
            "agent.no-heartbeat",
            format!("the mobility agent of {} does not report", item.name),
            "the machine is off, or its network is cut",
            "start it, then restart the job",
        ));
    }
    check_both(work, &item, &seen)?;
    let additions = find_additions(work, &item, &seen)?;
    if additions.is_empty() || item.disk_sizes.len() + additions.len() > DISKS_MAX {
        return Err(failure(
            ErrorKind::Invalid,
            "disks.count",
            format!(
                "{} disks are to be added to {}, which has {}",
                additions.len(),
                item.name,
                item.disk_sizes.len()
            ),
            "a replica has 64 disks at most, with those that were removed from it",
            "name at least one disk; when there are too many, disable the protection and protect anew",
        ));
    }
    let needed = additions.iter().map(|disk| disk.size).sum();
    let group = work.control.group(&item.group)?;
    let master_target = master_target(&item)?;
    let datastore = super::protect::choose_datastore(work, &group, master_target, named(work).1, needed)?;
    work.set_note("datastore", datastore);
    work.set_note(NOTE_DISKS, serde_json::to_string(&additions).expect("plain data becomes JSON"));
    Ok(Outcome::Done(format!("{} can be added", named(work).0.join(", "))))
}

/// The disks that were named, as agent and site both tell of them.
fn find_additions(
    work: &Work<'_>,
    item: &ProtectedItem,
    seen: &[DiskFacts],
) -> Result<Vec<Addition>, ControlError> {
    let home = item.active();
    let machine = work.site(&home.site)?.machine(home.id.as_deref().unwrap_or_default())?;
    let mut additions: Vec<Addition> = Vec::new();
    for name in named(work).0 {
        let Some(facts) = seen.iter().find(|disk| disk.name == *name || is_serial(&disk.serial, name)) else {
            let there: Vec<_> = seen.iter().map(|disk| format!("{} ({})", disk.name, disk.serial)).collect();
            return Err(refuse(
                "disks.not-reported",
                format!(
                    "the mobility agent of {} sees no disk {name}; it sees {}",
                    item.name,
                    there.join(", ")
                ),
                "it is not attached, or the agent has not looked since (it does every ten seconds)",
                "name a disk by its serial number, or as the agent does",
            ));
        };
        let protected = item.present_disks().any(|disk| {
            home.disk_serials.get(usize::from(disk.0)).is_some_and(|serial| is_serial(&facts.serial, serial))
        });
        if protected || additions.iter().any(|disk| is_serial(&facts.serial, &disk.serial)) {
            return Err(refuse(
                "disks.protected-already",
                format!("the disk {name} of {} is protected already, or named twice", item.name),
                "",
                "leave it out",
            ));
        }
        let at_site = machine.disks.iter().find(|disk| is_serial(&facts.serial, &disk.serial));
        let Some(disk) = at_site.filter(|disk| disk.size == facts.size) else {
            return Err(refuse(
                "machine.unsupported-disk",
                format!(
                    "the agent of {} sees {} with {} bytes and the serial number {:?}; its site tells of no such disk",
                    item.name, facts.name, facts.size, facts.serial
                ),
                "it has no serial number, or is none of the machine's own (a network's, a RAM disk)",
                "attach it as a whole disk with a serial number",
            ));
        };
        additions.push(Addition { serial: disk.serial.clone(), size: disk.size });
    }
    Ok(additions)
}

fn additions(work: &Work<'_>) -> Vec<Addition> {
    work.note(NOTE_DISKS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The places of the disks that this job adds or removes.
fn places(work: &Work<'_>) -> Vec<DiskIndex> {
    work.note("places").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn set_places(work: &mut Work<'_>, places: &[DiskIndex]) {
    work.set_note("places", serde_json::to_string(places).expect("plain data becomes JSON"));
}

/// Makes the disks at the recovery site and lends them; from here on the master target is told of them.
fn create(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    // Of an attempt that was given up.
    work.job.notes.retain(|note, _| note != "given-up" && note != "places");
    let datastore = work.note("datastore").unwrap_or_default().to_owned();
    let (site, id) = {
        let passive = item.value.passive();
        (work.site(&passive.site)?, passive.id.clone().unwrap_or_default())
    };
    let (mut places, mut targets) = (Vec::new(), Vec::new());
    for addition in additions(work) {
        let origin = DiskOrigin::Empty { datastore: datastore.clone() };
        let made =
            site.add_disk(&id, &NewDisk { size: addition.size, serial: addition.serial.clone(), origin })?;
        let serial = std::slice::from_ref(&made.serial);
        targets.extend(loan::lend_disks(work, item.value.passive(), serial, master_target(&item.value)?)?);
        let place = u16::try_from(item.value.disk_sizes.len()).expect("64 at most");
        item.value.disk_sizes.push(addition.size);
        item.value.home.disk_serials.push(addition.serial);
        item.value.away.disk_serials.push(made.serial);
        item.value.disk_standings.insert(place, DiskStanding::Preparing);
        places.push(DiskIndex(place));
    }
    let path = item.value.replication.as_mut().ok_or_else(no_replication)?;
    path.targets.extend(targets);
    set_places(work, &places);
    work.change(&item);
    Ok(Outcome::Done(format!("{} disks of {id}, in {datastore}", places.len())))
}

fn no_replication() -> ControlError {
    ControlError::new(ErrorKind::Internal, "item.no-replication", "nothing replicates")
}

fn master_target(item: &ProtectedItem) -> Result<&str, ControlError> {
    Ok(&item.replication.as_ref().ok_or_else(no_replication)?.master_target)
}

/// The disks that were to be added are ones that were removed. Then they go as those do.
fn give_up(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    let (places, now) = (places(work), work.now());
    let Some(since) = work.note("given-up").and_then(|since| since.parse::<u64>().ok()) else {
        work.set_note("given-up", now.0.to_string());
        leave_out(&mut item.value, &places);
        work.change(&item);
        return Ok(Outcome::wait("the master target lets the disks go"));
    };
    // What was not noted it has never heard of. One that does not report has them taken from its hands: nothing is written to them yet.
    let is_late = now.0.saturating_sub(since) > RESHAPE_LIMIT_S * 1000;
    let reports = target(work, &item.value)?.is_some();
    if !places.is_empty() && reports && !is_late && !is_reshaped(work, &item.value)? {
        return Ok(Outcome::wait("the master target lets the disks go"));
    }
    // Also what was made and not noted: the machine has no other disk with this serial number.
    let made = |(number, addition): (usize, Addition)| {
        let known =
            places.get(number).and_then(|place| item.value.passive().disk_serials.get(usize::from(place.0)));
        known.cloned().unwrap_or(addition.serial)
    };
    let serials: Vec<_> = additions(work).into_iter().enumerate().map(made).collect();
    take_from_site(work, &item.value, &serials)?;
    Ok(Outcome::done())
}

/// Removes disks that nothing writes any more: the master target's first, then the machine's own.
fn take_from_site(work: &Work<'_>, item: &ProtectedItem, serials: &[String]) -> Result<(), ControlError> {
    let passive = item.passive();
    let Some(id) = passive.id.as_ref().filter(|_| !serials.is_empty()) else { return Ok(()) };
    loan::take_back_disks(work, passive, serials, master_target(item)?)?;
    let site = work.site(&passive.site)?;
    serials.iter().try_for_each(|serial| Ok(site.remove_disk(id, serial)?))
}

/// Nothing of these disks is replicated, and nothing kept, from now on.
fn leave_out(item: &mut ProtectedItem, places: &[DiskIndex]) {
    for place in places {
        item.disk_standings.insert(place.0, DiskStanding::Removed);
        let target = item.replication.as_mut().and_then(|path| path.targets.get_mut(usize::from(place.0)));
        if let Some(target) = target {
            *target = PathBuf::new();
        }
    }
}

/// Whether the master target has the replica on the disks that it should be on.
fn is_reshaped(work: &Work<'_>, item: &ProtectedItem) -> Result<bool, ControlError> {
    let path = item.replication.as_ref().ok_or_else(no_replication)?;
    let target = target(work, item)?;
    let actual = target.as_ref().and_then(|target| target.replica(&path.replica));
    Ok(actual.is_some_and(|actual| actual.targets == path.targets))
}

fn wait_for_replica(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let path = item.replication.as_ref().ok_or_else(no_replication)?;
    if is_reshaped(work, &item)? {
        return Ok(Outcome::Done(format!(
            "{} has the replica on {} disks",
            path.master_target,
            item.present_disks().count()
        )));
    }
    let actual = target(work, &item)?.and_then(|target| target.replica(&path.replica).cloned());
    let problem = actual.and_then(|actual| actual.problem).map(|problem| format!(": {}", problem.message));
    let problem = problem.unwrap_or_default();
    work.wait_for(format!("{} opens the replica anew{problem}", path.master_target), RESHAPE_LIMIT_S, || {
        refuse(
            "disks.not-reshaped",
            format!("the master target {} has not changed the disks of the replica{problem}", path.master_target),
            "it does not report, its version knows no disks that come and go, or something is wrong with the replica",
            "bring it back, or update it; then restart the job",
        )
    })
}

/// The agent is told.
fn begin(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    for place in places(work) {
        item.value.disk_standings.insert(place.0, DiskStanding::Adding);
    }
    work.change(&item);
    Ok(Outcome::Done(
        "initial replication follows; until it is complete recovery points do not hold the disks, and a failover gives the machine without them".into(),
    ))
}

fn check_removal(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    if let Some(wait) = wait_first(work)? {
        return Ok(wait);
    }
    let item = work.item()?.value;
    let (seen, _) = seen(work, &item)?;
    let serials = &item.active().disk_serials;
    let mut places = Vec::new();
    for name in named(work).0 {
        // The agent's name for it, if the agent sees it yet.
        let shown = seen.iter().find(|disk| disk.name == *name).map(|disk| disk.serial.as_str());
        let found = item.present_disks().find(|disk| {
            let serial = serials.get(usize::from(disk.0)).map(String::as_str).unwrap_or_default();
            !serial.is_empty() && (serial == name || is_serial(shown.unwrap_or(name), serial))
        });
        let Some(disk) = found else {
            let there: Vec<_> =
                item.present_disks().filter_map(|disk| serials.get(usize::from(disk.0)).cloned()).collect();
            return Err(refuse(
                "disks.not-protected",
                format!("{} has no protected disk {name}; it has {}", item.name, there.join(", ")),
                "it was removed already, or has another serial number",
                "name a disk by its serial number, or as the mobility agent does",
            ));
        };
        if !places.contains(&disk) {
            places.push(disk);
        }
    }
    if places.contains(&DiskIndex(0)) {
        return Err(refuse(
            "disks.boot-disk",
            format!("{} boots from the disk {}", item.name, named(work).0.join(", ")),
            "without it no recovery point of the machine could be started",
            "leave it, or disable the machine's protection",
        ));
    }
    let stays = |disk: &DiskIndex| !places.contains(disk);
    if places.is_empty() || !item.present_disks().any(|disk| stays(&disk)) {
        return Err(failure(
            ErrorKind::Invalid,
            "disks.count",
            format!("{} of the disks of {} are to be removed", places.len(), item.name),
            "at least one is to be named, and at least one has to stay",
            "to end the protection of all, disable it",
        ));
    }
    // A removed disk may be gone from the machine already.
    let staying: Vec<_> = item.present_disks().filter(stays).map(|disk| disk.0).collect();
    let mut remaining = item.clone();
    for (disk, _) in item.disks().filter(|(disk, _)| !staying.contains(&disk.0)) {
        remaining.disk_standings.insert(disk.0, DiskStanding::Removed);
    }
    check_both(work, &remaining, &seen)?;
    set_places(work, &places);
    Ok(Outcome::done())
}

/// From here on no recovery point is said to hold them.
fn exclude(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    leave_out(&mut item.value, &places(work));
    work.change(&item);
    Ok(Outcome::Done(
        "the disks are not replicated any more, and no recovery point holds them, older ones neither: a failover gives the machine without them".into(),
    ))
}

fn remove_from_site(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let passive = item.passive();
    let serial = |place: &DiskIndex| passive.disk_serials.get(usize::from(place.0)).cloned();
    let removed: Vec<_> = places(work).iter().filter_map(serial).collect();
    take_from_site(work, &item, &removed)?;
    let id = passive.id.as_deref().unwrap_or_default();
    Ok(Outcome::Done(format!("{} of {id} at {}", removed.join(", "), passive.site)))
}

/// The serial numbers, at the side it runs at, of the disks that a machine is without there, as its point lacks them. Those that were removed are not there
/// at all.
pub(crate) fn left_out(item: &ProtectedItem, lacks: &[DiskIndex]) -> Vec<String> {
    let serials = &item.active().disk_serials;
    let lacking = item.present_disks().filter(|disk| lacks.contains(disk));
    lacking.filter_map(|disk| serials.get(usize::from(disk.0)).cloned()).collect()
}
