//! [`FileDisk`]: a block device or an image file, read and written past the page cache.
//!
//! **Two ways to the same bytes.** Direct I/O takes only whole units (sectors of a device, pages of a file)
//! in aligned memory. What does not fit is handled thus:
//! - An unaligned read reads the units around it into a pooled buffer.
//! - An unaligned write reads its edge units, changes them and writes them back, under one lock for all
//!   edges of the disk. The lock suffices: two calls that share an edge unit without overlapping are both
//!   unaligned there, so both take it; calls that write whole units cannot share one without overlapping,
//!   for which the trait promises nothing. The alternative, edges through the page cache, would lose
//!   writes: the cache writes back whole pages, over what a direct write put beside the edge meanwhile.
//! - The tail of an image that is not a whole number of units is past `Direct::end` and *always* goes
//!   through the page cache, all else never; as units are at least pages, the two share no page.
//!
//! Where the file system has no direct I/O (tmpfs), everything goes through the page cache, as bytes.
//!
//! A flush is `fdatasync` of the buffered file: it covers the inode, so both ways, and the drive's cache.

mod opening;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use switchback_model::Extent;

pub(crate) use self::opening::sync_parent;
use crate::disk::Disk;
use crate::error::in_context;
use crate::pool::AlignedPool;
use crate::sys;

/// Largest single bounce or block of zeros, in bytes.
const COPY_BYTES_MAX: u64 = 1 << 20;

/// What a disk is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only; writes fail with `PermissionDenied`.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    BlockDevice,
    File,
}

/// A block device or an image file. Its size is that of the moment it was opened.
pub struct FileDisk {
    name: String,
    kind: Kind,
    access: Access,
    size: u64,
    buffered: File,
    direct: Option<Direct>,
    pool: AlignedPool,
    /// Held while a unit is read, changed and written back.
    edges: Mutex<()>,
}

/// The file opened with `O_DIRECT`, for its bytes 0 to `end`.
struct Direct {
    file: File,
    /// Of offsets and lengths, bytes; a power of two.
    unit: u64,
    /// Of memory, bytes.
    memory_unit: usize,
    /// A multiple of `unit`, above 0.
    end: u64,
}

impl Direct {
    fn takes(&self, memory: &[u8]) -> bool {
        (memory.as_ptr() as usize).is_multiple_of(self.memory_unit)
    }

    fn is_aligned(&self, extent: Extent) -> bool {
        extent.start.is_multiple_of(self.unit) && extent.len.is_multiple_of(self.unit)
    }
}

impl FileDisk {
    /// Whether it is read and written past the page cache.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Offsets and lengths that are multiples of this many bytes are the fast ones.
    #[must_use]
    pub fn preferred_unit(&self) -> u64 {
        self.direct.as_ref().map_or(1, |direct| direct.unit)
    }

    fn failed(&self, doing: &str, extent: Extent, error: io::Error) -> io::Error {
        in_context(error, format!("{doing} {extent} of {} failed", self.name))
    }

    fn within(&self, doing: &str, offset: u64, len: u64, kind: io::ErrorKind) -> io::Result<Extent> {
        match Extent::checked(offset, len) {
            Some(extent) if extent.end() <= self.size => Ok(extent),
            _ => {
                let Self { name, size, .. } = self;
                let message = format!("{doing} {len} bytes from byte {offset} of {name}, which has {size}");
                Err(io::Error::new(kind, message))
            }
        }
    }

    fn readable(&self, offset: u64, len: u64) -> io::Result<Extent> {
        self.within("reading", offset, len, io::ErrorKind::UnexpectedEof)
    }

    fn writable(&self, offset: u64, len: u64) -> io::Result<Extent> {
        if self.access == Access::ReadOnly {
            let message = format!("disk {} is open for reading only", self.name);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        self.within("writing", offset, len, io::ErrorKind::InvalidInput)
    }

    /// The extent's part that direct I/O can reach, and the rest.
    fn split(&self, extent: Extent) -> (Option<(&Direct, Extent)>, Extent) {
        let Some(direct) = &self.direct else {
            return (None, extent);
        };
        let tail = Extent::between(extent.start.max(direct.end), extent.end().max(direct.end));
        let main = Extent::between(extent.start, extent.end().min(direct.end).max(extent.start));
        ((!main.is_empty()).then_some((direct, main)), tail)
    }

    fn read_into(&self, extent: Extent, buf: &mut [u8]) -> io::Result<()> {
        let (main, tail) = self.split(extent);
        let (main_buf, tail_buf) = buf.split_at_mut(memory_len(main.as_ref().map_or(0, |(_, e)| e.len)));
        if let Some((direct, main)) = main {
            if direct.is_aligned(main) && direct.takes(main_buf) {
                direct.file.read_exact_at(main_buf, main.start)?;
            } else {
                self.read_bounced(direct, main, main_buf)?;
            }
        }
        if !tail.is_empty() {
            self.buffered.read_exact_at(tail_buf, tail.start)?;
        }
        Ok(())
    }

    fn read_bounced(&self, direct: &Direct, extent: Extent, mut buf: &mut [u8]) -> io::Result<()> {
        for piece in extent.pieces(COPY_BYTES_MAX.max(direct.unit)) {
            let around = piece.aligned_to(direct.unit, direct.end);
            let mut bounce = self.pool.take(memory_len(around.len));
            direct.file.read_exact_at(&mut bounce, around.start)?;
            let (now, later) = buf.split_at_mut(memory_len(piece.len));
            let skipped = memory_len(piece.start - around.start);
            now.copy_from_slice(&bounce[skipped..skipped + now.len()]);
            buf = later;
        }
        Ok(())
    }

    fn write_from(&self, extent: Extent, data: &[u8]) -> io::Result<()> {
        let (main, tail) = self.split(extent);
        let (main_data, tail_data) = data.split_at(memory_len(main.as_ref().map_or(0, |(_, e)| e.len)));
        if let Some((direct, main)) = main {
            let (head, middle, edge) = at_edges(main, direct.unit);
            let (head_data, rest) = main_data.split_at(memory_len(head.len));
            let (middle_data, edge_data) = rest.split_at(memory_len(middle.len));
            self.write_edge(direct, head, head_data)?;
            self.write_units(direct, middle, middle_data)?;
            self.write_edge(direct, edge, edge_data)?;
        }
        if !tail.is_empty() {
            self.buffered.write_all_at(tail_data, tail.start)?;
        }
        Ok(())
    }

    /// Writes whole units: straight from `data` where its memory allows.
    fn write_units(&self, direct: &Direct, extent: Extent, mut data: &[u8]) -> io::Result<()> {
        if direct.takes(data) {
            return direct.file.write_all_at(data, extent.start);
        }
        for piece in extent.pieces(COPY_BYTES_MAX.max(direct.unit)) {
            let (now, later) = data.split_at(memory_len(piece.len));
            let mut bounce = self.pool.take(now.len());
            bounce.copy_from_slice(now);
            direct.file.write_all_at(&bounce, piece.start)?;
            data = later;
        }
        Ok(())
    }

    /// Writes a part of one unit.
    fn write_edge(&self, direct: &Direct, extent: Extent, data: &[u8]) -> io::Result<()> {
        if extent.is_empty() {
            return Ok(());
        }
        let around = extent.aligned_to(direct.unit, direct.end);
        let mut bounce = self.pool.take(memory_len(around.len));
        let skipped = memory_len(extent.start - around.start);
        let _guard = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        direct.file.read_exact_at(&mut bounce, around.start)?;
        bounce[skipped..skipped + data.len()].copy_from_slice(data);
        direct.file.write_all_at(&bounce, around.start)
    }

    /// Zeros by writing them.
    fn fill_with_zeros(&self, extent: Extent) -> io::Result<()> {
        let mut zeros = self.pool.take(memory_len(extent.len.min(COPY_BYTES_MAX)));
        zeros.fill(0);
        for piece in extent.pieces(COPY_BYTES_MAX) {
            self.write_from(piece, &zeros[..memory_len(piece.len)])?;
        }
        Ok(())
    }

    /// Zeros whole units by asking the kernel; `false` when it cannot.
    fn zero_units(&self, extent: Extent) -> io::Result<bool> {
        if extent.is_empty() {
            return Ok(true);
        }
        if self.kind == Kind::BlockDevice {
            return supported(sys::zero_out(&self.buffered, extent));
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        for flags in [punch, zero] {
            let result = rustix::fs::fallocate(&self.buffered, flags, extent.start, extent.len);
            if supported(result.map_err(io::Error::from))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn zero(&self, extent: Extent) -> io::Result<()> {
        // Only whole units are left to the kernel: inside an edge unit it would not hold our lock, and
        // another call's read-change-write of that unit could bring the old bytes back.
        let unit = match (&self.direct, self.kind) {
            (Some(direct), _) => direct.unit,
            (None, Kind::File) => 1,
            (None, Kind::BlockDevice) => u64::from(rustix::fs::ioctl_blksszget(&self.buffered)?),
        };
        let (head, middle, edge) = at_edges(extent, unit);
        self.fill_with_zeros(head)?;
        if !self.zero_units(middle)? {
            self.fill_with_zeros(middle)?;
        }
        self.fill_with_zeros(edge)
    }

    fn find_allocated(&self, window: Extent) -> io::Result<Vec<Extent>> {
        let mut found = Vec::new();
        let mut at = window.start;
        // Seeking moves the offset that all users of the file share, but none uses it: reads and writes name
        // theirs, and the seeks below give absolute ones and use only what they return.
        while at < window.end() {
            let data = match rustix::fs::seek(&self.buffered, SeekFrom::Data(at)) {
                Ok(data) if data < window.end() => data,
                Ok(_) | Err(Errno::NXIO) => break,
                // No knowledge of holes here, so anything may be data.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(vec![window]),
                Err(error) => return Err(error.into()),
            };
            let hole = match rustix::fs::seek(&self.buffered, SeekFrom::Hole(data)) {
                Ok(hole) => hole.min(window.end()),
                Err(Errno::NXIO) => window.end(), // it was cut meanwhile: let the reader find out
                Err(error) => return Err(error.into()),
            };
            // A hole punched between the two calls gives `hole == data`: look again behind that byte.
            at = hole.max(data + 1);
            found.push(Extent::between(data, at));
        }
        Ok(found)
    }
}

impl Disk for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let extent = self.readable(offset, buf.len() as u64)?;
        self.read_into(extent, buf).map_err(|error| self.failed("reading", extent, error))
    }

    fn read(&self, extent: Extent) -> io::Result<Bytes> {
        self.readable(extent.start, extent.len)?;
        if extent.is_empty() {
            return Ok(Bytes::new());
        }
        // Widened at once, so that it is read into its final place whatever its alignment.
        let around = match &self.direct {
            Some(direct) => extent.aligned_to(direct.unit, self.size),
            None => extent,
        };
        let mut buf = self.pool.take(memory_len(around.len));
        self.read_into(around, &mut buf).map_err(|error| self.failed("reading", extent, error))?;
        let skipped = memory_len(extent.start - around.start);
        Ok(buf.freeze().slice(skipped..skipped + memory_len(extent.len)))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let extent = self.writable(offset, data.len() as u64)?;
        self.write_from(extent, data).map_err(|error| self.failed("writing", extent, error))
    }

    fn write_zeroes(&self, extent: Extent) -> io::Result<()> {
        self.writable(extent.start, extent.len)?;
        self.zero(extent).map_err(|error| self.failed("zeroing", extent, error))
    }

    fn flush(&self) -> io::Result<()> {
        self.buffered
            .sync_data()
            .map_err(|error| in_context(error, format!("making writes to {} durable failed", self.name)))
    }

    fn allocated(&self, window: Extent) -> io::Result<Vec<Extent>> {
        self.readable(window.start, window.len)?;
        match self.kind {
            _ if window.is_empty() => Ok(Vec::new()),
            Kind::BlockDevice => Ok(vec![window]),
            Kind::File => self
                .find_allocated(window)
                .map_err(|error| self.failed("finding the allocated parts of", window, error)),
        }
    }
}

impl fmt::Debug for FileDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileDisk")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("access", &self.access)
            .field("size", &self.size)
            .field("direct_unit", &self.direct.as_ref().map(|direct| direct.unit))
            .finish_non_exhaustive()
    }
}

/// `extent` as the part in its first unit, the whole units, and the part in its last; any may be empty.
fn at_edges(extent: Extent, unit: u64) -> (Extent, Extent, Extent) {
    let first = extent.start.next_multiple_of(unit);
    let last = extent.end() / unit * unit;
    if first > last {
        // All within one unit, touching neither end of it.
        return (extent, Extent::new(extent.end(), 0), Extent::new(extent.end(), 0));
    }
    (Extent::between(extent.start, first), Extent::between(first, last), Extent::between(last, extent.end()))
}

/// The length of something that is in memory.
fn memory_len(len: u64) -> usize {
    usize::try_from(len).expect("as long as a buffer, which memory holds")
}

/// Whether the kernel did it, as opposed to not being able to.
fn supported(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOTTY | libc::ENOSYS | libc::EREMOTEIO)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
