//! vSphere's inventory as a [`Site`](crate::Site)'s: machines found by id and shown, places by name.

use aws_lc_rs::digest::{SHA256, digest};

use super::inventory::{
    Host, Inventory, KINDS, Kind, NetworkBacking, NetworkInfo, VirtualDisk, VirtualMachine,
};
use super::paths::serial;
use super::soap::{MoRef, Node, VimError, Xml};
use super::{Firmware, VsphereSite, failed};
use crate::{Boot, Datastore, Machine, MachineDisk, Network, Nic, Power, SiteError};

/// The advanced setting of a machine that has the id its maker chose.
pub(super) const ID: &str = "switchback.id";
/// The advanced setting that has [`Machine::mark`].
pub(super) const MARK: &str = "switchback.mark";

/// The instance UUID of the machine that is made under an id: a UUID of version 8 (RFC 9562, 5.8) with a hash of it.
pub(super) fn derived_uuid(id: &str) -> String {
    let hash = digest(&SHA256, format!("switchback machine {id}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_ref()[..16]);
    bytes[6] = bytes[6] & 0x0F | 0x80;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

impl VirtualMachine {
    /// The id under which its site knows it.
    #[must_use]
    pub fn site_id(&self) -> &str {
        let chosen = self.extra.get(ID).filter(|id| derived_uuid(id) == self.instance_uuid);
        chosen.map_or(&self.object.id, String::as_str)
    }
}

impl VsphereSite {
    pub(super) fn all_machines(&self) -> Result<Vec<Machine>, SiteError> {
        let inventory = self.current()?;
        let machines = inventory.machines.iter().filter(|machine| !machine.is_template);
        let whole = machines.filter_map(|machine| {
            let logged = |error: &VimError| tracing::warn!(%error, "a machine cannot be used");
            whole(machine.clone()).inspect_err(logged).ok()
        });
        let mut machines: Vec<_> = whole.map(|machine| self.view(&machine, &inventory.networks)).collect();
        machines.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(machines)
    }

    pub(super) fn one_machine(&self, id: &str) -> Result<Machine, SiteError> {
        let machine = self.find(id)?;
        let networks = match machine.cards.is_empty() {
            true => Vec::new(),
            false => self.session.networks().map_err(failed(format!("reading the networks of {id}")))?,
        };
        Ok(self.view(&machine, &networks))
    }

    /// The virtual machine that has an id.
    pub(super) fn find(&self, id: &str) -> Result<VirtualMachine, SiteError> {
        let looking = || format!("looking up the machine {id}");
        let found = self.look_up(id).map_err(failed(looking()))?;
        let machine = found.ok_or_else(|| SiteError::NoSuchMachine { id: id.to_owned() })?;
        whole(machine).map_err(failed(looking()))
    }

    fn look_up(&self, id: &str) -> Result<Option<VirtualMachine>, VimError> {
        let search =
            Xml::new().text("uuid", derived_uuid(id)).text("vmSearch", true).text("instanceUuid", true);
        let index = self.session.manager("searchIndex")?;
        let found = self.session.read(&index, "FindByUuid", search)?;
        if let Some(object) = found.first().map(Node::reference).filter(|object| !object.id.is_empty())
            && let Some(machine) = self.read_machine(&object)?
            && machine.site_id() == id
        {
            return Ok(Some(machine));
        }
        // One with a chosen id is not known by the server's.
        let machine = self.read_machine(&MoRef::new("VirtualMachine", id))?;
        Ok(machine.filter(|machine| machine.site_id() == id))
    }

    fn read_machine(&self, object: &MoRef) -> Result<Option<VirtualMachine>, VimError> {
        match self.session.object(object, kind("VirtualMachine").paths) {
            Ok(found) => Ok(Some(VirtualMachine::read(&found))),
            Err(error) if error.is("ManagedObjectNotFound") => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn view(&self, machine: &VirtualMachine, networks: &[NetworkInfo]) -> Machine {
        Machine {
            id: machine.site_id().to_owned(),
            name: machine.name.clone(),
            system_uuid: machine.system_uuid.clone(),
            power: if machine.is_surely_off() { Power::Off } else { Power::On },
            cpus: machine.cpus,
            memory_mib: machine.memory_mib,
            boot: match machine.firmware {
                Firmware::Bios => Boot::Bios,
                Firmware::Efi => Boot::Uefi,
            },
            disks: machine.disks.iter().map(|disk| self.view_disk(disk)).collect(),
            nics: machine
                .cards
                .iter()
                .map(|card| {
                    let network = network_of(&card.network, networks).filter(|_| card.starts_connected);
                    Nic { mac: card.mac.clone(), network }
                })
                .collect(),
            snapshots: machine.snapshots.iter().map(|snapshot| snapshot.name.clone()).collect(),
            mark: machine.extra.get(MARK).cloned(),
        }
    }

    pub(super) fn view_disk(&self, disk: &VirtualDisk) -> MachineDisk {
        MachineDisk {
            path: self.contents_path(&disk.base_file, disk.uuid.as_deref()),
            size: disk.size,
            serial: serial(disk.uuid.as_deref().unwrap_or_default()),
        }
    }

    pub(super) fn usable_datastores(&self, beside: &str) -> Result<Vec<Datastore>, SiteError> {
        let inventory = self.current()?;
        let host = self.host_beside(&inventory, beside).map_err(failed("listing the datastores"))?;
        let usable = inventory.datastores.iter().filter(|datastore| {
            datastore.is_accessible && host.is_none_or(|host| datastore.is_writable_by(&host.object))
        });
        let view = |datastore: &super::DatastoreInfo| Datastore {
            name: datastore.name.clone(),
            capacity: datastore.capacity,
            free: datastore.free,
        };
        Ok(usable.map(view).collect())
    }

    pub(super) fn usable_networks(&self) -> Result<Vec<Network>, SiteError> {
        let inventory = self.current()?;
        let host = self.placement_host(&inventory).map_err(failed("listing the networks"))?;
        let view = |network: &NetworkInfo| Network {
            name: network.name.clone(),
            description: match network.distributed {
                Some(_) => "distributed port group".to_owned(),
                None => "network of hosts".to_owned(),
            },
        };
        Ok(networks_of(&inventory, host).map(view).collect())
    }

    /// The host that a machine of this site is on; of one that is none of it: [`VsphereSite::placement_host`].
    pub(super) fn host_beside<'a>(
        &self,
        inventory: &'a Inventory,
        system_uuid: &str,
    ) -> Result<Option<&'a Host>, VimError> {
        let mut machines = inventory.machines.iter();
        let machine = machines.find(|one| !system_uuid.is_empty() && one.system_uuid == system_uuid);
        let at = machine.and_then(|machine| machine.host.as_ref());
        match at.and_then(|at| inventory.hosts.iter().find(|host| host.object == *at)) {
            Some(host) => Ok(Some(host)),
            None => self.placement_host(inventory),
        }
    }

    /// The host that the settings name, or the only one there is.
    pub(super) fn placement_host<'a>(&self, inventory: &'a Inventory) -> Result<Option<&'a Host>, VimError> {
        let Some(name) = &self.settings.placement.host else {
            return Ok(match inventory.hosts.as_slice() {
                [one] => Some(one),
                _ => None,
            });
        };
        let found = inventory.hosts.iter().find(|host| host.name == *name);
        let known = || inventory.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", ");
        let missing =
            || VimError::Settings(format!("there is no ESXi host {name:?} here, there are: {}", known()));
        found.map(Some).ok_or_else(missing)
    }
}

/// A machine without the disks that the account may not see must not be taken for one without disks.
fn whole(machine: VirtualMachine) -> Result<VirtualMachine, VimError> {
    if machine.unreadable.is_empty() {
        return Ok(machine);
    }
    Err(VimError::Impossible(format!(
        "the account may not read {} of the virtual machine {:?}: give its role System.Read there, and let it propagate [vsphere-unreadable]",
        machine.unreadable.join(", "),
        machine.name
    )))
}

/// The networks that machines of a host can be connected to.
pub(super) fn networks_of<'a>(
    inventory: &'a Inventory,
    host: Option<&'a Host>,
) -> impl Iterator<Item = &'a NetworkInfo> {
    inventory
        .networks
        .iter()
        .filter(move |network| host.is_none_or(|host| host.networks.contains(&network.object)))
}

fn network_of(backing: &NetworkBacking, networks: &[NetworkInfo]) -> Option<String> {
    let named = |is: &dyn Fn(&NetworkInfo) -> bool| {
        networks.iter().find(|network| is(network)).map(|network| network.name.clone())
    };
    match backing {
        NetworkBacking::Standard { name, network } => {
            // The card remembers a name that the network may no longer have.
            let current = network.as_ref().and_then(|object| named(&|network| network.object == *object));
            Some(current.unwrap_or_else(|| name.clone()))
        }
        NetworkBacking::Distributed { key } => {
            named(&|network| network.distributed.as_ref().is_some_and(|(own, _)| own == key))
        }
        NetworkBacking::Other => None,
    }
}

/// What is read of a kind of objects.
pub(super) fn kind(name: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.name == name).expect("it is in the table")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vsphere::properties::Object;

    /// As a real server tells what an account with System.View alone may not read; the simulator knows no such accounts.
    #[test]
    fn a_machine_that_is_told_in_part_is_not_used() {
        let content = |missing: &str| {
            let text = format!(
                "<objects><obj type=\"VirtualMachine\">vm-1</obj><propSet><name>name</name><val>web</val></propSet>{missing}</objects>"
            );
            let node = Node::parse(&text).unwrap().children.remove(0);
            VirtualMachine::read(&Object::read(&node).unwrap())
        };
        assert!(whole(content("")).is_ok());
        let missing = "<missingSet><path>config.hardware.device</path><fault><fault xsi:type=\"NoPermission\"/></fault></missingSet>";
        let error = whole(content(missing)).unwrap_err().to_string();
        assert!(error.contains("config.hardware.device") && error.contains("\"web\""), "{error}");
    }

    #[test]
    fn an_id_has_one_uuid() {
        let uuid = derived_uuid("web-1");
        assert_eq!(uuid, derived_uuid("web-1"));
        assert_ne!(uuid, derived_uuid("web-2"));
        let version_and_variant = (uuid.as_bytes()[14], uuid.as_bytes()[19]);
        assert!(version_and_variant.0 == b'8' && b"89ab".contains(&version_and_variant.1), "{uuid}");
    }
}
