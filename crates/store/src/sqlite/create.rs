//! Making a database: under another name first, and under its own when it is whole and durable.
//!
//! The name is given by a hard link, not by a rename: of two processes that make the same database one is told that it is already there,
//! instead of replacing one in which the other has already stored something.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use switchback_disk::{DirVolume, Volume as _};

use super::{error, migrate};
use crate::StoreError;
use crate::migration::Migration;

/// The smallest page of SQLite. It takes a file of some bytes for a new database.
const BYTES_MIN: u64 = 512;
/// Processes that may make the same database at once, or be killed when they do.
const NEW_FILES_MAX: u32 = 32;

/// Makes the database at `path` unless something has that name.
pub(super) fn create_if_absent(path: &Path, migrations: &[Migration]) -> Result<(), StoreError> {
    let failed = |error: io::Error| error::from_io(path, "create", &error);
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() < BYTES_MIN => {
            let detail = format!("it has {} bytes, fewer than any database", metadata.len());
            return Err(error::corrupt(path, detail));
        }
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error::from_io(path, "open", &error)),
    }
    refuse_left_behind(path)?;

    let new = new_file(path)?;
    let made = fill(path, &new, migrations).and_then(|()| {
        fs::File::open(&new).and_then(|file| file.sync_all()).map_err(failed)?;
        match fs::hard_link(&new, path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed(error)),
            _ => Ok(()),
        }
    });
    // Also after a failure: there is nothing in it.
    let removed = remove(&new).map_err(failed);
    made?;
    removed?;
    sync_directory(path).map_err(failed)
}

/// An empty file that nobody else has. SQLite gives its other files the mode of this one.
fn new_file(path: &Path) -> Result<PathBuf, StoreError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    for number in 0..NEW_FILES_MAX {
        let new = with_suffix(path, &format!(".new-{number}"));
        match options.open(&new) {
            Ok(_) => return Ok(new),
            // Of somebody who makes one at this moment, or who was killed when he did.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error::from_io(path, "create", &error)),
        }
    }
    let detail = format!(
        "{NEW_FILES_MAX} attempts were begun and not ended: remove the files {}.new-*",
        path.display()
    );
    let action = format!("the attempt to create the database {}", path.display());
    Err(StoreError::Database { action, detail, passing: false })
}

/// The log of a database that is gone would be taken for that of the new one, which it would destroy.
fn refuse_left_behind(path: &Path) -> Result<(), StoreError> {
    for suffix in ["-wal", "-journal"] {
        let other = with_suffix(path, suffix);
        if other.try_exists().unwrap_or(true) {
            let detail = format!(
                "it is not there, but {} is, which belongs to it and may hold what was stored last; to begin with an empty database, move \
                 that file away",
                other.display()
            );
            return Err(error::corrupt(path, detail));
        }
    }
    Ok(())
}

/// Gives the empty file `new` the schema.
///
/// It is in WAL mode when it gets its name: of two processes that change the mode of one database at once, SQLite refuses one without
/// waiting (each would wait for the other: <https://www.sqlite.org/c3ref/busy_handler.html>). Closing it puts all of it into this one file.
fn fill(path: &Path, new: &Path, migrations: &[Migration]) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| error::from_sqlite(path, "creating the database", &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(new, flags).map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    migrate(path, &mut connection, migrations)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.close().map_err(|(_, error)| failed(error))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    DirVolume::open(directory).map_err(io::Error::other)?.sync()
}
