//! The eighth story: a physical server is replicated to Azure whatever happens there meanwhile, fails over, and comes home as a new virtual machine of the
//! vCenter beside it.
//!
//! The storage account cannot be reached for more than a minute; the master target is killed in the middle of its work; the quota does not suffice at the
//! failover, until somebody has had it raised.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use switchback_sites::Site as _;

use super::azure::{self, Azure, SUBNETS, WEB01};
use super::stage::{At, FOLLOW_LIMIT, Stage};
use super::vcenter::{self, VCenter};
use super::{physical, story};
use crate::arm::Fault;

/// Longer than a request to storage is tried again, and than the age of a recovery point from which on there is an alarm.
const CUT_FOR: Duration = Duration::from_secs(70);
const MASTER_TARGET: &str = "master-target-recovery";
/// How often a job tries a step before a person is asked.
const ATTEMPTS: u32 = 3;
/// What Azure answers beyond a quota ("Troubleshoot: quota errors", Azure documentation).
const BEYOND_QUOTA: Fault = Fault::Refused {
    status: 409,
    code: "OperationNotAllowed",
    message: "Operation could not be completed as it results in exceeding approved Total Regional Cores quota.",
};

/// Plays it.
pub(super) fn play(stage: &mut Stage) -> anyhow::Result<()> {
    let mut vcenter = vcenter::found_home(stage)?;
    let azure = azure::found(stage)?;
    stage.start_server("process-server", At::Recovery)?;
    stage.wait_for_servers(4)?;
    physical::make_server(stage, &mut vcenter, WEB01, SUBNETS)?;
    protect(stage)?;
    lose_the_storage(stage, &azure)?;
    kill_the_master_target(stage)?;
    leave(stage, &azure)?;
    come_home(stage, &vcenter, &azure)
}

fn protect(stage: &mut Stage) -> anyhow::Result<()> {
    stage.screen.step("3. It is protected towards Azure");
    let words = ["group", "create", story::GROUP, "--from", physical::SITE, "--to", "recovery"];
    let policy = ["--interval", "5s", "--freeze-budget", "3s", "--rpo-threshold", "20s"];
    stage.note(&[&words[..], &policy].concat())?;
    story::begin_to_protect(stage, WEB01)?;
    story::wait_until_protected(stage, WEB01, "home").map(drop)
}

fn has_alarm(shown: &serde_json::Value) -> bool {
    shown["reasons"].as_array().into_iter().flatten().any(|reason| reason["code"] == "rpo.exceeded")
}

/// Until it gets recovery points, well; what its comparisons have moved so far must not have grown.
fn goes_on(stage: &mut Stage, when: &str, before: &serde_json::Value) -> anyhow::Result<()> {
    let from = story::count(&before["recoveryPoints"]);
    let after = stage.wait("it gets recovery points again", FOLLOW_LIMIT, |stage| {
        let shown = stage.machine(WEB01.name)?;
        Ok((!has_alarm(&shown) && story::count(&shown["recoveryPoints"]) > from + 1).then_some(shown))
    })?;
    let is_delta = before["resyncSentBytes"] == after["resyncSentBytes"];
    let found = if is_delta { "its changes alone" } else { "a comparison" };
    stage.check(format!("what is sent {when}"), "its changes alone", found, is_delta);
    Ok(())
}

fn lose_the_storage(stage: &mut Stage, azure: &Azure) -> anyhow::Result<()> {
    stage.screen.step(&format!("4. The storage account cannot be reached for {} s", CUT_FOR.as_secs()));
    let before = stage.machine(WEB01.name)?;
    let began = Instant::now();
    azure.wire.cut();
    stage.wait("the lost storage raises an alarm", CUT_FOR, |stage| {
        Ok(has_alarm(&stage.machine(WEB01.name)?).then_some(()))
    })?;
    stage.check(
        "while the storage is lost",
        "an alarm",
        format!("after {} s", began.elapsed().as_secs()),
        true,
    );
    while began.elapsed() < CUT_FOR {
        stage.roles.check()?;
        std::thread::sleep(Duration::from_secs(1));
    }
    azure.wire.restore();
    goes_on(stage, "when the storage is there again", &before)
}

fn kill_the_master_target(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .screen
        .step("5. The master target is killed, and starts again: nothing of the replica is on its own disk");
    let before = stage.machine(WEB01.name)?;
    stage.roles.kill(MASTER_TARGET)?;
    stage.roles.restart(MASTER_TARGET)?;
    goes_on(stage, "after the master target's death", &before)
}

/// Planned: it stands still, switches itself off, and nothing is lost, though Azure refuses the machine at first.
fn leave(stage: &mut Stage, azure: &Azure) -> anyhow::Result<()> {
    stage.screen.step("6. Planned failover; Azure refuses the virtual machine for want of quota at first");
    azure.emulator.fail("PUT", "/virtualMachines/", BEYOND_QUOTA, ATTEMPTS);
    let said = stage.refused(&["machine", "failover", WEB01.name, "--planned", "--yes"])?;
    let told = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let is_told = told.contains("quota") && told.contains("What has been made so far is kept");
    let found = if is_told { "the quota, and what is left".to_owned() } else { told };
    stage.check("the failed failover tells", "the quota, and what is left", found, is_told);
    let jobs = stage.ask(&["job", "list"])?;
    let is_failed =
        |job: &&serde_json::Value| job.pointer("/properties/state").is_some_and(|state| state == "Failed");
    let failed = jobs.as_array().into_iter().flatten().find(is_failed);
    let name = failed.and_then(|job| job["name"].as_str()).context("no job has failed")?.to_owned();
    let said = stage.refused(&["machine", "commit", WEB01.name, "--yes"])?;
    let is_refused = said.contains("has never been started");
    let found = if is_refused { "refused".to_owned() } else { said };
    stage.check("a commit before its machine was made", "refused", found, is_refused);
    stage.job(&["job", "restart", &name])?;
    let resumed_at = story::wait_for_starts(stage, At::Recovery, &[(WEB01, 0, azure.vm()?)])?;
    let off = stage.place(At::Home).is_off(WEB01.name)?;
    stage.check("the physical server is off, by itself", "off", if off { "off" } else { "on" }, off);
    let left = stage.inspect_machine(At::Home, WEB01, WEB01.name)?;
    let left = left.context("the ledger of the physical server cannot be read")?;
    story::check_resumption(stage, WEB01, "after the failover", &left, resumed_at[0]);
    stage.check_history(WEB01, "when it left", &left);
    stage.check_addresses(WEB01, At::Recovery)?;
    stage.job(&["machine", "commit", WEB01.name, "--yes"])?;
    azure.work_goes_on(stage)
}

fn come_home(stage: &mut Stage, vcenter: &VCenter, azure: &Azure) -> anyhow::Result<()> {
    stage
        .screen
        .step("7. Reprotect: a new virtual machine on the master target's host; planned failback, commit");
    stage.job(&["machine", "reprotect", WEB01.name, "--yes"])?;
    let made = stage.instance(WEB01.name, At::Home)?;
    stage.check("the new virtual machine is one of the vCenter", "found", &made, made != WEB01.name);
    let machine = vcenter.site.machine(&made)?;
    let _runs = vcenter::run(stage, vcenter, &machine)?;
    story::wait_until_protected(stage, WEB01, "away")?;
    azure.fail_back(stage, &made)?;
    vcenter::look_at_home(stage, WEB01)
}
