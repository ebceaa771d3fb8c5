//! Network cards: at Azure they have other MAC addresses, and other names. Only looked at, and only a warning: the agent sets each place's addresses when the machine wakes
//! up there (see `network`), but what is bound to a card that is gone does not come up by itself.

use switchback_model::{CheckState, ReadinessCheck};

use super::Guest;

const CHECK: (&str, &str) = ("guest.network", "No network settings are bound to a card of this place");
/// Where settings are that may name a card, and how they do.
const PLACES: [(&str, &[&str]); 6] = [
    ("/etc/udev/rules.d", &["ATTR{address}=="]),
    ("/etc/systemd/network", &["MACAddress=", "PermanentMACAddress="]),
    ("/etc/netplan", &["macaddress:"]),
    ("/etc/sysconfig/network-scripts", &["HWADDR="]),
    ("/etc/NetworkManager/system-connections", &["mac-address="]),
    ("/etc/network/interfaces.d", &[]),
];
/// Named by its slot or place (systemd's predictable names), which the other machine does not have.
const BY_PLACE: [&str; 4] = ["iface ens", "iface enp", "iface eno", "iface enx"];

/// Looks for what names a card.
pub(super) fn check(guest: &Guest) -> ReadinessCheck {
    let mut found = Vec::new();
    for (directory, marks) in PLACES {
        for name in guest.root.names(directory) {
            look(guest, &format!("{directory}/{name}"), marks, &mut found);
        }
    }
    look(guest, "/etc/network/interfaces", &[], &mut found);
    if found.is_empty() {
        return ReadinessCheck::passed(CHECK.0, CHECK.1, "");
    }
    ReadinessCheck::raised(
        CheckState::Warning,
        CHECK,
        found.join(", "),
        "at Azure the machine has other network cards",
        "the agent sets the addresses there; for services that wait for the network, match any card (`eth0`, or `en* eth*`), with DHCP",
    )
}

/// Settings that cannot be read are not this check's matter.
fn look(guest: &Guest, path: &str, marks: &[&str], found: &mut Vec<String>) {
    let text =
        if guest.root.at(path).is_file() { guest.root.read(path).unwrap_or_default() } else { String::new() };
    let binds = |line: &str| {
        let line = line.trim();
        !line.starts_with('#')
            && (marks.iter().any(|mark| line.contains(mark))
                || BY_PLACE.iter().any(|name| line.starts_with(name)))
    };
    if text.lines().any(binds) {
        found.push(path.to_owned());
    }
}
