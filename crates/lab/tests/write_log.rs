//! The write-log oracle against a real kernel: it proves copies taken of a frozen file system and refuses one that was torn.
//!
//! Nothing of the engine takes part. What these copies are to this test, recovery points are to the engine's.

use std::time::Duration;

use switchback_lab::write_log::{Fragments, LoggedDisk, Verdict};
use switchback_lab::{Accelerator, Foundation, Guest};

const DISK_MIB: u64 = 64;
const POINTS: u64 = 5;

/// A disk under an honest freeze does not change while it is copied.
const TAKE_FROZEN: &str = "
    fsfreeze --freeze /mnt
    copy $1
    fsfreeze --unfreeze /mnt";

/// The first half is from before two writes, the second half from after them: no state the disk ever had.
const TAKE_TORN: &str = "
    half=$((DISK_MIB / 2))
    write() { dd if=/dev/urandom of=/dev/mapper/logged bs=1M count=1 seek=$1 conv=notrunc,fsync 2>/dev/null; }
    write 1
    copy $POINTS 0 $half
    write 1
    write $((half + 1))
    copy $POINTS $half $half";

#[test]
fn guest_write_log_proves_frozen_copies_and_refuses_a_torn_one() {
    let foundation = Foundation::prepare().unwrap();
    let accelerator = Accelerator::detect(&foundation).unwrap();
    let disk = LoggedDisk::create(DISK_MIB, POINTS, 1).unwrap();
    let fragments = Fragments { take: TAKE_FROZEN, finish: TAKE_TORN, ..Fragments::default() };
    let image = disk.image(&fragments).build(&foundation).unwrap();
    let guest =
        disk.attach(Guest::new(&foundation, &image, accelerator)).time_limit(Duration::from_secs(240));
    let outcome = guest.start().unwrap().wait().unwrap_or_else(|error| panic!("{error}"));
    assert!(outcome.is_ok(), "{}", outcome.console);
    let rounds: Vec<u64> = outcome.facts("LOADED: ").map(|rounds| rounds.parse().unwrap()).collect();
    assert!(
        rounds.len() == 2 && rounds.iter().all(|rounds| *rounds > POINTS),
        "there was no load: {rounds:?}"
    );

    let judgement = disk.judge().unwrap_or_else(|error| panic!("{error}\n{}", outcome.console));
    assert!(judgement.is_log_right, "the whole log, replayed, is not the disk");
    let (frozen, torn) = judgement.verdicts.split_at(judgement.windows.len());
    for (verdict, window) in frozen.iter().zip(&judgement.windows) {
        assert!(verdict.is_proven_within(window), "{verdict:?} is not proven within {window:?}");
    }
    assert_distinct(frozen);
    assert!(!torn[0].is_proven(), "a torn copy was proven: {:?}", torn[0]);
}

/// Under load, no two points are the same moment; if they are, the load or the oracle did nothing.
fn assert_distinct(verdicts: &[Verdict]) {
    for pair in verdicts.windows(2) {
        let (earlier, later) = (pair[0].equal_after.last(), pair[1].equal_after.first());
        let is_later = earlier.zip(later).is_some_and(|(earlier, later)| earlier.end() < later.start());
        assert!(is_later, "{:?} and {:?}", pair[0], pair[1]);
    }
}
