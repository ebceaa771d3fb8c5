//! What the system says about itself: its distribution, mounts and disks. Only read.

use std::path::Path;

use super::Host;

/// The values of a file of `KEY=VALUE` lines, os-release(5), `blkid -o export`.
pub(super) fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let found = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_default().trim_matches(['"', '\''])
}

/// A line of `/proc/self/mountinfo`, proc_pid_mountinfo(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// `MAJOR:MINOR`.
    pub(super) device: String,
    pub(super) mount_point: String,
    pub(super) file_system: String,
    pub(super) source: String,
}

/// `\040` and the like, as the kernel writes white space.
pub(super) fn unescaped(text: &str) -> String {
    let spaces = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    spaces.iter().fold(text.to_owned(), |text, (code, letter)| text.replace(code, letter))
}

/// All mounts, in the order in which they were made.
pub(super) fn mounts(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let (left, mut right) = (left.split(' ').collect::<Vec<_>>(), right.split(' '));
        Some(Mount {
            device: (*left.get(2)?).to_owned(),
            mount_point: unescaped(left.get(4)?),
            file_system: right.next()?.to_owned(),
            source: unescaped(right.next()?),
        })
    };
    text.lines().filter_map(mount).collect()
}

impl Host {
    pub(super) fn mounts(&self) -> Vec<Mount> {
        mounts(&self.text("proc/self/mountinfo"))
    }
}

/// A whole disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) name: String,
    pub(super) size_bytes: u64,
    /// What it calls itself to the whole world; empty if it does not.
    pub(super) wwid: String,
    /// Its best name below `/dev/disk/by-id`; empty if it has none.
    pub(super) by_id: String,
    pub(super) mounted: Vec<String>,
    /// What lies above it or its partitions: LVM, RAID, encryption.
    pub(super) used_by: Vec<String>,
}

/// Disks, in the kernel's order; not memory, files, media, or what lies above disks.
pub(super) fn disks(host: &Host) -> Vec<Disk> {
    let other = ["ram", "zram", "loop", "sr", "fd", "dm-", "md", "nbd"];
    let names = host.names("sys/block");
    let mounts = host.mounts();
    names
        .into_iter()
        .filter(|name| !other.iter().any(|prefix| name.starts_with(prefix)))
        .filter_map(|name| disk(host, name, &mounts))
        .collect()
}

fn disk(host: &Host, name: String, mounts: &[Mount]) -> Option<Disk> {
    let folder = Path::new("sys/block").join(&name);
    let size_bytes = host.text(folder.join("size")).parse::<u64>().ok()?.checked_mul(512)?;
    if size_bytes == 0 {
        return None;
    }
    let wwid = ["device/wwid", "wwid"].iter().map(|file| host.text(folder.join(file)));
    let wwid = wwid.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    let parts = host.names(&folder).into_iter().map(|part| folder.join(part));
    let parts: Vec<_> =
        parts.filter(|part| host.has(part.join("partition"))).chain([folder.clone()]).collect();
    let numbers: Vec<_> = parts.iter().map(|part| host.text(part.join("dev"))).collect();
    let mounted = mounts.iter().filter(|mount| numbers.contains(&mount.device));
    let holders = parts.iter().flat_map(|part| host.names(part.join("holders")));
    Some(Disk {
        size_bytes,
        wwid,
        by_id: by_id(host, &name),
        mounted: mounted.map(|mount| mount.mount_point.clone()).collect(),
        used_by: holders.map(|holder| above(host, &holder)).collect(),
        name,
    })
}

/// `dm-0` under the name that people gave it.
fn above(host: &Host, holder: &str) -> String {
    let name = host.text(Path::new("sys/block").join(holder).join("dm/name"));
    if name.is_empty() { holder.to_owned() } else { name }
}

/// The name that says most for the longest: of the whole world, then of its bus, then any.
pub(super) fn by_id(host: &Host, disk: &str) -> String {
    let folder = Path::new("dev/disk/by-id");
    let leads_to_it = |name: &String| {
        std::fs::read_link(host.path(folder.join(name)))
            .is_ok_and(|target| target.file_name().is_some_and(|file| file == disk))
    };
    let mut names: Vec<_> = host.names(folder).into_iter().filter(leads_to_it).collect();
    let rank = |name: &str| {
        ["wwn-", "nvme-eui", "scsi-"].iter().position(|prefix| name.starts_with(prefix)).unwrap_or(3)
    };
    names.sort_by_key(|name| rank(name));
    names.into_iter().next().map(|name| format!("/dev/disk/by-id/{name}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::{Disk, Host, disks, mounts, value};

    #[test]
    fn values_are_read_without_their_quotation_marks() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\nID_LIKE='a b'\n";
        assert_eq!(
            [value(text, "PRETTY_NAME"), value(text, "ID"), value(text, "ID_LIKE"), value(text, "X")],
            ["Debian GNU/Linux 12", "debian", "a b", ""]
        );
    }

    #[test]
    fn mounts_are_read_with_any_number_of_optional_fields() {
        let text = "27 1 254:0 / / rw shared:1 master:2 - ext4 /dev/vda rw\n46 27 8:17 / /a\\040b rw - xfs /dev/sdb1 rw\nshort";
        let found = mounts(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].mount_point.as_str(), found[0].file_system.as_str()), ("/", "ext4"));
        assert_eq!((found[1].device.as_str(), found[1].mount_point.as_str()), ("8:17", "/a b"));
        assert_eq!(found[1].source, "/dev/sdb1");
    }

    #[test]
    fn disks_are_told_with_what_uses_them() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (name, number) in [("sda", "8:0"), ("sdb", "8:16"), ("loop0", "7:0"), ("dm-0", "253:0")] {
            put(&format!("sys/block/{name}/size"), "2048\n");
            put(&format!("sys/block/{name}/dev"), number);
        }
        put("sys/block/sda/device/wwid", "naa.6000c29aa\n");
        put("sys/block/sda/sda1/partition", "1");
        put("sys/block/sda/sda1/dev", "8:1");
        put("sys/block/sdb/sdb1/partition", "1");
        put("sys/block/sdb/sdb1/holders/dm-0", "");
        put("sys/block/dm-0/dm/name", "vg-root\n");
        put("proc/self/mountinfo", "27 1 8:1 / /boot rw - ext4 /dev/sda1 rw\n");
        put("dev/disk/by-id/x", "");
        for name in ["scsi-3600", "wwn-0x6000c29aa"] {
            symlink("../../sda", root.path().join("dev/disk/by-id").join(name)).unwrap();
        }
        let sda = Disk {
            name: "sda".into(),
            size_bytes: 1 << 20,
            wwid: "naa.6000c29aa".into(),
            by_id: "/dev/disk/by-id/wwn-0x6000c29aa".into(),
            mounted: vec!["/boot".into()],
            used_by: vec![],
        };
        let sdb = Disk {
            name: "sdb".into(),
            size_bytes: 1 << 20,
            used_by: vec!["vg-root".into()],
            ..Disk::default()
        };
        assert_eq!(disks(&Host::at(root.path())), [sda, sdb]);
    }
}
