//! What the tests of the local site share: a site in a temporary directory, whose machines are switched off at the end; and real processes
//! that use it, which can be ended at any step.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "whatever fails, fails the test; it prints to another test"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use switchback_lab::Foundation;
use switchback_sites::conformance::{self, Subject};
use switchback_sites::{Forward, LocalSite, NetworkSettings, Power, Site, SiteSettings};

/// Tells a test binary that it is such a process: directory, step to end at, operation, machine and name.
const TASK: &str = "SWITCHBACK_TEST_TASK";

pub(crate) struct Bench {
    directory: tempfile::TempDir,
    pub(crate) foundation: Foundation,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let foundation = Foundation::prepare().unwrap();
        let bench = Self { directory: tempfile::tempdir().unwrap(), foundation };
        LocalSite::create(bench.directory(), &bench.settings()).unwrap();
        bench
    }

    pub(crate) fn settings(&self) -> SiteSettings {
        let mut settings = SiteSettings::new([("main".to_owned(), PathBuf::from("disks"))]);
        settings.qemu = self.foundation.qemu();
        // Of this test process: tests in parallel do not hear each other.
        let segment = format!("test-{}", std::process::id());
        settings.networks.insert("lan".to_owned(), NetworkSettings::Segment { segment });
        let forward = vec![Forward { host: "127.0.0.1:0".parse().unwrap(), guest_port: 5000 }];
        settings.networks.insert("office".to_owned(), NetworkSettings::Bridge { bridge: "br0".to_owned() });
        let uplink = NetworkSettings::User { cidr: "10.1.0.0/24".to_owned(), forward, isolated: false };
        settings.networks.insert("uplink".to_owned(), uplink);
        settings
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn open(&self) -> LocalSite {
        LocalSite::open(self.directory()).unwrap()
    }

    /// Does an operation in a process of its own; `step`: which kills itself before the step of this number, from 0. Returns whether it lived.
    pub(crate) fn in_process(&self, operation: &[&str], step: Option<usize>) -> bool {
        self.in_process_under(&["env"], operation, step)
    }

    /// The same, started by another program.
    pub(crate) fn in_process_under(&self, starter: &[&str], operation: &[&str], step: Option<usize>) -> bool {
        let step = step.map_or_else(|| "-".to_owned(), |step| step.to_string());
        let mut task = vec![self.directory().to_str().unwrap(), &step];
        task.extend(operation);
        let output = Command::new(starter[0])
            .args(&starter[1..])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "bench::process", "--nocapture"])
            .env(TASK, task.join("\n"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("TASK-BEGINS"), "no process to do {operation:?}: {said}");
        if said.contains("TASK-ENDS") {
            return true;
        }
        assert!(said.contains("TASK-DIES"), "{operation:?} went wrong: {said}");
        false
    }

    /// The processes of a machine's QEMU.
    pub(crate) fn qemus(&self, id: &str) -> Vec<u32> {
        let lock = self.directory().join("machines").join(id).join("run.lock").canonicalize().unwrap();
        let is_qemu = |pid: &u32| {
            fs::read_link(format!("/proc/{pid}/fd/3")).is_ok_and(|target| target == lock)
                && fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| line.windows(5).any(|w| w == b"-uuid"))
        };
        let pids = fs::read_dir("/proc").unwrap();
        pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).filter(is_qemu).collect()
    }

    pub(crate) fn signal_qemu(&self, id: &str, signal: &str) {
        let pids = self.qemus(id);
        assert_eq!(pids.len(), 1, "one QEMU of {id}");
        assert!(
            Command::new("kill")
                .args([format!("-{signal}"), pids[0].to_string()])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Kills a machine's QEMU and waits until it is gone.
    pub(crate) fn kill_qemu(&self, id: &str) {
        self.signal_qemu(id, "KILL");
        while self.open().machine(id).unwrap().power == Power::On {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Some tests have a second site inside.
        let inside = fs::read_dir(self.directory()).into_iter().flatten().flatten().map(|entry| entry.path());
        for directory in inside.chain([self.directory().to_owned()]) {
            let Ok(site) = LocalSite::open(directory) else { continue };
            for machine in site.machines().unwrap_or_default() {
                let _ = site.power_off(&machine.id);
            }
        }
    }
}

/// How many steps the process of a test may still take.
static STEPS: AtomicUsize = AtomicUsize::new(usize::MAX);

fn count_step(name: &str) {
    if STEPS.fetch_sub(1, Ordering::SeqCst) == 0 {
        println!("TASK-DIES before: {name}");
        std::process::abort();
    }
}

/// No test: what [`Bench::in_process`] runs.
#[test]
fn process() {
    let Ok(task) = std::env::var(TASK) else { return };
    let words: Vec<&str> = task.split('\n').collect();
    println!("TASK-BEGINS");
    if let Ok(step) = words[1].parse() {
        STEPS.store(step, Ordering::SeqCst);
    }
    let site = LocalSite::open(words[0]).unwrap().observed_by(count_step);
    match words[2..] {
        ["power_on", id] => site.power_on(id).unwrap(),
        ["create_snapshot", id, name] => site.create_snapshot(id, name).unwrap(),
        ["revert_snapshot", id, name] => site.revert_snapshot(id, name).unwrap(),
        ["delete_snapshot", id, name] => site.delete_snapshot(id, name).unwrap(),
        ["create_machine", id] => {
            let subject = Subject {
                site: Arc::new(site),
                datastore: "main".to_owned(),
                network: "lan".to_owned(),
                lays_over_images: true,
                replica: None,
            };
            let mut new = conformance::machine(&subject, id);
            new.disks.push(new.disks[0].clone());
            subject.site.create_machine(&new).map(drop).unwrap();
        }
        ["delete_machine", id] => site.delete_machine(id).unwrap(),
        ref other => panic!("{other:?}"),
    }
    println!("TASK-ENDS");
}

/// Writes to a running machine's disk as its guest would: by QEMU's own block layer.
pub(crate) fn write_as_guest(site: &Path, id: &str, disk: usize, byte: u8, offset: u64, len: u64) {
    qemu_io(site, id, disk, &format!("write -P {byte:#x} {offset} {len}"));
    qemu_io(site, id, disk, "flush");
}

/// What a disk of a machine shows: its topmost image with all below it.
pub(crate) fn contents(site: &Path, id: &str, disk: usize) -> Vec<u8> {
    let directory = site.join("machines").join(id);
    let text = fs::read_to_string(directory.join("machine.toml")).unwrap();
    let machine: toml::Table = toml::from_str(&text).unwrap();
    let disk = &machine["disks"][disk];
    let layers = disk.get("layers").and_then(|layers| layers.as_array()).cloned().unwrap_or_default();
    let (top, format) = layers.last().map_or((&disk["path"], "raw"), |top| (top, "qcow2"));
    let raw = tempfile::NamedTempFile::new().unwrap();
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-U", "-f", format, "-O", "raw", top.as_str().unwrap()]).arg(raw.path());
    let output = convert.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read(raw.path()).unwrap()
}

fn qemu_io(site: &Path, id: &str, disk: usize, command: &str) {
    let line = format!("qemu-io -d /machine/peripheral/disk{disk}/virtio-backend \"{command}\"");
    let said =
        ask(site, id, &json!({ "execute": "human-monitor-command", "arguments": { "command-line": line } }));
    assert_eq!(said["return"], "", "{command}: {said}");
}

/// What QEMU says about the state of a machine.
pub(crate) fn state(site: &Path, id: &str) -> String {
    ask(site, id, &json!({ "execute": "query-status" }))["return"]["status"].as_str().unwrap().to_owned()
}

fn ask(site: &Path, id: &str, command: &Value) -> Value {
    let stream = UnixStream::connect(site.join("machines").join(id).join("qmp.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut answer = |command: &Value| {
        writeln!(&stream, "{command}").unwrap();
        let mut answers = lines.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        answers.find(|line| line.get("return").is_some() || line.get("error").is_some()).unwrap()
    };
    answer(&json!({ "execute": "qmp_capabilities" }));
    answer(command)
}

/// A network namespace with a bridge `br0`, gone when dropped.
pub(crate) struct BridgeNetwork(pub(crate) String);

impl BridgeNetwork {
    pub(crate) fn new() -> Self {
        let network = Self(format!("switchback-test-{}", std::process::id()));
        ip(&["netns", "add", &network.0]);
        ip(&["-n", &network.0, "link", "add", "br0", "type", "bridge"]);
        network
    }

    /// The interfaces that are connected to the bridge and up.
    pub(crate) fn connected(&self) -> usize {
        ip(&["-n", &self.0, "-o", "link", "show", "master", "br0", "up"]).lines().count()
    }
}

impl Drop for BridgeNetwork {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A small file system, gone when dropped.
pub(crate) struct Tmpfs(PathBuf);

pub(crate) fn tmpfs(directory: &Path, size: &str) -> Tmpfs {
    let options = format!("size={size}");
    let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory).status();
    assert!(status.unwrap().success(), "mounting needs root");
    Tmpfs(directory.to_owned())
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
