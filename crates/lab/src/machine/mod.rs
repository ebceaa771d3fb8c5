//! The demo's machines: small Linux systems that boot from their own disks, with a mobility agent and a ledger.
//!
//! Each has two disks, raw images: the root (ext4, label `sb-root`: busybox, programs with their libraries, agent, ledger) and data (label `sb-data`,
//! of the machine's [`DataDisk`] kind: a second ledger). Kernel and initramfs are handed over by the hypervisor and are the same for all machines. The
//! first network card is the uplink (DHCP), the second the LAN, where each machine has a fixed address. The guest's scripts are in `guest/`.
//!
//! The path of one boot: the initramfs finds the root by its label; `start` mounts and configures; `workload` and `agent` run until the power button is
//! pressed; `stop` leaves clean file systems. Images are made without mounting anything and without root.
//!
//! A [`MarketplaceImage`] is something else: what servers of a cloud are made of.

mod death;
mod description;
mod disks;
mod marketplace;
mod root;

pub use death::{kill, process};
pub use description::NETWORKS;
pub(crate) use disks::fill_sparse;
pub use marketplace::MarketplaceImage;
pub(crate) use marketplace::Provisioning;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Foundation, GuestImage, ImageError};

const INIT: &str = include_str!("../../guest/init");
/// In the initramfs: disks and their file systems, network cards, and the power button with the interface that it is read through.
const MODULES: [&str; 6] = ["virtio_pci", "virtio_blk", "virtio_net", "xfs", "button", "evdev"];
/// `quiet`: a serial console takes longer than the boot itself. A panic starts the machine again after a moment.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=5";
const MIB: u64 = 1 << 20;

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The initramfs could not be made.
    #[error("making the machines' initramfs failed: {0}")]
    Initramfs(#[from] ImageError),
    /// A file could not be read or written.
    #[error("{action} {path} failed: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A machine that was to die does not live.
    #[error("the machine {id} does not run: there is no QEMU to be killed")]
    NotRunning {
        /// Its id.
        id: String,
    },
    /// A tool failed.
    #[error("`{command}` failed: {message} (scripts/setup installs what is needed)")]
    Tool {
        /// The command.
        command: String,
        /// What it said.
        message: String,
    },
}

/// The file system of the second disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataDisk {
    /// ext4.
    Ext4,
    /// xfs, which is never smaller than 300 MiB.
    Xfs,
}

impl DataDisk {
    /// As `mount` knows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    const fn size(self) -> u64 {
        match self {
            Self::Ext4 => 128 * MIB,
            Self::Xfs => 320 * MIB,
        }
    }
}

/// How a machine finds its configuration server, and joins its site.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// The program.
    pub program: PathBuf,
    /// `HOST:PORT` of the configuration server as the guest reaches it.
    pub server: String,
    /// The site's passphrase.
    pub passphrase: String,
}

/// A machine to be made.
#[derive(Clone, Debug)]
pub struct DemoMachine {
    /// Its name, and its ledger's.
    pub name: String,
    /// Its second disk.
    pub data: DataDisk,
    /// `ADDRESS/PREFIX` on the LAN.
    pub lan_address: String,
    /// Options of `switchback-ledger run`: whom it shows its records, or whose it looks at.
    pub workload: String,
    /// The ledger's program.
    pub ledger: PathBuf,
    /// Its mobility agent; without one it is not protected.
    pub agent: Option<AgentSettings>,
    /// A script that its agent calls before app-consistent points.
    pub pre_freeze: Option<&'static str>,
}

/// What machines boot with.
#[derive(Clone, Debug)]
pub struct BootFiles {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// The kernel's command line.
    pub command_line: String,
}

impl BootFiles {
    /// Makes them in `directory`.
    ///
    /// # Errors
    /// [`MachineError::Initramfs`].
    pub fn make(foundation: &Foundation, directory: &Path) -> Result<Self, MachineError> {
        let builder = MODULES.iter().fold(GuestImage::builder(""), |builder, module| builder.module(module));
        let initrd = directory.join("initrd");
        builder.init(INIT).build(foundation)?.keep_at(&initrd)?;
        Ok(Self { kernel: foundation.kernel(), initrd, command_line: COMMAND_LINE.to_owned() })
    }
}

impl DemoMachine {
    /// `web01`: xfs on its second disk, shows its newest record on the LAN.
    #[must_use]
    pub fn web01(ledger: &Path, agent: Option<AgentSettings>) -> Self {
        Self {
            name: "web01".to_owned(),
            data: DataDisk::Xfs,
            lan_address: "10.1.0.11/24".to_owned(),
            workload: format!("--serve 0.0.0.0:{}", crate::ledger::PORT),
            ledger: ledger.to_owned(),
            agent,
            pre_freeze: None,
        }
    }

    /// `db01`: ext4 on both disks, its records refer to those of the machine that is number 11 on its LAN.
    #[must_use]
    pub fn db01(ledger: &Path, agent: Option<AgentSettings>) -> Self {
        Self {
            name: "db01".to_owned(),
            data: DataDisk::Ext4,
            lan_address: "10.1.0.12/24".to_owned(),
            workload: "--follow-interface eth1 --follow-host 11".to_owned(),
            ledger: ledger.to_owned(),
            agent,
            pre_freeze: None,
        }
    }

    /// Makes its disks in `directory` and returns their paths, in order.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn make_disks(&self, directory: &Path) -> Result<[PathBuf; 2], MachineError> {
        fs::create_dir_all(directory).map_err(io_error("making", directory))?;
        let images =
            [directory.join(format!("{}-0.raw", self.name)), directory.join(format!("{}-1.raw", self.name))];
        let tree = tempfile::Builder::new().prefix("switchback-root-").tempdir();
        let tree = tree.map_err(io_error("making a temporary directory for", directory))?;
        root::lay_out(self, tree.path())?;
        disks::root(&images[0], tree.path())?;
        disks::data(&images[1], self.data)?;
        Ok(images)
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MachineError + use<> {
    let path = path.to_owned();
    move |source| MachineError::Io { action, path, source }
}
