//! What is checked of a master target's host. Nothing is changed.

use std::path::{Path, PathBuf};

use switchback_model::CheckState::{Failed, Unknown, Warning};
use switchback_model::{ByteSize, ReadinessCheck};

use super::drive::{self, Drive};
use super::environment::{ClockSync, UNIT};
use super::facts::{self, Disk, value};
use super::lvm::{self, Guard};
use super::packages::{Need, TOOLS, family};
use super::{Host, fstab};

/// What the checks are about.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Where the retention drive is mounted.
    pub retention: Option<PathBuf>,
    /// The disk that is the retention drive, or is to be.
    pub retention_device: Option<PathBuf>,
    /// Where data is taken.
    pub port: u16,
}

/// All checks.
#[must_use]
pub fn check(host: &Host, asked: &Asked) -> Vec<ReadinessCheck> {
    let disks = facts::disks(host);
    let mut checks = vec![system(host), root(), machine(host), disk_identity(host, &disks)];
    checks.extend(disks.iter().map(disk));
    checks.extend(TOOLS.iter().filter_map(|tools| programs(host, tools)));
    checks.extend([fuse(host), volume_groups(host)]);
    checks.extend(asked.retention_device.as_deref().map(retention_device));
    checks.push(asked.retention.as_deref().map_or_else(no_retention, |path| retention(host, path)));
    checks.extend([clock(host), service(host), port(host, asked.port)]);
    checks
}

fn system(host: &Host) -> ReadinessCheck {
    let (code, title) = ("master-target.system", "Operating system");
    let release = host.text("etc/os-release");
    let kernel = rustix::system::uname();
    let facts = format!("{}, Linux {}", value(&release, "PRETTY_NAME"), kernel.release().to_string_lossy());
    if family(&release).is_some() {
        return ReadinessCheck::passed(code, title, facts);
    }
    ReadinessCheck::raised(
        Warning,
        (code, title),
        facts,
        "a distribution whose packages are not known here",
        "install by hand what the checks below miss",
    )
}

fn root() -> ReadinessCheck {
    let (code, title) = ("master-target.root", "Run by root");
    if rustix::process::geteuid().is_root() {
        return ReadinessCheck::passed(code, title, "root");
    }
    let facts = format!("user {}", rustix::process::geteuid().as_raw());
    ReadinessCheck::raised(
        Failed,
        (code, title),
        facts,
        "disks and mounts are root's; some checks say less than they could",
        "run it as root: sudo",
    )
}

fn machine(host: &Host) -> ReadinessCheck {
    let (code, title) = ("master-target.machine", "Machine");
    let (hypervisor, uuid) = (host.hypervisor(), host.system_uuid());
    if !uuid.is_empty() {
        return ReadinessCheck::passed(code, title, format!("{hypervisor}, {uuid}"));
    }
    ReadinessCheck::raised(
        Warning,
        (code, title),
        format!("{hypervisor} without an SMBIOS UUID").trim(),
        "the firmware tells none, or only root may read it",
        "run it as root; where the site attaches disks, name the machine with --machine-uuid",
    )
}

/// Without `disk.EnableUUID`, a guest cannot tell which of its disks is which virtual disk.
fn disk_identity(host: &Host, disks: &[Disk]) -> ReadinessCheck {
    let (code, title) = ("master-target.disk-identity", "Disks can be told apart");
    if !host.is_on_vmware() {
        return ReadinessCheck::passed(code, title, "not a VMware machine");
    }
    let scsi: Vec<_> = disks.iter().filter(|disk| disk.name.starts_with("sd")).collect();
    let nameless: Vec<_> =
        scsi.iter().filter(|disk| !disk.wwid.starts_with("naa.")).map(|disk| disk.name.as_str()).collect();
    let remedy = "power the virtual machine off and set its advanced parameter disk.EnableUUID to TRUE (vSphere Client: Edit Settings, \
                  VM Options, Advanced; or `govc vm.change -vm NAME -e disk.enableUUID=TRUE`); the vSphere site that attaches disks to it also does it";
    if !nameless.is_empty() {
        let facts = format!("without a UUID: {}", nameless.join(", "));
        return ReadinessCheck::raised(Failed, (code, title), facts, "disk.EnableUUID is not set", remedy);
    }
    if scsi.is_empty() {
        let cause = "the machine has no SCSI disk";
        return ReadinessCheck::raised(Unknown, (code, title), "no SCSI disks", cause, remedy);
    }
    ReadinessCheck::passed(code, title, format!("all {} SCSI disks tell their UUID", scsi.len()))
}

fn disk(disk: &Disk) -> ReadinessCheck {
    let mut facts = vec![ByteSize(disk.size_bytes).to_string()];
    facts.extend([disk.wwid.clone(), disk.by_id.clone()].into_iter().filter(|text| !text.is_empty()));
    let list = |names: &[String]| names.join(", ");
    facts.push(if disk.mounted.is_empty() {
        "not mounted".into()
    } else {
        format!("mounted at {}", list(&disk.mounted))
    });
    if !disk.used_by.is_empty() {
        facts.push(format!("used by {}", list(&disk.used_by)));
    }
    ReadinessCheck::passed("master-target.disk", &format!("Disk {}", disk.name), facts.join("; "))
}

fn programs(host: &Host, tools: &super::packages::Tools) -> Option<ReadinessCheck> {
    if tools.need == Need::OnVmware && !host.is_on_vmware() {
        return None;
    }
    let (code, title) = ("master-target.programs", format!("Programs {}", tools.programs.join(", ")));
    let missing = tools.missing(host);
    if missing.is_empty() {
        return Some(ReadinessCheck::passed(code, &title, "installed"));
    }
    let (state, cause) = match tools.need {
        Need::Needed => (Failed, "a package is not installed"),
        Need::OnVmware => {
            (Warning, "a package is not installed; vSphere cannot shut the machine down in an orderly way")
        }
        Need::Useful => (
            Warning,
            "a package is not installed; it helps to look into points by hand, and is not needed else",
        ),
    };
    let remedy = match family(&host.text("etc/os-release")).map(|family| tools.package(family)) {
        Some(Some(package)) => format!("`switchback master-target prepare`, or install {package}"),
        Some(None) => "this distribution has no package of it; it can be left out".into(),
        None => "install the package that has them".into(),
    };
    Some(ReadinessCheck::raised(
        state,
        (code, &title),
        format!("missing: {}", missing.join(", ")),
        cause,
        &remedy,
    ))
}

fn fuse(host: &Host) -> ReadinessCheck {
    let (code, title) = ("master-target.fuse", "Recovery points can be shown (FUSE)");
    if host.has("dev/fuse") {
        return ReadinessCheck::passed(code, title, "/dev/fuse");
    }
    ReadinessCheck::raised(
        Failed,
        (code, title),
        "there is no /dev/fuse",
        "the kernel's module is not loaded",
        "`switchback master-target prepare`, or `modprobe fuse`",
    )
}

fn volume_groups(host: &Host) -> ReadinessCheck {
    let (code, title) = ("master-target.lvm", "LVM leaves replicated disks alone");
    let cause =
        "LVM activates volume groups that it finds on attached disks, and what is activated is written to";
    let own = || lvm::own_disks(host).unwrap_or_else(|_| vec!["/dev/disk/by-id/DISK-OF-THIS-HOST".into()]);
    let write = |own: Vec<String>| {
        let wanted = lvm::settings(&own);
        wanted.lines().filter(|line| !line.starts_with('#')).map(str::trim).collect::<Vec<_>>().join(" ")
    };
    match lvm::guard(host) {
        Guard::Absent => ReadinessCheck::passed(code, title, "there is no LVM"),
        Guard::Kept(by) => ReadinessCheck::passed(code, title, by),
        Guard::Open => {
            let remedy = format!(
                "`switchback master-target prepare`, or write into /etc/lvm/lvmlocal.conf: {}; then renew the initial ramdisk",
                write(own())
            );
            ReadinessCheck::raised(
                Warning,
                (code, title),
                "no global_filter, no devices file",
                cause,
                &remedy,
            )
        }
        Guard::Other(found) => {
            let remedy = format!("change it by hand so that it ends like this: {}", write(own()));
            ReadinessCheck::raised(Warning, (code, title), found, cause, &remedy)
        }
    }
}

fn retention_device(device: &Path) -> ReadinessCheck {
    let (code, title) = ("master-target.retention-drive", "Retention drive");
    match drive::judge(device) {
        Ok(Drive::Ours { partition, uuid }) => {
            ReadinessCheck::passed(code, title, format!("{}, XFS {uuid}", partition.display()))
        }
        Ok(Drive::Empty | Drive::Partitioned { .. }) => ReadinessCheck::raised(
            Failed,
            (code, title),
            format!("{} is not prepared", device.display()),
            "it is new",
            "`switchback master-target prepare --retention-device DEVICE --retention DIRECTORY`",
        ),
        Err(error) => {
            ReadinessCheck::raised(Failed, (code, title), error.message, &error.cause, &error.remedy)
        }
    }
}

fn no_retention() -> ReadinessCheck {
    ReadinessCheck::raised(
        Unknown,
        ("master-target.retention", "Retention drive is mounted"),
        "not looked at",
        "it was not said where it is",
        "name it: --retention DIRECTORY",
    )
}

fn retention(host: &Host, path: &Path) -> ReadinessCheck {
    let (code, title) = ("master-target.retention", "Retention drive is mounted");
    let shown = path.display();
    let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mount = host.mounts().into_iter().rfind(|mount| Path::new(&mount.mount_point) == full);
    let Some(mount) = mount else {
        return ReadinessCheck::raised(
            Failed,
            (code, title),
            format!("nothing is mounted at {shown}"),
            "history would fill the host's own file system",
            "`switchback master-target prepare --retention-device DEVICE --retention DIRECTORY`",
        );
    };
    let space = rustix::fs::statvfs(&full);
    let space = space.map(|space| ByteSize(space.f_bavail.saturating_mul(space.f_frsize)).to_string());
    let free = space.unwrap_or_else(|_| "unknown".into());
    let facts = format!("{}, {}, {free} free", mount.source, mount.file_system);
    let table = std::fs::read_to_string(&host.fstab).unwrap_or_default();
    let entry = fstab::entries(&table).into_iter().find(|entry| Path::new(&entry.mount_point) == full);
    let lasting = ["UUID=", "LABEL=", "PARTUUID=", "/dev/disk/by-", "/dev/mapper/"];
    match entry {
        Some(entry) if lasting.iter().any(|prefix| entry.source.starts_with(prefix)) => {
            ReadinessCheck::passed(code, title, format!("{facts}, {} in fstab", entry.source))
        }
        Some(entry) => ReadinessCheck::raised(
            Warning,
            (code, title),
            format!("{facts}, {} in fstab", entry.source),
            "the kernel's names change when disks are attached",
            "mount it by its UUID: `blkid` tells it",
        ),
        None => ReadinessCheck::raised(
            Warning,
            (code, title),
            format!("{facts}, not in fstab"),
            "it was mounted by hand, and is gone after a restart",
            "`switchback master-target prepare --retention-device DEVICE --retention DIRECTORY`, or an entry in /etc/fstab by UUID",
        ),
    }
}

fn clock(host: &Host) -> ReadinessCheck {
    let (code, title) = ("master-target.clock", "Clock is kept right");
    let remedy = "set up chrony or systemd-timesyncd";
    match host.clock() {
        ClockSync::Kept(by) => ReadinessCheck::passed(code, title, by),
        ClockSync::Astray => ReadinessCheck::raised(
            Warning,
            (code, title),
            "not synchronised",
            "no time server is set up or reached; certificates and the times of recovery points depend on it",
            remedy,
        ),
        ClockSync::Unknown => {
            let cause = "neither systemd nor chrony tells";
            ReadinessCheck::raised(Unknown, (code, title), "nobody says", cause, remedy)
        }
    }
}

fn service(host: &Host) -> ReadinessCheck {
    let (code, title) = ("master-target.service", "Starts with its host");
    match host.service() {
        (true, true) => ReadinessCheck::passed(code, title, UNIT),
        (true, false) => ReadinessCheck::raised(
            Warning,
            (code, title),
            format!("{UNIT} is not enabled"),
            "it was not asked to start with the host",
            "`systemctl enable --now switchback-master-target`",
        ),
        (false, _) => ReadinessCheck::raised(
            Warning,
            (code, title),
            format!("there is no {UNIT}"),
            "it is started by hand",
            "write a unit that runs `switchback master-target …`, see docs/guides/master-target.md",
        ),
    }
}

fn port(host: &Host, port: u16) -> ReadinessCheck {
    let (code, title) = ("master-target.port", "Data comes in");
    let firewalls = host.firewalls(port);
    let taken = host.is_listening(port);
    let facts = format!("TCP {port} {}", if taken { "is listened on" } else { "is free" });
    if let Some((firewall, open)) = firewalls.first() {
        let remedy = format!("unless it is open already: {open}");
        let facts = format!("{facts}; {firewall} is on");
        return ReadinessCheck::raised(
            Warning,
            (code, title),
            facts,
            "the firewall may hold data back",
            &remedy,
        );
    }
    if taken {
        return ReadinessCheck::raised(
            Warning,
            (code, title),
            facts,
            "the master target runs already, or another program has the port",
            "`ss --listening --tcp --processes` tells; another port: --listen",
        );
    }
    ReadinessCheck::passed(code, title, facts)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use switchback_model::CheckState;

    use super::{Asked, Host, check};

    /// A host of files: a VMware machine with one disk.
    fn host(wwid: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian\"\n"),
            ("sys/class/dmi/id/sys_vendor", "VMware, Inc.\n"),
            ("sys/class/dmi/id/product_serial", "VMware-42 3d 1f ad 86 a8 4b 9e-0c 5f 1e 2d 3c 4b 5a 69\n"),
            ("sys/block/sda/size", "4096\n"),
            ("sys/block/sda/dev", "8:0\n"),
            ("sys/block/sda/device/wwid", wwid),
            ("usr/sbin/mkfs.xfs", ""),
            ("proc/net/tcp", "sl\n 0: 00000000:24E3 0:0 0A\n"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn checked(wwid: &str, retention: Option<&str>) -> Vec<(String, CheckState, String, String)> {
        let root = host(wwid);
        let asked = Asked { retention: retention.map(Into::into), retention_device: None, port: 9443 };
        let checks = check(&Host::at(root.path()), &asked);
        let raised = checks.iter().filter(|check| check.state != CheckState::Passed);
        assert!(
            raised.clone().all(|check| !check.remedy.is_empty() && !check.cause.is_empty()),
            "{checks:?}"
        );
        checks.into_iter().map(|check| (check.code, check.state, check.facts, check.remedy)).collect()
    }

    #[test]
    fn a_guest_that_does_not_know_its_disks_is_told_how_to_set_it() {
        let of = |wwid| {
            let checks = checked(wwid, None);
            checks.into_iter().find(|check| check.0 == "master-target.disk-identity").unwrap()
        };
        let (_, state, facts, remedy) = of("");
        assert_eq!((state, facts.as_str()), (CheckState::Failed, "without a UUID: sda"));
        assert!(remedy.contains("disk.EnableUUID") && remedy.contains("power"), "{remedy}");
        assert_eq!(of("naa.6000c29aa\n").1, CheckState::Passed);
    }

    #[test]
    fn what_is_missing_is_told_with_its_package() {
        let checks = checked("naa.1", None);
        let missing: Vec<_> = checks.iter().filter(|check| check.0 == "master-target.programs").collect();
        assert_eq!((missing[0].1, missing[0].2.as_str()), (CheckState::Failed, "missing: xfs_repair"));
        assert!(missing[0].3.contains("xfsprogs") && missing.last().unwrap().3.contains("open-vm-tools"));
        let port = checks.iter().find(|check| check.0 == "master-target.port").unwrap();
        assert_eq!((port.1, port.2.as_str()), (CheckState::Warning, "TCP 9443 is listened on"));
    }

    #[test]
    fn a_directory_that_is_no_mount_is_no_retention_drive() {
        let checks = checked("naa.1", Some("/nowhere"));
        let retention = checks.iter().find(|check| check.0 == "master-target.retention").unwrap();
        assert_eq!(retention.1, CheckState::Failed);
        let machine = checks.iter().find(|check| check.0 == "master-target.machine").unwrap();
        assert!(machine.2.contains("423d1fad-86a8-4b9e-0c5f-1e2d3c4b5a69"), "{}", machine.2);
    }
}
