//! The mobility agent in a real guest: it joins, protects, goes to a group's meetings, runs a script, stands still for the last point, and is
//! fenced when it comes back from the dead.
//!
//! The judge of the last point is the guest's disk itself: the guest is killed while its file systems are frozen, so the replica must equal
//! its disk byte for byte, although a load writes until the freeze and would go on after it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod cs;
mod rig;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cs::Site;
use cs::replica::Wanted;
use rig::{MIB, Process, same, wait_until};
use switchback_disk::FileDisk;
use switchback_lab::{Foundation, GuestImage};
use switchback_model::component::{
    Activity, AgentDesired, AgentState, Desired, MasterTargetDesired, ProcessServerDesired, ProtectedDisk,
    ReplicaDesired, ReplicaMode, Replication, Route, ScriptCall, Standing, State,
};
use switchback_model::{Consistency, Epoch};

const MT: &str = "target mt1";
const AGENT: &str = "source web01";
const SIZE: u64 = 64 * MIB;
const UUID: &str = "0b6c2f5e-1111-4222-8333-000000000001";

/// Everything of the agent lies on the protected disk. At 10.0.2.2 the guest reaches this host's loopback interface.
const SCRIPT: &str = r#"
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
mkdir -p /data /etc/switchback/scripts
mount -t ext4 /dev/vda /data || { /usr/sbin/mke2fs -q -t ext4 /dev/vda && mount -t ext4 /dev/vda /data; }
printf '#!/bin/sh\necho hello from $(hostname)\n' >/etc/switchback/scripts/hello
printf '#!/bin/sh\necho stopped >/data/stopped\n' >/etc/switchback/stop
chmod 755 /etc/switchback/scripts/hello /etc/switchback/stop
hostname web01
( n=0; while :; do n=$((n + 1)); echo "record $n" >>/data/ledger; [ $((n % 20)) = 0 ] && sync; sleep 0.05; done ) &
export SWITCHBACK_LOG=info
while :; do
    switchback agent --server 10.0.2.2:PORT --data /data/agent --identity /data/identity --name web01 \
        --enrol-passphrase-file /lab/passphrase || true
    sleep 1
done
"#;

/// Starts the guest.
fn boot(foundation: &Foundation, image: &GuestImage, disk: &Path, console: &Path) -> Process {
    let mut command = Command::new(foundation.qemu());
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-nodefaults", "-no-reboot", "-display", "none"])
        .args(["-smp", "2", "-m", "1024", "-device", "virtio-rng-pci", "-uuid", UUID])
        .args(["-append", "console=ttyS0 quiet panic=-1", "-netdev", "user,id=n0"])
        .args(["-device", "virtio-net-pci,netdev=n0,romfile="])
        .arg("-kernel")
        .arg(foundation.kernel())
        .arg("-initrd")
        .arg(image.path())
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-drive")
        .arg(format!("file={},if=none,id=d0,format=raw", disk.display()))
        .args(["-device", "virtio-blk-pci,drive=d0,serial=disk0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Process(command.spawn().unwrap())
}

struct Protected {
    site: Site,
    replica: ReplicaDesired,
    replication: Replication,
    disk: PathBuf,
    console: PathBuf,
    servers: Vec<Process>,
    mt_address: String,
}

impl Protected {
    fn agent(&self) -> Option<AgentState> {
        match self.site.cs.service.report_of(AGENT)?.state {
            State::Agent(state) => Some(*state),
            other => panic!("{other:?}"),
        }
    }

    fn tell_agent(&self, standing: Standing) {
        let desired = AgentDesired {
            standing,
            replication: Some(self.replication.clone()),
            networks: Vec::new(),
            scripts: vec![ScriptCall { token: "s1".into(), script: "hello".into(), limit_s: 30 }],
            ..AgentDesired::default()
        };
        self.site.cs.service.want(AGENT, Desired::Agent(Box::new(desired)));
    }

    fn tell_master_target(&self) {
        let desired =
            MasterTargetDesired { replicas: vec![self.replica.clone()], ..MasterTargetDesired::default() };
        self.site.cs.service.want(MT, Desired::MasterTarget(desired));
    }

    fn route(&self, epoch: u64) {
        let route = Route {
            replica: self.replication.replica.clone(),
            source: "web01".into(),
            next: self.mt_address.clone(),
            peer: "mt1".into(),
            epoch: Epoch(epoch),
        };
        let desired = ProcessServerDesired { routes: vec![route], ..ProcessServerDesired::default() };
        self.site.cs.service.want("process-server ps1", Desired::ProcessServer(desired));
    }

    /// An emulated guest takes its time.
    fn until(&self, what: &str, is: impl Fn(&AgentState) -> bool) {
        let began = std::time::Instant::now();
        while !self.agent().as_ref().is_some_and(&is) {
            assert!(
                began.elapsed() < Duration::from_secs(240),
                "{what}: {:#?}\n{}",
                self.agent(),
                std::fs::read_to_string(&self.console).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Servers and what they are to do; the guest is not on yet.
fn prepare() -> Protected {
    let site = Site::new();
    let (disk, target, console) = (site.path("vda.img"), site.path("target.img"), site.path("console"));
    FileDisk::create(&disk, SIZE).unwrap();
    FileDisk::create(&target, SIZE).unwrap();
    let replica = ReplicaDesired { sizes: vec![SIZE], ..Wanted::new(&target).replica };
    let replication = Replication {
        replica: replica.replica.clone(),
        address: String::new(),
        peer: "ps1".into(),
        epoch: Epoch(1),
        interval_ms: 1000,
        app_interval_ms: 0,
        freeze_budget_ms: 5000,
        compression: None,
        bytes_per_s_max: None,
        group: Some("g".into()),
        disks: vec![ProtectedDisk { serial: "disk0".into(), size: SIZE }],
        resync_requested: 0,
        final_cycle: None,
    };
    let (servers, mt_address) = (Vec::new(), String::new());
    let mut protected = Protected { site, replica, replication, disk, console, servers, mt_address };
    protected.tell_master_target();
    let (mt, mt_address) = protected.site.start("master-target", "mt1");
    protected.mt_address = mt_address;
    protected.route(1);
    let (ps, ps_address) = protected.site.start("process-server", "ps1");
    protected.servers = vec![mt, ps];
    protected.replication.address = ps_address.replace("127.0.0.1", "10.0.2.2");
    protected.tell_agent(Standing::Active);
    protected
}

fn image(foundation: &Foundation, site: &Site) -> GuestImage {
    let script = SCRIPT.replace("PORT", &site.cs.address.port().to_string());
    GuestImage::builder(script)
        .module("virtio_net")
        .program("/usr/sbin/mke2fs")
        .program_as(Path::new(env!("CARGO_BIN_EXE_switchback")), "/usr/bin/switchback")
        .file("lab/passphrase", site.cs.authority.passphrase().reveal().as_bytes())
        .build(foundation)
        .unwrap()
}

#[test]
fn guest_agent_protects_stands_still_for_the_last_point_and_is_fenced() {
    let foundation = Foundation::prepare().unwrap();
    let mut protected = prepare();
    let image = image(&foundation, &protected.site);
    let mut guest = boot(&foundation, &image, &protected.disk, &protected.console);
    protects(&protected);
    goes_on_when_called_off(&mut protected);
    stands_still(&mut protected, &mut guest);

    // It comes back from the dead: refused by epoch, whatever it believes.
    protected.route(2);
    protected.replication.final_cycle = None;
    protected.tell_agent(Standing::Active);
    protected.site.cs.service.forget_reports();
    let _guest = boot(&foundation, &image, &protected.disk, &protected.console);
    protected.until("it is fenced", |agent| {
        agent.replication.as_ref().is_some_and(|replication| replication.activity == Activity::Fenced)
    });
    protected.tell_agent(Standing::Superseded { by: "recovery".into() });
    protected.until("it sends nothing any more", |agent| agent.replication.is_none());
    wait_until("it says so on its console", || {
        std::fs::read_to_string(&protected.console).unwrap().contains("it lives at recovery by now")
    });
}

fn protects(protected: &Protected) {
    protected.until("it reports its machine", |agent| agent.system_uuid == UUID && agent.hostname == "web01");
    let disks = protected.agent().unwrap().disks;
    assert_eq!((disks.len(), disks[0].name.as_str(), disks[0].size), (1, "vda", SIZE));
    protected.until("points arrive", |agent| {
        let replication = agent.replication.as_ref();
        replication.is_some_and(|replication| replication.recoverable.is_some_and(|seq| seq.0 >= 3))
    });
    protected.until("the script has run", |agent| {
        let result = agent.scripts.first();
        result.is_some_and(|script| script.succeeded && script.output.contains("hello from web01"))
    });
    let state = protected.agent().unwrap();
    assert_eq!(state.disks[0].capture, "ebpf", "{:?}", state.problems);
    let points = protected.site.cs.service.master_target(MT).unwrap().replicas[0].points.clone();
    assert!(points.iter().any(|point| point.group_tag.as_deref() == Some("g-1")), "{points:?}");
}

/// A planned failover that is called off while the machine stands still.
fn goes_on_when_called_off(protected: &mut Protected) {
    protected.replication.final_cycle = Some("t0".into());
    protected.tell_agent(Standing::Active);
    let last = |agent: &AgentState| agent.replication.as_ref()?.final_point.clone();
    protected.until("it stands still", |agent| last(agent).is_some_and(|last| last.token == "t0"));
    let seq = last(&protected.agent().unwrap()).unwrap().seq;
    protected.replication.final_cycle = None;
    protected.tell_agent(Standing::Active);
    protected.until("it goes on", |agent| {
        let received = agent.replication.as_ref().and_then(|replication| replication.received);
        last(agent).is_none() && received.is_some_and(|(newest, _)| newest > seq)
    });
}

/// A planned failover: the last point, and not a byte after it.
fn stands_still(protected: &mut Protected, guest: &mut Process) {
    protected.replication.final_cycle = Some("t1".into());
    protected.tell_agent(Standing::Active);
    protected.until("it stands still after its last point", |agent| {
        let last = agent.replication.as_ref().and_then(|replication| replication.final_point.as_ref());
        last.is_some_and(|last| last.token == "t1" && last.held_for_ms > 30_000)
    });
    // The load would go on.
    std::thread::sleep(Duration::from_secs(2));
    let last = protected.agent().unwrap().replication.unwrap().final_point.unwrap();
    guest.kill();
    protected.site.cs.service.until_replica(MT, "the last point is a recovery point", |replica| {
        let newest = replica.points.last();
        newest.is_some_and(|point| point.seq == last.seq && point.consistency == Consistency::AppConsistent)
    });
    protected.replica.mode = ReplicaMode::StandAt { seq: last.seq };
    protected.replica.epoch = Epoch(2);
    protected.tell_master_target();
    let mode = Some(protected.replica.mode);
    protected.site.cs.service.until_replica(MT, "it stands", |replica| replica.reached == mode);
    let target = &protected.replica.targets[0];
    assert!(same(&protected.disk, target), "the replica is the disk at which the guest died");
}
