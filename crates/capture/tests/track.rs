//! The change tracker on a real kernel: what it marks, and what survives.

mod rig;

use rig::{BLOCK, LoopDevice, MIB, Name, block, blocks, can_run, run, text};
use switchback_capture::ChangeTracker;
use switchback_capture::ebpf::{Proof, Tracker};
use switchback_model::{Extent, ExtentSet};

const SIZE: u64 = 64 * MIB;

#[test]
fn writes_discards_and_zeroes_are_marked_to_the_block() {
    if !can_run() {
        return;
    }
    let (disk, name) = (LoopDevice::new(SIZE), Name::new("marks"));
    let attached = Tracker::attach(&name.config(&[&disk])).unwrap();
    assert_eq!(attached.proofs, [Proof::ReadAndWrite]);
    let mut tracker = attached.tracker;
    // The self-test's own write.
    assert_eq!(tracker.swap().unwrap(), [ExtentSet::from(block(SIZE / BLOCK / 2))]);
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
