//! The disks of the passive side's machine, with the master target while it replicates, and with the machine when that is to run.
//!
//! They are lent before a master target is told of them, and taken back after it has said that it has let them go.

use std::path::PathBuf;

use switchback_identity::Role;
use switchback_model::{Instance, ProtectedItem, Side};

use super::step::Work;
use crate::ControlError;

/// The machine that a master target runs in, as it says itself.
pub(super) fn machine_of(work: &Work<'_>, master_target: &str) -> Result<String, ControlError> {
    let report = work.control.server_report(Role::Target, master_target)?;
    let state = report.as_ref().and_then(|report| report.master_target());
    Ok(state.map(|state| state.system_uuid.clone()).unwrap_or_default())
}

/// Hands the protected disks of a side's instance that is off to a master target. Their paths there.
pub(crate) fn lend(
    work: &Work<'_>,
    item: &ProtectedItem,
    side: Side,
    master_target: &str,
) -> Result<Vec<PathBuf>, ControlError> {
    lend_disks(work, item.instance(side), &item.present_serials(side), master_target)
}

/// Hands disks of an instance that is off to a master target, whichever of its disks that has already.
pub(super) fn lend_disks(
    work: &Work<'_>,
    instance: &Instance,
    serials: &[String],
    master_target: &str,
) -> Result<Vec<PathBuf>, ControlError> {
    let id = instance.id.as_deref().unwrap_or_default();
    let to = machine_of(work, master_target)?;
    Ok(work.site(&instance.site)?.lend_disks(id, serials, &to)?)
}

/// Takes the disks of an instance back from a master target.
pub(crate) fn take_back(
    work: &Work<'_>,
    instance: &Instance,
    master_target: &str,
) -> Result<(), ControlError> {
    take_back_disks(work, instance, &[], master_target)
}

/// Takes these disks back, without any: all.
pub(super) fn take_back_disks(
    work: &Work<'_>,
    instance: &Instance,
    serials: &[String],
    master_target: &str,
) -> Result<(), ControlError> {
    let Some(id) = &instance.id else { return Ok(()) };
    let from = machine_of(work, master_target)?;
    Ok(work.site(&instance.site)?.take_back_disks(id, serials, &from)?)
}
