//! Backups of the configuration server: all that it must not forget, encrypted, at another place.
//!
//! What it is: on demand, on a schedule, and after each change, one file is written that holds the whole store, the certificate authority with its key and
//! passphrase, and the scripts of recovery plans. It is encrypted to public keys, so a server that makes backups holds no secret that opens them. The
//! same file restores into SQLite or PostgreSQL, on another machine, under another address. What it never does: hold disk contents, recovery points or
//! certificates of components (they have their own), or a secret of the place that backups go to; remove what a newer server has written.
//!
//! The path of one backup: the *keeper* looks every [`LOOK_EVERY`] whether the store's fingerprint or a file has changed, and whether the last backup is
//! long enough ago; everything is read as of one moment ([`switchback_store::Store::snapshot`]); [`mod@format`] makes the file of it; the [`destination`] takes it
//! under a name of its own, whole or not at all, and it is read back and compared; [`retention`] says which older ones go. On the worst day,
//! [`restore`] checks all of it before anything is written, and fills an empty directory or leaves it marked as unfinished.
//!
//! | file | what |
//! |---|---|
//! | `format` | the file: header, encryption, checksums |
//! | `contents` | what is in it, read from a running server |
//! | `destination` | a directory, or an object store |
//! | `retention` | which backups are kept |
//! | `keeper` | makes them, in time |
//! | `restore` | a directory and a store from a backup |
//! | `behind` | a server that was restored asks before it orders |
//! | `succession` | which of two servers is the one |

pub(crate) mod behind;
pub mod contents;
pub mod destination;
pub mod format;
pub(crate) mod keeper;
pub mod restore;
pub mod retention;
pub(crate) mod succession;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use switchback_model::{JobError, UnixMillis};
use switchback_store::{Expect, Kind};

use crate::records::Batch;
use crate::{Control, ControlError, ErrorKind, Health};
use destination::Destination;
use format::{BackupError, Header, Reason};
use retention::{BackupName, Keep};
pub use succession::{Incarnation, Superseded};

/// How often the keeper looks for changes.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Shortest time between two backups that follow changes, in milliseconds.
pub const GAP_MS: u64 = 15_000;
/// After so long a backup that failed is tried again, in milliseconds.
pub const RETRY_MS: u64 = 30_000;
/// A server without a successful backup for so long after a failure is critical, in milliseconds.
const CRITICAL_AFTER_MS: u64 = 15 * 60_000;
/// Shortest schedule, in milliseconds.
const EVERY_MS_MIN: u64 = 60_000;

/// The policy's record among the settings.
const POLICY: &str = "backup";
/// What the configuration server is called in events.
pub(crate) const SERVER_OBJECT: &str = "configuration-server";

/// What is backed up where, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPolicy {
    /// An absolute path, or the URL of an object store: `s3://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`.
    pub destination: String,
    /// Public keys, `age1…`: each opens every backup alone.
    pub recipients: Vec<String>,
    /// After each change.
    pub continuous: bool,
    /// Milliseconds between two backups whether or not anything has changed; 0: none.
    pub every_ms: u64,
    /// Which are kept.
    pub keep: Keep,
}

/// Where this server's own files are, and how it was started.
#[derive(Clone, Debug)]
pub struct ServerHome {
    /// Its directory.
    pub directory: PathBuf,
    /// Its build.
    pub build: String,
    /// Told in each backup, for whoever restores it: name, addresses.
    pub settings: BTreeMap<String, String>,
    /// `HOST:PORT` of each address at which components reach it, to be told to them.
    pub addresses: Vec<String>,
    /// The certificate of the site's authority (DER), by which it is judged whether another server has taken this one's place.
    pub authority: Vec<u8>,
}

/// A backup that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its name at the destination.
    pub name: BackupName,
    /// Bytes.
    pub len: u64,
}

/// How backups stand.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupStatus {
    /// `None`: nothing is backed up.
    pub policy: Option<BackupPolicy>,
    /// The newest that this server has made, or has found at the destination.
    pub last_success: Option<Made>,
    /// When the last attempt failed, and why; none after a success.
    pub last_failure: Option<(UnixMillis, JobError)>,
    /// How it is.
    pub health: Health,
    /// Why it is not well.
    pub reasons: Vec<JobError>,
}

impl Control {
    /// What is backed up where.
    ///
    /// # Errors
    /// Those of the store.
    pub fn backup_policy(&self) -> Result<Option<BackupPolicy>, ControlError> {
        Ok(self.records().find(Kind::Setting, POLICY)?.map(|policy| policy.value))
    }

    /// Begins to back up so, or changes how. The destination is opened to see that it is there.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for what makes no sense, [`ErrorKind::Unavailable`] for a destination that cannot be written.
    pub fn set_backup_policy(&self, policy: &BackupPolicy) -> Result<(), ControlError> {
        self.check_not_superseded()?;
        let home = self.server_home()?;
        check_policy(policy, &home.directory)?;
        Destination::open(&policy.destination)?.probe()?;
        let mut batch = Batch::default();
        batch.put(Kind::Setting, POLICY, Expect::Any, policy);
        self.records().commit(batch)?;
        self.inner.backups.forget();
        Ok(())
    }

    /// Backs up no more. What has been made stays.
    ///
    /// # Errors
    /// Those of the store.
    pub fn delete_backup_policy(&self) -> Result<(), ControlError> {
        let mut batch = Batch::default();
        batch.delete(Kind::Setting, POLICY, Expect::Any);
        self.records().commit(batch)?;
        self.inner.backups.forget();
        Ok(())
    }

    /// Makes a backup now.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] without a policy; why it could not be made.
    pub fn back_up(&self, reason: Reason) -> Result<Made, ControlError> {
        let made = self.try_back_up(reason);
        self.inner.backups.note(&made, self.now());
        made
    }

    fn try_back_up(&self, reason: Reason) -> Result<Made, ControlError> {
        // One at a time.
        let _turn = self.inner.backups.turn();
        self.check_not_superseded()?;
        let policy = self.backup_policy()?.ok_or_else(no_policy)?;
        let home = self.server_home()?;
        let destination = Destination::open(&policy.destination)?;
        let present = destination.list()?;
        self.check_no_successor_at(&destination, &present)?;
        let own = self.own_incarnation()?;
        let incarnation = own.as_ref().map_or(0, |own| own.number);
        let fingerprint = self.backup_fingerprint(home)?;
        let contents = contents::read(self.records().store(), home)?;
        let made = self.now();
        let header = Header {
            made,
            build: home.build.clone(),
            reason,
            incarnation,
            incarnation_proof: own.map(Incarnation::proof),
            authority: contents.authority_fingerprint()?,
            settings: home.settings.clone(),
            records: contents.counts(),
            files: contents.files.len() as u64,
        };
        let file = format::encode(&header, &contents, &policy.recipients)?;
        let name = BackupName::new(made, reason, incarnation)?;
        destination.put(&name, &file)?;
        self.inner.backups.saved(fingerprint);
        let mut names: Vec<_> = present.into_iter().map(|entry| entry.name).collect();
        names.push(name.clone());
        for old in retention::superfluous(&names, &policy.keep, made) {
            destination.remove(&old)?;
        }
        tracing::info!(%name, bytes = file.len(), destination = destination.name(), "backed up");
        Ok(Made { name, len: file.len() as u64 })
    }

    /// All backups at the destination, newest first.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] without a policy; those of the destination.
    pub fn backups(&self) -> Result<Vec<Made>, ControlError> {
        let policy = self.backup_policy()?.ok_or_else(no_policy)?;
        let mut backups = Destination::open(&policy.destination)?.list()?;
        backups.sort_by(|a, b| b.name.cmp(&a.name));
        Ok(backups)
    }

    /// Reads a backup whole and checks what can be checked without its key: length, checksum, header.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify_backup(&self, name: &BackupName) -> Result<Header, ControlError> {
        let policy = self.backup_policy()?.ok_or_else(no_policy)?;
        let file = Destination::open(&policy.destination)?.get(name)?;
        Ok(format::inspect(&file)?.header)
    }

    /// How backups stand.
    ///
    /// # Errors
    /// Those of the store.
    pub fn backup_status(&self) -> Result<BackupStatus, ControlError> {
        let policy = self.backup_policy()?;
        let (last_success, last_failure) = self.inner.backups.last();
        let reasons = reasons(policy.as_ref(), last_success.as_ref(), last_failure.as_ref(), self.now());
        let health = reasons.iter().map(|(health, _)| *health).max().unwrap_or(Health::Normal);
        let reasons = reasons.into_iter().map(|(_, reason)| reason).collect();
        Ok(BackupStatus { policy, last_success, last_failure, health, reasons })
    }

    /// `HOST:PORT` that this server is reached at first of all, if it was told one.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        self.server_home().ok()?.addresses.first().cloned()
    }

    pub(crate) fn server_home(&self) -> Result<&ServerHome, ControlError> {
        self.inner.home.get().ok_or_else(|| {
            let message = "this process keeps no directory that could be backed up";
            ControlError::new(ErrorKind::IllegalState, "backup.no-directory", message)
        })
    }

    /// Changes with every change of what a backup would hold.
    pub(crate) fn backup_fingerprint(&self, home: &ServerHome) -> Result<keeper::Seen, ControlError> {
        let store = self.records().store().fingerprint()?;
        Ok(keeper::Seen { store, files: contents::stamp(&home.directory)? })
    }
}

fn no_policy() -> ControlError {
    let message = "it is not said where backups go";
    ControlError::new(ErrorKind::IllegalState, "backup.none", message)
        .remedy("`switchback backup schedule` says so")
}

fn check_policy(policy: &BackupPolicy, data: &Path) -> Result<(), ControlError> {
    let invalid = |message: String| Err(ControlError::new(ErrorKind::Invalid, "backup.policy", message));
    format::recipients(&policy.recipients)?;
    if policy.every_ms != 0 && policy.every_ms < EVERY_MS_MIN {
        return invalid("a schedule of less than a minute: use continuous backups".into());
    }
    if policy.keep.last == 0 {
        return invalid("keeping no backup at all makes none".into());
    }
    if let Some(path) = destination::as_directory(&policy.destination) {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if real(path).starts_with(real(data)) {
            return invalid(format!(
                "{} is in the configuration server's own directory: it would be lost with it",
                path.display()
            ));
        }
    }
    Ok(())
}

/// Why backups are not well.
fn reasons(
    policy: Option<&BackupPolicy>,
    success: Option<&Made>,
    failure: Option<&(UnixMillis, JobError)>,
    now: UnixMillis,
) -> Vec<(Health, JobError)> {
    let mut reasons = Vec::new();
    let Some(policy) = policy else {
        let reason = JobError {
            code: "backup.none".into(),
            message: "the configuration server is not backed up: its loss would end all protections".into(),
            cause: String::new(),
            remedy: "`switchback backup schedule` says where to and how often".into(),
        };
        return vec![(Health::Warning, reason)];
    };
    let age_ms = success.map(|made| now.0.saturating_sub(made.name.made.0));
    let since =
        age_ms.map_or("none has succeeded".into(), |age| format!("the last one is {} s old", age / 1000));
    if let Some((_, error)) = failure {
        let is_old = age_ms.is_none_or(|age| age > CRITICAL_AFTER_MS);
        let health = if is_old { Health::Critical } else { Health::Warning };
        let message = format!("the configuration server could not be backed up ({since}): {}", error.message);
        let (cause, remedy) = (error.cause.clone(), error.remedy.clone());
        reasons.push((health, JobError { code: "backup.failed".into(), message, cause, remedy }));
    }
    if policy.every_ms > 0 && age_ms.is_some_and(|age| age > policy.every_ms.saturating_mul(2) + GAP_MS) {
        let reason = JobError {
            code: "backup.overdue".into(),
            message: format!("no scheduled backup has been made in time: {since}"),
            cause: "the destination fails or is slow".into(),
            remedy: "`switchback backup now` tells more".into(),
        };
        reasons.push((Health::Critical, reason));
    }
    reasons
}

impl From<BackupError> for ControlError {
    fn from(error: BackupError) -> Self {
        let (kind, code, remedy) = error.advice();
        Self::new(kind, code, error.to_string()).remedy(remedy)
    }
}

#[cfg(test)]
mod tests;
