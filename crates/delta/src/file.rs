//! Reads a delta at any place, through its index.
//!
//! What is believed, in this order: the header, the trailer (by their own checksums), the index (by its
//! checksum and because every entry follows from the one before it), and each frame when it is read (its
//! header must be what the index says). When encrypted, all of it is authenticated on the way. Nothing
//! is allocated for a length before the bytes it promises were found to be there.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use switchback_model::ExtentSet;

use crate::crypt::{DeltaKey, FileCipher, TAG_LEN};
use crate::error::DeltaError;
use crate::format::{
    DeltaHeader, DeltaSummary, HEADER_LEN, INDEX_ENTRY_LEN, INDEX_HEADER_LEN, IndexEntry, Layout,
    TRAILER_LEN, Trailer, decode_frame,
};
use crate::frame::{FRAME_HEADER_LEN, Frame, FrameError};

/// Something that can be read at any place by many readers at once.
#[expect(clippy::len_without_is_empty, reason = "it is the length of storage; nobody asks whether it is 0")]
pub trait ReadAt {
    /// Fills `buf` from byte `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when it ends before that; else the storage's.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Its length in bytes.
    ///
    /// # Errors
    /// The storage's.
    fn len(&self) -> io::Result<u64>;
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|from| self.get(from..from.checked_add(buf.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(<[u8]>::len(self) as u64)
    }
}

impl ReadAt for File {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

macro_rules! read_at_through {
    ($(($($generics:tt)*) $type:ty),+ $(,)?) => {$(
        impl<$($generics)*> ReadAt for $type {
            fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
                (**self).read_exact_at(offset, buf)
            }

            fn len(&self) -> io::Result<u64> {
                ReadAt::len(&**self)
            }
        }
    )+};
}

read_at_through!((T: ReadAt + ?Sized) &T, (T: ReadAt + ?Sized) Arc<T>, (T: ReadAt + ?Sized) Box<T>, () Vec<u8>, () Bytes);

/// A delta in storage that can be read at any place. All methods take `&self`: one may serve many threads.
#[derive(Debug)]
pub struct DeltaFile<R> {
    input: R,
    header: DeltaHeader,
    header_bytes: [u8; HEADER_LEN],
    cipher: Option<FileCipher>,
    entries: Vec<IndexEntry>,
    summary: DeltaSummary,
}

impl<R: ReadAt> DeltaFile<R> {
    /// Reads and checks header, trailer and index. The frames are checked when they are read.
    ///
    /// # Errors
    /// When this is no whole delta that can be read with this key.
    pub fn open(input: R, key: Option<&DeltaKey>) -> Result<Self, DeltaError> {
        let mut header_bytes = [0; HEADER_LEN];
        read(&input, 0, &mut header_bytes, "header")?;
        let (header, cipher) = DeltaHeader::decode(&header_bytes, key)?;
        let file_len = input.len().map_err(|source| DeltaError::Io { offset: 0, source })?;
        let least = (HEADER_LEN + INDEX_HEADER_LEN + TRAILER_LEN) as u64;
        if file_len < least {
            return Err(DeltaError::Truncated { offset: file_len, part: "frames, index or trailer" });
        }
        let trailer_at = file_len - TRAILER_LEN as u64;
        let mut trailer_bytes = [0; TRAILER_LEN];
        read(&input, trailer_at, &mut trailer_bytes, "trailer")?;
        let trailer = Trailer::decode(&trailer_bytes, trailer_at)?;
        let entries_len = trailer.frames.checked_mul(INDEX_ENTRY_LEN as u64);
        let index_len = entries_len.and_then(|len| len.checked_add(INDEX_HEADER_LEN as u64));
        if index_len.and_then(|len| len.checked_add(trailer.index_offset)) != Some(trailer_at) {
            let detail = "it does not fit the file's length";
            return Err(DeltaError::Damaged { offset: trailer_at, part: "trailer", detail });
        }
        let mut index_header = [0; INDEX_HEADER_LEN];
        read(&input, trailer.index_offset, &mut index_header, "index")?;
        Trailer::authenticate(cipher.as_ref(), &index_header, &trailer_bytes, trailer_at)?;
        let mut layout = Layout::new(&header, &header_bytes, cipher.is_some());
        let entries = read_index(&input, &trailer, &index_header, &mut layout)?;
        let summary = layout.summary(trailer.checksum);
        if (summary.contents_bytes, summary.file_len) != (trailer.contents_bytes, file_len) {
            let detail = "it does not fit the index";
            return Err(DeltaError::Damaged { offset: trailer_at, part: "trailer", detail });
        }
        Ok(Self { input, header, header_bytes, cipher, entries, summary })
    }

    /// What the delta belongs to.
    #[must_use]
    pub fn header(&self) -> &DeltaHeader {
        &self.header
    }

    /// What is known of the whole delta. The whole checksum is what the trailer states; only
    /// [`DeltaFile::verify`] computes it.
    #[must_use]
    pub fn summary(&self) -> &DeltaSummary {
        &self.summary
    }

    /// Its frames, in order of the disk.
    #[must_use]
    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// The bytes of the disk that it holds.
    #[must_use]
    pub fn extents(&self) -> ExtentSet {
        self.entries.iter().map(|entry| entry.extent).collect()
    }

    /// Frame `index`, decrypted, its contents not yet verified (see [`Frame::contents`]).
    ///
    /// # Errors
    /// When there is none, it cannot be read, or is not what the index says.
    pub fn frame(&self, index: usize) -> Result<Frame, DeltaError> {
        let raw = self.raw_frame(index)?;
        self.decode(index, raw)
    }

    /// Reads everything: every frame's contents and the whole checksum.
    ///
    /// # Errors
    /// At the first thing that is not what was written.
    pub fn verify(&self) -> Result<(), DeltaError> {
        let mut layout = Layout::new(&self.header, &self.header_bytes, self.cipher.is_some());
        let mut index = Vec::with_capacity(self.entries.len() * INDEX_ENTRY_LEN);
        for (number, entry) in self.entries.iter().enumerate() {
            let raw = self.raw_frame(number)?;
            layout.hash_frame_header(raw.first_chunk().expect("a frame begins with its header"));
            let frame = self.decode(number, raw)?;
            frame.contents().map_err(|source| DeltaError::Frame { offset: entry.offset, source })?;
            index.extend_from_slice(&layout.pass(entry));
        }
        layout.hash_index(&layout.index_header());
        layout.hash_index(&index);
        if layout.end(None).summary.checksum != self.summary.checksum {
            let detail = "the whole checksum does not match";
            let offset = self.summary.file_len - TRAILER_LEN as u64;
            return Err(DeltaError::Damaged { offset, part: "trailer", detail });
        }
        Ok(())
    }

    /// The bytes of frame `index` as they stand in the file.
    fn raw_frame(&self, index: usize) -> Result<Vec<u8>, DeltaError> {
        let count = self.entries.len();
        let entry = self.entries.get(index).ok_or(DeltaError::NoSuchFrame { index, count })?;
        let tag_len = if self.cipher.is_some() { TAG_LEN } else { 0 };
        let mut raw = vec![0; FRAME_HEADER_LEN + entry.stored_len as usize + tag_len];
        read(&self.input, entry.offset, &mut raw, "frame")?;
        Ok(raw)
    }

    fn decode(&self, index: usize, raw: Vec<u8>) -> Result<Frame, DeltaError> {
        let entry = &self.entries[index];
        let frame = decode_frame(raw, self.cipher.as_ref(), index as u64, entry.offset)?;
        if (frame.extent, frame.kind) != (entry.extent, entry.kind) {
            let source = FrameError::Header { field: "start", found: frame.extent.start };
            return Err(DeltaError::Frame { offset: entry.offset, source });
        }
        Ok(frame)
    }
}

/// Reads the index entries and checks that each follows from those before it.
fn read_index(
    input: &impl ReadAt,
    trailer: &Trailer,
    index_header: &[u8; INDEX_HEADER_LEN],
    layout: &mut Layout,
) -> Result<Vec<IndexEntry>, DeltaError> {
    let mut entries = Vec::new();
    let mut buffer = vec![0; 1024 * INDEX_ENTRY_LEN];
    let mut at = trailer.index_offset + INDEX_HEADER_LEN as u64;
    let mut left = trailer.frames;
    while left > 0 {
        let count = usize::try_from(left).map_or(1024, |left| left.min(1024));
        let chunk = &mut buffer[..count * INDEX_ENTRY_LEN];
        read(input, at, chunk, "index")?;
        let (chunk, _) = chunk.as_chunks::<INDEX_ENTRY_LEN>();
        for (number, bytes) in (0_u64..).zip(chunk) {
            let offset = at + number * INDEX_ENTRY_LEN as u64;
            let damaged = |detail| DeltaError::Damaged { offset, part: "index", detail };
            let entry = IndexEntry::decode(bytes).map_err(damaged)?;
            layout.check(entry.extent).map_err(|_| damaged("extents overlap or end beyond the disk"))?;
            if entry.offset != layout.offset {
                return Err(damaged("a frame does not follow the one before it"));
            }
            layout.pass(&entry);
            entries.push(entry);
        }
        at += (count * INDEX_ENTRY_LEN) as u64;
        left -= count as u64;
    }
    // Its place needs no check of its own: the caller compares the file's length with what the entries take.
    if *index_header != layout.index_header() {
        let detail = "its checksum does not match";
        return Err(DeltaError::Damaged { offset: trailer.index_offset, part: "index", detail });
    }
    Ok(entries)
}

fn read(input: &impl ReadAt, offset: u64, buf: &mut [u8], part: &'static str) -> Result<(), DeltaError> {
    input.read_exact_at(offset, buf).map_err(|source| DeltaError::read(source, offset, part))
}
