//! What is on a machine's root file system.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::{DemoMachine, MachineError, disks, io_error};
use crate::libraries;

const BUSYBOX: &str = "/bin/busybox";
pub(super) const PROGRAM: u32 = 0o755;
pub(super) const PLAIN: u32 = 0o644;
const SECRET: u32 = 0o600;

/// Of every machine.
const DIRECTORIES: [&str; 9] = ["bin", "sbin", "usr/bin", "usr/sbin", "dev", "proc", "sys", "run", "tmp"];
const OWN_DIRECTORIES: [&str; 3] = ["data", "var/lib/ledger", "var/lib/switchback"];
/// A file: its path, its permissions, its text.
pub(super) type Text = (&'static str, u32, &'static str);
const OWN_SCRIPTS: [Text; 5] = [
    ("etc/inittab", PLAIN, include_str!("../../guest/inittab")),
    ("etc/lab/start", PROGRAM, include_str!("../../guest/start")),
    ("etc/lab/workload", PROGRAM, include_str!("../../guest/workload")),
    ("etc/lab/agent", PROGRAM, include_str!("../../guest/agent")),
    ("etc/lab/stop", PROGRAM, include_str!("../../guest/stop")),
];
/// Of every machine.
const SCRIPTS: [Text; 4] = [
    ("etc/lab/power-button", PROGRAM, include_str!("../../guest/power-button")),
    ("etc/acpi/PWRF/00000080", PROGRAM, include_str!("../../guest/power-off")),
    // Debian's busybox looks at the first place, others at the second.
    ("etc/udhcpc/default.script", PROGRAM, include_str!("../../guest/udhcpc")),
    ("usr/share/udhcpc/default.script", PROGRAM, include_str!("../../guest/udhcpc")),
];

/// What a distribution's administrators set, and other products of this field have removed or rewritten: it must be here after every failover as it was.
const SETTINGS: [Text; 6] = [
    ("etc/fstab", PLAIN, "UUID=5b0d1a2e-0000-4000-8000-000000000001 / ext4 defaults 0 1\n"),
    ("etc/lvm/lvm.conf", PLAIN, "devices { use_devicesfile = 1 }\n"),
    ("etc/network/interfaces", PLAIN, "auto lo\niface lo inet loopback\n"),
    ("etc/NetworkManager/NetworkManager.conf", PLAIN, "[main]\nplugins=keyfile\n"),
    (
        "etc/NetworkManager/system-connections/lan.nmconnection",
        SECRET,
        "[connection]\nid=lan\n[ipv4]\nmethod=manual\naddress1=10.1.0.11/24\n",
    ),
    ("usr/sbin/NetworkManager", PROGRAM, "#!/bin/sh\nexit 0\n"),
];

/// Lays all of it out below `tree`.
pub(super) fn lay_out(machine: &DemoMachine, tree: &Path) -> Result<(), MachineError> {
    let texts: Vec<Text> = OWN_SCRIPTS.into_iter().chain(SETTINGS).collect();
    lay_out_system(&OWN_DIRECTORIES, &texts, tree)?;
    program(&machine.ledger, "switchback-ledger", tree)?;
    if let Some(agent) = &machine.agent {
        program(&agent.program, "switchback", tree)?;
        write(tree, "etc/switchback/passphrase", SECRET, agent.passphrase.as_bytes())?;
    }
    if let Some(script) = machine.pre_freeze {
        write(tree, "etc/switchback/pre-freeze", PROGRAM, script.as_bytes())?;
    }
    write(tree, "etc/lab/machine", PLAIN, settings(machine).as_bytes())?;
    write(tree, "etc/hostname", PLAIN, format!("{}\n", machine.name).as_bytes())
}

/// What every machine has, and directories and files of its own.
pub(super) fn lay_out_system(directories: &[&str], texts: &[Text], tree: &Path) -> Result<(), MachineError> {
    for directory in DIRECTORIES.iter().chain(directories) {
        let directory = tree.join(directory);
        fs::create_dir_all(&directory).map_err(io_error("making", &directory))?;
    }
    busybox(tree)?;
    for (path, permissions, text) in SCRIPTS.iter().chain(texts) {
        write(tree, path, *permissions, text.as_bytes())?;
    }
    write(tree, "etc/passwd", PLAIN, b"root::0:0:root:/root:/bin/sh\n")?;
    write(tree, "etc/group", PLAIN, b"root:x:0:\n")
}

/// Read by the guest's scripts, as shell variables.
fn settings(machine: &DemoMachine) -> String {
    let server = machine.agent.as_ref().map_or("", |agent| agent.server.as_str());
    format!(
        "NAME={}\nDATA_TYPE={}\nLAN_ADDRESS={}\nWORKLOAD='{}'\nSERVER={server}\n",
        machine.name,
        machine.data.name(),
        machine.lan_address,
        machine.workload
    )
}

/// The one program behind all of a guest's commands, and their names.
fn busybox(tree: &Path) -> Result<(), MachineError> {
    install(Path::new(BUSYBOX), BUSYBOX, tree)?;
    let list = Command::new(BUSYBOX).arg("--list-full").output();
    let list = list.map_err(io_error("running", Path::new(BUSYBOX)))?;
    for name in String::from_utf8_lossy(&list.stdout).lines() {
        let path = tree.join(name);
        if path.symlink_metadata().is_ok() {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io_error("making", parent))?;
        }
        symlink(BUSYBOX, &path).map_err(io_error("making", &path))?;
    }
    Ok(())
}

/// A program without what only a debugger needs, and the libraries it loads.
pub(super) fn program(host_path: &Path, name: &str, tree: &Path) -> Result<(), MachineError> {
    let guest_path = tree.join("usr/bin").join(name);
    disks::run(Command::new("strip").arg("-o").arg(&guest_path).arg(host_path))?;
    libraries_of(host_path, tree)
}

/// The libraries that a program loads, without the program.
pub(super) fn libraries_of(host_path: &Path, tree: &Path) -> Result<(), MachineError> {
    let libraries =
        libraries::of_program(host_path).map_err(io_error("finding the libraries of", host_path))?;
    for library in libraries {
        install(&library, &library.to_string_lossy(), tree)?;
    }
    Ok(())
}

fn install(host_path: &Path, guest_path: &str, tree: &Path) -> Result<(), MachineError> {
    let contents = fs::read(host_path).map_err(io_error("reading", host_path))?;
    write(tree, guest_path, PROGRAM, &contents)
}

fn write(tree: &Path, path: &str, permissions: u32, contents: &[u8]) -> Result<(), MachineError> {
    let path = tree.join(path.trim_start_matches('/'));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io_error("making", parent))?;
    }
    fs::write(&path, contents).map_err(io_error("writing", &path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(permissions)).map_err(io_error("writing", &path))
}
