//! What is around a master target: the hypervisor, the clock, the service manager, the network's way in.

use std::collections::BTreeSet;

use super::Host;
use crate::role::smbios;

/// The unit that starts a master target with its host.
pub(super) const UNIT: &str = "switchback-master-target.service";
const UNIT_FOLDERS: &[&str] = &["etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];

/// Whether the clock is kept right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ClockSync {
    /// By whom.
    Kept(&'static str),
    Astray,
    Unknown,
}

impl Host {
    pub(super) fn hypervisor(&self) -> String {
        let told = |name| self.text(format!("sys/class/dmi/id/{name}"));
        format!("{} {}", told("sys_vendor"), told("product_name")).trim().to_owned()
    }

    pub(super) fn is_on_vmware(&self) -> bool {
        self.hypervisor().starts_with("VMware")
    }

    pub(super) fn system_uuid(&self) -> String {
        smbios::system_uuid_in(&self.path("sys/class/dmi/id"))
    }

    pub(super) fn has_systemd(&self) -> bool {
        self.has("run/systemd/system")
    }

    pub(super) fn clock(&self) -> ClockSync {
        if self.has("run/systemd/timesync/synchronized") {
            return ClockSync::Kept("systemd-timesyncd");
        }
        // The kernel's word, whoever keeps it right: STA_UNSYNC of adjtimex(2).
        match self.ask("timedatectl", &["show", "--property", "NTPSynchronized", "--value"]).as_deref() {
            Some("yes") => return ClockSync::Kept("the kernel says so"),
            Some("no") => return ClockSync::Astray,
            _ => {}
        }
        match self.ask("chronyc", &["-n", "tracking"]) {
            Some(said) if leap_is_normal(&said) => ClockSync::Kept("chrony"),
            Some(_) => ClockSync::Astray,
            None => ClockSync::Unknown,
        }
    }

    /// Whether the unit is there, and whether it starts with the host.
    pub(super) fn service(&self) -> (bool, bool) {
        let installed = UNIT_FOLDERS.iter().any(|folder| self.has(format!("{folder}/{UNIT}")));
        let wants = self.names("etc/systemd/system").into_iter().filter(|name| name.ends_with(".wants"));
        // The link may lead nowhere in a tree that is looked at from outside.
        let mut links = wants.map(|folder| self.path("etc/systemd/system").join(folder).join(UNIT));
        (installed, links.any(|link| link.symlink_metadata().is_ok()))
    }

    /// Whether somebody listens on a TCP port.
    pub(super) fn is_listening(&self, port: u16) -> bool {
        ["proc/net/tcp", "proc/net/tcp6"].iter().any(|path| listening(&self.text(path)).contains(&port))
    }

    /// Firewalls that are on, each with what opens a port.
    pub(super) fn firewalls(&self, port: u16) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.ask("firewall-cmd", &["--state"]).as_deref() == Some("running") {
            let open = format!("firewall-cmd --permanent --add-port={port}/tcp && firewall-cmd --reload");
            found.push(("firewalld", open));
        }
        if super::facts::value(&self.text("etc/ufw/ufw.conf"), "ENABLED").eq_ignore_ascii_case("yes") {
            found.push(("ufw", format!("ufw allow {port}/tcp")));
        }
        let rules = self.ask("nft", &["list", "ruleset"]).unwrap_or_default();
        if found.is_empty() && rules.contains("hook input") {
            let rule = format!(
                "nft add rule inet filter input tcp dport {port} accept, and the same in /etc/nftables.conf"
            );
            found.push(("nftables", rule));
        }
        found
    }
}

/// What `chronyc tracking` says of a clock that is right.
fn leap_is_normal(said: &str) -> bool {
    said.lines().any(|line| {
        let (name, state) = line.split_once(':').unwrap_or_default();
        name.trim() == "Leap status" && state.trim() == "Normal"
    })
}

/// Ports of sockets in state LISTEN (0A) of `/proc/net/tcp`, proc_pid_net(5).
fn listening(text: &str) -> BTreeSet<u16> {
    let port = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (_, port) = words.get(1)?.rsplit_once(':')?;
        (words.get(3) == Some(&"0A")).then(|| u16::from_str_radix(port, 16).ok())?
    };
    text.lines().filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::{ClockSync, Host, UNIT, leap_is_normal, listening};

    #[test]
    fn only_sockets_that_listen_count() {
        let text = "  sl  local_address rem_address   st\n   0: 0100007F:24E3 00000000:0000 0A 0\n   1: 0100007F:0050 0100007F:1111 01 0\n";
        assert_eq!(listening(text).into_iter().collect::<Vec<_>>(), [9443]);
    }

    #[test]
    fn chrony_says_whether_the_clock_is_right() {
        assert!(leap_is_normal("Stratum         : 3\nLeap status     : Normal\n"));
        assert!(!leap_is_normal("Leap status     : Not synchronised\n"));
    }

    #[test]
    fn a_service_is_there_before_it_is_enabled() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::at(root.path());
        assert_eq!((host.service(), host.clock()), ((false, false), ClockSync::Unknown));
        let units = root.path().join("etc/systemd/system");
        fs::create_dir_all(units.join("multi-user.target.wants")).unwrap();
        fs::write(units.join(UNIT), "").unwrap();
        assert_eq!(host.service(), (true, false));
        symlink(format!("/etc/systemd/system/{UNIT}"), units.join("multi-user.target.wants").join(UNIT))
            .unwrap();
        assert_eq!(host.service(), (true, true));
        fs::create_dir_all(root.path().join("run/systemd/timesync")).unwrap();
        fs::write(root.path().join("run/systemd/timesync/synchronized"), "").unwrap();
        assert_eq!(host.clock(), ClockSync::Kept("systemd-timesyncd"));
    }
}
