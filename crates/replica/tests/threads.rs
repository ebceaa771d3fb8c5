//! Disks written by several threads: the same contents as by one, errors that surface, and an old writer's last frames.

#![expect(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "tests, of small sizes")]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use switchback_delta::{Frame, PartHasher};
use switchback_disk::{DirVolume, Disk, FileDisk};
use switchback_model::{
    Consistency, DiskIndex, Epoch, Extent, GenerationId, PartIndex, ReplicaId, ResyncReason, Seq, UnixMillis,
    WriterId,
};
use switchback_replica::{
    CommitCycle, CycleKind, DiskReplica, DiskSpec, OpenCycle, PartHeader, ReadPoint, ReplicaConfig,
    ReplicaError, ReplicaSession, SessionRequest,
};

const SIZE: u64 = 8 << 20;
const BLOCK: u64 = 64 << 10;

/// A disk that can be told to fail its writes, or to hold up those of blocks of ones.
#[derive(Debug)]
struct Told {
    disk: FileDisk,
    fails: AtomicBool,
    held: Mutex<()>,
    waiting: AtomicU32,
}

impl Disk for Told {
    fn name(&self) -> &str {
        self.disk.name()
    }

    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn read(&self, extent: Extent) -> io::Result<Bytes> {
        self.disk.read(extent)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if data[0] == 1 {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            drop(self.held.lock().unwrap());
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("told to fail"));
        }
        self.disk.write_at(offset, data)
    }

    fn write_zeroes(&self, extent: Extent) -> io::Result<()> {
        self.disk.write_zeroes(extent)
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }

    fn allocated(&self, window: Extent) -> io::Result<Vec<Extent>> {
        self.disk.allocated(window)
    }
}

struct Rig {
    _directory: tempfile::TempDir,
    disk: Arc<Told>,
    replica: Arc<DiskReplica>,
}

fn rig() -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let disk = FileDisk::create(directory.path().join("disk"), SIZE).unwrap();
    let told = Told { disk, fails: false.into(), held: Mutex::new(()), waiting: AtomicU32::new(0) };
    let disk = Arc::new(told);
    let volume = Arc::new(DirVolume::create(directory.path().join("retention")).unwrap());
    let config = ReplicaConfig { io_threads: 4, ..ReplicaConfig::default() };
    let (disks, sizes): (Vec<Arc<dyn Disk>>, _) = (vec![disk.clone()], vec![DiskSpec { size: SIZE }]);
    let replica =
        DiskReplica::create(volume, disks, sizes, ReplicaId([1; 16]), UnixMillis(0), config).unwrap();
    Rig { _directory: directory, disk, replica: Arc::new(replica) }
}

fn request(writer: u8, epoch: u64) -> SessionRequest {
    SessionRequest {
        replica: "machine".parse().unwrap(),
        epoch: Some(Epoch(epoch)),
        writer: WriterId([writer; 16]),
        disks: vec![DiskSpec { size: SIZE }],
    }
}

fn frame(block: u64, byte: u8) -> Frame {
    Frame::of(Extent::new(block * BLOCK, BLOCK), Bytes::from(vec![byte; BLOCK as usize]))
}

fn open(session: &mut dyn ReplicaSession, generation: u8) -> Seq {
    let kind = CycleKind::Resync { reason: ResyncReason::Requested };
    let opened = session.open_cycle(&OpenCycle { generation: GenerationId([generation; 16]), kind });
    opened.unwrap().seq
}

fn send(session: &mut dyn ReplicaSession, seq: Seq, byte: impl Fn(u64) -> u8) -> Result<(), ReplicaError> {
    session.begin_part(PartHeader { seq, part: PartIndex(0), disk: DiskIndex(0) })?;
    let mut hasher = PartHasher::default();
    for block in 0..SIZE / BLOCK {
        let frame = frame(block, byte(block));
        hasher.push(&frame);
        session.put_frame(frame)?;
    }
    session.end_part(hasher.finish())?;
    session.barrier().map(drop)
}

fn commit(session: &mut dyn ReplicaSession, seq: Seq) {
    let (time, consistency) = (UnixMillis(1), Consistency::CrashConsistent);
    session
        .commit(&CommitCycle { seq, parts: 1, time, consistency, group_tag: None, whole: Vec::new() })
        .unwrap();
}

fn assert_blocks(disk: &dyn Disk, byte: impl Fn(u64) -> u8) {
    for block in 0..SIZE / BLOCK {
        let data = disk.read(Extent::new(block * BLOCK, BLOCK)).unwrap();
        assert!(data.iter().all(|b| *b == byte(block)), "block {block} begins with {}", data[0]);
    }
}

#[test]
fn filling_applying_and_going_back_by_threads_give_what_was_sent() {
    let Rig { disk, replica, .. } = &rig();
    let mut session = replica.session(&request(1, 1)).unwrap();
    let seq = open(&mut session, 1);
    send(&mut session, seq, |block| block as u8 % 7).unwrap();
    commit(&mut session, seq);
    assert_blocks(&**disk, |block| block as u8 % 7);
    let seq = open(&mut session, 1);
    send(&mut session, seq, |block| block as u8 % 5).unwrap();
    commit(&mut session, seq);
    replica.apply_all().unwrap();
    assert_blocks(&**disk, |block| block as u8 % 5);
    // The digests noted by the threads are those of the disk.
    assert!(replica.fsck(|_, _| ()).unwrap().findings.is_empty());
    drop(session);
    replica.roll_back(Seq(1)).unwrap();
    assert_blocks(&**disk, |block| block as u8 % 7);
    assert!(replica.fsck(|_, _| ()).unwrap().findings.is_empty());
}

#[test]
fn a_write_that_fails_on_a_thread_fails_the_part() {
    let Rig { disk, replica, .. } = &rig();
    let mut session = replica.session(&request(1, 1)).unwrap();
    let seq = open(&mut session, 1);
    disk.fails.store(true, Ordering::SeqCst);
    let error = send(&mut session, seq, |_| 1).unwrap_err();
    assert!(error.to_string().contains("writing"), "{error}");
    drop(session);
    disk.fails.store(false, Ordering::SeqCst);
    let mut session = replica.session(&request(1, 1)).unwrap();
    assert_eq!(session.status().unwrap().open.unwrap().next_part, PartIndex(0), "it does not count");
    send(&mut session, seq, |_| 2).unwrap();
    commit(&mut session, seq);
    assert_blocks(&**disk, |_| 2);
}

#[test]
fn what_a_fenced_writer_has_in_hand_never_lands_behind_the_new_one() {
    let Rig { disk, replica, .. } = &rig();
    let mut old = replica.session(&request(1, 1)).unwrap();
    let seq = open(&mut old, 1);
    old.begin_part(PartHeader { seq, part: PartIndex(0), disk: DiskIndex(0) }).unwrap();
    let held = disk.held.lock().unwrap();
    // Some of these are in the middle of a write, the others wait in the queue.
    (0..8).for_each(|block| old.put_frame(frame(block, 1)).unwrap());
    while disk.waiting.load(Ordering::SeqCst) < 4 {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::scope(|scope| {
        let new = scope.spawn(|| {
            let mut new = replica.session(&request(2, 2)).unwrap();
            let seq = open(&mut new, 2);
            send(&mut new, seq, |_| 2).unwrap();
            commit(&mut new, seq);
        });
        // Long enough for the new one to get ahead if nothing held it.
        std::thread::sleep(Duration::from_millis(200));
        assert!(!new.is_finished());
        drop(held);
        new.join().unwrap();
    });
    let refused = old.put_frame(frame(9, 1)).unwrap_err();
    assert!(matches!(refused, ReplicaError::StaleEpoch { .. }), "{refused}");
    drop(old);
    assert_blocks(&**disk, |_| 2);
    assert!(replica.fsck(|_, _| ()).unwrap().findings.is_empty());
}

/// Those who look at a point (a test failover runs from one) see nothing of the disks being moved below them.
#[test]
fn views_are_read_while_the_disks_are_moved_and_cycles_applied() {
    const LAST: u64 = 4;
    fn value(point: u64, block: u64) -> u8 {
        // Each point changes other blocks, all of them some; none is a block of ones.
        let changed_at = (1..=point).rev().find(|at| *at == 1 || block.is_multiple_of(at + 1)).unwrap_or(1);
        (10 + changed_at) as u8
    }
    let Rig { disk, replica, .. } = &rig();
    let cycle = |point: u64| {
        let mut session = replica.session(&request(1, 1)).unwrap();
        let seq = open(&mut session, 1);
        send(&mut session, seq, |block| value(point, block)).unwrap();
        commit(&mut session, seq);
    };
    (1..LAST).for_each(cycle);
    let (is_over, rounds) = (&AtomicBool::new(false), &AtomicU32::new(0));
    std::thread::scope(|scope| {
        for point in 1..LAST {
            let view = replica.view(Seq(point)).unwrap();
            scope.spawn(move || {
                let mut data = vec![0; BLOCK as usize];
                while !is_over.load(Ordering::SeqCst) {
                    for block in 0..SIZE / BLOCK {
                        view.read_at(DiskIndex(0), block * BLOCK, &mut data).unwrap();
                        let wanted = value(point, block);
                        if data.iter().any(|byte| *byte != wanted) {
                            is_over.store(true, Ordering::SeqCst);
                            panic!("block {block} of point {point} began with {}, not {wanted}", data[0]);
                        }
                    }
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for at in [2, 3, 1, 2, 1, 3] {
            replica.stand_at(Seq(at)).unwrap();
            replica.maintain().unwrap();
            assert_blocks(&**disk, |block| value(at, block));
        }
        replica.resume().unwrap();
        cycle(LAST);
        replica.stand_at(Seq(2)).unwrap();
        assert_blocks(&**disk, |block| value(2, block));
        let enough = rounds.load(Ordering::SeqCst) + 3;
        while rounds.load(Ordering::SeqCst) < enough && !is_over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        is_over.store(true, Ordering::SeqCst);
    });
    assert!(replica.fsck(|_, _| ()).unwrap().findings.is_empty());
}
