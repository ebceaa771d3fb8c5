//! Records come back as they were, and nothing else is taken for one.

use bytes::Bytes;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use switchback_delta::Frame;
use switchback_model::{
    Consistency, DiskIndex, Epoch, Extent, GenerationId, PartIndex, ResyncReason, Seq, UnixMillis,
};
use switchback_replica::{CommitCycle, CycleKind, OpenCycle, PartHeader};

use super::{Head, JSON_LEN_MAX, OpenRecord, Record, RecordKind};

pub(crate) fn any_record() -> impl Strategy<Value = Record> {
    let kind = prop_oneof![
        Just(CycleKind::Changes),
        ".{0,40}".prop_map(|detail| CycleKind::Resync { reason: ResyncReason::TrackingLost { detail } }),
    ];
    prop_oneof![
        (any::<u64>(), any::<u64>(), any::<[u8; 16]>(), kind).prop_map(|(seq, epoch, generation, kind)| {
            let request = OpenCycle { generation: GenerationId(generation), kind };
            Record::Open(OpenRecord { seq: Seq(seq), epoch: Epoch(epoch), request })
        }),
        (any::<u64>(), any::<u32>(), any::<u16>()).prop_map(|(seq, part, disk)| {
            Record::PartBegin(PartHeader { seq: Seq(seq), part: PartIndex(part), disk: DiskIndex(disk) })
        }),
        (0_u64..1 << 50, proptest::collection::vec(any::<u8>(), 1..5000), any::<bool>()).prop_map(
            |(start, contents, zero)| {
                let extent = Extent::new(start, contents.len() as u64);
                let contents = if zero { vec![0; contents.len()] } else { contents };
                let mut zstd = zstd::bulk::Compressor::new(-1).unwrap();
                Record::Frame(Frame::of(extent, Bytes::from(contents)).compressed(&mut zstd))
            }
        ),
        any::<[u8; 32]>().prop_map(|checksum| Record::PartEnd { checksum }),
        (any::<u64>(), any::<u32>(), any::<u64>(), proptest::option::of(".{0,30}")).prop_map(
            |(seq, parts, time, group_tag)| {
                let (seq, time) = (Seq(seq), UnixMillis(time));
                let consistency = Consistency::AppConsistent;
                Record::Commit(CommitCycle { seq, parts, time, consistency, group_tag, whole: Vec::new() })
            }
        ),
        any::<u64>().prop_map(|seq| Record::Abort { seq: Seq(seq) }),
    ]
}

proptest! {
    #[test]
    fn a_payload_comes_back_as_it_was(record in any_record(), number in any::<u64>()) {
        let mut payload = Vec::new();
        record.encode(&mut payload).unwrap();
        let head = Head { kind: record.kind(), number, len: payload.len() };
        prop_assert_eq!(Head::decode(&head.encode()), Ok(head));
        prop_assert_eq!(Record::decode(record.kind(), payload.into()), Ok(record));
    }

    /// The seal keeps bad bytes out; behind it, a defect must still end in an error and not in a panic.
    #[test]
    fn no_payload_makes_the_decoder_panic(kind in 0_u8..9, data in proptest::collection::vec(any::<u8>(), 0..300)) {
        crate::fuzz::record(kind, &data);
        crate::fuzz::state(&data);
    }

    #[test]
    fn a_payload_of_another_length_is_refused(record in any_record(), more in any::<bool>()) {
        let mut payload = Vec::new();
        record.encode(&mut payload).unwrap();
        if more { payload.push(1) } else { payload.truncate(payload.len() - 1) }
        prop_assert!(Record::decode(record.kind(), payload.into()).is_err());
    }
}

#[test]
fn hostile_heads_are_refused_before_anything_is_allocated() {
    let head = Head { kind: RecordKind::Frame, number: 5, len: 64 }.encode();
    for (at, value) in [(0, 1), (4, 0), (4, 7), (5, 1), (18, 0x20), (19, 0xff), (20, 1), (23, 1)] {
        let mut bad = head;
        bad[at] = value;
        assert!(Head::decode(&bad).is_err(), "byte {at}");
    }
}

#[test]
fn too_long_a_text_is_refused_and_leaves_nothing_behind() {
    let reason = ResyncReason::TrackingLost { detail: "x".repeat(JSON_LEN_MAX) };
    let request = OpenCycle { generation: GenerationId([1; 16]), kind: CycleKind::Resync { reason } };
    let record = Record::Open(OpenRecord { seq: Seq(1), epoch: Epoch(1), request });
    let mut out = vec![7];
    assert!(record.encode(&mut out).is_err());
    assert_eq!(out, [7]);
}
