//! Tests that need a look inside: migrations that do not exist yet.

use super::*;
use crate::migration::{MIGRATIONS, Migration};
use crate::testing::PostgresServer;

const ADD: Migration =
    Migration { version: 2, sql: "ALTER TABLE record ADD COLUMN note TEXT; UPDATE record SET note = 'new'" };
const BREAK: Migration =
    Migration { version: 3, sql: "CREATE TABLE more (a TEXT); INSERT INTO nowhere VALUES (1)" };

fn migrate(location: &str, more: &[Migration]) -> Result<(), StoreError> {
    let pool = Pool::new(location, PostgresLimits::default())?;
    let migrations = [MIGRATIONS, more].concat();
    pool.run("opening the database", async |client| session::migrate(client, "here", &migrations).await)
}

#[test]
fn migrations_are_applied_once_and_whole() {
    let server = PostgresServer::start();
    let location = server.database("cs");
    let version = || server.sql("cs", "SELECT schema_version FROM switchback.store_state");
    migrate(&location, &[]).unwrap();
    server.sql(
        "cs",
        "INSERT INTO switchback.record (kind, key, version, body) VALUES ('item', 'web01', 1, '1')",
    );

    let error = migrate(&location, &[ADD, BREAK]).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
    assert_eq!(version(), "1");
    assert_eq!(server.sql("cs", "SELECT to_regclass('switchback.more') IS NULL"), "t");

    for _ in 0..2 {
        migrate(&location, &[ADD]).unwrap();
    }
    assert_eq!(
        (version().as_str(), server.sql("cs", "SELECT note FROM switchback.record").as_str()),
        ("2", "new")
    );
    assert!(matches!(migrate(&location, &[]), Err(StoreError::TooNew { found: 2, known: 1 })));

    // In a database where it fails at once, nothing is left behind.
    let location = server.database("empty");
    migrate(&location, &[ADD, BREAK]).unwrap_err();
    assert_eq!(server.sql("empty", "SELECT to_regnamespace('switchback') IS NULL"), "t");
}
