//! Page-blob replicas on Azurite, Microsoft's emulator of Azure storage: the suite of sessions, clones, fencing, a throttled store.

#![expect(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "tests, of small sizes")]

mod faults;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use switchback_blobs::{AzureStore, Credentials, Location, StoreConfig};
use switchback_delta::{Frame, PartHasher};
use switchback_lab::azurite::{Azurite, Throttle};
use switchback_model::{
    Consistency, DiskIndex, Extent, GenerationId, ObjectName, PartIndex, ReplicaId, ResyncReason, Seq,
    UnixMillis, WriterId,
};
use switchback_replica::conformance::{Fixture, sessions};
use switchback_replica::store::{BlobError, BlobStore, LeaseId, PutIf};
use switchback_replica::{
    Applier, BlobSession, CommitCycle, CycleKind, DiskSpec, OpenCycle, PageBlobConfig, PageBlobReplica,
    PartHeader, ReadPoint, ReplicaError, ReplicaSession, ReplicaSummary, SessionRequest,
};

fn store(url: &str, folder: &str) -> Arc<AzureStore> {
    let store = patient_store(url, folder, Duration::from_secs(20));
    store.ensure_container().unwrap();
    store
}

/// A store that tries again for so long.
fn patient_store(url: &str, folder: &str, retry_max: Duration) -> Arc<AzureStore> {
    let location = Location::new(url, folder).unwrap();
    let config = StoreConfig { retry_max, ..StoreConfig::default() };
    Arc::new(AzureStore::open(location, &Credentials::Sas, config).unwrap())
}

fn replica(store: &Arc<AzureStore>, sizes: &[u64], host: u8) -> Arc<PageBlobReplica> {
    let sizes: Vec<_> = sizes.iter().map(|size| DiskSpec { size: *size }).collect();
    if ReplicaSummary::read_blobs(&**store).unwrap().is_none() {
        PageBlobReplica::create(&**store, sizes, ReplicaId([5; 16])).unwrap();
    }
    let store = Arc::clone(store) as Arc<dyn BlobStore>;
    Arc::new(PageBlobReplica::open(store, PageBlobConfig::default(), [host; 16], host > 1).unwrap())
}

fn session(replica: &Arc<PageBlobReplica>) -> BlobSession {
    let disks = replica.status().disks;
    let replica_name = "machine".parse().unwrap();
    let request = SessionRequest { replica: replica_name, epoch: None, writer: WriterId([3; 16]), disks };
    replica.session(&request).unwrap()
}

/// A whole cycle of one part on disk 0.
fn cycle(
    session: &mut dyn ReplicaSession,
    blocks: &[(Extent, Bytes)],
    kind: CycleKind,
) -> Result<Seq, ReplicaError> {
    let opened = session.open_cycle(&OpenCycle { generation: GenerationId([1; 16]), kind })?;
    let header = PartHeader { seq: opened.seq, part: PartIndex(0), disk: DiskIndex(0) };
    session.begin_part(header)?;
    let mut hasher = PartHasher::default();
    for (extent, data) in blocks {
        let frame = Frame::of(*extent, data.clone());
        hasher.push(&frame);
        session.put_frame(frame)?;
    }
    session.end_part(hasher.finish())?;
    let (seq, time, consistency) =
        (opened.seq, UnixMillis(opened.seq.0 * 1000), Consistency::CrashConsistent);
    session.commit(&CommitCycle { seq, parts: 1, time, consistency, group_tag: None, whole: Vec::new() })?;
    Ok(seq)
}

fn resync() -> CycleKind {
    CycleKind::Resync { reason: ResyncReason::Requested }
}

/// A replica as the suite wants it, in a folder of its own.
struct InAzurite {
    store: Arc<AzureStore>,
    replica: Arc<PageBlobReplica>,
}

impl Fixture for InAzurite {
    fn session(&self, request: &SessionRequest) -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        Ok(Box::new(self.replica.session(request)?))
    }

    fn contents(&self, disk: usize) -> Vec<u8> {
        self.replica.maintain().unwrap();
        self.store.read(&format!("disk-{disk}.vhd"), Extent::new(0, 1 << 20)).unwrap().to_vec()
    }
}

#[test]
fn sessions_are_as_they_must_be() {
    let azurite = Azurite::start().unwrap();
    let folders = AtomicU32::new(0);
    sessions(|| {
        let folder = format!("replica-{}", folders.fetch_add(1, Ordering::Relaxed));
        let store = store(&azurite.container("suite"), &folder);
        let replica = replica(&store, &[1 << 20; 2], 1);
        InAzurite { store, replica }
    });
}

/// Clones are fixed VHDs to qemu-img too, and hold their point; other points are as they were.
#[test]
fn clones_of_points_are_disks_that_others_can_read() {
    let azurite = Azurite::start().unwrap();
    let store = store(&azurite.container("clones"), "web-1");
    let replica = replica(&store, &[5 << 20], 1);
    let mut session = session(&replica);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut disk = vec![0; 5 << 20];
    let mut points = Vec::new();
    for number in 0..4_u64 {
        let mut block = vec![0; 1 << 20];
        rng.fill_bytes(&mut block);
        let at = Extent::new((number % 3) * (1 << 20) + 4096, 1 << 20);
        disk[at.start as usize..at.end() as usize].copy_from_slice(&block);
        let kind = if number == 0 { resync() } else { CycleKind::Changes };
        points.push((cycle(&mut session, &[(at, block.into())], kind).unwrap(), disk.clone()));
        if number == 1 {
            replica.maintain().unwrap();
        }
    }
    let name: ObjectName = "test".parse().unwrap();
    let directory = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (vhd, raw) = (directory.path().join("clone.vhd"), directory.path().join("clone.raw"));
    for (seq, contents) in &points {
        let blobs = if seq.0 == 3 { replica.stand_at(*seq) } else { replica.view(&name, *seq) }.unwrap();
        std::fs::write(&vhd, store.read(&blobs[0], Extent::new(0, (5 << 20) + 512)).unwrap()).unwrap();
        let arguments = ["convert", "-f", "vpc", "-O", "raw"];
        let converted = Command::new("qemu-img").args(arguments).arg(&vhd).arg(&raw).status().unwrap();
        assert!(converted.success());
        let read = std::fs::read(&raw).unwrap();
        assert_eq!(read.len(), contents.len(), "point {seq}");
        assert!(read == *contents, "point {seq} is another one");
        let mut viewed = vec![0; contents.len()];
        replica.read_point(*seq).unwrap().read_at(DiskIndex(0), 0, &mut viewed).unwrap();
        assert!(viewed == *contents, "point {seq} is another one when it is read as it is");
        replica.resume().unwrap();
    }
    drop(session);
    replica.drop_view(&name).unwrap();
    replica.maintain().unwrap();
    assert_eq!(replica.fsck(|_, _| {}).unwrap().findings, Vec::new());
    replica.remove().unwrap();
    assert_eq!(store.list("").unwrap(), Vec::new());
}

/// Whoever comes with `take_over` has the replica; who had it can change nothing any more.
#[test]
fn who_has_lost_the_replica_writes_no_page_and_no_manifest() {
    let azurite = Azurite::start().unwrap();
    let store = store(&azurite.container("fencing"), "web-1");
    let first = replica(&store, &[1 << 20], 1);
    let mut old = session(&first);
    let block = |byte: u8| vec![(Extent::new(0, 4096), Bytes::from(vec![byte; 4096]))];
    cycle(&mut old, &block(1), resync()).unwrap();
    cycle(&mut old, &block(6), CycleKind::Changes).unwrap();
    let shared = Arc::clone(&store) as Arc<dyn BlobStore>;
    let locked = PageBlobReplica::open(shared, PageBlobConfig::default(), [9; 16], false).unwrap_err();
    assert!(matches!(locked, ReplicaError::Locked { .. }), "{locked}");
    let second = replica(&store, &[1 << 20], 2);
    let refused = first.apply_all().unwrap_err();
    assert!(matches!(refused, ReplicaError::Locked { .. }), "{refused}");
    let late = cycle(&mut old, &block(7), CycleKind::Changes).unwrap_err();
    assert!(matches!(late, ReplicaError::Locked { .. }), "{late}");
    let page = || Bytes::from(vec![7; 4096]);
    for lease in [None, Some(LeaseId([1; 16]))] {
        let error = store.write_pages("disk-0.vhd", lease, 0, page()).unwrap_err();
        assert!(matches!(error, BlobError::Refused { .. }), "{error}");
    }
    cycle(&mut session(&second), &block(2), CycleKind::Changes).unwrap();
    second.maintain().unwrap();
    assert_eq!(store.read("disk-0.vhd", Extent::new(0, 4096)).unwrap(), vec![2; 4096]);
}

/// What was sent under a lease that was changed since lands no more; a change whose answer was lost may be asked for again.
#[test]
fn a_changed_lease_shuts_out_what_was_sent_under_the_former_one() {
    let azurite = Azurite::start().unwrap();
    let store = store(&azurite.container("leases"), "web-1");
    let [former, new, other] = [1, 2, 3].map(|byte| LeaseId([byte; 16]));
    let page = || Bytes::from(vec![7; 4096]);
    let refused = |result: Result<(), BlobError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, BlobError::Refused { .. }), "{error}");
    };
    store.create_pages("disk-0.vhd", 1 << 20).unwrap();
    refused(store.change_lease("disk-0.vhd", former, new));
    store.acquire_lease("disk-0.vhd", former).unwrap();
    store.change_lease("disk-0.vhd", former, new).unwrap();
    store.change_lease("disk-0.vhd", former, new).unwrap();
    refused(store.write_pages("disk-0.vhd", Some(former), 0, page()));
    store.write_pages("disk-0.vhd", Some(new), 0, page()).unwrap();
    refused(store.change_lease("disk-0.vhd", former, other));
}

/// A long blob goes in blocks that the store judges: one that was changed on its way is refused, and nothing is there.
#[test]
fn a_long_blob_is_whole_or_not_there() {
    let azurite = Azurite::start().unwrap();
    let proxy = Throttle::before(&azurite, 10_000).unwrap();
    let store = store(&proxy.container("long"), "web-1");
    let mut long = vec![0; (33 << 20) + 5];
    ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut long);
    let long = Bytes::from(long);
    proxy.set_damaging(true);
    let damaged = store.put("part", &long, &PutIf::Absent).unwrap_err();
    assert!(damaged.to_string().contains("what arrived is not what was sent"), "{damaged}");
    assert!(matches!(store.get("part"), Err(BlobError::Missing { .. })));
    proxy.set_damaging(false);
    let tag = store.put("part", &long, &PutIf::Absent).unwrap();
    assert_eq!(store.get("part").unwrap(), (long.clone(), tag.clone()));
    // The conditions are those of short ones.
    let shorter = long.slice(..20 << 20);
    let second = store.put("part", &shorter, &PutIf::Absent).unwrap_err();
    assert!(matches!(second, BlobError::Refused { .. }), "{second}");
    let changed = store.put("part", &shorter, &PutIf::Unchanged(tag.clone())).unwrap();
    let late = store.put("part", &long, &PutIf::Unchanged(tag)).unwrap_err();
    assert!(matches!(late, BlobError::Refused { .. }), "{late}");
    assert_eq!(store.get("part").unwrap(), (shorter, changed));
}

/// Wrong signatures are refused, and shown nowhere.
#[test]
fn a_refused_signature_is_not_shown() {
    let azurite = Azurite::start().unwrap();
    let url = azurite.container("secrets");
    let at = url.find("sig=").unwrap();
    let wrong = format!("{}sig=SECRETSECRET", &url[..at]);
    let location = Location::new(&wrong, "web-1").unwrap();
    let store = AzureStore::open(location, &Credentials::Sas, StoreConfig::default()).unwrap();
    let error = store.get("manifest").unwrap_err();
    assert!(matches!(error, BlobError::Denied { .. }), "{error}");
    assert!(!format!("{error} {error:?} {store:?}").contains("SECRET"), "{error:?}");
    drop(azurite);
    let config = StoreConfig { retry_max: Duration::from_millis(300), ..StoreConfig::default() };
    let location = Location::new(&wrong, "web-1").unwrap();
    let error = AzureStore::open(location, &Credentials::Sas, config).unwrap().get("manifest").unwrap_err();
    assert!(matches!(error, BlobError::Unavailable { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("SECRET"), "{error:?}");
}

/// Random 4 KiB writes against a store that takes few page requests: every cycle is a recovery point at once, though the pages lag, and in the end all of it
/// is on the page blob.
#[test]
fn a_throttled_store_delays_the_pages_and_no_point() {
    let azurite = Azurite::start().unwrap();
    let throttle = Throttle::before(&azurite, 100).unwrap();
    let store = store(&throttle.container("throttled"), "web-1");
    let size = 64_u64 << 20;
    let replica = replica(&store, &[size], 1);
    let applier = Applier::of({
        let replica = Arc::clone(&replica);
        move || replica.maintain()
    });
    let mut session = session(&replica);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut disk = vec![0; size as usize];
    let mut lagged = false;
    for number in 1..=6_u64 {
        let mut blocks = std::collections::BTreeMap::new();
        for _ in 0..500 {
            let mut data = vec![0; 4096];
            rng.fill_bytes(&mut data);
            blocks.insert(rng.random_range(0..size / 4096) * 4096, data);
        }
        let frames: Vec<_> = blocks
            .into_iter()
            .map(|(at, data)| {
                disk[at as usize..at as usize + 4096].copy_from_slice(&data);
                (Extent::new(at, 4096), Bytes::from(data))
            })
            .collect();
        let kind = if number == 1 { resync() } else { CycleKind::Changes };
        assert_eq!(cycle(&mut session, &frames, kind).unwrap(), Seq(number));
        applier.wake();
        lagged |= replica.applied() < Some(Seq(number));
    }
    assert!(lagged, "the pages were never behind");
    drop(applier);
    replica.apply_all().unwrap();
    assert!(throttle.refused() > 0, "nothing was throttled");
    assert!(throttle.page_requests() > throttle.refused());
    assert_eq!(replica.applied(), Some(Seq(6)));
    assert!(store.read("disk-0.vhd", Extent::new(0, size)).unwrap() == disk, "something was lost");
    let summary = ReplicaSummary::read_blobs(&*store).unwrap().unwrap();
    assert_eq!(summary.points.len(), 6);
}
