//! What this machine is: its identity, disks and interfaces.
//!
//! Read from sysfs and procfs, which every Linux has; addresses from `ip`, whose output is the same with busybox and iproute2.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use switchback_model::component::{DiskFacts, HardwareFacts, InterfaceFacts};

use super::azure_disks;
use crate::role::smbios::system_uuid;

/// The machine's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// SMBIOS system UUID, lower case; empty when there is none.
    pub(super) system_uuid: String,
    pub(super) platform: String,
    pub(super) hostname: String,
    pub(super) system: String,
    pub(super) boot_id: String,
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

impl Identity {
    pub(super) fn read() -> Self {
        let dmi = Path::new("/sys/class/dmi/id");
        let uname = rustix::system::uname();
        let release = text("/etc/os-release");
        let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        let kernel = format!("Linux {}", uname.release().to_string_lossy());
        let platform = format!("{} {}", text(dmi.join("sys_vendor")), text(dmi.join("product_name")));
        Self {
            system_uuid: system_uuid(),
            platform: platform.trim().into(),
            hostname: uname.nodename().to_string_lossy().into_owned(),
            system: pretty
                .map_or_else(|| kernel.clone(), |name| format!("{}, {kernel}", name.trim_matches('"'))),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
        }
    }
}

/// The disks that are protected, in order: whole virtio, SCSI, NVMe and Xen disks that can be written; at Azure those that [`azure_disks`] names.
pub(super) fn disks(sys: &Path) -> Vec<DiskFacts> {
    let entries = fs::read_dir(sys.join("block")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut disks: Vec<_> =
        names.filter(|name| is_protected(name)).filter_map(|name| disk(sys, name)).collect();
    // As the kernel counts: vdb before vdaa.
    disks.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
    if azure_disks::is_azure(sys) { azure_disks::in_order(sys, disks) } else { disks }
}

/// By name: not memory (ram, zram), not files (loop), not what lies above other disks (dm, md), not media (sr, fd).
fn is_protected(name: &str) -> bool {
    let letters = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_lowercase()))
    };
    // A namespace, not one of the paths to it (`nvme0c1n1`).
    let namespace = name.strip_prefix("nvme").and_then(|rest| rest.split_once('n'));
    let is_nvme = namespace.is_some_and(|(controller, number)| {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits(controller) && digits(number)
    });
    is_nvme || ["vd", "sd", "xvd"].iter().any(|prefix| letters(prefix))
}

fn disk(sys: &Path, name: String) -> Option<DiskFacts> {
    let folder = sys.join("block").join(&name);
    let size = text(folder.join("size")).parse::<u64>().ok()?.checked_mul(512)?;
    let can_be_written = text(folder.join("ro")) == "0" && text(folder.join("removable")) != "1";
    if size == 0 || !can_be_written {
        return None;
    }
    let serial = ["serial", "device/serial", "device/wwid"].iter().map(|file| text(folder.join(file)));
    let serial = serial.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    // A SCSI disk's name of the whole world, as VMware gives its disks one: the number alone.
    let serial = serial.strip_prefix("naa.").map(str::to_owned).unwrap_or(serial);
    Some(DiskFacts { name, serial, size, capture: String::new() })
}

/// Processors, memory and firmware, as sysfs and procfs below `root` tell of them.
pub(super) fn machine(root: &Path) -> HardwareFacts {
    let meminfo = text(root.join("proc/meminfo"));
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    let kib: u64 = total.and_then(|kib| kib.parse().ok()).unwrap_or(0);
    let cpuinfo = text(root.join("proc/cpuinfo"));
    let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    HardwareFacts {
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX).max(1),
        memory_mib: u32::try_from(kib.div_ceil(1 << 20).max(1) << 10).unwrap_or(u32::MAX),
        uefi: root.join("sys/firmware/efi").is_dir(),
    }
}

/// Where a disk is.
pub(super) fn node(disk: &DiskFacts) -> PathBuf {
    Path::new("/dev").join(&disk.name)
}

/// Network interfaces with a device below them, by name.
pub(super) fn interfaces() -> Vec<InterfaceFacts> {
    let mut found: Vec<_> = hardware(Path::new("/sys"))
        .into_iter()
        .map(|(name, mac)| {
            let addresses = addresses(&ip(&["addr", "show", "dev", &name]));
            let gateway = gateway(&ip(&["route", "show", "default", "dev", &name]));
            InterfaceFacts { name, mac, addresses, gateway }
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Names and MAC addresses of interfaces with a device below them.
pub(super) fn hardware(sys: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(sys.join("class/net")).into_iter().flatten().flatten();
    let real = entries.filter(|entry| entry.path().join("device").exists());
    real.filter_map(|entry| {
        let mac = text(entry.path().join("address")).to_ascii_lowercase();
        (mac.len() == 17).then_some((entry.file_name().into_string().ok()?, mac))
    })
    .collect()
}

fn ip(arguments: &[&str]) -> String {
    match Command::new("ip").args(arguments).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(_) => String::new(),
    }
}

/// `inet ADDRESS/PREFIX …` and `inet6 … scope global`.
fn addresses(shown: &str) -> Vec<String> {
    let lines = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter_map(|words| match words.as_slice() {
            ["inet", address, ..] | ["inet6", address, "scope", "global", ..] => Some((*address).to_owned()),
            _ => None,
        })
        .collect()
}

/// `default via ADDRESS …`.
fn gateway(shown: &str) -> Option<String> {
    let rest = shown.lines().find_map(|line| line.strip_prefix("default via "))?;
    Some(rest.split_whitespace().next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use switchback_model::component::HardwareFacts;

    use super::{addresses, disks, gateway, is_protected, machine};

    #[test]
    fn a_machine_made_anew_has_at_least_what_this_one_has() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc")).unwrap();
        fs::write(root.path().join("proc/meminfo"), "MemTotal:       16314252 kB\nMemFree: 1 kB\n").unwrap();
        fs::write(root.path().join("proc/cpuinfo"), "processor\t: 0\nmodel name\t: x\n\nprocessor\t: 1\n")
            .unwrap();
        let found = machine(root.path());
        assert_eq!(found, HardwareFacts { cpus: 2, memory_mib: 16 << 10, uefi: false });
        fs::create_dir_all(root.path().join("sys/firmware/efi")).unwrap();
        assert!(machine(root.path()).uefi);
    }

    #[test]
    fn whole_disks_that_can_be_written_are_protected_in_the_kernels_order() {
        let sys = tempfile::tempdir().unwrap();
        let make = |name: &str, sectors: &str, ro: &str| {
            let folder = sys.path().join("block").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("size"), sectors).unwrap();
            fs::write(folder.join("ro"), ro).unwrap();
            fs::write(folder.join("serial"), format!("serial-of-{name}\n")).unwrap();
        };
        for (name, sectors, ro) in [
            ("vdb", "2048\n", "0\n"),
            ("vda", "4096\n", "0\n"),
            ("vdaa", "8\n", "0\n"),
            ("vdc", "4096\n", "1\n"),
            ("sda", "0\n", "0\n"),
            ("loop0", "8\n", "0\n"),
            ("zram0", "8\n", "0\n"),
            ("dm-0", "8\n", "0\n"),
            ("nvme0n1", "8\n", "0\n"),
        ] {
            make(name, sectors, ro);
        }
        let found = disks(sys.path());
        let names: Vec<_> = found.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["vda", "vdb", "vdaa", "nvme0n1"]);
        assert_eq!((found[0].size, found[0].serial.as_str()), (4096 * 512, "serial-of-vda"));
    }

    #[test]
    fn partitions_paths_and_media_are_no_disks_of_their_own() {
        for name in ["vda1", "sda12", "nvme0n1p1", "nvme0c1n1", "sr0", "fd0", "md0", "ram1", "vd", "nbd0"] {
            assert!(!is_protected(name), "{name}");
        }
        for name in ["vda", "sdzz", "xvdb", "nvme10n2"] {
            assert!(is_protected(name), "{name}");
        }
    }

    #[test]
    fn addresses_are_read_from_busybox_and_iproute2() {
        let shown = "2: eth0: <BROADCAST,UP> mtu 1500 qdisc pfifo_fast qlen 1000\n    link/ether 52:54:00:12:34:56 brd ff:ff:ff:ff:ff:ff\n    \
                     inet 10.0.2.15/24 brd 10.0.2.255 scope global eth0\n       valid_lft forever preferred_lft forever\n    \
                     inet6 fd00::5/64 scope global dynamic\n    inet6 fe80::1/64 scope link\n";
        assert_eq!(addresses(shown), ["10.0.2.15/24", "fd00::5/64"]);
        assert_eq!(gateway("default via 10.0.2.2 dev eth0 \n"), Some("10.0.2.2".into()));
        assert_eq!(gateway("10.0.2.0/24 dev eth0\n"), None);
    }
}
