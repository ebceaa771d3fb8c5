//! A frame: one extent of a disk with its contents, checksummed.
//!
//! # Header, 64 bytes, all integers little-endian
//! ```text
//! offset size
//!  0     4   magic "SBFR"
//!  4     1   kind: 0 zero, 1 raw, 2 zstd
//!  5     3   reserved, 0
//!  8     8   start: first byte on the disk
//! 16     4   len: bytes on the disk, 1 ..= FRAME_MAX
//! 20     4   stored_len: bytes that follow this header
//! 24    32   checksum of the contents (see `content_checksum`)
//! 56     8   reserved, 0
//! ```
//! Magic first: a reader that has lost its place notices at once. Then what is needed to find the next
//! header (`stored_len`) and to place the data; the checksum last, as it is only used with the data.
//! The checksum is of the *contents*, so it stays the same when a frame is compressed or encrypted, and
//! holds from the source's memory to the target's.
//!
//! No length is trusted: all are checked against [`FRAME_MAX`] before anything is allocated, and zstd
//! decodes into a buffer of exactly `len` bytes.

use bytes::Bytes;
use switchback_model::Extent;

use crate::digest::{Digest, content_checksum, digest_of, pieces};

/// Most bytes of a disk in one frame.
pub const FRAME_MAX: u32 = 1 << 20;
/// Bytes of an encoded header.
pub const FRAME_HEADER_LEN: usize = 64;

const MAGIC: [u8; 4] = *b"SBFR";

/// How a frame's contents are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// All zeros: nothing is stored.
    Zero,
    /// As they are.
    Raw,
    /// One zstd frame.
    Zstd,
}

impl FrameKind {
    /// The number that stands for it in headers and indexes.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Zero => 0,
            Self::Raw => 1,
            Self::Zstd => 2,
        }
    }

    /// The kind that a number stands for.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::Zero, Self::Raw, Self::Zstd].into_iter().find(|kind| kind.code() == code)
    }

    /// Whether `len` bytes can be stored in `stored_len`.
    pub(crate) fn fits(self, len: u32, stored_len: u32) -> bool {
        match self {
            Self::Zero => stored_len == 0,
            Self::Raw => stored_len == len,
            Self::Zstd => stored_len > 0 && stored_len < len,
        }
    }
}

/// One extent of a disk with its contents as they are stored or sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where on the disk; at most [`FRAME_MAX`] bytes, never empty.
    pub extent: Extent,
    /// How `stored` holds the contents.
    pub kind: FrameKind,
    /// The contents' checksum.
    pub checksum: [u8; 32],
    /// The stored bytes: none, the contents, or a zstd frame. When they were read into an aligned
    /// buffer, these bytes are aligned (see `Bytes::from_owner`), and a raw frame can be written
    /// with direct I/O as it is.
    pub stored: Bytes,
}

/// Why bytes are not an intact frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// No frame header here.
    #[error("not a frame header: {field} is {found}")]
    Header {
        /// Which field is impossible.
        field: &'static str,
        /// What it holds.
        found: u64,
    },
    /// zstd could not decode the stored bytes to the promised length.
    #[error("the compressed contents of {extent} cannot be decoded")]
    Compression {
        /// Where on the disk.
        extent: Extent,
    },
    /// The contents differ from what was written.
    #[error("the contents of {extent} do not match their checksum")]
    Checksum {
        /// Where on the disk.
        extent: Extent,
    },
}

impl Frame {
    /// A frame of `contents`, raw or, when they are all zero, a zero frame. `digests` are those of its
    /// [`pieces`]; whoever has them already (from a scan) passes them so that nothing is hashed twice.
    ///
    /// # Panics
    /// When the lengths do not fit: the caller cuts frames.
    #[must_use]
    pub fn new(extent: Extent, contents: Bytes, digests: &[Digest]) -> Self {
        assert_eq!(contents.len() as u64, extent.len, "the contents are those of the extent");
        assert!((1..=u64::from(FRAME_MAX)).contains(&extent.len), "callers cut frames at FRAME_MAX");
        let zero = digests.iter().all(|digest| *digest == Digest::ZERO);
        Self {
            extent,
            kind: if zero { FrameKind::Zero } else { FrameKind::Raw },
            checksum: content_checksum(extent, digests.iter().copied()),
            stored: if zero { Bytes::new() } else { contents },
        }
    }

    /// A frame of `contents`, hashing them.
    ///
    /// # Panics
    /// As [`Frame::new`].
    #[must_use]
    pub fn of(extent: Extent, contents: Bytes) -> Self {
        let digests: Vec<_> = pieces(extent, &contents).map(|(_, data)| digest_of(data)).collect();
        Self::new(extent, contents, &digests)
    }

    /// A frame of zeros.
    ///
    /// # Panics
    /// When the extent is empty or longer than [`FRAME_MAX`].
    #[must_use]
    pub fn zero(extent: Extent) -> Self {
        assert!((1..=u64::from(FRAME_MAX)).contains(&extent.len), "callers cut frames at FRAME_MAX");
        let digests = extent.pieces(crate::LEAF.into()).map(|_| Digest::ZERO);
        let checksum = content_checksum(extent, digests);
        Self { extent, kind: FrameKind::Zero, checksum, stored: Bytes::new() }
    }

    /// The same frame with its contents compressed, if that saves at least an eighth; else as it is.
    #[must_use]
    pub fn compressed(self, compressor: &mut zstd::bulk::Compressor<'_>) -> Self {
        if self.kind != FrameKind::Raw {
            return self;
        }
        let mut out = vec![0; self.stored.len() / 8 * 7];
        match compressor.compress_to_buffer(&self.stored, &mut out) {
            Ok(len) => {
                out.truncate(len);
                Self { kind: FrameKind::Zstd, stored: out.into(), ..self }
            }
            // The one error with a sound context: it did not fit, so it does not pay.
            Err(_) => self,
        }
    }

    /// The contents, verified against the checksum, and the digests of their [`pieces`]. A raw frame's
    /// contents are `stored` itself, not a copy.
    ///
    /// # Errors
    /// When the stored bytes are not what was written.
    pub fn contents(&self) -> Result<(Bytes, Vec<Digest>), FrameError> {
        let extent = self.extent;
        let len = usize::try_from(extent.len).expect("at most FRAME_MAX");
        let contents = match self.kind {
            FrameKind::Raw => self.stored.clone(),
            FrameKind::Zero => Bytes::from_static(&ZEROS[..len]),
            // The one bit that zstd's decoder ignores and its encoder leaves 0 (RFC 8878, 3.1.1.1.1.3):
            // flipped, the contents would be right, but damage is to be noticed while it is small.
            FrameKind::Zstd if self.stored.get(4).is_some_and(|descriptor| descriptor & 0x10 != 0) => {
                return Err(FrameError::Compression { extent });
            }
            FrameKind::Zstd => {
                let mut out = vec![0; len];
                match zstd::bulk::decompress_to_buffer(&self.stored, &mut out) {
                    Ok(written) if written == len => out.into(),
                    _ => return Err(FrameError::Compression { extent }),
                }
            }
        };
        if contents.len() != len {
            return Err(FrameError::Checksum { extent });
        }
        let digests: Vec<_> = if self.kind == FrameKind::Zero {
            extent.pieces(crate::LEAF.into()).map(|_| Digest::ZERO).collect()
        } else {
            pieces(extent, &contents).map(|(_, data)| digest_of(data)).collect()
        };
        if content_checksum(extent, digests.iter().copied()) != self.checksum {
            return Err(FrameError::Checksum { extent });
        }
        Ok((contents, digests))
    }

    /// The header as bytes.
    #[must_use]
    pub fn header(&self) -> [u8; FRAME_HEADER_LEN] {
        self.header_with(&self.checksum)
    }

    /// The header as bytes, with `checksum` in the place of the frame's.
    pub(crate) fn header_with(&self, checksum: &[u8; 32]) -> [u8; FRAME_HEADER_LEN] {
        let mut out = [0; FRAME_HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC);
        out[4] = self.kind.code();
        out[8..16].copy_from_slice(&self.extent.start.to_le_bytes());
        out[16..20].copy_from_slice(&self.extent.len.to_le_bytes()[..4]);
        out[20..24].copy_from_slice(&self.stored.len().to_le_bytes()[..4]);
        out[24..56].copy_from_slice(checksum);
        out
    }

    /// Decodes a header: the frame without its stored bytes, and how many of them must follow.
    ///
    /// # Errors
    /// When this is no header, or its lengths are impossible.
    pub fn parse_header(bytes: &[u8; FRAME_HEADER_LEN]) -> Result<(Self, usize), FrameError> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let refuse = |field, found: u64| Err(FrameError::Header { field, found });
        if bytes[0..4] != MAGIC {
            return refuse("magic", u32_at(0).into());
        }
        if let Some(reserved) = bytes[5..8].iter().chain(&bytes[56..64]).find(|byte| **byte != 0) {
            return refuse("reserved", (*reserved).into());
        }
        let start = u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32;
        let (len, stored_len) = (u32_at(16), u32_at(20));
        if len == 0 || len > FRAME_MAX {
            return refuse("length", len.into());
        }
        let Some(extent) = Extent::checked(start, len.into()) else { return refuse("start", start) };
        let Some(kind) = FrameKind::from_code(bytes[4]) else { return refuse("kind", bytes[4].into()) };
        if !kind.fits(len, stored_len) {
            return refuse("stored length", stored_len.into());
        }
        let mut checksum = [0; 32];
        checksum.copy_from_slice(&bytes[24..56]);
        Ok((Self { extent, kind, checksum, stored: Bytes::new() }, stored_len as usize))
    }
}

static ZEROS: [u8; FRAME_MAX as usize] = [0; FRAME_MAX as usize];

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "samples are small, and bytes are cut on purpose")]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};
    use switchback_model::Extent;

    use super::{FRAME_HEADER_LEN, FRAME_MAX, Frame, FrameKind};

    fn sample(start: u64, len: usize, kind: u8) -> Bytes {
        (0..len)
            .map(|n| match kind {
                0 => 0,
                1 => ((start as usize + n) / 512) as u8,
                _ => (blake3::hash(&((start as usize + n) as u64).to_le_bytes()).as_bytes())[0],
            })
            .collect::<Vec<_>>()
            .into()
    }

    proptest! {
        #[test]
        fn comes_back_as_it_was(start in 0_u64..1 << 40, len in 1_usize..200_000, kind in 0_u8..3) {
            let (extent, contents) = (Extent::new(start, len as u64), sample(start, len, kind));
            let mut zstd = zstd::bulk::Compressor::new(-1).unwrap();
            let frame = Frame::of(extent, contents.clone()).compressed(&mut zstd);
            if kind == 0 {
                prop_assert_eq!(frame.kind, FrameKind::Zero);
                prop_assert_eq!(&frame, &Frame::zero(extent));
            }
            let (mut back, stored_len) = Frame::parse_header(&frame.header()).unwrap();
            prop_assert_eq!(stored_len, frame.stored.len());
            back.stored = frame.stored.clone();
            prop_assert_eq!(&back, &frame);
            prop_assert_eq!(back.contents().unwrap().0, contents);
        }

        #[test]
        fn a_flipped_bit_never_passes_as_other_contents(len in 1_usize..5000, kind in 0_u8..3, bit in any::<prop::sample::Index>()) {
            let extent = Extent::new(4096, len as u64);
            let mut zstd = zstd::bulk::Compressor::new(-1).unwrap();
            let contents = sample(4096, len, kind);
            let frame = Frame::of(extent, contents.clone()).compressed(&mut zstd);
            let mut bytes = [&frame.header()[..], &frame.stored].concat();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (header, stored) = bytes.split_at(FRAME_HEADER_LEN);
            if let Ok((mut back, stored_len)) = Frame::parse_header(header.try_into().unwrap()) {
                back.stored = Bytes::copy_from_slice(stored);
                // Some bits of a zstd frame mean nothing: what is decoded is the same then. What encloses a frame (the
                // delta file, TLS) notices those too.
                let same = |back: &Frame| back.contents().is_ok_and(|(back, _)| back == contents);
                prop_assert!(stored_len != stored.len() || back.contents().is_err() || same(&back));
            }
        }
    }

    #[test]
    fn hostile_lengths_are_refused_before_anything_is_allocated() {
        let header = Frame::zero(Extent::new(0, FRAME_MAX.into())).header();
        let with = |at: usize, value: u64, size: usize| {
            let mut bytes = header;
            bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
            Frame::parse_header(&bytes).is_err()
        };
        assert!(with(16, 0, 4) && with(16, u64::from(FRAME_MAX) + 1, 4) && with(16, u64::MAX, 4));
        assert!(
            with(20, 1, 4) && with(20, u64::MAX, 4) && with(8, u64::MAX, 8) && with(4, 1, 1) && with(4, 9, 1)
        );
    }
}
