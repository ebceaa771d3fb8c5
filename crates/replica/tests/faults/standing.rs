//! Standing at a point: what is refused meanwhile, what goes on, and what damage and full drives do to it.

use switchback_delta::PartHasher;
use switchback_disk::Volume;
use switchback_model::{DiskIndex, Epoch, PartIndex, Seq};
use switchback_replica::{PartHeader, PauseReason, ReadPoint, ReplicaError, ReplicaSession, ReplicaSummary};

use crate::rig::{Rig, SIZE, begin, commit, send};

/// Points 1, 2, 3, all applied; point n holds n everywhere.
fn three_points() -> Rig {
    let rig = Rig::new();
    for byte in 1..=3 {
        rig.cycle(byte).unwrap();
        rig.replica().maintain().unwrap();
    }
    rig
}

fn assert_on_disk(rig: &Rig, byte: u8) {
    let disk = rig.machine.snapshot("target");
    assert!(disk.iter().all(|b| *b == byte), "the disk holds {}, not {byte}", disk[0]);
}

fn assert_all_points(rig: &Rig) {
    for byte in 1..=3 {
        assert_eq!(rig.contents(Seq(byte.into())), vec![byte; SIZE as usize]);
    }
    assert_eq!(rig.replica().fsck(|_, _| {}).unwrap().findings, []);
}

#[test]
fn no_room_for_the_way_back_to_the_newest_point_refuses_and_changes_nothing() {
    let rig = three_points();
    let mut session = rig.replica().session(&Rig::request(1, None)).unwrap();
    let before = (rig.replica().status(), rig.replica().bytes_kept());
    // The two ways back, and no third delta.
    rig.machine.set_space("retention", 2 * SIZE + 300_000);
    let paused = rig.replica().stand_at(Seq(1)).unwrap_err();
    assert!(matches!(paused, ReplicaError::Paused(PauseReason::RetentionFull { .. })), "{paused}");
    assert_eq!((rig.replica().status(), rig.replica().bytes_kept()), before);
    assert_eq!(rig.replica().standing(), None);
    session.status().unwrap();
    assert_on_disk(&rig, 3);
    let files = rig.machine.volume("retention").list().unwrap();
    assert!(!files.iter().any(|file| file.name.starts_with("newest-")), "{files:?}");

    rig.machine.set_space("retention", 10 * SIZE);
    rig.replica().stand_at(Seq(1)).unwrap();
    assert_on_disk(&rig, 1);
    assert_all_points(&rig);
}

#[test]
fn no_room_for_a_step_further_back_leaves_it_standing_where_it_is() {
    let rig = three_points();
    rig.replica().stand_at(Seq(3)).unwrap();
    rig.machine.set_space("retention", 2 * SIZE + 300_000);
    assert!(matches!(rig.replica().stand_at(Seq(1)), Err(ReplicaError::Paused(_))));
    assert_eq!(rig.replica().standing(), Some(Seq(3)));
    assert_on_disk(&rig, 3);
    rig.replica().resume().unwrap();
    assert_all_points(&rig);
}

/// The limit trades history for space; a failover is no time for either.
#[test]
fn the_limit_of_the_retention_drive_neither_stops_it_nor_costs_points_meanwhile() {
    let mut rig = three_points();
    rig.bytes_max = Some(rig.replica().bytes_kept() + 1000);
    rig.reopen().unwrap();
    rig.replica().stand_at(Seq(1)).unwrap();
    rig.replica().maintain().unwrap();
    rig.replica().drop_points(&[Seq(1), Seq(2)].into()).unwrap();
    assert_eq!(rig.replica().points().len(), 3);
    rig.replica().stand_at(Seq(2)).unwrap();
    rig.replica().resume().unwrap();
    rig.replica().maintain().unwrap();
    assert_all_points(&rig);
}

#[test]
fn writers_are_refused_while_it_stands_and_join_their_open_cycle_afterwards() {
    let mut rig = three_points();
    let mut session = rig.replica().session(&Rig::request(1, Some(1))).unwrap();
    let seq = begin(&mut session).unwrap();
    send(&mut session, seq, 8).unwrap();
    rig.replica().stand_at(Seq(2)).unwrap();

    let standing = ReplicaError::Standing { at: 2 };
    assert_eq!(session.status().unwrap_err(), standing);
    assert_eq!(send(&mut session, seq, 9).unwrap_err(), standing);
    assert_eq!(rig.replica().session(&Rig::request(1, Some(1))).unwrap_err(), standing);
    let stale = rig.replica().session(&Rig::request(1, Some(0))).unwrap_err();
    assert!(matches!(stale, ReplicaError::StaleEpoch { .. }), "an old epoch comes before all: {stale}");
    // Over the wire and back.
    let wire = serde_json::to_string(&standing).unwrap();
    assert_eq!(wire, r#"{"code":"standing","at":2}"#);
    assert_eq!(serde_json::from_str::<ReplicaError>(&wire).unwrap(), standing);

    rig.replica().resume().unwrap();
    let ended = session.status().unwrap_err();
    assert!(matches!(ended, ReplicaError::Locked { .. }), "a session does not come back to life: {ended}");
    drop(session);
    rig.replica().stand_at(Seq(2)).unwrap();
    rig.reopen().unwrap();
    assert_eq!(rig.replica().standing(), Some(Seq(2)));
    assert_on_disk(&rig, 2);
    rig.replica().resume().unwrap();
    let mut session = rig.replica().session(&Rig::request(1, Some(1))).unwrap();
    assert_eq!(begin(&mut session).unwrap(), seq);
    assert_eq!(session.status().unwrap().open.unwrap().next_part, PartIndex(1));
    commit(&mut session, seq).unwrap();
    rig.replica().maintain().unwrap();
    assert_eq!(rig.contents(seq), vec![8; SIZE as usize]);
    assert_all_points(&rig);
}

/// A part that had ended but was never acknowledged may go: the source is told, and sends it again.
#[test]
fn what_was_not_acknowledged_when_it_was_made_to_stand_is_asked_for_again() {
    let rig = three_points();
    let mut session = rig.replica().session(&Rig::request(1, None)).unwrap();
    let seq = begin(&mut session).unwrap();
    send(&mut session, seq, 8).unwrap();
    session.begin_part(PartHeader { seq, part: PartIndex(1), disk: DiskIndex(0) }).unwrap();
    session.end_part(PartHasher::default().finish()).unwrap();
    rig.replica().stand_at(Seq(1)).unwrap();
    drop(session);
    rig.replica().resume().unwrap();
    let mut session = rig.replica().session(&Rig::request(1, None)).unwrap();
    assert_eq!(begin(&mut session).unwrap(), seq);
    assert_eq!(session.status().unwrap().open.unwrap().next_part, PartIndex(1));
    send(&mut session, seq, 9).unwrap();
    commit(&mut session, seq).unwrap();
    assert_eq!(rig.contents(seq), vec![9; SIZE as usize]);
}

#[test]
fn an_epoch_can_be_ended_while_it_stands() {
    let rig = three_points();
    rig.replica().stand_at(Seq(1)).unwrap();
    rig.replica().fence(Epoch(5)).unwrap();
    assert!(matches!(rig.replica().fence(Epoch(4)), Err(ReplicaError::StaleEpoch { .. })));
    rig.replica().resume().unwrap();
    let stale = rig.replica().session(&Rig::request(1, Some(4))).unwrap_err();
    assert!(matches!(stale, ReplicaError::StaleEpoch { .. }), "{stale}");
}

#[test]
fn views_see_their_point_through_every_move() {
    let rig = three_points();
    let points: [u8; 3] = [1, 2, 3];
    let views = points.map(|byte| (rig.replica().view(Seq(byte.into())).unwrap(), byte));
    let check = |when: &str| {
        for (view, byte) in &views {
            let mut data = vec![0; SIZE as usize];
            view.read_at(DiskIndex(0), 0, &mut data).unwrap();
            assert!(data.iter().all(|b| b == byte), "point {byte} {when} begins with {}", data[0]);
        }
    };
    for at in [3, 2, 1, 3, 1] {
        rig.replica().stand_at(Seq(at)).unwrap();
        check(&format!("at {at}"));
    }
    assert!(matches!(rig.replica().settle(), Err(ReplicaError::Locked { .. })));
    rig.replica().resume().unwrap();
    check("resumed");
    rig.cycle(4).unwrap();
    rig.replica().maintain().unwrap();
    check("when another was applied");
    rig.replica().stand_at(Seq(2)).unwrap();
    check("standing again");
    assert_on_disk(&rig, 2);
}

#[test]
fn settling_forgets_newer_points_and_only_them() {
    let mut rig = three_points();
    rig.replica().stand_at(Seq(1)).unwrap();
    rig.replica().stand_at(Seq(2)).unwrap();
    rig.replica().settle().unwrap();
    rig.replica().settle().unwrap();
    rig.reopen().unwrap();
    assert_eq!((rig.replica().standing(), rig.replica().applied()), (None, Some(Seq(2))));
    assert_eq!(rig.replica().status().generation, None, "no changed blocks can follow");
    assert_eq!(rig.contents(Seq(1)), vec![1; SIZE as usize]);
    let names: Vec<_> = rig.machine.volume("retention").list().unwrap().into_iter().map(|f| f.name).collect();
    assert!(!names.iter().any(|name| name.starts_with("newest-")), "{names:?}");
    assert_eq!(rig.cycle(7).unwrap(), Seq(3));
    rig.replica().stand_at(Seq(3)).unwrap();
    rig.replica().roll_back(Seq(1)).unwrap();
    assert_eq!(rig.replica().points().len(), 1);
    assert_on_disk(&rig, 1);
}

#[test]
fn a_disk_that_fails_under_way_leaves_it_at_no_point_and_another_may_be_chosen() {
    let rig = three_points();
    rig.replica().stand_at(Seq(2)).unwrap();
    rig.machine.fail_disk("target", Some(std::io::ErrorKind::Other));
    let failed = rig.replica().stand_at(Seq(1)).unwrap_err();
    assert!(matches!(failed, ReplicaError::Io { .. }), "{failed}");
    assert_eq!(rig.replica().standing(), None);
    let summary = ReplicaSummary::read(&*rig.machine.volume("retention")).unwrap();
    assert!(summary.standing.is_none() && summary.moving);
    let refused = rig.replica().session(&Rig::request(1, None)).unwrap_err();
    assert!(matches!(refused, ReplicaError::Standing { .. }), "{refused}");
    rig.replica().settle().unwrap_err();
    rig.machine.fail_disk("target", None);
    rig.replica().stand_at(Seq(3)).unwrap();
    assert_on_disk(&rig, 3);
    assert_all_points(&rig);
}

#[test]
fn a_damaged_file_of_the_newest_point_takes_only_newer_points() {
    let mut rig = three_points();
    rig.replica().stand_at(Seq(1)).unwrap();
    rig.replica().stand_at(Seq(2)).unwrap();
    rig.machine.flip_bit("retention", &rig.file_like("newest-"), 8 * 5000);
    let findings = rig.replica().fsck(|_, _| {}).unwrap().findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].points, [Seq(2), Seq(3)]);
    assert!(matches!(rig.replica().resume(), Err(ReplicaError::Corrupt { .. })));
    // Nor does it keep the replica from being opened, and used as far as that goes.
    rig.reopen().unwrap();
    assert_eq!(rig.replica().standing(), None);
    rig.replica().stand_at(Seq(1)).unwrap();
    assert_on_disk(&rig, 1);
    rig.replica().settle().unwrap();
    assert_eq!(rig.replica().fsck(|_, _| {}).unwrap().findings, []);
}

/// An older build must refuse a replica that stands, and can open one that does not.
#[test]
fn the_manifest_has_a_format_of_its_own_only_while_it_stands() {
    let mut rig = three_points();
    let manifest = |rig: &Rig| {
        String::from_utf8(rig.machine.volume("retention").read_all("manifest", 1 << 20).unwrap()).unwrap()
    };
    let before = manifest(&rig);
    assert!(before.starts_with("switchback-replica 1 ") && !before.contains("standing"), "{before}");
    rig.replica().stand_at(Seq(1)).unwrap();
    let standing = manifest(&rig);
    assert!(standing.starts_with("switchback-replica 2 "), "{standing}");
    rig.replica().resume().unwrap();
    assert!(manifest(&rig).starts_with("switchback-replica 1 "));
    // A standing manifest in the old format: a build that made it did not know what it wrote.
    let forged = standing.replacen("switchback-replica 2 ", "switchback-replica 1 ", 1);
    rig.machine.volume("retention").write_atomic("manifest", forged.as_bytes()).unwrap();
    assert!(matches!(rig.reopen(), Err(ReplicaError::Corrupt { .. })));
}
