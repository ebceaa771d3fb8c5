//! Replication over a wide area network that is slow, loses packets and is cut: the real roles, half of them in a network namespace at home, the others in one
//! at the recovery site, and nothing between the two but the lab's slow path.
//!
//! At home: a source that is tracked by eBPF, its process server, the configuration server. At the recovery site: Azurite. Between process server and page blobs
//! stands the master target, once there and once at home: so sessions cross the path, or requests to storage do.
//!
//! Needs root (namespaces, loop devices, BPF) and `/dev/net/tun`, and fails without.

#![expect(clippy::unwrap_used, reason = "tests")]

mod cs;
mod rig;

use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cs::replica::{SIZE, Wanted, route};
use cs::{Cs, Site};
use rig::{MIB, Process, events, noise};
use rustix::process::{Pid, Signal, kill_process};
use switchback_blobs::{AzureStore, Credentials, Location, StoreConfig};
use switchback_disk::testing::LoopDevice;
use switchback_lab::azurite::Azurite;
use switchback_lab::wan::{Conditions, Place, Wan};
use switchback_model::component::{BlobAccess, BlobPlace, ReplicaActual, ReplicaMode, Secret, SpoolState};
use switchback_model::{Extent, Seq};
use switchback_replica::store::BlobStore as _;

const MT: &str = "target mt1";
const PS: &str = "process-server ps1";
const FOLDER: &str = "machines/web01";
/// Longer than whoever waits for an answer of another role does: sessions (30 s of silence), reports (30 s), what TCP holds unacknowledged (20 s). A request to
/// storage may take longer, and outlasts it.
const CUT_FOR: Duration = Duration::from_secs(45);
/// After the path is restored: the longest pauses between attempts of those that lost it (30 s), and more.
const LIMIT: Duration = Duration::from_secs(120);

/// As between two continents.
fn slow() -> Conditions {
    Conditions {
        delay: Duration::from_millis(40),
        loss_ppm: 10_000,
        bytes_per_second: NonZeroU64::new(4_000_000),
        queue_bytes_max: 256 << 10,
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "waited {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Writes here and there on a disk, durably, until dropped.
struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    const LEN: usize = 64 << 10;

    fn start(disk: &Path, seed: u64) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), written.clone());
        let disk = File::options().write(true).open(disk).unwrap();
        let thread = std::thread::spawn(move || {
            for number in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let block = noise(Self::LEN, seed + number);
                // Spread by a step that has no factor in common with the number of blocks.
                let place = number * 37 % (SIZE / Self::LEN as u64);
                disk.write_all_at(&block, place * Self::LEN as u64).unwrap();
                disk.sync_data().unwrap();
                count.store(number, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        Self { stop, written, thread: Some(thread) }
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking(), "the writer failed");
    }
}

/// A source that ends as it is asked to: one that is killed leaves its tracker in the kernel.
struct Source(Process);

impl Drop for Source {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0.0), Signal::TERM);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) && matches!(self.0.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// All of it. The order of the fields is that in which it ends.
struct Rig<'a> {
    source: Option<Source>,
    processes: Vec<Process>,
    disk: LoopDevice,
    site: Site,
    wanted: Wanted,
    azurite: Azurite,
    wan: &'a Wan,
    /// Where the master target is.
    near: &'a Place,
}

impl<'a> Rig<'a> {
    /// On a thread at home. Everything runs; the source has begun.
    fn new(wan: &'a Wan, near: &'a Place) -> Self {
        let azurite = Azurite::start_in(wan.recovery()).unwrap();
        wan.recovery().enter(|| azurite.make_container("replicas").unwrap()).unwrap();
        let site = Site::of(Cs::at(wan.home().address().into()));
        let url = azurite.container("replicas");
        let (container, sas) = url.split_once('?').unwrap();
        let mut wanted = Wanted::new(&Path::new(container).join(FOLDER).join("disk-0.vhd"));
        let access = Some(BlobAccess::Sas { sas: Secret::new(sas.into()) });
        wanted.replica.blobs = Some(BlobPlace { container: container.into(), folder: FOLDER.into(), access });
        wanted.tell(&site, "mt1");
        let disk = LoopDevice::new(site.image("a.img", SIZE / MIB, 1), 512).unwrap();
        let mut rig = Self { source: None, processes: Vec::new(), disk, site, wanted, azurite, wan, near };

        let mt_address = rig.start(near, "master-target", "mt1", MT);
        route(&rig.site, "ps1", "web01", ("mt1", &mt_address), 1);
        let ps_address = rig.start(wan.home(), "process-server", "ps1", PS);
        rig.site.enrol("web01");
        rig.until("the master target receives", |replica| {
            replica.reached == Some(ReplicaMode::Receive) && replica.problem.is_none()
        });
        let mut sync = rig.site.command("web01");
        sync.arg("sync").arg(rig.disk.path()).arg(format!("{ps_address}/web01"));
        sync.args(["--epoch", "1", "--follow", "--interval", "2", "--capture", "ebpf", "--json"]);
        rig.source = Some(Source(rig.run(wan.home(), "web01", sync)));
        rig
    }

    /// A process at a place; what it says goes to files.
    fn run(&self, place: &Place, who: &str, mut command: Command) -> Process {
        let said = |kind: &str| File::create(self.site.path(&format!("{who}.{kind}"))).unwrap();
        command.stdin(Stdio::null()).stdout(said("out")).stderr(said("log"));
        Process(place.enter(|| command.spawn().unwrap()).unwrap())
    }

    /// A role at a place; its address.
    fn start(&mut self, place: &Place, role: &str, who: &str, identity: &str) -> String {
        let command = self.site.role_at(place.address().into(), role, who);
        let process = self.run(place, who, command);
        self.processes.push(process);
        let report = || self.site.cs.service.report_of(identity);
        eventually(&format!("{who} reports: {}", self.log(who).display()), || report().is_some());
        report().unwrap().address
    }

    fn log(&self, who: &str) -> PathBuf {
        self.site.path(&format!("{who}.log"))
    }

    fn replica(&self) -> Option<ReplicaActual> {
        self.site.cs.service.master_target(MT)?.replicas.pop()
    }

    fn until(&self, what: &str, is: impl Fn(&ReplicaActual) -> bool) {
        eventually(what, || self.replica().as_ref().is_some_and(&is));
    }

    /// The recovery points that the source has made so far.
    fn made(&self) -> Vec<serde_json::Value> {
        let said = std::fs::read_to_string(self.site.path("web01.out")).unwrap();
        // The last line may be half written.
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        events(whole).into_iter().filter(|event| event["event"] == "point").collect()
    }

    /// The first point that is made when nothing is written any more; once it is in the page blobs.
    fn quiet_point(&self) -> Seq {
        let before = self.made().len();
        // The next one may have been under way already.
        eventually("the source goes on", || self.made().len() > before + 1);
        let seq = Seq(self.made()[before + 1]["seq"].as_u64().unwrap());
        self.until("its point is applied", |replica| replica.applied.is_some_and(|applied| applied >= seq));
        seq
    }

    fn source(&self) -> blake3::Hash {
        blake3::hash(&std::fs::read(self.site.path("a.img")).unwrap())
    }

    /// Of what a page blob of the folder holds, read where it is.
    fn contents(&self, blob: &str) -> blake3::Hash {
        let read = || {
            let location = Location::new(&self.azurite.container("replicas"), FOLDER).unwrap();
            let store = AzureStore::open(location, &Credentials::Sas, StoreConfig::default()).unwrap();
            let mut hasher = blake3::Hasher::new();
            for offset in (0..SIZE).step_by(4 << 20) {
                hasher.update(&store.read(blob, Extent::new(offset, 4 << 20)).unwrap());
            }
            hasher.finalize()
        };
        self.wan.recovery().enter(read).unwrap()
    }

    /// Of what the disk is at a point, by a view as a test failover has it.
    fn contents_at(&mut self, seq: Seq) -> blake3::Hash {
        self.wanted.replica.views = [("test1".to_owned(), seq)].into();
        self.wanted.tell(&self.site, "mt1");
        self.until("the view is shown", |replica| replica.views.contains_key("test1"));
        let shown = self.replica().unwrap().views["test1"][0].display().to_string();
        self.contents(shown.rsplit_once(&format!("{FOLDER}/")).unwrap().1)
    }

    /// Cuts the path for a while; the source goes on, and whoever misses the other side says so.
    fn cut(&self, writer: &Writer) {
        let (points, written) = (self.made().len(), writer.written());
        let began = Instant::now();
        self.wan.cut();
        let is_away = self.near.address() == self.wan.recovery().address();
        let waits = |spool: &SpoolState| spool.bytes > 0 && (!is_away || spool.waiting.is_some());
        eventually("the process server does not get on, and says so", || {
            let state = self.site.cs.service.process_server(PS);
            state.is_some_and(|state| state.spools.iter().any(waits))
        });
        // What had arrived before the cut has been dealt with by now.
        self.site.cs.service.forget_reports();
        std::thread::sleep(CUT_FOR.saturating_sub(began.elapsed()));
        assert!(writer.written() > written + 20, "the source's disk is written to as before");
        let made = self.made();
        assert!(made.len() > points + 5, "its points are kept by the process server");
        match self.replica() {
            None => assert!(is_away, "who is not cut off reports"),
            Some(replica) => {
                assert!(!is_away, "nothing comes through");
                // The one before it may have been under way when the path was cut.
                let first = made[points + 1]["seq"].as_u64().map(Seq);
                assert!(replica.applied < first, "nothing comes into the page blobs");
            }
        }
        self.wan.restore();
    }
}

#[test]
fn ebpf_a_slow_path_that_is_cut_delays_points_and_costs_no_comparison() {
    let over = |near: fn(&Wan) -> &Place| {
        let wan = Wan::new(slow(), 11).unwrap_or_else(|error| panic!("{error} ({error:?})"));
        wan.home().enter(|| replicate(&wan, near(&wan))).unwrap();
        assert!(wan.counts().lost > 0, "{:?}", wan.counts());
    };
    // Beside each other: they wait most of the time.
    std::thread::scope(|scope| {
        scope.spawn(|| over(Wan::recovery));
        scope.spawn(|| over(Wan::home));
    });
}

/// On a thread at home.
fn replicate(wan: &Wan, near: &Place) {
    let mut rig = Rig::new(wan, near);
    let writer = Writer::start(rig.disk.path(), 1000);
    rig.until("some points are applied", |replica| replica.applied.is_some_and(|applied| applied >= Seq(4)));
    drop(writer);
    let early = rig.quiet_point();
    let at_early = rig.source();
    assert_eq!(rig.contents("disk-0.vhd"), at_early);

    let writer = Writer::start(rig.disk.path(), 2000);
    rig.cut(&writer);
    rig.until("the master target reports again", |_| true);
    drop(writer);
    rig.quiet_point();
    assert_eq!(rig.contents("disk-0.vhd"), rig.source());
    assert_ne!(rig.source(), at_early);
    assert_eq!(rig.contents_at(early), at_early, "the point of before the cut");

    let made = rig.made();
    let compared = |point: &serde_json::Value| point["compared_bytes"].as_u64().unwrap();
    assert_eq!(compared(&made[0]), SIZE, "the first replication");
    assert!(made[1..].iter().all(|point| compared(point) == 0), "changes alone: {made:?}");
    let numbers: Vec<_> = made.iter().map(|point| point["seq"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "no point is missing: {numbers:?}");
    let kept: Vec<_> = rig.replica().unwrap().points.iter().map(|point| point.seq.0).collect();
    assert!(kept.starts_with(&numbers[..kept.len().min(numbers.len())]), "{kept:?}");
}
