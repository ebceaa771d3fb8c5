//! Updates: this process goes on as another version of the program, which the configuration server offers.
//!
//! What it is: the way from an offer to that. The program is fetched over the control channel into the agent's directory, its digest is compared with the
//! offer's, and it is asked for its version, which shows whether it runs here at all; then the agent ends as for a restart (what the kernel tracks for it stays)
//! and its process *becomes* the other program, with the same arguments and the same id, so that whoever supervises it sees nothing. What it never does: change
//! what was installed: a package's file is the package's.
//!
//! ```text
//! program            the record: which version, in the place of which, and how far it has come
//! program-DIGEST     the version itself
//! ```
//! **A version is on trial** until it has heard from the configuration server. One that ends before, or hears nothing for [`TRIAL_MAX`], has failed: what was
//! installed goes on, says why, and does not try again for the same request. Once confirmed it is what runs: the installed program, whenever it is
//! started, goes on as it ([`go_on`]), as long as it is itself what it was at the update. When a package was installed since, that is what counts, and the record goes.
//!
//! The record is replaced atomically, after the version it names is durable: whenever the power goes, either the one or the other is what runs.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use switchback_control::Program;
use switchback_disk::{DirVolume, Volume};
use switchback_model::component::{ProgramOffer, ProgramState};

use crate::component::Channel;

const RECORD: &str = "program";
const RECORD_LEN_MAX: usize = 16 << 10;
/// What names of versions begin with.
const VERSION: &str = "program-";
/// Longer than any release, so that a wrong offer does not fill a protected disk.
const PROGRAM_LEN_MAX: u64 = 1 << 30;
/// What is left free on the agent's disk, in bytes.
const ROOM_LEFT: u64 = 64 << 20;
/// How long a version on trial waits for the configuration server.
const TRIAL_MAX: Duration = Duration::from_secs(600);
/// For a version to say which one it is.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Set for a process that is another version than the installed one: its digest.
const SUCCESSOR: &str = "SWITCHBACK_AGENT_VERSION";

/// A version in the place of the installed program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The request it came with.
    token: String,
    sha256: String,
    /// The installed program, and its digest.
    installed: PathBuf,
    installed_sha256: String,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// It is about to be run, or runs and has heard nothing yet.
    Trial,
    /// It runs.
    Confirmed,
    /// It does not; why.
    Failed(String),
}

impl Record {
    fn load(volume: &dyn Volume) -> Option<Self> {
        let text = volume.read_all(RECORD, RECORD_LEN_MAX).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn store(&self, volume: &dyn Volume) -> std::io::Result<()> {
        volume.write_atomic(RECORD, &serde_json::to_vec(self).expect("plain data becomes JSON"))
    }

    fn version(&self) -> String {
        version_name(&self.sha256)
    }
}

fn version_name(sha256: &str) -> String {
    format!("{VERSION}{}", sha256.get(..16).unwrap_or(sha256))
}

/// Removes versions that are not `kept`. What cannot be removed costs room, and nothing else.
fn tidy(volume: &dyn Volume, kept: Option<&str>) {
    for entry in volume.list().unwrap_or_default() {
        if entry.name.starts_with(VERSION)
            && Some(entry.name.as_str()) != kept
            && let Err(error) = volume.remove(&entry.name)
        {
            tracing::warn!(%error, name = entry.name, "a former version cannot be removed");
        }
    }
}

/// The first thing that a started agent does: the installed program goes on as the version that was put in its place, if one was. Returns
/// when it is to go on as itself.
pub fn go_on(data: &Path) {
    if std::env::var_os(SUCCESSOR).is_some() {
        return;
    }
    let Ok(volume) = DirVolume::open(data) else { return };
    let Some(mut record) = Record::load(&volume) else { return };
    let own = Program::own().map(|program| program.sha256().to_owned()).unwrap_or_default();
    if own != record.installed_sha256 {
        tracing::info!("another version was installed since the update: that one counts");
        if volume.remove(RECORD).is_ok() {
            tidy(&volume, None);
        }
        return;
    }
    let why = match &record.stage {
        Stage::Failed(_) => return,
        Stage::Trial => "it ended before it had heard from the configuration server".to_owned(),
        Stage::Confirmed => {
            let successor =
                Successor { path: data.join(record.version()), sha256: Some(record.sha256.clone()) };
            successor.exec().to_string()
        }
    };
    tracing::error!(
        why,
        "the version that the configuration server has put in this one's place does not run"
    );
    record.stage = Stage::Failed(why);
    match record.store(&volume) {
        Ok(()) => tidy(&volume, None),
        Err(error) => tracing::error!(%error, "that could not be written down"),
    }
}

/// A program that this process is to go on as.
#[derive(Debug)]
pub struct Successor {
    path: PathBuf,
    /// `None`: it is the installed one.
    sha256: Option<String>,
}

impl Successor {
    /// Only returns when it failed.
    fn exec(&self) -> std::io::Error {
        let mut command = Command::new(&self.path);
        command.args(std::env::args_os().skip(1));
        match &self.sha256 {
            Some(sha256) => command.env(SUCCESSOR, sha256),
            None => command.env_remove(SUCCESSOR),
        };
        command.exec()
    }

    /// Becomes it. Returns why it could not: the process ends then, and is started again as what was installed.
    #[must_use]
    pub fn become_it(self, data: &Path) -> anyhow::Error {
        let error = self.exec();
        let failed = DirVolume::open(data).ok().and_then(|volume| {
            let record = Record::load(&volume)?;
            Record { stage: Stage::Failed(error.to_string()), ..record }.store(&volume).ok()
        });
        if failed.is_none() {
            tracing::error!("that could not be written down");
        }
        anyhow::Error::from(error).context(format!("going on as {}", self.path.display()))
    }
}

/// What a fetching thread has come to.
#[derive(Debug, Default)]
struct Progress {
    fetched: u64,
    /// `Some`: it has ended. With nothing: this version is what was offered.
    ended: Option<Result<Option<Successor>, String>>,
    own: String,
}

/// The agent's part.
pub(super) struct Updates {
    volume: Arc<dyn Volume>,
    data: PathBuf,
    allowed: bool,
    /// This process is on trial since then.
    trial: Option<Instant>,
    /// What is fetched for, or was.
    offer: Option<ProgramOffer>,
    progress: Arc<Mutex<Progress>>,
}

impl Updates {
    pub(super) fn open(volume: Arc<dyn Volume>, data: &Path, allowed: bool) -> Self {
        let record = Record::load(&*volume);
        let on_trial = std::env::var_os(SUCCESSOR).is_some()
            && record.is_some_and(|record| record.stage == Stage::Trial);
        Self {
            volume,
            data: data.to_owned(),
            allowed,
            trial: on_trial.then(Instant::now),
            offer: None,
            progress: Arc::default(),
        }
    }

    /// The configuration server has answered: a version on trial has passed it.
    pub(super) fn heard(&mut self) {
        if self.trial.is_none() {
            return;
        }
        let confirmed = Record::load(&*self.volume).map(|record| {
            let record = Record { stage: Stage::Confirmed, ..record };
            record.store(&*self.volume).map(|()| tidy(&*self.volume, Some(&record.version())))
        });
        match confirmed {
            Some(Err(error)) => tracing::error!(%error, "the update could not be written down; tried again"),
            Some(Ok(())) | None => {
                tracing::info!("this version has taken the former one's place");
                self.trial = None;
            }
        }
    }

    /// How it stands to the offer.
    pub(super) fn state(&self) -> Option<ProgramState> {
        let offer = self.offer.as_ref()?;
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = progress.ended.as_ref().and_then(|ended| ended.as_ref().err().cloned());
        Some(ProgramState {
            token: offer.token.clone(),
            sha256: progress.own.clone(),
            fetched: progress.fetched,
            failure,
        })
    }

    /// Looks at what is offered; says as what this process is to go on, once that is ready.
    pub(super) fn look(&mut self, offer: Option<&ProgramOffer>, channel: &Arc<Channel>) -> Option<Successor> {
        if self.trial.is_some_and(|since| since.elapsed() > TRIAL_MAX) {
            return self.give_up();
        }
        if self.offer.as_ref() != offer {
            self.offer = offer.cloned();
            self.progress = Arc::default();
            if let Some(offer) = &self.offer {
                self.begin(offer.clone(), channel.clone());
            }
        }
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut progress.ended {
            Some(Ok(successor)) => successor.take(),
            _ => None,
        }
    }

    /// Back to what was installed.
    fn give_up(&mut self) -> Option<Successor> {
        self.trial = None;
        let record = Record::load(&*self.volume)?;
        let why = format!("it heard nothing from the configuration server for {} s", TRIAL_MAX.as_secs());
        tracing::error!(why, "this version gives its place back");
        let record = Record { stage: Stage::Failed(why), ..record };
        record.store(&*self.volume).ok()?;
        Some(Successor { path: record.installed, sha256: None })
    }

    fn begin(&self, offer: ProgramOffer, channel: Arc<Channel>) {
        let (progress, volume, data) = (self.progress.clone(), self.volume.clone(), self.data.clone());
        let allowed = self.allowed;
        let spawned = std::thread::Builder::new().name("update".into()).spawn(move || {
            let ended = prepare(&offer, &channel, &*volume, &data, allowed, &progress);
            if let Err(error) = &ended {
                tracing::error!("the update is not done: {error:#}");
            }
            let ended = ended.map_err(|error| format!("{error:#}"));
            progress.lock().unwrap_or_else(PoisonError::into_inner).ended = Some(ended);
            channel.report_now();
            channel.wake();
        });
        if let Err(error) = spawned {
            let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.ended = Some(Err(format!("no thread for it: {error}")));
        }
    }
}

/// Everything up to the point at which this process can become it.
fn prepare(
    offer: &ProgramOffer,
    channel: &Channel,
    volume: &dyn Volume,
    data: &Path,
    allowed: bool,
    progress: &Mutex<Progress>,
) -> anyhow::Result<Option<Successor>> {
    let own = Program::own().context("reading the program that runs")?.sha256().to_owned();
    progress.lock().unwrap_or_else(PoisonError::into_inner).own.clone_from(&own);
    if own == offer.sha256 {
        return Ok(None);
    }
    ensure!(
        allowed,
        "updates by the configuration server are refused here (--no-updates): install the package"
    );
    let before = Record::load(volume);
    if let Some(Record { token, stage: Stage::Failed(why), .. }) = &before
        && *token == offer.token
    {
        anyhow::bail!("{why}");
    }
    ensure!(
        offer.len <= PROGRAM_LEN_MAX,
        "{} bytes are offered: that is no version of this program",
        offer.len
    );
    let free = volume.free_bytes()?;
    ensure!(
        free >= offer.len + ROOM_LEFT,
        "{} has {} MiB free, too few for {} MiB",
        data.display(),
        free >> 20,
        offer.len >> 20
    );
    let path = data.join(version_name(&offer.sha256));
    fetch(offer, channel, &path, progress)?;
    volume.sync()?;
    check_runs(&path)?;
    let (installed, installed_sha256) = match before {
        Some(before) if std::env::var_os(SUCCESSOR).is_some() => (before.installed, before.installed_sha256),
        _ => (std::env::current_exe()?, own),
    };
    let (token, sha256) = (offer.token.clone(), offer.sha256.clone());
    Record { token, sha256: sha256.clone(), installed, installed_sha256, stage: Stage::Trial }
        .store(volume)?;
    Ok(Some(Successor { path, sha256: Some(sha256) }))
}

/// Fetches it into a file, and makes that durable if it is what was offered.
fn fetch(
    offer: &ProgramOffer,
    channel: &Channel,
    path: &Path,
    progress: &Mutex<Progress>,
) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o700).open(path)?;
    let fetched = channel.fetch_program(offer, |piece| {
        progress.lock().unwrap_or_else(PoisonError::into_inner).fetched += piece.len() as u64;
        file.write_all(piece)
    });
    let judged = fetched.and_then(|()| {
        file.sync_all()?;
        let found = Program::open(path)?;
        ensure!(
            found.sha256() == offer.sha256,
            "what arrived is not what was offered: its digest is {}",
            found.sha256()
        );
        Ok(())
    });
    if judged.is_err() {
        let _ = std::fs::remove_file(path);
    }
    judged.context("fetching the program from the configuration server")
}

/// Has it say its version: another processor's program, or one whose libraries are not here, does not.
fn check_runs(path: &Path) -> anyhow::Result<()> {
    let command = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = command.context("the program that was fetched does not run here (another processor, or a disk that is mounted noexec?)")?;
    let began = Instant::now();
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => {
                let mut said = String::new();
                if let Some(stderr) = child.stderr.take() {
                    std::io::Read::read_to_string(&mut std::io::Read::take(stderr, 1000), &mut said).ok();
                }
                anyhow::bail!("the program that was fetched does not run here: {status}: {}", said.trim());
            }
            None if began.elapsed() > ANSWER_MAX => {
                child.kill().ok();
                child.wait().ok();
                anyhow::bail!(
                    "the program that was fetched does not say its version within {} s",
                    ANSWER_MAX.as_secs()
                );
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
