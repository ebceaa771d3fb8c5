//! What every site promises, and what is special about this one.

use std::sync::Arc;
use std::time::Duration;

use switchback_sites::azure::{AzureSite, MachinePlan};
use switchback_sites::conformance::{self, Subject};
use switchback_sites::{Boot, DiskOrigin, Power, Site, SiteError};

use crate::bench::{Bench, CONTAINER, ISOLATED, MIB, PRODUCTION, credentials, machine, settings, vhd};

#[test]
fn a_resource_group_keeps_the_promises() {
    let bench = Bench::new();
    let site = AzureSite::open(settings(&bench.emulator), credentials(&bench.emulator)).unwrap();
    conformance::site(&Subject {
        site: Arc::new(site),
        datastore: CONTAINER.into(),
        network: PRODUCTION.into(),
        lays_over_images: true,
        replica: Some(bench.replica.clone()),
    });
    assert_eq!((bench.vms(), bench.disks(), bench.cards()), (vec![], vec![], vec![]), "nothing is left");
}

#[test]
fn nothing_is_made_before_the_first_start() {
    let bench = Bench::new();
    let made = bench.machine("web01", 2);
    bench.site.lend_disks("web01", &[], "").unwrap();
    bench.stand(&made, 0);
    bench.site.create_snapshot("web01", "point").unwrap();
    bench.site.plan_machine("web01", &MachinePlan::default()).unwrap();
    bench.site.check_targets(&[Default::default()]).unwrap();
    assert_eq!(bench.calls(&["PUT "]) + bench.calls(&["POST "]), 0);
    bench.site.power_on("web01").unwrap();
    assert_eq!((bench.vms().len(), bench.disks().len(), bench.cards().len()), (1, 2, 1));
    assert_eq!(bench.first_bytes(), [1, 2], "each disk is what the replica stands at");
    let file = std::fs::read(bench.emulator.disk_file(&bench.disks()[0])).unwrap();
    assert!(file.len() == MIB && file.iter().all(|byte| *byte == 1), "all of it, without the footer");
    let now = bench.site.machine("web01").unwrap();
    assert_eq!((now.power, now.disks, now.mark), (Power::On, made.disks, made.mark));
    assert_eq!(now.system_uuid.len(), 36);
    assert!(now.nics[0].mac.starts_with("00:0d:3a:"), "{:?}", now.nics);
    assert_eq!(bench.site.machines().unwrap().len(), 1);
}

#[test]
fn a_machine_gets_what_was_planned() {
    let mut bench = Bench::new();
    bench.reopen(|settings| {
        settings.machines.tags = [("cost-center".to_owned(), "4711".to_owned())].into();
    });
    let mut new = machine("web01", 1);
    new.boot = Boot::Uefi;
    new.nics.push(switchback_sites::Nic { mac: String::new(), network: Some(ISOLATED.into()) });
    let made = bench.site.create_machine(&new).unwrap();
    bench.stand(&made, 0);
    let plan = MachinePlan {
        size: Some("Standard_F2s_v2".into()),
        zone: Some("2".into()),
        addresses: vec![Some([10, 20, 1, 77].into()), None],
        ..MachinePlan::default()
    };
    bench.site.plan_machine("web01", &plan).unwrap();
    assert_eq!(bench.site.machine_plan("web01").unwrap(), plan);
    bench.site.power_on("web01").unwrap();
    let vm = bench.emulator.resource("Microsoft.Compute/virtualMachines", &bench.vms()[0]);
    assert_eq!(vm["properties"]["hardwareProfile"]["vmSize"], "Standard_F2s_v2");
    assert_eq!(vm["zones"][0], "2");
    assert_eq!(vm["tags"]["cost-center"], "4711");
    assert_eq!(vm["tags"]["switchback-mark"], "web01 replica");
    assert_eq!(vm["properties"]["diagnosticsProfile"]["bootDiagnostics"]["enabled"], true);
    let disk = bench.emulator.resource("Microsoft.Compute/disks", &bench.disks()[0]);
    assert_eq!(disk["properties"]["hyperVGeneration"], "V2", "as its firmware is");
    let address = |at: usize| {
        let card = bench.emulator.resource("Microsoft.Network/networkInterfaces", &bench.cards()[at]);
        card["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(address(0), "10.20.1.77");
    assert!(address(1).starts_with("10.20.2."), "{}", address(1));
    let taken = bench.site.check_address(PRODUCTION, [10, 20, 1, 77].into()).unwrap();
    assert!(!taken.is_free && taken.others.contains(&[10, 20, 1, 78].into()), "{taken:?}");
    assert!(bench.site.check_address(PRODUCTION, [10, 20, 1, 78].into()).unwrap().is_free);
}

#[test]
fn a_test_failover_runs_on_the_view() {
    let bench = Bench::new();
    let made = bench.machine("web01", 1);
    let view = made.disks[0].path.with_file_name("view-7-disk-0.vhd");
    bench.replica.put(&view, vhd(&vec![77; MIB]));
    let mut copy = machine("web01-test", 1);
    copy.disks[0].origin = DiskOrigin::Over { image: view.clone(), datastore: CONTAINER.into() };
    copy.nics[0].network = Some(ISOLATED.into());
    assert_eq!(bench.site.create_machine(&copy).unwrap().disks[0].path, view);
    bench.site.power_on("web01-test").unwrap();
    assert_eq!(bench.first_bytes(), [77]);
    bench.site.power_off("web01-test").unwrap();
    bench.site.delete_machine("web01-test").unwrap();
    assert_eq!((bench.vms(), bench.disks(), bench.cards()), (vec![], vec![], vec![]));
    assert_eq!(bench.site.machine("web01").unwrap(), made);
}

#[test]
fn a_guest_that_hears_is_shut_down_and_its_hardware_given_back() {
    let options = switchback_lab::arm::Options { grace: Duration::from_millis(1), ..Default::default() };
    let bench = Bench::with(options);
    bench.machine("web01", 1);
    bench.site.power_on("web01").unwrap();
    assert!(bench.site.shut_down("web01", Duration::from_secs(30)).unwrap());
    assert_eq!(bench.calls(&["POST", "/powerOff", "skipshutdown=false"]), 1);
    assert_eq!(bench.calls(&["POST", "/deallocate"]), 1);
    assert_eq!(bench.site.machine("web01").unwrap().power, Power::Off);
}

#[test]
fn machines_of_others_are_shown_and_left() {
    let bench = Bench::new();
    let mut other = Bench::new();
    bench.machine("web01", 1);
    bench.site.power_on("web01").unwrap();
    // Another site of the same resource group, whose descriptions are elsewhere.
    other.emulator = bench.emulator;
    other.reopen(|settings| settings.container = settings.container.replace("/replicas", "/others"));
    let machines = other.site.machines().unwrap();
    assert_eq!(machines.len(), 1);
    assert_eq!((machines[0].cpus, machines[0].nics[0].network.as_deref()), (2, Some(PRODUCTION)));
    assert_eq!(machines[0].power, Power::On);
    assert_eq!(other.site.machine(&machines[0].id).unwrap(), machines[0]);
    let refused = other.site.delete_machine(&machines[0].id).unwrap_err().to_string();
    assert!(refused.contains("[azure-foreign]"), "{refused}");
    let taken = other.site.create_machine(&switchback_sites::NewMachine {
        id: machines[0].id.clone(),
        disks: Vec::new(),
        nics: Vec::new(),
        ..machine("x", 1)
    });
    assert!(matches!(taken, Err(SiteError::Taken { .. })), "{taken:?}");
    other.site.power_off(&machines[0].id).unwrap();
    assert_eq!(other.site.machine(&machines[0].id).unwrap().power, Power::Off);
    other.site.power_on(&machines[0].id).unwrap();
}

/// The emulator's pages have two entries.
#[test]
fn lists_are_read_to_their_last_page() {
    let bench = Bench::new();
    for id in ["web01", "web02", "web03"] {
        bench.machine(id, 1);
        bench.site.power_on(id).unwrap();
    }
    let machines = bench.site.machines().unwrap();
    assert_eq!(
        machines.iter().filter(|one| one.power == Power::On && !one.nics[0].mac.is_empty()).count(),
        3
    );
    bench.site.power_off("web03").unwrap();
    bench.site.delete_machine("web03").unwrap();
    assert_eq!((bench.vms().len(), bench.disks().len(), bench.cards().len()), (2, 2, 2));
}

#[test]
fn the_console_is_the_serial_log() {
    let bench = Bench::new();
    bench.machine("web01", 1);
    assert_eq!(bench.site.console("web01", 100).unwrap(), "");
    bench.site.power_on("web01").unwrap();
    assert_eq!(bench.site.console("web01", 5).unwrap(), "here\n");
}
