//! Why a tracker cannot be attached.

use std::io;

use super::object::DISKS_MAX;
use crate::devices::DeviceError;

/// Why changes cannot be tracked.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// An unusable name.
    #[error("{name:?} cannot be a tracker's name: use 1 to 63 letters, digits, '_' and '-'")]
    Name {
        /// What was given.
        name: String,
    },
    /// None, too many, or one twice.
    #[error("a tracker takes 1 to {DISKS_MAX} different disks, {given} were given")]
    Disks {
        /// How many.
        given: usize,
    },
    /// A disk is missing or unfit.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The disk needs a bitmap that a map cannot hold.
    #[error("{disk} is too large to be tracked ({size_bytes} bytes; 128 TiB is the limit)")]
    TooLarge {
        /// Its name.
        disk: String,
        /// Its size.
        size_bytes: u64,
    },
    /// Where pins live.
    #[error("cannot use the BPF file system at /sys/fs/bpf: is this root, outside of a container?")]
    BpfFs {
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("the change tracker {name} is used by another process: is an agent running already?")]
    InUse {
        /// Its name.
        name: String,
    },
    /// The kernel does not take the program.
    #[error(
        "the kernel does not load the change tracker: it takes Linux 5.17 or later with BTF (/sys/kernel/btf/vmlinux), and \
         root (CAP_SYS_ADMIN); capture by scan works without. The kernel said: {detail}"
    )]
    Load {
        /// The end of what libbpf and the verifier said.
        detail: String,
        /// The error.
        source: Box<libbpf_rs::Error>,
    },
    /// A later step of setting up.
    #[error("cannot {doing} in the kernel")]
    Kernel {
        /// What.
        doing: &'static str,
        /// What the kernel said.
        source: Box<libbpf_rs::Error>,
    },
    /// Some other call.
    #[error("cannot {doing}")]
    System {
        /// What.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No events for the disk.
    #[error(
        "{disk} was read and the change tracker saw nothing: it is a stacked or bio-based device (device-mapper, md, zram, \
         NVMe multipath). Protect the disks below it, or capture it by scan"
    )]
    NoRequestEvents {
        /// Its name.
        disk: String,
    },
    /// Events, but no mark.
    #[error(
        "{disk} was written and the change tracker marked nothing: capture it by scan, and report this kernel"
    )]
    NoMarks {
        /// Its name.
        disk: String,
    },
    /// The device could not be read.
    #[error("the self-test cannot read {disk}")]
    SelfTest {
        /// Its name.
        disk: String,
        /// What the system said.
        source: io::Error,
    },
    /// Cannot happen.
    #[error("this is a bug of Switchback: {detail}")]
    Bug {
        /// What.
        detail: String,
    },
}

impl AttachError {
    pub(super) fn kernel(doing: &'static str, source: libbpf_rs::Error) -> Self {
        Self::Kernel { doing, source: Box::new(source) }
    }

    pub(super) fn system(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }

    pub(super) fn bug(detail: String) -> Self {
        Self::Bug { detail }
    }
}
