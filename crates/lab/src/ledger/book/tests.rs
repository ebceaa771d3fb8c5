//! Every flaw is found, whatever the ledger it is in.

use proptest::prelude::*;

use super::*;
use crate::ledger::slots;

fn name(text: &str) -> LedgerName {
    text.parse().unwrap()
}

/// A ledger of `count` records, told apart from others by `story`.
fn book(
    machine: &str,
    count: u64,
    story: u64,
    seen: impl Fn(u64) -> Option<crate::ledger::Seen>,
) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    for number in 1..=count {
        let time_ms = story + number;
        let block = slots::block(name(machine), number, time_ms);
        let previous = records.last().map_or(Hash([0; 32]), Record::hash);
        records.push(Record {
            machine: name(machine),
            number,
            time_ms,
            payload: slots::payload(&block),
            previous,
            seen: seen(number),
        });
    }
    records
}

fn bytes(records: &[Record]) -> Vec<u8> {
    records.iter().flat_map(Record::encode).collect()
}

fn web(count: u64, story: u64) -> Vec<u8> {
    bytes(&book("web01", count, story, |_| None))
}

fn parse(bytes: &[u8]) -> Result<Book, Flaw> {
    Book::parse(name("web01"), bytes)
}

proptest! {
    #[test]
    fn a_whole_ledger_is_read_back(count in 0..40_u64, story in 0..1000_u64) {
        let book = parse(&web(count, story)).unwrap();
        prop_assert_eq!(book.standing().records, count);
        prop_assert_eq!(book.torn_len(), 0);
        prop_assert_eq!(bytes(book.records()), web(count, story));
    }

    #[test]
    fn a_torn_end_is_told_apart(count in 1..40_u64, cut in 1..RECORD_LEN) {
        let whole = web(count, 0);
        let book = parse(&whole[..whole.len() - cut]).unwrap();
        prop_assert_eq!(book.standing().records, count - 1);
        prop_assert_eq!(book.torn_len(), RECORD_LEN - cut);
    }

    #[test]
    fn a_flipped_bit_is_found(count in 2..40_u64, place in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut bytes = web(count, 0);
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let number = (place / RECORD_LEN) as u64 + 1;
        // In the last record, it cannot be told from a write that was torn: the record does not count.
        if number == count {
            prop_assert_eq!(parse(&bytes).unwrap().standing().records, count - 1);
        } else {
            prop_assert_eq!(parse(&bytes), Err(Flaw::Damaged { number }));
        }
    }

    #[test]
    fn a_gap_is_found(count in 3..40_u64, gone in any::<prop::sample::Index>()) {
        let mut records = book("web01", count, 0, |_| None);
        // A missing end is no gap; see `what_was_there_must_stay`.
        let gone = gone.index(records.len() - 1);
        records.remove(gone);
        let expected = gone as u64 + 1;
        prop_assert_eq!(parse(&bytes(&records)), Err(Flaw::Gap { expected, found: expected + 1 }));
    }

    #[test]
    fn a_record_of_another_history_is_found(count in 3..40_u64, place in any::<prop::sample::Index>()) {
        let mut records = book("web01", count, 0, |_| None);
        let place = place.index(records.len() - 1);
        records[place] = book("web01", count, 1_000_000, |_| None)[place];
        // The first record follows from nothing: there its successor tells.
        let number = if place == 0 { 2 } else { place as u64 + 1 };
        prop_assert_eq!(parse(&bytes(&records)), Err(Flaw::BrokenChain { number }));
    }

    #[test]
    fn what_was_there_must_stay(count in 1..40_u64, more in 0..10_u64) {
        let earlier = parse(&web(count, 0)).unwrap().standing();
        prop_assert_eq!(parse(&web(count + more, 0)).unwrap().contains(&earlier), Ok(()));
        let lost = Flaw::Lost { lost: 1, expected: count, found: count - 1 };
        prop_assert_eq!(parse(&web(count - 1, 0)).unwrap().contains(&earlier), Err(lost));
        let rewritten = parse(&web(count + more, 7)).unwrap().contains(&earlier);
        prop_assert_eq!(rewritten, Err(Flaw::Rewritten { number: count }));
    }

    #[test]
    fn disks_must_be_of_one_moment(count in 2..40_u64) {
        let read = |count| parse(&web(count, 0)).unwrap();
        prop_assert_eq!(agree(&read(count), &read(count)), Ok(()));
        prop_assert_eq!(agree(&read(count), &read(count - 1)), Ok(()));
        let apart = |first, second| Err(Flaw::Apart { first, second });
        prop_assert_eq!(agree(&read(count - 1), &read(count)), apart(count - 1, count));
        prop_assert_eq!(agree(&read(count), &read(count - 2)), apart(count, count - 2));
        let other = parse(&web(count, 7)).unwrap();
        prop_assert_eq!(agree(&read(count), &other), Err(Flaw::Different { number: 1 }));
    }

    #[test]
    fn an_effect_needs_its_cause(count in 2..40_u64) {
        let causes = book("web01", count, 0, |_| None);
        let effects = book("db01", count, 0, |number| Some(causes[usize::try_from(number).unwrap() - 1].as_seen()));
        let effects = Book::parse(name("db01"), &bytes(&effects)).unwrap();
        let held = |count, story| causes_are_held(&effects, &parse(&web(count, story)).unwrap());
        prop_assert_eq!(held(count, 0), Ok(()));
        for (causes, number, expected) in [(held(count - 1, 0), count, "is not there"), (held(count, 7), 1, "is another one there")] {
            match causes {
                Err(Flaw::EffectWithoutCause { number: found, reason, .. }) => {
                    prop_assert_eq!((found, reason), (number, expected));
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}

#[test]
fn other_ledgers_and_forgetfulness_are_found() {
    let foreign = Book::parse(name("db01"), &web(3, 0));
    assert!(matches!(foreign, Err(Flaw::Foreign { number: 1, .. })), "{foreign:?}");
    let causes = book("web01", 5, 0, |_| None);
    let forgets = book("db01", 3, 0, |number| Some(causes[5 - usize::try_from(number).unwrap()].as_seen()));
    assert_eq!(Book::parse(name("db01"), &bytes(&forgets)), Err(Flaw::Forgotten { number: 2 }));
}

/// The disk after `count` records.
struct Slots(Vec<u8>);

impl Slots {
    fn after(count: u64) -> Self {
        let slots = usize::try_from(slots::SLOTS).unwrap();
        let mut disk = Self(vec![0; slots::SLOT_LEN * slots]);
        (1..=count).for_each(|number| disk.write(slots::slot_of(number), number));
        disk
    }

    fn write(&mut self, slot: u64, number: u64) {
        self.slot(slot).copy_from_slice(&slots::block(name("web01"), number, number));
    }

    fn slot(&mut self, slot: u64) -> &mut [u8] {
        let start = usize::try_from(slot).unwrap() * slots::SLOT_LEN;
        &mut self.0[start..start + slots::SLOT_LEN]
    }

    fn check(&self, count: u64) -> Result<(), Flaw> {
        slots::check(name("web01"), &parse(&web(count, 0)).unwrap(), &self.0)
    }
}

/// The first record whose slot had been written before, and by which.
fn rewriting_record() -> (u64, u64) {
    let earlier =
        |number: u64| (1..number).rev().find(|other| slots::slot_of(*other) == slots::slot_of(number));
    (2..1000).find_map(|number| Some((number, earlier(number)?))).unwrap()
}

#[test]
fn a_slot_that_was_not_written_or_is_damaged_is_found() {
    assert_eq!(Slots::after(30).check(30), Ok(()));
    let mut lost = Slots::after(30);
    lost.slot(slots::slot_of(17)).fill(0);
    let flaw = lost.check(30).unwrap_err();
    assert!(matches!(&flaw, Flaw::WrongBlock { number: 17, found, .. } if found == "zeros"), "{flaw}");
    let mut damaged = Slots::after(30);
    damaged.slot(slots::slot_of(17))[3000] ^= 1;
    assert!(matches!(damaged.check(30), Err(Flaw::WrongBlock { number: 17, .. })));
    assert!(Slots(Vec::new()).check(30).is_err());
}

#[test]
fn a_slot_that_was_not_rewritten_is_found() {
    let (number, earlier) = rewriting_record();
    assert_eq!(Slots::after(number).check(number), Ok(()));
    let mut stale = Slots::after(number);
    stale.write(slots::slot_of(number), earlier);
    assert!(matches!(stale.check(number), Err(Flaw::WrongBlock { number: n, .. }) if n == number));
}

#[test]
fn only_the_next_record_may_have_written_its_slot_already() {
    let (number, earlier) = rewriting_record();
    // Durable before its record is: the machine died between the two.
    assert_eq!(Slots::after(number).check(number - 1), Ok(()));
    let too_new = Slots::after(number).check(number - 2);
    assert!(matches!(too_new, Err(Flaw::WrongBlock { number: n, .. }) if n == earlier), "{too_new:?}");
}
