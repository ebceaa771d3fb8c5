//! What `cargo xtask bench azure --steady` measures: random writes at a steady rate to one disk, replicated to page blobs at an interval, in real time.
//!
//! The disk keeps no contents: of each block it knows how often it was written, and makes up the bytes of that when they are read. So writing costs nothing here,
//! and nothing competes for the disks of the machine it runs on. Its moments are taken as of a machine that can be frozen: writes wait meanwhile, and are made up for after.
//!
//! Prints a line of JSON each second: how old the newest point is (seconds, by the moment that it holds), cycles and bytes that are staged and not on the page blobs.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use switchback::engine::{
    Connect, Engine, EngineError, EngineOptions, Frozen, MomentError, MomentTaker, Source, Stop,
};
use switchback_blobs::{AzureStore, Credentials, Location, StoreConfig};
use switchback_capture::ChangeTracker;
use switchback_disk::{Clock as _, Disk, SystemClock};
use switchback_model::{
    Consistency, Extent, ExtentSet, GenerationId, ReplicaId, ResyncReason, RetentionPolicy, Thinning,
    UnixMillis, WriterId,
};
use switchback_replica::{
    Applier, DiskSpec, PageBlobConfig, PageBlobReplica, ReplicaSession, SessionRequest,
};

use crate::watched::Watched;

/// Bytes of a write.
const BLOCK: u64 = 4096;
/// Between two looks of the writer at its clock.
const TICK: Duration = Duration::from_millis(10);
/// Points go after so long: what they need is in the memory of the emulator.
const POINTS_KEPT_MS: u64 = 30_000;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) seconds: u64,
    pub(crate) interval_s: u64,
    pub(crate) disk: u64,
    pub(crate) bytes_per_s: u64,
}

/// The disk, and what is known of its changes.
#[derive(Debug)]
struct Machine {
    written: Vec<AtomicU32>,
    changed: Mutex<ExtentSet>,
    /// Held while nothing may be written.
    still: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    fn new(size: u64) -> anyhow::Result<Self> {
        let blocks = usize::try_from(size / BLOCK)?;
        let written = std::iter::repeat_with(AtomicU32::default).take(blocks).collect();
        Ok(Self { written, changed: Mutex::default(), still: Mutex::default() })
    }

    /// Random blocks at a steady rate until `stop`; counts the bytes.
    fn write(&self, bytes_per_s: u64, stop: &AtomicBool, bytes: &AtomicU64) {
        let (began, mut rng) = (Instant::now(), ChaCha8Rng::seed_from_u64(1));
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
            let due = u128::from(bytes_per_s) * began.elapsed().as_millis() / 1000;
            while u128::from(bytes.load(Ordering::Relaxed) + BLOCK) <= due {
                let _running = lock(&self.still);
                let block = rng.next_u64() % self.written.len() as u64;
                self.written[place(block)].fetch_add(1, Ordering::Relaxed);
                lock(&self.changed).insert(Extent::new(block * BLOCK, BLOCK));
                bytes.fetch_add(BLOCK, Ordering::Relaxed);
            }
        }
    }
}

fn place(block: u64) -> usize {
    usize::try_from(block).unwrap_or(usize::MAX)
}

impl Disk for Machine {
    fn size(&self) -> u64 {
        self.written.len() as u64 * BLOCK
    }

    fn name(&self) -> &'static str {
        "made up"
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if !offset.is_multiple_of(BLOCK) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        for (block, bytes) in (offset / BLOCK..).zip(buf.chunks_mut(place(BLOCK))) {
            match self.written.get(place(block)).map(|times| times.load(Ordering::Relaxed)) {
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Some(0) => bytes.fill(0),
                Some(times) => ChaCha8Rng::seed_from_u64(block << 20 | u64::from(times)).fill_bytes(bytes),
            }
        }
        Ok(())
    }

    fn read(&self, extent: Extent) -> io::Result<Bytes> {
        let mut data = vec![0; place(extent.len)];
        self.read_at(extent.start, &mut data)?;
        Ok(data.into())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn write_zeroes(&self, _: Extent) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocated(&self, window: Extent) -> io::Result<Vec<Extent>> {
        let is_written =
            |piece: &Extent| self.written[place(piece.start / BLOCK)].load(Ordering::Relaxed) > 0;
        Ok(window.pieces(BLOCK).filter(is_written).collect::<ExtentSet>().iter().collect())
    }
}

#[derive(Debug)]
struct Tracker {
    machine: Arc<Machine>,
    owed: ExtentSet,
}

impl ChangeTracker for Tracker {
    fn generation(&self) -> GenerationId {
        GenerationId([1; 16])
    }

    fn swap(&mut self) -> Result<Vec<ExtentSet>, ResyncReason> {
        let changed = std::mem::take(&mut *lock(&self.machine.changed));
        changed.iter().for_each(|extent| self.owed.insert(extent));
        Ok(vec![self.owed.clone()])
    }

    fn release(&mut self) {
        self.owed = ExtentSet::new();
    }

    fn touched(&self, read: &[ExtentSet]) -> Result<bool, ResyncReason> {
        let changed = lock(&self.machine.changed);
        Ok(read.iter().any(|read| read.intersects_set(&changed)))
    }

    fn check(&mut self) -> Result<(), ResyncReason> {
        Ok(())
    }
}

#[derive(Debug)]
struct StandStill(Arc<Machine>);

impl MomentTaker for StandStill {
    fn take(
        &mut self,
        while_frozen: &mut dyn FnMut() -> Result<(), MomentError>,
    ) -> Result<Frozen, MomentError> {
        let (_still, began) = (lock(&self.0.still), Instant::now());
        while_frozen()?;
        let consistency = Consistency::CrashConsistent;
        Ok(Frozen { consistency, frozen: began.elapsed(), group_tag: None })
    }
}

/// Runs the load to its end; what is behind then is left behind.
pub(crate) fn run(url: &str, load: Load) -> anyhow::Result<()> {
    let store = AzureStore::open(Location::new(url, "machine")?, &Credentials::Sas, StoreConfig::default())?;
    store.ensure_container()?;
    let disks = vec![DiskSpec { size: load.disk }];
    PageBlobReplica::create(&store, disks.clone(), ReplicaId([7; 16]))?;
    let store = Arc::new(Watched::new(Arc::new(store)));
    let kept = vec![Thinning { until_age_ms: POINTS_KEPT_MS, every_ms: 0 }];
    let config = PageBlobConfig {
        retention: RetentionPolicy { steps: kept, bytes_max: None },
        ..PageBlobConfig::default()
    };
    let replica = Arc::new(PageBlobReplica::open(store.clone(), config, [1; 16], false)?);
    let machine = Arc::new(Machine::new(load.disk)?);
    let (sessions, maintained) = (Arc::clone(&replica), Arc::clone(&replica));
    let request =
        SessionRequest { replica: "machine".parse()?, epoch: None, writer: WriterId([3; 16]), disks };
    let connect: Connect =
        Box::new(move || Ok(Box::new(sessions.session(&request)?) as Box<dyn ReplicaSession>));
    let source = Source {
        disks: vec![machine.clone()],
        tracker: Box::new(Tracker { machine: machine.clone(), owed: ExtentSet::new() }),
        moments: Box::new(StandStill(machine.clone())),
        clock: Arc::new(SystemClock),
        always_compare: false,
    };
    let mut engine =
        Engine::new(source, connect, EngineOptions::default(), Stop::default(), Box::new(|_| ()));
    let applier = Applier::of(move || maintained.maintain());
    let point = Mutex::new(engine.cycle(None)?.time);
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| machine.write(load.bytes_per_s, &stop, &written));
        scope.spawn(|| tell(&replica, &point, &written, &stop));
        let done = cycles(&mut engine, &applier, &point, load);
        stop.store(true, Ordering::Relaxed);
        done
    })?;
    eprint!("{}", store.table());
    // Without waiting for the round in hand, which may take a long time yet.
    std::process::exit(0)
}

fn cycles(
    engine: &mut Engine,
    applier: &Applier,
    point: &Mutex<UnixMillis>,
    load: Load,
) -> anyhow::Result<()> {
    let (began, interval) = (Instant::now(), Duration::from_secs(load.interval_s));
    let mut due = interval;
    while due.as_secs() <= load.seconds {
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        match engine.cycle(None) {
            Ok(report) => {
                *lock(point) = report.time;
                applier.wake();
            }
            // As an agent does: what was sent counts, and another attempt follows.
            Err(error @ EngineError::NoMoment { .. }) => {
                eprintln!("{} s: {error}", began.elapsed().as_secs())
            }
            Err(error) => return Err(error).context("a cycle failed"),
        }
        // One that took longer than the interval is followed at once.
        due = (due + interval).max(began.elapsed());
    }
    Ok(())
}

fn tell(replica: &PageBlobReplica, point: &Mutex<UnixMillis>, written: &AtomicU64, stop: &AtomicBool) {
    let began = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let age_ms = SystemClock.now().0.saturating_sub(lock(point).0);
        let behind = replica.behind();
        println!(
            "{{\"at_ms\": {}, \"age_ms\": {age_ms}, \"written\": {}, \"behind_cycles\": {}, \"behind_bytes\": {}, \"applied\": {}}}",
            began.elapsed().as_millis(),
            written.load(Ordering::Relaxed),
            behind.cycles,
            behind.bytes,
            replica.applied().map_or(0, |seq| seq.0),
        );
        std::thread::sleep(Duration::from_secs(1));
    }
}
