//! The Debian packages, built of this very program: what is in them, here; what their units say, in `units`; and, in `host`, what their installation,
//! upgrade, removal and purge do to a host, and how systemd runs their services.

#![expect(clippy::unwrap_used, reason = "tests")]

mod host;
mod rig;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use rig::{build, contents, directory, field, said};

type Packages = BTreeMap<&'static str, PathBuf>;

const SERVERS: [&str; 3] = ["configuration-server", "process-server", "master-target"];

fn conffiles(package: &PathBuf) -> BTreeSet<String> {
    let text = said(Command::new("dpkg-deb").args(["--info"]).arg(package).arg("conffiles"));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn they_hold_each_file_once_with_the_right_mode_and_owner() {
    let out = directory();
    let packages = build("1.2.3~rc1", out.path());
    need_what_they_should(&packages);
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    for (name, package) in &packages {
        for (path, (mode, owner)) in contents(package) {
            assert_eq!(owner, "root/root", "{name}: {path}");
            let wanted = match path.as_str() {
                path if path.ends_with('/') => "drwxr-xr-x",
                "/usr/bin/switchback" => "-rwxr-xr-x",
                _ => "-rw-r--r--",
            };
            assert_eq!(mode, wanted, "{name}: {path}");
            if !path.ends_with('/') {
                let other = owners.insert(path.clone(), name);
                assert_eq!(other, None, "{path} is in two packages, one of them {name}");
            }
        }
    }
    let has = |path: &str, package: &str| {
        assert_eq!(owners.get(path).copied(), Some(package), "{path}");
    };
    has("/usr/bin/switchback", "switchback-bin");
    has("/usr/share/bash-completion/completions/switchback", "switchback-bin");
    has("/usr/share/zsh/vendor-completions/_switchback", "switchback-bin");
    has("/usr/share/fish/vendor_completions.d/switchback.fish", "switchback-bin");
    has("/usr/share/doc/switchback-bin/guides/install.md", "switchback-bin");
    has("/usr/share/doc/switchback/examples/local-site.conf", "switchback");
    has("/usr/share/doc/switchback/examples/sandboxes.conf", "switchback");
    let roles = SERVERS.map(|role| (role, "switchback")).into_iter().chain([("agent", "switchback-agent")]);
    for (role, package) in roles {
        has(&format!("/usr/lib/systemd/system/switchback-{role}.service"), package);
        has(&format!("/etc/switchback/{role}.conf"), package);
        has(&format!("/usr/share/man/man1/switchback-{role}.1.gz"), "switchback-bin");
    }
    for (name, package) in &packages {
        has(&format!("/usr/share/doc/{name}/copyright"), name);
        has(&format!("/usr/share/doc/{name}/changelog.gz"), name);
        let settings = owners.iter().filter(|(path, owner)| path.starts_with("/etc/") && *owner == name);
        let settings: BTreeSet<_> = settings.map(|(path, _)| path.clone()).collect();
        if settings.is_empty() {
            assert_eq!(*name, "switchback-bin");
        } else {
            assert_eq!(conffiles(package), settings, "{name}: what an administrator changes must be kept");
        }
    }
}

/// The libraries of the program, and each other in the same version.
fn need_what_they_should(packages: &Packages) {
    let libraries = field(&packages["switchback-bin"], "Depends");
    assert!(libraries.contains("libc6 (>= "), "{libraries}");
    for name in ["switchback", "switchback-agent"] {
        let needs = field(&packages[name], "Depends");
        assert!(needs.split(", ").any(|one| one == "switchback-bin (= 1.2.3~rc1)"), "{needs}");
    }
}
