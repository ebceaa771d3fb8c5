//! Sites: the places machines run at, behind one trait.
//!
//! What it is: [`Site`], what the control plane needs of a place: its inventory, machines made, started, stopped, removed, snapshots.
//! What it never does: decide; move disk contents (that is a master target's, through [`MachineDisk::path`]); keep state of its own: what a site tells
//! is what is there.
//!
//! The path of one failover: the control plane has made a machine with disks at the recovery site ([`Site::create_machine`]); a master target
//! writes those disks; at the failover a snapshot is taken ([`Site::create_snapshot`]) and the machine started ([`Site::power_on`]); the commit removes
//! the snapshot and so makes what it wrote final ([`Site::delete_snapshot`]), another choice of recovery point goes back to it ([`Site::revert_snapshot`]).
//!
//! Every call can be repeated: what is as it should be already is success. Calls block, each with a time limit of its own.
//!
//! A master target writes the disks of a machine that is off between [`Site::lend_disks`] and [`Site::take_back_disks`].
//!
//! [`LocalSite`] is the site that is a directory of QEMU machines, [`VsphereSite`] one that is a vCenter or ESXi host, [`AzureSite`] a resource group of Azure; [`conformance`] holds all sites to the same promises.

pub mod azure;
pub mod conformance;
mod local;
pub mod trace_context;
pub mod vsphere;

pub use azure::{AzureSite, ServerImage, ServerPlan};
pub use local::{
    AcceleratorChoice, Forward, Forwarded, LocalSite, NetworkSettings, SiteSettings, UefiSettings,
    guest_makes_progress_on_kvm,
};
pub use vsphere::VsphereSite;

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use switchback_model::ReadinessCheck;
use switchback_model::azure::MachinePlan;

/// A machine at a site, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its id at the site, unique there.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// SMBIOS system UUID, lower case with dashes. Empty at a site that chooses it at the first start, until then: to be read again.
    pub system_uuid: String,
    /// Whether it runs.
    pub power: Power,
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory_mib: u32,
    /// How it boots.
    pub boot: Boot,
    /// Its disks, in order.
    pub disks: Vec<MachineDisk>,
    /// Its network cards, in order.
    pub nics: Vec<Nic>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<String>,
    /// A mark by which Switchback knows what it made: the protected machine's id and its purpose.
    pub mark: Option<String>,
}

/// Whether a machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// Surely off: nothing of it can write its disks.
    Off,
    /// Runs, or may.
    On,
}

/// How a machine boots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Boot {
    /// From its first disk, by BIOS.
    #[default]
    Bios,
    /// From its first disk, by UEFI.
    Uefi,
    /// A kernel is handed to it.
    Kernel {
        /// Absolute path on the host.
        kernel: PathBuf,
        /// Absolute path on the host.
        initrd: Option<PathBuf>,
        /// Its command line.
        command_line: String,
    },
}

/// A machine's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineDisk {
    /// Where its contents are, as the site's master targets reach them: a raw image or block device; at Azure, the address of a page blob. With snapshots: the oldest state, which
    /// does not change while the snapshot exists.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Serial number that the guest sees.
    pub serial: String,
}

/// A machine's network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// MAC address, lower case with colons. Empty as long as [`Machine::system_uuid`] is.
    pub mac: String,
    /// Name of the site's network; `None`: not connected.
    pub network: Option<String>,
}

/// What can be seen of a machine that runs, from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// A picture of its screen, as PNG.
    pub picture: Vec<u8>,
    /// What stands on its screen, where that is in text mode; else nothing.
    pub text: String,
    /// Requests of its disks that have failed: not the guest's fault, but that of what is below them.
    pub failed_requests: u64,
}

/// A machine to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMachine {
    /// Its id, chosen by the caller: made twice under one id, it is the same machine.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// SMBIOS system UUID; `None`: the site chooses.
    pub system_uuid: Option<String>,
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory_mib: u32,
    /// How it boots.
    pub boot: Boot,
    /// Its disks, in order.
    pub disks: Vec<NewDisk>,
    /// Its network cards: an empty MAC address lets the site choose.
    pub nics: Vec<Nic>,
    /// See [`Machine::mark`].
    pub mark: Option<String>,
    /// SMBIOS system UUID of the machine on whose host it is made, its master target's: only there can that reach its disks. One that the site does not have, or
    /// `None`: where the site makes machines.
    pub beside: Option<String>,
}

/// A disk to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDisk {
    /// Bytes.
    pub size: u64,
    /// Serial number; empty: the site chooses. A site whose disks cannot show it takes what comes nearest.
    pub serial: String,
    /// What it begins with.
    pub origin: DiskOrigin,
}

/// What a new disk begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOrigin {
    /// Zeros, in this datastore.
    Empty {
        /// The datastore's name.
        datastore: String,
    },
    /// The contents of a raw image, which is only read; what the machine writes goes to a file of its own in this datastore.
    Over {
        /// The raw image.
        image: PathBuf,
        /// The datastore's name.
        datastore: String,
    },
}

/// A place for disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Datastore {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub capacity: u64,
    /// Bytes.
    pub free: u64,
}

/// A network of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// What it is, for people: `user-mode NAT 10.1.0.0/24`, `segment`, `bridge br0`.
    pub description: String,
}

/// A machine that is to be replicated to, or made for that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Its id at the site; `None`: there is none.
    pub machine: Option<String>,
    /// Serial numbers of its protected disks; empty: all.
    pub serials: Vec<String>,
    /// SMBIOS system UUID of the machine that the master target runs in; empty when there is none, or it does not say.
    pub master_target: String,
    /// The master target has its disks now ([`Site::lend_disks`]).
    pub lent: bool,
}

/// A site. See the crate's header.
pub trait Site: Send + Sync + Debug {
    /// All machines.
    ///
    /// # Errors
    /// [`SiteError`].
    fn machines(&self) -> Result<Vec<Machine>, SiteError>;

    /// What is asked next is to be decided by: a site that is told of changes, and so lists what it knows, which may be a moment old, reads anew for a while.
    fn look_anew(&self) {}

    /// One machine, as it is now.
    ///
    /// # Errors
    /// [`SiteError::NoSuchMachine`].
    fn machine(&self, id: &str) -> Result<Machine, SiteError>;

    /// Its datastores.
    ///
    /// # Errors
    /// [`SiteError`].
    fn datastores(&self) -> Result<Vec<Datastore>, SiteError>;

    /// Those that the host of a machine reaches; see [`NewMachine::beside`].
    ///
    /// # Errors
    /// [`SiteError`].
    fn datastores_beside(&self, machine: &str) -> Result<Vec<Datastore>, SiteError> {
        let _ = machine;
        self.datastores()
    }

    /// Its networks.
    ///
    /// # Errors
    /// [`SiteError`].
    fn networks(&self) -> Result<Vec<Network>, SiteError>;

    /// Makes a machine, off. One with this id and mark (without a mark: and name) that is there already is it; what a failed attempt left is
    /// completed. On an error nothing of it is left.
    ///
    /// # Errors
    /// [`SiteError::NoRoom`], [`SiteError::Taken`] when the id belongs to another machine.
    fn create_machine(&self, machine: &NewMachine) -> Result<Machine, SiteError>;

    /// Removes a machine with its disks, snapshots and files. One that is not there is removed.
    ///
    /// # Errors
    /// [`SiteError::Running`] unless it is off.
    fn delete_machine(&self, id: &str) -> Result<(), SiteError>;

    /// Whether [`Site::add_disk`], [`Site::set_disks_aside`] and [`Site::remove_disk`] can be used.
    fn changes_disks(&self) -> bool {
        false
    }

    /// Gives a machine that is off another disk, its last. One with the same serial number, which must not be empty, that it has already is it. A site that
    /// chooses serial numbers itself knows the disk by both.
    ///
    /// # Errors
    /// [`SiteError::NoRoom`], [`SiteError::Running`]; it has snapshots; this kind of site gives none.
    fn add_disk(&self, id: &str, disk: &NewDisk) -> Result<MachineDisk, SiteError> {
        let detail = "this kind of site does not add disks to machines that it has made";
        Err(SiteError::failed(format!("adding the disk {} to {id}", disk.serial), detail))
    }

    /// Has a machine, off and without snapshots, start without these of its disks until it is told otherwise. They stay as they are.
    ///
    /// # Errors
    /// [`SiteError::Running`] when something would change; this kind of site cannot.
    fn set_disks_aside(&self, id: &str, serials: &[String]) -> Result<(), SiteError> {
        if serials.is_empty() {
            return self.machine(id).map(drop);
        }
        let detail = "this kind of site starts machines with all their disks";
        Err(SiteError::failed(format!("starting {id} without {}", serials.join(", ")), detail))
    }

    /// Removes a disk of a machine that is off, with its contents; of one that runs, only what was set aside. One that it does not have is removed.
    ///
    /// # Errors
    /// [`SiteError::Running`]; this kind of site cannot.
    fn remove_disk(&self, id: &str, serial: &str) -> Result<(), SiteError> {
        let detail = "this kind of site does not take disks from machines that it has made";
        Err(SiteError::failed(format!("removing the disk {serial} of {id}"), detail))
    }

    /// Hands disks of a machine that is off to a master target, and returns their paths there, in the order of `serials` (empty: all). Those that it has
    /// already stay. `to`: the SMBIOS system UUID of the machine that the master target runs in; empty when it is not known. A site whose master
    /// targets reach its disks anyway only tells where they are.
    ///
    /// # Errors
    /// [`SiteError::NoSuchMachine`], [`SiteError::Running`]; [`SiteError::Failed`] with the reason and what to do.
    fn lend_disks(&self, id: &str, serials: &[String], to: &str) -> Result<Vec<PathBuf>, SiteError> {
        let _ = to;
        let machine = self.machine(id)?;
        if serials.is_empty() {
            return Ok(machine.disks.into_iter().map(|disk| disk.path).collect());
        }
        let of = |serial: &String| {
            let found = machine.disks.iter().find(|disk| disk.serial == *serial);
            found.map(|disk| disk.path.clone()).ok_or_else(|| {
                SiteError::failed(
                    format!("looking up disks of {id}"),
                    format!("it has no disk {serial} any more"),
                )
            })
        };
        serials.iter().map(of).collect()
    }

    /// Takes disks of a machine (without `serials`: all) back from a master target, which does not use them any more. Those it does not have are back.
    ///
    /// # Errors
    /// [`SiteError`]: it may have some yet.
    fn take_back_disks(&self, id: &str, serials: &[String], from: &str) -> Result<(), SiteError> {
        let _ = (id, serials, from);
        Ok(())
    }

    /// Fills the disks of a new machine, in their order, with what those of another one of this site hold, which stays as it is: both are off. So a
    /// replication to the new one moves what differs alone. `false`: this site has no way to.
    ///
    /// # Errors
    /// [`SiteError`]: some may be filled, the others are empty yet.
    fn seed_disks(&self, id: &str, from: &str, serials: &[String]) -> Result<bool, SiteError> {
        let _ = (id, from, serials);
        Ok(false)
    }

    /// Whether machines of this site could be replicated to, as far as the site itself knows: the checks of each, in the order of `targets`. Nothing is changed
    /// for it, but for what leaves no trace.
    ///
    /// # Errors
    /// [`SiteError`]: the site cannot be asked.
    fn check_targets(&self, targets: &[Target]) -> Result<Vec<Vec<ReadinessCheck>>, SiteError> {
        Ok(vec![Vec::new(); targets.len()])
    }

    /// Says what a machine that is to be made at its first start shall be. A site that makes machines at once takes nothing of it.
    ///
    /// # Errors
    /// [`SiteError`]: what is wished excludes itself, or fits no such machine.
    fn plan_machine(&self, id: &str, plan: &MachinePlan) -> Result<(), SiteError> {
        let _ = (id, plan);
        Ok(())
    }

    /// Tells where the disks of a machine that is off are at the recovery point at which its master target stands, in their order: at sites where that is
    /// not [`MachineDisk::path`] itself, and a master target has therefore told it.
    ///
    /// # Errors
    /// [`SiteError`].
    fn run_from(&self, id: &str, images: &[PathBuf]) -> Result<(), SiteError> {
        let _ = images;
        self.machine(id).map(drop)
    }

    /// What earlier failovers of a machine have left here that it does not use any more, by name: at sites where each failover makes it anew.
    ///
    /// # Errors
    /// [`SiteError`].
    fn left_behind(&self, id: &str) -> Result<Vec<String>, SiteError> {
        let _ = id;
        Ok(Vec::new())
    }

    /// Deletes that. The machine and its replica stay.
    ///
    /// # Errors
    /// [`SiteError::Running`]: some of it runs; nothing was deleted then.
    fn clean_up(&self, id: &str) -> Result<(), SiteError> {
        let _ = id;
        Ok(())
    }

    /// Makes a process server that installs itself, and starts it; gives its machine's name. Again with the same plan, it goes on where an earlier attempt
    /// ended. One with another [`ServerPlan::mark`] is made anew.
    ///
    /// # Errors
    /// [`SiteError`]: the plan has a mistake, its address is taken, or this kind of site makes none.
    fn deploy_server(&self, plan: &ServerPlan) -> Result<String, SiteError> {
        let detail = "this kind of site makes none: install one on a machine there, and enrol it";
        Err(SiteError::failed(format!("making the process server {}", plan.name), detail))
    }

    /// Deletes a process server that was made so, whether it runs or not. One that is not there is gone.
    ///
    /// # Errors
    /// [`SiteError::Taken`]: what has its name is somebody else's; that stays.
    fn remove_server(&self, name: &str) -> Result<(), SiteError> {
        let _ = name;
        Ok(())
    }

    /// The end of what a process server has written to its console, at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`SiteError`].
    fn server_console(&self, name: &str, bytes_max: usize) -> Result<String, SiteError> {
        let _ = (name, bytes_max);
        Ok(String::new())
    }

    /// Starts it.
    ///
    /// # Errors
    /// [`SiteError`], with what the hypervisor said.
    fn power_on(&self, id: &str) -> Result<(), SiteError>;

    /// Asks the guest to shut down and waits for it, `limit` at most. Returns whether it is off.
    ///
    /// # Errors
    /// [`SiteError`].
    fn shut_down(&self, id: &str, limit: Duration) -> Result<bool, SiteError>;

    /// Cuts its power, and makes sure that it is off.
    ///
    /// # Errors
    /// [`SiteError`]: it may still run.
    fn power_off(&self, id: &str) -> Result<(), SiteError>;

    /// Connects its network cards (by position) to networks. Takes effect at the next start.
    ///
    /// # Errors
    /// [`SiteError::NoSuchNetwork`].
    fn connect_nics(&self, id: &str, networks: &[Option<String>]) -> Result<(), SiteError>;

    /// Takes a snapshot of the disks of a machine that is off: from now on [`MachineDisk::path`] stays as it is.
    ///
    /// # Errors
    /// [`SiteError::Running`].
    fn create_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError>;

    /// Takes a machine that is off back to a snapshot, which stays. Later snapshots go: they were of a past that is no more.
    ///
    /// # Errors
    /// [`SiteError::Running`], [`SiteError::NoSuchSnapshot`].
    fn revert_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError>;

    /// Removes a snapshot and keeps what was written since, also while the machine runs. One that is not there is removed.
    ///
    /// # Errors
    /// [`SiteError`].
    fn delete_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError>;

    /// The end of what the machine has written to its console, at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`SiteError`].
    fn console(&self, id: &str, bytes_max: usize) -> Result<String, SiteError>;

    /// Whether its machines can be sandboxes, in which recovery points are proved: over images of somebody else, without a network, and looked at from outside
    /// ([`Site::look`]).
    fn has_sandboxes(&self) -> bool {
        false
    }

    /// Looks at the screen of a machine that runs.
    ///
    /// # Errors
    /// [`SiteError`]: it does not run, or this kind of site has no way to.
    fn look(&self, id: &str) -> Result<Sight, SiteError> {
        Err(SiteError::failed(format!("looking at {id}"), "this kind of site has no way to"))
    }
}

/// Why a site did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SiteError {
    /// It is not there.
    #[error("there is no machine {id} at this site")]
    NoSuchMachine {
        /// The id.
        id: String,
    },
    /// The name leads nowhere.
    #[error("there is no network {name:?} at this site; it has: {known}")]
    NoSuchNetwork {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The name leads nowhere.
    #[error("there is no datastore {name:?} at this site; it has: {known}")]
    NoSuchDatastore {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The name leads nowhere.
    #[error("the machine {id} has no snapshot {name:?}")]
    NoSuchSnapshot {
        /// The machine.
        id: String,
        /// The snapshot.
        name: String,
    },
    /// The id belongs to another machine.
    #[error("the id {id} belongs to another machine of this site, {name}")]
    Taken {
        /// The id.
        id: String,
        /// What is there.
        name: String,
    },
    /// It runs.
    #[error("{action} is only possible while the machine {id} is off")]
    Running {
        /// What was asked for.
        action: String,
        /// The machine.
        id: String,
    },
    /// The datastore is too full.
    #[error(
        "the datastore {datastore} has {free} bytes free, {needed} are needed: free some, or choose another datastore"
    )]
    NoRoom {
        /// Which.
        datastore: String,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// A file that describes the site or a machine has a mistake.
    #[error("{}, line {line}: {problem}", file.display())]
    Description {
        /// The file.
        file: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// The key and what is wrong with it.
        problem: String,
    },
    /// The site refused, or does not answer.
    #[error("{action} failed: {detail}")]
    Failed {
        /// What was being done.
        action: String,
        /// What the site says.
        detail: String,
        /// Trying again may help.
        passing: bool,
    },
}

impl SiteError {
    /// Something that will not work however often it is tried.
    pub(crate) fn failed(action: impl Into<String>, detail: impl ToString) -> Self {
        Self::Failed { action: action.into(), detail: detail.to_string(), passing: false }
    }

    /// Something that may work when it is tried again.
    pub(crate) fn passing(action: impl Into<String>, detail: impl ToString) -> Self {
        Self::Failed { action: action.into(), detail: detail.to_string(), passing: true }
    }
}
