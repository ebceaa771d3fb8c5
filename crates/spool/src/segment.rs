//! Segments: the files of the log.
//!
//! A segment is named `segment-<number of its first record, 16 hexadecimal digits>.log`, so that the order of
//! names is the order of records.
//!
//! # Segment: header (80 bytes), then records (see `record`) up to the end; integers little-endian
//! ```text
//! offset size
//!  0     8   magic "SBSPOOL" and the format's version, 1
//!  8     1   protection: 0 checksums, 1 AES-256-GCM
//!  9     7   reserved, 0
//! 16    16   id of the spool
//! 32     8   number of the first record
//! 40    16   salt, random
//! 56     8   id of the key, 0 without
//! 64    16   checksum of all before: the first bytes of its BLAKE3 hash
//! ```
//! Magic and version first, as only they say how to read the rest. Then how records are protected, which says
//! whether a key is needed; then what the records are bound to (spool, number, salt). The keys of the seal are
//! derived from all 80 bytes, so a segment with another header has no valid record. The checksum at the end
//! still tells a damaged header from a wrong key.
//!
//! A segment is written strictly forwards by one life of one process. What is behind the acknowledged
//! position is cut off by a restart, and nothing is ever written where something was cut off.

use std::io;

use bytes::Bytes;
use switchback_disk::{Volume, VolumeFile};

use crate::error::SpoolError;
use crate::record::{HEAD_LEN, Head, RECORD_HEADER_LEN, Record, TooLong, u64_at};
use crate::seal::{Seal, SpoolKey, TAG_LEN};

/// Bytes of a segment's header.
pub(crate) const HEADER_LEN: usize = 80;
/// Written at once: large enough for the disk, small enough for the cache of a processor.
const BUFFER_LEN: usize = 1 << 20;
/// Read at once while records are small.
const READ_AHEAD: usize = 128 * 1024;

const MAGIC: [u8; 8] = *b"SBSPOOL\x01";

/// The name of the segment whose first record is `first`.
pub(crate) fn segment_name(first: u64) -> String {
    format!("segment-{first:016x}.log")
}

/// The number of the first record, from a name; `None` if it is no segment's.
pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".log")?;
    let first = u64::from_str_radix(digits, 16).ok()?;
    (segment_name(first) == name).then_some(first)
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    spool: [u8; 16],
    first: u64,
    salt: [u8; 16],
    key: Option<[u8; 8]>,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8] = self.key.is_some().into();
        out[16..32].copy_from_slice(&self.spool);
        out[32..40].copy_from_slice(&self.first.to_le_bytes());
        out[40..56].copy_from_slice(&self.salt);
        out[56..64].copy_from_slice(&self.key.unwrap_or_default());
        let hash = blake3::hash(&out[..64]);
        out[64..].copy_from_slice(&hash.as_bytes()[..16]);
        out
    }

    fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, &'static str> {
        if bytes[..8] != MAGIC {
            return Err("it does not begin as a segment of this version");
        }
        if bytes[64..] != blake3::hash(&bytes[..64]).as_bytes()[..16] {
            return Err("the header does not match its checksum");
        }
        let array = |at: usize| *bytes[at..].first_chunk::<16>().expect("within the header");
        let key = match bytes[8] {
            0 => None,
            1 => Some(*bytes[56..].first_chunk().expect("within the header")),
            _ => return Err("unknown protection"),
        };
        Ok(Self { spool: array(16), first: u64_at(bytes, 32), salt: array(40), key })
    }
}

/// Appends records to one segment.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    name: String,
    file: Box<dyn VolumeFile>,
    seal: Seal,
    /// Bytes of the file that have been written.
    written: u64,
    /// What follows them.
    buffer: Vec<u8>,
}

impl SegmentWriter {
    /// Creates the segment and makes its name durable.
    pub(crate) fn create(
        volume: &dyn Volume,
        spool: [u8; 16],
        first: u64,
        salt: [u8; 16],
        key: Option<&SpoolKey>,
    ) -> Result<Self, SpoolError> {
        let name = segment_name(first);
        let header = Header { spool, first, salt, key: key.map(SpoolKey::id) }.encode();
        let create = || {
            // Left by a failed attempt, or by a restart that was cut short; it holds nothing acknowledged,
            // else this would not be the next number.
            match volume.remove(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let file = volume.create(&name)?;
            file.write_at(0, &header)?;
            file.sync()?;
            volume.sync()?;
            Ok(file)
        };
        let file = create().map_err(SpoolError::io(format!("creating {name}")))?;
        let seal = Seal::new(key, &header);
        Ok(Self { name, file, seal, written: HEADER_LEN as u64, buffer: Vec::new() })
    }

    /// Bytes with what is still in memory.
    pub(crate) fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Adds a record, in memory at first. `TooLong` leaves everything as it was.
    pub(crate) fn append(&mut self, number: u64, record: &Record) -> Result<(), TooLong> {
        let start = self.buffer.len();
        self.buffer.resize(start + RECORD_HEADER_LEN, 0);
        if let Err(error) = record.encode(&mut self.buffer) {
            self.buffer.truncate(start);
            return Err(error);
        }
        let (header, payload) = self.buffer[start..].split_at_mut(RECORD_HEADER_LEN);
        let head = Head { kind: record.kind(), number, len: payload.len() }.encode();
        header[..HEAD_LEN].copy_from_slice(&head);
        header[HEAD_LEN..].copy_from_slice(&self.seal.seal(number, &head, payload));
        Ok(())
    }

    /// Writes what is in memory if it is enough for a write, or `all` of it.
    pub(crate) fn flush(&mut self, all: bool) -> Result<(), SpoolError> {
        if self.buffer.len() >= BUFFER_LEN || (all && !self.buffer.is_empty()) {
            let write = self.file.write_at(self.written, &self.buffer);
            write.map_err(SpoolError::io(format!("writing {}", self.name)))?;
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Cuts what is behind `len`, if none of it has been written; whether that was so.
    pub(crate) fn cut_in_memory(&mut self, len: u64) -> bool {
        let kept = len.checked_sub(self.written).and_then(|kept| usize::try_from(kept).ok());
        kept.inspect(|kept| self.buffer.truncate(*kept)).is_some()
    }

    /// Makes all of it durable. A disk that is full only now has lost what it had taken: that is a failure, not
    /// something to wait for.
    pub(crate) fn sync(&mut self) -> Result<(), SpoolError> {
        self.flush(true)?;
        self.file.sync().map_err(io::Error::other).map_err(SpoolError::io(format!("syncing {}", self.name)))
    }
}

/// Why a segment cannot be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// It is not what was written, from this byte on.
    Damaged { offset: u64, detail: String },
    /// Under a key that is not there; its id.
    WrongKey(String),
    /// The disk's error.
    Io(io::Error),
}

impl ReadError {
    /// In the words of the spool.
    pub(crate) fn of(self, segment: String) -> SpoolError {
        match self {
            Self::Damaged { offset, detail } => SpoolError::Damaged { segment, offset, detail },
            Self::WrongKey(key) => SpoolError::WrongKey { segment, key },
            Self::Io(source) => SpoolError::Io { action: format!("reading {segment}"), source },
        }
    }
}

/// Reads the records of one segment in order.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    file: Box<dyn VolumeFile>,
    seal: Seal,
    first: u64,
    number: u64,
    offset: u64,
    /// Bytes of the file from `ahead_offset` on.
    ahead: Vec<u8>,
    ahead_offset: u64,
}

impl SegmentReader {
    /// Begins at the segment's first record.
    pub(crate) fn open(
        file: Box<dyn VolumeFile>,
        spool: [u8; 16],
        first: u64,
        key: Option<&SpoolKey>,
    ) -> Result<Self, ReadError> {
        let mut bytes = [0; HEADER_LEN];
        let damaged = |detail: &str| ReadError::Damaged { offset: 0, detail: detail.into() };
        if file.len().map_err(ReadError::Io)? < HEADER_LEN as u64 {
            return Err(damaged("it ends within its header"));
        }
        file.read_at(0, &mut bytes).map_err(ReadError::Io)?;
        let header = Header::decode(&bytes).map_err(damaged)?;
        if header.spool != spool {
            return Err(damaged("it belongs to another spool"));
        }
        if header.first != first {
            return Err(damaged("it has another segment's name"));
        }
        let key = match header.key {
            None => None,
            Some(id) => match key {
                Some(key) if key.id() == id => Some(key),
                _ => return Err(ReadError::WrongKey(hex(&id))),
            },
        };
        let (seal, offset) = (Seal::new(key, &bytes), HEADER_LEN as u64);
        Ok(Self { file, seal, first, number: first, offset, ahead: Vec::new(), ahead_offset: offset })
    }

    /// Goes to a place that is known to be the beginning of record `number`.
    pub(crate) fn seek(&mut self, number: u64, offset: u64) {
        (self.number, self.offset) = (number, offset);
    }

    /// The number of the segment's first record.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The segment's name.
    pub(crate) fn name(&self) -> String {
        segment_name(self.first)
    }

    /// The number of the next record.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Where the next record begins, in bytes from the start of the file.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record, which must be there.
    pub(crate) fn next(&mut self) -> Result<Record, ReadError> {
        let offset = self.offset;
        let damaged = |detail: &str| ReadError::Damaged { offset, detail: detail.into() };
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("the file ends before it should"),
            _ => ReadError::Io(error),
        };
        let mut header = [0; RECORD_HEADER_LEN];
        self.read(offset, &mut header).map_err(cut)?;
        let (head_bytes, tag) = header.split_at(HEAD_LEN);
        let head_bytes = head_bytes.first_chunk().expect("cut at HEAD_LEN");
        let tag: &[u8; TAG_LEN] = tag.first_chunk().expect("the rest has TAG_LEN bytes");
        let head = Head::decode(head_bytes).map_err(damaged)?;
        if head.number != self.number {
            return Err(damaged("a record of another number stands here"));
        }
        let mut payload = vec![0; head.len];
        self.read(offset + RECORD_HEADER_LEN as u64, &mut payload).map_err(cut)?;
        if !self.seal.open(head.number, head_bytes, tag, &mut payload) {
            return Err(damaged("the record does not match its checksum"));
        }
        let record = Record::decode(head.kind, Bytes::from(payload)).map_err(|detail| damaged(&detail))?;
        self.number += 1;
        self.offset += (RECORD_HEADER_LEN + head.len) as u64;
        Ok(record)
    }

    /// Fills `buf` from `offset`: as far as possible from memory, what is small with what follows it.
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset.wrapping_sub(self.ahead_offset)).unwrap_or(usize::MAX);
        let have = self.ahead.get(from..).unwrap_or_default();
        let known = have.len().min(buf.len());
        buf[..known].copy_from_slice(&have[..known]);
        let (offset, buf) = (offset + known as u64, &mut buf[known..]);
        if buf.is_empty() {
            return Ok(());
        }
        if buf.len() >= READ_AHEAD {
            return self.file.read_at(offset, buf);
        }
        let left = usize::try_from(self.file.len()?.saturating_sub(offset)).unwrap_or(usize::MAX);
        self.ahead.resize(left.min(READ_AHEAD), 0);
        self.ahead_offset = offset;
        if let Err(error) = self.file.read_at(offset, &mut self.ahead) {
            self.ahead.clear();
            return Err(error);
        }
        buf.copy_from_slice(self.ahead.get(..buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
