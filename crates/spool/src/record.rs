//! The records of the log: what each holds, and how as bytes.
//!
//! # Record: head (24 bytes), tag (16 bytes), payload; all integers little-endian
//! ```text
//! offset size
//!  0     4   magic "SBSR"
//!  4     1   kind (below)
//!  5     3   reserved, 0
//!  8     8   number: of the record over the whole life of the spool
//! 16     4   len: bytes of the payload
//! 20     4   reserved, 0
//! 24    16   tag over head and payload, see `seal`
//! 40   len   payload, encrypted if the segment is
//! ```
//! Magic first: a reader that has lost its place notices at once. The number before the length: a record
//! that is out of place is refused before its length is used for anything. The tag behind all that it covers
//! of the head, before the payload, so that head and tag are read in one go and tell how much follows.
//!
//! # Payloads
//! ```text
//! 1 open        JSON `OpenRecord`
//! 2 part-begin  seq u64, part u32, disk u16, 2 reserved
//! 3 frame       header of the frame (64 bytes, `delta::Frame`), its stored bytes
//! 4 part-end    checksum of the part (32 bytes)
//! 5 commit      JSON `CommitCycle`
//! 6 abort       seq u64
//! ```
//! JSON where a person may have to look and a field may be added; binary where there are many. No length is
//! trusted: each kind has its own most, checked before anything is allocated.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use switchback_delta::{FRAME_HEADER_LEN, FRAME_MAX, Frame};
use switchback_model::{DiskIndex, Epoch, PartIndex, Seq};
use switchback_replica::{CommitCycle, OpenCycle, PartHeader};

use crate::seal::TAG_LEN;

/// Bytes of a record's head, which the tag covers.
pub(crate) const HEAD_LEN: usize = 24;
/// Bytes before a record's payload.
pub(crate) const RECORD_HEADER_LEN: usize = HEAD_LEN + TAG_LEN;
/// Most bytes of JSON in a record. A reason or a group tag is a sentence.
pub(crate) const JSON_LEN_MAX: usize = 64 * 1024;

const MAGIC: [u8; 4] = *b"SBSR";
const PART_BEGIN_LEN: usize = 16;
const PART_END_LEN: usize = 32;
const ABORT_LEN: usize = 8;

/// Kinds, as numbered in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    Open = 1,
    PartBegin = 2,
    Frame = 3,
    PartEnd = 4,
    Commit = 5,
    Abort = 6,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Open, Self::PartBegin, Self::Frame, Self::PartEnd, Self::Commit, Self::Abort]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    /// Most bytes of a payload.
    fn len_max(self) -> usize {
        match self {
            Self::Open | Self::Commit => JSON_LEN_MAX,
            Self::PartBegin => PART_BEGIN_LEN,
            Self::Frame => FRAME_HEADER_LEN + FRAME_MAX as usize,
            Self::PartEnd => PART_END_LEN,
            Self::Abort => ABORT_LEN,
        }
    }
}

/// A cycle was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenRecord {
    /// The point it will become.
    pub(crate) seq: Seq,
    /// Under which epoch its data was written, and has to be forwarded.
    pub(crate) epoch: Epoch,
    /// As the writer asked.
    pub(crate) request: OpenCycle,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Open(OpenRecord),
    PartBegin(PartHeader),
    Frame(Frame),
    PartEnd { checksum: [u8; 32] },
    Commit(CommitCycle),
    Abort { seq: Seq },
}

/// A record's head, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: RecordKind,
    pub(crate) number: u64,
    pub(crate) len: usize,
}

/// Why a record cannot be written: it comes from a writer who sends too much.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} has {len} bytes, more than the {len_max} it may have")]
pub(crate) struct TooLong {
    what: &'static str,
    len: usize,
    len_max: usize,
}

impl Head {
    /// As bytes.
    pub(crate) fn encode(self) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = self.kind as u8;
        out[8..16].copy_from_slice(&self.number.to_le_bytes());
        let len = u32::try_from(self.len).expect("every kind's most is below 4 GiB");
        out[16..20].copy_from_slice(&len.to_le_bytes());
        out
    }

    /// From bytes that may be anything; what is wrong with them.
    pub(crate) fn decode(bytes: &[u8; HEAD_LEN]) -> Result<Self, &'static str> {
        if bytes[..4] != MAGIC {
            return Err("no record begins here");
        }
        if bytes[5..8].iter().chain(&bytes[20..24]).any(|byte| *byte != 0) {
            return Err("reserved bytes are not zero");
        }
        let kind = RecordKind::from_byte(bytes[4]).ok_or("unknown kind of record")?;
        let len = u32_at(bytes, 16) as usize;
        if len > kind.len_max() {
            return Err("impossible length");
        }
        Ok(Self { kind, number: u64_at(bytes, 8), len })
    }
}

impl Record {
    /// Which kind.
    pub(crate) fn kind(&self) -> RecordKind {
        match self {
            Self::Open(_) => RecordKind::Open,
            Self::PartBegin(_) => RecordKind::PartBegin,
            Self::Frame(_) => RecordKind::Frame,
            Self::PartEnd { .. } => RecordKind::PartEnd,
            Self::Commit(_) => RecordKind::Commit,
            Self::Abort { .. } => RecordKind::Abort,
        }
    }

    /// Appends the payload to `out`, or leaves it as it is.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let json = |what, value: serde_json::Result<Vec<u8>>| {
            let json = value.expect("plain data with text keys always serializes");
            let (len, len_max) = (json.len(), JSON_LEN_MAX);
            if len > len_max { Err(TooLong { what, len, len_max }) } else { Ok(json) }
        };
        match self {
            Self::Open(open) => out.extend(json("the request to open a cycle", serde_json::to_vec(open))?),
            Self::PartBegin(header) => {
                out.extend(header.seq.0.to_le_bytes());
                out.extend(header.part.0.to_le_bytes());
                out.extend(header.disk.0.to_le_bytes());
                out.extend([0; 2]);
            }
            Self::Frame(frame) => {
                out.extend(frame.header());
                out.extend_from_slice(&frame.stored);
            }
            Self::PartEnd { checksum } => out.extend(checksum),
            Self::Commit(commit) => out.extend(json("the commit", serde_json::to_vec(commit))?),
            Self::Abort { seq } => out.extend(seq.0.to_le_bytes()),
        }
        Ok(())
    }

    /// From a payload whose tag was right; what is wrong with it all the same.
    pub(crate) fn decode(kind: RecordKind, payload: Bytes) -> Result<Self, String> {
        let short = || "the payload is too short".to_string();
        let exactly =
            |len: usize| if payload.len() == len { Ok(()) } else { Err("wrong length".to_string()) };
        match kind {
            RecordKind::Open => serde_json::from_slice(&payload).map(Self::Open).map_err(|e| e.to_string()),
            RecordKind::PartBegin => {
                exactly(PART_BEGIN_LEN)?;
                Ok(Self::PartBegin(PartHeader {
                    seq: Seq(u64_at(&payload, 0)),
                    part: PartIndex(u32_at(&payload, 8)),
                    disk: DiskIndex(u16::from_le_bytes([payload[12], payload[13]])),
                }))
            }
            RecordKind::Frame => {
                let header = payload.first_chunk::<FRAME_HEADER_LEN>().ok_or_else(short)?;
                let (mut frame, stored_len) = Frame::parse_header(header).map_err(|e| e.to_string())?;
                exactly(FRAME_HEADER_LEN + stored_len)?;
                frame.stored = payload.slice(FRAME_HEADER_LEN..);
                Ok(Self::Frame(frame))
            }
            RecordKind::PartEnd => {
                let checksum = *payload.first_chunk::<PART_END_LEN>().ok_or_else(short)?;
                exactly(PART_END_LEN).map(|()| Self::PartEnd { checksum })
            }
            RecordKind::Commit => {
                serde_json::from_slice(&payload).map(Self::Commit).map_err(|e| e.to_string())
            }
            RecordKind::Abort => exactly(ABORT_LEN).map(|()| Self::Abort { seq: Seq(u64_at(&payload, 0)) }),
        }
    }
}

/// The number at `at`.
///
/// # Panics
/// When `bytes` ends before: callers have checked.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the caller has checked the length"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the caller has checked the length"))
}

#[cfg(test)]
pub(crate) mod tests;
