//! The write-log oracle against a real kernel: a guest runs ext4 under load on dm-log-writes, copies of its disk are taken below the log, and
//! the oracle proves those that were taken of a frozen file system and refuses one that was torn.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use switchback_lab::write_log::{Oracle, Verdict, WriteLog};
use switchback_lab::{Accelerator, Foundation, Guest, GuestImage, Outcome};

const DISK_MIB: u64 = 64;
const LOG_MIB: u64 = 1024;
/// Points taken of a frozen file system; the torn copy comes after them.
const POINTS: u64 = 5;

/// vda is the disk, vdb its log, vdc holds the copies one after the other. The copies are read from vda, below dm-log-writes.
const SCRIPT: &str = r#"
export DM_DISABLE_UDEV=1
mark() { dmsetup message logged 0 mark "$1"; }
copy() { dd if=/dev/vda of=/dev/vdc bs=1M iflag=direct oflag=direct conv=notrunc "$@" 2>/dev/null; }

echo "0 $(cat /sys/block/vda/size) log-writes /dev/vda /dev/vdb" | dmsetup create logged
/usr/sbin/mke2fs -q -t ext4 -E lazy_itable_init=0,nodiscard /dev/mapper/logged
mount -t ext4 -o discard /dev/mapper/logged /mnt

load() {
    n=0
    while [ ! -e /tmp/stop ]; do
        n=$((n + 1))
        dd if=/dev/urandom of=/mnt/$1-$((n % 7)) bs=32k count=$((n % 5 + 1)) conv=fsync 2>/dev/null
        dd if=/dev/urandom of=/mnt/$1-same bs=4k count=1 seek=$((n % 64)) conv=notrunc 2>/dev/null
        rm -f /mnt/$1-$(((n + 3) % 7))
    done
    echo "LOADED: $n"
}
load a & first=$!
load b & second=$!
point=0
while [ $point -lt POINTS ]; do
    sleep 1
    fsfreeze --freeze /mnt
    mark frozen-$point
    copy count=SIZE seek=$((point * SIZE))
    mark thawed-$point
    fsfreeze --unfreeze /mnt
    point=$((point + 1))
done
touch /tmp/stop
wait $first $second
umount /mnt

# The first half is from before two writes, the second half from after them: no state the disk ever had.
write() { dd if=/dev/urandom of=/dev/mapper/logged bs=1M count=1 seek=$1 conv=notrunc,fsync 2>/dev/null; }
mark torn
write 1
copy count=HALF seek=$((point * SIZE))
write 1
write $((HALF + 1))
copy skip=HALF count=HALF seek=$((point * SIZE + HALF))
mark torn-end
dmsetup remove logged
"#;

struct Disks {
    directory: tempfile::TempDir,
}

impl Disks {
    fn create() -> std::io::Result<Self> {
        let disks = Self { directory: tempfile::tempdir()? };
        for (name, mib) in [("disk", DISK_MIB), ("log", LOG_MIB), ("copies", DISK_MIB * (POINTS + 1))] {
            File::create(disks.path(name))?.set_len(mib << 20)?;
        }
        Ok(disks)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Takes one copy out of the disk that holds them all.
    fn copy(&self, index: u64) -> std::io::Result<File> {
        let mut copies = File::open(self.path("copies"))?;
        copies.seek(SeekFrom::Start((index * DISK_MIB) << 20))?;
        let mut contents = Vec::new();
        copies.take(DISK_MIB << 20).read_to_end(&mut contents)?;
        let mut copy = tempfile::tempfile_in(&self.directory)?;
        copy.write_all(&contents)?;
        Ok(copy)
    }
}

fn run_guest(disks: &Disks) -> Outcome {
    let foundation = Foundation::prepare().expect("scripts/lab-guests prepares it");
    let script = SCRIPT
        .replace("POINTS", &POINTS.to_string())
        .replace("SIZE", &DISK_MIB.to_string())
        .replace("HALF", &(DISK_MIB / 2).to_string());
    let image = GuestImage::builder(script)
        .program("/usr/sbin/dmsetup")
        .program("/usr/sbin/mke2fs")
        .module("dm-log-writes")
        .module("ext4")
        .build(&foundation)
        .expect("scripts/setup installs the programs");
    let accelerator = Accelerator::detect(&foundation).expect("the probe's image is an empty one");
    let guest = ["disk", "log", "copies"]
        .into_iter()
        .fold(Guest::new(&foundation, &image, accelerator), |guest, name| guest.disk(&disks.path(name)));
    let running = guest.time_limit(Duration::from_secs(240)).start().expect("QEMU starts");
    running.wait().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn guest_write_log_proves_frozen_copies_and_refuses_a_torn_one() {
    let disks = Disks::create().unwrap();
    let outcome = run_guest(&disks);
    assert!(outcome.is_ok(), "{}", outcome.console);
    let rounds: Vec<u64> = outcome.facts("LOADED: ").map(|rounds| rounds.parse().unwrap()).collect();
    assert!(
        rounds.len() == 2 && rounds.iter().all(|rounds| *rounds > POINTS),
        "there was no load: {rounds:?}"
    );

    let mut oracle = Oracle::new(vec![0; usize::try_from(DISK_MIB << 20).unwrap()]);
    for point in 0..=POINTS {
        oracle.add_image(format!("copy {point}"), disks.copy(point).unwrap()).unwrap();
    }
    let mut log = WriteLog::open(std::io::BufReader::new(File::open(disks.path("log")).unwrap())).unwrap();
    let verdicts = oracle.replay(&mut log).unwrap_or_else(|error| panic!("{error}\n{}", outcome.console));

    let disk = std::fs::read(disks.path("disk")).unwrap();
    assert!(oracle.disk() == disk.as_slice(), "the whole log, replayed, is not the disk");
    let (frozen, torn) = verdicts.split_at(verdicts.len() - 1);
    for (point, verdict) in frozen.iter().enumerate() {
        let mark = |name: &str| oracle.entries_before_mark(&format!("{name}-{point}")).unwrap();
        let window = mark("frozen")..=mark("thawed");
        assert!(verdict.is_proven_within(&window), "{verdict:?} is not proven within {window:?}");
    }
    assert_distinct(frozen);
    assert!(!torn[0].is_proven(), "a torn copy was proven: {:?}", torn[0]);
}

/// Under load, no two points are the same moment; if they are, the load or the oracle did nothing.
fn assert_distinct(verdicts: &[Verdict]) {
    for pair in verdicts.windows(2) {
        let (earlier, later) = (pair[0].equal_after.last(), pair[1].equal_after.first());
        let is_later = earlier.zip(later).is_some_and(|(earlier, later)| earlier.end() < later.start());
        assert!(is_later, "{:?} and {:?}", pair[0], pair[1]);
    }
}
