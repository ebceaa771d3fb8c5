//! What guests run on: a QEMU and a Linux kernel, found or prepared by `scripts/lab-guests`.
//!
//! The place is `$SWITCHBACK_LAB_DIR`, else `lab` in cargo's target directory. The first use on a machine prepares it, which takes a download
//! of some 70 MB with apt.

use std::path::{Path, PathBuf};

use crate::prepared::{PreparedError, prepared};

/// The programs and files guests are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foundation {
    directory: PathBuf,
    modules: PathBuf,
}

/// Why there is nothing to run guests on.
#[derive(Debug, thiserror::Error)]
pub enum FoundationError {
    /// It could not be made.
    #[error("preparing the guest lab")]
    Prepare(#[from] PreparedError),
    /// The lab is there but not as the script leaves it.
    #[error(
        "the guest lab in {directory} is damaged: {what} is missing; remove the directory and run scripts/lab-guests"
    )]
    Damaged {
        /// The lab's directory.
        directory: PathBuf,
        /// The part that is not there.
        what: &'static str,
    },
}

impl Foundation {
    /// Finds the lab, and prepares it when it is not there yet.
    ///
    /// # Errors
    /// [`FoundationError`]: no lab and none could be made.
    pub fn prepare() -> Result<Self, FoundationError> {
        // The script decides where the lab is.
        Self::open(&prepared("lab-guests", "")?)
    }

    /// Takes a lab that is already prepared.
    fn open(directory: &Path) -> Result<Self, FoundationError> {
        let damaged = |what| FoundationError::Damaged { directory: directory.to_owned(), what };
        let versions = directory.join("kernel/lib/modules");
        let mut versions = versions.read_dir().map_err(|_| damaged("kernel/lib/modules"))?;
        let modules =
            versions.next().and_then(Result::ok).ok_or_else(|| damaged("the kernel's modules"))?.path();
        let foundation = Self { directory: directory.to_owned(), modules };
        if !foundation.kernel().is_file() {
            return Err(damaged("kernel/vmlinuz"));
        }
        if !foundation.qemu().is_file() {
            return Err(damaged("qemu-system-x86_64"));
        }
        Ok(foundation)
    }

    /// The QEMU that runs guests.
    #[must_use]
    pub fn qemu(&self) -> PathBuf {
        self.directory.join("qemu-system-x86_64")
    }

    /// The guests' kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.directory.join("kernel/vmlinuz")
    }

    /// The directory of that kernel's modules, with `modules.dep` in it.
    #[must_use]
    pub fn modules(&self) -> &Path {
        &self.modules
    }

    /// Where facts about this machine are kept that take long to find out.
    pub(crate) fn fact(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_damaged_lab_says_what_is_missing() {
        let lab = tempfile::tempdir().unwrap();
        let missing = |lab: &Path| match Foundation::open(lab) {
            Err(FoundationError::Damaged { what, .. }) => what,
            other => panic!("expected damage, got {other:?}"),
        };
        assert_eq!(missing(lab.path()), "kernel/lib/modules");
        fs::create_dir_all(lab.path().join("kernel/lib/modules")).unwrap();
        assert_eq!(missing(lab.path()), "the kernel's modules");
        fs::create_dir(lab.path().join("kernel/lib/modules/6.1.0")).unwrap();
        assert_eq!(missing(lab.path()), "kernel/vmlinuz");
        fs::write(lab.path().join("kernel/vmlinuz"), "").unwrap();
        assert_eq!(missing(lab.path()), "qemu-system-x86_64");
        fs::write(lab.path().join("qemu-system-x86_64"), "").unwrap();
        let found = Foundation::open(lab.path()).unwrap();
        assert_eq!(found.modules(), lab.path().join("kernel/lib/modules/6.1.0"));
    }
}
