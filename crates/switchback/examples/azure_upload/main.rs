//! What `cargo xtask bench azure` measures: one cycle of the engine from a disk image to page blobs, by the parts that the product is made of.
//!
//! `azure_upload url ADDRESS CONTAINER` prints the URL of a container of an Azurite. `azure_upload initial URL IMAGE` makes a replica, and brings the image to it;
//! `azure_upload delta URL IMAGE RANGES` brings the ranges (`START LEN` in bytes, a line each) of an image that is replicated already. Both print when the point
//! exists, and end when it is on the page blobs. What they asked of the store goes to standard error.
//!
//! `azure_upload throttle ADDRESS RATE` is a proxy before an Azurite, which lets so many requests on pages a second pass; it prints its address, and once a second
//! how many there were and how many it refused, until it is killed. `azure_upload steady URL SECONDS INTERVAL DISK_BYTES BYTES_PER_S`: see `steady`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program: its output is its result")]

mod steady;
mod watched;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use switchback::engine::{Connect, Engine, EngineOptions, Source, Stop, Unfrozen};
use switchback_blobs::{AzureStore, Credentials, Location, StoreConfig};
use switchback_capture::ChangeTracker;
use switchback_disk::{Access, Disk, FileDisk, SystemClock};
use switchback_model::{Extent, ExtentSet, GenerationId, ReplicaId, ResyncReason, WriterId};
use switchback_replica::{
    DiskSpec, PageBlobConfig, PageBlobReplica, ReplicaSession, ReplicaSummary, SessionRequest,
};

use watched::Watched;

/// A tracker that was told what has changed.
#[derive(Debug)]
struct Told(ExtentSet);

impl ChangeTracker for Told {
    fn generation(&self) -> GenerationId {
        GenerationId([1; 16])
    }

    fn swap(&mut self) -> Result<Vec<ExtentSet>, ResyncReason> {
        Ok(vec![std::mem::take(&mut self.0)])
    }

    fn release(&mut self) {}

    fn touched(&self, _: &[ExtentSet]) -> Result<bool, ResyncReason> {
        Ok(false)
    }

    fn check(&mut self) -> Result<(), ResyncReason> {
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["url", address, container] => {
            println!("{}", switchback_lab::azurite::container_at(address, container));
            Ok(())
        }
        ["initial", url, image] => upload(url, Path::new(image), None),
        ["delta", url, image, ranges] => upload(url, Path::new(image), Some(read_ranges(ranges)?)),
        ["throttle", address, rate] => throttle(address, rate.parse()?),
        ["steady", url, seconds, interval_s, disk, bytes_per_s] => {
            let (seconds, interval_s) = (seconds.parse()?, interval_s.parse()?);
            let (disk, bytes_per_s) = (disk.parse()?, bytes_per_s.parse()?);
            steady::run(url, steady::Load { seconds, interval_s, disk, bytes_per_s })
        }
        _ => bail!(
            "usage: azure_upload url ADDRESS CONTAINER | initial URL IMAGE | delta URL IMAGE RANGES | throttle ADDRESS RATE \
             | steady URL SECONDS INTERVAL DISK_BYTES BYTES_PER_S"
        ),
    }
}

fn throttle(address: &str, rate: u32) -> anyhow::Result<()> {
    let throttle = switchback_lab::azurite::Throttle::at(address, rate)?;
    println!("{}", throttle.address());
    loop {
        std::thread::sleep(Duration::from_secs(1));
        println!("{} {}", throttle.page_requests(), throttle.refused());
    }
}

fn read_ranges(path: &str) -> anyhow::Result<ExtentSet> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let range = |line: &str| {
        let (start, len) = line.split_once(' ').context("a line is `START LEN`")?;
        Extent::checked(start.parse()?, len.parse()?).context("a range is too long")
    };
    text.lines().map(range).collect()
}

fn upload(url: &str, image: &Path, changed: Option<ExtentSet>) -> anyhow::Result<()> {
    let store = AzureStore::open(Location::new(url, "machine")?, &Credentials::Sas, StoreConfig::default())?;
    let disk = FileDisk::open(image, Access::ReadOnly)?;
    let disks = vec![DiskSpec { size: disk.size() }];
    let last = if changed.is_some() {
        let summary = ReplicaSummary::read_blobs(&store)?.context("there is no replica")?;
        Some(summary.points.last().context("there is no point")?.seq)
    } else {
        store.ensure_container()?;
        PageBlobReplica::create(&store, disks.clone(), ReplicaId([7; 16]))?;
        None
    };
    let store = Arc::new(Watched::new(Arc::new(store)));
    let watched = Arc::clone(&store);
    let replica = PageBlobReplica::open(store, PageBlobConfig::default(), [1; 16], false)?;
    let replica = Arc::new(replica);
    let request =
        SessionRequest { replica: "machine".parse()?, epoch: None, writer: WriterId([3; 16]), disks };
    let sessions = Arc::clone(&replica);
    let connect: Connect =
        Box::new(move || Ok(Box::new(sessions.session(&request)?) as Box<dyn ReplicaSession>));
    let tracker = Box::new(Told(changed.unwrap_or_default()));
    let source = Source {
        disks: vec![Arc::new(disk)],
        tracker,
        moments: Box::new(Unfrozen),
        clock: Arc::new(SystemClock),
        always_compare: false,
    };
    let mut engine =
        Engine::new(source, connect, EngineOptions::default(), Stop::default(), Box::new(|_| ()));
    if let Some(seq) = last {
        engine.remember(GenerationId([1; 16]), seq);
    }
    let report = engine.cycle(None)?;
    println!("point {} {:?} {}", report.seq, report.kind, report.sent_bytes);
    drop(engine);
    replica.maintain()?;
    drop(replica);
    eprint!("{}", watched.table());
    Ok(())
}
