//! What a script of `scripts/` has prepared for the lab.
//!
//! Each of them is repeatable, answers at once when all is there, and prints the one path that somebody needs. What this never does: wait for two at a time;
//! the scripts lock what they make.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a part of the lab is not there.
#[derive(Debug, thiserror::Error)]
pub enum PreparedError {
    /// It could not be started.
    #[error("cannot start {script}: is this a complete checkout?")]
    Start {
        /// The script's path.
        script: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It failed.
    #[error("{script} {part} failed: {message}")]
    Failed {
        /// The script's path.
        script: PathBuf,
        /// What it was to prepare.
        part: String,
        /// What it printed.
        message: String,
    },
}

/// Has `scripts/NAME` prepare a part of what it knows, or the whole with no part; returns the path that it prints.
///
/// # Errors
/// [`PreparedError`]; what has to be installed is in its message.
pub fn prepared(name: &str, part: &str) -> Result<PathBuf, PreparedError> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(name);
    let output = Command::new(&script).args(Some(part).filter(|part| !part.is_empty())).output();
    let output = output.map_err(|source| PreparedError::Start { script: script.clone(), source })?;
    if output.status.success() {
        return Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(PreparedError::Failed { script, part: part.to_owned(), message })
}
