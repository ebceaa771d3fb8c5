//! Scripts of recovery plans, in the guest: once for each token, also over restarts.
//!
//! Before a script is started a note says so, durably; after it, what became of it. A note without a result means that the agent, or the
//! machine, ended meanwhile: it is not run again, as nobody knows how far it came; the plan's job is told. Notes live as long as their
//! call is wanted.
//!
//! Only plain files in one directory may be called: whoever may write there may decide what runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use switchback_capture::scripts::{Phase, Script, run};
use switchback_disk::Volume;
use switchback_model::component::{ScriptCall, ScriptResult};

/// Where scripts may lie.
pub(super) const DIRECTORY: &str = "/etc/switchback/scripts";
const FILE: &str = "scripts";
const FILE_LEN_MAX: usize = 16 << 20;
/// Longest that any script may take.
const LIMIT_MAX: Duration = Duration::from_secs(3600);
/// Calls that are taken at a time.
const CALLS_MAX: usize = 256;

/// What is noted of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Note {
    Started,
    Ended { succeeded: bool, output: String },
}

type Notes = BTreeMap<String, Note>;

/// See the module's header.
#[derive(Debug)]
pub(super) struct ScriptRunner {
    volume: Arc<dyn Volume>,
    directory: PathBuf,
    notes: Arc<Mutex<Notes>>,
    running: Option<std::thread::JoinHandle<()>>,
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ScriptRunner {
    /// With the notes of earlier runs.
    pub(super) fn open(volume: Arc<dyn Volume>, directory: &Path) -> anyhow::Result<Self> {
        let mut notes: Notes = match volume.read_all(FILE, FILE_LEN_MAX) {
            Ok(data) => serde_json::from_slice(&data)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Notes::new(),
            // Without them a script could run twice.
            Err(error) => return Err(error.into()),
        };
        for note in notes.values_mut().filter(|note| **note == Note::Started) {
            *note = ended(false, "the agent or the machine was restarted while it ran; it is not run again");
        }
        Ok(Self { volume, directory: directory.into(), notes: Arc::new(Mutex::new(notes)), running: None })
    }

    /// Starts the next of the calls that have not been made, if none is running, and forgets those that are not wanted any more.
    pub(super) fn look_at(&mut self, calls: &[ScriptCall], done: impl FnOnce() + Send + 'static) {
        if self.running.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        self.running = None;
        let mut notes = lock(&self.notes);
        notes.retain(|token, _| calls.iter().any(|call| call.token == *token));
        let next = calls.iter().take(CALLS_MAX).find(|call| !notes.contains_key(&call.token)).cloned();
        let Some(call) = next else { return };
        notes.insert(call.token.clone(), Note::Started);
        if let Err(error) = save(&*self.volume, &notes) {
            notes.insert(call.token, ended(false, format!("not run, as that cannot be noted: {error}")));
            return;
        }
        drop(notes);
        let (volume, notes, directory) = (self.volume.clone(), self.notes.clone(), self.directory.clone());
        let started = std::thread::Builder::new().name("script".into()).spawn(move || {
            let note = make(&directory, &call);
            let mut notes = lock(&notes);
            notes.insert(call.token, note);
            if let Err(error) = save(&*volume, &notes) {
                tracing::error!(%error, "a script's result cannot be noted; it is lost with the next restart");
            }
            drop(notes);
            done();
        });
        match started {
            Ok(thread) => self.running = Some(thread),
            Err(error) => tracing::error!(%error, "no thread for a script"),
        }
    }

    /// What became of those that have ended.
    pub(super) fn results(&self) -> Vec<ScriptResult> {
        let result = |(token, note): (&String, &Note)| match note {
            Note::Started => None,
            Note::Ended { succeeded, output } => {
                Some(ScriptResult { token: token.clone(), succeeded: *succeeded, output: output.clone() })
            }
        };
        lock(&self.notes).iter().filter_map(result).collect()
    }
}

fn save(volume: &dyn Volume, notes: &Notes) -> std::io::Result<()> {
    volume.write_atomic(FILE, &serde_json::to_vec(notes).expect("plain data becomes JSON"))
}

fn ended(succeeded: bool, output: impl Into<String>) -> Note {
    Note::Ended { succeeded, output: output.into() }
}

fn make(directory: &Path, call: &ScriptCall) -> Note {
    let name = call.script.as_str();
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
        return ended(false, format!("{name:?} is not the name of a file in {}", directory.display()));
    }
    let limit = Duration::from_secs(call.limit_s).min(LIMIT_MAX);
    let script = Script { program: directory.join(name), arguments: Vec::new(), limit };
    match run(&script, Phase::OnRequest) {
        Ok(output) => ended(true, output),
        Err(error) => ended(false, crate::freezing::chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use switchback_disk::{DirVolume, Volume};
    use switchback_model::component::{ScriptCall, ScriptResult};

    use super::ScriptRunner;

    fn call(token: &str, script: &str) -> ScriptCall {
        ScriptCall { token: token.into(), script: script.into(), limit_s: 20 }
    }

    fn until(runner: &mut ScriptRunner, calls: &[ScriptCall], count: usize) -> Vec<ScriptResult> {
        let began = Instant::now();
        loop {
            runner.look_at(calls, || ());
            let results = runner.results();
            if results.len() >= count {
                return results;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{results:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn script(directory: &Path, name: &str, text: &str) {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_script_runs_once_for_its_token_also_over_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let volume: Arc<dyn Volume> = Arc::new(DirVolume::open(directory.path()).unwrap());
        let count = directory.path().join("count");
        script(directory.path(), "add", &format!("#!/bin/sh\necho x >> {}\necho done\n", count.display()));
        script(directory.path(), "bad", "#!/bin/sh\necho broken\nexit 3\n");
        let open = || ScriptRunner::open(volume.clone(), directory.path()).unwrap();
        let calls = [call("a", "add"), call("b", "bad"), call("c", "../add"), call("d", "none")];
        let mut runner = open();
        let results = until(&mut runner, &calls, 4);
        assert!(results[0].succeeded && results[0].output == "done", "{results:?}");
        assert!(!results[1].succeeded && results[1].output.contains("broken"), "{results:?}");
        assert!(!results[2].succeeded && !results[3].succeeded, "{results:?}");
        let mut runner = open();
        assert_eq!(until(&mut runner, &calls, 4), results);
        assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\n");
        // Killed in the middle: not again.
        volume.write_atomic("scripts", br#"{"e":"started"}"#).unwrap();
        let mut runner = open();
        let results = until(&mut runner, &[call("e", "add")], 1);
        assert!(!results[0].succeeded && results[0].output.contains("restarted"), "{results:?}");
        assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\n");
        runner.look_at(&[], || ());
        assert!(runner.results().is_empty(), "forgotten with its call");
    }
}
