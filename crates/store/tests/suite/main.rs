//! Both stores: what every store must do, and what only each of them can meet.

#![expect(clippy::unwrap_used, reason = "tests: whatever fails, fails the test")]

mod killed;
mod model;
mod postgres;
mod released;
mod sqlite;
mod sqlite_drives;
