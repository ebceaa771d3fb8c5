//! A machine that is looked at again because somebody has mended it: with a kill at every step, and honest about what still holds.

use switchback_model::component::Problem;
use switchback_model::{ItemOperation, JobError, JobState};
use switchback_sites::Site;

use super::world::World;
use super::{error_of, killed_at_every_step, name};

/// Rounds until a component is taken for dead.
const UNTIL_DEAD: usize = 25;

/// Its master target has a problem with its replica, and the machine at home a snapshot that is in the way.
fn ailing() -> World {
    let mut world = World::protected();
    let problem = Problem { code: "master-target.disk".into(), message: "the disk is read-only".into() };
    world.replicas_problem = Some(problem);
    world.home.take_snapshot("web01", "before the update");
    world.round();
    world.control.readiness(&name("web01")).unwrap();
    world.control.reconcile().unwrap();
    world
}

fn raised(world: &World) -> Vec<JobError> {
    world.control.raised(&world.control.item(&name("web01")).unwrap())
}

fn codes(errors: &[JobError]) -> Vec<&str> {
    errors.iter().map(|error| error.code.as_str()).collect()
}

#[test]
fn a_check_of_what_was_mended_survives_a_kill_at_every_step() {
    killed_at_every_step(
        ailing,
        |world, kill| {
            let raised = raised(world);
            assert_eq!(codes(&raised), ["master-target.disk", "machine.no-snapshots"]);
            world.replicas_problem = None;
            Site::delete_snapshot(&*world.home, "web01", "before the update").unwrap();
            // Nobody has heard of it yet: the job waits until its components say so.
            world.operate(ItemOperation::CheckAgain { raised }, kill)
        },
        |world| {
            assert_eq!((raised(world), world.item().job), (Vec::new(), None));
            let events = world.control.events(100).unwrap();
            for code in ["master-target.disk.resolved", "readiness.failback.resolved"] {
                assert_eq!(
                    events.iter().filter(|event| event.code == code).count(),
                    1,
                    "{code}: {events:#?}"
                );
            }
        },
    );
}

#[test]
fn what_still_holds_fails_the_job_with_its_own_words_and_what_has_gone_is_told() {
    let mut world = ailing();
    world.down = vec!["home-ps"];
    (0..UNTIL_DEAD).for_each(|_| world.round());
    let asked = raised(&world);
    world.replicas_problem = None;
    let job =
        world.control.operate("tester", &name("web01"), ItemOperation::CheckAgain { raised: asked }).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Failed, "{job:#?}");
    let error = error_of(&job);
    let silent = raised(&world).into_iter().find(|error| error.code == "server.no-heartbeat").unwrap();
    assert_eq!((&error.code, &error.cause, &error.remedy), (&silent.code, &silent.cause, &silent.remedy));
    assert!(error.message.contains("still: the process-server home-ps does not report"), "{error:?}");
    assert!(error.message.contains("gone: the disk is read-only"), "{error:?}");
    world.down = Vec::new();
    Site::delete_snapshot(&*world.home, "web01", "before the update").unwrap();
    let job = world.control.restart_job("tester", job.id).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
}

#[test]
fn only_what_was_named_decides_and_the_rest_is_told() {
    let mut world = ailing();
    let asked: Vec<_> =
        raised(&world).into_iter().filter(|error| error.code == "machine.no-snapshots").collect();
    Site::delete_snapshot(&*world.home, "web01", "before the update").unwrap();
    let job =
        world.control.operate("tester", &name("web01"), ItemOperation::CheckAgain { raised: asked }).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    let told = &job.tasks[0].message;
    assert!(
        told.starts_with("gone: ") && told.ends_with("not well besides: the disk is read-only"),
        "{told}"
    );
}
