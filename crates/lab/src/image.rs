//! A guest's root file system, an initramfs: what it runs and everything that needs.
//!
//! A guest boots into `/init` (made here), which mounts the kernel's file systems, inserts the modules and runs the test's script with busybox's
//! shell, `set -eu`, and all of busybox's commands in `PATH`. The script's exit code becomes the last line of the console, which
//! [`crate::Guest`] judges; then the machine powers itself off.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cpio::Archive;
use crate::kernel_modules::KernelModules;
use crate::{Foundation, libraries};

/// The line `/init` ends with, followed by `ok` or `failed CODE`.
pub(crate) const RESULT_PREFIX: &str = "LAB-RESULT: ";

const BUSYBOX: &str = "/bin/busybox";

/// What every guest needs to see its disks.
const DISK_MODULES: [&str; 2] = ["virtio_pci", "virtio_blk"];

/// Runs before the script. `devtmpfs` is not mounted by itself over an initramfs.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /mnt /bin /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
mount -t bpf bpf /sys/fs/bpf 2>/dev/null
ln -sf /proc/self/fd /dev/fd
while read -r module; do
    insmod "$module" || echo "lab: cannot insert $module"
done </lab/modules
if sh -eu /lab/script </dev/null; then
    result=ok
else
    result="failed $?"
fi
sync
echo
echo "LAB-RESULT: $result"
poweroff -f
"#;

/// Why a guest's image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file of the host that was to come along cannot be read.
    #[error(
        "cannot put {path} into the guest's image: does it exist? (scripts/setup installs what tests need)"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A program's libraries could not be found out.
    #[error("cannot find the libraries of {program}")]
    Libraries {
        /// The program.
        program: PathBuf,
        /// What the system or `ldd` says.
        source: io::Error,
    },
    /// The guests' kernel has no such module.
    #[error("the guest kernel has no module `{name}`, neither loadable nor built in")]
    NoSuchModule {
        /// The name that was asked for.
        name: String,
    },
    /// The image could not be written.
    #[error("cannot write the guest's image")]
    Write(#[source] io::Error),
}

/// A guest's image, ready to boot. The file goes when this is dropped.
#[derive(Debug)]
pub struct GuestImage {
    file: tempfile::NamedTempFile,
}

impl GuestImage {
    /// Starts an image whose guests run `script`, text for busybox's `sh -eu`.
    pub fn builder(script: impl Into<String>) -> GuestImageBuilder {
        GuestImageBuilder {
            script: script.into(),
            programs: vec![(PathBuf::from(BUSYBOX), BUSYBOX.to_owned())],
            modules: DISK_MODULES.map(str::to_owned).to_vec(),
            files: Vec::new(),
            init: INIT.to_owned(),
        }
    }

    /// Where the image is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Keeps the image at `path`.
    ///
    /// # Errors
    /// [`ImageError::Write`].
    pub fn keep_at(&self, path: &Path) -> Result<(), ImageError> {
        fs::copy(self.file.path(), path).map(drop).map_err(ImageError::Write)
    }
}

/// Collects what goes into a [`GuestImage`].
#[derive(Debug)]
pub struct GuestImageBuilder {
    script: String,
    /// Path on the host, path in the guest.
    programs: Vec<(PathBuf, String)>,
    modules: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    init: String,
}

impl GuestImageBuilder {
    /// Takes a program of the host along, at the same path, with its libraries. Where busybox has a command of that name its shell prefers
    /// its own: give the script the program's full path.
    #[must_use]
    pub fn program(self, path: &str) -> Self {
        self.program_as(Path::new(path), path)
    }

    /// Takes a program of the host along as `guest_path`, with its libraries.
    #[must_use]
    pub fn program_as(mut self, host_path: &Path, guest_path: &str) -> Self {
        self.programs.push((host_path.to_owned(), guest_path.to_owned()));
        self
    }

    /// Inserts a kernel module, and before it those it needs.
    #[must_use]
    pub fn module(mut self, name: &str) -> Self {
        self.modules.push(name.to_owned());
        self
    }

    /// Adds a file with these contents.
    #[must_use]
    pub fn file(mut self, guest_path: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.files.push((guest_path.to_owned(), contents.into()));
        self
    }

    /// Replaces `/init`: a guest that boots from its disk has nothing to run here. `/lab/modules` lists what it is to insert.
    #[must_use]
    pub fn init(mut self, text: &str) -> Self {
        text.clone_into(&mut self.init);
        self
    }

    /// Makes the image.
    ///
    /// # Errors
    /// [`ImageError`]: something that was asked for is not there, or the image could not be written.
    pub fn build(self, foundation: &Foundation) -> Result<GuestImage, ImageError> {
        let file = tempfile::Builder::new()
            .prefix("switchback-guest-")
            .suffix(".cpio")
            .tempfile()
            .map_err(ImageError::Write)?;
        let mut archive = Archive::new(io::BufWriter::new(file));
        for directory in ["dev", "proc", "sys", "lab"] {
            archive.directory(directory).map_err(ImageError::Write)?;
        }
        // Without it, `/init` has no standard output until devtmpfs is there.
        archive.character_device("dev/console", 5, 1).map_err(ImageError::Write)?;
        for (host_path, guest_path) in self.host_files(foundation)? {
            let contents =
                fs::read(&host_path).map_err(|source| ImageError::Read { path: host_path, source })?;
            archive.file(&guest_path, 0o755, &contents).map_err(ImageError::Write)?;
        }
        let order: String = self
            .module_files(foundation)?
            .iter()
            .map(|path| format!("{}\n", guest_module_path(path)))
            .collect();
        let own = [
            ("lab/modules", order.as_bytes()),
            ("lab/script", self.script.as_bytes()),
            ("init", self.init.as_bytes()),
        ];
        let added = self.files.iter().map(|(path, contents)| (path.as_str(), contents.as_slice()));
        for (path, contents) in added.chain(own) {
            archive.file(path, 0o755, contents).map_err(ImageError::Write)?;
        }
        let output = archive.finish().map_err(ImageError::Write)?;
        let file = output.into_inner().map_err(|error| ImageError::Write(error.into_error()))?;
        Ok(GuestImage { file })
    }

    /// Programs, their libraries and the modules, each with its path in the guest, each path once.
    fn host_files(&self, foundation: &Foundation) -> Result<Vec<(PathBuf, String)>, ImageError> {
        let mut files = self.programs.clone();
        for (program, _) in &self.programs {
            let needed = libraries::of_program(program);
            let needed =
                needed.map_err(|source| ImageError::Libraries { program: program.clone(), source })?;
            files.extend(needed.into_iter().map(|path| (path.clone(), path.to_string_lossy().into_owned())));
        }
        files.extend(
            self.module_files(foundation)?.into_iter().map(|path| (path.clone(), guest_module_path(&path))),
        );
        let mut seen = std::collections::HashSet::new();
        files.retain(|(_, guest_path)| seen.insert(guest_path.clone()));
        Ok(files)
    }

    fn module_files(&self, foundation: &Foundation) -> Result<Vec<PathBuf>, ImageError> {
        let directory = foundation.modules();
        let modules = KernelModules::read(directory);
        let modules =
            modules.map_err(|source| ImageError::Read { path: directory.join("modules.dep"), source })?;
        modules.insertion_order(&self.modules).map_err(|name| ImageError::NoSuchModule { name })
    }
}

fn guest_module_path(path: &Path) -> String {
    format!("/lab/{}", path.file_name().unwrap_or_default().to_string_lossy())
}
