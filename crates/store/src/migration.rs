//! The numbered migrations, from an empty database to today's schema.
//!
//! Invariants: numbers begin with 1 and have no gap; a released migration is never changed; each is applied in one transaction with the
//! number that says so, so that a database is always whole at one version.

use crate::StoreError;

/// One step forward.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migration {
    /// The schema version it leads to.
    pub(crate) version: u32,
    /// What it does, in the words that SQLite and PostgreSQL share.
    pub(crate) sql: &'static str,
}

/// All of them, in order.
pub(crate) const MIGRATIONS: &[Migration] =
    &[Migration { version: 1, sql: include_str!("../migrations/0001-records.sql") }];

/// Whether the database has been given a schema at all; the rest of the questions are answered by `store_state`.
pub(crate) const READ_VERSION: &str = "SELECT schema_version FROM store_state WHERE id = 1";

/// Says which version a database has now.
pub(crate) const WRITE_VERSION: &str = "UPDATE store_state SET schema_version = $1 WHERE id = 1";

/// The migrations that a database at version `found` (0: empty) still needs.
///
/// # Errors
/// [`StoreError::TooNew`], and [`StoreError::Corrupt`] for a number that was never written.
pub(crate) fn pending<'a>(
    migrations: &'a [Migration],
    found: i64,
    place: &str,
) -> Result<&'a [Migration], StoreError> {
    let known = migrations.last().map_or(0, |last| last.version);
    let Ok(found) = u32::try_from(found) else {
        let detail = format!("its schema version is {found}, which no version of switchback has written");
        return Err(StoreError::Corrupt { place: place.to_owned(), detail });
    };
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    let done = migrations.iter().take_while(|migration| migration.version <= found).count();
    Ok(&migrations[done..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: [Migration; 3] = [
        Migration { version: 1, sql: "" },
        Migration { version: 2, sql: "" },
        Migration { version: 3, sql: "" },
    ];

    fn versions(found: i64) -> Vec<u32> {
        pending(&THREE, found, "test").expect("known").iter().map(|migration| migration.version).collect()
    }

    #[test]
    fn numbers_begin_with_one_and_have_no_gap() {
        let numbers: Vec<u32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        let expected: Vec<u32> = (1..).take(MIGRATIONS.len()).collect();
        assert_eq!(numbers, expected);
    }

    #[test]
    fn only_what_is_missing_is_applied() {
        assert_eq!(versions(0), [1, 2, 3]);
        assert_eq!(versions(2), [3]);
        assert_eq!(versions(3), [] as [u32; 0]);
    }

    #[test]
    fn newer_and_impossible_versions_are_refused() {
        assert!(matches!(pending(&THREE, 4, "test"), Err(StoreError::TooNew { found: 4, known: 3 })));
        assert!(matches!(pending(&THREE, -1, "test"), Err(StoreError::Corrupt { .. })));
        assert!(matches!(pending(&THREE, i64::MAX, "test"), Err(StoreError::Corrupt { .. })));
    }
}
