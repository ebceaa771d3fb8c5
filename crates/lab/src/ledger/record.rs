//! One record of a ledger.
//!
//! ```text
//!   0    8  machine      its name, padded with zeros
//!   8    8  number       from 1, little-endian like all numbers here
//!  16    8  time         milliseconds since 1970
//!  24   16  payload      of the block in the record's slot: the first bytes of its BLAKE3
//!  40   32  previous     `hash` of the record before; zeros in the first
//!  72    8  seen number  the newest record of the other machine that had been seen; 0: none
//!  80   16  seen hash    the first bytes of that record's `hash`
//!  96   32  hash         BLAKE3 of bytes 0 to 96
//! ```
//!
//! The record's own hash comes last, so that a record that was torn while being written is never taken for a whole one. The size divides the
//! sector's: a record never lies on two sectors.

use std::fmt;
use std::str::FromStr;

/// Bytes of a record.
pub const RECORD_LEN: usize = 128;
const HASHED_LEN: usize = 96;
const SHORT_LEN: usize = 16;

/// A BLAKE3 hash, whole or its beginning.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash<const LEN: usize>(pub [u8; LEN]);

impl<const LEN: usize> Hash<LEN> {
    /// The beginning of what `bytes` hash to.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut hash = [0; LEN];
        hash.copy_from_slice(&blake3::hash(bytes).as_bytes()[..LEN]);
        Self(hash)
    }
}

impl<const LEN: usize> fmt::Display for Hash<LEN> {
    /// Its first eight bytes: enough for people to compare.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const LEN: usize> fmt::Debug for Hash<LEN> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Whose ledger it is: 1 to 8 letters and digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LedgerName([u8; 8]);

impl FromStr for LedgerName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let fits = (1..=8).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !fits {
            return Err(format!("{name:?} cannot name a ledger: 1 to 8 letters and digits"));
        }
        let mut bytes = [0; 8];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self(bytes))
    }
}

impl fmt::Display for LedgerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(String::from_utf8_lossy(&self.0).trim_end_matches('\0'))
    }
}

impl fmt::Debug for LedgerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A record of another machine that was seen before this one was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its number, from 1.
    pub number: u64,
    /// The beginning of its hash.
    pub hash: Hash<SHORT_LEN>,
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub machine: LedgerName,
    /// From 1.
    pub number: u64,
    /// Milliseconds since 1970, by the machine's clock.
    pub time_ms: u64,
    /// Of the block in its slot.
    pub payload: Hash<SHORT_LEN>,
    /// Of the record before.
    pub previous: Hash<32>,
    /// The newest record seen of another machine.
    pub seen: Option<Seen>,
}

impl Record {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_LEN] {
        let mut bytes = [0; RECORD_LEN];
        bytes[..8].copy_from_slice(&self.machine.0);
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.time_ms.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.payload.0);
        bytes[40..72].copy_from_slice(&self.previous.0);
        if let Some(seen) = self.seen {
            bytes[72..80].copy_from_slice(&seen.number.to_le_bytes());
            bytes[80..96].copy_from_slice(&seen.hash.0);
        }
        let hash = Hash::<32>::of(&bytes[..HASHED_LEN]);
        bytes[HASHED_LEN..].copy_from_slice(&hash.0);
        bytes
    }

    /// Reads one. `None`: these bytes are no whole record.
    #[must_use]
    pub fn decode(bytes: &[u8; RECORD_LEN]) -> Option<Self> {
        if Hash::<32>::of(&bytes[..HASHED_LEN]).0 != bytes[HASHED_LEN..] {
            return None;
        }
        let seen = Seen { number: number(bytes, 72), hash: Hash(part(bytes, 80)) };
        Some(Self {
            machine: LedgerName(part(bytes, 0)),
            number: number(bytes, 8),
            time_ms: number(bytes, 16),
            payload: Hash(part(bytes, 24)),
            previous: Hash(part(bytes, 40)),
            seen: (seen.number > 0).then_some(seen),
        })
    }

    /// Its hash, which the next record holds.
    #[must_use]
    pub fn hash(&self) -> Hash<32> {
        Hash(part(&self.encode(), HASHED_LEN))
    }

    /// As another machine refers to it.
    #[must_use]
    pub fn as_seen(&self) -> Seen {
        Seen { number: self.number, hash: Hash(part(&self.hash().0, 0)) }
    }
}

fn part<const LEN: usize>(bytes: &[u8], start: usize) -> [u8; LEN] {
    let mut part = [0; LEN];
    part.copy_from_slice(&bytes[start..start + LEN]);
    part
}

fn number(bytes: &[u8], start: usize) -> u64 {
    u64::from_le_bytes(part(bytes, start))
}
