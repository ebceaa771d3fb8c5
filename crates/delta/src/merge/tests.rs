//! Merging against the obvious model: byte arrays laid over each other.

use bytes::Bytes;
use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, proptest};
use switchback_model::{DiskIndex, Epoch, Extent, ReplicaId, Seq};

use super::{MergeError, merge};
use crate::{DeltaContent, DeltaFile, DeltaHeader, DeltaKey, DeltaWriter, FRAME_MAX, Frame, FrameKind};

const DISK: u64 = 3 << 20;

fn header() -> DeltaHeader {
    let content = DeltaContent::Reverse { from: Seq(9), to: Seq(1) };
    DeltaHeader { replica: ReplicaId([1; 16]), epoch: Epoch(1), disk: DiskIndex(0), disk_size: DISK, content }
}

fn fill(extent: Extent, byte: u8) -> Frame {
    let frame = Frame::of(extent, vec![byte; usize::try_from(extent.len).unwrap()].into());
    // Odd ones compressed, even ones raw, 0 a zero frame.
    if byte % 2 == 1 { frame.compressed(&mut zstd::bulk::Compressor::new(-1).unwrap()) } else { frame }
}

fn delta(frames: &[Frame], key: Option<&DeltaKey>) -> DeltaFile<Vec<u8>> {
    let mut writer = DeltaWriter::new(Vec::new(), &header(), key).unwrap();
    frames.iter().for_each(|frame| writer.push(frame).unwrap());
    DeltaFile::open(writer.finish().unwrap().0, key).unwrap()
}

/// Frames with gaps, some tiny, some of the greatest length.
fn layer() -> impl Strategy<Value = Vec<Frame>> {
    let len = proptest::prop_oneof![1_u64..40, 1_u64..5000, (1_u64 << 19)..=FRAME_MAX.into()];
    proptest::collection::vec((0_u64..100, len, 0_u8..6), 0..12).prop_map(|list| {
        let (mut at, mut frames) = (0, Vec::new());
        for (gap, len, byte) in list {
            let extent = Extent::new(at + gap, len);
            at = extent.end();
            if at <= DISK {
                frames.push(fill(extent, byte));
            }
        }
        frames
    })
}

fn range(extent: Extent) -> std::ops::Range<usize> {
    usize::try_from(extent.start).unwrap()..usize::try_from(extent.end()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_first_layer_that_holds_a_byte_wins(
        layers in proptest::collection::vec(layer(), 0..5), encrypted in any::<bool>(),
    ) {
        let key = encrypted.then(|| DeltaKey::new([3; 32]));
        let mut model: Vec<Option<u8>> = vec![None; usize::try_from(DISK).unwrap()];
        for frame in layers.iter().rev().flatten() {
            let contents = frame.contents().unwrap().0;
            model[range(frame.extent)].iter_mut().zip(&contents).for_each(|(byte, new)| *byte = Some(*new));
        }
        let files: Vec<_> = layers.iter().map(|frames| delta(frames, key.as_ref())).collect();
        let out = DeltaWriter::new(Vec::new(), &header(), key.as_ref()).unwrap();
        let (bytes, _) = merge(&files.iter().collect::<Vec<_>>(), out).unwrap();
        let merged = DeltaFile::open(bytes, key.as_ref()).unwrap();
        merged.verify().unwrap();
        let mut result: Vec<Option<u8>> = vec![None; usize::try_from(DISK).unwrap()];
        for index in 0..merged.entries().len() {
            let frame = merged.frame(index).unwrap();
            let contents = frame.contents().unwrap().0;
            result[range(frame.extent)].iter_mut().zip(&contents).for_each(|(byte, new)| *byte = Some(*new));
        }
        prop_assert!(result == model);
        if let [only] = &layers[..] {
            prop_assert_eq!(merged.entries().len(), only.len());
        }
    }
}

#[test]
fn whole_frames_pass_as_they_are_and_pieces_are_joined_and_stay_compressed() {
    let (whole, wide) = (fill(Extent::new(0, 4096), 1), fill(Extent::new(8192, 1 << 20), 3));
    let top: Vec<_> = [0, 1].map(|n| fill(Extent::new(500_000 + n * 100, 100), 2)).into();
    let (lower, upper) = (delta(&[whole.clone(), wide], None), delta(&top, None));
    let out = DeltaWriter::new(Vec::new(), &header(), None).unwrap();
    let (bytes, summary) = merge(&[&upper, &lower], out).unwrap();
    let merged = DeltaFile::open(Bytes::from(bytes), None).unwrap();
    assert_eq!(merged.frame(0).unwrap(), whole);
    let kinds: Vec<_> = merged.entries().iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [FrameKind::Zstd, FrameKind::Zstd, FrameKind::Raw, FrameKind::Raw, FrameKind::Zstd]);
    assert!(summary.stored_bytes < 2000, "{summary:?}");
    // Two wide frames hide the middle of two tiny neighbours: their visible ends become one frame.
    let low = delta(&[fill(Extent::new(0, 10), 2), fill(Extent::new(10, 10), 4)], None);
    let high = delta(&[fill(Extent::new(0, 5), 6), fill(Extent::new(15, 5), 6)], None);
    let out = DeltaWriter::new(Vec::new(), &header(), None).unwrap();
    let (_, summary) = merge(&[&high, &low], out).unwrap();
    assert_eq!(summary.frames, 3);
}

#[test]
fn pieces_with_a_gap_between_them_are_not_joined() {
    let low = delta(&[fill(Extent::new(0, 30), 2), fill(Extent::new(50, 30), 4)], None);
    let high = delta(&[fill(Extent::new(0, 10), 6), fill(Extent::new(70, 20), 6)], None);
    let out = DeltaWriter::new(Vec::new(), &header(), None).unwrap();
    let merged = DeltaFile::open(merge(&[&high, &low], out).unwrap().0, None).unwrap();
    let extents: Vec<_> = merged.entries().iter().map(|entry| entry.extent).collect();
    assert_eq!(extents, [(0, 10), (10, 20), (50, 20), (70, 20)].map(|(start, len)| Extent::new(start, len)));
    merged.verify().unwrap();
}

#[test]
fn a_damaged_layer_and_one_of_another_disk_are_named() {
    let good = delta(&[fill(Extent::new(0, 1000), 2)], None);
    let mut writer = DeltaWriter::new(Vec::new(), &header(), None).unwrap();
    writer.push(&fill(Extent::new(0, 4096), 2)).unwrap();
    let mut bytes = writer.finish().unwrap().0;
    bytes[300] ^= 1;
    let bad = DeltaFile::open(bytes, None).unwrap();
    let out = DeltaWriter::new(Vec::new(), &header(), None).unwrap();
    let result = merge(&[&good, &bad], out);
    assert!(
        matches!(result, Err(MergeError::Layer { layer: 1, ref source }) if source.is_damage()),
        "{result:?}"
    );
    let other = DeltaHeader { disk: DiskIndex(1), ..header() };
    let out = DeltaWriter::new(Vec::new(), &other, None).unwrap();
    assert!(matches!(merge(&[&good], out), Err(MergeError::OtherDisk { layer: 0 })));
}
