//! The whole of capture under load: at every frozen moment, the copy made of changed blocks alone is the disk.
#![expect(clippy::unwrap_used, reason = "tests fail by panics, also in what they share")]

mod rig;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use rig::{Copy, Load, LoopDevice, MIB, Mounted, Name, agent, can_run};
use switchback_capture::ChangeTracker;
use switchback_capture::devices::{Sysfs, mounted_on};
use switchback_capture::ebpf::{Proof, Tracker};
use switchback_capture::freeze::FreezeHelper;
use switchback_capture::moment::take_moment;
use switchback_capture::scripts::Scripts;
use switchback_model::{Extent, ExtentSet};

const MOMENTS: usize = 25;
/// Comparing whole disks takes its time, and it is done while frozen.
const BUDGET: Duration = Duration::from_secs(120);

fn replica_equals_disk_at_every_moment(kind: &str, size_bytes: u64) {
    if !can_run() {
        return;
    }
    let (disk, name) = (LoopDevice::new(size_bytes), Name::new(kind));
    let mut tracker = Tracker::attach(&name.config(&[&disk])).unwrap().tracker;
    let copy = Copy::of(&disk);
    let whole = ExtentSet::from(Extent::new(0, size_bytes));
    // Tracked from before there is a file system: mkfs is load too.
    disk.mkfs(kind);
    let mounted = Mounted::new(&disk.node, "rw,discard");
    let file_systems = mounted_on(&Sysfs::default(), &BTreeSet::from([disk.number()])).unwrap();
    let mut helper = FreezeHelper::spawn(agent(&["freeze-helper"])).unwrap();
    let load = Load::start(mounted.point.path(), 3, 0x5eed);
    let (mut copied_bytes, mut discards) = (0, 0);
    for moment in 0..MOMENTS {
        for _ in 0..2 {
            let changed = tracker.swap().unwrap().remove(0);
            copy.take(&disk, &changed);
            copied_bytes += changed.bytes();
            tracker.release();
        }
        if moment == MOMENTS / 2 {
            // The agent is restarted, with blocks given out and not released.
            tracker.swap().unwrap();
            drop(tracker);
            let again = Tracker::attach(&name.config(&[&disk])).unwrap();
            // Now there is a file system to write to.
            assert_eq!(again.proofs, [Proof::ReadAndWrite]);
            tracker = again.tracker;
        }
        let taken = take_moment(&mut helper, &file_systems, BUDGET, &Scripts::default(), || {
            let (writes, _) = written(&disk);
            let mut changed;
            let mut tries = 0..20;
            loop {
                assert!(tries.next().is_some(), "changes do not end while frozen");
                changed = tracker.swap().unwrap().remove(0);
                copy.take(&disk, &changed);
                let differences = copy.differences(&disk);
                // ext4 discards what was freed from a work queue of its own, which no freeze stops.
                if !tracker.touched(std::slice::from_ref(&whole)).unwrap() {
                    assert_eq!(written(&disk).0, writes, "written while frozen");
                    break Ok::<_, Infallible>((changed, differences));
                }
            }
        });
        let (changed, differences) = taken.unwrap().value;
        assert_eq!(differences, ExtentSet::new(), "moment {moment}: blocks that differ");
        copied_bytes += changed.bytes();
        tracker.release();
        discards = written(&disk).1;
    }
    drop(load);
    // Recursion misses are 0, or this says so.
    tracker.check().unwrap();
    assert!(copied_bytes > 20 * MIB, "there was no load: {copied_bytes} bytes in all");
    assert!(discards > 0, "the load discarded nothing");
    drop(mounted);
    tracker.detach().unwrap();
}

/// Writes and discards so far (Documentation/block/stat.rst).
fn written(disk: &LoopDevice) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{}/stat", disk.number())).unwrap();
    let field = |n| stat.split_whitespace().nth(n).unwrap().parse().unwrap();
    (field(4), field(11))
}

#[test]
fn ext4() {
    replica_equals_disk_at_every_moment("ext4", 128 * MIB);
}

#[test]
fn xfs() {
    replica_equals_disk_at_every_moment("xfs", 320 * MIB);
}
