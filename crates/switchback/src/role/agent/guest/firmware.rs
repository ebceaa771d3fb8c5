//! What UEFI starts on a machine that it has never started: `EFI/BOOT/BOOTX64.EFI` on the EFI system partition.
//!
//! A UEFI machine remembers in its own non-volatile memory what to start, not on its disks. That memory does not come along: a machine that is made anew at a recovery site, or in a
//! sandbox, knows nothing but the path for removable media (UEFI 2.10, 3.5.1.1). Some distributions have something there, and some (Debian) only when they are asked to.
//!
//! What it never does: change what the machine starts with today. A loader is put there only when its distribution's own `fallback` comes along, which starts what is current at that
//! time, by the list (`BOOTX64.CSV`) that is kept beside it: `shim`'s README.fallback.

use std::fs;
use std::io::{self, Read as _};

use switchback_disk::{DirVolume, Volume};
use switchback_model::{CheckState, ReadinessCheck};

use super::Guest;

pub(super) const CODE: &str = "guest.uefi-fallback";
const CHECK: (&str, &str) = (CODE, "UEFI finds its boot loader without a boot entry");
/// Where the kernel shows that UEFI started it.
const STARTED_BY_UEFI: &str = "/sys/firmware/efi";
/// Where distributions mount the EFI system partition, and what they have there.
const PLACES: [&str; 3] = ["/boot/efi/EFI", "/efi/EFI", "/boot/EFI"];
const FALLBACK_DIRECTORY: &str = "BOOT";
/// Bytes of shim or its fallback: each has about 1 MB.
const SHIM_LEN_MAX: usize = 16 << 20;

/// This processor's part of the files' names (UEFI 2.10, 3.5.1.1, table 3.3).
const PROCESSOR: &str = if cfg!(target_arch = "aarch64") { "aa64" } else { "x64" };

fn fallback_path() -> String {
    format!("BOOT{PROCESSOR}.EFI").to_ascii_uppercase()
}

fn shim() -> String {
    format!("shim{PROCESSOR}.efi")
}

/// What starts the system that the list names.
fn fallback() -> String {
    format!("fb{PROCESSOR}.efi")
}

fn list() -> String {
    format!("BOOT{PROCESSOR}.CSV").to_ascii_uppercase()
}

/// What a shim starts.
fn loader() -> String {
    format!("grub{PROCESSOR}.efi")
}

/// Whether the guest was started by UEFI.
pub(super) fn is_started_by_uefi(guest: &Guest) -> bool {
    guest.root.has(STARTED_BY_UEFI)
}

/// What a directory of the EFI system partition has by a name. FAT knows no case, a guest's file system may.
fn entry(guest: &Guest, directory: &str, name: &str) -> Option<String> {
    let found = guest.root.names(directory).into_iter().find(|found| found.eq_ignore_ascii_case(name))?;
    Some(format!("{directory}/{found}"))
}

fn is_loader(guest: &Guest, path: &str) -> bool {
    let mut magic = [0; 2];
    let file = fs::File::open(guest.root.at(path));
    file.and_then(|mut file| file.read_exact(&mut magic)).is_ok_and(|()| magic == *b"MZ")
}

/// The EFI system partition's directory `EFI`.
fn partition(guest: &Guest) -> Option<&'static str> {
    PLACES.into_iter().find(|place| !guest.root.names(place).is_empty())
}

/// The directories of distributions that have a shim with all that its fallback needs.
fn with_fallback(guest: &Guest, partition: &str) -> Vec<String> {
    let names = guest.root.names(partition);
    let names = names.into_iter().filter(|name| !name.eq_ignore_ascii_case(FALLBACK_DIRECTORY));
    let directories = names.map(|name| format!("{partition}/{name}"));
    let is_whole = |directory: &String| {
        [shim(), fallback()]
            .iter()
            .all(|name| entry(guest, directory, name).is_some_and(|path| is_loader(guest, &path)))
            && entry(guest, directory, &list()).is_some()
    };
    directories.filter(is_whole).collect()
}

/// Whether two files of the guest hold the same; one that cannot be read, or is larger than any shim, is like no other.
fn are_equal(guest: &Guest, one: &str, other: &str) -> bool {
    read(guest, one).is_ok_and(|contents| read(guest, other).is_ok_and(|others| others == contents))
}

fn read(guest: &Guest, path: &str) -> Result<Vec<u8>, String> {
    let (directory, name) = path.rsplit_once('/').ok_or_else(|| format!("{path} is no file"))?;
    open(guest, directory)?.read_all(name, SHIM_LEN_MAX).map_err(|error| format!("{path}: {error}"))
}

fn open(guest: &Guest, directory: &str) -> Result<DirVolume, String> {
    DirVolume::open(guest.root.at(directory)).map_err(|error| format!("{directory}: {error}"))
}

/// What is wrong with what is at the fallback path; `None`: nothing that is known of.
fn defect(guest: &Guest, partition: &str) -> Option<String> {
    let directory = entry(guest, partition, FALLBACK_DIRECTORY);
    let path = directory.as_ref().and_then(|directory| entry(guest, directory, &fallback_path()));
    let Some((directory, path)) = directory.zip(path).filter(|(_, path)| is_loader(guest, path)) else {
        return Some(format!(
            "{partition}/{FALLBACK_DIRECTORY}/{} is not there, or no program",
            fallback_path()
        ));
    };
    // A shim starts what is beside it, and is of no use alone.
    let is_shim = guest.root.names(partition).iter().any(|name| {
        let shim = entry(guest, &format!("{partition}/{name}"), &shim());
        shim.is_some_and(|shim| are_equal(guest, &shim, &path))
    });
    let has_beside = |name: &str| entry(guest, &directory, name).is_some();
    (is_shim && !has_beside(&fallback()) && !has_beside(&loader()))
        .then(|| format!("{path} is a shim, and neither {} nor {} is beside it", fallback(), loader()))
}

/// Looks at the fallback path.
pub(super) fn check(guest: &Guest) -> ReadinessCheck {
    let Some(partition) = partition(guest) else {
        return ReadinessCheck::raised(
            CheckState::Unknown,
            CHECK,
            "no EFI system partition is mounted at /boot/efi, /efi or /boot",
            "it is mounted elsewhere, or only when it is written to",
            "mount it at /boot/efi; or see that EFI/BOOT on it has a boot loader",
        );
    };
    let Some(defect) = defect(guest, partition) else {
        return ReadinessCheck::passed(CHECK.0, CHECK.1, format!("{partition}/{FALLBACK_DIRECTORY}"));
    };
    ReadinessCheck::raised(
        CheckState::Failed,
        CHECK,
        defect,
        "the machine starts by a boot entry in its own non-volatile memory, which does not come along: made anew, it finds nothing to start",
        "Debian and its kin: `grub-install --force-extra-removable`, and `dpkg-reconfigure grub-efi-amd64` to keep it so; others: copy the boot loader to EFI/BOOT on the EFI system partition",
    )
}

/// Puts a distribution's shim and its fallback there.
pub(super) fn prepare(guest: &Guest) -> Result<(), String> {
    let partition = partition(guest).ok_or("there is no EFI system partition")?;
    let sources = with_fallback(guest, partition);
    let [source] = sources.as_slice() else {
        return Err(match sources.len() {
            0 => {
                format!("nothing below {partition} has {}, {} and {}", shim(), fallback(), list())
            }
            count => format!(
                "{count} systems have a boot loader below {partition}: which one is to start is not known"
            ),
        });
    };
    let directory = entry(guest, partition, FALLBACK_DIRECTORY)
        .unwrap_or_else(|| format!("{partition}/{FALLBACK_DIRECTORY}"));
    put(guest, partition, &directory, source)
}

/// The fallback first: a shim without it would be of no use.
fn put(guest: &Guest, partition: &str, directory: &str, source: &str) -> Result<(), String> {
    let failed = |error: io::Error| format!("{directory} cannot be written: {error}");
    if !guest.root.has(directory) {
        fs::create_dir(guest.root.at(directory)).map_err(failed)?;
        open(guest, partition)?.sync().map_err(failed)?;
    }
    let volume = open(guest, directory)?;
    for (from, to) in [(fallback(), fallback()), (shim(), fallback_path())] {
        let path = entry(guest, source, &from).ok_or_else(|| format!("{source}/{from} is gone"))?;
        let contents = read(guest, &path)?;
        // Under the name that it has there, if it has one.
        let there = entry(guest, directory, &to);
        let name = there.as_deref().and_then(|path| path.rsplit('/').next()).unwrap_or(&to);
        volume.write_atomic(name, &contents).map_err(failed)?;
    }
    Ok(())
}

/// What an outcome depends on.
pub(super) fn files(guest: &Guest) -> Vec<String> {
    let Some(partition) = partition(guest) else { return PLACES.map(str::to_owned).to_vec() };
    let names = guest.root.names(partition);
    let below = names.iter().map(|name| format!("{partition}/{name}"));
    below.chain([partition.to_owned()]).collect()
}
