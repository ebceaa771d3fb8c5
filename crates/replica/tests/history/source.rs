//! The source: two disks, and those that come later; the blocks changed since they were last released, and the rules of a sync engine in
//! their shortest form.

use std::collections::BTreeSet;

use bytes::Bytes;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use switchback_delta::{
    Digest, FRAME_MAX, Frame, LEAF, PartHasher, leaf_extent, leaves_of_node, nodes_of_disk,
};
use switchback_model::{
    Consistency, DiskIndex, Extent, ExtentSet, GenerationId, PartIndex, ResyncReason, Seq, UnixMillis,
};
use switchback_replica::{
    CommitCycle, CycleKind, DiskSpec, OpenCycle, PartHeader, ReplicaError, ReplicaSession,
};

/// Neither a multiple of a leaf nor of a sector.
pub(crate) const SIZES: [u64; 2] = [3 * LEAF as u64 + 1000, LEAF as u64 + 4096];

pub(crate) struct Source {
    pub(crate) disks: Vec<Vec<u8>>,
    /// Changed since the last release.
    pub(crate) dirty: Vec<ExtentSet>,
    /// Disks that it has not said yet to be whole at the replica.
    pub(crate) seeding: BTreeSet<DiskIndex>,
    /// What it said last to be so.
    pub(crate) said: Vec<DiskIndex>,
    pub(crate) generation: GenerationId,
    pub(crate) time: u64,
}

impl Source {
    pub(crate) fn new() -> Self {
        Self {
            disks: SIZES.map(|size| vec![0; size as usize]).into(),
            dirty: vec![ExtentSet::default(); SIZES.len()],
            seeding: BTreeSet::new(),
            said: Vec::new(),
            generation: GenerationId([1; 16]),
            time: 1_000,
        }
    }

    pub(crate) fn specs() -> Vec<DiskSpec> {
        SIZES.iter().map(|size| DiskSpec { size: *size }).collect()
    }

    /// What it takes its disks for.
    pub(crate) fn own_specs(&self) -> Vec<DiskSpec> {
        self.disks.iter().map(|disk| DiskSpec { size: disk.len() as u64 }).collect()
    }

    fn release(&mut self) {
        self.dirty = vec![ExtentSet::default(); self.disks.len()];
    }

    /// The tracker starts anew: what it knew is gone.
    pub(crate) fn restart(&mut self, rng: &mut ChaCha8Rng) {
        self.generation = GenerationId(rng.random());
        self.release();
    }

    /// Some writes: data, zeros, whole leaves.
    pub(crate) fn write(&mut self, rng: &mut ChaCha8Rng) {
        for _ in 0..rng.random_range(0..6) {
            let disk = rng.random_range(0..self.disks.len());
            let size = self.disks[disk].len() as u64;
            let extent = match rng.random_range(0..4) {
                0 => Extent::new(rng.random_range(0..size / 65536) * 65536, 65536),
                1 => Extent::new(0, size),
                _ => {
                    let start = rng.random_range(0..size);
                    Extent::new(start, rng.random_range(1..=(size - start).min(20_000)))
                }
            };
            // Few values, so that contents come back: a digest that was not updated would then seem to match.
            let byte = rng.random_range(0..3);
            self.disks[disk][extent.start as usize..extent.end() as usize].fill(byte);
            if rng.random_bool(0.2) {
                self.disks[disk][extent.start as usize] = rng.random();
            }
            self.dirty[disk].insert(extent);
        }
    }

    /// One cycle from its opening to its commit, by changed blocks if the replica takes them, else by comparison.
    pub(crate) fn replicate(
        &mut self,
        session: &mut dyn ReplicaSession,
        rng: &mut ChaCha8Rng,
    ) -> Result<(), ReplicaError> {
        let (mut request, mut whole) =
            (OpenCycle { generation: self.generation, kind: CycleKind::Changes }, Vec::new());
        let opened = match session.open_cycle(&request) {
            Err(ReplicaError::ResyncNeeded { .. }) => {
                // A resync that another life of the source had begun starts over.
                session.abort_cycle()?;
                request.kind = CycleKind::Resync { reason: ResyncReason::Requested };
                let opened = session.open_cycle(&request)?;
                for disk in (0..).map(DiskIndex).take(self.disks.len()) {
                    self.compare(session, disk.0)?;
                    whole.push(disk);
                }
                opened
            }
            other => other?,
        };
        let mut part = opened.next_part;
        for _round in 0..rng.random_range(1..3) {
            part = self.send_dirty(session, opened.seq, part)?;
            session.barrier()?;
            self.release();
            if rng.random_bool(0.3) {
                self.write(rng);
            }
        }
        // What was written after the last round belongs to the next point, so it is undone in the model by the
        // caller taking its copy here: send it too.
        if self.dirty.iter().any(|dirty| !dirty.is_empty()) {
            return self.replicate(session, rng);
        }
        self.time += 1_000;
        // All of them are there by now; now and then it takes its time to say so.
        whole.extend(self.seeding.iter().copied().filter(|_| rng.random_bool(0.5)));
        self.said.clone_from(&whole);
        let commit = CommitCycle {
            seq: opened.seq,
            parts: part.0,
            time: UnixMillis(self.time),
            consistency: Consistency::CrashConsistent,
            group_tag: None,
            whole,
        };
        session.commit(&commit)?;
        self.seeding.retain(|disk| !commit.whole.contains(disk));
        Ok(())
    }

    /// Sends all changed blocks, a part for each disk.
    fn send_dirty(
        &self,
        session: &mut dyn ReplicaSession,
        seq: Seq,
        mut part: PartIndex,
    ) -> Result<PartIndex, ReplicaError> {
        for (disk, extents) in (0..).zip(&self.dirty) {
            if extents.is_empty() {
                continue;
            }
            session.begin_part(PartHeader { seq, part, disk: DiskIndex(disk) })?;
            let mut hasher = PartHasher::default();
            for extent in extents.iter().flat_map(|extent| extent.pieces(FRAME_MAX.into())) {
                let data = &self.disks[usize::from(disk)][extent.start as usize..extent.end() as usize];
                let frame = Frame::of(extent, Bytes::copy_from_slice(data));
                hasher.push(&frame);
                session.put_frame(frame)?;
            }
            session.end_part(hasher.finish())?;
            part = part.next();
        }
        Ok(part)
    }

    /// Begins a cycle of changed blocks, if they may follow, and has its beginning acknowledged.
    pub(crate) fn begin_and_leave(&mut self, session: &mut dyn ReplicaSession) -> Result<(), ReplicaError> {
        let request = OpenCycle { generation: self.generation, kind: CycleKind::Changes };
        let opened = match session.open_cycle(&request) {
            Err(ReplicaError::ResyncNeeded { .. }) => return Ok(()),
            other => other?,
        };
        self.send_dirty(session, opened.seq, opened.next_part)?;
        session.barrier()?;
        self.release();
        Ok(())
    }

    /// Begins a cycle, and drops it.
    pub(crate) fn begin_and_drop(&mut self, session: &mut dyn ReplicaSession) -> Result<(), ReplicaError> {
        self.begin_and_leave(session)?;
        session.abort_cycle()
    }

    /// Marks what differs from the replica as changed.
    fn compare(&mut self, session: &mut dyn ReplicaSession, disk: u16) -> Result<(), ReplicaError> {
        let (size, index) = (self.disks[usize::from(disk)].len() as u64, DiskIndex(disk));
        let nodes: Vec<_> = (0..nodes_of_disk(size)).collect();
        let _ = session.node_digests(index, 0, nodes_of_disk(size))?;
        for digests in session.leaf_digests(index, &nodes)? {
            assert_eq!(digests.leaves.len(), leaves_of_node(size, digests.node));
            for (leaf, theirs) in digests.leaves.iter().enumerate() {
                let extent = leaf_extent(size, digests.node, leaf);
                let ours = &self.disks[usize::from(disk)][extent.start as usize..extent.end() as usize];
                let ours: Digest = switchback_delta::digest_of(ours);
                if ours != *theirs {
                    self.dirty[usize::from(disk)].insert(extent);
                }
            }
        }
        Ok(())
    }
}
