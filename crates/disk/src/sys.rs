//! The system calls that `rustix` has no safe name for, each made safe here.

#![expect(unsafe_code, reason = "ioctls and fcntls whose arguments the kernel defines")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};
use switchback_model::Extent;

/// `linux/fs.h`: `_IOR(0x12, 114, size_t)`; the size in bytes, as 64 bits on every architecture.
const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);
/// `linux/fs.h`: `_IO(0x12, 127)`; takes start and length in bytes.
const BLKZEROOUT: Opcode = opcode::none(0x12, 127);

/// The size of a block device in bytes.
pub(crate) fn block_device_bytes(device: &File) -> io::Result<u64> {
    // SAFETY: BLKGETSIZE64 writes one u64 to its argument, which is what `Getter` provides.
    let size = unsafe { ioctl(device, Getter::<BLKGETSIZE64, u64>::new()) }?;
    Ok(size)
}

/// Makes `extent` of a block device read as zeros: by the device if it can (also releasing the space),
/// else by zeros that the kernel writes. Unlike BLKDISCARD the result does not depend on the device.
pub(crate) fn zero_out(device: &File, extent: Extent) -> io::Result<()> {
    // SAFETY: BLKZEROOUT reads two u64 from its argument, which is what `Setter` provides.
    unsafe { ioctl(device, Setter::<BLKZEROOUT, [u64; 2]>::new([extent.start, extent.len])) }?;
    Ok(())
}

/// Locks the whole file for writing, for as long as this open file lives; `WouldBlock` if any other open
/// file has a lock on any of it.
///
/// An open-file-description lock rather than `flock`: QEMU takes these on its images, so that the two
/// exclude each other.
pub(crate) fn lock_whole_file(file: &File) -> io::Result<()> {
    // SAFETY: `flock` is a plain C structure of integers, for which all zeros are valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = i16::try_from(libc::F_WRLCK).expect("F_WRLCK is 1");
    lock.l_whence = i16::try_from(libc::SEEK_SET).expect("SEEK_SET is 0");
    // SAFETY: F_OFD_SETLK reads one `flock` from its argument, which lives across the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
