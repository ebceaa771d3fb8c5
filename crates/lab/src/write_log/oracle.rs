//! Proves that an image is a state its disk really had: the log, replayed up to some entry, equals it.
//!
//! All images are judged in one replay. Each has the set of its blocks that differ from the replayed disk; an entry changes only the blocks
//! it touches, so only these are compared again. An image is proven wherever its set is empty.

use std::collections::HashSet;
use std::io::{self, Read, Seek};
use std::ops::RangeInclusive;

use super::{Action, END_MARK, WriteLog, WriteLogError};

/// What is compared at a time. File systems write nothing smaller as a rule, and smaller writes are compared just as well.
const BLOCK_BYTES: usize = 4096;

/// Why a replay came to no verdict.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] WriteLogError),
    /// The log does not belong to this disk.
    #[error("entry {entry} of the write log reaches beyond the disk of {disk_bytes} bytes")]
    BeyondDisk {
        /// Counted from 1.
        entry: usize,
        /// The length of the replayed disk.
        disk_bytes: u64,
    },
    /// The log stopped before the disk did.
    #[error("the write log has no `{END_MARK}`: was the log device too small, or the device not removed?")]
    Incomplete,
    /// An image is as long as the disk, or it is no image of it.
    #[error("the image `{name}` has {image_bytes} bytes, its disk {disk_bytes}")]
    ImageLength {
        /// The image's name.
        name: String,
        /// The image's length.
        image_bytes: u64,
        /// The disk's length.
        disk_bytes: u64,
    },
    /// An image cannot be read.
    #[error("the image `{name}` cannot be compared")]
    Image {
        /// The image's name.
        name: String,
        /// What the system says.
        source: io::Error,
    },
}

/// Replays a log and compares images with every state the disk had.
#[derive(Debug)]
pub struct Oracle<I> {
    /// The disk, replayed so far.
    disk: Vec<u8>,
    images: Vec<Image<I>>,
    /// The marks passed, each with the number of entries replayed before it.
    marks: Vec<(usize, String)>,
}

#[derive(Debug)]
struct Image<I> {
    input: I,
    differing: HashSet<usize>,
    verdict: Verdict,
}

/// What was found out about one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The image's name.
    pub name: String,
    /// The numbers of entries after whose replay the disk equals the image, from the first. Empty: the disk never was like that.
    pub equal_after: Vec<RangeInclusive<usize>>,
    /// The fewest blocks of 4 KiB that ever differed; for finding out why an image is not proven.
    pub differing_blocks_min: usize,
    /// The number of entries after which that few differed first.
    pub nearest_after: usize,
}

impl Verdict {
    /// Whether the disk ever was like the image.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        !self.equal_after.is_empty()
    }

    /// Whether the disk was like the image at some time between two numbers of replayed entries.
    #[must_use]
    pub fn is_proven_within(&self, range: &RangeInclusive<usize>) -> bool {
        self.equal_after.iter().any(|equal| equal.start() <= range.end() && range.start() <= equal.end())
    }

    fn observe(&mut self, entries: usize, differing: usize) {
        if differing < self.differing_blocks_min {
            self.differing_blocks_min = differing;
            self.nearest_after = entries;
        }
        if differing > 0 {
            return;
        }
        match self.equal_after.last_mut() {
            Some(range) if range.end() + 1 == entries => *range = *range.start()..=entries,
            _ => self.equal_after.push(entries..=entries),
        }
    }
}

impl<I: Read + Seek> Oracle<I> {
    /// An oracle for a disk that held `contents` when its log began.
    #[must_use]
    pub fn new(contents: Vec<u8>) -> Self {
        Self { disk: contents, images: Vec::new(), marks: Vec::new() }
    }

    /// Adds an image to be judged, as long as the disk.
    ///
    /// # Errors
    /// [`ReplayError::Image`], [`ReplayError::ImageLength`].
    pub fn add_image(&mut self, name: impl Into<String>, mut input: I) -> Result<(), ReplayError> {
        let name = name.into();
        let length = input.seek(io::SeekFrom::End(0));
        let length = length.map_err(|source| ReplayError::Image { name: name.clone(), source })?;
        if length != self.disk.len() as u64 {
            return Err(ReplayError::ImageLength {
                name,
                image_bytes: length,
                disk_bytes: self.disk.len() as u64,
            });
        }
        let verdict =
            Verdict { name, equal_after: Vec::new(), differing_blocks_min: usize::MAX, nearest_after: 0 };
        let mut image = Image { input, differing: HashSet::new(), verdict };
        image.compare(&self.disk, 0..=self.disk.len().div_ceil(BLOCK_BYTES).saturating_sub(1))?;
        self.images.push(image);
        Ok(())
    }

    /// Replays the whole log, judging each image after every entry.
    ///
    /// # Errors
    /// [`ReplayError`]: the log or an image cannot be read, the log is not this disk's, or it is not whole.
    pub fn replay<R: Read + Seek>(&mut self, log: &mut WriteLog<R>) -> Result<Vec<Verdict>, ReplayError> {
        let mut entries = 0;
        self.observe(entries);
        while let Some(entry) = log.next_entry()? {
            let (length, data) = match &entry.action {
                Action::Mark(name) => {
                    self.marks.push((entries, name.clone()));
                    entries += 1;
                    self.observe(entries);
                    continue;
                }
                Action::Write(data) => (data.len() as u64, Some(data)),
                Action::Discard(length) => (*length, None),
            };
            entries += 1;
            let beyond = || ReplayError::BeyondDisk { entry: entries, disk_bytes: self.disk.len() as u64 };
            let range = range_within(entry.offset, length, self.disk.len()).ok_or_else(beyond)?;
            match data {
                Some(data) => self.disk[range.clone()].copy_from_slice(data),
                None => self.disk[range.clone()].fill(0),
            }
            if !range.is_empty() {
                let blocks = range.start / BLOCK_BYTES..=(range.end - 1) / BLOCK_BYTES;
                for image in &mut self.images {
                    image.compare(&self.disk, blocks.clone())?;
                }
            }
            self.observe(entries);
        }
        if self.marks.last().is_none_or(|(_, name)| name != END_MARK) {
            return Err(ReplayError::Incomplete);
        }
        Ok(self.images.iter().map(|image| image.verdict.clone()).collect())
    }

    /// The disk after what was replayed.
    #[must_use]
    pub fn disk(&self) -> &[u8] {
        &self.disk
    }

    /// The marks passed, each with the number of entries replayed before it.
    #[must_use]
    pub fn marks(&self) -> &[(usize, String)] {
        &self.marks
    }

    /// The number of entries before the first mark of this name.
    #[must_use]
    pub fn entries_before_mark(&self, name: &str) -> Option<usize> {
        self.marks.iter().find(|(_, mark)| mark == name).map(|(entries, _)| *entries)
    }

    fn observe(&mut self, entries: usize) {
        for image in &mut self.images {
            image.verdict.observe(entries, image.differing.len());
        }
    }
}

impl<I: Read + Seek> Image<I> {
    /// Compares some blocks of the disk again.
    fn compare(&mut self, disk: &[u8], blocks: RangeInclusive<usize>) -> Result<(), ReplayError> {
        let start = blocks.start() * BLOCK_BYTES;
        let failed = |source| ReplayError::Image { name: self.verdict.name.clone(), source };
        self.input.seek(io::SeekFrom::Start(start as u64)).map_err(failed)?;
        let mut own = [0; BLOCK_BYTES];
        for (block, expected) in blocks.zip(disk[start.min(disk.len())..].chunks(BLOCK_BYTES)) {
            let own = &mut own[..expected.len()];
            self.input.read_exact(own).map_err(failed)?;
            if own == expected {
                self.differing.remove(&block);
            } else {
                self.differing.insert(block);
            }
        }
        Ok(())
    }
}

fn range_within(offset: u64, length: u64, disk_bytes: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    (end <= disk_bytes).then_some(start..end)
}
