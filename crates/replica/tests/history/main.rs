//! Any sequence of cycles, crashes, prunes, rollbacks and stands at a point gives at every kept point exactly the model's bytes.
//!
//! A simulated source with two disks replicates into a `DiskReplica` on a simulated machine that loses power, or the process, at
//! a random operation. A model keeps what each committed point must hold. After every crash, and at the end, every point
//! that the replica lists is read through a view and compared, and no acknowledged point may be missing. The disks are read too: they
//! hold the newest applied point, or that at which the replica stands.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests, of small sizes; the seed of a failure is printed"
)]

mod source;
mod world;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use world::World;

/// How many histories: 10,000 where the gate runs, fewer beside a developer's other work.
fn cases() -> u64 {
    std::env::var("SWITCHBACK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

/// Every second one from `first`, so that two tests share them; `SWITCHBACK_SEED=n` runs just that history.
fn seeds(first: u64) -> Box<dyn Iterator<Item = u64>> {
    match std::env::var("SWITCHBACK_SEED").ok().and_then(|text| text.parse().ok()) {
        Some(seed) => Box::new(std::iter::once(seed)),
        None => Box::new((first..cases()).step_by(2)),
    }
}

struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with SWITCHBACK_SEED={}", self.0);
        }
    }
}

#[test]
fn every_kept_point_holds_exactly_what_the_source_had_even_seeds() {
    live_histories(0);
}

#[test]
fn every_kept_point_holds_exactly_what_the_source_had_odd_seeds() {
    live_histories(1);
}

fn live_histories(first: u64) {
    for seed in seeds(first) {
        let _shown = Seed(seed);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut world = World::new(seed, rng.random_bool(0.3));
        for _ in 0..rng.random_range(4..16) {
            if rng.random_bool(0.35) {
                world.plan_crash(rng.random_range(1..60));
            }
            world.step(&mut rng);
        }
        world.settle();
        world.check("at the end");
    }
}

/// Losses of power at each operation: what survives of what was not synced is drawn anew each time.
const POWER_LOSSES: u64 = 4;

/// The exhaustive ones: a scenario, crashed at each of its operations, both ways.
fn crash_everywhere(scenario: fn(&mut World, &mut ChaCha8Rng)) {
    let live = |crash_at: Option<u64>, power: bool, machine: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut world = World::new(machine, false);
        world.power_loss_only(power);
        if let Some(at) = crash_at {
            world.plan_crash(at);
        }
        scenario(&mut world, &mut rng);
        world.settle();
        world.check(&format!("after a crash at {crash_at:?}"));
        world.ops()
    };
    let ops = live(None, false, 0);
    assert!(ops > 100, "a whole life has only {ops} operations");
    for at in 1..=ops {
        let _shown = Seed(at);
        for machine in 0..POWER_LOSSES {
            live(Some(at), true, machine);
        }
        live(Some(at), false, 0);
    }
}

#[test]
fn a_crash_at_any_operation_of_a_whole_life_loses_nothing() {
    crash_everywhere(|world, rng| {
        for _ in 0..3 {
            world.cycle(rng);
            world.maintain();
        }
        world.prune_middle();
        world.cycle(rng);
        world.roll_back(1);
        world.cycle(rng);
    });
}

/// It stands with an open cycle and a staged one, moves to older and newer points, resumes, stands again and settles.
#[test]
fn a_crash_at_any_operation_while_standing_moving_resuming_and_settling_loses_nothing() {
    crash_everywhere(|world, rng| {
        for _ in 0..3 {
            world.cycle(rng);
        }
        world.leave_open(rng);
        world.stand_at(1);
        world.stand_at(3);
        world.maintain();
        world.stand_at(2);
        world.resume();
        world.cycle(rng);
        world.stand_at(0);
        world.stand_at(2);
        world.settle_there();
        world.cycle(rng);
    });
}
