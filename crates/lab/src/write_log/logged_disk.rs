//! A scenario: a guest's ext4 under load on dm-log-writes, copies of the disk below it taken by whatever is to be judged, and the judgement.
//!
//! In the guest, `/dev/vda` is the disk, `/dev/vdb` its log and `/dev/vdc` receives the copies, one after the other. The file system is on
//! `/dev/mapper/logged`, mounted at `/mnt`. A device of the device mapper has no requests of its own: what tracks changes, tracks `/dev/vda`.
//!
//! The scenario puts the marks `before-N` and `after-N` around the taking of copy N, so a proven copy is not only *some* state of the disk but
//! one of the right time.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::oracle::{Oracle, ReplayError, Verdict};
use super::{WriteLog, WriteLogError};
use crate::{Guest, GuestImage, GuestImageBuilder};

/// Beginning of the guest's script: the device, the file system and what the fragments may use.
const BEGIN: &str = r#"
export DM_DISABLE_UDEV=1
mark() { dmsetup message logged 0 mark "$1"; }
# copy N [FROM COUNT]: copies all of the disk, or some MiB of it, as copy N.
copy() {
    dd if=/dev/vda of=/dev/vdc bs=1M iflag=direct oflag=direct conv=notrunc \
        skip=${2:-0} seek=$(($1 * DISK_MIB + ${2:-0})) count=${3:-$DISK_MIB} 2>/dev/null
}
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
echo "0 $(cat /sys/block/vda/size) log-writes /dev/vda /dev/vdb" | dmsetup create logged
/usr/sbin/mke2fs -q -t ext4 -E lazy_itable_init=0,nodiscard /dev/mapper/logged
mount -t ext4 -o discard /dev/mapper/logged /mnt
"#;

/// The load and the taking of copies; `take` is a function by then.
const TAKE_COPIES: &str = r#"
load a & first=$!
load b & second=$!
point=0
while [ $point -lt $POINTS ]; do
    sleep 1
    mark before-$point
    take $point
    mark after-$point
    point=$((point + 1))
done
touch /tmp/stop
wait $first $second
umount /mnt
"#;

/// A disk of a guest, with its log and the copies taken of it. The files go when this is dropped.
#[derive(Debug)]
pub struct LoggedDisk {
    directory: tempfile::TempDir,
    disk_mib: u64,
    points: u64,
    copies: u64,
}

/// What a test adds to the scenario, in busybox's shell.
#[derive(Debug, Default)]
pub struct Fragments<'a> {
    /// Runs once, before the load: starts what tracks the disk.
    pub prepare: &'a str,
    /// Takes copy `$1`, and fails when it cannot.
    pub take: &'a str,
    /// Runs once, after the load, with the file system unmounted and the log still going on.
    pub finish: &'a str,
}

/// What the oracle found.
#[derive(Debug)]
pub struct Judgement {
    /// Whether the whole log, replayed, is the disk: if not, the log or its reader is wrong and the verdicts are worth nothing.
    pub is_log_right: bool,
    /// One for each copy, in order.
    pub verdicts: Vec<Verdict>,
    /// For each point, the numbers of entries between its marks.
    pub windows: Vec<RangeInclusive<usize>>,
    /// All marks in order, those of fragments too, each with the number of entries before it.
    pub marks: Vec<(usize, String)>,
}

/// Why there is no judgement.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The disk, the log or the copies cannot be read.
    #[error("cannot read what the guest left")]
    Files(#[from] io::Error),
    /// The log is not one.
    #[error(transparent)]
    Log(#[from] WriteLogError),
    /// The log does not lead to a verdict.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The scenario did not come to its marks.
    #[error("the log has no mark `{0}`")]
    NoMark(String),
}

impl LoggedDisk {
    /// A disk of zeros, with room for `points` copies taken under load and `more_copies` that [`Fragments::finish`] may take.
    ///
    /// # Errors
    /// The files could not be made.
    pub fn create(disk_mib: u64, points: u64, more_copies: u64) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("switchback-logged-").tempdir()?;
        let disk = Self { directory, disk_mib, points, copies: points + more_copies };
        // Sparse; a load of some seconds writes far less than sixteen times the disk.
        for (name, mib) in [("disk", disk_mib), ("log", disk_mib * 16), ("copies", disk_mib * disk.copies)] {
            File::create(disk.path(name))?.set_len(mib << 20)?;
        }
        Ok(disk)
    }

    /// The image of a guest that runs the scenario. The caller adds what its fragments need.
    #[must_use]
    pub fn image(&self, fragments: &Fragments<'_>) -> GuestImageBuilder {
        let Fragments { prepare, take, finish } = fragments;
        let script = format!(
            "DISK_MIB={}\nPOINTS={}\n{BEGIN}\n{prepare}\ntake() {{\n{take}\n}}\n{TAKE_COPIES}\n{finish}\ndmsetup remove logged\n",
            self.disk_mib, self.points
        );
        GuestImage::builder(script)
            .program("/usr/sbin/dmsetup")
            .program("/usr/sbin/mke2fs")
            .module("dm-log-writes")
            .module("ext4")
    }

    /// Gives the disks to a guest.
    #[must_use]
    pub fn attach<'a>(&self, guest: Guest<'a>) -> Guest<'a> {
        ["disk", "log", "copies"].into_iter().fold(guest, |guest, name| guest.disk(&self.path(name)))
    }

    /// Judges the copies, once the guest is over.
    ///
    /// # Errors
    /// [`JudgeError`].
    pub fn judge(&self) -> Result<Judgement, JudgeError> {
        let disk = std::fs::read(self.path("disk"))?;
        let mut oracle = Oracle::new(vec![0; disk.len()]);
        for copy in 0..self.copies {
            oracle.add_image(format!("copy {copy}"), self.copy(copy)?)?;
        }
        let mut log = WriteLog::open(BufReader::new(File::open(self.path("log"))?))?;
        let verdicts = oracle.replay(&mut log)?;
        let mark = |name: String| oracle.entries_before_mark(&name).ok_or(JudgeError::NoMark(name));
        let window = |point| Ok(mark(format!("before-{point}"))?..=mark(format!("after-{point}"))?);
        let windows = (0..self.points).map(window).collect::<Result<_, JudgeError>>()?;
        let marks = oracle.marks().to_vec();
        Ok(Judgement { is_log_right: oracle.disk() == disk.as_slice(), verdicts, windows, marks })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Takes one copy out of the disk that holds them all.
    fn copy(&self, index: u64) -> io::Result<File> {
        let bytes = self.disk_mib << 20;
        let mut copies = File::open(self.path("copies"))?;
        copies.seek(SeekFrom::Start(index * bytes))?;
        let mut contents = Vec::new();
        copies.take(bytes).read_to_end(&mut contents)?;
        let mut copy = tempfile::tempfile_in(&self.directory)?;
        copy.write_all(&contents)?;
        Ok(copy)
    }
}
