//! The eight steps, as a person would take them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use switchback_model::ByteSize;
use switchback_sites::Site as _;

use super::metrics;
use super::places::{CAST, Cast, NETWORKS};
use super::stage::{At, FOLLOW_LIMIT, JOB_LIMIT, Stage, must_be_file, outcome};
use crate::inspect::Inspection;
use crate::ledger::{Book, causes_are_held};
use crate::machine::{BootFiles, DemoMachine};

pub(super) const GROUP: &str = "PG1";
const TWIN_SUFFIX: &str = "_Failback";
pub(super) const PLAN: &str = "everything";
/// Points that are seen to come before the disaster.
const POINTS_MIN: u64 = 3;
/// Records that a machine is seen to write before the story goes on.
const WORK_RECORDS: u64 = 60;
/// From this age of the newest recovery point on, somebody is to be alarmed.
const RPO_THRESHOLD: &str = "30s";
/// Most that an unplanned failover may lose here: some intervals between points, on a busy host.
const RPO_MAX: Duration = Duration::from_secs(45);
/// Of a machine's disks, the most that coming home may move: it is the delta or it is not.
const DELTA_PERCENT_MAX: u64 = 25;
/// Longest time for a guest to shut down.
const SHUT_DOWN_LIMIT: Duration = Duration::from_secs(60);

/// Plays it.
pub(super) fn play(stage: &mut Stage) -> anyhow::Result<()> {
    found_sites(stage)?;
    make_machines(stage)?;
    protect(stage)?;
    let disaster =
        strike(stage, by(&["plan", "failover", PLAN, "--unplanned", "--point", "latest-multi-vm", "--yes"]))?;
    measure_loss(stage, disaster)?;
    commit(stage, At::Recovery)?;
    raise_the_dead(stage)?;
    reprotect(stage, At::Recovery, GROUP, by(&["plan", "reprotect", PLAN, "--yes"]))?;
    fail_back(stage, by(&["plan", "failover", PLAN, "--planned", "--yes"]))?;
    commit(stage, At::Home)?;
    reprotect(stage, At::Home, GROUP, by(&["plan", "reprotect", PLAN, "--yes"]))?;
    look_at_the_end(stage)
}

/// Something is asked for with a command, which is followed to the end of its job.
fn by<'a>(words: &'a [&'a str]) -> impl FnOnce(&mut Stage) -> anyhow::Result<()> + 'a {
    |stage| stage.job(words).map(drop)
}

pub(super) fn found_sites(stage: &mut Stage) -> anyhow::Result<()> {
    stage.screen.step("1. A configuration server; two sites, each with a process server and a master target");
    stage.start_configuration_server()?;
    if stage.is_with_faults() {
        stage.lay_wire()?;
    }
    for at in [At::Home, At::Recovery] {
        let (name, directory) =
            (stage.place(at).name, stage.place(at).site.directory().to_string_lossy().into_owned());
        stage.note(&["site", "add", name, "--local", &directory])?;
        for kind in ["process-server", "master-target"] {
            stage.start_server(kind, at)?;
        }
    }
    for network in NETWORKS {
        stage.note(&["network-mapping", "set", "home", network, "recovery", network])?;
        stage.note(&["network-mapping", "set", "recovery", network, "home", network])?;
    }
    stage.wait_for_servers(4)?;
    stage.screen.say("all have joined with the passphrase and report over mutual TLS");
    Ok(())
}

pub(super) fn make_machines(stage: &mut Stage) -> anyhow::Result<()> {
    stage.screen.step(
        "2. Two machines at home: web01 (ext4 and xfs), db01 (ext4), whose records refer to those of web01",
    );
    let ledger = must_be_file(stage.ledger_program().to_owned())?;
    let agent = Some(stage.agent_settings());
    let home = stage.place(At::Home);
    let boot = BootFiles::make(&stage.foundation, home.site.directory())?;
    for machine in [DemoMachine::web01(&ledger, agent.clone()), DemoMachine::db01(&ledger, agent.clone())] {
        let images = machine.make_disks(&home.disks(&machine.name))?;
        machine.describe(home.site.directory(), &boot, &images)?;
        home.site.power_on(&machine.name)?;
    }
    let started = Instant::now();
    for cast in CAST {
        stage.wait(&format!("{} writes its ledger", cast.name), FOLLOW_LIMIT, |stage| {
            Ok((stage.place(At::Home).newest_said(cast.name)? > 0).then_some(()))
        })?;
        stage.screen.say(&format!(
            "{} writes its ledger, {} s after power-on",
            cast.name,
            started.elapsed().as_secs()
        ));
    }
    stage.wait("both machines' agents have joined", FOLLOW_LIMIT, |stage| {
        let machines = stage.ask(&["machine", "list", "--site", "home"])?;
        let has_agent =
            |machine: &&Value| machine.pointer("/properties/hasAgent") == Some(&Value::Bool(true));
        let with_agent = machines.as_array().into_iter().flatten().filter(has_agent).count();
        Ok((with_agent == CAST.len()).then_some(()))
    })?;
    stage.screen.say("the mobility agents in both have joined");
    Ok(())
}

pub(super) fn protect(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .screen
        .step("3. A protection group with its failback twin; both machines protected; a recovery plan");
    make_group(stage)?;
    for cast in CAST {
        begin_to_protect(stage, cast)?;
    }
    stage.note(&[
        "plan",
        "create",
        PLAN,
        "--home",
        "home",
        "--recovery",
        "recovery",
        "--group",
        "web01",
        "--group",
        "db01",
    ])?;
    for cast in CAST {
        wait_until_protected(stage, cast, "home")?;
    }
    for cast in CAST {
        stage.check_addresses(cast, At::Home)?;
    }
    let tag = wait_for_shared_point(stage)?;
    stage.screen.say(&format!("multi-VM recovery point {tag}: both machines, one moment"));
    Ok(())
}

pub(super) fn make_group(stage: &mut Stage) -> anyhow::Result<()> {
    stage.note(&[
        "group",
        "create",
        GROUP,
        "--from",
        "home",
        "--to",
        "recovery",
        "--interval",
        "5s",
        "--freeze-budget",
        "3s",
        "--rpo-threshold",
        RPO_THRESHOLD,
        "--multi-vm",
        "true",
    ])?;
    let groups = stage.note(&["group", "list"])?;
    let names: Vec<&str> =
        groups.as_array().into_iter().flatten().filter_map(|group| group["name"].as_str()).collect();
    let twin = twin_of(GROUP);
    let found = names.contains(&twin.as_str());
    stage.check("the failback group appears by itself", twin, names.join(", "), found);
    Ok(())
}

pub(super) fn twin_of(group: &str) -> String {
    format!("{group}{TWIN_SUFFIX}")
}

/// Asks for a machine's protection; [`wait_until_protected`] waits for it.
pub(super) fn begin_to_protect(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    let [uplink, lan] = cast.away;
    let words =
        ["machine", "protect", cast.name, "--group", GROUP, "--nic", uplink, "--nic", lan, "--no-wait"];
    // In a vCenter it may be called anything.
    stage.job(&[&words[..], &["--as", cast.name]].concat()).map(drop)
}

/// Until the replica at the other side has recovery points. Returns what the comparison moved, and the size of all disks.
pub(super) fn wait_until_protected(
    stage: &mut Stage,
    cast: Cast,
    active: &str,
) -> anyhow::Result<(u64, u64)> {
    let mut told = None;
    let shown = stage.wait(&format!("{} is protected", cast.name), JOB_LIMIT, |stage| {
        let shown = stage.machine(cast.name)?;
        let percent = shown.pointer("/resyncPercent").cloned().filter(|percent| !percent.is_null());
        if percent.is_some() && percent != told {
            stage.screen.say(&format!(
                "{}: {} % compared",
                cast.name,
                percent.as_ref().unwrap_or(&Value::Null)
            ));
            told = percent;
        }
        let is_there =
            shown["phase"] == "protected" && shown["active"] == active && count(&shown["recoveryPoints"]) > 0;
        Ok(is_there.then_some(shown))
    })?;
    let (moved, size) = (shown["resyncSentBytes"].as_u64().unwrap_or(0), disk_bytes(&shown));
    let sentence =
        format!("{} is protected: {} moved, of disks of {}", cast.name, ByteSize(moved), ByteSize(size));
    stage.screen.say(&sentence);
    Ok((moved, size))
}

pub(super) fn count(points: &Value) -> u64 {
    points.as_u64().or_else(|| points.as_array().map(|points| points.len() as u64)).unwrap_or(0)
}

fn disk_bytes(shown: &Value) -> u64 {
    shown["diskSizesBytes"].as_array().into_iter().flatten().filter_map(Value::as_u64).sum()
}

/// Until both machines have some points, and one that they share. Returns its tag.
pub(super) fn wait_for_shared_point(stage: &mut Stage) -> anyhow::Result<String> {
    stage.wait("the machines share a recovery point", FOLLOW_LIMIT, |stage| {
        let mut tags: Vec<Vec<String>> = Vec::new();
        for cast in CAST {
            let points = stage.ask(&["recovery-point", "list", cast.name])?;
            let points = points.as_array().cloned().unwrap_or_default();
            if (points.len() as u64) < POINTS_MIN {
                return Ok(None);
            }
            let tag = |point: &Value| Some(point.pointer("/properties/multiVmTag")?.as_str()?.to_owned());
            tags.push(points.iter().filter_map(tag).collect());
        }
        let [web, db] = tags.as_slice() else { bail!("the demo has two machines") };
        Ok(web.iter().find(|tag| db.contains(tag)).cloned())
    })
}

/// When the disaster came, and how long until both machines worked again, as seen by a watching person.
pub(super) struct Disaster {
    recovered_in: Duration,
    /// The record from which each machine has gone on, by its own account.
    resumed_at: Vec<u64>,
}

pub(super) fn strike(
    stage: &mut Stage,
    fail_over: impl FnOnce(&mut Stage) -> anyhow::Result<()>,
) -> anyhow::Result<Disaster> {
    stage.screen.step("4. Disaster: both home machines and the home process server die without warning");
    for cast in CAST {
        stage.place(At::Home).strike(cast.name)?;
    }
    stage.roles.kill("process-server-home")?;
    let started = Instant::now();
    stage.screen.say("kill -9 of both machines' QEMU and of the process server");
    let resumed_at = starts_again(stage, At::Recovery, fail_over)?;
    Ok(Disaster { recovered_in: started.elapsed(), resumed_at })
}

/// Does something, until both machines have started their workload once more at the other place; the record with which each went on.
pub(super) fn starts_again(
    stage: &mut Stage,
    at: At,
    fail_over: impl FnOnce(&mut Stage) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<u64>> {
    starts_again_of(stage, at, &CAST, fail_over)
}

/// The same of some machines.
pub(super) fn starts_again_of(
    stage: &mut Stage,
    at: At,
    casts: &[Cast],
    fail_over: impl FnOnce(&mut Stage) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<u64>> {
    let mut before = Vec::new();
    for cast in casts {
        let id = stage.instance(cast.name, at)?;
        before.push((*cast, stage.place(at).starts(&id)?.len(), id));
    }
    fail_over(stage)?;
    wait_for_starts(stage, at, &before)
}

/// Until each machine has started its workload once more; the record with which each went on.
pub(super) fn wait_for_starts(
    stage: &mut Stage,
    at: At,
    before: &[(Cast, usize, String)],
) -> anyhow::Result<Vec<u64>> {
    let wait = |(cast, count, id): &(Cast, usize, String)| {
        stage.wait(&format!("{} works at {}", cast.name, stage.place(at).name), FOLLOW_LIMIT, |stage| {
            Ok(stage.place(at).starts(id)?.get(*count).copied())
        })
    };
    before.iter().map(wait).collect()
}

pub(super) fn measure_loss(stage: &mut Stage, disaster: Disaster) -> anyhow::Result<()> {
    let seconds = disaster.recovered_in.as_secs();
    stage.check("RTO: from the disaster until both machines work", "measured", format!("{seconds} s"), true);
    let mut books = Vec::new();
    for (cast, resumed_at) in CAST.into_iter().zip(disaster.resumed_at) {
        // The home disks are as the disaster left them; those at recovery stand at the recovery point, below what runs there now.
        let (left, point) = (stage.inspect(At::Home, cast)?, stage.inspect(At::Recovery, cast)?);
        let (Some(left), Some(point)) = (left, point) else {
            bail!("the ledgers of {} cannot be read", cast.name)
        };
        check_loss(stage, cast, left.book(), point.book());
        check_resumption(stage, cast, "at the recovery point", &point, resumed_at);
        stage.check_history(cast, "at the recovery point", &point);
        books.push(point);
    }
    check_causes(stage, "at the recovery point", &books);
    for cast in CAST {
        stage.check_point(cast, At::Recovery)?;
    }
    let mut tags = Vec::new();
    for cast in CAST {
        tags.push(
            stage
                .machine(cast.name)?
                .pointer("/failover/multiVmTag")
                .and_then(Value::as_str)
                .map(str::to_owned),
        );
    }
    let shared = tags[0].is_some() && tags.iter().all(|tag| *tag == tags[0]);
    let found = tags.iter().map(|tag| tag.as_deref().unwrap_or("none")).collect::<Vec<_>>().join(" and ");
    stage.check("both stand at one multi-VM moment", "one tag", found, shared);
    Ok(())
}

fn check_loss(stage: &mut Stage, cast: Cast, left: &Book, point: &Book) {
    let prefix = left.contains(&point.standing());
    let what = format!("{}: the recovery point is a state that home really had", cast.name);
    stage.check(
        what,
        "a beginning of home's ledger",
        outcome(&prefix, "a beginning of home's ledger"),
        prefix.is_ok(),
    );
    let time = |book: &Book| book.records().last().map_or(0, |record| record.time_ms);
    let lost = left.standing().records.saturating_sub(point.standing().records);
    let lost_ms = time(left).saturating_sub(time(point));
    let what = format!("RPO: {}: what was lost", cast.name);
    let expected = format!("less than {} s", RPO_MAX.as_secs());
    let found = format!("{lost} records, {}.{} s", lost_ms / 1000, lost_ms % 1000 / 100);
    stage.check(what, expected, found, u128::from(lost_ms) < RPO_MAX.as_millis());
}

/// What the guest says and what its disks say must be the same.
pub(super) fn check_resumption(
    stage: &mut Stage,
    cast: Cast,
    when: &str,
    disks: &Inspection,
    resumed_at: u64,
) {
    let expected = disks.book().standing().records + 1;
    let what = format!("{} {when}: the guest goes on where its disks end", cast.name);
    stage.check(what, format!("record {expected}"), format!("record {resumed_at}"), resumed_at == expected);
}

pub(super) fn check_causes(stage: &mut Stage, when: &str, inspections: &[Inspection]) {
    if let [web, db] = inspections {
        let held = causes_are_held(db.book(), web.book());
        let refers = db.book().records().last().and_then(|record| record.seen).map_or(0, |seen| seen.number);
        let what = format!("{when}: each record of web01 that db01 refers to is there");
        stage.check(
            what,
            "no effect without its cause",
            outcome(&held, &format!("db01 refers up to {refers}")),
            held.is_ok(),
        );
    }
}

fn commit(stage: &mut Stage, at: At) -> anyhow::Result<()> {
    let step = if at == At::Recovery {
        "5. Commit; work goes on at recovery"
    } else {
        "8. Commit; work goes on at home"
    };
    stage.screen.step(step);
    stage.job(&["plan", "commit", PLAN, "--yes"])?;
    for cast in CAST {
        stage.check_addresses(cast, at)?;
    }
    work_goes_on(stage, at)
}

pub(super) fn work_goes_on(stage: &mut Stage, at: At) -> anyhow::Result<()> {
    work_goes_on_for(stage, at, &CAST)
}

pub(super) fn work_goes_on_for(stage: &mut Stage, at: At, casts: &[Cast]) -> anyhow::Result<()> {
    for cast in casts {
        let id = stage.instance(cast.name, at)?;
        work_goes_on_of(stage, at, *cast, &id)?;
    }
    Ok(())
}

/// The same of one machine, by its id at the place.
pub(super) fn work_goes_on_of(stage: &mut Stage, at: At, cast: Cast, id: &str) -> anyhow::Result<()> {
    let from = stage.place(at).newest_said(id)?;
    let what = format!("{} goes on writing", cast.name);
    let to = stage.wait(&what, FOLLOW_LIMIT, |stage| {
        Ok(Some(stage.place(at).newest_said(id)?).filter(|to| *to >= from + WORK_RECORDS))
    })?;
    stage.screen.say(&format!("{} has gone on from record {from} to {to}", cast.name));
    Ok(())
}

/// The machine that was left comes back to life: it must be told apart, and reprotect must switch it off. What it writes now is the history that the checks
/// after the failback must not find.
fn raise_the_dead(stage: &mut Stage) -> anyhow::Result<()> {
    let dead = CAST[0].name;
    stage.screen.step(&format!("   At home, {dead} comes back from the dead, with its old agent"));
    stage.place(At::Home).site.power_on(dead)?;
    stage.wait(&format!("the returned {dead} is noticed"), FOLLOW_LIMIT, |stage| {
        Ok((!stage.machine(dead)?["staleSeen"].is_null()).then_some(()))
    })?;
    let active = stage.machine(dead)?["active"].as_str().unwrap_or_default().to_owned();
    stage.check(
        format!("{dead} returned at home is stale, superseded by its copy at recovery"),
        "away",
        &active,
        active == "away",
    );
    Ok(())
}

/// Towards the other site. `at`: where the machines run; `group`: theirs.
pub(super) fn reprotect(
    stage: &mut Stage,
    at: At,
    group: &str,
    ask: impl FnOnce(&mut Stage) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (title, group) = match at {
        At::Recovery => {
            ("6. Reprotect towards home, onto the disks that were left: only the delta moves", twin_of(group))
        }
        At::Home => (
            "   Reprotect towards recovery, onto the disks that are there: only the delta moves",
            group.to_owned(),
        ),
    };
    stage.screen.step(title);
    if at == At::Recovery {
        stage.roles.restart("process-server-home")?;
        stage.screen.say("the home site is back: its process server runs again");
    }
    ask(stage)?;
    for cast in CAST {
        let (other, pointer) =
            if at == At::Recovery { (At::Home, "home") } else { (At::Recovery, "recovery") };
        let id = stage.instance(cast.name, other)?;
        let off = stage.place(other).is_off(&id)?;
        stage.check(
            format!("{} at {pointer}, which is written to, is off", cast.name),
            "off",
            if off { "off" } else { "on" },
            off,
        );
        check_delta(stage, cast, at)?;
        let shown = stage.machine(cast.name)?;
        let found = shown["group"].as_str().unwrap_or_default().to_owned();
        stage.check(
            format!("{} is in the group of its direction", cast.name),
            &group,
            &found,
            found == group,
        );
    }
    wait_for_shared_point(stage).map(drop)
}

/// Until a machine that runs there is protected again; what that has moved.
pub(super) fn check_delta(stage: &mut Stage, cast: Cast, at: At) -> anyhow::Result<()> {
    let side = if at == At::Home { "home" } else { "away" };
    let (moved, size) = wait_until_protected(stage, cast, side)?;
    let what = format!("{} reprotected from {}: the delta alone was moved", cast.name, stage.place(at).name);
    let expected = format!("some, less than {DELTA_PERCENT_MAX} % of {}", ByteSize(size));
    let found = format!("{} ({} %)", ByteSize(moved), moved * 100 / size.max(1));
    stage.check(what, expected, found, moved > 0 && moved * 100 < size * DELTA_PERCENT_MAX);
    Ok(())
}

pub(super) fn fail_back(
    stage: &mut Stage,
    fail_over: impl FnOnce(&mut Stage) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    stage.screen.step("7. Failback, planned: shut down, last changes sent, nothing lost");
    let started = Instant::now();
    let resumed_at = starts_again(stage, At::Home, fail_over)?;
    let found = format!("{} s", started.elapsed().as_secs());
    stage.check("planned failback until both machines work at home", "measured", found, true);
    let mut books = Vec::new();
    for (cast, resumed_at) in CAST.into_iter().zip(resumed_at) {
        let id = stage.instance(cast.name, At::Recovery)?;
        let off = stage.place(At::Recovery).is_off(&id)?;
        stage.check(format!("{} at recovery is off", cast.name), "off", if off { "off" } else { "on" }, off);
        stage.check_same_disks(cast)?;
        let home = stage.inspect(At::Home, cast)?;
        let home = home.with_context(|| format!("the ledger of {} at home cannot be read", cast.name))?;
        check_resumption(stage, cast, "after the failback", &home, resumed_at);
        stage.check_history(cast, "after the failback", &home);
        books.push(home);
    }
    check_causes(stage, "after the failback", &books);
    Ok(())
}

fn look_at_the_end(stage: &mut Stage) -> anyhow::Result<()> {
    stage.screen.step("   A last look, and what was left behind at recovery is cleaned up");
    for cast in CAST {
        let shown = stage.machine(cast.name)?;
        let found = format!(
            "{} at {}",
            shown["phase"].as_str().unwrap_or("?"),
            shown["active"].as_str().unwrap_or("?")
        );
        let what = format!("{} is protected as at the beginning", cast.name);
        stage.check(what, "protected at home", &found, found == "protected at home");
    }
    metrics::check(stage)?;
    if stage.is_to_be_kept() {
        return Ok(());
    }
    for cast in CAST {
        stage.job(&["machine", "disable", cast.name, "--clean-up", "--yes"])?;
    }
    let left: Vec<String> =
        stage.place(At::Recovery).site.machines()?.into_iter().map(|machine| machine.id).collect();
    let found = if left.is_empty() { "none".to_owned() } else { left.join(", ") };
    stage.check("machines left behind at recovery", "none", found, left.is_empty());
    // The effects first, so that their causes are surely there.
    for cast in CAST.into_iter().rev() {
        let is_off = stage.place(At::Home).site.shut_down(cast.name, SHUT_DOWN_LIMIT)?;
        let found = if is_off { "off" } else { "on" };
        stage.check(format!("{} shuts down by its power button", cast.name), "off", found, is_off);
    }
    let mut books = Vec::new();
    for cast in CAST {
        if let Some(last) = stage.inspect_machine(At::Home, cast, cast.name)? {
            stage.check_history(cast, "at the end", &last);
            books.push(last);
        }
    }
    check_causes(stage, "at the end", &books);
    Ok(())
}
