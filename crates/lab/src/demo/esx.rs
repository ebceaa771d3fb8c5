//! What runs the virtual machines of a simulated ESXi host: QEMU on their `-flat.vmdk` files.
//!
//! What it is: the part of an ESXi host that the simulator has not. It watches one machine's power in the vCenter and has it run, or not, in a local site whose
//! machine has the same disks, SMBIOS UUID and network cards. What it never does: decide; a machine that ends by itself is off in the vCenter, too.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use switchback_sites::vsphere::VsphereSite;
use switchback_sites::{LocalSite, Machine, Power, Site as _};

use crate::machine::{BootFiles, NETWORKS};

const LOOK: Duration = Duration::from_millis(200);
/// Of a vSphere disk's serial number, what QEMU's virtio disks show.
const SERIAL_LEN_MAX: usize = 20;

/// The host's hand, until dropped.
#[derive(Debug)]
pub(super) struct Hypervisor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Describes a virtual machine in the local site that runs it.
pub(super) fn describe(site: &LocalSite, machine: &Machine, boot: &BootFiles) -> anyhow::Result<()> {
    let serial = |serial: &str| serial.chars().take(SERIAL_LEN_MAX).collect::<String>();
    let disks = machine.disks.iter().map(|disk| json!({ "path": disk.path, "serial": serial(&disk.serial) }));
    let cards = machine.nics.iter().zip(NETWORKS);
    let nics = cards.map(|(nic, network)| json!({ "mac": nic.mac, "network": network }));
    let description = json!({
        "name": machine.name,
        "uuid": machine.system_uuid,
        "cpus": machine.cpus,
        "memory_mib": machine.memory_mib,
        "boot": {
            "kind": "kernel", "kernel": boot.kernel, "initrd": boot.initrd, "command_line": boot.command_line,
        },
        "disks": disks.collect::<Vec<_>>(),
        "nics": nics.collect::<Vec<_>>(),
    });
    let directory = site.directory().join("machines").join(&machine.id);
    fs::create_dir_all(&directory)?;
    Ok(fs::write(directory.join("machine.toml"), toml::to_string(&description)?)?)
}

impl Hypervisor {
    /// Has the machine `id` run in the local site in `directory` whenever it is on in the vCenter.
    pub(super) fn start(vcenter: Arc<VsphereSite>, directory: &Path, id: &str) -> anyhow::Result<Self> {
        let (local, id) = (LocalSite::open(directory)?, id.to_owned());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let run = move || {
            let mut was_on = false;
            while !stopped.load(Ordering::Relaxed) {
                // What fails is tried again at the next look.
                if let Ok(is_on) = look(&vcenter, &local, &id, was_on) {
                    was_on = is_on;
                }
                std::thread::sleep(LOOK);
            }
        };
        let thread = std::thread::Builder::new().name("hypervisor".into()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

/// Whether the machine is on in the vCenter, and with that here.
fn look(vcenter: &VsphereSite, local: &LocalSite, id: &str, was_on: bool) -> anyhow::Result<bool> {
    let is_on = vcenter.machine(id)?.power == Power::On;
    let runs = local.machine(id)?.power == Power::On;
    match (is_on, runs) {
        (true, false) if was_on => {
            vcenter.power_off(id)?;
            return Ok(false);
        }
        (true, false) => local.power_on(id)?,
        (false, true) => local.power_off(id)?,
        _ => {}
    }
    Ok(is_on)
}

impl Drop for Hypervisor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that has panicked runs nothing more, either.
            let _ = thread.join();
        }
    }
}
