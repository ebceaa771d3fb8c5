//! Bad input and faults, each with the error it must give and what must still be there afterwards.

#![expect(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "tests, of small sizes")]

mod rig;
mod standing;

use std::sync::Arc;

use bytes::Bytes;
use switchback_delta::{Frame, PartHasher};
use switchback_disk::sim::{Restart, SimMachine};
use switchback_disk::{Disk, Volume};
use switchback_model::{Consistency, DiskIndex, Epoch, Extent, PartIndex, ReplicaId, Seq, UnixMillis};
use switchback_replica::{
    CommitCycle, CycleKind, DiskReplica, DiskSpec, OpenCycle, PartHeader, PauseReason, ReadPoint,
    ReplicaConfig, ReplicaError, ReplicaSession, SessionRequest,
};

use rig::{GENERATION, Rig, SIZE, begin, commit, send};

#[test]
fn two_writers_are_locked_out_of_each_other_and_the_same_one_takes_over() {
    let rig = Rig::new();
    let mut first = rig.replica().session(&Rig::request(1, None)).unwrap();
    let refused = rig.replica().session(&Rig::request(2, None)).unwrap_err();
    assert!(matches!(refused, ReplicaError::Locked { .. }), "{refused}");
    let mut again = rig.replica().session(&Rig::request(1, None)).unwrap();
    assert!(matches!(first.status(), Err(ReplicaError::Locked { .. })));
    again.status().unwrap();
    drop(first);
    again.status().unwrap();
    drop(again);
    rig.replica().session(&Rig::request(2, None)).unwrap();
}

#[test]
fn an_old_epoch_is_refused_also_in_the_middle_of_a_session_and_after_a_restart() {
    let mut rig = Rig::new();
    let mut old = rig.replica().session(&Rig::request(1, Some(4))).unwrap();
    let seq = begin(&mut old).unwrap();
    let new = rig.replica().session(&Rig::request(2, Some(5))).unwrap();
    let stale = ReplicaError::StaleEpoch { given: Epoch(4), current: Epoch(5) };
    assert_eq!(send(&mut old, seq, 1).unwrap_err(), stale);
    drop((old, new));
    rig.machine.restart(Restart::PowerLoss);
    rig.reopen().unwrap();
    assert_eq!(rig.replica().session(&Rig::request(1, Some(4))).unwrap_err(), stale);
}

#[test]
fn a_target_that_is_smaller_is_refused_with_both_sizes() {
    let machine = SimMachine::new(1);
    let disks: Vec<Arc<dyn Disk>> = vec![machine.disk("small", SIZE - 512)];
    let sizes = vec![DiskSpec { size: SIZE }];
    let id = ReplicaId([1; 16]);
    let config = ReplicaConfig::default();
    let refused =
        DiskReplica::create(machine.volume("v"), disks, sizes, id, UnixMillis(0), config).unwrap_err();
    assert_eq!(refused, ReplicaError::DiskTooSmall { disk: 0, target: SIZE - 512, source_size: SIZE });
}

#[test]
fn another_set_of_disks_is_refused() {
    let rig = Rig::new();
    let request = SessionRequest { disks: vec![DiskSpec { size: SIZE }; 2], ..Rig::request(1, None) };
    let refused = rig.replica().session(&request).unwrap_err();
    assert!(matches!(refused, ReplicaError::DisksChanged { .. }), "{refused}");
}

#[test]
fn a_full_retention_drive_pauses_loses_nothing_and_goes_on_when_there_is_space() {
    let rig = Rig::new();
    let first = rig.cycle(1).unwrap();
    rig.replica().maintain().unwrap();
    rig.machine.set_space("retention", 300_000);
    let mut session = rig.replica().session(&Rig::request(1, None)).unwrap();
    let seq = begin(&mut session).unwrap();
    let paused = send(&mut session, seq, 2).unwrap_err();
    assert!(matches!(paused, ReplicaError::Paused(PauseReason::RetentionFull { .. })), "{paused}");
    assert_eq!(rig.contents(first), vec![1; SIZE as usize]);
    // Room for the part, not for the way back.
    rig.machine.set_space("retention", SIZE + 100_000);
    send(&mut session, seq, 2).unwrap();
    commit(&mut session, seq).unwrap();
    let paused = rig.replica().maintain().unwrap_err();
    assert!(matches!(paused, ReplicaError::Paused(_)), "{paused}");
    assert!(rig.replica().status().paused.is_some());
    assert_eq!(rig.contents(seq), vec![2; SIZE as usize]);
    rig.machine.set_space("retention", 10 * SIZE);
    rig.replica().maintain().unwrap();
    assert_eq!(rig.replica().status().paused, None);
    assert_eq!((rig.contents(first), rig.contents(seq)), (vec![1; SIZE as usize], vec![2; SIZE as usize]));
}

#[test]
fn a_limit_of_the_retention_drive_lets_the_oldest_points_go() {
    let mut rig = Rig::new();
    rig.bytes_max = Some(3 * SIZE);
    rig.reopen().unwrap();
    for byte in 1..8 {
        rig.cycle(byte).unwrap();
        rig.replica().maintain().unwrap();
        assert!(rig.replica().bytes_kept() <= 3 * SIZE);
    }
    let points: Vec<_> = rig.replica().points().iter().map(|point| point.seq.0).collect();
    assert!(points.len() >= 2 && points.ends_with(&[6, 7]), "{points:?}");
    assert_eq!(rig.contents(Seq(6)), vec![6; SIZE as usize]);
}

#[test]
fn a_disk_that_vanishes_is_an_error_and_its_cycle_waits_for_it() {
    let rig = Rig::new();
    rig.cycle(1).unwrap();
    rig.replica().maintain().unwrap();
    let seq = rig.cycle(2).unwrap();
    rig.machine.fail_disk("target", Some(std::io::ErrorKind::NotFound));
    let failed = rig.replica().maintain().unwrap_err();
    assert!(matches!(failed, ReplicaError::Io { .. }), "{failed}");
    rig.machine.fail_disk("target", None);
    rig.replica().maintain().unwrap();
    assert_eq!((rig.replica().applied(), rig.contents(seq)), (Some(seq), vec![2; SIZE as usize]));
}

#[test]
fn every_flipped_bit_and_every_cut_of_the_manifest_is_noticed() {
    let mut rig = Rig::new();
    rig.cycle(1).unwrap();
    let volume = rig.machine.volume("retention");
    let whole = volume.read_all("manifest", 1 << 20).unwrap();
    for bit in 0..whole.len() as u64 * 8 {
        rig.machine.flip_bit("retention", "manifest", bit);
        let damaged = rig.reopen().unwrap_err();
        assert!(matches!(damaged, ReplicaError::Corrupt { .. }), "bit {bit}: {damaged}");
        rig.machine.flip_bit("retention", "manifest", bit);
    }
    for len in 0..whole.len() as u64 {
        rig.machine.truncate("retention", "manifest", len);
        assert!(matches!(rig.reopen(), Err(ReplicaError::Corrupt { .. })), "cut at {len}");
        volume.open("manifest").unwrap().write_at(0, &whole).unwrap();
    }
    rig.reopen().unwrap();
}

#[test]
fn fsck_says_which_points_a_damaged_file_takes() {
    let mut rig = Rig::new();
    let [first, second] = [1, 2].map(|byte| {
        let seq = rig.cycle(byte).unwrap();
        rig.replica().maintain().unwrap();
        seq
    });
    let third = rig.cycle(3).unwrap();
    assert_eq!(rig.replica().fsck(|_, _| {}).unwrap().findings, []);
    // Contents of the frame: behind the file's and the frame's header.
    rig.machine.flip_bit("retention", &rig.file_like("reverse-"), 8 * 5000);
    rig.machine.flip_bit("retention", &rig.file_like("stage-"), 8 * 5000);
    let mut lost: Vec<_> =
        rig.replica().fsck(|_, _| {}).unwrap().findings.into_iter().map(|f| f.points).collect();
    lost.sort();
    assert_eq!(lost, [vec![first], vec![third]]);
    assert_eq!(rig.contents(second), vec![2; SIZE as usize]);
    // The damaged cycle is never applied; going back to what is on the disks drops it.
    assert!(matches!(rig.replica().maintain(), Err(ReplicaError::Corrupt { .. })));
    assert_eq!(rig.contents(second), vec![2; SIZE as usize]);
    // Neither in a new process, whose first act is to go on with what was begun.
    rig.reopen().unwrap();
    rig.replica().roll_back(second).unwrap();
    assert_eq!(rig.contents(second), vec![2; SIZE as usize]);
}

#[test]
fn a_disk_changed_behind_our_back_is_found_by_fsck() {
    let rig = Rig::new();
    rig.cycle(1).unwrap();
    rig.replica().maintain().unwrap();
    rig.machine.disk("target", SIZE).write_at(70_000, &[9]).unwrap();
    let report = rig.replica().fsck(|_, _| {}).unwrap();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert!(report.findings[0].detail.contains("65536"), "{report:?}");
}

#[test]
fn a_flipped_digest_means_reading_the_disk_again_never_a_wrong_answer() {
    let mut rig = Rig::new();
    rig.cycle(1).unwrap();
    rig.replica().maintain().unwrap();
    let digests = |rig: &Rig| {
        let mut session = rig.replica().session(&Rig::request(1, None)).unwrap();
        session.leaf_digests(DiskIndex(0), &[0]).unwrap()
    };
    let right = digests(&rig);
    rig.replica = None;
    for bit in (0..8 * 300).step_by(7) {
        rig.machine.flip_bit("retention", "digests-000", bit);
        rig.reopen().unwrap();
        assert_eq!(digests(&rig), right, "bit {bit}");
        rig.replica = None;
    }
}

#[test]
fn a_damaged_part_of_the_open_cycle_leads_to_a_resync() {
    let mut rig = Rig::new();
    let first = rig.cycle(1).unwrap();
    {
        let mut session = rig.replica().session(&Rig::request(1, None)).unwrap();
        let seq = begin(&mut session).unwrap();
        send(&mut session, seq, 2).unwrap();
    }
    rig.replica().maintain().unwrap();
    rig.machine.truncate("retention", &rig.file_like("stage-"), 1000);
    rig.reopen().unwrap();
    let status = rig.replica().status();
    assert_eq!((status.open, status.generation), (None, None));
    let mut session = rig.replica().session(&Rig::request(1, None)).unwrap();
    let refused =
        session.open_cycle(&OpenCycle { generation: GENERATION, kind: CycleKind::Changes }).unwrap_err();
    assert!(matches!(refused, ReplicaError::ResyncNeeded { .. }), "{refused}");
    assert_eq!(rig.contents(first), vec![1; SIZE as usize]);
}

#[test]
fn a_point_that_is_viewed_is_neither_pruned_nor_rolled_over() {
    let rig = Rig::new();
    let points = [1, 2, 3].map(|byte| {
        let seq = rig.cycle(byte).unwrap();
        rig.replica().maintain().unwrap();
        seq
    });
    let view = rig.replica().view(points[1]).unwrap();
    rig.replica().drop_points(&points.into()).unwrap();
    assert_eq!(rig.replica().points().iter().map(|point| point.seq).collect::<Vec<_>>(), points[1..]);
    rig.cycle(4).unwrap();
    rig.replica().maintain().unwrap();
    let mut data = [0; 10];
    view.read_at(DiskIndex(0), 4_000, &mut data).unwrap();
    assert_eq!(data, [2; 10]);
    assert!(view.read_at(DiskIndex(0), SIZE - 5, &mut data).is_err());
    assert!(matches!(rig.replica().roll_back(points[1]), Err(ReplicaError::Locked { .. })));
    drop(view);
    rig.replica().roll_back(points[1]).unwrap();
}

#[test]
fn points_that_go_do_not_take_the_part_being_received_with_them() {
    let rig = Rig::new();
    for byte in 1..=3 {
        rig.cycle(byte).unwrap();
        rig.replica().maintain().unwrap();
    }
    let mut session = rig.replica().session(&Rig::request(1, None)).unwrap();
    let seq = begin(&mut session).unwrap();
    session.begin_part(PartHeader { seq, part: PartIndex(0), disk: DiskIndex(0) }).unwrap();
    rig.replica().drop_points(&[Seq(1), Seq(2)].into()).unwrap();
    assert_eq!(rig.replica().points().len(), 1);
    session.end_part(PartHasher::default().finish()).unwrap();
    session.barrier().unwrap();
    commit(&mut session, seq).unwrap();
    assert_eq!(rig.contents(seq), vec![3; SIZE as usize]);
    // The merged and the dropped ways back are gone.
    let files = rig.machine.volume("retention").list().unwrap();
    assert!(!files.iter().any(|file| file.name.starts_with("reverse-")), "{files:?}");
}

#[test]
fn requests_out_of_order_are_refused_and_harm_nothing() {
    let rig = Rig::new();
    rig.cycle(1).unwrap();
    let mut session = rig.replica().session(&Rig::request(1, None)).unwrap();
    let protocol = |error: ReplicaError| assert!(matches!(error, ReplicaError::Protocol { .. }), "{error}");
    protocol(session.put_frame(Frame::zero(Extent::new(0, 10))).unwrap_err());
    protocol(session.end_part([0; 32]).unwrap_err());
    let seq = begin(&mut session).unwrap();
    let header = PartHeader { seq, part: PartIndex(1), disk: DiskIndex(0) };
    protocol(session.begin_part(header).unwrap_err());
    let header = PartHeader { disk: DiskIndex(1), part: PartIndex(0), ..header };
    protocol(session.begin_part(header).unwrap_err());
    protocol(session.node_digests(DiskIndex(0), 5, 1).unwrap_err());
    protocol(session.node_digests(DiskIndex(9), 0, 1).unwrap_err());
    let header = PartHeader { disk: DiskIndex(0), ..header };
    session.begin_part(header).unwrap();
    session.put_frame(Frame::zero(Extent::new(0, 10))).unwrap();
    let wrong = session.end_part([9; 32]).unwrap_err();
    assert!(matches!(wrong, ReplicaError::Corrupt { .. }), "{wrong}");
    session.begin_part(header).unwrap();
    assert!(session.put_frame(Frame::zero(Extent::new(SIZE - 5, 10))).is_err());
    let mut damaged = Frame::of(Extent::new(0, 10), Bytes::from_static(b"0123456789"));
    damaged.checksum[0] ^= 1;
    session.begin_part(header).unwrap();
    assert!(matches!(session.put_frame(damaged), Err(ReplicaError::Corrupt { .. })));
    send(&mut session, seq, 2).unwrap();
    commit(&mut session, seq).unwrap();
    commit_again(&mut session, seq);
    assert_eq!(rig.contents(seq), vec![2; SIZE as usize]);
}

/// The answer to a commit was lost: asking again gives the same one.
fn commit_again(session: &mut dyn ReplicaSession, seq: Seq) {
    let consistency = Consistency::CrashConsistent;
    let commit =
        CommitCycle { seq, parts: 1, time: UnixMillis(0), consistency, group_tag: None, whole: Vec::new() };
    assert_eq!(session.commit(&commit).unwrap().recoverable, Some(seq));
}
