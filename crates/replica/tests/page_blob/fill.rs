//! The first replication, straight to the page blobs: written once, and whatever it is killed at, the side-car claims nothing that is not on the pages, and the
//! next process gets to exactly what the source has.

use std::sync::Arc;

use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use switchback_delta::{Frame, LEAF, PartHasher, leaf_extent, nodes_of_disk};
use switchback_model::{
    DiskIndex, Extent, GenerationId, ObjectName, PartIndex, ReplicaId, ResyncReason, Seq, UnixMillis,
    WriterId,
};
use switchback_replica::sim::{Faults, SimAccount, SimStore};
use switchback_replica::store::BlobStore;
use switchback_replica::{
    BlobSession, CommitCycle, CycleKind, OpenCycle, PageBlobConfig, PageBlobReplica, PartHeader,
    ReplicaError, ReplicaSession, SessionRequest,
};

use crate::source::{SIZES, Source};

const LEAF_LEN: usize = LEAF as usize;

fn made(seed: u64) -> SimAccount {
    let account = SimAccount::new(seed);
    PageBlobReplica::create(&*account.connect(), Source::specs(), ReplicaId([9; 16])).unwrap();
    account
}

fn open(account: &SimAccount, host: u8, io_threads: usize) -> (Arc<SimStore>, Arc<PageBlobReplica>) {
    let store = account.connect();
    let config = PageBlobConfig { io_threads, ..PageBlobConfig::default() };
    let shared = Arc::clone(&store) as Arc<dyn BlobStore>;
    (store, Arc::new(PageBlobReplica::open(shared, config, [host; 16], true).unwrap()))
}

fn session(replica: &Arc<PageBlobReplica>) -> Result<BlobSession, ReplicaError> {
    replica.session(&SessionRequest {
        replica: "machine".parse().unwrap(),
        epoch: None,
        writer: WriterId([3; 16]),
        disks: Source::specs(),
    })
}

fn resync() -> OpenCycle {
    let kind = CycleKind::Resync { reason: ResyncReason::Initial };
    OpenCycle { generation: GenerationId([1; 16]), kind }
}

/// What the replica says of its pages is so.
fn expect_truthful(account: &SimAccount, replica: &Arc<PageBlobReplica>, when: &str) {
    // A later cycle may be staged.
    replica.apply_all().unwrap();
    let mut session = session(replica).unwrap();
    for (disk, size) in (0..).zip(SIZES) {
        let pages = account.contents(&format!("disk-{disk}.vhd")).unwrap();
        let nodes: Vec<_> = (0..nodes_of_disk(size)).collect();
        for node in session.leaf_digests(DiskIndex(disk), &nodes).unwrap() {
            for (leaf, claimed) in node.leaves.iter().enumerate() {
                let extent = leaf_extent(size, node.node, leaf);
                let is = switchback_delta::digest_of(&pages[extent.start as usize..extent.end() as usize]);
                assert_eq!(*claimed, is, "{when}: disk {disk}, {extent:?}");
            }
        }
    }
}

fn expect_point(account: &SimAccount, replica: &PageBlobReplica, source: &Source, when: &str) {
    let newest = replica.points().last().unwrap().seq;
    let clones = replica.view(&"check".parse::<ObjectName>().unwrap(), newest).unwrap();
    for (clone, expected) in clones.iter().zip(&source.disks) {
        let found = account.contents(clone).unwrap();
        let differs = found.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{when}: point {newest}, {clone}");
        assert_eq!(found[found.len() - 512..][..8], *b"conectix", "{when}");
    }
    assert_eq!(replica.fsck(|_, _| {}).unwrap().findings, Vec::new(), "{when}");
}

/// One history: a process dies at its request `ops` while it fills, the next at a later one, the third gets through. Whether the first was cut short.
fn killed(seed: u64, ops: u64, io_threads: usize) -> bool {
    let when = format!("seed {seed}, request {ops}, {io_threads} threads");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let account = made(seed.wrapping_mul(1000) + ops);
    let mut source = Source::new();
    let mut cut = false;
    let mut stale = Vec::new();
    for host in 1..=3 {
        source.write(&mut rng);
        source.write(&mut rng);
        account.set_faults(Faults::default());
        let (store, replica) = open(&account, host, io_threads);
        if host > 1 {
            // As it was found, before anything is done.
            expect_truthful(&account, &replica, &when);
        }
        match host {
            1 => store.crash_after(ops),
            2 => store.crash_after(rng.random_range(1..30)),
            _ => {}
        }
        if host < 3 && rng.random_bool(0.3) {
            account.set_faults(Faults { lost_answers: 60, throttled: 60, late: 50 });
        }
        let done = session(&replica).and_then(|mut session| source.replicate(&mut session, &mut rng));
        if let Err(error) = &done {
            assert!(host < 3 && error.to_string().contains("simulated"), "{when}: {error}");
        }
        account.set_faults(Faults::default());
        cut |= host == 1 && done.is_err();
        if rng.random_bool(0.5) {
            source.restart(&mut rng);
        }
        stale.push((store, replica));
        // Those before do not know that they are dead.
        for (store, replica) in &stale[..stale.len() - 1] {
            store.crash_after(u64::MAX);
            let late = session(replica).and_then(|mut session| try_fill(&mut session, source.generation));
            assert!(late.is_err(), "{when}: a lost replica was written");
        }
    }
    let (_, replica) = stale.last().unwrap();
    expect_point(&account, replica, &source, &when);
    expect_truthful(&account, replica, &when);
    source.write(&mut rng);
    source.replicate(&mut session(replica).unwrap(), &mut rng).unwrap();
    replica.maintain().unwrap();
    expect_point(&account, replica, &source, &when);
    cut
}

#[test]
fn a_fill_that_is_killed_at_any_request_goes_on() {
    let through = |seed: u64| (1..200).find(|ops| !killed(seed, *ops, 1)).expect("it gets through");
    let longest = (0..40).map(through).max();
    assert!(longest > Some(15), "only {longest:?} requests");
    for seed in 40..60 {
        (1..20).for_each(|ops| {
            killed(seed, ops, 4);
        });
    }
}

/// Joins or opens a resync, and has a leaf written that the source has nowhere.
fn try_fill(session: &mut BlobSession, generation: GenerationId) -> Result<(), ReplicaError> {
    let opened = session.open_cycle(&OpenCycle { generation, ..resync() })?;
    session.begin_part(PartHeader { seq: opened.seq, part: opened.next_part, disk: DiskIndex(0) })?;
    let (frame, mut hasher) = (leaf(0, 99), PartHasher::default());
    hasher.push(&frame);
    session.put_frame(frame)?;
    session.end_part(hasher.finish())?;
    session.barrier().map(drop)
}

/// A part of the open resync, acknowledged.
fn fill(session: &mut BlobSession, frames: Vec<Frame>, commit: bool) -> Seq {
    let opened = session.open_cycle(&resync()).unwrap();
    session.begin_part(PartHeader { seq: opened.seq, part: opened.next_part, disk: DiskIndex(0) }).unwrap();
    let mut hasher = PartHasher::default();
    for frame in frames {
        hasher.push(&frame);
        session.put_frame(frame).unwrap();
    }
    session.end_part(hasher.finish()).unwrap();
    session.barrier().unwrap();
    if commit {
        let consistency = switchback_model::Consistency::CrashConsistent;
        let (seq, parts, time) = (opened.seq, opened.next_part.0 + 1, UnixMillis(1));
        session
            .commit(&CommitCycle { seq, parts, time, consistency, group_tag: None, whole: Vec::new() })
            .unwrap();
    }
    opened.seq
}

fn leaf(number: u64, byte: u8) -> Frame {
    let extent = Extent::new(number * u64::from(LEAF), LEAF.into());
    Frame::of(extent, Bytes::from(vec![byte; LEAF_LEN]))
}

#[test]
fn what_is_sent_first_is_written_once_and_nothing_is_read() {
    let account = made(1);
    let (_, replica) = open(&account, 1, 4);
    let before = account.page_traffic();
    let mut writing = session(&replica).unwrap();
    let request = resync();
    writing.open_cycle(&request).unwrap();
    writing.node_digests(DiskIndex(0), 0, 1).unwrap();
    let seq = fill(&mut writing, vec![leaf(0, 1), leaf(1, 2), leaf(2, 0)], true);
    let after = account.page_traffic();
    let pages = 2 * u64::from(LEAF);
    assert_eq!(after.0 - before.0, 0, "something was read");
    assert_eq!(
        (after.1 - before.1, after.2 - before.2),
        (pages + 17 * 512, 2),
        "two leaves at once, one record"
    );
    assert!(account.blobs().iter().all(|(name, _)| !name.contains("stage")), "{:?}", account.blobs());
    assert_eq!((replica.applied(), replica.bytes_kept()), (Some(seq), 0));
}

/// What the side-car was told of a leaf is taken back before the leaf is written again; what was known to be zero is not, for another process.
#[test]
fn a_leaf_that_was_overwritten_is_never_taken_for_what_it_was() {
    for crash in 1..12 {
        let account = made(crash);
        let (store, replica) = open(&account, 1, 1);
        let mut filling = session(&replica).unwrap();
        let seq = fill(&mut filling, vec![leaf(0, 1), leaf(2, 1)], false);
        store.crash_after(crash);
        let header = PartHeader { seq, part: PartIndex(1), disk: DiskIndex(0) };
        let cut = filling.begin_part(header).and_then(|()| {
            filling.put_frame(leaf(0, 2))?;
            filling.put_frame(leaf(1, 2))?;
            filling.put_frame(Frame::zero(Extent::new(2 * u64::from(LEAF), LEAF.into())))?;
            filling.end_part([0; 32])
        });
        cut.unwrap_err();
        drop(filling);
        let (_, replica) = open(&account, 2, 1);
        expect_truthful(&account, &replica, &format!("request {crash}"));
    }
}

/// A replica that never had a point has none after a new beginning either; what is on its pages is compared with.
#[test]
fn a_new_history_on_a_broken_off_fill_has_no_point_yet() {
    let account = made(1);
    let (_, replica) = open(&account, 1, 1);
    fill(&mut session(&replica).unwrap(), vec![leaf(0, 1), leaf(2, 1)], false);
    replica.begin_anew(ReplicaId([6; 16]), None, UnixMillis(9)).unwrap();
    assert_eq!((replica.points(), replica.status().open), (Vec::new(), None));
    expect_truthful(&account, &replica, "anew");
    let mut source = Source::new();
    source.disks[0][..LEAF_LEN].fill(1);
    source.replicate(&mut session(&replica).unwrap(), &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
    expect_point(&account, &replica, &source, "anew");
}

/// The only point left is damaged: nothing is left to build on, not even a snapshot of a point that was let go.
#[test]
fn after_the_last_point_is_lost_the_pages_are_filled_again() {
    let account = made(1);
    let store = account.connect();
    let config = PageBlobConfig { io_threads: 1, cache_bytes_max: 0, ..PageBlobConfig::default() };
    let replica =
        Arc::new(PageBlobReplica::open(store as Arc<dyn BlobStore>, config, [1; 16], true).unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut source = Source::new();
    for byte in 1..=2 {
        source.disks[0].fill(byte);
        source.dirty[0].insert(Extent::new(0, SIZES[0]));
        source.replicate(&mut session(&replica).unwrap(), &mut rng).unwrap();
    }
    replica.drop_points(&replica.points().iter().map(|point| point.seq).take(1).collect()).unwrap();
    let staged = account.blobs().into_iter().map(|(name, _)| name).find(|name| name.contains("stage"));
    account.tamper(&staged.unwrap(), |data| {
        data[500] ^= 1;
        Some(())
    });
    replica.maintain().unwrap();
    assert_eq!(replica.points(), Vec::new());
    expect_truthful(&account, &replica, "given up");
    source.replicate(&mut session(&replica).unwrap(), &mut rng).unwrap();
    expect_point(&account, &replica, &source, "filled again");
    assert_eq!(account.blobs().iter().map(|(_, snapshots)| snapshots).sum::<usize>(), 2);
}
