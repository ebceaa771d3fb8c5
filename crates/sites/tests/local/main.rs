//! The local site with real QEMU processes. What boots an operating system is in `guests`; the others' machines have none, which takes no time.

mod bench;
mod guests;
mod promises;
mod screens;
mod snapshots;
mod uefi;
