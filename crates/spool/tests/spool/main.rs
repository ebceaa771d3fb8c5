//! The spool between a writer and a model of the next hop, on a simulated machine.
#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod crash;
mod damage;
mod model;
mod next_hop;
mod room;
