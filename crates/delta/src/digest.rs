//! Digests of pieces of a disk, and the checksum of a frame, which is made of them.
//!
//! A disk is cut at multiples of [`LEAF`]. The digest of a whole leaf is its place in the digest tree;
//! the checksum of a frame is the hash of the digests of its pieces. So each side hashes the data
//! **once**: what proves a frame intact is at the same time what updates the tree.

use switchback_model::Extent;

/// Bytes of one leaf of the digest tree. 64 KiB: BLAKE3 reaches its full speed there, and a TiB needs
/// 512 MiB of digests.
pub const LEAF: u32 = 64 * 1024;
/// Leaves in one node of the digest tree.
pub const NODE_LEAVES: u32 = 256;
/// Bytes of one node of the digest tree: 16 MiB.
pub const NODE: u64 = LEAF as u64 * NODE_LEAVES as u64;

/// The BLAKE3 hash of some bytes, or [`Digest::ZERO`] when all of them are zero: holes are known
/// without hashing, and zeros are equal whatever their number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of zeros. No input is known whose BLAKE3 hash is this, nor can one be found.
    pub const ZERO: Self = Self([0; 32]);
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The digest of `data`: the zero test first, at memory speed, then the hash.
#[must_use]
pub fn digest_of(data: &[u8]) -> Digest {
    if is_zero(data) { Digest::ZERO } else { Digest(*blake3::hash(data).as_bytes()) }
}

/// Whether every byte is zero.
fn is_zero(data: &[u8]) -> bool {
    // In chunks, so that the compiler vectorizes the inner fold and data that is not zero ends it early.
    data.chunks(4096).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// The pieces of `extent` between multiples of [`LEAF`], each with its bytes of `data`, which holds the
/// contents of `extent`.
///
/// # Panics
/// When `data` is not as long as `extent`.
pub fn pieces(extent: Extent, data: &[u8]) -> impl Iterator<Item = (Extent, &[u8])> {
    assert_eq!(data.len() as u64, extent.len, "the data is that of the extent");
    extent.pieces(LEAF.into()).map(move |piece| {
        let from = usize::try_from(piece.start - extent.start).expect("within a slice");
        let len = usize::try_from(piece.len).expect("within a slice");
        (piece, &data[from..from + len])
    })
}

/// The checksum of a frame: BLAKE3 over `start` (u64 LE), `len` (u32 LE, always under 2³²) and the
/// digests of its [`pieces`] in order.
#[must_use]
pub fn content_checksum(extent: Extent, digests: impl IntoIterator<Item = Digest>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&extent.start.to_le_bytes());
    hasher.update(&extent.len.to_le_bytes()[..4]);
    for digest in digests {
        hasher.update(&digest.0);
    }
    *hasher.finalize().as_bytes()
}
