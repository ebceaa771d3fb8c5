//! Makes one delta of several: what retention does with the reverse deltas of a recovery point that goes.
//!
//! A frame that survives whole is passed on as it is, still compressed; of one that is partly hidden, the
//! visible pieces are cut out, and neighbouring pieces are joined. Memory: the index of all layers, and
//! [`CACHE_FRAMES`] decoded frames (each layer's frames come in order, so with no more layers than that every frame is
//! decoded once).

use std::collections::VecDeque;
use std::io::Write;

use bytes::Bytes;
use switchback_model::Extent;

use crate::error::DeltaError;
use crate::file::{DeltaFile, ReadAt};
use crate::format::{DeltaHeader, DeltaSummary};
use crate::frame::{FRAME_MAX, Frame, FrameKind};
use crate::overlay::Overlay;
use crate::writer::DeltaWriter;

/// Decoded frames kept at most, 1 MiB each.
const CACHE_FRAMES: usize = 16;
/// For the pieces of compressed frames: the fastest level that still halves realistic data.
const ZSTD_LEVEL: i32 = -1;

/// Why deltas could not be merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// A layer is of something else than the result.
    #[error("delta {layer} belongs to another replica or disk than the one it is to be merged into")]
    OtherDisk {
        /// Which, by its place in the list.
        layer: usize,
    },
    /// A layer could not be read.
    #[error("delta {layer} of those to be merged could not be read")]
    Layer {
        /// Which, by its place in the list.
        layer: usize,
        /// Why.
        source: DeltaError,
    },
    /// The result could not be written.
    #[error("the merged delta could not be written")]
    Output {
        /// Why.
        source: DeltaError,
    },
}

/// Writes one delta that holds what `layers` hold together; where several hold a byte, the first in the
/// list wins. What it passes on keeps the checksum it was made with, so damage is never made valid; the contents of
/// frames passed on whole are not verified here.
///
/// # Errors
/// When a layer cannot be read, is damaged where it must be cut, or the result cannot be written.
pub fn merge<R: ReadAt, W: Write>(
    layers: &[&DeltaFile<R>],
    out: DeltaWriter<W>,
) -> Result<(W, DeltaSummary), MergeError> {
    let same = |a: &DeltaHeader, b: &DeltaHeader| (a.replica, a.disk) == (b.replica, b.disk);
    if let Some(layer) = layers.iter().position(|file| !same(file.header(), out.header())) {
        return Err(MergeError::OtherDisk { layer });
    }
    let mut overlay = Overlay::new();
    for (layer, file) in layers.iter().enumerate() {
        for (frame, entry) in file.entries().iter().enumerate() {
            overlay.put_under(entry.extent, Place { layer, frame });
        }
    }
    let mut merger = Merger { layers, out, cache: VecDeque::new(), pending: None };
    for (piece, place) in overlay.iter() {
        merger.put(piece, place)?;
    }
    merger.flush()?;
    merger.out.finish().map_err(|source| MergeError::Output { source })
}

/// A frame of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    layer: usize,
    frame: usize,
}

struct Merger<'a, R, W> {
    layers: &'a [&'a DeltaFile<R>],
    out: DeltaWriter<W>,
    /// Decoded frames, the one used last in front.
    cache: VecDeque<(Place, Bytes)>,
    pending: Option<Pending>,
}

/// Neighbouring pieces that will be one frame.
struct Pending {
    extent: Extent,
    contents: Vec<u8>,
    /// Whether any of it came compressed: a merge must not make a retention drive fuller than it was.
    compress: bool,
}

impl<R: ReadAt, W: Write> Merger<'_, R, W> {
    /// Puts `piece`, which the frame at `place` holds.
    fn put(&mut self, piece: Extent, place: Place) -> Result<(), MergeError> {
        let Place { layer, frame } = place;
        let entry = self.layers[layer].entries()[frame];
        if piece == entry.extent {
            self.flush()?;
            let whole =
                self.layers[layer].frame(frame).map_err(|source| MergeError::Layer { layer, source })?;
            return self.push(&whole);
        }
        if entry.kind == FrameKind::Zero {
            self.flush()?;
            return self.push(&Frame::zero(piece));
        }
        let contents = self.contents(place)?;
        let from = usize::try_from(piece.start - entry.extent.start).expect("within a frame");
        let len = usize::try_from(piece.len).expect("within a frame");
        let compress = entry.kind == FrameKind::Zstd;
        let joins = |pending: &mut Pending| {
            pending.extent.end() == piece.start && pending.extent.len + piece.len <= u64::from(FRAME_MAX)
        };
        if !self.pending.as_mut().is_some_and(joins) {
            self.flush()?;
        }
        let pending = self.pending.get_or_insert_with(|| Pending {
            extent: Extent::between(piece.start, piece.start),
            contents: Vec::new(),
            compress: false,
        });
        pending.extent = Extent::between(pending.extent.start, piece.end());
        pending.contents.extend_from_slice(&contents[from..from + len]);
        pending.compress |= compress;
        Ok(())
    }

    /// Writes the pending frame.
    fn flush(&mut self) -> Result<(), MergeError> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let mut frame = Frame::of(pending.extent, pending.contents.into());
        if pending.compress
            && let Ok(mut compressor) = zstd::bulk::Compressor::new(ZSTD_LEVEL)
        {
            frame = frame.compressed(&mut compressor);
        }
        self.push(&frame)
    }

    fn push(&mut self, frame: &Frame) -> Result<(), MergeError> {
        self.out.push(frame).map_err(|source| MergeError::Output { source })
    }

    /// The verified contents of a frame.
    fn contents(&mut self, place: Place) -> Result<Bytes, MergeError> {
        if let Some(at) = self.cache.iter().position(|(cached, _)| *cached == place) {
            self.cache.swap(0, at);
            return Ok(self.cache[0].1.clone());
        }
        let Place { layer, frame } = place;
        let file = self.layers[layer];
        let offset = file.entries()[frame].offset;
        let contents = file
            .frame(frame)
            .and_then(|frame| frame.contents().map_err(|source| DeltaError::Frame { offset, source }))
            .map_err(|source| MergeError::Layer { layer, source })?
            .0;
        self.cache.truncate(CACHE_FRAMES - 1);
        self.cache.push_front((place, contents.clone()));
        Ok(contents)
    }
}

#[cfg(test)]
mod tests;
