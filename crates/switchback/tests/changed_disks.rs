//! A disk comes to a replication, and leaves it, while the other goes on: real master target and process server, real disks, tracked in the kernel. The replica is in
//! files, or in page blobs before Azurite.
//!
//! Needs root, loop devices and BPF, and fails without.

#![expect(clippy::unwrap_used, reason = "tests")]

mod cs;
mod rig;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cs::Site;
use cs::replica::{Wanted, route};
use rig::{MIB, noise, wait_until};
use switchback::engine::{Connect, CycleReport, Engine, EngineOptions, Stop};
use switchback::machine::{CaptureMethod, Machine, MomentOptions};
use switchback::slots::Slot;
use switchback_blobs::{AzureStore, Credentials, Location, StoreConfig};
use switchback_disk::SystemClock;
use switchback_disk::testing::LoopDevice;
use switchback_identity::Role;
use switchback_lab::azurite::Azurite;
use switchback_model::component::{BlobAccess, BlobPlace, ReplicaActual, ReplicaMode, Secret};
use switchback_model::{DiskIndex, Epoch, Extent, GenerationId, RetentionPolicy, Seq, WriterId};
use switchback_replica::store::BlobStore;
use switchback_replica::{
    CycleKind, DiskSpec, PageBlobConfig, PageBlobReplica, ReadPoint, ReplicaSession, SessionRequest,
};
use switchback_transport::{ConnectConfig, RemoteSession};

const MT: &str = "target mt1";
const FOLDER: &str = "machines/web01";
/// Of the first disk and of the one that comes: more than goes with two cycles.
const SIZES: [u64; 2] = [16 * MIB, 200 * MIB];
const ADDED: DiskIndex = DiskIndex(1);
const CYCLES_MAX: u32 = 12;

/// What an agent is for its machine, without the rest of it.
struct Agent {
    engine: Engine,
    last: Option<(GenerationId, Seq)>,
}

impl Agent {
    /// As a process that finds its tracker in the kernel again.
    fn start(site: &Site, ps: &str, slots: Vec<Slot>, last: Option<(GenerationId, Seq)>) -> Self {
        let moments =
            MomentOptions { freeze_budget: Duration::from_millis(250), scripts: Default::default() };
        let machine = Machine::open(slots, CaptureMethod::Ebpf, &tracker(site), moments).unwrap();
        let credentials = site.cs.live(Role::Source, "web01");
        let (address, runtime) = (ps.to_owned(), site.cs.runtime.handle().clone());
        let disks: Vec<_> = machine.disks().iter().map(|disk| DiskSpec { size: disk.size() }).collect();
        let connect: Connect = Box::new(move || -> Result<Box<dyn ReplicaSession>, _> {
            let config =
                ConnectConfig::new(&address, credentials.clone(), Arc::new(SystemClock), runtime.clone());
            let config = ConnectConfig { roles: vec![Role::ProcessServer], ..config };
            let request = SessionRequest {
                replica: "web01".parse().unwrap(),
                epoch: Some(Epoch(1)),
                writer: WriterId([1; 16]),
                disks: disks.clone(),
            };
            Ok(Box::new(RemoteSession::connect(config, request)?))
        });
        let ready = machine.ready().unwrap();
        let mut engine =
            Engine::new(ready.source, connect, EngineOptions::default(), Stop::default(), Box::new(|_| ()));
        if let Some((generation, seq)) = last {
            engine.remember(generation, seq);
        }
        Self { engine, last }
    }

    fn cycle(&mut self) -> CycleReport {
        let report = self.engine.cycle(None).unwrap();
        self.last = Some((self.engine.source_mut().tracker.generation(), report.seq));
        report
    }

    /// It ends; what the next process remembers.
    fn ended(self) -> Option<(GenerationId, Seq)> {
        self.last
    }

    /// One that compares nothing.
    fn changes(&mut self) -> CycleReport {
        let report = self.cycle();
        assert_eq!((&report.kind, report.compared_bytes), (&CycleKind::Changes, 0), "{report:?}");
        report
    }
}

/// One for each test, gone with it.
fn tracker(site: &Site) -> String {
    format!("changed-disks-{}", site.cs.address.port())
}

struct Tracked(PathBuf);

impl Drop for Tracked {
    fn drop(&mut self) {
        for pin in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            std::fs::remove_file(pin.path()).ok();
        }
        std::fs::remove_dir(&self.0).ok();
    }
}

fn write(disk: &Path, offset: u64, byte: u8) {
    let file = File::options().write(true).open(disk).unwrap();
    file.write_all_at(&[byte; 8192], offset).unwrap();
    file.sync_all().unwrap();
}

fn contents(disk: &Path, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    File::open(disk).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn point_lacks(site: &Site, seq: Seq, lacks: &[DiskIndex]) {
    let is_so =
        |replica: &ReplicaActual| replica.points.iter().any(|point| point.seq == seq && point.lacks == lacks);
    site.cs.service.until_replica(MT, &format!("point {seq} lacks {lacks:?}"), is_so);
}

/// Where the replica is.
enum Place {
    Files,
    Blobs(Azurite),
}

impl Place {
    fn blobs() -> Self {
        let azurite = Azurite::start().unwrap();
        azurite.make_container("replicas").unwrap();
        Self::Blobs(azurite)
    }

    fn targets(&self, site: &Site) -> [PathBuf; 2] {
        match self {
            Self::Files => [site.path("target0.img"), site.path("target1.img")],
            Self::Blobs(azurite) => {
                let container = azurite.container("replicas");
                let folder = Path::new(container.split('?').next().unwrap()).join(FOLDER);
                // The second one's page blob is not called by its number.
                [folder.join("disk-0.vhd"), folder.join("disk-3.vhd")]
            }
        }
    }

    fn place(&self) -> Option<BlobPlace> {
        let Self::Blobs(azurite) = self else { return None };
        let url = azurite.container("replicas");
        let (container, sas) = url.split_once('?').unwrap();
        let access = Some(BlobAccess::Sas { sas: Secret::new(sas.into()) });
        Some(BlobPlace { container: container.into(), folder: FOLDER.into(), access })
    }

    /// What a replica that nobody has holds of a disk at a point; `None`: nothing.
    fn at_point(&self, site: &Site, seq: Seq, disk: DiskIndex) -> Option<Vec<u8>> {
        let size = SIZES[usize::from(disk.0)];
        let Self::Blobs(azurite) = self else {
            let replica = switchback::host::open_replica(&site.path("mt1").join("replicas/web01")).unwrap();
            let view = Arc::new(replica).view(seq).unwrap();
            let mut bytes = vec![0; usize::try_from(size).unwrap()];
            for (number, piece) in bytes.chunks_mut(1 << 20).enumerate() {
                view.read_at(disk, number as u64 * MIB, piece).unwrap();
            }
            return (!view.point().lacks.contains(&disk)).then_some(bytes);
        };
        let store = store(azurite);
        // Whoever had it was killed.
        let config = PageBlobConfig { retention: RetentionPolicy::keep_all(), ..PageBlobConfig::default() };
        let replica = PageBlobReplica::open(store.clone(), config, [9; 16], true).unwrap();
        let name = "look".parse().unwrap();
        let clone = replica.view(&name, seq).unwrap().swap_remove(usize::from(disk.0));
        let pieces = Extent::new(0, size).pieces(4 * MIB);
        let bytes = (!clone.is_empty())
            .then(|| pieces.flat_map(|piece| store.read(&clone, piece).unwrap()).collect::<Vec<_>>());
        replica.drop_view(&name).unwrap();
        bytes
    }

    /// Whether there is something of a disk yet.
    fn has(&self, target: &Path) -> bool {
        let Self::Blobs(azurite) = self else { return target.exists() };
        let name = target.file_name().unwrap().to_str().unwrap();
        store(azurite).list(name).unwrap().iter().any(|entry| entry.name == name)
    }
}

fn store(azurite: &Azurite) -> Arc<dyn BlobStore> {
    let location = Location::new(&azurite.container("replicas"), FOLDER).unwrap();
    Arc::new(AzureStore::open(location, &Credentials::Sas, StoreConfig::default()).unwrap())
}

/// Writes to both disks and replicates them, until the one that comes is whole; what they hold then, and the point.
fn until_whole(site: &Site, agent: &mut Agent, devices: &[LoopDevice; 2]) -> (Seq, [Vec<u8>; 2]) {
    let [first, added] = devices;
    for number in 0..CYCLES_MAX {
        let byte = u8::try_from(number).unwrap();
        write(first.path(), 3 * MIB, 10 + byte);
        write(added.path(), 5 * MIB + u64::from(number) * 16 * MIB, 30 + byte);
        let report = agent.changes();
        if !agent.engine.source_mut().tracker.whole().is_empty() {
            point_lacks(site, report.seq, &[]);
            return (report.seq, [0, 1].map(|disk| contents(devices[disk].path(), SIZES[disk])));
        }
        point_lacks(site, report.seq, &[ADDED]);
    }
    panic!("it never becomes whole");
}

fn delivered(site: &Site) {
    wait_until("all has arrived", || {
        let state = site.cs.service.process_server("process-server ps1");
        state.is_some_and(|state| state.spools.iter().all(|spool| spool.bytes == 0))
    });
}

/// Two disks with something on them.
fn devices() -> [LoopDevice; 2] {
    let devices = SIZES.map(|size| LoopDevice::new(size, 512).unwrap());
    for (device, seed) in devices.iter().zip([1, 2]) {
        let file = File::options().write(true).open(device.path()).unwrap();
        file.write_all_at(&noise(usize::try_from(8 * MIB).unwrap(), seed), 0).unwrap();
        file.sync_all().unwrap();
    }
    devices
}

fn disk(device: &LoopDevice, seeding: bool) -> Slot {
    Slot::Disk { path: device.path().into(), seeding }
}

#[test]
fn a_disk_is_added_and_removed_while_the_other_is_neither_compared_nor_sent_again() {
    comes_and_goes(&Place::Files);
}

#[test]
fn so_it_is_where_the_replica_is_in_page_blobs() {
    comes_and_goes(&Place::blobs());
}

/// A failover to a point that lacks the disk is given no clone of it.
fn stands_without(site: &Site, wanted: &mut Wanted, seq: Seq) {
    wanted.replica.mode = ReplicaMode::StandAt { seq };
    wanted.tell(site, "mt1");
    site.cs.service.until_replica(MT, "it stands without the disk", |replica| {
        let clones: Vec<_> = replica.standing.iter().map(|clone| !clone.as_os_str().is_empty()).collect();
        replica.reached == Some(ReplicaMode::StandAt { seq }) && clones == [true, false]
    });
    wanted.replica.mode = ReplicaMode::Receive;
}

fn comes_and_goes(place: &Place) {
    let site = Site::new();
    let _tracked = Tracked(Path::new("/sys/fs/bpf/switchback").join(tracker(&site)));
    let devices = devices();
    let [first, added] = &devices;
    let targets = place.targets(&site);
    let mut wanted = Wanted::new(&targets[0]);
    wanted.replica.blobs = place.place();
    wanted.tell(&site, "mt1");
    let (mut mt, mt_address) = site.start("master-target", "mt1");
    route(&site, "ps1", "web01", ("mt1", &mt_address), 1);
    let (_ps, ps) = site.start("process-server", "ps1");
    site.cs.service.until_replica(MT, "it receives", |replica| replica.targets == targets[..1]);
    let mut agent = Agent::start(&site, &ps, vec![disk(first, false)], None);
    agent.cycle();
    write(first.path(), MIB, 7);
    let before = (agent.changes().seq, contents(first.path(), SIZES[0]));

    // The master target has the disk before the agent has heard of it.
    (wanted.replica.targets, wanted.replica.sizes) = (targets.to_vec(), SIZES.to_vec());
    wanted.tell(&site, "mt1");
    site.cs.service.until_replica(MT, "it has the other disk", |replica| replica.targets == targets);
    write(first.path(), 2 * MIB, 8);
    point_lacks(&site, agent.changes().seq, &[ADDED]);

    // Its agent hears of it; it is killed in the midst, and so is the master target: the disk is begun anew.
    let both = || vec![disk(first, false), disk(added, true)];
    let mut agent = Agent::start(&site, &ps, both(), agent.ended());
    write(added.path(), 100 * MIB, 9);
    let half = agent.changes();
    assert!(half.sent_bytes > 32 * MIB && half.sent_bytes < SIZES[1], "a part of it: {half:?}");
    point_lacks(&site, half.seq, &[ADDED]);
    mt.kill();
    let (mut mt, address) = site.start("master-target", "mt1");
    route(&site, "ps1", "web01", ("mt1", &address), 1);
    let mut agent = Agent::start(&site, &ps, both(), agent.ended());
    let (whole, now) = until_whole(&site, &mut agent, &devices);

    // While everything is at rest: each point has what its disks had, also that from before.
    let last = agent.ended();
    delivered(&site);
    mt.kill();
    assert!(place.at_point(&site, before.0, DiskIndex(0)) == Some(before.1));
    assert!(place.at_point(&site, before.0, ADDED).is_none() && place.has(&targets[1]));
    for (disk, bytes) in [DiskIndex(0), ADDED].into_iter().zip(now) {
        assert!(place.at_point(&site, whole, disk) == Some(bytes), "disk {disk} at point {whole}");
    }

    // It leaves again.
    let (_mt, address) = site.start("master-target", "mt1");
    route(&site, "ps1", "web01", ("mt1", &address), 1);
    if let Place::Blobs(_) = place {
        stands_without(&site, &mut wanted, before.0);
    }
    wanted.replica.targets[1] = PathBuf::new();
    wanted.tell(&site, "mt1");
    let gone = &wanted.replica.targets;
    site.cs.service.until_replica(MT, "it has let the disk go", |replica| replica.targets == *gone);
    point_lacks(&site, whole, &[ADDED]);
    // A file is removed by its site.
    assert_eq!(place.has(&targets[1]), matches!(place, Place::Files));
    let mut agent =
        Agent::start(&site, &ps, vec![disk(first, false), Slot::Removed { size: SIZES[1] }], last);
    write(first.path(), 4 * MIB, 99);
    write(added.path(), 4 * MIB, 99);
    let after = agent.changes();
    assert!(after.sent_bytes < MIB, "only what was written: {after:?}");
    point_lacks(&site, after.seq, &[ADDED]);
}
