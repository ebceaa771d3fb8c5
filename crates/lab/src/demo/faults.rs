//! The other story: what fails or changes around protected machines is noticed, said, survived without loss, and mended.
//!
//! It ends with a planned failover of both machines, after which the disks of both sides are compared byte for byte: whatever went wrong before, nothing was
//! lost and nothing is out of place.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use switchback_sites::Site as _;

use super::places::{CAST, Cast};
use super::stage::{At, FOLLOW_LIMIT, Stage};
use super::story;

/// How long the network is cut: longer than the age of a recovery point from which on there is an alarm, and than any single time limit of a connection.
const CUT_FOR: Duration = Duration::from_secs(75);
/// Points that must have been made while it was cut, of one every five seconds.
const POINTS_WHILE_CUT_MIN: usize = 3;
/// Points that are waited for to see that replication goes on.
const POINTS_MORE: u64 = 2;
const SECOND: &str = "process-server-home-2";
const FORMER: &str = "process-server-home";
/// Bytes of the disk that a machine gains, and by which another's grows.
const CHANGE: u64 = 8 << 20;
const SHUT_DOWN_LIMIT: Duration = Duration::from_secs(60);

/// Plays it.
pub(super) fn play(stage: &mut Stage) -> anyhow::Result<()> {
    story::found_sites(stage)?;
    story::make_machines(stage)?;
    story::protect(stage)?;
    cut_the_network(stage)?;
    replace_the_process_server(stage)?;
    gain_a_disk(stage, CAST[0])?;
    grow_a_disk(stage, CAST[1])?;
    fail_over(stage)
}

fn points(stage: &mut Stage, cast: Cast) -> anyhow::Result<u64> {
    Ok(story::count(&stage.machine(cast.name)?["recoveryPoints"]))
}

/// Codes and words of what is not well with a machine.
fn reasons(shown: &Value) -> Vec<(String, String)> {
    let text = |reason: &Value, key: &str| reason[key].as_str().unwrap_or_default().to_owned();
    let reasons = shown["reasons"].as_array().into_iter().flatten();
    reasons.map(|reason| (text(reason, "code"), text(reason, "message"))).collect()
}

fn codes(shown: &Value) -> String {
    let codes: Vec<_> = reasons(shown).into_iter().map(|(code, _)| code).collect();
    if codes.is_empty() { "all is well".into() } else { codes.join(", ") }
}

/// Waits until a machine is well and has more recovery points than `from`.
fn goes_on(stage: &mut Stage, cast: Cast, from: u64, except: &[&str]) -> anyhow::Result<Value> {
    stage.wait(&format!("{} gets recovery points again", cast.name), FOLLOW_LIMIT, |stage| {
        let shown = stage.machine(cast.name)?;
        let well = reasons(&shown).iter().all(|(code, _)| except.contains(&code.as_str()));
        Ok((well && story::count(&shown["recoveryPoints"]) >= from + POINTS_MORE).then_some(shown))
    })
}

fn cut_the_network(stage: &mut Stage) -> anyhow::Result<()> {
    stage.screen.step(&format!("4. The network between the sites is cut for {} s", CUT_FOR.as_secs()));
    let mut before = Vec::new();
    for cast in CAST {
        before.push((cast, stage.machine(cast.name)?));
    }
    let listed = stage.ask(&["recovery-point", "list", CAST[0].name, "--limit", "1"])?;
    let newest_before = time_of(listed.get(0)).context("there is no recovery point")?;
    stage.data_wire.as_ref().context("there is no wire to cut")?.wire.cut();
    let began = Instant::now();
    let mut told = stage.wait("the cut network raises an alarm", CUT_FOR, |stage| {
        let shown = stage.machine(CAST[0].name)?;
        Ok(reasons(&shown).iter().any(|(code, _)| code == "rpo.exceeded").then_some(shown))
    })?;
    let seconds = began.elapsed().as_secs();
    stage.screen.say(&format!("alarm after {seconds} s"));
    while began.elapsed() < CUT_FOR {
        stage.roles.check()?;
        std::thread::sleep(Duration::from_secs(1));
        told = stage.machine(CAST[0].name)?;
    }
    let is_alarmed = told["health"] == "Critical" && codes(&told) == "process-server.waiting, rpo.exceeded";
    stage.check(
        "while the network is cut: the alarm, and its cause",
        "Critical: process-server.waiting, rpo.exceeded",
        format!("{}: {}", told["health"].as_str().unwrap_or("?"), codes(&told)),
        is_alarmed,
    );
    stage.data_wire.as_ref().context("there is no wire")?.wire.restore();
    stage.screen.say("the network is restored");
    let began = Instant::now();
    for (cast, before) in before {
        let after = goes_on(stage, cast, story::count(&before["recoveryPoints"]), &[])?;
        let compared = |shown: &Value| shown["resyncSentBytes"].as_u64().unwrap_or(0);
        stage.check(
            format!("{} caught up with its changes alone, {} s after", cast.name, began.elapsed().as_secs()),
            "no comparison",
            if compared(&before) == compared(&after) { "no comparison" } else { "it compared" },
            compared(&before) == compared(&after),
        );
    }
    let (alarm, told) = alarm_and_its_end(stage)?;
    let found = if told { "both" } else { "not both" };
    stage.check("events tell of the alarm and of its end", "both", found, told);
    let listed = stage.ask(&["recovery-point", "list", CAST[0].name])?;
    let times = listed.as_array().into_iter().flatten().filter_map(|point| time_of(Some(point)));
    let made = times.filter(|time| *time > newest_before && *time < alarm).count();
    stage.check(
        "recovery points of the time between cut and alarm have arrived",
        format!("at least {POINTS_WHILE_CUT_MIN}"),
        made,
        made >= POINTS_WHILE_CUT_MIN,
    );
    Ok(())
}

/// When the alarm was raised, and whether its end has been told of, too.
fn alarm_and_its_end(stage: &mut Stage) -> anyhow::Result<(String, bool)> {
    stage.wait("events tell of the alarm and of its end", FOLLOW_LIMIT, |stage| {
        let listed = stage.ask(&["event", "list"])?;
        let event = |code: &str| {
            let is = |event: &&Value| {
                event.pointer("/properties/eventCode") == Some(&json!(code))
                    && event.pointer("/properties/affectedObjectFriendlyName") == Some(&json!(CAST[0].name))
            };
            let found = listed.as_array().into_iter().flatten().find(is);
            Some(found?.pointer("/properties/timeOfOccurrence")?.as_str()?.to_owned())
        };
        let (alarm, end) = (event("rpo.exceeded"), event("rpo.exceeded.resolved"));
        let is_over = end > alarm;
        Ok(alarm.filter(|_| is_over).map(|alarm| (alarm, is_over)))
    })
}

/// As the server writes it: texts that sort by time.
fn time_of(point: Option<&Value>) -> Option<String> {
    Some(point?.pointer("/properties/time")?.as_str()?.to_owned())
}

fn replace_the_process_server(stage: &mut Stage) -> anyhow::Result<()> {
    stage.screen.step("5. Home's process server is lost for good; another one takes its place");
    stage.roles.kill(FORMER)?;
    stage.start_server_called("process-server", At::Home, SECOND)?;
    stage.wait("the new process server reports", FOLLOW_LIMIT, |stage| {
        let shown = stage.ask(&["server", "list"])?;
        let reports = |server: &Value| {
            server.pointer("/properties/friendlyName") == Some(&json!(SECOND))
                && server.pointer("/properties/lastReport").is_some_and(|report| !report.is_null())
        };
        Ok(shown.as_array().into_iter().flatten().any(reports).then_some(()))
    })?;
    let mut from = Vec::new();
    for cast in CAST {
        from.push((cast, points(stage, cast)?));
    }
    stage.job(&["server", "replace", FORMER, "--by", SECOND])?;
    for (cast, from) in &from {
        goes_on(stage, *cast, *from, &[])?;
    }
    stage.screen.say("the former one comes back, with what it had not delivered");
    stage.roles.restart(FORMER)?;
    for cast in CAST {
        let from = points(stage, cast)?;
        let shown = goes_on(stage, cast, from, &[])?;
        let through = shown.pointer("/replication/processServer").and_then(Value::as_str).unwrap_or("?");
        let what =
            format!("{} replicates through the new process server, whatever the former does", cast.name);
        stage.check(what, SECOND, through, through == SECOND);
    }
    stage.job(&["server", "remove", &format!("process-server.{FORMER}"), "--yes"])?;
    stage.roles.kill(FORMER)?;
    Ok(())
}

/// Shuts a machine down, changes it, and starts it again.
fn changed(
    stage: &mut Stage,
    cast: Cast,
    change: impl FnOnce(&Stage) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let site = &stage.place(At::Home).site;
    if !site.shut_down(cast.name, SHUT_DOWN_LIMIT)? {
        site.power_off(cast.name)?;
    }
    change(stage)?;
    let before = stage.place(At::Home).starts(cast.name)?.len();
    stage.place(At::Home).site.power_on(cast.name)?;
    story::wait_for_starts(stage, At::Home, &[(cast, before, cast.name.to_owned())]).map(drop)
}

fn description(stage: &Stage, cast: Cast) -> PathBuf {
    stage.place(At::Home).site.directory().join("machines").join(cast.name).join("machine.toml")
}

fn gain_a_disk(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step(&format!("6. {} gets a third disk while it is protected", cast.name));
    let from = points(stage, cast)?;
    changed(stage, cast, |stage| {
        let image = stage.place(At::Home).disks(cast.name).join("gained.img");
        File::create_new(&image)?.set_len(CHANGE)?;
        let path = description(stage, cast);
        let mut described: toml::Table = toml::from_str(&fs::read_to_string(&path)?)?;
        let disks =
            described.get_mut("disks").and_then(toml::Value::as_array_mut).context("it has no disks")?;
        let disk = [("path", image.to_string_lossy().into_owned()), ("serial", "gained".to_owned())];
        disks.push(
            disk.into_iter()
                .map(|(key, value)| (key.to_owned(), value.into()))
                .collect::<toml::Table>()
                .into(),
        );
        Ok(fs::write(&path, toml::to_string(&described)?)?)
    })?;
    let shown = goes_on(stage, cast, from, &["agent.disk-not-protected"])?;
    let told = stage.wait("the new disk is told of", FOLLOW_LIMIT, |stage| {
        let shown = stage.machine(cast.name)?;
        Ok(codes(&shown).contains("agent.disk-not-protected").then_some(shown))
    })?;
    let what = format!("{} goes on with its two disks, and the third is told of", cast.name);
    let found = format!("{}: {}", told["health"].as_str().unwrap_or("?"), codes(&told));
    let goes_on = story::count(&shown["recoveryPoints"]) > from;
    stage.check(
        what,
        "Warning: agent.disk-not-protected",
        &found,
        goes_on && found == "Warning: agent.disk-not-protected",
    );
    Ok(())
}

fn grow_a_disk(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step(&format!("7. A disk of {} grows while it is protected", cast.name));
    let [_, image] = stage.place(At::Home).images(cast.name)?;
    changed(stage, cast, |_| {
        let file = File::options().write(true).open(&image)?;
        let grown = file.metadata()?.len() + CHANGE;
        Ok(file.set_len(grown)?)
    })?;
    let told = stage.wait("the change is told of", FOLLOW_LIMIT, |stage| {
        let shown = stage.machine(cast.name)?;
        Ok(codes(&shown).contains("agent.disks-changed").then_some(shown))
    })?;
    for (code, message) in reasons(&told) {
        stage.screen.say(&format!("{code}: {message}"));
    }
    let points = story::count(&told["recoveryPoints"]);
    stage.check(
        format!("{}: nothing wrong is sent, a person is called, its recovery points stay", cast.name),
        "Critical, with recovery points",
        format!("{}, {points} recovery points", told["health"].as_str().unwrap_or("?")),
        told["health"] == "Critical" && points > 0,
    );
    // As the remedy says.
    stage.job(&["machine", "disable", cast.name, "--clean-up", "--yes"])?;
    story::begin_to_protect(stage, cast)?;
    story::wait_until_protected(stage, cast, "home")?;
    let grown = fs::metadata(&image)?.len();
    let shown = stage.machine(cast.name)?;
    let size = shown.pointer("/diskSizesBytes/1").and_then(Value::as_u64).unwrap_or(0);
    stage.check(format!("{} is protected anew, as it is now", cast.name), grown, size, grown == size);
    Ok(())
}

fn fail_over(stage: &mut Stage) -> anyhow::Result<()> {
    stage.screen.step("8. Planned failover of both: after all of that nothing is lost");
    let mut before = Vec::new();
    for cast in CAST {
        let id = stage.instance(cast.name, At::Recovery)?;
        before.push((cast, stage.place(At::Recovery).starts(&id)?.len(), id));
        // Disabling took it out of its plan.
        stage.job(&["machine", "failover", cast.name, "--planned", "--yes"])?;
    }
    let resumed_at = story::wait_for_starts(stage, At::Recovery, &before)?;
    let mut books = Vec::new();
    for (cast, resumed_at) in CAST.into_iter().zip(resumed_at) {
        stage.check_same_disks(cast)?;
        let point = stage.inspect(At::Recovery, cast)?;
        let point = point.with_context(|| format!("the ledger of {} cannot be read", cast.name))?;
        story::check_resumption(stage, cast, "after the failover", &point, resumed_at);
        stage.check_addresses(cast, At::Recovery)?;
        books.push(point);
    }
    story::check_causes(stage, "after the failover", &books);
    Ok(())
}
