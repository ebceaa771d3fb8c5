//! How fast guests can run: KVM where it works, else emulation.
//!
//! That `/dev/kvm` exists says little, so it is tried as a local site tries it, once per boot of the host; the answer is kept in the lab's
//! directory.

use std::fs;

use crate::{Foundation, ImageError};

/// What executes a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's processor.
    Kvm,
    /// QEMU's emulation, one host thread per guest processor.
    Tcg,
}

impl Accelerator {
    /// The one to use on this machine. `SWITCHBACK_LAB_ACCELERATOR` (`kvm` or `tcg`) decides without a probe.
    ///
    /// # Errors
    /// None at present.
    pub fn detect(foundation: &Foundation) -> Result<Self, ImageError> {
        if let Some(chosen) =
            std::env::var("SWITCHBACK_LAB_ACCELERATOR").ok().as_deref().and_then(Self::from_name)
        {
            return Ok(chosen);
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let fact = foundation.fact("accelerator");
        let known = fs::read_to_string(&fact).unwrap_or_default();
        if let Some((known_boot, name)) = known.trim().split_once(' ')
            && known_boot == boot.trim()
            && let Some(known) = Self::from_name(name)
        {
            return Ok(known);
        }
        let works = switchback_sites::guest_makes_progress_on_kvm(&foundation.qemu());
        // A QEMU that cannot be started at all is told of when a guest is to run on it.
        let found = if works.unwrap_or(false) { Self::Kvm } else { Self::Tcg };
        // Only saves the next probe: a lab that cannot be written to still works.
        let _ = fs::write(&fact, format!("{} {}\n", boot.trim(), found.name()));
        Ok(found)
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Kvm, Self::Tcg].into_iter().find(|accelerator| accelerator.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// QEMU's arguments.
    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}
