//! The vSphere site against a simulated vCenter and ESXi host, whose disks are real files. What the simulator cannot do, and what is tried with
//! answers written by hand instead, is in docs/decisions/0013-vim25-client.md.

#![expect(clippy::unwrap_used, reason = "tests fail by panics, also in what they share")]

mod bench;
mod changing;
mod disks;
mod faults;
mod inventory;
mod lending;
mod privileges;
mod promises;
mod trust;
mod watch;
mod witness;
