//! Guests start, see their disks, and end in every way a guest can end.

use std::fs;
use std::time::Duration;

use switchback_lab::{Accelerator, Foundation, Guest, GuestError, GuestImage, Outcome};

struct Lab {
    foundation: Foundation,
    accelerator: Accelerator,
}

impl Lab {
    fn new() -> Self {
        let foundation = Foundation::prepare().expect("scripts/lab-guests prepares it");
        let accelerator = Accelerator::detect(&foundation).expect("the probe's image is an empty one");
        Self { foundation, accelerator }
    }

    fn run(&self, script: &str, limit: Duration) -> Result<Outcome, GuestError> {
        let image =
            GuestImage::builder(script).build(&self.foundation).expect("nothing but busybox is needed");
        Guest::new(&self.foundation, &image, self.accelerator).time_limit(limit).start()?.wait()
    }
}

/// Ends a broken guest, not a slow one: a busy machine takes many times the usual three seconds.
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn guest_ends_as_its_script_does() {
    let lab = Lab::new();
    let outcome = lab.run("echo FACT: one\necho FACT: two", LIMIT).unwrap();
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(outcome.facts("FACT: ").collect::<Vec<_>>(), ["one", "two"]);

    let outcome = lab.run("sh -c 'exit 7'\necho not reached", LIMIT).unwrap();
    assert_eq!(outcome.result, "failed 7");
    assert!(!outcome.console.contains("not reached"));
}

#[test]
fn guest_that_hangs_or_panics_is_an_error_with_its_console() {
    let lab = Lab::new();
    // However fast the guest is, it is not over then.
    let outcome = lab.run("sleep 1000", Duration::from_secs(1));
    assert!(matches!(outcome, Err(GuestError::TimeLimit { .. })), "a guest that hangs: {outcome:?}");
    // The pause: what the terminal has not sent yet when the kernel dies is lost.
    match lab.run("echo before; sleep 2; echo c >/proc/sysrq-trigger; sleep 1000", LIMIT) {
        Err(GuestError::NoResult { console, .. }) => assert!(console.contains("before"), "{console}"),
        other => panic!("a guest that panics: {other:?}"),
    }
}

#[test]
fn guest_sees_its_disks_in_order_and_writes_reach_the_host() {
    let lab = Lab::new();
    let directory = tempfile::tempdir().unwrap();
    let disks = [directory.path().join("first, with a comma"), directory.path().join("second")];
    fs::write(&disks[0], vec![b'a'; 1 << 20]).unwrap();
    fs::write(&disks[1], vec![b'b'; 2 << 20]).unwrap();
    let script = "
        test $(cat /sys/block/vda/size) = 2048
        test $(cat /sys/block/vdb/size) = 4096
        test $(head -c 1 /dev/vda) = a
        printf hello | dd of=/dev/vdb bs=512 seek=4 conv=fsync
        blkdiscard -o 4096 -l 8192 /dev/vdb
        mke2fs -q /dev/vda
        stat -f -c %T / >/dev/null
        dmsetup version";
    let image = GuestImage::builder(script)
        .program("/usr/sbin/dmsetup")
        .module("dm-mod")
        .module("ext4")
        .build(&lab.foundation)
        .unwrap();
    let guest = Guest::new(&lab.foundation, &image, lab.accelerator)
        .disk(&disks[0])
        .disk(&disks[1])
        .time_limit(LIMIT);
    let outcome = guest.start().unwrap().wait().unwrap();
    assert!(outcome.is_ok(), "{}", outcome.console);
    let second = fs::read(&disks[1]).unwrap();
    assert_eq!(&second[2048..2053], b"hello");
    assert!(second[4096..12288].iter().all(|byte| *byte == 0), "a discarded range reads as zero");
    assert_eq!(second[12288], b'b');
}
