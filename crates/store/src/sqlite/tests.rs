//! Tests that need a look inside: migrations that do not exist yet.

use std::path::{Path, PathBuf};

use super::*;
use crate::Expect;

const ADD: Migration =
    Migration { version: 2, sql: "ALTER TABLE record ADD COLUMN note TEXT; UPDATE record SET note = 'new'" };
const BREAK: Migration =
    Migration { version: 3, sql: "CREATE TABLE more (a TEXT); INSERT INTO nowhere VALUES (1)" };

fn with(more: &[Migration]) -> Vec<Migration> {
    [MIGRATIONS, more].concat()
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    (directory, path)
}

fn fill_with_one(path: &Path) {
    let put = Change::Put {
        kind: Kind::Item,
        key: "web01".to_owned(),
        owner: None,
        expect: Expect::Absent,
        body: "1".to_owned(),
        due: None,
    };
    SqliteStore::open(path).unwrap().commit(&[put]).unwrap();
}

fn one<T: rusqlite::types::FromSql>(path: &Path, sql: &str) -> T {
    Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn a_migration_is_applied_once() {
    let (_directory, path) = place();
    fill_with_one(&path);
    for _ in 0..2 {
        let store = SqliteStore::open_with(&path, &with(&[ADD])).unwrap();
        assert!(store.get(Kind::Item, "web01").unwrap().is_some());
    }
    assert_eq!(one::<String>(&path, "SELECT note FROM record"), "new");
    assert_eq!(one::<u32>(&path, "SELECT schema_version FROM store_state"), 2);
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::TooNew { found: 2, known: 1 }), "{error}");
}

#[test]
fn a_migration_that_fails_leaves_everything_as_it_was() {
    let (_directory, path) = place();
    fill_with_one(&path);
    let error = SqliteStore::open_with(&path, &with(&[ADD, BREAK])).unwrap_err();
    assert!(error.to_string().contains("migrating the database"), "{error}");
    assert_eq!(one::<u32>(&path, "SELECT schema_version FROM store_state"), 1);
    assert_eq!(one::<u32>(&path, "SELECT count(*) FROM sqlite_schema WHERE name = 'more'"), 0);
    assert!(SqliteStore::open(&path).unwrap().get(Kind::Item, "web01").unwrap().is_some());
}

#[test]
fn a_database_whose_making_fails_is_not_there() {
    let (directory, path) = place();
    SqliteStore::open_with(&path, &with(&[ADD, BREAK])).unwrap_err();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    SqliteStore::open(&path).unwrap();
}

#[test]
fn a_commit_is_durable_when_it_returns() {
    let (_directory, path) = place();
    let store = SqliteStore::open(&path).unwrap();
    let setting = |name: &str| {
        let sql = format!("SELECT {name} FROM pragma_{name}");
        store.connection().query_row(&sql, [], |row| row.get::<_, rusqlite::types::Value>(0)).unwrap()
    };
    assert_eq!(setting("journal_mode"), "wal".to_owned().into());
    // FULL.
    assert_eq!(setting("synchronous"), 2_i64.into());
}
