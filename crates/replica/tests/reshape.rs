//! Disks that come to a replica and leave it: which points hold them, whatever crashes and whatever was on its way.

#![expect(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "tests, of small sizes")]

use std::sync::Arc;

use switchback_delta::{Frame, PartHasher};
use switchback_disk::sim::{Restart, SimMachine};
use switchback_disk::{Disk, VoidDisk};
use switchback_model::{
    Consistency, DiskIndex, Epoch, Extent, GenerationId, PartIndex, ReplicaId, ResyncReason, Seq, UnixMillis,
    WriterId,
};
use switchback_replica::{
    CommitCycle, CycleKind, DiskReplica, DiskSession, DiskSpec, OpenCycle, PartHeader, ReadPoint,
    ReplicaConfig, ReplicaError, ReplicaSession, SessionRequest,
};

const SIZE: u64 = 256 << 10;
const BLOCK: u64 = 64 << 10;
const FIRST: DiskIndex = DiskIndex(0);
const ADDED: DiskIndex = DiskIndex(1);

struct Rig {
    machine: SimMachine,
    replica: Option<Arc<DiskReplica>>,
}

fn specs(count: usize) -> Vec<DiskSpec> {
    vec![DiskSpec { size: SIZE }; count]
}

fn config() -> ReplicaConfig {
    ReplicaConfig { io_threads: 1, ..ReplicaConfig::default() }
}

impl Rig {
    /// A replica of one disk that has two points.
    fn new(seed: u64) -> Self {
        let machine = SimMachine::new(seed);
        let disks: Vec<Arc<dyn Disk>> = vec![machine.disk("0", SIZE)];
        let volume = machine.volume("retention");
        let made = DiskReplica::create(volume, disks, specs(1), ReplicaId([9; 16]), UnixMillis(0), config())
            .unwrap();
        let mut rig = Self { machine, replica: Some(Arc::new(made)) };
        rig.cycle(1, &[(FIRST, 1)], &[]).unwrap();
        rig.cycle(1, &[(FIRST, 2)], &[]).unwrap();
        rig
    }

    fn replica(&self) -> &Arc<DiskReplica> {
        self.replica.as_ref().unwrap()
    }

    /// Closes it, gives it this shape, opens it.
    fn reshape(&mut self, count: usize, removed: &[DiskIndex]) -> Result<(), ReplicaError> {
        self.replica = None;
        let volume = self.machine.volume("retention");
        DiskReplica::reshape(&*volume, &specs(count), removed)?;
        let disks = (0..).map(DiskIndex).take(count).map(|disk| -> Arc<dyn Disk> {
            match removed.contains(&disk) {
                true => Arc::new(VoidDisk::new(SIZE)),
                false => self.machine.disk(&disk.to_string(), SIZE),
            }
        });
        self.replica = Some(Arc::new(DiskReplica::open(volume, disks.collect(), config())?));
        Ok(())
    }

    fn session(&self, disks: usize) -> Result<DiskSession, ReplicaError> {
        self.replica().session(&SessionRequest {
            replica: "machine".parse().unwrap(),
            epoch: Some(Epoch(1)),
            writer: WriterId([1; 16]),
            disks: specs(disks),
        })
    }

    /// A cycle of a source with so many disks that fills the first block of some with a byte.
    fn cycle(
        &mut self,
        disks: usize,
        writes: &[(DiskIndex, u8)],
        whole: &[DiskIndex],
    ) -> Result<Seq, ReplicaError> {
        let mut session = self.session(disks)?;
        let seq = begin(&mut session, writes)?;
        commit(&mut session, seq, writes.len(), whole)?;
        drop(session);
        self.replica().maintain()?;
        Ok(seq)
    }

    /// What each point lacks.
    fn lacks(&self) -> Vec<Vec<u16>> {
        let points = self.replica().points();
        points.iter().map(|point| point.lacks.iter().map(|disk| disk.0).collect()).collect()
    }

    fn byte(&self, seq: Seq, disk: DiskIndex) -> u8 {
        let mut byte = [0];
        self.replica().view(seq).unwrap().read_at(disk, BLOCK - 1, &mut byte).unwrap();
        byte[0]
    }
}

/// Opens, or joins, a cycle and sends what it does not have yet.
fn begin(session: &mut DiskSession, writes: &[(DiskIndex, u8)]) -> Result<Seq, ReplicaError> {
    let first = session.status()?.last_point.is_none();
    let kind = match first {
        true => CycleKind::Resync { reason: ResyncReason::Initial },
        false => CycleKind::Changes,
    };
    let opened = session.open_cycle(&OpenCycle { generation: GenerationId([1; 16]), kind })?;
    for (part, (disk, byte)) in (0..).zip(writes).skip(opened.next_part.0 as usize) {
        session.begin_part(PartHeader { seq: opened.seq, part: PartIndex(part), disk: *disk })?;
        let frame = Frame::of(Extent::new(0, BLOCK), vec![*byte; BLOCK as usize].into());
        let mut hasher = PartHasher::new();
        hasher.push(&frame);
        session.put_frame(frame)?;
        session.end_part(hasher.finish())?;
    }
    session.barrier()?;
    Ok(opened.seq)
}

fn commit(
    session: &mut DiskSession,
    seq: Seq,
    parts: usize,
    whole: &[DiskIndex],
) -> Result<(), ReplicaError> {
    let commit = CommitCycle {
        seq,
        parts: u32::try_from(parts).unwrap(),
        time: UnixMillis(seq.0),
        consistency: Consistency::CrashConsistent,
        group_tag: None,
        whole: whole.to_vec(),
    };
    session.commit(&commit).map(drop)
}

#[test]
fn an_added_disk_is_in_points_from_the_one_that_says_so_on() {
    let mut rig = Rig::new(1);
    // A cycle is open, some of it acknowledged, when the disk comes; its source has not heard of it.
    let mut session = rig.session(1).unwrap();
    begin(&mut session, &[(FIRST, 3)]).unwrap();
    drop(session);
    rig.reshape(2, &[]).unwrap();
    assert_eq!(rig.lacks(), [[1], [1]]);
    rig.cycle(1, &[(FIRST, 3)], &[]).unwrap();
    rig.cycle(2, &[(FIRST, 4), (ADDED, 5)], &[]).unwrap();
    assert_eq!(rig.lacks(), [[1], [1], [1], [1]], "half of its contents are none");
    let whole = rig.cycle(2, &[(ADDED, 6)], &[ADDED]).unwrap();
    let next = rig.cycle(2, &[(FIRST, 7), (ADDED, 8)], &[]).unwrap();
    assert_eq!(rig.lacks()[4..], [[0_u16; 0], []]);
    assert_eq!([rig.byte(whole, FIRST), rig.byte(whole, ADDED)], [4, 6]);
    assert_eq!([rig.byte(next, FIRST), rig.byte(next, ADDED)], [7, 8]);
    assert_eq!((1..=4).map(|seq| rig.byte(Seq(seq), FIRST)).collect::<Vec<_>>(), [1, 2, 3, 4]);
    // A source that does not send it any more would leave it behind.
    let refused = rig.session(1).map(drop);
    assert!(matches!(refused, Err(ReplicaError::DisksChanged { .. })), "{refused:?}");
    assert_eq!(rig.replica().fsck(|_, _| ()).unwrap().findings, []);
    // Back to before it was whole: that must be said again.
    rig.replica().roll_back(Seq(4)).unwrap();
    assert_eq!(rig.replica().points().last().unwrap().lacks, [ADDED]);
    rig.session(1).unwrap();
}

#[test]
fn a_removed_disk_is_in_no_point_whatever_still_comes_for_it() {
    let mut rig = Rig::new(2);
    rig.reshape(2, &[]).unwrap();
    rig.cycle(2, &[(ADDED, 5)], &[ADDED]).unwrap();
    rig.reshape(2, &[FIRST]).unwrap();
    assert_eq!(rig.lacks(), [vec![0, 1], vec![0, 1], vec![0]]);
    // As a process server still has it.
    let late = rig.cycle(2, &[(FIRST, 9), (ADDED, 6)], &[FIRST, ADDED]).unwrap();
    assert_eq!(rig.lacks()[3], [0]);
    assert_eq!([rig.byte(Seq(3), ADDED), rig.byte(late, ADDED)], [5, 6]);
    assert_eq!(rig.machine.snapshot("0")[0], 2, "what its site does with it is not for the replica");
    assert_eq!(rig.replica().fsck(|_, _| ()).unwrap().findings, []);
    assert_eq!(rig.replica().removed(), [FIRST]);
    for (count, removed) in [(2, vec![]), (2, vec![FIRST, ADDED]), (1, vec![FIRST])] {
        let refused = rig.reshape(count, &removed);
        assert!(refused.is_err(), "{count} disks without {removed:?}");
    }
    rig.reshape(3, &[FIRST]).unwrap();
    assert_eq!(rig.lacks(), [vec![0, 1, 2], vec![0, 1, 2], vec![0, 2], vec![0, 2]]);
}

#[test]
fn a_reshape_that_loses_power_at_any_moment_is_done_or_not_and_can_be_done_again() {
    for seed in 0..40 {
        for removed in [vec![], vec![FIRST]] {
            let mut rig = Rig::new(seed);
            let before = rig.machine.ops();
            rig.machine.crash_at(before + 1 + seed % 20);
            let done = rig.reshape(2, &removed);
            let survived = done.is_ok();
            if !survived {
                rig.replica = None;
                rig.machine.restart(Restart::PowerLoss);
            }
            rig.machine.crash_at(u64::MAX);
            rig.reshape(2, &removed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let lacks = if removed.is_empty() { vec![1] } else { vec![0, 1] };
            assert_eq!(rig.lacks(), [lacks.clone(), lacks], "seed {seed}");
            let seq = rig.cycle(2, &[(ADDED, 7)], &[ADDED]).unwrap();
            assert_eq!(rig.byte(seq, ADDED), 7, "seed {seed}");
        }
    }
}
