//! Single faults, each with what must come of it: damage is refused in words, what is known is not read again, zeros are not sent.

use std::sync::Arc;

use bytes::Bytes;
use switchback_delta::{Frame, PartHasher};
use switchback_model::{
    Consistency, DiskIndex, Extent, GenerationId, ObjectName, PartIndex, ReplicaId, ResyncReason, Seq,
    UnixMillis, WriterId,
};
use switchback_replica::sim::{SimAccount, SimStore};
use switchback_replica::store::{BlobStore, LeaseId, SnapshotId};
use switchback_replica::{
    BlobDisk, BlobPointView, BlobSession, CommitCycle, CycleKind, DiskSpec, OpenCycle, PageBlobConfig,
    PageBlobReplica, PartHeader, ReadPoint, ReplicaError, ReplicaSession, ReplicaSummary, SessionRequest,
};

const SIZE: u64 = 20 << 20;

fn make() -> (SimAccount, Arc<SimStore>) {
    let account = SimAccount::new(3);
    let store = account.connect();
    PageBlobReplica::create(&*store, vec![DiskSpec { size: SIZE }], ReplicaId([5; 16])).unwrap();
    (account, store)
}

fn open(store: &Arc<SimStore>, host: u8) -> Result<Arc<PageBlobReplica>, ReplicaError> {
    // Nothing in memory, so that what is damaged in the store is read there.
    let config = PageBlobConfig { cache_bytes_max: 0, io_threads: 1, ..PageBlobConfig::default() };
    PageBlobReplica::open(Arc::clone(store) as Arc<dyn BlobStore>, config, [host; 16], true).map(Arc::new)
}

fn session(replica: &Arc<PageBlobReplica>) -> BlobSession {
    let request = SessionRequest {
        replica: "machine".parse().unwrap(),
        epoch: None,
        writer: WriterId([3; 16]),
        disks: replica.status().disks,
    };
    replica.session(&request).unwrap()
}

fn cycle(replica: &Arc<PageBlobReplica>, kind: CycleKind, blocks: &[(u64, Vec<u8>)]) -> Seq {
    let mut session = session(replica);
    let opened = session.open_cycle(&OpenCycle { generation: GenerationId([1; 16]), kind }).unwrap();
    let header = PartHeader { seq: opened.seq, part: PartIndex(0), disk: DiskIndex(0) };
    session.begin_part(header).unwrap();
    let mut hasher = PartHasher::default();
    for (at, data) in blocks {
        let frame = Frame::of(Extent::new(*at, data.len() as u64), Bytes::from(data.clone()));
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

fn resync() -> CycleKind {
    CycleKind::Resync { reason: ResyncReason::Requested }
}

fn staged(account: &SimAccount) -> Vec<String> {
    account.blobs().into_iter().map(|(name, _)| name).filter(|name| name.contains("stage")).collect()
}

#[test]
fn a_damaged_manifest_is_refused_whatever_byte_it_is() {
    let (account, store) = make();
    let len = account.contents("manifest").unwrap().len();
    for at in (0..len).step_by(7).chain([len]) {
        account.tamper("manifest", |data| {
            if at < len {
                data[at] ^= 1
            } else {
                data.truncate(len - 1)
            }
            Some(())
        });
        let error = open(&store, 1).unwrap_err();
        assert!(matches!(error, ReplicaError::Corrupt { .. }), "{at}: {error}");
        assert!(error.to_string().contains("manifest"), "{error}");
        account.tamper("manifest", |data| {
            if at < len {
                data[at] ^= 1
            } else {
                data.push(b'}')
            }
            Some(())
        });
    }
    open(&store, 1).unwrap();
    assert!(ReplicaSummary::read_blobs(&*store).unwrap().is_some());
}

/// Torn, flipped or gone: the point cannot be had, the ones in snapshots can, a resync reads what is uncertain and brings the rest.
#[test]
fn a_damaged_part_is_given_up_and_what_is_in_snapshots_stays() {
    type Damage = fn(&mut Vec<u8>) -> Option<()>;
    let damages: [(&str, Damage); 3] = [
        ("torn", |data| {
            data.truncate(data.len() - 10);
            Some(())
        }),
        ("flipped", |data| {
            data[500] ^= 4;
            Some(())
        }),
        ("gone", |_| None),
    ];
    for (what, damage) in damages {
        let (account, store) = make();
        let replica = open(&store, 1).unwrap();
        let first = cycle(&replica, resync(), &[(0, vec![1; 65536])]);
        replica.maintain().unwrap();
        let second =
            cycle(&replica, CycleKind::Changes, &[(65536, vec![2; 65536]), (1 << 20, vec![3; 4096])]);
        account.tamper(&staged(&account)[0], damage);
        let name: ObjectName = "view".parse().unwrap();
        let error = replica.view(&name, second).unwrap_err();
        assert!(matches!(error, ReplicaError::Corrupt { .. }), "{what}: {error}");
        let findings = replica.fsck(|_, _| {}).unwrap().findings;
        assert_eq!(findings.iter().map(|f| f.points.clone()).collect::<Vec<_>>(), [vec![second]], "{what}");
        replica.maintain().unwrap();
        assert_eq!(replica.points().iter().map(|point| point.seq).collect::<Vec<_>>(), [first], "{what}");
        assert_eq!(replica.status().generation, None, "{what}: changed blocks are missing");
        let clone = replica.view(&name, first).unwrap();
        let contents = account.contents(&clone[0]).unwrap();
        assert!(contents[..65536].iter().all(|byte| *byte == 1) && contents[65536] == 0, "{what}");
        // What the round wrote before it came to the damage is seen by the resync.
        let mut session = session(&replica);
        session.open_cycle(&OpenCycle { generation: GenerationId([2; 16]), kind: resync() }).unwrap();
        let leaves = session.leaf_digests(DiskIndex(0), &[0]).unwrap();
        let disk = account.contents("disk-0.vhd").unwrap();
        for (leaf, digest) in leaves[0].leaves.iter().enumerate() {
            let is = switchback_delta::digest_of(&disk[leaf * 65536..(leaf + 1) * 65536]);
            assert_eq!(*digest, is, "{what}: leaf {leaf}");
        }
    }
}

/// What the viewed point was made of is deleted under the view; the point itself stays, damaged parts are refused.
#[test]
fn a_view_follows_its_point_to_another_base_and_keeps_it() {
    let (account, store) = make();
    let replica = open(&store, 1).unwrap();
    let first = cycle(&replica, resync(), &[(0, vec![1; 65536]), (4 << 20, vec![1; 65536])]);
    replica.maintain().unwrap();
    let second = cycle(&replica, CycleKind::Changes, &[(65536, vec![2; 65536])]);
    let read = |view: &BlobPointView, at: u64| {
        let mut byte = [9];
        view.read_at(DiskIndex(0), at, &mut byte).map(|()| byte[0])
    };
    let view = replica.read_point(second).unwrap();
    assert_eq!(read(&view, 0).unwrap(), 1, "a chunk that the view keeps from now on");
    let old: Vec<_> = account.blobs();
    replica.apply_all().unwrap();
    let third = cycle(&replica, CycleKind::Changes, &[(0, vec![3; 65536])]);
    replica.apply_all().unwrap();
    replica.drop_points(&[first, second].into()).unwrap();
    let points: Vec<_> = replica.points().iter().map(|point| point.seq).collect();
    assert_eq!((points, account.blobs() == old), (vec![second, third], false), "it is viewed");
    assert_eq!((read(&view, 4 << 20).unwrap(), read(&view, (4 << 20) + 65536).unwrap()), (1, 0));
    assert_eq!((read(&view, 0).unwrap(), read(&view, 65536).unwrap()), (1, 2));
    drop(view);
    replica.drop_points(&[second].into()).unwrap();
    assert!(matches!(replica.read_point(second), Err(ReplicaError::NoSuchPoint { .. })));
    let damaged = cycle(&replica, CycleKind::Changes, &[(0, vec![4; 65536])]);
    account.tamper(&staged(&account)[0], |data| {
        data[500] ^= 4;
        Some(())
    });
    let view = replica.read_point(damaged).unwrap();
    assert!(matches!(read(&view, 0), Err(ReplicaError::Corrupt { .. })), "judged by its digest");
}

#[test]
fn a_view_is_of_one_history_whatever_the_next_one_counts() {
    let (_account, store) = make();
    let replica = open(&store, 1).unwrap();
    cycle(&replica, resync(), &[(0, vec![1; 65536])]);
    replica.begin_anew(ReplicaId([6; 16]), None, UnixMillis(9)).unwrap();
    let view = replica.read_point(Seq(0)).unwrap();
    cycle(&replica, resync(), &[(0, vec![2; 65536])]);
    replica.begin_anew(ReplicaId([7; 16]), None, UnixMillis(10)).unwrap();
    let read = view.read_at(DiskIndex(0), 0, &mut [0]);
    assert!(matches!(read, Err(ReplicaError::NoSuchPoint { seq: 0 })), "{read:?}");
}

#[test]
fn a_resync_reads_no_page_whose_digest_is_known() {
    let (account, store) = make();
    let replica = open(&store, 1).unwrap();
    cycle(&replica, resync(), &[(0, vec![1; 65536]), (1 << 20, vec![2; 1 << 20])]);
    replica.maintain().unwrap();
    drop(replica);
    let replica = open(&store, 2).unwrap();
    let disk = account.contents("disk-0.vhd").unwrap();
    let before = account.page_traffic().0;
    let mut resyncing = session(&replica);
    resyncing.open_cycle(&OpenCycle { generation: GenerationId([2; 16]), kind: resync() }).unwrap();
    let leaves = resyncing.leaf_digests(DiskIndex(0), &[0, 1]).unwrap();
    let records = account.page_traffic().0 - before;
    assert!(records <= 2 * 17 * 512, "{records} bytes were read, more than the side-car's records");
    for (leaf, digest) in leaves.iter().flat_map(|node| &node.leaves).enumerate() {
        assert_eq!(*digest, switchback_delta::digest_of(&disk[leaf * 65536..(leaf + 1) * 65536]));
    }
}

#[test]
fn neighbours_are_joined_and_zeros_are_cleared_not_sent() {
    let (account, store) = make();
    let replica = open(&store, 1).unwrap();
    let blocks: Vec<_> = (0..1024_u64).map(|n| (n * 4096, vec![7; 4096])).collect();
    cycle(&replica, resync(), &[]);
    cycle(&replica, CycleKind::Changes, &blocks);
    let before = account.page_traffic();
    replica.maintain().unwrap();
    let after = account.page_traffic();
    // 4 MiB of pages in one request, and a record of digests.
    assert_eq!((after.1 - before.1, after.2 - before.2), ((4 << 20) + 17 * 512, 2));
    cycle(&replica, CycleKind::Changes, &[(1 << 20, vec![0; 1 << 20])]);
    let before = account.page_traffic();
    replica.maintain().unwrap();
    let after = account.page_traffic();
    assert_eq!((after.1 - before.1, after.2 - before.2), (17 * 512, 2), "zeros were sent");
    assert_eq!(replica.fsck(|_, _| {}).unwrap().findings, Vec::new());
}

#[test]
fn a_lease_broken_by_hand_is_taken_again_and_a_changed_page_is_found() {
    let (account, store) = make();
    let replica = open(&store, 1).unwrap();
    cycle(&replica, resync(), &[]);
    cycle(&replica, CycleKind::Changes, &[(0, vec![1; 65536])]);
    store.break_lease("disk-0.vhd").unwrap();
    replica.maintain().unwrap();
    assert_eq!(replica.applied(), Some(Seq(2)));
    account.tamper("disk-0.vhd", |data| {
        data[5] ^= 1;
        Some(())
    });
    assert_eq!(replica.fsck(|_, _| {}).unwrap().findings.len(), 1);
    // It is unknown now, so that a resync reads it.
    let mut session = session(&replica);
    session.open_cycle(&OpenCycle { generation: GenerationId([2; 16]), kind: resync() }).unwrap();
    let leaf = session.leaf_digests(DiskIndex(0), &[0]).unwrap()[0].leaves[0];
    assert_ne!(leaf, switchback_delta::digest_of(&[1; 65536]));
}

#[test]
fn a_snapshot_deleted_behind_our_back_is_told_and_newer_points_are_whole() {
    let (account, store) = make();
    let replica = open(&store, 1).unwrap();
    for number in 1..=2 {
        let kind = if number == 1 { resync() } else { CycleKind::Changes };
        cycle(&replica, kind, &[(0, vec![number; 65536])]);
        replica.maintain().unwrap();
    }
    let listed = store.list("disk-0").unwrap();
    let oldest: SnapshotId = listed.into_iter().filter_map(|entry| entry.snapshot).min().unwrap();
    store.delete_snapshot("disk-0.vhd", &oldest).unwrap();
    let findings = replica.fsck(|_, _| {}).unwrap().findings;
    assert_eq!(findings.iter().map(|f| f.points.clone()).collect::<Vec<_>>(), [vec![Seq(1)]]);
    let lost = replica.stand_at(Seq(1)).unwrap_err();
    assert!(matches!(lost, ReplicaError::Corrupt { .. }), "{lost}");
    assert_eq!(replica.standing(), None);
    let blobs = replica.stand_at(Seq(2)).unwrap();
    assert!(account.contents(&blobs[0]).unwrap()[..65536].iter().all(|byte| *byte == 2));
    replica.resume().unwrap();
    cycle(&replica, CycleKind::Changes, &[(0, vec![3; 4096])]);
}

/// Pages that cannot be written are no reason to forget the parts that a session is about to have acknowledged.
#[test]
fn a_failed_round_costs_an_open_cycle_no_part() {
    let (_, store) = make();
    let replica = open(&store, 1).unwrap();
    cycle(&replica, resync(), &[]);
    cycle(&replica, CycleKind::Changes, &[(0, vec![1; 65536])]);
    let mut session = session(&replica);
    let request = OpenCycle { generation: GenerationId([1; 16]), kind: CycleKind::Changes };
    let seq = session.open_cycle(&request).unwrap().seq;
    session.begin_part(PartHeader { seq, part: PartIndex(0), disk: DiskIndex(0) }).unwrap();
    session.end_part(PartHasher::default().finish()).unwrap();
    store.break_lease("disk-0.vhd").unwrap();
    store.acquire_lease("disk-0.vhd", LeaseId([9; 16])).unwrap();
    replica.maintain().unwrap_err();
    session.barrier().unwrap();
    assert_eq!(
        session.status().unwrap().open.unwrap().next_part,
        PartIndex(1),
        "acknowledged, and forgotten"
    );
}

#[test]
fn a_damaged_footer_is_written_again_and_no_clone_has_it() {
    let (account, store) = make();
    let replica = open(&store, 1).unwrap();
    cycle(&replica, resync(), &[(0, vec![1; 65536])]);
    account.tamper("disk-0.vhd", |data| {
        let at = data.len() - 512;
        data[at..].fill(0);
        Some(())
    });
    let seq = cycle(&replica, CycleKind::Changes, &[(0, vec![2; 65536])]);
    replica.maintain().unwrap();
    let has_footer = |blob: &str| account.contents(blob).unwrap()[SIZE as usize..][..8] == *b"conectix";
    assert!(has_footer(&replica.view(&"v".parse().unwrap(), seq).unwrap()[0]), "from a damaged snapshot");
    let findings = replica.fsck(|_, _| {}).unwrap().findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(has_footer("disk-0.vhd"));
    assert_eq!(replica.fsck(|_, _| {}).unwrap().findings, Vec::new());
}

#[test]
fn a_page_blob_that_is_gone_costs_no_staged_point() {
    let (account, store) = make();
    let replica = open(&store, 1).unwrap();
    cycle(&replica, resync(), &[(0, vec![1; 65536])]);
    replica.maintain().unwrap();
    cycle(&replica, CycleKind::Changes, &[(0, vec![2; 65536])]);
    account.tamper("disk-0.vhd", |_| None);
    let error = replica.maintain().unwrap_err();
    assert!(matches!(error, ReplicaError::Io { .. }), "{error}");
    assert_eq!(replica.points().len(), 2);
    assert_eq!(staged(&account).len(), 1);
}

/// The machine has come home and is replicated here once more: what the page blobs hold is compared with, by its digests alone, wherever the change is cut short.
#[test]
fn a_new_history_begins_on_what_the_pages_hold_whenever_it_is_cut_short() {
    let contents = |account: &SimAccount, blob: &str| {
        let mut contents = account.contents(blob).unwrap();
        contents.truncate(usize::try_from(SIZE).unwrap());
        contents
    };
    // The same disk, or with one more, whose page blob has been made or not.
    let named = |blob: &str| BlobDisk { blob: Some(blob.into()), size: SIZE };
    let more = [named("disk-0.vhd"), named("disk-7.vhd")];
    [None, Some(&more[..])].into_iter().for_each(|disks| begin_anew_cut_short(disks, contents));
}

fn begin_anew_cut_short(disks: Option<&[BlobDisk]>, contents: impl Fn(&SimAccount, &str) -> Vec<u8>) {
    let name: ObjectName = "view".parse().unwrap();
    for ops in (0..).take_while(|ops| *ops < 200) {
        let (account, store) = make();
        let replica = open(&store, 1).unwrap();
        cycle(&replica, resync(), &[(0, vec![1; 65536])]);
        replica.maintain().unwrap();
        let stood = cycle(&replica, CycleKind::Changes, &[(65536, vec![2; 65536])]);
        replica.view(&name, stood).unwrap();
        replica.stand_at(stood).unwrap();
        store.crash_after(ops);
        let cut = replica.begin_anew(ReplicaId([6; 16]), disks, UnixMillis(9)).is_err();
        drop(replica);

        let store = account.connect();
        let replica = open(&store, 2).unwrap();
        replica.begin_anew(ReplicaId([6; 16]), disks, UnixMillis(9)).unwrap();
        let count = disks.map_or(1, <[_]>::len);
        assert_eq!(account.blobs().len(), 1 + 2 * count, "{ops}: {:?}", account.blobs());
        assert_eq!((replica.id(), replica.standing()), (ReplicaId([6; 16]), None), "{ops}");
        assert_eq!(replica.points().iter().map(|point| point.seq).collect::<Vec<_>>(), [Seq(0)], "{ops}");
        assert_eq!(staged(&account), [""; 0], "{ops}: nothing of the former history is left");
        let clones = account.blobs().into_iter().filter(|(blob, _)| blob.ends_with("-at.vhd")).count();
        assert_eq!(clones, 0, "{ops}");
        let held = contents(&account, "disk-0.vhd");
        assert!(
            held[..65536].iter().all(|byte| *byte == 1) && held[65536..131_072].iter().all(|byte| *byte == 2)
        );

        // The digests are known: a record of theirs is all that is read.
        let read_before = account.page_traffic().0;
        let mut session = session(&replica);
        session.open_cycle(&OpenCycle { generation: GenerationId([2; 16]), kind: resync() }).unwrap();
        let leaves = session.leaf_digests(DiskIndex(0), &[0]).unwrap();
        for (leaf, digest) in leaves[0].leaves.iter().enumerate() {
            assert_eq!(
                *digest,
                switchback_delta::digest_of(&held[leaf * 65536..(leaf + 1) * 65536]),
                "{ops}: leaf {leaf}"
            );
        }
        assert!(account.page_traffic().0 - read_before <= 17 * 512, "{ops}: pages were read");
        drop(session);
        let mut expected = held;
        expected[..4096].fill(7);
        let seq = cycle(&replica, resync(), &[(0, vec![7; 4096])]);
        assert_eq!(seq, Seq(1));
        // Before and after it is on the page blobs.
        for _ in 0..2 {
            let clone = replica.view(&name, seq).unwrap();
            assert!(
                contents(&account, &clone[0]) == expected,
                "{ops}: point 1 is what was there, and what changed"
            );
            replica.drop_view(&name).unwrap();
            replica.maintain().unwrap();
        }
        assert!(contents(&account, "disk-0.vhd") == expected, "{ops}");
        assert_eq!(replica.fsck(|_, _| {}).unwrap().findings, [], "{ops}");
        if !cut {
            return;
        }
    }
    panic!("it never gets through");
}
