//! A demo machine as a local site knows it: its `machine.toml`, as a person could have written it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{BootFiles, DemoMachine, MachineError, io_error};

/// Networks of a site that demo machines are connected to, in the order of their network cards.
pub const NETWORKS: [&str; 2] = ["uplink", "lan"];
/// One processor: two machines run on two processors beside all that replicates them.
const CPUS: u32 = 1;
const MEMORY_MIB: u32 = 384;

impl DemoMachine {
    /// Adds the machine to the local site in `site`, under its name as id.
    ///
    /// # Errors
    /// [`MachineError::Io`].
    pub fn describe(&self, site: &Path, boot: &BootFiles, disks: &[PathBuf; 2]) -> Result<(), MachineError> {
        let disk = |(index, path): (usize, &PathBuf)| json!({ "path": path, "serial": format!("{}-{index}", self.name) });
        let description = json!({
            "name": self.name,
            "cpus": CPUS,
            "memory_mib": MEMORY_MIB,
            "boot": {
                "kind": "kernel", "kernel": boot.kernel, "initrd": boot.initrd, "command_line": boot.command_line,
            },
            "disks": disks.iter().enumerate().map(disk).collect::<Vec<_>>(),
            "nics": NETWORKS.map(|network| json!({ "network": network })),
        });
        let directory = site.join("machines").join(&self.name);
        fs::create_dir_all(&directory).map_err(io_error("making", &directory))?;
        let path = directory.join("machine.toml");
        let text = toml::to_string(&description)
            .map_err(|error| io_error("writing", &path)(std::io::Error::other(error)))?;
        fs::write(&path, text).map_err(io_error("writing", &path))
    }
}
