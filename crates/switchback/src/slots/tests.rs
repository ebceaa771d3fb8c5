//! What is given out of a disk that is being seeded, and when it is whole.

use std::collections::VecDeque;
use std::time::Duration;

use switchback_capture::ChangeTracker;
use switchback_model::component::SeededDisk;
use switchback_model::{DiskIndex, Extent, ExtentSet, GenerationId, ResyncReason};

use super::{SeedPace, Slot, SlotTracker};

const SIZE: u64 = 200 << 20;
const PART: u64 = SeedPace::MIN;

/// Gives out what it is told, for two disks.
#[derive(Debug)]
struct Told(VecDeque<[ExtentSet; 2]>);

impl ChangeTracker for Told {
    fn generation(&self) -> GenerationId {
        GenerationId([1; 16])
    }

    fn swap(&mut self) -> Result<Vec<ExtentSet>, ResyncReason> {
        Ok(self.0.pop_front().unwrap_or_default().to_vec())
    }

    fn release(&mut self) {}

    fn touched(&self, read: &[ExtentSet]) -> Result<bool, ResyncReason> {
        assert_eq!(read.len(), 2, "the disks that are there");
        Ok(read[1].contains(Extent::new(4096, 1)))
    }

    fn check(&mut self) -> Result<(), ResyncReason> {
        Ok(())
    }
}

fn set(start: u64, len: u64) -> ExtentSet {
    Extent::new(start, len).into()
}

/// A whole disk, one that was removed, one that is being seeded.
fn tracker(changes: impl IntoIterator<Item = [ExtentSet; 2]>) -> (SlotTracker, SeedPace) {
    let disk = |seeding| Slot::Disk { path: "/dev/x".into(), seeding };
    let slots = [disk(false), Slot::Removed { size: 5 }, disk(true)];
    let pace = SeedPace::default();
    let inner = Box::new(Told(changes.into_iter().collect()));
    (SlotTracker::new(inner, &slots, &[SIZE, 5, SIZE], pace.clone()), pace)
}

#[test]
fn each_cycle_has_a_part_of_the_seed_and_the_last_one_makes_it_whole() {
    let change = [set(7, 1), set(4096, 1)];
    let (mut tracker, pace) = tracker([change, Default::default()]);
    let mut sent = ExtentSet::new();
    let done = |bytes| [SeededDisk { disk: DiskIndex(2), bytes }];
    for (cycle, bytes) in [PART, PART, PART, SIZE - 3 * PART].into_iter().enumerate() {
        assert_eq!(tracker.whole(), []);
        tracker.check().unwrap();
        let given = tracker.swap().unwrap();
        assert_eq!(
            [&given[0], &given[1]],
            [&if cycle == 0 { set(7, 1) } else { ExtentSet::new() }, &ExtentSet::new()]
        );
        assert_eq!(given[2].bytes(), bytes, "cycle {cycle}");
        assert!(!sent.intersects_set(&given[2]));
        // Not released yet: given out again, and no more.
        assert_eq!(tracker.swap().unwrap()[2].bytes(), bytes);
        assert_eq!(tracker.whole(), [], "what is not released may be lost");
        assert_eq!(pace.done(), done(sent.bytes()), "nor counts it");
        sent.extend(given[2].iter());
        tracker.release();
        assert_eq!(pace.done(), done(sent.bytes()));
        assert_eq!(tracker.swap().unwrap()[2], ExtentSet::new(), "one part a cycle");
    }
    assert_eq!(sent, set(0, SIZE));
    assert_eq!(tracker.whole(), [DiskIndex(2)]);
}

#[test]
fn what_a_failed_cycle_owes_goes_before_anything_else() {
    let (mut tracker, _) = tracker([]);
    tracker.check().unwrap();
    assert_eq!(tracker.swap().unwrap()[2], set(0, PART));
    tracker.check().unwrap();
    assert_eq!(tracker.swap().unwrap()[2], set(0, PART));
    tracker.release();
    tracker.check().unwrap();
    assert_eq!(tracker.swap().unwrap()[2], set(PART, PART));
}

#[test]
fn a_comparison_makes_it_whole() {
    let (mut tracker, pace) = tracker([]);
    tracker.check().unwrap();
    tracker.swap().unwrap();
    tracker.release();
    tracker.all_compared();
    assert_eq!(pace.done(), [SeededDisk { disk: DiskIndex(2), bytes: SIZE }]);
    assert_eq!(tracker.whole(), [DiskIndex(2)]);
    assert_eq!(tracker.swap().unwrap()[2], ExtentSet::new());
}

#[test]
fn the_one_below_is_asked_about_the_disks_that_are_there() {
    let (tracker, _) = tracker([]);
    assert!(tracker.is_removed(DiskIndex(1)) && !tracker.is_removed(DiskIndex(2)));
    assert!(tracker.touched(&[ExtentSet::new(), ExtentSet::new(), set(4096, 1)]).unwrap());
    assert!(!tracker.touched(&[set(4096, 1), set(4096, 1), ExtentSet::new()]).unwrap());
}

#[test]
fn a_part_is_as_large_as_the_interval_allows() {
    let pace = SeedPace::default();
    let interval = Duration::from_secs(10);
    pace.took(Duration::from_secs(1), interval);
    assert_eq!(pace.bytes(), 2 * PART);
    pace.took(Duration::from_secs(7), interval);
    assert_eq!(pace.bytes(), 2 * PART);
    for _ in 0..3 {
        pace.took(Duration::from_secs(11), interval);
    }
    assert_eq!(pace.bytes(), PART);
}
