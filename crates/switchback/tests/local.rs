//! One-off syncs on one host, and what can be done with the replica they leave.

#![expect(clippy::unwrap_used, reason = "tests")]

mod rig;

use std::process::Stdio;

use rig::{MIB, Process, Site, fail, same, scribble, succeed, switchback, wait_until};

#[test]
fn a_file_that_was_there_before_can_have_its_old_contents_back() {
    let site = Site::new();
    let (source, target) = (site.image("a.img", 8, 1), site.image("b.img", 8, 2));
    std::fs::copy(&target, site.path("before.img")).unwrap();
    succeed(switchback().arg("sync").arg(&source).arg(&target));
    assert!(same(&source, &target));
    let replica = site.path("b.img.switchback/local");
    let asked = fail(switchback().args(["replica", "rollback", "--to", "0"]).arg(&replica));
    assert!(asked.contains("--yes"), "{asked}");
    succeed(switchback().args(["replica", "rollback", "--to", "0", "--yes"]).arg(&replica));
    assert!(same(&site.path("before.img"), &target));
    let none = fail(switchback().args(["replica", "rollback", "--to", "7", "--yes"]).arg(&replica));
    assert!(none.contains("no such recovery point"), "{none}");
}

#[test]
fn a_source_that_is_not_there_and_one_that_is_the_target_are_refused() {
    let site = Site::new();
    let source = site.image("a.img", 2, 1);
    let missing = fail(switchback().arg("sync").arg(site.path("no.img")).arg(site.path("b.img")));
    assert!(missing.contains("no.img"), "{missing}");
    let itself = fail(switchback().arg("sync").arg(&source).arg(&source));
    assert!(itself.contains("onto itself"), "{itself}");
}

#[test]
fn an_exported_point_is_what_it_was_and_verify_finds_a_flipped_bit() {
    let site = Site::new();
    let (source, target) = (site.image("a.img", 16, 1), site.path("b.img"));
    succeed(switchback().arg("sync").arg(&source).arg(&target));
    std::fs::copy(&source, site.path("before.img")).unwrap();
    scribble(&source, 3 * MIB + 17, 2_000_000, 5);
    succeed(switchback().arg("sync").arg(&source).arg(&target));
    let (replica, mount) = (site.path("b.img.switchback/local"), site.path("mount"));
    std::fs::create_dir(&mount).unwrap();
    let mut export = switchback();
    export.args(["replica", "export", "--point", "1"]).arg(&replica).arg(&mount).stdout(Stdio::null());
    let export = Process(export.spawn().unwrap());
    let file = mount.join("disk-0.raw");
    wait_until("the export is mounted", || file.exists());
    assert!(same(&site.path("before.img"), &file));
    assert!(std::fs::File::options().write(true).open(&file).is_err());
    succeed(switchback().args(["replica", "points"]).arg(&replica));
    let busy = fail(switchback().args(["replica", "verify"]).arg(&replica));
    assert!(busy.contains("in use by process"), "{busy}");
    let stopped = std::process::Command::new("kill").arg(export.0.id().to_string()).status().unwrap();
    assert!(stopped.success());
    wait_until("the export is gone", || !file.exists());
    drop(export);
    succeed(switchback().args(["replica", "verify"]).arg(&replica));
    scribble(&target, 70_000, 1, 6);
    let damaged = switchback().args(["replica", "verify"]).arg(&replica).output().unwrap();
    let said = String::from_utf8(damaged.stdout).unwrap();
    assert!(!damaged.status.success() && said.contains("DAMAGED"), "{said}");
}

/// Whether any file below the directory holds these bytes.
fn holds(directory: &std::path::Path, marker: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, marker);
        }
        let data = std::fs::read(path).unwrap();
        data.windows(marker.len()).any(|window| window == marker)
    })
}

#[test]
fn a_history_is_encrypted_under_a_key_that_only_its_owner_can_read() {
    const MARKER: &[u8] = b"the old contents of this block are nobody's business";
    let site = Site::new();
    let (source, target) = (site.image("a.img", 8, 1), site.image("b.img", 8, 2));
    let key = site.path("storage.key");
    let file = std::fs::File::options().write(true).open(&target).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, MARKER, MIB).unwrap();
    drop(file);
    std::fs::copy(&target, site.path("before.img")).unwrap();
    succeed(switchback().args(["identity", "storage-key"]).arg(&key));
    let mut sync = switchback();
    succeed(sync.args(["sync", "--key-file"]).arg(&key).arg(&source).arg(&target));
    assert!(same(&source, &target));
    let history = site.path("b.img.switchback/local");
    assert!(!holds(&history, MARKER), "the marker went into the way back, encrypted");

    // Without its key, or with another, nothing is done.
    let roll_back = || {
        let mut command = switchback();
        command.args(["replica", "rollback", "--to", "0", "--yes"]).arg(&history);
        command
    };
    let kept = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    let said = fail(&mut roll_back());
    assert!(said.contains("storage.key") && said.contains("encrypted"), "{said}");
    succeed(switchback().args(["identity", "storage-key"]).arg(&key));
    let said = fail(&mut roll_back());
    assert!(said.contains("encrypted with key"), "{said}");
    assert!(same(&source, &target));
    std::fs::write(&key, kept).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let said = fail(&mut roll_back());
    assert!(said.contains("chmod 600"), "{said}");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    succeed(switchback().args(["replica", "verify"]).arg(&history));
    succeed(&mut roll_back());
    assert!(same(&site.path("before.img"), &target));
}

/// As a receiver does after its last session: it finishes the cycle in hand.
#[test]
fn a_replica_that_is_just_being_let_go_is_waited_for() {
    let site = Site::new();
    let (source, target) = (site.image("a.img", 2, 1), site.path("b.img"));
    succeed(switchback().arg("sync").arg(&source).arg(&target));
    let replica = site.path("b.img.switchback/local");
    let held = switchback::host::open_replica(&replica).unwrap();
    let letting_go = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        drop(held);
    });
    succeed(switchback().args(["replica", "verify"]).arg(&replica));
    letting_go.join().unwrap();
}
