//! The user's command line: each command a process, its result as JSON, never waited for without a limit.
//!
//! What a command prints goes to files in the demo's log directory, numbered in their order: the record of what was done.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How much of what a failed command said is shown.
const SAID_LEN_MAX: usize = 4000;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum CommandLineError {
    /// It could not be run.
    #[error("`switchback {command}` could not be run")]
    Run {
        /// Its words.
        command: String,
        /// What the system says.
        source: io::Error,
    },
    /// It failed.
    #[error("`switchback {command}` failed ({status}); it says:\n{said}")]
    Failed {
        /// Its words.
        command: String,
        /// Its exit status.
        status: String,
        /// What it printed.
        said: String,
    },
    /// It did not come to an end.
    #[error("`switchback {command}` had not ended after {} s and was stopped; it says:\n{said}", limit.as_secs())]
    TimeLimit {
        /// Its words.
        command: String,
        /// The limit.
        limit: Duration,
        /// What it printed.
        said: String,
    },
    /// It printed something that is no JSON.
    #[error("`switchback {command}` printed no JSON: {said}")]
    NotJson {
        /// Its words.
        command: String,
        /// What it printed.
        said: String,
    },
}

/// Runs commands against one configuration server.
#[derive(Debug)]
pub struct CommandLine {
    program: PathBuf,
    /// Variables that tell the program its server.
    environment: Vec<(String, String)>,
    logs: PathBuf,
    commands: u32,
}

impl CommandLine {
    /// Commands of `program`, with these variables in their environment, what they print in `logs`.
    #[must_use]
    pub fn new(program: &Path, environment: Vec<(String, String)>, logs: &Path) -> Self {
        Self { program: program.to_owned(), environment, logs: logs.to_owned(), commands: 0 }
    }

    /// The variables, as a person sets them in a shell.
    #[must_use]
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Runs a command with `--output json`. Nothing printed is null.
    ///
    /// # Errors
    /// [`CommandLineError`].
    pub fn json(&mut self, words: &[&str], limit: Duration) -> Result<Value, CommandLineError> {
        let text = self.text(&[words, &["--output", "json"]].concat(), limit)?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text)
            .map_err(|_| CommandLineError::NotJson { command: words.join(" "), said: end_of(&text) })
    }

    /// Runs a command and returns what it printed.
    ///
    /// # Errors
    /// [`CommandLineError`].
    pub fn text(&mut self, words: &[&str], limit: Duration) -> Result<String, CommandLineError> {
        self.commands += 1;
        let file = |kind: &str| self.logs.join(format!("command-{:03}.{kind}", self.commands));
        let (output, messages) = (file("out"), file("err"));
        let command = || words.join(" ");
        let run = |source| CommandLineError::Run { command: command(), source };
        let mut child = Command::new(&self.program)
            .args(words)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(File::create(&output).map_err(run)?)
            .stderr(File::create(&messages).map_err(run)?)
            .spawn()
            .map_err(run)?;
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(run)? {
                break Some(status);
            }
            if started.elapsed() >= limit {
                child.kill().and_then(|()| child.wait()).map_err(run)?;
                break None;
            }
            std::thread::sleep(POLL_INTERVAL);
        };
        let printed = fs::read_to_string(&output).map_err(run)?;
        let said =
            || end_of(&[printed.as_str(), &fs::read_to_string(&messages).unwrap_or_default()].concat());
        match status {
            None => Err(CommandLineError::TimeLimit { command: command(), limit, said: said() }),
            Some(status) if !status.success() => {
                Err(CommandLineError::Failed { command: command(), status: status.to_string(), said: said() })
            }
            Some(_) => Ok(printed),
        }
    }
}

/// The end of a text: errors come last.
fn end_of(text: &str) -> String {
    let text = text.trim();
    let start = text.len().saturating_sub(SAID_LEN_MAX);
    let start = (start..=text.len()).find(|index| text.is_char_boundary(*index)).unwrap_or(0);
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(logs: &Path) -> CommandLine {
        CommandLine::new(Path::new("/bin/sh"), vec![("GREETING".to_owned(), "hello".to_owned())], logs)
    }

    #[test]
    fn results_failures_and_hangs_are_told_apart() {
        let logs = tempfile::tempdir().unwrap();
        let mut shell = shell(logs.path());
        assert_eq!(shell.text(&["-c", "printf $GREETING"], LIMIT).unwrap(), "hello");
        match shell.text(&["-c", "echo out; echo why >&2; exit 3"], LIMIT) {
            Err(CommandLineError::Failed { status, said, .. }) => {
                assert!(
                    status.contains('3') && said.contains("out") && said.contains("why"),
                    "{status} {said}"
                );
            }
            other => panic!("{other:?}"),
        }
        let hang = shell.text(&["-c", "echo begun; exec sleep 60"], Duration::from_millis(300));
        assert!(
            matches!(&hang, Err(CommandLineError::TimeLimit { said, .. }) if said == "begun"),
            "{hang:?}"
        );
    }

    #[test]
    fn only_json_is_a_result() {
        let logs = tempfile::tempdir().unwrap();
        let mut shell = shell(logs.path());
        assert_eq!(shell.json(&["-c", "echo '[1]'"], LIMIT).unwrap(), serde_json::json!([1]));
        assert_eq!(shell.json(&["-c", ":"], LIMIT).unwrap(), Value::Null);
        assert!(matches!(shell.json(&["-c", "echo no"], LIMIT), Err(CommandLineError::NotJson { .. })));
    }

    #[test]
    fn the_end_of_a_text_is_cut_between_characters() {
        let text = "ä".repeat(SAID_LEN_MAX);
        let end = end_of(&text);
        assert!(end.len() <= SAID_LEN_MAX && end.chars().all(|c| c == 'ä'));
    }
}
