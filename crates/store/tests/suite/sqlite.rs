//! The SQLite store: the suite of all stores, and files that are not what they should be.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::thread;

use rusqlite::Connection;
use switchback_store::conformance::{self, Fixture};
use switchback_store::{Change, Expect, Kind, Query, SqliteStore, Store, StoreError};

struct InDirectory(tempfile::TempDir);

impl InDirectory {
    fn path(&self) -> PathBuf {
        self.0.path().join("store.db")
    }
}

impl Fixture for InDirectory {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(self.path()).unwrap())
    }
}

fn fresh() -> InDirectory {
    InDirectory(tempfile::tempdir().unwrap())
}

fn put(key: &str, body: &str) -> Change {
    let (key, body) = (key.to_owned(), body.to_owned());
    Change::Put { kind: Kind::Item, key, owner: None, expect: Expect::Any, body, due: None }
}

/// A database with some hundred records, closed: all of it is in the one file.
fn filled() -> (InDirectory, Vec<u8>) {
    let place = fresh();
    let body = format!("\"{}\"", "x".repeat(300));
    let batch: Vec<Change> = (0..300).map(|number| put(&format!("{number:03}"), &body)).collect();
    place.open().commit(&batch).unwrap();
    let bytes = fs::read(place.path()).unwrap();
    assert!(bytes.len() > 64 << 10, "too small to be damaged in interesting places");
    (place, bytes)
}

/// Uses everything that is there; must not panic.
fn use_it(path: &Path) -> Result<usize, StoreError> {
    let store = SqliteStore::open(path)?;
    let found = store.list(&Query::all(Kind::Item))?.len();
    store.commit(&[put("another", "1")])?;
    store.prune(Kind::Item, "050")?;
    Ok(found)
}

#[test]
fn conforms() {
    conformance::stores(fresh);
}

#[test]
fn only_its_owner_can_read_it() {
    let place = fresh();
    let store = place.open();
    store.commit(&[put("a", "1")]).unwrap();
    let files: Vec<_> = fs::read_dir(place.0.path()).unwrap().map(Result::unwrap).collect();
    assert!(files.len() >= 2, "the database and its log");
    for file in files {
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has the mode {mode:o}", file.path().display());
    }
}

#[test]
fn many_can_make_it_at_once() {
    const THREADS: usize = 8;
    for _ in 0..5 {
        let place = fresh();
        let start = Barrier::new(THREADS);
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (place, start) = (&place, &start);
                scope.spawn(move || {
                    start.wait();
                    place.open().commit(&[put(&number.to_string(), "1")]).unwrap();
                });
            }
        });
        assert_eq!(place.open().list(&Query::all(Kind::Item)).unwrap().len(), THREADS);
    }
}

#[test]
fn what_is_no_database_is_refused_and_left_as_it_is() {
    let place = fresh();
    for contents in ["", "no database", "SQLite format 3", &"text ".repeat(10_000)] {
        fs::write(place.path(), contents).unwrap();
        let error = SqliteStore::open(place.path()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{contents:.20?}: {error}");
        assert!(error.to_string().contains("estore a backup"), "{error}");
        assert_eq!(fs::read_to_string(place.path()).unwrap(), contents);
    }
}

#[test]
fn the_database_of_another_program_is_refused() {
    let place = fresh();
    Connection::open(place.path()).unwrap().execute_batch("CREATE TABLE bookmarks (url TEXT)").unwrap();
    let error = SqliteStore::open(place.path()).unwrap_err();
    assert!(error.to_string().contains("another program"), "{error}");
}

#[test]
fn a_log_without_its_database_is_not_taken_for_that_of_a_new_one() {
    let place = fresh();
    let store = place.open();
    store.commit(&[put("a", "1")]).unwrap();
    fs::remove_file(place.path()).unwrap();
    let error = SqliteStore::open(place.path()).unwrap_err();
    assert!(error.to_string().contains("store.db-wal"), "{error}");
    assert!(!place.path().exists());
}

/// Whole pages are missing. (A cut within the last page is a change of contents, which SQLite has no checksum for.)
#[test]
fn a_cut_file_is_found() {
    let (place, bytes) = filled();
    for len in [1, 16, 100, 4095, 4096, 8192, bytes.len() / 2, bytes.len() - 4096] {
        fs::write(place.path(), &bytes[..len]).unwrap();
        let error = use_it(&place.path()).expect_err(&format!("cut to {len} bytes, and nobody noticed"));
        assert!(matches!(error, StoreError::Corrupt { .. }), "cut to {len} bytes: {error}");
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let (place, bytes) = filled();
    let mut found = 0;
    let pages = bytes.len() / 4096;
    for page in 0..pages {
        for (at, value) in [(0, 0xFF), (3, 0xFF), (5, 0x80), (8, 0xFF), (100, 0xFF), (2000, 0xFF)] {
            fs::write(place.path(), &bytes).unwrap();
            let file = fs::File::options().write(true).open(place.path()).unwrap();
            let offset = page * 4096 + at;
            file.write_all_at(&[bytes[offset] ^ value], offset as u64).unwrap();
            if at == 0 {
                // What kind of page it is: found before anybody reads the page.
                let opened = SqliteStore::open(place.path());
                assert!(matches!(opened, Err(StoreError::Corrupt { .. })), "page {page}: {opened:?}");
            }
            match use_it(&place.path()) {
                Ok(_) => {}
                Err(StoreError::Corrupt { .. } | StoreError::Database { .. } | StoreError::TooNew { .. }) => {
                    found += 1
                }
                Err(other) => panic!("page {page} byte {at}: {other}"),
            }
            for suffix in ["-wal", "-shm", "-journal"] {
                let _ = fs::remove_file(format!("{}{suffix}", place.path().display()));
            }
        }
    }
    // A page's header says what the rest of it is: that it is wrong is always found.
    assert!(found >= pages * 2, "{found} of {pages} pages' damages found");
}

#[test]
fn overwritten_contents_are_damage() {
    let (place, _) = filled();
    let connection = Connection::open(place.path()).unwrap();
    for damage in [
        "UPDATE record SET body = x'ff' WHERE key = '000'",
        "UPDATE record SET body = CAST(x'ff' AS TEXT) WHERE key = '000'",
        "UPDATE record SET version = 'seven' WHERE key = '000'",
        "UPDATE record SET version = -1 WHERE key = '000'",
        "DELETE FROM store_state",
    ] {
        connection.execute_batch(&format!("BEGIN; {damage}")).unwrap();
        connection.execute_batch("COMMIT").unwrap();
        let error = use_it(&place.path()).expect_err(damage);
        assert!(matches!(error, StoreError::Corrupt { .. }), "{damage}: {error}");
        connection.execute_batch("UPDATE record SET body = '1', version = 1").unwrap();
    }
}

/// Another program keeps the database for itself: told after a limited time, and as something that passes.
#[test]
fn a_lock_of_another_process_is_waited_for_and_then_told() {
    let place = fresh();
    let store = place.open();
    let other = Connection::open(place.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(store.get(Kind::Item, "a").unwrap(), None, "reading goes on");
    let error = store.commit(&[put("a", "1")]).unwrap_err();
    assert!(matches!(&error, StoreError::Database { passing: true, .. }), "{error}");
    assert!(error.to_string().contains("another process"), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    store.commit(&[put("a", "1")]).unwrap();
}
