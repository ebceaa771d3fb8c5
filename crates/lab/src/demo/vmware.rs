//! The third story: home is a vCenter. A virtual machine is failed over to a local site, works there, and comes home onto the disks of its original
//! machine, which are attached to the master target for that.

use serde_json::Value;
use switchback_sites::{Machine, Site as _};

use super::places::{CAST, Cast};
use super::proof;
use super::stage::{FOLLOW_LIMIT, Stage};
use super::vcenter::{self, VCenter};

/// Plays it.
pub(super) fn play(stage: &mut Stage) -> anyhow::Result<()> {
    let mut vcenter = vcenter::found_sites(stage)?;
    let cast = CAST[0];
    let (original, _hypervisor) = vcenter::make_machine(stage, &mut vcenter, cast)?;
    vcenter::protect(stage, cast)?;
    readiness(stage, cast)?;
    vcenter::fail_over(stage, cast)?;
    reprotect(stage, &vcenter, cast, &original)?;
    stage.screen.step("6. Failback to the original machine, planned; commit");
    vcenter::fail_back(stage, &vcenter, cast)?;
    vcenter::check_unchanged(stage, &vcenter, cast, &original)?;
    vcenter::look_at_home(stage, cast)
}

/// From the day of its protection it is known whether it could come home.
fn readiness(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    let readiness = stage.wait("the ways between the sites have been tried", FOLLOW_LIMIT, |stage| {
        // Its exit code tells that a check has failed; here the checks themselves are looked at.
        let shown = stage.ask(&["machine", "readiness", cast.name])?;
        let state = |direction: &str| shown.pointer(&format!("/properties/{direction}/state")).cloned();
        Ok(["failover", "failback"]
            .iter()
            .all(|one| state(one).is_some_and(|state| state != "unknown"))
            .then_some(shown))
    })?;
    for (direction, title) in [("failover", "fail over"), ("failback", "come home")] {
        let checks = readiness.pointer(&format!("/properties/{direction}/checks"));
        let checks = checks.and_then(Value::as_array).cloned().unwrap_or_default();
        let of = |state: &str| checks.iter().filter(|check| check["state"] == state).count();
        let found = format!("{} passed, {} warnings, {} failed", of("passed"), of("warning"), of("failed"));
        stage.check(
            format!("readiness: {} could {title}, from the first day", cast.name),
            "none failed",
            found,
            of("failed") == 0 && of("passed") >= 5,
        );
    }
    Ok(())
}

fn reprotect(stage: &mut Stage, vcenter: &VCenter, cast: Cast, original: &Machine) -> anyhow::Result<()> {
    stage.screen.step("5. Reprotect to the original machine: its disks are attached to the master target");
    stage.job(&["machine", "reprotect", cast.name, "--yes"])?;
    vcenter::wait_for_delta(stage, vcenter, cast)?;
    let refused = vcenter.site.power_on(cast.name).err().map(|error| error.to_string()).unwrap_or_default();
    let found = if refused.contains("FileLocked") { "FileLocked" } else { "not refused" };
    stage.check(
        format!("{} cannot be started meanwhile", cast.name),
        "FileLocked",
        found,
        refused.contains("FileLocked"),
    );
    vcenter::check_unchanged(stage, vcenter, cast, original)?;
    stage.screen.step(
        "   The newest point on these disks is booted by their master target; the vCenter makes nothing",
    );
    let before = vcenter.site.machines()?.len();
    proof::prove_beside_master_target(stage, cast)?;
    let machines = vcenter.site.machines()?.len();
    stage.check("machines in the vCenter", before, machines, machines == before);
    vcenter::check_unchanged(stage, vcenter, cast, original)
}
