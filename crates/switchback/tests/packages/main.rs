//! The Debian packages, built of this very program: what is in them, and what their installation, upgrade, removal and purge do to a host.
//! They are installed as root into a directory; the units themselves are looked at in `units`.

#![expect(clippy::unwrap_used, reason = "tests")]

mod capabilities;
mod rig;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use rig::{PACKAGES, Root, build, contents, directory, field, said};

type Packages = BTreeMap<&'static str, PathBuf>;

const SERVERS: [&str; 3] = ["configuration-server", "process-server", "master-target"];

/// Names of packages that these need and that are none of them.
fn dependencies(packages: &Packages) -> Vec<String> {
    let all = packages.values().flat_map(|package| {
        let field = field(package, "Depends");
        field.split(", ").map(|one| one.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    });
    all.filter(|name| !PACKAGES.contains(&name.as_str())).collect::<BTreeSet<_>>().into_iter().collect()
}

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

/// Where settings, data, and what others made are in the root.
const SETTINGS: &str = "etc/switchback/process-server.conf";
const UNTOUCHED_SETTINGS: &str = "etc/switchback/master-target.conf";
const DATA: [&str; 4] = [
    "var/lib/switchback/configuration-server/store.db",
    "var/lib/switchback/process-server/spool/web01/part",
    "var/lib/switchback/retention/replicas/web01/manifest",
    "var/lib/switchback/agent/acknowledged",
];
const ENABLED: [&str; 2] = [
    "etc/systemd/system/multi-user.target.wants/switchback-process-server.service",
    "etc/systemd/system/multi-user.target.wants/switchback-agent.service",
];
const PIN: &str = "sys/fs/bpf/switchback/agent/meta";

#[test]
fn they_are_installed_upgraded_removed_and_purged() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: dpkg installs as root only");
        return;
    }
    let out = directory();
    let old = build("0.1.0", out.path());
    let root = Root::new(&dependencies(&old));
    let all = |packages: &Packages| -> Vec<String> {
        PACKAGES.iter().map(|name| packages[name].to_str().unwrap().to_owned()).collect()
    };

    let calls = root.dpkg("--install", all(&old).iter().map(String::as_str));
    installed(&root, &calls);

    // A host that is used.
    let mine = format!("{}SERVER=cs.example:443\nSITE=home\n", root.read(SETTINGS));
    root.put(SETTINGS, &mine);
    DATA.iter().for_each(|path| root.put(path, "not to be lost"));
    ENABLED.iter().chain([&PIN]).for_each(|path| root.put(path, ""));
    let there = |paths: &[&str]| paths.iter().filter(|path| root.path(path).exists()).count();

    let new = build("0.2.0", out.path());
    let calls = root.dpkg("--install", all(&new).iter().map(String::as_str));
    upgraded(&calls);
    assert_eq!(root.read(SETTINGS), mine, "settings are kept");
    assert_eq!((there(&DATA), there(&ENABLED), there(&[PIN])), (DATA.len(), ENABLED.len(), 1));

    // A removal keeps settings and data, and the kernel's tracking.
    let calls = root.dpkg("--remove", PACKAGES);
    for unit in SERVERS.iter().chain(&["agent"]).map(|role| format!("switchback-{role}.service")) {
        let stops = |call: &String| call.starts_with("deb-systemd-invoke stop ") && call.contains(&unit);
        assert!(calls.iter().any(stops), "{unit} is not stopped: {calls:?}");
        assert!(!root.path("usr/lib/systemd/system").join(&unit).exists(), "{unit}");
    }
    assert!(!root.path("usr/bin/switchback").exists());
    assert_eq!(root.state("switchback").as_deref(), Some("config-files"));
    assert_eq!(root.read(SETTINGS), mine);
    assert_eq!((there(&DATA), there(&[PIN])), (DATA.len(), 1));

    // Installed again it is as before.
    root.dpkg("--install", all(&new).iter().map(String::as_str));
    assert_eq!(root.read(SETTINGS), mine);
    root.dpkg("--remove", PACKAGES);

    // A purge takes settings and leaves data.
    root.dpkg("--purge", PACKAGES);
    assert_eq!(there(&[SETTINGS, UNTOUCHED_SETTINGS, "etc/switchback"]), 0, "settings are left");
    assert_eq!((there(&ENABLED), there(&[PIN])), (0, 0));
    assert_eq!(there(&DATA), DATA.len(), "data was removed");
    for path in DATA {
        assert_eq!(root.read(path), "not to be lost");
    }
    assert!(!root.path("var/lib/switchback/master-target").exists(), "an empty directory of the package's");
    assert_eq!(PACKAGES.map(|name| root.state(name)), [None, None, None]);
}

/// What an installation does, and does not.
fn installed(root: &Root, calls: &[String]) {
    assert!(
        calls.iter().all(|call| call == "systemctl --system daemon-reload"),
        "nothing is started: {calls:?}"
    );
    let enabled = root.path("etc/systemd/system");
    assert!(!enabled.exists() || std::fs::read_dir(&enabled).unwrap().next().is_none(), "nothing is enabled");
    for package in PACKAGES {
        assert_eq!(root.state(package).as_deref(), Some("installed"), "{package}");
    }
    let version = said(Command::new(root.path("usr/bin/switchback")).arg("--version"));
    assert!(version.starts_with("switchback "), "{version}");
    let owners = [("configuration-server", "switchback-cs"), ("process-server", "switchback-ps")];
    for (role, user) in owners {
        let directory = root.path("var/lib/switchback").join(role).metadata().unwrap();
        assert_eq!((directory.uid(), directory.mode() & 0o7777), (root.user_id(user), 0o700), "{role}");
    }
    let directory = root.path("var/lib/switchback/master-target").metadata().unwrap();
    assert_eq!((directory.uid(), directory.mode() & 0o7777), (0, 0o700));
}

/// An upgrade restarts what runs, once, when all is there.
fn upgraded(calls: &[String]) {
    let restarts: Vec<_> = calls.iter().filter(|call| call.starts_with("deb-systemd-invoke")).collect();
    let servers = SERVERS.map(|role| format!("switchback-{role}.service")).join(" ");
    let wanted = [
        format!("deb-systemd-invoke try-restart {servers}"),
        "deb-systemd-invoke try-restart switchback-agent.service".to_owned(),
    ];
    assert_eq!(restarts, wanted.iter().collect::<Vec<_>>(), "{calls:?}");
    let reloads = calls.iter().filter(|call| call.starts_with("systemctl"));
    assert!(reloads.into_iter().all(|call| call == "systemctl --system daemon-reload"), "{calls:?}");
}
