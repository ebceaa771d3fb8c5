//! The local site: QEMU machines that are described in a directory. The guide is `docs/local-site.md`.
//!
//! ```text
//!   site.toml                     settings: QEMU, datastores, networks               (settings)
//!   accelerator                   what executes guests, and for which boot of the host (accelerator)
//!   machines/ID/machine.toml      the machine and its chain of images                (description)
//!              unfinished.toml    the same while it is being made or removed         (making)
//!              lock, run.lock     who changes it; that it runs                       (locks)
//!              qmp.sock           the way to its QEMU                                (monitor)
//!              console.log        what it wrote to its serial console
//!              screen.…           what is seen of its screen, for a moment              (screen)
//!              qemu.log           what QEMU said at its last start                   (process)
//!   DATASTORE/ID/disk-N.raw       its disks                                          (images)
//!                disk-N.M.qcow2   layers over them                                   (snapshots)
//! ```
//!
//! Nothing is kept in memory: several processes may use a site at the same time, and any may be killed at any moment. QEMU's processes
//! live on without them.

mod accelerator;
mod arguments;
mod derived;
mod description;
mod disks;
mod images;
mod locks;
mod making;
mod monitor;
mod power;
mod process;
mod screen;
mod settings;
mod snapshots;
mod toml_file;

pub use accelerator::guest_makes_progress_on_kvm;
pub use power::Forwarded;
pub use settings::{AcceleratorChoice, Forward, NetworkSettings, SiteSettings, UefiSettings};

use std::fs;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use switchback_disk::{DirVolume, Volume};

use accelerator::Accelerator;
use description::Description;
use locks::FileLock;
use toml_file::TomlFile;

use crate::{
    Datastore, Machine, MachineDisk, Network, NewDisk, NewMachine, Nic, Power, Sight, Site, SiteError,
};

const SITE: &str = "site.toml";
const MACHINES: &str = "machines";
const MACHINE: &str = "machine.toml";
/// An id becomes a directory's name and a word on QEMU's command line.
const ID_LEN_MAX: usize = 64;

/// A local site.
#[derive(Debug)]
pub struct LocalSite {
    directory: PathBuf,
    settings: SiteSettings,
    accelerator: OnceLock<Accelerator>,
    observer: fn(&str),
}

impl LocalSite {
    /// Opens the site in an existing directory.
    ///
    /// # Errors
    /// There is no `site.toml`, or a mistake in it.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, SiteError> {
        let opening = || format!("opening the site in {}", directory.as_ref().display());
        let directory =
            directory.as_ref().canonicalize().map_err(|error| SiteError::failed(opening(), error))?;
        let Some(file) = TomlFile::read(&directory.join(SITE))? else {
            let detail = format!(
                "there is no {SITE}: a local site is made by `switchback site create`, or by writing one"
            );
            return Err(SiteError::failed(opening(), detail));
        };
        let mut settings = SiteSettings::read(&file)?;
        for path in settings.datastores.values_mut() {
            *path = directory.join(&*path);
        }
        images::create_directory(&directory.join(MACHINES))
            .map_err(|error| SiteError::failed(opening(), error))?;
        Ok(Self { directory, settings, accelerator: OnceLock::new(), observer: |_| {} })
    }

    /// Makes a site and the directories of its datastores. One with the same settings that is there already is it.
    ///
    /// # Errors
    /// Settings with a mistake; another site in this directory.
    pub fn create(directory: impl AsRef<Path>, settings: &SiteSettings) -> Result<Self, SiteError> {
        let directory = directory.as_ref();
        let making = format!("making a site in {}", directory.display());
        let failed = |error: io::Error| SiteError::failed(&making, error);
        settings
            .check()
            .map_err(|(key, problem)| SiteError::failed(&making, format!("`{key}`: {problem}")))?;
        fs::create_dir_all(directory).map_err(failed)?;
        images::sync_directory_of(directory).map_err(failed)?;
        if let Some(file) = TomlFile::read(&directory.join(SITE))? {
            if SiteSettings::read(&file)? == *settings {
                return Self::open(directory);
            }
            return Err(SiteError::failed(making, format!("it has a {SITE} with other settings")));
        }
        for path in settings.datastores.values() {
            let path = directory.join(path);
            fs::create_dir_all(&path).map_err(failed)?;
            images::sync_directory_of(&path).map_err(failed)?;
        }
        let text = toml::to_string(settings).map_err(|error| SiteError::failed(&making, error))?;
        let volume = DirVolume::open(directory).map_err(|error| SiteError::failed(&making, error))?;
        volume.write_atomic(SITE, text.as_bytes()).map_err(failed)?;
        Self::open(directory)
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it is made of. Paths of datastores are absolute.
    #[must_use]
    pub fn settings(&self) -> &SiteSettings {
        &self.settings
    }

    /// Calls `observer` with the name of each step of an operation before it is done: for tests that end the process there.
    #[doc(hidden)]
    #[must_use]
    pub fn observed_by(mut self, observer: fn(&str)) -> Self {
        self.observer = observer;
        self
    }

    fn step(&self, name: &str) {
        (self.observer)(name);
    }

    /// What stands in for the site in derived names.
    fn key(&self) -> String {
        self.directory.to_string_lossy().into_owned()
    }

    fn accelerator(&self) -> Result<Accelerator, SiteError> {
        match self.settings.accelerator {
            AcceleratorChoice::Kvm => return Ok(Accelerator::Kvm),
            AcceleratorChoice::Tcg => return Ok(Accelerator::Tcg),
            AcceleratorChoice::Auto => {}
        }
        let volume = self.volume(&self.directory)?;
        Ok(*self.accelerator.get_or_init(|| Accelerator::detect(&self.settings.qemu, &volume)))
    }

    fn volume(&self, directory: &Path) -> Result<DirVolume, SiteError> {
        DirVolume::open(directory)
            .map_err(|error| SiteError::failed(format!("using {}", directory.display()), error))
    }

    fn machine_directory(&self, id: &str) -> Result<PathBuf, SiteError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_id = (1..=ID_LEN_MAX).contains(&id.len())
            && id.chars().all(fits)
            && id.starts_with(|c: char| c.is_ascii_alphanumeric());
        if is_id {
            return Ok(self.directory.join(MACHINES).join(id));
        }
        let detail =
            format!("an id has 1 to {ID_LEN_MAX} letters, digits, - _ . and begins with a letter or digit");
        Err(SiteError::failed(format!("using a machine with the id {id:?}"), detail))
    }

    fn load(&self, id: &str) -> Result<Description, SiteError> {
        let directory = self.machine_directory(id)?;
        let file = TomlFile::read(&directory.join(MACHINE))?;
        let file = file.ok_or_else(|| SiteError::NoSuchMachine { id: id.to_owned() })?;
        Description::read(&file, &directory, &self.key(), id, &self.settings)
    }

    fn save(&self, id: &str, name: &str, description: &Description) -> Result<(), SiteError> {
        let volume = self.volume(&self.machine_directory(id)?)?;
        let saving = || format!("saving the description of {id}");
        let text = toml::to_string(description).map_err(|error| SiteError::failed(saving(), error))?;
        volume.write_atomic(name, text.as_bytes()).map_err(|error| SiteError::failed(saving(), error))
    }

    /// Takes the right to change a machine that is there.
    fn lock(&self, id: &str) -> Result<FileLock, SiteError> {
        let directory = self.machine_directory(id)?;
        locks::operation(&directory).map_err(|error| match error.kind() {
            ErrorKind::NotFound => SiteError::NoSuchMachine { id: id.to_owned() },
            ErrorKind::WouldBlock => SiteError::passing(
                format!("changing the machine {id}"),
                "another process is at work on it (starting it, or merging a snapshot): try again later",
            ),
            _ => SiteError::failed(format!("locking the machine {id}"), error),
        })
    }

    fn is_running(&self, id: &str) -> Result<bool, SiteError> {
        locks::is_running(&self.machine_directory(id)?)
            .map_err(|error| SiteError::failed(format!("finding out whether {id} runs"), error))
    }

    fn must_be_off(&self, id: &str, action: &str) -> Result<(), SiteError> {
        if self.is_running(id)? {
            return Err(SiteError::Running { action: action.to_owned(), id: id.to_owned() });
        }
        Ok(())
    }

    /// The directory of a datastore.
    fn datastore(&self, name: &str) -> Result<&Path, SiteError> {
        let known = || self.settings.datastores.keys().cloned().collect::<Vec<_>>().join(", ");
        let found = self.settings.datastores.get(name);
        let missing = || SiteError::NoSuchDatastore { name: name.to_owned(), known: known() };
        found.map(PathBuf::as_path).ok_or_else(missing)
    }

    fn must_have_network(&self, name: &str) -> Result<(), SiteError> {
        if self.settings.networks.contains_key(name) {
            return Ok(());
        }
        let known = self.settings.networks.keys().cloned().collect::<Vec<_>>().join(", ");
        Err(SiteError::NoSuchNetwork { name: name.to_owned(), known })
    }

    fn view(&self, id: &str, description: Description) -> Result<Machine, SiteError> {
        let disks = description.disks.into_iter().map(|disk| MachineDisk {
            // A machine whose image is away is still there, and must be seen; starting it says what is missing.
            size: images::size(&disk.path).unwrap_or(0),
            path: disk.path,
            serial: disk.serial,
        });
        let snapshots = description.snapshots.into_iter().filter(|snapshot| !snapshot.merging);
        Ok(Machine {
            id: id.to_owned(),
            name: description.name,
            system_uuid: description.uuid,
            power: if self.is_running(id)? { Power::On } else { Power::Off },
            cpus: description.cpus,
            memory_mib: description.memory_mib,
            boot: description.boot,
            disks: disks.collect(),
            nics: description
                .nics
                .into_iter()
                .map(|nic| Nic { mac: nic.mac, network: nic.network })
                .collect(),
            snapshots: snapshots.map(|snapshot| snapshot.name).collect(),
            mark: description.mark,
        })
    }
}

impl Site for LocalSite {
    /// A machine with a mistake in its description is left out, and logged: [`Site::machine`] tells what is wrong with it.
    fn machines(&self) -> Result<Vec<Machine>, SiteError> {
        let directory = self.directory.join(MACHINES);
        let failed = |error: io::Error| SiteError::failed(format!("listing {}", directory.display()), error);
        let mut machines = Vec::new();
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(id) = name.to_str().filter(|id| self.machine_directory(id).is_ok()) else { continue };
            match self.machine(id) {
                Ok(machine) => machines.push(machine),
                Err(SiteError::NoSuchMachine { .. }) => {} // being made or removed
                Err(error) => tracing::warn!(machine = id, %error, "a machine cannot be used"),
            }
        }
        machines.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(machines)
    }

    fn machine(&self, id: &str) -> Result<Machine, SiteError> {
        self.view(id, self.load(id)?)
    }

    fn datastores(&self) -> Result<Vec<Datastore>, SiteError> {
        let one = |(name, path): (&String, &PathBuf)| {
            let (free, capacity) = images::room(path).map_err(|error| {
                SiteError::failed(format!("looking at the datastore {name}, {}", path.display()), error)
            })?;
            Ok(Datastore { name: name.clone(), capacity, free })
        };
        self.settings.datastores.iter().map(one).collect()
    }

    fn networks(&self) -> Result<Vec<Network>, SiteError> {
        let one = |(name, network): (&String, &NetworkSettings)| Network {
            name: name.clone(),
            description: network.description(),
        };
        Ok(self.settings.networks.iter().map(one).collect())
    }

    fn create_machine(&self, machine: &NewMachine) -> Result<Machine, SiteError> {
        self.make(machine)?;
        self.machine(&machine.id)
    }

    fn delete_machine(&self, id: &str) -> Result<(), SiteError> {
        self.remove(id)
    }

    fn changes_disks(&self) -> bool {
        true
    }

    fn add_disk(&self, id: &str, disk: &NewDisk) -> Result<MachineDisk, SiteError> {
        self.give_disk(id, disk)
    }

    fn set_disks_aside(&self, id: &str, serials: &[String]) -> Result<(), SiteError> {
        self.set_aside(id, serials)
    }

    fn remove_disk(&self, id: &str, serial: &str) -> Result<(), SiteError> {
        self.take_disk(id, serial)
    }

    fn power_on(&self, id: &str) -> Result<(), SiteError> {
        self.start(id)
    }

    fn shut_down(&self, id: &str, limit: Duration) -> Result<bool, SiteError> {
        self.press_power_button(id, limit)
    }

    fn power_off(&self, id: &str) -> Result<(), SiteError> {
        self.cut_power(id)
    }

    fn connect_nics(&self, id: &str, networks: &[Option<String>]) -> Result<(), SiteError> {
        let _lock = self.lock(id)?;
        let mut description = self.load(id)?;
        networks.iter().flatten().try_for_each(|name| self.must_have_network(name))?;
        if networks.len() != description.nics.len() {
            let has = description.nics.len();
            let detail = format!("it has {has} network cards, networks were named for {}", networks.len());
            return Err(SiteError::failed(format!("connecting the network cards of {id}"), detail));
        }
        for (nic, network) in description.nics.iter_mut().zip(networks) {
            nic.network.clone_from(network);
        }
        self.save(id, MACHINE, &description)
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

    fn console(&self, id: &str, bytes_max: usize) -> Result<String, SiteError> {
        self.load(id)?;
        let path = self.machine_directory(id)?.join(arguments::CONSOLE);
        let read = || -> io::Result<Vec<u8>> {
            let mut file = fs::File::open(&path)?;
            let max = u64::try_from(bytes_max).unwrap_or(u64::MAX);
            file.seek(SeekFrom::Start(file.metadata()?.len().saturating_sub(max)))?;
            let mut bytes = Vec::new();
            file.take(max).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()), // never started
            Err(error) => Err(SiteError::failed(format!("reading the console of {id}"), error)),
        }
    }

    fn has_sandboxes(&self) -> bool {
        true
    }

    fn look(&self, id: &str) -> Result<Sight, SiteError> {
        self.see(id)
    }
}
