//! Disks that come to the protection of a machine, and leave it: at every step of their jobs, and in a failover meanwhile.

use switchback_control::ErrorKind;
use switchback_model::component::{DiskStanding, SeededDisk};
use switchback_model::{DiskIndex, ItemOperation, JobState, Phase, PointChoice, ReprotectOptions, Seq, Side};
use switchback_sites::MachineDisk;

use super::world::World;
use super::{error_of, killed_at_every_step, name};

fn add(disk: &str) -> ItemOperation {
    ItemOperation::AddDisks { disks: vec![disk.into()], datastore: None }
}

fn remove(disk: &str) -> ItemOperation {
    ItemOperation::RemoveDisks { disks: vec![disk.into()] }
}

fn failover(point: PointChoice) -> ItemOperation {
    ItemOperation::UnplannedFailover { point, shut_down: true }
}

/// Protected to a site as Azure's is: the replica is in page blobs, the machine is made at its first start.
fn at_azure() -> World {
    let world = World::azure();
    *world.recovery.makes_at_start.lock().unwrap() = true;
    world.with_web01_protected()
}

/// The machine has a disk that is not protected.
fn gained(mut world: World) -> World {
    let disk = MachineDisk { path: "/home/web01/new".into(), size: 1 << 20, serial: "new".into() };
    world.home.change_disks("web01", |disks| disks.push(disk));
    world.round();
    world
}

/// Its initial replication goes on.
fn seeding(world: World) -> World {
    let mut world = gained(world);
    world.seeds_slowly = true;
    world.operate(add("new"), None);
    (0..3).for_each(|_| world.round());
    world
}

/// The disks that the machine at the recovery site has.
fn serials(world: &World) -> Vec<String> {
    let machine = &world.recovery.all()[0];
    machine.disks.iter().map(|disk| disk.serial.clone()).collect()
}

fn newest_lacks(world: &World) -> Vec<DiskIndex> {
    world.control.recovery_points(&name("web01")).unwrap().last().unwrap().lacks.clone()
}

/// The error of a job that fails.
fn refused(world: &mut World, operation: ItemOperation) -> switchback_model::JobError {
    let job = world.control.operate("tester", &name("web01"), operation).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Failed, "{job:#?}");
    error_of(&job)
}

#[test]
fn adding_a_disk_survives_a_kill_at_every_step_and_the_epoch_and_the_points_stay() {
    [World::protected, at_azure].into_iter().for_each(adding_survives_a_kill_at_every_step);
}

fn adding_survives_a_kill_at_every_step(begin: fn() -> World) {
    killed_at_every_step(
        || gained(begin()),
        |world, kill| {
            let killed = world.operate(add("new"), kill);
            (0..3).for_each(|_| world.round());
            killed
        },
        |world| {
            let item = world.item();
            assert!(item.disk_standings.is_empty() && newest_lacks(world).is_empty(), "{item:#?}");
            assert_eq!((item.disk_sizes.len(), item.protection.epoch.0), (3, 1));
            assert_eq!(serials(world), ["d0", "d1", "new"]);
            let points = world.control.recovery_points(&name("web01")).unwrap();
            assert_eq!((points[0].seq, &points[0].lacks[..]), (Seq(1), &[DiskIndex(2)][..]));
        },
    );
}

#[test]
fn removing_a_disk_survives_a_kill_at_every_step_and_the_others_keep_their_numbers() {
    [World::protected, at_azure].into_iter().for_each(removing_survives_a_kill_at_every_step);
}

fn removing_survives_a_kill_at_every_step(begin: fn() -> World) {
    killed_at_every_step(
        begin,
        |world, kill| {
            let killed = world.operate(remove("d1"), kill);
            world.round();
            killed
        },
        |world| {
            assert_eq!(serials(world), ["d0"]);
            let points = world.control.recovery_points(&name("web01")).unwrap();
            assert!(points.iter().all(|point| point.lacks == [DiskIndex(1)]), "{points:?}");
            let wish = world.agents_wish().unwrap().disks;
            assert_eq!(wish[1].standing, DiskStanding::Removed);
            let item = world.item();
            assert_eq!(item.present_disks().collect::<Vec<_>>(), [DiskIndex(0)]);
        },
    );
}

#[test]
fn a_disk_that_is_added_shows_how_far_it_is_until_a_point_holds_it() {
    let mut world = seeding(World::protected());
    world.seeded = vec![SeededDisk { disk: DiskIndex(2), bytes: 440 << 10 }];
    world.round();
    let percents = |world: &World| world.control.item(&name("web01")).unwrap().disk_percents;
    assert_eq!(percents(&world), [(2, 42)].into());
    world.seeds_slowly = false;
    (0..3).for_each(|_| world.round());
    assert_eq!(percents(&world), Default::default(), "whatever the agent says yet");
}

/// Removed and added again, and through a round trip: nothing stays of what is gone.
#[test]
fn a_disk_that_was_removed_can_be_added_again_and_the_machine_comes_home() {
    [World::protected, at_azure].into_iter().for_each(|begin| removed_and_added_again_it_comes_home(begin()));
}

fn removed_and_added_again_it_comes_home(mut world: World) {
    world.operate(remove("d1"), None);
    (0..2).for_each(|_| world.round());
    world.operate(add("d1"), None);
    (0..3).for_each(|_| world.round());
    assert_eq!(newest_lacks(&world), [DiskIndex(1)], "the number of what was removed stays its own");
    assert_eq!(serials(&world), ["d0", "d1"]);
    world.operate(ItemOperation::PlannedFailover, None);
    world.operate(ItemOperation::Commit, None);
    let item = world.item();
    assert_eq!((item.disk_sizes.len(), item.disk_standings.len()), (2, 0), "numbers begin anew");
    assert_eq!(
        (item.home.disk_serials, item.away.disk_serials),
        (vec!["d0".into(), "d1".into()], vec!["d0".into(), "d1".into()])
    );
    world.operate(ItemOperation::Reprotect(ReprotectOptions::default()), None);
    world.until_protected();
    world.operate(ItemOperation::PlannedFailover, None);
    let item = world.item();
    assert_eq!((item.protection.active, item.protection.phase), (Side::Home, Phase::FailedOver));
}

#[test]
fn a_failover_while_a_disk_is_added_gives_the_machine_without_it_at_every_step() {
    [World::protected, at_azure].into_iter().for_each(a_failover_meanwhile_gives_the_machine_without_it);
}

fn a_failover_meanwhile_gives_the_machine_without_it(begin: fn() -> World) {
    killed_at_every_step(
        || seeding(begin()),
        |world, kill| world.operate(failover(PointChoice::Latest), kill),
        |world| {
            assert_eq!(serials(world), ["d0", "d1"], "half of the disk would be there");
            assert_eq!(world.item().failover.unwrap().lacks, [DiskIndex(2)]);
        },
    );
    killed_at_every_step(
        || {
            let mut world = seeding(begin());
            world.operate(failover(PointChoice::Latest), None);
            world
        },
        |world, kill| world.operate(ItemOperation::Commit, kill),
        |world| {
            let item = world.item();
            assert_eq!((item.disk_sizes.len(), item.disk_standings.len()), (2, 0));
            assert_eq!((item.home.disk_serials.len(), item.away.disk_serials.len()), (2, 2));
            assert_eq!(serials(world), ["d0", "d1"]);
        },
    );
}

#[test]
fn taken_back_or_to_another_point_the_disks_are_there_again() {
    [World::protected, at_azure].into_iter().for_each(|begin| taken_back_the_disks_are_there_again(begin()));
}

fn taken_back_the_disks_are_there_again(world: World) {
    let mut world = seeding(world);
    world.operate(failover(PointChoice::Latest), None);
    world.operate(ItemOperation::CancelFailover, None);
    assert_eq!(serials(&world), ["d0", "d1", "new"]);
    world.seeds_slowly = false;
    (0..4).for_each(|_| world.round());
    assert!(newest_lacks(&world).is_empty() && world.item().disk_standings.is_empty());
    world.operate(failover(PointChoice::Latest), None);
    assert_eq!(serials(&world), ["d0", "d1", "new"]);
    // Before the disk was added.
    world.operate(ItemOperation::ChangeRecoveryPoint { point: PointChoice::Point { seq: Seq(1) } }, None);
    assert_eq!(serials(&world), ["d0", "d1"]);
    world.operate(ItemOperation::CancelFailover, None);
    assert_eq!(serials(&world), ["d0", "d1", "new"]);
}

#[test]
fn a_test_failover_has_the_disks_that_its_point_holds() {
    let mut world = seeding(at_azure());
    world.operate(ItemOperation::TestFailover { point: PointChoice::Latest }, None);
    let copy = world.recovery.all().into_iter().find(|machine| machine.id.contains("test")).unwrap();
    assert_eq!(copy.disks.len(), 2, "{copy:?}");
    // Its view stands on the replica.
    let refused = world.control.operate("tester", &name("web01"), remove("new"));
    assert_eq!(refused.unwrap_err().kind, ErrorKind::IllegalState);
}

#[test]
fn a_planned_failover_loses_no_disk() {
    let mut world = seeding(World::protected());
    let said = refused(&mut world, ItemOperation::PlannedFailover);
    assert_eq!(said.code, "failover.disk-not-whole", "{said:?}");
    world.operate(remove("new"), None);
    world.operate(ItemOperation::PlannedFailover, None);
    assert_eq!(serials(&world), ["d0", "d1"]);
}

#[test]
fn what_cannot_be_is_refused_in_words_and_changes_nothing() {
    let mut world = gained(World::protected());
    let before = world.item();
    for (operation, code) in [
        (add("nothing"), "disks.not-reported"),
        (add("d1"), "disks.protected-already"),
        (ItemOperation::AddDisks { disks: Vec::new(), datastore: None }, "disks.count"),
        (
            ItemOperation::AddDisks { disks: vec!["new".into(); 2], datastore: None },
            "disks.protected-already",
        ),
        (remove("d0"), "disks.boot-disk"),
        (remove("new"), "disks.not-protected"),
        (ItemOperation::RemoveDisks { disks: Vec::new() }, "disks.count"),
    ] {
        let said = refused(&mut world, operation);
        assert_eq!(said.code, code, "{said:?}");
    }
    assert_eq!(world.item(), before);

    *world.recovery.keeps_disks.lock().unwrap() = true;
    assert_eq!(refused(&mut world, add("new")).code, "disks.site-cannot");
    assert_eq!(refused(&mut world, remove("d1")).code, "disks.site-cannot");
    *world.recovery.keeps_disks.lock().unwrap() = false;

    world.home.change_disks("web01", |disks| disks[2].size = 2 << 20);
    world.home.change_disks("web01", |disks| disks[1].serial.clear());
    world.round();
    assert_eq!(refused(&mut world, add("new")).code, "disks.no-serial");
    world.down = vec!["web01"];
    (0..30).for_each(|_| world.round());
    assert_eq!(refused(&mut world, add("new")).code, "agent.no-heartbeat");
    assert_eq!(world.item(), before);
}

#[test]
fn a_disk_that_the_master_target_never_takes_is_given_up_and_the_others_are_as_they_were() {
    let mut world = gained(World::protected());
    let job = world.control.operate("tester", &name("web01"), add("new")).unwrap();
    // Down from the moment that the prerequisites were checked.
    world.control.work_once(None).unwrap();
    world.down = vec!["recovery-mt"];
    let (job, _) = world.finish(&job, None);
    assert_eq!((job.state, error_of(&job).code.as_str()), (JobState::Failed, "disks.not-reshaped"));
    world.down.clear();
    (0..3).for_each(|_| world.round());
    assert_eq!(serials(&world), ["d0", "d1"]);
    let item = world.item();
    assert_eq!(item.present_disks().count(), 2);
    assert_eq!(world.control.item(&name("web01")).unwrap().item.job, None);
    // It is replicated as before, and the disk can be added once more.
    let points = world.control.recovery_points(&name("web01")).unwrap().len();
    world.operate(add("new"), None);
    (0..3).for_each(|_| world.round());
    assert!(world.control.recovery_points(&name("web01")).unwrap().len() > points);
    assert_eq!(serials(&world), ["d0", "d1", "new"]);
    assert_eq!(newest_lacks(&world), [DiskIndex(2)], "the number of what was given up");
}

/// The master target has the disk: it lets it go before that is taken back and removed.
#[test]
fn adding_a_disk_that_is_cancelled_survives_a_kill_at_every_step() {
    killed_at_every_step(
        || gained(World::protected()),
        |world, kill| {
            let job = world.control.operate("tester", &name("web01"), add("new")).unwrap();
            while serials(world).len() < 3 {
                world.control.work_once(None).unwrap();
            }
            world.round();
            world.control.cancel_job("tester", job.id).unwrap();
            let (job, killed) = world.finish(&job, kill);
            assert_eq!(job.state, JobState::Cancelled, "{job:#?}");
            (0..3).for_each(|_| world.round());
            killed
        },
        |world| {
            assert_eq!(serials(world), ["d0", "d1"]);
            assert_eq!(world.item().present_disks().count(), 2);
            let points = world.control.recovery_points(&name("web01")).unwrap();
            assert!(points.iter().all(|point| point.lacks == [DiskIndex(2)]), "{points:?}");
        },
    );
}

/// A master target that takes its time has the disk until it says otherwise.
#[test]
fn a_disk_that_is_given_up_stays_until_the_master_target_has_let_it_go() {
    let mut world = gained(World::protected());
    let job = world.control.operate("tester", &name("web01"), add("new")).unwrap();
    while serials(&world).len() < 3 {
        world.control.work_once(None).unwrap();
    }
    world.round();
    world.control.cancel_job("tester", job.id).unwrap();
    world.down = vec!["recovery-mt"];
    for _ in 0..5 {
        world.control.work_once(None).unwrap();
        world.round();
    }
    assert_eq!(serials(&world), ["d0", "d1", "new"]);
    world.down.clear();
    let (job, _) = world.finish(&job, None);
    assert_eq!((job.state, serials(&world).len()), (JobState::Cancelled, 2), "{job:#?}");
}

/// Neither the gap of a disk that was removed, nor one that is set aside, is a disk that somebody has taken away.
#[test]
fn a_machine_is_as_ready_as_before_while_disks_come_and_go() {
    let is_told = |world: &World| {
        let readiness = world.control.readiness(&name("web01")).unwrap();
        readiness.failover.iter().any(|check| check.code == "machine.disks-differ")
    };
    let mut world = seeding(World::protected());
    assert!(!is_told(&world));
    world.operate(failover(PointChoice::Latest), None);
    assert!(!is_told(&world), "it is set aside");
    world.operate(ItemOperation::CancelFailover, None);
    world.operate(remove("new"), None);
    world.round();
    assert!(!is_told(&world));
    let replica = world.recovery.all()[0].id.clone();
    world.recovery.change_disks(&replica, |disks| drop(disks.pop()));
    assert!(is_told(&world), "that is a disk that somebody has taken away");
}

#[test]
fn while_away_or_failed_over_no_disk_comes_or_goes() {
    let mut world = World::protected();
    world.operate(failover(PointChoice::Latest), None);
    for operation in [add("d1"), remove("d1")] {
        let refused = world.control.operate("tester", &name("web01"), operation).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::IllegalState, "{refused}");
        assert!(refused.to_string().contains("possible now"), "{refused}");
    }
}
