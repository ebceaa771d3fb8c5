//! What the boot loader gives the kernel: a console on the serial port, the only one that Azure shows; and a root that is not named by where its disk is.
//!
//! Read are GRUB's configuration as it was made (`grub.cfg`) and the entries of the Boot Loader Specification, with what Red Hat's `grubenv` adds to them; entries
//! for rescue are not. It is changed by the distribution's own ways: a file in `/etc/default/grub.d` (Debian and what comes from it), or `grubby` (Red Hat's).
//!
//! Arguments: Microsoft's "Prepare a Linux VHD for Azure" (`articles/virtual-machines/linux/create-upload-generic.md`): the last console named is `/dev/console`.

use std::time::Duration;

use switchback_model::{CheckState, ReadinessCheck};

use super::Guest;
use super::fstab::names_a_place;

pub(super) const CONSOLE: &str = "guest.serial-console";
const CONSOLE_CHECK: (&str, &str) = (CONSOLE, "Its console is on the serial port");
pub(super) const ROOT_DEVICE: &str = "guest.root-device";
const ROOT_CHECK: (&str, &str) = (ROOT_DEVICE, "The boot loader names the root by what is on the disk");

const ARGUMENTS: &str = "console=tty0 console=ttyS0,115200n8";
const WANTED: &str = "console=ttyS0";
/// Where GRUB's configuration is.
const GRUB: [&str; 2] = ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"];
const ENTRIES: &str = "/boot/loader/entries";
const GRUB_ENV: &str = "/boot/grub2/grubenv";
/// Read by Debian's `grub-mkconfig`, in the order of names; a file of our own.
const DROP_IN: &str = "/etc/default/grub.d/90-switchback-azure.cfg";
const MAKE_MAX: Duration = Duration::from_mins(5);

/// The command lines of the kernels that may boot.
fn command_lines(guest: &Guest) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for file in GRUB {
        lines.extend(guest.root.read(file)?.lines().filter_map(of_grub).map(str::to_owned));
    }
    let environment = guest.root.read(GRUB_ENV)?;
    let options = environment.lines().find_map(|line| line.strip_prefix("kernelopts=")).unwrap_or_default();
    for name in guest.root.names(ENTRIES) {
        if !name.ends_with(".conf") || name.contains("rescue") {
            continue;
        }
        let entry = guest.root.read(&format!("{ENTRIES}/{name}"))?;
        let arguments = entry.lines().filter_map(|line| line.trim().strip_prefix("options"));
        let arguments: Vec<_> = arguments.map(|line| line.replace("$kernelopts", options)).collect();
        lines.push(arguments.join(" "));
    }
    Ok(lines)
}

/// The arguments in a line of `grub.cfg` that loads a kernel, unless it is one for rescue.
fn of_grub(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let (command, arguments) = line.split_once(char::is_whitespace)?;
    let loads = matches!(command, "linux" | "linuxefi" | "linux16");
    let rescue = |word: &str| word == "single" || word == "recovery" || word.contains("rescue");
    (loads && !arguments.split_whitespace().any(rescue)).then_some(arguments)
}

/// Looks at the serial console, and at how the root is named.
pub(super) fn check(guest: &Guest) -> Vec<ReadinessCheck> {
    match command_lines(guest) {
        Ok(lines) if !lines.is_empty() => vec![console(&lines), root(&lines)],
        found => {
            let facts = match found {
                Err(error) => error,
                Ok(_) => "GRUB's configuration is not where it is looked for".into(),
            };
            let cause = "another boot loader, or a kernel that is not booted from the disk";
            let remedy = "see that the kernel is started with `console=ttyS0,115200n8`, and that its root is named by UUID";
            let unknown =
                |check| ReadinessCheck::raised(CheckState::Unknown, check, facts.clone(), cause, remedy);
            vec![unknown(CONSOLE_CHECK), unknown(ROOT_CHECK)]
        }
    }
}

fn console(lines: &[String]) -> ReadinessCheck {
    let is_wanted = |word: &str| word == WANTED || word.starts_with(&format!("{WANTED},"));
    let without = lines.iter().filter(|line| !line.split_whitespace().any(is_wanted)).count();
    let facts = format!("{} of {} boot entries have {WANTED}", lines.len() - without, lines.len());
    if without == 0 {
        return ReadinessCheck::passed(CONSOLE_CHECK.0, CONSOLE_CHECK.1, facts);
    }
    ReadinessCheck::raised(
        CheckState::Warning,
        CONSOLE_CHECK,
        facts,
        "at home it has a screen; at Azure there is none, and what it says when it does not come up is lost",
        "add `console=tty0 console=ttyS0,115200n8` to GRUB_CMDLINE_LINUX in /etc/default/grub, and have the configuration made anew (`update-grub`, `grub2-mkconfig`); \
         or `grubby --update-kernel=ALL --args=…`",
    )
}

fn root(lines: &[String]) -> ReadinessCheck {
    let mut places: Vec<_> = lines
        .iter()
        .flat_map(|line| line.split_whitespace())
        .filter_map(|word| word.strip_prefix("root="))
        .filter(|device| names_a_place(device))
        .collect();
    places.dedup();
    if places.is_empty() {
        return ReadinessCheck::passed(ROOT_CHECK.0, ROOT_CHECK.1, "");
    }
    ReadinessCheck::raised(
        CheckState::Failed,
        ROOT_CHECK,
        format!("root={}", places.join(", root=")),
        "disks have other names at Azure, and another order at each start",
        "remove GRUB_DISABLE_LINUX_UUID (or the `root=` of your own) from /etc/default/grub, and have the configuration made anew",
    )
}

/// Puts the kernel's console on the serial port, too.
pub(super) fn prepare_console(guest: &Guest) -> Result<(), String> {
    // Debian's, and its derivatives': only their `grub-mkconfig` reads the directory.
    if guest.root.program("update-grub").is_some() {
        let maker = guest.root.program("grub-mkconfig").ok_or("there is no `grub-mkconfig`")?;
        let path = GRUB.into_iter().find(|path| guest.root.has(path)).ok_or("there is no grub.cfg")?;
        let text = format!(
            "# By the Switchback agent: the console that Azure shows.\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {ARGUMENTS}\"\n"
        );
        guest.root.replace(DROP_IN, &text)?;
        // Not by `update-grub`: it writes into the file that is booted from.
        let make = |new: &str| guest.commands.run(&[&maker, "-o", new], MAKE_MAX).map(drop);
        let is_good = |new: &str| {
            let made = guest.root.read(new)?;
            let lines: Vec<_> = made.lines().filter_map(of_grub).map(str::to_owned).collect();
            if !lines.is_empty() && console(&lines).state == CheckState::Passed {
                return Ok(());
            }
            Err(format!(
                "the configuration made anew has entries without {WANTED}, or none; the old one stays"
            ))
        };
        return guest.root.make_anew(path, make, is_good);
    }
    let Some(grubby) = guest.root.program("grubby") else {
        return Err("there is neither `update-grub` nor `grubby`: this distribution is not known".into());
    };
    let arguments = format!("--args={ARGUMENTS}");
    guest.commands.run(&[&grubby, "--update-kernel=ALL", &arguments], MAKE_MAX).map(drop)
}

/// What an outcome depends on.
pub(super) const FILES: [&str; 6] =
    ["/boot/grub", "/boot/grub2", ENTRIES, "/etc/default/grub", "/etc/default/grub.d", "/etc/kernel/cmdline"];

#[cfg(test)]
mod tests {
    use switchback_model::CheckState;

    use super::{console, of_grub, root};

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn a_kernels_line_is_read_and_one_for_rescue_is_not() {
        assert_eq!(
            of_grub("\tlinux\t/vmlinuz-6.1 root=UUID=1 ro  quiet"),
            Some("/vmlinuz-6.1 root=UUID=1 ro  quiet")
        );
        assert_eq!(of_grub("\tlinux /vmlinuz-6.1 root=UUID=1 ro single"), None);
        assert_eq!(of_grub("linux16 /vmlinuz-0-rescue-77 ro"), None);
        assert_eq!(of_grub("\tinitrd /initrd.img"), None);
        assert_eq!(of_grub("# linux is here"), None);
    }

    #[test]
    fn each_entry_must_have_the_serial_console_and_another_port_is_not_it() {
        let is = |text: &[&str]| console(&lines(text)).state;
        assert_eq!(is(&["a console=tty0 console=ttyS0,115200n8", "b console=ttyS0"]), CheckState::Passed);
        assert_eq!(is(&["a console=ttyS0", "b quiet"]), CheckState::Warning);
        assert_eq!(is(&["a console=ttyS01"]), CheckState::Warning);
    }

    #[test]
    fn a_root_named_by_its_disks_place_is_told_of() {
        let found = root(&lines(&["v root=/dev/sda2 ro", "v root=UUID=1 ro"]));
        assert_eq!((found.state, found.facts.as_str()), (CheckState::Failed, "root=/dev/sda2"));
        assert_eq!(root(&lines(&["v root=/dev/mapper/vg-root ro"])).state, CheckState::Passed);
    }
}
