//! What is in a backup: the store as of one moment, and the files of the server's directory that it cannot make again.
//!
//! Not in it: the server's own certificate (a restored server issues itself another), the id under which it works on jobs (two servers must not share
//! it), the database's file (the store is in it, whichever database that is), and what `admin-token` shows once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use switchback_model::component::IncarnationProof;
use switchback_store::{Snapshot, Store};
use zeroize::Zeroizing;

use super::ServerHome;
use super::format::BackupError;
use crate::ControlError;

/// The authority, in the server's directory.
const AUTHORITY: &str = "identity/authority.pem";
/// Its passphrase.
const PASSPHRASE: &str = "identity/passphrase";
/// Files of the directory, beside the scripts.
pub(super) const FILES: [&str; 5] =
    [AUTHORITY, PASSPHRASE, "admin-token.written", crate::sealing::KEY_FILE, crate::cost::prices::FILE];
/// The scripts of recovery plans.
pub(super) const SCRIPTS: &str = "scripts";
/// Most bytes of all scripts.
const SCRIPTS_LEN_MAX: u64 = 64 << 20;
/// Most files among them, and how deep.
const SCRIPTS_MAX: usize = 10_000;
const DEPTH_MAX: usize = 8;

/// A file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFile {
    /// Its path in the server's directory, `/` between parts.
    pub path: String,
    /// Whether it can be executed.
    #[serde(default)]
    pub executable: bool,
    /// What is in it.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub contents: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for SavedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SavedFile({:?}, {} bytes)", self.path, self.contents.len())
    }
}

fn to_base64<S: Serializer>(bytes: &Zeroizing<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&Zeroizing::new(STANDARD.encode(&**bytes)))
}

fn from_base64<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<Vec<u8>>, D::Error> {
    let text = Zeroizing::new(String::deserialize(from)?);
    STANDARD.decode(&*text).map(Zeroizing::new).map_err(serde::de::Error::custom)
}

/// All that is in a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Files.
    pub files: Vec<SavedFile>,
    /// The store.
    pub snapshot: Snapshot,
}

impl Contents {
    /// Numbers of records by kind.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for saved in &self.snapshot.records {
            *counts.entry(saved.record.kind.as_str().to_owned()).or_insert(0) += 1;
        }
        counts
    }

    /// Checks the site's authority, and tells which one it is: BLAKE3 of its certificate, in hex.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] when there is none, or one that cannot be used.
    pub fn authority_fingerprint(&self) -> Result<String, BackupError> {
        switchback_identity::check_files(self.contents_of(AUTHORITY)?, self.contents_of(PASSPHRASE)?)
            .map_err(of_authority)
    }

    /// The word of the authority in it that a configuration server of this incarnation replaces all lower ones.
    pub(super) fn prove_incarnation(&self, number: u64) -> Result<IncarnationProof, BackupError> {
        switchback_identity::prove_incarnation(self.contents_of(AUTHORITY)?, number).map_err(of_authority)
    }

    fn contents_of(&self, path: &str) -> Result<&[u8], BackupError> {
        let file = self.files.iter().find(|file| file.path == path);
        let missing = || BackupError::Damaged { detail: format!("{path} is not in it") };
        file.map(|file| file.contents.as_slice()).ok_or_else(missing)
    }
}

fn of_authority(detail: String) -> BackupError {
    BackupError::Damaged { detail: format!("the site's authority: {detail}") }
}

/// Reads all of a running server.
pub(super) fn read(store: &dyn Store, home: &ServerHome) -> Result<Contents, ControlError> {
    let snapshot = store.snapshot()?;
    let mut files = Vec::new();
    for path in FILES {
        files.extend(read_file(&home.directory, path)?);
    }
    for (path, _) in scripts(&home.directory)? {
        files.extend(read_file(&home.directory, &path)?);
    }
    Ok(Contents { files, snapshot })
}

fn failed(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
    let action = format!("{action} {}", path.display());
    move |error| BackupError::Io { action, detail: error.to_string() }
}

/// A file; none if it is not there (any more).
fn read_file(directory: &Path, path: &str) -> Result<Option<SavedFile>, BackupError> {
    let full = directory.join(path);
    let file = match File::open(&full) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("opening", &full)(error)),
    };
    let mode = file.metadata().map_err(failed("looking at", &full))?.permissions().mode();
    let mut contents = Zeroizing::new(Vec::new());
    file.take(SCRIPTS_LEN_MAX).read_to_end(&mut contents).map_err(failed("reading", &full))?;
    Ok(Some(SavedFile { path: path.into(), executable: mode & 0o111 != 0, contents }))
}

/// The scripts' paths, with what changes when they do.
fn scripts(directory: &Path) -> Result<Vec<(String, u64)>, BackupError> {
    let mut found = Vec::new();
    let mut open: Vec<(PathBuf, String, usize)> = vec![(directory.join(SCRIPTS), SCRIPTS.into(), 0)];
    let mut total = 0;
    while let Some((path, name, depth)) = open.pop() {
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("listing", &path)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed("listing", &path))?;
            let full = entry.path();
            // A link's target counts: that is what a plan would run.
            let Ok(meta) = std::fs::metadata(&full) else { continue };
            let text = entry.file_name().into_string().map_err(|name| BackupError::Io {
                action: format!("reading {}", path.display()),
                detail: format!("{name:?} is no UTF-8: rename it"),
            })?;
            let name = format!("{name}/{text}");
            if meta.is_dir() && depth < DEPTH_MAX {
                open.push((full, name, depth + 1));
            } else if meta.is_file() {
                total += meta.len();
                let modified =
                    meta.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
                let stamp = modified.map_or(0, |at| at.as_nanos());
                let text = format!("{} {stamp} {}", meta.len(), meta.permissions().mode());
                let hash = blake3::hash(text.as_bytes());
                found.push((name, u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default())));
            }
            if total > SCRIPTS_LEN_MAX || found.len() > SCRIPTS_MAX {
                return Err(BackupError::Io {
                    action: format!("backing up {}", directory.join(SCRIPTS).display()),
                    detail: format!(
                        "scripts have more than {SCRIPTS_LEN_MAX} bytes or {SCRIPTS_MAX} files: keep other things elsewhere"
                    ),
                });
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Changes when a file does.
pub(super) fn stamp(directory: &Path) -> Result<[u8; 32], BackupError> {
    let mut hasher = blake3::Hasher::new();
    for path in FILES {
        if let Some(file) = read_file(directory, path)? {
            hasher.update(path.as_bytes()).update(blake3::hash(&file.contents).as_bytes());
        }
    }
    for (path, stamp) in scripts(directory)? {
        hasher.update(path.as_bytes()).update(&[0]).update(&stamp.to_le_bytes());
    }
    Ok(*hasher.finalize().as_bytes())
}
