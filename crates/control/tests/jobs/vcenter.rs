//! A vCenter as the recovery site: the real site against a simulated server whose disks are files, in a world that is else in memory.

use std::sync::Arc;

use switchback_control::Crash;
use switchback_lab::vcsim::{PASSWORD, Simulator, USER};
use switchback_model::{DiskIndex, ItemOperation, JobState, PointChoice, Seq};
use switchback_sites::vsphere::{Credentials, Limits, Placement, Trust, VsphereSettings, VsphereSite};
use switchback_sites::{Boot, DiskOrigin, Machine, MachineDisk, NewDisk, NewMachine, Nic, Site};

use super::world::{Elsewhere, World};
use super::{Kill, name};

const MASTER_TARGET: &str = "4210a0d1-0000-4000-8000-00000000c0de";
/// Kills on the way, each at a later turn than the one before.
const KILLS: usize = 10;

struct Bench {
    world: World,
    vcenter: Elsewhere,
    simulator: Simulator,
}

impl Bench {
    /// `web01` is protected, with its two disks at a master target that runs.
    fn new() -> Self {
        // Where machines are made is not said: beside their master targets, whose host alone has the first datastore.
        let options = Simulator::options().datastores(2);
        let options = options.datastore_on("LocalDS_0", "DC0_H0").datastore_on("LocalDS_1", "DC0_C0_H1");
        let simulator = options.start().unwrap_or_else(|error| panic!("{error}"));
        let open = |host: Option<&str>| {
            let settings = VsphereSettings {
                url: simulator.url().to_owned(),
                trust: Trust::Authority(simulator.authority()),
                placement: Placement { host: host.map(str::to_owned), ..Placement::default() },
                datastore_directories: simulator.datastores(),
                limits: Limits::default(),
            };
            VsphereSite::open(settings, Credentials::new(USER, PASSWORD.to_owned())).unwrap()
        };
        let site = open(Some("DC0_H0"));
        let master_target = NewMachine {
            id: "recovery-mt".into(),
            name: "recovery-mt".into(),
            system_uuid: Some(MASTER_TARGET.into()),
            cpus: 1,
            memory_mib: 64,
            boot: Boot::Bios,
            disks: vec![NewDisk {
                size: 1 << 20,
                serial: String::new(),
                origin: DiskOrigin::Empty { datastore: "LocalDS_0".into() },
            }],
            nics: vec![Nic { mac: String::new(), network: None }],
            mark: None,
            beside: None,
        };
        site.create_machine(&master_target).unwrap();
        site.power_on("recovery-mt").unwrap();
        let vcenter = Elsewhere { site: Arc::new(open(None)), master_target: MASTER_TARGET.into() };
        let mut world = World::new();
        world.elsewhere = Some(vcenter.clone());
        world.restart();
        world.round();
        Self { world: world.with_web01_protected(), vcenter, simulator }
    }

    /// The machine gets a disk, which is added to its protection.
    fn add(&mut self, serial: &str, kill: Kill) {
        let disk = MachineDisk {
            path: format!("/home/web01/{serial}").into(),
            size: 1 << 20,
            serial: serial.into(),
        };
        self.world.home.change_disks("web01", |disks| disks.push(disk));
        self.world.round();
        let operation = ItemOperation::AddDisks { disks: vec![serial.into()], datastore: None };
        self.world.operate(operation, kill);
        (0..3).for_each(|_| self.world.round());
    }

    fn replica(&self) -> Machine {
        self.vcenter.replicas().remove(0)
    }

    /// What is at the server: disks of the machine, disks of others at the master target, and files of the machine's disks.
    fn disks(&self) -> [usize; 3] {
        let replica = self.replica();
        let at_master_target = self.vcenter.master_target().disks;
        let lent =
            at_master_target.iter().filter(|disk| replica.disks.iter().any(|own| own.path == disk.path));
        let directory = self.simulator.datastores()["LocalDS_0"].join(&replica.name);
        let files = std::fs::read_dir(directory).unwrap();
        let files =
            files.filter(|file| file.as_ref().unwrap().path().to_string_lossy().ends_with("-flat.vmdk"));
        assert_eq!(lent.clone().count(), at_master_target.len() - 1, "the master target has disks of nobody");
        [replica.disks.len(), lent.count(), files.count()]
    }

    fn is_ready(&self) -> bool {
        let readiness = self.world.control.readiness(&name("web01")).unwrap();
        let disks = ["machine.disks", "machine.disks-differ", "machine.disks-moved", "master-target.disks"];
        readiness.failover.iter().all(|check| {
            check.state == switchback_model::CheckState::Passed || !disks.contains(&check.code.as_str())
        })
    }
}

fn remove(disk: &str) -> ItemOperation {
    ItemOperation::RemoveDisks { disks: vec![disk.into()] }
}

#[test]
fn disks_come_and_go_at_a_vcenter_whenever_the_server_is_killed() {
    let mut bench = Bench::new();
    assert_eq!(bench.disks(), [2, 2, 2]);
    for kill in 0..KILLS {
        let crash = if kill % 2 == 0 { Crash::AfterStep } else { Crash::BeforeStep };
        let serial = format!("new-{kill}");
        bench.add(&serial, Some((kill, crash)));
        assert_eq!(bench.disks(), [3, 3, 3], "added, killed at {kill}");
        assert!(bench.is_ready());
        let points = bench.world.control.recovery_points(&name("web01")).unwrap();
        assert!(!points.last().unwrap().lacks.iter().any(|disk| usize::from(disk.0) == 2 + kill));
        bench.world.operate(remove(&serial), Some((kill, crash)));
        bench.world.round();
        assert_eq!(bench.disks(), [2, 2, 2], "removed, killed at {kill}");
        assert!(bench.is_ready());
        bench.world.home.change_disks("web01", |disks| drop(disks.pop()));
    }
}

#[test]
fn a_disk_that_is_given_up_is_gone_from_the_vcenter() {
    let mut bench = Bench::new();
    let disk = MachineDisk { path: "/home/web01/new".into(), size: 1 << 20, serial: "new".into() };
    bench.world.home.change_disks("web01", |disks| disks.push(disk));
    bench.world.round();
    for (turns, crash) in [(2, None), (3, None), (2, Some(Crash::AfterStep)), (4, None)] {
        let operation = ItemOperation::AddDisks { disks: vec!["new".into()], datastore: None };
        let job = bench.world.control.operate("tester", &name("web01"), operation).unwrap();
        for turn in 1..=turns {
            bench.world.control.work_once(crash.filter(|_| turn == turns)).unwrap();
        }
        bench.world.restart();
        bench.world.round();
        bench.world.control.cancel_job("tester", job.id).unwrap();
        let (job, _) = bench.world.finish(&job, None);
        assert_eq!(job.state, JobState::Cancelled, "{job:#?}");
        (0..3).for_each(|_| bench.world.round());
        assert_eq!(bench.disks(), [2, 2, 2], "after {turns} turns");
        assert!(bench.is_ready());
    }
}

#[test]
fn a_failover_to_a_vcenter_leaves_out_the_disk_that_its_point_lacks() {
    let mut bench = Bench::new();
    // Its guest hears that it is to shut down.
    let listens = |bench: &Bench| {
        bench.simulator.set(&bench.replica().name, "guest.toolsRunningStatus", "guestToolsRunning");
    };
    let failover = |point| ItemOperation::UnplannedFailover { point, shut_down: true };
    bench.world.seeds_slowly = true;
    bench.add("new", None);
    assert_eq!(bench.disks(), [3, 3, 3]);
    bench.world.operate(failover(PointChoice::Latest), None);
    assert_eq!(bench.world.item().failover.unwrap().lacks, [DiskIndex(2)]);
    assert_eq!(bench.disks(), [2, 0, 3], "its file stays");
    assert!(bench.is_ready());
    listens(&bench);
    bench.world.operate(ItemOperation::CancelFailover, None);
    assert_eq!(bench.disks(), [3, 3, 3]);
    bench.world.seeds_slowly = false;
    (0..4).for_each(|_| bench.world.round());
    assert!(bench.is_ready() && bench.world.item().disk_standings.is_empty());

    bench.world.operate(failover(PointChoice::Latest), None);
    assert_eq!(bench.disks(), [3, 0, 3]);
    listens(&bench);
    let older = PointChoice::Point { seq: Seq(1) };
    bench.world.operate(ItemOperation::ChangeRecoveryPoint { point: older }, None);
    assert_eq!(bench.disks(), [2, 0, 3]);
    bench.world.operate(ItemOperation::Commit, None);
    assert_eq!(bench.disks(), [2, 0, 2], "deleted while the machine runs");
    assert_eq!(bench.world.item().away.disk_serials.len(), 2);
}
