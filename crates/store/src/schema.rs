//! The schema, the same on both databases, and its migrations: numbered, forward only, each in a transaction with the note that it was done.

use crate::{Kind, StoreError};

/// All migrations, in order; the schema's version is how many of them were done. Never changed once released, only added to.
pub(crate) const MIGRATIONS: [&str; 1] = [include_str!("migrations/0001-records.sql")];

/// The version this program knows.
pub(crate) fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).expect("a handful")
}

/// The migrations that a database at `found` needs yet.
pub(crate) fn missing(found: u32) -> Result<&'static [&'static str], StoreError> {
    let done = usize::try_from(found).unwrap_or(usize::MAX);
    MIGRATIONS.get(done..).ok_or(StoreError::TooNew { found, known: known() })
}

/// A kind as the database writes it.
pub(crate) const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Site => "site",
        Kind::Server => "server",
        Kind::Report => "report",
        Kind::Group => "group",
        Kind::NetworkMapping => "network-mapping",
        Kind::Item => "item",
        Kind::Plan => "plan",
        Kind::Job => "job",
        Kind::Event => "event",
        Kind::Audit => "audit",
        Kind::Token => "token",
        Kind::Setting => "setting",
    }
}
