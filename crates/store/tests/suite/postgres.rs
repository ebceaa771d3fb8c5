//! The PostgreSQL store: the suite of all stores, and servers that come and go.

use std::cell::Cell;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use switchback_model::UnixMillis;
use switchback_store::conformance::{self, Fixture};
use switchback_store::testing::PostgresServer;
use switchback_store::{Change, Expect, Kind, PostgresLimits, PostgresStore, Query, Store, StoreError};

struct Database(String);

impl Fixture for Database {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(PostgresStore::open(&self.0).unwrap())
    }
}

fn put(kind: Kind, key: &str, body: &str) -> Change {
    let (key, body, due) = (key.to_owned(), body.to_owned(), Some(UnixMillis(1)));
    Change::Put { kind, key, owner: None, expect: Expect::Any, body, due }
}

fn short() -> PostgresLimits {
    PostgresLimits {
        connect: Duration::from_secs(2),
        lock: Duration::from_millis(300),
        statement: Duration::from_secs(1),
        call: Duration::from_secs(3),
        connections: 2,
    }
}

/// Panics unless it is an error that passes; returns its text.
fn passing<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result.unwrap_err() {
        error @ StoreError::Database { passing: true, .. } => error.to_string(),
        other => panic!("{other}"),
    }
}

#[test]
fn conforms() {
    let server = PostgresServer::start();
    let number = Cell::new(0);
    conformance::stores(|| {
        number.set(number.get() + 1);
        Database(server.database(&format!("fresh-{}", number.get())))
    });
}

#[test]
fn a_server_that_goes_and_comes_back_loses_nothing() {
    let mut server = PostgresServer::start();
    let store = PostgresStore::open(&server.database("cs")).unwrap();
    for round in 0..3 {
        store.commit(&[put(Kind::Job, "j", &round.to_string())]).unwrap();
        let owner = format!("cs{round}");
        assert!(store.claim_job(&owner, UnixMillis(100), UnixMillis(200)).unwrap().is_some());
        server.stop();
        let said = passing(store.get(Kind::Job, "j"));
        assert!(said.contains("check that the server runs") && said.contains("cs at /"), "{said}");
        passing(store.commit(&[put(Kind::Job, "j", "9")]));
        passing(store.claim_job(&owner, UnixMillis(100), UnixMillis(200)));
        passing(PostgresStore::open(&server.location("cs")));
        server.start_again();
        assert_eq!(store.get(Kind::Job, "j").unwrap().unwrap().body, round.to_string());
        assert!(store.renew_lease(&owner, "j", UnixMillis(300)).unwrap(), "the lease is lost");
        store.release_job(&owner, "j").unwrap();
    }
}

/// A server that was started again between two calls is not noticed at all.
#[test]
fn a_connection_that_was_lost_while_idle_is_made_again() {
    let mut server = PostgresServer::start();
    let store = PostgresStore::open(&server.database("cs")).unwrap();
    for _ in 0..3 {
        server.stop();
        server.start_again();
        store.commit(&[put(Kind::Item, "a", "1")]).unwrap();
    }
}

/// The host behind a connection is gone without a word, and another has its name: the dead connection is given up, and a new one made.
#[test]
fn a_connection_that_has_fallen_silent_is_made_again() {
    let server = PostgresServer::start();
    let limits = PostgresLimits { call: Duration::from_secs(30), ..short() };
    let store = PostgresStore::open_with(&server.database("cs"), limits).unwrap();
    let pid = server.sql("cs", "SELECT pid FROM pg_stat_activity WHERE application_name = 'switchback'");
    let signal =
        |name: &str| assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    signal("STOP");
    let done = store.commit(&[put(Kind::Item, "a", "1")]);
    signal("CONT");
    done.unwrap();
}

/// The server stops answering in the middle of a call.
#[test]
fn a_call_that_is_never_answered_is_given_up() {
    let server = PostgresServer::start();
    let location = server.database("cs");
    let limits =
        PostgresLimits { lock: Duration::from_secs(100), statement: Duration::from_secs(100), ..short() };
    let store = PostgresStore::open_with(&location, limits).unwrap();
    thread::scope(|scope| {
        let hold = "BEGIN; SELECT * FROM switchback.store_state FOR UPDATE; SELECT pg_sleep(2); COMMIT";
        let holder = scope.spawn(|| server.sql("cs", hold));
        wait_for(&server, "wait_event = 'PgSleep'");
        let call = scope.spawn(|| store.commit(&[put(Kind::Item, "a", "1")]));
        wait_for(&server, "wait_event_type = 'Lock'");
        server.freeze(true);
        let said = passing(call.join().unwrap());
        server.freeze(false);
        assert!(said.contains("no answer"), "{said}");
        holder.join().unwrap();
    });
    store.commit(&[put(Kind::Item, "a", "2")]).unwrap();
}

/// Waits until a session of the server is as `condition` says.
fn wait_for(server: &PostgresServer, condition: &str) {
    let question = format!("SELECT count(*) FROM pg_stat_activity WHERE {condition}");
    for _ in 0..1_000 {
        if server.sql("postgres", &question) != "0" {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("no session with {condition}");
}

/// Connections are cut while batches are being done: each is there whole, or not at all, and the store goes on.
#[test]
fn connections_that_are_cut_leave_whole_batches() {
    let server = PostgresServer::start();
    let store = PostgresStore::open(&server.database("cs")).unwrap();
    let cut = || {
        server.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'cs'");
    };
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut done = 0;
            for number in 0.. {
                let body = number.to_string();
                let batch: Vec<_> = ["a", "b", "c"].iter().map(|key| put(Kind::Item, key, &body)).collect();
                match store.commit(&batch) {
                    Ok(_) => done += 1,
                    Err(StoreError::Database { passing: true, .. }) => {}
                    Err(other) => panic!("{other}"),
                }
                // A question can meet a cut as well; then the next one tells.
                match store.list(&Query::all(Kind::Item)) {
                    Ok(found) => {
                        assert!(found.iter().all(|record| record.body == found[0].body), "{found:?}")
                    }
                    Err(StoreError::Database { passing: true, .. }) => {}
                    Err(other) => panic!("{other}"),
                }
                if is_over.load(Ordering::Relaxed) && done > 0 {
                    return;
                }
            }
        });
        for _ in 0..25 {
            cut();
        }
        is_over.store(true, Ordering::Relaxed);
        worker.join().unwrap();
    });
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let server = PostgresServer::start();
    let store = PostgresStore::open_with(&server.database("cs"), short()).unwrap();
    store.commit(&[put(Kind::Item, "a", "1")]).unwrap();
    server.freeze(true);
    let begin = Instant::now();
    passing(store.get(Kind::Item, "a"));
    passing(store.commit(&[put(Kind::Item, "a", "2")]));
    // Twice `call`, and time for a loaded machine: that it ends at all is what is tested.
    assert!(begin.elapsed() < Duration::from_secs(60));
    server.freeze(false);
    assert!(store.get(Kind::Item, "a").unwrap().is_some());
    store.commit(&[put(Kind::Item, "a", "3")]).unwrap();
}

/// Somebody has a transaction open that keeps all batches waiting.
#[test]
fn a_lock_is_waited_for_and_then_told() {
    let server = PostgresServer::start();
    let location = server.database("cs");
    let store = PostgresStore::open_with(&location, short()).unwrap();
    store.commit(&[put(Kind::Job, "j", "1")]).unwrap();
    thread::scope(|scope| {
        let hold = "BEGIN; SELECT * FROM switchback.store_state FOR UPDATE; SELECT * FROM switchback.record FOR UPDATE; \
                    SELECT pg_sleep(4); COMMIT";
        let holder = scope.spawn(|| server.sql("cs", hold));
        wait_for(&server, "wait_event = 'PgSleep'");
        let said = passing(store.commit(&[put(Kind::Job, "j", "2")]));
        assert!(said.contains("keeping a lock"), "{said}");
        // Reading goes on, and a job that somebody is changing is passed over.
        assert_eq!(store.get(Kind::Job, "j").unwrap().unwrap().body, "1");
        assert_eq!(store.claim_job("cs", UnixMillis(9), UnixMillis(99)).unwrap(), None);
        holder.join().unwrap();
    });
    store.commit(&[put(Kind::Job, "j", "3")]).unwrap();
    assert!(store.claim_job("cs", UnixMillis(9), UnixMillis(99)).unwrap().is_some());
}

#[test]
fn more_threads_than_connections_share_them() {
    let server = PostgresServer::start();
    let limits = PostgresLimits { connections: 2, ..PostgresLimits::default() };
    let store = PostgresStore::open_with(&server.database("cs"), limits).unwrap();
    thread::scope(|scope| {
        for number in 0..12 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..10 {
                    store.commit(&[put(Kind::Item, &format!("{number}-{round}"), "1")]).unwrap();
                }
            });
        }
    });
    assert_eq!(store.list(&Query::all(Kind::Item)).unwrap().len(), 120);
    let connections =
        server.sql("cs", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'switchback'");
    assert_eq!(connections, "2");
}

#[test]
fn many_can_open_an_empty_database_at_once() {
    const THREADS: usize = 6;
    let server = PostgresServer::start();
    let location = server.database("cs");
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                PostgresStore::open(&location).unwrap().get(Kind::Item, "a").unwrap();
            });
        }
    });
}

#[test]
fn what_is_wrong_is_told_and_no_password() {
    let server = PostgresServer::start();
    let location = server.database("cs");
    server.sql("cs", "CREATE ROLE guest LOGIN PASSWORD 'secret'");
    server.sql(
        "postgres",
        "CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0",
    );
    let swapped = |from: &str, to: &str| {
        let changed = location.replace(from, to);
        assert_ne!(changed, location);
        changed
    };
    for (location, expected) in [
        (swapped("switchback:a%20test's%20secret", "switchback:secret-guess"), "user and password"),
        (swapped("switchback:a%20test's%20secret", "switchback"), "add the password"),
        (swapped("switchback:a%20test's%20secret", "nobody:secret-guess"), "user and password"),
        (swapped("switchback:a%20test's%20secret", "guest:secret"), "right to create a schema"),
        (swapped("/cs", "/none"), "createdb"),
        (swapped("/cs", "/latin"), "encoding"),
        ("postgres://switchback:secret-guess@%2Fnone/cs".to_owned(), "check that the server runs"),
        ("postgres://switchback:secret-guess@localhost:1/cs".to_owned(), "check that the server runs"),
        ("postgres://switchback:secret-guess@host:port/cs".to_owned(), "not valid"),
        ("postgres://host?unknown=secret-guess".to_owned(), "not valid"),
        (format!("{location}?sslmode=require"), "tunnel"),
    ] {
        let error = PostgresStore::open_with(&location, short()).unwrap_err();
        assert!(matches!(error, StoreError::Database { .. }), "{error}");
        let said = format!("{error} {error:?}");
        assert!(said.contains(expected), "should say {expected:?}: {error}");
        assert!(!said.contains("secret"), "{said}");
    }
    let store = PostgresStore::open(&location).unwrap();
    assert!(!format!("{store:?}").contains("secret"), "{store:?}");
}

/// A server whose administrator values speed more: our commits are durable all the same.
#[test]
fn commits_are_durable_whatever_the_server_does_by_default() {
    let server = PostgresServer::start();
    let location = server.database("cs");
    server.sql("cs", "ALTER DATABASE cs SET synchronous_commit TO off");
    let store = PostgresStore::open(&location).unwrap();
    server.sql(
        "cs",
        "CREATE TABLE public.seen (setting TEXT); \
        CREATE FUNCTION public.look() RETURNS trigger LANGUAGE plpgsql AS \
        $$BEGIN INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END$$; \
        CREATE TRIGGER look AFTER INSERT ON switchback.record FOR EACH ROW EXECUTE FUNCTION public.look()",
    );
    store.commit(&[put(Kind::Item, "a", "1")]).unwrap();
    assert_eq!(server.sql("cs", "SELECT setting FROM public.seen"), "on");
}

/// The last reference to a store may be dropped by async code.
#[test]
fn it_can_be_dropped_by_async_code() {
    let server = PostgresServer::start();
    let store = PostgresStore::open(&server.database("cs")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { drop(store) });
}

/// As a configuration server is restored into the other database than it was backed up from.
#[test]
fn what_sqlite_held_goes_into_postgres_and_back() {
    let server = PostgresServer::start();
    let directory = tempfile::tempdir().unwrap();
    let sqlite = |name: &str| switchback_store::SqliteStore::open(directory.path().join(name)).unwrap();
    let from = sqlite("from.db");
    for key in ["b", "a", "B", "é", "🦀", "a-b"] {
        from.commit(&[put(Kind::Item, key, r#"{"x":"\u0007é"}"#), put(Kind::Job, key, "1")]).unwrap();
    }
    let snapshot = from.snapshot().unwrap();
    let postgres = PostgresStore::open(&server.database("moved")).unwrap();
    postgres.restore(&snapshot).unwrap();
    assert_eq!(postgres.snapshot().unwrap(), snapshot);
    let back = sqlite("back.db");
    back.restore(&postgres.snapshot().unwrap()).unwrap();
    assert_eq!(back.snapshot().unwrap(), snapshot);
    assert!(postgres.restore(&snapshot).is_err(), "it is not empty any more");
}
