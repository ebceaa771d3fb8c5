//! What a watching person sees: steps with the time since the start, the commands typed, what was found.

use std::io::Write;
use std::time::Instant;

/// Where the demo tells what it does.
pub struct Screen {
    output: Box<dyn Write + Send>,
    started: Instant,
    bold: (&'static str, &'static str),
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("started", &self.started).finish_non_exhaustive()
    }
}

impl Screen {
    /// Shows on `output`; `terminal`: it understands a terminal's control sequences.
    pub fn new(output: Box<dyn Write + Send>, terminal: bool) -> Self {
        let bold = if terminal { ("\u{1b}[1m", "\u{1b}[0m") } else { ("", "") };
        Self { output, started: Instant::now(), bold }
    }

    /// A new step begins.
    pub fn step(&mut self, title: &str) {
        let (bold, plain) = self.bold;
        let seconds = self.started.elapsed().as_secs();
        self.line(&format!("\n{bold}[{:2}:{:02}] {title}{plain}", seconds / 60, seconds % 60));
    }

    /// A command is typed.
    pub fn command(&mut self, words: &[&str]) {
        self.line(&format!("  $ switchback {}", words.join(" ")));
    }

    /// Something that was done or found.
    pub fn say(&mut self, what: &str) {
        for line in what.lines() {
            self.line(&format!("    {line}"));
        }
    }

    /// A line as it is.
    pub fn line(&mut self, line: &str) {
        // Nobody may be watching any more; the demo goes on for its result.
        let _ = writeln!(self.output, "{line}").and_then(|()| self.output.flush());
    }

    /// Seconds since the start.
    #[must_use]
    pub fn elapsed_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}
