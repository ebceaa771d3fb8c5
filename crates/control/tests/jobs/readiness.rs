//! Readiness: what would keep a machine from failing over or coming home is told before it hurts, and refuses in the same words.

use switchback_model::component::GuestPlatform;
use switchback_model::{
    CheckState, ItemOperation, JobState, PointChoice, ReadinessCheck, ReprotectOptions, Side, verdict,
};
use switchback_sites::{Power, Site};

use super::world::World;
use super::{away_protected, committed, error_of, name};

fn mapped() -> World {
    protected(World::new())
}

fn protected(mut world: World) -> World {
    world.map_networks();
    let job = world.control.protect("tester", super::protect()).unwrap();
    world.done(&job, None);
    world.until_protected();
    world.round();
    world
}

fn checks(world: &World, to: Side) -> Vec<ReadinessCheck> {
    world.control.readiness(&name("web01")).unwrap().to(to).to_vec()
}

fn states(world: &World, to: Side) -> Vec<(String, CheckState)> {
    checks(world, to)
        .into_iter()
        .filter(|check| check.state != CheckState::Passed)
        .map(|check| (check.code, check.state))
        .collect()
}

#[test]
fn from_the_day_of_protection_both_ways_are_checked() {
    let world = mapped();
    for to in [Side::Away, Side::Home] {
        // Nobody has said where this server is to be backed up.
        assert_eq!(states(&world, to), [("backup.fresh".to_owned(), CheckState::Warning)], "{to}");
        assert!(checks(&world, to).len() >= 7);
    }
    let verdicts = world.control.item(&name("web01")).unwrap().verdicts;
    assert_eq!(verdicts, Some([CheckState::Warning; 2]));
}

#[test]
fn each_thing_that_would_hurt_is_told_for_the_way_it_is_on() {
    type Change = fn(&mut World);
    let cases: [(Change, Side, &str, CheckState); 9] = [
        (
            |world| world.home.take_snapshot("web01", "before the update"),
            Side::Home,
            "machine.no-snapshots",
            CheckState::Failed,
        ),
        (|world| world.down.push("home-mt"), Side::Home, "servers.report", CheckState::Failed),
        (|world| world.down.push("recovery-ps"), Side::Home, "servers.report", CheckState::Failed),
        (|world| world.down.push("recovery-mt"), Side::Away, "servers.report", CheckState::Failed),
        (|world| world.cut = true, Side::Home, "network.way", CheckState::Failed),
        (
            |world| world.home.change_disks("web01", |disks| drop(disks.pop())),
            Side::Home,
            "machine.disks-differ",
            CheckState::Failed,
        ),
        (
            |world| {
                Site::delete_machine(&*world.home, "web01").unwrap_or_else(|_| {
                    world.home.set_power("web01", Power::Off);
                    Site::delete_machine(&*world.home, "web01").unwrap();
                })
            },
            Side::Home,
            "machine.disks",
            CheckState::Warning,
        ),
        (|world| world.start_replica(), Side::Away, "machine.off", CheckState::Failed),
        (
            |world| {
                let raised =
                    ReadinessCheck::raised(CheckState::Failed, ("site.privileges", "P"), "f", "c", "r");
                world.home.findings.lock().unwrap().push(raised);
            },
            Side::Home,
            "site.privileges",
            CheckState::Failed,
        ),
    ];
    for (number, (change, to, code, state)) in cases.into_iter().enumerate() {
        let mut world = mapped();
        change(&mut world);
        (0..30).for_each(|_| world.round());
        let found = states(&world, to);
        assert!(found.contains(&(code.into(), state)), "case {number}: {found:?}");
        let other = states(&world, to.other());
        assert!(
            !other.contains(&(code.into(), CheckState::Failed)) || code == "network.way",
            "case {number}: {other:?}"
        );
        let advice = checks(&world, to).into_iter().find(|check| check.code == code).unwrap();
        assert!(!advice.remedy.is_empty(), "case {number}: {advice:?}");
    }
}

/// Whoever looks, an event tells of it, and once.
#[test]
fn a_verdict_that_changes_is_told_once_and_when_it_is_over() {
    let mut world = mapped();
    let told = |world: &World, code: &str| {
        let events = world.control.events(1000).unwrap();
        events.iter().filter(|event| event.code == code).count()
    };
    checks(&world, Side::Home);
    world.home.take_snapshot("web01", "before the update");
    world.round();
    (0..2).for_each(|_| drop(checks(&world, Side::Home)));
    assert_eq!((told(&world, "readiness.failback"), told(&world, "readiness.failover")), (1, 0));
    Site::delete_snapshot(&*world.home, "web01", "before the update").unwrap();
    (0..2).for_each(|_| drop(checks(&world, Side::Home)));
    assert_eq!(told(&world, "readiness.failback.resolved"), 1);
}

#[test]
fn a_reprotect_refuses_with_the_words_of_the_check_and_an_alternate_location_may_do() {
    let mut world = committed();
    let raised = ReadinessCheck::raised(
        CheckState::Failed,
        ("site.edition", "The server allows changes"),
        "ESXi refuses every change",
        "it is the free edition",
        "give it a licence",
    );
    world.home.findings.lock().unwrap().push(raised.clone());
    let reprotect = ItemOperation::Reprotect(ReprotectOptions::default());
    let job = world.control.operate("tester", &name("web01"), reprotect).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!((job.state, error_of(&job)), (JobState::Failed, raised.as_error()));
    assert_eq!(verdict(&checks(&world, Side::Home)), CheckState::Failed);
    world.home.findings.lock().unwrap().clear();
    let job = world.control.restart_job("tester", job.id).unwrap();
    world.done(&job, None);
}

/// What is found before the machine is turned off where it runs hurts nobody.
#[test]
fn a_planned_failback_refuses_while_the_machine_still_runs() {
    type Change = fn(&mut World);
    let cases: [(Change, Change, &str); 3] = [
        (
            |world| world.home.change_disks("web01", |disks| disks[1].path = "/elsewhere/web01/1".into()),
            |world| world.home.change_disks("web01", |disks| disks[1].path = "/home/web01/1".into()),
            "machine.disks-moved",
        ),
        (
            |world| *world.home.unreachable.lock().unwrap() = true,
            |world| *world.home.unreachable.lock().unwrap() = false,
            "site.reached",
        ),
        (
            |world| world.home.take_snapshot("web01", "before the update"),
            |world| world.home.delete_snapshot("web01", "before the update").unwrap(),
            "machine.no-snapshots",
        ),
    ];
    for (change, undo, code) in cases {
        let mut world = away_protected();
        change(&mut world);
        assert!(states(&world, Side::Home).contains(&(code.to_owned(), CheckState::Failed)), "{code}");
        let job = world.control.operate("tester", &name("web01"), ItemOperation::PlannedFailover).unwrap();
        let (job, _) = world.finish(&job, None);
        assert_eq!((job.state, error_of(&job).code.as_str()), (JobState::Failed, code));
        assert!(!error_of(&job).remedy.is_empty(), "{code}");
        assert_eq!(world.recovery.all()[0].power, Power::On, "{code}: it runs on");
        undo(&mut world);
        world.operate(ItemOperation::PlannedFailover, None);
        assert_eq!(world.home.all()[0].power, Power::On, "{code}: and comes home after the remedy");
    }
}

#[test]
fn a_master_target_that_would_take_another_way_to_storage_is_told_and_keeps_its_machines_at_home() {
    const CODE: &str = "master-target.network-path";
    let of_way = |world: &World, to| checks(world, to).into_iter().find(|check| check.code == CODE);
    let mut world = World::azure();
    world.guest = vec![ReadinessCheck::passed("guest.drivers", "G", "")];
    let mut world = protected(world);
    let found = of_way(&world, Side::Away).unwrap();
    assert_eq!((found.state, found.facts.as_str()), (CheckState::Passed, "from recovery-mt: as chosen"));
    assert_eq!(of_way(&world, Side::Home), None, "there is no storage account");
    assert_eq!(of_way(&mapped(), Side::Away), None, "nor is there one at a local site");

    world.storage_path = ReadinessCheck::raised(
        CheckState::Failed,
        (CODE, "W"),
        "private endpoint: a.blob.core.windows.net is 20.60.1.2, which is public",
        "the zone is not asked",
        "link it",
    );
    (0..2).for_each(|_| world.round());
    let found = of_way(&world, Side::Away).unwrap();
    assert_eq!(found.state, CheckState::Failed);
    assert!(found.facts.starts_with("from recovery-mt: private endpoint"), "{found:?}");
    assert_eq!((found.cause.as_str(), found.remedy.as_str()), ("the zone is not asked", "link it"));
    let job = world.control.operate("tester", &name("web01"), ItemOperation::PlannedFailover).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!((job.state, error_of(&job)), (JobState::Failed, found.as_error()));
    assert_eq!(world.home.all()[0].power, Power::On, "it runs on");

    // A master target speaks for its way alone; what it says of something else is not listened to.
    world.storage_path = ReadinessCheck::passed("servers.report", "S", "");
    (0..2).for_each(|_| world.round());
    let found = of_way(&world, Side::Away).unwrap();
    assert_eq!(found.state, CheckState::Unknown, "{found:?}");
    assert!(found.remedy.contains("wait a minute"), "{found:?}");
}

#[test]
fn a_guest_that_would_not_come_up_at_azure_keeps_its_machine_from_going_there() {
    let mut world = protected(World::azure());
    assert_eq!(world.guest_for, Some(GuestPlatform::Azure));
    let found = states(&world, Side::Away);
    assert!(found.contains(&("guest.looked-at".into(), CheckState::Unknown)), "not looked at yet: {found:?}");
    let raised = ReadinessCheck::raised(
        CheckState::Failed,
        ("guest.hyperv-drivers", "The initramfs has Hyper-V's drivers"),
        "6.1: hv_storvsc missing",
        "it was made for other hardware",
        "add it",
    );
    // An agent speaks for its guest alone.
    let foreign = ReadinessCheck::raised(CheckState::Failed, ("backup.fresh", "B"), "f", "c", "r");
    world.guest = vec![raised.clone(), foreign];
    (0..2).for_each(|_| world.round());
    assert!(checks(&world, Side::Away).contains(&raised));
    assert!(states(&world, Side::Away).contains(&("backup.fresh".into(), CheckState::Warning)));
    assert!(!states(&world, Side::Home).iter().any(|(code, _)| code.starts_with("guest.")));
    let told = world.control.events(1000).unwrap();
    assert!(told.iter().any(|event| event.message.contains("hv_storvsc missing")), "{told:?}");
    let job = world.control.operate("tester", &name("web01"), ItemOperation::PlannedFailover).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!((job.state, error_of(&job)), (JobState::Failed, raised.as_error()));
    assert_eq!(world.home.all()[0].power, Power::On, "it runs on");
    // The worst day does not wait for it.
    world.operate(ItemOperation::UnplannedFailover { point: PointChoice::default(), shut_down: true }, None);
    world.round();
    assert_eq!(world.guest_for, None, "it is there now");
}

#[test]
fn a_site_that_asks_nothing_of_guests_has_no_checks_of_them() {
    let mut world = mapped();
    world.guest = vec![ReadinessCheck::raised(CheckState::Failed, ("guest.fstab", "F"), "f", "c", "r")];
    (0..2).for_each(|_| world.round());
    assert_eq!(world.guest_for, None);
    assert!(!checks(&world, Side::Away).iter().any(|check| check.code.starts_with("guest.")));
}

#[test]
fn a_machine_that_uefi_starts_needs_a_loader_that_new_firmware_finds() {
    let code = "guest.uefi-fallback";
    let raised =
        ReadinessCheck::raised(CheckState::Failed, (code, "UEFI finds its boot loader"), "f", "c", "r");
    let mut world = mapped();
    world.guest = vec![raised.clone()];
    (0..2).for_each(|_| world.round());
    assert!(world.new_firmware, "the machine at recovery is made anew");
    assert!(!checks(&world, Side::Away).contains(&raised), "a BIOS starts it");
    world.uefi = true;
    (0..2).for_each(|_| world.round());
    assert!(checks(&world, Side::Away).contains(&raised));
    assert!(!states(&world, Side::Home).iter().any(|(found, _)| found == code), "its own firmware knows it");
    let job = world.control.operate("tester", &name("web01"), ItemOperation::PlannedFailover).unwrap();
    assert_eq!(error_of(&world.finish(&job, None).0), raised.as_error());
    world.operate(ItemOperation::UnplannedFailover { point: PointChoice::default(), shut_down: true }, None);
    world.round();
    assert!(!world.new_firmware, "the machine at home is the original one");
}
