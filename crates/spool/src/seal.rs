//! What proves a record intact and in its place, and hides it when the spool is encrypted.
//!
//! Each segment has its own key, derived from its *whole* header, in which 16 random bytes make it
//! different from every other segment, also from one of the same name that was removed before. So a record
//! is valid at one place only: under its number, in its segment, in its spool. Stale blocks of a removed file, a record copied elsewhere and
//! a segment of another spool are all seen as damage.
//!
//! - Plain: keyed BLAKE3 of head and payload, 16 bytes.
//! - Encrypted: AES-256-GCM. Nonce = the record's number (u64 LE) ‖ zeros, AAD = the record's head. No
//!   nonce is used twice under a key: numbers only grow within a segment, because a segment from which
//!   anything was cut off is never written to again (see `log`).

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// Bytes of a checksum or an authentication tag.
pub(crate) const TAG_LEN: usize = 16;

const CHECKSUM_CONTEXT: &str = "switchback spool v1 2026 segment checksum key";
const CIPHER_CONTEXT: &str = "switchback spool v1 2026 segment cipher key";
const KEY_ID_CONTEXT: &str = "switchback spool v1 2026 key id";

/// The secret under which a spool is encrypted at rest.
#[derive(Clone)]
pub struct SpoolKey([u8; 32]);

impl SpoolKey {
    /// The key made of 32 secret, uniformly random bytes.
    #[must_use]
    pub fn new(master: [u8; 32]) -> Self {
        Self(master)
    }

    /// Names the key without telling anything about it.
    pub(crate) fn id(&self) -> [u8; 8] {
        let hash = blake3::derive_key(KEY_ID_CONTEXT, &self.0);
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        id
    }
}

impl fmt::Debug for SpoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpoolKey")
    }
}

/// Seals the records of one segment.
pub(crate) enum Seal {
    /// Against accidents only.
    Checksum([u8; 32]),
    /// Against readers and forgers of the cache disk too.
    Cipher(LessSafeKey),
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    /// The seal of the segment with this header.
    pub(crate) fn new(key: Option<&SpoolKey>, header: &[u8]) -> Self {
        let Some(key) = key else { return Self::Checksum(blake3::derive_key(CHECKSUM_CONTEXT, header)) };
        let mut hasher = blake3::Hasher::new_derive_key(CIPHER_CONTEXT);
        let derived = *hasher.update(&key.0).update(header).finalize().as_bytes();
        let unbound = UnboundKey::new(&AES_256_GCM, &derived).expect("32 bytes are a key of AES-256");
        Self::Cipher(LessSafeKey::new(unbound))
    }

    /// Seals `payload` in place; its tag.
    pub(crate) fn seal(&self, number: u64, head: &[u8], payload: &mut [u8]) -> [u8; TAG_LEN] {
        match self {
            Self::Checksum(key) => checksum(key, head, payload),
            Self::Cipher(key) => {
                let sealed = key.seal_in_place_separate_tag(nonce(number), Aad::from(head), payload);
                let mut out = [0; TAG_LEN];
                out.copy_from_slice(sealed.expect("AES-256-GCM takes any input of up to 64 GiB").as_ref());
                out
            }
        }
    }

    /// Opens `payload` in place; whether it is what was sealed here under this number.
    pub(crate) fn open(&self, number: u64, head: &[u8], tag: &[u8; TAG_LEN], payload: &mut [u8]) -> bool {
        match self {
            Self::Checksum(key) => checksum(key, head, payload) == *tag,
            Self::Cipher(key) => {
                key.open_in_place_separate_tag(nonce(number), Aad::from(head), tag, payload).is_ok()
            }
        }
    }
}

fn checksum(key: &[u8; 32], head: &[u8], payload: &[u8]) -> [u8; TAG_LEN] {
    let hash = blake3::Hasher::new_keyed(key).update(head).update(payload).finalize();
    let mut out = [0; TAG_LEN];
    out.copy_from_slice(&hash.as_bytes()[..TAG_LEN]);
    out
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
