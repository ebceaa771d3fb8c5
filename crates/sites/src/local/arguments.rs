//! A machine's QEMU command line.
//!
//! Disks are described node by node, so that QEMU follows `machine.toml` and never a name inside an image. A node is named after its file: it
//! has the same name in every run, whatever lies below or above it.
//!
//! ```text
//!   virtio-blk disk0 ── layer (qcow2, written) ── layer (qcow2, read) ── image (raw, read)
//! ```
//!
//! A layer's or image's cache is the host's page cache, with flushes passed on: what a guest has flushed is durable, and the file's contents
//! are coherent with those who read and write it directly.

use std::ffi::OsString;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use serde_json::{Value, json};

use super::accelerator::Accelerator;
use super::derived;
use super::description::{Description, DiskDescription};
use super::monitor::SOCKET;
use super::settings::{NetworkSettings, SiteSettings};
use crate::Boot;

/// What the console is written to, in the machine's directory.
pub(super) const CONSOLE: &str = "console.log";
/// A UEFI machine's variables, in its directory.
pub(super) const UEFI_VARIABLES: &str = "uefi-variables.fd";
/// Brings a machine's interface into a bridge, in its directory; QEMU runs it with the interface's name.
pub(super) fn bridge_script(position: usize) -> String {
    format!("connect-nic{position}")
}

/// The name of the node that a file is opened as: at most 31 bytes.
pub(super) fn node_name(file: &Path) -> String {
    format!("f{:016x}", derived::hash(&["node", &file.to_string_lossy()]))
}

/// All arguments. Relative paths are relative to the machine's directory, in which QEMU is started.
pub(super) fn all(
    id: &str,
    machine: &Description,
    settings: &SiteSettings,
    accelerator: Accelerator,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = identity(id, machine).into_iter().map(Into::into).collect();
    arguments.extend(accelerator.arguments().map(Into::into));
    arguments.extend(boot(machine, settings));
    for (position, disk) in machine.disks.iter().enumerate() {
        arguments.extend(disk_arguments(position, disk).into_iter().map(Into::into));
    }
    for (position, nic) in machine.nics.iter().enumerate() {
        let network = nic.network.as_ref().and_then(|name| settings.networks.get(name));
        arguments.extend(nic_arguments(position, &nic.mac, network).into_iter().map(Into::into));
    }
    arguments
}

fn identity(id: &str, machine: &Description) -> Vec<String> {
    let mut arguments: Vec<String> = ["-name", id, "-uuid", &machine.uuid].map(str::to_owned).to_vec();
    // By these words an agent sees where it has woken up.
    arguments.push("-smbios".to_owned());
    arguments.push(format!("type=1,manufacturer=Switchback,product=Local machine,serial={id}"));
    arguments.extend([
        "-smp".to_owned(),
        machine.cpus.to_string(),
        "-m".to_owned(),
        machine.memory_mib.to_string(),
    ]);
    let fixed = [
        "-daemonize",
        "-no-user-config",
        "-nodefaults",
        "-machine",
        "pc",
        "-display",
        "none",
        "-rtc",
        "base=utc",
        "-device",
        "virtio-rng-pci",
    ];
    arguments.extend(fixed.map(str::to_owned));
    arguments.extend(["-qmp".to_owned(), format!("unix:{SOCKET},server=on,wait=off")]);
    arguments.extend(["-chardev".to_owned(), format!("file,id=console,path={CONSOLE},append=on")]);
    arguments.extend(["-serial", "chardev:console", "-vga", "std"].map(str::to_owned));
    arguments
}

fn boot(machine: &Description, settings: &SiteSettings) -> Vec<OsString> {
    match &machine.boot {
        Boot::Bios => Vec::new(),
        Boot::Uefi => {
            let flash = |path: &Path, name: &str, read_only: bool| {
                let node = json!({ "driver": "raw", "node-name": name, "read-only": read_only,
                    "file": { "driver": "file", "filename": path, "auto-read-only": true } });
                ["-blockdev".into(), OsString::from(node.to_string())]
            };
            let mut arguments: Vec<OsString> = flash(&settings.uefi.code, "uefi-code", true).into();
            arguments.extend(flash(Path::new(UEFI_VARIABLES), "uefi-variables", false));
            arguments.extend(["-machine".into(), "pflash0=uefi-code,pflash1=uefi-variables".into()]);
            arguments
        }
        Boot::Kernel { kernel, initrd, command_line } => {
            let mut arguments: Vec<OsString> = vec!["-kernel".into(), kernel.into()];
            if let Some(initrd) = initrd {
                arguments.extend(["-initrd".into(), initrd.into()]);
            }
            arguments.extend(["-append".into(), command_line.into()]);
            arguments
        }
    }
}

fn disk_arguments(position: usize, disk: &DiskDescription) -> Vec<String> {
    let mut arguments = Vec::new();
    let top = disk.layers.len();
    let mut add = |node: &Value| arguments.extend(["-blockdev".to_owned(), node.to_string()]);
    add(&node("raw", &disk.path, top > 0));
    for (index, layer) in disk.layers.iter().enumerate() {
        let mut node = node("qcow2", layer, index + 1 < top);
        node["backing"] = json!(node_name(disk.below(index)));
        add(&node);
    }
    let mut device = json!({ "driver": "virtio-blk-pci", "id": format!("disk{position}"),
        "drive": node_name(disk.top()), "serial": disk.serial, "write-cache": "on" });
    if position == 0 {
        device["bootindex"] = json!(1);
    }
    arguments.extend(["-device".to_owned(), device.to_string()]);
    arguments
}

/// A node. What is not written is opened for reading only (a merge opens it again for writing).
fn node(format: &str, file: &Path, read_only: bool) -> Value {
    let is_device = file.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device());
    json!({
        "driver": format, "node-name": node_name(file), "read-only": read_only, "discard": "unmap",
        "file": {
            "driver": if is_device { "host_device" } else { "file" },
            "filename": file, "auto-read-only": true, "discard": "unmap",
        },
    })
}

fn nic_arguments(position: usize, mac: &str, network: Option<&NetworkSettings>) -> Vec<String> {
    let mut arguments = Vec::new();
    // No boot from the network: its firmware is a package of its own.
    let mut device = format!("virtio-net-pci,id=nic{position},mac={mac},romfile=");
    if let Some(network) = network {
        arguments.extend(["-netdev".to_owned(), netdev(position, network)]);
        device += &format!(",netdev=net{position}");
    }
    arguments.extend(["-device".to_owned(), device]);
    arguments
}

fn netdev(position: usize, network: &NetworkSettings) -> String {
    match network {
        NetworkSettings::User { cidr, forward, isolated } => {
            let mut netdev = format!("user,id=net{position},net={cidr}");
            if *isolated {
                netdev += ",restrict=on";
            }
            for forward in forward {
                let (ip, port) = (forward.host.ip(), forward.host.port());
                netdev += &format!(",hostfwd=tcp:{ip}:{port}-:{}", forward.guest_port);
            }
            netdev
        }
        NetworkSettings::Segment { segment } => {
            let group = derived::segment_address(segment);
            format!("socket,id=net{position},mcast={group},localaddr=127.0.0.1")
        }
        NetworkSettings::Bridge { .. } => {
            format!("tap,id=net{position},script=./{},downscript=no", bridge_script(position))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn only_the_top_of_a_chain_is_written() {
        let disk = DiskDescription {
            path: PathBuf::from("/d/base, \"odd\".raw"),
            serial: "S".to_owned(),
            datastore: None,
            read_only: true,
            layers: vec![PathBuf::from("/d/0.qcow2"), PathBuf::from("/d/1.qcow2")],
        };
        let arguments = disk_arguments(0, &disk);
        let nodes: Vec<Value> = arguments
            .iter()
            .filter(|argument| argument.starts_with('{'))
            .map(|argument| serde_json::from_str(argument).unwrap())
            .collect();
        let read_only: Vec<_> = nodes.iter().map(|node| node["read-only"].as_bool()).collect();
        assert_eq!(read_only, [Some(true), Some(true), Some(false), None]);
        assert_eq!(nodes[0]["file"]["filename"], "/d/base, \"odd\".raw");
        assert_eq!(nodes[1]["backing"], nodes[0]["node-name"]);
        assert_eq!(nodes[2]["backing"], nodes[1]["node-name"]);
        assert_eq!(nodes[3]["drive"], nodes[2]["node-name"]);
        assert!(nodes[0]["node-name"].as_str().unwrap().len() < 32);
    }

    #[test]
    fn networks_become_what_qemu_knows() {
        let forward = crate::Forward { host: "127.0.0.1:2222".parse().unwrap(), guest_port: 22 };
        let user =
            NetworkSettings::User { cidr: "10.1.0.0/24".to_owned(), forward: vec![forward], isolated: true };
        let expected = "user,id=net1,net=10.1.0.0/24,restrict=on,hostfwd=tcp:127.0.0.1:2222-:22";
        assert_eq!(netdev(1, &user), expected);
        let segment = |name: &str| netdev(0, &NetworkSettings::Segment { segment: name.to_owned() });
        assert_eq!(segment("a"), segment("a"));
        assert_ne!(segment("a"), segment("b"));
        let unconnected = nic_arguments(0, "02:00:00:00:00:01", None);
        assert_eq!(unconnected, ["-device", "virtio-net-pci,id=nic0,mac=02:00:00:00:00:01,romfile="]);
    }
}
