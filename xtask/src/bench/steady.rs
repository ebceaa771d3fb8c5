//! A steady load to page blobs that take only so many requests a second: whether points come in time, and whether the pages follow. In real time.
//!
//! The load is 20 MB/s in random blocks of 4 KiB, made up by the program that replicates them; before Azurite stands the lab's proxy, which answers 503 beyond
//! 500 requests on pages a second. Nothing is compared here; the tests of `blobs` and `replica` do that.
//!
//! Azurite is one thread, which all of this keeps busy; where it is not alone, everything can be done a few times smaller (`--scale`): the bytes a second, the requests
//! a second, and the disk. How long anything takes stays the same.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::azure::{ADDRESS, Place, start};
use super::image::text;
use super::lab::PATIENCE;
use super::process::{Process, measure, run, wait_for};
use super::report::{Limit, Row};
use super::{Options, as_f64};

/// What a standard page blob takes (Azure Storage documentation, "Scalability and performance targets for Blob storage").
const PAGE_REQUESTS_PER_S: u64 = 500;
const BYTES_PER_S: u64 = 20_000_000;
/// The oldest that the newest point may become.
const RPO_MAX_S: f64 = 60.0;

/// What the proxy has counted, second by second.
#[derive(Clone, Copy)]
struct Counted {
    requests: f64,
    refused: f64,
}

/// Measures the row.
pub(super) fn row(place: &Place<'_>, options: &Options) -> anyhow::Result<Row> {
    let azurite = start(place, Stdio::null())?;
    let (throttle, address, counts) = throttle(place, PAGE_REQUESTS_PER_S / options.scale)?;
    let url = run(&text(place.binary), &["url", &address, "bench"])?;
    let scale = options.scale;
    let numbers = [options.seconds, options.interval_s, options.disk / scale, BYTES_PER_S / scale];
    let numbers = numbers.map(|number| number.to_string());
    let mut command = Command::new(place.binary);
    command.args(["steady", &url]).args(&numbers);
    eprintln!("azure: a steady load for {} s", options.seconds);
    let (mut samples, mut peak_bytes) = (Vec::new(), 0.0_f64);
    let before = (azurite.cpu_s()?, throttle.cpu_s()?, counted(&counts)?);
    let done = measure(place.janitor, &mut command, |process, line| {
        samples.push(serde_json::from_str::<Value>(line).with_context(|| format!("reading `{line}`"))?);
        // When it is ending there may be nothing to read any more.
        peak_bytes = peak_bytes.max(process.peak_bytes().unwrap_or(0.0));
        Ok(())
    })?;
    let after = (azurite.cpu_s()?, throttle.cpu_s()?, counted(&counts)?);
    let seconds = done.wall_s;
    let title = format!(
        "20 MB/s in random writes of 4 KiB to {} GiB for {} s, a point every {} s, {PAGE_REQUESTS_PER_S} requests on pages a second; all a {scale}th of that",
        options.disk >> 30,
        options.seconds,
        options.interval_s
    );
    let mut row = Row::new("azure-steady", title);
    fill(&mut row, &samples, scale)?;
    let rate = |of: fn(Counted) -> f64| (of(after.2) - of(before.2)) / seconds;
    row.value("requests on pages a second, those refused among them", &[rate(|c| c.requests)], Limit::None);
    row.value("refused a second", &[rate(|c| c.refused)], Limit::None);
    row.value("client, cores", &[done.cpu_s / seconds], Limit::None);
    row.value("proxy, cores", &[(after.1 - before.1) / seconds], Limit::None);
    row.value("Azurite, cores", &[(after.0 - before.0) / seconds], Limit::None);
    row.value("client, most memory, MiB", &[peak_bytes / f64::from(1 << 20)], Limit::None);
    row.samples("each second", json!(samples));
    Ok(row)
}

/// What the program told each second.
fn fill(row: &mut Row, samples: &[Value], scale: u64) -> anyhow::Result<()> {
    let series = |name: &str| -> anyhow::Result<Vec<f64>> {
        let number = |sample: &Value| sample[name].as_f64().with_context(|| format!("no {name}"));
        samples.iter().map(number).collect()
    };
    let (at, written, applied) = (series("at_ms")?, series("written")?, series("applied")?);
    let (age, behind) = (series("age_ms")?, series("behind_bytes")?);
    ensure!(at.len() > 1, "the load ended before it began");
    let last = at.len() - 1;
    let mut ages: Vec<f64> = age.iter().map(|ms| ms / 1000.0).collect();
    ages.sort_by(f64::total_cmp);
    row.value("written, MB/s", &[written[last] / at[last] / 1e3], Limit::AtLeast(19.0 / as_f64(scale)));
    row.value("age of the newest point, s, longest", &[ages[last]], Limit::AtMost(RPO_MAX_S));
    row.value("age of the newest point, s, p95", &[ages[last * 95 / 100]], Limit::None);
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    row.value(
        "staged and not on the pages, MiB, most",
        &[mib(behind.iter().copied().fold(0.0, f64::max))],
        Limit::None,
    );
    for (name, from, to) in [("first half", 0, last / 2), ("second half", last / 2, last)] {
        let half = &behind[from..to];
        let mean = half.iter().sum::<f64>() / as_f64(half.len() as u64);
        row.value(&format!("the same, mean of the {name}"), &[mib(mean)], Limit::None);
    }
    let rounds = applied.windows(2).filter(|pair| pair[0] < pair[1]).count();
    row.value("rounds that ended", &[as_f64(rounds as u64)], Limit::None);
    Ok(())
}

/// The proxy before Azurite, its address, and where it tells its counts.
fn throttle(place: &Place<'_>, rate: u64) -> anyhow::Result<(Process, String, std::path::PathBuf)> {
    let counts = place.work.join("throttle.log");
    let mut command = Command::new(place.binary);
    command.args(["throttle", ADDRESS, &rate.to_string()]).stdout(File::create(&counts)?);
    let throttle = Process::start(place.janitor, &mut command)?;
    let address = wait_for("the proxy to listen", PATIENCE, || {
        let told = fs::read_to_string(&counts).ok()?;
        told.split_once('\n').map(|(address, _)| address.to_owned())
    })?;
    Ok((throttle, address, counts))
}

fn counted(counts: &std::path::Path) -> anyhow::Result<Counted> {
    let told = fs::read_to_string(counts)?;
    // The first line is the address; the last one may be half written.
    let lines = told.rsplit_once('\n').map_or("", |(whole, _)| whole).lines().skip(1);
    let Some((requests, refused)) = lines.last().and_then(|line| line.split_once(' ')) else {
        return Ok(Counted { requests: 0.0, refused: 0.0 });
    };
    Ok(Counted { requests: requests.parse()?, refused: refused.parse()? })
}
