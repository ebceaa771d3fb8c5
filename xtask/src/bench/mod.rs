//! `cargo xtask bench engine|azure`: the engine's performance against its peers, both in the same run on the same machine. `bench api` is a file
//! of its own.
//!
//! Drives the release binary as its users do: separate processes, mutual TLS over loopback. The page cache is dropped before each
//! run, flushing is inside every time. It runs in a network namespace of its own, so that the bytes on the loopback interface
//! are those of the benchmark alone. Nothing is installed; what is missing is named in the row. Needs root.
//! What the rows are and what they are held against: `docs/performance.md`.

#![expect(clippy::print_stderr, reason = "progress does not belong into the results")]

pub(crate) mod api;
mod azure;
mod churn;
mod image;
mod initial;
mod lab;
mod process;
mod report;
mod resync;
mod steady;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use self::lab::Lab;
use self::process::{Janitor, run as output_of};

/// Set in the process that runs in its own network.
const INSIDE: &str = "SWITCHBACK_BENCH_BINARY";
/// Files of a size of up to so many times the image's exist at a time.
const IMAGES_AT_A_TIME: u64 = 5;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// The engine between disks.
    Engine,
    /// The engine to page blobs.
    Azure,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Azure => "azure",
        }
    }

    /// What can be measured alone.
    fn groups(self) -> &'static [&'static str] {
        match self {
            Self::Engine => &["initial", "resync", "churn"],
            Self::Azure => &["uploads", "steady"],
        }
    }

    /// What Cargo builds, and where that is in the target directory.
    fn program(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Engine => (&["--package", "switchback"], "release/switchback"),
            Self::Azure => {
                (&["--package", "switchback", "--example", "azure_upload"], "release/examples/azure_upload")
            }
        }
    }
}

struct Options {
    size: u64,
    runs: usize,
    only: Option<String>,
    /// Kept, with the standard image; without it everything is removed.
    work: Option<PathBuf>,
    /// Of the steady load: how long, between two points, bytes of the disk.
    seconds: u64,
    interval_s: u64,
    disk: u64,
    /// How many times smaller it is done.
    scale: u64,
}

impl Options {
    fn parse(suite: Suite, words: &[&str]) -> anyhow::Result<Self> {
        let (size, runs) = if suite == Suite::Engine { (8 << 30, 5) } else { (2 << 30, 3) };
        let (seconds, interval_s, disk) = (180, 10, 20 << 30);
        let mut options = Self { size, runs, only: None, work: None, seconds, interval_s, disk, scale: 1 };
        for pair in words.chunks(2) {
            let [name, value] = pair else { bail!("`{}` needs a value", pair.join(" ")) };
            match *name {
                "--size" => options.size = parse_size(value)?,
                "--runs" => options.runs = value.parse().context("--runs takes a number")?,
                "--only" if suite.groups().contains(value) => options.only = Some((*value).to_owned()),
                "--only" => bail!("--only takes one of {}", suite.groups().join(", ")),
                "--seconds" if suite == Suite::Azure => {
                    options.seconds = value.parse().context("--seconds takes a number")?
                }
                "--interval" if suite == Suite::Azure => {
                    options.interval_s = value.parse().context("--interval takes a number of seconds")?
                }
                "--scale" if suite == Suite::Azure => {
                    options.scale = value.parse().context("--scale takes a number")?
                }
                "--disk" if suite == Suite::Azure => options.disk = parse_size(value)?,
                "--work" => options.work = Some(std::path::absolute(value)?),
                _ => bail!("unknown option `{name}`"),
            }
        }
        ensure!(options.runs > 0, "--runs: at least one");
        ensure!((1..=100).contains(&options.scale), "--scale: 1 to 100");
        ensure!(
            options.interval_s > 0 && options.seconds >= 2 * options.interval_s,
            "--seconds: at least two of the --interval, which is at least 1"
        );
        Ok(options)
    }

    fn is_wanted(&self, group: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == group)
    }
}

/// `8G`, `512M`; whole MiB, as direct I/O wants it.
fn parse_size(text: &str) -> anyhow::Result<u64> {
    let (number, shift) = match (text.strip_suffix('G'), text.strip_suffix('M')) {
        (Some(number), _) => (number, 30),
        (_, Some(number)) => (number, 20),
        _ => bail!("a size is like 8G or 512M, not `{text}`"),
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1u64 << shift));
    let allowed = (256 << 20)..=(1 << 40);
    size.filter(|size| allowed.contains(size)).context("a size is from 256M to 1024G")
}

/// Builds the binary, enters a network of its own, measures.
pub(crate) fn run(root: &Path, suite: Suite, words: &[&str]) -> anyhow::Result<ExitCode> {
    let options = Options::parse(suite, words)?;
    let Some(binary) = std::env::var_os(INSIDE) else { return enter(root, suite, words) };
    let janitor = Janitor::start()?;
    let work = match &options.work {
        Some(work) => work.clone(),
        None => PathBuf::from(format!("/var/tmp/switchback-bench.{}", std::process::id())),
    };
    fs::create_dir_all(&work).with_context(|| format!("creating {}", work.display()))?;
    let scratch = work.join("scratch");
    ensure!(
        !scratch.exists(),
        "{} is there: another run uses it, or was killed; remove it",
        scratch.display()
    );
    if options.work.is_none() {
        janitor.undo("directory", work.display())?;
    }
    janitor.undo("directory", scratch.display())?;
    fs::create_dir(&scratch)?;
    let place = azure::Place { janitor: &janitor, root, work: &scratch, binary: Path::new(&binary) };
    let (mut rows, mut image) = (Vec::new(), None);
    if suite == Suite::Engine || options.is_wanted("uploads") {
        check_room(&work, options.size)?;
        eprintln!("the standard image");
        let standard = image::standard(&janitor, &work, options.size)?;
        rows = match suite {
            Suite::Engine => engine(&options, &Lab::new(&janitor, &scratch, Path::new(&binary))?, &standard)?,
            Suite::Azure => azure::rows(&place, &standard, &options)?,
        };
        image = Some(standard);
    }
    if suite == Suite::Azure && options.is_wanted("steady") {
        rows.push(steady::row(&place, &options)?);
    }
    report::print(&rows);
    report::save(root, suite.name(), about(suite, words, image.as_deref())?, &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn engine(options: &Options, lab: &Lab, standard: &Path) -> anyhow::Result<Vec<report::Row>> {
    let mut rows = Vec::new();
    if options.is_wanted("initial") {
        rows.extend(initial::rows(lab, standard, options.runs)?);
    }
    if options.is_wanted("resync") {
        rows.extend(resync::rows(lab, standard, options.size, options.runs)?);
    }
    if options.is_wanted("churn") {
        rows.extend(churn::rows(lab)?);
    }
    Ok(rows)
}

/// Runs this program again in a new network namespace, with the binary that it has built.
fn enter(root: &Path, suite: Suite, words: &[&str]) -> anyhow::Result<ExitCode> {
    ensure!(output_of("id", &["-u"])? == "0", "loop devices and dropping caches need root: run it with sudo");
    for program in ["unshare", "ip", "losetup", "mkfs.ext4", "cmp", "dd"] {
        ensure!(process::is_installed(program), "{program} is not installed, and nothing works without it");
    }
    let mut build = Command::new("cargo");
    let (package, program) = suite.program();
    build.args(["build", "--release", "--locked"]).args(package).current_dir(root);
    ensure!(build.status()?.success(), "building the release binary failed");
    let metadata = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version=1"])
        .current_dir(root)
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)?;
    let target = metadata["target_directory"].as_str().context("cargo metadata named no target directory")?;
    if suite == Suite::Azure {
        // Whatever is downloaded is so before there is no network.
        azure::prepare(root)?;
    }
    let mut inside = Command::new("unshare");
    // On loopback nothing is ever lost or queued; an algorithm that paces by its guess of the path (BBR) would be what is measured.
    let network = "ip link set lo up && echo reno >/proc/sys/net/ipv4/tcp_congestion_control";
    inside.args(["--net", "sh", "-c", &format!("{network} && exec \"$0\" \"$@\"")]);
    inside.arg(std::env::current_exe()?).args(["bench", suite.name()]).args(words);
    Err(inside.env(INSIDE, Path::new(target).join(program)).exec()).context("running unshare")
}

fn check_room(work: &Path, size: u64) -> anyhow::Result<()> {
    let free = output_of("df", &["--output=avail", "--block-size=1", &image::text(work)])?;
    let free: u64 = free.lines().last().unwrap_or_default().trim().parse()?;
    let needed = size * IMAGES_AT_A_TIME;
    ensure!(
        free > needed,
        "{} has {} GiB free; {} are needed: name another place with --work",
        work.display(),
        free >> 30,
        needed >> 30
    );
    Ok(())
}

fn about(suite: Suite, words: &[&str], standard: Option<&Path>) -> anyhow::Result<serde_json::Value> {
    use std::os::unix::fs::MetadataExt as _;
    let image = standard.map(fs::metadata).transpose()?;
    let image =
        image.map(|image| json!({"size_bytes": image.len(), "allocated_bytes": image.blocks() * 512}));
    Ok(json!({
        "date": output_of("date", &["--utc", "+%Y-%m-%dT%H:%M:%SZ"])?,
        "command": format!("cargo xtask bench {} {}", suite.name(), words.join(" ")),
        "machine": {
            "cores": std::thread::available_parallelism()?.get(),
            "kernel": output_of("uname", &["-sr"])?,
            "load_average": fs::read_to_string("/proc/loadavg")?.trim(),
        },
        "standard_image": image,
    }))
}

#[expect(clippy::cast_precision_loss, reason = "sizes for ratios with three digits")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::{Options, Suite, parse_size};

    #[test]
    fn sizes_have_a_unit_and_bounds() {
        assert_eq!((parse_size("8G").ok(), parse_size("512M").ok()), (Some(8 << 30), Some(512 << 20)));
        for wrong in ["", "G", "8", "8T", "1M", "99999G", "18446744073709551615G", "é"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_option_is_refused() {
        for wrong in [&["--runs"][..], &["--runs", "0"], &["--only", "all"], &["--fast", "1"]] {
            assert!(Options::parse(Suite::Engine, wrong).is_err(), "{wrong:?}");
        }
        assert!(Options::parse(Suite::Azure, &["--only", "initial"]).is_err());
        assert!(Options::parse(Suite::Azure, &["--seconds", "10", "--interval", "6"]).is_err());
        assert!(Options::parse(Suite::Engine, &["--seconds", "100"]).is_err());
    }
}
