//! Reading staged parts: from memory what this process staged a short time ago, else from the store, in chunks.
//!
//! Only a cache: whatever is not in it is read from the store.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use switchback_delta::ReadAt;
use switchback_model::Extent;

use super::error::io_error;
use super::store::BlobStore;

/// Bytes read at once: a part is read from its start to its end, mostly.
const CHUNK: u64 = 1 << 20;

/// Staged parts in memory, the oldest of which go first.
#[derive(Debug)]
pub(crate) struct PartCache {
    bytes_max: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: u64,
    parts: BTreeMap<String, Bytes>,
    order: VecDeque<String>,
}

impl PartCache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, held: Mutex::default() }
    }

    pub(crate) fn put(&self, blob: &str, data: Bytes) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.bytes += data.len() as u64;
        held.order.push_back(blob.to_owned());
        held.parts.insert(blob.to_owned(), data);
        while held.bytes > self.bytes_max {
            let Some(oldest) = held.order.pop_front() else { break };
            held.bytes -= held.parts.remove(&oldest).map_or(0, |data| data.len() as u64);
        }
    }

    pub(crate) fn remove(&self, blob: &str) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(data) = held.parts.remove(blob) {
            held.bytes -= data.len() as u64;
            held.order.retain(|name| name != blob);
        }
    }

    fn get(&self, blob: &str) -> Option<Bytes> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).parts.get(blob).cloned()
    }
}

/// A staged part, to be read at any place.
#[derive(Debug)]
pub(crate) struct PartReader {
    store: Arc<dyn BlobStore>,
    blob: String,
    len: u64,
    cached: Option<Bytes>,
    chunk: Mutex<Option<(u64, Bytes)>>,
}

impl PartReader {
    pub(crate) fn new(store: &Arc<dyn BlobStore>, cache: &PartCache, blob: &str, len: u64) -> Self {
        let (store, cached) = (Arc::clone(store), cache.get(blob));
        Self { store, blob: blob.to_owned(), len, cached, chunk: Mutex::default() }
    }

    fn chunk(&self, number: u64) -> io::Result<Bytes> {
        let mut held = self.chunk.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, data)) = held.as_ref().filter(|(at, _)| *at == number) {
            return Ok(data.clone());
        }
        let range = Extent::between(number * CHUNK, ((number + 1) * CHUNK).min(self.len));
        let data = self.store.read(&self.blob, range).map_err(io_error)?;
        *held = Some((number, data.clone()));
        Ok(data)
    }
}

impl ReadAt for PartReader {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if let Some(cached) = &self.cached {
            return cached.read_exact_at(offset, buf);
        }
        let wanted = Extent::checked(offset, buf.len() as u64).filter(|wanted| wanted.end() <= self.len);
        let wanted = wanted.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut rest = buf;
        for piece in wanted.pieces(CHUNK) {
            let chunk = self.chunk(piece.start / CHUNK)?;
            let len = usize::try_from(piece.len).expect("within a chunk");
            let (out, behind) = rest.split_at_mut(len);
            chunk.read_exact_at(piece.start % CHUNK, out)?;
            rest = behind;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }
}
