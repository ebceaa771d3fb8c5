//! A next hop that is lost at every call, that pauses, that has become another one.

use crate::model::{
    self, Model, Promised, assert_points, changes, commit_of, config, contents, drain, open, request, resync,
    send_cycle, send_part,
};
use switchback_delta::digest_of;
use switchback_disk::sim::SimMachine;
use switchback_model::{DiskIndex, Epoch, Seq};
use switchback_replica::{ReplicaError, ReplicaSession};
use switchback_spool::{Spool, Step};

const CYCLES: [u32; 4] = [4, 3, 5, 2];

fn spool(model: &Model) -> Spool {
    open(SimMachine::new(1).volume("cache"), model)
}

fn send(spool: &Spool, cycles: std::ops::RangeInclusive<u64>) {
    let mut session = spool.session(&request(1, Some(1))).unwrap();
    for seq in cycles {
        send_cycle(&mut session, seq, CYCLES[seq as usize - 1], &mut Promised::default()).unwrap();
    }
}

/// The answer lost or the call itself: every one of them, once and twice in a row.
#[test]
fn it_goes_on_wherever_the_next_hop_is_lost() {
    let calls = |fail_at| {
        let model = Model::new();
        model.world().fail_at = fail_at;
        let spool = spool(&model);
        // The first contact is the one thing that cannot wait.
        while spool.session(&request(1, Some(1))).is_err() {}
        send(&spool, 1..=2);
        for _ in 0..3 {
            spool.forward_one();
        }
        send(&spool, 3..=4);
        drain(&spool);
        assert_points(&model, &CYCLES, &format!("{fail_at:?}"));
        assert_eq!(spool.status().resync_needed, None, "{fail_at:?}");
        assert_eq!(spool.status().watermarks.recoverable, Some(Seq(4)), "{fail_at:?}");
        let world = model.world();
        world.calls
    };
    let all = calls(None);
    assert!(all > 60);
    for k in 1..=all {
        for works_before in [false, true] {
            calls(Some((k, works_before)));
        }
    }
}

#[test]
fn writers_go_on_while_the_next_hop_is_away_also_after_a_restart() {
    let (machine, model) = (SimMachine::new(1), Model::new());
    let first = open(machine.volume("cache"), &model);
    model.world().away = true;
    let error = first.session(&request(1, Some(1))).unwrap_err();
    assert!(matches!(error, ReplicaError::Disconnected { .. }), "the first contact needs it: {error}");
    model.world().away = false;
    send(&first, 1..=1);
    model.world().away = true;
    drop(first);

    let second = open(machine.volume("cache"), &model);
    send(&second, 2..=4);
    let mut session = second.session(&request(1, Some(1))).unwrap();
    let status = session.status().unwrap();
    assert_eq!(status.last_point.unwrap().seq, Seq(4));
    assert_eq!(status.generation, Some(model::generation(1)));
    assert_eq!((status.watermarks.received, status.watermarks.recoverable), (Some(Seq(4)), None));
    let Step::Wait { wait: first_wait, .. } = second.forward_one() else { panic!("it is away") };
    let waits: Vec<_> = (0..30).map(|_| second.forward_one()).collect();
    let Step::Wait { wait: last_wait, .. } = waits[29] else { panic!("it is away") };
    assert_eq!((first_wait, last_wait), (config().retry_min, config().retry_max));

    model.world().away = false;
    drain(&second);
    assert_points(&model, &CYCLES, "after it came back");
    assert_eq!(session.status().unwrap().watermarks.recoverable, Some(Seq(4)));
}

#[test]
fn a_pause_of_the_next_hop_is_waited_for_and_shown() {
    let model = Model::new();
    let spool = spool(&model);
    send(&spool, 1..=1);
    model.world().paused = true;
    let step = std::iter::repeat_with(|| spool.forward_one()).take(20).last().unwrap();
    assert!(matches!(&step, Step::Wait { reason: ReplicaError::Paused(_), .. }), "{step:?}");
    assert!(matches!(spool.status().waiting, Some(ReplicaError::Paused(_))));
    model.world().paused = false;
    drain(&spool);
    assert_points(&model, &CYCLES[..1], "after the pause");
}

/// The failover may be cancelled, and then everything spooled follows as if nothing had been; also what came meanwhile, and what a process
/// server that was started meanwhile has.
#[test]
fn a_target_that_stands_at_a_point_is_waited_for_and_nothing_is_dropped() {
    let (machine, model) = (SimMachine::new(5), Model::new());
    let first = open(machine.volume("cache"), &model);
    send(&first, 1..=1);
    drain(&first);
    // In the middle of a cycle that the target has begun to take.
    send(&first, 2..=2);
    assert_eq!(first.forward_one(), Step::Forwarded);
    model.world().standing = true;
    for _ in 0..5 {
        let step = first.forward_one();
        assert!(matches!(&step, Step::Wait { reason: ReplicaError::Standing { .. }, .. }), "{step:?}");
    }
    send(&first, 3..=3);
    drop(first);
    let second = open(machine.volume("cache"), &model);
    assert!(matches!(second.forward_one(), Step::Wait { reason: ReplicaError::Standing { .. }, .. }));
    send(&second, 4..=4);
    model.world().standing = false;
    drain(&second);
    assert_points(&model, &CYCLES, "after the failover was cancelled");
}

/// Whatever shows that the target is not where it was left ends in a resync, never in changes on top of something else.
#[test]
fn a_target_with_another_history_needs_a_resync() {
    type Alteration = (&'static str, fn(&Model));
    let alterations: [Alteration; 4] = [
        ("a point is lost", |model| drop(model.world().points.pop())),
        ("the replica was made anew", |model| model.world().id = 7),
        ("somebody else wrote", |model| {
            let mut world = model.world();
            let mut point = world.points[1].clone();
            (0..4).for_each(|_| {
                point.0.seq = point.0.seq.next();
                world.points.push(point.clone());
            });
        }),
        ("a point is another", |model| model.world().points[1].0.time.0 += 1),
    ];
    for (what, alter) in alterations {
        let model = Model::new();
        let spool = spool(&model);
        send(&spool, 1..=2);
        drain(&spool);
        let mut session = spool.session(&request(1, Some(1))).unwrap();
        // Loses the connection, so that the next one looks.
        model.world().away = true;
        send_cycle(&mut session, 3, CYCLES[2], &mut Promised::default()).unwrap();
        spool.forward_one();
        model.world().away = false;
        alter(&model);
        drain(&spool);
        let error = session.status().unwrap_err();
        assert!(matches!(error, ReplicaError::ResyncNeeded { .. }), "{what}: {error}");
        drop(session);

        let mut session = spool.session(&request(1, Some(1))).unwrap();
        let status = session.status().unwrap();
        assert_eq!(status.generation, None, "{what}");
        assert_eq!(status.last_point, model.world().points.last().map(|(point, _)| point.clone()), "{what}");
        let error = session.open_cycle(&changes(1)).unwrap_err();
        assert!(matches!(error, ReplicaError::ResyncNeeded { .. }), "{what}: {error}");
        drop(session);
        let mut session = spool.session(&request(1, Some(1))).unwrap();
        let seq = session.open_cycle(&resync(1)).unwrap().seq.0;
        send_part(&mut session, seq, 0, 0).unwrap();
        session.commit(&commit_of(seq, 1, 0)).unwrap();
        assert_eq!(session.status().unwrap().generation, Some(model::generation(1)), "{what}");
        session.open_cycle(&changes(1)).unwrap();
        drain(&spool);
        assert_eq!(model.world().last_seq(), Seq(seq), "{what}");
    }
}

#[test]
fn a_writer_whose_epoch_is_over_is_refused_and_so_is_what_it_left() {
    let model = Model::new();
    let spool = spool(&model);
    send(&spool, 1..=1);
    let mut old = spool.session(&request(1, Some(1))).unwrap();
    // At the target, first: it learns of it by forwarding.
    model.world().epoch = Epoch(5);
    drain(&spool);
    let stale = |error: ReplicaError| matches!(error, ReplicaError::StaleEpoch { current: Epoch(5), .. });
    assert!(stale(old.status().unwrap_err()));
    assert!(stale(spool.session(&request(1, Some(4))).unwrap_err()));
    assert!(model.world().points.is_empty(), "nothing of the old epoch was taken");
    // Here, first: the newer one takes over at once.
    let mut held = spool.session(&request(2, Some(5))).unwrap();
    let mut newer = spool.session(&request(3, Some(6))).unwrap();
    assert!(matches!(held.status().unwrap_err(), ReplicaError::StaleEpoch { current: Epoch(6), .. }));
    assert_eq!(newer.status().unwrap().epoch, Epoch(6));
    newer.open_cycle(&resync(2)).unwrap();
    drain(&spool);
    assert_eq!(model.world().epoch, Epoch(6), "the target learns it with the next data");
}

#[test]
fn an_aborted_cycle_never_reaches_a_point() {
    // Aborted before, while and after it was forwarded.
    for forwarded in 0..12 {
        let model = Model::new();
        let spool = spool(&model);
        send(&spool, 1..=1);
        drain(&spool);
        let mut session = spool.session(&request(1, Some(1))).unwrap();
        session.open_cycle(&changes(1)).unwrap();
        (0..6).for_each(|part| send_part(&mut session, 2, part, 99).unwrap());
        session.barrier().unwrap();
        (0..forwarded).for_each(|_| drop(spool.forward_one()));
        session.abort_cycle().unwrap();
        let status = session.status().unwrap();
        // The writer may have forgotten which blocks those parts held.
        assert_eq!((status.open, status.generation), (None, None));
        let refused = session.open_cycle(&changes(1)).unwrap_err();
        assert!(matches!(refused, ReplicaError::ResyncNeeded { .. }), "{refused}");
        let mut session = spool.session(&request(1, Some(1))).unwrap();
        session.open_cycle(&resync(1)).unwrap();
        (0..CYCLES[1]).for_each(|part| send_part(&mut session, 2, part, 0).unwrap());
        session.commit(&commit_of(2, CYCLES[1], 0)).unwrap();
        // Another generation drops it as well.
        session.open_cycle(&changes(1)).unwrap();
        send_part(&mut session, 3, 0, 98).unwrap();
        assert_eq!(session.open_cycle(&resync(2)).unwrap().next_part.0, 0);
        session.abort_cycle().unwrap();
        let calls = model.world().calls;
        drain(&spool);
        assert_points(&model, &CYCLES[..2], &format!("aborted after {forwarded} steps"));
        if forwarded == 0 {
            assert!(model.world().calls - calls < 25, "the aborted parts were not sent");
        }
    }
}

#[test]
fn changed_blocks_cannot_follow_a_cycle_that_a_newer_epoch_dropped() {
    let model = Model::new();
    let spool = spool(&model);
    send(&spool, 1..=1);
    let mut session = spool.session(&request(1, Some(1))).unwrap();
    session.open_cycle(&changes(1)).unwrap();
    // Nothing was acknowledged of it: nothing is lost with it.
    drop(session);
    let mut session = spool.session(&request(1, Some(2))).unwrap();
    session.open_cycle(&changes(1)).unwrap();
    send_part(&mut session, 2, 0, 0).unwrap();
    session.barrier().unwrap();
    drop(session);
    let mut session = spool.session(&request(1, Some(3))).unwrap();
    let refused = session.open_cycle(&changes(1)).unwrap_err();
    assert!(matches!(refused, ReplicaError::ResyncNeeded { .. }), "{refused}");
}

#[test]
fn digests_are_those_after_everything_that_was_sent() {
    let model = Model::new();
    let spool = spool(&model);
    let mut session = spool.session(&request(1, Some(1))).unwrap();
    send_cycle(&mut session, 1, CYCLES[0], &mut Promised::default()).unwrap();
    session.open_cycle(&changes(1)).unwrap();
    (0..CYCLES[1]).for_each(|part| send_part(&mut session, 2, part, 0).unwrap());
    let expected = digest_of(&contents(&CYCLES[..2])[1][1]);
    assert_eq!(session.node_digests(DiskIndex(1), 0, 1).unwrap()[0].0, expected);
    model.world().away = true;
    let error = session.node_digests(DiskIndex(1), 0, 1).unwrap_err();
    assert!(matches!(error, ReplicaError::Disconnected { .. }), "{error}");
}

#[test]
fn the_thread_forwards_by_itself_and_stops() {
    let model = Model::new();
    let directory = tempfile::tempdir().unwrap();
    let volume = std::sync::Arc::new(switchback_disk::DirVolume::open(directory.path()).unwrap());
    let spool = Spool::open(volume, config(), model.next_hop()).unwrap();
    send(&spool, 1..=4);
    while model.world().last_seq() < Seq(4) {
        std::thread::yield_now();
    }
    spool.stop();
    assert_points(&model, &CYCLES, "forwarded by the thread");
}
