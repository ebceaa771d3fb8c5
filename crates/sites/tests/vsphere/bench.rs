//! A simulator with a site that speaks to it.

use std::path::{Path, PathBuf};

use switchback_lab::vcsim::{Options, PASSWORD, Simulator, USER};
use switchback_sites::conformance::{self, Subject};
use switchback_sites::vsphere::{Credentials, Limits, MoRef, Placement, Trust, VsphereSettings, VsphereSite};
use switchback_sites::{DiskOrigin, Machine, NewMachine, Site};

/// The host that machines are made on: the one outside of the cluster; of a standalone host, its only one.
pub(crate) const HOST: &str = "DC0_H0";
pub(crate) const DATASTORE: &str = "LocalDS_0";

pub(crate) struct Bench {
    pub(crate) simulator: Simulator,
    pub(crate) site: VsphereSite,
}

impl Bench {
    /// A vCenter.
    pub(crate) fn new() -> Self {
        Self::with(Simulator::options())
    }

    pub(crate) fn with(options: Options) -> Self {
        Self::limited(options, Limits::default())
    }

    pub(crate) fn limited(options: Options, limits: Limits) -> Self {
        let simulator = options.start().unwrap_or_else(|error| panic!("{error}"));
        let settings = VsphereSettings { limits, ..settings(&simulator) };
        let site = VsphereSite::open(settings, credentials()).unwrap();
        Self { simulator, site }
    }

    /// A standalone host.
    pub(crate) fn esxi() -> Self {
        let mut bench = Self::with(Simulator::options().esxi());
        bench.reopen(|settings| settings.placement.host = None);
        bench
    }

    /// Opens the site with other settings.
    pub(crate) fn reopen(&mut self, change: impl FnOnce(&mut VsphereSettings)) {
        let mut settings = settings(&self.simulator);
        change(&mut settings);
        self.site = VsphereSite::open(settings, credentials()).unwrap();
    }

    /// A machine with this many disks of 1 MiB.
    pub(crate) fn machine(&self, id: &str, disks: usize) -> Machine {
        let mut new = self.describe(id);
        new.disks = vec![new.disks[0].clone(); disks];
        self.site.create_machine(&new).unwrap()
    }

    /// A machine with one disk in another datastore, on another host.
    pub(crate) fn machine_on(&self, id: &str, datastore: &str, host: &str) -> Machine {
        let mut elsewhere = settings(&self.simulator);
        elsewhere.placement.host = Some(host.to_owned());
        let mut new = self.describe(id);
        new.disks[0].origin = DiskOrigin::Empty { datastore: datastore.to_owned() };
        VsphereSite::open(elsewhere, credentials()).unwrap().create_machine(&new).unwrap()
    }

    pub(crate) fn describe(&self, id: &str) -> NewMachine {
        let site = VsphereSite::open(settings(&self.simulator), credentials()).unwrap();
        let subject = Subject {
            site: std::sync::Arc::new(site),
            datastore: DATASTORE.to_owned(),
            network: "VM Network".to_owned(),
            lays_over_images: false,
            replica: None,
        };
        conformance::machine(&subject, id)
    }

    /// Where a machine's files are.
    pub(crate) fn directory(&self, machine: &str) -> PathBuf {
        self.simulator.datastores()[DATASTORE].join(machine)
    }

    /// The managed object of a machine, datastore, … by its name.
    pub(crate) fn object(&self, name: &str) -> MoRef {
        let inventory = self.site.inventory().unwrap();
        let machines = inventory.machines.iter().map(|one| (&one.name, &one.object));
        let datastores = inventory.datastores.iter().map(|one| (&one.name, &one.object));
        let datacenters = inventory.datacenters.iter().map(|one| (&one.name, &one.object));
        let mut all = machines.chain(datastores).chain(datacenters);
        all.find(|(own, _)| *own == name).map(|(_, object)| object.clone()).unwrap()
    }
}

pub(crate) fn credentials() -> Credentials {
    Credentials::new(USER, PASSWORD.to_owned())
}

pub(crate) fn settings(simulator: &Simulator) -> VsphereSettings {
    VsphereSettings {
        url: simulator.url().to_owned(),
        trust: Trust::Authority(simulator.authority()),
        placement: Placement { host: Some(HOST.to_owned()), ..Placement::default() },
        datastore_directories: simulator.datastores(),
        limits: Limits::default(),
    }
}

pub(crate) fn write(path: &Path, byte: u8) {
    let len = std::fs::metadata(path).unwrap().len();
    std::fs::write(path, vec![byte; usize::try_from(len).unwrap()]).unwrap();
}

/// How many requests of a method are in a record.
pub(crate) fn requests(file: &Path, method: &str) -> usize {
    let lines = std::fs::read_to_string(file).unwrap();
    let bodies = lines.lines().map(|line| serde_json::from_str::<String>(line).unwrap());
    bodies.filter(|body| body.contains(&format!("<{method} xmlns"))).count()
}
