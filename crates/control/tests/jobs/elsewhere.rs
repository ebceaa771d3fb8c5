//! A recovery site that is no switch in memory but one of the real kinds, and the machine that its master target runs in.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use switchback_sites::{Machine, Site};

#[derive(Clone, Debug)]
pub(crate) struct Elsewhere {
    pub(crate) site: Arc<dyn Site>,
    /// The machine's SMBIOS system UUID.
    pub(crate) master_target: String,
}

impl Elsewhere {
    /// Machines that were made for replicas.
    pub(crate) fn replicas(&self) -> Vec<Machine> {
        let is_replica =
            |machine: &Machine| machine.mark.as_ref().is_some_and(|mark| mark.ends_with(" replica"));
        self.site.machines().unwrap().into_iter().filter(is_replica).collect()
    }

    pub(crate) fn master_target(&self) -> Machine {
        let all = self.site.machines().unwrap();
        all.into_iter().find(|machine| machine.system_uuid == self.master_target).unwrap()
    }

    /// Whether the master target's machine has the disk at a path.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.master_target().disks.iter().any(|disk| disk.path == path)
    }
}
