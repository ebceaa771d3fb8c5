//! Page blobs that are behind: how far is told, and new cycles wait for no more than they must.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::bounded;
use switchback_delta::{Frame, PartHasher};
use switchback_model::{
    Consistency, DiskIndex, Extent, GenerationId, PartIndex, ReplicaId, ResyncReason, Seq, UnixMillis,
    WriterId,
};
use switchback_replica::sim::SimAccount;
use switchback_replica::store::BlobStore;
use switchback_replica::{
    Behind, BlobSession, CommitCycle, CycleKind, DiskSpec, OpenCycle, PageBlobConfig, PageBlobReplica,
    PartHeader, ReplicaSession, SessionRequest,
};

const SIZE: u64 = 1 << 20;
/// For what should happen at once.
const PATIENCE: Duration = Duration::from_secs(30);

fn open_cycle(session: &mut BlobSession, kind: CycleKind) -> Seq {
    session.open_cycle(&OpenCycle { generation: GenerationId([1; 16]), kind }).unwrap().seq
}

/// The rest of a cycle: one block.
fn finish(session: &mut BlobSession, seq: Seq) {
    session.begin_part(PartHeader { seq, part: PartIndex(0), disk: DiskIndex(0) }).unwrap();
    let mut hasher = PartHasher::default();
    let frame = Frame::of(Extent::new(seq.0 * 4096, 4096), Bytes::from(vec![7; 4096]));
    hasher.push(&frame);
    session.put_frame(frame).unwrap();
    session.end_part(hasher.finish()).unwrap();
    let (time, consistency) = (UnixMillis(seq.0), Consistency::CrashConsistent);
    session
        .commit(&CommitCycle { seq, parts: 1, time, consistency, group_tag: None, whole: Vec::new() })
        .unwrap();
}

#[test]
fn a_cycle_that_finds_no_room_waits_for_the_round_in_hand_and_not_for_the_next() {
    let account = SimAccount::new(6);
    let store = account.connect();
    let disks = vec![DiskSpec { size: SIZE }];
    PageBlobReplica::create(&*store, disks.clone(), ReplicaId([5; 16])).unwrap();
    let config = PageBlobConfig { staged_cycles_max: 2, io_threads: 1, ..PageBlobConfig::default() };
    let shared = Arc::clone(&store) as Arc<dyn BlobStore>;
    let replica = Arc::new(PageBlobReplica::open(shared, config, [1; 16], false).unwrap());
    let replica_name = "machine".parse().unwrap();
    let request = SessionRequest { replica: replica_name, epoch: None, writer: WriterId([3; 16]), disks };
    let mut session = replica.session(&request).unwrap();
    let seq = open_cycle(&mut session, CycleKind::Resync { reason: ResyncReason::Initial });
    finish(&mut session, seq);
    assert_eq!((replica.behind(), replica.too_far_behind()), (Behind::default(), None));

    let seq = open_cycle(&mut session, CycleKind::Changes);
    finish(&mut session, seq);
    // The round of that cycle hangs where it takes its snapshot.
    store.allow_snapshots(0);
    let maintained = Arc::clone(&replica);
    let applier = std::thread::spawn(move || maintained.maintain());
    let one = replica.too_far_behind().unwrap();
    assert!(one.cycles == 1 && one.bytes > 4096, "{one:?}");
    let until = std::time::Instant::now() + PATIENCE;
    while !account.contents("manifest").unwrap().windows(13).any(|text| text == b"\"applying\": 2") {
        assert!(std::time::Instant::now() < until, "no round began");
        std::thread::yield_now();
    }
    let seq = open_cycle(&mut session, CycleKind::Changes);
    finish(&mut session, seq);
    assert_eq!(replica.behind().cycles, 2);

    let (done, opened) = bounded(1);
    let opener = std::thread::spawn(move || {
        let seq = open_cycle(&mut session, CycleKind::Changes);
        done.send(()).unwrap();
        finish(&mut session, seq);
    });
    assert!(opened.recv_timeout(Duration::from_millis(200)).is_err(), "there was no room");
    // That round ends, and the next one hangs in its turn.
    store.allow_snapshots(1);
    opened.recv_timeout(PATIENCE).expect("it waits for the next round too");
    opener.join().unwrap();
    assert_eq!((replica.applied(), replica.behind().cycles), (Some(Seq(2)), 2));
    store.allow_snapshots(u64::MAX);
    applier.join().unwrap().unwrap();
    assert_eq!(replica.applied(), Some(Seq(4)));
}
