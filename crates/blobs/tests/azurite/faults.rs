//! What is done to a container behind a replica's back, and what becomes of it: a resync or a refusal that says what happened, why, and what to do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use switchback_blobs::AzureStore;
use switchback_delta::PartHasher;
use switchback_lab::azurite::{Azurite, Throttle};
use switchback_model::{DiskIndex, Extent, GenerationId, ObjectName, PartIndex, ReplicaId, Seq};
use switchback_replica::store::{BlobError, BlobStore, PutIf, SnapshotId};
use switchback_replica::{
    CycleKind, DiskSpec, OpenCycle, PageBlobConfig, PageBlobReplica, PartHeader, ReplicaError, ReplicaSession,
};

use crate::{cycle, patient_store, replica, resync, session, store};

const SIZE: u64 = 4 << 20;
const DISK: &str = "disk-0.vhd";

fn block(at: u64, byte: u8) -> (Extent, Bytes) {
    (Extent::new(at * 65536, 65536), Bytes::from(vec![byte; 65536]))
}

/// A message has all of these.
fn expect_words(error: &impl ToString, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert!(!text.contains("sig="), "a secret is in: {text}");
}

fn expect_disk(store: &AzureStore, blob: &str, blocks: &[(u64, u8)]) {
    for (at, byte) in blocks {
        let found = store.read(blob, Extent::new(at * 65536, 65536)).unwrap();
        assert!(found.iter().all(|b| b == byte), "{blob}: block {at} holds {}, not {byte}", found[0]);
    }
}

/// Cut off while it fills, and while points are made: what was asked meanwhile waits within its limit, then says so; afterwards it goes on where it was.
#[test]
fn a_store_out_of_reach_is_waited_for_and_nothing_is_lost() {
    let azurite = Azurite::start().unwrap();
    let proxy = Arc::new(Throttle::before(&azurite, 10_000).unwrap());
    let direct = store(&azurite.container("reach"), "web-1");
    let by_proxy = patient_store(&proxy.container("reach"), "web-1", Duration::from_millis(500));
    let held = replica(&by_proxy, &[SIZE], 1);

    let mut filling = session(&held);
    let seq =
        filling.open_cycle(&OpenCycle { generation: GenerationId([1; 16]), kind: resync() }).unwrap().seq;
    filling.begin_part(PartHeader { seq, part: PartIndex(0), disk: DiskIndex(0) }).unwrap();
    let mut hasher = PartHasher::default();
    let (at, data) = block(1, 1);
    let frame = switchback_delta::Frame::of(at, data);
    hasher.push(&frame);
    proxy.set_closed(true);
    filling.put_frame(frame).unwrap();
    let lost = filling.end_part(hasher.finish()).and_then(|()| filling.barrier().map(drop)).unwrap_err();
    assert!(matches!(lost, ReplicaError::Disconnected { .. }), "{lost}");
    expect_words(&lost, &["filling disk-0.vhd", "/reach/web-1"]);
    drop(filling);
    proxy.set_closed(false);
    cycle(&mut session(&held), &[block(0, 1), block(2, 2)], resync()).unwrap();
    expect_disk(&direct, DISK, &[(0, 1), (2, 2)]);

    let mut changing = session(&held);
    cycle(&mut changing, &[block(0, 3)], CycleKind::Changes).unwrap();
    proxy.set_closed(true);
    let lost = cycle(&mut changing, &[block(0, 4)], CycleKind::Changes).unwrap_err();
    assert!(matches!(lost, ReplicaError::Disconnected { .. }), "{lost}");
    let lost = held.maintain().unwrap_err();
    assert!(matches!(lost, ReplicaError::Disconnected { .. }), "{lost}");
    drop(changing);
    proxy.set_closed(false);
    cycle(&mut session(&held), &[block(0, 4)], CycleKind::Changes).unwrap();
    held.maintain().unwrap();
    assert_eq!(held.applied(), Some(Seq(3)));
    expect_disk(&direct, DISK, &[(0, 4), (2, 2)]);
    assert_eq!(held.fsck(|_, _| {}).unwrap().findings, Vec::new());
    drop(held);

    // One that is more patient notices nothing.
    let patient = patient_store(&proxy.container("reach"), "web-1", Duration::from_secs(60));
    let held = replica(&patient, &[SIZE], 2);
    let mut changing = session(&held);
    proxy.set_closed(true);
    let opener = std::thread::spawn({
        let proxy = Arc::clone(&proxy);
        move || {
            std::thread::sleep(Duration::from_secs(1));
            proxy.set_closed(false);
        }
    });
    cycle(&mut changing, &[block(1, 5)], CycleKind::Changes).unwrap();
    opener.join().unwrap();
    held.maintain().unwrap();
    expect_disk(&direct, DISK, &[(0, 4), (1, 5), (2, 2)]);
}

#[test]
fn a_snapshot_that_somebody_deleted_is_missed_and_newer_points_are_whole() {
    let azurite = Azurite::start().unwrap();
    let store = store(&azurite.container("snapshots"), "web-1");
    let held = replica(&store, &[SIZE], 1);
    for byte in 1..=2 {
        let kind = if byte == 1 { resync() } else { CycleKind::Changes };
        cycle(&mut session(&held), &[block(0, byte)], kind).unwrap();
        held.maintain().unwrap();
    }
    let listed = store.list("disk-0").unwrap();
    let oldest: SnapshotId = listed.into_iter().filter_map(|entry| entry.snapshot).min().unwrap();
    store.delete_snapshot(DISK, &oldest).unwrap();
    let findings = held.fsck(|_, _| {}).unwrap().findings;
    assert_eq!(findings.iter().map(|f| f.points.clone()).collect::<Vec<_>>(), [vec![Seq(1)]]);
    expect_words(&findings[0].detail, &["the snapshot", DISK, "is missing"]);
    expect_words(&findings[0].remedy, &["choose an intact point"]);
    let refused = held.stand_at(Seq(1)).unwrap_err();
    assert!(matches!(refused, ReplicaError::Corrupt { .. }), "{refused}");
    expect_words(&refused, &["point 1", DISK, "is missing", "somebody has deleted it"]);
    let clones = held.stand_at(Seq(2)).unwrap();
    expect_disk(&store, &clones[0], &[(0, 2)]);
}

/// The lease is broken and pages are written by hand: the next round takes the lease back, fsck finds the pages, a resync writes them again.
#[test]
fn pages_that_somebody_wrote_are_found_and_written_again() {
    let azurite = Azurite::start().unwrap();
    let store = store(&azurite.container("pages"), "web-1");
    let held = replica(&store, &[SIZE], 1);
    cycle(&mut session(&held), &[block(0, 1), block(5, 5)], resync()).unwrap();
    store.break_lease(DISK).unwrap();
    store.write_pages(DISK, None, 5 * 65536, Bytes::from(vec![9; 512])).unwrap();
    cycle(&mut session(&held), &[block(0, 2)], CycleKind::Changes).unwrap();
    held.maintain().unwrap();
    let findings = held.fsck(|_, _| {}).unwrap().findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    expect_words(&findings[0].detail, &[DISK, "somebody else has changed it"]);
    expect_words(&findings[0].remedy, &["start a resync"]);
    let mut resyncing = session(&held);
    let request = OpenCycle { generation: GenerationId([2; 16]), kind: resync() };
    resyncing.open_cycle(&request).unwrap();
    let leaves = resyncing.leaf_digests(DiskIndex(0), &[0]).unwrap();
    assert_ne!(leaves[0].leaves[5], switchback_delta::digest_of(&[5; 65536]), "the change is not seen");
    resyncing.abort_cycle().unwrap();
    drop(resyncing);
    let seq = cycle(&mut session(&held), &[block(5, 5)], resync()).unwrap();
    held.maintain().unwrap();
    assert_eq!(held.fsck(|_, _| {}).unwrap().findings, Vec::new());
    let clones = held.view(&"view".parse::<ObjectName>().unwrap(), seq).unwrap();
    expect_disk(&store, &clones[0], &[(0, 2), (5, 5)]);
}

/// A lease lost in the middle of the first replication.
#[test]
fn a_lease_lost_while_filling_ends_the_session_and_the_next_goes_on() {
    let azurite = Azurite::start().unwrap();
    let store = store(&azurite.container("filling"), "web-1");
    let held = replica(&store, &[SIZE], 1);
    let mut filling = session(&held);
    store.break_lease(DISK).unwrap();
    let refused = cycle(&mut filling, &[block(0, 1)], resync()).unwrap_err();
    expect_words(&refused, &["filling disk-0.vhd", "412", "the lease was ended or taken by somebody else"]);
    assert_eq!(held.points(), Vec::new());
    drop(filling);
    let seq = cycle(&mut session(&held), &[block(0, 1)], resync()).unwrap();
    assert_eq!((seq, held.applied()), (Seq(1), Some(Seq(1))));
    expect_disk(&store, DISK, &[(0, 1)]);
}

/// The manifest written by somebody else: the same text again is only noticed; another text is damage, and nothing is done with it.
#[test]
fn a_manifest_that_somebody_wrote_is_read_again_before_anything_is_done() {
    let azurite = Azurite::start().unwrap();
    let store = store(&azurite.container("manifests"), "web-1");
    let held = replica(&store, &[SIZE], 1);
    cycle(&mut session(&held), &[block(0, 1)], resync()).unwrap();
    let (text, etag) = store.get("manifest").unwrap();
    let etag = store.put("manifest", &text, &PutIf::Unchanged(etag)).unwrap();
    let refused = cycle(&mut session(&held), &[block(0, 2)], CycleKind::Changes).unwrap_err();
    expect_words(&refused, &["writing the manifest", "412", "somebody else has changed it", "only one host"]);
    let seq = cycle(&mut session(&held), &[block(0, 2)], CycleKind::Changes).unwrap();
    held.maintain().unwrap();
    expect_disk(&store, DISK, &[(0, 2)]);
    assert_eq!(seq, Seq(2));
    let late = store.put("manifest", &text, &PutIf::Unchanged(etag)).unwrap_err();
    assert!(matches!(late, BlobError::Refused { .. }), "{late}");

    let (_, etag) = store.get("manifest").unwrap();
    store.put("manifest", &text.slice(..text.len() - 9), &PutIf::Unchanged(etag)).unwrap();
    let refused = cycle(&mut session(&held), &[block(0, 3)], CycleKind::Changes).unwrap_err();
    assert!(matches!(refused, ReplicaError::Corrupt { .. }), "{refused}");
    expect_words(&refused, &["the manifest", "/manifests/web-1", "checksum"]);
    expect_disk(&store, DISK, &[(0, 2)]);
}

#[test]
fn an_expired_signature_is_refused_in_words() {
    let azurite = Azurite::start().unwrap();
    let valid = store(&azurite.container("expired"), "web-1");
    drop(replica(&valid, &[SIZE], 1));
    let expired = patient_store(&azurite.container_expired("expired"), "web-1", Duration::from_secs(20));
    let expired = expired as Arc<dyn BlobStore>;
    let config = PageBlobConfig::default();
    let refused = PageBlobReplica::open(Arc::clone(&expired), config, [1; 16], false).unwrap_err();
    assert!(matches!(refused, ReplicaError::Forbidden { .. }), "{refused}");
    expect_words(
        &refused,
        &["reading the manifest", "/expired/web-1", "403", "look at the credentials", "expiry"],
    );
    let made = PageBlobReplica::create(&*expired, vec![DiskSpec { size: SIZE }], ReplicaId([6; 16]));
    assert!(matches!(made, Err(ReplicaError::Forbidden { .. })), "{made:?}");
}

#[test]
fn a_damaged_footer_is_told_written_again_and_in_no_clone() {
    let azurite = Azurite::start().unwrap();
    let store = store(&azurite.container("footers"), "web-1");
    let held = replica(&store, &[SIZE], 1);
    cycle(&mut session(&held), &[block(0, 1)], resync()).unwrap();
    store.break_lease(DISK).unwrap();
    store.write_pages(DISK, None, SIZE, Bytes::from(vec![7; 512])).unwrap();
    let seq = cycle(&mut session(&held), &[block(0, 2)], CycleKind::Changes).unwrap();
    held.maintain().unwrap();
    let footer = |blob: &str| store.read(blob, Extent::new(SIZE, 8)).unwrap();
    let clones = held.view(&"view".parse::<ObjectName>().unwrap(), seq).unwrap();
    assert_eq!(footer(&clones[0]), &b"conectix"[..]);
    expect_disk(&store, &clones[0], &[(0, 2)]);
    let findings = held.fsck(|_, _| {}).unwrap().findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    expect_words(&findings[0].detail, &[DISK, "there is no VHD footer", "somebody else has written"]);
    expect_words(&findings[0].remedy, &["written again", "who else may write to this container"]);
    assert_eq!(footer(DISK), &b"conectix"[..]);
}
