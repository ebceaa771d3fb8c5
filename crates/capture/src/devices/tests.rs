//! Against a sysfs of our own: a disk with partitions, LVM over two disks, RAID, crypt, btrfs, zoned.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::{prop_assert, proptest};

use super::mounts::{disks_of_mount_holding, mounted_on_in};
use super::{DeviceError, DeviceNumber, Sysfs};

fn number(text: &str) -> DeviceNumber {
    DeviceNumber::parse(text).unwrap()
}

fn numbers(texts: &[&str]) -> BTreeSet<DeviceNumber> {
    texts.iter().map(|text| number(text)).collect()
}

struct Tree {
    root: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self { root: tempfile::tempdir().unwrap() };
        for (path, dev) in
            [("sda", "8:0"), ("sdb", "8:16"), ("sdc", "8:32"), ("zoned", "8:48"), ("nvme0n1", "259:0")]
        {
            tree.device(&format!("devices/pci/{path}"), dev, &[("size", "2048"), ("diskseq", "9")]);
        }
        tree.set("devices/pci/sda", &[("device/wwid", "naa.5000c500a1b2c3d4"), ("queue/zoned", "none")]);
        tree.set("devices/pci/zoned", &[("queue/zoned", "host-managed")]);
        for (path, dev) in
            [("sda/sda1", "8:1"), ("sda/sda2", "8:2"), ("sdb/sdb1", "8:17"), ("sdc/sdc1", "8:33")]
        {
            tree.device(&format!("devices/pci/{path}"), dev, &[("partition", "1"), ("size", "1024")]);
        }
        // A volume over sda2 and sdb1, crypt on it; a RAID of sdc1 and a whole nvme.
        let dm = |name, dev, slaves: &[&str]| {
            let folder = format!("devices/virtual/block/{name}");
            tree.device(&folder, dev, &[("size", "512")]);
            for slave in slaves {
                let link = tree.path(&folder).join("slaves").join(Path::new(slave).file_name().unwrap());
                fs::create_dir_all(link.parent().unwrap()).unwrap();
                symlink(tree.path(&format!("devices/{slave}")), link).unwrap();
            }
        };
        dm("dm-0", "253:0", &["pci/sda/sda2", "pci/sdb/sdb1"]);
        dm("dm-1", "253:1", &["virtual/block/dm-0"]);
        dm("md0", "9:0", &["pci/sdc/sdc1", "pci/nvme0n1"]);
        dm("loop0", "7:0", &[]);
        for (at, to) in [("sdb1", "pci/sdb/sdb1"), ("sdc1", "pci/sdc/sdc1")] {
            let link = tree.path("fs/btrfs/0a1b/devices").join(at);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(tree.path(&format!("devices/{to}")), link).unwrap();
        }
        tree
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join(path)
    }

    fn sysfs(&self) -> Sysfs {
        Sysfs::at(self.root.path())
    }

    fn set(&self, folder: &str, attributes: &[(&str, &str)]) {
        for (name, value) in attributes {
            let path = self.path(folder).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
    }

    fn device(&self, folder: &str, dev: &str, attributes: &[(&str, &str)]) {
        self.set(folder, attributes);
        self.set(folder, &[("dev", dev)]);
        let name = Path::new(folder).file_name().unwrap().to_str().unwrap();
        for link in [format!("dev/block/{dev}"), format!("class/block/{name}")] {
            fs::create_dir_all(self.path(&link).parent().unwrap()).unwrap();
            symlink(self.path(folder), self.path(&link)).unwrap();
        }
    }
}

#[test]
fn everything_stacked_leads_to_whole_disks() {
    let tree = Tree::new();
    let below = |dev: &str| tree.sysfs().disks_below(number(dev)).unwrap();
    assert_eq!(below("8:0"), numbers(&["8:0"]));
    assert_eq!(below("8:1"), numbers(&["8:0"]));
    assert_eq!(below("253:0"), numbers(&["8:0", "8:16"]));
    assert_eq!(below("253:1"), numbers(&["8:0", "8:16"]));
    assert_eq!(below("9:0"), numbers(&["8:32", "259:0"]));
    assert_eq!(below("7:0"), numbers(&["7:0"]));
    assert!(matches!(tree.sysfs().disks_below(number("1:2")), Err(DeviceError::Unknown { .. })));
}

#[test]
fn a_loop_in_the_account_ends() {
    let tree = Tree::new();
    symlink(tree.path("devices/virtual/block/dm-1"), tree.path("devices/virtual/block/dm-0/slaves/dm-1"))
        .unwrap();
    assert!(matches!(tree.sysfs().disks_below(number("253:0")), Err(DeviceError::Malformed { .. })));
}

#[test]
fn a_disk_is_described_and_the_unfit_refused() {
    let tree = Tree::new();
    let disk = tree.sysfs().whole_disk(number("8:0")).unwrap();
    assert_eq!((disk.name.as_str(), disk.size_bytes, disk.diskseq), ("sda", 1 << 20, 9));
    assert_eq!(disk.identity, "naa.5000c500a1b2c3d4");
    assert!(matches!(tree.sysfs().whole_disk(number("8:48")), Err(DeviceError::Zoned { .. })));
    tree.set("devices/pci/sdb", &[("size", "0")]);
    assert!(matches!(tree.sysfs().whole_disk(number("8:16")), Err(DeviceError::Empty { .. })));
    tree.set("devices/pci/sdb", &[("size", "many")]);
    assert!(matches!(tree.sysfs().whole_disk(number("8:16")), Err(DeviceError::Malformed { .. })));
}

const MOUNTINFO: &str = "\
22 1 253:1 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw
23 22 0:21 / /proc rw,nosuid shared:2 - proc proc rw
24 22 8:1 / /boot rw,relatime shared:3 - ext4 /dev/sda1 rw
25 22 9:0 / /srv/with\\040space rw shared:4 - xfs /dev/md0 rw,attr2
26 22 8:1 /grub /mnt/grub ro,relatime shared:3 - ext4 /dev/sda1 rw
27 22 8:17 / /media/read-only ro - ext4 /dev/sdb1 ro,norecovery
28 22 0:40 /@home /home rw,relatime shared:5 - btrfs /dev/sdc1 rw,subvolid=256
29 22 0:40 /@var /var rw,relatime shared:6 - btrfs /dev/sdc1 rw,subvolid=257
30 22 0:41 / /net rw - nfs4 server:/export rw,vers=4.2
a line that makes no sense
31 22 8:99 / /gone rw - ext4 /dev/gone rw
";

#[test]
fn file_systems_on_disks_once_each_in_mount_order() {
    let tree = Tree::new();
    let on = |disks: &[&str]| {
        let found = mounted_on_in(&tree.sysfs(), MOUNTINFO, &numbers(disks));
        let points = |mounts: &[super::MountPoint]| -> Vec<String> {
            mounts.iter().map(|mount| format!("{} {}", mount.id, mount.path.display())).collect()
        };
        found.iter().map(|found| points(&found.mounts).join(", ")).collect::<Vec<_>>()
    };
    let btrfs = "28 /home, 29 /var";
    assert_eq!(on(&["8:0"]), ["22 /", "24 /boot, 26 /mnt/grub"]);
    // The read-only one is left out; btrfs has a second device there.
    assert_eq!(on(&["8:16"]), ["22 /", btrfs]);
    assert_eq!(on(&["8:32"]), ["25 /srv/with space", btrfs]);
    assert_eq!(on(&["259:0"]), ["25 /srv/with space"]);
    assert_eq!(on(&["7:0"]), [""; 0]);
}

#[test]
fn a_path_on_an_anonymous_device_is_found_by_its_mount() {
    let tree = Tree::new();
    let holding = |path: &str| disks_of_mount_holding(&tree.sysfs(), MOUNTINFO, Path::new(path));
    assert_eq!(holding("/home/me/file"), Some(numbers(&["8:16", "8:32"])));
    assert_eq!(holding("/homes"), Some(numbers(&["8:0", "8:16"])));
    assert_eq!(holding("/net/file"), None);
}

proptest! {
    #[test]
    fn any_line_is_survived(line in "\\PC{0,60}( - )?\\PC{0,30}", digits in "\\\\[0-9]{0,4}") {
        let tree = tempfile::tempdir().unwrap();
        let text = format!("{line}\n36 35 8:0 / /a{digits} rw - ext4 /dev/a rw");
        prop_assert!(mounted_on_in(&Sysfs::at(tree.path()), &text, &BTreeSet::new()).is_empty());
    }
}
