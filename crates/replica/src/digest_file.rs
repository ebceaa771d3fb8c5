//! The digests of one target disk, in a file beside the replica.
//!
//! One [`NodeRecord`] for each 16 MiB at a fixed place, so that an apply updates in place what it touched.
//! A record that is missing, torn or damaged means *unknown*: the disk is read again when a resync
//! asks, and nothing is ever taken as equal on its word.
//!
//! Crash safety is borrowed: records may be written at any time while an apply or a fill is in progress, because after a
//! crash the apply is done again (and with it these updates), and a fill forgets all digests. They must be
//! durable ([`DigestFile::sync`]) before the manifest says that the work is done.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use switchback_delta::{Digest, NODE_LEAVES, NODE_RECORD_LEN, NodeRecord, leaves_of_node, node_extent};
use switchback_disk::{Disk, Volume, VolumeFile, parallel};
use switchback_model::{DiskIndex, Extent, ExtentSet};

use crate::ReplicaError;
use crate::error::{disk_error, volume_error};
use crate::layout::FileName;

/// Changed records kept in memory: 8 MiB.
const DIRTY_MAX: usize = 1024;
/// Bytes of records read or written at once.
const RUN_LEN: usize = 2 << 20;
/// Records that nobody asked for, between two that are read: reading a few more costs less than another request.
const GAP_MAX: u32 = 15;
/// Bytes read at once while looking up unknown leaves.
const READ_LEN: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct DigestFile {
    file: Box<dyn VolumeFile>,
    disk_size: u64,
    dirty: BTreeMap<u32, NodeRecord>,
    /// What is known of a node whose record was never written.
    absent: NodeRecord,
    /// Of a file that was empty: the nodes whose records may be in it by now. So the others need not be looked for.
    filed: Option<BTreeSet<u32>>,
    ahead: Ahead,
}

/// Records that will be asked for, so that neighbours are read together: a request to a storage account takes as long for one as for many.
#[derive(Debug, Default)]
struct Ahead {
    nodes: BTreeSet<u32>,
    /// What was read last, as it is in the file: up to [`RUN_LEN`] bytes.
    read: BTreeMap<u32, NodeRecord>,
}

impl DigestFile {
    /// Opens the file of a disk, or makes an empty one, in which everything is unknown.
    pub(crate) fn open(volume: &dyn Volume, disk: DiskIndex, disk_size: u64) -> Result<Self, ReplicaError> {
        let name = FileName::Digests { disk }.to_string();
        let opened = match volume.open(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => volume.create(&name),
            other => other,
        };
        let file = opened.map_err(|e| volume_error(volume, "opening the digests", &e))?;
        Ok(Self::over(file, disk_size, NodeRecord::unknown()))
    }

    /// The digests in `file`, where `absent` is known of every node without a record.
    pub(crate) fn over(file: Box<dyn VolumeFile>, disk_size: u64, absent: NodeRecord) -> Self {
        Self { file, disk_size, dirty: BTreeMap::new(), absent, filed: None, ahead: Ahead::default() }
    }

    /// Forgets everything.
    pub(crate) fn forget(&mut self) -> io::Result<()> {
        self.dirty.clear();
        self.ahead = Ahead::default();
        self.file.set_len(0)?;
        self.file.sync()
    }

    /// The caller knows that the file holds no record yet.
    pub(crate) fn is_blank(&mut self) {
        self.filed = Some(BTreeSet::new());
    }

    /// Whether nodes without a record are zero.
    pub(crate) fn absent_is_zero(&self) -> bool {
        self.absent == NodeRecord::zero()
    }

    fn may_be_filed(&self, node: u32) -> bool {
        self.filed.as_ref().is_none_or(|filed| filed.contains(&node))
    }

    /// The records of these nodes are about to be asked for, in ascending order.
    pub(crate) fn expect(&mut self, nodes: impl IntoIterator<Item = u32>) {
        self.ahead = Ahead { nodes: nodes.into_iter().collect(), read: BTreeMap::new() };
    }

    /// What is known of a node.
    pub(crate) fn record(&mut self, node: u32) -> io::Result<NodeRecord> {
        if let Some(record) = self.dirty.get(&node) {
            return Ok(record.clone());
        }
        if !self.may_be_filed(node) {
            return Ok(self.absent.clone());
        }
        if let Some(record) = self.ahead.read.get(&node) {
            return Ok(record.clone());
        }
        let is_behind_end = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
        let last = self.last_of_run(node);
        let read = match self.read_records(node, last) {
            // A file ends with its last record: the first of these may be there.
            Err(error) if last > node && is_behind_end(&error) => self.read_records(node, node),
            other => other,
        };
        match read {
            Ok(read) => self.ahead.read = read,
            Err(error) if is_behind_end(&error) => return Ok(self.absent.clone()),
            Err(error) => return Err(error),
        }
        Ok(self.ahead.read.get(&node).cloned().unwrap_or_else(NodeRecord::unknown))
    }

    /// Up to which node records are read together with that of `first`.
    fn last_of_run(&self, first: u32) -> u32 {
        let len_max = u32::try_from(RUN_LEN / NODE_RECORD_LEN).expect("a few hundred");
        let mut last = first;
        for node in self.ahead.nodes.range(first..first.saturating_add(len_max)) {
            if node - last > GAP_MAX + 1 {
                break;
            }
            last = *node;
        }
        last
    }

    fn read_records(&self, first: u32, last: u32) -> io::Result<BTreeMap<u32, NodeRecord>> {
        let mut bytes = vec![0; (last - first + 1) as usize * NODE_RECORD_LEN];
        self.file.read_at(place(first), &mut bytes)?;
        let is_wanted = |(node, _): &(u32, &[u8])| *node == first || self.ahead.nodes.contains(node);
        let record = |(node, bytes): (u32, &[u8])| {
            let record = if bytes.iter().all(|byte| *byte == 0) {
                self.absent.clone()
            } else {
                let bytes = bytes.try_into().expect("a chunk is a record");
                NodeRecord::decode(bytes, node).unwrap_or_else(|damage| {
                    tracing::warn!(node, %damage, "a digest record is damaged; its part of the disk will be read again");
                    NodeRecord::unknown()
                })
            };
            (node, record)
        };
        let records = (first..).zip(bytes.chunks_exact(NODE_RECORD_LEN));
        Ok(records.filter(is_wanted).map(record).collect())
    }

    /// Changes what is known of a node.
    pub(crate) fn put(&mut self, node: u32, record: NodeRecord) -> io::Result<()> {
        // It would be older, as soon as this one is written.
        self.ahead.read.remove(&node);
        self.dirty.insert(node, record);
        if self.dirty.len() > DIRTY_MAX { self.write_dirty() } else { Ok(()) }
    }

    /// Whether this part of the disk is known to be zero.
    pub(crate) fn is_zero(&mut self, extent: Extent) -> io::Result<bool> {
        for (node, mut leaves) in leaves_by_node(extent) {
            let record = self.record(node)?;
            if !leaves.all(|leaf| record.leaf(leaf) == Some(Digest::ZERO)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Notes that `extent` of the disk will be written, where no cycle that is kept would be done again after a crash: what the file says of its
    /// leaves goes before that, durably. When it fails, nothing may be written.
    pub(crate) fn will_be_written(&mut self, extent: Extent) -> io::Result<()> {
        for (node, leaves) in leaves_by_node(extent) {
            let mut record = self.record(node)?;
            if leaves.clone().all(|leaf| record.leaf(leaf).is_none()) {
                continue;
            }
            leaves.for_each(|leaf| record.set(leaf, None));
            // Whatever the file knows is known in memory, too, also when this fails: so it is seen here that it must go.
            if self.may_be_filed(node) {
                self.file.write_at(place(node), &record.encode(node))?;
            }
            self.put(node, record)?;
        }
        Ok(())
    }

    /// Notes that `extent` of the disk was written. `digests` are those of the leaf pieces of `extent`; a
    /// piece that is a whole leaf becomes known, any other makes its leaf unknown.
    pub(crate) fn written(&mut self, extent: Extent, digests: &[Digest]) -> io::Result<()> {
        let leaf_len = u64::from(switchback_delta::LEAF);
        let mut current: Option<(u32, NodeRecord)> = None;
        for (piece, digest) in extent.pieces(leaf_len).zip(digests) {
            let leaf = u32::try_from(piece.start / leaf_len).expect("the caller checked the disk's size");
            let (node, leaf_in_node) = (leaf / NODE_LEAVES, (leaf % NODE_LEAVES) as usize);
            if current.as_ref().is_none_or(|(at, _)| *at != node) {
                if let Some((at, record)) = current.take() {
                    self.put(at, record)?;
                }
                current = Some((node, self.record(node)?));
            }
            let whole = Extent::between(
                u64::from(leaf) * leaf_len,
                ((u64::from(leaf) + 1) * leaf_len).min(self.disk_size),
            );
            if let Some((_, record)) = &mut current {
                record.set(leaf_in_node, (piece == whole).then_some(*digest));
            }
        }
        current.map_or(Ok(()), |(node, record)| self.put(node, record))
    }

    /// The record of a node with every leaf known, reading the unknown ones from the disk.
    pub(crate) fn complete(
        &mut self,
        node: u32,
        disk: &dyn Disk,
        io_threads: usize,
    ) -> Result<NodeRecord, ReplicaError> {
        let file_error = |error: io::Error| ReplicaError::Io {
            action: format!("reading or writing the digests of {}", disk.name()),
            detail: error.to_string(),
        };
        let mut record = self.record(node).map_err(file_error)?;
        let leaves = leaves_of_node(self.disk_size, node);
        if record.is_complete(leaves) {
            return Ok(record);
        }
        read_unknown(&mut record, node, self.disk_size, disk, io_threads)?;
        self.put(node, record.clone()).map_err(file_error)?;
        Ok(record)
    }

    /// Makes everything noted so far durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.ahead = Ahead::default();
        self.write_dirty()?;
        self.file.sync()
    }

    fn write_dirty(&mut self) -> io::Result<()> {
        if let Some(filed) = &mut self.filed {
            filed.extend(self.dirty.keys());
        }
        self.write_records()?;
        self.dirty.clear();
        Ok(())
    }

    fn write_records(&self) -> io::Result<()> {
        // Neighbours in one write: a request to a storage account costs as much for one record as for many.
        let mut run: (u64, Vec<u8>) = (0, Vec::new());
        for (node, record) in &self.dirty {
            let (node, follows) = (*node, place(*node) == run.0 + run.1.len() as u64);
            if !follows || run.1.len() >= RUN_LEN {
                self.write_run(&run)?;
                run = (place(node), Vec::new());
            }
            run.1.extend_from_slice(&record.encode(node));
        }
        self.write_run(&run)
    }

    fn write_run(&self, (at, records): &(u64, Vec<u8>)) -> io::Result<()> {
        if records.is_empty() { Ok(()) } else { self.file.write_at(*at, records) }
    }
}

/// The nodes that these bytes of a disk are in.
pub(crate) fn nodes_of(extents: &ExtentSet) -> BTreeSet<u32> {
    let node_len = u64::from(switchback_delta::LEAF) * u64::from(NODE_LEAVES);
    let number = |offset: u64| u32::try_from(offset / node_len).expect("disks have fewer nodes");
    let mut nodes = BTreeSet::new();
    for extent in extents.iter().filter(|extent| !extent.is_empty()) {
        let (first, last) = (number(extent.start), number(extent.end() - 1));
        if nodes.last() != Some(&last) {
            nodes.extend(first..=last);
        }
    }
    nodes
}

/// The leaves that an extent touches, by their nodes.
fn leaves_by_node(extent: Extent) -> impl Iterator<Item = (u32, std::ops::Range<usize>)> {
    let leaf_len = u64::from(switchback_delta::LEAF);
    let node_leaves = u64::from(NODE_LEAVES);
    extent.pieces(leaf_len * node_leaves).map(move |piece| {
        let (first, last) = (piece.start / leaf_len, (piece.end() - 1) / leaf_len);
        let node = u32::try_from(first / node_leaves).expect("disks have fewer nodes");
        let place = |leaf: u64| usize::try_from(leaf % node_leaves).expect("256 leaves");
        (node, place(first)..place(last) + 1)
    })
}

fn place(node: u32) -> u64 {
    u64::from(node) * NODE_RECORD_LEN as u64
}

/// Fills in the unknown leaves of a node: holes without reading, the rest in reads of up to [`READ_LEN`], several at a time.
fn read_unknown(
    record: &mut NodeRecord,
    node: u32,
    disk_size: u64,
    disk: &dyn Disk,
    io_threads: usize,
) -> Result<(), ReplicaError> {
    let window = node_extent(disk_size, node);
    let allocated = disk.allocated(window).map_err(|e| disk_error(disk, "reading the allocation of", &e))?;
    let leaf_of = |offset: u64| usize::try_from((offset - window.start) / u64::from(switchback_delta::LEAF));
    let is_unknown = |chunk: &Extent| {
        chunk
            .pieces(switchback_delta::LEAF.into())
            .any(|leaf| record.leaf(leaf_of(leaf.start).expect("256 leaves")).is_none())
    };
    let chunks: Vec<_> = window.pieces(READ_LEN).filter(is_unknown).collect();
    let threads = if chunks.len() < 2 { 1 } else { io_threads };
    let read = |chunk: &Extent| -> Result<Vec<(Extent, Digest)>, ReplicaError> {
        if allocated.iter().all(|extent| extent.intersection(*chunk).is_empty()) {
            return Ok(chunk
                .pieces(switchback_delta::LEAF.into())
                .map(|leaf| (leaf, Digest::ZERO))
                .collect());
        }
        let data = disk.read(*chunk).map_err(|e| disk_error(disk, "reading", &e))?;
        let leaves = switchback_delta::pieces(*chunk, &data);
        Ok(leaves.map(|(leaf, bytes)| (leaf, switchback_delta::digest_of(bytes))).collect())
    };
    parallel::ordered(chunks.iter(), threads, read, |digests| {
        for (leaf, digest) in digests {
            record.set(leaf_of(leaf.start).expect("256 leaves"), Some(digest));
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use switchback_delta::{NODE, NodeRecord, digest_of};
    use switchback_disk::sim::SimMachine;
    use switchback_model::{DiskIndex, Extent, ExtentSet};

    use super::{DIRTY_MAX, DigestFile, nodes_of};

    #[test]
    fn what_was_read_ahead_never_hides_what_was_written_since() {
        let machine = SimMachine::new(1);
        let volume = machine.volume("digests");
        let nodes = u32::try_from(DIRTY_MAX).unwrap() + 1;
        let mut file = DigestFile::open(&*volume, DiskIndex(0), u64::from(nodes) * NODE).unwrap();
        let of = |byte: u8| {
            let mut record = NodeRecord::unknown();
            record.set(0, Some(digest_of(&[byte])));
            record
        };
        for node in 0..nodes {
            file.put(node, of(1)).unwrap();
        }
        file.sync().unwrap();
        file.expect(0..nodes);
        for node in 0..nodes {
            assert_eq!(file.record(node).unwrap(), of(1), "node {node}");
            // The last one makes all of them be written, and forgotten.
            file.put(node, of(2)).unwrap();
        }
        for node in (0..nodes).rev().take(300) {
            assert_eq!(file.record(node).unwrap(), of(2), "node {node}");
        }
        assert_eq!(file.record(nodes).unwrap(), NodeRecord::unknown(), "behind the end of the file");
        file.expect([nodes - 1, nodes, nodes + 1]);
        assert_eq!(file.record(nodes - 1).unwrap(), of(2), "together with what is behind the end");
    }

    #[test]
    fn the_nodes_of_extents() {
        let extents: ExtentSet =
            [Extent::new(5, 1), Extent::new(NODE - 1, 2), Extent::new(2 * NODE, 3 * NODE)]
                .into_iter()
                .collect();
        assert_eq!(nodes_of(&extents).into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert!(nodes_of(&ExtentSet::new()).is_empty());
    }
}
