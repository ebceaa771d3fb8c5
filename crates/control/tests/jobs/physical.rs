//! Physical servers: they leave, and come home as virtual machines.

use switchback_control::ErrorKind;
use switchback_model::{
    CheckState, ItemOperation, JobState, Phase, PointChoice, ProtectRequest, ReprotectOptions, Side, verdict,
};
use switchback_sites::Power;

use super::world::{HARDWARE, World};
use super::{Kill, error_of, killed_at_every_step, name, protect};

fn request() -> ProtectRequest {
    ProtectRequest { group: name("HW"), ..protect() }
}

fn protected(comes_home: bool) -> World {
    let mut world = World::physical(comes_home);
    let job = world.control.protect("tester", request()).unwrap();
    world.done(&job, None);
    world.until_protected();
    world
}

fn unplanned(shut_down: bool) -> ItemOperation {
    ItemOperation::UnplannedFailover { point: PointChoice::Latest, shut_down }
}

/// Lost, failed over and committed.
fn committed(comes_home: bool) -> World {
    let mut world = protected(comes_home);
    world.hardware.set_power("web01", Power::Off);
    world.operate(unplanned(false), None);
    world.operate(ItemOperation::Commit, None);
    world
}

fn reprotect() -> ItemOperation {
    ItemOperation::Reprotect(ReprotectOptions::default())
}

#[test]
fn a_physical_server_is_known_by_its_agent_with_its_disks_and_subnet() {
    let world = World::physical(true);
    let machines = world.control.machines(&name("hardware")).unwrap();
    let found: Vec<_> = machines
        .iter()
        .map(|found| (found.machine.id.as_str(), found.has_agent, found.obstacles.len()))
        .collect();
    assert_eq!(found, [("web01", true, 0)]);
    assert_eq!(machines[0].machine.disks.len(), 2);
    let site = world.control.site(&name("hardware")).unwrap();
    assert_eq!(site.networks().unwrap()[0].name, "10.1.0.0/24");
}

#[test]
fn it_switches_itself_off_for_a_planned_failover_killed_at_every_step() {
    killed_at_every_step(
        || protected(true),
        |world: &mut World, kill: Kill| world.operate(ItemOperation::PlannedFailover, kill),
        |world| {
            let item = world.item();
            assert_eq!((item.protection.phase, item.protection.active), (Phase::FailedOver, Side::Away));
            assert_eq!(world.hardware.all()[0].power, Power::Off);
            assert_eq!(item.power_off, None, "nobody asks it again");
            assert!(item.failover.unwrap().planned);
        },
    );
}

#[test]
fn one_that_is_asked_in_order_is_off_before_its_copy_starts_and_one_that_does_not_answer_is_fenced_off() {
    let mut world = protected(true);
    world.operate(unplanned(true), None);
    assert_eq!(world.hardware.all()[0].power, Power::Off);

    let mut world = protected(true);
    world.hardware.set_power("web01", Power::Off);
    world.operate(unplanned(true), None);
    assert_eq!(world.item().protection.phase, Phase::FailedOver);
}

#[test]
fn it_comes_home_as_a_new_virtual_machine_killed_at_every_step() {
    killed_at_every_step(
        || committed(true),
        |world: &mut World, kill: Kill| {
            let killed = world.operate(reprotect(), kill);
            world.until_protected();
            killed
        },
        |world| {
            let item = world.item();
            assert_eq!((item.home.site.as_str(), item.home.created_by_us), ("home", true));
            assert_eq!(item.home.id.as_deref(), Some(world.home.all()[0].id.as_str()));
            assert_eq!(world.home.all().len(), 1, "made once");
        },
    );
    let mut world = committed(true);
    world.map_networks();
    world.operate(reprotect(), None);
    world.until_protected();
    world.operate(ItemOperation::PlannedFailover, None);
    world.operate(ItemOperation::Commit, None);
    let made = &world.home.all()[0];
    assert_eq!((made.power, made.disks.len()), (Power::On, 2));
    // The hardware is started again: what it is, is not the machine any more.
    world.may_run_twice = true;
    world.hardware.set_power("web01", Power::On);
    (0..3).for_each(|_| world.round());
    assert!(world.item().stale_seen.is_some());
    world.operate(reprotect(), None);
    world.until_protected();
    assert_eq!(world.item().protection.active, Side::Home);
}

#[test]
fn physical_hardware_is_not_failed_back_to_and_that_is_said_from_the_first_day() {
    let mut world = protected(false);
    let readiness = world.control.readiness(&name("web01")).unwrap();
    assert_eq!(verdict(&readiness.failback), CheckState::Failed);
    let said = readiness.failback.iter().find(|check| check.state == CheckState::Failed).unwrap();
    assert!(said.facts.contains("cannot be failed back to physical hardware"), "{said:?}");

    world.hardware.set_power("web01", Power::Off);
    world.operate(unplanned(false), None);
    world.operate(ItemOperation::Commit, None);
    let job = world.control.operate("tester", &name("web01"), reprotect()).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Failed);
    let said = error_of(&job);
    assert_eq!(said.code, "physical.no-way-home");
    assert!(said.remedy.contains("--comes-home-to"), "{said:?}");
    // As the remedy says.
    world.set_home_of_hardware(Some("home"));
    world.control.restart_job("tester", job.id).unwrap();
    world.done(&job, None);
    world.until_protected();
    assert_eq!(world.item().home.site, name("home"));
}

#[test]
fn a_physical_server_with_a_way_home_is_told_that_it_becomes_a_virtual_machine() {
    let world = protected(true);
    let readiness = world.control.readiness(&name("web01")).unwrap();
    let found = |code: &str| {
        readiness.failback.iter().find(|check| check.code == code).unwrap_or_else(|| panic!("{readiness:?}"))
    };
    assert_eq!(found("machine.new").state, CheckState::Passed);
    assert!(found("site.room").facts.contains("store"), "{:?}", found("site.room"));
    assert!(found("servers.report").facts.contains("home-mt at home"), "{:?}", found("servers.report"));
}

#[test]
fn what_a_hypervisor_has_is_protected_there_and_a_physical_site_needs_a_real_home() {
    let world = World::physical(true);
    world.home.add("web01", HARDWARE, 2);
    let refused = world.control.protect("tester", request()).unwrap_err();
    assert_eq!((refused.kind, refused.error.code.as_str()), (ErrorKind::Invalid, "physical.is-virtual"));
    for home in ["nowhere", "hardware"] {
        let kind = switchback_model::SiteKind::Physical { comes_home_to: Some(name(home)) };
        let refused =
            world.control.add_site(&switchback_model::Site { name: name("other"), kind }).unwrap_err();
        assert_eq!(refused.error.code, "physical.no-such-home");
    }
    let refused = world.control.remove_site(&name("home")).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
}

#[test]
fn one_that_has_not_heard_yet_is_not_switched_off_after_the_failover_was_given_up() {
    let mut world = protected(true);
    world.hardware.set_power("web01", Power::Off);
    let job = world.control.operate("tester", &name("web01"), unplanned(true)).unwrap();
    while world.item().power_off.is_none() {
        world.control.work_once(None).unwrap();
        world.round();
    }
    world.control.cancel_job("tester", job.id).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Cancelled);
    assert_eq!((world.item().power_off, world.item().protection.active), (None, Side::Home));
    world.hardware.set_power("web01", Power::On);
    (0..5).for_each(|_| world.round());
    assert_eq!(world.hardware.all()[0].power, Power::On);
}
