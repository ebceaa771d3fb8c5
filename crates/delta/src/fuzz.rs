//! What the fuzz targets in `fuzz/` run: for each decoder a function that takes any bytes.
//!
//! None may panic, hang, or allocate more than the bytes given (and one frame) justify. They are here
//! and not in the targets so that the tests run them too, on stable and without instrumentation.

use switchback_model::{DiskIndex, Epoch, Extent, PartIndex, ReplicaId, Seq};

use crate::{
    DeltaContent, DeltaError, DeltaFile, DeltaHeader, DeltaKey, DeltaReader, DeltaWriter, FRAME_HEADER_LEN,
    FRAME_MAX, Frame, NODE_RECORD_LEN, NodeRecord,
};

const DISK_SIZE: u64 = 1 << 32;

/// A delta as a stream. The first byte says whether with a key; bytes behind a header that fails only for
/// its checksums get right ones, or no fuzzer would ever come past it.
pub fn delta_reader(data: &[u8]) {
    let Some((key, bytes)) = delta(data) else { return };
    let Ok(mut reader) = DeltaReader::new(&bytes[..], key.as_ref()) else { return };
    while let Ok(Some(frame)) = reader.next_frame() {
        let _ = frame.contents();
    }
}

/// A delta as a file, as [`delta_reader`].
pub fn delta_file(data: &[u8]) {
    let Some((key, bytes)) = delta(data) else { return };
    let Ok(file) = DeltaFile::open(&bytes[..], key.as_ref()) else { return };
    assert_eq!(file.summary().frames, file.entries().len() as u64, "the summary is that of the frames");
    assert_eq!(file.extents().bytes(), file.summary().contents_bytes, "frames do not overlap");
    // What the whole-file check lets pass, the stream must let pass too, and the other way round.
    let verified = file.verify().is_ok();
    let mut reader = DeltaReader::new(&bytes[..], key.as_ref()).expect("the file's header was right");
    let streamed = loop {
        match reader.next_frame() {
            Ok(None) => break true,
            Ok(Some(frame)) if frame.contents().is_ok() => {}
            Ok(Some(_)) | Err(_) => break false,
        }
    };
    assert_eq!(verified, streamed, "both readers judge alike");
}

/// A frame's header and what it stores.
pub fn frame(data: &[u8]) {
    let Some((header, stored)) = data.split_first_chunk::<FRAME_HEADER_LEN>() else { return };
    let Ok((mut frame, stored_len)) = Frame::parse_header(header) else { return };
    if let Some(stored) = stored.get(..stored_len) {
        frame.stored = bytes::Bytes::copy_from_slice(stored);
        assert_eq!(frame.header(), *header, "one frame has one header");
        let _ = frame.contents();
    }
}

/// The record of a node of the digest tree.
pub fn node_record(data: &[u8]) {
    let mut bytes = [0; NODE_RECORD_LEN];
    let len = data.len().min(NODE_RECORD_LEN);
    bytes[..len].copy_from_slice(&data[..len]);
    let _ = NodeRecord::decode(&bytes, 1);
    crate::node::make_checksum_right(&mut bytes, 1);
    if let Ok(record) = NodeRecord::decode(&bytes, 1) {
        assert_eq!(record.encode(1), bytes, "one record has one form");
        assert_eq!(record.is_complete(256), record.node_digest(256).is_some(), "complete is all known");
    }
}

/// Bytes become a list of frames, which is written and must be read back as it was, both ways.
pub fn round_trip(data: &[u8]) {
    let Some((flags, rest)) = data.split_first() else { return };
    let key = (flags & 1 == 1).then(|| DeltaKey::new([1; 32]));
    let frames = frames(rest);
    let bytes = write(&frames, key.as_ref()).expect("sorted frames within the disk are written");
    let mut reader = DeltaReader::new(&bytes[..], key.as_ref()).expect("what was written is read");
    let file = DeltaFile::open(&bytes[..], key.as_ref()).expect("what was written is opened");
    for (index, expected) in frames.iter().enumerate() {
        assert_eq!(reader.next_frame().expect("a frame is read").as_ref(), Some(expected), "by the stream");
        assert_eq!(&file.frame(index).expect("a frame is read"), expected, "by the file");
    }
    assert!(reader.next_frame().expect("the end is right").is_none(), "no frame is added");
    file.verify().expect("what was written is right");
}

/// Frames out of bytes: each takes 4 for its gap, length and sort, and its contents from what follows.
fn frames(mut data: &[u8]) -> Vec<Frame> {
    let mut compressor = zstd::bulk::Compressor::new(-1).ok();
    let (mut at, mut frames) = (0, Vec::new());
    while let Some((&[gap, low, high, sort], rest)) = data.split_first_chunk::<4>() {
        let len = match sort & 3 {
            // Longer than any input: made by repeating.
            3 => (usize::from(high) << 12 | usize::from(low)).min(FRAME_MAX as usize),
            _ => usize::from(high & 7) << 8 | usize::from(low),
        }
        .max(1);
        let (seed, rest) = rest.split_at(rest.len().min(len));
        let contents: Vec<u8> = seed.iter().copied().chain(std::iter::repeat(sort >> 4)).take(len).collect();
        let extent = Extent::new(at + u64::from(gap) * 512, len as u64);
        at = extent.end();
        if at > DISK_SIZE || frames.len() == 64 {
            break;
        }
        let frame = Frame::of(extent, contents.into());
        frames.push(match &mut compressor {
            Some(compressor) if sort & 4 != 0 => frame.compressed(compressor),
            _ => frame,
        });
        data = rest;
    }
    frames
}

fn write(frames: &[Frame], key: Option<&DeltaKey>) -> Result<Vec<u8>, DeltaError> {
    let header = DeltaHeader {
        replica: ReplicaId([5; 16]),
        epoch: Epoch(1),
        disk: DiskIndex(0),
        disk_size: DISK_SIZE,
        content: DeltaContent::Forward { seq: Seq(1), part: PartIndex(0) },
    };
    let mut writer = DeltaWriter::with_salt(Vec::new(), &header, key.map(|key| (key, [9; 32])))?;
    frames.iter().try_for_each(|frame| writer.push(frame))?;
    Ok(writer.finish()?.0)
}

/// A key and the bytes of a delta: either the data with the checksums of header, index and trailer made
/// right, or a right delta with one range overwritten.
fn delta(data: &[u8]) -> Option<(Option<DeltaKey>, Vec<u8>)> {
    let (&flags, rest) = data.split_first()?;
    let key = (flags & 1 == 1).then(|| DeltaKey::new([1; 32]));
    let mut bytes = if flags & 2 == 0 {
        rest.to_vec()
    } else {
        let (&[low, high], rest) = rest.split_first_chunk::<2>()?;
        let (patch, rest) = rest.split_at(rest.len().min(8));
        let mut bytes = write(&frames(rest), key.as_ref()).ok()?;
        let at = usize::from(u16::from_le_bytes([low, high])) % bytes.len();
        bytes.iter_mut().skip(at).zip(patch).for_each(|(byte, patch)| *byte ^= patch);
        bytes
    };
    if flags & 4 != 0 {
        crate::format::make_checksums_right(&mut bytes);
    }
    Some((key, bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, proptest};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// The seeds of every target are random bytes; the instrumented runs go deeper.
        #[test]
        fn no_target_fails_on_random_bytes(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
            super::delta_reader(&data);
            super::delta_file(&data);
            super::frame(&data);
            super::node_record(&data);
            super::round_trip(&data);
        }
    }
}
