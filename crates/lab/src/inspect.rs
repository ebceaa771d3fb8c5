//! Looks into a machine's disks from outside, without booting it: the second witness beside what the guest says of itself.
//!
//! Only copies are looked at: mounting a file system that was not unmounted replays its journal, which writes. The copy is mounted, its ledger and slots
//! are read and checked, then the file system is checked by its own tool. Needs root. Nothing stays mounted, whatever happens.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::ledger::{self, Book, Flaw, LedgerName, Standing, slots};
use crate::machine::DataDisk;

/// A system's own settings, below its root; not what DHCP writes, nor the passphrase that goes when the agent has joined.
const SETTINGS: [&str; 2] = ["etc", "usr/sbin/NetworkManager"];
const NOT_SETTINGS: [&str; 2] = ["etc/resolv.conf", "etc/switchback"];

/// Where the ledger is on each disk.
const LEDGERS: [&str; 2] = ["var/lib/ledger", "ledger"];
/// Bytes compared at a time.
const CHUNK_LEN: usize = 1 << 20;

/// Why disks were not found in order.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The ledger.
    #[error("disk {disk} of {machine}: {flaw}")]
    Flaw {
        /// Whose.
        machine: String,
        /// Which, from 0.
        disk: usize,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// The file system.
    #[error("the file system of {image} is damaged; `{command}` says: {message}")]
    FileSystem {
        /// The copy that was looked at.
        image: PathBuf,
        /// The check.
        command: String,
        /// Its words.
        message: String,
    },
    /// A tool failed.
    #[error("`{command}` failed: {message} (looking into disk images needs root)")]
    Tool {
        /// The command.
        command: String,
        /// Its words.
        message: String,
    },
    /// A file could not be read.
    #[error("reading {path} failed: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// A machine's two disks, found in order: file systems clean, ledgers whole and of one moment, slots as their records say.
#[derive(Clone, Debug)]
pub struct Inspection {
    books: [Book; 2],
    settings: BTreeMap<String, String>,
}

impl Inspection {
    /// Looks into the disks of `machine`; `data` is the file system of the second one. Copies are made in `scratch` and removed.
    ///
    /// # Errors
    /// [`InspectError`]: the first thing that is not in order.
    pub fn of(
        machine: LedgerName,
        data: DataDisk,
        images: [&Path; 2],
        scratch: &Path,
    ) -> Result<Self, InspectError> {
        let look = |disk: usize, kind| {
            let files = Files::read(images[disk], kind, LEDGERS[disk], scratch)?;
            let flawed = |flaw| InspectError::Flaw { machine: machine.to_string(), disk, flaw };
            let book = Book::parse(machine, &files.ledger).map_err(flawed)?;
            slots::check(machine, &book, &files.slots).map_err(flawed)?;
            Ok((book, files.settings))
        };
        let ((first, settings), (second, _)) = (look(0, DataDisk::Ext4)?, look(1, data)?);
        let books = [first, second];
        let apart = |flaw| InspectError::Flaw { machine: machine.to_string(), disk: 1, flaw };
        ledger::agree(&books[0], &books[1]).map_err(apart)?;
        Ok(Self { books, settings })
    }

    /// The system's own settings (`/etc`, and that NetworkManager is there): mode and BLAKE3 hash by path.
    #[must_use]
    pub fn settings(&self) -> &BTreeMap<String, String> {
        &self.settings
    }

    /// The first disk's ledger, which is never behind the second's.
    #[must_use]
    pub fn book(&self) -> &Book {
        &self.books[0]
    }

    /// How far both disks go.
    #[must_use]
    pub fn standings(&self) -> [Standing; 2] {
        [self.books[0].standing(), self.books[1].standing()]
    }
}

struct Files {
    ledger: Vec<u8>,
    slots: Vec<u8>,
    settings: BTreeMap<String, String>,
}

impl Files {
    fn read(image: &Path, kind: DataDisk, directory: &str, scratch: &Path) -> Result<Self, InspectError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| InspectError::Io { path, source }
        };
        let scratch = tempfile::Builder::new().prefix("inspect-").tempdir_in(scratch).map_err(io(scratch))?;
        let copy = scratch.path().join("disk.raw");
        run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(image).arg(&copy))?;
        let files = {
            let mounted = Mounted::mount(&copy, kind, &scratch.path().join("mnt"))?;
            let read = |name: &str| {
                let path = mounted.path.join(directory).join(name);
                fs::read(&path).map_err(io(&path))
            };
            let mut settings = BTreeMap::new();
            for path in SETTINGS {
                settings_below(&mounted.path, path, &mut settings).map_err(io(&mounted.path.join(path)))?;
            }
            Self { ledger: read(ledger::FILE)?, slots: read(ledger::SLOTS_FILE)?, settings }
        };
        let mut check = match kind {
            DataDisk::Ext4 => Command::new("/usr/sbin/e2fsck"),
            DataDisk::Xfs => Command::new("/usr/sbin/xfs_repair"),
        };
        match kind {
            DataDisk::Ext4 => check.args(["-f", "-n"]),
            DataDisk::Xfs => check.args(["-n", "-f"]),
        };
        let output = output(check.arg(&copy))?;
        if !output.status.success() {
            let message = said(&output);
            return Err(InspectError::FileSystem { image: copy, command: format!("{check:?}"), message });
        }
        Ok(files)
    }
}

/// Mode and hash of a file or of all files below a directory of a root.
fn settings_below(root: &Path, path: &str, found: &mut BTreeMap<String, String>) -> io::Result<()> {
    let at = root.join(path);
    let Ok(metadata) = at.symlink_metadata() else { return Ok(()) };
    if NOT_SETTINGS.contains(&path) {
        return Ok(());
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(&at)? {
            let name = entry?.file_name();
            settings_below(root, &format!("{path}/{}", name.to_string_lossy()), found)?;
        }
    } else if metadata.is_file() {
        let hash = blake3::hash(&fs::read(&at)?);
        found.insert(path.to_owned(), format!("{:o} {hash}", metadata.permissions().mode()));
    }
    Ok(())
}

/// A mounted copy; unmounted when dropped.
struct Mounted {
    path: PathBuf,
}

impl Mounted {
    fn mount(image: &Path, kind: DataDisk, path: &Path) -> Result<Self, InspectError> {
        fs::create_dir(path).map_err(|source| InspectError::Io { path: path.to_owned(), source })?;
        // Several copies of one file system may be looked at: xfs would refuse the second as a duplicate.
        let options = match kind {
            DataDisk::Ext4 => "loop,noatime",
            DataDisk::Xfs => "loop,noatime,nouuid",
        };
        run(Command::new("mount").args(["-t", kind.name(), "-o", options]).arg(image).arg(path))?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Failing here leaves a mount of a copy: the temporary directory then cannot be removed, which says so.
        let _ = Command::new("umount").arg(&self.path).status();
    }
}

/// Where two images differ first, in bytes; `None`: they are the same, byte for byte.
///
/// # Errors
/// One of them cannot be read.
pub fn first_difference(one: &Path, other: &Path) -> Result<Option<u64>, InspectError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| InspectError::Io { path, source }
    };
    let mut files = [File::open(one).map_err(io(one))?, File::open(other).map_err(io(other))?];
    let (mut first, mut second) = (vec![0; CHUNK_LEN], vec![0; CHUNK_LEN]);
    let mut offset = 0;
    loop {
        let first_len = fill(&mut files[0], &mut first).map_err(io(one))?;
        let second_len = fill(&mut files[1], &mut second).map_err(io(other))?;
        let both = first_len.min(second_len);
        if first[..both] != second[..both] {
            let place = first[..both].iter().zip(&second[..both]).position(|(a, b)| a != b);
            return Ok(Some(offset + place.unwrap_or(both) as u64));
        }
        if first_len != second_len {
            return Ok(Some(offset + both as u64));
        }
        if both == 0 {
            return Ok(None);
        }
        offset += both as u64;
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn run(command: &mut Command) -> Result<(), InspectError> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(());
    }
    Err(InspectError::Tool { command: format!("{command:?}"), message: said(&output) })
}

fn output(command: &mut Command) -> Result<Output, InspectError> {
    command
        .output()
        .map_err(|error| InspectError::Tool { command: format!("{command:?}"), message: error.to_string() })
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, contents: &[u8]| {
            let path = directory.path().join(name);
            fs::write(&path, contents).unwrap();
            path
        };
        let contents = vec![7; 3 * CHUNK_LEN + 11];
        let one = file("one", &contents);
        let mut changed = contents.clone();
        changed[3 * CHUNK_LEN - 1] = 8;
        let at = |other: &[u8]| first_difference(&one, &file("other", other)).unwrap();
        assert_eq!(at(&contents), None);
        assert_eq!(at(&changed), Some(3 * CHUNK_LEN as u64 - 1));
        assert_eq!(at(&contents[..CHUNK_LEN]), Some(CHUNK_LEN as u64));
        assert_eq!(at(&[]), Some(0));
    }
}
