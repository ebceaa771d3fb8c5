//! A program that plays the agent in tests, so that it can be killed: `freeze-helper`; `hold MOUNT MILLISECONDS`, which freezes
//! what is mounted there and keeps it; `track NAME DEVICE`, which swaps and never releases. The last two say what they
//! have done in a line and then do nothing for ever.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test's double: it fails by panics")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use switchback_capture::ChangeTracker;
use switchback_capture::devices::{Sysfs, mounted_on};
use switchback_capture::ebpf::{Tracker, TrackerConfig};
use switchback_capture::freeze::{FreezeHelper, helper_main};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["freeze-helper"] => helper_main().unwrap(),
        ["hold", mount, milliseconds] => hold(Path::new(mount), milliseconds.parse().unwrap()),
        ["track", name, device] => track(name, Path::new(device)),
        _ => panic!("{arguments:?}"),
    }
}

fn hold(mount: &Path, milliseconds: u64) {
    let sysfs = Sysfs::default();
    let disks: BTreeSet<_> = sysfs.resolve(mount).unwrap().into_iter().map(|disk| disk.number).collect();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("freeze-helper");
    let mut helper = FreezeHelper::spawn(command).unwrap();
    let process_id = helper.process_id();
    let mounted = mounted_on(&sysfs, &disks).unwrap();
    let _frozen = helper.freeze(&mounted, Duration::from_millis(milliseconds)).unwrap();
    println!("frozen {process_id}");
    wait();
}

fn track(name: &str, device: &Path) {
    let disks = Sysfs::default().resolve(device).unwrap().into_iter().map(|disk| disk.number).collect();
    let config = TrackerConfig { name: name.into(), disks, new: Vec::new(), last_boot: None };
    let mut tracker = Tracker::attach(&config).unwrap().tracker;
    let changed = tracker.swap().unwrap();
    println!("swapped {} {}", tracker.generation(), changed[0].bytes());
    wait();
}

fn wait() -> ! {
    loop {
        std::thread::park();
    }
}
