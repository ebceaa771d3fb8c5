//! Servers that refuse, forget, hang, and are away.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use switchback_lab::vcsim::{PASSWORD, Simulator, USER};
use switchback_sites::vsphere::{Credentials, Limits, VsphereSite};
use switchback_sites::{Power, Site, SiteError};

use crate::bench::{Bench, credentials, requests, settings};

fn detail<T: std::fmt::Debug>(result: Result<T, SiteError>, passing_expected: bool) -> String {
    match result {
        Err(SiteError::Failed { detail, passing, .. }) if passing == passing_expected => detail,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wrong_password_is_said_once_and_does_not_lock_the_account() {
    let files = tempfile::tempdir().unwrap();
    let record = files.path().join("requests");
    let simulator = Simulator::options().record(&record).start().unwrap();
    let wrong = Credentials::new(USER, "wrong".to_owned());
    let site = VsphereSite::open(settings(&simulator), wrong).unwrap();
    for _ in 0..5 {
        let told = detail(site.machines(), false);
        assert!(told.contains("vsphere-fault-InvalidLogin") && told.contains("password"), "{told}");
        assert!(!told.contains("wrong\""), "{told}");
    }
    assert_eq!(requests(&record, "Login"), 1, "five wrong ones would lock the account");
    let right = VsphereSite::open(settings(&simulator), credentials()).unwrap();
    assert_eq!(right.machines().unwrap().len(), 4);
    let shown = format!("{right:?} {site:?}");
    assert!(!shown.contains("wrong") && !shown.contains(PASSWORD) && !shown.contains(USER), "{shown}");
}

#[test]
fn a_session_that_ends_is_begun_anew_in_the_middle_of_anything() {
    let files = tempfile::tempdir().unwrap();
    let record = files.path().join("requests");
    let bench = Bench::with(Simulator::options().record(&record));
    let made = bench.machine("session", 1);
    let before = requests(&record, "Login");
    // While a task runs: its end is seen by the new session.
    bench.simulator.end_session_after("PowerOnVM_Task");
    bench.site.power_on(&made.id).unwrap();
    // Before a change: it is done, once.
    bench.simulator.end_session_after("FindByUuid");
    bench.site.power_off(&made.id).unwrap();
    bench.simulator.end_session_after("RetrievePropertiesEx");
    bench.site.create_snapshot(&made.id, "s").unwrap();
    assert_eq!(bench.site.machine(&made.id).unwrap().snapshots, ["s"]);
    // In the middle of a list: the view is gone with the session.
    bench.simulator.end_session_after("CreateContainerView");
    assert_eq!(bench.site.machines().unwrap().len(), 5);
    assert_eq!(requests(&record, "Login"), before + 4, "one login for each end");
}

#[test]
fn an_idle_session_ends_and_nobody_notices() {
    let bench = Bench::with(Simulator::options().idle_session(Duration::from_millis(300)));
    let first = bench.site.machines().unwrap();
    thread::sleep(Duration::from_millis(600));
    assert_eq!(bench.site.machines().unwrap(), first);
    bench.site.log_out().unwrap();
    bench.site.log_out().unwrap();
    assert_eq!(bench.site.machines().unwrap(), first);
}

#[test]
fn a_server_that_is_away_is_waited_for_and_then_said_to_be() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let first = Simulator::options().start().unwrap();
    let again = Simulator::options().port(port).identity_of(&first).unwrap();
    let open = |patience_seconds| {
        let mut settings = settings(&first);
        settings.url = format!("https://127.0.0.1:{port}/sdk");
        settings.limits.patience_seconds = patience_seconds;
        VsphereSite::open(settings, credentials()).unwrap()
    };
    let told = detail(open(0).machines(), true);
    assert!(told.contains("vsphere-unreachable") && told.contains("Is it running"), "{told}");
    let waiting = open(60);
    let started = thread::scope(|scope| {
        let machines = scope.spawn(|| waiting.machines().unwrap());
        thread::sleep(Duration::from_secs(2));
        let started = again.start().unwrap();
        assert_eq!(machines.join().unwrap().len(), 4);
        started
    });
    // Somebody else at the same address is no reason to wait, and none to trust.
    drop(started);
    let _other = Simulator::options().port(port).start().unwrap();
    let told = detail(waiting.machines(), false);
    assert!(told.contains("vsphere-certificate"), "{told}");
}

#[test]
fn a_server_that_hangs_is_waited_for() {
    let limits = Limits { request_seconds: 1, patience_seconds: 30, ..Limits::default() };
    let bench = Bench::limited(Simulator::options(), limits);
    let first = bench.site.machines().unwrap();
    bench.simulator.freeze(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_secs(3));
            bench.simulator.freeze(false);
        });
        assert_eq!(bench.site.machines().unwrap(), first);
    });
    bench.simulator.freeze(true);
    let impatient = Limits { patience_seconds: 0, ..limits };
    let mut settings = settings(&bench.simulator);
    settings.limits = impatient;
    let site = VsphereSite::open(settings, credentials()).unwrap();
    let told = detail(site.machines(), true);
    assert!(told.contains("vsphere-slow"), "{told}");
    bench.simulator.freeze(false);
}

#[test]
fn what_the_server_refuses_is_explained() {
    let bench = Bench::new();
    let made = bench.machine("faults", 1);
    for (fault, passing, told) in [
        ("InsufficientResourcesFault", true, "too little processor or memory"),
        ("HostNotConnected", true, "connection"),
        ("NoDiskSpace", false, "full"),
        ("InvalidState", false, "vsphere-fault-InvalidState"),
    ] {
        bench.simulator.fail("PowerOnVM_Task", fault, 1);
        let text = detail(bench.site.power_on(&made.id), passing);
        assert!(text.contains(told) && text.contains("PowerOnVM_Task"), "{text}");
    }
    bench.site.power_on(&made.id).unwrap();
    bench.simulator.fail("PowerOffVM_Task", "TaskInProgress", 1);
    detail(bench.site.power_off(&made.id), true);
    assert_eq!(bench.site.machine(&made.id).unwrap().power, Power::On);
}

/// Somebody else was faster: what is as it should be is success, whatever the task says.
#[test]
fn a_power_state_that_is_there_already_is_success() {
    let bench = Bench::new();
    let made = bench.machine("states", 1);
    bench.simulator.fail("PowerOnVM_Task", "InvalidPowerState", 1);
    let text = detail(bench.site.power_on(&made.id), false);
    assert!(text.contains("vsphere-fault-InvalidPowerState"), "it is not on: {text}");
    bench.site.power_on(&made.id).unwrap();
    bench.simulator.fail("Destroy_Task", "InvalidPowerState", 1);
    bench.site.power_off(&made.id).unwrap();
    let running = bench.site.delete_machine(&made.id);
    assert!(matches!(running, Err(SiteError::Running { .. })), "{running:?}");
    bench.simulator.fail("Destroy_Task", "ManagedObjectNotFound", 1);
    bench.site.delete_machine(&made.id).unwrap();
}

#[test]
fn a_task_that_does_not_end_is_left_to_go_on() {
    let bench = Bench::limited(Simulator::options(), Limits { task_seconds: 1, ..Limits::default() });
    let made = bench.machine("stuck", 1);
    bench.simulator.fail("PowerOnVM_Task", "stuck", 1);
    // The session ends while the task is waited for, more than once.
    bench.simulator.end_session_after("PowerOnVM_Task");
    bench.simulator.end_session_after("RetrievePropertiesEx");
    let told = detail(bench.site.power_on(&made.id), true);
    assert!(told.contains("vsphere-task") && told.contains("PowerOnVM_Task"), "{told}");
    assert_eq!(bench.site.machine(&made.id).unwrap().power, Power::Off);
    bench.site.power_on(&made.id).unwrap();
}

/// Servers say that all is done when they have left out what they did not like.
#[test]
fn what_was_not_done_is_noticed() {
    let bench = Bench::new();
    let (owner, master) = (bench.machine("owner", 1), bench.machine("master", 1));
    let place = bench.site.disk_places(&owner.id).unwrap().remove(0);
    let mut ignored = Vec::new();
    let mut ignore = |method: &str, act: &dyn Fn() -> Result<(), SiteError>| {
        bench.simulator.fail(method, "ignored", 1);
        ignored.push(act());
    };
    ignore("ReconfigVM_Task", &|| bench.site.attach_disk(&master.id, &place).map(drop));
    ignore("ReconfigVM_Task", &|| bench.site.detach_disk(&owner.id, &place.file));
    ignore("ReconfigVM_Task", &|| bench.site.connect_nics(&owner.id, &[None]));
    let left = bench.machine("left", 1);
    let serials = [left.disks[0].serial.clone()];
    ignore("ReconfigVM_Task", &|| bench.site.seed_disks(&owner.id, &left.id, &serials).map(drop));
    ignore("CreateVM_Task", &|| bench.site.create_machine(&bench.describe("new")).map(drop));
    bench.simulator.fail("CreateVM_Task", "partly", 1);
    let partly = bench.site.create_machine(&bench.describe("partly"));
    assert!(
        bench.site.machines().unwrap().iter().all(|machine| machine.name != "Conformance partly"),
        "it is left"
    );
    ignored.push(partly.map(drop));
    for result in ignored {
        let Err(SiteError::Failed { detail, .. }) = result else { panic!("{result:?}") };
        assert!(detail.contains("it is not"), "{detail}");
    }
    bench.site.power_on(&owner.id).unwrap();
    bench.simulator.fail("PowerOffVM_Task", "ignored", 1);
    let on = detail(bench.site.power_off(&owner.id), true);
    assert!(on.contains("is not off"), "{on}");
}
