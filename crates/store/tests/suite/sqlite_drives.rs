//! Drives that are full, cannot be written or are not there. Needs root, to mount small ones.

use std::path::Path;
use std::process::Command;

use switchback_store::{Change, Expect, Kind, Query, SqliteStore, Store, StoreError};

/// A drive of its own in memory.
struct Drive(tempfile::TempDir);

impl Drive {
    fn mount(options: &str) -> Self {
        let drive = Self(tempfile::tempdir().unwrap());
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(drive.path()));
        drive
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        // Detached at once even if something still has a file open.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?} failed");
}

fn put(key: &str) -> Change {
    let body = format!("\"{}\"", "x".repeat(10_000));
    Change::Put {
        kind: Kind::Event,
        key: key.to_owned(),
        owner: None,
        expect: Expect::Absent,
        body,
        due: None,
    }
}

#[test]
fn a_full_drive_is_told_and_nothing_is_lost() {
    let drive = Drive::mount("size=1m");
    let store = SqliteStore::open(drive.path().join("store.db")).unwrap();
    let mut done = 0;
    let error = loop {
        match store.commit(&[put(&format!("{done:04}")), put(&format!("{done:04}b"))]) {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
        assert!(done < 1_000, "a drive of 1 MiB is never full");
    };
    assert!(matches!(&error, StoreError::Database { passing: true, .. }), "{error}");
    assert!(error.to_string().contains("make room on its drive"), "{error}");
    assert_eq!(store.list(&Query::all(Kind::Event)).unwrap().len(), 2 * done, "a batch is half there");
    drop(store);

    // Also after opening it again on the full drive, and when there is room again it goes on.
    run(Command::new("mount").args(["-o", "remount,size=8m"]).arg(drive.path()));
    let store = SqliteStore::open(drive.path().join("store.db")).unwrap();
    assert_eq!(store.list(&Query::all(Kind::Event)).unwrap().len(), 2 * done);
    store.commit(&[put("more")]).unwrap();
}

#[test]
fn a_drive_without_room_for_a_database_is_told_and_nothing_is_left_behind() {
    let drive = Drive::mount("size=8k");
    let path = drive.path().join("store.db");
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(error.to_string().contains("make room on its drive"), "{error}");
    assert_eq!(std::fs::read_dir(drive.path()).unwrap().count(), 0, "something is left behind");
    run(Command::new("mount").args(["-o", "remount,size=8m"]).arg(drive.path()));
    SqliteStore::open(&path).unwrap();
}

#[test]
fn a_drive_that_cannot_be_written_is_told() {
    let drive = Drive::mount("size=8m");
    let path = drive.path().join("store.db");
    drop(SqliteStore::open(&path).unwrap());
    run(Command::new("mount").args(["-o", "remount,ro"]).arg(drive.path()));
    for path in [path, drive.path().join("new.db")] {
        let error = SqliteStore::open(&path).unwrap_err();
        assert!(matches!(&error, StoreError::Database { passing: false, .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(error.to_string().contains("writ"), "{error}");
    }
}

#[test]
fn a_directory_that_is_not_there_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let error = SqliteStore::open(directory.path().join("none/store.db")).unwrap_err();
    assert!(error.to_string().contains("is its directory there?"), "{error}");
    let error = SqliteStore::open(directory.path()).unwrap_err();
    assert!(matches!(&error, StoreError::Database { .. }), "{error}");
}
