//! Deltas: the one form in which changed blocks are spooled, sent, staged, applied and kept for going
//! back; and the digests by which two disks are compared.
//!
//! What it is: the [`Frame`], up to 1 MiB of one disk with a checksum, and the delta, a file or stream of
//! sorted frames. What it never does: async, I/O beyond `Read`, `Write` and [`ReadAt`], making anything
//! durable, deciding what to keep.

mod crypt;
mod digest;
mod error;
mod file;
mod format;
mod frame;
mod reader;
mod writer;

pub use crypt::{DeltaKey, KeyId};
pub use digest::{Digest, LEAF, NODE, NODE_LEAVES, content_checksum, digest_of, pieces};
pub use error::DeltaError;
pub use file::{DeltaFile, ReadAt};
pub use format::{DeltaContent, DeltaHeader, DeltaSummary, IndexEntry};
pub use frame::{FRAME_HEADER_LEN, FRAME_MAX, Frame, FrameError, FrameKind};
pub use reader::DeltaReader;
pub use writer::{DeltaWriter, PartHasher};
