//! What the tests of the Debian packages share: building them from this test's own program, and looking into them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The program under test, as cargo has built it.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_switchback");
/// In the order in which they are installed.
pub(crate) const PACKAGES: [&str; 3] = ["switchback-bin", "switchback", "switchback-agent"];

/// Runs to the end.
pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error} (does scripts/setup install it?)"))
}

/// Standard output of a command that succeeds.
pub(crate) fn said(command: &mut Command) -> String {
    let output = output(command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The repository's `deploy/`.
pub(crate) fn deploy() -> PathBuf {
    repository().join("deploy")
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A directory for as long as it lives.
pub(crate) fn directory() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Builds the packages of a version; by name.
pub(crate) fn build(version: &str, out: &Path) -> BTreeMap<&'static str, PathBuf> {
    let script = repository().join("scripts/packages");
    let mut command = Command::new(script);
    command.args(["--fast", "--program", PROGRAM, "--version", version, "--out"]).arg(out);
    let paths: Vec<PathBuf> = said(&mut command).lines().map(PathBuf::from).collect();
    let of = |name: &'static str| {
        let start = format!("{name}_{version}_");
        let is_it = |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&start);
        (name, paths.iter().find(is_it).unwrap_or_else(|| panic!("no {name} in {paths:?}")).clone())
    };
    PACKAGES.map(of).into()
}

/// A field of a package's control file.
pub(crate) fn field(package: &Path, name: &str) -> String {
    said(Command::new("dpkg-deb").arg("--field").arg(package).arg(name)).trim().to_owned()
}

/// What a package has: by path, the kind and mode, and the owner, as `tar` shows them.
pub(crate) fn contents(package: &Path) -> BTreeMap<String, (String, String)> {
    let list = said(Command::new("dpkg-deb").arg("--contents").arg(package));
    let entry = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let path = words[5].trim_start_matches('.').to_owned();
        (path, (words[0].to_owned(), words[1].to_owned()))
    };
    list.lines().map(entry).collect()
}
