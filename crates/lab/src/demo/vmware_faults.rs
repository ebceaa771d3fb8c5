//! The fifth story: what people and hosts do while a machine is replicated home to a vCenter. Each thing is told with its cause and its remedy, the failback
//! refuses in the same words and leaves the machine where it runs; after the remedies it comes home, and nothing is lost.

use std::os::unix::fs::symlink;

use switchback_sites::Site as _;
use switchback_sites::vsphere::DiskPlace;

use super::places::{CAST, Cast};
use super::stage::{At, FOLLOW_LIMIT, Stage};
use super::story;
use super::vcenter::{self, VCenter};
use crate::vcsim::PASSWORD;

const SNAPSHOT: &str = "before the update";

/// Plays it.
pub(super) fn play(stage: &mut Stage) -> anyhow::Result<()> {
    let mut vcenter = vcenter::found_sites(stage)?;
    let cast = CAST[0];
    let (original, _hypervisor) = vcenter::make_machine(stage, &mut vcenter, cast)?;
    vcenter::protect(stage, cast)?;
    vcenter::fail_over(stage, cast)?;
    stage.screen.step("5. Reprotect to the original machine");
    stage.job(&["machine", "reprotect", cast.name, "--yes"])?;
    vcenter::wait_for_delta(stage, &vcenter, cast)?;

    stage.screen.step("6. Somebody takes a snapshot of the original");
    vcenter.site.create_snapshot(&original.id, SNAPSHOT)?;
    refused(stage, cast, "a snapshot", SNAPSHOT, "remove it")?;
    vcenter.site.delete_snapshot(&original.id, SNAPSHOT)?;

    stage.screen.step("7. The ESXi host goes into maintenance");
    vcenter.simulator.set_maintenance(vcenter::HOST, true);
    refused(stage, cast, "a host in maintenance", "maintenance mode", "bring the host back")?;
    vcenter.simulator.set_maintenance(vcenter::HOST, false);

    detach(stage, &vcenter, cast)?;
    account(stage, cast)?;
    restart_the_master_target(stage, &vcenter, cast)?;

    stage.screen.step("11. Failback to the original machine; a session ends in the middle of it");
    vcenter.simulator.end_session_after("ReconfigVM_Task");
    vcenter.simulator.end_session_after("CreateSnapshot_Task");
    vcenter::fail_back(stage, &vcenter, cast)?;
    vcenter::check_unchanged(stage, &vcenter, cast, &original)?;
    vcenter::look_at_home(stage, cast)
}

/// Readiness tells of it, and the failback refuses with the same words; the machine runs on.
fn refused(stage: &mut Stage, cast: Cast, what: &str, cause: &str, remedy: &str) -> anyhow::Result<()> {
    let told = stage.refused(&["machine", "readiness", cast.name])?;
    let failback = stage.refused(&["machine", "failover", cast.name, "--planned", "--yes"])?;
    for (by, said) in [("readiness", told), ("the failback", failback)] {
        // Lines are broken for people.
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let found = if said.contains(cause) && said.contains(remedy) { "both".to_owned() } else { said };
        stage.check(format!("{what}: {by} tells the cause and the remedy"), "both", &found, found == "both");
    }
    let id = stage.instance(cast.name, At::Recovery)?;
    let runs = !stage.place(At::Recovery).is_off(&id)?;
    stage.check(format!("{what}: {} runs on", cast.name), "on", if runs { "on" } else { "off" }, runs);
    Ok(())
}

fn detach(stage: &mut Stage, vcenter: &VCenter, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step("8. Somebody detaches a disk from the master target");
    let DiskPlace { file, .. } = vcenter.site.disk_places(cast.name)?.remove(1);
    vcenter.site.detach_disk(vcenter::MASTER_TARGET, &file)?;
    refused(stage, cast, "a detached disk", &file, "machine resync")?;
    stage.job(&["machine", "resync", cast.name])?;
    vcenter::check_attached(stage, vcenter, "after the remedy", 2)
}

fn account(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step("9. The account's password is a wrong one, and then the right one");
    let rotate = |stage: &mut Stage, name: &str, password: &str| {
        let file = stage.write_secret(name, password)?;
        stage.note(&["account", "rotate", vcenter::ACCOUNT, "--password-file", &file])
    };
    rotate(stage, "wrong-password", "wrong")?;
    refused(stage, cast, "a wrong password", "InvalidLogin", "switchback account rotate")?;
    rotate(stage, "right-password", PASSWORD)?;
    stage.note(&["account", "test", vcenter::ACCOUNT]).map(drop)
}

/// Its machine starts anew: the disks are there later than it is, and behind the names they had stand others of the kernel's.
fn restart_the_master_target(stage: &mut Stage, vcenter: &VCenter, cast: Cast) -> anyhow::Result<()> {
    stage
        .screen
        .step("10. The master target's machine starts anew: its devices come back later, and as others");
    let compared =
        |stage: &mut Stage| Ok::<_, anyhow::Error>(stage.machine(cast.name)?["resyncSentBytes"].clone());
    let before = compared(stage)?;
    stage.roles.kill("master-target-home")?;
    std::fs::remove_file(&vcenter.link)?;
    stage.roles.restart("master-target-home")?;
    let told = stage.wait("the missing devices are told of", FOLLOW_LIMIT, |stage| {
        let shown = stage.machine(cast.name)?;
        let reasons = shown["reasons"].as_array().into_iter().flatten();
        let mut codes = reasons.filter_map(|reason| reason["code"].as_str());
        Ok(codes.find(|code| code.starts_with("master-target.")).map(str::to_owned))
    })?;
    stage.screen.say(&format!("told of: {told}"));
    // Another way to the same files.
    let elsewhere = vcenter.link.with_file_name("datastore-2");
    symlink(&vcenter.simulator.datastores()[vcenter::DATASTORE], &elsewhere)?;
    symlink(&elsewhere, &vcenter.link)?;
    let from = story::count(&stage.machine(cast.name)?["recoveryPoints"]);
    stage.wait("it gets recovery points again", FOLLOW_LIMIT, |stage| {
        let shown = stage.machine(cast.name)?;
        let well = shown["health"] == "Normal" || shown["reasons"].as_array().is_none_or(Vec::is_empty);
        Ok((well && story::count(&shown["recoveryPoints"]) > from + 1).then_some(()))
    })?;
    let after = compared(stage)?;
    let found = if before == after { "no comparison" } else { "it compared" };
    stage.check("after the master target's restart", "no comparison", found, before == after);
    Ok(())
}
