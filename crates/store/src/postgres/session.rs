//! A connection as the store needs it, and the schema that all of them find.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls, Transaction};

use super::PostgresLimits;
use super::error::{Failure, corrupt, wrong_encoding};
use crate::migration::{Migration, READ_VERSION, WRITE_VERSION, pending};

/// Whoever migrates holds this advisory lock: "swback" as a number that no other program is likely to use.
const MIGRATION_LOCK: i64 = 0x73_77_62_61_63_6b;

/// Connects, and tells the server our limits.
pub(super) async fn connect(
    config: &Config,
    limits: &PostgresLimits,
) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    // Ends when the client is dropped or the connection is lost; whoever uses the client is told by its calls.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the database has ended");
        }
    });
    let session = format!(
        "SET search_path TO switchback; \
         SET statement_timeout TO {}; \
         SET lock_timeout TO {}; \
         SET idle_in_transaction_session_timeout TO {}; \
         SET default_transaction_isolation TO 'read committed'; \
         SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
        limits.statement.as_millis(),
        limits.lock.as_millis(),
        limits.call.as_millis(),
    );
    client.batch_execute(&session).await?;
    Ok(client)
}

/// Brings the schema to the newest version, all steps whole or none. Of several processes that come at once, one does it.
pub(super) async fn migrate(
    client: &mut Client,
    place: &str,
    migrations: &[Migration],
) -> Result<(), Failure> {
    let transaction = client.transaction().await?;
    transaction.query_typed("SELECT pg_advisory_xact_lock($1)", &[(&MIGRATION_LOCK, Type::INT8)]).await?;
    let encoding: String = ask(&transaction, "SELECT current_setting('server_encoding')").await?;
    if encoding != "UTF8" {
        return Err(Failure::Store(wrong_encoding(place, &encoding)));
    }
    if ask::<String>(&transaction, "SELECT current_setting('fsync')").await? == "off" {
        tracing::warn!(
            database = place,
            "`fsync` is off on this server: a power cut will damage the database"
        );
    }
    if !ask::<bool>(&transaction, "SELECT to_regnamespace('switchback') IS NOT NULL").await? {
        transaction
            .batch_execute(
                "CREATE SCHEMA switchback; CREATE COLLATION switchback.\"binary\" (LOCALE = 'C', PROVIDER = libc)",
            )
            .await?;
    }
    let exists = ask(&transaction, "SELECT to_regclass('switchback.store_state') IS NOT NULL").await?;
    let found: i64 = if exists {
        match transaction.query_typed_opt(READ_VERSION, &[]).await? {
            Some(row) => row.try_get(0)?,
            None => return Err(Failure::Store(corrupt(place, "its table store_state is empty".to_owned()))),
        }
    } else {
        0
    };
    for migration in pending(migrations, found, place).map_err(Failure::Store)? {
        transaction.batch_execute(migration.sql).await?;
        let version = i64::from(migration.version);
        transaction.execute_typed(WRITE_VERSION, &[(&version, Type::INT8)]).await?;
        tracing::info!(database = place, version, "the database has a new schema");
    }
    Ok(transaction.commit().await?)
}

async fn ask<T: for<'a> tokio_postgres::types::FromSql<'a>>(
    transaction: &Transaction<'_>,
    question: &str,
) -> Result<T, tokio_postgres::Error> {
    transaction.query_typed_one(question, &[]).await?.try_get(0)
}
