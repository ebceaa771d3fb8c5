//! `site.toml`: what a local site is made of.
//!
//! Paths of datastores may be relative: to the site's directory. Everything else is as QEMU wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::toml_file::TomlFile;
use crate::SiteError;

/// A local site's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteSettings {
    /// The program that runs machines.
    #[serde(default = "default_qemu")]
    pub qemu: PathBuf,
    /// The program that makes and merges images.
    #[serde(default = "default_qemu_img")]
    pub qemu_img: PathBuf,
    /// What executes guests' instructions.
    #[serde(default)]
    pub accelerator: AcceleratorChoice,
    /// Where machines' disks are: name and directory.
    pub datastores: BTreeMap<String, PathBuf>,
    /// What network cards can be connected to.
    #[serde(default)]
    pub networks: BTreeMap<String, NetworkSettings>,
    /// The firmware of machines that boot by UEFI.
    #[serde(default)]
    pub uefi: UefiSettings,
}

/// What executes guests' instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcceleratorChoice {
    /// KVM if a guest makes progress on it, else emulation.
    #[default]
    Auto,
    /// The host's processor.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

/// UEFI firmware, as Debian's package `ovmf` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UefiSettings {
    /// The program.
    pub code: PathBuf,
    /// What a new machine's variables begin with.
    pub variables: PathBuf,
}

impl Default for UefiSettings {
    fn default() -> Self {
        Self {
            code: PathBuf::from("/usr/share/OVMF/OVMF_CODE_4M.fd"),
            variables: PathBuf::from("/usr/share/OVMF/OVMF_VARS_4M.fd"),
        }
    }
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetworkSettings {
    /// Address translation in the QEMU process: needs no privilege. The gateway, `.2`, is the host; machines do not see each other.
    User {
        /// Its addresses, such as `10.1.0.0/24`.
        cidr: String,
        /// Ports of the host that lead into machines of this network.
        #[serde(default)]
        forward: Vec<Forward>,
        /// Machines reach neither the host nor anything beyond it.
        #[serde(default)]
        isolated: bool,
    },
    /// A switch between all machines of this host whose networks name the same segment, also those of other sites. Leads nowhere else.
    Segment {
        /// Its name on this host.
        segment: String,
    },
    /// A bridge of the host. Needs root.
    Bridge {
        /// Its interface.
        bridge: String,
    },
}

/// A port of the host that leads to a port of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Where the host listens, `127.0.0.1:2222`; with port 0 each machine gets a free one, see `LocalSite::forwarded`.
    pub host: SocketAddrV4,
    /// TCP port of the machine.
    pub guest_port: u16,
}

fn default_qemu() -> PathBuf {
    PathBuf::from("qemu-system-x86_64")
}

fn default_qemu_img() -> PathBuf {
    PathBuf::from("qemu-img")
}

impl SiteSettings {
    /// Settings with these datastores, without networks, QEMU as it is installed.
    #[must_use]
    pub fn new(datastores: impl IntoIterator<Item = (String, PathBuf)>) -> Self {
        Self {
            qemu: default_qemu(),
            qemu_img: default_qemu_img(),
            accelerator: AcceleratorChoice::Auto,
            datastores: datastores.into_iter().collect(),
            networks: BTreeMap::new(),
            uefi: UefiSettings::default(),
        }
    }

    /// Reads and checks them.
    pub(super) fn read(file: &TomlFile) -> Result<Self, SiteError> {
        let settings: Self = file.parse()?;
        settings.check().map_err(|(key, problem)| file.wrong(&key, problem))?;
        Ok(settings)
    }

    /// What is wrong, and at which key.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        if self.datastores.is_empty() {
            let problem = "there must be one at least: [datastores] main = \"disks\"";
            return Err(("datastores".to_owned(), problem.to_owned()));
        }
        let mut directories = BTreeSet::new();
        for (name, directory) in &self.datastores {
            if !directories.insert(directory) {
                return Err((format!("datastores.{name}"), "another one has this directory".to_owned()));
            }
        }
        for (name, network) in &self.networks {
            network.check().map_err(|(key, problem)| (format!("networks.{name}.{key}"), problem))?;
        }
        Ok(())
    }
}

impl NetworkSettings {
    fn check(&self) -> Result<(), (&'static str, String)> {
        match self {
            Self::User { cidr, .. } => check_cidr(cidr).map_err(|problem| ("cidr", problem)),
            Self::Segment { segment } if segment.is_empty() => {
                Err(("segment", "must have a name".to_owned()))
            }
            Self::Segment { .. } => Ok(()),
            Self::Bridge { bridge } => {
                // The kernel's rule for interfaces (dev_valid_name), less what a shell or QEMU would take for something else.
                let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                let is_name =
                    (1..16).contains(&bridge.len()) && bridge.chars().all(fits) && !bridge.starts_with('-');
                let problem = || {
                    (
                        "bridge",
                        format!("{bridge:?} cannot be an interface's name: 1 to 15 letters, digits, - _ ."),
                    )
                };
                if is_name { Ok(()) } else { Err(problem()) }
            }
        }
    }

    /// What it is, for people.
    pub(super) fn description(&self) -> String {
        match self {
            Self::User { cidr, isolated: false, .. } => format!("user-mode NAT {cidr}"),
            Self::User { cidr, isolated: true, .. } => format!("user-mode {cidr}, isolated"),
            Self::Segment { segment } => format!("segment {segment} of this host"),
            Self::Bridge { bridge } => format!("bridge {bridge}"),
        }
    }
}

fn check_cidr(cidr: &str) -> Result<(), String> {
    let parsed = cidr
        .split_once('/')
        .and_then(|(net, bits)| Some((net.parse::<Ipv4Addr>().ok()?, bits.parse::<u32>().ok()?)));
    match parsed {
        // slirp keeps .2, .3 and .15 upwards for itself.
        Some((net, bits)) if (8..=27).contains(&bits) => {
            let host_bits = net.to_bits() & (u32::MAX >> bits);
            if host_bits == 0 {
                Ok(())
            } else {
                Err(format!("{cidr} names a host, not a network: its last {} bits must be 0", 32 - bits))
            }
        }
        _ => Err(format!("{cidr:?} is no IPv4 network such as 10.1.0.0/24 (with 8 to 27 bits)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SiteSettings, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("site.toml");
        std::fs::write(&path, text).unwrap();
        let file = TomlFile::read(&path).unwrap().unwrap();
        SiteSettings::read(&file).map_err(|error| {
            error.to_string().strip_prefix(&format!("{}, ", path.display())).unwrap().to_owned()
        })
    }

    const GOOD: &str = r#"
[datastores]
main = "disks"
[networks.lan]
kind = "segment"
segment = "blue"
[networks.uplink]
kind = "user"
cidr = "10.1.0.0/24"
forward = [{ host = "127.0.0.1:0", guest_port = 22 }]
[networks.dmz]
kind = "bridge"
bridge = "br0"
"#;

    #[test]
    fn settings_are_read_and_written() {
        let settings = read(GOOD).unwrap();
        assert_eq!(settings.qemu, PathBuf::from("qemu-system-x86_64"));
        assert_eq!(settings.accelerator, AcceleratorChoice::Auto);
        assert_eq!(settings.networks.len(), 3);
        assert_eq!(read(&toml::to_string(&settings).unwrap()).unwrap(), settings);
    }

    #[test]
    fn wrong_settings_name_line_and_key() {
        let with = |from: &str, to: &str| {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            read(&text).unwrap_err()
        };
        let starts = |message: String, start: &str| assert!(message.starts_with(start), "{message}");
        starts(with("main = \"disks\"", ""), "line 2: `datastores`: there must be one at least");
        starts(
            with("10.1.0.0/24", "10.1.0.5/24"),
            "line 9: `networks.uplink.cidr`: 10.1.0.5/24 names a host",
        );
        starts(with("10.1.0.0/24", "lan"), "line 9: `networks.uplink.cidr`: \"lan\" is no IPv4 network");
        starts(with("br0", "br 0; reboot"), "line 13: `networks.dmz.bridge`: \"br 0; reboot\" cannot be");
        starts(with("main = \"disks\"", "main = \"d\"\nb = \"d\""), "line 3: `datastores.main`");
        assert!(with("\"segment\"", "\"segmnet\"").contains("segmnet"));
        assert!(with("guest_port", "port").contains("port"));
    }
}
