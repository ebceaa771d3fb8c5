//! Any sequence of operations at any alignment leaves a disk as it would an array of bytes.

use std::sync::Arc;

use proptest::prelude::*;
use switchback_disk::sim::SimMachine;
use switchback_disk::testing::LoopDevice;
use switchback_disk::{Access, Disk, FileDisk};
use switchback_model::Extent;

/// Odd, so that image files have a tail behind the last whole page.
const ODD_SIZE: usize = 99_777;
const SECTORS_SIZE: usize = 195 * 512;

#[derive(Clone, Debug)]
enum Step {
    Write { start: usize, len: usize, byte: u8, skew: usize },
    Zero { start: usize, len: usize },
    Read { start: usize, len: usize },
    Flush,
}

/// A place on the disk: anything, or whole sectors or pages, whose edges are where mistakes are.
fn place(size: usize) -> impl Strategy<Value = (usize, usize)> {
    let unit = prop_oneof![Just(1_usize), Just(512), Just(4096)];
    (unit, 0..size, 0..20_000_usize).prop_map(move |(unit, start, len)| {
        let start = start / unit * unit;
        (start, len.next_multiple_of(unit).min(size - start))
    })
}

fn steps(size: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (place(size), 1..=255_u8, 0..3_usize)
            .prop_map(|((start, len), byte, skew)| Step::Write { start, len, byte, skew }),
        2 => place(size).prop_map(|(start, len)| Step::Zero { start, len }),
        2 => place(size).prop_map(|(start, len)| Step::Read { start, len }),
        1 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 1..25)
}

fn extent(start: usize, len: usize) -> Extent {
    Extent::new(start as u64, len as u64)
}

fn check(disk: &dyn Disk, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = vec![0_u8; usize::try_from(disk.size()).expect("small")];
    for step in steps {
        match *step {
            Step::Write { start, len, byte, skew } => {
                // An address that direct I/O may or may not take.
                let mut data = vec![0; skew];
                data.extend((0..len).map(|at| byte.wrapping_add(at.to_le_bytes()[0])));
                disk.write_at(start as u64, &data[skew..]).expect("write");
                model[start..start + len].copy_from_slice(&data[skew..]);
            }
            Step::Zero { start, len } => {
                disk.write_zeroes(extent(start, len)).expect("zero");
                model[start..start + len].fill(0);
            }
            Step::Read { start, len } => {
                let mut buf = vec![0xEE; len];
                disk.read_at(start as u64, &mut buf).expect("read_at");
                prop_assert!(buf == model[start..start + len], "read_at {start}+{len}");
                let pooled = disk.read(extent(start, len)).expect("read");
                prop_assert!(pooled == model[start..start + len], "read {start}+{len}");
            }
            Step::Flush => disk.flush().expect("flush"),
        }
    }
    prop_assert!(disk.read(extent(0, model.len())).expect("read") == model, "the whole disk");
    Ok(())
}

/// Runs the property on disks that `fresh` makes.
fn run(size: usize, fresh: impl Fn() -> Arc<dyn Disk>) {
    let config = ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in steps(size))| check(&*fresh(), &steps)?);
}

fn run_in(directory: &tempfile::TempDir, size: usize) {
    let path = directory.path().join("disk");
    run(size, || {
        let _ = std::fs::remove_file(&path);
        Arc::new(FileDisk::create(&path, size as u64).expect("create"))
    });
}

#[test]
fn simulated() {
    run(ODD_SIZE, || SimMachine::new(1).disk("d", ODD_SIZE as u64));
}

#[test]
fn file_with_direct_io() {
    run_in(&tempfile::tempdir().unwrap(), ODD_SIZE);
}

#[test]
fn file_on_tmpfs() {
    run_in(&tempfile::tempdir_in("/dev/shm").unwrap(), ODD_SIZE);
}

#[test]
fn loop_device() {
    let device = LoopDevice::new(SECTORS_SIZE as u64, 512).unwrap();
    run(SECTORS_SIZE, || {
        let disk = FileDisk::open(device.path(), Access::ReadWrite).expect("open");
        disk.write_zeroes(extent(0, SECTORS_SIZE)).expect("zero");
        Arc::new(disk)
    });
}
