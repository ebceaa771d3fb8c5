//! The sixth story: a physical server. No hypervisor can switch it off, so it does that itself; it comes home as a new virtual machine of the vCenter beside it, and
//! what was on its disks, its own settings above all, is what it was.
//!
//! Its hardware is a QEMU that no site knows of.

use anyhow::Context as _;
use serde_json::Value;
use switchback_sites::Site as _;

use super::places::{CAST, Cast};
use super::stage::{At, FOLLOW_LIMIT, Stage, must_be_file};
use super::story;
use super::vcenter::{self, VCenter};
use crate::machine::{BootFiles, DemoMachine};

pub(super) const SITE: &str = "hardware";

/// Plays it.
pub(super) fn play(stage: &mut Stage) -> anyhow::Result<()> {
    let mut vcenter = vcenter::found_sites(stage)?;
    let cast = CAST[0];
    make_server(stage, &mut vcenter, cast, crate::machine::NETWORKS)?;
    protect(stage, cast)?;
    leave(stage, cast)?;
    come_home(stage, &vcenter, cast)
}

/// A physical server, whose networks are mapped to those of recovery.
pub(super) fn make_server(
    stage: &mut Stage,
    vcenter: &mut VCenter,
    cast: Cast,
    there: [&str; 2],
) -> anyhow::Result<()> {
    stage
        .screen
        .step(&format!("2. {} is a physical server beside the vCenter, with the mobility agent", cast.name));
    let ledger = must_be_file(stage.ledger_program().to_owned())?;
    let machine = DemoMachine::web01(&ledger, Some(stage.agent_settings()));
    let home = stage.place(At::Home);
    let boot = BootFiles::make(&stage.foundation, home.site.directory())?;
    let images = machine.make_disks(&home.disks(&machine.name))?;
    machine.describe(home.site.directory(), &boot, &images)?;
    vcenter.boot = Some(boot);
    home.site.power_on(&machine.name)?;
    story::wait_for_starts(stage, At::Home, &[(cast, 0, cast.name.to_owned())])?;
    stage.note(&["site", "add", SITE, "--physical", "--comes-home-to", "home"])?;
    stage.wait("its agent has joined", FOLLOW_LIMIT, |stage| {
        let machines = stage.ask(&["machine", "list", "--site", SITE])?;
        let mut machines = machines.as_array().into_iter().flatten();
        Ok(machines.any(|machine| machine["name"] == cast.name).then_some(()))
    })?;
    let subnets = cast.addresses[0].map(subnet);
    for (subnet, network) in subnets.iter().zip(there) {
        stage.note(&["network-mapping", "set", SITE, subnet, "recovery", network])?;
    }
    Ok(())
}

/// Of an address in a network of 256.
fn subnet(address: &str) -> String {
    let (front, _) = address.rsplit_once('.').expect("the demo's addresses are of IPv4");
    format!("{front}.0/24")
}

fn protect(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step("3. It is protected; whether it has a way home is told at once");
    let words = ["group", "create", story::GROUP, "--from", SITE, "--to", "recovery", "--interval", "5s"];
    stage.note(&[&words[..], &["--freeze-budget", "3s"]].concat())?;
    story::begin_to_protect(stage, cast)?;
    story::wait_until_protected(stage, cast, "home")?;
    vcenter::hand_over_kernel(stage, cast, true)?;
    stage.note(&["site", "add", SITE, "--physical"])?;
    let told = stage.refused(&["machine", "readiness", cast.name])?;
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    let is_told =
        told.contains("cannot be failed back to physical hardware") && told.contains("--comes-home-to");
    let found = if is_told { "refused, with the remedy".to_owned() } else { told };
    stage.check("failing back to physical hardware", "refused, with the remedy", found, is_told);
    stage.note(&["site", "add", SITE, "--physical", "--comes-home-to", "home"])?;
    let readiness = stage.wait("the way home has been tried", FOLLOW_LIMIT, |stage| {
        let shown = stage.ask(&["machine", "readiness", cast.name])?;
        let state = shown.pointer("/properties/failback/state").cloned();
        Ok(state.filter(|state| state != "unknown").map(|_| shown))
    })?;
    let failed = |check: &&Value| check["state"] == "failed";
    let checks = readiness.pointer("/properties/failback/checks").and_then(Value::as_array);
    let failed = checks.into_iter().flatten().filter(failed).count();
    stage.check("readiness: it could come home as a virtual machine", "none failed", failed, failed == 0);
    Ok(())
}

/// Planned: it stands still, switches itself off, and nothing is lost.
fn leave(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step("4. Planned failover: it switches itself off; commit");
    let id = stage.instance(cast.name, At::Recovery)?;
    let before = [(cast, stage.place(At::Recovery).starts(&id)?.len(), id)];
    stage.job(&["machine", "failover", cast.name, "--planned", "--yes"])?;
    let resumed_at = story::wait_for_starts(stage, At::Recovery, &before)?;
    let off = stage.place(At::Home).is_off(cast.name)?;
    stage.check("the physical server is off, by itself", "off", if off { "off" } else { "on" }, off);
    let left = stage.inspect_machine(At::Home, cast, cast.name)?;
    let left = left.context("the ledger of the physical server cannot be read")?;
    story::check_resumption(stage, cast, "after the failover", &left, resumed_at[0]);
    stage.check_history(cast, "when it left", &left);
    stage.job(&["machine", "commit", cast.name, "--yes"])?;
    story::work_goes_on_for(stage, At::Recovery, &[cast])
}

fn come_home(stage: &mut Stage, vcenter: &VCenter, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step("5. Reprotect: a new virtual machine on the master target's host");
    let (made, _runs) = vcenter::reprotect_to_new(stage, vcenter, cast, &[])?;
    stage.check("the new virtual machine is one of the vCenter", "found", &made, made != cast.name);
    story::wait_until_protected(stage, cast, "away")?;
    vcenter::check_attached(stage, vcenter, "after the reprotect", 2)?;
    stage.screen.step("6. Failback to it, planned; commit");
    vcenter::fail_back(stage, vcenter, cast)?;
    stage.check_addresses(cast, At::Home)?;
    vcenter::look_at_home(stage, cast)
}
