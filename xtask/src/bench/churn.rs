//! The steady state: a file system under random writes is followed, tracked by eBPF, with a recovery point every five seconds.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::image::text;
use super::lab::{Lab, point_of};
use super::process::{Process, drop_caches, is_installed, run};
use super::report::{Limit, Row};

/// Recovery points, five seconds apart; the first is the initial replication.
const POINTS: usize = 7;
const INTERVAL_S: f64 = 5.0;
/// Of the file system under load, and of the file written to.
const DISK_LEN: u64 = 1 << 30;
const FILE: &str = "512m";

/// Measures the row; `runs` are not repeated, as each has many points.
pub(super) fn rows(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let mut row = Row::new(
        "churn",
        "4 KiB random writes at 20 MB/s (fio, buffered, fsync every 64), a point every 5 s, eBPF",
    );
    if !is_installed("fio") {
        row.note("fio is not installed: not measured");
        return Ok(vec![row]);
    }
    eprintln!("churn: {POINTS} points");
    let (image, mount) = (lab.work.join("churn.img"), lab.work.join("churn"));
    File::create(&image)?.set_len(DISK_LEN)?;
    let device = run("losetup", &["--find", "--show", &text(&image)])?;
    lab.janitor.undo("loop", &device)?;
    run("mkfs.ext4", &["-q", &device])?;
    fs::create_dir_all(&mount)?;
    run("mount", &[&device, &text(&mount)])?;
    lab.janitor.undo("mount", mount.display())?;
    drop_caches()?;
    let mut fio = Command::new("fio");
    fio.args(["--name=churn", "--rw=randwrite", "--bs=4k", "--rate=20m", "--fsync=64", "--time_based"]);
    fio.args(["--runtime=3600", "--output-format=json", &format!("--size={FILE}")]);
    fio.arg(format!("--directory={}", mount.display()))
        .arg(format!("--output={}", text(&lab.work.join("fio.json"))));
    let load = Process::start(&lab.janitor, fio.stdout(Stdio::null()))?;
    // It lays out its file first.
    std::thread::sleep(Duration::from_secs(5));
    let result = follow(lab, &device, &mut row);
    load.stop()?;
    result?;
    // A message about the signal stands before the result.
    let told = fs::read_to_string(lab.work.join("fio.json"))?;
    let start = told.find('{').context("fio told nothing")?;
    let fio: Value = serde_json::from_str(&told[start..]).context("reading what fio told")?;
    let written = fio["jobs"][0]["write"]["bw_bytes"].as_f64().context("fio told no rate")? / 1e6;
    row.value("churn that fio reached, MB/s", &[written], Limit::AtLeast(19.0));
    row.note("agent: sync with its helper; the part of the tracker that runs in the writer's context is the writer's");
    run("umount", &[&text(&mount)])?;
    run("losetup", &["-d", &device])?;
    fs::remove_file(image)?;
    Ok(vec![row])
}

fn follow(lab: &Lab, device: &str, row: &mut Row) -> anyhow::Result<()> {
    let mut marks: Vec<(Instant, f64, f64, Value)> = Vec::new();
    let points = POINTS.to_string();
    let interval = INTERVAL_S.to_string();
    let options = ["--capture", "ebpf", "--follow", "--interval", &interval, "--points", &points];
    lab.sync(device.as_ref(), &lab.address, "churn", &options, |process, line| {
        if let Some(point) = point_of(line) {
            marks.push((Instant::now(), process.cpu_s()?, lab.receiver.cpu_s()?, point));
        }
        Ok(())
    })?;
    // The first point is the initial replication, the second has the writes made during it.
    let steady = &marks[1..];
    let (first, last) = (steady.first().context("no points")?, steady.last().context("no points")?);
    let seconds = (last.0 - first.0).as_secs_f64();
    let mut frozen: Vec<f64> = steady.iter().filter_map(|mark| mark.3["frozen_ms"].as_f64()).collect();
    frozen.sort_by(f64::total_cmp);
    let sent: f64 = steady[1..].iter().filter_map(|mark| mark.3["sent_bytes"].as_f64()).sum();
    let longest = steady.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64()).fold(0.0, f64::max);
    row.value("agent, cores", &[(last.1 - first.1) / seconds], Limit::AtMost(0.05));
    row.value("target, cores", &[(last.2 - first.2) / seconds], Limit::None);
    row.value("frozen, ms, p50", &[percentile(&frozen, 50)], Limit::None);
    row.value("frozen, ms, p99", &[percentile(&frozen, 99)], Limit::AtMost(250.0));
    row.value("frozen, ms, longest", &[percentile(&frozen, 100)], Limit::None);
    row.value("longest time between points, s", &[longest], Limit::AtMost(INTERVAL_S * 1.1));
    row.value("sent, MB/s", &[sent / seconds / 1e6], Limit::None);
    row.samples("points", json!(marks.iter().map(|mark| &mark.3).collect::<Vec<_>>()));
    lab.wait_released("churn")
}

/// Nearest rank, of sorted values; with few values the 99th is the greatest.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&values, percent)), [5.0, 10.0, 10.0]);
        assert!(percentile(&[], 50).is_nan());
    }
}
