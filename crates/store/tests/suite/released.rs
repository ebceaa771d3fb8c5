//! Databases made by every released version are brought to today's schema with all they hold.
//!
//! `tests/fixtures/NNNN.sql` is what version NNNN of the schema and some records look like, in its own words: it does not change when the
//! program does. The migrated database must have the schema of one that is made today.

use rusqlite::Connection;
use switchback_model::UnixMillis;
use switchback_store::testing::PostgresServer;
use switchback_store::{Change, Expect, Kind, PostgresStore, Query, SqliteStore, Store, StoreError};

const RELEASED: [(u32, &str); 1] = [(1, include_str!("../fixtures/0001.sql"))];

/// What all fixtures hold.
fn check_contents(store: &dyn Store, version: u32) {
    let item = store.get(Kind::Item, "web01").unwrap().expect("the item is lost");
    assert_eq!((item.owner.as_deref(), item.version), (Some("agent/web01"), 7), "from version {version}");
    assert_eq!(item.body, r#"{"name":"Web01","text":"ä 日本 'quoted'"}"#);
    let kinds = [
        (Kind::Site, 1),
        (Kind::Server, 1),
        (Kind::Report, 1),
        (Kind::Group, 1),
        (Kind::NetworkMapping, 1),
        (Kind::Item, 1),
        (Kind::Plan, 1),
        (Kind::Job, 3),
        (Kind::Event, 2),
        (Kind::Audit, 1),
        (Kind::Token, 1),
        (Kind::Setting, 1),
    ];
    for (kind, count) in kinds {
        assert_eq!(store.list(&Query::all(kind)).unwrap().len(), count, "{kind:?} from version {version}");
    }
    // The lease of job 1 goes on, job 3 is not due.
    assert!(store.renew_lease("cs1", "1", UnixMillis(5_000)).unwrap());
    let claimed = store.claim_job("cs2", UnixMillis(2_000), UnixMillis(3_000)).unwrap();
    assert_eq!(claimed.map(|job| job.key).as_deref(), Some("2"));
    assert_eq!(store.claim_job("cs2", UnixMillis(2_000), UnixMillis(3_000)).unwrap(), None);
    // New records go on above all versions that were ever given.
    let put = Change::Put {
        kind: Kind::Item,
        key: "new".to_owned(),
        owner: None,
        expect: Expect::Absent,
        body: "1".to_owned(),
        due: None,
    };
    assert_eq!(store.commit(&[put]).unwrap(), [101]);
}

fn sqlite_schema(path: &std::path::Path) -> Vec<(String, String)> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection
        .prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
        .unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).map(|(name, sql): (String, String)| (name, words(&sql))).collect()
}

/// Layout and comments are no difference.
fn words(sql: &str) -> String {
    sql.lines().filter(|line| !line.trim_start().starts_with("--")).flat_map(str::split_whitespace).collect()
}

#[test]
fn sqlite_migrates_from_every_released_version() {
    let directory = tempfile::tempdir().unwrap();
    let today = directory.path().join("today.db");
    drop(SqliteStore::open(&today).unwrap());
    for (version, sql) in RELEASED {
        let path = directory.path().join(format!("{version}.db"));
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let store = SqliteStore::open(&path).unwrap();
        check_contents(&store, version);
        drop(store);
        assert_eq!(sqlite_schema(&path), sqlite_schema(&today), "from version {version}");
    }
}

#[test]
fn postgres_migrates_from_every_released_version() {
    // Of the columns: order, type, collation; then the indexes.
    const DESCRIBE: &str = "SELECT attrelid::regclass, attnum, attname, atttypid::regtype, attcollation::regcollation, attnotnull \
        FROM pg_attribute WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'switchback'::regnamespace) AND attnum > 0 \
        AND NOT attisdropped ORDER BY 1, 2; \
        SELECT indexdef FROM pg_indexes WHERE schemaname = 'switchback' ORDER BY 1";
    let server = PostgresServer::start();
    drop(PostgresStore::open(&server.database("today")).unwrap());
    let today = server.sql("today", DESCRIBE);
    assert!(today.contains("record_of_owner"), "{today}");
    for (version, sql) in RELEASED {
        let name = format!("version-{version}");
        let location = server.database(&name);
        let prepare = "CREATE SCHEMA switchback; SET search_path TO switchback; \
            CREATE COLLATION \"binary\" (LOCALE = 'C', PROVIDER = libc);";
        server.sql(&name, &format!("{prepare}\n{sql}"));
        check_contents(&PostgresStore::open(&location).unwrap(), version);
        assert_eq!(server.sql(&name, DESCRIBE), today, "from version {version}");
    }
}

#[test]
fn a_newer_database_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    drop(SqliteStore::open(&path).unwrap());
    Connection::open(&path).unwrap().execute_batch("UPDATE store_state SET schema_version = 99").unwrap();
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::TooNew { found: 99, .. }), "{error}");

    let server = PostgresServer::start();
    let location = server.database("newer");
    drop(PostgresStore::open(&location).unwrap());
    server.sql("newer", "UPDATE switchback.store_state SET schema_version = 99");
    let error = PostgresStore::open(&location).unwrap_err();
    assert!(matches!(error, StoreError::TooNew { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("newer version"), "{error}");
}
