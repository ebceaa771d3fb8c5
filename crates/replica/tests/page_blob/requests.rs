//! How many requests it takes: what a store is asked for together is asked for once.

use std::sync::Arc;

use bytes::Bytes;
use switchback_delta::{Frame, PartHasher, digest_of};
use switchback_model::{
    Consistency, DiskIndex, Extent, GenerationId, PartIndex, ReplicaId, ResyncReason, Seq, UnixMillis,
    WriterId,
};
use switchback_replica::sim::{SimAccount, SimStore};
use switchback_replica::store::BlobStore;
use switchback_replica::{
    BlobSession, CommitCycle, CycleKind, DiskSpec, OpenCycle, PageBlobConfig, PageBlobReplica, PartHeader,
    ReplicaSession, SessionRequest,
};

/// Bytes of which one record tells.
const NODE: u64 = 16 << 20;
const RECORD: u64 = 17 * 512;
/// Nodes of the disk, the last of which is a short one.
const NODES: u64 = 24;
const SIZE: u64 = NODES * NODE - 4096;
/// The nodes that change: neighbours, one behind a gap that is read with them, one behind a gap that is not.
const CHANGED: [u64; 5] = [0, 1, 2, 6, 23];

fn open(store: &Arc<SimStore>, host: u8) -> (Arc<PageBlobReplica>, BlobSession) {
    let config = PageBlobConfig { io_threads: 1, ..PageBlobConfig::default() };
    let shared = Arc::clone(store) as Arc<dyn BlobStore>;
    let replica = Arc::new(PageBlobReplica::open(shared, config, [host; 16], true).unwrap());
    let request = SessionRequest {
        replica: "machine".parse().unwrap(),
        epoch: None,
        writer: WriterId([3; 16]),
        disks: vec![DiskSpec { size: SIZE }],
    };
    let session = replica.session(&request).unwrap();
    (replica, session)
}

fn resync() -> CycleKind {
    CycleKind::Resync { reason: ResyncReason::Requested }
}

/// Every node's first leaf gets this byte.
fn cycle(session: &mut BlobSession, kind: CycleKind, nodes: impl IntoIterator<Item = u64>, byte: u8) -> Seq {
    let opened = session.open_cycle(&OpenCycle { generation: GenerationId([1; 16]), kind }).unwrap();
    session.begin_part(PartHeader { seq: opened.seq, part: PartIndex(0), disk: DiskIndex(0) }).unwrap();
    let mut hasher = PartHasher::default();
    for node in nodes {
        let frame = Frame::of(Extent::new(node * NODE, 65536), Bytes::from(vec![byte; 65536]));
        hasher.push(&frame);
        session.put_frame(frame).unwrap();
    }
    session.end_part(hasher.finish()).unwrap();
    let (seq, time, consistency) = (opened.seq, UnixMillis(opened.seq.0), Consistency::CrashConsistent);
    session
        .commit(&CommitCycle { seq, parts: 1, time, consistency, group_tag: None, whole: Vec::new() })
        .unwrap();
    seq
}

#[test]
fn records_of_digests_are_read_together_and_are_those_of_the_pages() {
    let account = SimAccount::new(4);
    let store = account.connect();
    PageBlobReplica::create(&*store, vec![DiskSpec { size: SIZE }], ReplicaId([5; 16])).unwrap();
    let (replica, mut session) = open(&store, 1);
    cycle(&mut session, resync(), 0..NODES, 1);
    replica.maintain().unwrap();
    drop((session, replica));

    // A process that has no record in memory.
    let (replica, mut session) = open(&store, 2);
    let seq = cycle(&mut session, CycleKind::Changes, CHANGED, 2);
    let (ops, (read, _, writes)) = (store.ops(), account.page_traffic());
    replica.apply_all().unwrap();
    assert_eq!(replica.applied(), Some(seq));
    let (ops, after) = (store.ops() - ops, account.page_traffic());
    // Nodes 0 to 6 at once, then 23.
    assert_eq!(after.0 - read, 8 * RECORD);
    // Their pages, and the records in three runs.
    assert_eq!(after.2 - writes, 5 + 3);
    // Two of the manifest, a snapshot, the part's deletion, two reads, and two leases.
    assert_eq!(ops, 5 + 3 + 2 + 1 + 1 + 2 + 2, "requests of a round");
    assert_eq!(replica.fsck(|_, _| {}).unwrap().findings, Vec::new());
    drop((session, replica));

    let (_replica, mut session) = open(&store, 3);
    session.open_cycle(&OpenCycle { generation: GenerationId([2; 16]), kind: resync() }).unwrap();
    let (before, ops) = (account.page_traffic().0, store.ops());
    let count = u32::try_from(NODES).unwrap();
    let nodes: Vec<_> = (0..count).collect();
    let leaves = session.leaf_digests(DiskIndex(0), &nodes).unwrap();
    assert_eq!((account.page_traffic().0 - before, store.ops() - ops), (NODES * RECORD, 1));
    for (node, leaves) in (0_u64..).zip(leaves) {
        let byte = if CHANGED.contains(&node) { 2 } else { 1 };
        assert_eq!(leaves.leaves[0], digest_of(&[byte; 65536]), "node {node}");
    }
    session.node_digests(DiskIndex(0), 0, count).unwrap();
    assert_eq!(account.page_traffic().0 - before, 2 * NODES * RECORD);
}
