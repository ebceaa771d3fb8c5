//! Reads the log of the kernel's `dm-log-writes` target: every write a disk was given, in an order a crash could have left behind.
//!
//! The format, from `drivers/md/dm-log-writes.c` and `Documentation/admin-guide/device-mapper/log-writes.rst`; all numbers are little-endian:
//!
//! ```text
//! sector 0:  magic 0x6a736677736872 u64, version 1 u64, entries u64, sector size u32
//! then per entry, one sector:  sector u64, sectors u64, flags u64, data length u64, for a mark its text
//!      followed by `sectors` sectors of data, unless the entry is a discard
//! ```
//!
//! A sector is as large as the logged device's logical block. The kernel adds a write when the flush after it begins (with the flag FUA, when
//! it is complete), so every beginning of the log is a state the disk may have after a crash; a mark is added when user space asks
//! for it. When the device is removed, the rest follows and a last mark, [`END_MARK`]. A log device that is too small stops the
//! log silently: only that mark shows that it is whole.
//!
//! This reader shares no code with the engine: what it says about the engine is worth something.

mod logged_disk;
mod oracle;

use std::io::{self, Read, Seek, SeekFrom};

pub use logged_disk::{Fragments, JudgeError, Judgement, LoggedDisk};
pub use oracle::{Oracle, ReplayError, Verdict};

/// The mark that the kernel ends a log with.
pub const END_MARK: &str = "dm-log-writes-end";

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
/// Fields of the super block, without the rest of its sector.
const SUPER_BYTES: usize = 28;
/// Fields of an entry, before a mark's text.
const ENTRY_BYTES: usize = 32;
/// The kernel's limits of a logical block.
const SECTOR_BYTES: std::ops::RangeInclusive<u32> = 512..=4096;
/// No request of the kernel is larger than its `BLK_SAFE_MAX_SECTORS` by far; more means that the log is damaged.
const DATA_BYTES_MAX: u64 = 64 << 20;

const FLAG_FLUSH: u64 = 1;
const FLAG_FUA: u64 = 2;
const FLAG_DISCARD: u64 = 4;
const FLAG_MARK: u64 = 8;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WriteLogError {
    /// The device that holds the log failed, or ends within the log.
    #[error("cannot read the write log at byte {offset}")]
    Read {
        /// Where in the log.
        offset: u64,
        /// What the system says.
        source: io::Error,
    },
    /// This is no log, or one that was damaged.
    #[error("the write log is damaged or is none: {what} at byte {offset}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// Where in the log.
        offset: u64,
    },
}

/// What an entry does to the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Writes `data` at the entry's offset. Empty for a flush alone.
    Write(Vec<u8>),
    /// Discards this many bytes at the entry's offset; the lab's disks read as zero there.
    Discard(u64),
    /// A point in time with a name, put there by user space.
    Mark(String),
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// What happens there.
    pub action: Action,
    /// Whether a flush came with it.
    pub is_flush: bool,
    /// Whether it was durable when it was complete.
    pub is_fua: bool,
}

/// A log, read from its beginning to its end.
#[derive(Debug)]
pub struct WriteLog<R> {
    input: R,
    offset: u64,
    sector_bytes: u32,
    entries_left: u64,
}

impl<R: Read + Seek> WriteLog<R> {
    /// Opens a log.
    ///
    /// # Errors
    /// [`WriteLogError`]: unreadable, or not a log.
    pub fn open(mut input: R) -> Result<Self, WriteLogError> {
        let read_error = |source| WriteLogError::Read { offset: 0, source };
        let mut fields = [0; SUPER_BYTES];
        input.rewind().and_then(|()| input.read_exact(&mut fields)).map_err(read_error)?;
        let damaged = |what| WriteLogError::Damaged { what, offset: 0 };
        if number(&fields, 0) != MAGIC {
            return Err(damaged("no magic number"));
        }
        if number(&fields, 1) != VERSION {
            return Err(damaged("an unknown version"));
        }
        let sector_bytes = u32::from_le_bytes([fields[24], fields[25], fields[26], fields[27]]);
        if !sector_bytes.is_power_of_two() || !SECTOR_BYTES.contains(&sector_bytes) {
            return Err(damaged("an impossible sector size"));
        }
        input.seek(SeekFrom::Start(sector_bytes.into())).map_err(read_error)?;
        Ok(Self { input, offset: sector_bytes.into(), sector_bytes, entries_left: number(&fields, 2) })
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// [`WriteLogError`]: the log cannot be read further.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, WriteLogError> {
        if self.entries_left == 0 {
            return Ok(None);
        }
        let start = self.offset;
        let damaged = |what| WriteLogError::Damaged { what, offset: start };
        let header = self.read(self.sector_bytes as usize)?;
        let [sector, sectors, flags, data_bytes] = [0, 1, 2, 3].map(|index| number(&header, index));
        let in_bytes = |sectors: u64| {
            sectors.checked_mul(self.sector_bytes.into()).ok_or_else(|| damaged("an impossible range"))
        };
        let (offset, length) = (in_bytes(sector)?, in_bytes(sectors)?);
        let action = if flags & FLAG_MARK != 0 {
            let text =
                usize::try_from(data_bytes).ok().and_then(|length| header[ENTRY_BYTES..].get(..length));
            let text = text.ok_or_else(|| damaged("a mark longer than its sector"))?;
            Action::Mark(String::from_utf8_lossy(text).into_owned())
        } else if flags & FLAG_DISCARD != 0 {
            Action::Discard(length)
        } else if length <= DATA_BYTES_MAX {
            Action::Write(self.read(usize::try_from(length).map_err(|_| damaged("a write too large"))?)?)
        } else {
            return Err(damaged("a write too large"));
        };
        self.entries_left -= 1;
        Ok(Some(Entry { offset, action, is_flush: flags & FLAG_FLUSH != 0, is_fua: flags & FLAG_FUA != 0 }))
    }

    fn read(&mut self, length: usize) -> Result<Vec<u8>, WriteLogError> {
        let mut bytes = vec![0; length];
        self.input
            .read_exact(&mut bytes)
            .map_err(|source| WriteLogError::Read { offset: self.offset, source })?;
        self.offset += length as u64;
        Ok(bytes)
    }
}

/// The `index`-th 64-bit number.
fn number(bytes: &[u8], index: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests;
