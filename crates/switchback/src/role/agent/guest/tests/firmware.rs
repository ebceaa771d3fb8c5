//! What new firmware starts: guests' EFI system partitions, made for the test.

use switchback_model::CheckState;

use super::super::firmware::CODE;
use super::super::root::Root;
use super::{Tree, known};
use crate::role::agent::guest::Wanted;

const NEW_FIRMWARE: Wanted = Wanted { platform: None, new_firmware: true };
const ESP: &str = "/boot/efi/EFI";
/// As Debian has it with `shim-signed`; each loader is another program.
const DEBIAN_LOADERS: [(&str, &str); 4] = [
    ("/boot/efi/EFI/debian/shimx64.efi", "MZ shim"),
    ("/boot/efi/EFI/debian/fbx64.efi", "MZ fallback"),
    ("/boot/efi/EFI/debian/grubx64.efi", "MZ grub"),
    ("/boot/efi/EFI/debian/BOOTX64.CSV", "list"),
];

/// A guest that UEFI has started, which may go to firmware that has never done so.
fn by_uefi(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::of(&[], &[files, &[("/sys/firmware/efi/fw_platform_size", "64\n")]].concat(), None);
    tree.known = known(NEW_FIRMWARE);
    tree
}

#[test]
fn a_loader_is_put_where_new_firmware_looks_for_one() {
    let tree = by_uefi(&DEBIAN_LOADERS);
    let before = tree.all();
    tree.tend("boot-1", true);
    let check = tree.check(CODE);
    assert_eq!(check.state, CheckState::Failed);
    assert!(check.facts.contains("EFI/BOOT/BOOTX64.EFI is not there"), "{check:?}");
    assert_eq!(tree.states().len(), 1, "nothing of Azure is asked");
    assert_eq!(tree.all(), before, "whoever forbids it is only told");

    let tree = by_uefi(&DEBIAN_LOADERS);
    tree.tend("boot-1", false);
    assert_eq!(tree.check(CODE).state, CheckState::Passed, "{:?}", tree.known);
    assert_eq!(tree.text(&format!("{ESP}/BOOT/BOOTX64.EFI")), "MZ shim");
    assert_eq!(tree.text(&format!("{ESP}/BOOT/fbx64.efi")), "MZ fallback");
    assert_eq!(Root::new(&tree.played.root).names(&format!("{ESP}/BOOT")).len(), 2, "nothing else");
    for (path, text) in DEBIAN_LOADERS {
        assert_eq!(tree.text(path), text, "what it starts with today is as it was");
    }
}

#[test]
fn a_shim_alone_starts_nothing_and_gets_what_it_lacks() {
    let alone = ("/boot/efi/EFI/Boot/bootx64.efi", "MZ shim");
    let tree = by_uefi(&[&DEBIAN_LOADERS[..], &[alone]].concat());
    tree.tend("boot-1", true);
    assert!(tree.check(CODE).facts.contains("is a shim, and neither"), "{:?}", tree.known);
    let tree = by_uefi(&[&DEBIAN_LOADERS[..], &[alone]].concat());
    tree.tend("boot-1", false);
    assert_eq!(tree.check(CODE).state, CheckState::Passed, "{:?}", tree.known);
    let names = Root::new(&tree.played.root).names(&format!("{ESP}/Boot"));
    assert_eq!(names, ["bootx64.efi", "fbx64.efi"], "FAT knows no case: not a second one");
    let with_grub = [&DEBIAN_LOADERS[..], &[alone, ("/boot/efi/EFI/Boot/grubx64.efi", "MZ grub")]].concat();
    let tree = by_uefi(&with_grub);
    let before = tree.all();
    tree.tend("boot-1", false);
    assert_eq!(tree.check(CODE).state, CheckState::Passed);
    assert_eq!(tree.all(), before);
}

#[test]
fn a_loader_that_is_not_known_is_left_and_what_cannot_be_made_is_told() {
    let path = "/boot/efi/EFI/BOOT/BOOTX64.EFI";
    for (there, after) in [
        ("MZ of the user", "MZ of the user"),
        // What is no program starts nothing.
        ("", "MZ shim"),
    ] {
        let tree = by_uefi(&[&DEBIAN_LOADERS[..], &[(path, there)]].concat());
        tree.tend("boot-1", false);
        assert_eq!(tree.check(CODE).state, CheckState::Passed, "{:?}", tree.known);
        assert_eq!(tree.text(path), after);
    }
    let second = DEBIAN_LOADERS.map(|(path, text)| (path.replace("debian", "fedora"), text));
    let second: Vec<_> = second.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    for (files, why) in [
        ([&DEBIAN_LOADERS[..], &second].concat(), "2 systems have a boot loader"),
        (vec![DEBIAN_LOADERS[2]], "nothing below /boot/efi/EFI has shimx64.efi"),
    ] {
        let tree = by_uefi(&files);
        let before = tree.all();
        tree.tend("boot-1", false);
        let check = tree.check(CODE);
        assert!(check.state == CheckState::Failed && check.facts.contains(why), "{check:?}");
        assert_eq!(tree.all(), before);
    }
    let tree = by_uefi(&[]);
    tree.tend("boot-1", false);
    assert_eq!(tree.check(CODE).state, CheckState::Unknown);
}

#[test]
fn a_guest_that_a_bios_starts_is_not_asked_for_it() {
    let mut tree = Tree::of(&[], &DEBIAN_LOADERS, None);
    tree.known = known(NEW_FIRMWARE);
    let before = tree.all();
    tree.tend("boot-1", false);
    assert_eq!((tree.states(), tree.all()), (Vec::new(), before));
}
