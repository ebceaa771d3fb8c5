//! The configuration server is lost and restored: in the middle of every job, and from a backup that is older than the world. The world itself
//! refuses epochs that go back, and machines that run twice.

use switchback_control::ErrorKind;
use switchback_identity::Role;
use switchback_model::{Held, ItemOperation, Job, JobState, Phase, PointChoice, ReprotectOptions, Side};

use super::{World, name};

/// Turns after which a job is interrupted, at most.
const TURNS_MAX: usize = 60;

fn unplanned() -> ItemOperation {
    ItemOperation::UnplannedFailover { point: PointChoice::Latest, shut_down: true }
}

impl World {
    /// After a restore: components report; a person looks and lets go what is held in the middle of a job, and has the job go on.
    fn go_on(&mut self, job: &Job) {
        assert_eq!(self.item().held.map(|held| matches!(held, Held::Unconfirmed { .. })), Some(true));
        let refused = self.control.resume_job("tester", job.id, "").unwrap_err();
        assert_eq!(refused.error.code, "protection.unconfirmed");
        for _ in 0..3 {
            self.round();
        }
        let suspended = self.control.job(job.id).unwrap();
        assert_eq!(suspended.state, JobState::Suspended, "nothing goes on by itself: {suspended:#?}");
        if self.item().held.is_some() {
            self.control.release_item("tester", &name("web01")).unwrap();
        }
        self.control.resume_job("tester", job.id, "").unwrap();
        self.done(job, None);
    }
}

/// Loses the server after each number of turns of a job, up to where it has ended before.
fn restored_at_every_turn(begin: impl Fn() -> World, operation: &ItemOperation, ends: Phase) {
    for turns in 0..TURNS_MAX {
        let mut world = begin();
        let job = world.control.operate("tester", &name("web01"), operation.clone()).unwrap();
        for _ in 0..turns {
            if world.control.work_once(None).unwrap() == switchback_control::Turn::Idle {
                world.round();
            }
        }
        if world.control.job(job.id).unwrap().state.is_final() {
            assert!(turns > 2, "{operation:?}: {turns}");
            return;
        }
        let snapshot = world.snapshot();
        world.restore(snapshot);
        world.go_on(&job);
        let phase = world.item().protection.phase;
        assert!(
            phase == ends || (ends == Phase::Reprotecting && phase == Phase::Protected),
            "{turns}: {phase:?}"
        );
        world.assert_not_twice();
    }
    panic!("{operation:?} does not end");
}

#[test]
fn a_planned_failover_goes_on_when_a_person_says_so() {
    restored_at_every_turn(World::protected, &ItemOperation::PlannedFailover, Phase::FailedOver);
}

#[test]
fn an_unplanned_failover_goes_on_when_a_person_says_so() {
    restored_at_every_turn(World::protected, &unplanned(), Phase::FailedOver);
}

#[test]
fn a_reprotect_goes_on_when_a_person_says_so() {
    let begin = || {
        let mut world = World::protected();
        world.operate(unplanned(), None);
        world.operate(ItemOperation::Commit, None);
        world
    };
    restored_at_every_turn(
        begin,
        &ItemOperation::Reprotect(ReprotectOptions::default()),
        Phase::Reprotecting,
    );
}

#[test]
fn a_backup_that_is_up_to_date_needs_nobody() {
    let mut world = World::protected();
    let snapshot = world.snapshot();
    world.restore(snapshot);
    let points = |world: &World| world.control.item(&name("web01")).unwrap().points;
    for _ in 0..3 {
        world.round();
    }
    assert_eq!(world.item().held, None);
    let before = points(&world);
    world.round();
    assert!(points(&world) > before, "replication goes on");
    world.operate(ItemOperation::PlannedFailover, None);
}

/// Everything that has happened since the backup, one thing more each time.
#[test]
fn a_backup_that_is_older_than_the_world_orders_nothing() {
    for happened in 1..=5 {
        let mut world = World::protected();
        let old = world.snapshot();
        let operations: [&dyn Fn(&mut World); 5] = [
            &|world| _ = world.operate(unplanned(), None),
            &|world| _ = world.operate(ItemOperation::Commit, None),
            &|world| {
                world.operate(ItemOperation::Reprotect(ReprotectOptions::default()), None);
                world.until_protected();
            },
            &|world| _ = world.operate(ItemOperation::PlannedFailover, None),
            &|world| _ = world.operate(ItemOperation::Commit, None),
        ];
        for operation in &operations[..happened] {
            operation(&mut world);
        }
        let power = |world: &World| {
            [&world.home, &world.recovery].map(|site| {
                site.all().into_iter().map(|machine| (machine.id, machine.power)).collect::<Vec<_>>()
            })
        };
        let before = power(&world);
        world.restore(old);
        for _ in 0..5 {
            world.round();
            while world.control.work_once(None).unwrap() != switchback_control::Turn::Idle {}
        }
        let item = world.item();
        assert!(matches!(item.held, Some(Held::Behind { .. })), "{happened}: {:?}", item.held);
        assert_eq!((item.protection.active, item.protection.phase), (Side::Home, Phase::Protected));
        assert_eq!(power(&world), before, "{happened}");
        let refused = world.control.operate("tester", &name("web01"), unplanned()).unwrap_err();
        assert_eq!(
            (refused.kind, refused.error.code.as_str()),
            (ErrorKind::IllegalState, "protection.behind")
        );
        let refused =
            world.control.operate("tester", &name("web01"), ItemOperation::Disable { clean_up: true });
        assert!(refused.is_err(), "that would delete a machine that may be the one");
        let events = world.control.events(20).unwrap();
        assert!(events.iter().any(|event| event.code == "protection.behind"), "{events:?}");
        world.operate(ItemOperation::Disable { clean_up: false }, None);
        assert_eq!(power(&world), before, "{happened}: its end leaves the instances alone");
    }
}

#[test]
fn a_job_that_was_in_hand_can_be_cancelled() {
    let mut world = World::protected();
    let job = world.control.operate("tester", &name("web01"), unplanned()).unwrap();
    let snapshot = world.snapshot();
    world.restore(snapshot);
    world.round();
    world.control.cancel_job("tester", job.id).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!((job.state, world.item().protection.phase), (JobState::Cancelled, Phase::Protected));
}

/// A server that comes back does not work on its jobs before a component has told that it is the one.
#[test]
fn a_server_that_comes_back_waits_for_a_component() {
    let mut world = World::protected();
    world.enrol(Role::Target, "recovery-mt");
    let job = world.control.operate("tester", &name("web01"), ItemOperation::Resynchronize).unwrap();
    world.restart();
    let _workers = world.control.start().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(800));
    assert_eq!(world.control.job(job.id).unwrap().state, JobState::NotStarted);
    world.round();
    let began = std::time::Instant::now();
    while world.control.job(job.id).unwrap().state != JobState::Succeeded {
        assert!(began.elapsed().as_secs() < 30, "it does not go on");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
