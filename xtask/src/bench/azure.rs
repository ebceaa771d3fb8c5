//! To page blobs: the first upload of the standard image and its standard change into Azurite, by the engine and by Microsoft's Python client.
//!
//! Each side has an Azurite of its own for both uploads, with its blobs in memory. Both are told which ranges have changed. Ours ends when the point is on
//! the page blobs and in a snapshot, and stages a change before that; the peer writes pages and nothing else.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use serde_json::json;

use super::image::{self, BLOCK, text};
use super::lab::PATIENCE;
use super::process::{Janitor, Process, drop_caches, loopback_bytes, measure, run, wait_for};
use super::report::{Limit, Row, Samples};
use super::{Options, as_f64};

/// Free: the benchmark has a network of its own.
pub(super) const ADDRESS: &str = "127.0.0.1:10000";

/// Where it is done, and with what.
pub(super) struct Place<'a> {
    pub(super) janitor: &'a Janitor,
    pub(super) root: &'a Path,
    pub(super) work: &'a Path,
    pub(super) binary: &'a Path,
}

/// One side's uploads of one kind.
#[derive(Default)]
struct Uploads {
    taken: Samples,
    /// Until the point exists; ours alone.
    point_s: Vec<f64>,
    azurite_cpu_s: Vec<f64>,
    wire: Vec<f64>,
    requests: Vec<f64>,
}

/// Installs what is needed.
pub(super) fn prepare(root: &Path) -> anyhow::Result<()> {
    script(root, "storage")?;
    script(root, "peer").map(drop)
}

fn script(root: &Path, what: &str) -> anyhow::Result<String> {
    run(&text(&root.join("scripts/lab-azure")), &[what])
}

/// Measures both rows.
pub(super) fn rows(place: &Place<'_>, standard: &Path, options: &Options) -> anyhow::Result<Vec<Row>> {
    let (changed, blocks) = image::changed(place.work, standard, options.size)?;
    let ranges = place.work.join("ranges");
    fs::write(&ranges, ranges_of(&blocks))?;
    let url = run(&text(place.binary), &["url", ADDRESS, "bench"])?;
    let python = script(place.root, "peer")?;
    let peer = text(&place.root.join("crates/lab/azure/upload.py"));
    let [mut ours, mut theirs]: [[Uploads; 2]; 2] = Default::default();
    for number in 0..options.runs {
        eprintln!("azure: run {} of {}", number + 1, options.runs);
        for (side, program) in
            [(&mut ours, &[text(place.binary)][..]), (&mut theirs, &[python.clone(), peer.clone()])]
        {
            let azurite = start(place, File::create(log(place))?.into())?;
            let [initial, delta] = side;
            initial.measure(place, &azurite, program, &["initial", &url, &text(standard)])?;
            delta.measure(place, &azurite, program, &["delta", &url, &text(&changed), &text(&ranges)])?;
        }
    }
    let changed_mib = (blocks.len() as u64 * BLOCK) >> 20;
    let titles = [
        ("azure-initial", "first upload of the standard image into Azurite, hashed, with its point; peer: azure-storage-blob for Python, 8 threads, zeros skipped".into()),
        ("azure-delta", format!("the standard change ({changed_mib} MiB), its ranges told; ours staged, a point, and applied; peer: the ranges written by azure-storage-blob")),
    ];
    let sides = ours.iter().zip(&theirs);
    Ok(titles
        .into_iter()
        .zip(sides)
        .map(|((name, title), (ours, theirs))| row(name, title, ours, theirs))
        .collect())
}

impl Uploads {
    fn measure(
        &mut self,
        place: &Place<'_>,
        azurite: &Process,
        program: &[String],
        arguments: &[&str],
    ) -> anyhow::Result<()> {
        drop_caches()?;
        let (cpu, wire, told) = (azurite.cpu_s()?, loopback_bytes()?, requests_told(place)?);
        let mut command = Command::new(&program[0]);
        let done = measure(place.janitor, command.args(&program[1..]).args(arguments), |_, _| Ok(()))?;
        self.taken.push(done.wall_s, done.cpu_s);
        self.point_s.extend(done.lines.first().map(|(came, _)| (*came - done.started).as_secs_f64()));
        self.azurite_cpu_s.push(azurite.cpu_s()? - cpu);
        self.wire.push(as_f64(loopback_bytes()? - wire));
        self.requests.push(as_f64(requests_told(place)? - told));
        Ok(())
    }
}

fn row(name: &'static str, title: String, ours: &Uploads, theirs: &Uploads) -> Row {
    let mut row = Row::new(name, title);
    row.ratio("wall", "s", &ours.taken.wall_s, &theirs.taken.wall_s, Limit::AtMost(1.0));
    row.ratio("CPU of the client", "s", &ours.taken.cpu_s, &theirs.taken.cpu_s, Limit::AtMost(1.0));
    row.ratio("wall until the point", "s", &ours.point_s, &theirs.taken.wall_s, Limit::None);
    row.ratio("CPU of Azurite", "s", &ours.azurite_cpu_s, &theirs.azurite_cpu_s, Limit::None);
    let mib = |bytes: &[f64]| bytes.iter().map(|bytes| bytes / f64::from(1 << 20)).collect::<Vec<_>>();
    row.ratio("bytes on the wire", "MiB", &mib(&ours.wire), &mib(&theirs.wire), Limit::None);
    row.ratio("requests", "", &ours.requests, &theirs.requests, Limit::None);
    for (side, uploads) in [("ours", ours), ("peer", theirs)] {
        row.samples(side, uploads.taken.json());
        row.samples(&format!("{side}, wire_bytes"), json!(uploads.wire));
        row.samples(&format!("{side}, requests"), json!(uploads.requests));
    }
    row.samples("ours, until the point", json!(ours.point_s));
    row
}

/// Neighbouring blocks as one range, `START LEN` a line.
fn ranges_of(blocks: &[u64]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for block in blocks {
        match ranges.last_mut() {
            Some((start, len)) if *start + *len == block * BLOCK => *len += BLOCK,
            _ => ranges.push((block * BLOCK, BLOCK)),
        }
    }
    ranges.iter().map(|(start, len)| format!("{start} {len}\n")).collect()
}

/// An empty Azurite, which tells of each request in `log`.
pub(super) fn start(place: &Place<'_>, log: Stdio) -> anyhow::Result<Process> {
    let (host, port) = ADDRESS.split_once(':').context("an address has a port")?;
    let mut node = Command::new("node");
    node.arg(script(place.root, "storage")?).args(["--blobHost", host, "--blobPort", port]);
    node.args(["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--loose"]);
    node.current_dir(place.work).stdout(log).stderr(Stdio::null());
    let azurite = Process::start(place.janitor, &mut node)?;
    wait_for("Azurite to listen", PATIENCE, || TcpStream::connect(ADDRESS).ok().map(drop))?;
    Ok(azurite)
}

fn log(place: &Place<'_>) -> std::path::PathBuf {
    place.work.join("azurite.log")
}

/// Requests that Azurite has told of.
fn requests_told(place: &Place<'_>) -> anyhow::Result<u64> {
    let log = fs::read_to_string(log(place))?;
    Ok(log.lines().filter(|line| line.contains(" HTTP/1.1\" ")).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, ranges_of};

    #[test]
    fn neighbours_are_one_range() {
        assert_eq!(ranges_of(&[1, 2, 4]), format!("{BLOCK} {}\n{} {BLOCK}\n", 2 * BLOCK, 4 * BLOCK));
    }
}
