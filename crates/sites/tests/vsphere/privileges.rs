//! What the account may do is known before it matters.

use switchback_lab::vcsim::{PASSWORD, Simulator};
use switchback_sites::vsphere::{Credentials, PRIVILEGES, VsphereSite};
use switchback_sites::{Site, SiteError};

use crate::bench::{Bench, DATASTORE, settings};

const READER: &str = "reader@vsphere.local";

fn bench() -> (Bench, VsphereSite) {
    let bench = Bench::with(Simulator::options().read_only_account(READER));
    let reader = Credentials::new(READER, PASSWORD.to_owned());
    let reader = VsphereSite::open(settings(&bench.simulator), reader).unwrap();
    (bench, reader)
}

#[test]
fn a_reader_lacks_all_and_an_administrator_nothing() {
    let (bench, reader) = bench();
    let objects = ["DC0", DATASTORE, "DC0_H0_VM0"].map(|name| bench.object(name));
    assert_eq!(bench.site.missing_privileges(&objects).unwrap(), []);
    let missing = reader.missing_privileges(&objects).unwrap();
    assert_eq!(missing.iter().map(|one| one.object.clone()).collect::<Vec<_>>(), objects);
    assert!(missing.iter().all(|one| one.privileges == PRIVILEGES));
    assert_eq!(reader.missing_privileges(&[]).unwrap(), []);
}

/// Whatever a server knows of the two ways to ask. The simulator's list of an administrator's privileges is a real vCenter's: so the names are right, too.
#[test]
fn a_server_that_knows_one_way_alone_is_asked_that_way() {
    let (bench, reader) = bench();
    let objects = [bench.object(DATASTORE)];
    bench.simulator.fail("HasPrivilegeOnEntities", "NotSupported", 1);
    assert_eq!(bench.site.missing_privileges(&objects).unwrap(), []);
    bench.simulator.fail("HasPrivilegeOnEntities", "NotSupported", 1);
    assert_eq!(reader.missing_privileges(&objects).unwrap()[0].privileges, PRIVILEGES);
}

#[test]
fn a_reader_is_told_what_it_must_not() {
    let (bench, reader) = bench();
    assert_eq!(reader.machines().unwrap().len(), 4, "it can read");
    let id = bench.object("DC0_H0_VM0").id;
    let results = [
        reader.power_off(&id),
        reader.create_machine(&bench.describe("refused")).map(drop),
        reader.refuses_changes(DATASTORE).map(drop),
    ];
    for result in results {
        let Err(SiteError::Failed { detail, passing: false, .. }) = result else { panic!("{result:?}") };
        assert!(detail.contains("vsphere-fault-NoPermission") && detail.contains("role"), "{detail}");
    }
}

#[test]
fn the_free_edition_is_found_out_and_leaves_nothing() {
    let free = Bench::with(Simulator::options().esxi().free());
    let about = free.site.about().unwrap();
    assert!(!about.is_vcenter && about.looks_free(), "{about:?}");
    assert!(free.site.refuses_changes(DATASTORE).unwrap());
    let id = free.site.machines().unwrap().remove(0).id;
    let refused = free.site.power_off(&id).unwrap_err().to_string();
    assert!(
        refused.contains("vsphere-fault-RestrictedVersion") && refused.contains("free edition"),
        "{refused}"
    );

    let paid = Bench::new();
    let about = paid.site.about().unwrap();
    assert!(about.is_vcenter && !about.looks_free() && about.api_version == "6.5", "{about:?}");
    for _ in 0..2 {
        assert!(!paid.site.refuses_changes(DATASTORE).unwrap());
        assert!(!paid.directory("switchback-write-probe").exists());
    }
    // What an attempt that was cut short has left is no reason to fail.
    std::fs::create_dir(paid.directory("switchback-write-probe")).unwrap();
    assert!(!paid.site.refuses_changes(DATASTORE).unwrap());
    assert!(!paid.directory("switchback-write-probe").exists());
    let absent = paid.site.refuses_changes("absent");
    assert!(matches!(absent, Err(SiteError::NoSuchDatastore { .. })), "{absent:?}");
}
