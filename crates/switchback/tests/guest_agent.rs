//! The mobility agent in a real guest: it joins, protects, goes to a group's meetings, runs a script, stands still for the last point, and is
//! fenced when it comes back from the dead.
//!
//! The judge of the last point is the guest's disk itself: the guest is killed while its file systems are frozen, so the replica must equal
//! its disk byte for byte, although a load writes until the freeze and would go on after it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod cs;
mod rig;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cs::Site;
use cs::replica::Wanted;
use rig::{MIB, Process, same, wait_until};
use switchback_control::Program;
use switchback_disk::FileDisk;
use switchback_lab::{Foundation, GuestImage};
use switchback_model::component::{
    Activity, AgentDesired, AgentState, Desired, DiskStanding, MasterTargetDesired, ProcessServerDesired,
    ProgramOffer, ProtectedDisk, ReplicaDesired, ReplicaMode, Replication, Route, ScriptCall, Standing,
    State,
};
use switchback_model::{Consistency, Epoch};

const MT: &str = "target mt1";
const AGENT: &str = "source web01";
const SIZE: u64 = 64 * MIB;
/// With room for another version of the program.
const LARGE: u64 = 512 * MIB;
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
    program: Option<ProgramOffer>,
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
            program: self.program.clone(),
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
fn prepare(size: u64) -> Protected {
    let site = Site::new();
    let (disk, target, console) = (site.path("vda.img"), site.path("target.img"), site.path("console"));
    FileDisk::create(&disk, size).unwrap();
    FileDisk::create(&target, size).unwrap();
    let replica = ReplicaDesired { sizes: vec![size], ..Wanted::new(&target).replica };
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
        disks: vec![ProtectedDisk { serial: "disk0".into(), size, standing: DiskStanding::Protected }],
        resync_requested: 0,
        final_cycle: None,
    };
    let (servers, mt_address, program) = (Vec::new(), String::new(), None);
    let mut protected = Protected { site, replica, replication, program, disk, console, servers, mt_address };
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
        .file("lab/passphrase", site.cs.authority.passphrase().unwrap().reveal().as_bytes())
        .build(foundation)
        .unwrap()
}

#[test]
fn guest_agent_protects_stands_still_for_the_last_point_and_is_fenced() {
    let foundation = Foundation::prepare().unwrap();
    let mut protected = prepare(SIZE);
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
    assert_eq!((disks.len(), disks[0].name.as_str(), disks[0].size), (1, "vda", protected.replica.sizes[0]));
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
    protected.site.cs.service.until_replica(MT, "its group's points are told", |replica| {
        replica.points.iter().any(|point| point.group_tag.as_deref() == Some("g-1"))
    });
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

/// A version that is another one for its digest alone: without symbols, and with something at its end.
fn another_version(protected: &Protected) -> Program {
    let path = protected.site.path("version");
    let mut strip = Command::new("strip");
    strip.args(["-s", "-o"]).arg(&path).arg(env!("CARGO_BIN_EXE_switchback"));
    assert!(strip.status().unwrap().success());
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"another").unwrap();
    Program::open(&path).unwrap()
}

/// The agent becomes another version while its machine runs, and no write goes by unseen: its tracker is the same one, and nothing is compared. A version that is not
/// what was offered, or does not run, is not taken; the installed program, started anew, goes on as the one that was.
#[test]
fn guest_agent_goes_on_as_another_version_and_misses_no_write() {
    let foundation = Foundation::prepare().unwrap();
    let mut protected = prepare(LARGE);
    let image = image(&foundation, &protected.site);
    let mut guest = boot(&foundation, &image, &protected.disk, &protected.console);
    protects(&protected);
    let replication = |agent: &AgentState| agent.replication.clone();
    let before = protected.agent().and_then(|agent| replication(&agent)).unwrap();

    // What does not run is not taken.
    let broken = protected.site.path("broken");
    std::fs::write(&broken, b"not a program").unwrap();
    offer(&mut protected, Program::open(&broken).unwrap(), "p1");
    protected.until("it refuses what does not run", |agent| {
        agent.program.as_ref().is_some_and(|program| {
            program.token == "p1"
                && program.failure.as_ref().is_some_and(|why| why.contains("does not run here"))
        })
    });

    let version = another_version(&protected);
    let sha256 = version.sha256().to_owned();
    offer(&mut protected, version, "p2");
    let runs = |agent: &AgentState, token: &str| {
        agent.program.as_ref().is_some_and(|program| program.token == token && program.sha256 == sha256)
    };
    protected.until("it runs what it was offered", |agent| runs(agent, "p2"));
    let newer = |agent: &AgentState| {
        let received = replication(agent).and_then(|replication| replication.received);
        received.is_some_and(|(seq, _)| seq.0 > before.received.unwrap().0.0 + 2)
    };
    protected.until("points go on", newer);
    let after = protected.agent().and_then(|agent| replication(&agent)).unwrap();
    assert_eq!(after.generation, before.generation, "the tracker is the same one");
    assert_eq!((after.compared_bytes, after.resync_sent_bytes), (0, 0), "nothing was compared");
    assert!(after.changed_bytes > 0 && after.transferred_bytes > 0, "its churn is counted: {after:?}");

    // The machine starts again, with the program that was installed.
    guest.kill();
    protected.site.cs.service.forget_reports();
    offer_again(&mut protected, "p3");
    let _guest = boot(&foundation, &image, &protected.disk, &protected.console);
    protected.until("it goes on as the version that was confirmed", |agent| runs(agent, "p3"));
}

fn offer(protected: &mut Protected, program: Program, token: &str) {
    protected.program =
        Some(ProgramOffer { token: token.into(), sha256: program.sha256().into(), len: program.len() });
    *protected.site.cs.service.program.lock().unwrap() = Some(program.into());
    protected.tell_agent(Standing::Active);
}

fn offer_again(protected: &mut Protected, token: &str) {
    protected.program.as_mut().unwrap().token = token.into();
    protected.tell_agent(Standing::Active);
}
