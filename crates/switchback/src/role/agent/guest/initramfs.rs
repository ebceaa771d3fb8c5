//! Hyper-V's drivers: without them in the initramfs, a kernel at Azure does not find the disk that it is to boot from.
//!
//! Looked at, and prepared, are the kernels that boot when nobody chooses: the newest (as GRUB sorts them), the one that runs, and `grubby`'s default. What is in an
//! initramfs its own distribution's tool says, `lsinitramfs` or `lsinitrd`. A kernel that has a driver built in says so in `modules.builtin`.
//!
//! Names and use: Microsoft's "Prepare a Linux VHD for Azure" (`articles/virtual-machines/linux/create-upload-generic.md`), kernel's `drivers/hv`.

use std::cmp::Ordering;
use std::time::Duration;

use switchback_model::{CheckState, ReadinessCheck};

use super::Guest;

pub(super) const CODE: &str = "guest.hyperv-drivers";
const CHECK: (&str, &str) = (CODE, "The initramfs has Hyper-V's drivers");
/// The bus, disks, network cards; and what shuts the machine down when Azure asks for it.
const DRIVERS: [&str; 4] = ["hv_vmbus", "hv_storvsc", "hv_netvsc", "hv_utils"];

/// Of `initramfs-tools`: modules to be included.
const MODULES: &str = "/etc/initramfs-tools/modules";
const BEGIN: &str = "# switchback-azure: begin (Hyper-V's drivers; put here by the Switchback agent)";
const END: &str = "# switchback-azure: end";
/// Of `dracut`: a file of our own.
const DRACUT: &str = "/etc/dracut.conf.d/switchback-azure.conf";
/// Longest that an initramfs may take to be listed, and to be made.
const LIST_MAX: Duration = Duration::from_mins(2);
const MAKE_MAX: Duration = Duration::from_mins(10);
/// Names of drivers in a list of an initramfs's files, those of one kernel; by `sh`, as the whole list is long. `$1`: the tool, `$2`: the image, `$3`: the version.
const LIST: &str = r#"list=$("$1" "$2") || exit 1; printf '%s\n' "$list" | grep -F "modules/$3/" | grep -oE 'hv_[a-z]+[.]ko' | sort -u"#;

/// A kernel that may boot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kernel {
    version: String,
    /// Its initramfs, as the guest names it.
    image: Option<String>,
}

/// The kernels that boot when nobody chooses.
fn kernels(guest: &Guest) -> Vec<Kernel> {
    let names = guest.root.names("/boot");
    let installed = names.iter().filter_map(|name| name.strip_prefix("vmlinuz-"));
    let installed: Vec<_> =
        installed.filter(|version| guest.root.has(&format!("/lib/modules/{version}/modules.dep"))).collect();
    let newest = installed.iter().copied().max_by(|a, b| by_version(a, b));
    let default = guest.root.program("grubby").and_then(|grubby| {
        let path = guest.commands.run(&[&grubby, "--default-kernel"], LIST_MAX).ok()?;
        Some(path.trim().rsplit_once("vmlinuz-")?.1.to_owned())
    });
    let mut chosen: Vec<&str> = Vec::new();
    let wanted = newest.into_iter().chain([guest.running.as_str()]).chain(default.as_deref());
    for version in wanted.filter(|version| installed.contains(version)) {
        if !chosen.contains(&version) {
            chosen.push(version);
        }
    }
    let kernel = |version: &str| Kernel { version: version.into(), image: image_of(guest, version) };
    chosen.into_iter().map(kernel).collect()
}

fn image_of(guest: &Guest, version: &str) -> Option<String> {
    let machine = guest.root.read("/etc/machine-id").unwrap_or_default();
    let paths = [
        format!("/boot/initrd.img-{version}"),
        format!("/boot/initramfs-{version}.img"),
        format!("/boot/initrd-{version}"),
        format!("/boot/{}/{version}/initrd", machine.trim()),
    ];
    paths.into_iter().find(|path| guest.root.has(path))
}

/// As people count: `6.1.0-9` comes before `6.1.0-10`, and `427.el9` before `427.13.el9`.
fn by_version(a: &str, b: &str) -> Ordering {
    let runs = |text: &str| {
        let mut runs: Vec<(bool, String)> = Vec::new();
        for part in text.split(|letter: char| !letter.is_ascii_alphanumeric()) {
            let before = runs.len();
            for letter in part.chars() {
                let digit = letter.is_ascii_digit();
                match runs[before..].last_mut() {
                    Some((is, run)) if *is == digit => run.push(letter),
                    _ => runs.push((digit, letter.into())),
                }
            }
        }
        runs.into_iter().map(|(digit, run)| (digit, run.parse::<u64>().unwrap_or(0), run)).collect::<Vec<_>>()
    };
    runs(a).cmp(&runs(b))
}

/// Which drivers a kernel lacks when it boots.
fn missing(guest: &Guest, kernel: &Kernel) -> Result<Vec<&'static str>, String> {
    let builtin = guest.root.read(&format!("/lib/modules/{}/modules.builtin", kernel.version))?;
    let mut missing: Vec<_> = DRIVERS.into_iter().filter(|driver| !names(&builtin, driver)).collect();
    if let (Some(image), false) = (&kernel.image, missing.is_empty()) {
        let listed = list(guest, image, &kernel.version)?;
        missing.retain(|driver| !listed.lines().any(|line| line == format!("{driver}.ko")));
    }
    Ok(missing)
}

/// Whether a list of module files (`modules.builtin`, `modules.dep`) has a driver, whatever it is compressed with.
fn names(list: &str, driver: &str) -> bool {
    list.lines().any(|line| {
        let file = line.split(':').next().unwrap_or(line);
        let file = file.rsplit('/').next().unwrap_or(file);
        file.split('.').next() == Some(driver)
    })
}

fn list(guest: &Guest, image: &str, version: &str) -> Result<String, String> {
    let tool = ["lsinitramfs", "lsinitrd"].iter().find_map(|tool| guest.root.program(tool));
    let tool = tool
        .ok_or("there is neither `lsinitramfs` nor `lsinitrd` with which the initramfs can be looked into")?;
    guest.commands.run(&["/bin/sh", "-c", LIST, "sh", &tool, image, version], LIST_MAX)
}

/// Looks at each kernel that may boot.
pub(super) fn check(guest: &Guest) -> ReadinessCheck {
    let kernels = kernels(guest);
    if kernels.is_empty() {
        let facts = "there is no kernel in /boot with its modules in /lib/modules";
        return ReadinessCheck::raised(
            CheckState::Unknown,
            CHECK,
            facts,
            "it is booted by a kernel that is not on its disks, or one that was not installed as a package",
            "Azure boots what is on the disk: install the distribution's kernel",
        );
    }
    let (mut facts, mut state) = (Vec::new(), CheckState::Passed);
    for kernel in &kernels {
        let place = kernel.image.as_deref().unwrap_or("no initramfs");
        let (is, found) = match missing(guest, kernel) {
            Ok(missing) if missing.is_empty() => (CheckState::Passed, format!("{}: all", kernel.version)),
            Ok(missing) => {
                (CheckState::Failed, format!("{}: {} missing ({place})", kernel.version, missing.join(", ")))
            }
            Err(error) => (CheckState::Unknown, format!("{}: {error}", kernel.version)),
        };
        state = state.max(is);
        facts.push(found);
    }
    let facts = facts.join("; ");
    if state == CheckState::Passed {
        return ReadinessCheck::passed(CHECK.0, CHECK.1, facts);
    }
    ReadinessCheck::raised(
        state,
        CHECK,
        facts,
        "initramfs files are made for the hardware that they are made on, or their modules are chosen by hand",
        "add hv_vmbus, hv_storvsc, hv_netvsc and hv_utils: with initramfs-tools to /etc/initramfs-tools/modules, then `update-initramfs -u -k all`; with dracut as \
         `add_drivers` in /etc/dracut.conf.d, then `dracut -f --regenerate-all`",
    )
}

/// Adds the drivers to the initramfs of each kernel that lacks some.
pub(super) fn prepare(guest: &Guest) -> Result<(), String> {
    let mut lacking = Vec::new();
    for kernel in kernels(guest) {
        let missing = missing(guest, &kernel)?;
        let modules = guest.root.read(&format!("/lib/modules/{}/modules.dep", kernel.version))?;
        if let Some(none) = missing.iter().find(|driver| !names(&modules, driver)) {
            return Err(format!(
                "the kernel {} has no {none} at all: install one that has, the distribution's generic or cloud kernel",
                kernel.version
            ));
        }
        if !missing.is_empty() {
            lacking.push(kernel);
        }
    }
    // With dracut there may be an `update-initramfs`, too, which calls it.
    let tool = guest.root.program("mkinitramfs").and_then(|_| guest.root.program("update-initramfs"));
    if let Some(tool) = tool {
        guest.root.replace(MODULES, &with_drivers(&guest.root.read(MODULES)?))?;
        // It makes a new file, and puts that in the old one's place only when it is complete.
        return lacking.iter().try_for_each(|kernel| {
            guest.commands.run(&[&tool, "-u", "-k", &kernel.version], MAKE_MAX).map(drop)
        });
    }
    let Some(tool) = guest.root.program("dracut") else {
        return Err("there is neither `update-initramfs` nor `dracut`: this distribution is not known".into());
    };
    let line =
        format!("# By the Switchback agent: Hyper-V's drivers.\nadd_drivers+=\" {} \"\n", DRIVERS.join(" "));
    guest.root.replace(DRACUT, &line)?;
    lacking.iter().try_for_each(|kernel| {
        let image = kernel.image.as_deref();
        let image = image.ok_or_else(|| format!("the kernel {} has no initramfs", kernel.version))?;
        // It writes into its target: so that is not the one that is booted from, until it is complete.
        let make = |new: &str| {
            let words = [tool.as_str(), "-f", "--kver", &kernel.version, new];
            guest.commands.run(&words, MAKE_MAX).map(drop)
        };
        let is_good = |new: &str| {
            let made = Kernel { version: kernel.version.clone(), image: Some(new.into()) };
            match missing(guest, &made)? {
                missing if missing.is_empty() => Ok(()),
                missing => Err(format!(
                    "dracut made an initramfs without {}; is there an `omit_drivers` in its configuration?",
                    missing.join(", ")
                )),
            }
        };
        guest.root.make_anew(image, make, is_good)
    })
}

/// The list of modules with ours between their marks; the rest as it is.
fn with_drivers(before: &str) -> String {
    let ours = format!("{BEGIN}\n{}\n{END}\n", DRIVERS.join("\n"));
    if let Some((ahead, rest)) = before.split_once(BEGIN)
        && let Some((_, behind)) = rest.split_once(END)
    {
        return format!("{ahead}{ours}{}", behind.strip_prefix('\n').unwrap_or(behind));
    }
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    format!("{before}{gap}{ours}")
}

/// What an outcome depends on, besides the kernel that runs.
pub(super) const FILES: [&str; 5] =
    ["/boot", MODULES, "/etc/dracut.conf.d", "/etc/initramfs-tools/conf.d", "/lib/modules"];

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::{BEGIN, by_version, names, with_drivers};

    #[test]
    fn kernels_are_counted_as_people_count() {
        assert_eq!(by_version("6.1.0-9-amd64", "6.1.0-10-amd64"), Ordering::Less);
        assert_eq!(by_version("6.10.1", "6.9.12"), Ordering::Greater);
        assert_eq!(by_version("5.14.0-427.el9", "5.14.0-427.13.1.el9"), Ordering::Less);
    }

    #[test]
    fn our_lines_are_added_once_and_the_rest_stays() {
        let once = with_drivers("# mine\nraid1");
        assert!(once.starts_with("# mine\nraid1\n# switchback-azure: begin"), "{once}");
        assert_eq!(with_drivers(&once), once);
        let edited = once.replace("hv_utils\n", "") + "dm_mod\n";
        let again = with_drivers(&edited);
        assert_eq!(again.matches(BEGIN).count(), 1);
        assert!(again.contains("hv_utils\n") && again.ends_with("dm_mod\n"), "{again}");
    }

    #[test]
    fn a_driver_is_found_whatever_it_is_compressed_with() {
        let dep = "kernel/drivers/hv/hv_vmbus.ko.xz:\nkernel/drivers/scsi/hv_storvsc.ko.zst: kernel/drivers/hv/hv_netvsc.ko\n";
        assert!(names(dep, "hv_vmbus") && names(dep, "hv_storvsc"));
        assert!(!names(dep, "hv_netvsc"), "what another one needs is no entry of its own");
        assert!(!names("kernel/drivers/hv/hv_vmbus_x.ko\n", "hv_vmbus"));
    }
}
