//! A vCenter under another address, or entered with another account: its site stays what it is.
//!
//! What this never does: take another vCenter for it. Machines are known by ids that each vCenter gives anew, and a failback to a wrong one would write over
//! somebody else's disks.

use switchback_model::{ObjectName, ProtectedItem, Site, SiteKind, VsphereKind};
use switchback_sites::Machine;
use switchback_store::{Expect, Kind};

use crate::inventory::values;
use crate::records::{Batch, Versioned};
use crate::{Control, ControlError, ErrorKind};

impl Control {
    /// Has the site of a vCenter entered at another address, or with another account. It must be the same vCenter: every machine of it that is an instance of a
    /// protected one is looked for, and has to be found.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Invalid`] for a site of another kind; [`ErrorKind::Unavailable`] when it cannot be entered so;
    /// [`ErrorKind::Conflict`] when it knows other machines, or was changed meanwhile.
    pub fn change_vcenter(&self, name: &ObjectName, kind: VsphereKind) -> Result<Site, ControlError> {
        let before: Versioned<Site> = self.records().get(Kind::Site, "site", &name.key())?;
        if !matches!(before.value.kind, SiteKind::Vsphere(_)) {
            let message = format!("the site {name} is no vCenter and no ESXi host");
            return Err(ControlError::new(ErrorKind::Invalid, "site.no-vcenter", message));
        }
        let site = Site { name: before.value.name, kind: SiteKind::Vsphere(Box::new(kind)) };
        let opened = self.open_site(&site.kind)?;
        let items: Vec<ProtectedItem> = values(self.records().all(Kind::Item)?);
        check_same_machines(&items, &site.name, &opened.machines()?)?;
        let mut batch = Batch::default();
        batch.put(Kind::Site, name.key(), Expect::Version(before.version), &site);
        self.records().commit(batch)?;
        self.site_cache().insert(name.key(), opened);
        Ok(site)
    }
}

/// Whether all instances of protected machines that are at a site are among these machines. Ids come again in another vCenter, for other machines.
fn check_same_machines(
    items: &[ProtectedItem],
    site: &ObjectName,
    machines: &[Machine],
) -> Result<(), ControlError> {
    for item in items {
        let instances = [&item.home, &item.away].into_iter().filter(|instance| instance.site == *site);
        for (instance, id) in instances.filter_map(|instance| Some((instance, instance.id.as_ref()?))) {
            let is_it = |machine: &Machine| {
                let is_known = !instance.system_uuid.is_empty() && !machine.system_uuid.is_empty();
                machine.id == *id && (!is_known || machine.system_uuid == instance.system_uuid)
            };
            if !machines.iter().any(is_it) {
                let message = format!("the machine {id} of {} is not found, or is another one", item.name);
                return Err(ControlError::new(ErrorKind::Conflict, "site.other-machines", message)
                    .cause("it is the address of another vCenter, or the account does not see the machine")
                    .remedy("give an address of the same vCenter, and an account that sees all protected machines"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use switchback_sites::{Boot, Machine, Power};

    use super::check_same_machines;
    use crate::testing::item;

    fn machine(id: &str, system_uuid: &str) -> Machine {
        Machine {
            id: id.into(),
            name: "web01".into(),
            system_uuid: system_uuid.into(),
            power: Power::On,
            cpus: 1,
            memory_mib: 1,
            boot: Boot::default(),
            disks: Vec::new(),
            nics: Vec::new(),
            snapshots: Vec::new(),
            mark: None,
        }
    }

    #[test]
    fn a_vcenter_is_the_same_when_it_has_the_protected_machines() {
        let (mut items, home) = (vec![item("web01")], "home".parse().unwrap());
        let uuid = items[0].home.system_uuid.clone();
        let same = |items: &[_], machines: &[Machine]| check_same_machines(items, &home, machines).is_ok();
        assert!(same(&items, &[machine("vm-1", "x"), machine("web01-home", &uuid)]));
        assert!(same(&items, &[machine("web01-home", "")]), "it has none before its first start");
        assert!(!same(&items, &[machine("vm-1", &uuid)]), "it is not there");
        assert!(!same(&items, &[machine("web01-home", "x")]), "the id is another machine's");
        items[0].home.id = None;
        assert!(same(&items, &[]), "nothing of it is there");
    }
}
