//! A site that is a resource group of Azure: nothing runs there, or is paid for but storage, until a failover.
//!
//! What it is: [`AzureSite`], the [`Site`] that speaks to Azure Resource Manager, and to storage for its own descriptions.
//! What it never does: write, or delete, a replica's blobs; keep state of its own outside of the container and of Azure; send a token or a SAS to
//! another address than the settings'; show one.
//!
//! ```text
//!   AzureSite ── Site: machines are descriptions in the container (description), joined with virtual machines (view)
//!      │         making: described, deleted      disks: come and go      power: cards, disks, machine made at the first start; started, stopped
//!      │         snapshots: points that it is taken back to      readiness: what would be in the way      sizes, networks
//!      ▼
//!   arm ── patience, operations, pages      blob ── conditional puts      token ── three identities
//!      ▼
//!   http ── TLS, limits
//! ```
//!
//! The path of one failover: [`Site::create_machine`] writes `machines/ID.json`, [`Site::lend_disks`] tells where the replica writes; the replica stands
//! at the chosen point in blobs of its own, which [`Site::run_from`] is told; [`Site::create_snapshot`] notes that the machine runs above that point;
//! [`Site::power_on`] makes cards, imports managed disks from these blobs, makes the virtual machine of them, which starts it. [`Site::revert_snapshot`]
//! deletes all this, [`Site::delete_snapshot`] keeps it. Each step can be repeated after a crash: names follow from the machine's id and the number of
//! its life (`description`).
//!
//! **What a machine is known by.** Azure chooses the SMBIOS UUID (`vmId`) and the addresses of network cards when it makes a virtual machine. Until then
//! [`Machine::system_uuid`] and [`Nic::mac`](crate::Nic::mac) are empty; whoever keeps them reads them again after a start. Of a disk's serial number
//! a guest at Azure sees nothing it could rely on: disks come in the order of their LUNs, the first one is the system's.

mod arm;
mod blob;
mod description;
mod disks;
mod error;
mod http;
mod making;
mod networks;
mod path;
mod power;
mod readiness;
mod resources;
mod servers;
mod settings;
mod sizes;
mod snapshots;
mod token;
mod view;

pub use error::AzureError;
pub use networks::AddressAvailability;
pub use path::check as check_path;
pub use servers::{ServerImage, ServerPlan};
pub use switchback_model::azure::{
    AzureLimits, AzureSettings, Cloud, MachinePlan, MachineSettings, NetworkPath,
};
pub use token::{AzureCredentials, Identity};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use switchback_model::ReadinessCheck;

use crate::{Datastore, Machine, MachineDisk, Network, NewDisk, NewMachine, Site, SiteError, Target};
use arm::Arm;
use blob::Container;
use error::failed;
use http::Http;
use token::Tokens;

/// What a storage account holds at most by default (Azure's limits, 2024: 5 PiB).
const CAPACITY: u64 = 5 << 50;

/// A site that is a resource group of Azure. See the module's header.
#[derive(Debug)]
pub struct AzureSite {
    settings: AzureSettings,
    http: Arc<Http>,
    arm: Arm,
    container: Container,
}

impl AzureSite {
    /// A site with these settings. Nothing is sent yet: Azure may be out of reach. Asynchronous code calls this and all else within
    /// `spawn_blocking`.
    ///
    /// # Errors
    /// The settings have a mistake, or the file of trusted authorities cannot be read.
    pub fn open(settings: AzureSettings, credentials: AzureCredentials) -> Result<Self, SiteError> {
        let opening = || failed("opening an Azure site");
        settings::check(&settings).map_err(opening())?;
        let http = Arc::new(Http::new(settings.cloud.certificates.as_deref()).map_err(opening())?);
        let tokens = Arc::new(Tokens::new(credentials.identity, settings.cloud.clone()));
        let arm = Arm::new(&settings, Arc::clone(&http), Arc::clone(&tokens));
        let container = Container::new(&settings, Arc::clone(&http), tokens, credentials.container_sas);
        Ok(Self { settings, http, arm, container })
    }

    /// What it was opened with.
    #[must_use]
    pub fn settings(&self) -> &AzureSettings {
        &self.settings
    }
}

impl Site for AzureSite {
    /// Machines that were described here, and the resource group's other virtual machines under their names. A damaged description is left out, and
    /// logged; so are virtual machines of earlier lives ([`AzureSite::left_behind`]).
    fn machines(&self) -> Result<Vec<Machine>, SiteError> {
        self.all_machines()
    }

    fn machine(&self, id: &str) -> Result<Machine, SiteError> {
        self.one_machine(id)
    }

    /// The container of the replicas, with a storage account's limit as its room.
    fn datastores(&self) -> Result<Vec<Datastore>, SiteError> {
        self.container.reach().map_err(failed("looking at the container of the replicas"))?;
        let name = self.settings.container_name().to_owned();
        Ok(vec![Datastore { name, capacity: CAPACITY, free: CAPACITY }])
    }

    /// The subnets, `VNET/SUBNET`.
    fn networks(&self) -> Result<Vec<Network>, SiteError> {
        self.all_networks()
    }

    /// Writes a description; nothing else is made. The blobs of its disks are made by who replicates to them. Its UUID and addresses are Azure's choice.
    fn create_machine(&self, machine: &NewMachine) -> Result<Machine, SiteError> {
        self.describe(machine)?;
        self.machine(&machine.id)
    }

    /// Deletes its virtual machines, cards, managed disks and description; a replica's blobs are the replica's.
    fn delete_machine(&self, id: &str) -> Result<(), SiteError> {
        self.remove(id)
    }

    fn changes_disks(&self) -> bool {
        true
    }

    /// Describes it; who replicates to it makes its blob. Possible as long as no virtual machine has been made since the disks were lent.
    fn add_disk(&self, id: &str, disk: &NewDisk) -> Result<MachineDisk, SiteError> {
        self.describe_another(id, disk)
    }

    /// What the next start makes is made without them.
    fn set_disks_aside(&self, id: &str, serials: &[String]) -> Result<(), SiteError> {
        self.set_aside(id, serials)
    }

    /// Forgets it; a replica's blob is the replica's.
    fn remove_disk(&self, id: &str, serial: &str) -> Result<(), SiteError> {
        self.forget_disk(id, serial)
    }

    /// Tells the addresses of the blobs. From now on the replica is ahead of what was made of it before: that is not started again.
    fn lend_disks(&self, id: &str, serials: &[String], _to: &str) -> Result<Vec<PathBuf>, SiteError> {
        self.lend(id, serials)
    }

    fn check_targets(&self, targets: &[Target]) -> Result<Vec<Vec<ReadinessCheck>>, SiteError> {
        self.checks(targets)
    }

    fn plan_machine(&self, id: &str, plan: &MachinePlan) -> Result<(), SiteError> {
        self.plan(id, plan)
    }

    /// The blobs that managed disks are imported from.
    fn run_from(&self, id: &str, images: &[PathBuf]) -> Result<(), SiteError> {
        self.note_sources(id, images)
    }

    /// Virtual machines of earlier lives.
    fn left_behind(&self, id: &str) -> Result<Vec<String>, SiteError> {
        self.earlier_lives(id)
    }

    /// Deletes virtual machines, cards and managed disks of earlier lives.
    fn clean_up(&self, id: &str) -> Result<(), SiteError> {
        self.remove_earlier_lives(id)
    }

    /// The first time, makes everything there is to make.
    fn power_on(&self, id: &str) -> Result<(), SiteError> {
        self.start(id)
    }

    /// Azure asks the guest, and after some minutes of its own cuts the power, whoever has stopped waiting for it.
    fn shut_down(&self, id: &str, limit: Duration) -> Result<bool, SiteError> {
        self.ask_guest_to_stop(id, limit)
    }

    /// Also gives back its hardware, which is paid for otherwise.
    fn power_off(&self, id: &str) -> Result<(), SiteError> {
        self.cut_power(id)
    }

    /// Takes effect when the virtual machine is made. One that is there keeps its cards where they are.
    fn connect_nics(&self, id: &str, networks: &[Option<String>]) -> Result<(), SiteError> {
        self.connect(id, networks)
    }

    /// Notes that the machine to come runs above the point. Impossible once there is one.
    fn create_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError> {
        self.note_point(id, name)
    }

    /// Deletes virtual machine, cards and managed disks: the next start makes them anew, of what the replica stands at then.
    fn revert_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError> {
        self.go_back(id, name)
    }

    fn delete_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError> {
        self.forget_point(id, name)
    }

    /// The serial log of boot diagnostics; nothing before the first start.
    fn console(&self, id: &str, bytes_max: usize) -> Result<String, SiteError> {
        self.serial_log(id, bytes_max)
    }

    fn deploy_server(&self, plan: &ServerPlan) -> Result<String, SiteError> {
        self.make_process_server(plan)
    }

    fn remove_server(&self, name: &str) -> Result<(), SiteError> {
        self.delete_process_server(name)
    }

    fn server_console(&self, name: &str, bytes_max: usize) -> Result<String, SiteError> {
        self.process_server_log(name, bytes_max)
    }
}
