//! The suites on the real things: files with and without direct I/O, loop devices, directories.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use switchback_disk::testing::LoopDevice;
use switchback_disk::{Access, BUFFER_ALIGN, DirVolume, Disk, FileDisk, OpenDiskError, Volume, conformance};
use switchback_model::Extent;

/// Not a whole number of sectors, let alone pages.
const ODD_SIZE: u64 = (1 << 20) + 777;

fn file_disks(directory: &Path, size: u64) -> impl Fn() -> Arc<dyn Disk> {
    move || {
        let path = directory.join("disk");
        let _ = std::fs::remove_file(&path);
        Arc::new(FileDisk::create(path, size).unwrap())
    }
}

#[test]
fn file_with_direct_io() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FileDisk::create(directory.path().join("probe"), 1 << 20).unwrap();
    assert!(disk.is_direct(), "run the tests with a TMPDIR on a file system that has direct I/O");
    for size in [1 << 20, ODD_SIZE] {
        conformance::disk(&file_disks(directory.path(), size));
    }
}

#[test]
fn file_on_tmpfs() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    for size in [1 << 20, ODD_SIZE] {
        conformance::disk(&file_disks(directory.path(), size));
    }
}

#[test]
fn loop_devices() {
    for sector_size in [512, 4096] {
        // 512 bytes beyond a page where sectors allow it.
        let device = LoopDevice::new((1 << 20) + u64::from(sector_size), sector_size).unwrap();
        conformance::disk(&|| {
            let disk = FileDisk::open(device.path(), Access::ReadWrite).unwrap();
            assert!(disk.is_direct());
            assert_eq!(disk.preferred_unit(), u64::from(sector_size));
            disk.write_zeroes(Extent::new(0, disk.size())).unwrap();
            Arc::new(disk)
        });
    }
}

#[test]
fn directories() {
    let directory = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    conformance::volume(&|| {
        number.set(number.get() + 1);
        Arc::new(DirVolume::create(directory.path().join(number.get().to_string())).unwrap())
    });
}

#[test]
fn what_is_created_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let image = directory.path().join("image");
    let disk = FileDisk::create(&image, 1 << 30).unwrap();
    assert_eq!(mode(&image), 0o600);
    assert_eq!(disk.size(), 1 << 30);
    assert!(std::fs::metadata(&image).unwrap().blocks() < 100, "not sparse");
    assert!(matches!(FileDisk::create(&image, 1), Err(OpenDiskError::AlreadyExists { .. })));
    let path = directory.path().join("volume");
    let volume = DirVolume::create(&path).unwrap();
    volume.create("f").unwrap();
    drop(volume.lock().unwrap());
    assert_eq!((mode(&path), mode(&path.join("f")), mode(&path.join("lock"))), (0o700, 0o600, 0o600));
    assert!(DirVolume::create(&path).is_err());
}

#[test]
fn what_is_no_disk_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let open = |path: &Path| FileDisk::open(path, Access::ReadOnly).unwrap_err();
    assert!(matches!(open(directory.path()), OpenDiskError::NotADisk { .. }));
    assert!(matches!(open(Path::new("/dev/zero")), OpenDiskError::NotADisk { .. }));
    let missing = open(&directory.path().join("missing"));
    assert!(matches!(missing, OpenDiskError::NotFound { .. }));
    assert!(missing.to_string().contains("missing"), "{missing}");
    assert!(DirVolume::open("/dev/null").unwrap_err().to_string().contains("not a directory"));
    assert!(DirVolume::open(directory.path().join("missing")).is_err());
}

#[test]
fn read_only_disks_refuse_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    FileDisk::create(&path, 8192).unwrap().write_at(100, b"abc").unwrap();
    let disk = FileDisk::open(&path, Access::ReadOnly).unwrap();
    assert_eq!(disk.write_at(0, b"x").unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(disk.write_zeroes(Extent::new(0, 8192)).unwrap_err().kind(), ErrorKind::PermissionDenied);
    disk.flush().unwrap();
    assert_eq!(&disk.read(Extent::new(100, 3)).unwrap()[..], b"abc");
}

#[test]
fn tiny_and_empty_files() {
    let directory = tempfile::tempdir().unwrap();
    for size in [0_u64, 1, 511, 4095] {
        let disk = FileDisk::create(directory.path().join(size.to_string()), size).unwrap();
        let data = vec![3; usize::try_from(size).unwrap()];
        disk.write_at(0, &data).unwrap();
        disk.flush().unwrap();
        assert_eq!(disk.read(Extent::new(0, size)).unwrap(), data);
        assert!(disk.write_at(size, b"x").is_err());
    }
}

#[test]
fn holes_are_known() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FileDisk::create(directory.path().join("disk"), 64 << 20).unwrap();
    assert_eq!(disk.allocated(Extent::new(0, 64 << 20)).unwrap(), []);
    disk.write_at(8 << 20, &[1; 4096]).unwrap();
    disk.write_at(32 << 20, &[1; 8192]).unwrap();
    let expected = [Extent::new(8 << 20, 4096), Extent::new(32 << 20, 8192)];
    assert_eq!(disk.allocated(Extent::new(0, 64 << 20)).unwrap(), expected);
    assert_eq!(disk.allocated(Extent::new(100, 8 << 20)).unwrap(), [Extent::new(8 << 20, 100)]);
    disk.write_zeroes(Extent::new(0, 16 << 20)).unwrap();
    assert_eq!(disk.allocated(Extent::new(0, 64 << 20)).unwrap(), expected[1..]);
}

#[test]
fn reads_are_aligned_for_writing_on() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FileDisk::create(directory.path().join("disk"), 1 << 20).unwrap();
    for extent in [Extent::new(4096, 65_536), Extent::new(0, 1 << 20)] {
        assert_eq!(disk.read(extent).unwrap().as_ptr() as usize % BUFFER_ALIGN, 0);
    }
}

#[test]
fn a_cut_file_says_where() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let disk = FileDisk::create(&path, 1 << 20).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    let error = disk.read(Extent::new(8192, 4096)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("8192"), "{text}");
}

#[test]
fn a_vanished_device_says_so() {
    let mut backing = tempfile::NamedTempFile::new().unwrap();
    backing.write_all(&vec![5; 1 << 20]).unwrap();
    let device = LoopDevice::new(backing.path(), 512).unwrap();
    let disk = FileDisk::open(device.path(), Access::ReadWrite).unwrap();
    assert_eq!(disk.read(Extent::new(0, 4096)).unwrap(), vec![5; 4096]);
    backing.as_file().set_len(0).unwrap();
    device.resize_to_file().unwrap();
    let errors = [
        disk.read(Extent::new(4096, 4096)).unwrap_err(),
        disk.write_at(4096, &[1; 4096]).unwrap_err(),
        disk.write_at(4100, &[1; 10]).unwrap_err(),
    ];
    for error in errors {
        let text = error.to_string();
        assert!(text.contains(disk.name()) && text.contains("bytes 4"), "{text}");
        assert!(error.get_ref().unwrap().source().is_some(), "no cause: {error:?}");
    }
}

#[test]
fn one_exclusive_opener_of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    FileDisk::create(&path, 8192).unwrap();
    let first = FileDisk::open_exclusive(&path).unwrap();
    let error = FileDisk::open_exclusive(&path).unwrap_err();
    assert!(matches!(error, OpenDiskError::InUse { .. }), "{error}");
    FileDisk::open(&path, Access::ReadOnly).unwrap();
    FileDisk::open_exclusive(&path).unwrap_err();
    drop(first);
    FileDisk::open_exclusive(&path).unwrap();
}

#[test]
fn one_exclusive_opener_of_a_device() {
    let device = LoopDevice::new(1 << 20, 512).unwrap();
    let first = FileDisk::open_exclusive(device.path()).unwrap();
    assert!(first.is_direct());
    let error = FileDisk::open_exclusive(device.path()).unwrap_err();
    assert!(matches!(error, OpenDiskError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("mounted"), "{error}");
    drop(first);
    FileDisk::open_exclusive(device.path()).unwrap();
}

#[test]
fn a_volume_lists_files_only() {
    let directory = tempfile::tempdir().unwrap();
    let volume = DirVolume::open(directory.path()).unwrap();
    std::fs::create_dir(directory.path().join("lost+found")).unwrap();
    volume.create("f").unwrap();
    assert_eq!(volume.list().unwrap().len(), 1);
    assert_eq!(volume.list().unwrap().len(), 1, "the second reading of the open directory");
}

#[test]
fn a_lock_tells_its_holder() {
    let directory = tempfile::tempdir().unwrap();
    let one = DirVolume::open(directory.path()).unwrap();
    let other = DirVolume::open(directory.path()).unwrap();
    let _lock = one.lock().unwrap();
    let error = other.lock().unwrap_err();
    assert_eq!(error.to_string(), format!("process {}", std::process::id()));
}
