//! Where backups are: a directory (a mounted share, usually), or a prefix in an object store of S3's or Azure's kind.
//!
//! Invariants: a backup appears under its name whole, or not at all (a directory: written beside, made durable, renamed; an object store: one
//! put); what was written is read back and compared before it counts. Every call has a limit. What has no name of a backup is never touched.
//!
//! The keys of an object store come from the server's environment (`AWS_…`, `AZURE_…`), as its own tools have them: never from a request, and they
//! are kept nowhere.

use std::path::Path;
use std::time::Duration;

use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use switchback_disk::{DirVolume, Volume};
use tokio::runtime::Runtime;
use url::Url;

use super::Made;
use super::format::{BackupError, FILE_LEN_MAX};
use super::retention::BackupName;

/// For one call to an object store.
const CALL_MAX: Duration = Duration::from_secs(50);

/// A place of backups.
#[derive(Debug)]
pub struct Destination {
    name: String,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Directory(DirVolume),
    Objects { store: Box<dyn ObjectStore>, prefix: ObjectPath, runtime: Runtime },
}

/// The directory that a location means, if it means one.
#[must_use]
pub fn as_directory(location: &str) -> Option<&Path> {
    let is_path = location.starts_with('/');
    is_path.then(|| Path::new(location))
}

impl Destination {
    /// Opens the place at `location`: an absolute path, which must be there, or a URL.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn open(location: &str) -> Result<Self, BackupError> {
        let failed = |detail: String| BackupError::Io { action: format!("opening {location}"), detail };
        if let Some(path) = as_directory(location) {
            let volume = DirVolume::open(path).map_err(|error| failed(words(&error)))?;
            return Ok(Self { name: location.into(), place: Place::Directory(volume) });
        }
        let url = Url::parse(location)
            .map_err(|_| failed("it is neither an absolute path nor the URL of an object store".into()))?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            let detail =
                "a URL with a key in it would be shown: the key belongs into the server's environment";
            return Err(BackupError::Io { action: "opening the destination".into(), detail: detail.into() });
        }
        let is_key = |name: &str| name.starts_with("AWS_") || name.starts_with("AZURE_");
        let options = std::env::vars().filter(|(name, _)| is_key(name));
        let options = options.map(|(name, value)| (name.to_ascii_lowercase(), value));
        let (store, prefix) =
            object_store::parse_url_opts(&url, options).map_err(|error| failed(words(&error)))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(words(&error)))?;
        Ok(Self { name: location.into(), place: Place::Objects { store, prefix, runtime } })
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn failed(&self, doing: &str) -> impl Fn(String) -> BackupError + use<> {
        let action = format!("{doing} {}", self.name);
        move |detail| BackupError::Io { action: action.clone(), detail }
    }

    /// Whether it can be written.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn probe(&self) -> Result<(), BackupError> {
        const PROBE: &str = "switchback-probe";
        let failed = self.failed("writing to");
        match &self.place {
            Place::Directory(volume) => volume
                .write_atomic(PROBE, b"")
                .and_then(|()| volume.remove(PROBE))
                .map_err(|error| failed(words(&error))),
            Place::Objects { store, prefix, runtime } => {
                let at = prefix.clone().join(PROBE);
                limited(runtime, store.put(&at, PutPayload::from_static(b"probe"))).map_err(&failed)?;
                limited(runtime, store.delete(&at)).map_err(failed)
            }
        }
    }

    /// Writes a backup, and reads it back.
    ///
    /// # Errors
    /// [`BackupError::Io`]; nothing of that name is there then, or it was not whole.
    pub fn put(&self, name: &BackupName, file: &[u8]) -> Result<(), BackupError> {
        let failed = self.failed("writing a backup to");
        let text = name.to_string();
        match &self.place {
            Place::Directory(volume) => {
                if let Err(error) = volume.write_atomic(&text, file) {
                    // What has been written of it would fill the drive for good.
                    let _ = volume.remove(&format!("{text}.new"));
                    return Err(failed(words(&error)));
                }
            }
            Place::Objects { store, prefix, runtime } => {
                let payload = PutPayload::from(file.to_vec());
                limited(runtime, store.put(&prefix.clone().join(text), payload)).map_err(&failed)?;
            }
        }
        if self.get(name)? != file {
            return Err(failed("what was read back is not what was written".into()));
        }
        Ok(())
    }

    /// All backups.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn list(&self) -> Result<Vec<Made>, BackupError> {
        let failed = self.failed("listing the backups in");
        let found: Vec<(String, u64)> = match &self.place {
            Place::Directory(volume) => {
                let entries = volume.list().map_err(|error| failed(words(&error)))?;
                entries.into_iter().map(|entry| (entry.name, entry.len)).collect()
            }
            Place::Objects { store, prefix, runtime } => {
                let listed = limited(runtime, store.list_with_delimiter(Some(prefix))).map_err(failed)?;
                let name = |path: &ObjectPath| path.filename().unwrap_or_default().to_owned();
                listed.objects.iter().map(|meta| (name(&meta.location), meta.size)).collect()
            }
        };
        let named = found.into_iter().filter_map(|(name, len)| Some(Made { name: name.parse().ok()?, len }));
        Ok(named.collect())
    }

    /// A backup's file.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn get(&self, name: &BackupName) -> Result<Vec<u8>, BackupError> {
        let failed = self.failed(&format!("reading the backup {name} in"));
        match &self.place {
            Place::Directory(volume) => {
                volume.read_all(&name.to_string(), FILE_LEN_MAX).map_err(|error| failed(words(&error)))
            }
            Place::Objects { store, prefix, runtime } => {
                let at = prefix.clone().join(name.to_string());
                let got = limited(runtime, async {
                    let found = store.get(&at).await?;
                    if found.meta.size > FILE_LEN_MAX as u64 {
                        return Ok(None);
                    }
                    found.bytes().await.map(Some)
                });
                let bytes =
                    got.map_err(&failed)?.ok_or_else(|| failed("it is longer than any backup".into()))?;
                Ok(bytes.to_vec())
            }
        }
    }

    /// Removes a backup; it is no error if it is not there.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn remove(&self, name: &BackupName) -> Result<(), BackupError> {
        let failed = self.failed(&format!("removing the backup {name} in"));
        match &self.place {
            Place::Directory(volume) => match volume.remove(&name.to_string()) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other.map_err(|error| failed(words(&error))),
            },
            Place::Objects { store, prefix, runtime } => {
                limited(runtime, store.delete(&prefix.clone().join(name.to_string()))).map_err(failed)
            }
        }
    }
}

fn limited<T>(
    runtime: &Runtime,
    call: impl Future<Output = Result<T, object_store::Error>>,
) -> Result<T, String> {
    runtime.block_on(async {
        match tokio::time::timeout(CALL_MAX, call).await {
            Ok(outcome) => outcome.map_err(|error| words(&error)),
            Err(_) => Err(format!("no answer within {} s", CALL_MAX.as_secs())),
        }
    })
}

/// An error with what it comes from: the first says what was done, the last what the system has against it.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}
