//! A replica that exists catches up: by what differs, by nothing, with and without known digests; what applying costs; and going back.
//!
//! The replica goes to and fro between the standard image and its changed copy, which differ by the same amount in both
//! directions; so no run waits for a copy of the disk to be made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use serde_json::json;

use super::as_f64;
use super::image::{self, BLOCK, assert_equal, text};
use super::lab::{Lab, Sync};
use super::process::{drop_caches, is_installed, loopback_bytes, measure};
use super::report::{Limit, Row, Samples};

const NAME: &str = "resync";

#[derive(Default)]
struct Results {
    known: Samples,
    known_applied_s: Vec<f64>,
    forgotten: Samples,
    rsync: Samples,
    wire: Vec<f64>,
    sent: Vec<f64>,
    unchanged: Samples,
    unchanged_wire: Vec<f64>,
    unchanged_read: Vec<f64>,
    apply_s: Vec<f64>,
    overwrite_s: Vec<f64>,
    rollback_bytes_per_s: Vec<f64>,
    dd_bytes_per_s: Vec<f64>,
}

struct Course<'a> {
    lab: &'a Lab,
    /// The replica holds the first; each change goes to the other.
    images: [&'a Path; 2],
    peer: PathBuf,
    blocks: &'a [u64],
    size: u64,
}

/// A sync with all that was measured around it.
struct Caught {
    sync: Sync,
    /// Of both ends, applying included.
    cpu_s: f64,
    wire: u64,
    read: u64,
    /// From the commit until the disk holds the point.
    apply_s: f64,
}

/// Measures all rows of this module.
pub(super) fn rows(lab: &Lab, standard: &Path, size: u64, runs: usize) -> anyhow::Result<Vec<Row>> {
    let (changed, blocks) = image::changed(&lab.work, standard, size)?;
    let peer = lab.work.join("peer.img");
    image::copy(standard, &peer)?;
    lab.sync(standard, &lab.address, NAME, &["--capture", "scan"], |_, _| Ok(()))?;
    let mut course = Course { lab, images: [standard, &changed], peer, blocks: &blocks, size };
    let mut results = Results::default();
    for run in 0..runs {
        eprintln!("resync: run {} of {runs}", run + 1);
        course.run(&mut results, (standard, &changed), run == 0)?;
    }
    lab.wait_released(NAME)?;
    fs::remove_dir_all(lab.replica(NAME))?;
    Ok(report(&results, &blocks, size))
}

impl Course<'_> {
    fn run(
        &mut self,
        results: &mut Results,
        (standard, changed): (&Path, &Path),
        check: bool,
    ) -> anyhow::Result<()> {
        let done = self.switch_over()?;
        results.known.push(done.sync.process.wall_s, done.cpu_s);
        let until_commit = (done.sync.committed - done.sync.process.started).as_secs_f64();
        results.known_applied_s.push(until_commit + done.apply_s);
        results.wire.push(as_f64(done.wire));
        results.sent.push(as_f64(done.sync.point["stored_bytes"].as_u64().context("no stored_bytes")?));
        results.apply_s.push(done.apply_s);
        let back_to = done.sync.point["seq"].as_u64().context("no seq")?;
        let at_that_point = self.images[0];

        self.lab.wait_released(NAME)?;
        for entry in fs::read_dir(self.lab.replica(NAME))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("digests-") {
                fs::remove_file(entry.path())?;
            }
        }
        let done = self.switch_over()?;
        results.forgotten.push(done.sync.process.wall_s, done.cpu_s);

        let done = self.catch_up()?;
        results.unchanged.push(done.sync.process.wall_s, done.cpu_s);
        results.unchanged_wire.push(as_f64(done.wire));
        results.unchanged_read.push(as_f64(done.read));

        if is_installed("rsync") {
            self.rsync(changed, results)?;
            if check {
                assert_equal(changed, &self.peer)?;
            }
        } else {
            image::overwrite(&self.peer, changed, self.blocks)?;
        }
        results.overwrite_s.push(image::overwrite(&self.peer, standard, self.blocks)?);
        self.roll_back(back_to, results)?;
        self.images.swap(0, 1);
        if check {
            assert_equal(at_that_point, &self.lab.disk(NAME))?;
        }
        Ok(())
    }

    fn switch_over(&mut self) -> anyhow::Result<Caught> {
        self.images.swap(0, 1);
        self.catch_up()
    }

    /// Brings the replica to the first image.
    fn catch_up(&self) -> anyhow::Result<Caught> {
        let lab = self.lab;
        lab.wait_released(NAME)?;
        drop_caches()?;
        let (cpu, wire, read) = (lab.receiver.cpu_s()?, loopback_bytes()?, lab.receiver.read_bytes()?);
        let sync = lab.sync(self.images[0], &lab.address, NAME, &["--capture", "scan"], |_, _| Ok(()))?;
        let (wire, read) = (loopback_bytes()? - wire, lab.receiver.read_bytes()? - read);
        let applied = lab.wait_applied(NAME, sync.point["seq"].as_u64().context("no seq")?)?;
        let cpu_s = sync.process.cpu_s + lab.receiver.cpu_s()? - cpu;
        let apply_s = applied.saturating_duration_since(sync.committed).as_secs_f64();
        Ok(Caught { sync, cpu_s, wire, read, apply_s })
    }

    fn rsync(&self, changed: &Path, results: &mut Results) -> anyhow::Result<()> {
        drop_caches()?;
        let mut rsync = Command::new("rsync");
        rsync
            .args(["--inplace", "--no-whole-file", "--ignore-times", "--fsync"])
            .arg(changed)
            .arg(&self.peer);
        let done = measure(&self.lab.janitor, &mut rsync, |_, _| Ok(()))?;
        results.rsync.push(done.wall_s, done.cpu_s);
        Ok(())
    }

    fn roll_back(&self, to: u64, results: &mut Results) -> anyhow::Result<()> {
        self.lab.wait_released(NAME)?;
        drop_caches()?;
        let mut rollback = self.lab.switchback("target");
        rollback.args(["replica", "rollback", "--yes", "--to", &to.to_string()]).arg(self.lab.replica(NAME));
        let done = measure(&self.lab.janitor, &mut rollback, |_, _| Ok(()))?;
        results.rollback_bytes_per_s.push(as_f64(self.blocks.len() as u64 * BLOCK) / done.wall_s);
        let (scratch, bytes) = (self.lab.work.join("sequential"), (self.size / 8).min(1 << 30));
        let mut write = Command::new("dd");
        write.args(["if=/dev/zero", "bs=1M", "oflag=direct", "conv=fsync,notrunc", "status=none"]);
        write.args([format!("of={}", text(&scratch)), format!("count={}", bytes >> 20)]);
        if !scratch.exists() {
            // A rollback writes where blocks are allocated; so does the second dd.
            measure(&self.lab.janitor, &mut write, |_, _| Ok(()))?;
        }
        let done = measure(&self.lab.janitor, &mut write, |_, _| Ok(()))?;
        results.dd_bytes_per_s.push(as_f64(bytes) / done.wall_s);
        Ok(())
    }
}

fn report(results: &Results, blocks: &[u64], size: u64) -> Vec<Row> {
    let (changed, size) = (as_f64(blocks.len() as u64 * BLOCK), as_f64(size));
    let share = |values: &[f64], of: f64| values.iter().map(|value| value / of).collect::<Vec<_>>();
    let mut delta = Row::new(
        "resync",
        format!(
            "the standard change ({:.0} MiB in {} blocks), digests known or forgotten; peer: rsync --inplace --no-whole-file --fsync, local",
            changed / f64::from(1 << 20),
            blocks.len()
        ),
    );
    let rsync = &results.rsync;
    delta.ratio("wall, digests known", "s", &results.known.wall_s, &rsync.wall_s, Limit::AtMost(0.25));
    delta.ratio("CPU, digests known", "s", &results.known.cpu_s, &rsync.cpu_s, Limit::AtMost(0.12));
    delta.ratio(
        "wall, digests forgotten",
        "s",
        &results.forgotten.wall_s,
        &rsync.wall_s,
        Limit::AtMost(0.25),
    );
    delta.ratio("CPU, digests forgotten", "s", &results.forgotten.cpu_s, &rsync.cpu_s, Limit::AtMost(0.12));
    delta.ratio(
        "wall until applied, digests known",
        "s",
        &results.known_applied_s,
        &rsync.wall_s,
        Limit::None,
    );
    let allowed = 1.02 * changed + 0.001 * size;
    delta.value(
        "wire ÷ (1.02 × changed + 0.1 % of the disk)",
        &share(&results.wire, allowed),
        Limit::AtMost(1.0),
    );
    delta.value("sent contents ÷ changed", &share(&results.sent, changed), Limit::None);
    delta.note("ours ends when the change is a recovery point at the target (that is durable); its CPU includes applying it afterwards");
    if rsync.is_empty() {
        delta.note("rsync is not installed: no peer");
    }
    delta.samples("known", results.known.json());
    delta.samples("known, until applied", json!(results.known_applied_s));
    delta.samples("forgotten", results.forgotten.json());
    delta.samples("peer", rsync.json());
    delta.samples("wire_bytes", json!(results.wire));

    let mut unchanged = Row::new("unchanged", "a resync when nothing changed and digests are known");
    unchanged.value("wire ÷ disk", &share(&results.unchanged_wire, size), Limit::AtMost(0.001));
    unchanged.value("read at the target ÷ disk", &share(&results.unchanged_read, size), Limit::AtMost(0.001));
    unchanged.value("wall, s", &results.unchanged.wall_s, Limit::None);
    unchanged.value("CPU, s", &results.unchanged.cpu_s, Limit::None);
    unchanged.samples("ours", results.unchanged.json());

    let mut apply = Row::new(
        "apply",
        "applying the standard change with its way back; peer: the same blocks written by 4 threads, direct I/O, fsync",
    );
    apply.ratio("wall", "s", &results.apply_s, &results.overwrite_s, Limit::AtMost(2.2));
    apply.note("ours: from the commit's answer at the source until the manifest names the point as applied; the delta is read from the retention drive, the peer's data is in memory");
    apply.samples("ours_s", json!(results.apply_s));
    apply.samples("peer_s", json!(results.overwrite_s));

    let mut rollback =
        Row::new("rollback", "back over the standard change; peer: dd, sequential, direct I/O, fsync");
    let mib = f64::from(1 << 20);
    let (ours, peer) = (share(&results.rollback_bytes_per_s, mib), share(&results.dd_bytes_per_s, mib));
    rollback.ratio("speed", "MiB/s", &ours, &peer, Limit::AtLeast(0.8));
    rollback.note("with the start of the process and the opening of the replica");
    rollback.samples("ours_bytes_per_s", json!(results.rollback_bytes_per_s));
    rollback.samples("peer_bytes_per_s", json!(results.dd_bytes_per_s));
    vec![delta, unchanged, apply, rollback]
}
