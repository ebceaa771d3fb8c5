//! What SQLite's errors mean for a user: which file, the likely cause, what to do.
//!
//! Source of the codes: <https://www.sqlite.org/rescode.html>.

use std::io;
use std::path::Path;

use rusqlite::{Error, ErrorCode};

use crate::StoreError;

/// The database at `path` is not what it should be.
pub(super) fn corrupt(path: &Path, detail: String) -> StoreError {
    StoreError::Corrupt { place: format!("the database {}", path.display()), detail }
}

/// The file belongs to somebody else.
pub(super) fn foreign(path: &Path) -> StoreError {
    StoreError::Database {
        action: format!("opening the database {}", path.display()),
        detail: "it is the database of another program: give the path of switchback's own, or of a file that is not there yet"
            .to_owned(),
        passing: false,
    }
}

/// The file system refused to `verb` the file.
pub(super) fn from_io(path: &Path, verb: &str, error: &io::Error) -> StoreError {
    let (advice, passing) = match error.kind() {
        io::ErrorKind::NotFound => ("is its directory there?", false),
        io::ErrorKind::PermissionDenied => ("check the owner and mode of the file and its directory", false),
        io::ErrorKind::ReadOnlyFilesystem => {
            ("mount the drive for writing, or keep the database elsewhere", false)
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ("make room on its drive", true),
        _ => ("see the kernel's log for errors of the drive", false),
    };
    StoreError::Database {
        action: format!("the attempt to {verb} the database {}", path.display()),
        detail: format!("{error}; {advice}"),
        passing,
    }
}

/// SQLite failed while `doing` something.
pub(super) fn from_sqlite(path: &Path, doing: &str, error: &Error) -> StoreError {
    let code = error.sqlite_error_code();
    let (advice, passing) = match (code, error) {
        (Some(ErrorCode::NotADatabase), _) => {
            return corrupt(path, "it is no SQLite database, or its first page is overwritten".to_owned());
        }
        (Some(ErrorCode::DatabaseCorrupt), _) => return corrupt(path, error.to_string()),
        // What is stored is not of the type that was stored.
        (
            None,
            Error::FromSqlConversionFailure(..)
            | Error::InvalidColumnType(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
            | Error::QueryReturnedNoRows,
        ) => return corrupt(path, format!("{doing} found what was never stored: {error}")),
        (Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked), _) => (
            "another process has kept the database locked for too long: is one stuck, or is a backup running?",
            true,
        ),
        (Some(ErrorCode::DiskFull), _) => ("make room on its drive", true),
        (Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied), _) => {
            ("the file or its drive cannot be written: check owner, mode and mount", false)
        }
        (Some(ErrorCode::CannotOpen), _) => {
            ("check that the file and its directory are there and can be written", false)
        }
        (Some(ErrorCode::SystemIoFailure), _) => ("see the kernel's log for errors of the drive", true),
        (Some(ErrorCode::OutOfMemory), _) => ("free some memory", true),
        _ => ("this should not happen: please report it", false),
    };
    StoreError::Database {
        action: format!("{doing} (in {})", path.display()),
        detail: format!("{error}; {advice}"),
        passing,
    }
}
