//! [`SqliteStore`]: one file, for the one configuration server that most have.
//!
//! ```text
//! NAME            the database
//! NAME-wal        what was committed last; belongs to the database: neither is whole without the other
//! NAME-shm        an index of it, made again when missing
//! NAME.new-N      a database that is being made; of no use to anybody when its process is gone
//! ```
//!
//! Invariants: what has the name NAME has a schema, because a database is made under another name and linked to its own when it is durable
//! (an empty file of that name has therefore been cut off by somebody, and is not silently begun anew). A commit is durable when it returns
//! (`synchronous=FULL` in WAL mode: <https://www.sqlite.org/pragma.html#pragma_synchronous>). Other processes may have the file open; each
//! waits for the other, for a limited time.

mod create;
mod error;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OpenFlags, Row, ToSql, TransactionBehavior, params_from_iter};
use switchback_model::UnixMillis;

use crate::migration::{MIGRATIONS, Migration, READ_VERSION, WRITE_VERSION, pending};
use crate::snapshot::{self, ALL_RECORDS, COUNT, FINGERPRINT, LAST_VERSION, SET_LAST_VERSION};
use crate::statement::{self, NEXT_VERSION, Parameter, RowLock, Statement};
use crate::{Change, Fingerprint, Kind, Query, Record, Saved, Snapshot, Store, StoreError, check};

/// How long a call waits for another process that writes. A batch takes milliseconds: after this, something is stuck.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
/// What the log of the last commits is cut to after a large batch, in bytes.
const WAL_BYTES_KEPT: u32 = 64 << 20;

/// A store in an SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    /// One connection: SQLite has one writer at a time, and a call takes a millisecond.
    connection: Mutex<Connection>,
}

impl SqliteStore {
    /// Opens the database at `path`; makes it when it is not there (its directory must be), for its owner only (mode 0600).
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for a damaged database or something else than one, [`StoreError::TooNew`], and [`StoreError::Database`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path.as_ref(), MIGRATIONS)
    }

    fn open_with(path: &Path, migrations: &[Migration]) -> Result<Self, StoreError> {
        let path = std::path::absolute(path).map_err(|error| error::from_io(path, "open", &error))?;
        create::create_if_absent(&path, migrations)?;
        let mut connection =
            connect(&path).map_err(|error| error::from_sqlite(&path, "opening the database", &error))?;
        check_whole(&path, &connection)?;
        migrate(&path, &mut connection, migrations)?;
        Ok(Self { path, connection: Mutex::new(connection) })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // Whoever panicked while it had the connection has rolled back: a transaction does when it is dropped.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed<'a>(&'a self, doing: &'a str) -> impl FnOnce(rusqlite::Error) -> StoreError + 'a {
        move |error| error::from_sqlite(&self.path, doing, &error)
    }

    fn records(&self, kind: Kind, doing: &str, statement: &Statement<'_>) -> Result<Vec<Record>, StoreError> {
        let read = || {
            let connection = self.connection();
            let mut prepared = connection.prepare(&statement.sql)?;
            let rows =
                prepared.query_map(params_from_iter(&statement.parameters), |row| record(kind, row))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(self.failed(doing))
    }

    fn execute(&self, doing: &str, statement: &Statement<'_>) -> Result<u64, StoreError> {
        let changed = self
            .connection()
            .execute(&statement.sql, params_from_iter(&statement.parameters))
            .map_err(self.failed(doing))?;
        Ok(changed as u64)
    }
}

impl Store for SqliteStore {
    fn get(&self, kind: Kind, key: &str) -> Result<Option<Record>, StoreError> {
        if !check::can_be(key) {
            return Ok(None);
        }
        let found = self.records(kind, "reading a record", &statement::get(kind, key))?;
        Ok(found.into_iter().next())
    }

    fn list(&self, query: &Query) -> Result<Vec<Record>, StoreError> {
        check::query(query)?;
        self.records(query.kind, "reading records", &statement::list(query))
    }

    fn commit(&self, changes: &[Change]) -> Result<Vec<u64>, StoreError> {
        check::changes(changes)?;
        let mut connection = self.connection();
        commit(&mut connection, changes).map_err(|failure| match failure {
            Failure::Conflict(at) => conflict(&changes[at]),
            Failure::Sqlite(error) => error::from_sqlite(&self.path, "storing changes", &error),
        })
    }

    fn claim_job(
        &self,
        owner: &str,
        now: UnixMillis,
        until: UnixMillis,
    ) -> Result<Option<Record>, StoreError> {
        check::name("owner", owner)?;
        let claim = statement::claim(owner, now, until, RowLock::None);
        Ok(self.records(Kind::Job, "claiming a job", &claim)?.into_iter().next())
    }

    fn renew_lease(&self, owner: &str, job: &str, until: UnixMillis) -> Result<bool, StoreError> {
        if !check::can_be(owner) || !check::can_be(job) {
            return Ok(false);
        }
        Ok(self.execute("renewing a lease", &statement::renew(owner, job, until))? > 0)
    }

    fn release_job(&self, owner: &str, job: &str) -> Result<(), StoreError> {
        if !check::can_be(owner) || !check::can_be(job) {
            return Ok(());
        }
        self.execute("releasing a job", &statement::release(owner, job)).map(|_| ())
    }

    fn release_all(&self, owner: &str) -> Result<u64, StoreError> {
        if !check::can_be(owner) {
            return Ok(0);
        }
        self.execute("releasing jobs", &statement::release_all(owner))
    }

    fn prune(&self, kind: Kind, key: &str) -> Result<u64, StoreError> {
        check::bound(key)?;
        self.execute("removing old records", &statement::prune(kind, key))
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        // On a connection of its own: those who write go on meanwhile.
        let read = || {
            let mut connection = connect(&self.path)?;
            let transaction = connection.transaction()?;
            let last_version: i64 = transaction.query_row(LAST_VERSION, [], |row| row.get(0))?;
            let mut prepared = transaction.prepare(ALL_RECORDS)?;
            let rows = prepared.query_map([], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
            })?;
            Ok((last_version, rows.collect::<rusqlite::Result<Vec<snapshot::Row>>>()?))
        };
        let (last_version, rows) = read().map_err(self.failed("reading everything"))?;
        let records = rows.into_iter().map(snapshot::saved).collect::<Result<_, _>>();
        let records = records.map_err(|detail| error::corrupt(&self.path, detail))?;
        Ok(Snapshot { last_version: u64::try_from(last_version).unwrap_or(0), records })
    }

    fn fingerprint(&self) -> Result<Fingerprint, StoreError> {
        let found = self.connection().query_row(FINGERPRINT, [], |row| Ok((row.get(0)?, row.get(1)?)));
        let (count, versions): (i64, i64) = found.map_err(self.failed("looking for changes"))?;
        Ok(Fingerprint { count: count.unsigned_abs(), versions: versions.unsigned_abs() })
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        snapshot::check(snapshot)?;
        let mut connection = self.connection();
        let present = restore(&mut connection, snapshot).map_err(self.failed("restoring records"))?;
        if present > 0 {
            return Err(snapshot::not_empty(&self.path.display().to_string(), present));
        }
        Ok(())
    }
}

/// Fills an empty database; returns how many records there were already, if there were.
fn restore(connection: &mut Connection, snapshot: &Snapshot) -> rusqlite::Result<i64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let present: i64 = transaction.query_row(COUNT, [], |row| row.get(0))?;
    if present > 0 {
        return Ok(present);
    }
    let sql = "INSERT INTO record (kind, key, owner, version, body, due) VALUES ($1, $2, $3, $4, $5, $6)";
    let mut insert = transaction.prepare(sql)?;
    for Saved { record, due } in &snapshot.records {
        let version = i64::try_from(record.version).unwrap_or(i64::MAX);
        let due = due.map(|due| i64::try_from(due.0).unwrap_or(i64::MAX));
        insert.execute((record.kind.as_str(), &record.key, &record.owner, version, &record.body, due))?;
    }
    drop(insert);
    transaction.execute(SET_LAST_VERSION, [snapshot::last_version(snapshot)])?;
    transaction.commit()?;
    Ok(0)
}

/// Why a batch was not done.
enum Failure {
    /// The change at this place did not find what it expected.
    Conflict(usize),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn commit(connection: &mut Connection, changes: &[Change]) -> Result<Vec<u64>, Failure> {
    // Rolled back when dropped. IMMEDIATE: takes the right to write first, so that what is read stays true.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let count = i64::try_from(changes.len()).unwrap_or(i64::MAX);
    let last: i64 = transaction.query_row(NEXT_VERSION, [count], |row| row.get(0))?;
    let mut versions = Vec::with_capacity(changes.len());
    for (at, (change, fresh)) in changes.iter().zip(last - count + 1..).enumerate() {
        let statement = statement::change(change, fresh);
        let mut prepared = transaction.prepare(&statement.sql)?;
        let mut rows =
            prepared.query_map(params_from_iter(&statement.parameters), |row| row.get::<_, i64>(0))?;
        let version = rows.next().transpose()?;
        // A statement that returns rows is done only when it has returned all.
        debug_assert!(rows.next().is_none(), "a key is unique");
        match version {
            None if statement::must_match(change) => return Err(Failure::Conflict(at)),
            _ if matches!(change, Change::Delete { .. }) => versions.push(0),
            version => versions.push(version.and_then(|version| u64::try_from(version).ok()).unwrap_or(0)),
        }
    }
    transaction.commit()?;
    Ok(versions)
}

fn conflict(change: &Change) -> StoreError {
    let (Change::Put { kind, key, .. } | Change::Delete { kind, key, .. }) = change;
    StoreError::Conflict { kind: *kind, key: key.clone() }
}

impl ToSql for Parameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Self::Text(text) => text.to_sql(),
            Self::Integer(integer) => integer.to_sql(),
        }
    }
}

fn record(kind: Kind, row: &Row<'_>) -> rusqlite::Result<Record> {
    let version: i64 = row.get(2)?;
    let version = u64::try_from(version).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(2, version))?;
    Ok(Record { kind, key: row.get(0)?, owner: row.get(1)?, version, body: row.get(3)? })
}

/// Opens the file, which must be there.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_LIMIT)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
    Ok(connection)
}

/// Looks at every page once: damage is found now and not in the middle of a failover.
fn check_whole(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let said: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| error::from_sqlite(path, "checking the database", &error))?;
    if said == "ok" { Ok(()) } else { Err(error::corrupt(path, said)) }
}

/// Brings the schema to the newest version, each step whole or not at all.
fn migrate(path: &Path, connection: &mut Connection, migrations: &[Migration]) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| error::from_sqlite(path, "migrating the database", &error);
    // Another process may be about to do the same: it is waited for, and what it has done is seen.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let tables = |name: &str| {
        let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name LIKE $1";
        transaction.query_row(sql, [name], |row| row.get::<_, i64>(0)).map_err(failed)
    };
    let found = if tables("store_state")? > 0 {
        transaction.query_row(READ_VERSION, [], |row| row.get(0)).map_err(failed)?
    } else if tables("%")? > 0 {
        return Err(error::foreign(path));
    } else {
        0
    };
    for migration in pending(migrations, found, &path.display().to_string())? {
        transaction.execute_batch(migration.sql).map_err(failed)?;
        transaction.execute(WRITE_VERSION, [migration.version]).map_err(failed)?;
        tracing::info!(path = %path.display(), version = migration.version, "the database has a new schema");
    }
    transaction.commit().map_err(failed)
}
