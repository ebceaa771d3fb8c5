//! A cache disk that is full, by its limit or really; and who may have the spool.

use crate::model::{
    self, Model, Promised, assert_points, changes, commit_of, config, drain, frames, open, request, resync,
    send_cycle, send_part,
};
use switchback_disk::Volume;
use switchback_disk::sim::SimMachine;
use switchback_model::{DiskIndex, PartIndex, Seq};
use switchback_replica::{PartHeader, ReplicaError, ReplicaSession};
use switchback_spool::{Spool, SpoolConfig, SpoolError};

/// Sends a part, again and again until there is room; how often there was none.
fn insist(session: &mut dyn ReplicaSession, spool: &Spool, seq: u64, part: u32) -> u32 {
    for pauses in 0..200 {
        match send_part(session, seq, part, 0) {
            Ok(()) => return pauses,
            Err(ReplicaError::Paused(_)) => drop(spool.forward_one()),
            Err(error) => panic!("part {part} of {seq}: {error}"),
        }
    }
    panic!("there is never room for part {part} of {seq}");
}

#[test]
fn at_its_limit_it_pauses_keeps_everything_and_goes_on() {
    let model = Model::new();
    let config = SpoolConfig { bytes_max: 20_000, part_bytes_max: 10_000, ..config() };
    let spool = Spool::open_stepped(SimMachine::new(1).volume("cache"), config, model.next_hop()).unwrap();
    let mut session = spool.session(&request(1, Some(1))).unwrap();
    send_cycle(&mut session, 1, 3, &mut Promised::default()).unwrap();
    model.world().away = true;
    session.open_cycle(&changes(1)).unwrap();
    let taken = (0..100).find(|part| send_part(&mut session, 2, *part, 0).is_err()).unwrap();
    assert!(taken > 1, "{taken}");
    // Paused, also what is still under way of the part; but not dead, and the limit holds.
    let (_, mut more) = frames(2, taken, 0);
    assert!(matches!(session.put_frame(more.remove(2)), Err(ReplicaError::Paused(_))));
    assert!(matches!(session.end_part([0; 32]), Err(ReplicaError::Paused(_))));
    assert!(spool.status().bytes <= 20_000);
    session.barrier().unwrap();
    let status = session.status().unwrap();
    assert_eq!(status.open.unwrap().next_part, PartIndex(taken));
    assert!(status.paused.is_some());
    assert!(matches!(send_part(&mut session, 2, taken, 0), Err(ReplicaError::Paused(_))), "still");

    model.world().away = false;
    let pauses: u32 = (taken..20).map(|part| insist(&mut session, &spool, 2, part)).sum();
    assert!(pauses > 0);
    // A commit is taken however full it is.
    session.commit(&commit_of(2, 20, 0)).unwrap();
    drain(&spool);
    assert_points(&model, &[3, 20], "after pauses");
    assert_eq!(session.status().unwrap().paused, None);
}

/// Somebody else takes the room, at any byte of what is written.
#[test]
fn on_a_full_disk_it_pauses_keeps_everything_and_goes_on() {
    let mut pauses = 0;
    for room in (0..9000).step_by(60) {
        let (machine, model) = (SimMachine::new(1), Model::new());
        let spool = open(machine.volume("cache"), &model);
        let mut session = spool.session(&request(1, Some(1))).unwrap();
        send_cycle(&mut session, 1, 2, &mut Promised::default()).unwrap();
        let used: u64 = machine.volume("cache").list().unwrap().iter().map(|entry| entry.len).sum();
        machine.set_space("cache", used + room);
        let mut promised = Promised::default();
        if let Err(error) = send_cycle(&mut session, 2, 3, &mut promised) {
            assert!(matches!(error, ReplicaError::Paused(_)), "{room} bytes: {error}");
            pauses += 1;
            let open = session.status().unwrap().open;
            if let Some((_, parts)) = promised.parts {
                assert!(open.unwrap().next_part.0 >= parts, "{room} bytes");
            }
            machine.set_space("cache", 1 << 30);
            // It is the same session that goes on.
            send_cycle(&mut session, 2, 3, &mut promised).unwrap();
        }
        machine.set_space("cache", 1 << 30);
        drain(&spool);
        assert_points(&model, &[2, 3], &format!("{room} bytes"));
    }
    assert!(pauses > 20, "{pauses}");
}

#[test]
fn one_session_and_one_process_at_a_time() {
    let (machine, model) = (SimMachine::new(1), Model::new());
    let spool = open(machine.volume("cache"), &model);
    let other = Spool::open_stepped(machine.volume("cache"), config(), model.next_hop());
    assert!(matches!(other, Err(SpoolError::Locked { .. })), "{other:?}");

    let mut first = spool.session(&request(1, Some(1))).unwrap();
    let locked = |result: Result<_, ReplicaError>| matches!(result, Err(ReplicaError::Locked { .. }));
    assert!(locked(spool.session(&request(2, Some(1))).map(drop)));
    assert!(locked(spool.session(&request(2, None)).map(drop)));
    first.open_cycle(&resync(1)).unwrap();
    send_part(&mut first, 1, 0, 0).unwrap();
    let (disk, mut half) = frames(1, 1, 0);
    first.begin_part(PartHeader { seq: Seq(1), part: PartIndex(1), disk }).unwrap();
    first.put_frame(half.remove(0)).unwrap();
    // The same writer, whose connection was lost without anybody noticing here.
    let mut again = spool.session(&request(1, Some(1))).unwrap();
    assert!(locked(first.put_frame(half.remove(0))), "the old one is over");
    drop(first);
    assert_eq!(again.status().unwrap().open.unwrap().next_part, PartIndex(1));
    send_cycle(&mut again, 1, 2, &mut Promised::default()).unwrap();
    drop(again);
    spool.session(&request(2, Some(1))).unwrap();
    drain(&spool);
    assert_points(&model, &[2], "by two sessions");
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let model = Model::new();
    let spool = open(SimMachine::new(1).volume("cache"), &model);
    let refused = |act: &dyn Fn(&mut dyn ReplicaSession) -> Result<(), ReplicaError>| {
        let mut session = spool.session(&request(1, Some(1))).unwrap();
        session.abort_cycle().unwrap();
        session.open_cycle(&resync(1)).unwrap();
        let error = act(&mut session).unwrap_err();
        assert_eq!(session.status().unwrap_err(), error, "the session is over");
        matches!(error, ReplicaError::Protocol { .. } | ReplicaError::Corrupt { .. })
    };
    let header = |seq, part, disk| PartHeader { seq: Seq(seq), part: PartIndex(part), disk: DiskIndex(disk) };
    assert!(refused(&|session| session.begin_part(header(1, 1, 0))));
    assert!(refused(&|session| session.begin_part(header(2, 0, 0))));
    assert!(refused(&|session| session.begin_part(header(1, 0, 2))));
    assert!(refused(&|session| session.end_part([0; 32])));
    assert!(refused(&|session| session.put_frame(frames(1, 0, 0).1.remove(0))));
    assert!(refused(&|session| session.commit(&commit_of(1, 1, 0)).map(drop)));
    assert!(refused(&|session| session.commit(&commit_of(2, 0, 0)).map(drop)));
    assert!(refused(&|session| {
        session.begin_part(header(1, 0, 0))?;
        let (_, mut all) = frames(1, 0, 0);
        session.put_frame(all.remove(1))?;
        session.put_frame(all.remove(0))
    }));
    assert!(refused(&|session| {
        session.begin_part(header(1, 0, 0))?;
        let mut frame = frames(1, 0, 0).1.remove(2);
        frame.checksum[0] ^= 1;
        session.put_frame(frame)
    }));
    assert!(refused(&|session| {
        session.begin_part(header(1, 0, 0))?;
        session.put_frame(frames(1, 0, 0).1.remove(2))?;
        session.end_part([1; 32])
    }));
    assert!(refused(&|session| {
        session.begin_part(header(1, 0, 0))?;
        let extent = switchback_model::Extent::new(model::DISK_SIZE - 512, 1024);
        session.put_frame(switchback_delta::Frame::zero(extent))
    }));
    drain(&spool);
    assert!(model.world().points.is_empty());
}

#[test]
fn what_is_encrypted_needs_its_key_and_loses_nothing_without() {
    let (machine, model) = (SimMachine::new(1), Model::new());
    let with = |key: Option<[u8; 32]>| {
        let config = SpoolConfig { key: key.map(switchback_spool::SpoolKey::new), ..config() };
        Spool::open_stepped(machine.volume("cache"), config, model.next_hop())
    };
    let spool = with(Some([1; 32])).unwrap();
    let mut session = spool.session(&request(1, Some(1))).unwrap();
    send_cycle(&mut session, 1, 3, &mut Promised::default()).unwrap();
    drop((session, spool));
    for wrong in [None, Some([2; 32])] {
        assert!(matches!(with(wrong), Err(SpoolError::WrongKey { .. })), "{wrong:?}");
    }
    let spool = with(Some([1; 32])).unwrap();
    drain(&spool);
    assert_points(&model, &[3], "with the right key");
}
