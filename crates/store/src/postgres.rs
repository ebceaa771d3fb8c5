//! [`PostgresStore`]: a PostgreSQL database, for several configuration servers at once.
//!
//! Everything is in the schema `switchback` of the database. Invariants: a commit is durable when it returns (`synchronous_commit` is
//! switched on where an administrator has it off); batches are done one after the other (see `statement`), so that no two can wait for each
//! other; every call has a limit, on the server (`statement_timeout`, `lock_timeout`) and here, for a server that does not answer at all.
//!
//! A lost connection fails the calls that were using it; the next call makes a new one. Nothing is repeated here: whether a commit was done
//! before its answer got lost, only the caller can find out.
//!
//! Calls run on the store's own small runtime, whoever calls; like all blocking calls they must not come from async code.

mod error;
mod pool;
mod session;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use switchback_model::UnixMillis;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, IsolationLevel, Row};

use crate::snapshot::{self, ALL_RECORDS, COUNT, FINGERPRINT, LAST_VERSION, SET_LAST_VERSION};
use crate::statement::{self, NEXT_VERSION, Parameter, RowLock, Statement};
use crate::{Change, Fingerprint, Kind, Query, Record, Saved, Snapshot, Store, StoreError, check};
use error::Failure;
use pool::Pool;

/// How long a store waits for its server, and how many connections it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostgresLimits {
    /// For a connection to be made.
    pub connect: Duration,
    /// For another transaction; told to the server as `lock_timeout`.
    pub lock: Duration,
    /// For one statement; told to the server as `statement_timeout`.
    pub statement: Duration,
    /// For a whole call, whatever the server says or does not say. Larger than the others.
    pub call: Duration,
    /// Connections at once; further calls wait for one, up to `call`.
    pub connections: usize,
}

impl Default for PostgresLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            lock: Duration::from_secs(10),
            statement: Duration::from_secs(20),
            call: Duration::from_secs(40),
            connections: 8,
        }
    }
}

/// A store in a PostgreSQL database.
pub struct PostgresStore {
    pool: Pool,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The connection string may hold a password.
        f.debug_struct("PostgresStore").field("database", &self.pool.place()).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects to the database that `location` tells, and brings its schema to the newest version. `location` is a connection string as
    /// `libpq` has it: `postgres://USER:PASSWORD@HOST/DATABASE`, or `host=/run/postgresql user=USER dbname=DATABASE` for a local socket.
    /// Connections are not encrypted: use a local socket, or a tunnel.
    ///
    /// # Errors
    /// [`StoreError::Database`] with what to do, [`StoreError::TooNew`], [`StoreError::Corrupt`].
    pub fn open(location: &str) -> Result<Self, StoreError> {
        Self::open_with(location, PostgresLimits::default())
    }

    /// As [`open`](Self::open), with other limits.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_with(location: &str, limits: PostgresLimits) -> Result<Self, StoreError> {
        let pool = Pool::new(location, limits)?;
        let place = pool.place().to_owned();
        pool.run("opening the database", async |client| {
            session::migrate(client, &place, crate::migration::MIGRATIONS).await
        })?;
        Ok(Self { pool })
    }

    fn records(&self, kind: Kind, doing: &str, statement: &Statement<'_>) -> Result<Vec<Record>, StoreError> {
        let rows = self
            .pool
            .run(doing, async |client| Ok(client.query_typed(&statement.sql, &values(statement)).await?))?;
        rows.iter()
            .map(|row| record(kind, row))
            .collect::<Result<_, _>>()
            .map_err(|error| self.pool.corrupt(format!("{doing} found what was never stored: {error}")))
    }

    fn execute(&self, doing: &str, statement: &Statement<'_>) -> Result<u64, StoreError> {
        self.pool
            .run(doing, async |client| Ok(client.execute_typed(&statement.sql, &values(statement)).await?))
    }

    /// For statements that change several rows: in order with the batches, so that they cannot wait for each other.
    fn execute_alone(&self, doing: &str, statement: &Statement<'_>) -> Result<u64, StoreError> {
        self.pool.run(doing, async |client| {
            let transaction = client.transaction().await?;
            transaction.query_typed(NEXT_VERSION, &[(&0_i64, Type::INT8)]).await?;
            let changed = transaction.execute_typed(&statement.sql, &values(statement)).await?;
            transaction.commit().await?;
            Ok(changed)
        })
    }
}

impl Store for PostgresStore {
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
        self.pool.run("storing changes", async |client| commit(client, changes).await)
    }

    fn claim_job(
        &self,
        owner: &str,
        now: UnixMillis,
        until: UnixMillis,
    ) -> Result<Option<Record>, StoreError> {
        check::name("owner", owner)?;
        let claim = statement::claim(owner, now, until, RowLock::SkipLocked);
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
        self.execute_alone("releasing jobs", &statement::release_all(owner))
    }

    fn prune(&self, kind: Kind, key: &str) -> Result<u64, StoreError> {
        check::bound(key)?;
        self.execute_alone("removing old records", &statement::prune(kind, key))
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (last_version, rows) = self.pool.run("reading everything", async |client| {
            let as_of_one_moment = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
            let transaction = as_of_one_moment.read_only(true).start().await?;
            let last: i64 = transaction.query_typed_one(LAST_VERSION, &[]).await?.try_get(0)?;
            let rows = transaction.query_typed(ALL_RECORDS, &[]).await?;
            transaction.rollback().await?;
            Ok((last, rows))
        })?;
        let row = |row: &Row| -> Result<Saved, String> {
            let cells = || {
                Ok((
                    row.try_get(0)?,
                    row.try_get(1)?,
                    row.try_get(2)?,
                    row.try_get(3)?,
                    row.try_get(4)?,
                    row.try_get(5)?,
                ))
            };
            snapshot::saved(cells().map_err(|error: tokio_postgres::Error| error.to_string())?)
        };
        let records = rows.iter().map(row).collect::<Result<_, _>>();
        let records = records.map_err(|detail| self.pool.corrupt(detail))?;
        Ok(Snapshot { last_version: u64::try_from(last_version).unwrap_or(0), records })
    }

    fn fingerprint(&self) -> Result<Fingerprint, StoreError> {
        let (count, versions): (i64, i64) = self.pool.run("looking for changes", async |client| {
            let row = client.query_typed_one(FINGERPRINT, &[]).await?;
            Ok((row.try_get(0)?, row.try_get(1)?))
        })?;
        Ok(Fingerprint { count: count.unsigned_abs(), versions: versions.unsigned_abs() })
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        snapshot::check(snapshot)?;
        let place = self.pool.place();
        self.pool.run("restoring records", async |client| restore(client, place, snapshot).await)
    }
}

/// Fills an empty database, some hundred records for each round trip.
async fn restore(client: &mut Client, place: &str, snapshot: &Snapshot) -> Result<(), Failure> {
    const INSERT: &str = "INSERT INTO record (kind, key, owner, version, body, due) \
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int8[], $5::text[], $6::int8[])";
    let transaction = client.transaction().await?;
    // In order with every other batch.
    transaction.query_typed(NEXT_VERSION, &[(&0_i64, Type::INT8)]).await?;
    let present: i64 = transaction.query_typed_one(COUNT, &[]).await?.try_get(0)?;
    if present > 0 {
        transaction.rollback().await?;
        return Err(Failure::Store(snapshot::not_empty(place, present)));
    }
    for chunk in snapshot.records.chunks(500) {
        let kinds: Vec<_> = chunk.iter().map(|saved| saved.record.kind.as_str()).collect();
        let keys: Vec<_> = chunk.iter().map(|saved| saved.record.key.as_str()).collect();
        let owners: Vec<_> = chunk.iter().map(|saved| saved.record.owner.as_deref()).collect();
        let version = |saved: &Saved| i64::try_from(saved.record.version).unwrap_or(i64::MAX);
        let versions: Vec<_> = chunk.iter().map(version).collect();
        let bodies: Vec<_> = chunk.iter().map(|saved| saved.record.body.as_str()).collect();
        let due = |saved: &Saved| saved.due.map(|due| i64::try_from(due.0).unwrap_or(i64::MAX));
        let dues: Vec<_> = chunk.iter().map(due).collect();
        let values: [(&(dyn ToSql + Sync), Type); 6] = [
            (&kinds, Type::TEXT_ARRAY),
            (&keys, Type::TEXT_ARRAY),
            (&owners, Type::TEXT_ARRAY),
            (&versions, Type::INT8_ARRAY),
            (&bodies, Type::TEXT_ARRAY),
            (&dues, Type::INT8_ARRAY),
        ];
        transaction.execute_typed(INSERT, &values).await?;
    }
    let last = snapshot::last_version(snapshot);
    transaction.execute_typed(SET_LAST_VERSION, &[(&last, Type::INT8)]).await?;
    transaction.commit().await?;
    Ok(())
}

async fn commit(client: &mut Client, changes: &[Change]) -> Result<Vec<u64>, Failure> {
    let transaction = client.transaction().await?;
    let count = i64::try_from(changes.len()).unwrap_or(i64::MAX);
    let last: i64 = transaction.query_typed_one(NEXT_VERSION, &[(&count, Type::INT8)]).await?.try_get(0)?;
    let mut versions = Vec::with_capacity(changes.len());
    for (change, fresh) in changes.iter().zip(last - count + 1..) {
        let statement = statement::change(change, fresh);
        let row = transaction.query_typed_opt(&statement.sql, &values(&statement)).await?;
        match row {
            None if statement::must_match(change) => {
                transaction.rollback().await?;
                let (Change::Put { kind, key, .. } | Change::Delete { kind, key, .. }) = change;
                return Err(Failure::Store(StoreError::Conflict { kind: *kind, key: key.clone() }));
            }
            Some(row) if matches!(change, Change::Put { .. }) => {
                versions.push(u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0));
            }
            _ => versions.push(0),
        }
    }
    transaction.commit().await?;
    Ok(versions)
}

fn values<'a>(statement: &'a Statement<'_>) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    let value = |parameter: &'a Parameter<'_>| -> (&'a (dyn ToSql + Sync), Type) {
        match parameter {
            Parameter::Text(text) => (text, Type::TEXT),
            Parameter::Integer(integer) => (integer, Type::INT8),
        }
    };
    statement.parameters.iter().map(value).collect()
}

fn record(kind: Kind, row: &Row) -> Result<Record, Box<dyn std::error::Error>> {
    let version = u64::try_from(row.try_get::<_, i64>(2)?)?;
    Ok(Record { kind, key: row.try_get(0)?, owner: row.try_get(1)?, version, body: row.try_get(3)? })
}
