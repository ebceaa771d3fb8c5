//! The delta file from outside: round trips, and everything that can happen to its bytes.
#![expect(clippy::cast_possible_truncation, reason = "samples are small, and bytes are cut on purpose")]

use std::io::{self, Write};

use bytes::Bytes;
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use switchback_model::{DiskIndex, Epoch, Extent, PartIndex, ReplicaId, Seq};

use crate::{
    DeltaContent, DeltaError, DeltaFile, DeltaHeader, DeltaKey, DeltaReader, DeltaSummary, DeltaWriter,
    FRAME_MAX, Frame, FrameKind, PartHasher,
};
const DISK: u64 = 4 << 20;

fn forward() -> DeltaHeader {
    DeltaHeader {
        replica: ReplicaId(*b"0123456789abcdef"),
        epoch: Epoch(7),
        disk: DiskIndex(2),
        disk_size: DISK,
        content: DeltaContent::Forward { seq: Seq(41), part: PartIndex(3) },
    }
}

fn reverse() -> DeltaHeader {
    DeltaHeader { content: DeltaContent::Reverse { from: Seq(42), to: Seq(40) }, ..forward() }
}

fn key() -> DeltaKey {
    DeltaKey::new([7; 32])
}

/// A frame whose contents are zeros, compressible or not.
fn frame(start: u64, len: usize, sort: u8) -> Frame {
    let byte = |n: usize| match sort {
        0 => 0,
        1 => (n / 64 % 255) as u8 + 1,
        _ => {
            // The finalizer of splitmix64: not compressible, and fast without optimization.
            let mixed = (start + n as u64 + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8
        }
    };
    let frame = Frame::of(Extent::new(start, len as u64), (0..len).map(byte).collect::<Vec<_>>().into());
    frame.compressed(&mut zstd::bulk::Compressor::new(-1).unwrap())
}

/// One of each kind, with a gap and with two that touch.
fn small() -> Vec<Frame> {
    vec![frame(512, 512, 1), frame(1024, 100, 2), frame(4096, 4096, 0)]
}

fn write(header: &DeltaHeader, frames: &[Frame], key: Option<&DeltaKey>) -> (Vec<u8>, DeltaSummary) {
    let mut writer = DeltaWriter::new(Vec::new(), header, key).unwrap();
    frames.iter().for_each(|frame| writer.push(frame).unwrap());
    let foreseen = writer.file_len();
    let (bytes, summary) = writer.finish().unwrap();
    assert_eq!((foreseen, summary.file_len), (bytes.len() as u64, bytes.len() as u64));
    (bytes, summary)
}

/// Reads a stream to its end and verifies all contents.
fn stream(
    bytes: &[u8],
    key: Option<&DeltaKey>,
) -> Result<(DeltaHeader, Vec<Frame>, DeltaSummary), DeltaError> {
    let mut reader = DeltaReader::new(bytes, key)?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        frame.contents().map_err(|source| DeltaError::Frame { offset: 0, source })?;
        frames.push(frame);
    }
    assert!(reader.next_frame().unwrap().is_none());
    Ok((*reader.header(), frames, *reader.summary().unwrap()))
}

/// Opens a file and verifies everything.
fn verified(bytes: &[u8], key: Option<&DeltaKey>) -> Result<(), DeltaError> {
    DeltaFile::open(bytes, key)?.verify()
}

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let one =
        (0_u64..3000, prop_oneof![1_usize..5000, 60_000_usize..140_000, Just(FRAME_MAX as usize)], 0_u8..3);
    proptest::collection::vec(one, 0..8).prop_map(|list| {
        let (mut at, mut frames) = (0, Vec::new());
        for (gap, len, sort) in list {
            at += gap;
            if at + len as u64 <= DISK {
                frames.push(frame(at, len, sort));
                at += len as u64;
            }
        }
        frames
    })
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]

    #[test]
    fn comes_back_as_it_was(frames in frames(), back in any::<bool>(), encrypted in any::<bool>()) {
        let (header, key) = (if back { reverse() } else { forward() }, encrypted.then(key));
        let (bytes, summary) = write(&header, &frames, key.as_ref());
        prop_assert_eq!(stream(&bytes, key.as_ref()).unwrap(), (header, frames.clone(), summary));
        let file = DeltaFile::open(&bytes[..], key.as_ref()).unwrap();
        file.verify().unwrap();
        prop_assert_eq!((file.header(), file.summary()), (&header, &summary));
        for (index, frame) in frames.iter().enumerate() {
            prop_assert_eq!(&file.frame(index).unwrap(), frame);
            prop_assert_eq!(file.entries()[index].extent, frame.extent);
        }
        prop_assert_eq!(file.extents().bytes(), summary.contents_bytes);
        prop_assert_eq!(frames.iter().map(|f| f.stored.len() as u64).sum::<u64>(), summary.stored_bytes);
        let missing = matches!(file.frame(frames.len()), Err(DeltaError::NoSuchFrame { .. }));
        prop_assert_eq!(missing, true);
    }

    /// Apply a delta, apply the delta of the old contents: the disk is as it was.
    #[test]
    fn going_forward_and_back_is_going_nowhere(frames in frames(), encrypted in any::<bool>()) {
        let key = encrypted.then(key);
        let before: Vec<u8> = (0..DISK).map(|n| (n / 4096) as u8).collect();
        let old: Vec<_> = frames.iter().map(|new| {
            let range = new.extent.start as usize..new.extent.end() as usize;
            Frame::of(new.extent, Bytes::copy_from_slice(&before[range]))
        }).collect();
        let mut disk = before.clone();
        for (header, frames) in [(forward(), &frames), (reverse(), &old)] {
            let (bytes, _) = write(&header, frames, key.as_ref());
            for frame in stream(&bytes, key.as_ref()).unwrap().1 {
                let contents = frame.contents().unwrap().0;
                disk[frame.extent.start as usize..frame.extent.end() as usize].copy_from_slice(&contents);
            }
        }
        prop_assert_eq!(disk == before, true);
    }

    #[test]
    fn bytes_that_are_no_delta_are_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(verified(&bytes, None).is_err() && stream(&bytes, None).is_err(), true);
        let (whole, _) = write(&forward(), &small(), None);
        bytes.splice(0..0, whole[..160].iter().copied());
        prop_assert_eq!(verified(&bytes, None).is_err() && stream(&bytes, None).is_err(), true);
    }
}

#[test]
fn a_delta_that_was_cut_anywhere_is_refused_as_such() {
    for key in [None, Some(key())] {
        let (bytes, _) = write(&forward(), &small(), key.as_ref());
        for len in 0..bytes.len() {
            let error = verified(&bytes[..len], key.as_ref()).unwrap_err();
            assert!(error.is_damage(), "{len}: {error}");
            let error = stream(&bytes[..len], key.as_ref()).unwrap_err();
            assert!(matches!(error, DeltaError::Truncated { .. }), "{len}: {error}");
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for key in [None, Some(key())] {
        let (mut bytes, _) = write(&forward(), &small(), key.as_ref());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let results = [verified(&bytes, key.as_ref()), stream(&bytes, key.as_ref()).map(|_| ())];
            for result in results {
                let error = result.expect_err(&format!("bit {} of byte {} was flipped", bit % 8, bit / 8));
                assert!(error.is_damage(), "byte {}: {error}", bit / 8);
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        verified(&bytes, key.as_ref()).unwrap();
    }
}

/// The contents are in the whole checksum through the frames' headers, without being hashed for it.
#[test]
fn the_whole_checksum_tells_contents_of_the_same_length_apart() {
    let of = |byte: u8| {
        let frame = Frame::of(Extent::new(0, 512), vec![byte; 512].into());
        write(&forward(), &[frame], None).1.checksum
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

/// What checksums do not notice, as an attacker computes them anew, the key does.
#[test]
fn frames_of_another_file_in_another_order_or_another_header_are_not_authentic() {
    let key = key();
    let twice = [frame(0, 300, 2), frame(300, 300, 2)];
    let (first, _) = write(&forward(), &twice, Some(&key));
    let (second, _) = write(&forward(), &twice, Some(&key));
    let size = 64 + 300 + 16;
    let (one, two) = (160..160 + size, 160 + size..160 + 2 * size);
    assert_ne!(first[one.clone()], second[one.clone()], "each file has its own key");
    let mut mixed = first.clone();
    mixed[one.clone()].copy_from_slice(&second[one.clone()]);
    let refused = |bytes: &[u8]| matches!(stream(bytes, Some(&key)), Err(DeltaError::NotAuthentic { .. }));
    assert!(refused(&mixed));
    let mut moved = first.clone();
    moved.copy_within(two, one.start);
    assert!(refused(&moved));
    let mut other = first;
    other[32] ^= 1;
    let checksum = blake3::hash(&other[..128]);
    other[128..160].copy_from_slice(checksum.as_bytes());
    assert!(refused(&other), "the epoch was changed");
    let open = DeltaFile::open(&other[..], Some(&key));
    assert!(matches!(open, Err(DeltaError::NotAuthentic { .. })), "{open:?}");
}

#[test]
fn an_encrypted_delta_shows_neither_contents_nor_their_checksums() {
    let (sample, key) = (frame(0, 4096, 2), key());
    let (bytes, _) = write(&forward(), std::slice::from_ref(&sample), Some(&key));
    let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    assert!(!holds(&sample.stored[..16]) && !holds(&sample.checksum) && !holds(&[7; 16]));
    assert_eq!(format!("{key:?}"), format!("DeltaKey({})", key.id()));
}

#[test]
fn a_wrong_missing_or_needless_key_is_named_as_that_not_as_damage() {
    let other = DeltaKey::new([8; 32]);
    let (plain, _) = write(&forward(), &small(), None);
    let (encrypted, _) = write(&forward(), &small(), Some(&key()));
    let check = |bytes: &[u8], key: Option<&DeltaKey>, expected: fn(&DeltaError) -> bool| {
        for error in [verified(bytes, key).unwrap_err(), stream(bytes, key).unwrap_err()] {
            assert!(expected(&error) && !error.is_damage(), "{error:?}");
        }
    };
    check(&encrypted, Some(&other), |error| matches!(error, DeltaError::WrongKey { .. }));
    check(&encrypted, None, |error| matches!(error, DeltaError::KeyMissing { .. }));
    check(&plain, Some(&other), |error| matches!(error, DeltaError::NotEncrypted { .. }));
}

#[test]
fn a_newer_version_is_told_apart_from_damage() {
    let (mut bytes, _) = write(&forward(), &small(), None);
    bytes[8] = 2;
    let checksum = blake3::hash(&bytes[..128]);
    bytes[128..160].copy_from_slice(checksum.as_bytes());
    let error = verified(&bytes, None).unwrap_err();
    assert!(matches!(error, DeltaError::UnknownVersion { found: 2 }) && !error.is_damage());
    assert_eq!(
        error.to_string(),
        "the delta has format version 2, this build reads 1 to 1; use a build that reads it"
    );
}

/// A trailer that promises the moon, with its checksum made right.
#[test]
fn hostile_lengths_are_refused_before_anything_is_allocated() {
    let (whole, _) = write(&forward(), &small(), None);
    let trailer = whole.len() - 128;
    for at in [8, 16, 24] {
        for value in [0, 1, u64::MAX, u64::MAX / 32, 1 << 58, i64::MAX as u64] {
            let mut bytes = whole.clone();
            bytes[trailer + at..trailer + at + 8].copy_from_slice(&value.to_le_bytes());
            let checksum = blake3::hash(&bytes[trailer..trailer + 96]);
            bytes[trailer + 96..].copy_from_slice(checksum.as_bytes());
            assert!(DeltaFile::open(&bytes[..], None).unwrap_err().is_damage(), "{value} at {at}");
            assert!(stream(&bytes, None).unwrap_err().is_damage(), "{value} at {at}");
        }
    }
}

/// Bytes that belong to nothing, between the frames and an index that is right in itself.
#[test]
fn a_gap_before_the_index_is_refused() {
    let (mut bytes, summary) = write(&forward(), &small(), None);
    let index = bytes.len() - 128 - 64 - 32 * usize::try_from(summary.frames).unwrap();
    bytes.splice(index..index, [0; 64]);
    let trailer = bytes.len() - 128;
    bytes[trailer + 8..trailer + 16].copy_from_slice(&(index as u64 + 64).to_le_bytes());
    let checksum = blake3::hash(&bytes[trailer..trailer + 96]);
    bytes[trailer + 96..].copy_from_slice(checksum.as_bytes());
    assert!(DeltaFile::open(&bytes[..], None).unwrap_err().is_damage());
    assert!(stream(&bytes, None).unwrap_err().is_damage());
}

#[test]
fn frames_out_of_place_are_refused_and_leave_nothing_behind() {
    let mut writer = DeltaWriter::new(Vec::new(), &forward(), None).unwrap();
    writer.push(&frame(4096, 4096, 2)).unwrap();
    let before = writer.file_len();
    let order = writer.push(&frame(8191, 10, 2));
    assert!(matches!(order, Err(DeltaError::Order { end: 8192, .. })), "{order:?}");
    let outside = writer.push(&frame(DISK - 1, 2, 2));
    assert!(matches!(outside, Err(DeltaError::OutsideDisk { disk_size: DISK, .. })), "{outside:?}");
    let whole = frame(8192, 4096, 2);
    let cut = Frame { stored: whole.stored.slice(1..), ..whole.clone() };
    let long = Frame { extent: Extent { start: 8192, len: u64::MAX }, ..whole.clone() };
    let zero = Frame { kind: FrameKind::Zero, ..whole.clone() };
    for invalid in [cut, long, zero] {
        let result = writer.push(&invalid);
        assert!(matches!(result, Err(DeltaError::InvalidFrame { .. })), "{result:?}");
    }
    assert_eq!(writer.file_len(), before);
    writer.push(&whole).unwrap();
    let (bytes, _) = writer.finish().unwrap();
    verified(&bytes, None).unwrap();
}

#[test]
fn a_header_that_makes_no_sense_is_not_written() {
    let same = DeltaHeader { content: DeltaContent::Reverse { from: Seq(1), to: Seq(1) }, ..forward() };
    let huge = DeltaHeader { disk_size: u64::MAX, ..forward() };
    for header in [same, huge] {
        let result = DeltaWriter::new(Vec::new(), &header, None);
        assert!(matches!(result, Err(DeltaError::InvalidHeader { .. })), "{result:?}");
    }
}

/// A drive that is full after some bytes and takes little at a time.
struct Full {
    left: usize,
    bytes: Vec<u8>,
}

impl Write for Full {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.left == 0 && !buf.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let len = buf.len().min(self.left).min(33);
        self.left -= len;
        self.bytes.extend_from_slice(&buf[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_drive_ends_the_delta_wherever_it_strikes() {
    for key in [None, Some(key())] {
        let attempt = |left| -> Result<Vec<u8>, DeltaError> {
            let full = Full { left, bytes: Vec::new() };
            let mut writer = DeltaWriter::new(full, &forward(), key.as_ref())?;
            for frame in small() {
                if let Err(error) = writer.push(&frame) {
                    assert!(matches!(writer.push(&frame), Err(DeltaError::GivenUp)));
                    assert!(matches!(writer.finish().map(|_| ()), Err(DeltaError::GivenUp)));
                    return Err(error);
                }
            }
            Ok(writer.finish()?.0.bytes)
        };
        let whole = attempt(usize::MAX).unwrap();
        verified(&whole, key.as_ref()).unwrap();
        for left in 0..whole.len() {
            let error = attempt(left).unwrap_err();
            assert!(matches!(error, DeltaError::Io { .. }) && !error.is_damage(), "{left}: {error}");
        }
    }
}

#[test]
fn a_reader_takes_nothing_beyond_its_delta_and_nothing_after_a_failure() {
    let (mut bytes, _) = write(&forward(), &small(), None);
    bytes.extend_from_slice(b"next");
    let mut reader = DeltaReader::new(&bytes[..], None).unwrap();
    while reader.next_frame().unwrap().is_some() {}
    assert_eq!(reader.into_inner(), b"next");
    assert!(verified(&bytes, None).unwrap_err().is_damage(), "a file has nothing behind its trailer");
    bytes[160] ^= 1;
    let mut reader = DeltaReader::new(&bytes[..], None).unwrap();
    assert!(reader.next_frame().unwrap_err().is_damage());
    assert!(matches!(reader.next_frame(), Err(DeltaError::GivenUp)));
    assert!(reader.summary().is_none());
}

#[test]
fn a_part_is_the_same_however_it_is_stored_and_another_for_any_change() {
    let hash = |frames: &[Frame]| {
        let mut hasher = PartHasher::new();
        frames.iter().for_each(|frame| hasher.push(frame));
        hasher.finish()
    };
    let stored = small();
    let raw: Vec<_> = stored.iter().map(|f| Frame::of(f.extent, f.contents().unwrap().0)).collect();
    assert_eq!(stored[0].kind, FrameKind::Zstd);
    assert_eq!(hash(&stored), hash(&raw));
    let others = [vec![], stored[1..].to_vec(), [&stored[1..], &stored[..1]].concat()];
    others.iter().for_each(|other| assert_ne!(hash(&stored), hash(other)));
}

#[test]
fn reads_from_a_file_and_through_pointers() {
    let (bytes, summary) = write(&forward(), &small(), None);
    let path = std::env::temp_dir().join(format!("switchback-delta-{}", std::process::id()));
    std::fs::write(&path, &bytes).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let file = DeltaFile::open(std::sync::Arc::new(file), None).unwrap();
    file.verify().unwrap();
    assert_eq!(file.summary(), &summary);
    DeltaFile::open(Box::new(Bytes::from(bytes)), None).unwrap().verify().unwrap();
}
