//! The ledger: a workload whose history proves what a recovery kept, and what it lost.
//!
//! A machine appends numbered records to a ledger on **each of its disks**, durable on the one before it begins on the other. Every record
//! holds the hash of the one before it, so nothing in the past can change unnoticed; and the hash of a block that was written to the same disk just
//! before it, so the disk's other contents are proved as well. A machine that depends on another one also records the newest record of that one that
//! it has *seen*: a cause, durable there before it was shown. What must therefore hold at every recovery point, and is checked here:
//!
//! * each copy is whole: numbers without a gap, hashes that follow from one another ([`Book::parse`]);
//! * the two disks of a machine are from one moment: equal, the second at most one record behind ([`agree`]);
//! * two machines are from one moment: no effect without its cause ([`causes_are_held`]);
//! * history is never rewritten: what was there at an earlier check still is ([`Book::contains`]);
//! * the newest block of each slot is the one its record names ([`slots::check`]).
//!
//! The path of one record: [`Keeper::append`] writes the slot and then the record, disk by disk; then [`link`] shows it to other machines.

mod book;
mod keeper;
pub mod link;
mod record;
pub mod slots;
mod workload;

pub use book::{Book, Flaw, Standing, agree, causes_are_held};
pub use keeper::{Keeper, KeeperError};
pub use record::{Hash, LedgerName, RECORD_LEN, Record, Seen};
pub use workload::{Link, Plan, run, stop_on_signal};

/// The ledger's file in its directory.
pub const FILE: &str = "ledger";
/// The slots' file in that directory.
pub const SLOTS_FILE: &str = "slots";
/// The TCP port at which a machine shows its newest record.
pub const PORT: u16 = 7000;
