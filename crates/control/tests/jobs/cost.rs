//! What a machine costs at Azure, by what its components have told.

use switchback_control::backup::ServerHome;
use switchback_control::cost::prices::FILE;

use super::world::World;
use super::{name, protect};

#[test]
fn a_machine_at_azure_has_a_cost_by_the_table_in_the_servers_directory() {
    let mut world = World::azure();
    let job = world.control.protect("tester", protect()).unwrap();
    world.done(&job, None);
    world.until_protected();
    let cost = world.control.cost(&name("web01")).unwrap();
    assert_eq!(cost.prices, "built-in examples");
    let gib: u64 = world.item().disk_sizes.iter().sum();
    let expected = gib as f64 / f64::from(1 << 30);
    assert!((cost.monthly[0].quantity - expected).abs() < 1e-9, "{cost:?}");
    assert_eq!(cost.monthly[1].what, "snapshots and staged cycles", "its master target reports");
    assert!(cost.notes.iter().any(|note| note.starts_with("transactions: not measured yet")), "{cost:?}");
    assert_eq!(world.control.costs().unwrap(), [cost]);
    let directory = tempfile::tempdir().unwrap();
    world.control.keeps(ServerHome {
        directory: directory.path().into(),
        build: "test".into(),
        settings: Default::default(),
        addresses: Vec::new(),
        authority: Vec::new(),
    });
    std::fs::write(directory.path().join(FILE), "date = 1\n").unwrap();
    let error = world.control.cost(&name("web01")).unwrap_err();
    assert_eq!(error.error.code, "cost.prices");
}

#[test]
fn elsewhere_nothing_is_known_of_costs() {
    let world = World::protected();
    assert_eq!(world.control.cost(&name("web01")).unwrap_err().error.code, "cost.not-azure");
    assert!(world.control.costs().unwrap().is_empty());
}
