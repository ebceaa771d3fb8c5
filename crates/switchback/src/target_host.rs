//! The host of a master target: looked at ([`checks`]) and made ready ([`prepare`]).
//!
//! What it is: what Azure Site Recovery leaves to a page of instructions. What it never does: touch the network's configuration, write to a
//! disk that it was not told of, or to one that holds anything but its own retention drive.
//!
//! The path of one thing through it: facts are read from procfs, sysfs and `/etc` (under a root, so that tests bring their own); a check
//! judges them; a step of [`prepare`] says whether there is something to do, does it, and is asked again whether there still is.

pub mod checks;
mod command;
pub mod drive;
mod environment;
mod facts;
mod fstab;
mod lvm;
mod packages;
pub mod prepare;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a program that only looks may take.
const LOOK_TIME_MAX: Duration = Duration::from_secs(20);
/// Where programs are; `sbin` is not in everybody's `PATH`.
const PROGRAM_FOLDERS: &[&str] = &["usr/sbin", "usr/bin", "sbin", "bin", "usr/local/sbin", "usr/local/bin"];

/// A Linux system.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
    fstab: PathBuf,
}

impl Host {
    /// The one that this process runs in.
    #[must_use]
    pub fn this() -> Self {
        Self::at("/")
    }

    /// One whose files are below `root`. No programs are run for it unless that is `/`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { fstab: root.join("etc/fstab"), root }
    }

    /// The same, with another table of file systems.
    #[must_use]
    pub fn with_fstab(self, fstab: impl Into<PathBuf>) -> Self {
        Self { fstab: fstab.into(), ..self }
    }

    /// `relative` is without the leading slash.
    fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// A file's text without white space around it; empty when it cannot be read.
    fn text(&self, relative: impl AsRef<Path>) -> String {
        fs::read_to_string(self.path(relative)).map(|text| text.trim().to_owned()).unwrap_or_default()
    }

    /// Names in a directory, sorted; none when it cannot be read.
    fn names(&self, relative: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(relative)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        names
    }

    fn has(&self, relative: impl AsRef<Path>) -> bool {
        self.path(relative).exists()
    }

    fn has_program(&self, name: &str) -> bool {
        PROGRAM_FOLDERS.iter().any(|folder| self.has(Path::new(folder).join(name)))
    }

    fn is_this(&self) -> bool {
        self.root == Path::new("/")
    }

    /// What a program that only looks says; `None` when it is not there, fails, or would look at another system.
    fn ask(&self, program: &str, arguments: &[&str]) -> Option<String> {
        if !self.is_this() || !self.has_program(program) {
            return None;
        }
        let ran = command::run(program, arguments, "", LOOK_TIME_MAX).ok()?;
        (ran.code == Some(0)).then(|| ran.output.trim().to_owned())
    }
}
