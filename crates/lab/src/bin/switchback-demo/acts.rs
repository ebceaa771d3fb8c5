//! The eight steps, as an administrator would take them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use switchback_lab::inspect::{Inspection, first_difference};
use switchback_lab::ledger::{Standing, causes_are_held};
use switchback_sites::{Power, Site as _};

use crate::client::{number, text};
use crate::findings::Findings;
use crate::stage::Stage;
use crate::world::{Guest, MACHINES, World};

/// How many steps there are.
pub(crate) const STEPS: usize = 8;
/// Records that are written before something happens to them.
const WORK: u64 = 100;
/// Longest wait for a state of replication.
const REPLICATION_LIMIT: Duration = Duration::from_secs(300);
/// The part of a disk that a delta may be of it, in percent.
const DELTA_PERCENT_MAX: u64 = 40;

/// What is carried from step to step.
struct Play<'a> {
    stage: &'a mut Stage,
    findings: &'a mut Findings,
    world: World,
    switchback: &'a Path,
    ledger: &'a Path,
    /// How far the ledgers went when they were last verified, by machine.
    verified: [Option<Standing>; 2],
}

/// Plays the steps.
pub(crate) fn play(
    stage: &mut Stage,
    switchback: &Path,
    ledger: &Path,
    findings: &mut Findings,
    until: usize,
) -> anyhow::Result<World> {
    stage.say("1. A configuration server, two sites, a process server and a master target at each");
    let world = World::begin(stage, switchback)?;
    let mut play = Play { stage, findings, world, switchback, ledger, verified: [None, None] };
    for step in 1..=until.min(STEPS) {
        let done = match step {
            1 => play.serve_the_sites(),
            2 => play.make_machines(),
            3 => play.protect(),
            4 => play.lose_the_home_site(),
            5 => play.commit(),
            6 => play.reprotect_towards_home(),
            7 => play.fail_back(),
            _ => play.reprotect_towards_recovery(),
        };
        done.with_context(|| format!("step {step}"))?;
    }
    Ok(play.world)
}

impl Play<'_> {
    fn run(&mut self, command: &str) -> anyhow::Result<Value> {
        self.world.client.run(self.stage, command)
    }

    fn item(&mut self, name: &str) -> anyhow::Result<Value> {
        self.world.client.ask(self.stage, &format!("machine show {name}"))
    }

    /// The guest of a machine at home, or at the recovery site.
    fn guest<'w>(
        world: &'w World,
        item: &Value,
        name: &'static str,
        side: &str,
    ) -> anyhow::Result<Guest<'w>> {
        let place = if side == "home" { &world.home } else { &world.recovery };
        let id = text(item, &format!("/properties/{side}/id")).to_owned();
        ensure!(!id.is_empty(), "{name} has no machine at {}", place.name);
        Ok(Guest { name, place, id })
    }

    fn serve_the_sites(&mut self) -> anyhow::Result<()> {
        for place in [&self.world.home, &self.world.recovery] {
            let command = format!("site add {} --local {}", place.name, place.directory.display());
            self.world.client.run(self.stage, &command)?;
            self.stage.start(&place.process_server)?;
            self.stage.start(&place.master_target)?;
        }
        let servers = self.world.client.ask(self.stage, "server list")?;
        self.findings.equal(
            "components that have joined with the passphrase",
            &4,
            &servers.as_array().map_or(0, Vec::len),
        );
        Ok(())
    }

    fn make_machines(&mut self) -> anyhow::Result<()> {
        self.stage.say(
            "2. Two machines at home: web01 (ext4 and xfs), and db01 whose records refer to those of web01",
        );
        self.world.make_machines(self.stage, self.switchback, self.ledger)?;
        let started = Instant::now();
        for (name, _) in MACHINES {
            self.world.home.site.power_on(name)?;
        }
        for (name, _) in MACHINES {
            let guest = Guest { name, place: &self.world.home, id: name.to_owned() };
            guest.wait_for_life(self.stage, 0)?;
            println!("    {name} writes its ledger {:.1} s after power-on", started.elapsed().as_secs_f32());
        }
        for (name, _) in MACHINES {
            let guest = Guest { name, place: &self.world.home, id: name.to_owned() };
            let records = guest.wait_for_records(self.stage, WORK)?;
            println!("    {name} has {records} records");
        }
        Ok(())
    }

    fn protect(&mut self) -> anyhow::Result<()> {
        self.stage.say("3. A protection group, a recovery plan; both machines are protected");
        self.run(
            "group create PG1 --from home --to recovery --interval 3s --multi-vm true --freeze-budget 5s",
        )?;
        let groups = self.world.client.ask(self.stage, "group list")?;
        let groups = groups.as_array().into_iter().flatten();
        let twin =
            groups.map(|group| text(group, "/name")).find(|name| *name == "PG1_Failback").unwrap_or("none");
        self.findings.equal("the failback group that made itself", &"PG1_Failback", &twin);
        for network in ["uplink", "lan"] {
            self.run(&format!("network-mapping set home {network} recovery {network}"))?;
        }
        for (name, address) in [("web01", "10.2.0.11/24"), ("db01", "10.2.0.12/24")] {
            self.wait_for_agent(name)?;
            self.run(&format!("machine protect {name} --group PG1 --nic dhcp --nic {address} --no-wait"))?;
        }
        self.run("plan create RP1 --home home --recovery recovery --group web01,db01")?;
        self.wait_until_protected("web01 and db01 are protected")?;
        for (name, _) in MACHINES {
            let item = self.item(name)?;
            let (sent, disks) = (number(&item, "/properties/sentBytes")?, disk_bytes(&item)?);
            println!("    {name}: initial replication moved {} of {} MiB", sent >> 20, disks >> 20);
        }
        // Some multi-VM points more, so that there is a history to choose from.
        self.wait_for_common_points(3)
    }

    fn lose_the_home_site(&mut self) -> anyhow::Result<()> {
        self.stage.say("4. Disaster: the home machines and the home process server die; failover at the latest multi-VM point");
        self.stage.kill(&self.world.home.process_server.name.clone())?;
        for (name, _) in MACHINES {
            self.world.home.kill_machine(self.stage, name)?;
        }
        let lost = Instant::now();
        self.run("plan failover RP1 --unplanned --point latest-multi-vm --no-shutdown --yes")?;
        let items = [self.item("web01")?, self.item("db01")?];
        let mut seen = Vec::new();
        for ((name, _), item) in MACHINES.iter().zip(&items) {
            Self::guest(&self.world, item, name, "away")?.wait_for_life(self.stage, 0)?;
            println!(
                "    {name} writes its ledger at recovery {:.1} s after its death at home",
                lost.elapsed().as_secs_f32()
            );
        }
        println!("    RTO: {:.1} s", lost.elapsed().as_secs_f32());
        for (index, ((name, _), item)) in MACHINES.iter().zip(&items).enumerate() {
            let home = Self::guest(&self.world, item, name, "home")?.inspect(self.stage)?;
            let home = self.findings.in_order(
                format!("{name}: what died at home, from outside"),
                "in order",
                home,
                describe,
            );
            let away = Self::guest(&self.world, item, name, "away")?;
            let said = away.said_at_boot()?;
            let found = away.inspect(self.stage)?;
            let found = self.findings.in_order(
                format!("{name}: the recovery disks, from outside"),
                "in order",
                found,
                describe,
            );
            let (Some(home), Some(found)) = (home, found) else { continue };
            let standing = found.book().standing();
            let kept = home.book().contains(&standing);
            let expected = "the beginning of home's";
            self.findings.in_order(format!("{name}: its history at recovery"), expected, kept, |()| {
                expected.to_owned()
            });
            self.guest_agrees(name, &said, &found);
            let (all, kept) = (home.book().records(), found.book().records());
            let time = |records: &[switchback_lab::ledger::Record]| {
                records.last().map_or(0, |record| record.time_ms)
            };
            let lost_ms = time(all).saturating_sub(time(kept));
            println!(
                "    {name}: RPO: {} of {} records lost, {:.1} s of work",
                all.len() - kept.len(),
                all.len(),
                lost_ms as f64 / 1000.0
            );
            self.verified[index] = Some(standing);
            seen.push(found);
        }
        self.causes(&seen);
        let states = items
            .iter()
            .map(|item| text(item, "/properties/failover/multiVmTag").to_owned())
            .collect::<Vec<_>>();
        self.findings.note(
            "both are at one multi-VM moment",
            "the same tag",
            states.join(" = "),
            !states[0].is_empty() && states[0] == states[1],
        );
        Ok(())
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        self.stage.say("5. Commit; work goes on at recovery");
        self.run("plan commit RP1 --yes")?;
        self.work_on("away")
    }

    fn reprotect_towards_home(&mut self) -> anyhow::Result<()> {
        self.stage.say("6. Reprotect, to the original machines: only what differs moves");
        self.run("plan reprotect RP1 --yes --no-wait")?;
        self.wait_until_protected("web01 and db01 replicate home")?;
        for (name, _) in MACHINES {
            let item = self.item(name)?;
            self.findings.equal(
                format!("{name}: its group now"),
                &"PG1_Failback",
                &text(&item, "/properties/group"),
            );
            self.delta(name, &item)?;
        }
        self.work_on("away")?;
        self.wait_for_common_points(1)
    }

    fn fail_back(&mut self) -> anyhow::Result<()> {
        self.stage.say("7. Failback by the recovery plan, planned: shut down, last cycle, nothing lost");
        let items = [self.item("web01")?, self.item("db01")?];
        let mut lives = Vec::new();
        for ((name, _), item) in MACHINES.iter().zip(&items) {
            lives.push(Self::guest(&self.world, item, name, "home")?.lives()?);
        }
        let begun = Instant::now();
        self.run("plan failover RP1 --planned --yes")?;
        for (((name, _), item), lives) in MACHINES.iter().zip(&items).zip(lives) {
            Self::guest(&self.world, item, name, "home")?.wait_for_life(self.stage, lives)?;
            println!(
                "    {name} writes its ledger at home {:.1} s after the failback began",
                begun.elapsed().as_secs_f32()
            );
        }
        let mut found_all = Vec::new();
        for (index, ((name, _), item)) in MACHINES.iter().zip(&items).enumerate() {
            let (away, home) = (
                Self::guest(&self.world, item, name, "away")?,
                Self::guest(&self.world, item, name, "home")?,
            );
            let (left, original) = (away.place.machine(&away.id)?, home.place.machine(&home.id)?);
            let power = format!("{:?}", left.power);
            self.findings.note(
                format!("{name}: the machine that was left"),
                "Off",
                power,
                left.power == Power::Off,
            );
            for (disk, (one, other)) in left.disks.iter().zip(&original.disks).enumerate() {
                let difference = first_difference(&one.path, &other.path)?;
                let found =
                    difference.map_or_else(|| "identical".to_owned(), |at| format!("differs from byte {at}"));
                self.findings.note(
                    format!("{name}: disk {disk}, recovery and home, byte for byte"),
                    "identical",
                    found,
                    difference.is_none(),
                );
            }
            let (told, said) = (away.records()?, home.said_at_boot()?);
            let found = home.inspect(self.stage)?;
            let Some(found) = self.findings.in_order(
                format!("{name}: the home disks, from outside"),
                "in order",
                found,
                describe,
            ) else {
                continue;
            };
            let has = found.book().standing().records;
            self.findings.note(
                format!("{name}: nothing it had told of is lost"),
                format!("{told} records or more"),
                has.to_string(),
                has >= told,
            );
            self.history_is_kept(index, name, &found);
            self.guest_agrees(name, &said, &found);
            found_all.push(found);
        }
        self.causes(&found_all);
        Ok(())
    }

    fn reprotect_towards_recovery(&mut self) -> anyhow::Result<()> {
        self.stage.say("8. Commit; reprotect towards recovery, again only what differs; clean up");
        self.run("plan commit RP1 --yes")?;
        let process_server = self.world.home.process_server.clone();
        self.stage.start(&process_server)?;
        self.work_on("home")?;
        self.run("plan reprotect RP1 --yes --no-wait")?;
        self.wait_until_protected("web01 and db01 replicate to recovery")?;
        for (name, _) in MACHINES {
            let item = self.item(name)?;
            self.findings.equal(format!("{name}: its group now"), &"PG1", &text(&item, "/properties/group"));
            self.delta(name, &item)?;
        }
        self.wait_for_common_points(2)?;
        for (name, _) in MACHINES {
            self.run(&format!("machine disable {name} --clean-up --yes"))?;
        }
        let left = self.world.recovery.site.machines()?.len();
        self.findings.equal("machines left behind at recovery after the clean-up", &0, &left);
        Ok(())
    }

    // ---- What the steps share

    fn wait_for_agent(&mut self, name: &str) -> anyhow::Result<()> {
        let client = self.world.client.clone();
        self.stage.wait(&format!("the agent of {name} reports"), REPLICATION_LIMIT, |stage| {
            let machine = client.ask(stage, &format!("machine show {name} --site home"))?;
            Ok(machine
                .pointer("/properties/hasAgent")
                .and_then(Value::as_bool)
                .unwrap_or(false)
                .then_some(()))
        })
    }

    fn wait_until_protected(&mut self, what: &str) -> anyhow::Result<()> {
        let client = self.world.client.clone();
        let mut shown = String::new();
        self.stage.wait(what, REPLICATION_LIMIT, |stage| {
            let mut lines = Vec::new();
            let mut all = true;
            for (name, _) in MACHINES {
                let item = client.ask(stage, &format!("machine show {name}"))?;
                let resync = item.pointer("/properties/resyncPercent").and_then(Value::as_u64);
                let resync = resync.map_or_else(String::new, |percent| format!(" {percent}%"));
                lines.push(format!("{name}: {}{resync}", text(&item, "/properties/state")));
                all &= text(&item, "/properties/phase") == "protected";
            }
            let line = lines.join("   ");
            if line != shown {
                println!("    {line}");
                shown = line;
            }
            Ok(all.then_some(()))
        })
    }

    /// Waits for so many multi-VM moments that both machines have a point of.
    fn wait_for_common_points(&mut self, count: usize) -> anyhow::Result<()> {
        let client = self.world.client.clone();
        let common = self.stage.wait("there are multi-VM points", REPLICATION_LIMIT, |stage| {
            let mut tags: Vec<Vec<String>> = Vec::new();
            for (name, _) in MACHINES {
                let points = client.ask(stage, &format!("recovery-point list {name}"))?;
                let of = |point: &Value| text(point, "/properties/multiVmTag").to_owned();
                tags.push(
                    points.as_array().into_iter().flatten().map(of).filter(|tag| !tag.is_empty()).collect(),
                );
            }
            let common = tags[0].iter().filter(|tag| tags[1].contains(tag)).count();
            Ok((common >= count).then_some(common))
        })?;
        println!("    {common} multi-VM recovery points");
        Ok(())
    }

    /// Waits until both machines have written some records more.
    fn work_on(&mut self, side: &str) -> anyhow::Result<()> {
        for (name, _) in MACHINES {
            let item = self.item(name)?;
            let guest = Self::guest(&self.world, &item, name, side)?;
            let before = guest.records()?;
            let now = guest.wait_for_records(self.stage, before + WORK)?;
            println!("    {name} goes on at {}: {now} records", guest.place.name);
        }
        Ok(())
    }

    fn delta(&mut self, name: &str, item: &Value) -> anyhow::Result<()> {
        let (sent, disks) = (number(item, "/properties/resyncSentBytes")?, disk_bytes(item)?);
        let percent = sent * 100 / disks;
        let found = format!("{} of {} MiB, {percent}%", sent >> 20, disks >> 20);
        let expected = format!("less than {DELTA_PERCENT_MAX}% of its disks");
        self.findings.note(
            format!("{name}: what the reprotect moved"),
            expected,
            found,
            percent < DELTA_PERCENT_MAX,
        );
        Ok(())
    }

    fn history_is_kept(&mut self, index: usize, name: &str, found: &Inspection) {
        if let Some(earlier) = self.verified[index] {
            let kept = found.book().contains(&earlier);
            let expected = format!("begins with the {} verified before", earlier.records);
            let holds = expected.clone();
            self.findings.in_order(format!("{name}: its history"), expected, kept, |()| holds);
        }
        self.verified[index] = Some(found.book().standing());
    }

    /// What the guest found when it began must be what is seen from outside.
    fn guest_agrees(&mut self, name: &str, said: &[String], found: &Inspection) {
        // The guest completes its second disk from the first before it says anything.
        let standing = found.book().standing();
        let says = |disk| format!("{disk} records={} last={} ok", standing.records, standing.last);
        let expected = [says(0), says(1)].join(", ");
        self.findings.equal(format!("{name}: what the guest itself found"), &expected, &said.join(", "));
    }

    fn causes(&mut self, found: &[Inspection]) {
        let [web, db] = found else { return };
        let held = causes_are_held(db.book(), web.book());
        let expected = "no effect without its cause";
        self.findings.in_order("db01's records and those of web01 they refer to", expected, held, |()| {
            expected.to_owned()
        });
    }
}

fn describe(inspection: &Inspection) -> String {
    let [first, second] = inspection.standings();
    format!("whole: {} and {} records, file systems and slots in order", first.records, second.records)
}

fn disk_bytes(item: &Value) -> anyhow::Result<u64> {
    let sizes = item.pointer("/properties/diskSizesBytes").and_then(Value::as_array);
    let sizes = sizes.context("no sizes of disks")?;
    Ok(sizes.iter().filter_map(Value::as_u64).sum::<u64>().max(1))
}
