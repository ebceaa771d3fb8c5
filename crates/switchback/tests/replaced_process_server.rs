//! A process server dies with cycles that it had acknowledged and not forwarded, and another takes its place: the machine's tracker
//! has forgotten those blocks. The replica must equal the machine all the same.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use switchback::engine::{Connect, Engine, EngineOptions, Source, Stop, Unfrozen};
use switchback::host::{Host, Placement};
use switchback_capture::ChangeTracker;
use switchback_disk::{Access, DirVolume, Disk, FileDisk, SystemClock};
use switchback_model::{Extent, ExtentSet, GenerationId, ReplicaName, ResyncReason, WriterId};
use switchback_replica::{CycleKind, DiskSpec, ReplicaError, ReplicaSession, SessionRequest};
use switchback_spool::{Spool, SpoolConfig};

const SIZE: u64 = 4 << 20;

/// Knows what the test wrote.
#[derive(Clone, Debug, Default)]
struct Noted(Arc<Mutex<(ExtentSet, ExtentSet)>>);

impl ChangeTracker for Noted {
    fn generation(&self) -> GenerationId {
        GenerationId([7; 16])
    }

    fn swap(&mut self) -> Result<Vec<ExtentSet>, ResyncReason> {
        let mut sets = self.0.lock().unwrap();
        let (fresh, owed) = &mut *sets;
        std::mem::take(fresh).iter().for_each(|extent| owed.insert(extent));
        Ok(vec![owed.clone()])
    }

    fn release(&mut self) {
        self.0.lock().unwrap().1 = ExtentSet::new();
    }

    fn touched(&self, _: &[ExtentSet]) -> Result<bool, ResyncReason> {
        Ok(false)
    }

    fn check(&mut self) -> Result<(), ResyncReason> {
        Ok(())
    }
}

fn request(writer: u8) -> SessionRequest {
    let replica: ReplicaName = "web01".parse().unwrap();
    SessionRequest {
        replica,
        epoch: None,
        writer: WriterId([writer; 16]),
        disks: vec![DiskSpec { size: SIZE }],
    }
}

/// A process server in front of the target; `cut` separates it from it.
fn process_server(directory: &Path, host: Arc<Host>, writer: u8, cut: Arc<AtomicBool>) -> Spool {
    let config = SpoolConfig::new("web01".parse().unwrap(), WriterId([writer; 16]), 1 << 30);
    let next_hop = move |request: &SessionRequest| -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        if cut.load(Ordering::Relaxed) {
            return Err(ReplicaError::Disconnected { peer: "the target".into(), detail: "cut".into() });
        }
        Ok(Box::new(host.session(None, request)?))
    };
    std::fs::create_dir(directory).unwrap();
    Spool::open_stepped(Arc::new(DirVolume::open(directory).unwrap()), config, Box::new(next_hop)).unwrap()
}

#[test]
fn what_died_with_a_process_server_is_found_by_comparison() {
    let directory = tempfile::tempdir().unwrap();
    let (source, root) = (directory.path().join("source.img"), directory.path().join("replicas"));
    let disk = FileDisk::create(&source, SIZE).unwrap();
    let host = Arc::new(Host::new(root.clone(), Placement::default(), Arc::new(SystemClock)));
    let cut = Arc::new(AtomicBool::new(false));
    let first = Arc::new(process_server(&directory.path().join("ps1"), host.clone(), 1, cut.clone()));
    let second = Arc::new(process_server(&directory.path().join("ps2"), host.clone(), 2, Arc::default()));
    let in_use = Arc::new(Mutex::new(first.clone()));

    let tracker = Noted::default();
    let write = |start: u64, byte: u8| {
        disk.write_at(start, &[byte; 4096]).unwrap();
        tracker.0.lock().unwrap().0.insert(Extent::new(start, 4096));
    };
    let disks: Vec<Arc<dyn Disk>> = vec![Arc::new(FileDisk::open(&source, Access::ReadOnly).unwrap())];
    let moments = Box::new(Unfrozen);
    let tracked = Box::new(tracker.clone());
    let machine =
        Source { disks, tracker: tracked, moments, clock: Arc::new(SystemClock), always_compare: false };
    let to = in_use.clone();
    let connect: Connect =
        Box::new(move || Ok(Box::new(to.lock().unwrap().session(&request(9))?) as Box<dyn ReplicaSession>));
    let mut engine =
        Engine::new(machine, connect, EngineOptions::default(), Stop::default(), Box::new(|_| ()));

    write(0, 1);
    engine.cycle(None).unwrap();
    while first.forward_one() == switchback_spool::Step::Forwarded {}
    cut.store(true, Ordering::Relaxed);
    write(1 << 20, 2);
    let lost = engine.cycle(None).unwrap();
    assert_eq!(lost.kind, CycleKind::Changes, "acknowledged by the process server alone");

    // It dies; its data never arrives.
    *in_use.lock().unwrap() = second.clone();
    engine.disconnect();
    drop(first);
    write(2 << 20, 3);
    let found = engine.cycle(None).unwrap();
    assert!(
        matches!(found.kind, CycleKind::Resync { reason: ResyncReason::ReplicaMismatch { .. } }),
        "{:?}",
        found.kind
    );
    while second.forward_one() == switchback_spool::Step::Forwarded {}
    drop((engine, second, in_use));
    let replica = switchback::host::open_replica(&root.join("web01")).unwrap();
    replica.apply_all().unwrap();
    drop(replica);
    let target = std::fs::read(root.join("web01").join("disk-0.img")).unwrap();
    assert!(target == std::fs::read(&source).unwrap(), "the replica equals the machine");
}
