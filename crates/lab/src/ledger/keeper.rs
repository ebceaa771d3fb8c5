//! Writes a ledger to two disks, and takes it up again after a crash.
//!
//! Order of one record, each step durable before the next begins: slot on disk 0, record on disk 0, slot on disk 1, record on disk 1. So after a crash
//! disk 0 has at most one record more than disk 1, and at most one record of each is torn. [`Keeper::open`] cuts a torn record off, completes disk 1 from
//! disk 0 and never changes a record that is there. A ledger in any other condition is refused and left as it is.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::book::{Book, Flaw, Standing, agree};
use super::record::{Hash, LedgerName, RECORD_LEN, Record, Seen};
use super::{FILE, SLOTS_FILE, slots};

/// Records whose disk also gets a new file, and loses an old one.
const FILE_EVERY: u64 = 8;
/// Files that are there at a time.
const FILES: u64 = 32;

/// Why a ledger cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// What is there is not what a crash leaves.
    #[error("the ledger in {directory} cannot be taken up again: {flaw}; it is left as it is")]
    Flaw {
        /// Where.
        directory: PathBuf,
        /// What is wrong.
        flaw: Flaw,
    },
    /// The system failed.
    #[error("{action} {path} failed: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// One disk's files.
#[derive(Debug)]
struct Copy {
    directory: PathBuf,
    ledger: File,
    slots: File,
}

/// A ledger being written.
#[derive(Debug)]
pub struct Keeper {
    machine: LedgerName,
    copies: [Copy; 2],
    last: Option<Record>,
}

impl Keeper {
    /// Takes up the ledger in these two directories, one on each disk, or begins it.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn open(machine: LedgerName, directories: &[PathBuf; 2]) -> Result<Self, KeeperError> {
        let [first, second] = directories;
        let copies = [Copy::open(first)?, Copy::open(second)?];
        let books = [copies[0].read(machine)?, copies[1].read(machine)?];
        let flawed = |flaw| KeeperError::Flaw { directory: second.clone(), flaw };
        agree(&books[0], &books[1]).map_err(flawed)?;
        for (copy, book) in copies.iter().zip(&books) {
            copy.cut_off_torn(book)?;
        }
        let last = books[0].records().last().copied();
        if let Some(last) = last.filter(|_| books[0].records().len() > books[1].records().len()) {
            copies[1].append(&last)?;
        }
        Ok(Self { machine, copies, last })
    }

    /// How far it goes.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let (records, last) = self.last.map_or((0, Hash([0; 32])), |last| (last.number, last.hash()));
        Standing { records, last }
    }

    /// The last record.
    #[must_use]
    pub fn last(&self) -> Option<&Record> {
        self.last.as_ref()
    }

    /// Writes the next record. When this returns it is durable on both disks.
    ///
    /// # Errors
    /// [`KeeperError::Io`]: it may be on the first disk; nothing more can be appended until the ledger has been taken up again.
    pub fn append(&mut self, time_ms: u64, seen: Option<Seen>) -> Result<&Record, KeeperError> {
        let number = self.last.map_or(1, |last| last.number + 1);
        let block = slots::block(self.machine, number, time_ms);
        let record = Record {
            machine: self.machine,
            number,
            time_ms,
            payload: slots::payload(&block),
            previous: self.standing().last,
            // Never less than before: the other machine may be out of reach now.
            seen: [seen, self.last.and_then(|last| last.seen)]
                .into_iter()
                .flatten()
                .max_by_key(|seen| seen.number),
        };
        for copy in &self.copies {
            copy.append(&record)?;
            copy.churn(&record, &block)?;
        }
        Ok(self.last.insert(record))
    }
}

impl Copy {
    fn open(directory: &Path) -> Result<Self, KeeperError> {
        let files = directory.join("files");
        fs::create_dir_all(&files).map_err(io_error("making", &files))?;
        let open = |name: &str| {
            let path = directory.join(name);
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            file.map_err(io_error("opening", &path))
        };
        let copy = Self { directory: directory.to_owned(), ledger: open(FILE)?, slots: open(SLOTS_FILE)? };
        let slots_len = slots::SLOTS * slots::SLOT_LEN as u64;
        let opening = io_error("opening", directory);
        let sized = copy.slots.set_len(slots_len).and_then(|()| copy.slots.sync_all());
        let named = File::open(directory).and_then(|directory| directory.sync_all());
        let parent = directory
            .parent()
            .map_or(Ok(()), |parent| File::open(parent).and_then(|parent| parent.sync_all()));
        sized.and(named).and(parent).map_err(opening)?;
        Ok(copy)
    }

    fn read(&self, machine: LedgerName) -> Result<Book, KeeperError> {
        let path = self.directory.join(FILE);
        let bytes = fs::read(&path).map_err(io_error("reading", &path))?;
        Book::parse(machine, &bytes)
            .map_err(|flaw| KeeperError::Flaw { directory: self.directory.clone(), flaw })
    }

    fn cut_off_torn(&self, book: &Book) -> Result<(), KeeperError> {
        if book.torn_len() == 0 {
            return Ok(());
        }
        let whole = book.records().len() * RECORD_LEN;
        let cut = self.ledger.set_len(whole as u64).and_then(|()| self.ledger.sync_all());
        cut.map_err(io_error("cutting a torn record off", &self.directory.join(FILE)))
    }

    /// Slot, then record, each durable.
    fn append(&self, record: &Record) -> Result<(), KeeperError> {
        let slot = slots::slot_of(record.number) * slots::SLOT_LEN as u64;
        let block = slots::block(record.machine, record.number, record.time_ms);
        let written = self.slots.write_all_at(&block, slot).and_then(|()| self.slots.sync_data());
        written.map_err(io_error("writing", &self.directory.join(SLOTS_FILE)))?;
        let offset = (record.number - 1) * RECORD_LEN as u64;
        let written = self.ledger.write_all_at(&record.encode(), offset);
        let written = written.and_then(|()| self.ledger.sync_data());
        written.map_err(io_error("writing", &self.directory.join(FILE)))
    }

    /// Files come and go, so that a file system's own blocks change as well: nothing depends on them.
    fn churn(&self, record: &Record, block: &[u8]) -> Result<(), KeeperError> {
        if !record.number.is_multiple_of(FILE_EVERY) {
            return Ok(());
        }
        let name = |number: u64| self.directory.join("files").join(number.to_string());
        let new = name(record.number);
        fs::write(&new, block).map_err(io_error("writing", &new))?;
        let old = name(record.number.saturating_sub(FILES * FILE_EVERY));
        match fs::remove_file(&old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("removing", &old)(error)),
            _ => Ok(()),
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeeperError + use<> {
    let path = path.to_owned();
    move |source| KeeperError::Io { action, path, source }
}

#[cfg(test)]
mod tests;
