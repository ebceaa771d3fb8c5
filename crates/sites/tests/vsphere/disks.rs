//! Disks handed to a master target and put back.

use std::fs;

use switchback_lab::vcsim::Simulator;
use switchback_sites::vsphere::{DiskPlace, VsphereSite};
use switchback_sites::{DiskOrigin, Site, SiteError};

use crate::bench::{Bench, DATASTORE, write};

fn refusal<T: std::fmt::Debug>(result: Result<T, SiteError>, passing_expected: bool) -> String {
    match result {
        Err(SiteError::Failed { detail, passing, .. }) if passing == passing_expected => detail,
        other => panic!("{other:?}"),
    }
}

#[test]
fn disks_go_to_the_master_target_and_from_it() {
    let bench = Bench::new();
    let (owner, master) = (bench.machine("owner", 17), bench.machine("master", 1));
    let site = &bench.site;
    for (position, disk) in owner.disks.iter().enumerate() {
        write(&disk.path, u8::try_from(position).unwrap());
    }
    let places = site.disk_places(&owner.id).unwrap();
    assert_eq!(places.len(), 17, "more than one controller has");
    assert_eq!((places[16].controller_bus, places[16].unit), (1, 1));
    site.power_on(&master.id).unwrap();

    for (position, place) in places.iter().enumerate() {
        site.detach_disk(&owner.id, &place.file).unwrap();
        site.detach_disk(&owner.id, &place.file).unwrap();
        let attached = site.attach_disk(&master.id, place).unwrap();
        assert_eq!(
            site.attach_disk(&master.id, place).unwrap(),
            attached,
            "attached again, it is where it is"
        );
        assert_eq!((attached.size, &attached.uuid), (place.size, &place.uuid));
        assert_ne!(attached.unit, 7);
        let contents = fs::read(&attached.path).unwrap();
        assert!(
            contents.iter().all(|byte| usize::from(*byte) == position),
            "it is that disk, with what was in it"
        );
        write(&attached.path, 100 + u8::try_from(position).unwrap());
    }
    assert_eq!(site.machine(&owner.id).unwrap().disks, []);
    let at_master = site.disk_places(&master.id).unwrap();
    assert_eq!(at_master.len(), 18);
    assert!(at_master[1..].iter().all(|place| place.mode == "independent_persistent"), "{at_master:?}");

    for place in places.iter().rev() {
        site.detach_disk(&master.id, &place.file).unwrap();
    }
    assert_eq!(site.machine(&master.id).unwrap().disks, master.disks);
}

#[test]
fn sixty_disks_are_the_most() {
    let bench = Bench::new();
    let owners = [bench.machine("one", 59), bench.machine("two", 1)];
    let master = bench.machine("master", 1);
    let mut places: Vec<DiskPlace> =
        owners.iter().flat_map(|owner| bench.site.disk_places(&owner.id).unwrap()).collect();
    let last = places.pop().unwrap();
    for place in &places {
        let attached = bench.site.attach_disk(&master.id, place).unwrap();
        assert!(
            attached.unit != 7
                && (0..=15).contains(&attached.unit)
                && (0..4).contains(&attached.controller_bus)
        );
    }
    let mut taken: Vec<_> = bench
        .site
        .disk_places(&master.id)
        .unwrap()
        .iter()
        .map(|place| (place.controller_bus, place.unit))
        .collect();
    taken.dedup();
    assert_eq!(taken.len(), 60, "each at a place of its own");
    let full = refusal(bench.site.attach_disk(&master.id, &last), false);
    assert!(full.contains("vsphere-full") && full.contains("60"), "{full}");
}

#[test]
fn a_disk_in_use_is_left_alone() {
    let bench = Bench::new();
    let (owner, master) = (bench.machine("owner", 1), bench.machine("master", 1));
    let place = bench.site.disk_places(&owner.id).unwrap().remove(0);
    bench.site.power_on(&owner.id).unwrap();
    let locked = refusal(bench.site.attach_disk(&master.id, &place), true);
    assert!(locked.contains("vsphere-fault-FileLocked") && locked.contains("in use by another"), "{locked}");
    assert_eq!(bench.site.machine(&master.id).unwrap().disks, master.disks);
}

#[test]
fn what_a_master_target_must_not_have_is_said() {
    let mut bench = Bench::new();
    let (owner, master) = (bench.machine("owner", 1), bench.machine("master", 1));
    let place = bench.site.disk_places(&owner.id).unwrap().remove(0);
    let own = bench.site.disk_places(&master.id).unwrap().remove(0);

    let same = DiskPlace { uuid: own.uuid, ..place.clone() };
    let same = refusal(bench.site.attach_disk(&master.id, &same), false);
    assert!(same.contains("vsphere-same-uuid"), "{same}");

    bench.site.create_snapshot(&master.id, "s").unwrap();
    let above = refusal(bench.site.attach_disk(&master.id, &place), false);
    assert!(above.contains("vsphere-snapshots"), "{above}");
    bench.site.delete_snapshot(&master.id, "s").unwrap();
    bench.site.create_snapshot(&owner.id, "s").unwrap();
    let below = refusal(bench.site.detach_disk(&owner.id, &place.file), false);
    assert!(below.contains("vsphere-snapshots"), "{below}");

    // A machine that others made does not tell its guest the disks' UUIDs; a mounted datastore needs none.
    let foreign = bench.object("DC0_H0_VM0").id;
    bench.site.attach_disk(&foreign, &place).unwrap();
    bench.site.detach_disk(&foreign, &place.file).unwrap();
    bench.reopen(|settings| settings.datastore_directories.clear());
    let silent = refusal(bench.site.attach_disk(&foreign, &place), false);
    assert!(silent.contains("vsphere-enable-uuid"), "{silent}");
    let attached = bench.site.attach_disk(&master.id, &place).unwrap();
    assert_eq!(attached.path, VsphereSite::disk_path(attached.uuid.as_deref().unwrap()));
    assert!(attached.path.to_string_lossy().starts_with("/dev/disk/by-id/wwn-0x6000c29"), "{attached:?}");
}

/// R10.
#[test]
fn the_host_of_the_master_target_must_reach_the_datastore() {
    let mut bench = Bench::with(Simulator::options().datastores(2).datastore_on("LocalDS_1", "DC0_C0_H1"));
    let master = bench.machine("master", 1);
    bench.reopen(|settings| settings.placement.host = Some("DC0_C0_H1".to_owned()));
    let mut new = bench.describe("owner");
    new.disks[0].origin = DiskOrigin::Empty { datastore: "LocalDS_1".to_owned() };
    let owner = bench.site.create_machine(&new).unwrap();
    let place = bench.site.disk_places(&owner.id).unwrap().remove(0);
    let out_of_reach = refusal(bench.site.attach_disk(&master.id, &place), false);
    assert!(out_of_reach.contains("vsphere-datastore-out-of-reach"), "{out_of_reach}");
    assert!(out_of_reach.contains("\"LocalDS_1\", it reaches: LocalDS_0"), "{out_of_reach}");
    let near = bench.machine("near", 1);
    bench.site.attach_disk(&near.id, &place).unwrap();
}

#[test]
fn several_disks_are_attached_at_the_same_time() {
    let bench = Bench::new();
    let (owner, master) = (bench.machine("owner", 8), bench.machine("master", 1));
    let places = bench.site.disk_places(&owner.id).unwrap();
    std::thread::scope(|scope| {
        for place in &places {
            let (site, master) = (&bench.site, &master.id);
            scope.spawn(move || site.attach_disk(master, place).unwrap());
        }
    });
    assert_eq!(bench.site.disk_places(&master.id).unwrap().len(), 9);
}

/// vSphere deletes a machine's disks with it, whosesoever they are.
#[test]
fn a_removed_machine_takes_no_disk_of_another_with_it() {
    let bench = Bench::new();
    let (owner, master) = (bench.machine("owner", 1), bench.machine("master", 1));
    let place = bench.site.disk_places(&owner.id).unwrap().remove(0);
    bench.site.attach_disk(&master.id, &place).unwrap();
    bench.site.detach_disk(&owner.id, &place.file).unwrap();
    // The disk is taken from the machine before that is removed: when it cannot be, the machine stays.
    bench.simulator.fail("ReconfigVM_Task", "TaskInProgress", 1);
    refusal(bench.site.delete_machine(&master.id), true);
    assert_eq!(bench.site.machine(&master.id).unwrap().disks.len(), 2);
    bench.site.delete_machine(&master.id).unwrap();
    let file = bench.simulator.datastores()[DATASTORE].join("Conformance owner/Conformance owner-flat.vmdk");
    assert!(file.exists());
}
