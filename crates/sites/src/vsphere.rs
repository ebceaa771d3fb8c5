//! A site that is a vCenter or a standalone ESXi host, 6.5 or newer.
//!
//! What it is: [`VsphereSite`], the [`Site`] that speaks vim25 to the server; its [`Inventory`], typed and kept current by an [`InventoryWatch`]; disks
//! handed from one virtual machine to another and back ([`VsphereSite::attach_disk`]); what the account may do ([`VsphereSite::missing_privileges`]).
//! What it never does: keep state of its own; take a server's id apart; trust any certificate; move disk contents.
//!
//! ```text
//!   VsphereSite ── Site: machines (inventory), made and removed (making), power, cards, snapshots
//!       │          disks: added, set aside, removed; attach: a disk at the master target, and from it
//!       │          privileges: what is missing for a failback; watch: what changes
//!       ▼
//!   session   logs in, again when a session has ended; reads with patience; tasks
//!       ▼
//!   soap      envelope, escaping, faults, TLS, limits
//! ```
//!
//! **Ids.** A machine's id is its managed object id, as the server gives it. A machine that was made by [`Site::create_machine`] has the id its maker chose:
//! it is kept in the machine's `switchback.id`, and the machine's instance UUID is derived from it, by which it is found in one call. A copy of
//! such a machine has the setting but, as the server sees to, another instance UUID: it is a machine of its own.
//!
//! **Disk contents.** vSphere's API moves no blocks fast enough, so a master target writes a disk's contents through one of two ways, and
//! [`MachineDisk::path`](crate::MachineDisk::path) is where it finds them:
//! * the datastore is mounted at the master target ([`VsphereSettings::datastore_directories`], an NFS datastore): `DIRECTORY/VM/DISK-flat.vmdk`, which
//!   is the raw contents;
//! * the disk is attached to the master target, itself a virtual machine: `/dev/disk/by-id/wwn-0xUUID`, once [`VsphereSite::attach_disk`] has done so.
//!
//! One disk's failback to its original machine, which is off and stays as it is: [`Site::lend_disks`] attaches its disks to the master target
//! ([`VsphereSite::attach_disk`]), which writes them; [`Site::take_back_disks`] detaches them there. Both can be repeated.

mod attach;
mod cards;
mod disks;
mod inventory;
mod lending;
mod making;
mod paths;
mod power;
mod privileges;
mod properties;
mod readiness;
mod seeding;
mod session;
mod settings;
mod snapshots;
mod soap;
mod view;
mod watch;

pub use attach::{AttachedDisk, DiskPlace};
pub use inventory::{
    About, ComputeResource, Controller, Datacenter, DatastoreInfo, Firmware, Folder, Guest, Host, Inventory,
    Mount, NetworkBacking, NetworkCard, NetworkInfo, ResourcePool, Snapshot, VirtualDisk, VirtualMachine,
    VmPower,
};
pub use privileges::{MissingPrivileges, PRIVILEGES};
pub use settings::{Credentials, Limits, Placement, VsphereSettings};
pub use soap::{Fingerprint, MoRef, Trust, VimError};
pub use watch::{InventoryWatch, WatchState};

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use session::Session;

use switchback_model::ReadinessCheck;

use crate::{Datastore, Machine, MachineDisk, Network, NewDisk, NewMachine, Site, SiteError, Target};

/// A site that is a vCenter or ESXi host. See the module's header.
#[derive(Debug)]
pub struct VsphereSite {
    session: Arc<Session>,
    settings: VsphereSettings,
    /// Held while a place for a disk is looked for and taken.
    attaching: Mutex<()>,
    /// Keeps the inventory current for those who list it.
    watch: Option<InventoryWatch>,
}

/// For so long after a change of our own, or when something is decided, the inventory is read: a watch may not have heard of the last change yet.
const SETTLES_IN: Duration = Duration::from_secs(10);

impl VsphereSite {
    /// A site with these settings. Nothing is sent yet: the server may be away. Asynchronous code calls this and all else within
    /// `spawn_blocking`; it may drop a site anywhere.
    ///
    /// # Errors
    /// The settings have a mistake, or the file of trusted authorities cannot be read.
    pub fn open(settings: VsphereSettings, credentials: Credentials) -> Result<Self, SiteError> {
        let session = Session::new(&settings, credentials).map_err(failed("opening a vSphere site"))?;
        Ok(Self { session: Arc::new(session), settings, attaching: Mutex::default(), watch: None })
    }

    /// Has the server tell what changes from now on: machines, datastores, networks and checks are then looked up in what it has told, without a request, as long as it is
    /// current. What changes a machine still reads it first, and so does what decides ([`Site::look_anew`]).
    ///
    /// # Errors
    /// As for [`VsphereSite::watch`].
    pub fn kept_current(mut self) -> Result<Self, SiteError> {
        self.watch = Some(self.watch()?);
        Ok(self)
    }

    /// The inventory as the server has told of it, or as it is read now.
    fn current(&self) -> Result<Arc<Inventory>, SiteError> {
        let told = self.watch.as_ref().map(InventoryWatch::state).filter(|state| state.trouble.is_none());
        match told.and_then(|state| state.inventory) {
            Some(inventory) if !self.session.distrusts_watches(SETTLES_IN) => Ok(inventory),
            _ => self.inventory().map(Arc::new),
        }
    }

    /// What it was opened with.
    #[must_use]
    pub fn settings(&self) -> &VsphereSettings {
        &self.settings
    }

    /// Logs in and tells what the product is.
    ///
    /// # Errors
    /// [`SiteError::Failed`]: the server cannot be reached, is not trusted, refuses the account, is too old.
    pub fn about(&self) -> Result<About, SiteError> {
        self.session.about().map_err(failed(format!("reading what {} is", self.session.url())))
    }

    /// Reads everything there is.
    ///
    /// # Errors
    /// As for [`VsphereSite::about`].
    pub fn inventory(&self) -> Result<Inventory, SiteError> {
        let read = || Ok(Inventory::of(self.session.about()?, &self.session.objects()?));
        read().map_err(failed(format!("reading the inventory of {}", self.session.url())))
    }

    /// Ends the session. The next call begins a new one.
    ///
    /// # Errors
    /// The server cannot be reached: then the session ends by itself in half an hour.
    pub fn log_out(&self) -> Result<(), SiteError> {
        self.session.logout().map_err(failed(format!("logging out of {}", self.session.url())))
    }
}

impl Site for VsphereSite {
    /// Templates are left out: they cannot run. So is, and is logged, what the account can read in part only.
    fn machines(&self) -> Result<Vec<Machine>, SiteError> {
        self.all_machines()
    }

    fn look_anew(&self) {
        self.session.distrust_watches();
    }

    fn machine(&self, id: &str) -> Result<Machine, SiteError> {
        self.one_machine(id)
    }

    /// Those that the placement's host can write; without a host, all that can be reached.
    fn datastores(&self) -> Result<Vec<Datastore>, SiteError> {
        self.usable_datastores("")
    }

    fn datastores_beside(&self, machine: &str) -> Result<Vec<Datastore>, SiteError> {
        self.usable_datastores(machine)
    }

    /// Those that the placement's host has; without a host, all.
    fn networks(&self) -> Result<Vec<Network>, SiteError> {
        self.usable_networks()
    }

    /// Disks are thin. The site chooses their serial numbers: vSphere gives every disk a UUID, and guests see that.
    fn create_machine(&self, machine: &NewMachine) -> Result<Machine, SiteError> {
        self.make(machine)?;
        self.machine(&machine.id)
    }

    /// Disks that were attached to it as to a master target, or that another machine has attached as well, are detached and stay.
    fn delete_machine(&self, id: &str) -> Result<(), SiteError> {
        self.remove(id)
    }

    /// Attaches them to the master target's virtual machine. One that is no machine of this site must have their datastores mounted.
    fn lend_disks(&self, id: &str, serials: &[String], to: &str) -> Result<Vec<PathBuf>, SiteError> {
        self.lend(id, serials, to)
    }

    fn take_back_disks(&self, id: &str, serials: &[String], from: &str) -> Result<(), SiteError> {
        self.take_back(id, serials, from)
    }

    fn changes_disks(&self) -> bool {
        true
    }

    /// It has the serial number that vSphere gives it, and is found by the one that it was asked for with as well.
    fn add_disk(&self, id: &str, disk: &NewDisk) -> Result<MachineDisk, SiteError> {
        self.give_disk(id, disk)
    }

    /// They are detached; the machine's advanced settings have their files and places.
    fn set_disks_aside(&self, id: &str, serials: &[String]) -> Result<(), SiteError> {
        self.set_aside(id, serials)
    }

    fn remove_disk(&self, id: &str, serial: &str) -> Result<(), SiteError> {
        self.take_disk(id, serial)
    }

    /// The server copies them; they stay where they are.
    fn seed_disks(&self, id: &str, from: &str, serials: &[String]) -> Result<bool, SiteError> {
        self.seed(id, from, serials).map(|()| true)
    }

    fn check_targets(&self, targets: &[Target]) -> Result<Vec<Vec<ReadinessCheck>>, SiteError> {
        self.checks(targets)
    }

    fn power_on(&self, id: &str) -> Result<(), SiteError> {
        self.start(id)
    }

    /// Asks VMware Tools. Without them in the guest there is nobody to ask, and it stays on.
    fn shut_down(&self, id: &str, limit: Duration) -> Result<bool, SiteError> {
        self.ask_guest_to_stop(id, limit)
    }

    fn power_off(&self, id: &str) -> Result<(), SiteError> {
        self.cut_power(id)
    }

    /// Of a machine that runs, vSphere moves the cards at once.
    fn connect_nics(&self, id: &str, networks: &[Option<String>]) -> Result<(), SiteError> {
        self.connect_cards(id, networks)
    }

    fn create_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError> {
        self.take_snapshot(id, name)
    }

    fn revert_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError> {
        self.go_back(id, name)
    }

    fn delete_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError> {
        self.merge_snapshot(id, name)
    }

    /// vSphere has no text of a console: it gives pictures, and windows to look and type into.
    fn console(&self, id: &str, _bytes_max: usize) -> Result<String, SiteError> {
        let machine = self.find(id)?;
        let detail = format!(
            "vSphere keeps no text of consoles: look at {:?} in the vSphere Client [vsphere-no-console]",
            machine.name
        );
        Err(SiteError::failed(format!("reading the console of {id}"), detail))
    }
}

/// Turns what went wrong in a call into what went wrong at the site.
fn failed(action: impl Into<String>) -> impl FnOnce(VimError) -> SiteError {
    let action = action.into();
    move |error| SiteError::Failed { action, passing: error.is_passing(), detail: error.to_string() }
}
