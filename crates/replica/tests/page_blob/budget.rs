//! What a standard page blob takes, 500 requests a second, and what a busy machine writes, 20 MB/s in random blocks of 4 KiB: points come all the same, as they need
//! no page; the pages follow in rounds that grow until neighbours join. Time is counted in requests, not measured.

use std::sync::Arc;

use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use switchback_delta::{Frame, PartHasher};
use switchback_model::{
    Consistency, DiskIndex, Extent, ExtentSet, GenerationId, ReplicaId, ResyncReason, Seq, UnixMillis,
    WriterId,
};
use switchback_replica::sim::SimAccount;
use switchback_replica::store::BlobStore;
use switchback_replica::{
    BlobSession, CommitCycle, CycleKind, DiskSpec, OpenCycle, PageBlobConfig, PageBlobReplica, PartHeader,
    ReplicaSession, SessionRequest,
};

/// Everything is a 256th: what is written a second, what the store takes a second, and the 4 GiB that the machine writes to.
const SCALE: u64 = 256;
const WRITES_PER_S: u64 = 20_000_000 / 4096 / SCALE;
const DISK: u64 = (4 << 30) / SCALE;
const PAGE_REQUESTS_PER_S: f64 = 500.0 / 256.0;
/// Between two points, in seconds.
const INTERVAL_S: u64 = 30;
const RPO_MAX_S: f64 = 60.0;
/// For any other request, in seconds: ten times what Azure takes.
const REQUEST_S: f64 = 0.5;

fn send(session: &mut BlobSession, kind: CycleKind, blocks: &ExtentSet, rng: &mut ChaCha8Rng) -> Seq {
    let seq = session.open_cycle(&OpenCycle { generation: GenerationId([1; 16]), kind }).unwrap().seq;
    let part = switchback_model::PartIndex(0);
    session.begin_part(PartHeader { seq, part, disk: DiskIndex(0) }).unwrap();
    let mut hasher = PartHasher::default();
    for extent in blocks.iter().flat_map(|extent| extent.pieces(1 << 20)) {
        let mut data = vec![0; extent.len as usize];
        rng.fill(&mut data[..]);
        let frame = Frame::of(extent, Bytes::from(data));
        hasher.push(&frame);
        session.put_frame(frame).unwrap();
    }
    session.end_part(hasher.finish()).unwrap();
    session.barrier().unwrap();
    let (time, consistency) = (UnixMillis(seq.0), Consistency::CrashConsistent);
    session
        .commit(&CommitCycle { seq, parts: 1, time, consistency, group_tag: None, whole: Vec::new() })
        .unwrap();
    seq
}

#[test]
fn random_writes_of_20_mb_a_second_hold_an_rpo_of_a_minute_at_500_page_requests_a_second() {
    let account = SimAccount::new(1);
    let store = account.connect();
    let disks = vec![DiskSpec { size: DISK }];
    PageBlobReplica::create(&*store, disks.clone(), ReplicaId([5; 16])).unwrap();
    let config = PageBlobConfig { io_threads: 1, ..PageBlobConfig::default() };
    let shared = Arc::clone(&store) as Arc<dyn BlobStore>;
    let replica = Arc::new(PageBlobReplica::open(shared, config, [1; 16], false).unwrap());
    let replica_name = "machine".parse().unwrap();
    let request = SessionRequest { replica: replica_name, epoch: None, writer: WriterId([3; 16]), disks };
    let mut session = replica.session(&request).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let kind = CycleKind::Resync { reason: ResyncReason::Initial };
    send(&mut session, kind, &ExtentSet::new(), &mut rng);

    // The pages are busy until then; how many seconds of writes each round took in, and how far it was behind.
    let (mut busy_until, mut lags) = (0.0, Vec::new());
    let mut worst_rpo = 0.0_f64;
    for now in (INTERVAL_S..=40 * 60).step_by(INTERVAL_S as usize) {
        let mut blocks = ExtentSet::new();
        for _ in 0..WRITES_PER_S * INTERVAL_S {
            blocks.insert(Extent::new(rng.random_range(0..DISK / 4096) * 4096, 4096));
        }
        let before = (account.page_traffic(), store.ops());
        let seq = send(&mut session, CycleKind::Changes, &blocks, &mut rng);
        assert_eq!(account.page_traffic(), before.0, "point {seq} waited for the pages");
        let requests = f64::from(u32::try_from(store.ops() - before.1).unwrap());
        worst_rpo = worst_rpo.max(INTERVAL_S as f64 + requests * REQUEST_S);
        if busy_until <= now as f64 {
            let (oldest, before) = (replica.applied().unwrap(), account.page_traffic().2);
            replica.maintain().unwrap();
            let requests = f64::from(u32::try_from(account.page_traffic().2 - before).unwrap());
            busy_until = now as f64 + requests / PAGE_REQUESTS_PER_S;
            lags.push(busy_until - (oldest.0 - 1) as f64 * INTERVAL_S as f64);
            // They would fill the memory.
            replica.drop_points(&replica.points().iter().map(|point| point.seq).collect()).unwrap();
        }
    }
    assert!(worst_rpo <= RPO_MAX_S, "a point was {worst_rpo} s behind");
    // Without coalescing the pages would take ten times as long as the writes, and fall behind for ever.
    let late = lags.iter().skip(lags.len() / 2).copied().fold(0.0, f64::max);
    assert!(lags.len() >= 3 && late < 20.0 * 60.0, "the pages fall behind: {lags:?}");
}
