//! A retention drive is made on a real block device, once; and not on one that holds anything.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use switchback::target_host::Host;
use switchback::target_host::checks::{Asked, check};
use switchback::target_host::drive::{Drive, judge};
use switchback::target_host::prepare::{Retention, apply, plan, steps};
use switchback_disk::testing::LoopDevice;
use switchback_model::CheckState;

const DRIVE_BYTES: u64 = 1 << 30;

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What is mounted is unmounted, and the partition forgotten, before the device goes.
struct Rig {
    folder: tempfile::TempDir,
    device: LoopDevice,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("fstab"), "/dev/root / ext4 defaults 0 1\n").unwrap();
        Self { folder, device: LoopDevice::new(DRIVE_BYTES, 512).unwrap() }
    }

    fn mount_point(&self) -> PathBuf {
        self.folder.path().join("retention")
    }

    fn fstab(&self) -> String {
        fs::read_to_string(self.folder.path().join("fstab")).unwrap()
    }

    fn host(&self) -> Host {
        Host::this().with_fstab(self.folder.path().join("fstab"))
    }

    fn wanted(&self) -> Retention {
        Retention { device: self.device.path().to_owned(), mount_point: self.mount_point() }
    }

    fn node(&self) -> &str {
        self.device.path().to_str().unwrap()
    }

    /// Makes it so; what was done.
    fn prepare(&self) -> Vec<String> {
        let outcome = apply(&self.host(), &steps(false, Some(&self.wanted())));
        assert!(outcome.failed.is_none(), "{outcome:?}");
        outcome.done
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let mount_point = self.mount_point();
        if mount_point.exists() {
            let _ = Command::new("umount").arg(&mount_point).output();
        }
        let _ = Command::new("partx").arg("--delete").arg(self.device.path()).output();
    }
}

fn contents(device: &Path) -> Vec<u8> {
    use std::io::Read;
    let mut start = vec![0; 4 << 20];
    fs::File::open(device).unwrap().read_exact(&mut start).unwrap();
    start
}

#[test]
fn loop_device_becomes_the_retention_drive_once() {
    let rig = Rig::new();
    let steps = steps(false, Some(&rig.wanted()));
    assert_eq!(plan(&rig.host(), &steps).unwrap().len(), 4);
    assert_eq!(judge(rig.device.path()).unwrap(), Drive::Empty, "planning changes nothing");
    assert_eq!(rig.prepare().len(), 4);
    let Drive::Ours { uuid, .. } = judge(rig.device.path()).unwrap() else { panic!("not ours") };
    let table = rig.fstab();
    let mount_point = rig.mount_point();
    let entry = format!("UUID={uuid} {} xfs defaults,noatime,nofail 0 0\n", mount_point.display());
    assert_eq!(table, format!("/dev/root / ext4 defaults 0 1\n{entry}"));
    fs::write(mount_point.join("kept"), "history").unwrap();
    let asked = Asked {
        retention: Some(mount_point.clone()),
        retention_device: Some(rig.device.path().to_owned()),
        port: 9443,
    };
    let checks = check(&rig.host(), &asked);
    for code in ["master-target.retention", "master-target.retention-drive"] {
        let found = checks.iter().find(|check| check.code == code).unwrap();
        assert_eq!(found.state, CheckState::Passed, "{found:?}");
    }

    assert_eq!(plan(&rig.host(), &steps).unwrap(), Vec::<String>::new());
    assert_eq!(rig.prepare(), Vec::<String>::new(), "a second run does nothing");
    assert_eq!(
        (rig.fstab(), fs::read_to_string(mount_point.join("kept")).unwrap()),
        (table.clone(), "history".into())
    );

    // As after a restart before the table was read: only what is missing is done.
    run("umount", &[mount_point.to_str().unwrap()]);
    assert_eq!(rig.prepare().len(), 1);
    assert_eq!(fs::read_to_string(mount_point.join("kept")).unwrap(), "history");
    assert_eq!(rig.fstab(), table);
}

#[test]
fn loop_device_with_a_partition_of_an_interrupted_run_is_gone_on_with() {
    let rig = Rig::new();
    let outcome = apply(&rig.host(), &steps(false, Some(&rig.wanted()))[..1]);
    assert!(outcome.failed.is_none() && outcome.done.len() == 1, "{outcome:?}");
    assert!(matches!(judge(rig.device.path()).unwrap(), Drive::Partitioned { .. }));
    assert_eq!(rig.prepare().len(), 3);
}

#[test]
fn loop_device_that_holds_anything_is_refused_and_left_as_it_is() {
    let rig = Rig::new();
    let refused = |why: &str| {
        let before = contents(rig.device.path());
        let steps = steps(false, Some(&rig.wanted()));
        let error = plan(&rig.host(), &steps).unwrap_err();
        assert!(error.message.contains(why), "{error}");
        // Whoever reads it must not be led to wipe what somebody uses.
        assert_eq!(error.remedy.contains("wipefs"), !why.contains("in use"), "{error}");
        let outcome = apply(&rig.host(), &steps);
        assert!(outcome.done.is_empty() && outcome.failed.is_some(), "{outcome:?}");
        assert!(contents(rig.device.path()) == before, "it was written to");
        assert_eq!(rig.fstab(), "/dev/root / ext4 defaults 0 1\n");
    };
    run("mkfs.ext4", &["-q", "-L", "data", rig.node()]);
    refused("it holds ext4 \"data\"");
    run("wipefs", &["--all", rig.node()]);
    run("sh", &["-c", &format!("echo ',,' | sfdisk --quiet --label gpt {}", rig.node())]);
    refused("1 partitions of others");
    run("wipefs", &["--all", rig.node()]);
    // Somebody has it, though nothing is on it.
    let held = rustix::fs::open(
        rig.device.path(),
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::EXCL,
        rustix::fs::Mode::empty(),
    );
    refused("it is in use");
    drop(held);
    assert_eq!(judge(rig.device.path()).unwrap(), Drive::Empty);
    // The place for it is taken.
    fs::create_dir(rig.mount_point()).unwrap();
    fs::write(rig.mount_point().join("file"), "x").unwrap();
    assert!(
        plan(&rig.host(), &steps(false, Some(&rig.wanted()))).unwrap_err().message.contains("is not empty")
    );
    assert_eq!(judge(rig.device.path()).unwrap(), Drive::Empty);
}
