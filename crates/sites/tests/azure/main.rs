//! The Azure site against an emulator of Resource Manager, whose disks are real bytes. What the emulator does not do as Azure does is in its
//! header, `crates/lab/src/arm.rs`.

#![expect(clippy::unwrap_used, reason = "tests fail by panics, also in what they share")]

mod bench;
mod faults;
mod guests;
mod lives;
mod promises;
mod readiness;
mod servers;
mod tokens;
mod witness;
