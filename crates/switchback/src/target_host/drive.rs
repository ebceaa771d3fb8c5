//! The retention drive: a whole disk with one GPT partition and XFS on it, both with our names.
//!
//! Invariant: nothing is written to a disk unless it was found to be empty (no partitions, no signature of any kind, nobody uses it), or to be
//! what an earlier run left: a partition of our name without a file system. Everything else is refused with what was found.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use switchback_model::{ByteSize, JobError};

use super::facts::value;
use super::{LOOK_TIME_MAX, command};

/// The partition's name, UEFI 2.10, table 5.6 (at most 36 characters).
pub const PARTITION_NAME: &str = "switchback-retention";
/// The file system's label; XFS has room for 12 characters, xfs_admin(8).
pub const LABEL: &str = "sb-retention";
/// Smallest drive in bytes: below 300 MiB, mkfs.xfs(8) refuses.
const SIZE_MIN: u64 = 512 << 20;
/// Making a file system on a large drive that discards slowly.
const FORMAT_TIME_MAX: Duration = Duration::from_secs(30 * 60);
/// How long a new partition may take to appear.
const APPEAR_TIME_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drive {
    /// Nothing is on it, and nobody uses it.
    Empty,
    /// Has our partition, without a file system.
    Partitioned {
        /// Its node.
        partition: PathBuf,
    },
    /// The retention drive.
    Ours {
        /// The partition's node.
        partition: PathBuf,
        /// Of the file system.
        uuid: String,
    },
}

/// An error with what to do.
pub(super) fn error(code: &str, message: String, cause: &str, remedy: &str) -> JobError {
    JobError { code: code.into(), message, cause: cause.into(), remedy: remedy.into() }
}

/// Something is on it.
fn refused(device: &Path, found: &str) -> JobError {
    error(
        "master-target.retention-drive",
        format!("{} is not taken as the retention drive: {found}", device.display()),
        "it is another disk than meant, or it was used before",
        "name an empty disk; if this is the one and nothing on it is needed, empty it first: `wipefs --all DEVICE`",
    )
}

/// It cannot be looked at, or is nothing that could be one, or somebody has it.
fn unfit(device: &Path, found: &str) -> JobError {
    JobError {
        cause: "it is another disk than meant".into(),
        remedy: "name a whole disk that nobody uses, as /dev/disk/by-id/…; `lsblk --output NAME,SIZE,WWN,MOUNTPOINTS` lists them".into(),
        ..refused(device, found)
    }
}

/// Runs a program that must succeed.
pub(super) fn run(
    program: &str,
    arguments: &[&str],
    input: &str,
    limit: Duration,
) -> Result<String, JobError> {
    let failed = |found: String| {
        let shown = format!("{program} {}", arguments.join(" "));
        error(
            "master-target.program",
            format!("`{shown}` failed: {found}"),
            "see its message",
            "run it by hand, and then this again",
        )
    };
    let ran = command::run(program, arguments, input, limit).map_err(|error| failed(error.to_string()))?;
    if ran.code == Some(0) {
        return Ok(ran.output);
    }
    let said = if ran.errors.trim().is_empty() { ran.output } else { ran.errors };
    let lines: Vec<_> = said.trim().lines().collect();
    Err(failed(lines[lines.len().saturating_sub(5)..].join("; ")))
}

#[derive(Debug, Deserialize)]
struct Listing {
    partitiontable: Table,
}

#[derive(Debug, Deserialize)]
struct Table {
    #[serde(default)]
    partitions: Vec<Part>,
}

#[derive(Debug, Deserialize)]
struct Part {
    node: PathBuf,
    /// In sectors of the disk.
    start: u64,
    size: u64,
    #[serde(default)]
    name: String,
}

/// The one partition of a drive of ours, from what `sfdisk --json` says.
fn our_partition(listing: &str) -> Result<Part, String> {
    let listing: Listing = serde_json::from_str(listing)
        .map_err(|error| format!("its partitions cannot be understood ({error})"))?;
    let mut parts = listing.partitiontable.partitions;
    match (parts.len(), parts.pop()) {
        (1, Some(part)) if part.name == PARTITION_NAME => Ok(part),
        (0, _) => Err("it has a partition table".into()),
        (count, _) => Err(format!("it has {count} partitions of others")),
    }
}

/// Looks at a disk, and changes nothing.
///
/// # Errors
/// When it is something else, or is in use by others; with what was found.
pub fn judge(device: &Path) -> Result<Drive, JobError> {
    let no = |found: &str| refused(device, found);
    let unfit = |found: &str| unfit(device, found);
    let node = fs::canonicalize(device).map_err(|error| unfit(&format!("it cannot be found ({error})")))?;
    let name = node.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let sys = Path::new("/sys/class/block").join(name);
    let is_block = fs::metadata(&node).is_ok_and(|metadata| metadata.file_type().is_block_device());
    if !is_block || !sys.exists() {
        return Err(unfit("it is no block device"));
    }
    if sys.join("partition").exists() {
        return Err(unfit("it is a partition, not a whole disk"));
    }
    let number =
        |file: &str| fs::read_to_string(sys.join(file)).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let (size, sector) =
        (number("size").unwrap_or(0) * 512, number("queue/logical_block_size").unwrap_or(512));
    if number("ro") != Some(0) || size < SIZE_MIN {
        let size = ByteSize(size);
        return Err(unfit(&format!("it has {size} or is read-only; it needs {}", ByteSize(SIZE_MIN))));
    }
    let probed = probe(&node, None).map_err(|found| unfit(&found))?;
    if probed.is_empty() {
        is_free(&node).map_err(|found| unfit(&found))?;
        return Ok(Drive::Empty);
    }
    if value(&probed, "PTTYPE") != "gpt" || !value(&probed, "TYPE").is_empty() {
        return Err(no(&described(&probed)));
    }
    let listing = run("sfdisk", &["--json", &node.to_string_lossy()], "", LOOK_TIME_MAX)?;
    let part = our_partition(&listing).map_err(|found| no(&found))?;
    let within = probe(&node, Some((part.start * sector, part.size * sector))).map_err(|found| no(&found))?;
    let (kind, label) = (value(&within, "TYPE"), value(&within, "LABEL"));
    match (within.is_empty(), kind, label) {
        (true, ..) => {
            is_free(&node).map_err(|found| unfit(&found))?;
            Ok(Drive::Partitioned { partition: part.node })
        }
        (_, "xfs", LABEL) => {
            Ok(Drive::Ours { partition: part.node, uuid: value(&within, "UUID").to_owned() })
        }
        _ => Err(no(&format!("its partition has our name, but {}", described(&within)))),
    }
}

/// What blkid(8) finds by reading, on the whole or in a range of bytes; empty when there is nothing.
fn probe(node: &Path, range: Option<(u64, u64)>) -> Result<String, String> {
    // Its exit code for "nothing" is also the one for "cannot be read".
    let mut start = [0; 512];
    let mut file = fs::File::open(node).map_err(|error| format!("it cannot be opened ({error})"))?;
    file.seek(SeekFrom::Start(range.map_or(0, |(start, _)| start)))
        .and_then(|_| file.read_exact(&mut start))
        .map_err(|error| format!("it cannot be read ({error})"))?;
    let node = node.to_string_lossy();
    let (offset, size) =
        range.map_or((String::new(), String::new()), |(o, s)| (o.to_string(), s.to_string()));
    let mut arguments = vec!["--probe", "--output", "export"];
    if range.is_some() {
        arguments.extend(["--offset", &offset, "--size", &size]);
    }
    arguments.push(&node);
    let ran =
        command::run("blkid", &arguments, "", LOOK_TIME_MAX).map_err(|error| format!("blkid: {error}"))?;
    match ran.code {
        Some(0) => Ok(ran.output),
        Some(2) => Ok(String::new()),
        _ => Err(format!("it is unclear what is on it (blkid: {})", ran.errors.trim())),
    }
}

fn described(probed: &str) -> String {
    let (kind, table, label) = (value(probed, "TYPE"), value(probed, "PTTYPE"), value(probed, "LABEL"));
    match (kind, table) {
        ("", "") => "something is on it".into(),
        ("", table) => format!("it has a partition table ({table})"),
        (kind, _) => format!("it holds {kind} {label:?}"),
    }
}

/// Whether nobody has it: a mount, LVM, RAID, a running machine of ours; on itself or its partitions.
fn is_free(node: &Path) -> Result<(), String> {
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::open(node, flags, Mode::empty()) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("it is in use ({error})")),
    }
}

/// Gives an empty disk its partition.
pub(super) fn partition(device: &Path) -> Result<(), JobError> {
    let script = format!("label: gpt\nname=\"{PARTITION_NAME}\"\n");
    let node = fs::canonicalize(device).map_err(|error| refused(device, &error.to_string()))?;
    run("sfdisk", &["--quiet", "--wipe", "never", &node.to_string_lossy()], &script, LOOK_TIME_MAX * 3)
        .map(drop)
}

/// Makes the file system. mkfs.xfs itself refuses what has one.
pub(super) fn format(device: &Path, partition: &Path) -> Result<(), JobError> {
    appear(device, partition)?;
    run("mkfs.xfs", &["-q", "-L", LABEL, &partition.to_string_lossy()], "", FORMAT_TIME_MAX).map(drop)
}

/// Waits for a partition's node; where the kernel did not read the table anew, it is told.
pub(super) fn appear(device: &Path, partition: &Path) -> Result<(), JobError> {
    let started = Instant::now();
    let mut told = false;
    while !fs::metadata(partition).is_ok_and(|metadata| metadata.file_type().is_block_device()) {
        if started.elapsed() > APPEAR_TIME_MAX {
            let message = format!("{} did not appear", partition.display());
            return Err(error(
                "master-target.partition",
                message,
                "the kernel or udev has not seen it",
                "restart, and run this again",
            ));
        }
        if !told && started.elapsed() > LOOK_EVERY * 5 {
            let node = fs::canonicalize(device).unwrap_or_else(|_| device.to_owned());
            run("partx", &["--update", &node.to_string_lossy()], "", LOOK_TIME_MAX)?;
            told = true;
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{described, our_partition};

    #[test]
    fn only_a_lone_partition_of_our_name_is_ours() {
        let part = |name: &str| {
            format!(r#"{{"node": "/dev/sdb1", "start": 2048, "size": 10, "type": "x", "name": "{name}"}}"#)
        };
        let table = |parts: &[String]| {
            our_partition(&format!(
                r#"{{"partitiontable": {{"label": "gpt", "partitions": [{}]}}}}"#,
                parts.join(",")
            ))
        };
        assert_eq!(table(&[part("switchback-retention")]).unwrap().start, 2048);
        assert!(table(&[part("data")]).unwrap_err().contains("1 partitions of others"));
        assert!(table(&[part("data"), part("switchback-retention")]).unwrap_err().contains("2 partitions"));
        assert!(
            our_partition(r#"{"partitiontable": {"label": "gpt"}}"#).unwrap_err().contains("partition table")
        );
        assert!(our_partition("no").is_err());
    }

    #[test]
    fn what_was_found_is_told() {
        assert_eq!(described("TYPE=ext4\nLABEL=data\n"), "it holds ext4 \"data\"");
        assert_eq!(described("PTTYPE=dos\n"), "it has a partition table (dos)");
    }
}
