//! `switchback sync`: disks to a replica, once or again and again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use switchback_capture::scripts::{Script, Scripts};
use switchback_disk::SystemClock;
use switchback_model::{ReplicaName, ResyncReason, RetentionPolicy, WriterId};
use switchback_replica::{DiskSpec, ReplicaError, ReplicaSession, SessionRequest};

use super::output::Progress;
use crate::engine::{Connect, Engine, EngineError, EngineOptions, Stop};
use crate::host::{Host, Placement, new_id};
use crate::machine::{CaptureMethod, Comparing, Machine, MomentOptions};
use crate::slots::Slot;

/// Trackers attached again in a row before the sync gives up: something is wrong with the machine then.
const DOUBTS_MAX: u32 = 3;

#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    /// The disks: whole block devices or image files, all of one machine
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// Where to: HOST:PORT/NAME of a `switchback receive`, or a disk, file or (for several sources) directory of this host
    #[arg(value_name = "TARGET")]
    target: String,
    /// Go on: a recovery point every INTERVAL until interrupted
    #[arg(long)]
    follow: bool,
    /// Seconds between recovery points
    #[arg(long, default_value_t = 15.0, value_name = "SECONDS", value_parser = interval)]
    interval: f64,
    /// Stop after so many recovery points
    #[arg(long, value_name = "NUMBER")]
    points: Option<u64>,
    /// How changed blocks are found
    #[arg(long, value_enum, default_value_t)]
    capture: CaptureMethod,
    /// Compare everything, whatever is known
    #[arg(long)]
    resync: bool,
    /// Compress with this zstd level (for slow networks; -1 is fast, up to 19)
    #[arg(long, value_name = "LEVEL", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-7..=19))]
    compress: Option<i32>,
    /// Longest time in milliseconds that file systems may stand still for a point
    #[arg(long, default_value_t = 250, value_name = "MS")]
    freeze_budget: u64,
    /// Run before file systems are frozen: makes points app-consistent
    #[arg(long, value_name = "COMMAND")]
    pre_freeze: Option<String>,
    /// Run while they are frozen; must write nowhere near them, and counts against the budget
    #[arg(long, value_name = "COMMAND")]
    while_frozen: Option<String>,
    /// Run after they were thawed, whatever happened before
    #[arg(long, value_name = "COMMAND")]
    post_thaw: Option<String>,
    /// Seconds that each of these commands may take
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    script_limit: u64,
    /// Leave the tracker in the kernel at the end, so that the next sync need not compare
    #[arg(long)]
    keep_tracking: bool,
    /// Keep all recovery points of a new replica, instead of 24 hours of all, 3 days of hourly, 15 days of daily ones
    #[arg(long)]
    keep_all: bool,
    /// Encrypt the history of a new replica on this host under the key in this file (`switchback identity storage-key` makes one)
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    network: super::network::NetworkArgs,
    /// Report as lines of JSON on standard output
    #[arg(long)]
    json: bool,
    /// No progress bar
    #[arg(long, short)]
    quiet: bool,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("from 0.1 to 86400 seconds".into()),
    }
}

/// Where a sync goes to.
enum Target {
    /// A `switchback receive` or a process server.
    Remote { address: String, replica: ReplicaName },
    /// Disks of this host; the history is kept in `directory`.
    Local { targets: Vec<PathBuf>, directory: PathBuf },
}

pub(crate) fn run(args: &SyncArgs) -> anyhow::Result<ExitCode> {
    let target = Target::parse(&args.target, &args.sources)?;
    let shell = |command: &Option<String>| {
        command.as_ref().map(|command| Script {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), command.clone()],
            limit: Duration::from_secs(args.script_limit),
        })
    };
    let scripts = Scripts {
        pre_freeze: shell(&args.pre_freeze),
        while_frozen: shell(&args.while_frozen),
        post_thaw: shell(&args.post_thaw),
    };
    let moments = MomentOptions { freeze_budget: Duration::from_millis(args.freeze_budget), scripts };
    let disk = |path: &PathBuf| Slot::Disk { path: path.clone(), seeding: false };
    let slots = args.sources.iter().map(disk).collect();
    let machine = Machine::open(slots, args.capture, &tracker_name(&target), moments)?;
    let stop = Stop::default();
    super::stop_on_interrupt(&stop)?;
    let disks: Vec<_> = machine.disks().iter().map(|disk| DiskSpec { size: disk.size() }).collect();
    let connect = target.connect(args, disks)?;
    let outcome = replicate(args, &machine, connect, &stop);
    if !args.keep_tracking
        && let Err(error) = machine.detach()
    {
        tracing::warn!(%error, "the tracker could not be removed from the kernel");
    }
    outcome?;
    Ok(ExitCode::SUCCESS)
}

/// One cycle, or one after the other; attaches a new tracker after a doubt.
fn replicate(args: &SyncArgs, machine: &Machine, connect: Connect, stop: &Stop) -> anyhow::Result<()> {
    let options = EngineOptions {
        compression: args.compress,
        // Whoever follows wants it to be there when the target comes back.
        give_up_after: if args.follow { None } else { EngineOptions::default().give_up_after },
        // Comparing again does not help against a writer: the point is fuzzy, and says so.
        moments_max: if machine.is_tracked() { EngineOptions::default().moments_max } else { 1 },
        ..EngineOptions::default()
    };
    let ready = machine.ready()?;
    let mut resync = if args.resync { Some(ResyncReason::Requested) } else { ready.doubt };
    let mut progress = Progress::new(args.json, args.quiet);
    let observer = Box::new(move |event| progress.show(&event));
    let mut engine = Engine::new(ready.source, connect, options, stop.clone(), observer);
    let mut doubts = 0;
    let mut made = 0;
    while !stop.is_stopped() {
        let due = Instant::now() + Duration::from_secs_f64(args.interval);
        // A fresh tracker's generation is known to no replica: the engine finds the reason by itself.
        match engine.cycle(resync.take().filter(|reason| *reason == ResyncReason::Requested).as_ref()) {
            Ok(_) => (made, doubts) = (made + 1, 0),
            Err(EngineError::Doubt(reason)) if doubts < DOUBTS_MAX => {
                tracing::warn!(%reason, "changed-block tracking starts anew");
                doubts += 1;
                // The old one must be gone before the new one is attached.
                engine.source_mut().tracker = Box::new(Comparing::new(Vec::new()));
                machine.detach().ok();
                engine.source_mut().tracker = machine.tracker()?.0;
                continue;
            }
            Err(EngineError::Stopped) => break,
            Err(error) => return Err(error.into()),
        }
        if !args.follow || args.points.is_some_and(|points| made >= points) {
            return Ok(());
        }
        stop.sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// One tracker for each target: two syncs of one disk to two targets do not disturb each other.
fn tracker_name(target: &Target) -> String {
    let text = match target {
        Target::Remote { address, replica } => format!("{address}/{replica}"),
        Target::Local { directory, .. } => directory.display().to_string(),
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let digest = switchback_delta::digest_of(text.as_bytes()).0;
    let tail: String = text.chars().map(plain).collect::<Vec<_>>().into_iter().rev().take(40).rev().collect();
    format!("sync-{:02x}{:02x}{:02x}{:02x}-{tail}", digest[0], digest[1], digest[2], digest[3])
}

impl Target {
    fn parse(text: &str, sources: &[PathBuf]) -> anyhow::Result<Self> {
        if let Some((address, name)) = text.split_once('/')
            && address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        {
            let replica = name.parse().context("the replica's name, after the address")?;
            return Ok(Self::Remote { address: address.into(), replica });
        }
        let path = std::path::absolute(text)?;
        let (targets, directory) = if path.is_dir() {
            let targets = (0..sources.len()).map(|disk| path.join(format!("disk-{disk}.img"))).collect();
            (targets, path.join("replica"))
        } else if sources.len() > 1 {
            bail!("several disks go to a directory, and {text} is none; make it first");
        } else {
            (vec![path.clone()], history_beside(&path)?)
        };
        for (source, target) in sources.iter().zip(&targets) {
            if source.canonicalize().ok() == target.canonicalize().ok() && target.exists() {
                bail!("{} cannot be replicated onto itself", source.display());
            }
        }
        Ok(Self::Local { targets, directory })
    }

    fn connect(self, args: &SyncArgs, disks: Vec<DiskSpec>) -> anyhow::Result<Connect> {
        let writer = WriterId(new_id());
        match self {
            Self::Remote { address, replica } => {
                let request = SessionRequest { replica, epoch: args.network.epoch(), writer, disks };
                args.network.connect(&address, request)
            }
            Self::Local { targets, directory } => {
                let replica: ReplicaName = "local".parse().expect("a valid name");
                let retention =
                    if args.keep_all { RetentionPolicy::keep_all() } else { RetentionPolicy::default() };
                let key_file = args.key_file.as_deref().map(super::receive::usable_key_file).transpose()?;
                let placement =
                    Placement { targets: [(replica.clone(), targets)].into(), retention, key_file };
                let host = Host::new(directory, placement, Arc::new(SystemClock));
                let request = SessionRequest { replica, epoch: args.network.epoch(), writer, disks };
                Ok(Box::new(move || -> Result<Box<dyn ReplicaSession>, ReplicaError> {
                    Ok(Box::new(host.session(None, &request)?))
                }))
            }
        }
    }
}

/// `b.img.switchback` for `b.img`; block devices have no place beside them.
fn history_beside(target: &Path) -> anyhow::Result<PathBuf> {
    let name = target.file_name().with_context(|| format!("{} is no file or device", target.display()))?;
    if target.starts_with("/dev") {
        return Ok(Path::new("/var/lib/switchback/sync").join(name));
    }
    let mut name = name.to_owned();
    name.push(".switchback");
    Ok(target.with_file_name(name))
}
