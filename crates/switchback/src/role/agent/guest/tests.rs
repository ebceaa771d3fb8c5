//! A guest's tree, made for the test; and, when `SWITCHBACK_GUEST_TREE` names one, a real Debian tree, by its own programs in a `chroot`.

mod firmware;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use switchback_capture::scripts::{Phase, Script, run};
use switchback_disk::{DirVolume, Volume};
use switchback_model::component::GuestPlatform;
use switchback_model::{CheckState, ReadinessCheck};

use super::root::{Commands, Root};
use super::{Guest, Known, Wanted, tend};

const KERNEL: &str = "6.1.0-9-amd64";
const DEP: &str = "kernel/drivers/hv/hv_vmbus.ko:\nkernel/drivers/scsi/hv_storvsc.ko:\nkernel/drivers/net/hyperv/hv_netvsc.ko:\nkernel/drivers/hv/hv_utils.ko:\n";
const GRUB: &str = "menuentry 'x' {\n\tlinux /vmlinuz root=UUID=1 ro quiet\n}\nmenuentry 'rescue' {\n\tlinux /vmlinuz root=UUID=1 ro single\n}\n";
const FSTAB: &str = "# <file system>\t<mount>\nUUID=1  /     ext4  errors=remount-ro 0 1\n/dev/sdb1\t/data  ext4 defaults 0 2 # mine\n/dev/vg/swap none swap sw 0 0\n";

/// Does to a tree what the real programs would; an initramfs is the list of its modules.
#[derive(Debug)]
struct Played {
    root: PathBuf,
    said: Mutex<Vec<String>>,
    /// A program that fails, in the middle of what it writes.
    broken: Option<&'static str>,
}

impl Commands for std::sync::Arc<Played> {
    fn run(&self, words: &[&str], _: Duration) -> Result<String, String> {
        let at = |path: &str| self.root.join(path.trim_start_matches('/'));
        self.said.lock().unwrap().push(words.join(" "));
        let broken = self.broken.filter(|program| words[0].ends_with(program));
        let read = |path: &str| fs::read_to_string(at(path)).unwrap_or_default();
        let drivers = |text: String| {
            let words: Vec<_> = text
                .split([' ', '\n', '"'])
                .filter(|word| word.starts_with("hv_"))
                .map(|word| format!("{word}.ko"))
                .collect();
            words.join("\n")
        };
        match (words[0].rsplit('/').next().unwrap(), words) {
            ("sh", [.., image, _]) => Ok(read(image)),
            ("update-initramfs", [.., version]) => {
                if broken.is_some() {
                    return Err("no space left".into());
                }
                fs::write(
                    at(&format!("/boot/initrd.img-{version}")),
                    drivers(read("/etc/initramfs-tools/modules")),
                )
                .unwrap();
                Ok(String::new())
            }
            ("dracut", [.., image]) => {
                fs::write(at(image), drivers(read("/etc/dracut.conf.d/switchback-azure.conf"))).unwrap();
                if broken.is_some() { Err("no space left".into()) } else { Ok(String::new()) }
            }
            ("grub-mkconfig", [_, _, file]) => {
                let added = read("/etc/default/grub.d/90-switchback-azure.cfg");
                let added = added
                    .split("$GRUB_CMDLINE_LINUX ")
                    .nth(1)
                    .map_or("", |rest| rest.trim_end_matches("\"\n"));
                let text = GRUB.replace(" ro", &format!(" ro {added}"));
                let text = if broken.is_some() { text[..20].to_owned() } else { text };
                fs::write(at(file), text).unwrap();
                Ok(String::new())
            }
            ("grubby", [_, "--default-kernel"]) => Ok(format!("/boot/vmlinuz-{KERNEL}\n")),
            ("grubby", [_, _, arguments]) => {
                let entry = read("/boot/loader/entries/a.conf");
                let arguments = arguments.trim_start_matches("--args=");
                fs::write(at("/boot/loader/entries/a.conf"), entry.replace("ro", &format!("ro {arguments}")))
                    .unwrap();
                Ok(String::new())
            }
            ("blkid", [.., "-s", "UUID", "/dev/sdb1"]) => Ok("0b6c-77".into()),
            ("blkid", [.., "-t", "UUID=0b6c-77"]) => Ok("/dev/sdb1".into()),
            ("blkid", _) => Err("exit status: 2".into()),
            other => panic!("{other:?}"),
        }
    }
}

const AZURE: Wanted = Wanted { platform: Some(GuestPlatform::Azure), new_firmware: true };

/// Nothing, but what is wanted.
fn known(wanted: Wanted) -> Mutex<Known> {
    Mutex::new(Known { wanted, ..Known::default() })
}

struct Tree {
    directory: tempfile::TempDir,
    volume: DirVolume,
    known: Mutex<Known>,
    played: std::sync::Arc<Played>,
}

impl Tree {
    fn of(programs: &[&str], files: &[(&str, &str)], broken: Option<&'static str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let put = |path: &str, text: &str| {
            let path = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for program in programs {
            put(&format!("/usr/sbin/{program}"), "");
        }
        put(&format!("/boot/vmlinuz-{KERNEL}"), "");
        put(&format!("/lib/modules/{KERNEL}/modules.dep"), DEP);
        put(&format!("/lib/modules/{KERNEL}/modules.builtin"), "kernel/fs/ext4/ext4.ko\n");
        put("/etc/fstab", FSTAB);
        for (path, text) in files {
            put(path, text);
        }
        let data = directory.path().join("data");
        fs::create_dir(&data).unwrap();
        let played = Played { root, said: Mutex::default(), broken };
        Self { volume: DirVolume::open(data).unwrap(), known: known(AZURE), played: played.into(), directory }
    }

    fn debian(broken: Option<&'static str>) -> Self {
        let initramfs = format!("/boot/initrd.img-{KERNEL}");
        let files = [
            (initramfs.as_str(), "hv_storvsc.ko"),
            ("/boot/grub/grub.cfg", GRUB),
            ("/etc/initramfs-tools/modules", "# mine\nraid1\n"),
            ("/etc/default/grub", "GRUB_CMDLINE_LINUX=\"\"\n"),
        ];
        Self::of(
            &["lsinitramfs", "mkinitramfs", "update-initramfs", "update-grub", "grub-mkconfig", "blkid"],
            &files,
            broken,
        )
    }

    fn red_hat(broken: Option<&'static str>) -> Self {
        let initramfs = format!("/boot/initramfs-{KERNEL}.img");
        let files = [
            (initramfs.as_str(), "xfs.ko"),
            ("/boot/loader/entries/a.conf", "title A\noptions root=/dev/mapper/rhel-root ro\n"),
            ("/boot/loader/entries/0-rescue.conf", "options ro\n"),
            ("/etc/dracut.conf.d/mine.conf", ""),
        ];
        Self::of(&["lsinitrd", "dracut", "grubby", "blkid"], &files, broken)
    }

    fn guest(&self) -> Guest {
        let root = Root::new(&self.played.root);
        Guest { root, commands: Box::new(self.played.clone()), running: KERNEL.into() }
    }

    /// One look of an agent; what its programs were called for.
    fn tend(&self, boot: &str, leave_alone: bool) -> Vec<String> {
        self.played.said.lock().unwrap().clear();
        tend(&self.guest(), &self.known, &self.volume, (boot, leave_alone));
        self.played.said.lock().unwrap().clone()
    }

    /// Another agent, which remembers nothing but what is on its disk.
    fn restart(&mut self) {
        self.known = known(self.known.get_mut().unwrap().wanted);
    }

    fn check(&self, code: &str) -> ReadinessCheck {
        let known = self.known.lock().unwrap();
        known
            .checks
            .iter()
            .find(|check| check.code == code)
            .cloned()
            .unwrap_or_else(|| panic!("{code}: {known:?}"))
    }

    fn states(&self) -> Vec<(String, CheckState)> {
        self.known.lock().unwrap().checks.iter().map(|check| (check.code.clone(), check.state)).collect()
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.played.root.join(path.trim_start_matches('/'))).unwrap()
    }

    /// All files of the guest with their text.
    fn all(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(directory: &Path, into: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() {
                    walk(&path, into)
                } else {
                    into.push((path.clone(), fs::read(&path).unwrap()))
                }
            }
        }
        let mut all = Vec::new();
        walk(&self.directory.path().join("root"), &mut all);
        all.sort();
        all
    }
}

fn all_passed(states: &[(String, CheckState)]) -> bool {
    states.len() == 5 && states.iter().all(|(_, state)| *state == CheckState::Passed)
}

#[test]
fn a_debian_guest_is_prepared_once_and_only_what_is_ours_is_added() {
    let mut tree = Tree::debian(None);
    fs::set_permissions(tree.played.root.join("etc/fstab"), fs::Permissions::from_mode(0o640)).unwrap();
    tree.tend("boot-1", false);
    assert!(all_passed(&tree.states()), "{:?}", tree.known);
    let fstab = tree.text("/etc/fstab");
    assert_eq!(fstab, FSTAB.replace("/dev/sdb1", "UUID=0b6c-77"), "all else byte for byte");
    assert_eq!(tree.text("/etc/fstab.before-switchback"), FSTAB);
    let mode = fs::metadata(tree.played.root.join("etc/fstab")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert!(tree.text("/etc/initramfs-tools/modules").starts_with("# mine\nraid1\n# switchback-azure"));
    assert!(tree.text("/boot/grub/grub.cfg").contains("ro console=tty0 console=ttyS0,115200n8 quiet"));
    let before = tree.all();
    assert!(tree.tend("boot-1", false).is_empty(), "nothing has changed");
    tree.restart();
    let said = tree.tend("boot-2", false);
    assert!(
        !said.iter().any(|line| line.contains("update-initramfs") || line.contains("mkconfig")),
        "{said:?}"
    );
    assert_eq!(tree.all(), before);
}

#[test]
fn a_red_hat_guest_is_prepared_by_its_own_ways() {
    let tree = Tree::red_hat(None);
    tree.tend("boot-1", false);
    assert!(all_passed(&tree.states()), "{:?}", tree.known);
    assert!(
        tree.text("/etc/dracut.conf.d/switchback-azure.conf").contains("add_drivers+=\" hv_vmbus hv_storvsc")
    );
    assert!(tree.text("/boot/loader/entries/a.conf").contains("console=ttyS0,115200n8"));
    let names = Root::new(&tree.played.root).names("/boot");
    assert!(!names.iter().any(|name| name.contains("switchback")), "{names:?}");
}

#[test]
fn whoever_forbids_it_is_only_told() {
    let tree = Tree::debian(None);
    let before = tree.all();
    tree.tend("boot-1", true);
    assert_eq!(tree.all(), before);
    let drivers = tree.check("guest.hyperv-drivers");
    assert_eq!(drivers.state, CheckState::Failed);
    assert!(drivers.facts.contains("hv_vmbus, hv_netvsc, hv_utils missing"), "{drivers:?}");
    assert!(drivers.facts.contains("leave the guest alone") && !drivers.remedy.is_empty(), "{drivers:?}");
    assert_eq!(tree.check("guest.serial-console").state, CheckState::Warning);
    let fstab = tree.check("guest.fstab");
    assert_eq!((fstab.state, fstab.facts.starts_with("/dev/sdb1 at /data")), (CheckState::Failed, true));
}

#[test]
fn what_cannot_be_made_leaves_the_old_and_is_tried_once_for_each_boot_and_change() {
    for (mut tree, image, program) in [
        (Tree::debian(Some("update-initramfs")), format!("/boot/initrd.img-{KERNEL}"), "update-initramfs"),
        (Tree::red_hat(Some("dracut")), format!("/boot/initramfs-{KERNEL}.img"), "dracut"),
    ] {
        let before = tree.text(&image);
        let tries = |said: Vec<String>| {
            said.iter().filter(|line| line.starts_with(&format!("/usr/sbin/{program}"))).count()
        };
        assert_eq!(tries(tree.tend("boot-1", false)), 1);
        assert_eq!(tree.text(&image), before);
        let names = Root::new(&tree.played.root).names("/boot");
        assert!(!names.iter().any(|name| name.contains("switchback")), "{names:?}");
        let check = tree.check("guest.hyperv-drivers");
        assert!(check.state == CheckState::Failed && check.facts.contains("no space left"), "{check:?}");
        tree.restart();
        assert_eq!(tries(tree.tend("boot-1", false)), 0, "the agent was restarted, nothing else");
        assert!(tree.check("guest.hyperv-drivers").facts.contains("no space left"), "still known");
        assert_eq!(tries(tree.tend("boot-1", false)), 0);
        fs::write(tree.played.root.join("etc/fstab"), "UUID=2 / ext4 defaults 0 1\n").unwrap();
        assert_eq!(tries(tree.tend("boot-1", false)), 1, "something has changed");
        tree.restart();
        assert_eq!(tries(tree.tend("boot-2", false)), 1, "another boot");
    }
    let tree = Tree::debian(Some("grub-mkconfig"));
    tree.tend("boot-1", false);
    assert_eq!(tree.text("/boot/grub/grub.cfg"), GRUB, "cut short, it does not take the old one's place");
    assert!(tree.check("guest.serial-console").facts.contains("the old one stays"));
}

#[test]
fn nothing_is_prepared_while_packages_are_installed_and_it_is_tried_again() {
    let tree = Tree::debian(None);
    let lock = tree.played.root.join("var/lib/dpkg/lock-frontend");
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    fs::write(&lock, "").unwrap();
    // Of another process: a process's own locks do not hinder it.
    let script = format!(
        "exec 9>>'{0}'; exec python3 -c 'import fcntl,time; fcntl.lockf(9, fcntl.LOCK_EX); print(flush=True); time.sleep(600)'",
        lock.display()
    );
    let mut holder = std::process::Command::new("sh")
        .args(["-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut byte).unwrap();
    let before = tree.all();
    tree.tend("boot-1", false);
    let after = tree.all();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(after, before);
    let check = tree.check("guest.hyperv-drivers");
    assert!(
        check.state == CheckState::Failed && check.facts.contains("packages are being installed"),
        "{check:?}"
    );
    tree.tend("boot-1", false);
    assert!(all_passed(&tree.states()), "it is tried again: {:?}", tree.known);
}

#[test]
fn what_is_not_known_is_said_and_left() {
    let tree = Tree::of(&["blkid"], &[("/etc/default/x", "")], None);
    fs::remove_file(tree.played.root.join(format!("boot/vmlinuz-{KERNEL}"))).unwrap();
    fs::write(
        tree.played.root.join("etc/fstab"),
        "/dev/sdz1 / ext4 defaults 0 1\n/dev/sdb1 /data ext4 defaults 0 2",
    )
    .unwrap();
    tree.tend("boot-1", false);
    assert_eq!(tree.check("guest.hyperv-drivers").state, CheckState::Unknown);
    assert_eq!(tree.check("guest.serial-console").state, CheckState::Unknown);
    assert_eq!(
        tree.text("/etc/fstab"),
        "/dev/sdz1 / ext4 defaults 0 1\nUUID=0b6c-77 /data ext4 defaults 0 2"
    );
    let fstab = tree.check("guest.fstab");
    assert!(fstab.facts.contains("it could not be prepared: /dev/sdz1: nothing with a UUID"), "{fstab:?}");
    // No tool at all.
    let tree = Tree::of(&["lsinitramfs"], &[(&format!("/boot/initrd.img-{KERNEL}"), "x.ko")], None);
    tree.tend("boot-1", false);
    let drivers = tree.check("guest.hyperv-drivers");
    assert!(drivers.facts.contains("this distribution is not known"), "{drivers:?}");
}

#[test]
fn cards_named_by_their_place_are_told_of() {
    let interfaces = "auto ens192\niface ens192 inet static\n  address 10.0.0.5/24\n";
    let netplan = "network:\n  ethernets:\n    a:\n      match:\n        macaddress: 00:50:56:00:00:01\n";
    let files = [("/etc/network/interfaces", interfaces), ("/etc/netplan/50.yaml", netplan)];
    let tree = Tree::of(&[], &files, None);
    tree.tend("boot-1", true);
    let check = tree.check("guest.network");
    assert_eq!(check.state, CheckState::Warning);
    assert!(check.facts.starts_with("/etc/netplan/50.yaml, /etc/network/interfaces"), "{check:?}");
}

/// A real guest's programs.
#[derive(Debug)]
struct Chroot(String);

impl Commands for Chroot {
    fn run(&self, words: &[&str], limit: Duration) -> Result<String, String> {
        let arguments = [self.0.as_str()].iter().chain(words).map(|word| (*word).to_owned()).collect();
        let script = Script { program: "/usr/sbin/chroot".into(), arguments, limit };
        run(&script, Phase::OnRequest).map_err(|error| crate::freezing::chain(&error))
    }
}

#[test]
#[ignore = "needs a Debian tree with a kernel, initramfs-tools or dracut, and GRUB, in SWITCHBACK_GUEST_TREE; it is changed"]
fn a_real_debian_tree_is_prepared() {
    let path = std::env::var("SWITCHBACK_GUEST_TREE").unwrap();
    let guest = Guest { root: Root::new(&path), commands: Box::new(Chroot(path)), running: String::new() };
    let (directory, known) = (tempfile::tempdir().unwrap(), known(AZURE));
    let volume: &dyn Volume = &DirVolume::open(directory.path()).unwrap();
    for leave_alone in [true, false] {
        *known.lock().unwrap() = Known { wanted: AZURE, ..Known::default() };
        tend(&guest, &known, volume, ("boot", leave_alone));
        for check in &known.lock().unwrap().checks {
            println!("{} {}: {}", check.state, check.code, check.facts);
        }
        println!();
    }
    let known = known.lock().unwrap();
    assert!(known.checks.iter().all(|check| check.state == CheckState::Passed), "{known:?}");
}
