//! The engine before an independent judge: each recovery point of a busy ext4 is a state its disk really had.
//!
//! In a guest, the program itself follows `/dev/vda`, above which dm-log-writes and a busy ext4 lie. The kernel's log of all writes, which
//! the engine knows nothing of, is replayed on the host: each point must equal the disk after some entry of the log, and after one
//! of the right time. A changed block that capture missed, a moment that was none, an undo that restores the wrong block: each makes an
//! image that no beginning of the log leads to.
//!
//! *The right time*: while the file system is frozen for point N, a command of the sync puts the mark `moment-N` into the log, so
//! everything before the mark is in the point. Once the program has reported the point, the scenario puts `after-N`.
//!
//! *Seen to fail* when capture leaves out discards, when one frame of one moment is dropped, and when moments neither freeze nor ask
//! what was written meanwhile. *Not seen here*: a tracker that marks at issue alone. Its race, a write in flight across a swap, is too narrow
//! for this load; that both marks are needed rests on the argument in the capture crate's `ebpf.rs`.

use std::fs::File;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use switchback_lab::write_log::{Fragments, Judgement, LoggedDisk};
use switchback_lab::{Accelerator, Foundation, Guest, Outcome};

const DISK_MIB: u64 = 64;
/// The first is made by comparing, the others from what was tracked.
const POINTS: usize = 9;
/// Room for the replica, its history, and a file system around them.
const REPLICA_DISK_BYTES: u64 = 512 << 20;

/// The replica is on a disk of its own, the sync runs beside the load. The budget is for an emulated machine, where starting a program
/// takes a tenth of a second.
const PREPARE: &str = r#"
/usr/sbin/mke2fs -q -t ext4 /dev/vdd
mkdir /replica
mount -t ext4 /dev/vdd /replica
cat >/tmp/mark <<'END'
export DM_DISABLE_UDEV=1
/usr/sbin/dmsetup message logged 0 mark moment-$(grep -c '"event":"point"' /tmp/sync)
END
{
    switchback sync /dev/vda /replica/disk.img --capture ebpf --follow --interval 1 --points $POINTS --keep-all \
        --freeze-budget 5000 --while-frozen 'sh /tmp/mark' --json >/tmp/sync || touch /tmp/failed
} &
sync=$!
"#;

/// Waits until the program has reported point `$1`.
const TAKE: &str = r#"
until [ "$(grep -c '"event":"point"' /tmp/sync)" -gt $1 ]; do
    if [ -e /tmp/failed ]; then
        cat /tmp/sync
        exit 1
    fi
    sleep 0.1
done
"#;

/// Back through all points, the newest first: each copy is made of what the rollbacks before it left. A frozen file system needs neither
/// repair nor its journal.
const FINISH: &str = r#"
wait $sync
sed 's/^/SYNC: /' /tmp/sync
replica=/replica/disk.img.switchback/local
grep '"event":"point"' /tmp/sync | sed 's/.*"seq":\([0-9]*\).*/\1/' >/tmp/seqs
copy=$POINTS
while [ $copy -gt 0 ]; do
    seq=$(sed -n ${copy}p /tmp/seqs)
    copy=$((copy - 1))
    switchback replica rollback $replica --to $seq --yes
    dd if=/replica/disk.img of=/dev/vdc bs=1M oflag=direct conv=notrunc seek=$((copy * DISK_MIB)) 2>/dev/null
    checked=0
    /usr/sbin/e2fsck -fn /replica/disk.img >/tmp/e2fsck 2>&1 || checked=$?
    if [ $checked != 0 ] || grep -i journal /tmp/e2fsck; then
        cat /tmp/e2fsck
        echo "UNCLEAN: point $copy"
    fi
done
umount /replica
"#;

#[test]
fn guest_recovery_points_are_states_the_disk_had() {
    let foundation = Foundation::prepare().unwrap();
    let accelerator = Accelerator::detect(&foundation).unwrap();
    let disk = LoggedDisk::create(DISK_MIB, POINTS as u64, 0).unwrap();
    let replica = tempfile::NamedTempFile::new().unwrap();
    File::options()
        .write(true)
        .open(replica.path())
        .and_then(|file| file.set_len(REPLICA_DISK_BYTES))
        .unwrap();
    let fragments = Fragments { prepare: PREPARE, take: TAKE, finish: FINISH };
    let image = disk
        .image(&fragments)
        .program_as(Path::new(env!("CARGO_BIN_EXE_switchback")), "/usr/bin/switchback")
        .program("/usr/sbin/e2fsck")
        .build(&foundation)
        .unwrap();
    let guest = disk.attach(Guest::new(&foundation, &image, accelerator)).disk(replica.path());
    let guest = guest.time_limit(Duration::from_secs(280));
    let outcome = guest.start().unwrap().wait().unwrap_or_else(|error| panic!("{error}"));
    assert!(outcome.is_ok(), "{}", outcome.console);

    assert_tracked_under_load(&outcome);
    let judgement = disk.judge().unwrap_or_else(|error| panic!("{error}\n{}", outcome.console));
    assert_proven_in_order(&judgement, &outcome.console);
    let unclean: Vec<_> = outcome.facts("UNCLEAN: ").collect();
    assert!(unclean.is_empty(), "{unclean:?}\n{}", outcome.console);
}

/// What the guest tells of itself: without load or without tracking, the rest would prove little.
fn assert_tracked_under_load(outcome: &Outcome) {
    let rounds: Vec<usize> =
        outcome.facts("LOADED: ").map(|rounds| rounds.parse().expect("a number")).collect();
    assert!(
        rounds.len() == 2 && rounds.iter().all(|rounds| *rounds > POINTS),
        "there was no load: {rounds:?}"
    );
    let events: Vec<Value> =
        outcome.facts("SYNC: ").map(|line| serde_json::from_str(line).expect(line)).collect();
    let points: Vec<&Value> = events.iter().filter(|event| event["event"] == "point").collect();
    assert_eq!(points.len(), POINTS, "{}", outcome.console);
    for (index, point) in points.into_iter().enumerate() {
        assert_eq!(point["consistency"], "crash-consistent", "{point}");
        let compared_bytes = if index == 0 { DISK_MIB << 20 } else { 0 };
        assert_eq!(point["compared_bytes"], compared_bytes, "only the first point compares: {point}");
        assert!(point["sent_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{point}");
    }
}

/// The oracle's word: every point is the log, replayed up to some entry between its marks, and each later than the one before.
fn assert_proven_in_order(judgement: &Judgement, console: &str) {
    assert!(judgement.is_log_right, "the whole log, replayed, is not the disk");
    assert_eq!(judgement.verdicts.len(), POINTS);
    for (index, verdict) in judgement.verdicts.iter().enumerate() {
        let window = window_of(judgement, index);
        assert!(
            verdict.is_proven_within(&window),
            "point {index}: {verdict:?} is not proven within {window:?}\n{console}"
        );
    }
    for pair in judgement.verdicts.windows(2) {
        let (earlier, later) = (pair[0].equal_after.last(), pair[1].equal_after.first());
        let is_later = earlier.zip(later).is_some_and(|(earlier, later)| earlier.end() < later.start());
        assert!(is_later, "{:?} and {:?}", pair[0], pair[1]);
    }
}

/// From the moment of the point (the last one, should some have been void) to when it had been reported.
fn window_of(judgement: &Judgement, index: usize) -> RangeInclusive<usize> {
    let entries = |name: String| {
        let mark = judgement.marks.iter().rev().find(|(_, mark)| *mark == name);
        mark.unwrap_or_else(|| panic!("no mark {name} in {:?}", judgement.marks)).0
    };
    entries(format!("moment-{index}"))..=entries(format!("after-{index}"))
}
