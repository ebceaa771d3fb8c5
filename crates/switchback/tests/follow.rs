//! Continuous replication of real file systems under load, captured by eBPF with freezes: each recovery point equals what the
//! source had at the frozen moment, mounts clean, and its workload's own ledger is intact.
//!
//! Needs root, loop devices and BPF; anywhere else it says so and does nothing.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod rig;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rig::{Site, events, noise, same, succeed, switchback, wait_until};
use switchback_disk::testing::LoopDevice;

const RECORD: usize = 4096;

/// Appends numbered, checksummed, fsynced records, and makes noise beside them, until dropped.
struct Workload {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workload {
    fn start(mount: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ledger, beside, going) = (mount.join("ledger"), mount.to_path_buf(), stop.clone());
        let appends = std::thread::spawn(move || {
            let mut file = File::create(ledger).unwrap();
            for number in 0_u64.. {
                if going.load(Ordering::Relaxed) {
                    return;
                }
                let mut record = number.to_le_bytes().to_vec();
                record.extend(noise(RECORD - 40, number));
                let sum = switchback_delta::digest_of(&record).0;
                record.extend(sum);
                file.write_all(&record).unwrap();
                file.sync_data().unwrap();
            }
        });
        let going = stop.clone();
        let scratches = std::thread::spawn(move || {
            for number in 0_u64.. {
                if going.load(Ordering::Relaxed) {
                    return;
                }
                let path = beside.join(format!("noise-{}", number % 7));
                if number % 3 == 2 {
                    std::fs::remove_file(&path).ok();
                } else {
                    std::fs::write(&path, noise(300_000, number)).unwrap();
                }
            }
        });
        Self { stop, threads: vec![appends, scratches] }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

struct Mounted(PathBuf);

impl Mounted {
    fn new(what: &Path, at: PathBuf, options: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        succeed(Command::new("mount").args(["-o", options]).arg(what).arg(&at));
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

/// How many whole records a ledger has; panics at one that is not what was written.
fn records(ledger: &Path) -> u64 {
    let mut data = Vec::new();
    File::open(ledger).unwrap().read_to_end(&mut data).unwrap();
    for (number, record) in (0_u64..).zip(data.chunks_exact(RECORD)) {
        let (body, sum) = record.split_at(RECORD - 32);
        assert_eq!(body[..8], number.to_le_bytes(), "a gap at record {number}");
        assert_eq!(switchback_delta::digest_of(body).0, sum, "record {number} is damaged");
    }
    (data.len() / RECORD) as u64
}

fn follow(file_system: &str, make: &[&str], check: &[&str]) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root for loop devices and BPF");
        return;
    }
    let mut site = Site::new();
    let [source, target] = [(); 2].map(|()| LoopDevice::new(400_u64 << 20, 512).unwrap());
    succeed(Command::new(make[0]).args(&make[1..]).arg(source.path()));
    let mounted = Mounted::new(source.path(), site.path("mount"), "rw");
    let placed = format!("web01={}", target.path().display());
    let (_receiver, address) =
        site.start("receiver", &["receive", "--root", "replicas", "--target", &placed]);
    site.enrol("source", "source", &address);
    let workload = Workload::start(&mounted.0);
    let frozen = site.path("frozen");
    std::fs::create_dir(&frozen).unwrap();
    // A copy of the disk at each moment; that is why it may stand still for so long here. Direct, as the device's page cache
    // knows nothing of what the file system writes.
    let (device, copies) = (source.path().display(), frozen.display());
    let copy = format!("dd if={device} of={copies}/$(date +%s%N) bs=4M iflag=direct conv=sparse status=none");
    let mut sync = site.command("source");
    sync.arg("sync").arg(source.path()).args([
        &format!("{address}/web01"),
        "--follow",
        "--json",
        "--while-frozen",
        &copy,
    ]);
    sync.args(["--interval", "0.5", "--points", "6", "--freeze-budget", "60000", "--capture", "ebpf"]);
    let said = events(&succeed(&mut sync));
    drop(workload);
    let made: Vec<_> = said.iter().filter(|event| event["event"] == "point").collect();
    assert_eq!(made.len(), 6, "{said:?}");
    assert!(made.iter().all(|point| point["consistency"] == "crash-consistent"), "{made:?}");
    assert!(made[1..].iter().all(|point| point["compared_bytes"] == 0), "tracking was lost: {said:?}");
    let replica = site.path("replicas/web01");
    let mut copies: Vec<_> = std::fs::read_dir(&frozen).unwrap().map(|entry| entry.unwrap().path()).collect();
    copies.sort();
    let mut last = None;
    // From the newest to the oldest, in place.
    for point in made.iter().rev().map(|point| point["seq"].as_u64().unwrap().to_string()) {
        let roll_back =
            || switchback().args(["replica", "rollback", "--yes", "--to", &point]).arg(&replica).output();
        wait_until("the replica is free", || roll_back().unwrap().status.success());
        while copies.last().is_some_and(|copy| !same(copy, target.path())) {
            copies.pop();
        }
        let Some(copy) = copies.last() else {
            panic!("{file_system}: point {point} equals no frozen moment")
        };
        // Looked at in the copy, which is the same: mounting it runs the file system's recovery, which writes.
        let options = if file_system == "xfs" { "loop,nouuid" } else { "loop" };
        let seen = Mounted::new(copy, site.path("seen"), options);
        let count = records(&seen.0.join("ledger"));
        drop(seen);
        succeed(Command::new(check[0]).args(&check[1..]).arg(copy));
        assert!(last.is_none_or(|newer| count <= newer), "point {point} has more records than a newer one");
        last = Some(count);
    }
    succeed(switchback().args(["replica", "verify"]).arg(&replica));
}

#[test]
fn ebpf_follow_of_ext4_under_load() {
    follow("ext4", &["mkfs.ext4", "-q"], &["e2fsck", "-fn"]);
}

#[test]
fn ebpf_follow_of_xfs_under_load() {
    follow("xfs", &["mkfs.xfs", "-q", "-f"], &["xfs_repair", "-n", "-f"]);
}
