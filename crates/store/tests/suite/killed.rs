//! `kill -9` of a process that stores batches as fast as it can: no batch is half there, none that was acknowledged is gone.
//!
//! The process is this test's own program, started again with [`LOCATION`] set and one ignored test.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use switchback_store::testing::PostgresServer;
use switchback_store::{Change, Expect, Kind, Query, Record, Store, open};

/// Tells the child where to store.
const LOCATION: &str = "STORE_TEST_LOCATION";
/// Records that each batch changes together.
const RECORDS: usize = 8;

/// Batch `number`: all records get its number, and an event says so.
fn batch(number: u64) -> Vec<Change> {
    let put = |kind, key: String, expect| Change::Put {
        kind,
        key,
        owner: None,
        expect,
        body: number.to_string(),
        due: None,
    };
    let mut changes: Vec<Change> =
        (0..RECORDS).map(|record| put(Kind::Item, record.to_string(), Expect::Any)).collect();
    changes.push(put(Kind::Event, format!("{number:010}"), Expect::Absent));
    changes
}

#[test]
#[ignore = "started by the other tests of this file, as a process of its own that is killed"]
fn child_stores_batches_until_it_is_killed() {
    let store = open(&std::env::var(LOCATION).unwrap()).unwrap();
    let first = store.list(&Query { descending: true, limit: 1, ..Query::all(Kind::Event) }).unwrap();
    let mut out = std::io::stdout();
    for number in first.first().map_or(1, |record| record.body.parse::<u64>().unwrap() + 1).. {
        store.commit(&batch(number)).unwrap();
        // A line of its own: the test runner's words may stand before.
        writeln!(out, "\nacknowledged {number}").unwrap();
        out.flush().unwrap();
    }
}

/// Starts the child, kills it some time after its `count`th acknowledgement; returns the last one it gave.
fn run_and_kill(location: &str, count: usize, pause: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed::child_stores_batches_until_it_is_killed", "--ignored", "--nocapture"])
        .env(LOCATION, location)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let number =
        |line: String| line.strip_prefix("acknowledged ").map(|number| number.parse::<u64>().unwrap());
    let mut last = lines.by_ref().filter_map(number).take(count).last().expect("the child stores nothing");
    sleep(pause);
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said before it died counts too.
    last = lines.filter_map(number).last().unwrap_or(last);
    last
}

/// Panics unless the store holds whole batches only, up to one at or after the last acknowledged.
fn check(store: &dyn Store, acknowledged: u64) {
    let items = store.list(&Query::all(Kind::Item)).unwrap();
    let events = store.list(&Query::all(Kind::Event)).unwrap();
    let number = |record: &Record| record.body.parse::<u64>().unwrap();
    let done = events.last().map(number).unwrap();
    assert!(done >= acknowledged, "batch {acknowledged} was acknowledged, the last one there is {done}");
    assert!(done <= acknowledged + 1, "batch {done} was never begun");
    assert_eq!(events.len() as u64, done, "an event is missing");
    assert_eq!(items.len(), RECORDS);
    assert!(items.iter().all(|item| number(item) == done), "half of batch {done}: {items:?}");
}

fn kill_again_and_again(location: &str, rounds: u64) {
    for round in 0..rounds {
        // Spread over the moments of a commit, which takes a few milliseconds.
        let pause = Duration::from_micros(round * 1_777 % 10_000);
        let acknowledged = run_and_kill(location, 3, pause);
        check(&*open(location).unwrap(), acknowledged);
    }
}

#[test]
fn sqlite_keeps_whole_batches() {
    let directory = tempfile::tempdir().unwrap();
    kill_again_and_again(directory.path().join("store.db").to_str().unwrap(), 20);
}

#[test]
fn postgres_keeps_whole_batches() {
    let server = PostgresServer::start();
    kill_again_and_again(&server.database("killed"), 8);
}

/// The server itself dies in the middle of batches, as in a crash of its host's software.
#[test]
fn postgres_that_is_killed_keeps_whole_batches() {
    let mut server = PostgresServer::start();
    let location = server.database("killed");
    let acknowledged = run_and_kill(&location, 5, Duration::from_millis(1));
    server.stop();
    server.start_again();
    check(&*open(&location).unwrap(), acknowledged);
}
