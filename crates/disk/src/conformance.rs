//! What every [`Disk`] and every [`Volume`] must do, as suites for the tests of all crates that have one.
//!
//! Each suite takes a factory that gives a *fresh* subject at every call and panics at the first promise
//! that is not kept. What must hold across a loss of power is tested with [`sim`](crate::sim) only.

#![expect(clippy::unwrap_used, reason = "suites for tests: whatever fails, fails the test")]

use std::io::ErrorKind;
use std::sync::Arc;

use switchback_model::Extent;

use crate::disk::Disk;
use crate::volume::{Volume, VolumeEntry};

/// Runs all checks of disks. `fresh` gives a disk of at least 64 KiB that reads as zeros.
///
/// # Panics
/// At the first promise that is not kept.
pub fn disk(fresh: &dyn Fn() -> Arc<dyn Disk>) {
    disk_reads_what_was_written(&*fresh());
    disk_last_byte(&*fresh());
    disk_zeroes(&*fresh());
    disk_bounds(&*fresh());
    disk_empty_extents(&*fresh());
    disk_allocated(&*fresh());
    disk_threads_share_units(&fresh());
}

/// Runs all checks of volumes. `fresh` gives an empty volume with room for 1 MiB.
///
/// # Panics
/// At the first promise that is not kept.
pub fn volume(fresh: &dyn Fn() -> Arc<dyn Volume>) {
    volume_files(&*fresh());
    volume_names(&*fresh());
    volume_bounds(&*fresh());
    volume_open_files_outlive_their_names(&*fresh());
    volume_locks(&*fresh());
    volume_small_files(&*fresh());
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((at.wrapping_mul(31) ^ (at >> 8) ^ seed.wrapping_mul(97)) & 0xFF);
    (0..len).map(|at| byte(at).unwrap().max(1)).collect()
}

fn whole(disk: &dyn Disk) -> Vec<u8> {
    disk.read(Extent::new(0, disk.size())).unwrap().to_vec()
}

/// Reads `extent` both ways, at an odd address too.
fn read_both(disk: &dyn Disk, extent: Extent) -> Vec<u8> {
    let pooled = disk.read(extent).unwrap();
    let mut buf = vec![0xEE; pooled.len() + 1];
    disk.read_at(extent.start, &mut buf[1..]).unwrap();
    assert_eq!(&buf[1..], &pooled[..], "read and read_at of {extent:?} differ");
    assert_eq!(buf[0], 0xEE, "read_at wrote before its buffer");
    pooled.to_vec()
}

fn disk_reads_what_was_written(disk: &dyn Disk) {
    assert!(disk.size() >= 64 << 10, "too small for the suite");
    assert!(whole(disk).iter().all(|&byte| byte == 0), "not fresh");
    let cases: [(u64, usize); 9] = [
        (0, 4096),
        (4096, 8192),
        (512, 512),
        (1, 1),
        (4095, 2),
        (5000, 10),
        (8191, 8194),
        (20_001, 12_345),
        (0, 40_000),
    ];
    let mut model = whole(disk);
    for (seed, (offset, len)) in cases.into_iter().enumerate() {
        let data = pattern(len, seed);
        disk.write_at(offset, &data).unwrap();
        let start = usize::try_from(offset).unwrap();
        model[start..start + len].copy_from_slice(&data);
        assert_eq!(read_both(disk, Extent::new(offset, len as u64)), data, "case {seed}");
        assert!(whole(disk) == model, "case {seed} changed what is beside it");
    }
    disk.flush().unwrap();
    assert!(whole(disk) == model, "changed by the flush");
}

fn disk_last_byte(disk: &dyn Disk) {
    let end = disk.size();
    for (seed, len) in [1, 3, 511, 513, 4097, 9000].into_iter().enumerate() {
        let data = pattern(len, seed);
        disk.write_at(end - len as u64, &data).unwrap();
        assert_eq!(read_both(disk, Extent::between(end - len as u64, end)), data);
    }
    disk.write_zeroes(Extent::new(end - 5001, 5001)).unwrap();
    assert_eq!(read_both(disk, Extent::new(end - 5001, 5001)), vec![0; 5001]);
    disk.flush().unwrap();
    assert_eq!(disk.size(), end);
}

fn disk_zeroes(disk: &dyn Disk) {
    let mut model = pattern(usize::try_from(disk.size()).unwrap(), 3);
    disk.write_at(0, &model).unwrap();
    for (start, len) in [(4096, 8192), (513, 1), (700, 20), (1000, 9000), (16_384, 100), (30_000, 20_000)] {
        disk.write_zeroes(Extent::new(start, len)).unwrap();
        let (start, len) = (usize::try_from(start).unwrap(), usize::try_from(len).unwrap());
        model[start..start + len].fill(0);
        assert!(whole(disk) == model, "zeroing {len} bytes at {start}");
    }
    disk.write_at(5000, &[9; 10]).unwrap();
    model[5000..5010].fill(9);
    assert!(whole(disk) == model, "writing where it was zeroed");
    disk.write_zeroes(Extent::new(0, disk.size())).unwrap();
    assert!(whole(disk).iter().all(|&byte| byte == 0), "zeroing all");
}

fn disk_bounds(disk: &dyn Disk) {
    let size = disk.size();
    let mut buf = [0; 2];
    assert_eq!(disk.read_at(size - 1, &mut buf).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(disk.read_at(u64::MAX, &mut buf).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    for beyond in [Extent::new(size - 1, 2), Extent::new(size, 4096), Extent::new(size + 1, 0)] {
        assert_eq!(disk.read(beyond).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(disk.allocated(beyond).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(disk.write_zeroes(beyond).unwrap_err().kind(), ErrorKind::InvalidInput);
        let data = vec![1; usize::try_from(beyond.len).unwrap()];
        let error = disk.write_at(beyond.start, &data).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(disk.name()), "{error}");
    }
    assert_eq!(disk.write_at(u64::MAX, &[1]).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(whole(disk).iter().all(|&byte| byte == 0), "a refused write has written");
}

fn disk_empty_extents(disk: &dyn Disk) {
    for at in [0, 5, disk.size()] {
        let nothing = Extent::new(at, 0);
        assert!(disk.read(nothing).unwrap().is_empty());
        assert!(disk.allocated(nothing).unwrap().is_empty());
        disk.read_at(at, &mut []).unwrap();
        disk.write_at(at, &[]).unwrap();
        disk.write_zeroes(nothing).unwrap();
    }
}

fn disk_allocated(disk: &dyn Disk) {
    disk.write_at(40_000, &pattern(3000, 1)).unwrap();
    disk.write_at(disk.size() - 1, &[7]).unwrap();
    for window in [Extent::new(0, disk.size()), Extent::new(41_000, 100), Extent::new(1, 50_001)] {
        let extents = disk.allocated(window).unwrap();
        let mut at = window.start;
        for extent in &extents {
            assert!(window.contains(*extent) && !extent.is_empty(), "{extent:?} of {window:?}");
            assert!(extent.start >= at, "not in order: {extents:?}");
            at = extent.end();
        }
        let data = disk.read(window).unwrap();
        for (at, &byte) in (window.start..).zip(data.iter()) {
            let found = extents.iter().any(|extent| extent.contains(Extent::new(at, 1)));
            assert!(found || byte == 0, "byte {at} is not in {extents:?}");
        }
    }
}

/// Neighbours within one sector, written by several threads at once, must not undo each other.
fn disk_threads_share_units(disk: &Arc<dyn Disk>) {
    const WRITERS: u64 = 4;
    const PIECE: u64 = 100;
    const ROUNDS: u64 = 100;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let at = (round * WRITERS + writer) * PIECE;
                    let byte = u8::try_from(writer + 1).unwrap();
                    disk.write_at(at, &[byte; 100]).unwrap();
                    if round % 2 == 1 {
                        disk.write_zeroes(Extent::new(at, PIECE / 2)).unwrap();
                    }
                }
            });
        }
    });
    let data = disk.read(Extent::new(0, WRITERS * PIECE * ROUNDS)).unwrap();
    for (at, &byte) in (0_u64..).zip(data.iter()) {
        let (piece, within) = (at / PIECE, at % PIECE);
        let is_zeroed = (piece / WRITERS) % 2 == 1 && within < PIECE / 2;
        let expected = if is_zeroed { 0 } else { piece % WRITERS + 1 };
        assert_eq!(u64::from(byte), expected, "byte {at}: a neighbour's write was lost");
    }
}

fn names(volume: &dyn Volume) -> Vec<(String, u64)> {
    volume.list().unwrap().into_iter().map(|VolumeEntry { name, len }| (name, len)).collect()
}

fn volume_files(volume: &dyn Volume) {
    assert!(names(volume).is_empty(), "not fresh");
    let file = volume.create("b").unwrap();
    assert!(file.is_empty().unwrap());
    file.write_at(0, b"hello").unwrap();
    file.write_at(10, b"x").unwrap();
    assert_eq!(file.len().unwrap(), 11);
    let mut buf = [1; 11];
    file.read_at(0, &mut buf).unwrap();
    assert_eq!(&buf, b"hello\0\0\0\0\0x");
    file.set_len(3).unwrap();
    file.set_len(6).unwrap();
    let mut buf = [1; 6];
    volume.open("b").unwrap().read_at(0, &mut buf).unwrap();
    assert_eq!(&buf, b"hel\0\0\0");
    volume.create("a").unwrap().write_at(0, b"new").unwrap();
    assert_eq!(names(volume), [("a".to_owned(), 3), ("b".to_owned(), 6)]);
    assert_eq!(volume.create("a").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(volume.read_all("a", 3).unwrap(), b"new", "create has cut an existing file");
    volume.replace("a", "b").unwrap();
    assert_eq!(names(volume), [("b".to_owned(), 3)]);
    volume.replace("b", "c").unwrap();
    volume.replace("c", "c").unwrap();
    assert_eq!(volume.read_all("c", 3).unwrap(), b"new");
    file.sync().unwrap();
    volume.sync().unwrap();
    volume.remove("c").unwrap();
    assert!(names(volume).is_empty());
    for error in [
        volume.open("c").map(drop).unwrap_err(),
        volume.remove("c").unwrap_err(),
        volume.replace("c", "d").unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(volume.name()), "{error}");
    }
}

fn volume_names(volume: &dyn Volume) {
    volume.create("fine").unwrap();
    let long = "x".repeat(256);
    for name in ["", ".", "..", "a/b", "/", "../fine", "nul\0", "lock", &long] {
        let errors = [
            volume.create(name).map(drop),
            volume.open(name).map(drop),
            volume.remove(name),
            volume.replace(name, "fine"),
            volume.replace("fine", name),
        ];
        for result in errors {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput, "{name:?}");
        }
    }
    for name in [".hidden", "...", "with space", "ä", &long[1..]] {
        volume.create(name).unwrap();
        volume.remove(name).unwrap();
    }
    assert_eq!(names(volume), [("fine".to_owned(), 0)]);
}

fn volume_bounds(volume: &dyn Volume) {
    let file = volume.create("f").unwrap();
    file.write_at(0, &[5; 1000]).unwrap();
    let mut buf = [0; 10];
    for beyond in [991, 1000, 5000] {
        assert_eq!(file.read_at(beyond, &mut buf).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
    file.read_at(990, &mut buf).unwrap();
    assert_eq!(buf, [5; 10]);
    assert!(volume.free_bytes().unwrap() >= 1 << 20, "no room");
}

fn volume_open_files_outlive_their_names(volume: &dyn Volume) {
    let old = volume.create("f").unwrap();
    old.write_at(0, b"old").unwrap();
    volume.create("g").unwrap().write_at(0, b"new").unwrap();
    volume.replace("g", "f").unwrap();
    let new = volume.open("f").unwrap();
    volume.remove("f").unwrap();
    volume.sync().unwrap();
    volume.create("f").unwrap();
    for (file, expected) in [(&old, b"old"), (&new, b"new")] {
        let mut buf = [0; 3];
        file.read_at(0, &mut buf).unwrap();
        assert_eq!(&buf, expected);
    }
}

fn volume_locks(volume: &dyn Volume) {
    let lock = volume.lock().unwrap();
    let error = volume.lock().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let message = error.to_string();
    let number = message.strip_prefix("process ").unwrap_or_else(|| panic!("{message:?}"));
    assert!(number.parse::<u32>().is_ok(), "{message:?}");
    drop(lock);
    drop(volume.lock().unwrap());
    assert!(names(volume).is_empty(), "the lock is no file of the volume");
}

fn volume_small_files(volume: &dyn Volume) {
    volume.create("f.new").unwrap().write_at(0, b"left over by a crash").unwrap();
    for data in [&b"first"[..], b"2nd", b"", b"the fourth one"] {
        volume.write_atomic("f", data).unwrap();
        assert_eq!(volume.read_all("f", 100).unwrap(), data);
    }
    assert_eq!(names(volume), [("f".to_owned(), 14)]);
    assert_eq!(volume.read_all("f", 13).unwrap_err().kind(), ErrorKind::InvalidData);
}
