//! Test failover: a copy at the other side, isolated, on a view of a recovery point; replication goes on meanwhile.

use std::path::PathBuf;

use switchback_model::{DiskIndex, Operation, PointChoice, ProtectedItem, Seq, TestCopy};
use switchback_sites::{DiskOrigin, Machine, NewDisk, NewMachine, Nic, Site};

use super::failover::{chosen, note_point, target, target_gone};
use super::point::choose;
use super::protect::{disks_differ, mapped_networks, protected_disks};
use super::shutdown::{Manner, ensure_off};
use super::step::{Outcome, Step, Work};
use crate::items::points;
use crate::{ControlError, ErrorKind};

/// Seconds for a master target to show a view.
const VIEW_LIMIT_S: u64 = 120;

pub(crate) fn steps() -> Vec<Step> {
    vec![
        Step::new("TestFailoverPreflightChecksTask", "Prerequisites check for test failover", choose_point)
            .undo(drop_view)
            .undo_on_failure(),
        Step::new("CreateTestVirtualMachine", "Create the test virtual machine", create)
            .undo(remove_copy)
            .undo_on_failure(),
        Step::new("StartTestVirtualMachine", "Start the test virtual machine", start).undo_on_failure(),
    ]
}

pub(crate) fn cleanup_steps() -> Vec<Step> {
    vec![
        Step::new("CleanUpTestVirtualMachine", "Clean up the test virtual machine", remove_copy).no_return(),
        Step::new("TestFailoverCleanupTask", "Complete the test failover", drop_view).no_return(),
    ]
}

/// The view is desired from here on.
fn choose_point(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    if target(work, &item.value)?.is_none() {
        return work.wait_for("waiting for the master target to report", 60, || target_gone(&item.value));
    }
    let point = chosen(work, &item.value)?;
    note_point(work, &point);
    item.value.protection = item.value.protection.apply(Operation::TestFailover)?;
    let view = format!("test-{}", &work.job.id.to_string()[16..]);
    let id = format!("{}-test-{}", item.value.name.key(), &item.value.machine.to_string()[..8]);
    item.value.test = Some(TestCopy { id, seq: point.seq, view });
    work.change(&item);
    Ok(Outcome::Done(format!("recovery point {}", point.seq)))
}

fn create(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let Some(copy) = &item.test else {
        return Err(ControlError::new(ErrorKind::Internal, "test.no-copy", "no test failover is in hand"));
    };
    let Some(images) = images_of(work, &item, &copy.view)? else {
        return work
            .wait_for("waiting for the recovery point to be shown", VIEW_LIMIT_S, || target_gone(&item));
    };
    let (active, passive) = (item.active(), item.passive());
    let site = work.site(&passive.site)?;
    let like = site.machine(passive.id.as_deref().unwrap_or_default())?;
    let source = work.site(&active.site)?.machine(active.id.as_deref().unwrap_or_default())?;
    let networks = mapped_networks(work, &source, &active.site, &passive.site, true)?;
    let machine = NewMachine {
        id: copy.id.clone(),
        name: format!("{} (test)", item.name),
        system_uuid: None,
        cpus: like.cpus,
        memory_mib: like.memory_mib,
        boot: like.boot.clone(),
        disks: disks_over(&item, &*site, &like, &images, &lacks(work, &item, copy.seq)?)?,
        nics: networks.into_iter().map(|network| Nic { mac: String::new(), network }).collect(),
        beside: None,
        mark: Some(format!("{} test", item.machine)),
    };
    site.create_machine(&machine)?;
    Ok(Outcome::Done(copy.id.clone()))
}

/// The images of a view, once the master target shows it.
pub(super) fn images_of(
    work: &Work<'_>,
    item: &ProtectedItem,
    view: &str,
) -> Result<Option<Vec<PathBuf>>, ControlError> {
    let Some(target) = target(work, item)? else { return Ok(None) };
    let replica = item.replication.as_ref().and_then(|path| target.replica(&path.replica));
    Ok(replica.and_then(|replica| replica.views.get(view).cloned()))
}

/// What a recovery point lacks, as the master target has it now: a disk that is removed meanwhile is in none.
pub(super) fn lacks(work: &Work<'_>, item: &ProtectedItem, seq: Seq) -> Result<Vec<DiskIndex>, ControlError> {
    let point = choose(item, &points(&work.control.facts()?, item), &PointChoice::Point { seq })?;
    Ok(point.lacks)
}

/// Disks like those of the passive instance that a point holds, over the images of its view, in the datastore with most room.
pub(super) fn disks_over(
    item: &ProtectedItem,
    site: &dyn Site,
    like: &Machine,
    images: &[PathBuf],
    lacks: &[DiskIndex],
) -> Result<Vec<NewDisk>, ControlError> {
    let roomiest = site.datastores()?.into_iter().max_by_key(|datastore| datastore.free);
    let datastore = roomiest.map(|datastore| datastore.name).unwrap_or_default();
    let side = item.protection.passive();
    let protected = protected_disks(item, side, like)
        .ok_or_else(|| disks_differ(item, side, "bring them back to what they were"))?;
    let held = protected.into_iter().filter(|(place, _)| !lacks.contains(place));
    let disks = held.filter_map(|(place, disk)| {
        let image = images.get(usize::from(place.0))?.clone();
        let origin = DiskOrigin::Over { image, datastore: datastore.clone() };
        Some(NewDisk { size: disk.size, serial: disk.serial.clone(), origin })
    });
    Ok(disks.collect())
}

fn start(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    let Some(copy) = item.value.test.clone() else {
        return Err(ControlError::new(ErrorKind::Internal, "test.no-copy", "no test failover is in hand"));
    };
    let site = item.value.passive().site.clone();
    work.site(&site)?.power_on(&copy.id)?;
    item.value.last_test_failover = Some(work.now());
    work.change(&item);
    Ok(Outcome::Done(format!("{} runs at {site}, isolated; clean it up when you have looked at it", copy.id)))
}

fn remove_copy(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let Some(copy) = &item.test else { return Ok(Outcome::done()) };
    let passive = item.passive();
    let instance = switchback_model::Instance { id: Some(copy.id.clone()), ..passive.clone() };
    ensure_off(work, &instance, Manner::AtOnce)?;
    work.site(&passive.site)?.delete_machine(&copy.id)?;
    Ok(Outcome::Done(format!("{} is removed", copy.id)))
}

fn drop_view(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    if item.value.protection.testing {
        item.value.protection = item.value.protection.apply(Operation::TestFailoverCleanup)?;
    }
    item.value.test = None;
    work.change(&item);
    Ok(Outcome::done())
}
