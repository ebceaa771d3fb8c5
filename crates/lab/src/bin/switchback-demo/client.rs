//! The `switchback` command line as the demo uses it: shown to who watches, answered in JSON.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::stage::{Stage, last_lines};

/// Longer than anything here takes, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// The command line with a server to talk to.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Client {
    pub(crate) fn new(program: &Path, server: &str, ca_file: &Path, token_file: &Path) -> Self {
        let environment = vec![
            ("SWITCHBACK_SERVER", server.to_owned()),
            ("SWITCHBACK_CA_FILE", ca_file.display().to_string()),
            ("SWITCHBACK_TOKEN_FILE", token_file.display().to_string()),
        ];
        Self { program: program.to_owned(), environment }
    }

    /// As a person would type it.
    pub(crate) fn exports(&self) -> String {
        self.environment.iter().map(|(name, value)| format!("  export {name}={value}\n")).collect()
    }

    /// Does something: shown as it would be typed, jobs are waited for.
    pub(crate) fn run(&self, stage: &mut Stage, command: &str) -> anyhow::Result<Value> {
        println!("  $ switchback {command}");
        self.call(stage, command)
    }

    /// Asks for something, silently.
    pub(crate) fn ask(&self, stage: &mut Stage, command: &str) -> anyhow::Result<Value> {
        self.call(stage, command)
    }

    fn call(&self, stage: &mut Stage, command: &str) -> anyhow::Result<Value> {
        let (answer, messages) = (stage.directory().join("answer"), stage.log("client"));
        let mut child = Command::new(&self.program)
            .args(command.split_whitespace())
            .args(["--output", "json"])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(File::create(&answer)?)
            .stderr(File::create(&messages)?)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let waited = stage.wait(&format!("`switchback {command}` ends"), LIMIT, |_| Ok(child.try_wait()?));
        if waited.is_err() {
            // It fails only when it is gone.
            let _ = child.kill();
            let _ = child.wait();
        }
        let status = waited?;
        if !status.success() {
            bail!("`switchback {command}` failed ({status}):\n{}", last_lines(&messages));
        }
        let text = fs::read_to_string(&answer)?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("`switchback {command}` answered: {text}"))
    }
}

/// A number at a place in an answer.
pub(crate) fn number(value: &Value, pointer: &str) -> anyhow::Result<u64> {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number at {pointer} in {value}"))
}

/// A text at a place in an answer; empty if there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
