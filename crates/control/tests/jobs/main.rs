//! Jobs of every kind, from their beginning to their end, and with the configuration server killed at every step of each.

#![expect(clippy::unwrap_used, reason = "tests")]

mod agent_updates;
mod changes;
mod checks;
mod cost;
mod deployments;
mod disks;
mod physical;
mod proofs;
mod readiness;
mod restored;
mod vcenter;
mod world;

use switchback_control::{Crash, ErrorKind, Turn};
use switchback_model::{
    ItemOperation, Job, JobState, ObjectName, Phase, PlanGroup, PointChoice, RecoveryPlan, ReprotectOptions,
    Seq, Side,
};
use switchback_sites::Power;
use world::{World, protect};

/// Turns of the executor and rounds of the world that any job ends within.
const TURNS_MAX: usize = 400;

fn name(text: &str) -> ObjectName {
    text.parse().unwrap()
}

/// Where the configuration server is killed: at the n-th turn, before or after a step's work.
type Kill = Option<(usize, Crash)>;

impl World {
    /// Works until the job has ended; returns it and whether the kill came.
    fn finish(&mut self, job: &Job, kill: Kill) -> (Job, bool) {
        let mut killed = false;
        for turn in 0..TURNS_MAX {
            let crash = kill.filter(|(at, _)| *at == turn).map(|(_, crash)| crash);
            let worked = self.control.work_once(crash).unwrap();
            if worked == Turn::Crashed {
                killed = true;
                self.restart();
            } else if worked == Turn::Idle {
                self.round();
            }
            self.assert_not_twice();
            let job = self.control.job(job.id).unwrap();
            if job.state.is_final() {
                return (job, killed);
            }
        }
        panic!("the job does not end: {:#?}", self.control.job(job.id).unwrap());
    }

    fn done(&mut self, job: &Job, kill: Kill) -> bool {
        let (job, killed) = self.finish(job, kill);
        assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
        killed
    }

    fn operate(&mut self, operation: ItemOperation, kill: Kill) -> bool {
        let job = self.control.operate("tester", &name("web01"), operation).unwrap();
        self.done(&job, kill)
    }

    fn until_protected(&mut self) {
        for _ in 0..20 {
            self.round();
            if self.item().protection.phase == Phase::Protected {
                return;
            }
        }
        panic!("no recovery point: {:#?}", self.item());
    }

    /// A network card of the one site has a network at the other.
    fn map_networks(&self) {
        let mapping = switchback_model::NetworkMapping {
            site: name("home"),
            network: "lan".into(),
            target_site: name("recovery"),
            target_network: "lan".into(),
            test_network: None,
        };
        self.control.put_network_mapping(&mapping).unwrap();
    }

    fn item(&self) -> switchback_model::ProtectedItem {
        self.control.item(&name("web01")).unwrap().item
    }

    fn protected() -> Self {
        Self::new().with_web01_protected()
    }

    fn with_web01_protected(self) -> Self {
        let mut world = self;
        let job = world.control.protect("tester", protect()).unwrap();
        world.done(&job, None);
        world.until_protected();
        world
    }

    /// The machine runs at one side only: where it lives.
    fn assert_not_twice(&self) {
        let runs = |machines: Vec<switchback_sites::Machine>| {
            machines.into_iter().any(|machine| {
                machine.power == Power::On && !machine.id.contains("test") && !world::is_sandbox(&machine)
            })
        };
        assert!(
            self.may_run_twice
                || [self.home.all(), self.at_recovery(), self.hardware.all()]
                    .into_iter()
                    .filter(|machines| runs(machines.clone()))
                    .count()
                    < 2,
            "it runs at both sides"
        );
    }
}

/// Why a job failed.
fn error_of(job: &Job) -> switchback_model::JobError {
    job.tasks.iter().find_map(|task| task.error.clone()).unwrap()
}

/// Does `act` in a world that `begin` made, once without and then with a kill at every turn, and has each end as `check` wants it.
fn killed_at_every_step(
    begin: impl Fn() -> World,
    act: impl Fn(&mut World, Kill) -> bool,
    check: impl Fn(&World),
) {
    for crash in [Crash::BeforeStep, Crash::AfterStep] {
        let mut kills = 0;
        for turn in 0..TURNS_MAX {
            let mut world = begin();
            let killed = act(&mut world, Some((turn, crash)));
            check(&world);
            if !world.control.jobs(None, None, 1, |job| !job.state.is_final()).unwrap().is_empty() {
                panic!("a job is left");
            }
            kills += usize::from(killed);
            // Idle turns kill nothing; past the last step nothing is left to kill.
            if !killed && turn > 40 {
                break;
            }
        }
        assert!(kills >= 1, "nothing was killed");
    }
}

fn failed_over() -> World {
    World::protected().failed_over()
}

impl World {
    fn failed_over(self) -> Self {
        let mut world = self;
        world.operate(ItemOperation::UnplannedFailover { point: PointChoice::Latest, shut_down: true }, None);
        world
    }

    fn committed(self) -> Self {
        let mut world = self.failed_over();
        world.operate(ItemOperation::Commit, None);
        world
    }
}

fn committed() -> World {
    World::protected().committed()
}

fn away_protected() -> World {
    let mut world = committed();
    world.operate(ItemOperation::Reprotect(ReprotectOptions::default()), None);
    world.until_protected();
    world
}

#[test]
fn protect_survives_a_kill_at_every_step() {
    killed_at_every_step(
        World::new,
        |world, kill| {
            let job = world.control.protect("tester", protect()).unwrap();
            let killed = world.done(&job, kill);
            world.until_protected();
            killed
        },
        |world| {
            assert_eq!(world.recovery.all().len(), 1, "one instance, however often it was asked for");
            assert_eq!(world.item().job, None);
        },
    );
}

#[test]
fn unplanned_failover_survives_a_kill_at_every_step() {
    killed_at_every_step(
        World::protected,
        |world, kill| {
            world.operate(
                ItemOperation::UnplannedFailover { point: PointChoice::Latest, shut_down: true },
                kill,
            )
        },
        |world| {
            let item = world.item();
            assert_eq!(
                (item.protection.active, item.protection.phase, item.protection.epoch.0),
                (Side::Away, Phase::FailedOver, 2)
            );
            assert_eq!(world.recovery.all()[0].power, Power::On);
        },
    );
}

#[test]
fn planned_failover_survives_a_kill_at_every_step() {
    killed_at_every_step(
        World::protected,
        |world, kill| world.operate(ItemOperation::PlannedFailover, kill),
        |world| {
            let item = world.item();
            assert!(item.failover.as_ref().unwrap().planned);
            assert_eq!((item.protection.active, item.final_cycle), (Side::Away, None));
            assert_eq!(world.home.all()[0].power, Power::Off);
        },
    );
}

#[test]
fn commit_reprotect_and_what_takes_back_survive_a_kill_at_every_step() {
    killed_at_every_step(
        failed_over,
        |world, kill| world.operate(ItemOperation::Commit, kill),
        |world| assert!(world.recovery.all()[0].snapshots.is_empty() && world.item().replication.is_none()),
    );
    killed_at_every_step(
        committed,
        |world, kill| {
            let killed = world.operate(ItemOperation::Reprotect(ReprotectOptions::default()), kill);
            world.until_protected();
            killed
        },
        |world| assert_eq!((world.item().protection.epoch.0, world.home.all()[0].power), (3, Power::Off)),
    );
    killed_at_every_step(
        failed_over,
        |world, kill| world.operate(ItemOperation::CancelFailover, kill),
        |world| {
            assert_eq!((world.home.all()[0].power, world.recovery.all()[0].power), (Power::On, Power::Off));
            assert!(world.recovery.all()[0].snapshots.is_empty());
        },
    );
    killed_at_every_step(
        failed_over,
        |world, kill| {
            world.operate(
                ItemOperation::ChangeRecoveryPoint { point: PointChoice::Point { seq: Seq(1) } },
                kill,
            )
        },
        |world| assert_eq!(world.item().failover.unwrap().seq, Seq(1)),
    );
}

#[test]
fn tests_and_disabling_survive_a_kill_at_every_step() {
    killed_at_every_step(
        World::protected,
        |world, kill| {
            let killed = world.operate(ItemOperation::TestFailover { point: PointChoice::Latest }, kill);
            assert_eq!(world.recovery.all().len(), 2);
            world.operate(ItemOperation::TestFailoverCleanup { comments: String::new() }, None);
            killed
        },
        |world| assert_eq!((world.recovery.all().len(), world.item().test), (1, None)),
    );
    killed_at_every_step(
        World::protected,
        |world, kill| world.operate(ItemOperation::Disable { clean_up: true }, kill),
        |world| {
            assert!(world.control.items().unwrap().is_empty() && world.recovery.all().is_empty());
            assert!(world.recovery.none_lent());
            assert_eq!(world.home.all()[0].power, Power::On, "the machine itself stays");
        },
    );
}

#[test]
fn the_whole_round_ends_at_home_and_every_plan_has_the_twin() {
    let mut world = World::protected();
    let plan = RecoveryPlan {
        name: name("RP1"),
        home_site: name("home"),
        away_site: name("recovery"),
        groups: vec![PlanGroup { machines: vec![name("web01")], ..PlanGroup::default() }],
        protection_groups: Vec::new(),
        job: None,
    };
    world.control.put_plan(&plan).unwrap();
    let run = |world: &mut World, operation| {
        let job = world.control.operate_plan("tester", &name("RP1"), operation).unwrap();
        world.done(&job, None);
    };
    // Disaster: nobody shuts it down.
    world.home.set_power("web01", Power::Off);
    run(&mut world, ItemOperation::UnplannedFailover { point: PointChoice::LatestMultiVm, shut_down: false });
    assert!(world.item().failover.unwrap().group_tag.is_some());
    run(&mut world, ItemOperation::Commit);
    run(&mut world, ItemOperation::Reprotect(ReprotectOptions::default()));
    world.until_protected();
    let groups = world.control.plan(&name("RP1")).unwrap().protection_groups;
    assert_eq!(groups, [name("PG1"), name("PG1_Failback")]);
    assert_eq!(world.control.item(&name("web01")).unwrap().group, name("PG1_Failback"));
    run(&mut world, ItemOperation::PlannedFailover);
    run(&mut world, ItemOperation::Commit);
    run(&mut world, ItemOperation::Reprotect(ReprotectOptions::default()));
    world.until_protected();
    let item = world.item();
    assert_eq!((item.protection.active, item.protection.phase), (Side::Home, Phase::Protected));
    assert!(item.retired.is_empty(), "the replicas of earlier directions are gone: {:?}", item.retired);
}

#[test]
fn a_full_datastore_leaves_nothing_half_done() {
    let mut world = World::new();
    *world.recovery.full.lock().unwrap() = true;
    let job = world.control.protect("tester", protect()).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Failed);
    assert!(
        job.tasks
            .iter()
            .any(|task| task.error.as_ref().is_some_and(|error| error.code == "site.datastore-full")),
        "{job:#?}"
    );
    assert!(world.control.items().unwrap().is_empty() && world.recovery.all().is_empty());
    *world.recovery.full.lock().unwrap() = false;
    let job = world.control.restart_job("tester", job.id).unwrap();
    world.done(&job, None);
    world.until_protected();
}

#[test]
fn a_machine_that_cannot_be_fenced_is_not_reprotected() {
    let mut world = World::protected();
    *world.home.stuck.lock().unwrap() = true;
    world.home.set_power("web01", Power::Off);
    world.operate(ItemOperation::UnplannedFailover { point: PointChoice::Latest, shut_down: true }, None);
    world.operate(ItemOperation::Commit, None);
    // It comes back from the dead.
    world.home.set_power("web01", Power::On);
    world.may_run_twice = true;
    world.round();
    let job = world
        .control
        .operate("tester", &name("web01"), ItemOperation::Reprotect(ReprotectOptions::default()))
        .unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Failed);
    let error = job.tasks.iter().find_map(|task| task.error.clone()).unwrap();
    assert_eq!(error.code, "reprotect.not-fenced");
    let view = world.control.item(&name("web01")).unwrap();
    assert_eq!(
        (view.item.protection.phase, view.item.replication),
        (Phase::Committed, None),
        "nothing has changed"
    );
    assert!(
        view.reasons.iter().any(|reason| reason.code == "protection.stale-instance"),
        "{:?}",
        view.reasons
    );
    *world.home.stuck.lock().unwrap() = false;
    let job = world.control.restart_job("tester", job.id).unwrap();
    world.done(&job, None);
    assert_eq!(world.home.all()[0].power, Power::Off);
}

#[test]
fn two_operators_at_once_and_illegal_wishes_are_refused_with_what_is_possible() {
    let world = World::protected();
    let operate = |operation| world.control.operate("tester", &name("web01"), operation);
    let illegal = operate(ItemOperation::Commit).unwrap_err();
    assert_eq!(illegal.kind, ErrorKind::IllegalState);
    assert!(illegal.to_string().contains("unplanned failover"), "{illegal}");
    operate(ItemOperation::Resynchronize).unwrap();
    let second = operate(ItemOperation::UnplannedFailover { point: PointChoice::Latest, shut_down: false })
        .unwrap_err();
    assert_eq!((second.kind, second.error.code.as_str()), (ErrorKind::Conflict, "object.busy"));
    let twice = world.control.protect("tester", protect()).unwrap_err();
    assert_eq!(twice.kind, ErrorKind::Conflict, "{twice}");
    let gone = world.control.operate("tester", &name("db09"), ItemOperation::Commit).unwrap_err();
    assert_eq!(gone.kind, ErrorKind::NotFound);
}

#[test]
fn a_failover_without_a_recovery_point_and_a_failback_without_a_target_say_so() {
    let mut world = World::new();
    let job = world.control.protect("tester", protect()).unwrap();
    world.done(&job, None);
    let early = world.control.operate(
        "tester",
        &name("web01"),
        ItemOperation::UnplannedFailover { point: PointChoice::Latest, shut_down: false },
    );
    assert!(early.unwrap_err().to_string().contains("enabling protection"));
    let mut world = away_protected();
    world.down = vec!["home-mt"];
    // Until it is taken for dead.
    (0..25).for_each(|_| world.round());
    let job = world
        .control
        .operate(
            "tester",
            &name("web01"),
            ItemOperation::UnplannedFailover { point: PointChoice::Latest, shut_down: true },
        )
        .unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Failed);
    let error = job.tasks[0].error.clone().unwrap();
    assert_eq!(error.code, "server.no-heartbeat");
    assert!(error.remedy.contains("restart the job"));
    world.down.clear();
    world.round();
    let job = world.control.restart_job("tester", job.id).unwrap();
    world.done(&job, None);
    assert_eq!(world.item().protection.active, Side::Home);
}

#[test]
fn a_cancelled_planned_failover_leaves_the_machine_running() {
    let mut world = World::protected();
    let job = world.control.operate("tester", &name("web01"), ItemOperation::PlannedFailover).unwrap();
    for _ in 0..3 {
        world.control.work_once(None).unwrap();
    }
    world.control.cancel_job("tester", job.id).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Cancelled);
    let item = world.item();
    assert_eq!((item.final_cycle, item.job, item.protection.active), (None, None, Side::Home));
    assert_eq!(world.home.all()[0].power, Power::On);
    let over = world.control.cancel_job("tester", job.id).unwrap_err();
    assert_eq!(over.kind, ErrorKind::IllegalState);
}

#[test]
fn a_machine_whose_agent_cannot_read_all_its_disks_is_not_protected() {
    let mut world = World::new();
    world.hidden_disks = 1;
    world.round();
    let job = world.control.protect("tester", protect()).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.tasks[0].error.as_ref().unwrap().code, "machine.unsupported-disk", "{job:#?}");
    assert!(world.control.items().unwrap().is_empty(), "nothing of it is left");
}

#[test]
fn a_component_reports_only_for_the_role_that_its_certificate_states() {
    let world = World::new();
    let peer = switchback_identity::PeerIdentity {
        role: switchback_identity::Role::Source,
        name: "web01".parse().unwrap(),
    };
    let report = switchback_model::component::Report {
        build: "test".into(),
        address: String::new(),
        site: "home".into(),
        started: switchback_model::UnixMillis(0),
        state: switchback_model::component::State::MasterTarget(Default::default()),
        incarnation_proof: None,
    };
    assert_eq!(world.control.report(&peer, report).unwrap_err().kind, ErrorKind::Forbidden);
}

/// Home has no process server any more, as after the disaster: replication waits, says why, and goes on by itself.
#[test]
fn a_lost_process_server_raises_the_alarm_and_replication_goes_on_when_it_is_back() {
    let mut world = World::protected();
    let policy = switchback_model::ReplicationPolicy { rpo_threshold_ms: 20_000, ..Default::default() };
    world.control.update_policy(&name("PG1"), &policy).unwrap();
    world.down = vec!["home-ps"];
    (0..30).for_each(|_| world.round());
    let view = world.control.item(&name("web01")).unwrap();
    for code in ["rpo.exceeded", "server.no-heartbeat"] {
        assert!(view.reasons.iter().any(|reason| reason.code == code), "{code}: {:?}", view.reasons);
    }
    let points = view.points;
    world.down.clear();
    (0..3).for_each(|_| world.round());
    let view = world.control.item(&name("web01")).unwrap();
    assert!(view.points > points && view.reasons.is_empty(), "{:?}", view.reasons);
}
