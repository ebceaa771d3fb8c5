//! A mobility agent that goes on as the configuration server's version: with a kill at every step, with one that refuses, with one that is not heard of.

use switchback_model::{ItemOperation, JobState, TaskState};

use super::world::World;
use super::{error_of, killed_at_every_step, name};

fn world() -> World {
    let mut world = World::protected();
    world.offer_program();
    world
}

fn update_and_fail(world: &mut World) -> switchback_model::Job {
    let job = world.control.operate("tester", &name("web01"), ItemOperation::UpdateAgent).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Failed, "{job:#?}");
    assert_eq!(world.item().agent_update, None, "nothing is offered any more");
    job
}

#[test]
fn an_agents_update_survives_a_kill_at_every_step() {
    killed_at_every_step(
        world,
        |world, kill| world.operate(ItemOperation::UpdateAgent, kill),
        |world| {
            let item = world.item();
            assert_eq!((item.agent_update, item.job), (None, None));
            assert!(world.program_of_agent.is_some(), "it runs what was offered");
        },
    );
}

#[test]
fn an_agent_that_refuses_says_why_and_may_be_asked_again() {
    let mut world = world();
    world.agent_refuses = Some("no room");
    let job = update_and_fail(&mut world);
    let error = error_of(&job);
    assert_eq!(error.code, "agent.update-failed");
    assert!(error.message.contains("web01") && error.message.contains("no room"), "{error:?}");
    world.agent_refuses = None;
    let job = world.control.restart_job("tester", job.id).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    assert!(job.tasks.iter().all(|task| task.state == TaskState::Succeeded), "{job:#?}");
}

#[test]
fn without_an_agent_or_a_program_nothing_is_offered() {
    let mut world = world();
    world.down = vec!["web01"];
    (0..30).for_each(|_| world.round());
    assert_eq!(error_of(&update_and_fail(&mut world)).code, "agent.silent");
    let mut world = World::protected();
    assert_eq!(error_of(&update_and_fail(&mut world)).code, "server.no-program");
}
