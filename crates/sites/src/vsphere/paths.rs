//! Where a disk's contents are, as a master target reaches them.

use std::path::{Component, Path, PathBuf};

use super::VsphereSite;

/// Where Linux's udev has the disks that tell a UUID.
const BY_ID: &str = "/dev/disk/by-id";

impl VsphereSite {
    /// Where a disk with this UUID is at the virtual machine it is attached to, if that has `disk.EnableUUID`: as udev names it by the disk's page 0x83.
    #[must_use]
    pub fn disk_path(uuid: &str) -> PathBuf {
        Path::new(BY_ID).join(format!("wwn-0x{}", serial(uuid)))
    }

    /// Where the contents of a disk are. `file` is the one at the bottom.
    pub(super) fn contents_path(&self, file: &str, uuid: Option<&str>) -> PathBuf {
        let mounted = split(file).and_then(|(datastore, path)| {
            let directory = self.settings.datastore_directories.get(datastore)?;
            Some(directory.join(flat(path)?))
        });
        mounted.unwrap_or_else(|| Self::disk_path(uuid.unwrap_or_default()))
    }
}

/// A disk's UUID as guests see it.
pub(super) fn serial(uuid: &str) -> String {
    uuid.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// `[DATASTORE] PATH`.
pub(super) fn split(file: &str) -> Option<(&str, &str)> {
    let (datastore, path) = file.strip_prefix('[')?.split_once(']')?;
    Some((datastore, path.trim_start()))
}

/// The file with the contents beside the one that describes a disk. `None` for one that would lie outside of the datastore.
fn flat(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
    let stem = path.file_name()?.to_str()?.strip_suffix(".vmdk")?;
    is_below.then(|| path.with_file_name(format!("{stem}-flat.vmdk")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_found_by_its_uuid() {
        let path = VsphereSite::disk_path("6000C29f-3C01-a1b2-c3d4-0123456789ab");
        assert_eq!(path, Path::new("/dev/disk/by-id/wwn-0x6000c29f3c01a1b2c3d40123456789ab"));
    }

    #[test]
    fn contents_lie_beside_the_description() {
        assert_eq!(split("[NFS 1] a b/c.vmdk"), Some(("NFS 1", "a b/c.vmdk")));
        assert_eq!(split("c.vmdk"), None);
        assert_eq!(flat("a b/c.vmdk"), Some(PathBuf::from("a b/c-flat.vmdk")));
        assert_eq!(flat("a/x.vmdk.vmdk"), Some(PathBuf::from("a/x.vmdk-flat.vmdk")));
        for outside in ["../c.vmdk", "/etc/c.vmdk", "a/../../c.vmdk", "a/c.iso", ""] {
            assert_eq!(flat(outside), None, "{outside}");
        }
    }
}
