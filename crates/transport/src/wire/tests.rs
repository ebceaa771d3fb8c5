//! Tests of the wire format.

use bytes::Bytes;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use switchback_delta::{Digest, Frame};
use switchback_model::{
    Consistency, DiskIndex, Epoch, Extent, GenerationId, PartIndex, ResyncReason, Seq, UnixMillis, WriterId,
};
use switchback_replica::{
    CommitCycle, CycleKind, DiskSpec, LeafDigests, NodeDigest, OpenCycle, PartHeader, SessionRequest,
};

use super::{Head, Kind, LEAF_NODES_MAX, NODES_MAX, NodeList, NodeRange, Renew, Request, WireError};

fn requests() -> Vec<Request> {
    vec![
        Request::Open(SessionRequest {
            replica: "web01".parse().unwrap(),
            epoch: Some(Epoch(3)),
            writer: WriterId([7; 16]),
            disks: vec![DiskSpec { size: 1 << 30 }],
        }),
        Request::Status,
        Request::OpenCycle(OpenCycle {
            generation: GenerationId([1; 16]),
            kind: CycleKind::Resync { reason: ResyncReason::Initial },
        }),
        Request::BeginPart(PartHeader { seq: Seq(1), part: PartIndex(0), disk: DiskIndex(0) }),
        Request::EndPart([9; 32]),
        Request::Barrier,
        Request::Commit(CommitCycle {
            seq: Seq(1),
            parts: 1,
            time: UnixMillis(5),
            consistency: Consistency::CrashConsistent,
            group_tag: Some("nightly".into()),
            whole: Vec::new(),
        }),
        Request::AbortCycle,
        Request::NodeDigests(NodeRange { disk: DiskIndex(0), first: 0, count: NODES_MAX }),
        Request::LeafDigests(NodeList { disk: DiskIndex(0), nodes: vec![1; LEAF_NODES_MAX] }),
        Request::Renew(Renew { key_request: vec![1, 2, 3] }),
    ]
}

#[test]
fn every_request_comes_back() {
    for request in requests() {
        let message = request.clone().encode();
        let head = message.head(77, true, Some(Epoch(5))).unwrap();
        assert_eq!(Head::decode(head.encode()), Ok(head));
        assert_eq!(head.len as usize, message.small.len());
        assert_eq!(Request::decode(message.kind, &message.small), Ok(request));
    }
}

#[test]
fn lengths_and_counts_are_refused_before_anything_is_allocated() {
    for kind in Kind::ALL {
        let head = Head { kind, resume: false, request: 0, len: kind.len_max(), epoch: None };
        Head::decode(head.encode()).unwrap();
        let long = Head { len: kind.len_max() + 1, ..head };
        assert!(matches!(Head::decode(long.encode()), Err(WireError::Length { .. })), "{kind:?}");
    }
    let many = NodeRange { disk: DiskIndex(0), first: 0, count: NODES_MAX + 1 };
    let many = Request::NodeDigests(many).encode();
    assert!(Request::decode(many.kind, &many.small).is_err());
    let many = NodeList { disk: DiskIndex(0), nodes: vec![0; LEAF_NODES_MAX + 1] };
    let many = Request::LeafDigests(many).encode();
    assert!(Request::decode(many.kind, &many.small).is_err());
    let frame = Frame::of(Extent::new(0, 512), Bytes::from_static(&[1; 512]));
    assert!(super::frame_header(&frame.header(), 64 + 512).is_ok());
    assert!(super::frame_header(&frame.header(), 64 + 511).is_err());
}

#[test]
fn a_long_message_is_noticed_by_its_sender() {
    let commit = CommitCycle {
        seq: Seq(1),
        parts: 1,
        time: UnixMillis(5),
        consistency: Consistency::Fuzzy,
        group_tag: Some("x".repeat(super::CONTROL_LEN_MAX as usize)),
        whole: Vec::new(),
    };
    assert!(matches!(Request::Commit(commit).encode().head(0, false, None), Err(WireError::Length { .. })));
}

proptest! {
    #[test]
    fn digests_come_back(nodes in proptest::collection::vec((any::<u32>(), 0_usize..=256, any::<u8>()), 0..5)) {
        let leaves: Vec<_> = nodes
            .iter()
            .map(|(node, count, byte)| LeafDigests { node: *node, leaves: vec![Digest([*byte; 32]); *count] })
            .collect();
        let message = super::encode_leaves(&leaves);
        prop_assert_eq!(super::decode_leaves(&message.small).unwrap(), leaves);
        let digests: Vec<_> = nodes.iter().map(|(.., byte)| NodeDigest(Digest([*byte; 32]))).collect();
        prop_assert_eq!(super::decode_nodes(&super::encode_nodes(&digests).small).unwrap(), digests);
        if !message.small.is_empty() {
            prop_assert!(super::decode_leaves(&message.small[..message.small.len() - 1]).is_err());
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        crate::fuzz::head(&bytes);
        crate::fuzz::request(&bytes);
        crate::fuzz::reply(&bytes);
        crate::fuzz::frame_header(&bytes);
    }
}
