//! Nodes of the digest tree as a replica keeps them in a file.
//!
//! The file is an array: the record of node `n` (16 MiB of the disk, 256 leaves) stands at byte
//! `n × NODE_RECORD_LEN`, so that an apply updates digests in place, and a file that was just created,
//! sparse and empty, is right already: it knows nothing.
//!
//! # Record, 8704 bytes
//! ```text
//! offset size
//!    0    32   checksum of the node's number (u32 LE) and bytes 32..
//!   32    32   which leaves are known: leaf i is bit i % 8 of byte i / 8
//!   64  8192   digests of the leaves; an unknown leaf's is 0
//! 8256   448   reserved, 0
//! ```
//! The checksum includes the number, so that a record written to a wrong place is not believed. It comes
//! first, as it is checked first. Known leaves have a bit of their own because no digest can mean
//! "unknown": all zeros is the digest of zeros. 17 sectors: no two records share one, so a torn write
//! damages one record only.
//!
//! A damaged record means *unknown: read the disk again*, never *equal*. The worst that a crash between
//! writing the disk and its digests may leave is an old, intact record; so a leaf is made unknown,
//! durably, *before* its disk is written. That order is its owner's duty.

use switchback_model::Extent;

use crate::digest::{Digest, LEAF, NODE, NODE_LEAVES};

const LEAVES: usize = NODE_LEAVES as usize;
const KNOWN: std::ops::Range<usize> = 32..64;
const DIGESTS: std::ops::Range<usize> = 64..64 + LEAVES * 32;
const RECORD_CONTEXT: &str = "switchback digest tree v1 2026 record";
const NODE_CONTEXT: &str = "switchback digest tree v1 2026 node";

/// Bytes of an encoded [`NodeRecord`]: 17 sectors of 512.
pub const NODE_RECORD_LEN: usize = 17 * 512;
/// No disk is longer than this (64 PiB), so that nodes can be numbered with 32 bits.
pub const DISK_SIZE_MAX: u64 = NODE * u32::MAX as u64;

/// What is known of the leaves of one node.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeRecord {
    leaves: Box<[Option<Digest>; LEAVES]>,
}

/// Why bytes are not the record of a node: treat all its leaves as unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestRecordError {
    /// The bytes are not what was written, or not of this node.
    #[error("the digests of node {node} are damaged; that part of the disk must be read again")]
    Checksum {
        /// Which node was asked for.
        node: u32,
    },
    /// Written by something else: the checksum is right, the fields are impossible.
    #[error("the digests of node {node} are of an unknown form; that part of the disk must be read again")]
    Form {
        /// Which node was asked for.
        node: u32,
    },
}

impl NodeRecord {
    /// Nothing known.
    #[must_use]
    pub fn unknown() -> Self {
        Self { leaves: Box::new([None; LEAVES]) }
    }

    /// All zeros, as of a disk just created.
    #[must_use]
    pub fn zero() -> Self {
        Self { leaves: Box::new([Some(Digest::ZERO); LEAVES]) }
    }

    /// The digest of leaf `leaf`, if known.
    ///
    /// # Panics
    /// When there is no such leaf in a node.
    #[must_use]
    pub fn leaf(&self, leaf: usize) -> Option<Digest> {
        self.leaves[leaf]
    }

    /// Sets what is known of leaf `leaf`.
    ///
    /// # Panics
    /// When there is no such leaf in a node.
    pub fn set(&mut self, leaf: usize, digest: Option<Digest>) {
        self.leaves[leaf] = digest;
    }

    /// Whether all of the first `leaves` leaves are known (see [`leaves_of_node`]).
    ///
    /// # Panics
    /// When a node has fewer.
    #[must_use]
    pub fn is_complete(&self, leaves: usize) -> bool {
        self.leaves[..leaves].iter().all(Option::is_some)
    }

    /// The digest of a node of `leaves` leaves: [`Digest::ZERO`] when all of them are zero, else BLAKE3 in a
    /// context of its own (so that no leaf's contents can pass for a node) over their number (u32 LE) and their
    /// digests. `None` while any is unknown.
    ///
    /// # Panics
    /// When a node has fewer leaves.
    #[must_use]
    pub fn node_digest(&self, leaves: usize) -> Option<Digest> {
        let mut hasher = blake3::Hasher::new_derive_key(NODE_CONTEXT);
        hasher.update(&(leaves as u64).to_le_bytes()[..4]);
        let mut zero = true;
        for digest in &self.leaves[..leaves] {
            let digest = (*digest)?;
            zero &= digest == Digest::ZERO;
            hasher.update(&digest.0);
        }
        Some(if zero { Digest::ZERO } else { Digest(*hasher.finalize().as_bytes()) })
    }

    /// The record as it stands at its place in the file.
    #[must_use]
    pub fn encode(&self, node: u32) -> [u8; NODE_RECORD_LEN] {
        let mut out = [0; NODE_RECORD_LEN];
        for (leaf, digest) in self.leaves.iter().enumerate() {
            if let Some(digest) = digest {
                out[KNOWN][leaf / 8] |= 1 << (leaf % 8);
                out[DIGESTS][leaf * 32..][..32].copy_from_slice(&digest.0);
            }
        }
        let checksum = checksum(node, &out);
        out[..32].copy_from_slice(&checksum);
        out
    }

    /// Decodes the record that stands at the place of `node`. Zeros, a place never written, are
    /// [`NodeRecord::unknown`].
    ///
    /// # Errors
    /// When the bytes are not what was written for this node.
    pub fn decode(bytes: &[u8; NODE_RECORD_LEN], node: u32) -> Result<Self, DigestRecordError> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Self::unknown());
        }
        if checksum(node, bytes) != bytes[..32] {
            return Err(DigestRecordError::Checksum { node });
        }
        let mut record = Self::unknown();
        let (digests, _) = bytes[DIGESTS].as_chunks::<32>();
        for (leaf, digest) in digests.iter().enumerate() {
            if bytes[KNOWN][leaf / 8] >> (leaf % 8) & 1 == 1 {
                record.leaves[leaf] = Some(Digest(*digest));
            } else if *digest != [0; 32] {
                return Err(DigestRecordError::Form { node });
            }
        }
        if bytes[DIGESTS.end..].iter().any(|byte| *byte != 0) {
            return Err(DigestRecordError::Form { node });
        }
        Ok(record)
    }
}

impl std::fmt::Debug for NodeRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = self.leaves.iter().flatten().count();
        write!(f, "NodeRecord({known} of {LEAVES} known)")
    }
}

fn checksum(node: u32, record: &[u8; NODE_RECORD_LEN]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(RECORD_CONTEXT);
    *hasher.update(&node.to_le_bytes()).update(&record[32..]).finalize().as_bytes()
}

/// For fuzzing: makes any bytes pass the checksum.
pub(crate) fn make_checksum_right(record: &mut [u8; NODE_RECORD_LEN], node: u32) {
    let right = checksum(node, record);
    record[..32].copy_from_slice(&right);
}

/// Nodes of a disk, the last one perhaps not full.
///
/// # Panics
/// When the disk is longer than [`DISK_SIZE_MAX`]; no [`crate::DeltaHeader`] read or written is of such a disk.
#[must_use]
pub fn nodes_of_disk(disk_size: u64) -> u32 {
    u32::try_from(disk_size.div_ceil(NODE)).expect("no disk is longer than DISK_SIZE_MAX")
}

/// The bytes of a node; empty beyond the end of the disk.
#[must_use]
pub fn node_extent(disk_size: u64, node: u32) -> Extent {
    let start = u64::from(node) * NODE;
    Extent::between(start, (start + NODE).min(disk_size))
}

/// Leaves of a node, the last one perhaps not full; 0 beyond the end of the disk.
#[must_use]
pub fn leaves_of_node(disk_size: u64, node: u32) -> usize {
    usize::try_from(node_extent(disk_size, node).len.div_ceil(LEAF.into())).expect("at most 256")
}

/// The bytes of a leaf; empty beyond the end of the disk.
///
/// # Panics
/// When there is no such leaf in a node.
#[must_use]
pub fn leaf_extent(disk_size: u64, node: u32, leaf: usize) -> Extent {
    assert!(leaf < LEAVES, "a node has 256 leaves");
    let start = u64::from(node) * NODE + leaf as u64 * u64::from(LEAF);
    Extent::between(start, (start + u64::from(LEAF)).min(disk_size))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{
        DISK_SIZE_MAX, DigestRecordError, LEAVES, NODE_RECORD_LEN, NodeRecord, checksum, leaf_extent,
        leaves_of_node, node_extent, nodes_of_disk,
    };
    use crate::{Digest, LEAF, NODE, digest_of};

    fn sample() -> NodeRecord {
        let mut record = NodeRecord::unknown();
        record.set(0, Some(Digest::ZERO));
        record.set(1, Some(digest_of(b"one")));
        record.set(LEAVES - 1, Some(digest_of(b"last")));
        record
    }

    proptest! {
        #[test]
        fn comes_back_as_it_was(leaves in proptest::collection::vec(proptest::option::of(any::<[u8; 32]>()), LEAVES), node in any::<u32>()) {
            let mut record = NodeRecord::unknown();
            leaves.iter().enumerate().for_each(|(leaf, digest)| record.set(leaf, digest.map(Digest)));
            let bytes = record.encode(node);
            prop_assert_eq!(NodeRecord::decode(&bytes, node), Ok(record.clone()));
            let elsewhere = NodeRecord::decode(&bytes, node ^ 1);
            prop_assert_eq!(elsewhere, Err(DigestRecordError::Checksum { node: node ^ 1 }));
            prop_assert_eq!(record.is_complete(LEAVES), record.node_digest(LEAVES).is_some());
        }

        #[test]
        fn leaves_cover_the_disk_in_order(disk_size in 0_u64..5 * NODE) {
            let mut at = 0;
            for node in 0..nodes_of_disk(disk_size) {
                let extent = node_extent(disk_size, node);
                prop_assert!(extent.start == at && leaves_of_node(disk_size, node) > 0);
                for leaf in 0..leaves_of_node(disk_size, node) {
                    let extent = leaf_extent(disk_size, node, leaf);
                    prop_assert!(extent.start == at && !extent.is_empty() && extent.len <= LEAF.into());
                    at = extent.end();
                }
                prop_assert_eq!(extent.end(), at);
            }
            prop_assert_eq!(at, disk_size);
            let beyond = nodes_of_disk(disk_size);
            prop_assert!(node_extent(disk_size, beyond).is_empty() && leaves_of_node(disk_size, beyond) == 0);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut bytes = sample().encode(5);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(NodeRecord::decode(&bytes, 5).is_err(), "byte {}", bit / 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_place_never_written_is_unknown_and_a_known_zero_is_not() {
        assert_eq!(NodeRecord::decode(&[0; NODE_RECORD_LEN], 0), Ok(NodeRecord::unknown()));
        assert_ne!(NodeRecord::zero(), NodeRecord::unknown());
        assert_eq!(NodeRecord::decode(&NodeRecord::zero().encode(3), 3), Ok(NodeRecord::zero()));
        let mut bytes = sample().encode(5);
        bytes[64 + 2 * 32] = 1;
        let right = checksum(5, &bytes);
        bytes[..32].copy_from_slice(&right);
        assert_eq!(NodeRecord::decode(&bytes, 5), Err(DigestRecordError::Form { node: 5 }));
    }

    #[test]
    fn the_digest_of_a_node_tells_its_leaves_and_their_number() {
        assert_eq!(NodeRecord::unknown().node_digest(1), None);
        assert_eq!(NodeRecord::zero().node_digest(7), Some(Digest::ZERO));
        let (two, mut swapped) = (sample(), sample());
        swapped.set(0, two.leaf(1));
        swapped.set(1, two.leaf(0));
        assert!(two.is_complete(2) && !two.is_complete(3));
        assert_ne!(two.node_digest(2), swapped.node_digest(2));
        let mut three = two.clone();
        three.set(2, Some(Digest::ZERO));
        assert_ne!(three.node_digest(3), two.node_digest(2));
        assert_ne!(three.node_digest(3), Some(Digest::ZERO), "one leaf in the middle is not zero");
        assert_eq!(two.node_digest(3), None);
    }

    #[test]
    fn the_longest_disk_has_numbered_nodes() {
        assert_eq!(nodes_of_disk(DISK_SIZE_MAX), u32::MAX);
        assert_eq!(leaves_of_node(DISK_SIZE_MAX, u32::MAX - 1), LEAVES);
        assert_eq!((nodes_of_disk(0), nodes_of_disk(1), nodes_of_disk(NODE + 1)), (0, 1, 2));
    }
}
