//! A client that a story is asked for by, in the place of the command line: a program that plays chapters, one function of its own each.
//!
//! One process for each time it is asked. What it prints is shown, and is in the logs.

use std::path::Path;

use anyhow::{Context as _, ensure};

use super::command_line::CommandLine;
use super::stage::{JOB_LIMIT, Stage};

/// See the module's header.
#[derive(Debug)]
pub(super) struct Client {
    program: CommandLine,
    /// What comes before the chapters.
    words: Vec<String>,
}

impl Client {
    /// A program with what comes before the chapters; it gets the user's variables and these.
    pub(super) fn new(
        stage: &Stage,
        program: &Path,
        words: Vec<String>,
        variables: &[(&str, &str)],
        logs: &Path,
    ) -> anyhow::Result<Self> {
        let mut environment = stage.user_environment().to_vec();
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        std::fs::create_dir_all(logs).with_context(|| format!("cannot make {}", logs.display()))?;
        Ok(Self { program: CommandLine::new(program, environment, logs), words })
    }

    /// Has it play chapters, one after the other.
    pub(super) fn play(&mut self, stage: &mut Stage, chapters: &[&str]) -> anyhow::Result<()> {
        let words: Vec<&str> =
            self.words.iter().map(String::as_str).chain(chapters.iter().copied()).collect();
        let printed = self.program.text(&words, JOB_LIMIT)?;
        for line in printed.lines() {
            stage.screen.say(line);
        }
        ensure!(printed.lines().last() == Some("done"), "{} did not come to its end", chapters.join(", "));
        Ok(())
    }

    /// The same, for later.
    pub(super) fn plays<'a>(
        &'a mut self,
        chapter: &'a str,
    ) -> impl FnOnce(&mut Stage) -> anyhow::Result<()> + 'a {
        |stage| self.play(stage, &[chapter])
    }
}

/// A script of this repository, by its path from here.
pub(super) fn script(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).to_string_lossy().into_owned()
}
