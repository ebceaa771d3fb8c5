//! A replica in memory, the model of what a next hop does, and a writer that knows what it was promised.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use switchback_delta::{Frame, PartHasher};
use switchback_disk::Volume;
use switchback_model::{
    Consistency, DiskIndex, Epoch, Extent, GenerationId, PartIndex, RecoveryPoint, ReplicaId, ResyncReason,
    Seq, UnixMillis, WriterId,
};
use switchback_replica::{
    CommitCycle, CycleKind, DiskSpec, LeafDigests, NodeDigest, OpenCycle, OpenCycleStatus, PartHeader,
    PauseReason, ReplicaError, ReplicaSession, ReplicaState, ReplicaStatus, SessionRequest, Watermarks,
};
use switchback_spool::{Entropy, NextHop, Spool, SpoolConfig, Step};

pub(crate) const DISK_SIZE: u64 = 64 * 1024;
/// What the parts of [`send_cycle`] are salted with.
pub(crate) const CYCLE_SALT: u64 = 0;
pub(crate) const DISKS: usize = 2;

type Part = (PartHeader, Vec<Frame>);

/// What the replica holds, whoever has a session.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) id: u8,
    pub(crate) epoch: Epoch,
    pub(crate) generation: Option<GenerationId>,
    pub(crate) disks: Vec<Vec<u8>>,
    pub(crate) points: Vec<(RecoveryPoint, Vec<Vec<u8>>)>,
    pub(crate) open: Option<(OpenCycle, Vec<Part>)>,
    /// Calls so far, over all sessions; connecting is one.
    pub(crate) calls: u64,
    /// The call that fails, and whether it does its work before.
    pub(crate) fail_at: Option<(u64, bool)>,
    pub(crate) paused: bool,
    pub(crate) away: bool,
    /// At an older point, for a failover.
    pub(crate) standing: bool,
}

/// The replica. Clones are the same.
#[derive(Clone)]
pub(crate) struct Model(Arc<Mutex<World>>);

fn lost() -> ReplicaError {
    ReplicaError::Disconnected { peer: "model".into(), detail: "as the test wants it".into() }
}

impl Model {
    pub(crate) fn new() -> Self {
        let disks = vec![vec![0; DISK_SIZE as usize]; DISKS];
        Self(Arc::new(Mutex::new(World { disks, ..World::default() })))
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_hop(&self) -> Box<NextHop> {
        let model = self.clone();
        Box::new(move |request| {
            let mut world = model.world();
            let fails = world.call()?;
            if let Some(epoch) = request.epoch {
                world.check(epoch)?;
                world.epoch = epoch;
            }
            let epoch = world.epoch;
            // What was not made durable is gone with the connection: here, all but whole parts.
            if fails {
                Err(lost())
            } else {
                Ok(Box::new(Session { model: model.clone(), epoch, part: None }))
            }
        })
    }
}

impl World {
    fn check(&self, given: Epoch) -> Result<(), ReplicaError> {
        if given < self.epoch { Err(ReplicaError::StaleEpoch { given, current: self.epoch }) } else { Ok(()) }
    }

    /// Counts a call. `Err`: fail at once; `Ok(true)`: do it, then fail.
    fn call(&mut self) -> Result<bool, ReplicaError> {
        self.calls += 1;
        match self.fail_at {
            _ if self.away => Err(lost()),
            _ if self.standing => Err(ReplicaError::Standing { at: 1 }),
            Some((at, false)) if at == self.calls => Err(lost()),
            Some((at, true)) if at == self.calls => Ok(true),
            _ => Ok(false),
        }
    }

    pub(crate) fn last_seq(&self) -> Seq {
        self.points.last().map_or(Seq(0), |(point, _)| point.seq)
    }

    fn open_status(&self) -> Option<OpenCycleStatus> {
        let (request, parts) = self.open.as_ref()?;
        Some(OpenCycleStatus {
            seq: self.last_seq().next(),
            generation: request.generation,
            kind: request.kind.clone(),
            next_part: PartIndex(parts.len() as u32),
        })
    }

    fn watermarks(&self) -> Watermarks {
        let last = self.points.last().map(|(point, _)| point.seq);
        Watermarks { received: last, recoverable: last }
    }

    fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            id: ReplicaId([self.id; 16]),
            epoch: self.epoch,
            disks: vec![DiskSpec { size: DISK_SIZE }; DISKS],
            state: if self.points.is_empty() { ReplicaState::Empty } else { ReplicaState::Ready },
            generation: self.generation,
            open: self.open_status(),
            last_point: self.points.last().map(|(point, _)| point.clone()),
            watermarks: self.watermarks(),
            paused: None,
        }
    }

    fn commit(&mut self, commit: &CommitCycle) -> Result<Watermarks, ReplicaError> {
        let point = RecoveryPoint {
            seq: commit.seq,
            time: commit.time,
            consistency: commit.consistency,
            group_tag: commit.group_tag.clone(),
            lacks: Vec::new(),
        };
        if self.open.is_none() && self.points.last().is_some_and(|(last, _)| *last == point) {
            return Ok(self.watermarks());
        }
        let (request, parts) = self.open.take().expect("a commit without an open cycle");
        assert_eq!(commit.seq, self.last_seq().next());
        assert_eq!(parts.len(), commit.parts as usize, "the parts of cycle {}", commit.seq);
        for (header, frames) in parts {
            apply(&mut self.disks[usize::from(header.disk.0)], &frames);
        }
        self.generation = Some(request.generation);
        let disks = self.disks.clone();
        self.points.push((point, disks));
        Ok(self.watermarks())
    }
}

pub(crate) fn checksum(frames: &[Frame]) -> [u8; 32] {
    let mut hasher = PartHasher::new();
    frames.iter().for_each(|frame| hasher.push(frame));
    hasher.finish()
}

fn apply(disk: &mut [u8], frames: &[Frame]) {
    for frame in frames {
        let (contents, _) = frame.contents().unwrap();
        let start = frame.extent.start as usize;
        disk[start..start + contents.len()].copy_from_slice(&contents);
    }
}

struct Session {
    model: Model,
    epoch: Epoch,
    part: Option<Part>,
}

impl Session {
    fn call<T>(
        &mut self,
        work: impl FnOnce(&mut World, &mut Option<Part>) -> Result<T, ReplicaError>,
    ) -> Result<T, ReplicaError> {
        let mut world = self.model.world();
        let fails = world.call()?;
        world.check(self.epoch)?;
        let result = work(&mut world, &mut self.part);
        if fails { Err(lost()) } else { result }
    }
}

impl ReplicaSession for Session {
    fn status(&mut self) -> Result<ReplicaStatus, ReplicaError> {
        self.call(|world, _| Ok(world.status()))
    }

    fn open_cycle(&mut self, request: &OpenCycle) -> Result<OpenCycleStatus, ReplicaError> {
        self.call(|world, _| {
            if request.kind == CycleKind::Changes && world.generation != Some(request.generation) {
                return Err(ReplicaError::ResyncNeeded { detail: "another generation".into() });
            }
            if world.open.as_ref().is_none_or(|(open, _)| open != request) {
                world.open = Some((request.clone(), Vec::new()));
            }
            Ok(world.open_status().unwrap())
        })
    }

    fn begin_part(&mut self, header: PartHeader) -> Result<(), ReplicaError> {
        self.call(|world, part| {
            assert!(part.is_none());
            let next = world.open_status().expect("a part without a cycle");
            assert_eq!((header.seq, header.part), (next.seq, next.next_part));
            *part = Some((header, Vec::new()));
            Ok(())
        })
    }

    fn put_frame(&mut self, frame: Frame) -> Result<(), ReplicaError> {
        self.call(|world, part| {
            if world.paused {
                let detail = "as the test wants it".into();
                return Err(ReplicaError::Paused(PauseReason::RetentionFull { detail }));
            }
            part.as_mut().unwrap().1.push(frame);
            Ok(())
        })
    }

    fn end_part(&mut self, sum: [u8; 32]) -> Result<(), ReplicaError> {
        self.call(|world, part| {
            let part = part.take().unwrap();
            assert_eq!(checksum(&part.1), sum);
            world.open.as_mut().unwrap().1.push(part);
            Ok(())
        })
    }

    fn barrier(&mut self) -> Result<Watermarks, ReplicaError> {
        self.call(|world, _| Ok(world.watermarks()))
    }

    fn commit(&mut self, commit: &CommitCycle) -> Result<Watermarks, ReplicaError> {
        self.call(|world, _| world.commit(commit))
    }

    fn abort_cycle(&mut self) -> Result<(), ReplicaError> {
        self.call(|world, part| {
            *part = None;
            world.open = None;
            Ok(())
        })
    }

    fn node_digests(
        &mut self,
        disk: DiskIndex,
        _first: u32,
        _count: u32,
    ) -> Result<Vec<NodeDigest>, ReplicaError> {
        self.call(|world, _| {
            // With the parts of the open cycle, which were sent before.
            let mut contents = world.disks[usize::from(disk.0)].clone();
            let parts = world.open.iter().flat_map(|(_, parts)| parts);
            parts.filter(|(header, _)| header.disk == disk).for_each(|(_, f)| apply(&mut contents, f));
            Ok(vec![NodeDigest(switchback_delta::digest_of(&contents))])
        })
    }

    fn leaf_digests(&mut self, _disk: DiskIndex, _nodes: &[u32]) -> Result<Vec<LeafDigests>, ReplicaError> {
        self.call(|_, _| Ok(Vec::new()))
    }
}

/// Small segments and limits, so that a short scenario meets all of them; repeatable random bytes.
pub(crate) fn config() -> SpoolConfig {
    let name = "web01".parse().unwrap();
    let drawn = Mutex::new(0_u64);
    SpoolConfig {
        segment_bytes_max: 6000,
        part_bytes_max: 64 * 1024,
        sync_bytes: 1 << 20,
        barrier_bytes: 5000,
        reserve_bytes: 0,
        entropy: Entropy::from_fn(move |out| {
            let mut drawn = drawn.lock().unwrap();
            *drawn += 1;
            out.copy_from_slice(&blake3::hash(&drawn.to_le_bytes()).as_bytes()[..out.len()]);
        }),
        ..SpoolConfig::new(name, WriterId([9; 16]), 1 << 20)
    }
}

pub(crate) fn request(writer: u8, epoch: Option<u64>) -> SessionRequest {
    SessionRequest {
        replica: "web01".parse().unwrap(),
        epoch: epoch.map(Epoch),
        writer: WriterId([writer; 16]),
        disks: vec![DiskSpec { size: DISK_SIZE }; DISKS],
    }
}

pub(crate) fn generation(n: u8) -> GenerationId {
    GenerationId([n; 16])
}

pub(crate) fn changes(generation_number: u8) -> OpenCycle {
    OpenCycle { generation: generation(generation_number), kind: CycleKind::Changes }
}

pub(crate) fn resync(generation_number: u8) -> OpenCycle {
    OpenCycle {
        generation: generation(generation_number),
        kind: CycleKind::Resync { reason: ResyncReason::Requested },
    }
}

/// The frames of a part: what they hold depends on the cycle, the part and `salt` only.
pub(crate) fn frames(seq: u64, part: u32, salt: u64) -> (DiskIndex, Vec<Frame>) {
    let disk = DiskIndex((part % DISKS as u32) as u16);
    let random = |n: u64| {
        let hash = blake3::hash(format!("{seq} {part} {salt} {n}").as_bytes());
        u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap())
    };
    let mut zstd = zstd::bulk::Compressor::new(-1).unwrap();
    let frames = (0..3).map(|n| {
        let extent = Extent::new((n * 5 + random(n) % 4) * 4096, 512 * (1 + random(n + 10) % 4));
        let contents: Bytes = match n {
            0 => vec![0; extent.len as usize].into(),
            1 => vec![random(n + 20) as u8 | 1; extent.len as usize].into(),
            _ => (0..extent.len).map(|at| random(at + 1000) as u8).collect::<Vec<_>>().into(),
        };
        Frame::of(extent, contents).compressed(&mut zstd)
    });
    (disk, frames.collect())
}

/// What a writer does and has been promised.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promised {
    /// The contents of each point whose commit was answered.
    pub(crate) points: BTreeMap<u64, Vec<Vec<u8>>>,
    /// The point whose commit was asked for and perhaps not answered.
    pub(crate) asked: Option<u64>,
    /// Of the open cycle: its number and the parts a barrier was answered for.
    pub(crate) parts: Option<(u64, u32)>,
}

pub(crate) fn send_part(
    session: &mut dyn ReplicaSession,
    seq: u64,
    part: u32,
    salt: u64,
) -> Result<(), ReplicaError> {
    let (disk, frames) = frames(seq, part, salt);
    session.begin_part(PartHeader { seq: Seq(seq), part: PartIndex(part), disk })?;
    let sum = checksum(&frames);
    frames.into_iter().try_for_each(|frame| session.put_frame(frame))?;
    session.end_part(sum)
}

pub(crate) fn commit_of(seq: u64, parts: u32, salt: u64) -> CommitCycle {
    CommitCycle {
        seq: Seq(seq),
        parts,
        time: UnixMillis(1000 * seq + salt),
        consistency: Consistency::CrashConsistent,
        group_tag: None,
        whole: Vec::new(),
    }
}

/// A whole cycle: a resync if it is the first, with a barrier after every second part. Joins an open one.
pub(crate) fn send_cycle(
    session: &mut dyn ReplicaSession,
    seq: u64,
    parts: u32,
    promised: &mut Promised,
) -> Result<(), ReplicaError> {
    let request = if seq == 1 { resync(1) } else { changes(1) };
    let open = session.open_cycle(&request)?;
    assert_eq!(open.seq, Seq(seq));
    for part in open.next_part.0..parts {
        send_part(session, seq, part, 0)?;
        if part % 2 == 1 {
            session.barrier()?;
            promised.parts = Some((seq, part + 1));
        }
    }
    promised.asked = Some(seq);
    session.commit(&commit_of(seq, parts, 0))?;
    promised.parts = None;
    promised.points.insert(seq, Vec::new());
    Ok(())
}

/// The contents of the disks at each point, by the obvious way.
pub(crate) fn contents(cycles: &[u32]) -> Vec<Vec<Vec<u8>>> {
    let mut disks = vec![vec![0; DISK_SIZE as usize]; DISKS];
    let mut points = Vec::new();
    for (seq, parts) in (1..).zip(cycles) {
        for part in 0..*parts {
            let (disk, frames) = frames(seq, part, 0);
            apply(&mut disks[usize::from(disk.0)], &frames);
        }
        points.push(disks.clone());
    }
    points
}

/// Forwards until there is nothing left; gives up after many waits in a row.
pub(crate) fn drain(spool: &Spool) {
    let mut waits = 0;
    loop {
        match spool.forward_one() {
            Step::Idle => return,
            Step::Forwarded => waits = 0,
            Step::Wait { reason, .. } => {
                waits += 1;
                assert!(waits < 10, "the next hop is never reached: {reason}");
            }
        }
    }
}

pub(crate) fn open(volume: Arc<dyn Volume>, model: &Model) -> Spool {
    Spool::open_stepped(volume, config(), model.next_hop()).unwrap()
}

/// Every point of the model is the one the cycles make, and nothing is there twice or left out.
pub(crate) fn assert_points(model: &Model, cycles: &[u32], context: &str) {
    let world = model.world();
    let expected = contents(cycles);
    let seqs: Vec<_> = world.points.iter().map(|(point, _)| point.seq.0).collect();
    assert_eq!(seqs, (1..=cycles.len() as u64).collect::<Vec<_>>(), "{context}");
    for ((point, disks), expected) in world.points.iter().zip(&expected) {
        assert!(disks == expected, "point {} differs, {context}", point.seq);
    }
    assert!(world.open.is_none(), "{context}");
}
