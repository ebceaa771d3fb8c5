//! Image files: made, laid over each other, merged, removed; each change durable when the call returns.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest time to make an overlay: it writes some hundred kilobytes.
const CREATE_LIMIT: Duration = Duration::from_secs(60);
/// Longest time to merge an overlay: some TB.
const MERGE_LIMIT: Duration = Duration::from_secs(6 * 3600);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Bytes of an image or block device.
pub(super) fn size(path: &Path) -> io::Result<u64> {
    let metadata = fs::metadata(path)?;
    if metadata.file_type().is_block_device() {
        return File::open(path)?.seek(SeekFrom::End(0));
    }
    Ok(metadata.len())
}

/// Makes a raw image of zeros that takes no room yet. One that is there is made anew.
pub(super) fn create_raw(path: &Path, size: u64) -> io::Result<()> {
    let file = File::create(path)?;
    file.set_len(size)?;
    file.sync_all()?;
    sync_directory_of(path)
}

/// Makes an empty layer over `below`. One that is there is made anew.
pub(super) fn create_layer(
    qemu_img: &Path,
    path: &Path,
    below: &Path,
    below_is_raw: bool,
    size: u64,
) -> io::Result<()> {
    let mut command = Command::new(qemu_img);
    command.args(["create", "-q", "-f", "qcow2", "-F", if below_is_raw { "raw" } else { "qcow2" }, "-b"]);
    command.arg(below).arg(path).arg(size.to_string());
    run(command, CREATE_LIMIT)?;
    File::open(path)?.sync_all()?;
    sync_directory_of(path)
}

/// Writes the contents of `chain`'s last image into the one below it, from which it is not taken away: merged again, it is the same. `chain`:
/// the raw image and its layers, oldest first.
pub(super) fn merge_down(qemu_img: &Path, chain: &[&Path]) -> io::Result<()> {
    let [.., below, _] = chain else { return Err(ErrorKind::InvalidInput.into()) };
    let mut command = Command::new(qemu_img);
    command.args(["commit", "-q", "-d"]).arg(format!("json:{}", described(chain)));
    run(command, MERGE_LIMIT)?;
    sync(below)
}

/// A chain of images as QEMU opens it, whatever the files themselves say.
fn described(chain: &[&Path]) -> Value {
    let file = |path: &Path| json!({ "driver": "file", "filename": path });
    chain.iter().enumerate().fold(Value::Null, |below, (index, path)| {
        if index == 0 {
            json!({ "driver": "raw", "file": file(path) })
        } else {
            json!({ "driver": "qcow2", "file": file(path), "backing": below })
        }
    })
}

/// Tells a layer what it now lies on: only for people with `qemu-img info`; we follow `machine.toml`.
pub(super) fn retitle(qemu_img: &Path, layer: &Path, below: &Path, below_is_raw: bool) -> io::Result<()> {
    let mut command = Command::new(qemu_img);
    command.args(["rebase", "-q", "-u", "-F", if below_is_raw { "raw" } else { "qcow2" }, "-b"]);
    command.arg(below).arg(layer);
    run(command, CREATE_LIMIT)
}

/// Makes what was written to a file durable, also by another process.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::options().read(true).write(true).open(path)?.sync_all()
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the names in a file's directory durable.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()
}

/// Makes a directory that may be there already, and its name durable.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_directory_of(path)
}

/// Bytes that can be written to a file system, and its size.
pub(super) fn room(directory: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(directory)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// Layers in `directory` that are not in `known`.
pub(super) fn unknown_layers(directory: &Path, known: &[&Path]) -> io::Result<Vec<PathBuf>> {
    let mut unknown = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("disk-") && name.ends_with(".qcow2") && !known.contains(&path.as_path()) {
            unknown.push(path);
        }
    }
    Ok(unknown)
}

/// Runs `qemu-img`.
fn run(mut command: Command, limit: Duration) -> io::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{program} cannot be started ({error}); it is part of the package qemu-utils"),
        )
    })?;
    if !wait(&mut child, limit)? {
        child.kill()?;
        child.wait()?;
        let message = format!("{program} was not done after {} s", limit.as_secs());
        return Err(io::Error::new(ErrorKind::TimedOut, message));
    }
    // It says a line or two, which fit into the pipe.
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind = if said.contains("No space left") { ErrorKind::StorageFull } else { ErrorKind::Other };
    Err(io::Error::new(kind, format!("{program} ended with {}: {said}", output.status)))
}

fn wait(child: &mut Child, limit: Duration) -> io::Result<bool> {
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > limit {
            return Ok(false);
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(true)
}
