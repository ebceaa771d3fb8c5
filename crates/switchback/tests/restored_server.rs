//! A configuration server is lost with its directory, and restored from its continuous backup to another directory and another port: real processes, a real
//! guest, nobody helps the components to find it. Then the old one comes back, and then a backup is restored that is older than the world.
//!
//! The judges are the sites (which machine runs), and what master target, agent and servers themselves tell.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests; a failed one shows its processes' last words"
)]

mod rig;

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rig::{Process, succeed, switchback};
use serde_json::Value;
use switchback_lab::machine::{AgentSettings, BootFiles, DemoMachine, NETWORKS};
use switchback_lab::{Accelerator, Foundation};
use switchback_sites::{AcceleratorChoice, LocalSite, NetworkSettings, Power, Site as _, SiteSettings};

/// An emulated guest takes its time.
const PATIENCE: Duration = Duration::from_secs(240);
const MACHINE: &str = "db01";

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn free_port() -> u16 {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

/// How guests, through their uplink, and processes here reach this host. Nothing is sent.
fn host_address() -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("198.51.100.1:9").unwrap();
    socket.local_addr().unwrap().ip().to_string()
}

struct World {
    home: LocalSite,
    recovery: LocalSite,
    host: String,
    ports: [u16; 2],
    /// The configuration server that users talk to: its directory and port.
    at: (PathBuf, u16),
    directory: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = ["old.log", "second.log", "process-server-home.log"];
            for (name, log) in
                logs.map(|name| (name, std::fs::read_to_string(self.path(name)).unwrap_or_default()))
            {
                println!(
                    "== {name}, its end:\n{}",
                    log.lines().rev().take(12).collect::<Vec<_>>().join("\n")
                );
            }
            println!("== backup show: {:?}", self.command("backup show").output());
        }
        for site in [&self.home, &self.recovery] {
            for machine in site.machines().unwrap_or_default() {
                let _ = site.power_off(&machine.id);
            }
        }
    }
}

fn site(directory: &Path, foundation: &Foundation) -> LocalSite {
    let mut settings = SiteSettings::new([("main".to_owned(), PathBuf::from("disks"))]);
    settings.qemu = foundation.qemu();
    settings.accelerator = match Accelerator::detect(foundation).unwrap() {
        Accelerator::Kvm => AcceleratorChoice::Kvm,
        Accelerator::Tcg => AcceleratorChoice::Tcg,
    };
    let uplink =
        NetworkSettings::User { cidr: "10.0.2.0/24".to_owned(), forward: Vec::new(), isolated: false };
    let segment = NetworkSettings::Segment { segment: directory.display().to_string() };
    settings.networks = NETWORKS.map(str::to_owned).into_iter().zip([uplink, segment]).collect();
    LocalSite::create(directory, &settings).unwrap()
}

impl World {
    fn new(foundation: &Foundation) -> Self {
        let directory = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let [home, recovery] =
            ["home", "recovery"].map(|name| site(&directory.path().join(name), foundation));
        let ports = [free_port(), free_port()];
        let at = (directory.path().join("first"), ports[0]);
        Self { home, recovery, host: host_address(), ports, at, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Starts a configuration server, which users talk to from then on.
    fn serve(&mut self, directory: &str, port: u16) -> Process {
        let log = std::fs::File::create(self.path(&format!("{directory}.log"))).unwrap();
        let mut command = switchback();
        command
            .args([
                "configuration-server",
                "--listen",
                &format!("0.0.0.0:{port}"),
                "--advertise",
                &self.host,
                "--data",
            ])
            .arg(self.path(directory))
            .stdout(Stdio::null())
            .stderr(log);
        let process = Process(command.spawn().unwrap());
        self.at = (self.path(directory), port);
        wait_until("it answers", || self.try_ask("site list").is_some());
        process
    }

    /// A user's command. The administrator's token of the first server is good for all that are restored from it.
    fn command(&self, line: &str) -> Command {
        let mut command = switchback();
        command
            .args(line.split(' '))
            .env("SWITCHBACK_SERVER", format!("https://{}:{}", self.host, self.at.1))
            .env("SWITCHBACK_CA_FILE", self.path("ca.pem"))
            .env("SWITCHBACK_TOKEN_FILE", self.path("token"));
        command
    }

    fn try_ask(&self, line: &str) -> Option<Value> {
        for (from, to) in [("ca.pem", "ca.pem"), ("admin-token", "token")] {
            if !self.path(to).exists() {
                std::fs::copy(self.at.0.join(from), self.path(to)).ok()?;
            }
        }
        let output = self.command(&format!("{line} --output json")).output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    fn run(&self, line: &str) -> String {
        succeed(&mut self.command(line))
    }

    fn machine(&self) -> Value {
        self.try_ask(&format!("machine show {MACHINE}"))
            .map_or(Value::Null, |shown| shown["properties"].clone())
    }

    fn backup_made(&self) -> String {
        let shown = self.try_ask("backup show").unwrap_or_default();
        shown.pointer("/properties/lastSuccess/made").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Starts a process server or master target; it knows both addresses.
    fn role(&self, kind: &str, site: &str) -> Process {
        let (name, port) = (format!("{kind}-{site}"), free_port());
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{name}.log")))
            .unwrap();
        let mut command = switchback();
        command
            .env("SWITCHBACK_IDENTITY", self.path(&format!("{name}-identity")))
            .env("SWITCHBACK_LOG", "info")
            .args([kind, "--server", &self.servers(), "--site", site, "--name", &name])
            .args(["--listen", &format!("0.0.0.0:{port}"), "--advertise", &format!("{}:{port}", self.host)])
            .args(["--data", &self.text(&name), "--enrol-passphrase-file", &self.text("passphrase")])
            .stdout(Stdio::null())
            .stderr(log);
        Process(command.spawn().unwrap())
    }

    fn servers(&self) -> String {
        self.ports.map(|port| format!("{}:{port}", self.host)).join(",")
    }

    /// Both sites with their servers, one machine at home.
    fn found(&self, foundation: &Foundation) -> [Process; 2] {
        let identity = self.at.0.join("identity").display().to_string();
        let passphrase = succeed(switchback().args(["identity", "passphrase", "--identity", &identity]));
        std::fs::write(self.path("passphrase"), passphrase.trim()).unwrap();
        for name in ["home", "recovery"] {
            self.run(&format!("site add {name} --local {}", self.text(name)));
        }
        let roles = [self.role("process-server", "home"), self.role("master-target", "recovery")];
        for network in NETWORKS {
            self.run(&format!("network-mapping set home {network} recovery {network}"));
        }
        // The ledger is not needed here: any program ends at once, and is given up.
        let program = PathBuf::from(env!("CARGO_BIN_EXE_switchback"));
        let agent = AgentSettings {
            program: program.clone(),
            server: self.servers(),
            passphrase: passphrase.trim().to_owned(),
        };
        let machine = DemoMachine::db01(&program, Some(agent));
        let boot = BootFiles::make(foundation, self.home.directory()).unwrap();
        let images = machine.make_disks(&self.path("home/disks").join(MACHINE)).unwrap();
        machine.describe(self.home.directory(), &boot, &images).unwrap();
        self.home.power_on(MACHINE).unwrap();
        wait_until("the agent has joined", || {
            let machines = self.try_ask("machine list --site home").unwrap_or_default();
            machines.as_array().into_iter().flatten().any(|machine| machine["properties"]["hasAgent"] == true)
        });
        roles
    }

    fn protect(&self) {
        self.run("group create PG1 --from home --to recovery --interval 2s --freeze-budget 3s");
        self.run(&format!("machine protect {MACHINE} --group PG1 --nic untouched --nic untouched --no-wait"));
        wait_until("it is protected", || self.machine()["phase"] == "protected");
    }

    /// Restores a backup (none: the newest) into a new directory.
    fn restore(&self, backup: Option<&str>, directory: &str) -> String {
        let mut command = switchback();
        command
            .args([
                "configuration-server",
                "restore",
                "--from",
                &self.text("backups"),
                "--identity",
                &self.text("key"),
            ])
            .args(["--data", &self.text(directory)]);
        if let Some(backup) = backup {
            command.args(["--backup", backup]);
        }
        succeed(&mut command)
    }

    fn runs_at_recovery(&self) -> bool {
        let id = self.machine()["away"]["id"].as_str().unwrap_or_default().to_owned();
        self.recovery.machine(&id).is_ok_and(|machine| machine.power == Power::On)
    }

    fn has_reason(&self, code: &str) -> bool {
        let reasons = self.machine()["reasons"].clone();
        reasons.as_array().into_iter().flatten().any(|reason| reason["code"] == code)
    }
}

/// The backup that holds all that there is: none is made any more.
fn until_backed_up(world: &World) -> String {
    let mut last = world.backup_made();
    let mut since = Instant::now();
    wait_until("the last change is backed up", || {
        let made = world.backup_made();
        if made != last {
            (last, since) = (made, Instant::now());
        }
        !last.is_empty() && since.elapsed() > Duration::from_secs(30)
    });
    let backups = world.try_ask("backup list").unwrap();
    backups[0]["name"].as_str().unwrap().to_owned()
}

#[test]
fn guest_machine_goes_on_while_its_lost_configuration_server_is_restored_elsewhere() {
    let foundation = Foundation::prepare().unwrap();
    let mut world = World::new(&foundation);
    let [first_port, second_port] = world.ports;
    let mut first = world.serve("first", first_port);
    let [mut process_server, _master_target] = world.found(&foundation);
    std::fs::create_dir(world.path("backups")).unwrap();
    let public = succeed(switchback().args(["backup", "keygen"]).arg(world.path("key")));
    world.run(&format!(
        "backup schedule --to {} --recipient {} --continuous true",
        world.text("backups"),
        public.trim()
    ));
    world.protect();
    let newest = until_backed_up(&world);
    let verified = succeed(
        switchback()
            .args(["backup", "verify"])
            .arg(world.path("backups").join(&newest))
            .arg("--identity")
            .arg(world.path("key")),
    );
    assert!(verified.contains("can be restored"), "{verified}");

    // Lost. Somebody has a copy of its disk, which will come back.
    first.kill();
    succeed(Command::new("cp").arg("-a").args([world.path("first"), world.path("old")]));
    std::fs::remove_dir_all(world.path("first")).unwrap();
    let lost = Instant::now();
    let said = world.restore(None, "second");
    println!("{said}restored {} ms after it was begun", lost.elapsed().as_millis());
    let mut second = world.serve("second", second_port);
    wait_until("the machine is led again", || {
        world.machine()["held"].is_null() && !world.has_reason("agent.no-heartbeat")
    });
    println!("components have found it {} ms after the restore began", lost.elapsed().as_millis());
    let replicates = |world: &World| {
        world.try_ask(&format!("recovery-point list {MACHINE}")).unwrap_or_default()[0]["name"].clone()
    };
    let before = replicates(&world);
    wait_until("replication goes on", || {
        let now = replicates(&world);
        now.is_string() && now != before
    });
    let resync = world.machine()["resyncSentBytes"].clone();

    // The old one comes back where it was: who starts there is told by those who know better.
    let mut old = world.serve("old", first_port);
    let mut started: Option<Instant> = None;
    wait_until("the old one hears that it was replaced", || {
        // A component asks that one first, unless it is slow to answer: then another start does.
        if started.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
            process_server.kill();
            process_server = world.role("process-server", "home");
            started = Some(Instant::now());
        }
        let shown = world.try_ask("backup show").unwrap_or_default();
        shown.pointer("/properties/supersededBy").is_some_and(Value::is_u64)
    });
    let refused = rig::fail(&mut world.command(&format!("machine failover {MACHINE} --unplanned --yes")));
    assert!(refused.contains("superseded"), "{refused}");
    old.kill();
    world.at = (world.path("second"), second_port);
    wait_until("the process server has found the right one", || !world.has_reason("server.no-heartbeat"));
    assert_eq!(world.machine()["resyncSentBytes"], resync, "nothing was compared again");

    // The site at home burns.
    world.home.power_off(MACHINE).unwrap();
    world.run(&format!("machine failover {MACHINE} --unplanned --no-shutdown --yes"));
    assert!(world.runs_at_recovery());

    second.kill();
    older_than_the_world(&mut world, &newest);
}

/// A backup is restored that knows nothing of the failover.
fn older_than_the_world(world: &mut World, backup: &str) {
    world.restore(Some(backup), "third");
    let _third = world.serve("third", world.ports[0]);
    wait_until("it notices that it is behind", || world.has_reason("protection.behind"));
    let held = world.machine();
    assert_eq!((held["phase"].as_str(), held["held"]["kind"].as_str()), (Some("protected"), Some("behind")));
    let refused = rig::fail(&mut world.command(&format!("machine failover {MACHINE} --unplanned --yes")));
    assert!(refused.contains("nothing is ordered"), "{refused}");
    std::thread::sleep(Duration::from_secs(10));
    assert!(world.runs_at_recovery(), "it is left alone");
    let log = std::fs::read_to_string(world.path("master-target-recovery.log")).unwrap();
    assert!(log.contains("its disks are brought to the point"), "{log}");
    assert!(!log.contains("brought back to the newest point"), "{log}");
    world.run(&format!("machine disable {MACHINE} --yes"));
    assert_eq!(world.try_ask("machine list").unwrap(), serde_json::json!([]));
}
