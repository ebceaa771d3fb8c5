//! The guest made ready for where it may wake up one day, while it is still at home: Azure's platform, and firmware that has never started it.
//!
//! What it never does: stand in replication's way (it runs in a thread of its own, each program of the guest with a limit); leave a file half written or an initramfs that was
//! not made completely in the place of one that was; change anything when the user forbids it, or where nobody asked for it.
//!
//! The path of one look: has anything changed that the outcome depends on → the checks → what did not pass is prepared, once for each boot and each change, which is noted
//! before it is begun → the checks again → the agent's report. What could not be prepared says why.

mod boot_loader;
mod cards;
mod firmware;
mod fstab;
mod initramfs;
mod root;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use switchback_disk::Volume;
use switchback_model::component::GuestPlatform;
use switchback_model::{CheckState, ReadinessCheck};

use root::{Commands, OwnCommands, Root};

/// How often it is looked whether something has changed.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// What was prepared last, in the agent's directory.
const NOTE: &str = "guest";
const NOTE_LEN_MAX: usize = 64 << 10;
/// Of a reason why something could not be done, what is kept.
const WHY_LEN_MAX: usize = 2048;

/// A guest, and its own programs.
#[derive(Debug)]
struct Guest {
    root: Root,
    commands: Box<dyn Commands>,
    /// The version of the kernel that runs.
    running: String,
}

/// What the guest is to be ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A platform.
    pub(super) platform: Option<GuestPlatform>,
    /// Firmware that has never started it.
    pub(super) new_firmware: bool,
}

/// Prepares one thing; why it cannot be.
type Step = fn(&Guest) -> Result<(), String>;

impl Guest {
    /// All checks, in the order in which a machine comes up.
    fn look(&self, wanted: Wanted) -> Vec<ReadinessCheck> {
        let mut checks = Vec::new();
        if wanted.new_firmware && firmware::is_started_by_uefi(self) {
            checks.push(firmware::check(self));
        }
        if wanted.platform == Some(GuestPlatform::Azure) {
            checks.push(initramfs::check(self));
            checks.extend(boot_loader::check(self));
            checks.extend([fstab::check(self), cards::check(self)]);
        }
        checks
    }

    /// Does what is safe about what did not pass; the answer: what could not be done, by check.
    fn prepare(&self, checks: &[ReadinessCheck]) -> BTreeMap<String, String> {
        let steps: [(&'static str, Step); 4] = [
            (firmware::CODE, firmware::prepare),
            (initramfs::CODE, initramfs::prepare),
            (boot_loader::CONSOLE, boot_loader::prepare_console),
            (fstab::CODE, fstab::prepare),
        ];
        let mut failed = BTreeMap::new();
        for (code, step) in steps {
            let found = checks.iter().find(|check| check.code == code).map(|check| check.state);
            // What could not be looked at is not changed either.
            if !matches!(found, Some(CheckState::Failed | CheckState::Warning)) {
                continue;
            }
            match step(self) {
                Ok(()) => tracing::info!(code, "this guest was prepared"),
                Err(why) => {
                    tracing::error!(code, why, "this guest cannot be prepared");
                    failed.insert(code.to_owned(), why.chars().take(WHY_LEN_MAX).collect());
                }
            }
        }
        failed
    }

    /// Another one whenever something has changed that the outcome depends on.
    fn mark(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for file in initramfs::FILES.iter().chain(&boot_loader::FILES).chain(&[fstab::FILE]) {
            self.root.mark(file, &mut hasher);
        }
        for file in firmware::files(self) {
            self.root.mark(&file, &mut hasher);
        }
        hasher.write(self.running.as_bytes());
        hasher.finish()
    }
}

/// What was prepared last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    boot_id: String,
    /// The guest's [`Guest::mark`] afterwards; before, while it is being prepared.
    mark: u64,
    /// What could not be prepared, and why, by check.
    failed: BTreeMap<String, String>,
}

/// What is known of the guest.
#[derive(Debug, Default)]
struct Known {
    /// What was looked for.
    wanted: Wanted,
    /// As of the last look; `None`: look again.
    mark: Option<u64>,
    checks: Vec<ReadinessCheck>,
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct GuestCare {
    guest: Arc<Guest>,
    volume: Arc<dyn Volume>,
    boot_id: String,
    /// Nothing is changed.
    leave_alone: bool,
    known: Arc<Mutex<Known>>,
    running: Option<JoinHandle<()>>,
    looked: Option<Instant>,
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GuestCare {
    /// For this machine. `leave_alone`: it is only looked at.
    pub(super) fn new(volume: Arc<dyn Volume>, boot_id: &str, leave_alone: bool) -> Self {
        let running = rustix::system::uname().release().to_string_lossy().into_owned();
        let guest = Guest { root: Root::new("/"), commands: Box::new(OwnCommands), running };
        Self {
            guest: Arc::new(guest),
            volume,
            boot_id: boot_id.into(),
            leave_alone,
            known: Arc::default(),
            running: None,
            looked: None,
        }
    }

    /// Begins a look, if one is due and none runs. `wanted`: what it is to be ready for; nothing forgets what was found. `done` is called when something else was found.
    pub(super) fn look_at(&mut self, wanted: Wanted, done: impl FnOnce() + Send + 'static) {
        if self.running.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        self.running = None;
        if lock(&self.known).wanted != wanted {
            *lock(&self.known) = Known { wanted, ..Known::default() };
            self.looked = None;
        }
        if wanted == Wanted::default() {
            return;
        }
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let (guest, known, volume) = (self.guest.clone(), self.known.clone(), self.volume.clone());
        let (boot_id, leave_alone) = (self.boot_id.clone(), self.leave_alone);
        let started = std::thread::Builder::new().name("guest".into()).spawn(move || {
            if tend(&guest, &known, &*volume, (&boot_id, leave_alone)) {
                done();
            }
        });
        match started {
            Ok(thread) => self.running = Some(thread),
            Err(error) => tracing::error!(%error, "no thread for looking at the guest"),
        }
    }

    /// What was found last.
    pub(super) fn checks(&self) -> Vec<ReadinessCheck> {
        lock(&self.known).checks.clone()
    }
}

/// One look; `true`: something else was found.
fn tend(
    guest: &Guest,
    known: &Mutex<Known>,
    volume: &dyn Volume,
    (boot_id, leave_alone): (&str, bool),
) -> bool {
    let (wanted, mark) = (lock(known).wanted, guest.mark());
    if lock(known).mark == Some(mark) {
        return false;
    }
    let (mut checks, mut seen) = (guest.look(wanted), Some(mark));
    let note = read_note(volume).filter(|note| note.boot_id == boot_id && note.mark == mark);
    let mut failed = note.clone().unwrap_or_default().failed;
    let mut later = None;
    let needs = checks.iter().any(|check| check.state > CheckState::Passed);
    if needs && !leave_alone && note.is_none() {
        match prepare(guest, volume, boot_id, (mark, &checks)) {
            Ok(note) => {
                (checks, seen, failed) = (guest.look(wanted), Some(note.mark), note.failed);
            }
            Err(why) => {
                tracing::warn!(why, "the guest is not prepared now; it is tried again");
                (seen, later) = (None, Some(why));
            }
        }
    }
    for check in checks.iter_mut().filter(|check| check.state != CheckState::Passed) {
        if let Some(why) = failed.get(&check.code) {
            check.facts = format!("{}; it could not be prepared: {why}", check.facts);
        } else if let Some(why) = &later {
            check.facts = format!("{}; not prepared yet: {why}", check.facts);
        } else if leave_alone {
            check.facts = format!("{}; the agent was told to leave the guest alone", check.facts);
        }
    }
    let mut known = lock(known);
    let changed = known.checks != checks;
    *known = Known { wanted, mark: seen, checks };
    changed
}

/// Prepares what did not pass; what became of it is noted, and answered.
fn prepare(
    guest: &Guest,
    volume: &dyn Volume,
    boot_id: &str,
    (mark, checks): (u64, &[ReadinessCheck]),
) -> Result<Note, String> {
    // Two at a time would write the same initramfs.
    let _packages = guest.root.lock_packages()?;
    let mut note = Note { boot_id: boot_id.into(), mark, failed: BTreeMap::new() };
    // Noted first: what makes the machine or the agent end is not tried again and again.
    write_note(volume, &note).map_err(|error| format!("it cannot be noted: {error}"))?;
    note.failed = guest.prepare(checks);
    // Before the look that follows: what changes during that is looked at again.
    note.mark = guest.mark();
    write_note(volume, &note).map_err(|error| format!("it cannot be noted: {error}"))?;
    Ok(note)
}

fn read_note(volume: &dyn Volume) -> Option<Note> {
    serde_json::from_slice(&volume.read_all(NOTE, NOTE_LEN_MAX).ok()?).ok()
}

fn write_note(volume: &dyn Volume, note: &Note) -> std::io::Result<()> {
    volume.write_atomic(NOTE, &serde_json::to_vec(note).expect("plain data becomes JSON"))
}
