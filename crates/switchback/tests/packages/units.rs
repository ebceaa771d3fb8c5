//! The systemd units: that they name only options that the program has, start nothing without settings, and give no more rights than they say.
//! No systemd runs here; `systemd-analyze` looks at the files. `host` has them run by one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::rig::{PROGRAM, deploy, directory, output, said};

type Settings = BTreeMap<String, String>;

/// Role and highest exposure, by `systemd-analyze security` in tenths: what systemd 252 says, and three more for other versions' opinions.
///
/// - The configuration server has the network, and port 443.
/// - The process server has the network, and nothing else.
/// - The master target is root with CAP_SYS_ADMIN and in the host's mount namespace: half of what can be had needs one of its own.
/// - The agent is as good as root (see its unit): the bound only says that what could be taken away stays away.
const EXPOSURES: [(&str, u32); 4] =
    [("configuration-server", 19), ("process-server", 16), ("master-target", 43), ("agent", 77)];

/// The unit of a role.
fn unit(role: &str) -> PathBuf {
    deploy().join(format!("systemd/switchback-{role}.service"))
}

/// What a unit says for a key, line by line.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// The settings file of a role, and what its examples set.
fn settings(role: &str) -> (String, Settings) {
    let text = std::fs::read_to_string(deploy().join(format!("etc/{role}.conf"))).unwrap();
    let set = |line: &str| {
        let (key, value) = line.strip_prefix('#')?.split_once('=')?;
        key.chars().all(|c| c.is_ascii_uppercase()).then(|| (key.to_owned(), value.to_owned()))
    };
    let examples = text.lines().filter_map(set).collect();
    (text, examples)
}

/// The words of a unit's `ExecStart=` after the program, with variables put in as systemd does (systemd.service(5), "Command lines").
fn command_line(role: &str, settings: &Settings) -> Vec<String> {
    let text = std::fs::read_to_string(unit(role)).unwrap();
    let [command] = values(&text, "ExecStart")[..] else { panic!("{role} has not one ExecStart=") };
    let mut words = command.split_whitespace();
    assert_eq!(words.next(), Some("/usr/bin/switchback"));
    let expanded = words.flat_map(|word| match word.strip_prefix('$') {
        Some(name) => {
            let value = settings.get(name).map(String::as_str).unwrap_or_default();
            value.split_whitespace().map(str::to_owned).collect()
        }
        None => vec![word.to_owned()],
    });
    expanded.collect()
}

/// Starts a role as its unit does, but where its directories would be is a file: it gets as far as that.
fn start(role: &str, settings: &Settings) -> Output {
    let directory = directory();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let words = command_line(role, settings);
    let elsewhere = words.iter().map(|word| word.replace("/var/lib/switchback", file.to_str().unwrap()));
    output(Command::new(PROGRAM).args(elsewhere).env_clear())
}

#[test]
fn they_start_the_program_with_options_that_it_has() {
    for (role, _) in EXPOSURES {
        let (_, examples) = settings(role);
        let ended = start(role, &examples);
        let error = String::from_utf8_lossy(&ended.stderr);
        // 2 would be wrong usage.
        assert_eq!(ended.status.code(), Some(1), "{role}: {error}");
        assert!(error.contains("Not a directory"), "{role}: {error}");
    }
}

#[test]
fn they_start_nothing_without_settings_and_do_not_try_again() {
    for (role, _) in EXPOSURES {
        let ended = start(role, &Settings::new());
        let error = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{role}: {error}");
        assert!(error.contains("a value is required for '--"), "{role}: {error}");
        let text = std::fs::read_to_string(unit(role)).unwrap();
        assert_eq!(values(&text, "RestartPreventExitStatus"), ["2"], "{role}");
        assert_eq!(values(&text, "EnvironmentFile"), [format!("/etc/switchback/{role}.conf")], "{role}");
    }
}

#[test]
fn settings_files_set_nothing_and_name_only_options_that_there_are() {
    for (role, _) in EXPOSURES {
        let (text, examples) = settings(role);
        assert!(
            text.lines().all(|line| line.is_empty() || line.starts_with('#')),
            "{role}: something is set"
        );
        let command = std::fs::read_to_string(unit(role)).unwrap();
        for name in examples.keys() {
            assert!(command.contains(&format!(" ${name}")), "{role}: its unit does not use {name}");
        }
        let help = said(Command::new(PROGRAM).args([role, "--help"]));
        let options = text.lines().filter_map(|line| line.strip_prefix("# --")?.split(' ').next());
        for option in options {
            assert!(
                help.contains(&format!("--{option} ")) || help.contains(&format!("--{option}\n")),
                "{role}: --{option}"
            );
        }
    }
}

/// A copy that starts the program under test: the unit's own is not installed here.
fn copied(role: &str, directory: &Path) -> PathBuf {
    let text = std::fs::read_to_string(unit(role)).unwrap();
    let copy = directory.join(unit(role).file_name().unwrap());
    std::fs::write(&copy, text.replace("/usr/bin/switchback", PROGRAM)).unwrap();
    copy
}

#[test]
fn they_have_nothing_that_systemd_does_not_know() {
    let directory = directory();
    for (role, _) in EXPOSURES {
        let ended = output(
            Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(copied(role, directory.path())),
        );
        let said = String::from_utf8_lossy(&ended.stderr);
        // It warns of unknown keys, and succeeds. Units of the host may have faults of their own.
        let ours: Vec<_> = said.lines().filter(|line| line.contains("switchback")).collect();
        assert!(ended.status.success() && ours.is_empty(), "{role}: {said}");
    }
}

#[test]
fn they_expose_no_more_than_their_roles_need() {
    for (role, tenths_max) in EXPOSURES {
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["security", "--no-pager", "--offline=true"]);
        analyze.arg(format!("--threshold={tenths_max}")).arg(unit(role));
        let ended = output(&mut analyze);
        let (said, error) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert!(ended.status.success(), "{role}: {} {error}", said.lines().last().unwrap_or_default());
    }
}

/// What would cut the views of recovery points, or the pins of the tracker, off from the host (`exec_needs_mount_namespace` in systemd).
const MOUNT_NAMESPACE: [&str; 16] = [
    "DynamicUser",
    "PrivateDevices",
    "PrivateIPC",
    "PrivateMounts",
    "PrivateTmp",
    "ProcSubset",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "MountFlags",
];

#[test]
fn roles_that_mount_and_freeze_stay_in_the_mount_namespace_of_the_host() {
    for role in ["master-target", "agent"] {
        let text = std::fs::read_to_string(unit(role)).unwrap();
        for key in MOUNT_NAMESPACE {
            assert!(values(&text, key).is_empty(), "{role}: {key}");
        }
    }
}
