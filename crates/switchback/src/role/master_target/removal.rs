//! Removing a replica's history and nothing else.
//!
//! The disks stay, also where they lie in the replica's directory. The manifest goes last but for the settings: until then a crash
//! leaves something that is still a replica to be removed, never one whose missing files could be taken for others'.

use std::io;
use std::path::Path;

use crate::host::load_settings;

/// Names of files in the order in which they may go: what is not named here goes first.
const LAST: [&str; 2] = ["manifest", "settings"];

/// Removes the history in `directory`; durable on return. Not being there is fine.
///
/// # Errors
/// Those of the file system; to be called again.
pub(super) fn remove_history(directory: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // Without settings there are no disks to be spared but those with the names they have by themselves.
    let targets = load_settings(directory).map(|settings| settings.targets).unwrap_or_default();
    let is_disk = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        targets.iter().any(|target| target == path) || (name.starts_with("disk-") && name.ends_with(".img"))
    };
    let files: Vec<_> =
        entries.collect::<Result<Vec<_>, _>>()?.into_iter().map(|entry| entry.path()).collect();
    let history: Vec<_> = files.iter().filter(|path| !is_disk(path)).collect();
    let is_last = |path: &Path| LAST.iter().any(|name| path.ends_with(name));
    for path in history.iter().filter(|path| !is_last(path)) {
        std::fs::remove_file(path)?;
    }
    let sync = || std::fs::File::open(directory)?.sync_all();
    sync()?;
    for name in LAST {
        match std::fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => sync()?,
        }
    }
    if history.len() == files.len() {
        std::fs::remove_dir(directory)?;
        if let Some(parent) = directory.parent() {
            std::fs::File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::remove_history;

    #[test]
    fn history_goes_and_disks_stay() {
        let directory = tempfile::tempdir().unwrap();
        let (replica, elsewhere) = (directory.path().join("r"), directory.path().join("r/target.raw"));
        std::fs::create_dir(&replica).unwrap();
        let settings = serde_json::json!({"targets": [elsewhere]});
        std::fs::write(replica.join("settings"), settings.to_string()).unwrap();
        for name in ["manifest", "digests-0", "stage-1-0-0", "lock", "target.raw"] {
            std::fs::write(replica.join(name), name).unwrap();
        }
        remove_history(&replica).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(&replica).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["target.raw"]);
        std::fs::remove_file(&elsewhere).unwrap();
        remove_history(&replica).unwrap();
        assert!(!replica.exists());
        remove_history(&replica).unwrap();
    }
}
