//! What a server is made of in an emulated cloud: a small Linux system that runs what it is told at its first start.
//!
//! What it is: [`MarketplaceImage`], a system with `curl` and the libraries of programs that will be fetched; and [`Provisioning`], what the cloud tells one
//! server: a small disk, as Azure's provisioning medium is one, which the guest knows by its serial number. What it never does: know the server's program.
//!
//! The path of a first start: the initramfs finds the root by its label; `start` reads the provisioning disk and sets addresses; `boot` notes that it has run
//! custom data, and runs it, as cloud-init does. Whatever that installs as a systemd unit and enables is started by a stand-in for `systemctl`, now and by
//! `boot` at every later start; custom data is not run again. The stand-in runs the unit's own command line, as the user and with the state directory that the
//! unit says, and again after a failure; it keeps no process from anything (`guest/server/service` has what of a unit is honoured).
//!
//! It differs from a real image in what is said here: there is no `apt-get`, no SSH server, no user but root; the services' output goes to the console; and
//! addresses come from the provisioning disk, not by DHCP, which the lab's segments have not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use switchback_sites::Boot;

use super::root::{PLAIN, PROGRAM, Text};
use super::{BootFiles, MachineError, disks, io_error, root};
use crate::cpio::Archive;

/// The program by which custom data fetches things.
const CURL: &str = "/usr/bin/curl";
const DIRECTORIES: [&str; 5] = ["root", "usr/local/bin", "var/lib", "var/log", "etc/systemd/system"];
const TEXTS: [Text; 7] = [
    ("etc/inittab", PLAIN, include_str!("../../guest/server/inittab")),
    ("etc/lab/start", PROGRAM, include_str!("../../guest/server/start")),
    ("etc/lab/boot", PROGRAM, include_str!("../../guest/server/boot")),
    ("etc/lab/stop", PROGRAM, include_str!("../../guest/server/stop")),
    ("etc/lab/service", PROGRAM, include_str!("../../guest/server/service")),
    ("etc/lab/unit-words.awk", PLAIN, include_str!("../../guest/server/unit-words.awk")),
    ("usr/bin/systemctl", PROGRAM, include_str!("../../guest/server/systemctl")),
];
const SECTOR: usize = 512;

/// An image that servers are made of; its files are in a directory that has to stay as long as servers are made.
#[derive(Clone, Debug)]
pub struct MarketplaceImage {
    tree: PathBuf,
    boot: BootFiles,
}

impl MarketplaceImage {
    /// Lays it out in `directory/marketplace`, which must not be there. It has the libraries of `programs`, not these themselves; `boot` boots its servers.
    ///
    /// # Errors
    /// [`MachineError`]: `curl` or busybox is missing, or a file cannot be written.
    pub fn make(directory: &Path, programs: &[&Path], boot: BootFiles) -> Result<Self, MachineError> {
        let tree = directory.join("marketplace");
        fs::create_dir(&tree).map_err(io_error("making", &tree))?;
        root::lay_out_system(&DIRECTORIES, &TEXTS, &tree)?;
        root::program(Path::new(CURL), "curl", &tree)?;
        for program in programs {
            root::libraries_of(program, &tree)?;
        }
        // Services run as others than root, whatever the umask was here.
        disks::run(Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(&tree))?;
        Ok(Self { tree, boot })
    }

    /// Writes it to a disk that is there and full of zeros.
    pub(crate) fn write_to(&self, disk: &Path) -> Result<(), MachineError> {
        disks::fill_sparse(disk, &self.tree)
    }

    pub(crate) fn boot(&self) -> Boot {
        let BootFiles { kernel, initrd, command_line } = self.boot.clone();
        Boot::Kernel { kernel, initrd: Some(initrd), command_line }
    }
}

/// What one server is told. Custom data may have a secret in it: no `Debug`.
pub(crate) struct Provisioning {
    /// Whoever it is told to: custom data runs once for each.
    pub(crate) instance: String,
    /// Its host name.
    pub(crate) name: String,
    /// Of its cards, in order: `MAC ADDRESS/PREFIX`.
    pub(crate) cards: Vec<String>,
    pub(crate) custom_data: Option<Vec<u8>>,
}

impl Provisioning {
    /// By this serial number the guest knows the disk.
    pub(crate) const SERIAL: &str = "provisioning";

    /// The disk's bytes: a cpio archive, which the guest unpacks from the bare disk.
    pub(crate) fn disk(&self) -> std::io::Result<Vec<u8>> {
        let mut archive = Archive::new(Vec::new());
        archive.file("instance", 0o600, format!("{}\n", self.instance).as_bytes())?;
        archive.file("name", 0o600, format!("{}\n", self.name).as_bytes())?;
        archive.file("cards", 0o600, format!("{}\n", self.cards.join("\n")).as_bytes())?;
        if let Some(data) = &self.custom_data {
            archive.file("custom-data", 0o600, data)?;
        }
        let mut bytes = archive.finish()?;
        bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
        Ok(bytes)
    }
}
