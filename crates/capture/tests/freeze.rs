//! Freezes on a real kernel: nothing leaves a file system frozen, and nothing void is taken for a moment.
#![expect(clippy::unwrap_used, reason = "tests fail by panics, also in what they share")]

mod rig;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rig::{Agent, LoopDevice, MIB, Mounted, agent, can_run, run, text};
use switchback_capture::devices::{MountedFileSystem, Sysfs, mounted_on};
use switchback_capture::freeze::{FreezeError, FreezeHelper, ThawError};
use switchback_capture::moment::{MomentFailure, take_moment};
use switchback_capture::scripts::{Script, ScriptError, Scripts};

const LONG: Duration = Duration::from_secs(60);

struct Setup {
    mounted: Mounted,
    file_systems: Vec<MountedFileSystem>,
    helper: FreezeHelper,
    _disk: LoopDevice,
}

fn setup(kind: &str) -> Option<Setup> {
    if !can_run() {
        return None;
    }
    let disk = LoopDevice::new(if kind == "ext4" { 64 * MIB } else { 300 * MIB });
    disk.mkfs(kind);
    let mounted = Mounted::new(&disk.node, "rw");
    let file_systems = mounted_on(&Sysfs::default(), &BTreeSet::from([disk.number()])).unwrap();
    assert_eq!(file_systems.len(), 1);
    let helper = FreezeHelper::spawn(agent(&["freeze-helper"])).unwrap();
    Some(Setup { mounted, file_systems, helper, _disk: disk })
}

impl Setup {
    fn point(&self) -> PathBuf {
        self.mounted.point.path().into()
    }
}

/// Starts a write, which ends only when the file system is not frozen.
fn write(point: &Path) -> std::thread::JoinHandle<()> {
    let path = point.join("written");
    std::thread::spawn(move || std::fs::File::create(path).unwrap().write_all(b"x").unwrap())
}

fn ends(write: std::thread::JoinHandle<()>) {
    let begun = Instant::now();
    while !write.is_finished() {
        assert!(begun.elapsed() < LONG, "still frozen");
        std::thread::sleep(Duration::from_millis(2));
    }
    write.join().unwrap();
}

#[test]
fn a_moment_keeps_writers_out_until_it_is_over() {
    for kind in ["ext4", "xfs", "btrfs"] {
        if kind == "btrfs" && !Path::new("/sbin/mkfs.btrfs").exists() {
            continue;
        }
        let Some(mut setup) = setup(kind) else { return };
        let point = setup.point();
        let moment = take_moment(&mut setup.helper, &setup.file_systems, LONG, &Scripts::default(), || {
            let write = write(&point);
            std::thread::sleep(Duration::from_millis(50));
            assert!(!write.is_finished(), "{kind} is not frozen");
            Ok::<_, Infallible>(write)
        });
        let moment = moment.unwrap();
        assert_eq!((moment.frozen, moment.app_consistent), (vec![point], false));
        ends(moment.value);
    }
}

#[test]
fn a_killed_agent_leaves_nothing_frozen() {
    let Some(setup) = setup("ext4") else { return };
    let (holder, line) = Agent::start(&["hold", text(&setup.point()), "600000"]);
    assert!(line.starts_with("frozen"), "{line}");
    let write = write(&setup.point());
    holder.kill();
    ends(write);
}

#[test]
fn a_stuck_agent_is_ended_by_the_watchdog() {
    let Some(setup) = setup("ext4") else { return };
    // The agent sleeps for ever while frozen.
    let (_holder, line) = Agent::start(&["hold", text(&setup.point()), "300"]);
    assert!(line.starts_with("frozen"), "{line}");
    ends(write(&setup.point()));
}

#[test]
fn a_terminated_helper_thaws_and_a_killed_ones_agent_does() {
    for signal in ["-TERM", "-KILL"] {
        let Some(mut setup) = setup("ext4") else { return };
        let process = setup.helper.process_id().to_string();
        let frozen = setup.helper.freeze(&setup.file_systems, LONG).unwrap();
        let write = write(setup.mounted.point.path());
        run("kill", &[signal, &process]);
        if signal == "-TERM" {
            ends(write);
            assert!(matches!(frozen.thaw(), Err(ThawError::HelperLost(_))));
        } else {
            assert!(matches!(frozen.thaw(), Err(ThawError::HelperLost(_))));
            ends(write);
        }
        let again = setup.helper.freeze(&setup.file_systems, LONG);
        assert!(matches!(again, Err(FreezeError::HelperLost(_))));
    }
}

#[test]
fn over_budget_is_no_moment_and_the_helper_can_go_on() {
    let Some(mut setup) = setup("xfs") else { return };
    let budget = Duration::from_millis(200);
    let point = setup.point();
    let result = take_moment(&mut setup.helper, &setup.file_systems, budget, &Scripts::default(), || {
        // Waits until the watchdog has thawed: the write gets through.
        ends(write(&point));
        Ok::<_, Infallible>(())
    });
    let failure = result.unwrap_err().failure;
    assert!(matches!(failure, MomentFailure::BudgetExceeded { .. }), "{failure}");
    take_moment(
        &mut setup.helper,
        &setup.file_systems,
        LONG,
        &Scripts::default(),
        || Ok::<_, Infallible>(()),
    )
    .unwrap();
}

#[test]
fn what_others_freeze_or_thaw_is_told() {
    let Some(mut setup) = setup("ext4") else { return };
    let point = setup.point();
    run("fsfreeze", &["--freeze", text(&point)]);
    let result = setup.helper.freeze(&setup.file_systems, LONG);
    assert!(matches!(&result, Err(FreezeError::Busy { point: at }) if *at == point), "{result:?}");
    drop(result);
    let write = write(&point);
    std::thread::sleep(Duration::from_millis(30));
    assert!(!write.is_finished(), "the other's freeze was ended");
    run("fsfreeze", &["--unfreeze", text(&point)]);
    ends(write);

    let result = take_moment(&mut setup.helper, &setup.file_systems, LONG, &Scripts::default(), || {
        run("fsfreeze", &["--unfreeze", text(&point)]);
        Ok::<_, Infallible>(())
    });
    let failure = result.unwrap_err().failure;
    assert!(matches!(failure, MomentFailure::Thawed(ThawError::NotFrozen)), "{failure}");
}

#[test]
fn scripts_run_in_order_and_the_last_one_always() {
    let Some(mut setup) = setup("ext4") else { return };
    let log = tempfile::NamedTempFile::new().unwrap();
    let script = |text: &str, limit| {
        let text = format!("echo $SWITCHBACK_PHASE >> {}; {text}", log.path().display());
        Some(Script { program: "/bin/sh".into(), arguments: vec!["-c".into(), text], limit })
    };
    let mut moment = |scripts: &Scripts| {
        log.as_file().set_len(0).unwrap();
        let result = take_moment(&mut setup.helper, &setup.file_systems, LONG, scripts, || {
            std::fs::OpenOptions::new().append(true).open(log.path()).unwrap().write_all(b"work\n").unwrap();
            Err::<(), _>(std::io::Error::other("work failed"))
        });
        (result.unwrap_err(), std::fs::read_to_string(log.path()).unwrap())
    };
    let all = Scripts {
        pre_freeze: script("true", LONG),
        while_frozen: script("true", LONG),
        post_thaw: script("exit 4", LONG),
    };
    let (error, order) = moment(&all);
    assert_eq!(order, "pre-freeze\nwhile-frozen\nwork\npost-thaw\n");
    assert!(matches!(error.failure, MomentFailure::Work(_)), "{error}");
    assert!(matches!(error.post_thaw.as_deref(), Some(ScriptError::Failed { .. })));

    let (error, order) = moment(&Scripts { pre_freeze: script("exit 1", LONG), ..all.clone() });
    assert_eq!(order, "pre-freeze\npost-thaw\n");
    assert!(matches!(error.failure, MomentFailure::PreFreeze(ScriptError::Failed { .. })), "{error}");

    // Writing to what is frozen: stops for ever, is killed at its limit, ends when thawed.
    let inside = format!("echo x > {}/file", setup.mounted.point.path().display());
    let (error, order) =
        moment(&Scripts { while_frozen: script(&inside, Duration::from_millis(200)), ..all.clone() });
    assert_eq!(order, "pre-freeze\nwhile-frozen\npost-thaw\n");
    assert!(matches!(error.failure, MomentFailure::WhileFrozen(ScriptError::TimedOut { .. })), "{error}");
    ends(write(setup.mounted.point.path()));
}
