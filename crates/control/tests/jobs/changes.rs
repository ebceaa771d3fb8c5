//! What changes around a protected machine: its process server, its disks, room at its target, the location it comes home to.

use switchback_control::Health;
use switchback_model::component::{DiskStanding, Problem, ProtectedDisk};
use switchback_model::{ItemOperation, JobState, Phase, ReprotectOptions, Seq};
use switchback_sites::MachineDisk;

use super::world::World;
use super::{away_protected, committed, error_of, killed_at_every_step, name};

fn switch_to(process_server: &str) -> ItemOperation {
    ItemOperation::SwitchProcessServer { process_server: process_server.into() }
}

fn two_process_servers() -> World {
    let mut world = World::protected();
    world.more_process_servers = vec!["home-ps2"];
    world.round();
    world
}

#[test]
fn a_switch_of_the_process_server_survives_a_kill_at_every_step_and_needs_not_the_former() {
    killed_at_every_step(
        || {
            let mut world = two_process_servers();
            world.down = vec!["home-ps"];
            (0..30).for_each(|_| world.round());
            world
        },
        |world, kill| world.operate(switch_to("home-ps2"), kill),
        |world| {
            let path = world.item().replication.unwrap();
            assert_eq!((path.process_server.as_str(), path.epoch.0), ("home-ps2", 1), "the same replication");
        },
    );
}

#[test]
fn replication_goes_on_through_another_process_server_and_only_one_of_the_same_site_is_taken() {
    let mut world = two_process_servers();
    world.down = vec!["home-ps"];
    (0..30).for_each(|_| world.round());
    for stranger in ["recovery-ps", "home-ps", "nobody"] {
        let job = world.control.operate("tester", &name("web01"), switch_to(stranger)).unwrap();
        let (job, _) = world.finish(&job, None);
        assert_eq!(job.state, JobState::Failed, "{stranger}");
        let said = error_of(&job);
        assert!(said.message.contains("home-ps2"), "{said:?}: those there are, are named");
    }
    let before = world.control.item(&name("web01")).unwrap();
    assert!(!before.reasons.is_empty());
    world.operate(switch_to("home-ps2"), None);
    (0..3).for_each(|_| world.round());
    let after = world.control.item(&name("web01")).unwrap();
    assert!(after.points > before.points && after.reasons.is_empty(), "{:?}", after.reasons);
}

#[test]
fn a_machine_that_gains_a_disk_goes_on_and_comes_home_onto_the_disks_that_were_protected() {
    let mut world = committed();
    let gained = MachineDisk { path: "/home/web01/new".into(), size: 1 << 20, serial: "new".into() };
    world.home.change_disks("web01", |disks| disks.insert(0, gained));
    world.operate(ItemOperation::Reprotect(ReprotectOptions::default()), None);
    world.until_protected();
    let targets = world.item().replication.unwrap().targets;
    assert_eq!(targets, ["/home/web01/0", "/home/web01/1"].map(std::path::PathBuf::from));

    let wanted = world.agents_wish().unwrap().disks;
    let disk = |serial: &str| ProtectedDisk {
        serial: serial.into(),
        size: 1 << 20,
        standing: DiskStanding::Protected,
    };
    assert_eq!(wanted, [disk("d0"), disk("d1")]);
}

#[test]
fn a_protected_disk_that_was_lost_or_resized_where_the_machine_was_left_is_noticed_before_anything_is_written()
 {
    let changes: [fn(&mut Vec<MachineDisk>); 2] =
        [|disks| drop(disks.pop()), |disks| disks[1].size = 2 << 20];
    for change in changes {
        let mut world = committed();
        world.home.change_disks("web01", change);
        let reprotect = |alternate_location| {
            ItemOperation::Reprotect(ReprotectOptions { alternate_location, ..ReprotectOptions::default() })
        };
        let job = world.control.operate("tester", &name("web01"), reprotect(false)).unwrap();
        let (job, _) = world.finish(&job, None);
        assert_eq!(job.state, JobState::Failed);
        let said = error_of(&job);
        assert_eq!(said.code, "machine.disks-differ", "{said:?}");
        assert!(said.remedy.contains("alternate location"), "{said:?}");
        assert_eq!(world.item().protection.phase, Phase::Committed);
        // As the remedy says.
        world.operate(reprotect(true), None);
        world.until_protected();
        assert_eq!((world.home.all().len(), world.item().left_behind.len()), (2, 1));
    }
}

/// Clients of the real service always name a datastore.
#[test]
fn a_datastore_that_is_named_for_a_reprotect_counts_only_where_a_new_machine_is_made() {
    let named = ReprotectOptions { datastore: Some("store".into()), ..ReprotectOptions::default() };
    let mut world = committed();
    world.operate(ItemOperation::Reprotect(named.clone()), None);
    assert_eq!((world.home.all().len(), world.item().home.id.as_deref()), (1, Some("web01")));
    let mut world = committed();
    let alternate = ReprotectOptions { alternate_location: true, ..named };
    world.operate(ItemOperation::Reprotect(alternate), None);
    let item = world.item();
    assert_eq!((world.home.all().len(), item.left_behind.len()), (2, 1));
    assert_ne!(item.home.id.as_deref(), Some("web01"));
}

#[test]
fn a_full_retention_drive_is_critical_and_its_points_are_there_all_the_same() {
    let mut world = away_protected();
    let problem =
        Problem { code: "master-target.retention-full".into(), message: "no room for another point".into() };
    world.replicas_problem = Some(problem);
    world.round();
    let view = world.control.item(&name("web01")).unwrap();
    let told = view.reasons.iter().find(|reason| reason.code == "master-target.retention-full");
    assert!(told.is_some() && view.health == Health::Critical, "{view:?}");
    world.replicas_problem = None;
    let seq = world.control.recovery_points(&name("web01")).unwrap().last().unwrap().seq;
    assert!(seq > Seq(0));
    world.round();
    assert_eq!(world.control.item(&name("web01")).unwrap().health, Health::Normal);
}
