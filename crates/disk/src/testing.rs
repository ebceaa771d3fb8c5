//! What tests need of the machine they run on: loop devices. For tests only; needs root.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};

/// How often attaching is tried: tests run in parallel, and between finding a free device and taking it
/// another test may have taken it.
const ATTACH_TRIES: u32 = 20;

/// What a loop device shows.
#[derive(Clone, Debug)]
pub enum Backing {
    /// This file, which stays.
    File(PathBuf),
    /// A new sparse file of so many bytes, which goes with the device.
    Bytes(u64),
}

impl From<u64> for Backing {
    fn from(bytes: u64) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&Path> for Backing {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<PathBuf> for Backing {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// A block device, detached when dropped.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// Attaches a device with logical sectors of `sector_size` bytes (512 to 4096).
    ///
    /// # Errors
    /// When `losetup` is missing or fails, which it does for anyone but root.
    pub fn new(backing: impl Into<Backing>, sector_size: u32) -> io::Result<Self> {
        match backing.into() {
            Backing::File(path) => Self::attach(&path, sector_size),
            Backing::Bytes(bytes) => {
                let path = scratch_file(bytes)?;
                let device = Self::attach(&path, sector_size);
                // Attached, the device keeps the file; so it is gone also when this process dies.
                fs::remove_file(&path)?;
                device
            }
        }
    }

    fn attach(backing: &Path, sector_size: u32) -> io::Result<Self> {
        let mut tries = 1;
        loop {
            let output = Command::new("losetup")
                .args(["--find", "--show", "--sector-size", &sector_size.to_string()])
                .arg(backing)
                .output()?;
            match printed(&output) {
                Ok(path) => return Ok(Self { path: PathBuf::from(path) }),
                Err(error) if tries == ATTACH_TRIES => return Err(error),
                Err(_) => tries += 1,
            }
        }
    }

    /// The device, `/dev/loopN`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the device take on the present size of its file; cut to nothing before, it is as if the
    /// device had been pulled out.
    ///
    /// # Errors
    /// Those of `losetup`.
    pub fn resize_to_file(&self) -> io::Result<()> {
        printed(&Command::new("losetup").arg("--set-capacity").arg(&self.path).output()?).map(drop)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // While something still has it open, the kernel detaches it at the last close. Nothing to be done
        // about an error here; the test has ended.
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).output();
    }
}

/// What a successful command printed, without the line's end.
fn printed(output: &Output) -> io::Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    Err(io::Error::other(format!("losetup failed: {message}")))
}

fn scratch_file(bytes: u64) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("switchback-loop-{}-{number}.img", std::process::id()));
    let file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.set_len(bytes)?;
    Ok(path)
}
