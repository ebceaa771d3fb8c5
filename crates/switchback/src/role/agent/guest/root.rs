//! The guest that is looked at: its files below a directory, and its own programs.
//!
//! What it never does: leave a file half written. A file is replaced as a whole, durably, and keeps its owner and mode; one that is a link is left alone.

use std::fmt::Debug;
use std::fs::{self, File, Permissions};
use std::hash::{Hash, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use switchback_capture::scripts::{Phase, Script, run};
use switchback_disk::{DirVolume, Volume};

/// Of a configuration file, or an initramfs's name list as its tool prints it, what is read at most.
const FILE_LEN_MAX: u64 = 8 << 20;
/// Where a distribution's programs are.
const PROGRAMS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// A file's name while it is written.
const NEW: &str = ".switchback-new";

/// A guest's file system, from its `/`.
#[derive(Clone, Debug)]
pub(super) struct Root {
    path: PathBuf,
}

/// Runs the guest's own programs.
pub(super) trait Commands: Debug + Send + Sync {
    /// Runs one to its end; the answer is the beginning of what it printed (16 KiB). `words`: its path in the guest, and its arguments.
    ///
    /// # Errors
    /// What it printed when it failed, or that it took longer than `limit` and was killed.
    fn run(&self, words: &[&str], limit: Duration) -> Result<String, String>;
}

/// Those of this machine.
#[derive(Debug)]
pub(super) struct OwnCommands;

impl Commands for OwnCommands {
    fn run(&self, words: &[&str], limit: Duration) -> Result<String, String> {
        let [program, arguments @ ..] = words else { return Err("no program".into()) };
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        let script = Script { program: program.into(), arguments, limit };
        run(&script, Phase::OnRequest).map_err(|error| crate::freezing::chain(&error))
    }
}

impl Root {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where a path of the guest is.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// A file's text; empty when it is not there.
    ///
    /// # Errors
    /// When it cannot be read, is too long, or not UTF-8.
    pub(super) fn read(&self, path: &str) -> Result<String, String> {
        let failed = |error: std::io::Error| format!("{path}: {error}");
        match fs::metadata(self.at(path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
            Err(error) => return Err(failed(error)),
            Ok(found) if found.len() > FILE_LEN_MAX => return Err(format!("{path}: {} bytes", found.len())),
            Ok(_) => {}
        }
        fs::read_to_string(self.at(path)).map_err(failed)
    }

    /// The names in a directory, in order; none when it is not there.
    pub(super) fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(directory)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// Where the guest has a program.
    pub(super) fn program(&self, name: &str) -> Option<String> {
        PROGRAMS.iter().map(|directory| format!("{directory}/{name}")).find(|path| self.has(path))
    }

    /// Replaces a file's text, or makes the file; durable on return. Nothing is written when it has that text.
    ///
    /// # Errors
    /// Those of the file system, a read-only one's among them: the file is as it was.
    pub(super) fn replace(&self, path: &str, text: &str) -> Result<(), String> {
        if self.has(path) && self.read(path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let failed = |error: std::io::Error| format!("{path} cannot be written: {error}");
        let file = self.at(path);
        let before = fs::symlink_metadata(&file).ok();
        if before.as_ref().is_some_and(|before| !before.is_file()) {
            return Err(format!("{path} is not a plain file; it is left alone"));
        }
        let (directory, name) = parts(&file).ok_or_else(|| format!("{path} is no file"))?;
        // One level is made: the package that reads such files has made those above.
        match fs::create_dir(directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        let volume = DirVolume::open(directory).map_err(|error| format!("{path}: {error}"))?;
        let temporary = format!("{name}{NEW}");
        let write = || {
            remove_if_there(&volume, &temporary)?;
            let new = volume.create(&temporary)?;
            new.write_at(0, text.as_bytes())?;
            let mode = before.as_ref().map_or(0o644, |before| before.mode() & 0o7777);
            let there = directory.join(&temporary);
            if let Some(before) = &before {
                chown(&there, Some(before.uid()), Some(before.gid()))?;
            }
            fs::set_permissions(&there, Permissions::from_mode(mode))?;
            new.sync()?;
            volume.replace(&temporary, name)?;
            volume.sync()
        };
        write().map_err(|error| {
            let _ = volume.remove(&temporary);
            failed(error)
        })
    }

    /// Has a program of the guest make a file beside `path`, and puts that in its place, durably, if `is_good`. `make` gets the new file's path.
    ///
    /// # Errors
    /// What `make` or `is_good` says, or the file system: the old file is as it was, and the new one gone.
    pub(super) fn make_anew(
        &self,
        path: &str,
        make: impl FnOnce(&str) -> Result<(), String>,
        is_good: impl FnOnce(&str) -> Result<(), String>,
    ) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{path} cannot be replaced: {error}");
        let file = self.at(path);
        let (directory, name) = parts(&file).ok_or_else(|| format!("{path} is no file"))?;
        let volume = DirVolume::open(directory).map_err(|error| format!("{path}: {error}"))?;
        let (temporary, new) = (format!("{name}{NEW}"), format!("{path}{NEW}"));
        remove_if_there(&volume, &temporary).map_err(failed)?;
        let done = make(&new).and_then(|()| is_good(&new)).and_then(|()| {
            let put = || {
                let mode = fs::metadata(&file).map_or(0o600, |old| old.mode() & 0o7777);
                fs::set_permissions(directory.join(&temporary), Permissions::from_mode(mode))?;
                volume.open(&temporary)?.sync()?;
                volume.replace(&temporary, name)?;
                volume.sync()
            };
            put().map_err(failed)
        });
        if done.is_err() {
            let _ = volume.remove(&temporary);
        }
        done
    }

    /// Keeps packages from being installed as long as the answer lives: their scripts make the same files.
    ///
    /// The locks are those of `dpkg` (its front ends' one) and of `rpm` (only looked at: its queries wait for it, and `dracut` may make some).
    ///
    /// # Errors
    /// When somebody installs packages now.
    pub(super) fn lock_packages(&self) -> Result<Vec<File>, String> {
        let mut held = Vec::new();
        for (path, is_kept) in [("/var/lib/dpkg/lock-frontend", true), ("/var/lib/rpm/.rpm.lock", false)] {
            if !self.has(path) {
                continue;
            }
            let file = File::options().write(true).open(self.at(path));
            let file = file.map_err(|error| format!("{path}: {error}"))?;
            rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)
                .map_err(|error| format!("packages are being installed ({path}: {error})"))?;
            held.extend(is_kept.then_some(file));
        }
        Ok(held)
    }

    /// Tells one state of a file or of what is in a directory from another, without reading it.
    pub(super) fn mark(&self, path: &str, into: &mut impl Hasher) {
        let mut one = |path: &Path| {
            let found = fs::metadata(path).ok();
            let found = found.map(|found| (found.len(), found.mtime(), found.mtime_nsec(), found.ino()));
            (path, found).hash(into);
        };
        one(&self.at(path));
        for name in self.names(path) {
            one(&self.at(path).join(name));
        }
    }
}

fn parts(file: &Path) -> Option<(&Path, &str)> {
    Some((file.parent()?, file.file_name()?.to_str()?))
}

fn remove_if_there(volume: &DirVolume, name: &str) -> std::io::Result<()> {
    match volume.remove(name) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
