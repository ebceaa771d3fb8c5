//! Real disks for the tests: loop devices, file systems on them, and something to keep them busy.
//!
//! Every guard takes away what it made, also when a test fails. Skipping is only for machines where no test of this
//! kind can run: on Linux as root they all do.
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses its own part")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests say what they do, and fail by panics")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rand::{Rng, SeedableRng};
use switchback_capture::devices::DeviceNumber;
use switchback_capture::ebpf::TrackerConfig;
use switchback_model::{Extent, ExtentSet};

pub(crate) const BLOCK: u64 = 4096;
pub(crate) const MIB: u64 = 1 << 20;

/// Whether this machine can run the test; says loudly why not.
pub(crate) fn can_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: needs root, for loop devices and BPF");
    }
    root
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A loop device on a sparse file.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    pub(crate) node: PathBuf,
    pub(crate) file: tempfile::NamedTempFile,
}

impl LoopDevice {
    pub(crate) fn new(size_bytes: u64) -> Self {
        Self::in_folder(&std::env::temp_dir(), size_bytes)
    }

    pub(crate) fn in_folder(folder: &Path, size_bytes: u64) -> Self {
        let file = tempfile::NamedTempFile::with_prefix_in("switchback-disk-", folder).unwrap();
        file.as_file().set_len(size_bytes).unwrap();
        let node = run("losetup", &["--find", "--show", "--partscan", text(file.path())]);
        Self { node: node.into(), file }
    }

    pub(crate) fn number(&self) -> DeviceNumber {
        DeviceNumber::from_raw(std::fs::metadata(&self.node).unwrap().rdev())
    }

    /// Past the page cache: what is on the disk, and each write is a request when it returns.
    pub(crate) fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&self.node).unwrap()
    }

    pub(crate) fn write(&self, block: u64, byte: u8) {
        self.open().write_all_at(&Page([byte; 4096]).0, block * BLOCK).unwrap();
    }

    pub(crate) fn mkfs(&self, kind: &str) {
        run(&format!("mkfs.{kind}"), &[if kind == "ext4" { "-qF" } else { "-qf" }, text(&self.node)]);
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.node).status();
    }
}

#[repr(align(4096))]
pub(crate) struct Page(pub(crate) [u8; 4096]);

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A mounted file system.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) point: tempfile::TempDir,
}

impl Mounted {
    pub(crate) fn new(node: &Path, options: &str) -> Self {
        let point = tempfile::TempDir::with_prefix("switchback-mount-").unwrap();
        run("mount", &["-o", options, text(node), text(point.path())]);
        Self { point }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(self.point.path()).status();
        if !status.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").arg("-l").arg(self.point.path()).status();
        }
    }
}

/// Threads that do to a file system what busy applications do, until dropped.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(folder: &Path, threads: u64, seed: u64) -> Self {
        println!("load seed {seed}");
        let stop = Arc::new(AtomicBool::new(false));
        let worker = |n: u64| {
            let (stop, folder) = (Arc::clone(&stop), folder.to_owned());
            std::thread::spawn(move || {
                let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed + n);
                while !stop.load(Ordering::Relaxed) {
                    let path = folder.join(format!("file-{n}-{}", random.random_range(0..12)));
                    // The disk may be full, the file gone: that is load too.
                    let _ = one_step(&path, &mut random);
                }
            })
        };
        let threads = (0..threads).map(worker).collect();
        Self { stop, threads }
    }
}

fn one_step(path: &Path, random: &mut rand_chacha::ChaCha8Rng) -> std::io::Result<()> {
    match random.random_range(0..10) {
        0 => std::fs::remove_file(path),
        1 => OpenOptions::new().write(true).open(path)?.set_len(random.random_range(0..MIB)),
        2 => {
            let file = OpenOptions::new().write(true).open(path)?;
            let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, mode, random.random_range(0..MIB), random.random_range(1..MIB))?;
            Ok(())
        }
        _ => {
            let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            let mut data = vec![0; random.random_range(1..60_000)];
            random.fill(&mut data[..]);
            file.seek(SeekFrom::Start(random.random_range(0..MIB)))?;
            file.write_all(&data)?;
            if random.random_bool(0.2) { file.sync_all() } else { Ok(()) }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A name that no other test has, and its pins gone at the end.
#[derive(Debug)]
pub(crate) struct Name(pub(crate) String);

impl Name {
    pub(crate) fn new(test: &str) -> Self {
        Self(format!("test-{test}-{}", std::process::id()))
    }

    pub(crate) fn config(&self, disks: &[&LoopDevice]) -> TrackerConfig {
        let disks = disks.iter().map(|disk| disk.number()).collect();
        TrackerConfig { name: self.0.clone(), disks, new: Vec::new(), last_boot: None }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/switchback").join(&self.0)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        for pin in std::fs::read_dir(self.folder()).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(pin.path());
        }
        let _ = std::fs::remove_dir(self.folder());
    }
}

pub(crate) fn block(number: u64) -> Extent {
    Extent::new(number * BLOCK, BLOCK)
}

pub(crate) fn blocks(numbers: impl IntoIterator<Item = u64>) -> ExtentSet {
    numbers.into_iter().map(block).collect()
}

/// The copy of a disk in a file, brought up to date with changed extents.
#[derive(Debug)]
pub(crate) struct Copy {
    file: File,
}

impl Copy {
    pub(crate) fn of(disk: &LoopDevice) -> Self {
        let copy = Self { file: tempfile::tempfile().unwrap() };
        let size = disk.open().seek(SeekFrom::End(0)).unwrap();
        copy.file.set_len(size).unwrap();
        copy.take(disk, &ExtentSet::from(Extent::new(0, size)));
        copy
    }

    pub(crate) fn take(&self, disk: &LoopDevice, changed: &ExtentSet) {
        let device = disk.open();
        for extent in changed.iter().flat_map(|extent| extent.pieces(MIB)) {
            let mut buffer = Buffer::new(extent.len);
            device.read_exact_at(buffer.bytes(), extent.start).unwrap();
            self.file.write_all_at(buffer.bytes(), extent.start).unwrap();
        }
    }

    /// The blocks that differ.
    pub(crate) fn differences(&self, disk: &LoopDevice) -> ExtentSet {
        let device = disk.open();
        let size = device.metadata().map(|_| (&device).seek(SeekFrom::End(0)).unwrap()).unwrap();
        let mut differences = ExtentSet::new();
        for extent in Extent::new(0, size).pieces(MIB) {
            let (mut a, mut b) = (Buffer::new(extent.len), Buffer::new(extent.len));
            device.read_exact_at(a.bytes(), extent.start).unwrap();
            self.file.read_exact_at(b.bytes(), extent.start).unwrap();
            let pairs = a.bytes().chunks(4096).zip(b.bytes().chunks(4096));
            let changed = (0..).zip(pairs).filter(|(_, (a, b))| a != b);
            differences.extend(changed.map(|(n, _)| block(extent.start / BLOCK + n)));
        }
        differences
    }
}

/// Bytes aligned for direct I/O.
struct Buffer {
    pages: Vec<u8>,
    at: usize,
    len: usize,
}

impl Buffer {
    fn new(len: u64) -> Self {
        let len = usize::try_from(len).unwrap();
        let pages = vec![0; len + 4096];
        let at = pages.as_ptr().align_offset(4096);
        Self { pages, at, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.pages[self.at..self.at + self.len]
    }
}

/// A line, or what came of it before the writer was gone.
pub(crate) fn read_line(reader: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while reader.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// The program of `agent.rs`.
pub(crate) fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_capture-test-agent"));
    command.args(arguments);
    command
}

/// An agent process, killed when dropped.
#[derive(Debug)]
pub(crate) struct Agent(pub(crate) std::process::Child);

impl Agent {
    /// Starts it and waits for its first line.
    pub(crate) fn start(arguments: &[&str]) -> (Self, String) {
        let child = agent(arguments).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut agent = Self(child);
        let line = read_line(agent.0.stdout.as_mut().unwrap());
        (agent, line)
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
