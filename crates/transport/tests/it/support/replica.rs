//! A replica in memory that records what is called, and fails where it is told to.

use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use switchback_delta::{Digest, Frame};
use switchback_identity::PeerIdentity;
use switchback_model::{DiskIndex, Epoch, Extent, PartIndex, ReplicaId, Seq};
use switchback_replica::{
    CommitCycle, LeafDigests, NodeDigest, OpenCycle, OpenCycleStatus, PartHeader, ReplicaError,
    ReplicaSession, ReplicaState, ReplicaStatus, SessionRequest, Watermarks,
};
use switchback_transport::SessionHandler;

#[derive(Default)]
struct State {
    calls: Vec<String>,
    frames: Vec<Frame>,
    /// The next call of this name fails with this.
    fail: Option<(&'static str, ReplicaError)>,
    /// Frames wait while set.
    held: bool,
    sessions: usize,
}

/// Gives sessions that share one record.
#[derive(Clone, Default)]
pub(crate) struct FakeReplicas(Arc<(Mutex<State>, Condvar)>);

pub(crate) struct FakeSession {
    replicas: FakeReplicas,
    request: SessionRequest,
}

impl FakeReplicas {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    pub(crate) fn frames(&self) -> Vec<Frame> {
        self.state().frames.clone()
    }

    /// Sessions open at the moment.
    pub(crate) fn sessions(&self) -> usize {
        self.state().sessions
    }

    pub(crate) fn fail_next(&self, call: &'static str, error: ReplicaError) {
        self.state().fail = Some((call, error));
    }

    pub(crate) fn hold(&self, held: bool) {
        self.state().held = held;
        self.0.1.notify_all();
    }

    fn record(&self, name: &'static str, detail: String) -> Result<(), ReplicaError> {
        let mut state = self.state();
        while state.held && name == "frame" {
            state = self.0.1.wait(state).unwrap();
        }
        if let Some((call, error)) = &state.fail
            && *call == name
        {
            let error = error.clone();
            state.fail = None;
            return Err(error);
        }
        state.calls.push(format!("{name}{detail}"));
        Ok(())
    }
}

impl SessionHandler for FakeReplicas {
    fn open(
        &self,
        peer: &PeerIdentity,
        request: SessionRequest,
    ) -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        self.record("open", format!(" {peer}"))?;
        self.state().sessions += 1;
        Ok(Box::new(FakeSession { replicas: self.clone(), request }))
    }
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        self.replicas.state().sessions -= 1;
    }
}

impl ReplicaSession for FakeSession {
    fn status(&mut self) -> Result<ReplicaStatus, ReplicaError> {
        Ok(ReplicaStatus {
            id: ReplicaId([3; 16]),
            epoch: self.request.epoch.unwrap_or_default(),
            disks: self.request.disks.clone(),
            state: ReplicaState::Empty,
            generation: None,
            open: None,
            last_point: None,
            watermarks: Watermarks::default(),
            paused: None,
        })
    }

    fn open_cycle(&mut self, request: &OpenCycle) -> Result<OpenCycleStatus, ReplicaError> {
        self.replicas.record("open-cycle", String::new())?;
        let OpenCycle { generation, kind } = request.clone();
        Ok(OpenCycleStatus { seq: Seq(1), generation, kind, next_part: PartIndex(0) })
    }

    fn begin_part(&mut self, header: PartHeader) -> Result<(), ReplicaError> {
        self.replicas.record("begin", format!(" {}", header.part))
    }

    fn put_frame(&mut self, frame: Frame) -> Result<(), ReplicaError> {
        self.replicas.record("frame", format!(" {}", frame.extent.start / 4096))?;
        frame.contents().map_err(|error| ReplicaError::Corrupt { detail: error.to_string() })?;
        self.replicas.state().frames.push(frame);
        Ok(())
    }

    fn end_part(&mut self, checksum: [u8; 32]) -> Result<(), ReplicaError> {
        self.replicas.record("end", format!(" {}", checksum[0]))
    }

    fn barrier(&mut self) -> Result<Watermarks, ReplicaError> {
        self.replicas.record("barrier", String::new())?;
        Ok(Watermarks { received: Some(Seq(1)), recoverable: None })
    }

    fn commit(&mut self, commit: &CommitCycle) -> Result<Watermarks, ReplicaError> {
        self.replicas.record("commit", format!(" {}", commit.parts))?;
        Ok(Watermarks { received: Some(commit.seq), recoverable: Some(commit.seq) })
    }

    fn abort_cycle(&mut self) -> Result<(), ReplicaError> {
        self.replicas.record("abort", String::new())
    }

    fn node_digests(
        &mut self,
        _: DiskIndex,
        first: u32,
        count: u32,
    ) -> Result<Vec<NodeDigest>, ReplicaError> {
        self.replicas.record("nodes", format!(" {first}+{count}"))?;
        Ok((first..first + count).map(|node| NodeDigest(digest(node))).collect())
    }

    fn leaf_digests(&mut self, _: DiskIndex, nodes: &[u32]) -> Result<Vec<LeafDigests>, ReplicaError> {
        self.replicas.record("leaves", format!(" {}", nodes.len()))?;
        let leaves = |node: &u32| LeafDigests { node: *node, leaves: vec![digest(*node); 256] };
        Ok(nodes.iter().map(leaves).collect())
    }
}

pub(crate) fn digest(node: u32) -> Digest {
    Digest(*blake3_of(node).as_bytes().first_chunk().unwrap())
}

/// Any 32 bytes that differ from node to node.
fn blake3_of(node: u32) -> String {
    format!("{node:0>32}")
}

/// Frame `n` of some part: raw, large; or raw, small; or zero.
pub(crate) fn frame(n: u64) -> Frame {
    let len = [100_000, 4096, 512][usize::try_from(n % 3).unwrap()];
    let extent = Extent::new(n * 4096, len);
    if n % 4 == 3 {
        return Frame::zero(extent);
    }
    let contents: Vec<u8> = (0..len).map(|at| ((at * 7 + n + 1) % 256).to_le_bytes()[0]).collect();
    Frame::of(extent, Bytes::from(contents))
}

pub(crate) fn header(part: u32) -> PartHeader {
    PartHeader { seq: Seq(1), part: PartIndex(part), disk: DiskIndex(0) }
}

/// Sends a part of `count` frames.
pub(crate) fn send_part(session: &mut dyn ReplicaSession, part: u32, count: u64) -> Result<(), ReplicaError> {
    session.begin_part(header(part))?;
    for n in 0..count {
        session.put_frame(frame(n))?;
    }
    session.end_part([part.to_le_bytes()[0]; 32])
}

pub(crate) fn stale() -> ReplicaError {
    ReplicaError::StaleEpoch { given: Epoch(5), current: Epoch(6) }
}
