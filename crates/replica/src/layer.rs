//! Delta files of one disk, laid over each other: which file holds a byte, and what it is.
//!
//! Staged parts are laid *over* what is there (the newer wins); reverse deltas *under* it (the first way
//! back that holds a block is the one that was right at the point). Only indexes are kept in
//! memory, and one decoded frame at a time.

use std::fmt::Display;
use std::sync::Mutex;

use bytes::Bytes;
use switchback_delta::{DeltaError, DeltaFile, DeltaKey, Digest, LEAF, Overlay, ReadAt};
use switchback_disk::{Volume, VolumeFile};
use switchback_model::{Extent, ExtentSet};

use crate::ReplicaError;
use crate::error::{delta_error, volume_error};
use crate::layout::FileName;

/// A file of a volume as the delta reader wants it.
#[derive(Debug)]
pub(crate) struct VolumeReader(Box<dyn VolumeFile>);

impl ReadAt for VolumeReader {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, buf)
    }

    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
}

/// An open delta and its name.
pub(crate) struct NamedDelta<N, R> {
    pub(crate) name: N,
    pub(crate) file: DeltaFile<R>,
}

/// A delta file of a volume.
pub(crate) type VolumeDelta = NamedDelta<FileName, VolumeReader>;

/// Where deltas are kept: what it means when one of them cannot be read.
pub(crate) trait DeltaPlace: Sync {
    fn name(&self) -> &str;
    fn failed(&self, delta: &dyn Display, error: &DeltaError) -> ReplicaError;
}

impl DeltaPlace for dyn Volume + '_ {
    fn name(&self) -> &str {
        Volume::name(self)
    }

    fn failed(&self, delta: &dyn Display, error: &DeltaError) -> ReplicaError {
        delta_error(self, delta, error)
    }
}

impl VolumeDelta {
    pub(crate) fn open(
        volume: &dyn Volume,
        name: FileName,
        key: Option<&DeltaKey>,
    ) -> Result<Self, ReplicaError> {
        let text = name.to_string();
        let opened = volume.open(&text).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                ReplicaError::Corrupt { detail: format!("{text} is missing in {}", volume.name()) }
            }
            _ => volume_error(volume, &format!("opening {text}"), &error),
        })?;
        let file = DeltaFile::open(VolumeReader(opened), key).map_err(|e| delta_error(volume, name, &e))?;
        Ok(Self { name, file })
    }
}

/// Which file, and which of its frames.
pub(crate) type FrameAt = (u32, u32);

/// The contents of one frame, with the digests of its leaf pieces.
#[derive(Clone)]
struct Decoded {
    at: FrameAt,
    extent: Extent,
    contents: Bytes,
    digests: Vec<Digest>,
}

/// Some deltas of one disk.
pub(crate) struct Layer<N = FileName, R = VolumeReader> {
    files: Vec<NamedDelta<N, R>>,
    overlay: Overlay<FrameAt>,
    decoded: Mutex<Option<Decoded>>,
}

impl<N, R> Default for Layer<N, R> {
    fn default() -> Self {
        Self { files: Vec::new(), overlay: Overlay::new(), decoded: Mutex::default() }
    }
}

impl<N: Display, R> std::fmt::Debug for Layer<N, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.files.iter().map(|file| file.name.to_string()).collect();
        f.debug_struct("Layer").field("files", &names).finish_non_exhaustive()
    }
}

impl<N: Display, R: ReadAt> Layer<N, R> {
    /// Adds a file that wins over those already there.
    pub(crate) fn put_over(&mut self, delta: NamedDelta<N, R>) {
        self.put(delta, |overlay, extent, at| overlay.put_over(extent, at));
    }

    /// Adds a file that only counts where none of those already there does.
    pub(crate) fn put_under(&mut self, delta: NamedDelta<N, R>) {
        self.put(delta, |overlay, extent, at| overlay.put_under(extent, at));
    }

    fn put(&mut self, delta: NamedDelta<N, R>, add: impl Fn(&mut Overlay<FrameAt>, Extent, FrameAt)) {
        let file = u32::try_from(self.files.len()).expect("fewer files than that are ever open");
        for (frame, entry) in (0..).zip(delta.file.entries()) {
            add(&mut self.overlay, entry.extent, (file, frame));
        }
        self.files.push(delta);
    }

    /// The bytes that some file holds.
    pub(crate) fn extents(&self) -> ExtentSet {
        self.overlay.extents()
    }

    /// `window` in order: pieces with the frame that holds them, if any does.
    pub(crate) fn lookup(&self, window: Extent) -> impl Iterator<Item = (Extent, Option<FrameAt>)> + '_ {
        self.overlay.lookup(window)
    }

    /// The contents of `piece`, which lies within the frame `at`, and the digests of its leaf pieces (those
    /// at its ends, where it is only part of a frame's leaf piece, are hashed anew).
    pub(crate) fn read(
        &self,
        place: &(impl DeltaPlace + ?Sized),
        piece: Extent,
        at: FrameAt,
    ) -> Result<(Bytes, Vec<Digest>), ReplicaError> {
        let decoded = self.decode(place, at)?;
        let within = |offset: u64| usize::try_from(offset - decoded.extent.start).expect("within a frame");
        let contents = decoded.contents.slice(within(piece.start)..within(piece.end()));
        if piece == decoded.extent {
            return Ok((contents, decoded.digests));
        }
        let leaf_of = |offset: u64| offset / u64::from(LEAF);
        let digests = switchback_delta::pieces(piece, &contents)
            .map(|(leaf, bytes)| {
                let index = leaf_of(leaf.start) - leaf_of(decoded.extent.start);
                let held =
                    decoded.extent.pieces(LEAF.into()).nth(usize::try_from(index).unwrap_or(usize::MAX));
                match (held == Some(leaf), usize::try_from(index)) {
                    (true, Ok(index)) => decoded.digests[index],
                    _ => switchback_delta::digest_of(bytes),
                }
            })
            .collect();
        Ok((contents, digests))
    }

    fn decode(&self, place: &(impl DeltaPlace + ?Sized), at: FrameAt) -> Result<Decoded, ReplicaError> {
        let last = || self.decoded.lock().expect("no panic while it is held");
        if let Some(decoded) = last().as_ref().filter(|decoded| decoded.at == at) {
            return Ok(decoded.clone());
        }
        // Not under the lock: several threads decode at a time.
        let delta = &self.files[at.0 as usize];
        let fail = |error: &_| place.failed(&delta.name, error);
        let frame = delta.file.frame(at.1 as usize).map_err(|e| fail(&e))?;
        let (contents, digests) = frame.contents().map_err(|error| ReplicaError::Corrupt {
            detail: format!("{} in {}: {error}", delta.name, place.name()),
        })?;
        let decoded = Decoded { at, extent: frame.extent, contents, digests };
        *last() = Some(decoded.clone());
        Ok(decoded)
    }
}
