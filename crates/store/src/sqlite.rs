//! The embedded store: one SQLite file, in WAL mode, synced at every commit.
//!
//! One connection behind a mutex: SQLite has one writer anyway, and what the control plane does is short. The file belongs to one configuration
//! server; a second process may look, and waits for its turn to write.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};
use switchback_model::UnixMillis;

use crate::schema::{kind_name, known, missing};
use crate::{Change, Expect, Kind, LIMIT_MAX, Query, Record, Store, StoreError};

/// How long to wait for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A store in a SQLite file. See the module's header.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl SqliteStore {
    /// Opens the file, makes it if it is not there, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::TooNew`], [`StoreError::Corrupt`] for a file that is no database or a damaged one, [`StoreError::Database`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error: rusqlite::Error| explain(path, "opening the database", &error);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        // Synced at every commit, not only at checkpoints: a job's step that is acknowledged survives a power cut.
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        migrate(&mut connection, path)?;
        Ok(Self { path: path.into(), connection: Mutex::new(connection) })
    }

    /// Looks through the whole file for damage.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with what is wrong.
    pub fn check(&self) -> Result<(), StoreError> {
        let connection = self.connection();
        let verdict: String = connection
            .query_row("PRAGMA integrity_check(10)", [], |row| row.get(0))
            .map_err(|error| explain(&self.path, "checking the database", &error))?;
        if verdict == "ok" { Ok(()) } else { Err(StoreError::Corrupt { detail: verdict }) }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic while it was held leaves no transaction behind: they end when dropped.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` in a transaction that has the right to write from its beginning.
    fn write<T>(
        &self,
        action: &str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection();
        let failed = |error: rusqlite::Error| explain(&self.path, action, &error);
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let done = work(&transaction).map_err(|failure| match failure {
            Failure::Store(error) => error,
            Failure::Sqlite(error) => failed(error),
        })?;
        transaction.commit().map_err(failed)?;
        Ok(done)
    }
}

/// What ends a transaction.
enum Failure {
    Store(StoreError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| explain(path, "bringing the database's schema up to date", &error);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    for migration in missing(found)? {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", known()).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// An error of SQLite's for people.
fn explain(path: &Path, action: &str, error: &rusqlite::Error) -> StoreError {
    let code = error.sqlite_error_code();
    if matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) {
        return StoreError::Corrupt { detail: format!("{}: {error}", path.display()) };
    }
    let hint = match code {
        Some(ErrorCode::DiskFull) => "; free some space, nothing was lost",
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "; may this user write the file and its directory?"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "; another process holds it",
        _ => "",
    };
    let passing =
        matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull));
    StoreError::Database {
        action: format!("{action} {}", path.display()),
        detail: format!("{error}{hint}"),
        passing,
    }
}

fn millis(time: UnixMillis) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

fn record(kind: Kind, row: &Row<'_>) -> rusqlite::Result<Record> {
    let version: i64 = row.get(2)?;
    Ok(Record {
        kind,
        key: row.get(0)?,
        owner: row.get(1)?,
        version: version.unsigned_abs(),
        body: row.get(3)?,
    })
}

const COLUMNS: &str = "key, owner, version, body";

/// The version of a record, if it is as expected.
fn expected(
    transaction: &Transaction<'_>,
    kind: Kind,
    key: &str,
    expect: Expect,
) -> Result<Option<i64>, Failure> {
    let mut find = transaction.prepare_cached("SELECT version FROM records WHERE kind = ?1 AND key = ?2")?;
    let found: Option<i64> = find.query_row(params![kind_name(kind), key], |row| row.get(0)).optional()?;
    let is_right = match expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Version(version) => found == i64::try_from(version).ok(),
    };
    if is_right { Ok(found) } else { Err(Failure::Store(StoreError::Conflict { kind, key: key.into() })) }
}

fn apply(transaction: &Transaction<'_>, change: &Change) -> Result<u64, Failure> {
    match change {
        Change::Put { kind, key, owner, expect, body, due } => {
            let version = expected(transaction, *kind, key, *expect)?.unwrap_or(0) + 1;
            let mut put = transaction.prepare_cached(
                "INSERT INTO records (kind, key, owner, version, body, due) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (kind, key) DO UPDATE SET owner = ?3, version = ?4, body = ?5, due = ?6",
            )?;
            put.execute(params![kind_name(*kind), key, owner, version, body, due.map(millis)])?;
            Ok(version.unsigned_abs())
        }
        Change::Delete { kind, key, expect } => {
            expected(transaction, *kind, key, *expect)?;
            let mut delete =
                transaction.prepare_cached("DELETE FROM records WHERE kind = ?1 AND key = ?2")?;
            delete.execute(params![kind_name(*kind), key])?;
            Ok(0)
        }
    }
}

impl Store for SqliteStore {
    fn get(&self, kind: Kind, key: &str) -> Result<Option<Record>, StoreError> {
        let connection = self.connection();
        let found = connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM records WHERE kind = ?1 AND key = ?2"))
            .and_then(|mut get| {
                get.query_row(params![kind_name(kind), key], |row| record(kind, row)).optional()
            });
        found.map_err(|error| explain(&self.path, "reading from the database", &error))
    }

    fn list(&self, query: &Query) -> Result<Vec<Record>, StoreError> {
        let (compare, order) = if query.descending { ("<", "DESC") } else { (">", "ASC") };
        let sql = format!(
            "SELECT {COLUMNS} FROM records WHERE kind = ?1 AND (?2 IS NULL OR owner = ?2) AND (?3 IS NULL OR key {compare} ?3)
             ORDER BY key {order} LIMIT ?4"
        );
        let limit = i64::try_from(query.limit.min(LIMIT_MAX)).unwrap_or(i64::MAX);
        let connection = self.connection();
        let found = connection.prepare_cached(&sql).and_then(|mut list| {
            let rows = list
                .query_map(params![kind_name(query.kind), query.owner, query.after, limit], |row| {
                    record(query.kind, row)
                })?;
            rows.collect::<Result<Vec<_>, _>>()
        });
        found.map_err(|error| explain(&self.path, "reading from the database", &error))
    }

    fn commit(&self, changes: &[Change]) -> Result<Vec<u64>, StoreError> {
        self.write("writing to the database", |transaction| {
            changes.iter().map(|change| apply(transaction, change)).collect()
        })
    }

    fn claim_job(
        &self,
        owner: &str,
        now: UnixMillis,
        until: UnixMillis,
    ) -> Result<Option<Record>, StoreError> {
        // Looked for before the right to write is taken: mostly there is nothing.
        let is_due = "kind = 'job' AND due <= ?1 AND (lease_until IS NULL OR lease_until <= ?1)";
        let any: bool = {
            let connection = self.connection();
            let found = connection
                .prepare_cached(&format!("SELECT EXISTS (SELECT 1 FROM records WHERE {is_due})"))
                .and_then(|mut find| find.query_row([millis(now)], |row| row.get(0)));
            found.map_err(|error| explain(&self.path, "looking for jobs in the database", &error))?
        };
        if !any {
            return Ok(None);
        }
        self.write("claiming a job in the database", |transaction| {
            let mut claim = transaction.prepare_cached(&format!(
                "UPDATE records SET lease_owner = ?2, lease_until = ?3 WHERE kind = 'job' AND key =
                 (SELECT key FROM records WHERE {is_due} ORDER BY due, key LIMIT 1) RETURNING {COLUMNS}"
            ))?;
            Ok(claim
                .query_row(params![millis(now), owner, millis(until)], |row| record(Kind::Job, row))
                .optional()?)
        })
    }

    fn renew_lease(&self, owner: &str, job: &str, until: UnixMillis) -> Result<bool, StoreError> {
        self.write("prolonging a lease in the database", |transaction| {
            let sql =
                "UPDATE records SET lease_until = ?3 WHERE kind = 'job' AND key = ?1 AND lease_owner = ?2";
            Ok(transaction.execute(sql, params![job, owner, millis(until)])? > 0)
        })
    }

    fn release_job(&self, owner: &str, job: &str) -> Result<(), StoreError> {
        self.write("giving back a job in the database", |transaction| {
            let sql = "UPDATE records SET lease_owner = NULL, lease_until = NULL WHERE kind = 'job' AND key = ?1 AND lease_owner = ?2";
            transaction.execute(sql, params![job, owner])?;
            Ok(())
        })
    }

    fn release_all(&self, owner: &str) -> Result<u64, StoreError> {
        self.write("giving back jobs in the database", |transaction| {
            let sql = "UPDATE records SET lease_owner = NULL, lease_until = NULL WHERE kind = 'job' AND lease_owner = ?1";
            Ok(transaction.execute(sql, params![owner])? as u64)
        })
    }

    fn prune(&self, kind: Kind, key: &str) -> Result<u64, StoreError> {
        self.write("removing old records from the database", |transaction| {
            Ok(transaction
                .execute("DELETE FROM records WHERE kind = ?1 AND key < ?2", params![kind_name(kind), key])?
                as u64)
        })
    }
}
