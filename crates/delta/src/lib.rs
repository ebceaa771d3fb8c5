//! Deltas: the one form in which changed blocks are spooled, sent, staged, applied and kept for going
//! back; and the digests by which two disks are compared.
//!
//! What it is: the [`Frame`], up to 1 MiB of one disk with a checksum. What it never does: I/O beyond
//! `Read`/`Write`, async, deciding what to keep.

mod digest;
mod frame;

pub use digest::{Digest, LEAF, NODE, NODE_LEAVES, content_checksum, digest_of, pieces};
pub use frame::{FRAME_HEADER_LEN, FRAME_MAX, Frame, FrameError, FrameKind};
