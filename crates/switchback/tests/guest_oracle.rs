//! Recovery points against an oracle that knows nothing of our capture: the kernel's own log of all writes.
//!
//! In a QEMU guest with a Debian kernel, ext4 is under load on dm-log-writes over a virtio disk. `switchback sync` tracks that
//! disk by eBPF and makes one recovery point after the other, each by a new process that takes up the tracker the last
//! one left in the kernel. The replica as each point left it must equal the write log, replayed up to some entry between the marks set
//! before and after. At the end the replica is rolled back through all its points, and each must be what it was.

use std::path::Path;
use std::time::Duration;

use switchback_lab::write_log::{Fragments, LoggedDisk};
use switchback_lab::{Accelerator, Foundation, Guest};

const DISK_MIB: u64 = 64;
const POINTS: u64 = 6;

/// The replica is in memory: nothing but the load writes to the disk, its log and the copies.
const PREPARE: &str = "
    mkdir /replica
    mount -t tmpfs -o size=800m tmpfs /replica";

const TAKE: &str = "
    /usr/bin/switchback sync /dev/vda /replica/disk.img --capture ebpf --keep-tracking --keep-all --json \
        --freeze-budget 8000 >/tmp/said 2>&1 || { cat /tmp/said; return 1; }
    sed -n 's/^{.*event.:.point.*/POINT: &/p' /tmp/said
    dd if=/replica/disk.img of=/dev/vdc bs=1M oflag=direct conv=notrunc seek=$(($1 * DISK_MIB)) 2>/dev/null";

const ROLL_BACK: &str = "
    point=$POINTS
    while [ $point -gt 0 ]; do
        /usr/bin/switchback replica rollback /replica/disk.img.switchback/local --to $point --yes
        dd if=/dev/vdc bs=1M skip=$(((point - 1) * DISK_MIB)) count=$DISK_MIB 2>/dev/null | cmp - /replica/disk.img
        echo \"ROLLED-BACK: $point\"
        point=$((point - 1))
    done";

#[test]
fn guest_recovery_points_are_states_of_the_write_log() {
    let foundation = Foundation::prepare().unwrap();
    let accelerator = Accelerator::detect(&foundation).unwrap();
    let disk = LoggedDisk::create(DISK_MIB, POINTS, 0).unwrap();
    let fragments = Fragments { prepare: PREPARE, take: TAKE, finish: ROLL_BACK };
    let program = Path::new(env!("CARGO_BIN_EXE_switchback"));
    let image = disk.image(&fragments).program_as(program, "/usr/bin/switchback").build(&foundation).unwrap();
    let guest = disk.attach(Guest::new(&foundation, &image, accelerator));
    let guest = guest.memory_mib(2048).time_limit(Duration::from_secs(400));
    let outcome = guest.start().unwrap().wait().unwrap_or_else(|error| panic!("{error}"));
    assert!(outcome.is_ok(), "{}", outcome.console);

    let points: Vec<serde_json::Value> =
        outcome.facts("POINT: ").map(|line| serde_json::from_str(line.trim()).unwrap()).collect();
    assert_eq!(points.len() as u64, POINTS, "{}", outcome.console);
    for (index, point) in points.iter().enumerate() {
        assert_eq!(point["consistency"], "crash-consistent", "{point}");
        let compared = point["compared_bytes"].as_u64().unwrap();
        assert_eq!(
            compared > 0,
            index == 0,
            "only the first point compares, the others go on tracking: {point}"
        );
    }
    let judgement = disk.judge().unwrap_or_else(|error| panic!("{error}\n{}", outcome.console));
    assert!(judgement.is_log_right, "the whole log, replayed, is not the disk");
    for (verdict, window) in judgement.verdicts.iter().zip(&judgement.windows) {
        assert!(verdict.is_proven_within(window), "{verdict:?} is not proven within {window:?}");
    }
    assert_eq!(outcome.facts("ROLLED-BACK: ").count() as u64, POINTS, "{}", outcome.console);
}
