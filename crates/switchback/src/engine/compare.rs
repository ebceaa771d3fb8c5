//! Comparing a disk with its replica by digests, and sending what differs.
//!
//! Readers go through the disk in chunks of a MiB, holes without reading; this thread puts the digests of 16 chunks together to
//! those of a node, compares it with the replica's, and asks for the leaves only where nodes differ. A
//! replica whose node is all zero (a new disk) is not asked: its leaves are zero.

use std::ops::Range;

use bytes::Bytes;
use switchback_delta::{
    Digest, FRAME_MAX, Frame, LEAF, NODE, NODE_LEAVES, NodeRecord, digest_of, leaves_of_node, node_extent,
    nodes_of_disk, pieces,
};
use switchback_disk::{Disk, parallel};
use switchback_model::{DiskIndex, Extent};
use switchback_replica::NodeDigest;

use super::EngineError;
use super::sender::Sender;

/// Nodes whose digests are asked for at once: 256 MiB of disk. An answer comes when everything sent before has been worked off, so
/// each question costs the time of what is under way.
const ASK_NODES: u32 = 16;

/// A MiB of the source with the digests of its leaves.
struct Chunk {
    extent: Extent,
    /// None in a hole.
    data: Option<Bytes>,
    digests: Vec<Digest>,
}

/// What the comparison of a node led to, told after each.
pub(super) struct NodeDone {
    /// The node.
    pub(super) node: u32,
    /// Its bytes.
    pub(super) bytes: u64,
}

/// Compares `nodes` of a disk and sends what differs; `done` is called after each node, with the sender,
/// and may end the comparison with an error.
pub(super) fn compare(
    disk: &dyn Disk,
    index: DiskIndex,
    nodes: Range<u32>,
    io_threads: usize,
    // Whether the replica has nothing yet: then all its digests are known at once.
    is_empty: bool,
    sender: &mut Sender<'_>,
    mut done: impl FnMut(&mut Sender<'_>, NodeDone) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let size = disk.size();
    let window = Extent::between(u64::from(nodes.start) * NODE, (u64::from(nodes.end) * NODE).min(size));
    let source_error = |offset, source| EngineError::Source { disk: disk.name().into(), offset, source };
    let allocated = disk.allocated(window).map_err(|e| source_error(window.start, e))?;
    let read = |extent: Extent| -> Result<Chunk, EngineError> {
        let after = allocated.partition_point(|run| run.end() <= extent.start);
        if allocated.get(after).is_none_or(|run| run.start >= extent.end()) {
            let digests = extent.pieces(LEAF.into()).map(|_| Digest::ZERO).collect();
            return Ok(Chunk { extent, data: None, digests });
        }
        let data = disk.read(extent).map_err(|e| source_error(extent.start, e))?;
        let digests = pieces(extent, &data).map(|(_, bytes)| digest_of(bytes)).collect();
        Ok(Chunk { extent, data: Some(data), digests })
    };
    let at_once = if is_empty { u32::MAX } else { ASK_NODES };
    let mut theirs =
        Theirs { index, end: nodes_of_disk(size), first: nodes.start, nodes: Vec::new(), at_once };
    let mut chunks: Vec<Chunk> = Vec::new();
    parallel::ordered(window.pieces(FRAME_MAX.into()), io_threads, read, |chunk| {
        let extent = chunk.extent;
        let node = u32::try_from(extent.start / NODE).expect("disks have fewer nodes");
        chunks.push(chunk);
        if extent.end() < node_extent(size, node).end() {
            return Ok(());
        }
        let (node_chunks, count) = (std::mem::take(&mut chunks), leaves_of_node(size, node));
        send_node(&node_chunks, node, count, &mut theirs, sender)?;
        done(sender, NodeDone { node, bytes: node_extent(size, node).len })
    })
}

/// The replica's node digests, asked for some at a time.
struct Theirs {
    index: DiskIndex,
    end: u32,
    first: u32,
    nodes: Vec<NodeDigest>,
    /// Nodes in one question.
    at_once: u32,
}

impl Theirs {
    fn node(&mut self, node: u32, sender: &mut Sender<'_>) -> Result<Digest, EngineError> {
        if (node - self.first) as usize >= self.nodes.len() {
            let count = self.at_once.min(self.end - node);
            self.nodes = sender.ask()?.node_digests(self.index, node, count)?;
            self.first = node;
        }
        match self.nodes.get((node - self.first) as usize) {
            Some(digest) => Ok(digest.0),
            None => Err(incomplete("node", node)),
        }
    }
}

fn send_node(
    chunks: &[Chunk],
    node: u32,
    leaves: usize,
    theirs: &mut Theirs,
    sender: &mut Sender<'_>,
) -> Result<(), EngineError> {
    let mut record = NodeRecord::unknown();
    for (leaf, digest) in chunks.iter().flat_map(|chunk| &chunk.digests).enumerate() {
        record.set(leaf, Some(*digest));
    }
    let ours = record.node_digest(leaves).expect("all leaves were just set");
    let their_node = theirs.node(node, sender)?;
    if ours == their_node {
        return Ok(());
    }
    let their_leaves = if their_node == Digest::ZERO {
        vec![Digest::ZERO; leaves]
    } else {
        let mut answer = sender.ask()?.leaf_digests(theirs.index, &[node])?;
        answer
            .pop()
            .filter(|answer| answer.leaves.len() == leaves)
            .ok_or_else(|| incomplete("leaves of node", node))?
            .leaves
    };
    for chunk in chunks {
        let first =
            usize::try_from(chunk.extent.start / u64::from(LEAF)).expect("64-bit") % NODE_LEAVES as usize;
        for frame in frames_that_differ(chunk, &their_leaves[first..first + chunk.digests.len()]) {
            sender.send(theirs.index, frame)?;
        }
    }
    Ok(())
}

/// The runs of leaves of a chunk that differ, zeros apart from data, so that holes stay holes.
fn frames_that_differ(chunk: &Chunk, theirs: &[Digest]) -> Vec<Frame> {
    let leaves: Vec<_> = chunk.extent.pieces(LEAF.into()).collect();
    let kind = |leaf: usize| {
        let ours = chunk.digests[leaf];
        (ours != theirs[leaf]).then_some(ours == Digest::ZERO)
    };
    let mut frames = Vec::new();
    let mut from = 0;
    while from < leaves.len() {
        let Some(zero) = kind(from) else {
            from += 1;
            continue;
        };
        let run = (from..leaves.len()).take_while(|leaf| kind(*leaf) == Some(zero)).count();
        let extent = Extent::between(leaves[from].start, leaves[from + run - 1].end());
        frames.push(match &chunk.data {
            Some(data) if !zero => {
                let start = usize::try_from(extent.start - chunk.extent.start).expect("within a chunk");
                let len = usize::try_from(extent.len).expect("within a chunk");
                Frame::new(extent, data.slice(start..start + len), &chunk.digests[from..from + run])
            }
            _ => Frame::zero(extent),
        });
        from += run;
    }
    frames
}

fn incomplete(what: &str, node: u32) -> EngineError {
    let detail = format!("the replica's answer about {what} {node} is incomplete");
    EngineError::Replica(switchback_replica::ReplicaError::Protocol { detail })
}
