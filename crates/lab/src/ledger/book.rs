//! A copy of a ledger as it lies on a disk, and what must hold for it and between several.
//!
//! A copy may end in one record that was being written when the machine died: fewer bytes than a record has, or bytes that are no record.
//! It is told apart and does not count. Anything else that is no record is damage.

use super::record::{Hash, LedgerName, RECORD_LEN, Record};

/// A ledger's copy: whole, as far as it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Book {
    records: Vec<Record>,
    torn_len: usize,
}

/// How far a ledger went when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its records.
    pub records: u64,
    /// The hash of the last one; zeros without one.
    pub last: Hash<32>,
}

/// What is wrong with a ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Bytes that are no record, with more after them.
    #[error("the ledger is damaged where its record {number} should be: these bytes are no record")]
    Damaged {
        /// The record that should be there.
        number: u64,
    },
    /// Numbers that do not follow.
    #[error("the ledger has a gap: record {expected} should come, there is {found}")]
    Gap {
        /// What should come.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// A record that does not follow from the one before.
    #[error("record {number} does not follow from the one before it: one of both was rewritten")]
    BrokenChain {
        /// The record.
        number: u64,
    },
    /// A record of somebody else's.
    #[error("record {number} is of {found}, this is the ledger of {expected}")]
    Foreign {
        /// The record.
        number: u64,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// It had seen more before.
    #[error("record {number} has seen less of the other machine than the one before it")]
    Forgotten {
        /// The record.
        number: u64,
    },
    /// Two disks of one machine are not from one moment.
    #[error("the two disks are not from one moment: one has {first} records, the other {second}")]
    Apart {
        /// Records of the first disk's copy.
        first: u64,
        /// Records of the second's.
        second: u64,
    },
    /// Two copies tell different stories.
    #[error("record {number} is not the same on both disks")]
    Different {
        /// The record.
        number: u64,
    },
    /// Less than was there before.
    #[error("{lost} records are lost: {expected} had been verified, {found} are there")]
    Lost {
        /// How many.
        lost: u64,
        /// What had been there.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// Another history than before.
    #[error("history was rewritten: record {number} is another one than had been verified")]
    Rewritten {
        /// The record.
        number: u64,
    },
    /// An effect whose cause is not there.
    #[error(
        "record {number} of {machine} is an effect without its cause: it has seen record {seen} of {other}, which {reason}"
    )]
    EffectWithoutCause {
        /// The effect.
        number: u64,
        /// Whose it is.
        machine: String,
        /// The cause.
        seen: u64,
        /// Whose that is.
        other: String,
        /// What is the matter with it.
        reason: &'static str,
    },
    /// A slot that does not hold what its record says.
    #[error("slot {slot} does not hold the block of record {number}: {found}")]
    WrongBlock {
        /// The slot.
        slot: u64,
        /// The newest record that wrote it.
        number: u64,
        /// What it holds.
        found: String,
    },
}

impl Book {
    /// Reads a copy and checks that it is whole.
    ///
    /// # Errors
    /// The first [`Flaw`].
    pub fn parse(machine: LedgerName, bytes: &[u8]) -> Result<Self, Flaw> {
        let mut records: Vec<Record> = Vec::with_capacity(bytes.len() / RECORD_LEN);
        let (whole, rest) = bytes.as_chunks::<RECORD_LEN>();
        for (index, chunk) in whole.iter().enumerate() {
            let number = index as u64 + 1;
            let Some(record) = Record::decode(chunk) else {
                // Only the very last may be torn: each is durable before the next is begun.
                if index + 1 == whole.len() && rest.is_empty() {
                    return Ok(Self { records, torn_len: RECORD_LEN });
                }
                return Err(Flaw::Damaged { number });
            };
            follows(machine, number, records.last(), &record)?;
            records.push(record);
        }
        Ok(Self { records, torn_len: rest.len() })
    }

    /// Its records; number `n` is at `n - 1`.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Bytes of a record at the end that was not finished.
    #[must_use]
    pub fn torn_len(&self) -> usize {
        self.torn_len
    }

    /// How far it goes.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let last = self.records.last().map_or(Hash([0; 32]), Record::hash);
        Standing { records: self.records.len() as u64, last }
    }

    /// Checks that what was there before still is.
    ///
    /// # Errors
    /// [`Flaw::Lost`], [`Flaw::Rewritten`].
    pub fn contains(&self, earlier: &Standing) -> Result<(), Flaw> {
        let (expected, found) = (earlier.records, self.records.len() as u64);
        let Some(index) = expected.checked_sub(1) else { return Ok(()) };
        match usize::try_from(index).ok().and_then(|index| self.records.get(index)) {
            None => Err(Flaw::Lost { lost: expected - found, expected, found }),
            Some(record) if record.hash() != earlier.last => Err(Flaw::Rewritten { number: expected }),
            Some(_) => Ok(()),
        }
    }
}

fn follows(machine: LedgerName, number: u64, previous: Option<&Record>, record: &Record) -> Result<(), Flaw> {
    if record.machine != machine {
        let (found, expected) = (record.machine.to_string(), machine.to_string());
        return Err(Flaw::Foreign { number, found, expected });
    }
    if record.number != number {
        return Err(Flaw::Gap { expected: number, found: record.number });
    }
    if record.previous != previous.map_or(Hash([0; 32]), Record::hash) {
        return Err(Flaw::BrokenChain { number });
    }
    let seen = |record: &Record| record.seen.map_or(0, |seen| seen.number);
    if seen(record) < previous.map_or(0, seen) {
        return Err(Flaw::Forgotten { number });
    }
    Ok(())
}

/// Checks that the copies on a machine's two disks are from one moment: the second is written after the first, one record at a time.
///
/// # Errors
/// [`Flaw::Apart`], [`Flaw::Different`].
pub fn agree(first: &Book, second: &Book) -> Result<(), Flaw> {
    let (ahead, behind) = (first.records.len(), second.records.len());
    if ahead != behind && ahead != behind + 1 {
        return Err(Flaw::Apart { first: ahead as u64, second: behind as u64 });
    }
    let different = first.records.iter().zip(&second.records).find(|(one, other)| one != other);
    different.map_or(Ok(()), |(record, _)| Err(Flaw::Different { number: record.number }))
}

/// Checks that every record of `effects` refers to a record that `causes` holds.
///
/// # Errors
/// [`Flaw::EffectWithoutCause`].
pub fn causes_are_held(effects: &Book, causes: &Book) -> Result<(), Flaw> {
    for record in &effects.records {
        let Some(seen) = record.seen else { continue };
        let cause = usize::try_from(seen.number - 1).ok().and_then(|index| causes.records.get(index));
        let reason = match cause {
            Some(cause) if cause.as_seen() == seen => continue,
            Some(_) => "is another one there",
            None => "is not there",
        };
        let other =
            causes.records.first().map_or_else(|| "the other machine".to_owned(), |r| r.machine.to_string());
        return Err(Flaw::EffectWithoutCause {
            number: record.number,
            machine: record.machine.to_string(),
            seen: seen.number,
            other,
            reason,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
