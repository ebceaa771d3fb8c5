//! That the capabilities which the units leave to root are enough for what its roles do with the kernel: the program runs under the bounding set that is
//! written in the unit.
//!
//! Needs root, FUSE, loop devices and BPF; as another user it says so and does nothing.

#![expect(clippy::print_stderr, reason = "tests say why they were skipped")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use switchback_disk::testing::LoopDevice;

use super::rig::{PROGRAM, directory, output, said};
use super::units::{unit, values};

/// Longest that a process may take to get somewhere.
const LIMIT: Duration = Duration::from_secs(60);

/// The bounding set of a unit, as setpriv(1) writes it.
fn bounding_set(role: &str) -> String {
    let text = std::fs::read_to_string(unit(role)).unwrap();
    let names = values(&text, "CapabilityBoundingSet").join(" ").to_ascii_lowercase();
    let kept: Vec<_> = names.split_whitespace().map(|name| name.replacen("cap_", "+", 1)).collect();
    format!("-all,{}", kept.join(","))
}

/// The program, with no more capabilities than these.
fn bounded(set: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--bounding-set={set}")).arg(PROGRAM).stdout(Stdio::null());
    command
}

fn skipped() -> bool {
    let skipped = !rustix::process::geteuid().is_root();
    if skipped {
        eprintln!("SKIPPED: only root has capabilities that could be taken away");
    }
    skipped
}

/// Killed, and waited for, at the end.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_master_target_shows_a_point_with_the_capabilities_of_its_unit() {
    if skipped() {
        return;
    }
    let directory = directory();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("source"), vec![7; 4 << 20]).unwrap();
    said(Command::new(PROGRAM).arg("sync").args([path("source"), path("target")]));
    std::fs::create_dir(path("view")).unwrap();
    let export = |set: &str| {
        let mut command = bounded(set);
        let arguments = [path("target.switchback/local"), path("view")];
        command.args(["replica", "export", "--point", "1"]).args(arguments);
        command
    };
    let refused = output(export("-all").stderr(Stdio::piped()));
    assert!(!refused.status.success(), "a view was mounted without any capability");
    let mut process = Killed(export(&bounding_set("master-target")).spawn().unwrap());
    let (began, shown) = (Instant::now(), path("view/disk-0.raw"));
    while !shown.exists() {
        assert!(process.0.try_wait().unwrap().is_none() && began.elapsed() < LIMIT, "no view");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(std::fs::read(&shown).unwrap() == vec![7; 4 << 20]);
    // So that it unmounts.
    said(Command::new("kill").arg(process.0.id().to_string()));
    while process.0.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < LIMIT, "the export does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A file system, unmounted at the end.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

/// Makes points of a disk by tracking and freezing.
fn follow(set: &str, disk: &Path, target: &Path) -> Output {
    let mut command = bounded(set);
    command.arg("sync").args([disk, target]).args(["--follow", "--json", "--capture", "ebpf"]);
    // A busy machine may take long to freeze.
    command.args(["--interval", "0.2", "--points", "3", "--freeze-budget", "60000"]);
    output(command.stdout(Stdio::piped()))
}

#[test]
fn ebpf_and_freezes_work_with_the_capabilities_of_the_agents_unit() {
    if skipped() {
        return;
    }
    let directory = directory();
    let disk = LoopDevice::new(64 << 20, 512).unwrap();
    said(Command::new("mkfs.ext4").arg("-q").arg(disk.path()));
    let mount = directory.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    said(Command::new("mount").arg(disk.path()).arg(&mount));
    let mounted = Mounted(mount);
    let set = bounding_set("agent");
    let ended = follow(&set, disk.path(), &directory.path().join("target"));
    let (lines, error) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{error}");
    let events = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let points: Vec<_> = events.filter(|event| event["event"] == "point").collect();
    assert_eq!(points.len(), 3, "{lines}");
    assert!(points.iter().all(|point| point["consistency"] == "crash-consistent"), "{lines}");
    assert!(points[1..].iter().all(|point| point["compared_bytes"] == 0), "tracking was lost: {lines}");
    drop(mounted);
}
