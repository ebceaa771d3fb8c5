//! The lab: real machines for tests, and oracles that judge what the engine did to them.
//!
//! For tests and benches only; nothing that is shipped depends on it.
//!
//! * [`Foundation`]: the QEMU and the Debian kernel that guests run on, unpacked by `scripts/lab-guests`.
//! * [`GuestImage`]: a machine's root file system: programs with their libraries, kernel modules with those they need, files, one script.
//! * [`Guest`]: one run of such a machine with disks, bounded in time, judged by what its script ends with.
//! * [`DebianHost`]: a guest that is a Debian system, run by systemd.
//! * [`write_log`]: what a disk was told to write, recorded by the kernel's dm-log-writes, and [`write_log::Oracle`], which proves that a
//!   recovery point is a state the disk really had.
//! * [`wire`]: one connection's way between two places, which can be cut; [`wan`]: two network namespaces and a slow path, which can be cut, too.
//! * [`demo`]: all of Switchback at work on one host, with real guests: the whole cycle, or its faults.
//! * [`arm`]: Azure Resource Manager emulated, with disks that are real bytes and machines that run.
//! * [`vcsim`]: a vCenter or ESXi host that is simulated but for the bytes of its disks, and an independent client to judge ours.
//!
//! The path of one test: build a [`GuestImage`], start a [`Guest`] on raw disk images, wait for its [`Outcome`], then look at the disk
//! images from outside. A guest has no network and shares nothing with the host but its disks and its console.

mod accelerator;
pub mod arm;
pub mod azurite;
mod child_lines;
mod cpio;
mod debian;
pub mod demo;
mod foundation;
mod guest;
mod image;
pub mod inspect;
mod kernel_modules;
pub mod ledger;
mod libraries;
pub mod machine;
mod plain_http;
mod prepared;
pub mod vcsim;
pub mod wan;
pub mod wire;
pub mod write_log;

pub use accelerator::Accelerator;
pub use debian::{DebianError, DebianHost};
pub use foundation::{Foundation, FoundationError};
pub use guest::{Guest, GuestError, Outcome, RunningGuest};
pub use image::{GuestImage, GuestImageBuilder, ImageError};
pub use prepared::{PreparedError, prepared};
