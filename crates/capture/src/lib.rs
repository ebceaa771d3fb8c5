//! Capture: which blocks of a machine's disks changed, and the moment at which they belong together.
//!
//! What it is: everything that looks at the machine being protected. [`devices`] finds the whole disks below
//! a path and the file systems above them; a [`ChangeTracker`] ([`ebpf`] in the kernel, [`scan`] for
//! anything that can be read) says which blocks changed; [`moment`] freezes the file systems through the
//! helper process of [`freeze`], with the user's [`scripts`] around it.
//! What it never does: network, or deciding what to do with what it found. It writes to no protected disk,
//! but for the self-test of [`ebpf`], which changes nothing for anybody.
//!
//! The path of one change: an application's write becomes a request of the disk below; the program in the
//! kernel marks its blocks; [`ChangeTracker::swap`] hands them to the sync engine as extents; the engine reads
//! and sends them; when the other side has them durable, [`ChangeTracker::release`] forgets them.

pub mod devices;
pub mod ebpf;
pub mod freeze;
pub mod moment;
pub mod scan;
pub mod scripts;
mod tracker;

pub use tracker::ChangeTracker;
