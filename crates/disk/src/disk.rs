//! A disk: bytes 0 to `size` that can be read, written and flushed at any place.

use std::fmt::Debug;
use std::io;

use bytes::Bytes;
use switchback_model::Extent;

/// A block device, or a file that is the image of one.
///
/// Writes are durable after [`Disk::flush`] has returned, not before, and may reach the medium in any
/// order and torn at 512-byte boundaries. Methods may be called from several threads; what two
/// overlapping concurrent calls give is undefined, as on a real disk. Offsets and lengths are in bytes and
/// need no alignment: an implementation that needs it (direct I/O) aligns by itself, at its cost.
pub trait Disk: Send + Sync + Debug {
    /// Bytes.
    fn size(&self) -> u64;

    /// What the disk is called in messages: a path.
    fn name(&self) -> &str;

    /// Fills `buf` from `offset`. Beyond the end: `UnexpectedEof`.
    ///
    /// # Errors
    /// Those of the device, also when it has vanished.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// The contents of `extent` in a buffer aligned for direct I/O, taken from a pool and returned to it
    /// when the last clone is dropped. The way to read much.
    ///
    /// # Errors
    /// As [`Disk::read_at`].
    fn read(&self, extent: Extent) -> io::Result<Bytes>;

    /// Writes all of `data` at `offset`. Never makes the disk longer.
    ///
    /// # Errors
    /// Those of the device; `InvalidInput` beyond the end, before anything is written.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes `extent` read as zeros, without keeping space for it where that is possible.
    ///
    /// # Errors
    /// As [`Disk::write_at`].
    fn write_zeroes(&self, extent: Extent) -> io::Result<()>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// Those of the device; after one, nothing is known of what was written since the last success.
    fn flush(&self) -> io::Result<()>;

    /// The parts of `window` that may hold anything but zeros, in order: from the file system's knowledge of
    /// holes, or all of it where there is none (block devices).
    ///
    /// # Errors
    /// As [`Disk::read_at`].
    fn allocated(&self, window: Extent) -> io::Result<Vec<Extent>>;
}
