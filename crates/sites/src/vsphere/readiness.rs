//! What would keep a failback to a vCenter or ESXi host from working, found out while there is time.
//!
//! What it never does: change anything that stays. The one change is a directory made and removed, which a free ESXi host refuses.
//!
//! One look at the inventory serves all machines; the account's privileges are asked for once for all objects they need.

use std::collections::{BTreeMap, BTreeSet};

use switchback_model::{ByteSize, CheckState, ReadinessCheck};

use super::VsphereSite;
use super::inventory::{DatastoreInfo, Host, Inventory, VirtualDisk, VirtualMachine};
use super::paths::{serial, split};
use super::soap::MoRef;
use crate::{SiteError, Target};

/// Of a datastore, the least that should be free: a machine's snapshot grows while a failover is not committed.
const FREE_PERCENT_MIN: u64 = 5;

impl VsphereSite {
    pub(super) fn checks(&self, targets: &[Target]) -> Result<Vec<Vec<ReadinessCheck>>, SiteError> {
        let inventory = self.current()?;
        let looks: Vec<_> = targets.iter().map(|target| Look::at(&inventory, target)).collect();
        let objects: BTreeSet<MoRef> = looks.iter().flat_map(Look::objects).collect();
        let missing = self.missing_privileges(&objects.into_iter().collect::<Vec<_>>())?;
        let missing = missing.into_iter().map(|one| (one.object, one.privileges)).collect();
        let editions = self.edition(&inventory);
        let site = &self.settings;
        let is_mounted = |name: &str| site.datastore_directories.contains_key(name);
        Ok(looks.iter().map(|look| look.all(&editions, &missing, &is_mounted)).collect())
    }

    /// The free edition refuses every change, so nothing could be attached; a vCenter has none.
    fn edition(&self, inventory: &Inventory) -> ReadinessCheck {
        let check = ("site.edition", "The server allows changes");
        let about = &inventory.about;
        if about.is_vcenter {
            return ReadinessCheck::passed(check.0, check.1, about.full_name.clone());
        }
        let writable = inventory.datastores.iter().find(|datastore| datastore.is_accessible);
        let Some(datastore) = writable else {
            let facts = format!("{}, which has no datastore to try it at", about.full_name);
            return ReadinessCheck::raised(CheckState::Unknown, check, facts, "", "add a datastore");
        };
        match self.refuses_changes(&datastore.name) {
            Ok(false) => ReadinessCheck::passed(check.0, check.1, about.full_name.clone()),
            Ok(true) => ReadinessCheck::raised(
                CheckState::Failed,
                check,
                format!("{} refuses every change, whoever asks", about.full_name),
                "it is the free edition of ESXi, whose API only reads",
                "give it a licence that allows writing by the API, or have a vCenter manage it",
            ),
            Err(error) => ReadinessCheck::raised(
                CheckState::Unknown,
                check,
                error.to_string(),
                "",
                "see the account's privileges",
            ),
        }
    }
}

/// A target in the inventory.
struct Look<'a> {
    inventory: &'a Inventory,
    target: &'a Target,
    machine: Option<&'a VirtualMachine>,
    master_target: Option<&'a VirtualMachine>,
    host: Option<&'a Host>,
}

impl<'a> Look<'a> {
    fn at(inventory: &'a Inventory, target: &'a Target) -> Self {
        let machine = target.machine.as_deref();
        let machine =
            machine.and_then(|id| inventory.machines.iter().find(|machine| machine.site_id() == id));
        let is_master_target = |machine: &&VirtualMachine| {
            !target.master_target.is_empty() && machine.system_uuid == target.master_target
        };
        let master_target = inventory.machines.iter().find(is_master_target);
        let host = master_target.and_then(|machine| machine.host.as_ref());
        let host = host.and_then(|host| inventory.hosts.iter().find(|one| one.object == *host));
        Self { inventory, target, machine, master_target, host }
    }

    /// The protected disks that are there.
    fn disks(&self) -> Vec<&'a VirtualDisk> {
        let all = self.machine.map(|machine| machine.disks.as_slice()).unwrap_or_default();
        let is_protected = |disk: &&VirtualDisk| {
            let serials = &self.target.serials;
            serials.is_empty() || serials.contains(&serial(disk.uuid.as_deref().unwrap_or_default()))
        };
        all.iter().filter(is_protected).collect()
    }

    fn datastores(&self) -> Vec<&'a DatastoreInfo> {
        let names: BTreeSet<_> = self
            .disks()
            .into_iter()
            .filter_map(|disk| split(&disk.base_file))
            .map(|(name, _)| name)
            .collect();
        self.inventory.datastores.iter().filter(|datastore| names.contains(datastore.name.as_str())).collect()
    }

    /// What the account must have privileges on.
    fn objects(&self) -> Vec<MoRef> {
        let machines =
            [self.machine, self.master_target].into_iter().flatten().map(|machine| &machine.object);
        // Of a machine that is to be made it is not known yet where.
        let all = || self.inventory.datastores.iter().filter(|one| one.is_accessible).collect();
        let datastores = if self.machine.is_some() { self.datastores() } else { all() };
        let datastores = datastores.into_iter().map(|datastore| &datastore.object);
        machines.chain(datastores).cloned().collect()
    }

    fn all(
        &self,
        edition: &ReadinessCheck,
        missing: &BTreeMap<MoRef, Vec<String>>,
        is_mounted: &dyn Fn(&str) -> bool,
    ) -> Vec<ReadinessCheck> {
        let mut checks = vec![edition.clone(), self.privileges(missing)];
        checks.extend(self.master_target_machine(is_mounted));
        checks.extend(self.attached());
        checks.extend(self.reach(is_mounted));
        checks.push(self.room());
        checks
    }

    fn name_of(&self, object: &MoRef) -> String {
        let machines = self.inventory.machines.iter().map(|one| (&one.object, &one.name));
        let datastores = self.inventory.datastores.iter().map(|one| (&one.object, &one.name));
        let found = machines.chain(datastores).find(|(one, _)| *one == object);
        found.map_or_else(|| object.id.clone(), |(_, name)| name.clone())
    }

    fn privileges(&self, missing: &BTreeMap<MoRef, Vec<String>>) -> ReadinessCheck {
        let check = ("site.privileges", "The account's privileges suffice");
        let objects = self.objects();
        let lacking: Vec<_> = objects
            .iter()
            .filter_map(|object| {
                let privileges = missing.get(object)?;
                Some(format!("on {}: {}", self.name_of(object), privileges.join(", ")))
            })
            .collect();
        if lacking.is_empty() {
            return ReadinessCheck::passed(check.0, check.1, format!("on {} objects", objects.len()));
        }
        ReadinessCheck::raised(
            CheckState::Failed,
            check,
            format!("missing {}", lacking.join("; ")),
            "the account has a read-only role, or a role without these; datastores cannot be used, disks not attached",
            "give the account a role with these privileges, propagated from the datacenter",
        )
    }

    fn master_target_machine(&self, is_mounted: &dyn Fn(&str) -> bool) -> Vec<ReadinessCheck> {
        let check = ("master-target.machine", "Disks can be attached to the master target");
        let reached = self.datastores().iter().all(|datastore| is_mounted(&datastore.name));
        let Some(machine) = self.master_target else {
            if reached && !self.datastores().is_empty() {
                return vec![ReadinessCheck::passed(
                    check.0,
                    check.1,
                    "not needed: the datastores are mounted at the master target",
                )];
            }
            let facts = format!(
                "no virtual machine here has the SMBIOS UUID {:?} that it tells",
                self.target.master_target
            );
            return vec![ReadinessCheck::raised(
                CheckState::Failed,
                check,
                facts,
                "the master target runs elsewhere, or on an ESXi host that was not added",
                "run the master target in a virtual machine of this site, and add the host it is on",
            )];
        };
        let mut wrong = Vec::new();
        if !reached && !machine.knows_disk_uuids() {
            wrong.push((
                CheckState::Failed,
                "disk.EnableUUID is not TRUE",
                "set it while the master target is off",
            ));
        }
        let clash = self.disks().into_iter().find(|disk| {
            let uuid = disk.uuid.as_deref().map(serial);
            uuid.is_some()
                && machine
                    .disks
                    .iter()
                    .any(|own| own.base_file != disk.base_file && own.uuid.as_deref().map(serial) == uuid)
        });
        if !machine.snapshots.is_empty() {
            let remedy = "remove them: they would take in the disks that are attached to it";
            wrong.push((CheckState::Failed, "it has snapshots", remedy));
        }
        if clash.is_some() {
            wrong.push((
                CheckState::Failed,
                "it has a disk with the UUID of one of the machine's",
                "give one a new UUID (vmkfstools -J setuuid)",
            ));
        }
        if !machine.guest.tools_run {
            wrong.push((
                CheckState::Warning,
                "its VMware Tools do not run",
                "install open-vm-tools in the master target",
            ));
        }
        if self.host.is_some_and(|host| host.is_in_maintenance || !host.is_connected) {
            wrong.push((
                CheckState::Failed,
                "its ESXi host is in maintenance mode or not connected",
                "bring the host back",
            ));
        }
        if wrong.is_empty() {
            return vec![ReadinessCheck::passed(check.0, check.1, machine.name.clone())];
        }
        let raised = wrong.into_iter().map(|(state, what, remedy)| {
            ReadinessCheck::raised(state, check, format!("{:?}: {what}", machine.name), "", remedy)
        });
        raised.collect()
    }

    /// While they are lent the master target has the disks: unless somebody has detached one.
    fn attached(&self) -> Option<ReadinessCheck> {
        let check = ("master-target.disks", "The master target has the machine's disks");
        let machine = self.master_target.filter(|_| self.target.lent)?;
        let disks = self.disks();
        let missing: Vec<_> = disks
            .iter()
            .filter(|disk| machine.disk(&disk.base_file).is_none())
            .map(|disk| disk.base_file.clone())
            .collect();
        if missing.is_empty() {
            return Some(ReadinessCheck::passed(
                check.0,
                check.1,
                format!("all {} at {}", disks.len(), machine.name),
            ));
        }
        Some(ReadinessCheck::raised(
            CheckState::Failed,
            check,
            format!("not attached to {}: {}", machine.name, missing.join(", ")),
            "somebody has detached them",
            "`switchback machine resync` attaches them again, and compares",
        ))
    }

    /// Original location: the master target's host must reach every datastore of the machine.
    fn reach(&self, is_mounted: &dyn Fn(&str) -> bool) -> Option<ReadinessCheck> {
        let check = ("site.datastores-reached", "The master target's host reaches the machine's datastores");
        let host = self.host?;
        let all = self.datastores();
        let names =
            |some: &[&DatastoreInfo]| some.iter().map(|one| one.name.clone()).collect::<Vec<_>>().join(", ");
        let away: Vec<_> = all
            .iter()
            .copied()
            .filter(|one| !one.is_writable_by(&host.object) && !is_mounted(&one.name))
            .collect();
        if away.is_empty() {
            return Some(ReadinessCheck::passed(check.0, check.1, format!("{}: {}", host.name, names(&all))));
        }
        Some(ReadinessCheck::raised(
            CheckState::Failed,
            check,
            format!("{} does not reach {}", host.name, names(&away)),
            "the datastore is not mounted there, or read-only, or its storage is down",
            "mount it at that host, move the master target to a host that has it, or fail back to an alternate location",
        ))
    }

    fn room(&self) -> ReadinessCheck {
        let check = ("site.datastore-room", "The machine's datastores have room");
        let facts: Vec<_> = self
            .datastores()
            .iter()
            .map(|one| format!("{}: {} of {} free", one.name, ByteSize(one.free), ByteSize(one.capacity)))
            .collect();
        let full = self.datastores().into_iter().any(|one| one.free * 100 < one.capacity * FREE_PERCENT_MIN);
        if !full {
            return ReadinessCheck::passed(check.0, check.1, facts.join(", "));
        }
        let cause = "a machine that came home writes above a snapshot until its failover is committed";
        ReadinessCheck::raised(CheckState::Warning, check, facts.join(", "), cause, "free some")
    }
}
