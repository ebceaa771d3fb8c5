//! The inventory kept current.

use std::time::{Duration, Instant};

use switchback_lab::vcsim::{Options, Simulator};
use switchback_sites::Site;
use switchback_sites::vsphere::{InventoryWatch, Limits, VmPower, VsphereSettings, VsphereSite, WatchState};

use crate::bench::{Bench, credentials, requests, settings};

const LIMIT: Duration = Duration::from_secs(30);

fn bench(options: Options) -> Bench {
    Bench::limited(
        options,
        Limits { watch_seconds: 1, patience_seconds: 0, request_seconds: 5, ..Limits::default() },
    )
}

/// Waits until what the watch knows is as expected.
fn until(watch: &InventoryWatch, what: &str, is_expected: impl Fn(&WatchState) -> bool) -> WatchState {
    let started = Instant::now();
    let mut state = watch.state();
    while !is_expected(&state) {
        assert!(started.elapsed() < LIMIT, "{what}: {state:?}");
        state = watch.wait(state.version, Duration::from_secs(1));
    }
    state
}

fn power(state: &WatchState, name: &str) -> Option<VmPower> {
    let machines = &state.inventory.as_ref()?.machines;
    machines.iter().find(|machine| machine.name == name).map(|machine| machine.power)
}

#[test]
fn changes_are_seen_and_the_whole_is_what_is_read() {
    let bench = bench(Simulator::options());
    let watch = bench.site.watch().unwrap();
    let first = until(&watch, "the first inventory", |state| state.inventory.is_some());
    assert_eq!(*first.inventory.unwrap(), bench.site.inventory().unwrap());

    let made = bench.machine("watched", 2);
    until(&watch, "a new machine", |state| power(state, &made.name) == Some(VmPower::Off));
    bench.site.power_on(&made.id).unwrap();
    until(&watch, "a start", |state| power(state, &made.name) == Some(VmPower::On));
    bench.site.power_off(&made.id).unwrap();
    bench.site.create_snapshot(&made.id, "s").unwrap();
    let has = |state: &WatchState, count| {
        let machines = &state.inventory.as_ref().unwrap().machines;
        machines.iter().any(|machine| machine.name == made.name && machine.snapshots.len() == count)
    };
    until(&watch, "a snapshot", |state| has(state, 1));
    bench.site.delete_snapshot(&made.id, "s").unwrap();
    until(&watch, "a snapshot's end", |state| has(state, 0));
    let expected = bench.site.inventory().unwrap();
    until(&watch, "the same as is read", |state| {
        state.inventory.as_ref().is_some_and(|inventory| inventory.machines == expected.machines)
    });
    bench.site.delete_machine(&made.id).unwrap();
    until(&watch, "a machine's end", |state| power(state, &made.name).is_none());
}

#[test]
fn a_watch_survives_its_session_and_its_server() {
    let bench = bench(Simulator::options());
    let watch = bench.site.watch().unwrap();
    until(&watch, "the first inventory", |state| state.inventory.is_some());
    bench.simulator.end_session_after("WaitForUpdatesEx");
    until(&watch, "the session's end", |state| state.trouble.is_some());
    let made = bench.machine("after", 1);
    until(&watch, "a machine made after the session's end", |state| {
        state.trouble.is_none() && power(state, &made.name).is_some()
    });

    bench.simulator.freeze(true);
    let is_slow =
        |state: &WatchState| state.trouble.as_ref().is_some_and(|trouble| trouble.contains("vsphere-slow"));
    let away = until(&watch, "trouble", is_slow);
    assert!(away.inventory.is_some(), "what was known is still known");
    bench.simulator.freeze(false);
    until(&watch, "no more trouble", |state| state.trouble.is_none());
    bench.site.delete_machine(&made.id).unwrap();
    until(&watch, "a change afterwards", |state| power(state, &made.name).is_none());
}

/// A server has a limit on what it keeps for its clients.
#[test]
fn a_watch_that_nobody_wants_gives_back_what_it_took() {
    let files = tempfile::tempdir().unwrap();
    let record = files.path().join("requests");
    let bench = bench(Simulator::options().record(&record));
    drop(bench.site.watch().unwrap());
    let watch = bench.site.watch().unwrap();
    until(&watch, "the first inventory", |state| state.inventory.is_some());
    drop(watch);
    let started = Instant::now();
    let is_given_back =
        || requests(&record, "DestroyPropertyCollector") == requests(&record, "CreatePropertyCollector");
    while !is_given_back() || requests(&record, "DestroyView") != requests(&record, "CreateContainerView") {
        let log = || {
            bench.simulator.log().lines().filter(|line| line.contains("panic")).collect::<Vec<_>>().join("; ")
        };
        assert!(started.elapsed() < LIMIT, "it is still watched: {}", log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(bench.site.machines().unwrap().len(), 4);
}

/// What a site that is kept current is asked for, it knows; what was just changed by itself, it reads.
#[test]
fn a_site_that_is_kept_current_lists_without_asking_and_knows_its_own_changes() {
    let files = tempfile::tempdir().unwrap();
    let record = files.path().join("requests");
    let bench = bench(Simulator::options().record(&record));
    let settings = VsphereSettings { limits: bench.site.settings().limits, ..settings(&bench.simulator) };
    let kept = VsphereSite::open(settings, credentials()).unwrap().kept_current().unwrap();
    kept.machines().unwrap();
    let started = Instant::now();
    let is_current = || {
        let before = requests(&record, "RetrievePropertiesEx");
        let found = kept.machines().unwrap();
        (requests(&record, "RetrievePropertiesEx") == before).then_some(found)
    };
    let known = loop {
        if let Some(found) = is_current() {
            break found;
        }
        assert!(started.elapsed() < LIMIT, "it goes on asking");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(known, bench.site.machines().unwrap());
    // Changed by somebody else: the server tells.
    let made = bench.machine("elsewhere", 1);
    while !kept.machines().unwrap().contains(&made) {
        assert!(started.elapsed() < LIMIT, "it does not hear of changes");
        std::thread::sleep(Duration::from_millis(50));
    }
    for _ in 0..5 {
        kept.create_snapshot(&made.id, "own").unwrap();
        let machines = kept.machines().unwrap();
        assert_eq!(machines.iter().find(|one| one.id == made.id).unwrap().snapshots, ["own"]);
        kept.delete_snapshot(&made.id, "own").unwrap();
        let machines = kept.machines().unwrap();
        assert!(machines.iter().find(|one| one.id == made.id).unwrap().snapshots.is_empty());
    }
    bench.simulator.freeze(true);
    while kept.machines().is_ok() {
        assert!(started.elapsed() < 2 * LIMIT, "what cannot be asked any more is not told as current");
        std::thread::sleep(Duration::from_millis(50));
    }
    bench.simulator.freeze(false);
}

/// What was changed by others a moment ago, and the server has perhaps not told of yet.
#[test]
fn what_is_decided_by_is_read_anew() {
    let bench = bench(Simulator::options());
    let settings = VsphereSettings { limits: bench.site.settings().limits, ..settings(&bench.simulator) };
    let kept = VsphereSite::open(settings, credentials()).unwrap().kept_current().unwrap();
    let made = bench.machine("decided", 1);
    let snapshots = || {
        kept.look_anew();
        kept.machines().unwrap().into_iter().find(|one| one.id == made.id).unwrap().snapshots
    };
    for round in 0..20 {
        bench.site.create_snapshot(&made.id, "theirs").unwrap();
        assert_eq!(snapshots(), ["theirs"], "round {round}");
        bench.site.delete_snapshot(&made.id, "theirs").unwrap();
        assert_eq!(snapshots(), [""; 0], "round {round}");
    }
}
