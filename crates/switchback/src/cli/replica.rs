//! `switchback replica`: points, rollback, export, verify, prune. Works on a replica's directory, on its host.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use switchback_disk::DirVolume;
use switchback_model::{ByteSize, RecoveryPoint, Seq};
use switchback_replica::{DiskReplica, ReplicaError, ReplicaSummary};

use super::output::{OutputFormat, format_time, print_table};
use crate::engine::Stop;
use crate::export::Export;
use crate::exporting::export_by_owner;
use crate::host::{open_replica, open_replica_to_verify};

#[derive(Debug, Subcommand)]
pub(crate) enum ReplicaCommand {
    /// List the recovery points
    Points {
        #[command(flatten)]
        place: Place,
        /// How to print them
        #[arg(long, value_enum, default_value_t)]
        output: OutputFormat,
    },
    /// Bring the disks back to a recovery point; the points after it cease to exist
    Rollback {
        #[command(flatten)]
        place: Place,
        /// Which: a number from `points`, or `latest`
        #[arg(long)]
        to: PointName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Show a recovery point as files (disk-0.raw, …) below a directory, until interrupted
    Export {
        #[command(flatten)]
        place: Place,
        /// Which: a number from `points`, or `latest`
        #[arg(long, default_value = "latest")]
        point: PointName,
        /// An empty directory
        mount_point: PathBuf,
    },
    /// Read everything and compare it with its checksums; exit code 1 if anything is damaged
    Verify {
        #[command(flatten)]
        place: Place,
        /// How to print what is found
        #[arg(long, value_enum, default_value_t)]
        output: OutputFormat,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The replica's directory
    #[arg(value_name = "REPLICA")]
    directory: PathBuf,
}

/// A recovery point as a user names it.
#[derive(Clone, Debug)]
pub(crate) enum PointName {
    Latest,
    Number(Seq),
}

impl std::str::FromStr for PointName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("latest", _) => Ok(Self::Latest),
            (_, Ok(number)) => Ok(Self::Number(Seq(number))),
            _ => Err("a recovery point is a number from `switchback replica points`, or `latest`".into()),
        }
    }
}

impl PointName {
    fn find(&self, replica: &DiskReplica) -> anyhow::Result<RecoveryPoint> {
        let points = replica.points();
        let found = match self {
            Self::Latest => points.last(),
            Self::Number(seq) => points.iter().find(|point| point.seq == *seq),
        };
        match (found, points.first().zip(points.last())) {
            (Some(point), _) => Ok(point.clone()),
            (None, None) => bail!("the replica has no recovery point yet"),
            (None, Some((first, last))) => bail!(
                "there is no such recovery point; there are {} between {} and {} (`switchback replica points` lists them)",
                points.len(),
                first.seq,
                last.seq
            ),
        }
    }
}

/// How long a replica that another process has is waited for.
const LETTING_GO_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Place {
    fn read(&self) -> anyhow::Result<ReplicaSummary> {
        let summary = DirVolume::open(&self.directory).map_err(anyhow::Error::from);
        let summary = summary.and_then(|volume| Ok(ReplicaSummary::read(&volume)?));
        summary.with_context(|| format!("looking at the replica {}", self.directory.display()))
    }

    /// Opens it; waits for a receiver that is just letting it go: it finishes the cycle in hand after its last session.
    fn open(&self) -> anyhow::Result<DiskReplica> {
        self.open_with(open_replica)
    }

    fn open_with(
        &self,
        open: impl Fn(&Path) -> Result<DiskReplica, ReplicaError>,
    ) -> anyhow::Result<DiskReplica> {
        let until = Instant::now() + LETTING_GO_MAX;
        loop {
            match open(&self.directory) {
                Err(ReplicaError::Locked { .. }) if Instant::now() < until => std::thread::sleep(LOOK_EVERY),
                replica => {
                    return replica
                        .with_context(|| format!("opening the replica {}", self.directory.display()));
                }
            }
        }
    }
}

pub(crate) fn run(command: &ReplicaCommand) -> anyhow::Result<ExitCode> {
    match command {
        ReplicaCommand::Points { place, output } => points(&place.read()?, *output),
        ReplicaCommand::Rollback { place, to, yes } => roll_back(&place.open()?, to, *yes)?,
        ReplicaCommand::Export { place, point, mount_point } => {
            let (point, export) = export(place, point, mount_point)?;
            println!("point {} of {} is at {}", point.seq, format_time(point.time), mount_point.display());
            wait_for_interrupt()?;
            drop(export);
        }
        ReplicaCommand::Verify { place, output } => {
            return verify(&place.open_with(open_replica_to_verify)?, *output);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Mounts a point: by this process, or by the one that has the replica open. What is returned keeps it mounted.
fn export(
    place: &Place,
    point: &PointName,
    mount_point: &Path,
) -> anyhow::Result<(RecoveryPoint, Box<dyn std::any::Any>)> {
    match open_replica(&place.directory) {
        Err(ReplicaError::Locked { holder }) => {
            let seq = match point {
                PointName::Latest => None,
                PointName::Number(seq) => Some(*seq),
            };
            let remote = export_by_owner(&place.directory, seq, mount_point)
                .with_context(|| format!("exporting by {holder}, which has the replica open"))?;
            let Some(remote) = remote else {
                bail!(
                    "the replica is open in {holder}, which serves no exports; try again when it has ended"
                );
            };
            Ok((remote.point.clone(), Box::new(remote)))
        }
        replica => {
            let replica =
                replica.with_context(|| format!("opening the replica {}", place.directory.display()))?;
            let replica = Arc::new(replica);
            let point = point.find(&replica)?;
            let view = Arc::new(replica.view(point.seq)?);
            let export = Export::mount(view, mount_point).with_context(|| {
                format!("mounting at {} (is FUSE there, /dev/fuse?)", mount_point.display())
            })?;
            Ok((point, Box::new(export)))
        }
    }
}

fn points(replica: &ReplicaSummary, output: OutputFormat) {
    let ReplicaSummary { points, applied, standing, moving, kept_bytes, .. } = replica;
    if output == OutputFormat::Json {
        let value = json!({
            "applied": applied, "standing": standing, "moving": moving, "kept_bytes": kept_bytes, "points": points,
        });
        println!("{value:#}");
        return;
    }
    let row = |point: &RecoveryPoint| {
        let on_disk = match standing {
            Some(at) if *at == point.seq => "on the disks, which stand there",
            None if !moving && Some(point.seq) == *applied => "on the disks",
            _ => "",
        };
        vec![point.seq.to_string(), format_time(point.time), point.consistency.to_string(), on_disk.into()]
    };
    print_table(&["POINT", "TIME", "CONSISTENCY", ""], &points.iter().map(row).collect::<Vec<_>>());
    println!("{} points, {} kept for going back", points.len(), ByteSize(*kept_bytes));
    if let Some(at) = standing {
        println!(
            "the replica stands at point {at} for a failover: it takes nothing until that is committed or cancelled"
        );
    }
    if *moving {
        println!("the disks are being brought to another point: they hold none of these now");
    }
}

fn roll_back(replica: &DiskReplica, to: &PointName, yes: bool) -> anyhow::Result<()> {
    let to = to.find(replica)?;
    let lost = replica.points().iter().filter(|point| point.seq > to.seq).count();
    let question = format!(
        "Bring the disks back to point {} of {}? {lost} newer points cease to exist.",
        to.seq,
        format_time(to.time)
    );
    if !yes && !confirm(&question)? {
        bail!("nothing was done");
    }
    replica.roll_back(to.seq)?;
    println!("the disks hold point {} of {}", to.seq, format_time(to.time));
    Ok(())
}

fn verify(replica: &DiskReplica, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let bar = indicatif::ProgressBar::new(0);
    let style = "verifying {wide_bar} {percent:>3}% {binary_bytes_per_sec} eta {eta}";
    bar.set_style(indicatif::ProgressStyle::with_template(style)?);
    let report = replica.fsck(|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|finding| json!({"detail": finding.detail, "points": finding.points, "remedy": finding.remedy}))
        .collect();
    if output == OutputFormat::Json {
        let value = json!({
            "deltas": report.deltas, "delta_bytes": report.delta_bytes, "disk_bytes": report.disk_bytes,
            "findings": findings,
        });
        println!("{value:#}");
    } else {
        for finding in &report.findings {
            let points: Vec<_> = finding.points.iter().map(ToString::to_string).collect();
            println!("DAMAGED: {}", finding.detail);
            println!("  recovery points concerned: {}", points.join(", "));
            println!("  what to do: {}", finding.remedy);
        }
        println!(
            "{} deltas ({}) and {} of disks read, {} findings",
            report.deltas,
            ByteSize(report.delta_bytes),
            ByteSize(report.disk_bytes),
            report.findings.len()
        );
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn confirm(question: &str) -> anyhow::Result<bool> {
    use std::io::{BufRead, IsTerminal};
    if !std::io::stdin().is_terminal() {
        bail!("{question} Say --yes to do it without being asked.");
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Waits for SIGINT or SIGTERM.
fn wait_for_interrupt() -> anyhow::Result<()> {
    let stop = Stop::default();
    super::stop_on_interrupt(&stop)?;
    while !stop.is_stopped() {
        stop.sleep(Duration::from_secs(3600));
    }
    Ok(())
}
