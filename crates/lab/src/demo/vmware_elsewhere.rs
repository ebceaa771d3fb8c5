//! The fourth story: the original is gone. The virtual machine was deleted while it was away, so a new one is made, and the configuration server is lost
//! and restored meanwhile; then it comes home to an alternate location, which the vCenter fills from the disks that were left, and what was left is removed.

use switchback_sites::{Power, Site as _};

use super::places::{CAST, Cast};
use super::stage::{At, Stage};
use super::story;
use super::vcenter::{self, VCenter};

/// Plays it.
pub(super) fn play(stage: &mut Stage) -> anyhow::Result<()> {
    let mut vcenter = vcenter::found_sites(stage)?;
    let cast = CAST[0];
    let (original, hypervisor) = vcenter::make_machine(stage, &mut vcenter, cast)?;
    let backups = stage.keep_backups()?;
    vcenter::protect(stage, cast)?;
    vcenter::fail_over(stage, cast)?;
    drop(hypervisor);

    stage.screen.step("5. The original is deleted in the vCenter; reprotect makes a new virtual machine");
    vcenter.site.delete_machine(&original.id)?;
    let (made, _runs) = vcenter::reprotect_to_new(stage, &vcenter, cast, &[])?;
    stage.check("the new virtual machine is another one", "another", &made, made != original.id);
    story::wait_until_protected(stage, cast, "away")?;
    vcenter::check_attached(stage, &vcenter, "after the reprotect", 2)?;

    stage
        .screen
        .step("6. The configuration server is lost, and restored from its backup; planned failback, commit");
    stage.restore_configuration_server(&backups)?;
    stage.wait("the restored server leads the machine", super::stage::FOLLOW_LIMIT, |stage| {
        let shown = stage.machine(cast.name)?;
        let agent = shown["reasons"].as_array().into_iter().flatten();
        let silent =
            agent.filter_map(|reason| reason["code"].as_str()).any(|code| code.ends_with("no-heartbeat"));
        Ok((shown["held"].is_null() && !silent).then_some(()))
    })?;
    vcenter::fail_back(stage, &vcenter, cast)?;

    stage.screen.step("7. Towards recovery again; planned failover, commit");
    vcenter::hand_over_kernel(stage, cast, true)?;
    stage.job(&["machine", "reprotect", cast.name, "--yes"])?;
    story::wait_until_protected(stage, cast, "home")?;
    let id = stage.instance(cast.name, At::Recovery)?;
    let before = [(cast, stage.place(At::Recovery).starts(&id)?.len(), id)];
    stage.job(&["machine", "failover", cast.name, "--planned", "--yes"])?;
    story::wait_for_starts(stage, At::Recovery, &before)?;
    stage.job(&["machine", "commit", cast.name, "--yes"])?;

    elsewhere(stage, &vcenter, cast)
}

fn elsewhere(stage: &mut Stage, vcenter: &VCenter, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step("8. Home to an alternate location, filled from the disks that were left");
    let left = stage.instance(cast.name, At::Home)?;
    let before = vcenter.site.machine(&left)?;
    let (made, _runs) = vcenter::reprotect_to_new(
        stage,
        vcenter,
        cast,
        &["--alternate-location", "--datastore", vcenter::DATASTORE],
    )?;
    stage.check("the alternate location is another virtual machine", "another", &made, made != left);
    vcenter::wait_for_delta(stage, vcenter, cast)?;
    vcenter::fail_back(stage, vcenter, cast)?;
    vcenter::look_at_home(stage, cast)?;
    let now = vcenter.site.machine(&left)?;
    let found = if now == before { "as it was, off" } else { "changed" };
    stage.check(
        "the virtual machine that was left, in the vCenter",
        "as it was, off",
        found,
        now == before && now.power == Power::Off,
    );
    stage.job(&["machine", "clean-up", cast.name, "--yes"])?;
    let gone = vcenter.site.machine(&left).is_err();
    let found = if gone { "gone" } else { "there" };
    stage.check("what was left behind, after the clean-up", "gone", found, gone);
    Ok(())
}
