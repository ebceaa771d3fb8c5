//! The spool on a machine that dies at every operation of a scenario.

use crate::model::{self, Model, Promised, assert_points, drain, open, request, send_cycle};
use switchback_disk::sim::Restart::{self, PowerLoss, ProcessKill};
use switchback_disk::sim::SimMachine;
use switchback_model::Seq;
use switchback_replica::{ReplicaError, ReplicaSession};
use switchback_spool::{Spool, SpoolError, Step};

/// Parts of the cycles. Together they take several segments.
const CYCLES: [u32; 5] = [4, 3, 1, 6, 2];

/// Sends the cycles that are missing, forwarding a little now and then.
fn scenario(spool: &Spool, promised: &mut Promised) -> Result<(), ReplicaError> {
    let mut session = spool.session(&request(1, Some(1)))?;
    let begin = session.status()?.last_point.map_or(0, |point| point.seq.0);
    for (seq, parts) in (1..).zip(CYCLES).skip(begin as usize) {
        send_cycle(&mut session, seq, parts, promised)?;
        // Not everything: the next cycle finds some of it still here.
        for _ in 0..seq + 1 {
            spool.forward_one();
        }
    }
    Ok(())
}

/// What was promised before the crash is there.
fn check_promises(spool: &Spool, promised: &Promised, context: &str) {
    let mut session = match spool.session(&request(1, Some(1))) {
        Ok(session) => session,
        Err(error) => panic!("{error}, {context}"),
    };
    let status = session.status().unwrap();
    let last = status.last_point.as_ref().map_or(0, |point| point.seq.0);
    let least = promised.points.keys().copied().max().unwrap_or(0);
    assert!(last >= least, "point {least} was promised, {last} is there, {context}");
    assert!(last <= promised.asked.unwrap_or(0), "{context}");
    if let Some((seq, parts)) = promised.parts
        && last < seq
    {
        let open = status.open.unwrap_or_else(|| panic!("cycle {seq} is gone, {context}"));
        assert_eq!(open.seq, Seq(seq), "{context}");
        assert!(open.next_part.0 >= parts, "{parts} parts were promised, {context}");
    }
    assert_eq!(spool.status().resync_needed, None, "{context}");
    assert_eq!(spool.status().damage, None, "{context}");
}

fn run(seed: u64, crashes: &[u64], restarts: &[Restart], context: &str) -> u64 {
    let (machine, model) = (SimMachine::new(seed), Model::new());
    let mut promised = Promised::default();
    let mut crashes = crashes.iter();
    let mut restarts = restarts.iter().copied().cycle();
    let mut restart = || machine.restart(restarts.next().unwrap());
    for life in 0.. {
        assert!(life < 100, "{context}");
        if let Some(n) = crashes.next() {
            machine.crash_at(machine.ops() + n);
        }
        let opened = Spool::open_stepped(machine.volume("cache"), model::config(), model.next_hop());
        let done = opened.map_err(|error: SpoolError| error.to_string()).and_then(|spool| {
            check_if_on(&machine, &spool, &promised, context);
            scenario(&spool, &mut promised).map_err(|error| error.to_string())
        });
        if done.is_ok() && !machine.is_off() {
            break;
        }
        assert!(machine.is_off(), "{done:?}, {context}");
        restart();
    }
    // What is there is forwarded, whatever the last life did not.
    restart();
    let spool = open(machine.volume("cache"), &model);
    check_promises(&spool, &promised, context);
    drain(&spool);
    assert_points(&model, &CYCLES, context);
    machine.ops()
}

fn check_if_on(machine: &SimMachine, spool: &Spool, promised: &Promised, context: &str) {
    // The crash may come while this looks: then it proves nothing.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        check_promises(spool, promised, context);
    }));
    if let Err(panic) = result
        && !machine.is_off()
    {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn whatever_was_promised_survives_a_crash_at_any_operation() {
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(|| {
        for restart in [PowerLoss, ProcessKill] {
            for seed in 0..2 {
                let ops = run(seed, &[], &[restart], "no crash");
                assert!(ops > 100, "the scenario does something");
                for n in 1..=ops {
                    run(seed, &[n], &[restart], &format!("seed {seed}, crash at {n}, {restart:?}"));
                }
            }
        }
    });
    let _ = std::panic::take_hook();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn it_survives_crash_upon_crash() {
    for seed in 0..60 {
        let crashes: Vec<u64> = (0..12).map(|life| 3 + (seed * 31 + life * 17) % 60).collect();
        // What only the kernel has after the process died is lost with the power then.
        for restarts in [&[PowerLoss][..], &[ProcessKill], &[ProcessKill, PowerLoss]] {
            run(seed, &crashes, restarts, &format!("seed {seed}, crashes {crashes:?}, {restarts:?}"));
        }
    }
}

#[test]
fn a_scenario_forwards_and_deletes_while_it_runs() {
    let (machine, model) = (SimMachine::new(1), Model::new());
    let spool = open(machine.volume("cache"), &model);
    scenario(&spool, &mut Promised::default()).unwrap();
    assert!(model.world().last_seq() > Seq(0), "some of it was forwarded");
    assert!(model.world().last_seq() < Seq(CYCLES.len() as u64), "but not all");
    drain(&spool);
    assert_eq!(spool.forward_one(), Step::Idle);
    assert!(spool.status().bytes < 8000, "what was forwarded is deleted");
}
