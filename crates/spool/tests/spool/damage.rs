//! Damage to what was acknowledged is found, told, and never skipped.

use crate::model::{
    self, CYCLE_SALT, Model, Promised, changes, commit_of, contents, drain, open, request, resync,
    send_cycle, send_part,
};
use switchback_disk::Volume;
use switchback_disk::sim::{Restart, SimMachine};
use switchback_model::Seq;
use switchback_replica::{ReplicaError, ReplicaSession};

const CYCLES: [u32; 3] = [1, 1, 1];

/// A machine with three cycles spooled and nothing forwarded, a part acknowledged and another not.
fn spooled(seed: u64, model: &Model) -> SimMachine {
    let machine = SimMachine::new(seed);
    let spool = open(machine.volume("cache"), model);
    let mut session = spool.session(&request(1, Some(1))).unwrap();
    for (seq, parts) in (1..).zip(CYCLES) {
        send_cycle(&mut session, seq, parts, &mut Promised::default()).unwrap();
    }
    session.open_cycle(&changes(1)).unwrap();
    send_part(&mut session, 4, 0, CYCLE_SALT).unwrap();
    session.barrier().unwrap();
    std::mem::forget(session);
    std::mem::forget(spool);
    machine.restart(Restart::ProcessKill);
    machine
}

fn segments(machine: &SimMachine) -> Vec<(String, u64)> {
    let entries = machine.volume("cache").list().unwrap().into_iter();
    entries.filter(|entry| entry.name.starts_with("segment")).map(|entry| (entry.name, entry.len)).collect()
}

/// A damaged spool forwards the whole cycles before the damage, and then takes a resync only.
fn check_damaged(machine: &SimMachine, model: &Model, context: &str) {
    let spool = open(machine.volume("cache"), model);
    let status = spool.status();
    assert!(status.damage.is_some() && status.resync_needed.is_some(), "{context}");
    drain(&spool);
    let points = model.world().points.len();
    let expected = contents(&CYCLES);
    for ((point, disks), expected) in model.world().points.iter().zip(&expected) {
        assert!(disks == expected, "point {}, {context}", point.seq);
    }
    assert!(points <= CYCLES.len(), "{context}");

    let mut session = spool.session(&request(1, Some(1))).unwrap();
    let told = session.status().unwrap();
    assert_eq!((told.generation, told.open), (None, None), "{context}");
    assert_eq!(told.last_point.map_or(0, |point| point.seq.0), points as u64, "{context}");
    let error = session.open_cycle(&changes(1)).unwrap_err();
    assert!(matches!(error, ReplicaError::ResyncNeeded { .. }), "{context}: {error}");
    drop((session, spool));
    // Also after another restart, when the damaged file is long gone.
    machine.restart(Restart::PowerLoss);
    let spool = open(machine.volume("cache"), model);
    let mut session = spool.session(&request(1, Some(1))).unwrap();
    assert!(session.open_cycle(&changes(1)).is_err(), "{context}");
    drop(session);
    let mut session = spool.session(&request(1, Some(1))).unwrap();
    let seq = session.open_cycle(&resync(1)).unwrap().seq.0;
    send_part(&mut session, seq, 0, 5).unwrap();
    session.commit(&commit_of(seq, 1, 5)).unwrap();
    session.open_cycle(&changes(1)).unwrap();
    drain(&spool);
    assert_eq!(model.world().last_seq(), Seq(seq), "{context}");
    assert_eq!(spool.status().resync_needed, None, "{context}");
}

#[test]
fn any_damaged_byte_of_a_segment_is_found() {
    let places: Vec<_> = segments(&spooled(1, &Model::new()));
    assert!(places.len() >= 2, "{places:?}");
    for (name, len) in places {
        for byte in (0..len).filter(|byte| byte % 7 == 0 || byte % 300 < 50) {
            let model = Model::new();
            let machine = spooled(1, &model);
            machine.flip_bit("cache", &name, byte * 8 + byte % 8);
            check_damaged(&machine, &model, &format!("byte {byte} of {name}"));
        }
    }
}

#[test]
fn a_segment_cut_short_or_missing_is_found() {
    for (name, len) in segments(&spooled(1, &Model::new())) {
        for cut in (0..len).filter(|cut| cut % 13 == 0 || len - cut < 20) {
            let model = Model::new();
            let machine = spooled(1, &model);
            machine.truncate("cache", &name, cut);
            check_damaged(&machine, &model, &format!("{name} cut at {cut}"));
        }
        let model = Model::new();
        let machine = spooled(1, &model);
        machine.volume("cache").remove(&name).unwrap();
        check_damaged(&machine, &model, &format!("{name} removed"));
    }
}

#[test]
fn without_its_small_files_it_begins_anew_and_demands_a_resync() {
    for (name, damage) in [
        ("position", "removed"),
        ("position", "zeroed"),
        ("state.json", "removed"),
        ("state.json", "flipped"),
    ] {
        let model = Model::new();
        let machine = spooled(1, &model);
        let volume = machine.volume("cache");
        match damage {
            "removed" => volume.remove(name).unwrap(),
            "zeroed" => volume.open(name).unwrap().write_at(0, &[0; 8192]).unwrap(),
            _ => machine.flip_bit("cache", name, 8 * 20),
        }
        check_damaged(&machine, &model, &format!("{name} {damage}"));
    }
}

/// What is behind the acknowledged position may be anything: it is cut off, and is not damage.
#[test]
fn a_torn_tail_is_cut_off_wherever_it_is_torn() {
    let unacknowledged = |model: &Model| {
        let machine = spooled(1, model);
        let spool = open(machine.volume("cache"), model);
        let mut session = spool.session(&request(1, Some(1))).unwrap();
        let open = session.open_cycle(&changes(1)).unwrap();
        assert_eq!(open.next_part.0, 1);
        session.barrier().unwrap();
        send_part(&mut session, 4, 1, 7).unwrap();
        std::mem::forget((session, spool));
        machine.restart(Restart::ProcessKill);
        machine
    };
    let acknowledged = segments(&spooled(1, &Model::new()));
    // As if the system had written some of it by itself: garbage where records were to come.
    for extra in [1, 39, 40, 79, 80, 81, 500] {
        let model = Model::new();
        let machine = unacknowledged(&model);
        let volume = machine.volume("cache");
        for (name, len) in segments(&machine) {
            let file = volume.open(&name).unwrap();
            if acknowledged.last().is_some_and(|(last, _)| *last <= name) {
                file.write_at(len, &vec![0xa5; extra]).unwrap();
            }
        }
        let spool = open(machine.volume("cache"), &model);
        assert_eq!(spool.status().damage, None, "{extra} bytes");
        let mut session = spool.session(&request(1, Some(1))).unwrap();
        assert_eq!(session.status().unwrap().open.unwrap().next_part.0, 1, "{extra} bytes");
        send_cycle(&mut session, 4, 2, &mut Promised::default()).unwrap();
        drain(&spool);
        model::assert_points(&model, &[1, 1, 1, 2], &format!("{extra} bytes"));
    }
}

/// Damage that comes while the spool is in use is found by the forwarder.
#[test]
fn damage_found_while_forwarding_ends_the_session() {
    let model = Model::new();
    let machine = spooled(1, &model);
    let spool = open(machine.volume("cache"), &model);
    let mut session = spool.session(&request(1, Some(1))).unwrap();
    let name = segments(&machine).remove(1).0;
    machine.flip_bit("cache", &name, 8 * 1000);
    drain(&spool);
    let error = session.barrier().unwrap_err();
    assert!(matches!(error, ReplicaError::ResyncNeeded { .. }), "{error}");
    drop((session, spool));
    let spool = open(machine.volume("cache"), &model);
    assert!(spool.status().resync_needed.is_some());
}
