//! One run of a guest: started, limited in time, and judged by what its script ends with.
//!
//! The disks are raw files of the host, in the guest `/dev/vda`, `/dev/vdb` and so on in the order they were added. They pass flushes and
//! discards on, and a discarded range reads as zero. The console goes to a file that is read when the guest is over. A guest never outlives
//! its [`RunningGuest`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::image::RESULT_PREFIX;
use crate::{Accelerator, Foundation, GuestImage};

/// How often a running guest is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How much of the console an error shows: a kernel's panic takes some fifty lines, and what led to it stands above them.
const CONSOLE_LINES_SHOWN: usize = 120;

/// Why a guest did not come to an end of its own.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// QEMU could not be started.
    #[error("cannot start the guest's QEMU, {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The guest was stopped because its time was over.
    #[error("the guest was not done after {} s and was stopped; the end of its console:\n{console}", limit.as_secs())]
    TimeLimit {
        /// The limit it had.
        limit: Duration,
        /// The last lines of its console.
        console: String,
    },
    /// The guest ended without a result: a kernel that panicked, or a QEMU that refused its arguments.
    #[error(
        "the guest ended without a result ({status}); QEMU says: {message}\nthe end of its console:\n{console}"
    )]
    NoResult {
        /// QEMU's exit status.
        status: ExitStatus,
        /// What QEMU printed.
        message: String,
        /// The last lines of the guest's console.
        console: String,
    },
    /// The guest's files could not be written or read.
    #[error("cannot use the guest's files in the temporary directory")]
    Files(#[source] io::Error),
}

/// A guest to be started.
#[derive(Debug)]
pub struct Guest<'a> {
    foundation: &'a Foundation,
    image: &'a GuestImage,
    accelerator: Accelerator,
    /// Each with whether it forgets what is written.
    disks: Vec<(PathBuf, bool)>,
    memory_mib: u32,
    time_limit: Duration,
}

impl<'a> Guest<'a> {
    /// A guest with two processors, 1 GiB of memory and five minutes.
    #[must_use]
    pub fn new(foundation: &'a Foundation, image: &'a GuestImage, accelerator: Accelerator) -> Self {
        let time_limit = Duration::from_secs(300);
        Self { foundation, image, accelerator, disks: Vec::new(), memory_mib: 1024, time_limit }
    }

    /// Adds a disk, a raw file of the host whose length is a multiple of 512.
    #[must_use]
    pub fn disk(mut self, path: &Path) -> Self {
        self.disks.push((path.to_owned(), false));
        self
    }

    /// Adds a disk that begins as this raw file, which is not written to: what the guest writes is gone with it.
    #[must_use]
    pub fn disposable_disk(mut self, path: &Path) -> Self {
        self.disks.push((path.to_owned(), true));
        self
    }

    /// Sets the size of the memory.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Sets how long the guest may run.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Powers the guest on.
    ///
    /// # Errors
    /// [`GuestError::Start`], [`GuestError::Files`].
    pub fn start(self) -> Result<RunningGuest, GuestError> {
        let files =
            tempfile::Builder::new().prefix("switchback-guest-").tempdir().map_err(GuestError::Files)?;
        let messages = fs::File::create(files.path().join("qemu")).map_err(GuestError::Files)?;
        let program = self.foundation.qemu();
        let mut command = Command::new(&program);
        command
            .args(self.accelerator.arguments())
            .args(["-nodefaults", "-no-reboot", "-display", "none", "-smp", "2", "-device", "virtio-rng-pci"])
            .args(["-m", &self.memory_mib.to_string()])
            .arg("-kernel")
            .arg(self.foundation.kernel())
            .arg("-initrd")
            .arg(self.image.path())
            // A panic reboots at once, which with -no-reboot ends QEMU.
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .arg("-serial")
            .arg(format!("file:{}", escaped(&files.path().join("console"))))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(messages);
        for (index, (disk, disposable)) in self.disks.iter().enumerate() {
            let snapshot = if *disposable { "on" } else { "off" };
            let drive = format!(
                "file={},if=none,id=disk{index},format=raw,discard=unmap,snapshot={snapshot}",
                escaped(disk)
            );
            command.args([
                "-drive",
                &drive,
                "-device",
                &format!("virtio-blk-pci,drive=disk{index},serial=disk{index}"),
            ]);
        }
        let child = command.spawn().map_err(|source| GuestError::Start { program, source })?;
        Ok(RunningGuest { child, files, started: Instant::now(), time_limit: self.time_limit })
    }
}

/// A file name as QEMU's options want it: a comma is written twice.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// A guest that is powered on. Dropping it is pulling its plug.
#[derive(Debug)]
pub struct RunningGuest {
    child: Child,
    files: tempfile::TempDir,
    started: Instant,
    time_limit: Duration,
}

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `ok`, or `failed` and the script's exit code.
    pub result: String,
    /// Everything the guest printed.
    pub console: String,
}

impl Outcome {
    /// Whether the script came to its end without a failing command.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.result == "ok"
    }

    /// What the script printed after `prefix`, line by line: the way for a script to tell facts.
    pub fn facts<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.console.lines().filter_map(move |line| line.trim_end().strip_prefix(prefix))
    }
}

impl RunningGuest {
    /// Waits until the guest has powered itself off.
    ///
    /// # Errors
    /// [`GuestError::TimeLimit`] (the guest is stopped then), [`GuestError::NoResult`].
    pub fn wait(mut self) -> Result<Outcome, GuestError> {
        let status = loop {
            if let Some(status) = self.child.try_wait().map_err(GuestError::Files)? {
                break status;
            }
            if self.started.elapsed() > self.time_limit {
                return Err(GuestError::TimeLimit {
                    limit: self.time_limit,
                    console: last_lines(&self.console()),
                });
            }
            std::thread::sleep(POLL_INTERVAL);
        };
        let console = self.console();
        let result = console.lines().rev().find_map(|line| line.strip_prefix(RESULT_PREFIX));
        match result {
            Some(result) => Ok(Outcome { result: result.trim_end().to_owned(), console }),
            None => Err(GuestError::NoResult {
                status,
                message: self.read("qemu"),
                console: last_lines(&console),
            }),
        }
    }

    /// What the guest has printed so far.
    #[must_use]
    pub fn console(&self) -> String {
        self.read("console").replace('\r', "")
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.files.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for RunningGuest {
    fn drop(&mut self) {
        // Both fail only when the guest is over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_lines(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES_SHOWN)..].join("\n")
}
