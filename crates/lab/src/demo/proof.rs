//! The tenth story: recovery points are proved in a sandbox. Points of a machine that works pass, one by schedule and one when somebody asks; a point from after its system
//! was broken fails, and says so with a picture; one whose master target is killed tells nothing; a failover takes the replica while a proof is at work.
//!
//! The machine is broken from inside, by what runs in it: its `init` is deleted, as by an upgrade that went wrong. It goes on running, and nobody notices: that
//! is what proofs are for.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Context as _;
use serde_json::Value;
use switchback_sites::{Machine, Power, Site as _};

use super::places::{CAST, Cast};
use super::stage::{At, FOLLOW_LIMIT, Stage, must_be_file};
use super::story::{self, GROUP};
use crate::machine::{BootFiles, DemoMachine};

/// What the machine says when its work goes on.
const PROBE: &str = "^LEDGER: machine=web01 writing from=";
/// An emulated guest takes its time.
const PROBE_LIMIT: &str = "200s";
/// Called before each app-consistent point, which there are none of at first.
const BREAKS: &str = "#!/bin/sh\n# An upgrade that goes wrong.\nrm -f /sbin/init\nsync\n";
/// Points that there are before any is proved.
const POINTS_MIN: usize = 4;
/// Most pictures' first bytes (PNG, third edition, 5.2).
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const MASTER_TARGET: &str = "master-target-recovery";
/// What marks the sandboxes' ids.
const SANDBOX: &str = "-proof-";

/// Plays it.
pub(super) fn play(stage: &mut Stage) -> anyhow::Result<()> {
    let cast = CAST[0];
    story::found_sites(stage)?;
    make_machine(stage, cast)?;
    protect(stage, cast)?;
    let works = prove_what_works(stage, cast)?;
    prove_what_is_broken(stage, cast, works)?;
    lose_the_view(stage, cast)?;
    fail_over_meanwhile(stage, cast, works)
}

fn make_machine(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step("2. A machine at home");
    let ledger = must_be_file(stage.ledger_program().to_owned())?;
    let machine = DemoMachine::web01(&ledger, Some(stage.agent_settings()));
    let machine = DemoMachine { pre_freeze: Some(BREAKS), ..machine };
    let home = stage.place(At::Home);
    let boot = BootFiles::make(&stage.foundation, home.site.directory())?;
    // Its kernel speaks on its screen, too.
    let boot = BootFiles { command_line: format!("console=tty0 {}", boot.command_line), ..boot };
    let images = machine.make_disks(&home.disks(&machine.name))?;
    machine.describe(home.site.directory(), &boot, &images)?;
    home.site.power_on(&machine.name)?;
    story::wait_for_starts(stage, At::Home, &[(cast, 0, cast.name.to_owned())])?;
    stage.wait("its agent has joined", FOLLOW_LIMIT, |stage| {
        let machines = stage.ask(&["machine", "list", "--site", "home"])?;
        let has_agent = |machine: &Value| machine.pointer("/properties/hasAgent") == Some(&Value::Bool(true));
        Ok(machines.as_array().into_iter().flatten().any(has_agent).then_some(()))
    })
}

fn protect(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step("3. It is protected");
    let words = ["group", "create", GROUP, "--from", "home", "--to", "recovery", "--interval", "5s"];
    stage.note(&[&words[..], &["--freeze-budget", "3s"]].concat())?;
    story::begin_to_protect(stage, cast)?;
    story::wait_until_protected(stage, cast, "home").map(drop)
}

/// Its recovery points' numbers, newest first.
fn points(stage: &mut Stage, cast: Cast) -> anyhow::Result<Vec<u64>> {
    let listed = stage.ask(&["recovery-point", "list", cast.name])?;
    let seq = |point: &Value| point.pointer("/properties/seq")?.as_u64();
    Ok(listed.as_array().into_iter().flatten().filter_map(seq).collect())
}

fn verdict(proof: &Value) -> &str {
    proof.pointer("/properties/outcome/verdict").and_then(Value::as_str).unwrap_or("none")
}

fn seen(proof: &Value) -> &str {
    proof.pointer("/properties/outcome/seen").and_then(Value::as_str).unwrap_or_default()
}

/// Whether a picture has been saved, and shows something.
fn check_picture(stage: &mut Stage, what: &str, file: &str) -> anyhow::Result<()> {
    /// Bytes. Of an empty screen in text mode it takes less.
    const SHOWS_SOMETHING: usize = 2_000;
    let picture = fs::read(file).with_context(|| format!("there is no picture {file}"))?;
    let is_one = picture.starts_with(PNG) && picture.len() > SHOWS_SOMETHING;
    stage.check(
        format!("{what}: the picture of its screen"),
        "a PNG",
        format!("{} bytes", picture.len()),
        is_one,
    );
    Ok(())
}

/// A QEMU for the master target's sandboxes: the demo's guests have no boot loader, so it hands each machine their kernel.
pub(super) fn qemu_with_kernel(stage: &Stage, at: At) -> anyhow::Result<String> {
    let boot = BootFiles::make(&stage.foundation, stage.place(at).site.directory())?;
    let (qemu, kernel, initrd) = (stage.foundation.qemu(), boot.kernel, boot.initrd);
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in\n*\" -uuid \"*) set -- \"$@\" -kernel '{}' -initrd '{}' -append '{}' ;;\nesac\nexec '{}' \"$@\"\n",
        kernel.display(),
        initrd.display(),
        boot.command_line,
        qemu.display()
    );
    let path = stage.path("qemu-with-kernel");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// The newest point of a machine whose replica is at a site without sandboxes.
pub(super) fn prove_beside_master_target(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    let picture = stage.path("proof.png");
    let proof = stage.job(&["machine", "verify", cast.name, "--picture", &picture])?;
    let found = format!("{}: {}", verdict(&proof), seen(&proof));
    let is_passed = verdict(&proof) == "passed" && seen(&proof).contains("web01 login:");
    stage.check("the newest recovery point", "passed: its login prompt was seen", found, is_passed);
    check_picture(stage, "the newest recovery point", &picture)
}

/// One by schedule: nobody asks for it, and nobody has said what shows that the machine works. Returns its point.
fn prove_by_schedule(stage: &mut Stage, cast: Cast) -> anyhow::Result<u64> {
    stage.note(&["machine", "proving", cast.name, "--every", "1h", "--probe-limit", PROBE_LIMIT])?;
    let proof = stage.wait("a recovery point has been proved by schedule", FOLLOW_LIMIT, |stage| {
        Ok(stage.ask(&["machine", "proofs", cast.name])?.get(0).cloned())
    })?;
    let is_passed = verdict(&proof) == "passed" && seen(&proof).contains("web01 login:");
    let found = format!("{}: {}", verdict(&proof), seen(&proof));
    stage.check("a recovery point, by schedule", "passed: its login prompt was seen", found, is_passed);
    let job = proof.pointer("/properties/outcome/id").and_then(Value::as_str);
    let job = stage.ask(&["job", "show", job.context("the proof has no id")?])?;
    let by = job.pointer("/properties/customDetails/affectedObjectDetails/by");
    let by = by.and_then(Value::as_str).unwrap_or_default();
    stage.check("who asked for that", "switchback", by, by == "switchback");
    proof.pointer("/properties/outcome/seq").and_then(Value::as_u64).context("the proof has no point")
}

/// One by schedule, and the newest with a probe; returns the latter.
fn prove_what_works(stage: &mut Stage, cast: Cast) -> anyhow::Result<u64> {
    stage.screen.step("4. Recovery points are booted in a sandbox: by schedule, and when somebody asks");
    let known = stage.wait("there are some recovery points", FOLLOW_LIMIT, |stage| {
        let points = points(stage, cast)?;
        Ok((points.len() >= POINTS_MIN).then_some(points))
    })?;
    let scheduled = prove_by_schedule(stage, cast)?;
    let words = ["machine", "proving", cast.name, "--every", "0", "--probe", PROBE];
    stage.note(&[&words[..], &["--probe-limit", PROBE_LIMIT]].concat())?;
    let picture = stage.path("proof.png");
    let newest = stage.job(&["machine", "verify", cast.name, "--picture", &picture])?;
    let proved = newest.pointer("/properties/outcome/seq").and_then(Value::as_u64).unwrap_or_default();
    let what = format!("recovery point {proved}, the newest");
    stage.check(
        &what,
        "passed",
        format!("{}: {}", verdict(&newest), seen(&newest)),
        verdict(&newest) == "passed",
    );
    check_picture(stage, &what, &picture)?;
    stage.check("it is newer than the one before", "yes", proved, proved > scheduled);
    let listed = stage.note(&["recovery-point", "list", cast.name])?;
    let kept = listed.as_array().into_iter().flatten();
    let kept =
        kept.filter(|point| point.pointer("/properties/proof/verdict") == Some(&Value::from("passed")));
    let kept = kept.count();
    stage.check("the points tell their verdicts", 2, kept, kept == 2);
    check_untouched(stage, cast, known[0])?;
    Ok(proved)
}

/// Nothing is left at recovery but the replica, and replication has gone on.
fn check_untouched(stage: &mut Stage, cast: Cast, before: u64) -> anyhow::Result<()> {
    let machines = stage.place(At::Recovery).site.machines()?;
    let is_clean = machines.len() == 1 && machines[0].power == Power::Off;
    let found = machines.iter().map(|machine| machine.id.as_str()).collect::<Vec<_>>().join(", ");
    stage.check("what is at recovery afterwards", "the replica, off", found, is_clean);
    let newest = points(stage, cast)?.first().copied().unwrap_or_default();
    let found = format!("{} more", newest.saturating_sub(before));
    stage.check("recovery points made meanwhile", "some", found, newest > before);
    Ok(())
}

fn prove_what_is_broken(stage: &mut Stage, cast: Cast, works: u64) -> anyhow::Result<()> {
    stage
        .screen
        .step("5. The machine's init is deleted inside it; it runs on, and its next points are proved");
    stage.note(&["group", "update", GROUP, "--app-interval", "10s"])?;
    let broken = stage.wait("there is a point from after that", FOLLOW_LIMIT, |stage| {
        let listed = stage.ask(&["recovery-point", "list", cast.name])?;
        let is_app =
            |point: &&Value| point.pointer("/properties/consistency") == Some(&Value::from("app-consistent"));
        let found = listed.as_array().into_iter().flatten().find(is_app);
        Ok(found.and_then(|point| point.pointer("/properties/seq")?.as_u64()))
    })?;
    let picture = stage.path("broken.png");
    let number = broken.to_string();
    let words = ["machine", "verify", cast.name, "--point", &number, "--picture", &picture];
    stage.refused(&words)?;
    let what = format!("recovery point {broken}, without an init");
    let newest = newest_proof(stage, cast)?;
    let found = format!("{}: {}", verdict(&newest), seen(&newest));
    let is_failed = verdict(&newest) == "failed" && seen(&newest).contains("kernel gave up");
    stage.check(&what, "failed: its kernel gave up", found, is_failed);
    check_picture(stage, &what, &picture)?;
    let differs = fs::read(&picture)? != fs::read(stage.path("proof.png"))?;
    let found = if differs { "something else" } else { "the same" };
    stage.check(format!("{what}: what its picture shows"), "something else than before", found, differs);
    let past = stage.job(&["machine", "verify", cast.name, "--point", &works.to_string()])?;
    let what = format!("recovery point {works}, from before");
    stage.check(what, "passed", format!("{}: {}", verdict(&past), seen(&past)), verdict(&past) == "passed");
    let shown = stage.machine(cast.name)?;
    let reasons = shown["reasons"].as_array().into_iter().flatten();
    let codes: Vec<_> = reasons.filter_map(|reason| reason["code"].as_str()).collect();
    let is_told = codes.contains(&"proof.failed");
    stage.check("the machine's health tells of it", "proof.failed", codes.join(", "), is_told);
    Ok(())
}

fn newest_proof(stage: &mut Stage, cast: Cast) -> anyhow::Result<Value> {
    let listed = stage.note(&["machine", "proofs", cast.name])?;
    listed.get(0).cloned().context("no proof is kept")
}

/// Begins a proof that comes to no end by itself; the job's name.
fn begin_endless(stage: &mut Stage, cast: Cast, limit: &str) -> anyhow::Result<String> {
    let words =
        ["machine", "verify", cast.name, "--probe", "NEVER SAID", "--probe-limit", limit, "--no-wait"];
    let job = stage.job(&words)?;
    stage.wait("the sandbox runs", FOLLOW_LIMIT, |stage| {
        let machines = stage.place(At::Recovery).site.machines()?;
        let runs = |machine: &Machine| machine.id.contains(SANDBOX) && machine.power == Power::On;
        Ok(machines.iter().any(runs).then_some(()))
    })?;
    job["name"].as_str().map(str::to_owned).with_context(|| format!("the proof's job has no name: {job}"))
}

/// What is below the sandbox's disks goes: that is nothing against the point.
fn lose_the_view(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step("6. The master target is killed while a proof is at work");
    let job = begin_endless(stage, cast, "30s")?;
    stage.roles.kill(MASTER_TARGET)?;
    stage.roles.restart(MASTER_TARGET)?;
    stage.job(&["job", "wait", &job])?;
    let newest = newest_proof(stage, cast)?;
    let found = format!("{}: {}", verdict(&newest), seen(&newest));
    stage.check("a proof whose view was lost", "inconclusive", found, verdict(&newest) == "inconclusive");
    let before = points(stage, cast)?.first().copied().unwrap_or_default();
    stage.wait("replication goes on", FOLLOW_LIMIT, |stage| {
        Ok(points(stage, cast)?.first().is_some_and(|newest| *newest > before).then_some(()))
    })
}

/// The sandbox stands on a view of the replica, which cannot go to a point meanwhile.
fn fail_over_meanwhile(stage: &mut Stage, cast: Cast, works: u64) -> anyhow::Result<()> {
    stage
        .screen
        .step("7. Disaster while a proof is at work: it gives way, and the point that was proved comes up");
    let proof = begin_endless(stage, cast, PROBE_LIMIT)?;
    stage.place(At::Home).strike(cast.name)?;
    let id = stage.instance(cast.name, At::Recovery)?;
    let number = works.to_string();
    stage.job(&["machine", "failover", cast.name, "--unplanned", "--point", &number, "--yes"])?;
    let resumed = story::wait_for_starts(stage, At::Recovery, &[(cast, 0, id)])?;
    stage.check(
        "the machine works at recovery",
        "at its next record",
        format!("record {}", resumed[0]),
        resumed[0] > 1,
    );
    let machines = stage.place(At::Recovery).site.machines()?;
    let left = machines.iter().filter(|machine| machine.id.contains(SANDBOX)).count();
    stage.check("sandboxes that are left", 0, left, left == 0);
    let job = stage.ask(&["job", "show", &proof])?;
    let state = job.pointer("/properties/state").and_then(Value::as_str).unwrap_or_default();
    stage.check("the proof's job", "Cancelled", state, state == "Cancelled");
    Ok(())
}
