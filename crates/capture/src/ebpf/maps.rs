//! The maps as user space sees them: words shared with the program through mmap.
#![expect(unsafe_code, reason = "maps memory that the kernel's program writes at the same time")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use switchback_model::{Extent, ExtentSet};

use super::object::BLOCK_BYTES;

/// The 64-bit words of an mmapable array map of 8-byte values.
#[derive(Debug)]
pub(super) struct Words {
    start: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: it is shared memory reached through atomics only, and no thread owns it.
unsafe impl Send for Words {}
// SAFETY: as for Send.
unsafe impl Sync for Words {}

impl Words {
    /// Maps the first `count` values of the map `fd`.
    pub(super) fn map(fd: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else is at it.
        let start =
            unsafe { mmap(std::ptr::null_mut(), count * 8, protection, MapFlags::SHARED, fd.as_fd(), 0)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, count })
    }

    /// The words.
    pub(super) fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is `count` words long, page-aligned, lives as long as `self`, and the kernel refuses to
        // mmap more than the map holds (so no access faults). Others change it with atomic instructions only.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping of `map`, and every borrow of it has ended with `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.count * 8) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// How often the kernel has skipped a program because it was running on the same processor already
/// (`bpf_prog_info.recursion_misses`).
pub(super) fn recursion_misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut len = u32::try_from(size_of_val(&info)).expect("a few hundred bytes");
    let into = std::ptr::from_mut(&mut info).cast();
    // SAFETY: `into` points to `len` writable bytes, zero as the kernel wants its unasked-for pointers.
    match unsafe { libbpf_sys::bpf_obj_get_info_by_fd(program.as_raw_fd(), into, &raw mut len) } {
        0 => Ok(info.recursion_misses),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The bitmap of one disk: a bit for every 4 KiB.
#[derive(Debug)]
pub(super) struct Bitmap {
    words: Words,
    size_bytes: u64,
}

/// Words in the bitmap of a disk of `size_bytes`; `None` when it is longer than a map can be (1 PiB).
pub(super) fn bitmap_words(size_bytes: u64) -> Option<u32> {
    u32::try_from(size_bytes.div_ceil(BLOCK_BYTES).div_ceil(64)).ok().filter(|words| *words < u32::MAX / 8)
}

impl Bitmap {
    pub(super) fn map(fd: BorrowedFd<'_>, size_bytes: u64) -> io::Result<Self> {
        let words = bitmap_words(size_bytes).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(Self { words: Words::map(fd, words as usize)?, size_bytes })
    }

    /// What is marked, as extents.
    pub(super) fn extents(&self) -> ExtentSet {
        let mut set = ExtentSet::new();
        let mut open: Option<Extent> = None;
        for (index, word) in (0_u64..).zip(self.words.all()) {
            let word = word.load(Ordering::Acquire);
            if word != 0 {
                runs_of(word, index * 64, |run| self.add(&mut set, &mut open, run));
            }
        }
        set.extend(open);
        set
    }

    /// Joins runs of blocks that meet before they go to the set, which is slower.
    fn add(&self, set: &mut ExtentSet, open: &mut Option<Extent>, (first, end): (u64, u64)) {
        let (start, end) = (first * BLOCK_BYTES, (end * BLOCK_BYTES).min(self.size_bytes));
        match open {
            Some(extent) if extent.end() == start => *extent = Extent::between(extent.start, end),
            _ => set.extend(open.replace(Extent::between(start, end.max(start)))),
        }
    }

    /// What is marked of `set`.
    pub(super) fn marked_of(&self, set: &ExtentSet) -> bool {
        set.iter().any(|extent| {
            let extent = extent.intersection(Extent::new(0, self.size_bytes));
            let (first, end) = (extent.start / BLOCK_BYTES, extent.end().div_ceil(BLOCK_BYTES));
            !extent.is_empty() && self.any(first, end)
        })
    }

    /// Whether any block from `first` to before `end` is marked.
    fn any(&self, first: u64, end: u64) -> bool {
        let words = self.words.all();
        (first / 64..end.div_ceil(64)).any(|index| {
            let low = index * 64;
            let mut mask = u64::MAX;
            if first > low {
                mask &= u64::MAX << (first - low);
            }
            if end < low + 64 {
                mask &= u64::MAX >> (low + 64 - end);
            }
            let word = usize::try_from(index).ok().and_then(|index| words.get(index));
            word.is_some_and(|word| word.load(Ordering::Acquire) & mask != 0)
        })
    }

    /// Moves every mark to `other`: each stands in one of the two, or both, at every moment.
    pub(super) fn fold_into(&self, other: &Self) {
        for (from, to) in self.words.all().iter().zip(other.words.all()) {
            let word = from.load(Ordering::Acquire);
            if word != 0 {
                to.fetch_or(word, Ordering::AcqRel);
                from.store(0, Ordering::Release);
            }
        }
    }

    /// Forgets every mark. Only while the program does not mark here.
    pub(super) fn clear(&self) {
        for word in self.words.all() {
            // Reading first keeps untouched pages of a large disk's bitmap from being written.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Release);
            }
        }
    }
}

/// Calls `each` with (first, end) of every run of ones in `word`, whose lowest bit is block `base`.
fn runs_of(mut word: u64, base: u64, mut each: impl FnMut((u64, u64))) {
    let mut at = 0_u32;
    while word != 0 {
        let skip = word.trailing_zeros();
        word >>= skip;
        let run = word.trailing_ones();
        each((base + u64::from(at + skip), base + u64::from(at + skip + run)));
        word = word.checked_shr(run).unwrap_or(0);
        at += skip + run;
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::{prop_assert_eq, proptest};
    use switchback_model::{Extent, ExtentSet};

    use super::{BLOCK_BYTES, Bitmap, runs_of};

    fn bitmap(blocks: &[u64], size_bytes: u64) -> (Bitmap, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size_bytes.div_ceil(BLOCK_BYTES).div_ceil(64) * 8).unwrap();
        let bitmap = Bitmap::map(file.as_file().as_fd(), size_bytes).unwrap();
        for block in blocks {
            let word = &bitmap.words.all()[usize::try_from(block / 64).unwrap()];
            word.fetch_or(1 << (block % 64), std::sync::atomic::Ordering::Relaxed);
        }
        (bitmap, file)
    }

    proptest! {
        /// Against the obvious model, a list of block numbers.
        #[test]
        fn extents_are_the_marked_blocks_clipped_to_the_disk(
            blocks in proptest::collection::btree_set(0_u64..300, 0..200), tail in 1_u64..=BLOCK_BYTES,
            first in 0_u64..300, len in 0_u64..80,
        ) {
            let size = 299 * BLOCK_BYTES + tail;
            let list: Vec<_> = blocks.iter().copied().collect();
            let (bitmap, _file) = bitmap(&list, size);
            let whole = Extent::new(0, size);
            let expected: ExtentSet = list.iter()
                .map(|block| Extent::new(block * BLOCK_BYTES, BLOCK_BYTES).intersection(whole)).collect();
            prop_assert_eq!(bitmap.extents(), expected);
            let asked = ExtentSet::from(Extent::new(first * BLOCK_BYTES + 1, len * BLOCK_BYTES));
            let touched = len > 0 && blocks.range(first..=first + len).next().is_some();
            prop_assert_eq!(bitmap.marked_of(&asked), touched);
        }

        #[test]
        fn folding_keeps_every_mark(
            a in proptest::collection::btree_set(0_u64..200, 0..99), b in proptest::collection::btree_set(0_u64..200, 0..99),
        ) {
            let (from, _f) = bitmap(&a.iter().copied().collect::<Vec<_>>(), 200 * BLOCK_BYTES);
            let (to, _t) = bitmap(&b.iter().copied().collect::<Vec<_>>(), 200 * BLOCK_BYTES);
            from.fold_into(&to);
            let union: ExtentSet = a.union(&b).map(|n| Extent::new(n * BLOCK_BYTES, BLOCK_BYTES)).collect();
            prop_assert_eq!(to.extents(), union);
            prop_assert_eq!(from.extents(), ExtentSet::new());
            to.clear();
            prop_assert_eq!(to.extents(), ExtentSet::new());
        }
    }

    #[test]
    fn runs_at_both_ends_of_a_word() {
        let mut runs = Vec::new();
        runs_of(u64::MAX, 0, |run| runs.push(run));
        runs_of(1 | 1 << 63, 64, |run| runs.push(run));
        assert_eq!(runs, [(0, 64), (64, 65), (127, 128)]);
    }
}
