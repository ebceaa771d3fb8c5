//! What can be wrong with a delta, told apart by what its holder can do about it.
//!
//! Damage ([`DeltaError::is_damage`]) means: these bytes are not what was written; fetch the delta again
//! or fall back to a resync. Anything else says nothing about the bytes: the drive, the key or the caller
//! is at fault, and the delta may be whole.

use std::io;

use switchback_model::Extent;

use crate::{FrameError, KeyId, format};

/// Why a delta could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// The storage below failed; the delta itself may be whole.
    #[error(
        "the delta could not be read or written at byte {offset}; look at the drive or connection below it"
    )]
    Io {
        /// Where in the delta, in bytes from its start.
        offset: u64,
        /// What the storage said.
        source: io::Error,
    },
    /// It ends too early, as after a crash of its writer or a broken connection.
    #[error(
        "the delta ends at or before byte {offset}, within its {part}: it was not written or received whole"
    )]
    Truncated {
        /// Where the missing bytes were looked for.
        offset: u64,
        /// Which part of the format.
        part: &'static str,
    },
    /// Its first bytes are not a delta's.
    #[error("this is not a delta: it begins with {found:02x?}")]
    NotADelta {
        /// The first bytes.
        found: [u8; 8],
    },
    /// Written by another release.
    #[error(
        "the delta has format version {found}, this build reads {} to {}; use a build that reads it",
        format::VERSIONS_READ.start(), format::VERSIONS_READ.end()
    )]
    UnknownVersion {
        /// The version it has.
        found: u16,
    },
    /// A field holds what no writer writes, or a checksum does not match.
    #[error("the delta is damaged at byte {offset}, in its {part}: {detail}")]
    Damaged {
        /// Where the damaged part begins.
        offset: u64,
        /// Which part of the format.
        part: &'static str,
        /// What is wrong.
        detail: &'static str,
    },
    /// A frame is not what was written.
    #[error("the delta is damaged in the frame at byte {offset}")]
    Frame {
        /// Where its header begins.
        offset: u64,
        /// What is wrong.
        source: FrameError,
    },
    /// Encrypted bytes are not what was encrypted.
    #[error(
        "the delta is damaged or was tampered with: the encrypted {part} at byte {offset} is not authentic"
    )]
    NotAuthentic {
        /// Where it begins.
        offset: u64,
        /// Which part of the format.
        part: &'static str,
    },
    /// Encrypted under another key.
    #[error("the delta is encrypted with key {file}, not with {given}; configure key {file}")]
    WrongKey {
        /// The key it needs.
        file: KeyId,
        /// The key that was given.
        given: KeyId,
    },
    /// Encrypted, and no key was given.
    #[error("the delta is encrypted with key {file} and no key was given; configure key {file}")]
    KeyMissing {
        /// The key it needs.
        file: KeyId,
    },
    /// Not encrypted, though a key was given: where encryption is configured, a plain file was put there by
    /// somebody else or before.
    #[error(
        "the delta is not encrypted, but key {given} is configured; it was not written under this configuration"
    )]
    NotEncrypted {
        /// The key that was given.
        given: KeyId,
    },
    /// The caller's header makes no sense.
    #[error("a delta with this header cannot be written: {detail}")]
    InvalidHeader {
        /// What is wrong.
        detail: &'static str,
    },
    /// The caller's frame lies before the end of the one before it.
    #[error(
        "frame {extent} begins before {end}, the end of the frame before it; frames are sorted and do not overlap"
    )]
    Order {
        /// Of the refused frame.
        extent: Extent,
        /// End of the frame before it.
        end: u64,
    },
    /// The caller's frame reaches beyond the disk.
    #[error("frame {extent} ends beyond the disk, which has {disk_size} bytes")]
    OutsideDisk {
        /// Of the refused frame.
        extent: Extent,
        /// The disk's, in bytes.
        disk_size: u64,
    },
    /// The caller's frame is none: its lengths do not fit its kind.
    #[error("frame {extent} is not a valid frame")]
    InvalidFrame {
        /// Of the refused frame.
        extent: Extent,
        /// What is wrong.
        source: FrameError,
    },
    /// An earlier read or write of this delta failed, so what follows would mean nothing.
    #[error("this delta was given up after an earlier failure; begin it anew")]
    GivenUp,
    /// The caller asked for a frame that is not there.
    #[error("the delta has {count} frames, there is no frame {index}")]
    NoSuchFrame {
        /// Asked for, from 0.
        index: usize,
        /// Frames there are.
        count: usize,
    },
}

impl DeltaError {
    /// Whether the bytes themselves are at fault (cut off, flipped, tampered with): the delta must be
    /// fetched or made again. False for I/O errors, a wrong or missing key, another release's version and
    /// mistakes of the caller.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Truncated { .. }
            | Self::NotADelta { .. }
            | Self::Damaged { .. }
            | Self::Frame { .. }
            | Self::NotAuthentic { .. } => true,
            Self::Io { .. }
            | Self::UnknownVersion { .. }
            | Self::WrongKey { .. }
            | Self::KeyMissing { .. }
            | Self::NotEncrypted { .. }
            | Self::InvalidHeader { .. }
            | Self::Order { .. }
            | Self::OutsideDisk { .. }
            | Self::InvalidFrame { .. }
            | Self::GivenUp
            | Self::NoSuchFrame { .. } => false,
        }
    }

    /// A failed read: the end of the input is truncation, anything else the storage's fault.
    pub(crate) fn read(source: io::Error, offset: u64, part: &'static str) -> Self {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            Self::Truncated { offset, part }
        } else {
            Self::Io { offset, source }
        }
    }
}
