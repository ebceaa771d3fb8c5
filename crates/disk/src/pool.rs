//! Buffers that direct I/O can use, taken from a pool and given back when dropped.
//!
//! Allocating (and so page-faulting and clearing) 1 MiB for every read cost a third to a half of the CPU
//! time of a scan; reusing a handful of buffers costs nothing. The pool never refuses: its limit is on what
//! it *keeps*, so that a burst does not become a permanent footprint. How much is in flight is bounded by
//! whoever takes the buffers.
//!
//! A reused buffer still holds what was in it before. Its owner must fill the part it hands on; bytes behind
//! [`AlignedBuf`]'s length are never reachable.

#![expect(unsafe_code, reason = "page-aligned memory can only be had from the allocator")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;

/// Alignment of every buffer and unit of its capacity, in bytes: a page, which no disk's demands exceed
/// (the kernel asks for the logical block size at most, and that for 512 or 4096).
pub const BUFFER_ALIGN: usize = 4096;

/// What the pool shared by the process keeps, in bytes: some 64 reads of 1 MiB.
const SHARED_KEPT_BYTES_MAX: usize = 64 << 20;

/// A pool of page-aligned buffers. Clones are the same pool.
#[derive(Clone)]
pub struct AlignedPool(Arc<Pool>);

struct Pool {
    kept_bytes_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// capacity → free buffers; no list is empty
    free: BTreeMap<usize, Vec<Memory>>,
    bytes: usize,
}

impl AlignedPool {
    /// A pool that keeps at most `kept_bytes_max` bytes of unused buffers.
    #[must_use]
    pub fn new(kept_bytes_max: usize) -> Self {
        Self(Arc::new(Pool { kept_bytes_max, kept: Mutex::default() }))
    }

    /// The pool that all [`FileDisk`](crate::FileDisk)s of the process share, so that its footprint does
    /// not grow with the number of disks.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<AlignedPool> = LazyLock::new(|| AlignedPool::new(SHARED_KEPT_BYTES_MAX));
        &SHARED
    }

    /// A buffer of `len` bytes with *any* contents; its capacity is `len` rounded up to pages, and may be up
    /// to twice that when a kept buffer is reused.
    #[must_use]
    pub fn take(&self, len: usize) -> AlignedBuf {
        let capacity = len.max(1).next_multiple_of(BUFFER_ALIGN);
        let kept = self.lock().take(capacity);
        let memory = kept.unwrap_or_else(|| Memory::new(capacity));
        AlignedBuf { memory: Some(memory), len, pool: self.clone() }
    }

    /// Bytes of unused buffers it keeps at the moment.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.lock().bytes
    }

    fn give_back(&self, memory: Memory) {
        let mut kept = self.lock();
        if kept.bytes + memory.capacity > self.0.kept_bytes_max {
            drop(kept);
            drop(memory); // freed outside the lock
            return;
        }
        kept.bytes += memory.capacity;
        kept.free.entry(memory.capacity).or_default().push(memory);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        // Nothing under the lock leaves `Kept` half changed, so a poisoned one is as good.
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn take(&mut self, capacity: usize) -> Option<Memory> {
        // At most twice what was asked for: otherwise small buffers would hold the large ones.
        let mut fitting = self.free.range_mut(capacity..=capacity.saturating_mul(2));
        let (&found, list) = fitting.next()?;
        let memory = list.pop()?;
        if list.is_empty() {
            self.free.remove(&found);
        }
        self.bytes -= memory.capacity;
        Some(memory)
    }
}

impl fmt::Debug for AlignedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedPool")
            .field("kept_bytes", &self.kept_bytes())
            .field("kept_bytes_max", &self.0.kept_bytes_max)
            .finish()
    }
}

/// A page-aligned buffer; goes back to its pool when dropped.
pub struct AlignedBuf {
    /// `None` only inside `drop`.
    memory: Option<Memory>,
    len: usize,
    pool: AlignedPool,
}

impl AlignedBuf {
    /// Bytes that [`AlignedBuf::set_len`] may make it: a multiple of [`BUFFER_ALIGN`].
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory().capacity
    }

    /// Changes the length; bytes that come into view hold anything.
    ///
    /// # Panics
    /// When `len` exceeds the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "{len} bytes in a buffer of {}", self.capacity());
        self.len = len;
    }

    /// The contents, shareable; the buffer goes back to the pool with the last clone.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("taken only by drop")
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the memory is `capacity >= len` bytes, initialized since it was allocated, ours alone
        // while `self` lives, and borrowed no longer than `self`.
        unsafe { std::slice::from_raw_parts(self.memory().start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes the borrow the only one.
        unsafe { std::slice::from_raw_parts_mut(self.memory().start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for AlignedBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the contents: they are somebody's data.
        f.debug_struct("AlignedBuf").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.give_back(memory);
        }
    }
}

/// `capacity` initialized bytes at a multiple of [`BUFFER_ALIGN`]; freed on drop.
struct Memory {
    start: NonNull<u8>,
    /// Never 0, a multiple of [`BUFFER_ALIGN`].
    capacity: usize,
}

// SAFETY: it owns its memory like a `Box<[u8]>`; nothing in it is tied to a thread.
unsafe impl Send for Memory {}
// SAFETY: a shared `Memory` only gives its address; the bytes are reached through `AlignedBuf`'s borrows.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(capacity: usize) -> Self {
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not 0: `take` rounds up from at least 1.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, capacity }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BUFFER_ALIGN).expect("no slice is longer than isize::MAX")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this same layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

#[cfg(test)]
mod tests {
    use super::{AlignedPool, BUFFER_ALIGN};

    #[test]
    fn buffers_are_aligned_and_reused() {
        let pool = AlignedPool::new(1 << 20);
        let mut first = pool.take(5000);
        assert_eq!((first.len(), first.capacity()), (5000, 8192));
        assert_eq!(first.as_ptr() as usize % BUFFER_ALIGN, 0);
        first.fill(7);
        let address = first.as_ptr() as usize;
        let frozen = first.freeze();
        let clone = frozen.slice(100..200);
        drop(frozen);
        assert_eq!(pool.kept_bytes(), 0, "a clone still has it");
        assert_eq!(clone, vec![7; 100]);
        drop(clone);
        assert_eq!(pool.kept_bytes(), 8192);
        assert_eq!(pool.take(8192).as_ptr() as usize, address);
        assert_ne!(pool.take(4000).capacity(), 0);
    }

    #[test]
    fn a_small_buffer_never_takes_a_large_one() {
        let pool = AlignedPool::new(1 << 20);
        drop(pool.take(1 << 16));
        assert_eq!(pool.take(4096).capacity(), 4096);
        assert_eq!(pool.kept_bytes(), (1 << 16) + 4096);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = AlignedPool::new(10_000);
        let (first, second, third) = (pool.take(4096), pool.take(4096), pool.take(4096));
        drop((first, second, third));
        assert_eq!(pool.kept_bytes(), 8192);
    }

    #[test]
    fn empty_buffers_and_lengths() {
        let pool = AlignedPool::new(0);
        let mut buf = pool.take(0);
        assert!(buf.is_empty());
        buf.set_len(4096);
        assert_eq!(buf.len(), 4096);
        assert!(pool.take(0).freeze().is_empty());
    }

    #[test]
    #[should_panic(expected = "in a buffer of 4096")]
    fn no_length_beyond_the_capacity() {
        AlignedPool::new(0).take(1).set_len(4097);
    }
}
