//! Master targets whose replicas are in page blobs, as real processes led by a configuration server, before Azurite.

#![expect(clippy::unwrap_used, reason = "tests")]

mod cs;
mod rig;

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cs::Site;
use cs::replica::{SIZE, Wanted, route, sync};
use rig::{MIB, Process, events, scribble, succeed, wait_until};
use switchback_blobs::{AzureStore, Credentials, Location, StoreConfig};
use switchback_delta::{Frame, PartHasher};
use switchback_disk::SystemClock;
use switchback_identity::Role;
use switchback_lab::azurite::Azurite;
use switchback_model::component::{
    BlobAccess, BlobPlace, Desired, MasterTargetDesired, ReplicaActual, ReplicaMode, Secret,
};
use switchback_model::{
    Bandwidth, BandwidthLimit, Consistency, DiskIndex, Epoch, Extent, PartIndex, RetentionPolicy, Seq,
    UnixMillis, WriterId,
};
use switchback_replica::store::BlobStore;
use switchback_replica::{
    CommitCycle, CycleKind, DiskSpec, OpenCycle, PartHeader, ReplicaError, ReplicaSession, SessionRequest,
};
use switchback_transport::{ConnectConfig, RemoteSession};

const MT: &str = "target mt1";
const FOLDER: &str = "machines/web01";

/// A container with one folder, beside the configuration server of a site.
struct Rig {
    site: Site,
    azurite: Azurite,
    wanted: Wanted,
}

impl Rig {
    /// Nothing runs but the two; a replica is wanted.
    fn new() -> Self {
        let (site, azurite) = (Site::new(), Azurite::start().unwrap());
        azurite.make_container("replicas").unwrap();
        site.image("a.img", 16, 1);
        site.enrol("web01");
        let url = azurite.container("replicas");
        let (container, sas) = url.split_once('?').unwrap();
        let mut wanted = Wanted::new(&Path::new(container).join(FOLDER).join("disk-0.vhd"));
        let access = Some(BlobAccess::Sas { sas: Secret::new(sas.into()) });
        wanted.replica.blobs = Some(BlobPlace { container: container.into(), folder: FOLDER.into(), access });
        Self { site, azurite, wanted }
    }

    /// A master target and a process server; the first point has arrived.
    fn protected() -> (Self, Pair) {
        let rig = Self::new();
        rig.wanted.tell(&rig.site, "mt1");
        let (mt, mt_address) = rig.start("mt1");
        route(&rig.site, "ps1", "web01", ("mt1", &mt_address), 1);
        let (ps, ps_address) = rig.site.start("process-server", "ps1");
        rig.until(MT, "it receives", receives);
        succeed(&mut rig.sync(&ps_address, "web01", 1));
        rig.until(MT, "the first point is applied", |replica| replica.applied == Some(Seq(1)));
        (rig, Pair { ps, mt, ps_address, mt_address })
    }

    /// Starts a master target, what it says in a file.
    fn start(&self, who: &str) -> (Process, String) {
        self.site.cs.service.forget_reports();
        let mut command = self.site.role("master-target", who);
        let log = File::options().create(true).append(true).open(self.log(who)).unwrap();
        let process = Process(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let identity = format!("target {who}");
        wait_until("it reports", || self.site.cs.service.report_of(&identity).is_some());
        (process, self.site.cs.service.report_of(&identity).unwrap().address)
    }

    fn log(&self, who: &str) -> std::path::PathBuf {
        self.site.path(&format!("{who}.log"))
    }

    fn until(&self, who: &str, what: &str, is: impl Fn(&ReplicaActual) -> bool) {
        self.site.cs.service.until_replica(who, what, is);
    }

    fn sync(&self, ps_address: &str, replica: &str, epoch: u64) -> std::process::Command {
        sync(&self.site, "web01", &format!("{ps_address}/{replica}"), &epoch.to_string())
    }

    fn place(&self) -> &BlobPlace {
        self.wanted.replica.blobs.as_ref().unwrap()
    }

    /// What a query of the container's has behind `sig=`.
    fn signature(&self) -> String {
        self.azurite.container("replicas").rsplit_once("sig=").unwrap().1.to_owned()
    }

    fn store(&self) -> AzureStore {
        let location = Location::new(&self.azurite.container("replicas"), FOLDER).unwrap();
        AzureStore::open(location, &Credentials::Sas, StoreConfig::default()).unwrap()
    }

    fn blobs(&self) -> Vec<String> {
        self.store().list("").unwrap().into_iter().map(|entry| entry.name).collect()
    }

    /// What a page blob of the folder holds, without its footer.
    fn contents(&self, blob: &str) -> Vec<u8> {
        let (store, mut data) = (self.store(), Vec::new());
        for offset in (0..SIZE).step_by(4 << 20) {
            data.extend_from_slice(&store.read(blob, Extent::new(offset, 4 << 20)).unwrap());
        }
        data
    }

    fn source(&self) -> Vec<u8> {
        std::fs::read(self.site.path("a.img")).unwrap()
    }

    /// A session at a master target as the process server has it.
    fn session(&self, address: &str, epoch: u64) -> Result<RemoteSession, ReplicaError> {
        let cs = &self.site.cs;
        let credentials = cs.live(Role::ProcessServer, "ps1");
        let runtime = cs.runtime.handle().clone();
        let config = ConnectConfig::new(address, credentials, Arc::new(SystemClock), runtime);
        let request = SessionRequest {
            replica: "web01".parse().unwrap(),
            epoch: Some(Epoch(epoch)),
            writer: WriterId([7; 16]),
            disks: vec![DiskSpec { size: SIZE }],
        };
        RemoteSession::connect(config, request)
    }
}

/// The two between a source and its container.
struct Pair {
    ps: Process,
    mt: Process,
    ps_address: String,
    mt_address: String,
}

fn receives(replica: &ReplicaActual) -> bool {
    replica.reached == Some(ReplicaMode::Receive) && replica.problem.is_none()
}

fn points(replica: &ReplicaActual) -> Vec<u64> {
    replica.points.iter().map(|point| point.seq.0).collect()
}

/// As the configuration server has it of a replica that is not needed any more.
fn removed(wanted: &Wanted, purge: bool) -> Wanted {
    let mut removed = wanted.clone();
    let replica = &mut removed.replica;
    (replica.mode, replica.purge) = (ReplicaMode::Remove, purge);
    (replica.sizes, replica.owners) = (Vec::new(), Vec::new());
    replica.retention = RetentionPolicy::default();
    removed
}

/// One changed block behind the newest point, under its generation.
fn changes(session: &mut RemoteSession, byte: u8) -> Seq {
    let generation = session.status().unwrap().generation.expect("changed blocks may follow");
    let open = session.open_cycle(&OpenCycle { generation, kind: CycleKind::Changes }).unwrap();
    let (seq, part) = (open.seq, PartIndex(0));
    session.begin_part(PartHeader { seq, part, disk: DiskIndex(0) }).unwrap();
    let frame = Frame::of(Extent::new(MIB, 64 << 10), Bytes::from(vec![byte; 64 << 10]));
    let mut hasher = PartHasher::default();
    hasher.push(&frame);
    session.put_frame(frame).unwrap();
    session.end_part(hasher.finish()).unwrap();
    let (time, consistency) = (UnixMillis(seq.0), Consistency::CrashConsistent);
    session
        .commit(&CommitCycle { seq, parts: 1, time, consistency, group_tag: None, whole: Vec::new() })
        .unwrap();
    seq
}

#[test]
fn points_come_into_the_container_and_one_stands_there_in_clones() {
    let (mut rig, Pair { mut ps, mt: _mt, ps_address, mt_address }) = Rig::protected();
    let before = rig.source();
    assert_eq!(rig.contents("disk-0.vhd"), before);
    scribble(&rig.site.path("a.img"), 3 * MIB + 5, 100_000, 2);
    succeed(&mut rig.sync(&ps_address, "web01", 1));
    rig.until(MT, "the second point is applied", |replica| {
        replica.applied == Some(Seq(2)) && points(replica) == [1, 2] && replica.standing.is_empty()
    });
    let mut newest = rig.source();
    assert_eq!(rig.contents("disk-0.vhd"), newest);
    // It has nothing to send, and its sessions would end the one that is opened here.
    ps.kill();

    rig.wanted.replica.mode = ReplicaMode::StandAt { seq: Seq(1) };
    rig.wanted.replica.epoch = Epoch(2);
    rig.wanted.tell(&rig.site, "mt1");
    let stands = |replica: &ReplicaActual| {
        replica.reached == Some(ReplicaMode::StandAt { seq: Seq(1) }) && replica.epoch == Epoch(2)
    };
    rig.until(MT, "it stands", stands);
    let standing = rig.site.cs.service.master_target(MT).unwrap().replicas[0].standing.clone();
    let [clone] = &standing[..] else { panic!("{standing:?}") };
    let prefix = format!("{}/{FOLDER}/", rig.place().container);
    let clone = clone.to_str().unwrap().strip_prefix(&prefix).unwrap().to_owned();
    assert!(rig.blobs().contains(&clone), "{clone}");
    assert_eq!(rig.contents(&clone), before);
    assert_eq!(rig.contents("disk-0.vhd"), newest, "the disk stays at the newest point");
    let refused = rig.session(&mt_address, 2).map(drop).unwrap_err();
    assert!(refused.to_string().contains("stands at a point"), "{refused}");

    rig.wanted.replica.mode = ReplicaMode::Receive;
    rig.wanted.tell(&rig.site, "mt1");
    rig.until(MT, "it receives again", |replica| {
        receives(replica) && replica.applied == Some(Seq(2)) && replica.standing.is_empty()
    });
    assert!(!rig.blobs().contains(&clone));
    let mut session = rig.session(&mt_address, 2).unwrap();
    assert_eq!(changes(&mut session, 9), Seq(3));
    rig.until(MT, "the third point is applied", |replica| {
        replica.applied == Some(Seq(3)) && points(replica) == [1, 2, 3]
    });
    newest[1 << 20..(1 << 20) + (64 << 10)].fill(9);
    assert_eq!(rig.contents("disk-0.vhd"), newest);
}

/// A limit may be late, and never early: so this one judgement by the clock fails on no machine that is slow.
#[test]
fn what_goes_into_the_container_keeps_to_the_limit() {
    let (rig, Pair { ps: _ps, mt: _mt, ps_address, .. }) = Rig::protected();
    let total = BandwidthLimit { bytes_per_s_max: Some(1_000_000), windows: Vec::new() };
    let desired = MasterTargetDesired {
        replicas: vec![rig.wanted.replica.clone()],
        bandwidth: Bandwidth { total, ..Bandwidth::default() },
        ..MasterTargetDesired::default()
    };
    rig.site.cs.service.want(MT, Desired::MasterTarget(desired));
    // It has looked at it when it reports again.
    rig.site.cs.service.forget_reports();
    wait_until("it has heard of its limit", || rig.site.cs.service.report_of(MT).is_some());
    std::thread::sleep(Duration::from_secs(2));
    scribble(&rig.site.path("a.img"), 0, 2_000_000, 3);
    let began = std::time::Instant::now();
    succeed(&mut rig.sync(&ps_address, "web01", 1));
    rig.until(MT, "the second point is applied", |replica| replica.applied == Some(Seq(2)));
    // Staged, and written to the pages: 4 MB, less what the first second lets pass.
    assert!(began.elapsed() > Duration::from_millis(2500), "{:?}", began.elapsed());
    assert_eq!(rig.contents("disk-0.vhd"), rig.source());
}

#[test]
fn what_a_removed_replica_leaves_is_where_the_next_one_begins_and_a_purge_leaves_nothing() {
    let (mut rig, Pair { ps: _ps, mt: _mt, ps_address, mt_address }) = Rig::protected();
    let before = rig.source();
    removed(&rig.wanted, false).tell(&rig.site, "mt1");
    let is_removed = |replica: &ReplicaActual| replica.reached == Some(ReplicaMode::Remove);
    rig.until(MT, "it is removed", is_removed);
    assert_eq!(rig.contents("disk-0.vhd"), before, "the page blobs stay");

    rig.wanted.replica.replica = "web01-again".parse().unwrap();
    rig.wanted.tell(&rig.site, "mt1");
    let is_of = |replica: &ReplicaActual| replica.replica.as_str() == "web01-again";
    rig.until(MT, "another history has begun", |replica| {
        is_of(replica) && receives(replica) && points(replica) == [0] && replica.applied == Some(Seq(0))
    });
    route(&rig.site, "ps1", "web01-again", ("mt1", &mt_address), 1);
    wait_until("the process server has the route", || {
        let state = rig.site.cs.service.process_server("process-server ps1");
        state.is_some_and(|state| state.spools.iter().any(|spool| spool.replica.as_str() == "web01-again"))
    });
    scribble(&rig.site.path("a.img"), 5 * MIB, 200_000, 3);
    let said = events(&succeed(rig.sync(&ps_address, "web01-again", 1).arg("--json")));
    let sent = said.last().unwrap()["sent_bytes"].as_u64().unwrap();
    assert!((200_000..MIB).contains(&sent), "{said:?}");
    rig.until(MT, "its first point is applied", |replica| {
        is_of(replica) && replica.applied == Some(Seq(1)) && points(replica) == [0, 1]
    });
    assert_eq!(rig.contents("disk-0.vhd"), rig.source());

    // Nobody removed that one: its points are of another history all the same.
    rig.wanted.replica.replica = "web01-third".parse().unwrap();
    rig.wanted.tell(&rig.site, "mt1");
    let is_third = |replica: &ReplicaActual| replica.replica.as_str() == "web01-third";
    rig.until(MT, "a third history has begun", |replica| {
        is_third(replica) && receives(replica) && points(replica) == [0]
    });
    removed(&rig.wanted, true).tell(&rig.site, "mt1");
    rig.until(MT, "it is removed, too", |replica| is_third(replica) && is_removed(replica));
    assert_eq!(rig.blobs(), Vec::<String>::new());
}

#[test]
fn another_master_target_takes_a_replica_over_and_the_former_one_does_not_take_it_back() {
    let (rig, Pair { ps: _ps, mt: mut former, ps_address, .. }) = Rig::protected();
    let mut newer = rig.wanted.clone();
    newer.replica.epoch = Epoch(2);
    newer.tell(&rig.site, "mt2");
    let (_mt2, mt2_address) = rig.start("mt2");
    let other = "target mt2";
    let has_it = |replica: &ReplicaActual| {
        receives(replica) && replica.epoch == Epoch(2) && points(replica).first() == Some(&1)
    };
    rig.until(other, "it has the replica, with its point", has_it);

    // The former one learns of it by the next that it wants to write.
    let mut late = rig.sync(&ps_address, "web01", 1);
    let late = Process(late.stderr(Stdio::null()).spawn().unwrap());
    let is_shut_out = |replica: &ReplicaActual| {
        let codes = ["master-target.stale-epoch", "master-target.in-use"];
        let problem = replica.problem.as_ref();
        replica.reached.is_none() && problem.is_some_and(|problem| codes.contains(&problem.code.as_str()))
    };
    rig.until(MT, "the former one says that it is shut out", is_shut_out);
    drop(late);
    // It hears the same again and again, and after a restart as well.
    for restart in [false, true] {
        if restart {
            former.kill();
            former = rig.start("mt1").0;
        }
        rig.wanted.tell(&rig.site, "mt1");
        rig.site.cs.service.forget_reports();
        rig.until(MT, "the former one says so yet", is_shut_out);
        rig.until(other, "the other one has it yet", has_it);
    }

    route(&rig.site, "ps1", "web01", ("mt2", &mt2_address), 2);
    wait_until("the old epoch is refused", || {
        let said = rig.sync(&ps_address, "web01", 1).output().unwrap().stderr;
        String::from_utf8_lossy(&said).contains("epoch 1 is over")
    });
    scribble(&rig.site.path("a.img"), 7 * MIB, 50_000, 4);
    succeed(&mut rig.sync(&ps_address, "web01", 2));
    rig.until(other, "it goes on there", |replica| has_it(replica) && points(replica) == [1, 2]);
    rig.until(other, "it is applied", |replica| replica.applied == Some(Seq(2)));
    assert_eq!(rig.contents("disk-0.vhd"), rig.source());
    let said = std::fs::read_to_string(rig.log("mt2")).unwrap();
    assert!(!said.contains("taken over"), "it never lost it: {said}");
}

#[test]
fn a_lost_replica_is_not_taken_back_before_the_configuration_server_says_so_again() {
    let (mut rig, Pair { ps: _ps, mt: _mt, ps_address, .. }) = Rig::protected();
    // Under the same epoch: the container alone would let both have it.
    rig.wanted.tell(&rig.site, "mt2");
    let (_mt2, _) = rig.start("mt2");
    rig.until("target mt2", "it has the replica", receives);
    rig.site.cs.stop();
    let manifest = |rig: &Rig| rig.store().get("manifest").unwrap();
    let before = manifest(&rig);
    let mut late = rig.sync(&ps_address, "web01", 1);
    let late = Process(late.stderr(Stdio::null()).spawn().unwrap());
    wait_until("the former one learns that it has lost it", || {
        std::fs::read_to_string(rig.log("mt1")).unwrap().contains("a replica is another's now")
    });
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(manifest(&rig), before, "the other one has it");
    drop(late);
}

#[test]
fn a_master_target_that_hears_nothing_does_nothing_and_has_kept_no_signature() {
    let (mut rig, Pair { ps, mut mt, .. }) = Rig::protected();
    drop(ps);
    mt.kill();
    let remembered = std::fs::read_to_string(rig.site.path("mt1/desired")).unwrap();
    assert!(remembered.contains(&rig.place().container), "{remembered}");
    let signature = rig.signature();
    for file in files(&rig.site.path("mt1")) {
        let kept = std::fs::read(&file).unwrap();
        assert!(!String::from_utf8_lossy(&kept).contains(&signature), "{}", file.display());
    }

    let state = |rig: &Rig| (rig.store().list("").unwrap(), rig.store().get("manifest").unwrap());
    let before = state(&rig);
    let address = rig.site.cs.address;
    rig.site.cs.stop();
    let (file, log) = (rig.site.path("mt1.address"), rig.site.path("alone.log"));
    let mut command = rig.site.role("master-target", "mt1");
    command.arg("--address-file").arg(&file).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
    let mut alone = Process(command.spawn().unwrap());
    wait_until("it listens", || file.exists());
    std::thread::sleep(Duration::from_secs(2));
    assert!(alone.0.try_wait().unwrap().is_none(), "it runs");
    assert_eq!(state(&rig), before);
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(!said.contains("not as it should be"), "it did not even try: {said}");

    rig.site.cs.service.forget_reports();
    rig.site.cs.listen(address);
    rig.until(MT, "it goes on when it hears that it may", |replica| {
        receives(replica) && replica.applied == Some(Seq(1))
    });
    assert_ne!(state(&rig).1, before.1, "it has opened the replica");
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_wrong_signature_is_told_with_the_container_and_without_itself() {
    let rig = Rig::new();
    // As it is in a URL, and plain.
    let wrong = ["d3JvbmcvYnV0K29mK3RoZStyaWdodCtsZW5ndGg%2B", "d3JvbmcvYnV0K29mK3RoZStyaWdodCtsZW5ndGg+"];
    let url = rig.azurite.container("replicas").replace(&rig.signature(), wrong[0]);
    let mut told = rig.wanted.clone();
    let sas = Secret::new(url.split_once('?').unwrap().1.into());
    told.replica.blobs.as_mut().unwrap().access = Some(BlobAccess::Sas { sas });
    told.tell(&rig.site, "mt1");
    let (_mt, _) = rig.start("mt1");
    rig.until(MT, "it has a problem", |replica| replica.problem.is_some());
    let actual = rig.site.cs.service.master_target(MT).unwrap().replicas[0].clone();
    assert_eq!(actual.reached, None);
    let problem = actual.problem.unwrap();
    assert!(problem.message.contains(&rig.place().container), "{problem:?}");
    assert!(problem.message.contains("credentials"), "{problem:?}");
    let said = format!("{problem:?}\n{}", std::fs::read_to_string(rig.log("mt1")).unwrap());
    assert!(wrong.iter().all(|signature| !said.contains(signature)), "{said}");

    rig.wanted.tell(&rig.site, "mt1");
    rig.until(MT, "it receives when it is told the right one", receives);
}
