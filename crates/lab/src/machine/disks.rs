//! Raw images with file systems in them, made by the file systems' own tools.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use super::{DataDisk, MIB, MachineError, io_error};

const ROOT_SIZE: u64 = 192 * MIB;
/// On a large disk: by default there would be some for each 16 KiB.
const SPARSE_FILES_MAX: &str = "65536";

/// The root disk: everything below `tree`, owned by root.
pub(super) fn root(image: &Path, tree: &Path) -> Result<(), MachineError> {
    empty(image, ROOT_SIZE)?;
    // Nothing lazy: the kernel would go on initializing while the machine is replicated for the first time.
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-L", "sb-root", "-m", "0"]);
    command.args(["-E", "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard", "-d"]);
    run(command.arg(tree).arg(image))
}

/// A disk that is there, full of zeros, whatever its size: everything below `tree`. It stays as sparse as the file system is empty.
pub(crate) fn fill_sparse(image: &Path, tree: &Path) -> Result<(), MachineError> {
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-L", "sb-root", "-m", "0", "-N", SPARSE_FILES_MAX]);
    // The journal is zeros already; tables of inodes that are all written leave the guest's kernel nothing to do in the background.
    command.args(["-E", "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=1,nodiscard", "-d"]);
    run(command.arg(tree).arg(image))
}

/// The data disk, empty.
pub(super) fn data(image: &Path, kind: DataDisk) -> Result<(), MachineError> {
    empty(image, kind.size())?;
    let mut command = match kind {
        DataDisk::Ext4 => {
            let mut command = Command::new("mke2fs");
            command.args(["-q", "-F", "-t", "ext4", "-L", "sb-data", "-m", "0"]);
            command.args(["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]);
            command
        }
        DataDisk::Xfs => {
            let mut command = Command::new("mkfs.xfs");
            command.args(["-q", "-K", "-L", "sb-data"]);
            command
        }
    };
    run(command.arg(image))
}

fn empty(image: &Path, size: u64) -> Result<(), MachineError> {
    let file = File::create(image).map_err(io_error("making", image))?;
    file.set_len(size).map_err(io_error("making", image))
}

/// Runs a tool of `/usr/sbin`, which is not in everybody's `PATH`.
pub(super) fn run(command: &mut Command) -> Result<(), MachineError> {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = command.env("PATH", format!("{path}:/usr/sbin:/sbin")).output();
    let failed = |message: String| MachineError::Tool { command: format!("{command:?}"), message };
    match output {
        Err(error) => Err(failed(error.to_string())),
        Ok(output) if !output.status.success() => {
            Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
        Ok(_) => Ok(()),
    }
}
