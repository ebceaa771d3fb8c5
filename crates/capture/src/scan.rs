//! Capture without the kernel's help: everything may have changed, and comparing tells what has.
//!
//! Works for whatever can be read, on any kernel, without privileges beyond that. What cannot be had is a moment:
//! the source is read over minutes. [`SourceGuard`] judges whether anybody wrote to it meanwhile; if nobody did, what
//! was read is the disk as it was all that time, and the point is crash-consistent, else fuzzy.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use switchback_model::{Extent, ExtentSet, GenerationId, ResyncReason};

use crate::ChangeTracker;
use crate::devices::{DeviceNumber, Sysfs};

/// Longer than a tick of any kernel's coarse clock (`CONFIG_HZ` 100).
const TICK: Duration = Duration::from_millis(12);
const TICKS_MAX: usize = 5;

/// Tells whether a source was written between [`SourceGuard::begin`] and now. In doubt it was.
#[derive(Debug)]
pub struct SourceGuard {
    path: PathBuf,
    /// `None` when it cannot be judged at all.
    before: Option<Traces>,
}

/// What a write cannot help changing.
#[derive(Debug, PartialEq, Eq)]
enum Traces {
    /// Which file, its length, and when it and its inode last changed, in (s, ns).
    File { device: u64, inode: u64, size: u64, modified: (i64, i64), changed: (i64, i64) },
    /// For each whole disk below: its number of writes, discards, and sectors of both since boot.
    Disks(Vec<(DeviceNumber, [u64; 4])>),
}

impl SourceGuard {
    /// From now on.
    #[must_use]
    pub fn begin(path: &Path) -> Self {
        Self { path: path.into(), before: begin(path).ok().flatten() }
    }

    /// Whether nobody has written to it since.
    #[must_use]
    pub fn undisturbed(&self) -> bool {
        let now = || traces(&self.path).ok().flatten();
        self.before.is_some() && self.before == now()
    }
}

fn begin(path: &Path) -> io::Result<Option<Traces>> {
    if !fs::metadata(path)?.is_file() {
        return traces(path);
    }
    // A file that is written through a mapping gets its new time with the first write after a write-back.
    File::open(path)?.sync_data()?;
    for _ in 0..TICKS_MAX {
        let found = traces(path)?;
        let now = clock_gettime(ClockId::RealtimeCoarse);
        // A change within the tick of the last one would leave the time as it is.
        if let Some(Traces::File { changed, .. }) = &found
            && *changed < (now.tv_sec, now.tv_nsec)
        {
            return Ok(found);
        }
        std::thread::sleep(TICK);
    }
    Ok(None)
}

fn traces(path: &Path) -> io::Result<Option<Traces>> {
    let metadata = fs::metadata(path)?;
    if metadata.file_type().is_block_device() {
        let sysfs = Sysfs::default();
        let below = sysfs.disks_below(DeviceNumber::from_raw(metadata.rdev())).map_err(io::Error::other)?;
        let disks = below.into_iter().map(|number| Ok(written(number)?.map(|counts| (number, counts))));
        return Ok(disks.collect::<io::Result<Option<_>>>()?.map(Traces::Disks));
    }
    Ok(metadata.is_file().then(|| Traces::File {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }))
}

/// `None` while a write is under way, or when the kernel does not count.
fn written(number: DeviceNumber) -> io::Result<Option<[u64; 4]>> {
    let folder = Path::new("/sys/dev/block").join(number.to_string());
    let text = |name| fs::read_to_string(folder.join(name));
    let counted = text("queue/iostats")?.trim() == "1";
    Ok(if counted { written_in(&text("stat")?, &text("inflight")?) } else { None })
}

/// From the files `stat` and `inflight` (Documentation/block/stat.rst).
fn written_in(stat: &str, inflight: &str) -> Option<[u64; 4]> {
    let fields: Vec<u64> = stat.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let under_way: u64 = inflight.split_whitespace().nth(1)?.parse().ok()?;
    (under_way == 0).then_some(())?;
    // Kernels before 4.18 do not count discards.
    Some([*fields.get(4)?, *fields.get(6)?, *fields.get(11)?, *fields.get(13)?])
}

/// A [`ChangeTracker`] that knows nothing: every swap gives out the whole disks, for comparing.
#[derive(Debug)]
pub struct ScanTracker {
    generation: GenerationId,
    sources: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    size_bytes: u64,
    guard: SourceGuard,
}

impl ScanTracker {
    /// For these sources (path and size), of a generation that nobody else has drawn.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new(sources: impl IntoIterator<Item = (PathBuf, u64)>) -> io::Result<Self> {
        let mut generation = [0; 16];
        rustix::rand::getrandom(&mut generation, rustix::rand::GetRandomFlags::empty())?;
        let source = |(path, size_bytes): (PathBuf, u64)| {
            let guard = SourceGuard::begin(&path);
            Source { path, size_bytes, guard }
        };
        let sources = sources.into_iter().map(source).collect();
        Ok(Self { generation: GenerationId(generation), sources })
    }
}

impl ChangeTracker for ScanTracker {
    fn generation(&self) -> GenerationId {
        self.generation
    }

    fn swap(&mut self) -> Result<Vec<ExtentSet>, ResyncReason> {
        for source in &mut self.sources {
            source.guard = SourceGuard::begin(&source.path);
        }
        Ok(self.sources.iter().map(|source| Extent::new(0, source.size_bytes).into()).collect())
    }

    fn release(&mut self) {}

    /// Of the whole sources, not of these blocks: which were written cannot be known.
    fn touched(&self, read: &[ExtentSet]) -> Result<bool, ResyncReason> {
        let mut pairs = self.sources.iter().zip(read);
        Ok(pairs.any(|(source, read)| !read.is_empty() && !source.guard.undisturbed()))
    }

    fn check(&mut self) -> Result<(), ResyncReason> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use switchback_model::{Extent, ExtentSet};

    use super::{ScanTracker, SourceGuard, written_in};
    use crate::ChangeTracker;

    #[test]
    fn any_write_to_a_file_disturbs_it_at_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for round in 0..50 {
            file.as_file().write_all_at(b"x", round).unwrap();
            let guard = SourceGuard::begin(file.path());
            assert!(guard.undisturbed());
            file.as_file().write_all_at(b"y", 0).unwrap();
            assert!(!guard.undisturbed(), "round {round}");
        }
        assert!(!SourceGuard::begin("/dev/null".as_ref()).undisturbed());
        assert!(!SourceGuard::begin("/does/not/exist".as_ref()).undisturbed());
    }

    #[test]
    fn a_replaced_file_is_disturbed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, "a").unwrap();
        let guard = SourceGuard::begin(&path);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a").unwrap();
        assert!(!guard.undisturbed());
    }

    #[test]
    fn every_swap_gives_out_everything() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let mut tracker = ScanTracker::new([(file.path().into(), 1 << 20)]).unwrap();
        let all = vec![ExtentSet::from(Extent::new(0, 1 << 20))];
        for _ in 0..2 {
            assert_eq!(tracker.swap().unwrap(), all);
            tracker.release();
            assert!(!tracker.touched(&all).unwrap());
            file.as_file().write_all_at(b"x", 5).unwrap();
            assert!(tracker.touched(&all).unwrap());
        }
    }

    #[test]
    fn a_write_under_way_is_no_quiet_disk() {
        let stat = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17";
        assert_eq!(written_in(stat, "3 0"), Some([5, 7, 12, 14]));
        assert_eq!(written_in(stat, "0 1"), None);
        assert_eq!(written_in("1 2 3", "0 0"), None);
    }
}
