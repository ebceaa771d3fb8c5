//! The delta file: one disk's changed extents, from one recovery point to another, in one stream.
//!
//! All integers are little-endian; all checksums are BLAKE3. Version 1 is
//! ```text
//! header · frame · frame · … · index header · index entry · index entry · … · trailer
//! ```
//!
//! # Header, 160 bytes
//! ```text
//! offset size
//!   0     8   magic "SBDELTA\0"
//!   8     2   version: 1
//!  10     2   flags: 1 encrypted, 2 reverse
//!  12     2   position of the disk
//!  14     2   reserved, 0
//!  16    16   replica
//!  32     8   epoch
//!  40     8   size of the disk in bytes
//!  48     8   forward: the cycle.  reverse: the newer point, which this delta undoes
//!  56     8   forward: the part (u32). reverse: the older point, which it restores
//!  64    32   salt, random               (not encrypted: 0)
//!  96     8   id of the key              (not encrypted: 0)
//! 104    24   reserved, 0
//! 128    32   checksum of bytes 0..128
//! ```
//! Magic and version first, so that anything else is refused by its first bytes. Every version keeps the
//! length and the place of the checksum: a flipped bit in the version is told apart from a newer release.
//! What says *whether* to read on (replica, epoch, disk) comes before what says *how* (salt, key).
//!
//! # Frame
//! 64 bytes of header (see `frame`), `stored_len` stored bytes, and in an encrypted file 16 bytes of tag
//! (see `crypt`; the header's checksum is masked there). Sorted by start, not overlapping, within the disk.
//!
//! # Index: 64 bytes of header, 32 bytes for each frame
//! ```text
//!   0     4   magic "SBIX"                       0     8   start: first byte on the disk
//!   4     4   reserved, 0                        8     4   len: bytes on the disk
//!   8     8   count of entries                  12     4   stored_len
//!  16    16   reserved, 0                       16     8   offset of the frame's header in the file
//!  32    32   checksum of the entries,          24     1   kind
//!             then of bytes 0..32               25     7   reserved, 0
//! ```
//! The index header is as long as a frame's, so that a reader of the stream always reads 64 bytes next and
//! sees by their magic whether it has come to the end. The index follows from the frames: a stream's reader
//! checks it without keeping it, by hashing what it must be.
//!
//! # Trailer, the last 128 bytes
//! ```text
//!   0     8   magic "SBDEND\0\0"
//!   8     8   offset of the index header
//!  16     8   count of frames
//!  24     8   bytes of contents: the sum of `len`
//!  32    16   reserved, 0
//!  48    32   whole checksum: of the header, every frame's header, and the index
//!  80    16   tag over index header ‖ trailer 0..80   (not encrypted: 0)
//!  96    32   checksum of bytes 0..96
//! ```
//! Why at the end: a delta is written as it is found, in one pass, to things that cannot seek (a
//! connection, an append-only log); and a file whose tail is missing is refused by its last bytes alone.
//! The whole checksum covers the contents without hashing them twice: the frames' headers hold theirs.

use std::ops::RangeInclusive;

use bytes::Bytes;
use switchback_model::{DiskIndex, Epoch, Extent, PartIndex, ReplicaId, Seq};

use crate::crypt::{DeltaKey, FileCipher, KeyId, TAG_LEN};
use crate::error::DeltaError;
use crate::frame::{FRAME_HEADER_LEN, FRAME_MAX, Frame, FrameError, FrameKind};
use crate::node::DISK_SIZE_MAX;

/// The versions this build reads; it writes the last.
pub(crate) const VERSIONS_READ: RangeInclusive<u16> = 1..=1;

/// Bytes of the header.
pub(crate) const HEADER_LEN: usize = 160;
/// Bytes of the header before its checksum; what file keys are derived from.
pub(crate) const HEADER_KEYED_LEN: usize = 128;
/// Bytes of the index header.
pub(crate) const INDEX_HEADER_LEN: usize = 64;
/// Bytes of one index entry.
pub(crate) const INDEX_ENTRY_LEN: usize = 32;
/// Bytes of the trailer.
pub(crate) const TRAILER_LEN: usize = 128;
/// Bytes of the trailer before its tag.
pub(crate) const TRAILER_SEALED_LEN: usize = 80;

/// Magic of the index header.
pub(crate) const INDEX_MAGIC: [u8; 4] = *b"SBIX";
const MAGIC: [u8; 8] = *b"SBDELTA\0";
const TRAILER_MAGIC: [u8; 8] = *b"SBDEND\0\0";
const FLAG_ENCRYPTED: u16 = 1;
const FLAG_REVERSE: u16 = 2;

/// What a delta does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaContent {
    /// Part of a cycle: leads towards the recovery point `seq`.
    Forward {
        /// The cycle.
        seq: Seq,
        /// Its place among the cycle's parts.
        part: PartIndex,
    },
    /// Old contents: leads from the recovery point `from` back to `to`.
    Reverse {
        /// The newer point.
        from: Seq,
        /// The older point.
        to: Seq,
    },
}

/// What a delta belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaHeader {
    /// The replica.
    pub replica: ReplicaId,
    /// The epoch under which it was made.
    pub epoch: Epoch,
    /// Which of the machine's disks.
    pub disk: DiskIndex,
    /// That disk's size in bytes; no frame ends beyond it.
    pub disk_size: u64,
    /// What it does.
    pub content: DeltaContent,
}

/// What is known of a whole delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaSummary {
    /// Bytes of the file.
    pub file_len: u64,
    /// Number of frames.
    pub frames: u64,
    /// Bytes of the disk that the frames hold.
    pub contents_bytes: u64,
    /// Bytes the frames store, after compression, without headers and tags.
    pub stored_bytes: u64,
    /// The whole checksum: equal for equal files only.
    pub checksum: [u8; 32],
}

/// Where a frame is in a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Where on the disk.
    pub extent: Extent,
    /// How it is stored.
    pub kind: FrameKind,
    /// Where its header begins in the file, in bytes.
    pub offset: u64,
    /// Bytes stored behind its header, without the tag of an encrypted file.
    pub stored_len: u32,
}

impl DeltaHeader {
    /// The encoded header of a new file, and its keys. A salt must be random: see `crypt`.
    pub(crate) fn encode(
        &self,
        key: Option<(&DeltaKey, [u8; 32])>,
    ) -> Result<([u8; HEADER_LEN], Option<FileCipher>), DeltaError> {
        self.check().map_err(|detail| DeltaError::InvalidHeader { detail })?;
        let header = self.encode_with(key.map(|(key, salt)| (key.id(), salt)));
        Ok((header, key.map(|(key, _)| FileCipher::new(key, keyed(&header)))))
    }

    fn encode_with(&self, encrypted: Option<(KeyId, [u8; 32])>) -> [u8; HEADER_LEN] {
        let (reverse, first, second) = match self.content {
            DeltaContent::Forward { seq, part } => (0, seq.0, part.0.into()),
            DeltaContent::Reverse { from, to } => (FLAG_REVERSE, from.0, to.0),
        };
        let flags = reverse | if encrypted.is_some() { FLAG_ENCRYPTED } else { 0 };
        let mut out = [0; HEADER_LEN];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSIONS_READ.end().to_le_bytes());
        out[10..12].copy_from_slice(&flags.to_le_bytes());
        out[12..14].copy_from_slice(&self.disk.0.to_le_bytes());
        out[16..32].copy_from_slice(&self.replica.0);
        out[32..40].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.disk_size.to_le_bytes());
        out[48..56].copy_from_slice(&first.to_le_bytes());
        out[56..64].copy_from_slice(&second.to_le_bytes());
        if let Some((key, salt)) = encrypted {
            out[64..96].copy_from_slice(&salt);
            out[96..104].copy_from_slice(&key.0);
        }
        let checksum = blake3::hash(&out[..HEADER_KEYED_LEN]);
        out[HEADER_KEYED_LEN..].copy_from_slice(checksum.as_bytes());
        out
    }

    /// Decodes a header and derives the file's keys.
    pub(crate) fn decode(
        bytes: &[u8; HEADER_LEN],
        key: Option<&DeltaKey>,
    ) -> Result<(Self, Option<FileCipher>), DeltaError> {
        if bytes[0..8] != MAGIC {
            return Err(DeltaError::NotADelta { found: array(bytes, 0) });
        }
        let damaged = |detail| DeltaError::Damaged { offset: 0, part: "header", detail };
        if *blake3::hash(&bytes[..HEADER_KEYED_LEN]).as_bytes() != bytes[HEADER_KEYED_LEN..] {
            return Err(damaged("its checksum does not match"));
        }
        let version = u16_at(bytes, 8);
        if !VERSIONS_READ.contains(&version) {
            return Err(DeltaError::UnknownVersion { found: version });
        }
        let (flags, first, second) = (u16_at(bytes, 10), u64_at(bytes, 48), u64_at(bytes, 56));
        // New flags come with a new version, so that no build overlooks one.
        if flags & !(FLAG_ENCRYPTED | FLAG_REVERSE) != 0 || nonzero(&bytes[14..16], &bytes[104..128]) {
            return Err(damaged("a reserved field is set"));
        }
        let content = if flags & FLAG_REVERSE == 0 {
            let part = u32::try_from(second).map_err(|_| damaged("the part's number is impossible"))?;
            DeltaContent::Forward { seq: Seq(first), part: PartIndex(part) }
        } else {
            DeltaContent::Reverse { from: Seq(first), to: Seq(second) }
        };
        let header = Self {
            replica: ReplicaId(array(bytes, 16)),
            epoch: Epoch(u64_at(bytes, 32)),
            disk: DiskIndex(u16_at(bytes, 12)),
            disk_size: u64_at(bytes, 40),
            content,
        };
        header.check().map_err(damaged)?;
        let file = KeyId(array(bytes, 96));
        let cipher = match (flags & FLAG_ENCRYPTED != 0, key) {
            (false, _) if nonzero(&bytes[64..104], &[]) => return Err(damaged("a reserved field is set")),
            (false, None) => None,
            (false, Some(key)) => return Err(DeltaError::NotEncrypted { given: key.id() }),
            (true, None) => return Err(DeltaError::KeyMissing { file }),
            (true, Some(key)) if key.id() != file => {
                return Err(DeltaError::WrongKey { file, given: key.id() });
            }
            (true, Some(key)) => Some(FileCipher::new(key, keyed(bytes))),
        };
        Ok((header, cipher))
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.disk_size > DISK_SIZE_MAX {
            return Err("the disk's size is impossible");
        }
        match self.content {
            DeltaContent::Reverse { from, to } if from <= to => {
                Err("a reverse delta leads to an older point")
            }
            _ => Ok(()),
        }
    }
}

/// Follows the frames of a file, written or read, and so knows what its end must be.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Of the whole file.
    hasher: blake3::Hasher,
    /// Of the index's entries.
    index_hasher: blake3::Hasher,
    disk_size: u64,
    tag_len: u64,
    /// Where the next frame's header, or the index, begins.
    pub(crate) offset: u64,
    /// Frames so far.
    pub(crate) frames: u64,
    /// Where the last frame ended on the disk.
    disk_end: u64,
    contents_bytes: u64,
    stored_bytes: u64,
}

/// What follows the frames of a file.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) index_header: [u8; INDEX_HEADER_LEN],
    pub(crate) trailer: [u8; TRAILER_LEN],
    pub(crate) summary: DeltaSummary,
}

impl Layout {
    pub(crate) fn new(header: &DeltaHeader, bytes: &[u8; HEADER_LEN], encrypted: bool) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(bytes);
        Self {
            hasher,
            index_hasher: blake3::Hasher::new(),
            disk_size: header.disk_size,
            tag_len: if encrypted { TAG_LEN as u64 } else { 0 },
            offset: HEADER_LEN as u64,
            frames: 0,
            disk_end: 0,
            contents_bytes: 0,
            stored_bytes: 0,
        }
    }

    /// Whether a frame at `extent` may come next.
    pub(crate) fn check(&self, extent: Extent) -> Result<(), DeltaError> {
        if extent.start < self.disk_end {
            return Err(DeltaError::Order { extent, end: self.disk_end });
        }
        if extent.end() > self.disk_size {
            return Err(DeltaError::OutsideDisk { extent, disk_size: self.disk_size });
        }
        Ok(())
    }

    /// The index entry of the frame that comes next.
    pub(crate) fn entry(&self, extent: Extent, kind: FrameKind, stored_len: u32) -> IndexEntry {
        IndexEntry { extent, kind, offset: self.offset, stored_len }
    }

    /// Goes past the frame of `entry`, which was checked; its encoded index entry.
    pub(crate) fn pass(&mut self, entry: &IndexEntry) -> [u8; INDEX_ENTRY_LEN] {
        let encoded = entry.encode();
        self.index_hasher.update(&encoded);
        self.offset += FRAME_HEADER_LEN as u64 + u64::from(entry.stored_len) + self.tag_len;
        self.frames += 1;
        self.disk_end = entry.extent.end();
        self.contents_bytes += entry.extent.len;
        self.stored_bytes += u64::from(entry.stored_len);
        encoded
    }

    /// Adds a frame's header, as it stands in the file, to the whole checksum.
    pub(crate) fn hash_frame_header(&mut self, header: &[u8; FRAME_HEADER_LEN]) {
        self.hasher.update(header);
    }

    /// The index header that must follow the frames.
    pub(crate) fn index_header(&self) -> [u8; INDEX_HEADER_LEN] {
        let mut out = [0; INDEX_HEADER_LEN];
        out[0..4].copy_from_slice(&INDEX_MAGIC);
        out[8..16].copy_from_slice(&self.frames.to_le_bytes());
        let checksum = self.index_hasher.clone().update(&out[..32]).finalize();
        out[32..].copy_from_slice(checksum.as_bytes());
        out
    }

    /// Adds the index, as it stands in the file, to the whole checksum.
    pub(crate) fn hash_index(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The end that must follow, once everything has been hashed.
    pub(crate) fn end(&self, cipher: Option<&FileCipher>) -> End {
        let checksum = *self.hasher.finalize().as_bytes();
        let (index_header, summary) = (self.index_header(), self.summary(checksum));
        let mut trailer = [0; TRAILER_LEN];
        trailer[0..8].copy_from_slice(&TRAILER_MAGIC);
        trailer[8..16].copy_from_slice(&self.offset.to_le_bytes());
        trailer[16..24].copy_from_slice(&self.frames.to_le_bytes());
        trailer[24..32].copy_from_slice(&self.contents_bytes.to_le_bytes());
        trailer[48..80].copy_from_slice(&checksum);
        if let Some(cipher) = cipher {
            let tag = cipher.seal_end(&sealed_end(&index_header, &trailer));
            trailer[80..96].copy_from_slice(&tag);
        }
        let own = blake3::hash(&trailer[..96]);
        trailer[96..].copy_from_slice(own.as_bytes());
        End { index_header, trailer, summary }
    }

    /// What is known of the file when it ends here.
    pub(crate) fn summary(&self, checksum: [u8; 32]) -> DeltaSummary {
        let index_len = INDEX_HEADER_LEN as u64 + self.frames * INDEX_ENTRY_LEN as u64;
        DeltaSummary {
            file_len: self.offset + index_len + TRAILER_LEN as u64,
            frames: self.frames,
            contents_bytes: self.contents_bytes,
            stored_bytes: self.stored_bytes,
            checksum,
        }
    }
}

/// What a trailer states.
#[derive(Debug)]
pub(crate) struct Trailer {
    pub(crate) index_offset: u64,
    pub(crate) frames: u64,
    pub(crate) contents_bytes: u64,
    pub(crate) checksum: [u8; 32],
}

impl Trailer {
    /// Decodes the trailer that stands at `offset`; says nothing yet about whether it fits the file.
    pub(crate) fn decode(bytes: &[u8; TRAILER_LEN], offset: u64) -> Result<Self, DeltaError> {
        let damaged = |detail| DeltaError::Damaged { offset, part: "trailer", detail };
        if bytes[0..8] != TRAILER_MAGIC {
            return Err(damaged("there is none; the end of the file is missing or overwritten"));
        }
        if *blake3::hash(&bytes[..96]).as_bytes() != bytes[96..] {
            return Err(damaged("its checksum does not match"));
        }
        if nonzero(&bytes[32..48], &[]) {
            return Err(damaged("a reserved field is set"));
        }
        Ok(Self {
            index_offset: u64_at(bytes, 8),
            frames: u64_at(bytes, 16),
            contents_bytes: u64_at(bytes, 24),
            checksum: array(bytes, 48),
        })
    }

    /// Checks the tag of the encoded trailer that stands at `offset`.
    pub(crate) fn authenticate(
        cipher: Option<&FileCipher>,
        index_header: &[u8; INDEX_HEADER_LEN],
        trailer: &[u8; TRAILER_LEN],
        offset: u64,
    ) -> Result<(), DeltaError> {
        let tag = &trailer[TRAILER_SEALED_LEN..96];
        match cipher {
            None if nonzero(tag, &[]) => {
                Err(DeltaError::Damaged { offset, part: "trailer", detail: "a reserved field is set" })
            }
            None => Ok(()),
            Some(cipher) => cipher
                .open_end(&sealed_end(index_header, trailer), tag)
                .map_err(|_| DeltaError::NotAuthentic { offset, part: "index" }),
        }
    }
}

impl IndexEntry {
    fn encode(&self) -> [u8; INDEX_ENTRY_LEN] {
        let mut out = [0; INDEX_ENTRY_LEN];
        out[0..8].copy_from_slice(&self.extent.start.to_le_bytes());
        out[8..12].copy_from_slice(&self.extent.len.to_le_bytes()[..4]);
        out[12..16].copy_from_slice(&self.stored_len.to_le_bytes());
        out[16..24].copy_from_slice(&self.offset.to_le_bytes());
        out[24] = self.kind.code();
        out
    }

    /// Decodes an entry; the caller compares it with where it must be.
    pub(crate) fn decode(bytes: &[u8; INDEX_ENTRY_LEN]) -> Result<Self, &'static str> {
        let (len, stored_len) = (u32_at(bytes, 8), u32_at(bytes, 12));
        let extent = Extent::checked(u64_at(bytes, 0), len.into()).ok_or("an extent is impossible")?;
        let kind = FrameKind::from_code(bytes[24]).ok_or("a kind is unknown")?;
        if len == 0 || len > FRAME_MAX || !kind.fits(len, stored_len) {
            return Err("a length is impossible");
        }
        if nonzero(&bytes[25..], &[]) {
            return Err("a reserved field is set");
        }
        Ok(Self { extent, kind, offset: u64_at(bytes, 16), stored_len })
    }
}

/// Decodes frame `number`, whose header stands at `offset`, from its bytes as they stand in the file:
/// header, stored bytes, and the tag in an encrypted file.
pub(crate) fn decode_frame(
    mut raw: Vec<u8>,
    cipher: Option<&FileCipher>,
    number: u64,
    offset: u64,
) -> Result<Frame, DeltaError> {
    let damaged = |source| DeltaError::Frame { offset, source };
    let header = raw.first_chunk().expect("callers bring at least a header");
    let (mut frame, stored_len) = Frame::parse_header(header).map_err(damaged)?;
    let tag_len = if cipher.is_some() { TAG_LEN } else { 0 };
    if raw.len() != FRAME_HEADER_LEN + stored_len + tag_len {
        let found = stored_len as u64;
        return Err(damaged(FrameError::Header { field: "stored length", found }));
    }
    if let Some(cipher) = cipher {
        let (header, body) = raw.split_at_mut(FRAME_HEADER_LEN);
        let (stored, tag) = body.split_at_mut(stored_len);
        cipher
            .open_frame(number, header, stored, tag)
            .map_err(|_| DeltaError::NotAuthentic { offset, part: "frame" })?;
        cipher.mask(number, &mut frame.checksum);
    }
    frame.stored = Bytes::from(raw).slice(FRAME_HEADER_LEN..FRAME_HEADER_LEN + stored_len);
    Ok(frame)
}

/// For fuzzing: makes the checksums of header, index and trailer fit what they cover, where they are found
/// (not the whole checksum: then every damage would be made right).
pub(crate) fn make_checksums_right(file: &mut [u8]) {
    if let Some(header) = file.first_chunk_mut::<HEADER_LEN>() {
        let right = blake3::hash(&header[..HEADER_KEYED_LEN]);
        header[HEADER_KEYED_LEN..].copy_from_slice(right.as_bytes());
    }
    let Some(trailer) = file.last_chunk_mut::<TRAILER_LEN>() else { return };
    let right = blake3::hash(&trailer[..96]);
    trailer[96..].copy_from_slice(right.as_bytes());
    let (at, end) = (u64_at(trailer, 8), file.len() - TRAILER_LEN);
    let Some(index) = usize::try_from(at).ok().and_then(|at| file.get_mut(at..end)) else { return };
    if let Some((header, entries)) = index.split_first_chunk_mut::<INDEX_HEADER_LEN>() {
        let right = blake3::Hasher::new().update(entries).update(&header[..32]).finalize();
        header[32..].copy_from_slice(right.as_bytes());
    }
}

fn keyed(header: &[u8; HEADER_LEN]) -> &[u8; HEADER_KEYED_LEN] {
    header.first_chunk().expect("a header is longer")
}

fn sealed_end(
    index_header: &[u8; INDEX_HEADER_LEN],
    trailer: &[u8; TRAILER_LEN],
) -> [u8; INDEX_HEADER_LEN + TRAILER_SEALED_LEN] {
    let mut out = [0; INDEX_HEADER_LEN + TRAILER_SEALED_LEN];
    out[..INDEX_HEADER_LEN].copy_from_slice(index_header);
    out[INDEX_HEADER_LEN..].copy_from_slice(&trailer[..TRAILER_SEALED_LEN]);
    out
}

fn nonzero(first: &[u8], second: &[u8]) -> bool {
    first.iter().chain(second).any(|byte| *byte != 0)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

/// The number at `at`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}
