//! Machines that UEFI starts, with Debian's firmware: it finds what is where firmware looks that has never started the machine, and nothing else.
//!
//! The loader is a kernel with its initramfs and arguments in one program: systemd's stub with sections, as systemd-stub(7) has them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "whatever fails, fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use switchback_lab::GuestImage;
use switchback_sites::{Boot, DiskOrigin, NewDisk, NewMachine, Site};

use crate::bench::Bench;

const LIMIT: Duration = Duration::from_secs(120);
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// Of the disk; its one partition begins at 1 MiB.
const DISK_KIB: u64 = 96 << 10;
const PARTITION: &str = "@@1M";
const SCRIPT: &str = "echo STARTED-BY-UEFI >/dev/console; ls /sys/firmware/efi >/dev/console; sleep 1000";

fn run(program: &str, arguments: &[&str]) {
    let done =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A disk with an EFI system partition on which the loader has this path.
fn disk(bench: &Bench, loader: &str) -> PathBuf {
    let image = GuestImage::builder(SCRIPT).build(&bench.foundation).unwrap();
    let at = |name: &str| bench.directory().join(name);
    let (arguments, program, disk) = (at("arguments"), at("loader.efi"), at("disk.img"));
    fs::write(&arguments, "console=tty0 console=ttyS0 quiet panic=-1").unwrap();
    let mut words = Vec::new();
    for (name, file, address) in [
        (".cmdline", arguments.as_path(), "0x30000"),
        (".linux", &bench.foundation.kernel(), "0x2000000"),
        (".initrd", image.path(), "0x4000000"),
    ] {
        words.push(format!("--add-section={name}={}", text(file)));
        words.push(format!("--change-section-vma={name}={address}"));
    }
    let words: Vec<_> = words.iter().map(String::as_str).chain([STUB, text(&program)]).collect();
    run("objcopy", &words);
    fs::File::create(&disk).unwrap().set_len(DISK_KIB << 10).unwrap();
    run("sh", &["-c", "echo 'label: gpt\nstart=2048, type=uefi' | sfdisk --quiet \"$0\"", text(&disk)]);
    let blocks = (DISK_KIB - 2048).to_string();
    run("mkfs.vfat", &["-F", "32", "--offset", "2048", text(&disk), &blocks]);
    let partition = format!("{}{PARTITION}", text(&disk));
    let directory = loader.rsplit_once('/').unwrap().0;
    run("mmd", &["-i", &partition, "::/EFI", &format!("::/{directory}")]);
    run("mcopy", &["-i", &partition, text(&program), &format!("::/{loader}")]);
    disk
}

/// Starts a machine with such a disk; what its console says until that has come.
fn start(bench: &Bench, loader: &str, awaited: &str) -> String {
    let site = bench.open();
    let origin = DiskOrigin::Over { image: disk(bench, loader), datastore: "main".to_owned() };
    let machine = NewMachine {
        id: "uefi".to_owned(),
        name: "uefi".to_owned(),
        system_uuid: None,
        cpus: 1,
        memory_mib: 256,
        boot: Boot::Uefi,
        disks: vec![NewDisk { size: DISK_KIB << 10, serial: "boot".to_owned(), origin }],
        nics: Vec::new(),
        beside: None,
        mark: None,
    };
    site.create_machine(&machine).unwrap();
    site.power_on("uefi").unwrap();
    let started = Instant::now();
    loop {
        let console = site.console("uefi", 256 << 10).unwrap();
        if console.contains(awaited) {
            return console;
        }
        assert!(started.elapsed() < LIMIT, "this is all that comes: {console:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn guest_is_started_by_uefi_without_a_boot_entry_and_its_screen_is_seen() {
    let bench = Bench::new();
    let console = start(&bench, "EFI/BOOT/BOOTX64.EFI", "systab");
    assert!(console.contains("STARTED-BY-UEFI"), "{console}");
    let sight = bench.open().look("uefi").unwrap();
    assert!(sight.picture.starts_with(b"\x89PNG"), "a picture");
    assert_eq!((sight.text.as_str(), sight.failed_requests), ("", 0), "its screen is no text");
}

#[test]
fn guest_whose_loader_needs_a_boot_entry_is_not_started_by_new_firmware() {
    let bench = Bench::new();
    let console = start(&bench, "EFI/debian/shimx64.efi", "UEFI Interactive Shell");
    assert!(!console.contains("STARTED-BY-UEFI"), "{console}");
}
