//! Writes a delta in one pass; and the checksum of a part.
//!
//! A refused frame leaves nothing behind, and the writer stays usable. A failed *write* ends the delta:
//! how much of it arrived is not known, so every later call is refused.

use std::io::{self, IoSlice, Write};

use switchback_model::Extent;

use crate::crypt::{DeltaKey, FileCipher};
use crate::error::DeltaError;
use crate::format::{DeltaHeader, DeltaSummary, Layout};
use crate::frame::{FRAME_MAX, Frame, FrameError};

/// Writes one delta to `W`, front to back. Each frame is one vectored write of its header and its bytes,
/// which are not copied (encrypting writes them once, into a buffer that is used again).
#[derive(Debug)]
pub struct DeltaWriter<W> {
    out: W,
    header: DeltaHeader,
    cipher: Option<FileCipher>,
    layout: Layout,
    index: Vec<u8>,
    /// Ciphertext of the frame being written.
    buffer: Vec<u8>,
    given_up: bool,
}

impl<W: Write> DeltaWriter<W> {
    /// Begins a delta: writes its header. With a key it is encrypted.
    ///
    /// # Errors
    /// When the header makes no sense or cannot be written.
    pub fn new(out: W, header: &DeltaHeader, key: Option<&DeltaKey>) -> Result<Self, DeltaError> {
        let mut salt = [0; 32];
        if key.is_some() {
            aws_lc_rs::rand::fill(&mut salt).expect("AWS-LC aborts rather than return bad random bytes");
        }
        Self::with_salt(out, header, key.map(|key| (key, salt)))
    }

    /// As [`DeltaWriter::new`], with a salt that the caller drew: fuzzing must be repeatable.
    pub(crate) fn with_salt(
        mut out: W,
        header: &DeltaHeader,
        key: Option<(&DeltaKey, [u8; 32])>,
    ) -> Result<Self, DeltaError> {
        let (bytes, cipher) = header.encode(key)?;
        out.write_all(&bytes).map_err(|source| DeltaError::Io { offset: 0, source })?;
        let layout = Layout::new(header, &bytes, cipher.is_some());
        Ok(Self {
            out,
            header: *header,
            cipher,
            layout,
            index: Vec::new(),
            buffer: Vec::new(),
            given_up: false,
        })
    }

    /// Appends a frame. Its contents are not verified: a frame goes through as it came.
    ///
    /// # Errors
    /// When the frame is invalid, not behind the last one, or beyond the disk: then nothing was written.
    /// After an I/O error the delta is lost.
    pub fn push(&mut self, frame: &Frame) -> Result<(), DeltaError> {
        if self.given_up {
            return Err(DeltaError::GivenUp);
        }
        let stored_len = check_frame(frame)?;
        self.layout.check(frame.extent)?;
        let entry = self.layout.entry(frame.extent, frame.kind, stored_len);
        let number = self.layout.frames;
        let (header, written) = match &self.cipher {
            None => {
                let header = frame.header();
                let mut parts = [IoSlice::new(&header), IoSlice::new(&frame.stored)];
                (header, write_all_vectored(&mut self.out, &mut parts))
            }
            Some(cipher) => {
                let mut masked = frame.checksum;
                cipher.mask(number, &mut masked);
                let header = frame.header_with(&masked);
                if self.buffer.len() < frame.stored.len() {
                    self.buffer.resize(frame.stored.len(), 0);
                }
                let out = &mut self.buffer[..frame.stored.len()];
                let tag = cipher.seal_frame(number, &header, &frame.stored, out);
                let mut parts = [IoSlice::new(&header), IoSlice::new(out), IoSlice::new(&tag)];
                (header, write_all_vectored(&mut self.out, &mut parts))
            }
        };
        if let Err(source) = written {
            self.given_up = true;
            return Err(DeltaError::Io { offset: entry.offset, source });
        }
        self.layout.hash_frame_header(&header);
        self.index.extend_from_slice(&self.layout.pass(&entry));
        Ok(())
    }

    /// What the delta belongs to.
    #[must_use]
    pub fn header(&self) -> &DeltaHeader {
        &self.header
    }

    /// Bytes of the disk written so far: whoever cuts parts stops at their limit.
    #[must_use]
    pub fn contents_bytes(&self) -> u64 {
        self.layout.summary([0; 32]).contents_bytes
    }

    /// Bytes of the file as it would be if it ended now.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.layout.summary([0; 32]).file_len
    }

    /// Ends the delta: writes index and trailer, and flushes `W`. Making it durable (fsync of file and
    /// directory) is up to the caller.
    ///
    /// # Errors
    /// When that fails, now or before: then there is no delta.
    pub fn finish(mut self) -> Result<(W, DeltaSummary), DeltaError> {
        if self.given_up {
            return Err(DeltaError::GivenUp);
        }
        self.layout.hash_index(&self.layout.index_header());
        self.layout.hash_index(&self.index);
        let end = self.layout.end(self.cipher.as_ref());
        let mut parts =
            [IoSlice::new(&end.index_header), IoSlice::new(&self.index), IoSlice::new(&end.trailer)];
        write_all_vectored(&mut self.out, &mut parts)
            .and_then(|()| self.out.flush())
            .map_err(|source| DeltaError::Io { offset: self.layout.offset, source })?;
        Ok((self.out, end.summary))
    }
}

/// The stored length of a frame that could be read back.
fn check_frame(frame: &Frame) -> Result<u32, DeltaError> {
    let extent = frame.extent;
    let refuse =
        |field, found| Err(DeltaError::InvalidFrame { extent, source: FrameError::Header { field, found } });
    let Some(len) = u32::try_from(extent.len).ok().filter(|len| (1..=FRAME_MAX).contains(len)) else {
        return refuse("length", extent.len);
    };
    if Extent::checked(extent.start, extent.len).is_none() {
        return refuse("start", extent.start);
    }
    match u32::try_from(frame.stored.len()) {
        Ok(stored_len) if frame.kind.fits(len, stored_len) => Ok(stored_len),
        _ => refuse("stored length", frame.stored.len() as u64),
    }
}

/// `Write::write_all_vectored`, which is not stable yet.
fn write_all_vectored(out: &mut impl Write, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Drops empty slices in front, so that a write of nothing is not mistaken for a full disk.
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match out.write_vectored(parts) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut parts, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What a sender states about a part and a receiver checks: BLAKE3 over every frame's start (u64 LE), len
/// (u32 LE) and checksum in order, then the number of frames (u64 LE). The same whatever way the frames
/// are compressed, encrypted or stored.
#[derive(Clone, Debug)]
pub struct PartHasher {
    hasher: blake3::Hasher,
    frames: u64,
}

impl Default for PartHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl PartHasher {
    /// Of a part without frames.
    #[must_use]
    pub fn new() -> Self {
        Self { hasher: blake3::Hasher::new_derive_key("switchback delta v1 2026 part"), frames: 0 }
    }

    /// Adds the next frame.
    pub fn push(&mut self, frame: &Frame) {
        // One update of 44 bytes: three small ones cost more than the hashing.
        let mut bytes = [0; 8 + 4 + 32];
        bytes[..8].copy_from_slice(&frame.extent.start.to_le_bytes());
        bytes[8..12].copy_from_slice(&frame.extent.len.to_le_bytes()[..4]);
        bytes[12..].copy_from_slice(&frame.checksum);
        self.hasher.update(&bytes);
        self.frames += 1;
    }

    /// The part's checksum.
    #[must_use]
    pub fn finish(&self) -> [u8; 32] {
        *self.hasher.clone().update(&self.frames.to_le_bytes()).finalize().as_bytes()
    }
}
