//! Disks lent to a master target beside their machine, and what would keep that from working, found out before.

use std::fs;

use switchback_lab::vcsim::{PASSWORD, Simulator};
use switchback_model::{CheckState, ReadinessCheck};
use switchback_sites::vsphere::{Credentials, VsphereSite};
use switchback_sites::{Site, SiteError, Target};

use crate::bench::{Bench, DATASTORE, HOST, credentials, settings, write};

fn detail<T: std::fmt::Debug>(result: Result<T, SiteError>) -> String {
    match result {
        Err(SiteError::Failed { detail, .. }) => detail,
        other => panic!("{other:?}"),
    }
}

fn raised(site: &VsphereSite, target: &Target) -> Vec<(String, CheckState)> {
    let checks = site.check_targets(std::slice::from_ref(target)).unwrap().remove(0);
    let advised = |check: &ReadinessCheck| check.state == CheckState::Passed || !check.remedy.is_empty();
    let made = |code: &str| checks.iter().any(|check| check.code == code);
    let always = ["site.edition", "site.privileges", "master-target.machine", "site.datastore-room"];
    assert!(always.into_iter().all(made) && checks.iter().all(advised), "{checks:#?}");
    let raised = checks.into_iter().filter(|check| check.state != CheckState::Passed);
    raised.map(|check| (check.code, check.state)).collect()
}

#[test]
fn a_loan_leaves_the_machine_as_it_was_and_keeps_it_from_starting() {
    let bench = Bench::new();
    let site = &bench.site;
    let (owner, master) = (bench.machine("owner", 3), bench.machine("master", 1));
    site.power_on(&master.id).unwrap();
    let serials: Vec<_> = [2, 0].map(|at: usize| owner.disks[at].serial.clone()).to_vec();
    let paths = site.lend_disks(&owner.id, &serials, &master.system_uuid).unwrap();
    assert_eq!(
        paths,
        [2, 0].map(|at: usize| owner.disks[at].path.clone()),
        "in the order that was asked for"
    );
    assert_eq!(site.lend_disks(&owner.id, &serials, &master.system_uuid).unwrap(), paths);
    assert_eq!(site.machine(&owner.id).unwrap(), owner, "it does not notice");
    assert_eq!(site.machine(&master.id).unwrap().disks.len(), 3);
    write(&paths[0], 9);
    // The master target runs, and so has the disks' files locked.
    let locked = detail(site.power_on(&owner.id));
    assert!(locked.contains("FileLocked"), "{locked}");

    site.take_back_disks(&owner.id, &[], &master.system_uuid).unwrap();
    site.take_back_disks(&owner.id, &[], &master.system_uuid).unwrap();
    assert_eq!(site.machine(&master.id).unwrap().disks, master.disks);
    assert_eq!(site.machine(&owner.id).unwrap(), owner);
    assert!(fs::read(&owner.disks[2].path).unwrap().iter().all(|byte| *byte == 9));
    site.power_on(&owner.id).unwrap();
    let running = site.lend_disks(&owner.id, &serials, &master.system_uuid);
    assert!(matches!(running, Err(SiteError::Running { .. })), "{running:?}");
}

#[test]
fn what_stands_against_a_loan_is_said_before_and_in_it() {
    let mut bench = Bench::new();
    let (owner, master) = (bench.machine("owner", 1), bench.machine("master", 1));
    let target = Target {
        machine: Some(owner.id.clone()),
        serials: vec![owner.disks[0].serial.clone()],
        master_target: master.system_uuid.clone(),
        lent: false,
    };
    let lend = |bench: &Bench| bench.site.lend_disks(&owner.id, &target.serials, &target.master_target);
    let tools = ("master-target.machine".to_owned(), CheckState::Warning);
    let found = raised(&bench.site, &target);
    assert!(found.iter().all(|one| *one == tools), "nothing but perhaps its tools: {found:?}");

    bench.site.create_snapshot(&owner.id, "before the update").unwrap();
    assert!(detail(lend(&bench)).contains("before the update"));
    bench.site.delete_snapshot(&owner.id, "before the update").unwrap();
    bench.site.create_snapshot(&master.id, "before the update").unwrap();
    assert!(raised(&bench.site, &target).contains(&("master-target.machine".into(), CheckState::Failed)));
    assert!(detail(lend(&bench)).contains("vsphere-snapshots"));
    bench.site.delete_snapshot(&master.id, "before the update").unwrap();

    let nowhere = Target { master_target: "00000000-0000-4000-8000-000000000001".into(), ..target.clone() };
    assert!(raised(&bench.site, &nowhere).is_empty(), "the datastore is mounted at the master target");
    bench.reopen(|settings| settings.datastore_directories.clear());
    assert!(
        raised(&bench.site, &nowhere).contains(&("master-target.machine".into(), CheckState::Failed)),
        "it must be a machine of this site then"
    );
    let elsewhere = detail(bench.site.lend_disks(&owner.id, &[], &nowhere.master_target));
    assert!(elsewhere.contains("vsphere-master-target-elsewhere"), "{elsewhere}");
    let itself = detail(bench.site.lend_disks(&owner.id, &[], &owner.system_uuid));
    assert!(itself.contains("is the master target itself"), "{itself}");
}

/// Original location: the machine's datastore is mounted on another host alone.
#[test]
fn a_datastore_that_the_master_targets_host_does_not_reach_is_found_out() {
    let options = Simulator::options().datastores(2).datastore_on("LocalDS_1", "DC0_C0_H0");
    let mut bench = Bench::with(options);
    let master = bench.machine("master", 1);
    let owner = bench.machine_on("owner", "LocalDS_1", "DC0_C0_H0").id;
    bench.reopen(|settings| settings.datastore_directories.clear());
    let target = Target {
        machine: Some(owner.clone()),
        serials: Vec::new(),
        master_target: master.system_uuid.clone(),
        lent: false,
    };
    let found = raised(&bench.site, &target);
    assert!(found.contains(&("site.datastores-reached".into(), CheckState::Failed)), "{found:?}");
    let refused = detail(bench.site.lend_disks(&owner, &[], &master.system_uuid));
    assert!(refused.contains("vsphere-datastore-unreachable") && refused.contains("LocalDS_1"), "{refused}");
}

/// Two of the failures that are else found out at the reprotect: a read-only account, a free ESXi host.
#[test]
fn a_read_only_account_and_a_free_host_are_told_from_the_first_day() {
    let bench = Bench::with(Simulator::options().read_only_account("reader@vsphere.local"));
    let (owner, master) = (bench.machine("owner", 1), bench.machine("master", 1));
    let reader = Credentials::new("reader@vsphere.local", PASSWORD.to_owned());
    let reader = VsphereSite::open(settings(&bench.simulator), reader).unwrap();
    let target = Target {
        machine: Some(owner.id),
        serials: Vec::new(),
        master_target: master.system_uuid,
        lent: false,
    };
    let checks = reader.check_targets(&[target]).unwrap().remove(0);
    let privileges = checks.iter().find(|check| check.code == "site.privileges").unwrap();
    assert_eq!(privileges.state, CheckState::Failed);
    assert!(
        privileges.facts.contains(DATASTORE) && privileges.facts.contains("Datastore.AllocateSpace"),
        "{}",
        privileges.facts
    );
    assert!(privileges.cause.contains("read-only"), "{}", privileges.cause);

    let free = Bench::with(Simulator::options().esxi().free());
    let machine = free.site.machines().unwrap().remove(0);
    let target = Target { machine: Some(machine.id), ..Target::default() };
    assert!(raised(&free.site, &target).contains(&("site.edition".into(), CheckState::Failed)));
}

/// A disk that somebody detaches from the master target meanwhile is missed.
#[test]
fn a_disk_that_was_lent_and_is_not_attached_any_more_is_told_of() {
    let bench = Bench::new();
    let (owner, master) = (bench.machine("owner", 2), bench.machine("master", 1));
    let target = Target {
        machine: Some(owner.id.clone()),
        serials: Vec::new(),
        master_target: master.system_uuid.clone(),
        lent: true,
    };
    let lend = || bench.site.lend_disks(&owner.id, &[], &master.system_uuid).unwrap();
    let is_told =
        || raised(&bench.site, &target).contains(&("master-target.disks".into(), CheckState::Failed));
    let paths = lend();
    assert!(!is_told());
    let file = bench.site.disk_places(&owner.id).unwrap()[1].file.clone();
    bench.site.detach_disk(&master.id, &file).unwrap();
    assert!(is_told());
    assert_eq!(lend(), paths);
    assert!(!is_told());
}

/// Alternate location: the new machine's disks are copies of those that were left, which stay as they are.
#[test]
fn new_disks_are_filled_from_those_that_were_left() {
    let bench = Bench::new();
    let (left, new) = (bench.machine("left", 2), bench.machine("new", 2));
    let site = &bench.site;
    write(&left.disks[0].path, 1);
    write(&left.disks[1].path, 2);
    // The second is gone: it begins empty.
    let serials = [left.disks[0].serial.clone(), "6000c29gone".to_owned()];
    let first_byte =
        |machine: &switchback_sites::Machine, at: usize| fs::read(&machine.disks[at].path).unwrap()[0];
    // An attempt that was cut short, with the copy beside the empty disk.
    bench.simulator.fail("ReconfigVM_Task", "TaskInProgress", 1);
    assert!(site.seed_disks(&new.id, &left.id, &serials).is_err());
    assert_eq!(site.machine(&new.id).unwrap(), new, "it is empty yet");
    assert!(site.seed_disks(&new.id, &left.id, &serials).unwrap());
    let filled = site.machine(&new.id).unwrap();
    assert_eq!((first_byte(&filled, 0), first_byte(&filled, 1)), (1, 0));
    assert_eq!(filled.disks.len(), 2);
    assert_ne!(filled.disks[0].path, new.disks[0].path, "the copy is in its place");
    // Again, after something was written to it: it is left alone.
    write(&filled.disks[0].path, 9);
    site.seed_disks(&new.id, &left.id, &serials).unwrap();
    assert_eq!(site.machine(&new.id).unwrap(), filled);
    assert_eq!(first_byte(&filled, 0), 9);
    assert_eq!(site.machine(&left.id).unwrap(), left);
    assert_eq!((first_byte(&left, 0), first_byte(&left, 1)), (1, 2));
    site.power_on(&left.id).unwrap();
    let running = site.seed_disks(&new.id, &left.id, &serials);
    assert!(matches!(running, Err(SiteError::Running { .. })), "{running:?}");
}

/// A machine that is made for a master target is made on its host, wherever the site makes others: only there are its disks reached.
#[test]
fn a_machine_is_made_beside_its_master_target() {
    let bench = Bench::new();
    let inventory = bench.site.inventory().unwrap();
    let other = inventory.hosts.iter().find(|host| host.name != HOST).unwrap();
    let mut elsewhere = settings(&bench.simulator);
    elsewhere.placement.host = Some(other.name.clone());
    let elsewhere = VsphereSite::open(elsewhere, credentials()).unwrap();
    let host_of = |id: &str| {
        let inventory = bench.site.inventory().unwrap();
        let machine = inventory.machines.iter().find(|one| one.site_id() == id).unwrap();
        machine.host.clone().unwrap()
    };
    let master = elsewhere.create_machine(&bench.describe("master")).unwrap();
    assert_eq!(host_of(&master.id), other.object);
    let mut new = bench.describe("made");
    new.beside = Some(master.system_uuid.clone());
    assert_eq!(host_of(&bench.site.create_machine(&new).unwrap().id), other.object);
    // A master target that is no machine of the site leaves it to the settings.
    let mut new = bench.describe("alone");
    new.beside = Some("564d1fad-86a8-4b9e-0c5f-1e2d3c4b5a69".to_owned());
    assert_ne!(host_of(&bench.site.create_machine(&new).unwrap().id), other.object);
    assert_eq!(bench.site.datastores_beside(&master.system_uuid).unwrap(), elsewhere.datastores().unwrap());
}
