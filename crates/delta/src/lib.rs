//! Deltas: the one form in which changed blocks are spooled, sent, staged, applied and kept for going
//! back; and the digests by which two disks are compared.
//!
//! What it is: the [`Frame`] (up to 1 MiB of one disk with a checksum), the delta (a file or stream of sorted
//! frames, [`DeltaWriter`], [`DeltaReader`], [`DeltaFile`]), what lies where when several deltas are laid over
//! each other ([`Overlay`], [`merge()`]), and the nodes of the digest tree ([`NodeRecord`]).
//!
//! What it never does: async, I/O beyond `Read`, `Write` and [`ReadAt`], making anything durable, deciding what
//! to keep or whom to believe.
//!
//! The path of one changed MiB: its [`pieces`] are hashed once and become a [`Frame`], perhaps compressed; a
//! [`PartHasher`] adds it to what its sender states; a [`DeltaWriter`] puts it into a delta, encrypted if
//! there is a [`DeltaKey`]; the other side's [`DeltaReader`] hands it out again, [`Frame::contents`] verifies it
//! and yields the digests that go into a [`NodeRecord`]; what it replaces on the disk goes into a
//! reverse delta the same way, which a [`DeltaFile`] opens when somebody wants to see or have the past.

mod crypt;
mod digest;
mod error;
mod file;
mod format;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod merge;
mod node;
mod overlay;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use crypt::{DeltaKey, KeyId};
pub use digest::{Digest, LEAF, NODE, NODE_LEAVES, content_checksum, digest_of, pieces};
pub use error::DeltaError;
pub use file::{DeltaFile, ReadAt};
pub use format::{DeltaContent, DeltaHeader, DeltaSummary, IndexEntry};
pub use frame::{FRAME_HEADER_LEN, FRAME_MAX, Frame, FrameError, FrameKind};
pub use merge::{MergeError, merge};
pub use node::{
    DISK_SIZE_MAX, DigestRecordError, NODE_RECORD_LEN, NodeRecord, leaf_extent, leaves_of_node, node_extent,
    nodes_of_disk,
};
pub use overlay::Overlay;
pub use reader::DeltaReader;
pub use writer::{DeltaWriter, PartHasher};
