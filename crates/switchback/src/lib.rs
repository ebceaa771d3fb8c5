//! Switchback's one program, as a library: the sync engine and the commands.
//!
//! What it is: [`engine`], the source's side of replication; [`host`], the target's; [`cli`], one file for each command. What it never does:
//! formats, kernel programs, wire protocols; those are the crates below.
//!
//! The path of `switchback sync`: the command resolves disks, attaches a tracker and opens a session (to a directory beside
//! the target, or over the network); [`engine::Engine`] makes one cycle after the other; `receive` at the other
//! end hands the session to [`host::Host`], which keeps the replicas.
//! Under a configuration server the same parts are led by the [`role`]s, which hear of it through [`component`].

pub mod cli;
pub mod client;
pub mod component;
pub mod engine;
pub mod export;
pub mod exporting;
mod freezing;
mod frozen_log;
pub mod host;
pub mod machine;
pub mod metrics;
pub mod role;
pub mod slots;
mod spooling;
pub mod storage_key;
pub mod target_host;
mod traces;
