//! `cargo xtask tidy`: the house rules that neither rustfmt nor clippy can check.
//!
//! Every rule is a pure function from a file (or from cargo's metadata) to violations, and is tested with samples that break it. A
//! violation names the place, the fact and the reason of the rule, since a rule without a reason is only obeyed until it is in the way.

mod codes;
mod layers;
mod links;
mod names;
mod rust;
mod text;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

/// Directories that hold nothing written by hand.
const SKIPPED_DIRECTORIES: [&str; 6] = [".git", "target", "bench-results", "corpus", "artifacts", "vendored"];

/// One file of the repository, as the rules see it.
#[derive(Debug)]
pub(crate) struct File {
    /// Path from the root, with `/` between the parts.
    pub(crate) path: String,
    /// Its contents; `None` when they are not UTF-8 text.
    pub(crate) text: Option<String>,
}

/// A place that breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    path: String,
    /// Counted from 1.
    line: usize,
    what: String,
    why: &'static str,
}

impl Violation {
    fn new(path: &str, line: usize, what: impl Into<String>, why: &'static str) -> Self {
        Self { path: path.to_owned(), line, what: what.into(), why }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {} ({})", self.path, self.line, self.what, self.why)
    }
}

/// Checks the repository at `root` and prints what breaks a rule. With `hints`, also prints what will soon.
pub(crate) fn run(root: &Path, hints: bool) -> anyhow::Result<ExitCode> {
    let mut files = Vec::new();
    collect(root, "", &mut files)?;
    let mut violations: Vec<Violation> = files.iter().flat_map(check_file).collect();
    violations.extend(links::check(&files));
    violations.extend(codes::check(&files));
    violations.extend(layers::check(&layers::metadata(root)?, &files)?);
    violations.sort();
    for violation in &violations {
        println!("{violation}");
    }
    if hints {
        files.iter().filter_map(rust::length_hint).for_each(|hint| println!("hint: {hint}"));
    }
    println!("tidy: {} files, {} violations", files.len(), violations.len());
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check_file(file: &File) -> Vec<Violation> {
    let mut violations = names::check(file);
    violations.extend(text::check(file));
    violations.extend(rust::check(file));
    violations
}

/// Collects the files below `directory` (a path from `root`, empty for the root itself), sorted by name.
///
/// Walks the directory instead of asking git: a source archive has no repository, and a new file is to be checked before it is added.
fn collect(root: &Path, directory: &str, files: &mut Vec<File>) -> anyhow::Result<()> {
    let full = root.join(directory);
    let context = || format!("cannot read the directory {}", full.display());
    let mut entries =
        fs::read_dir(&full).with_context(context)?.collect::<Result<Vec<_>, _>>().with_context(context)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
        let kind = entry.file_type().with_context(context)?;
        if SKIPPED_DIRECTORIES.contains(&name.as_str()) {
            // A worktree's `.git` is a file, so the name alone decides.
        } else if kind.is_dir() {
            collect(root, &path, files)?;
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).with_context(|| format!("cannot read {path}"))?;
            files.push(File { path, text: String::from_utf8(bytes).ok() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_finds_what_is_written_by_hand() -> anyhow::Result<()> {
        let root = crate::workspace_root()?;
        let mut files = Vec::new();
        collect(&root, "", &mut files)?;
        assert!(
            files.iter().any(|file| file.path == "xtask/src/tidy/mod.rs"),
            "the walk misses this very file"
        );
        assert!(files.iter().any(|file| file.path == ".ci/run"), "the walk misses directories with a dot");
        assert!(!files.iter().any(|file| file.path.starts_with(".git/")));
        Ok(())
    }

    #[test]
    fn a_violation_is_shown_with_place_fact_and_reason() {
        let violation = Violation::new("crates/disk/src/lib.rs", 7, "a fact", "a reason");
        assert_eq!(violation.to_string(), "crates/disk/src/lib.rs:7: a fact (a reason)");
    }
}
