//! Proofs of recovery points: killed at every step, in the way of nobody, kept within bounds, and by schedule.

use switchback_control::{Crash, ErrorKind};
use switchback_identity::{PeerIdentity, Role};
use switchback_model::component::{Desired, Problem, SandboxDesired, SandboxPlan, SandboxSeen, SandboxState};
use switchback_model::{
    ItemOperation, Job, JobState, ObjectName, PROBE_LIMIT_MS, PointChoice, Probe, ProofOutcome, Seq, Side,
    Verdict,
};
use switchback_sites::{Power, Sight};

use crate::world::{World, is_sandbox};
use crate::{Kill, error_of, killed_at_every_step, name};

const PICTURE: &[u8] = b"\x89PNG";
const LOGIN: &str = "booting\r\nweb01 login: ";

fn says(world: &World, text: &str) {
    text.clone_into(&mut world.recovery.sandboxes_say.lock().unwrap());
}

/// A protected machine whose points work.
fn works() -> World {
    let world = World::new();
    world.map_networks();
    let world = world.with_web01_protected();
    says(&world, LOGIN);
    *world.recovery.sight.lock().unwrap() = Sight { picture: PICTURE.to_vec(), ..Sight::default() };
    world
}

/// The same where the recovery site has no sandboxes: its master target runs them.
fn works_beside() -> World {
    let world = works();
    *world.recovery.without_sandboxes.lock().unwrap() = true;
    world
}

fn web() -> ObjectName {
    name("web01")
}

fn begin(world: &World, point: PointChoice) -> Job {
    world.control.verify("tester", &web(), point, None).unwrap()
}

impl World {
    fn proved(&mut self, point: PointChoice, kill: Kill) -> bool {
        let job = begin(self, point);
        self.done(&job, kill)
    }

    /// Until the sandbox has been started.
    fn until_it_runs(&mut self) {
        let is_on = |machine: &switchback_sites::Machine| machine.power == Power::On;
        while !self.recovery.all().iter().any(is_on) && self.sandboxes.running.is_none() {
            self.control.work_once(None).unwrap();
            self.round();
        }
    }

    fn last_proof(&self) -> ProofOutcome {
        self.item().proving.last.unwrap()
    }

    fn codes(&self) -> Vec<String> {
        self.control.item(&web()).unwrap().reasons.into_iter().map(|reason| reason.code).collect()
    }

    /// Nothing of a proof is there but what is kept of it, and the machine is as it was.
    fn is_untouched(&self) {
        let item = self.item();
        assert_eq!((&item.proving.in_hand, item.job), (&None, None));
        assert_eq!((item.protection.active, item.protection.epoch.0), (Side::Home, 1));
        let machines = self.recovery.all();
        assert!(machines.len() == 1 && machines[0].power == Power::Off, "{machines:?}");
        assert_eq!(self.home.all()[0].power, Power::On);
        assert_eq!(self.desired_sandbox(), None);
    }

    /// What the recovery site's master target is to run.
    fn desired_sandbox(&self) -> Option<SandboxDesired> {
        let peer = PeerIdentity { role: Role::Target, name: "recovery-mt".parse().unwrap() };
        let Desired::MasterTarget(desired) = self.control.desired(&peer, None).unwrap().desired else {
            panic!()
        };
        desired.replicas.into_iter().find_map(|replica| replica.sandbox)
    }
}

/// A proof of the newest point whose sandbox runs and says this.
fn in_the_sandbox(text: &str) -> (World, Job) {
    in_the_sandbox_of(works(), text)
}

fn in_the_sandbox_of(mut world: World, text: &str) -> (World, Job) {
    says(&world, text);
    let job = begin(&world, PointChoice::Latest);
    world.until_it_runs();
    (world, job)
}

#[test]
fn a_proof_survives_a_kill_at_every_step_and_leaves_its_verdict_alone() {
    for begin in [works, works_beside] {
        killed_at_every_step_from(begin);
    }
}

fn killed_at_every_step_from(begin: fn() -> World) {
    killed_at_every_step(
        begin,
        |world, kill| world.proved(PointChoice::Point { seq: Seq(1) }, kill),
        |world| {
            world.is_untouched();
            let proofs = world.control.proofs(&web()).unwrap();
            assert_eq!(proofs.len(), 1, "one proof, however often its steps were done");
            let (outcome, last) = (&proofs[0].outcome, world.last_proof());
            assert_eq!((outcome, outcome.verdict, outcome.seq), (&last, Verdict::Passed, Seq(1)));
            assert!(
                proofs[0].console.ends_with("web01 login: ") && outcome.seen.contains("login"),
                "{proofs:?}"
            );
            assert_eq!(world.control.proof_picture(&web(), outcome.id).unwrap(), PICTURE);
        },
    );
}

#[test]
fn a_sandbox_is_like_its_machine_but_has_no_network() {
    let (mut world, job) = in_the_sandbox("booting");
    let machines = world.recovery.all();
    let (sandbox, replica) = (
        machines.iter().find(|machine| is_sandbox(machine)).unwrap(),
        machines.iter().find(|machine| !is_sandbox(machine)).unwrap(),
    );
    assert_eq!(sandbox.nics.len(), replica.nics.len());
    assert!(replica.nics.iter().all(|nic| nic.network.is_some()), "{replica:?}");
    assert!(sandbox.nics.iter().all(|nic| nic.network.is_none()), "{sandbox:?}");
    assert_eq!(
        (sandbox.memory_mib, sandbox.cpus, &sandbox.boot),
        (replica.memory_mib, replica.cpus, &replica.boot)
    );
    let serials = |machine: &switchback_sites::Machine| {
        machine.disks.iter().map(|disk| (disk.serial.clone(), disk.size)).collect::<Vec<_>>()
    };
    assert_eq!(serials(sandbox), serials(replica));
    world.control.cancel_job("tester", job.id).unwrap();
    assert_eq!(world.finish(&job, None).0.state, JobState::Cancelled);
    world.is_untouched();
    assert!(world.control.proofs(&web()).unwrap().is_empty(), "no verdict");
}

#[test]
fn a_point_that_fails_is_told_until_a_proof_passes() {
    let mut world = works();
    says(&world, "Kernel panic - not syncing: Attempted to kill init!");
    world.proved(PointChoice::Latest, None);
    assert_eq!(
        (world.last_proof().verdict, world.codes()),
        (Verdict::Failed, vec!["proof.failed".to_owned()])
    );
    let reason = world.control.item(&web()).unwrap().reasons.remove(0);
    assert!(reason.message.contains("kernel gave up") && !reason.remedy.is_empty(), "{reason}");
    // Silence is no verdict, where nobody has said what is to come.
    let patience = Probe { limit_ms: 20_000, ..Probe::default() };
    world.control.set_proving(&web(), patience, 0).unwrap();
    says(&world, "");
    world.proved(PointChoice::Latest, None);
    let last = world.last_proof();
    assert_eq!((last.verdict, world.codes()), (Verdict::Inconclusive, vec!["proof.inconclusive".to_owned()]));
    assert!(last.ended.0 - last.started.0 >= 20_000, "it had its time: {last:?}");
    says(&world, LOGIN);
    world.proved(PointChoice::Point { seq: Seq(1) }, None);
    assert_eq!(world.last_proof(), last, "an older point that works tells nothing of the newest");
    world.proved(PointChoice::Latest, None);
    assert_eq!((world.last_proof().verdict, world.codes().len()), (Verdict::Passed, 0));
    let verdicts: Vec<_> =
        world.control.proofs(&web()).unwrap().into_iter().map(|proof| proof.outcome.verdict).collect();
    assert_eq!(
        verdicts,
        [Verdict::Passed, Verdict::Passed, Verdict::Inconclusive, Verdict::Failed],
        "newest first"
    );
}

#[test]
fn a_sandbox_that_goes_off_or_cannot_read_its_point_is_told_apart() {
    let (mut world, job) = in_the_sandbox("");
    world.recovery.sight.lock().unwrap().failed_requests = 2;
    (0..5).for_each(|_| {
        world.round();
        world.control.work_once(None).unwrap();
    });
    let id = world.recovery.all().into_iter().find(is_sandbox).unwrap().id;
    world.recovery.set_power(&id, Power::Off);
    world.done(&job, None);
    assert_eq!(world.last_proof().verdict, Verdict::Inconclusive, "what was seen before it went off counts");
    world.is_untouched();
}

/// In a disaster nobody waits for a proof, and the replica goes nowhere while it is shown (which the world judges).
#[test]
fn a_proof_gives_way_to_a_failover_wherever_it_is() {
    let failover = || ItemOperation::UnplannedFailover { point: PointChoice::Latest, shut_down: true };
    let operations =
        [failover, || ItemOperation::PlannedFailover, || ItemOperation::Disable { clean_up: false }];
    for (operation, begins) in operations
        .iter()
        .flat_map(|operation| [(operation, works as fn() -> World), (operation, works_beside)])
    {
        for turns in 0..14 {
            let mut world = begins();
            says(&world, "booting");
            let proof = begin(&world, PointChoice::Latest);
            for _ in 0..turns {
                world.control.work_once(None).unwrap();
                world.round();
            }
            let job = world.control.operate("tester", &web(), operation()).unwrap();
            let (began, job) = (world.control.now(), world.finish(&job, None).0);
            assert_eq!(job.state, JobState::Succeeded, "after {turns} turns: {job:#?}");
            assert_eq!(world.finish(&proof, None).0.state, JobState::Cancelled, "after {turns} turns");
            assert!(!world.recovery.all().iter().any(is_sandbox), "after {turns} turns");
            world.round();
            assert_eq!(world.sandboxes.running, None, "after {turns} turns");
            assert!(job.ended.unwrap().0 - began.0 < 60_000, "nobody waits long");
        }
    }
}

#[test]
fn a_master_targets_sandbox_is_like_the_machine_and_shows_its_point_alone() {
    let (mut world, job) = in_the_sandbox_of(works_beside(), "booting");
    let like = world.recovery.all().remove(0);
    let (sandbox, _) = world.sandboxes.running.clone().unwrap();
    let SandboxPlan { cpus, memory_mib, uefi, disks, macs, limit_ms } = sandbox.plan;
    assert_eq!((cpus, memory_mib, uefi), (like.cpus, like.memory_mib, false));
    assert!(limit_ms > PROBE_LIMIT_MS && limit_ms < 2 * PROBE_LIMIT_MS, "it ends by itself: {limit_ms}");
    assert_eq!(macs, like.nics.iter().map(|nic| nic.mac.clone()).collect::<Vec<_>>());
    let serials: Vec<_> = like.disks.iter().map(|disk| disk.serial.clone()).collect();
    assert_eq!(disks.iter().map(|disk| disk.serial.clone()).collect::<Vec<_>>(), serials);
    assert!(world.recovery.all().len() == 1, "nothing is made at the site");
    world.control.cancel_job("tester", job.id).unwrap();
    assert_eq!(world.finish(&job, None).0.state, JobState::Cancelled);
    world.round();
    assert_eq!(world.sandboxes.running, None);
    world.is_untouched();
    // Nobody else tells of it, nor of what nobody waits for any more.
    let (world, _) = in_the_sandbox_of(works_beside(), "booting");
    let (sandbox, started) = world.sandboxes.running.clone().unwrap();
    let tell = |role, name: &str, id: &str| {
        let peer = PeerIdentity { role, name: name.parse().unwrap() };
        let (console, screen, picture) = (LOGIN.to_owned(), String::new(), String::new());
        let (state, memory_mib) = (SandboxState::Runs, 1);
        let seen = SandboxSeen {
            id: id.into(),
            state,
            started,
            memory_mib,
            console,
            screen,
            picture,
            failed_requests: 0,
        };
        world.control.sandbox_seen(&peer, seen).unwrap().is_wanted
    };
    assert!(tell(Role::Target, "recovery-mt", &sandbox.id));
    assert!(!tell(Role::Target, "recovery-mt", "proof-0"));
    assert!(!tell(Role::Target, "home-mt", &sandbox.id));
    assert!(!tell(Role::ProcessServer, "recovery-mt", &sandbox.id));
}

#[test]
fn what_happens_to_a_master_targets_sandbox_blames_no_point() {
    type Fault = fn(&mut World);
    let faults: [Fault; 3] = [
        // It was killed, and starts it from nothing.
        |world| world.sandboxes.running = None,
        |world| world.sandboxes.is_silent = true,
        |world| world.recovery.sight.lock().unwrap().failed_requests = 3,
    ];
    let soon = || {
        let world = works_beside();
        world.control.set_proving(&web(), Probe { limit_ms: 60_000, ..Probe::default() }, 0).unwrap();
        in_the_sandbox_of(world, "booting")
    };
    for (number, fault) in faults.into_iter().enumerate() {
        let (mut world, job) = soon();
        for _ in 0..5 {
            world.round();
            world.control.work_once(None).unwrap();
        }
        fault(&mut world);
        world.done(&job, None);
        assert_eq!(world.last_proof().verdict, Verdict::Inconclusive, "fault {number}");
        world.is_untouched();
    }
    let (mut world, job) = soon();
    world.done(&job, None);
    assert_eq!(world.last_proof().verdict, Verdict::Failed, "it had its time");
    let (mut world, job) = soon();
    world.sandboxes.are_off = true;
    world.done(&job, None);
    assert_eq!(world.last_proof().verdict, Verdict::Failed, "it went off by itself");
}

#[test]
fn a_master_target_without_qemu_says_so_and_nothing_is_left() {
    let mut world = works_beside();
    let (code, message) = ("proof.no-sandbox".to_owned(), "QEMU is not installed".to_owned());
    world.sandboxes.refuses = Some(Problem { code, message });
    let job = begin(&world, PointChoice::Latest);
    let (job, _) = world.finish(&job, None);
    let error = error_of(&job);
    assert_eq!((job.state, error.code.as_str()), (JobState::Failed, "proof.no-sandbox"));
    assert!(error.message.contains("QEMU") && !error.remedy.is_empty(), "{error}");
    world.is_untouched();
    assert!(world.control.proofs(&web()).unwrap().is_empty(), "no verdict");
}

#[test]
fn a_sandbox_that_cannot_be_removed_is_removed_later() {
    let stuck = || {
        let mut world = works();
        *world.recovery.stuck.lock().unwrap() = true;
        let job = begin(&world, PointChoice::Latest);
        let (job, _) = world.finish(&job, None);
        assert_eq!((job.state, error_of(&job).code.as_str()), (JobState::Failed, "site.failed"));
        assert_eq!(world.last_proof().verdict, Verdict::Passed, "the verdict is not lost");
        // Its disks stand on the view.
        assert!(world.item().proving.in_hand.unwrap().sandbox.is_some());
        (0..3).for_each(|_| world.round());
        *world.recovery.stuck.lock().unwrap() = false;
        (world, job)
    };
    // The same when nothing had come of it yet.
    let (mut world, job) = in_the_sandbox("booting");
    *world.recovery.stuck.lock().unwrap() = true;
    world.control.cancel_job("tester", job.id).unwrap();
    assert_eq!(world.finish(&job, None).0.state, JobState::Cancelled);
    assert!(world.item().proving.in_hand.unwrap().sandbox.is_some());
    (0..3).for_each(|_| world.round());

    let (mut world, job) = stuck();
    let job = world.control.restart_job("tester", job.id).unwrap();
    world.done(&job, None);
    world.is_untouched();

    let (mut world, _) = stuck();
    world.proved(PointChoice::Latest, None);
    world.is_untouched();
    assert_eq!(world.control.proofs(&web()).unwrap().len(), 2);

    let (mut world, _) = stuck();
    world.operate(ItemOperation::UnplannedFailover { point: PointChoice::Latest, shut_down: true }, None);
    assert!(!world.recovery.all().iter().any(is_sandbox));
    assert_eq!(world.item().proving.in_hand, None);
}

#[test]
fn what_cannot_be_proved_is_refused_with_the_reason() {
    let mut world = works();
    let refused = |world: &World, probe: Option<Probe>| {
        let error = world.control.verify("tester", &web(), PointChoice::Latest, probe).unwrap_err();
        (error.kind, error.error.code.clone())
    };
    let bad = |pattern: &str, limit_ms| Some(Probe { pattern: Some(pattern.into()), limit_ms });
    assert_eq!(refused(&world, bad("(", 60_000)), (ErrorKind::Invalid, "proof.pattern".into()));
    assert_eq!(refused(&world, bad("x", 0)), (ErrorKind::Invalid, "proof.limit".into()));
    let job = begin(&world, PointChoice::Latest);
    assert_eq!(refused(&world, None), (ErrorKind::Conflict, "proof.in-hand".into()));
    world.done(&job, None);
    let none = begin(&world, PointChoice::Point { seq: Seq(999) });
    let (none, _) = world.finish(&none, None);
    assert_eq!((none.state, error_of(&none).code.as_str()), (JobState::Failed, "failover.no-such-point"));
    world.is_untouched();
    world.operate(ItemOperation::UnplannedFailover { point: PointChoice::Latest, shut_down: true }, None);
    assert_eq!(refused(&world, None), (ErrorKind::IllegalState, "proof.not-protected".into()));
}

#[test]
fn old_pictures_and_verdicts_go_and_all_of_them_with_the_protection() {
    let mut world = works();
    for _ in 0..70 {
        world.proved(PointChoice::Latest, None);
    }
    let proofs = world.control.proofs(&web()).unwrap();
    assert_eq!(proofs.len(), 64);
    assert!(proofs.is_sorted_by(|newer, older| newer.outcome.started > older.outcome.started));
    let pictures = |world: &World| {
        let has = |id| world.control.proof_picture(&web(), id).is_ok();
        proofs.iter().map(|proof| has(proof.outcome.id)).collect::<Vec<_>>()
    };
    let has = pictures(&world);
    assert!(has[..8].iter().all(|has| *has) && !has[8..].contains(&true), "{has:?}");
    assert!(
        proofs.iter().zip(&has).all(|(proof, has)| (proof.picture_len > 0) == *has),
        "each says whether it has one"
    );
    world.operate(ItemOperation::Disable { clean_up: true }, None);
    assert!(!pictures(&world).contains(&true), "nothing is left");
    assert!(world.control.proof(&web(), proofs[0].outcome.id).is_err());
}

#[test]
fn a_schedule_proves_the_newest_point_again_and_again_with_the_machines_own_probe() {
    const HOUR: u64 = 3_600_000;
    let mut world = works();
    let own = Probe { pattern: Some("^READY$".into()), limit_ms: 60_000 };
    assert_eq!(world.control.set_proving(&web(), own.clone(), 1).unwrap_err().error.code, "proof.too-often");
    world.control.set_proving(&web(), own.clone(), 2 * HOUR).unwrap();
    says(&world, "READY\n");
    let mut points = Vec::new();
    for _ in 0..3 {
        world.control.begin_due_proof().unwrap();
        let jobs =
            world.control.jobs(Some(&web()), None, 10, |job| job.state == JobState::NotStarted).unwrap();
        assert_eq!((jobs.len(), jobs[0].by.as_str()), (1, "switchback"));
        world.control.begin_due_proof().unwrap();
        assert_eq!(
            world
                .control
                .jobs(Some(&web()), None, 10, |job| job.state == JobState::NotStarted)
                .unwrap()
                .len(),
            1,
            "one at a time"
        );
        world.done(&jobs[0], None);
        points.push(world.last_proof().seq);
        let soon = world.control.proofs(&web()).unwrap();
        assert_eq!(soon[0].probe, own);
        world.control.begin_due_proof().unwrap();
        assert!(
            world
                .control
                .jobs(Some(&web()), None, 10, |job| job.state == JobState::NotStarted)
                .unwrap()
                .is_empty(),
            "not yet"
        );
        world.clock.advance(2 * HOUR / 1000);
        (0..3).for_each(|_| world.round());
    }
    assert!(points.is_sorted_by(|older, newer| older < newer), "{points:?}");
    // A disaster: nothing is begun in its way.
    world.operate(ItemOperation::UnplannedFailover { point: PointChoice::Latest, shut_down: true }, None);
    world.clock.advance(2 * HOUR / 1000);
    world.control.begin_due_proof().unwrap();
    assert!(
        world
            .control
            .jobs(Some(&web()), None, 10, |job| job.state == JobState::NotStarted)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_restarted_configuration_server_goes_on_watching_and_counts_the_time_it_was_away() {
    let mut world = works();
    says(&world, "booting");
    let job = begin(&world, PointChoice::Latest);
    for _ in 0..20 {
        world.control.work_once(None).unwrap();
        world.round();
    }
    assert!(world.recovery.all().iter().any(|machine| is_sandbox(machine) && machine.power == Power::On));
    assert_eq!(world.control.work_once(Some(Crash::AfterStep)).unwrap(), switchback_control::Turn::Crashed);
    world.clock.advance(PROBE_LIMIT_MS / 1000);
    world.restart();
    world.round();
    world.done(&job, None);
    assert_eq!(world.last_proof().verdict, Verdict::Failed, "it had its time, and came only so far");
    world.is_untouched();
}
