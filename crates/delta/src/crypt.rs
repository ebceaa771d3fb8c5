//! Encryption of deltas at rest: AES-256-GCM, one key per file.
//!
//! # Keys
//! ```text
//! file key = BLAKE3 derive_key("… file key",  master ‖ bytes 0..128 of the file's header)
//! mask key = BLAKE3 derive_key("… mask key",  master ‖ bytes 0..128 of the file's header)
//! key id   = BLAKE3 derive_key("… key id",    master), its first 8 bytes
//! ```
//! The header holds a 32-byte random salt, so no two files share a key and the frames of a file can be
//! numbered from 0 without ever repeating a nonce, whatever was restored from whatever backup. That the
//! *whole* header is in the derivation makes each frame authenticate it: a frame under an altered header
//! (another replica, epoch, cycle) is not authentic, also for a reader that has not seen the end yet.
//!
//! # What is sealed
//! - Each frame: nonce = 4 bytes of domain 0 ‖ its number in the file (u64 LE); AAD = the 64 bytes of its
//!   header as they stand in the file; the 16-byte tag follows the stored bytes. Zero frames, which store
//!   nothing, have a tag too. **`stored_len` never counts the tag.**
//! - The end: nonce = 4 bytes of domain 1 ‖ zeros; nothing encrypted; AAD = index header ‖ trailer up to
//!   the tag. The index header holds the checksum of all entries, so the index is authentic before an entry
//!   of it is believed, and no frame can be cut off, added or moved.
//! - A frame's checksum stands in the file XORed with a mask (BLAKE3 keyed by the mask key, of the frame's
//!   number): in the clear it would let anyone confirm a guess of the contents.
//!
//! # What stays visible
//! Which extents changed, which of them are zero, and how well each compressed.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use zeroize::Zeroizing;

use crate::format::HEADER_KEYED_LEN;

/// Bytes of an authentication tag.
pub(crate) const TAG_LEN: usize = 16;

const FILE_KEY_CONTEXT: &str = "switchback delta v1 2026 file key";
const MASK_KEY_CONTEXT: &str = "switchback delta v1 2026 mask key";
const KEY_ID_CONTEXT: &str = "switchback delta v1 2026 key id";
const FRAME_DOMAIN: u32 = 0;
const END_DOMAIN: u32 = 1;

/// Names a [`DeltaKey`] without telling anything about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// The secret under which deltas are encrypted at rest. Overwritten when dropped.
#[derive(Clone)]
pub struct DeltaKey {
    master: Zeroizing<[u8; 32]>,
    id: KeyId,
}

impl DeltaKey {
    /// The key made of 32 secret, uniformly random bytes.
    #[must_use]
    pub fn new(master: [u8; 32]) -> Self {
        let hash = blake3::derive_key(KEY_ID_CONTEXT, &master);
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        Self { master: Zeroizing::new(master), id: KeyId(id) }
    }

    /// What names the key in headers and messages.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// A key derived for the file with this header.
    fn derive(&self, context: &str, header: &[u8; HEADER_KEYED_LEN]) -> Zeroizing<[u8; 32]> {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&*self.master).update(header);
        Zeroizing::new(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for DeltaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeltaKey({})", self.id)
    }
}

/// The keys of one file.
pub(crate) struct FileCipher {
    aead: LessSafeKey,
    mask: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for FileCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileCipher")
    }
}

impl FileCipher {
    /// The keys of the file with this header.
    pub(crate) fn new(key: &DeltaKey, header: &[u8; HEADER_KEYED_LEN]) -> Self {
        let unbound = UnboundKey::new(&AES_256_GCM, &*key.derive(FILE_KEY_CONTEXT, header));
        Self {
            aead: LessSafeKey::new(unbound.expect("32 bytes are a key of AES-256")),
            mask: key.derive(MASK_KEY_CONTEXT, header),
        }
    }

    /// Covers or uncovers the checksum of frame `number`.
    pub(crate) fn mask(&self, number: u64, checksum: &mut [u8; 32]) {
        let mask = blake3::keyed_hash(&self.mask, &number.to_le_bytes());
        checksum.iter_mut().zip(mask.as_bytes()).for_each(|(byte, mask)| *byte ^= mask);
    }

    /// Encrypts what frame `number` stores, `out` being as long; the tag.
    pub(crate) fn seal_frame(
        &self,
        number: u64,
        header: &[u8],
        stored: &[u8],
        out: &mut [u8],
    ) -> [u8; TAG_LEN] {
        self.seal(nonce(FRAME_DOMAIN, number), header, stored, out)
    }

    /// Decrypts what frame `number` stores in place.
    pub(crate) fn open_frame(
        &self,
        number: u64,
        header: &[u8],
        stored: &mut [u8],
        tag: &[u8],
    ) -> Result<(), Unspecified> {
        self.open(nonce(FRAME_DOMAIN, number), header, stored, tag)
    }

    /// The tag of the end of the file.
    pub(crate) fn seal_end(&self, end: &[u8]) -> [u8; TAG_LEN] {
        self.seal(nonce(END_DOMAIN, 0), end, &[], &mut [])
    }

    /// Checks the tag of the end of the file.
    pub(crate) fn open_end(&self, end: &[u8], tag: &[u8]) -> Result<(), Unspecified> {
        self.open(nonce(END_DOMAIN, 0), end, &mut [], tag)
    }

    fn seal(&self, nonce: Nonce, aad: &[u8], data: &[u8], out: &mut [u8]) -> [u8; TAG_LEN] {
        let mut tag = [0; TAG_LEN];
        self.aead
            .seal_out_of_place_scatter(nonce, Aad::from(aad), data, out, &[], &mut tag)
            .expect("AES-256-GCM takes any input of up to 64 GiB, and the lengths are equal");
        tag
    }

    fn open(&self, nonce: Nonce, aad: &[u8], data: &mut [u8], tag: &[u8]) -> Result<(), Unspecified> {
        self.aead.open_in_place_separate_tag(nonce, Aad::from(aad), tag, data).map(|_| ())
    }
}

fn nonce(domain: u32, number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..4].copy_from_slice(&domain.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
