//! The network settings of the place where the machine wakes up.
//!
//! A machine that is failed over wakes up with the disks of the other site, and with its network settings. So the agent keeps a *profile*
//! for each place on its disk, and applies the one of this place at its start. The place is known by the SMBIOS system UUID: it belongs to
//! the instance, not to the disks.
//!
//! # File
//! `networks` in the agent's directory, JSON: the profiles, and for which boot, instance and profile settings were applied last. Written
//! atomically. Settings are applied once for each boot: what is set with `ip` is gone with the kernel.
//!
//! Nothing is removed from the guest: interfaces that are `Untouched` are left alone, and configuration files too, but for
//! `/etc/resolv.conf`, whose former contents are kept and put back when the machine is somewhere untouched again.

use std::fmt::Debug;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use switchback_disk::Volume;
use switchback_model::component::{InterfaceSettings, NetworkProfile};

const FILE: &str = "networks";
const FILE_LEN_MAX: usize = 1 << 20;
/// The name servers' file as it was before Switchback wrote one.
const RESOLVER_BEFORE: &str = "resolv.conf.before";
/// Longest that one command may take.
const COMMAND_MAX: Duration = Duration::from_secs(30);

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) profiles: Vec<NetworkProfile>,
    /// For what settings were applied last.
    #[serde(default)]
    applied: Option<Applied>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Applied {
    system_uuid: String,
    boot_id: String,
    profile: NetworkProfile,
}

/// Changes a machine's network settings: one implementation for each kind of guest.
pub(super) trait Backend: Debug {
    /// Brings an interface up with these settings.
    fn apply(&self, interface: &str, settings: &InterfaceSettings) -> Result<(), String>;
    /// Makes these the name servers; none: those of before.
    fn name_servers(&self, volume: &dyn Volume, servers: &[String]) -> Result<(), String>;
}

/// What is kept in the agent's directory.
pub(super) fn load(volume: &dyn Volume) -> Kept {
    match volume.read_all(FILE, FILE_LEN_MAX) {
        Ok(data) => serde_json::from_slice(&data).unwrap_or_else(|error| {
            tracing::error!(%error, "the network profiles cannot be read; the network is left as it is");
            Kept::default()
        }),
        Err(_) => Kept::default(),
    }
}

fn save(volume: &dyn Volume, kept: &Kept) -> std::io::Result<()> {
    volume.write_atomic(FILE, &serde_json::to_vec_pretty(kept).expect("plain data becomes JSON"))
}

/// Keeps new profiles for the next start, if they are new. Whether this instance has got its first one: a site that chooses who a machine is when it makes
/// it can tell its profile only then.
pub(super) fn keep(
    volume: &dyn Volume,
    system_uuid: &str,
    profiles: &[NetworkProfile],
) -> std::io::Result<bool> {
    let mut kept = load(volume);
    if kept.profiles == profiles {
        return Ok(false);
    }
    let has_one =
        |profiles: &[NetworkProfile]| profiles.iter().any(|profile| profile.system_uuid == system_uuid);
    let is_first = has_one(profiles) && !has_one(&kept.profiles);
    kept.profiles = profiles.to_vec();
    save(volume, &kept)?;
    Ok(is_first)
}

/// The profile to be applied now, if one has to be.
fn choose<'a>(kept: &'a Kept, system_uuid: &str, boot_id: &str) -> Option<&'a NetworkProfile> {
    let profile = kept.profiles.iter().find(|profile| profile.system_uuid == system_uuid)?;
    let is_applied = kept.applied.as_ref().is_some_and(|applied| {
        applied.system_uuid == system_uuid && applied.boot_id == boot_id && applied.profile == *profile
    });
    (!is_applied).then_some(profile)
}

/// Applies the profile of this place, if there is one and it has not been in this boot. `hardware`: interfaces and their MAC addresses.
pub(super) fn wake_up(
    volume: &dyn Volume,
    (system_uuid, boot_id): (&str, &str),
    hardware: &[(String, String)],
    backend: &dyn Backend,
) {
    let mut kept = load(volume);
    let Some(profile) = choose(&kept, system_uuid, boot_id).cloned() else { return };
    let mut servers = Vec::new();
    for (name, mac) in hardware {
        let Some(settings) = profile.interfaces.get(mac) else { continue };
        if let InterfaceSettings::Static { name_servers, .. } = settings {
            servers.extend(name_servers.iter().cloned());
        }
        match backend.apply(name, settings) {
            Ok(()) => tracing::info!(name, ?settings, "network settings of this place applied"),
            // The rest may still work.
            Err(error) => tracing::error!(name, error, "network settings of this place cannot be applied"),
        }
    }
    if let Err(error) = backend.name_servers(volume, &servers) {
        tracing::error!(error, "the name servers of this place cannot be set");
    }
    kept.applied = Some(Applied { system_uuid: system_uuid.into(), boot_id: boot_id.into(), profile });
    if let Err(error) = save(volume, &kept) {
        tracing::warn!(%error, "that the network settings were applied cannot be noted; they will be again");
    }
}

/// `ip` and `udhcpc`, of busybox or others.
#[derive(Debug)]
pub(super) struct IpCommands;

impl Backend for IpCommands {
    fn apply(&self, interface: &str, settings: &InterfaceSettings) -> Result<(), String> {
        commands(interface, settings).iter().try_for_each(|command| run(command))
    }

    fn name_servers(&self, volume: &dyn Volume, servers: &[String]) -> Result<(), String> {
        set_name_servers(volume, Path::new("/etc/resolv.conf"), servers)
    }
}

/// What brings an interface to its settings.
fn commands(interface: &str, settings: &InterfaceSettings) -> Vec<Vec<String>> {
    let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let up = command(&["ip", "link", "set", "dev", interface, "up"]);
    let flush = command(&["ip", "addr", "flush", "dev", interface]);
    match settings {
        InterfaceSettings::Untouched => Vec::new(),
        InterfaceSettings::Dhcp => {
            vec![flush, up, command(&["udhcpc", "-i", interface, "-n", "-q", "-t", "5", "-T", "3"])]
        }
        InterfaceSettings::Static { address, gateway, .. } => {
            let mut all = vec![flush, up, command(&["ip", "addr", "add", address, "dev", interface])];
            if let Some(gateway) = gateway {
                all.push(command(&["ip", "route", "replace", "default", "via", gateway, "dev", interface]));
            }
            all
        }
    }
}

fn run(command: &[String]) -> Result<(), String> {
    let failed = |detail: String| format!("`{}` {detail}", command.join(" "));
    let mut spawning = Command::new(&command[0]);
    spawning.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = spawning.spawn().map_err(|error| failed(format!("cannot be started: {error}")))?;
    let until = Instant::now() + COMMAND_MAX;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(failed(format!("failed ({status})"))),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            other => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("took more than {} s ({other:?})", COMMAND_MAX.as_secs())));
            }
        }
    }
}

fn set_name_servers(volume: &dyn Volume, file: &Path, servers: &[String]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    let before = volume.read_all(RESOLVER_BEFORE, FILE_LEN_MAX);
    if servers.is_empty() {
        let Ok(before) = before else { return Ok(()) };
        std::fs::write(file, before).map_err(failed)?;
        return volume.remove(RESOLVER_BEFORE).map_err(failed);
    }
    if before.is_err() {
        let present = std::fs::read(file).unwrap_or_default();
        volume.write_atomic(RESOLVER_BEFORE, &present).map_err(failed)?;
    }
    let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    std::fs::write(file, lines).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use switchback_disk::{DirVolume, Volume};
    use switchback_model::component::{InterfaceSettings, NetworkProfile};

    use super::{Backend, choose, commands, keep, load, set_name_servers, wake_up};

    const AWAY: &str = "0b6c2f5e-0000-4000-8000-000000000002";
    const HOME: &str = "0b6c2f5e-0000-4000-8000-000000000001";
    const MAC: &str = "52:54:00:00:00:01";

    fn profile(uuid: &str, settings: InterfaceSettings) -> NetworkProfile {
        NetworkProfile { system_uuid: uuid.into(), interfaces: [(MAC.to_owned(), settings)].into() }
    }

    fn fixed(gateway: Option<&str>) -> InterfaceSettings {
        let gateway = gateway.map(Into::into);
        InterfaceSettings::Static { address: "10.1.0.5/24".into(), gateway, name_servers: Vec::new() }
    }

    #[derive(Debug, Default)]
    struct Noted(Mutex<Vec<String>>);

    impl Backend for Noted {
        fn apply(&self, interface: &str, settings: &InterfaceSettings) -> Result<(), String> {
            self.0.lock().unwrap().push(format!("{interface} {settings:?}"));
            Ok(())
        }

        fn name_servers(&self, _: &dyn Volume, _: &[String]) -> Result<(), String> {
            Ok(())
        }
    }

    #[test]
    fn the_profile_of_this_place_is_applied_once_for_each_boot_and_again_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let volume = DirVolume::open(directory.path()).unwrap();
        let hardware =
            [("eth0".to_owned(), MAC.to_owned()), ("eth1".to_owned(), "52:54:00:00:00:02".to_owned())];
        let noted = Noted::default();
        let wake = |uuid, boot| {
            wake_up(&volume, (uuid, boot), &hardware, &noted);
            std::mem::take(&mut *noted.0.lock().unwrap())
        };
        assert!(wake(HOME, "boot-1").is_empty(), "nothing is known yet");
        let both = [profile(HOME, InterfaceSettings::Untouched), profile(AWAY, InterfaceSettings::Dhcp)];
        assert!(keep(&volume, AWAY, &both).unwrap(), "it is there already, and learns who it is");
        assert!(!keep(&volume, AWAY, &both).unwrap());
        assert_eq!(wake(AWAY, "boot-2"), ["eth0 Dhcp"]);
        assert!(wake(AWAY, "boot-2").is_empty(), "the agent was restarted, not the machine");
        assert_eq!(wake(AWAY, "boot-3"), ["eth0 Dhcp"], "what was set is gone with the kernel");
        assert!(!keep(&volume, AWAY, &[profile(AWAY, fixed(None))]).unwrap(), "for the next start");
        assert_eq!(wake(AWAY, "boot-3").len(), 1, "the profile has changed");
        assert!(wake("some-other-machine", "boot-4").is_empty());
        assert!(choose(&load(&volume), HOME, "boot-5").is_none(), "it is not among the profiles any more");
    }

    #[test]
    fn name_servers_of_before_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let volume = DirVolume::open(directory.path()).unwrap();
        let file = directory.path().join("resolv.conf");
        let text = || std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
        set_name_servers(&volume, &file, &["198.51.100.1".into()]).unwrap();
        set_name_servers(&volume, &file, &["198.51.100.2".into()]).unwrap();
        assert_eq!(text(), "nameserver 198.51.100.2\n");
        set_name_servers(&volume, &file, &[]).unwrap();
        assert_eq!(text(), "nameserver 192.0.2.1\n");
        set_name_servers(&volume, &file, &[]).unwrap();
        assert_eq!(text(), "nameserver 192.0.2.1\n");
    }

    #[test]
    fn untouched_does_nothing_and_a_fixed_address_has_its_gateway() {
        assert!(commands("eth0", &InterfaceSettings::Untouched).is_empty());
        let all = commands("eth0", &fixed(Some("10.1.0.1")));
        let all: Vec<_> = all.iter().map(|command| command.join(" ")).collect();
        assert_eq!(all.last().unwrap(), "ip route replace default via 10.1.0.1 dev eth0");
        assert!(all.contains(&"ip addr add 10.1.0.5/24 dev eth0".to_owned()), "{all:?}");
    }
}
