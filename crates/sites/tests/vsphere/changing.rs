//! Disks that come to a machine, are set aside, and go: beside a master target that has the others, and with any change that fails.

use std::collections::BTreeSet;
use std::fs;

use switchback_lab::vcsim::Simulator;
use switchback_sites::vsphere::{Placement, VsphereSite};
use switchback_sites::{DiskOrigin, Machine, MachineDisk, NewDisk, Site, SiteError};

use crate::bench::{Bench, DATASTORE, settings, write};
use crate::witness::option;

const DISK_SIZE: u64 = 1 << 20;
const CHANGE: &str = "ReconfigVM_Task";
const DELETE: &str = "DeleteVirtualDisk_Task";
/// More changes than any operation makes.
const CHANGES_MAX: usize = 12;

fn disk(serial: &str) -> NewDisk {
    let origin = DiskOrigin::Empty { datastore: DATASTORE.to_owned() };
    NewDisk { size: DISK_SIZE, serial: serial.to_owned(), origin }
}

fn detail<T: std::fmt::Debug>(result: Result<T, SiteError>) -> String {
    match result {
        Err(SiteError::Failed { detail, .. }) => detail,
        other => panic!("{other:?}"),
    }
}

fn first_byte(disk: &MachineDisk) -> u8 {
    fs::read(&disk.path).unwrap()[0]
}

/// What is left of disks at the server: those attached by what they hold, the notes of others, the files.
fn all_there_is(bench: &Bench, id: &str) -> (Vec<u8>, Vec<String>, BTreeSet<String>) {
    let inventory = bench.site.inventory().unwrap();
    let machine = inventory.machines.iter().find(|machine| machine.site_id() == id);
    let notes = machine.into_iter().flat_map(|machine| machine.extra.keys());
    let kind = |key: &String| {
        let is_of_disk = |prefix: &&&str| key.starts_with(**prefix);
        ["switchback.aside.", "switchback.disk."].iter().find(is_of_disk).map(|prefix| (*prefix).to_owned())
    };
    let attached = bench.site.machine(id).map(|machine| machine.disks).unwrap_or_default();
    let files = fs::read_dir(bench.directory("Conformance disks")).into_iter().flatten();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let disks = names.filter(|name| name.ends_with(".vmdk")).collect();
    (attached.iter().map(first_byte).collect(), notes.filter_map(kind).collect(), disks)
}

/// A machine with its first disk and one that was added, which hold 1 and 2.
fn bench() -> (Bench, Machine) {
    let bench = Bench::new();
    let made = bench.machine("disks", 1);
    write(&made.disks[0].path, 1);
    write(&bench.site.add_disk(&made.id, &disk("second")).unwrap().path, 2);
    (bench, made)
}

/// An operation on a machine, after what has come before, at every change that it makes.
fn cut_short_at_every_change(
    before: impl Fn(&VsphereSite, &str),
    operation: impl Fn(&VsphereSite, &str) -> Result<(), SiteError>,
) {
    let (undisturbed, made) = bench();
    before(&undisturbed.site, &made.id);
    operation(&undisturbed.site, &made.id).unwrap();
    let expected = all_there_is(&undisturbed, &made.id);
    let mut cuts = 0;
    // A change that fails, and one that is said to be done.
    for (method, fault) in [(CHANGE, "TaskInProgress"), (CHANGE, "ignored"), (DELETE, "TaskInProgress")] {
        for passes in 0..CHANGES_MAX {
            let (bench, made) = bench();
            before(&bench.site, &made.id);
            bench.simulator.fail_after(passes, method, fault);
            let was_cut = operation(&bench.site, &made.id).is_err();
            bench.simulator.fail_no_more(method);
            if was_cut {
                operation(&bench.site, &made.id).unwrap();
            }
            assert_eq!(all_there_is(&bench, &made.id), expected, "{method} {fault} after {passes}");
            cuts += usize::from(was_cut);
            if !was_cut {
                break;
            }
        }
    }
    assert!(cuts >= 2, "nothing was cut short");
}

#[test]
fn adding_a_disk_survives_a_cut_at_every_change() {
    cut_short_at_every_change(|_, _| (), |site, id| site.add_disk(id, &disk("third")).map(drop));
}

#[test]
fn setting_disks_aside_survives_a_cut_at_every_change() {
    let aside = |site: &VsphereSite, id: &str| site.set_disks_aside(id, &["second".to_owned()]);
    cut_short_at_every_change(|_, _| (), aside);
    cut_short_at_every_change(|site, id| aside(site, id).unwrap(), |site, id| site.set_disks_aside(id, &[]));
    // One comes back, another one goes.
    cut_short_at_every_change(
        |site, id| {
            write(&site.add_disk(id, &disk("third")).unwrap().path, 3);
            aside(site, id).unwrap();
        },
        |site, id| site.set_disks_aside(id, &["third".to_owned()]),
    );
}

#[test]
fn removing_a_disk_survives_a_cut_at_every_change() {
    cut_short_at_every_change(|_, _| (), |site, id| site.remove_disk(id, "second"));
    cut_short_at_every_change(
        |site, id| {
            site.set_disks_aside(id, &["second".to_owned()]).unwrap();
            site.power_on(id).unwrap();
        },
        |site, id| site.remove_disk(id, "second"),
    );
}

/// vSphere deletes what a machine has attached; what is set aside is not.
#[test]
fn a_removed_machine_takes_what_was_set_aside_with_it_at_every_change() {
    let aside = |site: &VsphereSite, id: &str| site.set_disks_aside(id, &["second".to_owned()]).unwrap();
    cut_short_at_every_change(aside, |site, id| site.delete_machine(id));
    let (bench, made) = bench();
    aside(&bench.site, &made.id);
    bench.site.delete_machine(&made.id).unwrap();
    assert!(all_there_is(&bench, &made.id).2.is_empty());
}

/// While the master target runs with the machine's other disks.
#[test]
fn a_disk_is_lent_beside_the_others_and_goes_when_the_master_target_has_let_it_go() {
    let (bench, made) = bench();
    let (site, master) = (&bench.site, bench.machine("master", 1));
    site.power_on(&master.id).unwrap();
    site.lend_disks(&made.id, &[], &master.system_uuid).unwrap();
    let third = site.add_disk(&made.id, &disk("third")).unwrap();
    let serial = std::slice::from_ref(&third.serial);
    let lent = site.lend_disks(&made.id, serial, &master.system_uuid).unwrap();
    assert_eq!(lent, std::slice::from_ref(&third.path));
    let at_master = || site.machine(&master.id).unwrap().disks.len();
    assert_eq!(at_master(), 4);

    for _ in 0..2 {
        let in_use = detail(site.remove_disk(&made.id, "third"));
        assert!(in_use.contains("vsphere-disk-in-use") && in_use.contains("master"), "{in_use}");
    }
    assert_eq!(site.machine(&made.id).unwrap().disks.len(), 3);
    // By the number it was asked for with: the job was killed before it knew the other one.
    site.take_back_disks(&made.id, &["third".to_owned()], &master.system_uuid).unwrap();
    assert_eq!(at_master(), 3, "the others stay lent");
    site.remove_disk(&made.id, "third").unwrap();
    assert!(!third.path.exists());
    assert_eq!(site.machine(&made.id).unwrap().disks.len(), 2);
}

#[test]
fn a_new_disk_is_the_last_and_takes_no_place_of_one_that_comes_back() {
    let (bench, made) = bench();
    let site = &bench.site;
    let held = || site.machine(&made.id).unwrap().disks.iter().map(first_byte).collect::<Vec<_>>();
    let add = |serial: &str, byte: u8| write(&site.add_disk(&made.id, &disk(serial)).unwrap().path, byte);
    add("third", 3);
    site.remove_disk(&made.id, "second").unwrap();
    add("fourth", 4);
    assert_eq!(held(), [1, 3, 4], "not in the gap");
    site.set_disks_aside(&made.id, &["fourth".to_owned()]).unwrap();
    add("fifth", 5);
    assert_eq!(held(), [1, 3, 5]);
    site.set_disks_aside(&made.id, &[]).unwrap();
    assert_eq!(held(), [1, 3, 4, 5]);
    // More than one controller has; from the last place on the gaps are filled.
    (6..=61).for_each(|byte| add(&format!("number {byte}"), byte));
    assert_eq!(held().len(), 60);
    assert_eq!(held()[1], 61, "the gap");
    let full = detail(site.add_disk(&made.id, &disk("one more")));
    assert!(full.contains("vsphere-full"), "{full}");
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let (bench, made) = bench();
    let site = &bench.site;
    let before = all_there_is(&bench, &made.id);
    let huge = site.add_disk(&made.id, &NewDisk { size: 1 << 60, ..disk("third") });
    assert!(matches!(huge, Err(SiteError::NoRoom { .. })), "{huge:?}");
    let origin = DiskOrigin::Empty { datastore: "absent".to_owned() };
    let nowhere = site.add_disk(&made.id, &NewDisk { origin, ..disk("third") });
    assert!(matches!(nowhere, Err(SiteError::NoSuchDatastore { .. })), "{nowhere:?}");
    for wrong in [
        disk(""),
        NewDisk { size: 2 * DISK_SIZE, ..disk("second") },
        NewDisk { size: 1000, ..disk("third") },
        NewDisk {
            origin: DiskOrigin::Over { image: "/image".into(), datastore: DATASTORE.to_owned() },
            ..disk("third")
        },
    ] {
        assert!(site.add_disk(&made.id, &wrong).is_err(), "{wrong:?}");
    }
    site.power_on(&made.id).unwrap();
    let second = ["second".to_owned()];
    for running in [
        site.add_disk(&made.id, &disk("third")).map(drop),
        site.set_disks_aside(&made.id, &second),
        site.remove_disk(&made.id, "second"),
    ] {
        assert!(matches!(running, Err(SiteError::Running { .. })), "{running:?}");
    }
    site.power_off(&made.id).unwrap();
    site.create_snapshot(&made.id, "s").unwrap();
    for below in [
        site.add_disk(&made.id, &disk("third")).map(drop),
        site.set_disks_aside(&made.id, &second),
        site.remove_disk(&made.id, "second"),
    ] {
        assert!(detail(below).contains("vsphere-snapshots"));
    }
    site.delete_snapshot(&made.id, "s").unwrap();
    assert_eq!(all_there_is(&bench, &made.id), before);
}

/// Machines of others, also copies of ours with all our settings, keep their disks.
#[test]
fn machines_that_were_not_made_here_are_left_alone() {
    let (bench, made) = bench();
    let site = &bench.site;
    let foreign = bench.object("DC0_H0_VM0").id;
    site.power_off(&foreign).unwrap();
    let own = site.machine(&foreign).unwrap();
    let serial = own.disks[0].serial.clone();
    site.set_disks_aside(&made.id, &["second".to_owned()]).unwrap();
    let inventory = site.inventory().unwrap();
    let notes = &inventory.machines.iter().find(|machine| machine.site_id() == made.id).unwrap().extra;
    for marked in [false, true] {
        if marked {
            let copied = notes.iter().filter(|(key, _)| key.starts_with("switchback."));
            copied.for_each(|(key, value)| option(&bench, "DC0_H0_VM0", key, value));
        }
        for refused in [
            site.add_disk(&foreign, &disk("third")).map(drop),
            site.set_disks_aside(&foreign, std::slice::from_ref(&serial)),
            site.remove_disk(&foreign, &serial),
        ] {
            assert!(detail(refused).contains("vsphere-not-ours"));
        }
        site.set_disks_aside(&foreign, &[]).unwrap();
        assert_eq!(site.machine(&foreign).unwrap().disks, own.disks);
    }
    site.delete_machine(&foreign).unwrap();
    assert!(site.set_disks_aside(&made.id, &[]).is_ok(), "the copy took nothing with it");
}

/// What others do meanwhile to a disk that is set aside.
#[test]
fn a_disk_that_is_set_aside_and_that_others_have_touched() {
    let (bench, made) = bench();
    let (site, other) = (&bench.site, bench.machine("other", 1));
    let second = ["second".to_owned()];
    let place = site.disk_places(&made.id).unwrap().remove(1);
    let path = site.machine(&made.id).unwrap().disks[1].path.clone();
    site.set_disks_aside(&made.id, &second).unwrap();

    // Attached to another machine: it is neither deleted nor taken away.
    site.attach_disk(&other.id, &place).unwrap();
    assert!(detail(site.remove_disk(&made.id, "second")).contains("vsphere-disk-in-use"));
    site.detach_disk(&other.id, &place.file).unwrap();
    // Attached by hand where it was: it is back.
    site.attach_disk(&made.id, &place).unwrap();
    site.set_disks_aside(&made.id, &[]).unwrap();
    assert_eq!(site.machine(&made.id).unwrap().disks.len(), 2);
    site.set_disks_aside(&made.id, &second).unwrap();
    // Another disk where it was.
    let others = site.disk_places(&other.id).unwrap().remove(0);
    site.attach_disk(&made.id, &others).unwrap();
    let taken = detail(site.set_disks_aside(&made.id, &[]));
    assert!(taken.contains("where it was") && taken.contains(&place.file), "{taken}");
    site.detach_disk(&made.id, &others.file).unwrap();
    // Its setting was changed, and put right.
    let key = format!("switchback.aside.{}", place.uuid.as_ref().unwrap().to_lowercase().replace('-', ""));
    let inventory = site.inventory().unwrap();
    let extra = &inventory.machines.iter().find(|machine| machine.site_id() == made.id).unwrap().extra;
    option(&bench, &made.name, &key, "{}");
    for result in [site.set_disks_aside(&made.id, &[]), site.delete_machine(&made.id)] {
        let changed = detail(result);
        assert!(changed.contains("vsphere-aside-unreadable") && changed.contains(&key), "{changed}");
    }
    option(&bench, &made.name, &key, &extra[&key]);
    // Deleted by hand: to be removed is all that can be done with it.
    fs::remove_file(&path).unwrap();
    fs::remove_file(path.with_file_name(path.file_name().unwrap().to_str().unwrap().replace("-flat", "")))
        .unwrap();
    assert!(detail(site.set_disks_aside(&made.id, &[])).contains("moved or deleted"));
    site.remove_disk(&made.id, "second").unwrap();
    site.set_disks_aside(&made.id, &[]).unwrap();
    assert_eq!(site.machine(&made.id).unwrap().disks, made.disks);
}

/// A machine's host reaches one datastore, the settings' host another one.
#[test]
fn a_disk_goes_where_the_machines_host_reaches_it() {
    let options = Simulator::options().datastores(2).datastore_on("LocalDS_1", "DC0_C0_H0");
    let mut bench = Bench::with(options);
    let made = bench.machine_on("disks", "LocalDS_1", "DC0_C0_H0");
    let elsewhere = bench.machine("elsewhere", 1);
    bench.reopen(|settings| settings.placement = Placement::default());
    let origin = DiskOrigin::Empty { datastore: "LocalDS_1".to_owned() };
    let added = bench.site.add_disk(&made.id, &NewDisk { origin, ..disk("second") }).unwrap();
    assert!(added.path.starts_with(&settings(&bench.simulator).datastore_directories["LocalDS_1"]));
    let origin = DiskOrigin::Empty { datastore: "LocalDS_1".to_owned() };
    let refused = bench.site.add_disk(&elsewhere.id, &NewDisk { origin, ..disk("second") });
    assert!(matches!(refused, Err(SiteError::NoSuchDatastore { .. })), "{refused:?}");
}
