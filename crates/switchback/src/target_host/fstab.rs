//! The table of file systems, fstab(5): one entry more, or none.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use switchback_disk::{DirVolume, Volume};

/// `nofail`: a lost retention drive must not keep the host from starting, where it is repaired. The check number 0 is right for XFS.
const OPTIONS: &str = "defaults,noatime,nofail";

/// One line that is neither empty nor a remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) source: String,
    pub(super) mount_point: String,
}

/// The entries.
pub(super) fn entries(text: &str) -> Vec<Entry> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    words
        .filter_map(|words| match words.as_slice() {
            [source, mount_point, ..] => Some(Entry {
                source: source.trim_matches('"').replace("=\"", "="),
                mount_point: trimmed(&super::facts::unescaped(mount_point)),
            }),
            _ => None,
        })
        .collect()
}

/// Without slashes at the end.
fn trimmed(path: &str) -> String {
    let short = path.trim_end_matches('/');
    if short.is_empty() { path.to_owned() } else { short.to_owned() }
}

/// The text with the file system mounted at that place; `None`: it says so already.
///
/// # Errors
/// The entry that stands in the way.
pub(super) fn with_entry(text: &str, uuid: &str, mount_point: &str) -> Result<Option<String>, Entry> {
    let (source, mount_point) = (format!("UUID={uuid}"), trimmed(mount_point));
    let concerned =
        entries(text).into_iter().find(|entry| entry.source == source || entry.mount_point == mount_point);
    match concerned {
        Some(entry) if entry.source == source && entry.mount_point == mount_point => Ok(None),
        Some(entry) => Err(entry),
        None => {
            let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            let place = mount_point.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011");
            Ok(Some(format!("{text}{end}{source} {place} xfs {OPTIONS} 0 0\n")))
        }
    }
}

/// Writes the whole file, or nothing: whoever reads it, also after a crash, has the old text or the new one.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    // What it is a symbolic link to is the file.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no file", path.display())));
    };
    let mode = fs::metadata(&path).map_or(0o644, |metadata| metadata.mode() & 0o7777);
    let volume = DirVolume::open(folder).map_err(io::Error::other)?;
    let temporary = format!("{name}.switchback-new");
    match volume.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = volume.create(&temporary)?;
    file.write_at(0, text.as_bytes())?;
    fs::set_permissions(folder.join(&temporary), fs::Permissions::from_mode(mode))?;
    file.sync()?;
    volume.replace(&temporary, name)?;
    volume.sync()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::{entries, with_entry, write};

    const TEXT: &str = "# remark\n/dev/sda1 / ext4 defaults 0 1\nUUID=abc\t/srv/a\\040b/ xfs defaults 0 0";

    #[test]
    fn an_entry_is_added_once_and_the_rest_stays_as_it_is() {
        let added = with_entry(TEXT, "1-2", "/retention/").unwrap().unwrap();
        assert_eq!(added, format!("{TEXT}\nUUID=1-2 /retention xfs defaults,noatime,nofail 0 0\n"));
        assert_eq!(with_entry(&added, "1-2", "/retention").unwrap(), None, "once");
        assert_eq!(with_entry(TEXT, "abc", "/srv/a b").unwrap(), None, "escaped");
        let spaced = with_entry("", "1-2", "/a b").unwrap().unwrap();
        assert_eq!(entries(&spaced)[0].mount_point, "/a b");
    }

    #[test]
    fn what_is_mounted_there_or_elsewhere_stands_in_the_way() {
        assert_eq!(with_entry(TEXT, "1-2", "/").unwrap_err().source, "/dev/sda1");
        assert_eq!(with_entry(TEXT, "abc", "/retention").unwrap_err().mount_point, "/srv/a b");
    }

    #[test]
    fn a_written_table_keeps_its_mode_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fstab");
        write(&path, "one\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(folder.path().join("fstab.switchback-new"), "half").unwrap();
        write(&path, "two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
