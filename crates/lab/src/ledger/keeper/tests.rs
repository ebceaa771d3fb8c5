//! A ledger is taken up again after a death at any moment, and refused when something else happened to it.

use super::*;
use crate::ledger::slots::{SLOT_LEN, SLOTS, slot_of};

struct Machine {
    _directory: tempfile::TempDir,
    disks: [PathBuf; 2],
}

impl Machine {
    fn with_records(count: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disks = [directory.path().join("a"), directory.path().join("b")];
        let machine = Self { _directory: directory, disks };
        let mut keeper = machine.open().unwrap();
        for number in 1..=count {
            keeper.append(1000 + number, None).unwrap();
        }
        machine
    }

    fn open(&self) -> Result<Keeper, KeeperError> {
        Keeper::open(name(), &self.disks)
    }

    fn cut(&self, disk: usize, len: u64) {
        OpenOptions::new().write(true).open(self.disks[disk].join(FILE)).unwrap().set_len(len).unwrap();
    }

    fn book(&self, disk: usize) -> Book {
        Book::parse(name(), &fs::read(self.disks[disk].join(FILE)).unwrap()).unwrap()
    }
}

fn name() -> LedgerName {
    "web01".parse().unwrap()
}

const LEN: u64 = RECORD_LEN as u64;

#[test]
fn records_are_on_both_disks_and_their_blocks_in_the_slots() {
    let machine = Machine::with_records(300);
    assert_eq!(machine.book(0), machine.book(1));
    assert_eq!(machine.book(0).standing().records, 300);
    for disk in &machine.disks {
        let slots = fs::read(disk.join(SLOTS_FILE)).unwrap();
        assert_eq!(slots.len() as u64, SLOTS * SLOT_LEN as u64);
        slots::check(name(), &machine.book(0), &slots).unwrap();
        assert_eq!(fs::read_dir(disk.join("files")).unwrap().count() as u64, FILES);
    }
}

#[test]
fn every_death_within_a_record_is_survived() {
    // Bytes of record 10 on the first disk, of record 10 on the second.
    for (first, second) in [(0, 0), (1, 0), (127, 0), (128, 0), (128, 1), (128, 127)] {
        let machine = Machine::with_records(10);
        let before = machine.book(0);
        machine.cut(0, 9 * LEN + first);
        machine.cut(1, 9 * LEN + second);
        // The block of record 10 had not reached the second disk yet.
        if second == 0 {
            let slots = OpenOptions::new().write(true).open(machine.disks[1].join(SLOTS_FILE)).unwrap();
            slots.write_all_at(&[0; SLOT_LEN], slot_of(10) * SLOT_LEN as u64).unwrap();
        }
        let mut keeper = machine.open().unwrap();
        let expected = if first == 128 { 10 } else { 9 };
        assert_eq!(keeper.standing().records, expected, "{first} {second}");
        for disk in [0, 1] {
            let len = fs::metadata(machine.disks[disk].join(FILE)).unwrap().len();
            assert_eq!(len, expected * LEN, "a torn record is cut off: {first} {second}");
        }
        keeper.append(5000, None).unwrap();
        drop(keeper);
        assert_eq!(machine.book(0), machine.book(1));
        assert_eq!(machine.book(0).records()[..9], before.records()[..9]);
        if first == 128 {
            assert_eq!(
                machine.book(0).records()[9],
                before.records()[9],
                "it is completed, never written anew"
            );
        }
        let slots = fs::read(machine.disks[1].join(SLOTS_FILE)).unwrap();
        slots::check(name(), &machine.book(1), &slots).unwrap();
    }
}

#[test]
fn what_no_crash_leaves_is_refused_and_left() {
    let machine = Machine::with_records(10);
    machine.cut(1, 7 * LEN);
    assert!(matches!(machine.open(), Err(KeeperError::Flaw { flaw: Flaw::Apart { .. }, .. })));
    assert_eq!(machine.book(1).standing().records, 7);
    assert_eq!(machine.book(0).standing().records, 10);
}

#[test]
fn what_was_seen_is_not_forgotten() {
    let machine = Machine::with_records(0);
    let mut keeper = machine.open().unwrap();
    let seen = Seen { number: 5, hash: Hash([1; 16]) };
    keeper.append(1, Some(seen)).unwrap();
    keeper.append(2, None).unwrap();
    assert_eq!(keeper.append(3, Some(Seen { number: 4, hash: Hash([2; 16]) })).unwrap().seen, Some(seen));
    drop(keeper);
    machine.open().unwrap();
}
