//! A Debian host in a guest, with systemd as its first process: for what only a service manager shows.
//!
//! What it is: [`DebianHost`], the system that `scripts/lab-debian` makes of Debian's packages. What it never does: keep anything; what a guest writes to its
//! system is forgotten with it, so that all start from the same one. It has no network but its loopback interface.
//!
//! The path of one run: a directory of files becomes a disk, which the guest has at `/mnt`; its initramfs gives the script to systemd as a service; the script
//! runs in bash, `-eu`, as soon as the system is up, beside whatever it starts; its exit code is the guest's [`Outcome`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::machine::{self, MachineError};
use crate::prepared::{PreparedError, prepared};
use crate::{Accelerator, Foundation, FoundationError, Guest, GuestError, GuestImage, ImageError, Outcome};

const INIT: &str = include_str!("../guest/debian/init");
const FILES: [(&str, &str); 2] = [
    ("lab/run", include_str!("../guest/debian/run")),
    ("lab/lab.service", include_str!("../guest/debian/lab.service")),
];
/// File systems of its disks, and of views of recovery points.
const MODULES: [&str; 2] = ["xfs", "fuse"];
/// Beside the files themselves, the disk that has them has room for this.
const FILE_SYSTEM_BYTES: u64 = 64 << 20;

/// Why there is no Debian host, or its run came to no end of its own.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// No guest can be run at all.
    #[error(transparent)]
    Foundation(#[from] FoundationError),
    /// The system could not be made.
    #[error(transparent)]
    Prepare(#[from] PreparedError),
    /// Its initramfs could not be made.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The disk with its files could not be made.
    #[error("the disk of a Debian host could not be made")]
    Disk(#[from] MachineError),
    /// Files of the run.
    #[error("the files of a Debian host cannot be used")]
    Files(#[from] io::Error),
    /// The run.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

/// A Debian system to boot.
#[derive(Debug)]
pub struct DebianHost {
    foundation: Foundation,
    accelerator: Accelerator,
    system: PathBuf,
}

impl DebianHost {
    /// Finds it, and makes it when it is not there yet: a download of some 50 MB with apt, by root only.
    ///
    /// # Errors
    /// [`DebianError::Foundation`], [`DebianError::Prepare`].
    pub fn prepare() -> Result<Self, DebianError> {
        let foundation = Foundation::prepare()?;
        let accelerator = Accelerator::detect(&foundation)?;
        let system = prepared("lab-debian", "")?;
        Ok(Self { foundation, accelerator, system })
    }

    /// Boots it, runs `script` in it and waits for its end, `limit` at most. It has what is in the directory `files` at `/mnt`, and empty disks of these sizes
    /// in bytes as `/dev/vdc` and so on (`/dev/disk/by-id/virtio-disk2`, …).
    ///
    /// # Errors
    /// [`DebianError`]; a script that fails is an [`Outcome`].
    pub fn run(
        &self,
        script: &str,
        files: &Path,
        empty_disks: &[u64],
        limit: Duration,
    ) -> Result<Outcome, DebianError> {
        let directory = tempfile::Builder::new().prefix("switchback-debian-").tempdir()?;
        let medium = directory.path().join("files");
        let entries = fs::read_dir(files)?.map(|entry| Ok(entry?.metadata()?.len()));
        let bytes = entries.sum::<io::Result<u64>>()?;
        sparse(&medium, (bytes + FILE_SYSTEM_BYTES).next_multiple_of(1 << 20))?;
        machine::fill_sparse(&medium, files)?;
        let builder = MODULES.iter().fold(GuestImage::builder(script), |builder, name| builder.module(name));
        let builder = FILES.iter().fold(builder, |builder, (path, text)| builder.file(path, *text));
        let image = builder.init(INIT).build(&self.foundation)?;
        let mut guest = Guest::new(&self.foundation, &image, self.accelerator)
            .time_limit(limit)
            .disposable_disk(&self.system)
            .disk(&medium);
        for (index, size) in empty_disks.iter().enumerate() {
            let disk = directory.path().join(format!("empty-{index}"));
            sparse(&disk, *size)?;
            guest = guest.disk(&disk);
        }
        Ok(guest.start()?.wait()?)
    }
}

fn sparse(path: &Path, size: u64) -> io::Result<()> {
    fs::File::create(path)?.set_len(size)
}
