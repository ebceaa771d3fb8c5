//! What was made in an earlier life is never started again.

use switchback_sites::{DiskOrigin, NewDisk, Power, Site, SiteError};

use crate::bench::{Bench, CONTAINER, MIB, PRODUCTION};

#[test]
fn another_point_is_another_machine() {
    let bench = Bench::new();
    let made = bench.machine("web01", 2);
    bench.site.create_snapshot("web01", "failover").unwrap();
    bench.site.power_on("web01").unwrap();
    let first = bench.vms();
    bench.site.power_off("web01").unwrap();
    bench.site.revert_snapshot("web01", "failover").unwrap();
    assert_eq!((bench.vms(), bench.disks(), bench.cards()), (vec![], vec![], vec![]));
    bench.site.delete_snapshot("web01", "failover").unwrap();
    bench.stand(&made, 10);
    bench.site.create_snapshot("web01", "failover").unwrap();
    bench.site.power_on("web01").unwrap();
    assert_eq!(bench.first_bytes(), [11, 12]);
    assert_ne!(bench.vms(), first);
    assert_eq!(bench.site.machine("web01").unwrap().snapshots, ["failover"]);
}

#[test]
fn a_machine_that_was_left_is_not_started_after_the_replica_went_on() {
    let bench = Bench::new();
    let made = bench.machine("web01", 1);
    let plan = switchback_sites::azure::MachinePlan {
        addresses: vec![Some([10, 20, 1, 50].into())],
        ..Default::default()
    };
    bench.site.plan_machine("web01", &plan).unwrap();
    bench.site.create_snapshot("web01", "failover").unwrap();
    bench.site.power_on("web01").unwrap();
    bench.site.delete_snapshot("web01", "failover").unwrap(); // committed
    let running = bench.site.lend_disks("web01", &[], "");
    assert!(matches!(running, Err(SiteError::Running { .. })), "{running:?}");
    bench.site.power_off("web01").unwrap(); // it went home
    let left = bench.vms();
    assert_eq!(bench.site.left_behind("web01").unwrap(), [""; 0]);
    bench.site.lend_disks("web01", &["serial-0".to_owned()], "").unwrap(); // and is protected again
    assert_eq!(bench.site.left_behind("web01").unwrap(), left);
    assert_eq!(
        bench.site.machine("web01").unwrap().system_uuid,
        "",
        "the one to come is not the one that was"
    );
    assert_eq!(bench.site.machines().unwrap().len(), 1);
    bench.stand(&made, 20);
    bench.site.power_on("web01").unwrap(); // the next failover, with the address that the old one had
    assert_eq!(bench.first_bytes(), [21]);
    assert_eq!(bench.vms().len(), 1, "what was left has gone");
    assert_ne!(bench.vms(), left);
}

#[test]
fn what_was_left_is_cleaned_up_on_request() {
    let bench = Bench::new();
    let made = bench.machine("web01", 2);
    bench.site.power_on("web01").unwrap();
    let refused = bench.site.delete_machine("web01");
    assert!(matches!(refused, Err(SiteError::Running { .. })), "{refused:?}");
    bench.site.power_off("web01").unwrap();
    bench.site.lend_disks("web01", &[], "").unwrap();
    bench.site.clean_up("web01").unwrap();
    bench.site.clean_up("web01").unwrap();
    assert_eq!((bench.vms(), bench.disks(), bench.cards()), (vec![], vec![], vec![]));
    assert_eq!(bench.site.machine("web01").unwrap().power, Power::Off, "the machine stays");
    bench.stand(&made, 0);
    bench.site.power_on("web01").unwrap();
    bench.site.clean_up("web01").unwrap();
    assert_eq!(bench.vms().len(), 1, "what is there now is not what was left");
}

#[test]
fn a_machine_is_made_without_the_disks_that_its_point_lacks_and_keeps_those_that_it_was_made_with() {
    let bench = Bench::new();
    let made = bench.machine("web01", 2);
    let new = |serial: &str, size: usize| NewDisk {
        size: size as u64,
        serial: serial.into(),
        origin: DiskOrigin::Empty { datastore: CONTAINER.into() },
    };
    let added = bench.site.add_disk("web01", &new("new", MIB)).unwrap();
    assert_eq!(added.path, made.disks[0].path.with_file_name("disk-2.vhd"));
    let aside = ["serial-1".to_owned()];
    bench.site.set_disks_aside("web01", &aside).unwrap();
    let without = bench.site.machine("web01").unwrap();
    assert_eq!(without.disks, [made.disks[0].clone(), added.clone()]);
    bench.stand(&without, 30);
    bench.site.create_snapshot("web01", "failover").unwrap();
    bench.site.power_on("web01").unwrap();
    assert_eq!(bench.first_bytes(), [31, 32]);

    bench.site.power_off("web01").unwrap();
    bench.site.delete_snapshot("web01", "failover").unwrap();
    for refused in [
        bench.site.set_disks_aside("web01", &[]),
        bench.site.remove_disk("web01", "new"),
        bench.site.add_disk("web01", &new("third", MIB)).map(drop),
    ] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("[azure-made]"), "what was written to its disks would be lost: {refused}");
    }
    bench.site.remove_disk("web01", "serial-1").unwrap();
    bench.site.lend_disks("web01", &[], "").unwrap(); // it is protected again
    bench.site.remove_disk("web01", "new").unwrap();
    let odd = bench.site.add_disk("web01", &new("odd", MIB + 1)).unwrap_err().to_string();
    assert!(odd.contains("[azure-disk-size]"), "{odd}");
    let again = bench.site.add_disk("web01", &new("new", MIB)).unwrap();
    assert_eq!(
        again.path,
        made.disks[0].path.with_file_name("disk-3.vhd"),
        "no page blob's name comes twice"
    );
    let other = bench.site.add_disk("web01", &new("new", 2 * MIB)).unwrap_err().to_string();
    assert!(other.contains("[azure-disk-serial]"), "{other}");
    let last = ["serial-0", "new"].map(str::to_owned);
    let none = bench.site.set_disks_aside("web01", &last).unwrap_err().to_string();
    assert!(none.contains("[azure-no-disk]"), "{none}");
}

#[test]
fn a_card_of_a_machine_that_was_made_stays() {
    let bench = Bench::new();
    bench.machine("web01", 1);
    bench.site.power_on("web01").unwrap();
    bench.site.connect_nics("web01", &[Some(PRODUCTION.into())]).unwrap();
    let refused = bench.site.connect_nics("web01", &[None]).unwrap_err().to_string();
    assert!(refused.contains("[azure-nic]"), "{refused}");
    bench.site.power_off("web01").unwrap();
    let refused = bench.site.create_snapshot("web01", "late").unwrap_err().to_string();
    assert!(refused.contains("[azure-snapshot]"), "{refused}");
}
