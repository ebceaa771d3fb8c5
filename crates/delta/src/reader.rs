//! Reads a delta as a stream, front to back, in constant memory.
//!
//! Each frame is handed out as soon as it was read, checked for its place (and, when encrypted,
//! authenticated), but its contents are verified by whoever takes them ([`Frame::contents`]). Only when
//! [`DeltaReader::next_frame`] has answered `None` is it certain that nothing is missing: until then,
//! nothing may be acknowledged.

use std::io::Read;

use crate::crypt::{DeltaKey, FileCipher, TAG_LEN};
use crate::error::DeltaError;
use crate::format::{
    DeltaHeader, DeltaSummary, HEADER_LEN, INDEX_ENTRY_LEN, INDEX_MAGIC, Layout, TRAILER_LEN, Trailer,
    decode_frame,
};
use crate::frame::{FRAME_HEADER_LEN, Frame};

/// Reads one delta from `R`, and not one byte beyond it. It reads 64 bytes and then a frame's bytes, so a
/// source with expensive small reads should be buffered.
#[derive(Debug)]
pub struct DeltaReader<R> {
    input: R,
    header: DeltaHeader,
    cipher: Option<FileCipher>,
    layout: Layout,
    state: State,
}

#[derive(Debug)]
enum State {
    Frames,
    Ended(DeltaSummary),
    GivenUp,
}

impl<R: Read> DeltaReader<R> {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// When this is no delta that can be read with this key.
    pub fn new(mut input: R, key: Option<&DeltaKey>) -> Result<Self, DeltaError> {
        let mut bytes = [0; HEADER_LEN];
        input.read_exact(&mut bytes).map_err(|source| DeltaError::read(source, 0, "header"))?;
        let (header, cipher) = DeltaHeader::decode(&bytes, key)?;
        let layout = Layout::new(&header, &bytes, cipher.is_some());
        Ok(Self { input, header, cipher, layout, state: State::Frames })
    }

    /// What the delta belongs to. Of an encrypted delta it is authentic once a frame (or the end) was read.
    #[must_use]
    pub fn header(&self) -> &DeltaHeader {
        &self.header
    }

    /// What is known of the whole delta, once its end was read and found right.
    #[must_use]
    pub fn summary(&self) -> Option<&DeltaSummary> {
        match &self.state {
            State::Ended(summary) => Some(summary),
            State::Frames | State::GivenUp => None,
        }
    }

    /// What it reads from, behind what was read.
    #[must_use]
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next frame, its contents not yet verified; `None` once index and trailer were read and are right.
    ///
    /// # Errors
    /// When the input ends or is damaged; every later call fails too.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, DeltaError> {
        match self.state {
            State::Ended(_) => return Ok(None),
            State::GivenUp => return Err(DeltaError::GivenUp),
            State::Frames => {}
        }
        let result = self.read_next();
        if result.is_err() {
            self.state = State::GivenUp;
        }
        result
    }

    fn read_next(&mut self) -> Result<Option<Frame>, DeltaError> {
        let offset = self.layout.offset;
        let mut header = [0; FRAME_HEADER_LEN];
        self.read(&mut header, offset, "next frame or index")?;
        if header.starts_with(&INDEX_MAGIC) {
            self.read_end(&header)?;
            return Ok(None);
        }
        let damaged = |source| DeltaError::Frame { offset, source };
        let (parsed, stored_len) = Frame::parse_header(&header).map_err(damaged)?;
        self.layout.check(parsed.extent).map_err(|_| DeltaError::Damaged {
            offset,
            part: "frame",
            detail: "it overlaps the one before it or ends beyond the disk",
        })?;
        let tag_len = if self.cipher.is_some() { TAG_LEN } else { 0 };
        // At most FRAME_MAX and a little: the header's lengths were checked.
        let mut raw = vec![0; FRAME_HEADER_LEN + stored_len + tag_len];
        raw[..FRAME_HEADER_LEN].copy_from_slice(&header);
        self.read(&mut raw[FRAME_HEADER_LEN..], offset, "frame")?;
        let frame = decode_frame(raw, self.cipher.as_ref(), self.layout.frames, offset)?;
        let stored_len = u32::try_from(stored_len).expect("decoded from a u32");
        let entry = self.layout.entry(frame.extent, frame.kind, stored_len);
        self.layout.hash_frame_header(&header);
        self.layout.pass(&entry);
        Ok(Some(frame))
    }

    /// Reads what follows the index header and compares all of it with what must be there.
    fn read_end(&mut self, index_header: &[u8; FRAME_HEADER_LEN]) -> Result<(), DeltaError> {
        let offset = self.layout.offset;
        let damaged = |offset, part, detail| DeltaError::Damaged { offset, part, detail };
        if *index_header != self.layout.index_header() {
            return Err(damaged(offset, "index", "it does not fit the frames"));
        }
        self.layout.hash_index(index_header);
        let mut at = offset + FRAME_HEADER_LEN as u64;
        let mut left = self.layout.frames * INDEX_ENTRY_LEN as u64;
        let mut buffer = [0; 256 * INDEX_ENTRY_LEN];
        while left > 0 {
            let len = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            self.read(&mut buffer[..len], at, "index")?;
            self.layout.hash_index(&buffer[..len]);
            at += len as u64;
            left -= len as u64;
        }
        let mut trailer = [0; TRAILER_LEN];
        self.read(&mut trailer, at, "trailer")?;
        Trailer::decode(&trailer, at)?;
        Trailer::authenticate(self.cipher.as_ref(), index_header, &trailer, at)?;
        let end = self.layout.end(self.cipher.as_ref());
        if trailer != end.trailer {
            return Err(damaged(offset, "index or trailer", "they do not fit the frames"));
        }
        self.state = State::Ended(end.summary);
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8], offset: u64, part: &'static str) -> Result<(), DeltaError> {
        self.input.read_exact(buffer).map_err(|source| DeltaError::read(source, offset, part))
    }
}
