//! What is mounted: by what is on a disk, never by where the disk is.
//!
//! The path of one line: its first field is looked at alone; one that names a place is replaced by the UUID that `blkid` finds there, if no other device has the same.
//! Everything else stays byte for byte, and the file as it was before the first change stays beside it.

use std::time::Duration;

use switchback_model::{CheckState, ReadinessCheck};

use super::Guest;

pub(super) const CODE: &str = "guest.fstab";
const CHECK: (&str, &str) = (CODE, "File systems are mounted by what is on the disks");
pub(super) const FILE: &str = "/etc/fstab";
/// As it was.
const BEFORE: &str = "/etc/fstab.before-switchback";
const BLKID_MAX: Duration = Duration::from_mins(1);

/// Whether a device's name says where it is: which controller, which place, which serial number. UUIDs, labels and what the device mapper and LVM name go along.
pub(super) fn names_a_place(device: &str) -> bool {
    let Some(name) = device.strip_prefix("/dev/") else { return false };
    let numbered = |rest: &str, first: fn(&u8) -> bool| rest.as_bytes().first().is_some_and(first);
    let lettered = ["sd", "vd", "hd", "xvd"].iter().filter_map(|prefix| name.strip_prefix(prefix));
    let of_hardware =
        |rest: &str| !rest.starts_with("dm-") && !rest.starts_with("lvm-") && !rest.starts_with("md-");
    lettered.into_iter().any(|rest| numbered(rest, u8::is_ascii_lowercase) && is_disk_name(rest))
        || name.strip_prefix("nvme").is_some_and(|rest| numbered(rest, u8::is_ascii_digit))
        || name.starts_with("disk/by-path/")
        || name.strip_prefix("disk/by-id/").is_some_and(of_hardware)
}

/// Letters, and a partition's number: `a`, `aa12`.
fn is_disk_name(rest: &str) -> bool {
    let number = rest.trim_start_matches(|letter: char| letter.is_ascii_lowercase());
    number.bytes().all(|byte| byte.is_ascii_digit())
}

/// A line that mounts something, from its device's name on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mount<'a> {
    device: &'a str,
    at: &'a str,
    /// The machine comes up without it.
    optional: bool,
}

fn mount(line: &str) -> Option<Mount<'_>> {
    let mut fields = line.split_whitespace();
    let device = fields.next().filter(|device| !device.starts_with('#'))?;
    let (at, options) = (fields.next()?, fields.nth(1).unwrap_or_default());
    let optional = options.split(',').any(|option| matches!(option, "noauto" | "nofail"));
    Some(Mount { device, at, optional })
}

/// Looks at what is mounted.
pub(super) fn check(guest: &Guest) -> ReadinessCheck {
    let text = match guest.root.read(FILE) {
        Ok(text) => text,
        Err(error) => {
            let cause = "its text is not UTF-8, or it cannot be read";
            return ReadinessCheck::raised(CheckState::Unknown, CHECK, error, cause, "see to the file");
        }
    };
    let mounts: Vec<_> = text.lines().filter_map(mount).collect();
    let places: Vec<_> = mounts.iter().filter(|mount| names_a_place(mount.device)).collect();
    if places.is_empty() {
        return ReadinessCheck::passed(CHECK.0, CHECK.1, format!("{} lines", mounts.len()));
    }
    let all_optional = places.iter().all(|mount| mount.optional);
    let state = if all_optional { CheckState::Warning } else { CheckState::Failed };
    let shown: Vec<_> = places.iter().map(|mount| format!("{} at {}", mount.device, mount.at)).collect();
    ReadinessCheck::raised(
        state,
        CHECK,
        shown.join(", "),
        "disks have other names at Azure, and another order at each start: the machine would stop at a prompt, or mount another disk",
        "write UUID=… (see `blkid`), LABEL=… or a name of LVM instead, in /etc/fstab",
    )
}

/// Names by UUID what is named by its place.
pub(super) fn prepare(guest: &Guest) -> Result<(), String> {
    let before = guest.root.read(FILE)?;
    let (mut after, mut left) = (String::with_capacity(before.len()), Vec::new());
    for line in before.split_inclusive('\n') {
        let device = mount(line).map(|mount| mount.device).filter(|device| names_a_place(device));
        match device.map(|device| (device, uuid(guest, device))) {
            None => after.push_str(line),
            Some((device, Ok(uuid))) => {
                after.push_str(&line.replacen(device, &format!("UUID={uuid}"), 1));
            }
            Some((device, Err(why))) => {
                after.push_str(line);
                left.push(format!("{device}: {why}"));
            }
        }
    }
    if after != before {
        if !guest.root.has(BEFORE) {
            guest.root.replace(BEFORE, &before)?;
        }
        guest.root.replace(FILE, &after)?;
    }
    if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
}

/// The UUID of what is on a device, if no other device has it.
fn uuid(guest: &Guest, device: &str) -> Result<String, String> {
    let blkid = guest.root.program("blkid").ok_or("there is no `blkid`")?;
    // Not from its cache: that may tell of yesterday.
    let ask = |words: &[&str]| {
        let all: Vec<_> = [blkid.as_str(), "-c", "/dev/null", "-o"].iter().chain(words).copied().collect();
        guest.commands.run(&all, BLKID_MAX)
    };
    let uuid = ask(&["value", "-s", "UUID", device])
        .map_err(|_| "nothing with a UUID is there that `blkid` knows".to_owned())?;
    let is_plain = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    if uuid.is_empty() || !uuid.bytes().all(is_plain) {
        return Err("what is there has no UUID".into());
    }
    let devices = ask(&["device", "-t", &format!("UUID={uuid}")])?;
    match devices.lines().count() {
        1 => Ok(uuid),
        count => Err(format!("{count} devices have the UUID {uuid}: one is a copy of the other")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Mount, mount, names_a_place};

    #[test]
    fn names_of_places_are_told_from_names_of_contents() {
        for place in [
            "/dev/sda1",
            "/dev/sdaa",
            "/dev/vdb",
            "/dev/hda3",
            "/dev/xvda1",
            "/dev/nvme0n1p2",
            "/dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:0:0-part1",
            "/dev/disk/by-id/wwn-0x6000c29-part1",
        ] {
            assert!(names_a_place(place), "{place}");
        }
        for content in [
            "UUID=0a-1b",
            "LABEL=data",
            "PARTUUID=1",
            "/dev/mapper/vg-root",
            "/dev/vg0/root",
            "/dev/disk/by-uuid/1",
            "/dev/disk/by-label/d",
            "/dev/disk/by-id/dm-name-vg-root",
            "/dev/md0",
            "/dev/sr0",
            "/dev/vdata/lv",
            "/dev/sdata/lv",
            "proc",
            "tmpfs",
            "server:/export",
            "//server/share",
        ] {
            assert!(!names_a_place(content), "{content}");
        }
    }

    #[test]
    fn a_line_is_what_it_mounts_and_whether_the_machine_needs_it() {
        let line = "/dev/sdb1\t/data  ext4 defaults,nofail 0 2\n";
        assert_eq!(mount(line), Some(Mount { device: "/dev/sdb1", at: "/data", optional: true }));
        assert!(!mount("/dev/sda1 / ext4 defaults 0 1").unwrap().optional);
        assert_eq!(mount("# /dev/sda1 / ext4"), None);
        assert_eq!(mount("   "), None);
    }
}
