//! What the tests of the Debian packages share: building them from this test's own program, looking into them, and a root directory to install them in.
//!
//! No service manager runs here. The maintainer scripts find stand-ins for its commands, which note what they are asked to do.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
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

/// A root directory that packages are installed in.
pub(crate) struct Root {
    directory: TempDir,
}

impl Root {
    /// One of a host that systemd runs, which has `dependencies`, names of packages, already.
    pub(crate) fn new(dependencies: &[String]) -> Self {
        let root = Self { directory: directory() };
        for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "run/systemd/system", "stand-ins"] {
            std::fs::create_dir_all(root.path(folder)).unwrap();
        }
        let stanza = |name: &String| {
            format!(
                "Package: {name}\nStatus: install ok installed\nVersion: 99:1\nArchitecture: all\nMaintainer: x\nDescription: x\n\n"
            )
        };
        for name in dependencies {
            std::fs::write(root.path("var/lib/dpkg/info").join(format!("{name}.list")), "").unwrap();
        }
        std::fs::write(root.path("var/lib/dpkg/status"), dependencies.iter().map(stanza).collect::<String>())
            .unwrap();
        for name in ["systemctl", "deb-systemd-invoke"] {
            let path = root.path("stand-ins").join(name);
            let calls = root.path("stand-ins/calls");
            std::fs::write(&path, format!("#!/bin/sh\necho {name} \"$@\" >>'{}'\n", calls.display()))
                .unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        root
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path.trim_start_matches('/'))
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Puts a file there, with the directories above.
    pub(crate) fn put(&self, path: &str, text: &str) {
        std::fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        std::fs::write(self.path(path), text).unwrap();
    }

    /// Runs dpkg on this root; what the stand-ins were asked meanwhile.
    pub(crate) fn dpkg<'a>(&self, action: &str, arguments: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let calls = self.path("stand-ins/calls");
        std::fs::write(&calls, "").unwrap();
        let search = std::env::join_paths(
            [self.path("stand-ins")]
                .into_iter()
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        let mut command = Command::new("dpkg");
        // Scripts of packages run outside of the root, which has no shell, and are told where it is (dpkg(1), DPKG_ROOT).
        command
            .arg(format!("--root={}", self.path("").display()))
            .arg(format!("--log={}", self.path("dpkg.log").display()))
            .args(["--force-script-chrootless", "--force-unsafe-io", action])
            .args(arguments)
            .env("PATH", search.unwrap())
            .env("DEBIAN_FRONTEND", "noninteractive");
        said(&mut command);
        std::fs::read_to_string(&calls).unwrap().lines().map(str::to_owned).collect()
    }

    /// The state of a package, `None` when dpkg knows nothing of it.
    pub(crate) fn state(&self, package: &str) -> Option<String> {
        let mut query = Command::new("dpkg-query");
        query.arg(format!("--root={}", self.path("").display()));
        let output = output(query.args(["--show", "--showformat=${db:Status-Status}", package]));
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// User id of a user of this root.
    pub(crate) fn user_id(&self, name: &str) -> u32 {
        let users = self.read("etc/passwd");
        let line = users.lines().find(|line| line.split(':').next() == Some(name));
        line.and_then(|line| line.split(':').nth(2)?.parse().ok())
            .unwrap_or_else(|| panic!("no {name}: {users}"))
    }
}
