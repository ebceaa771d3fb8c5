//! A site whose machines are switches in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use switchback_model::ReadinessCheck;
use switchback_sites::{
    Datastore, DiskOrigin, Machine, MachineDisk, Network, NewDisk, NewMachine, Nic, Power, ServerPlan, Sight,
    Site, SiteError, Target,
};

/// A site in memory.
#[derive(Debug, Default)]
pub(crate) struct MemorySite {
    pub(crate) machines: Mutex<BTreeMap<String, Machine>>,
    /// The disks, by machine and serial number, that a master target has, and the machine that this runs in.
    lent: Mutex<BTreeMap<(String, String), String>>,
    /// Disks that machines are started without, with their places.
    aside: Mutex<Vec<(String, usize, MachineDisk)>>,
    /// Creating a machine fails with this.
    pub(crate) full: Mutex<bool>,
    /// Power cannot be cut.
    pub(crate) stuck: Mutex<bool>,
    /// Nothing but its machines' power answers.
    pub(crate) unreachable: Mutex<bool>,
    /// What the site says of every machine that may be replicated to.
    pub(crate) findings: Mutex<Vec<ReadinessCheck>>,
    /// Process servers that were made here, by name.
    pub(crate) servers: Mutex<BTreeMap<String, ServerPlan>>,
    /// What sandboxes write to their console, and what is to be seen of them.
    pub(crate) sandboxes_say: Mutex<String>,
    pub(crate) sight: Mutex<Sight>,
    /// It is of another kind.
    pub(crate) without_sandboxes: Mutex<bool>,
    /// Its machines keep the disks that they were made with.
    pub(crate) keeps_disks: Mutex<bool>,
    /// It makes machines at their first start only, of what it was told last, as Azure's does: of these that are described, what they are made of, and whether they are.
    pub(crate) described: Mutex<BTreeMap<String, (Vec<PathBuf>, bool)>>,
    pub(crate) makes_at_start: Mutex<bool>,
    /// Neither makes nor removes process servers.
    pub(crate) refuses_servers: Mutex<bool>,
}

impl MemorySite {
    fn machines(&self) -> MutexGuard<'_, BTreeMap<String, Machine>> {
        self.machines.lock().unwrap()
    }

    /// Whether a master target in that machine has the disk at a path.
    pub(crate) fn has(&self, to: &str, path: &Path) -> bool {
        let lent = self.lent.lock().unwrap();
        self.machines().values().any(|machine| {
            let is_lent = |disk: &MachineDisk| {
                lent.get(&(machine.id.clone(), disk.serial.clone())).is_some_and(|at| at == to)
            };
            machine.disks.iter().any(|disk| disk.path == path && is_lent(disk))
        })
    }

    pub(crate) fn none_lent(&self) -> bool {
        self.lent.lock().unwrap().is_empty()
    }

    pub(crate) fn all(&self) -> Vec<Machine> {
        self.machines().values().cloned().collect()
    }

    /// What is made of one that is described changes.
    fn changes(&self, id: &str) {
        let described = self.described.lock().unwrap();
        assert!(described.get(id).is_none_or(|(_, made)| !made), "{id} keeps the disks it was made with");
    }

    /// What was made of one that is described is not used any more.
    fn ends_life(&self, id: &str) {
        if let Some((_, made)) = self.described.lock().unwrap().get_mut(id) {
            *made = false;
        }
    }

    fn takes_servers(&self) -> Result<(), SiteError> {
        let (action, detail) = ("asking for a process server".into(), "no quota".into());
        let refuses = *self.refuses_servers.lock().unwrap();
        if refuses { Err(SiteError::Failed { action, detail, passing: false }) } else { Ok(()) }
    }

    fn change<T>(
        &self,
        id: &str,
        change: impl FnOnce(&mut Machine) -> Result<T, SiteError>,
    ) -> Result<T, SiteError> {
        change(self.machines().get_mut(id).ok_or_else(|| SiteError::NoSuchMachine { id: id.into() })?)
    }

    pub(crate) fn add(&self, id: &str, uuid: &str, disks: usize) {
        let machine = Machine {
            id: id.into(),
            name: id.into(),
            system_uuid: uuid.into(),
            power: Power::On,
            cpus: 1,
            memory_mib: 256,
            boot: switchback_sites::Boot::Bios,
            disks: (0..disks)
                .map(|n| MachineDisk {
                    path: format!("/home/{id}/{n}").into(),
                    size: 1 << 20,
                    serial: format!("d{n}"),
                })
                .collect(),
            nics: vec![Nic { mac: "52:54:00:00:00:01".into(), network: Some("lan".into()) }],
            snapshots: Vec::new(),
            mark: None,
        };
        self.machines().insert(id.into(), machine);
    }

    /// A machine's disks change under the hands of its administrator.
    pub(crate) fn change_disks(&self, id: &str, change: impl FnOnce(&mut Vec<MachineDisk>)) {
        change(&mut self.machines().get_mut(id).unwrap().disks);
    }

    /// Somebody takes a snapshot at the site, of a machine that runs.
    pub(crate) fn take_snapshot(&self, id: &str, name: &str) {
        self.machines().get_mut(id).unwrap().snapshots.push(name.into());
    }

    pub(crate) fn set_power(&self, id: &str, power: Power) {
        self.machines().get_mut(id).unwrap().power = power;
    }
}

/// A machine in which a recovery point is proved.
pub(crate) fn is_sandbox(machine: &Machine) -> bool {
    machine.mark.as_ref().is_some_and(|mark| mark.contains(" proof "))
}

fn off(machine: &Machine, action: &str) -> Result<(), SiteError> {
    if machine.power == Power::On {
        Err(SiteError::Running { action: action.into(), id: machine.id.clone() })
    } else {
        Ok(())
    }
}

impl Site for MemorySite {
    fn machines(&self) -> Result<Vec<Machine>, SiteError> {
        Ok(self.all())
    }
    fn machine(&self, id: &str) -> Result<Machine, SiteError> {
        self.change(id, |machine| Ok(machine.clone()))
    }
    fn datastores(&self) -> Result<Vec<Datastore>, SiteError> {
        Ok(vec![Datastore { name: "store".into(), capacity: 1 << 40, free: 1 << 39 }])
    }
    fn networks(&self) -> Result<Vec<Network>, SiteError> {
        Ok(vec![Network { name: "lan".into(), description: String::new() }])
    }
    fn create_machine(&self, new: &NewMachine) -> Result<Machine, SiteError> {
        if *self.full.lock().unwrap() {
            return Err(SiteError::NoRoom { datastore: "store".into(), needed: 1, free: 0 });
        }
        let is_empty = |disk: &NewDisk| matches!(disk.origin, DiskOrigin::Empty { .. });
        if *self.makes_at_start.lock().unwrap() && new.disks.iter().all(is_empty) {
            self.described.lock().unwrap().entry(new.id.clone()).or_default();
        }
        let mut machines = self.machines();
        let made = machines.entry(new.id.clone()).or_insert_with(|| Machine {
            id: new.id.clone(),
            name: new.name.clone(),
            system_uuid: format!("uuid-{}", new.id),
            power: Power::Off,
            cpus: new.cpus,
            memory_mib: new.memory_mib,
            boot: new.boot.clone(),
            disks: new
                .disks
                .iter()
                .enumerate()
                .map(|(n, disk)| MachineDisk {
                    path: format!("/made/{}/{n}", new.id).into(),
                    size: disk.size,
                    serial: disk.serial.clone(),
                })
                .collect(),
            nics: new.nics.clone(),
            snapshots: Vec::new(),
            mark: new.mark.clone(),
        });
        Ok(made.clone())
    }
    fn delete_machine(&self, id: &str) -> Result<(), SiteError> {
        if self.machines().contains_key(id) {
            self.change(id, |machine| off(machine, "deleting"))?;
        }
        self.machines().remove(id);
        self.described.lock().unwrap().remove(id);
        Ok(())
    }
    fn changes_disks(&self) -> bool {
        !*self.keeps_disks.lock().unwrap()
    }
    fn add_disk(&self, id: &str, disk: &NewDisk) -> Result<MachineDisk, SiteError> {
        self.change(id, |machine| {
            if let Some(there) = machine.disks.iter().find(|there| there.serial == disk.serial) {
                return Ok(there.clone());
            }
            off(machine, "adding a disk")?;
            self.changes(id);
            assert!(machine.snapshots.is_empty());
            let path = format!("/made/{id}/{}", disk.serial).into();
            let made = MachineDisk { path, size: disk.size, serial: disk.serial.clone() };
            machine.disks.push(made.clone());
            Ok(made)
        })
    }
    fn set_disks_aside(&self, id: &str, serials: &[String]) -> Result<(), SiteError> {
        self.change(id, |machine| {
            let before = machine.disks.clone();
            let mut aside = self.aside.lock().unwrap();
            for (_, place, disk) in aside.extract_if(.., |(of, ..)| of == id) {
                machine.disks.insert(place, disk);
            }
            for (place, disk) in std::mem::take(&mut machine.disks).into_iter().enumerate() {
                if serials.contains(&disk.serial) {
                    aside.push((id.into(), place, disk));
                } else {
                    machine.disks.push(disk);
                }
            }
            if machine.disks == before {
                return Ok(());
            }
            self.changes(id);
            assert!(machine.snapshots.is_empty(), "a snapshot knows which disks there were");
            off(machine, "setting disks aside")
        })
    }
    fn remove_disk(&self, id: &str, serial: &str) -> Result<(), SiteError> {
        let lent = self.lent.lock().unwrap().contains_key(&(id.into(), serial.into()));
        assert!(!lent, "a master target has the disk {serial} of {id}");
        self.aside.lock().unwrap().retain(|(of, _, disk)| of != id || disk.serial != serial);
        self.change(id, |machine| {
            if machine.disks.iter().any(|disk| disk.serial == serial) {
                off(machine, "removing a disk")?;
                self.changes(id);
                machine.disks.retain(|disk| disk.serial != serial);
            }
            Ok(())
        })
    }
    fn lend_disks(&self, id: &str, serials: &[String], to: &str) -> Result<Vec<PathBuf>, SiteError> {
        let machine = self.machine(id)?;
        off(&machine, "lending its disks")?;
        assert!(machine.snapshots.is_empty(), "the disks below a snapshot must not change");
        self.ends_life(id);
        let of = |serial: &String| {
            self.lent.lock().unwrap().insert((id.into(), serial.clone()), to.into());
            machine.disks.iter().find(|disk| disk.serial == *serial).unwrap().path.clone()
        };
        Ok(serials.iter().map(of).collect())
    }
    fn take_back_disks(&self, id: &str, serials: &[String], from: &str) -> Result<(), SiteError> {
        let is_asked = |serial: &String| serials.is_empty() || serials.contains(serial);
        self.lent.lock().unwrap().retain(|(of, serial), to| of != id || to != from || !is_asked(serial));
        Ok(())
    }
    fn check_targets(&self, targets: &[Target]) -> Result<Vec<Vec<ReadinessCheck>>, SiteError> {
        if *self.unreachable.lock().unwrap() {
            return Err(SiteError::Failed {
                action: "asking".into(),
                detail: "timed out".into(),
                passing: true,
            });
        }
        Ok(vec![self.findings.lock().unwrap().clone(); targets.len()])
    }
    fn run_from(&self, id: &str, images: &[PathBuf]) -> Result<(), SiteError> {
        let disks = self.machine(id)?.disks.len();
        let mut described = self.described.lock().unwrap();
        let (sources, made) = described.get_mut(id).expect("only those are told");
        assert!(!*made || sources == images, "it has been made of something else");
        assert_eq!(images.len(), disks, "one for each disk: {images:?}");
        *sources = images.to_vec();
        Ok(())
    }
    fn power_on(&self, id: &str) -> Result<(), SiteError> {
        if let Some((sources, made)) = self.described.lock().unwrap().get_mut(id) {
            assert!(*made || sources.len() == self.machine(id)?.disks.len(), "it is made of {sources:?}");
            *made = true;
        }
        let is_lent = self.lent.lock().unwrap().keys().any(|(of, _)| of == id);
        assert!(!is_lent, "a master target has the disks of {id}");
        self.change(id, |machine| {
            machine.power = Power::On;
            Ok(())
        })
    }
    fn shut_down(&self, id: &str, _limit: Duration) -> Result<bool, SiteError> {
        let stuck = *self.stuck.lock().unwrap();
        self.change(id, |machine| {
            if !stuck {
                machine.power = Power::Off;
            }
            Ok(machine.power == Power::Off)
        })
    }
    fn power_off(&self, id: &str) -> Result<(), SiteError> {
        if *self.stuck.lock().unwrap() {
            return Err(SiteError::Failed {
                action: format!("turning {id} off"),
                detail: "stuck".into(),
                passing: false,
            });
        }
        self.change(id, |machine| {
            machine.power = Power::Off;
            Ok(())
        })
    }
    fn connect_nics(&self, id: &str, networks: &[Option<String>]) -> Result<(), SiteError> {
        self.change(id, |machine| {
            machine.nics.iter_mut().zip(networks).for_each(|(nic, network)| nic.network.clone_from(network));
            Ok(())
        })
    }
    fn create_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError> {
        self.change(id, |machine| {
            if !machine.snapshots.iter().any(|known| known == name) {
                off(machine, "a snapshot")?;
                machine.snapshots.push(name.into());
            }
            Ok(())
        })
    }
    fn revert_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError> {
        self.change(id, |machine| {
            off(machine, "reverting")?;
            self.ends_life(id);
            let known = machine.snapshots.iter().any(|known| known == name);
            if known { Ok(()) } else { Err(SiteError::NoSuchSnapshot { id: id.into(), name: name.into() }) }
        })
    }
    fn delete_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError> {
        self.change(id, |machine| {
            machine.snapshots.retain(|known| known != name);
            Ok(())
        })
    }
    fn console(&self, id: &str, _bytes_max: usize) -> Result<String, SiteError> {
        let machine = self.machine(id)?;
        let says = self.sandboxes_say.lock().unwrap().clone();
        Ok(if is_sandbox(&machine) && machine.power == Power::On { says } else { String::new() })
    }
    fn has_sandboxes(&self) -> bool {
        !*self.without_sandboxes.lock().unwrap()
    }
    fn look(&self, id: &str) -> Result<Sight, SiteError> {
        self.machine(id)?;
        Ok(self.sight.lock().unwrap().clone())
    }
    fn deploy_server(&self, plan: &ServerPlan) -> Result<String, SiteError> {
        self.takes_servers()?;
        let mut servers = self.servers.lock().unwrap();
        if servers.get(&plan.name).is_none_or(|there| there.mark != plan.mark) {
            servers.insert(plan.name.clone(), plan.clone());
        }
        Ok(format!("vm-{}", plan.name))
    }
    fn remove_server(&self, name: &str) -> Result<(), SiteError> {
        self.takes_servers()?;
        self.servers.lock().unwrap().remove(name);
        Ok(())
    }
    fn server_console(&self, name: &str, _bytes_max: usize) -> Result<String, SiteError> {
        Ok(format!("{name} login:\nswitchback: installation failed while fetching the program\n"))
    }
}
