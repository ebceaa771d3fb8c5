//! What there is, read and typed.

use switchback_lab::vcsim::Simulator;
use switchback_sites::Site;
use switchback_sites::vsphere::{Inventory, Limits, VmPower};

use crate::bench::{Bench, DATASTORE, HOST, requests};

fn host<'a>(inventory: &'a Inventory, name: &str) -> &'a switchback_sites::vsphere::Host {
    inventory.hosts.iter().find(|host| host.name == name).unwrap()
}

/// R10: which host reaches which datastore.
#[test]
fn a_datastore_is_where_it_is_mounted() {
    let options = Simulator::options().datastores(2).datastore_on("LocalDS_1", "DC0_C0_H1");
    let bench = Bench::with(options);
    let inventory = bench.site.inventory().unwrap();
    let names = |host_name: &str| {
        let object = &host(&inventory, host_name).object;
        let mut names: Vec<_> = inventory.datastores_of(object).map(|one| one.name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names("DC0_C0_H1"), ["LocalDS_0", "LocalDS_1"]);
    assert_eq!(names(HOST), ["LocalDS_0"]);
    assert_eq!(inventory.datacenter_of(&host(&inventory, HOST).object).unwrap().name, "DC0");
    // The site has what the host of its machines has.
    let of_site: Vec<_> = bench.site.datastores().unwrap().into_iter().map(|one| one.name).collect();
    assert_eq!(of_site, [DATASTORE]);
    let mut new = bench.describe("unreachable");
    new.disks[0].origin = switchback_sites::DiskOrigin::Empty { datastore: "LocalDS_1".to_owned() };
    let unreachable = bench.site.create_machine(&new);
    assert!(
        matches!(unreachable, Err(switchback_sites::SiteError::NoSuchDatastore { .. })),
        "{unreachable:?}"
    );
}

#[test]
fn machines_are_told_with_all_they_have() {
    let bench = Bench::new();
    let made = bench.machine("told", 17);
    bench.site.create_snapshot(&made.id, "one").unwrap();
    bench.site.create_snapshot(&made.id, "two").unwrap();
    bench.simulator.set("Conformance%20told", "guest.net", "10.1.0.5,fe80::1");
    let inventory = bench.site.inventory().unwrap();
    let machine = inventory.machines.iter().find(|machine| machine.name == made.name).unwrap();
    assert_eq!(machine.site_id(), made.id);
    assert_ne!(machine.object.id, made.id);
    assert_eq!(machine.power, VmPower::Off);
    assert_eq!(machine.host.as_ref(), Some(&host(&inventory, HOST).object));
    assert_eq!(machine.guest.addresses, ["10.1.0.5", "fe80::1"]);
    assert!(machine.knows_disk_uuids());
    let scsi: Vec<_> =
        machine.controllers.iter().filter(|one| one.kind == "ParaVirtualSCSIController").collect();
    assert_eq!(scsi.iter().map(|controller| controller.bus).collect::<Vec<_>>(), [0, 1]);
    let places: Vec<_> = machine.disks.iter().map(|disk| (disk.controller_key, disk.unit)).collect();
    let expected = (0..16).filter(|unit| *unit != 7).map(|unit| (scsi[0].key, unit));
    assert_eq!(places, expected.chain([(scsi[1].key, 0), (scsi[1].key, 1)]).collect::<Vec<_>>());
    for disk in &machine.disks {
        assert_eq!((disk.size, disk.mode.as_str(), disk.is_thin), (1 << 20, "persistent", true));
        assert!(disk.uuid.as_ref().is_some_and(|uuid| uuid.len() == 36), "{disk:?}");
    }
    let [one, two] = machine.snapshots.as_slice() else { panic!("{:?}", machine.snapshots) };
    assert_eq!((one.parent.as_ref(), one.is_current), (None, false));
    assert_eq!((two.parent.as_ref(), two.is_current), (Some(&one.object), true));
}

/// In pages, of which the rest goes with the session.
#[test]
fn a_hundred_machines_are_read() {
    let files = tempfile::tempdir().unwrap();
    let record = files.path().join("requests");
    let limits = Limits { page_objects_max: 7, ..Limits::default() };
    let bench = Bench::limited(Simulator::options().machines(60).record(&record), limits);
    let machines = bench.site.machines().unwrap();
    assert_eq!(machines.len(), 120);
    assert_eq!(requests(&record, "ContinueRetrievePropertiesEx"), 120 / 7);
    bench.simulator.end_session_after("ContinueRetrievePropertiesEx");
    assert_eq!(bench.site.machines().unwrap(), machines);
    assert_eq!(requests(&record, "Login"), 2);
}

#[test]
fn a_place_that_is_not_there_is_said() {
    let mut bench = Bench::new();
    bench.reopen(|settings| settings.placement.host = Some("absent".to_owned()));
    let absent = bench.site.create_machine(&bench.describe("m")).unwrap_err().to_string();
    assert!(absent.contains("DC0_C0_H1"), "it tells which there are: {absent}");
    bench.reopen(|settings| settings.placement.host = None);
    let unnamed = bench.site.create_machine(&bench.describe("m")).unwrap_err().to_string();
    assert!(unnamed.contains("placement.host"), "{unnamed}");
    bench.reopen(|settings| settings.placement.resource_pool = Some("absent".to_owned()));
    let pool = bench.site.create_machine(&bench.describe("m")).unwrap_err().to_string();
    assert!(pool.contains("resource pool"), "{pool}");
    bench.reopen(|settings| settings.placement.folder = Some("absent".to_owned()));
    let folder = bench.site.create_machine(&bench.describe("m")).unwrap_err().to_string();
    assert!(folder.contains("folder"), "{folder}");
}

#[test]
fn a_machine_goes_where_the_settings_say() {
    let mut bench = Bench::with(Simulator::options().resource_pools(1));
    bench.reopen(|settings| {
        settings.placement.host = Some("DC0_C0_H2".to_owned());
        settings.placement.resource_pool = Some("DC0_C0_RP1".to_owned());
        settings.placement.folder = Some("vm".to_owned());
    });
    // The server would choose a host by itself: it is not left to that.
    let made: Vec<_> = (0..4).map(|index| bench.machine(&format!("placed {index}"), 1).name).collect();
    let inventory = bench.site.inventory().unwrap();
    let machines = inventory.machines.iter().filter(|machine| made.contains(&machine.name));
    let pool = inventory.resource_pools.iter().find(|pool| pool.name == "DC0_C0_RP1").unwrap();
    for machine in machines {
        assert_eq!(machine.host.as_ref(), Some(&host(&inventory, "DC0_C0_H2").object));
        assert_eq!(machine.resource_pool.as_ref(), Some(&pool.object));
    }
    // A folder of another kind of things is none for machines.
    bench.reopen(|settings| settings.placement.folder = Some("datastore".to_owned()));
    let folder = bench.site.create_machine(&bench.describe("m")).unwrap_err().to_string();
    assert!(folder.contains("folder"), "{folder}");
}
