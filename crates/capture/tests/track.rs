//! The change tracker on a real kernel: what it marks, and what survives.
#![expect(clippy::unwrap_used, reason = "tests fail by panics, also in what they share")]

mod rig;

use std::path::Path;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use rig::{Agent, BLOCK, Copy, LoopDevice, MIB, Mounted, Name, block, blocks, can_run, run, text};
use switchback_capture::ChangeTracker;
use switchback_capture::devices::Sysfs;
use switchback_capture::ebpf::{AttachError, Attached, BootId, Continuity, Proof, Tracker, TrackerConfig};
use switchback_model::{Extent, ExtentSet, ResyncReason};

const SIZE: u64 = 64 * MIB;

#[test]
fn writes_discards_and_zeroes_are_marked_to_the_block() {
    if !can_run() {
        return;
    }
    let (disk, name) = (LoopDevice::new(SIZE), Name::new("marks"));
    let attached = Tracker::attach(&name.config(&[&disk])).unwrap();
    let mut tracker = attached.tracker;
    // The self-test rewrote the middle, unless somebody else's losetup was just looking at the disk.
    let middle = match &attached.proofs[..] {
        [Proof::ReadAndWrite] => ExtentSet::from(block(SIZE / BLOCK / 2)),
        [Proof::ReadOnly { why }] if why.ends_with("has it open") => ExtentSet::new(),
        other => panic!("{other:?}"),
    };
    assert_eq!(tracker.swap().unwrap(), [middle]);
    tracker.release();

    disk.write(5, 1);
    disk.write(63, 1);
    disk.write(64, 1);
    disk.write(SIZE / BLOCK - 1, 1);
    let offset = |block: u64| (block * BLOCK).to_string();
    run("blkdiscard", &["-o", &offset(1000), "-l", &offset(300), text(&disk.node)]);
    run("blkdiscard", &["-z", "-o", &offset(2000), "-l", &offset(7), text(&disk.node)]);
    let mut expected = blocks([5, 63, 64, SIZE / BLOCK - 1]);
    expected.insert(Extent::new(1000 * BLOCK, 300 * BLOCK));
    expected.insert(Extent::new(2000 * BLOCK, 7 * BLOCK));
    assert!(tracker.touched(&[blocks([64])]).unwrap());
    assert!(!tracker.touched(&[blocks([4, 6, 65])]).unwrap());
    assert_eq!(tracker.swap().unwrap(), [expected.clone()]);
    assert!(!tracker.touched(&[expected.clone()]).unwrap(), "nothing was written since the swap");

    // Not released: given out again, together with what is new.
    disk.write(9, 2);
    expected.insert(block(9));
    assert_eq!(tracker.pending(), [expected.clone()]);
    assert_eq!(tracker.swap().unwrap(), [expected]);
    tracker.release();
    assert_eq!(tracker.swap().unwrap(), [ExtentSet::new()]);
    tracker.check().unwrap();
    tracker.detach().unwrap();
    assert!(!name.folder().exists());
}

fn continued(attached: &Attached) -> bool {
    matches!(attached.continuity, Continuity::Continued { .. })
}

fn reason(attached: Attached) -> ResyncReason {
    match attached.continuity {
        Continuity::Fresh { reason, .. } => reason,
        continued @ Continuity::Continued { .. } => panic!("{continued:?}"),
    }
}

/// Attached, with the self-test's marks out of the way.
fn quiet(name: &Name, disks: &[&LoopDevice]) -> Tracker {
    let mut tracker = Tracker::attach(&name.config(disks)).unwrap().tracker;
    tracker.swap().unwrap();
    tracker.release();
    tracker
}

#[test]
fn a_dropped_tracker_goes_on_and_is_continued() {
    if !can_run() {
        return;
    }
    let (disk, name) = (LoopDevice::new(SIZE), Name::new("restart"));
    let first = quiet(&name, &[&disk]);
    let generation = first.generation();
    let in_use = Tracker::attach(&name.config(&[&disk]));
    assert!(matches!(in_use, Err(AttachError::InUse { .. })), "{in_use:?}");
    disk.write(1, 1);
    let mut first = first;
    assert_eq!(first.swap().unwrap(), [blocks([1])]);
    drop(first);
    disk.write(2, 1);
    let again = Tracker::attach(&name.config(&[&disk])).unwrap();
    assert_eq!(again.continuity, Continuity::Continued { generation });
    let mut tracker = again.tracker;
    disk.write(3, 1);
    // What an earlier process left is owed until it is given out: a release before that forgets nothing.
    tracker.release();
    let given = &tracker.swap().unwrap()[0];
    assert!(given.contains(Extent::new(BLOCK, 3 * BLOCK)), "{given:?}");
}

#[test]
fn killed_between_swap_and_release_everything_is_given_out_again() {
    if !can_run() {
        return;
    }
    let (disk, name) = (LoopDevice::new(SIZE), Name::new("killed"));
    drop(quiet(&name, &[&disk]));
    disk.write(7, 1);
    let mut generations = Vec::new();
    for round in 0..3 {
        let (agent, line) = Agent::start(&["track", &name.0, text(&disk.node)]);
        generations.push(line.split(' ').nth(1).unwrap().to_owned());
        disk.write(20 + round, 1);
        agent.kill();
        disk.write(40 + round, 1);
    }
    assert!(generations.windows(2).all(|pair| pair[0] == pair[1]), "{generations:?}");
    let attached = Tracker::attach(&name.config(&[&disk])).unwrap();
    assert!(continued(&attached), "{:?}", attached.continuity);
    let mut tracker = attached.tracker;
    assert_eq!(tracker.generation().to_string(), generations[0]);
    let expected = blocks([7, 20, 21, 22, 40, 41, 42]);
    let but_self_tests = |mut sets: Vec<ExtentSet>| {
        sets[0].remove(block(SIZE / BLOCK / 2));
        sets.remove(0)
    };
    assert_eq!(but_self_tests(tracker.pending()), expected);
    assert_eq!(but_self_tests(tracker.swap().unwrap()), expected);
    tracker.release();
    assert_eq!(tracker.pending(), [ExtentSet::new()]);
}

#[test]
fn a_partition_is_tracked_through_its_disk() {
    if !can_run() {
        return;
    }
    let (disk, name) = (LoopDevice::new(SIZE), Name::new("partition"));
    run("sh", &["-c", &format!("echo '2048,40960' | sfdisk -q {}", text(&disk.node))]);
    let partition = format!("{}p1", text(&disk.node));
    // Not every kernel reads partition tables, and where it does this one is known already.
    let _ = std::process::Command::new("partx").args(["--add", text(&disk.node)]).output();
    run("mkfs.ext4", &["-qF", &partition]);
    let mounted = Mounted::new(partition.as_ref(), "rw");
    let sysfs = Sysfs::default();
    for path in [partition.as_ref(), mounted.point.path(), disk.node.as_path()] {
        let found: Vec<_> = sysfs.resolve(path).unwrap().into_iter().map(|disk| disk.number).collect();
        assert_eq!(found, [disk.number()], "{path:?}");
    }
    // The self-test writes to the file system.
    let attached = Tracker::attach(&name.config(&[&disk])).unwrap();
    assert_eq!(attached.proofs, [Proof::ReadAndWrite]);
    let mut tracker = attached.tracker;
    rustix::fs::syncfs(std::fs::File::open(mounted.point.path()).unwrap()).unwrap();
    let copy = Copy::of(&disk);
    tracker.swap().unwrap();
    tracker.release();
    std::fs::write(mounted.point.path().join("file"), vec![7; 100_000]).unwrap();
    drop(mounted);
    let changed = tracker.swap().unwrap().remove(0);
    assert!(changed.iter().all(|extent| extent.start >= 2048 * 512), "{changed:?}");
    copy.take(&disk, &changed);
    assert_eq!(copy.differences(&disk), ExtentSet::new());
}

#[test]
fn two_disks_of_different_sizes_are_kept_apart() {
    if !can_run() {
        return;
    }
    let (a, b) = (LoopDevice::new(SIZE), LoopDevice::new(3 * SIZE + 4096));
    let name = Name::new("two");
    let mut tracker = quiet(&name, &[&a, &b]);
    a.write(1, 1);
    b.write(3 * SIZE / BLOCK, 1);
    assert!(tracker.touched(&[blocks([1]), ExtentSet::new()]).unwrap());
    assert!(!tracker.touched(&[blocks([2]), blocks([1])]).unwrap());
    assert_eq!(tracker.swap().unwrap(), [blocks([1]), blocks([3 * SIZE / BLOCK])]);
    drop(tracker);
    // Asked for in another order, they are the same; another one beside them was not watched.
    let swapped = Tracker::attach(&name.config(&[&b, &a])).unwrap();
    assert!(continued(&swapped));
    assert!(swapped.tracker.pending()[0].contains(block(3 * SIZE / BLOCK)));
    drop(swapped);
    let fewer = Tracker::attach(&name.config(&[&b])).unwrap();
    assert!(continued(&fewer));
    drop(fewer);
    let more = Tracker::attach(&name.config(&[&b, &a])).unwrap();
    assert!(matches!(reason(more), ResyncReason::TrackingLost { .. }), "it was not watched meanwhile");
}

#[test]
fn a_changed_size_is_noticed_running_and_at_attach() {
    if !can_run() {
        return;
    }
    let (disk, name) = (LoopDevice::new(SIZE), Name::new("resize"));
    let mut tracker = quiet(&name, &[&disk]);
    disk.file.as_file().set_len(2 * SIZE).unwrap();
    run("losetup", &["-c", text(&disk.node)]);
    let resized = ResyncReason::Resized { disk: 0, from: SIZE, to: 2 * SIZE };
    assert_eq!(tracker.check(), Err(resized.clone()));
    disk.write(2 * SIZE / BLOCK - 1, 1);
    assert_eq!(tracker.swap(), Err(resized.clone()));
    drop(tracker);
    assert_eq!(reason(Tracker::attach(&name.config(&[&disk])).unwrap()), resized);
    // Grown, written beyond the old end, and back again: the size alone would not tell.
    let mut tracker = quiet(&name, &[&disk]);
    for (size, write) in [(3 * SIZE, true), (2 * SIZE, false)] {
        disk.file.as_file().set_len(size).unwrap();
        run("losetup", &["-c", text(&disk.node)]);
        if write {
            disk.write(size / BLOCK - 1, 1);
        }
    }
    assert!(matches!(tracker.check(), Err(ResyncReason::UntrackableRequest { .. })));
    drop(tracker);
    let again = reason(Tracker::attach(&name.config(&[&disk])).unwrap());
    assert!(matches!(again, ResyncReason::UntrackableRequest { .. }));
}

#[test]
fn what_does_not_match_is_never_continued() {
    if !can_run() {
        return;
    }
    let (disk, name) = (LoopDevice::new(SIZE), Name::new("stale"));
    let config = name.config(&[&disk]);
    let first = Tracker::attach(&config).unwrap();
    assert!(matches!(reason(first), ResyncReason::TrackingLost { .. }));
    assert!(continued(&Tracker::attach(&config).unwrap()));

    let tamper = |at: usize| {
        let meta = MapHandle::from_pinned_path(name.folder().join("meta")).unwrap();
        let mut value = meta.lookup(&[0; 4], MapFlags::ANY).unwrap().unwrap();
        value[at] ^= 1;
        meta.update(&[0; 4], &value, MapFlags::ANY).unwrap();
    };
    tamper(16);
    assert_eq!(reason(Tracker::attach(&config).unwrap()), ResyncReason::Rebooted);
    for at in [0, 8, 48, 64] {
        tamper(at);
        let reason = reason(Tracker::attach(&config).unwrap());
        assert!(matches!(reason, ResyncReason::TrackingLost { .. }), "byte {at}: {reason:?}");
        assert!(continued(&Tracker::attach(&config).unwrap()));
    }
    // Killed in the middle of an attach (`meta` is not there yet), or somebody removed a pin.
    for pin in ["meta", "issue", "complete", "phase", "counters", "bitmaps", "disk0_0", "disk0_1"] {
        std::fs::remove_file(name.folder().join(pin)).unwrap();
        let reason = reason(Tracker::attach(&config).unwrap());
        assert!(matches!(reason, ResyncReason::TrackingLost { .. }), "{pin}: {reason:?}");
    }
    let boot = BootId::current().unwrap();
    let same = TrackerConfig { last_boot: Some(boot), ..config.clone() };
    assert!(continued(&Tracker::attach(&same).unwrap()));
    let other = TrackerConfig { last_boot: Some(BootId([1; 16])), ..config.clone() };
    assert_eq!(reason(Tracker::attach(&other).unwrap()), ResyncReason::Rebooted);
    let twice = TrackerConfig { disks: vec![disk.number(), disk.number()], ..config };
    assert!(matches!(Tracker::attach(&twice), Err(AttachError::Disks { given: 2 })));
}

/// zram has no requests.
#[test]
fn a_device_without_requests_is_refused_and_nothing_stays_behind() {
    if !can_run() {
        return;
    }
    let control = Path::new("/sys/class/zram-control");
    if !control.exists() {
        println!("SKIPPED: no zram in this kernel, and no other device without requests can be made");
        return;
    }
    let number = std::fs::read_to_string(control.join("hot_add")).unwrap().trim().to_owned();
    std::fs::write(format!("/sys/block/zram{number}/disksize"), "16777216").unwrap();
    let disks = Sysfs::default().resolve(format!("/dev/zram{number}").as_ref()).unwrap();
    let name = Name::new("zram");
    let config = TrackerConfig {
        name: name.0.clone(),
        disks: vec![disks[0].number],
        new: Vec::new(),
        last_boot: None,
    };
    let result = Tracker::attach(&config);
    std::fs::write(format!("/sys/block/zram{number}/reset"), "1").unwrap();
    std::fs::write(control.join("hot_remove"), number).unwrap();
    assert!(matches!(result, Err(AttachError::NoRequestEvents { .. })), "{result:?}");
    assert!(!name.folder().exists());
}

/// A write held between issue and completion: the file behind the disk is on a file system that is frozen.
#[test]
fn a_write_under_way_during_a_swap_is_in_both() {
    if !can_run() {
        return;
    }
    let below = LoopDevice::new(SIZE);
    below.mkfs("ext4");
    let mounted = Mounted::new(&below.node, "rw");
    let (disk, name) = (LoopDevice::in_folder(mounted.point.path(), SIZE / 4), Name::new("inflight"));
    // Allocated, so that nothing but the data is to be written.
    disk.write(5, 1);
    let mut tracker = quiet(&name, &[&disk]);
    run("fsfreeze", &["--freeze", text(mounted.point.path())]);
    let write = std::thread::scope(|scope| {
        let write = scope.spawn(|| disk.write(5, 2));
        let begun = std::time::Instant::now();
        let mut issued = false;
        while !issued && begun.elapsed().as_secs() < 30 {
            issued = tracker.touched(&[blocks([5])]).unwrap();
        }
        let first = tracker.swap().unwrap();
        tracker.release();
        let held = !write.is_finished();
        run("fsfreeze", &["--unfreeze", text(mounted.point.path())]);
        write.join().unwrap();
        (held, issued, first)
    });
    let (held, issued, first) = write;
    assert!(held, "the write was to wait");
    assert!(issued && first == [blocks([5])], "not marked at issue: {first:?}");
    assert_eq!(tracker.swap().unwrap(), [blocks([5])], "not marked at completion");
}

#[test]
fn a_disk_that_comes_and_one_that_goes_leave_the_marks_of_the_others_alone() {
    if !can_run() {
        return;
    }
    let (first, second, third) = (LoopDevice::new(SIZE), LoopDevice::new(SIZE), LoopDevice::new(SIZE));
    let name = Name::new("comes");
    let before = quiet(&name, &[&first, &second]);
    let generation = before.generation();
    first.write(1, 1);
    second.write(2, 1);
    drop(before);
    // Nobody has said that it may be new: what was written to it before is not known.
    let with = |disks: &[&LoopDevice], new: &[&LoopDevice]| TrackerConfig {
        new: new.iter().map(|disk| disk.number()).collect(),
        ..name.config(disks)
    };
    let added = Tracker::attach(&with(&[&first, &second, &third], &[&third])).unwrap();
    assert_eq!(added.continuity, Continuity::Continued { generation });
    let mut tracker = added.tracker;
    third.write(3, 1);
    let given = tracker.swap().unwrap();
    let has = |given: &[ExtentSet], disk: usize, number: u64| given[disk].contains(block(number));
    assert!(has(&given, 0, 1) && has(&given, 1, 2) && has(&given, 2, 3), "{given:?}");
    assert!(!has(&given, 2, 1) && !has(&given, 0, 3), "each in its own: {given:?}");
    tracker.release();
    third.write(4, 1);
    drop(tracker);

    // The second goes; those that stay are asked for in another order.
    second.write(5, 1);
    let left = Tracker::attach(&with(&[&third, &first], &[])).unwrap();
    assert_eq!(left.continuity, Continuity::Continued { generation });
    let mut tracker = left.tracker;
    first.write(6, 1);
    let given = tracker.swap().unwrap();
    assert!(has(&given, 0, 4) && has(&given, 1, 6), "{given:?}");
    assert!(!has(&given, 0, 5) && !has(&given, 1, 5), "{given:?}");
    assert!(tracker.touched(&[blocks([]), blocks([6])]).is_ok_and(|touched| !touched));
    drop(tracker);
    drop(second);

    // It was not watched meanwhile: it comes back as new, or not at all.
    let fourth = LoopDevice::new(SIZE);
    let again = Tracker::attach(&with(&[&third, &first], &[])).unwrap();
    assert_eq!(again.continuity, Continuity::Continued { generation }, "the disk that went is not missed");
    drop(again);
    let unknown = Tracker::attach(&with(&[&third, &first, &fourth], &[])).unwrap();
    let said = reason(unknown).to_string();
    assert!(said.contains("was not tracked"), "{said}");
}

#[test]
fn an_attach_that_is_killed_while_a_disk_comes_is_done_again() {
    if !can_run() {
        return;
    }
    let (first, second) = (LoopDevice::new(SIZE), LoopDevice::new(SIZE));
    let name = Name::new("killedcome");
    let before = quiet(&name, &[&first]);
    let generation = before.generation();
    drop(before);
    let both = TrackerConfig { new: vec![second.number()], ..name.config(&[&first, &second]) };
    drop(Tracker::attach(&both).unwrap());
    // As if it had been killed before `meta` said so: the disk is marked already, in bitmaps that nobody knows of.
    let meta = MapHandle::from_pinned_path(name.folder().join("meta")).unwrap();
    let mut value = meta.lookup(&[0; 4], MapFlags::ANY).unwrap().unwrap();
    value[12] = 1;
    meta.update(&[0; 4], &value, MapFlags::ANY).unwrap();
    second.write(1, 1);
    let again = Tracker::attach(&both).unwrap();
    assert_eq!(again.continuity, Continuity::Continued { generation });
    let mut tracker = again.tracker;
    second.write(2, 1);
    first.write(3, 1);
    let given = tracker.swap().unwrap();
    assert!(given[0].contains(block(3)) && given[1].contains(block(2)), "{given:?}");
    assert!(!given[1].contains(block(1)), "those bitmaps are gone");
}
