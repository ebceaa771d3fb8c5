//! A configuration server from a backup: at another place, under another address, in another database.
//!
//! ```text
//! checked whole ─▶ `restoring` is written ─▶ files ─▶ store, in one transaction ─▶ `restoring` goes
//!                        └── killed anywhere: the server refuses to start there; the restore is begun again and does all of it
//! ```
//! What is restored may be older than the world. So before it is written it is made harmless ([`prepare`]): jobs that were in hand wait for a person;
//! each machine is *held* until its components have shown that nothing newer has happened to it; what components last said is forgotten, but for
//! where they are reached; and the server begins a new incarnation, which components follow from then on instead of the old one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use switchback_disk::{DirVolume, Volume};
use switchback_identity::Role;
use switchback_model::component::{MasterTargetState, ProcessServerState, State};
use switchback_model::{
    AuditRecord, Event, Held, Job, JobState, NetworkMapping, ProtectedItem, ProtectionGroup, RecoveryPlan,
    Severity, Site, TaskState, UnixMillis,
};
use switchback_store::{Kind, Record, Saved, Snapshot, Store};

use super::SERVER_OBJECT;
use super::contents::{Contents, FILES, SCRIPTS};
use super::format::{BackupError, Header};
use super::succession::{INCARNATION, Incarnation, SUPERSEDED};
use crate::access::StoredToken;
use crate::accounts::StoredAccount;
use crate::inventory::Enrolment;
use crate::reports::StoredReport;

/// In the directory while a restore is at work there, or was.
pub const MARKER: &str = "restoring";
/// Of the marker.
const MARKER_LEN_MAX: usize = 4096;
/// The note of a job that a restore has suspended.
pub(crate) const NOTE: &str = "restored";

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The backup itself.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// Something is there.
    #[error(
        "{place} is not empty: a restore never writes over anything. Name another directory, or move away what is there"
    )]
    NotEmpty {
        /// The directory.
        place: String,
    },
    /// Another restore is at work.
    #[error("another process works in {place}")]
    InUse {
        /// The directory.
        place: String,
    },
    /// The directory.
    #[error("{action} failed: {source}")]
    Io {
        /// What was being done.
        action: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// The database.
    #[error("the store could not be filled: {0}")]
    Store(#[from] switchback_store::StoreError),
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("header", &self.header)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

/// A backup that has been checked, as it is to be restored.
pub struct Prepared {
    /// What it says of itself.
    pub header: Header,
    /// What the restored server will be.
    pub incarnation: Incarnation,
    /// Jobs that wait for a person.
    pub suspended: u64,
    /// Machines that are held.
    pub held: u64,
    contents: Contents,
}

fn damaged(detail: String) -> BackupError {
    BackupError::Damaged { detail }
}

/// Checks all of a backup and makes it harmless.
///
/// # Errors
/// [`BackupError::Damaged`]: a record that this program cannot read, a file that does not belong there, an authority that cannot be used.
pub fn prepare(header: Header, mut contents: Contents, now: UnixMillis) -> Result<Prepared, BackupError> {
    check_files(&contents)?;
    if contents.authority_fingerprint()? != header.authority {
        return Err(damaged("its authority is not the one that its header names".into()));
    }
    let number = now.0.max(header.incarnation.saturating_add(1));
    let signature = contents.prove_incarnation(number)?.signature;
    let incarnation = Incarnation { number, backup_made: header.made, restored: now, signature };
    let (mut suspended, mut held) = (0, 0);
    let mut records = Vec::with_capacity(contents.snapshot.records.len());
    for mut saved in std::mem::take(&mut contents.snapshot.records) {
        let keep = match saved.record.kind {
            Kind::Job => {
                suspended += u64::from(suspend(&mut saved, &header)?);
                true
            }
            Kind::Item => {
                hold(&mut saved.record, now)?;
                held += 1;
                true
            }
            Kind::Report => forget_state(&mut saved.record)?,
            Kind::Setting => !matches!(saved.record.key.as_str(), INCARNATION | SUPERSEDED),
            _ => {
                check(&saved.record)?;
                true
            }
        };
        records.extend(keep.then_some(saved));
    }
    // Above every version there was, so that whoever holds an old one cannot change what is made anew.
    let mut snapshot = Snapshot { last_version: contents.snapshot.last_version, records };
    add(&mut snapshot, Kind::Setting, INCARNATION.into(), &incarnation);
    let event = Event {
        time: now,
        code: "server.restored".into(),
        severity: Severity::Warning,
        object: SERVER_OBJECT.into(),
        message: format!(
            "restored from a backup that is {} s old: {suspended} jobs wait for a person, {held} machines are held until their components have reported",
            now.0.saturating_sub(header.made.0) / 1000
        ),
    };
    add(&mut snapshot, Kind::Event, format!("{:015}-restored", now.0), &event);
    contents.snapshot = snapshot;
    Ok(Prepared { header, incarnation, suspended, held, contents })
}

fn add(snapshot: &mut Snapshot, kind: Kind, key: String, value: &impl Serialize) {
    snapshot.last_version += 1;
    let body = serde_json::to_string(value).expect("plain data becomes JSON");
    let record = Record { kind, key, owner: None, version: snapshot.last_version, body };
    snapshot.records.push(Saved { record, due: None });
}

fn read<'a, T: Deserialize<'a>>(record: &'a Record) -> Result<T, BackupError> {
    serde_json::from_str(&record.body).map_err(|error| {
        damaged(format!("the {} {} in it cannot be read: {error}", record.kind.as_str(), record.key))
    })
}

/// Whether this program can read a record.
fn check(record: &Record) -> Result<(), BackupError> {
    match record.kind {
        Kind::Site => read::<Site>(record).map(drop),
        Kind::Server => read::<Enrolment>(record).map(drop),
        Kind::Group => read::<ProtectionGroup>(record).map(drop),
        Kind::NetworkMapping => read::<NetworkMapping>(record).map(drop),
        Kind::Plan => read::<RecoveryPlan>(record).map(drop),
        Kind::Event => read::<Event>(record).map(drop),
        Kind::Audit => read::<AuditRecord>(record).map(drop),
        Kind::Token => read::<StoredToken>(record).map(drop),
        Kind::Account => read::<StoredAccount>(record).map(drop),
        _ => Ok(()),
    }
}

/// A job that was in hand waits for a person: what it had done by the time of the disaster is not known. Says whether it did.
fn suspend(saved: &mut Saved, header: &Header) -> Result<bool, BackupError> {
    let mut job: Job = read(&saved.record)?;
    saved.due = None;
    if job.state.is_final() || job.state == JobState::Suspended {
        // One that waited for a person before does so still.
        return Ok(false);
    }
    job.state = JobState::Suspended;
    job.notes.insert(NOTE.into(), header.made.0.to_string());
    let open = |state| !matches!(state, TaskState::Succeeded | TaskState::Skipped | TaskState::Undone);
    if let Some(task) = job.tasks.iter_mut().find(|task| open(task.state)) {
        task.state = TaskState::Suspended;
        task.message = "it was in hand when the backup was made that this server was restored from: what has been done since is not known. Look at \
                        the machine, then resume the job (each step first looks at what is there) or cancel it"
            .into();
    }
    saved.record.body = serde_json::to_string(&job).expect("plain data becomes JSON");
    Ok(true)
}

fn hold(record: &mut Record, now: UnixMillis) -> Result<(), BackupError> {
    let mut item: ProtectedItem = read(record)?;
    item.held = Some(Held::Unconfirmed { since: now });
    // Whoever goes on with the job asks again.
    item.power_off = None;
    record.body = serde_json::to_string(&item).expect("plain data becomes JSON");
    Ok(())
}

/// Keeps where a process server or master target is reached, and that it has not been heard of; what it once said is true no longer.
fn forget_state(record: &mut Record) -> Result<bool, BackupError> {
    let mut stored: StoredReport = read(record)?;
    stored.received = UnixMillis(0);
    stored.lied = false;
    stored.report.state = match stored.peer.role {
        Role::ProcessServer => State::ProcessServer(ProcessServerState::default()),
        Role::Target => State::MasterTarget(MasterTargetState::default()),
        _ => return Ok(false),
    };
    record.body = serde_json::to_string(&stored).expect("plain data becomes JSON");
    Ok(true)
}

/// Whether the files are such as a server keeps.
fn check_files(contents: &Contents) -> Result<(), BackupError> {
    let mut seen = std::collections::BTreeSet::new();
    for file in &contents.files {
        let path = Path::new(&file.path);
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)))
            && path.components().collect::<std::path::PathBuf>().as_os_str() == path.as_os_str();
        let belongs = FILES.contains(&file.path.as_str()) || file.path.starts_with(&format!("{SCRIPTS}/"));
        if !is_plain || !belongs || !seen.insert(&file.path) {
            return Err(damaged(format!("it holds a file that does not belong there: {:?}", file.path)));
        }
    }
    Ok(())
}

/// What the marker tells.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    incarnation: u64,
    backup_made: UnixMillis,
}

fn failed(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> RestoreError {
    let action = action.into();
    move |source| RestoreError::Io { action, source }
}

/// Opens the store of a server in a directory.
pub type OpenStore<'a> = dyn Fn(&Path) -> Result<Arc<dyn Store>, switchback_store::StoreError> + 'a;

/// Writes a backup into `directory`, which must be empty, absent, or left by a restore that was interrupted, and into the store that `open` opens when
/// the files are there. `told` hears of each step before it is done.
///
/// # Errors
/// [`RestoreError`]; the directory then has a marker, with which no server starts, and the same call does it again.
pub fn restore(
    mut prepared: Prepared,
    directory: &Path,
    open: &OpenStore<'_>,
    told: &mut dyn FnMut(&str),
) -> Result<Prepared, RestoreError> {
    let place = directory.display().to_string();
    told("looking at the directory");
    if !directory.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed(format!("making {place}")))?;
        sync_parent(directory)?;
    }
    let volume = DirVolume::open(directory).map_err(|error| RestoreError::Io {
        action: format!("opening {place}"),
        source: std::io::Error::other(error),
    })?;
    let _lock = volume.lock().map_err(|_| RestoreError::InUse { place: place.clone() })?;
    let (marker, again) = begin(&volume, directory, &prepared)?;
    // A store that an interrupted restore has filled tells the same incarnation.
    adopt(&mut prepared, &marker)?;
    told("removing what an interrupted restore has left");
    clear(directory)?;
    for file in &prepared.contents.files {
        told(&format!("writing {}", file.path));
        write_file(directory, file)?;
    }
    sync_tree(directory)?;
    told("filling the store");
    let store = open(directory)?;
    let kept = if again { store.get(Kind::Setting, INCARNATION)? } else { None };
    let kept = kept.and_then(|record| serde_json::from_str::<Incarnation>(&record.body).ok());
    if kept.is_none_or(|kept| kept.number != marker.incarnation) {
        store.restore(&prepared.contents.snapshot)?;
    }
    drop(store);
    told("finishing");
    volume.sync().map_err(failed(format!("making {place} durable")))?;
    volume.remove(MARKER).and_then(|()| volume.sync()).map_err(failed("removing the marker"))?;
    Ok(prepared)
}

/// Marks the directory as being restored, if it is empty or marked already; says whether it was, by a restore of the same backup.
fn begin(volume: &DirVolume, directory: &Path, prepared: &Prepared) -> Result<(Marker, bool), RestoreError> {
    let new = Marker { incarnation: prepared.incarnation.number, backup_made: prepared.header.made };
    let is_marked =
        volume.list().map_err(failed("listing the directory"))?.iter().any(|file| file.name == MARKER);
    if is_marked {
        let text = volume.read_all(MARKER, MARKER_LEN_MAX).map_err(failed("reading the marker"))?;
        let kept =
            serde_json::from_slice::<Marker>(&text).ok().filter(|kept| kept.backup_made == new.backup_made);
        if let Some(kept) = kept {
            return Ok((kept, true));
        }
    } else if entries(directory)?
        .iter()
        .any(|name| name != "lock" && name != "lost+found" && name != "restoring.new")
    {
        return Err(RestoreError::NotEmpty { place: directory.display().to_string() });
    }
    let text = serde_json::to_vec(&new).expect("plain data becomes JSON");
    volume.write_atomic(MARKER, &text).map_err(failed("marking the directory"))?;
    Ok((new, false))
}

fn adopt(prepared: &mut Prepared, marker: &Marker) -> Result<(), BackupError> {
    if prepared.incarnation.number == marker.incarnation {
        return Ok(());
    }
    prepared.incarnation.number = marker.incarnation;
    prepared.incarnation.signature = prepared.contents.prove_incarnation(marker.incarnation)?.signature;
    let body = serde_json::to_string(&prepared.incarnation).expect("plain data becomes JSON");
    for saved in &mut prepared.contents.snapshot.records {
        if saved.record.kind == Kind::Setting && saved.record.key == INCARNATION {
            saved.record.body.clone_from(&body);
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<std::ffi::OsString>, RestoreError> {
    let listed = std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let listed = listed.map_err(failed(format!("listing {}", directory.display())))?;
    Ok(listed.into_iter().map(|entry| entry.file_name()).collect())
}

/// Removes all but the marker and the lock: an interrupted restore has made it, as the directory was empty before.
fn clear(directory: &Path) -> Result<(), RestoreError> {
    for name in entries(directory)? {
        if name == MARKER || name == "lock" || name == "lost+found" {
            continue;
        }
        let path = directory.join(&name);
        let is_directory = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        let removed = if is_directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(failed(format!("removing {}", path.display())))?;
    }
    Ok(())
}

fn write_file(directory: &Path, file: &super::contents::SavedFile) -> Result<(), RestoreError> {
    let path = directory.join(&file.path);
    let parent = path.parent().unwrap_or(directory);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(failed(format!("making {}", parent.display())))?;
    let mode = if file.executable { 0o700 } else { 0o600 };
    let write = || {
        let mut open = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        open.write_all(&file.contents)?;
        open.sync_all()
    };
    write().map_err(failed(format!("writing {}", path.display())))
}

/// Makes the names of all directories below durable.
fn sync_tree(directory: &Path) -> Result<(), RestoreError> {
    let mut open = vec![directory.to_path_buf()];
    while let Some(path) = open.pop() {
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(failed(format!("making {} durable", path.display())))?;
        for name in entries(&path)? {
            let below = path.join(name);
            if below.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                open.push(below);
            }
        }
    }
    Ok(())
}

fn sync_parent(path: &Path) -> Result<(), RestoreError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|file| file.sync_all())
        .map_err(failed(format!("making {} durable", parent.display())))
}

/// Refuses a directory that a restore has not finished.
///
/// # Errors
/// What to do.
pub fn check_finished(directory: &Path) -> Result<(), crate::ControlError> {
    if !directory.join(MARKER).exists() {
        return Ok(());
    }
    let message =
        format!("the restore into {} was interrupted: what is there is not whole", directory.display());
    Err(crate::ControlError::new(crate::ErrorKind::IllegalState, "restore.unfinished", message)
        .remedy("run the same `switchback configuration-server restore` again"))
}

#[cfg(test)]
mod tests;
