//! What goes wrong at Azure, and what becomes of it.

use std::path::Path;

use switchback_lab::arm::{Fault, Options};
use switchback_sites::azure::{AzureSite, MachinePlan};
use switchback_sites::conformance::Contents;
use switchback_sites::{Power, Site, SiteError};

use crate::bench::{Bench, MIB, credentials, gone, machine, settings, standing, vhd};

const REFUSED: Fault = Fault::Refused { status: 400, code: "InvalidParameter", message: "planned" };

/// The words of an attempt that must fail; whether trying again may help.
fn start(bench: &Bench, id: &str) -> (String, bool) {
    match bench.site.power_on(id) {
        Err(SiteError::Failed { action, detail, passing }) => (format!("{action}: {detail}"), passing),
        other => panic!("{other:?}"),
    }
}

#[test]
fn throttling_is_obeyed_and_bounded() {
    let bench = Bench::new();
    bench.machine("web01", 1);
    let throttled = Fault::Throttled { retry_after_s: 0 };
    bench.emulator.fail("PUT", "/networkInterfaces/", throttled.clone(), 2);
    bench.site.power_on("web01").unwrap();
    assert_eq!(bench.calls(&["PUT /", "/networkInterfaces/"]), 3, "twice refused, then done");
    bench.emulator.fail("POST", "/powerOff", throttled, 100);
    let error = bench.site.power_off("web01").unwrap_err();
    assert!(matches!(error, SiteError::Failed { passing: true, .. }), "{error:?}");
    assert!(error.to_string().contains("[azure-throttled]"), "{error}");
    assert_eq!(bench.calls(&["POST", "/powerOff"]), 3, "`tries-max`");
    assert_eq!(bench.site.machine("web01").unwrap().power, Power::On, "it is on, and that is said");
}

/// Each attempt comes one step further, and the last one to the end: nothing is made twice, nothing is forgotten.
#[test]
fn an_attempt_goes_on_where_the_last_one_ended() {
    let bench = Bench::new();
    bench.machine("web01", 2);
    for part in ["/networkInterfaces/", "-disk-0", "-disk-1", "/virtualMachines/"] {
        bench.emulator.fail("PUT", part, REFUSED, 1);
    }
    for made in [(0, 0), (1, 0), (1, 1), (1, 2)] {
        let (words, passing) = start(&bench, "web01");
        assert!(!passing && words.contains("goes on with it"), "{words}");
        assert_eq!((bench.cards().len(), bench.disks().len()), made);
        assert_eq!(bench.site.machine("web01").unwrap().power, Power::Off);
    }
    bench.site.power_on("web01").unwrap();
    assert_eq!(bench.first_bytes(), [1, 2]);
    assert_eq!(bench.calls(&["PUT /", "-disk-0"]), 2, "what is there is not imported again");
    assert_eq!((bench.cards().len(), bench.vms().len()), (1, 1));
}

#[test]
fn an_attempt_after_the_replica_moved_takes_nothing_of_the_last_one() {
    let bench = Bench::new();
    let made = bench.machine("web01", 2);
    bench.emulator.fail("PUT", "/virtualMachines/", REFUSED, 1);
    start(&bench, "web01");
    assert_eq!(bench.first_bytes(), [1, 2]);
    bench.stand(&made, 30);
    bench.site.power_on("web01").unwrap();
    assert_eq!(bench.first_bytes(), [31, 32]);
}

#[test]
fn what_fails_half_way_is_made_anew() {
    let bench = Bench::new();
    bench.machine("web01", 1);
    let message = "the import was interrupted";
    bench.emulator.fail("PUT", "/disks/", Fault::FailsLater { code: "InternalExecutionError", message }, 1);
    let (words, _) = start(&bench, "web01");
    assert!(words.contains(message) && words.contains("InternalExecutionError"), "{words}");
    assert_eq!(bench.disks().len(), 1, "half a disk is there");
    let message = "no such hardware";
    bench.emulator.fail(
        "PUT",
        "/virtualMachines/",
        Fault::FailsLater { code: "AllocationFailed", message },
        1,
    );
    let (words, passing) = start(&bench, "web01");
    assert!(passing && words.contains("[azure-capacity]"), "{words}");
    bench.site.power_on("web01").unwrap();
    assert_eq!(bench.first_bytes(), [1]);
    assert_eq!(bench.vms().len(), 1);
    assert_eq!(bench.site.machine("web01").unwrap().power, Power::On);
}

#[test]
fn lost_answers_make_nothing_twice() {
    let bench = Bench::new();
    bench.machine("web01", 2);
    for part in ["/networkInterfaces/", "-disk-0", "-disk-1", "/virtualMachines/"] {
        bench.emulator.fail("PUT", part, Fault::AnswerLost, 1);
    }
    bench.site.power_on("web01").unwrap();
    assert_eq!((bench.vms().len(), bench.disks().len(), bench.cards().len()), (1, 2, 1));
    assert_eq!(bench.first_bytes(), [1, 2]);
    bench.emulator.fail("POST", "/deallocate", Fault::AnswerLost, 1);
    bench.site.power_off("web01").unwrap();
    bench.emulator.fail("DELETE", "/virtualMachines/", Fault::AnswerLost, 1);
    bench.emulator.fail("DELETE", "/disks/", Fault::AnswerLost, 2);
    bench.site.delete_machine("web01").unwrap();
    assert_eq!((bench.vms(), bench.disks(), bench.cards()), (vec![], vec![], vec![]));
}

#[test]
fn a_quota_that_ends_half_way_through_a_plan_stops_the_second_machine_alone() {
    let bench = Bench::with(Options { cores_max: 3, ..Options::default() });
    bench.machine("web01", 1);
    bench.machine("web02", 1);
    bench.site.power_on("web01").unwrap();
    let (words, passing) = start(&bench, "web02");
    assert!(words.contains("[azure-quota]") && words.contains("Usage + quotas") && !passing, "{words}");
    assert_eq!(bench.site.machine("web01").unwrap().power, Power::On);
    assert_eq!((bench.vms().len(), bench.disks().len()), (1, 2), "its disk is kept");
    bench.site.power_off("web01").unwrap();
    bench.site.power_on("web02").unwrap();
    assert_eq!(bench.calls(&["PUT /", "/disks/sb-web02"]), 1);
}

#[test]
fn conflicts_say_what_to_do() {
    let bench = Bench::new();
    bench.machine("web01", 1);
    bench.machine("web02", 1);
    let plan =
        |address: [u8; 4]| MachinePlan { addresses: vec![Some(address.into())], ..MachinePlan::default() };
    bench.site.plan_machine("web01", &plan([10, 20, 1, 10])).unwrap();
    bench.site.plan_machine("web02", &plan([10, 20, 1, 10])).unwrap();
    bench.site.power_on("web01").unwrap();
    assert!(start(&bench, "web02").0.contains("[azure-address]"));
    bench.site.plan_machine("web02", &plan([192, 168, 0, 1])).unwrap();
    assert!(start(&bench, "web02").0.contains("[azure-address]"), "of no subnet here");
    bench.site.plan_machine("web02", &plan([10, 20, 1, 11])).unwrap();
    let attached = Fault::Refused { status: 409, code: "ConflictingUserInput", message: "owned by VM 'x'" };
    bench.emulator.fail("PUT", "/virtualMachines/", attached, 1);
    assert!(start(&bench, "web02").0.contains("[azure-disk-attached]"));
    bench.site.power_on("web02").unwrap();
}

#[test]
fn expired_tokens_are_renewed_in_the_middle() {
    let bench = Bench::new();
    bench.machine("web01", 1);
    bench.site.machines().unwrap();
    bench.emulator.expire_tokens();
    bench.emulator.fail("PUT", "/disks/", Fault::TokenExpired, 1);
    bench.emulator.fail("GET", "/operations/", Fault::TokenExpired, 1);
    bench.site.power_on("web01").unwrap();
    bench.emulator.fail("POST", "/powerOff", Fault::TokenExpired, 2);
    let error = bench.site.power_off("web01").unwrap_err().to_string();
    assert!(error.contains("[azure-token]"), "a new token is refused, too: {error}");
}

#[test]
fn a_replica_that_is_not_at_a_point_starts_nothing() {
    let bench = Bench::new();
    let made = bench.machine("web01", 2);
    bench.replica.remove(&standing(&made.disks[1].path));
    let (words, passing) = start(&bench, "web01");
    assert!(words.contains("disk-1.at.vhd") && words.contains("[azure-no-point]") && !passing, "{words}");
    assert_eq!(bench.calls(&["PUT "]), 0, "nothing was made");
}

#[test]
fn a_damaged_vhd_is_refused_and_can_be_mended() {
    let bench = Bench::new();
    let made = bench.machine("web01", 1);
    let mut damaged = vhd(&vec![5; MIB]);
    *damaged.last_mut().unwrap() ^= 1;
    bench.replica.put(&standing(&made.disks[0].path), damaged);
    let (words, _) = start(&bench, "web01");
    assert!(words.contains("checksum") && words.contains("[azure-vhd]"), "{words}");
    bench.replica.write(&standing(&made.disks[0].path), &vec![5; MIB]);
    bench.site.power_on("web01").unwrap();
    assert_eq!(bench.first_bytes(), [5]);
}

#[test]
fn a_network_that_has_gone_is_named() {
    let mut bench = Bench::new();
    bench.machine("web01", 1);
    bench.reopen(|settings| settings.networks = vec![gone(settings)]);
    assert_eq!(bench.site.networks().unwrap(), []);
    let (words, _) = start(&bench, "web01");
    assert!(words.contains("recovery-net/production") && words.contains("[azure-network]"), "{words}");
    let none = bench.site.create_machine(&machine("web02", 1));
    assert!(matches!(none, Err(SiteError::NoSuchNetwork { .. })), "{none:?}");
}

#[test]
fn an_operation_that_does_not_end_is_waited_for_no_longer_than_allowed() {
    let mut bench = Bench::with(Options { looks_min: u32::MAX, ..Options::default() });
    bench.machine("web01", 1);
    bench.reopen(|settings| settings.limits.operation_seconds = 1);
    let (words, passing) = start(&bench, "web01");
    assert!(words.contains("[azure-slow]") && passing, "{words}");
}

#[test]
fn who_cannot_be_reached_or_trusted_is_said_and_no_secret_is() {
    let mut bench = Bench::new();
    bench.reopen(|settings| settings.cloud.certificates = None);
    let error = bench.site.networks().unwrap_err().to_string();
    assert!(error.contains("[azure-certificate]"), "{error}");
    bench.reopen(|settings| settings.cloud.authority = "https://127.0.0.1:1".into());
    let error = bench.site.networks().unwrap_err().to_string();
    assert!(error.contains("https://127.0.0.1:1 cannot be reached"), "{error}");
    let mut credentials = credentials(&bench.emulator);
    credentials.container_sas = Some("sv=2021&sig=expired-signature".to_owned().into());
    let site = AzureSite::open(settings(&bench.emulator), credentials.clone()).unwrap();
    let error = site.datastores().unwrap_err().to_string();
    assert!(error.contains("[azure-sas]") && !error.contains("expired-signature"), "{error}");
    let shown = format!("{site:?} {credentials:?} {:?}", credentials.identity);
    assert!(!shown.contains("expired-signature") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn a_resource_group_that_has_gone_is_not_an_empty_one() {
    let mut bench = Bench::new();
    bench.machine("web01", 1);
    bench.reopen(|settings| settings.resource_group = "Gone".into());
    for error in [bench.site.machines().map(drop), bench.site.delete_machine("web01")] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("[azure-group]"), "{error}");
    }
    bench.reopen(|_| {});
    assert_eq!(bench.site.machines().unwrap().len(), 1);
}

#[test]
fn two_who_describe_a_machine_describe_one() {
    let bench = Bench::new();
    let made = bench.machine("web01", 1);
    std::thread::scope(|scope| {
        for name in ["one", "two", "three", "four"] {
            let site = AzureSite::open(settings(&bench.emulator), credentials(&bench.emulator)).unwrap();
            scope.spawn(move || site.create_snapshot("web01", name).unwrap());
        }
    });
    let mut noted = bench.site.machine("web01").unwrap().snapshots;
    noted.sort();
    assert_eq!(noted, ["four", "one", "three", "two"], "no change is lost");
    let damaged =
        made.disks[0].path.to_string_lossy().replace("replicas/web01/disk-0.vhd", "machines/web01.json");
    bench.replica.put(Path::new(&damaged), b"{}".to_vec());
    let error = bench.site.machine("web01").unwrap_err().to_string();
    assert!(error.contains("[azure-description]") && error.contains("machines/web01.json"), "{error}");
    assert_eq!(bench.site.machines().unwrap(), [], "and logged");
}
