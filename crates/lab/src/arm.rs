//! An emulator of Azure Resource Manager, for what the product calls of it: resource groups, compute, networks, tokens.
//!
//! What it is: [`Emulator`], an HTTPS server in this process, one per test, with a certificate of its own and a directory for its disks. A managed disk
//! that is imported is real bytes: the data of the VHD as a raw file ([`Emulator::disk_file`]). A virtual machine that is started notes that it is,
//! or runs in QEMU through a [`LocalSite`](switchback_sites::LocalSite) when [`Options::guests`] says so.
//! What it never does: answer what it does not know; that is `501 NotEmulated`. Microsoft's own Python SDKs drive it unmodified (`crates/sites/tests/azure`).
//!
//! ```text
//!   server ── TLS, HTTP ──▶ route ── token, api-version, faults ──▶ groups · disks · machines · network · operations
//!                             │                                                        │
//!                             ├── tokens: /TENANT/oauth2/v2.0/token, metadata service  └──▶ world: resources by id, whatever its case
//!                             └── blobs: /blobs/ACCOUNT/CONTAINER/BLOB, a page-blob shelf for tests without Azurite
//! ```
//! The path of a failover: `PUT disks/NAME` is answered at once with where to ask for its operation; a thread reads the blob, checks the VHD's footer and
//! writes the raw file; `PUT virtualMachines/NAME` checks size, quota, disks, cards, and starts it, as Azure does when it makes one.
//!
//! It differs from Azure in what is said here. Creating is fast. A graceful `powerOff` cuts the power after [`Options::grace`]. Of marketplace images it
//! knows the names of a few; a disk that is made of one has the tags of its virtual machine (of Azure this is not known). It is full of zeros, and its guest
//! does not boot, unless [`Options::marketplace`] has a system: then that runs, whichever image was named, with the addresses of its cards, and runs its custom
//! data once. Custom data is shown by no answer, but kept for tests ([`Emulator::custom_data`]). SSH keys are looked at, and enter nowhere. Data disks and
//! cards with `deleteOption` `Delete`, scale sets, images of one's own, extensions are not emulated. Of the serial numbers that Azure's guests see of their SCSI disks nothing is
//! promised by Azure (they are Hyper-V's NAA names, other ones after each attachment); what is, is the order of LUNs. So a guest here sees made-up ones,
//! unless [`Guests::serial_tag`] names the tag of a managed disk that has one.

mod answer;
mod blobs;
mod disks;
mod faults;
mod groups;
mod guests;
mod images;
mod machines;
mod marketplace;
mod network;
mod operations;
mod route;
mod server;
mod sizes;
mod tokens;
mod world;

pub use faults::Fault;
pub use guests::Guests;
pub use marketplace::Marketplace;
pub use tokens::Client;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use server::Server;
use switchback_sites::azure::{AzureLimits, AzureSettings, Cloud, MachineSettings, NetworkPath};
use world::World;

use crate::prepared::{PreparedError, prepared};

/// The subscription that there is.
pub const SUBSCRIPTION: &str = "6f1d2c3b-0000-4000-8000-5b0a11ab0001";
/// The tenant that there is.
pub const TENANT: &str = "72f988bf-0000-4000-8000-2d7cd011db47";
/// The region of everything.
pub const REGION: &str = "westeurope";
/// The resource group that is there from the start.
pub const GROUP: &str = "Recovery";
/// The virtual network that is there from the start, `10.20.0.0/16`, with the subnets `production` (`10.20.1.0/24`) and `isolated` (`10.20.2.0/28`).
pub const NETWORK: &str = "recovery-net";
/// The storage account that [`Emulator::container_url`] is of.
pub const ACCOUNT: &str = "switchbackreplicas";

/// Why there is no emulator.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// Files, sockets.
    #[error("running the ARM emulator")]
    Io(#[from] std::io::Error),
    /// Its certificate could not be made.
    #[error("making the ARM emulator's certificate")]
    Certificate(#[from] rcgen::Error),
    /// Its TLS could not be set up.
    #[error("setting up the ARM emulator's TLS")]
    Tls(#[from] rustls::Error),
}

/// A Python with Microsoft's clients of Resource Manager.
///
/// # Errors
/// [`PreparedError`].
pub fn witness_python() -> Result<PathBuf, PreparedError> {
    prepared("lab-azure", "witness")
}

/// How to emulate.
#[derive(Debug, Clone)]
pub struct Options {
    /// Cores that all virtual machines of the region may have together.
    pub cores_max: u32,
    /// Where a guest hears nothing, a graceful `powerOff` cuts its power after this.
    pub grace: Duration,
    /// How many times an operation is at least asked for until it says that it is over.
    pub looks_min: u32,
    /// Resources on one page of a list.
    pub page_len: usize,
    /// The service principals that there are.
    pub clients: Vec<Client>,
    /// What Azure itself reads blobs with: the beginning of their URLs and the query that opens them (a SAS).
    pub storage: Vec<(String, String)>,
    /// What runs virtual machines; `None`: their power is only noted.
    pub guests: Option<Guests>,
    /// What those run that are made of a marketplace image; `None`: nothing, their disks are zeros.
    pub marketplace: Option<Marketplace>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cores_max: 16,
            grace: Duration::from_secs(60),
            looks_min: 1,
            page_len: 2,
            clients: vec![Client::default()],
            storage: Vec::new(),
            guests: None,
            marketplace: None,
        }
    }
}

/// A running emulator, until dropped.
#[derive(Debug)]
pub struct Emulator {
    world: Arc<World>,
    server: Server,
    directory: tempfile::TempDir,
}

impl Emulator {
    /// With the default options.
    ///
    /// # Errors
    /// [`EmulatorError`].
    pub fn start() -> Result<Self, EmulatorError> {
        Self::start_with(Options::default())
    }

    /// Starts one.
    ///
    /// # Errors
    /// [`EmulatorError`].
    pub fn start_with(options: Options) -> Result<Self, EmulatorError> {
        let directory = tempfile::Builder::new().prefix("switchback-arm-").tempdir()?;
        fs::create_dir(directory.path().join("disks"))?;
        let (listener, tls) = server::bind(directory.path())?;
        let url = format!("https://{}", listener.local_addr()?);
        let world = Arc::new(World::new(options, directory.path().join("disks"), url));
        let server = Server::start(listener, tls, Arc::clone(&world))?;
        Ok(Self { world, server, directory })
    }

    /// `https://127.0.0.1:PORT`: of Resource Manager, of the token endpoint and of the metadata service.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.world.url
    }

    /// The authority that issued its certificate, in PEM.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    /// A container on its own shelf for blobs, with the query that opens it.
    #[must_use]
    pub fn container_url(&self, container: &str) -> String {
        format!("{}/blobs/{ACCOUNT}/{container}?{}", self.world.url, blobs::SAS)
    }

    /// The settings of a site in [`GROUP`] that keeps replicas in a container, given by its address without a query.
    #[must_use]
    pub fn site_settings(&self, container: &str) -> AzureSettings {
        AzureSettings {
            subscription: SUBSCRIPTION.into(),
            resource_group: GROUP.into(),
            region: REGION.into(),
            container: container.into(),
            storage_account: format!(
                "/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Storage/storageAccounts/{ACCOUNT}"
            ),
            storage_path: NetworkPath::PublicEndpoint,
            networks: Vec::new(),
            machines: MachineSettings::default(),
            cloud: Cloud {
                resource_manager: self.url().into(),
                authority: self.url().into(),
                metadata: self.url().into(),
                certificates: Some(self.authority()),
                ..Cloud::default()
            },
            limits: AzureLimits::default(),
        }
    }

    /// The id of a subnet of [`NETWORK`].
    #[must_use]
    pub fn subnet_id(&self, subnet: &str) -> String {
        format!(
            "/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Network/virtualNetworks/{NETWORK}/subnets/{subnet}"
        )
    }

    /// The bytes of a managed disk.
    #[must_use]
    pub fn disk_file(&self, name: &str) -> PathBuf {
        self.world.disk_file(name)
    }

    /// Lets the next `count` calls of `method` whose path has `part` in it, whatever its case, meet a fault.
    pub fn fail(&self, method: &str, part: &str, fault: Fault, count: u32) {
        self.world.state().faults.push(faults::Planned::new(method, part, fault, count));
    }

    /// No token that was given is good any more.
    pub fn expire_tokens(&self) {
        self.world.state().tokens.clear();
    }

    /// How many tokens it has given.
    #[must_use]
    pub fn tokens_given(&self) -> usize {
        self.world.state().tokens_given
    }

    /// What the account may do from now on: actions, and those that are taken away again.
    pub fn set_permissions(&self, actions: &[&str], not_actions: &[&str]) {
        let mut state = self.world.state();
        state.permissions = serde_json::json!({
            "actions": actions, "notActions": not_actions, "dataActions": [], "notDataActions": [],
        });
    }

    /// Every call since the start, `METHOD PATH?QUERY` in the case in which it came. Without those for tokens and blobs.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.world.state().calls.clone()
    }

    /// The names of the resources of a type, `Microsoft.Compute/disks`.
    #[must_use]
    pub fn names(&self, kind: &str) -> Vec<String> {
        self.world.state().of_kind(kind).map(|resource| resource.name()).collect()
    }

    /// A resource as Azure would show it; `null` when it is not there.
    #[must_use]
    pub fn resource(&self, kind: &str, name: &str) -> serde_json::Value {
        let state = self.world.state();
        let found = state.of_kind(kind).find(|resource| resource.name().eq_ignore_ascii_case(name));
        found.map(|resource| resource.json.clone()).unwrap_or_default()
    }

    /// Somebody gives a resource other tags.
    pub fn set_tags(&self, kind: &str, name: &str, tags: serde_json::Value) {
        let mut state = self.world.state();
        let id = state.of_kind(kind).find(|one| one.name().eq_ignore_ascii_case(name));
        let id = id.map(|one| one.text("/id").to_owned());
        if let Some(resource) = id.and_then(|id| state.get_mut(&id)) {
            resource.json["tags"] = tags;
        }
    }

    /// Somebody lets a virtual machine's system disk stay when the machine is deleted.
    pub fn keep_disk_of(&self, name: &str) {
        let mut state = self.world.state();
        let id = state.of_kind(machines::KIND).find(|one| one.name().eq_ignore_ascii_case(name));
        let id = id.map(|one| one.text("/id").to_owned());
        if let Some(resource) = id.and_then(|id| state.get_mut(&id)) {
            resource.json["properties"]["storageProfile"]["osDisk"]["deleteOption"] =
                serde_json::json!("Detach");
        }
    }

    /// What a virtual machine was given to run at its first start; `None`: nothing, or there is no such machine.
    #[must_use]
    pub fn custom_data(&self, name: &str) -> Option<Vec<u8>> {
        let end = format!("/{}", name.to_lowercase());
        let state = self.world.state();
        state.custom_data.iter().find(|(id, _)| id.ends_with(&end)).map(|(_, data)| data.clone())
    }

    /// Where the files of it are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.server.stop();
        self.world.stop_guests();
    }
}
