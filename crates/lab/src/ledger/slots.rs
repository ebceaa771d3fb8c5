//! The slots: blocks that are rewritten in place, each proved by the record that came after it.
//!
//! Record *n* belongs to a slot that follows from *n*; before the record is written, its slot gets a block that follows from machine, number and
//! time. So on a disk whose ledger ends with *n*, each slot holds the block of the newest record up to *n* that belongs to it; only the slot of
//! *n* + 1 may already hold that one's.
//!
//! ```text
//!    0     8  number of the record
//!    8     8  its time
//!   16  4080  what BLAKE3 makes of the machine's name, the number and the time
//! ```

use super::book::{Book, Flaw};
use super::record::{Hash, LedgerName, Record};

/// Slots in the file.
pub const SLOTS: u64 = 1024;
/// Bytes of a slot: a block as changed blocks are tracked.
pub const SLOT_LEN: usize = 4096;

/// Which slot a record belongs to: scattered, so that the changes are.
#[must_use]
pub fn slot_of(number: u64) -> u64 {
    let hash = Hash::<8>::of(&number.to_le_bytes());
    u64::from_le_bytes(hash.0) % SLOTS
}

/// What a record's slot gets.
#[must_use]
pub fn block(machine: LedgerName, number: u64, time_ms: u64) -> [u8; SLOT_LEN] {
    let mut block = [0; SLOT_LEN];
    block[..8].copy_from_slice(&number.to_le_bytes());
    block[8..16].copy_from_slice(&time_ms.to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(machine.to_string().as_bytes()).update(&block[..16]);
    hasher.finalize_xof().fill(&mut block[16..]);
    block
}

/// What a record says of its block.
#[must_use]
pub fn payload(block: &[u8; SLOT_LEN]) -> Hash<16> {
    Hash::of(block)
}

/// Checks the slots of a disk against its ledger. A file that ends early has zeros there.
///
/// # Errors
/// [`Flaw::WrongBlock`].
pub fn check(machine: LedgerName, book: &Book, slots: &[u8]) -> Result<(), Flaw> {
    let mut newest: Vec<Option<&Record>> = vec![None; usize::try_from(SLOTS).unwrap_or(usize::MAX)];
    for record in book.records() {
        newest[usize::try_from(slot_of(record.number)).unwrap_or(usize::MAX)] = Some(record);
    }
    let next = book.records().len() as u64 + 1;
    for (slot, record) in (0_u64..).zip(newest) {
        let Some(record) = record else { continue };
        let start = usize::try_from(slot).unwrap_or(usize::MAX).saturating_mul(SLOT_LEN);
        let found = slots
            .get(start..start.saturating_add(SLOT_LEN))
            .and_then(|bytes| bytes.first_chunk::<SLOT_LEN>());
        let is_right = found.is_some_and(|found| {
            payload(found) == record.payload || (slot_of(next) == slot && is_block_of(machine, next, found))
        });
        if !is_right {
            let found = found.map_or_else(|| "nothing".to_owned(), describe);
            return Err(Flaw::WrongBlock { slot, number: record.number, found });
        }
    }
    Ok(())
}

fn is_block_of(machine: LedgerName, number: u64, found: &[u8; SLOT_LEN]) -> bool {
    let (_, time_ms) = head(found);
    *found == block(machine, number, time_ms)
}

fn head(block: &[u8; SLOT_LEN]) -> (u64, u64) {
    let (numbers, _) = block.as_chunks::<8>();
    (u64::from_le_bytes(numbers[0]), u64::from_le_bytes(numbers[1]))
}

fn describe(found: &[u8; SLOT_LEN]) -> String {
    if found.iter().all(|byte| *byte == 0) {
        return "zeros".to_owned();
    }
    format!("a block that says it is of record {}", head(found).0)
}
