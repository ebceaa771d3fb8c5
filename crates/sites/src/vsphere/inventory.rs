//! What there is at a vCenter or ESXi host, typed.
//!
//! Everything here is what the server said at one moment; nothing is derived from ids, and what the account may not see is not there. Names are
//! as people know them: the API writes `/`, `\` and `%` in names as `%2f`, `%5c`, `%25`.

mod machine;
mod places;

use std::collections::BTreeMap;

use super::properties::Object;
use super::session::Session;
use super::soap::{MoRef, VimError};

pub use machine::{
    Controller, Firmware, Guest, NetworkBacking, NetworkCard, Snapshot, VirtualDisk, VirtualMachine, VmPower,
};
pub use places::{
    About, ComputeResource, Datacenter, DatastoreInfo, Folder, Host, Mount, NetworkInfo, ResourcePool,
};

/// Folders are nested by people, and not as deep as this.
const TREE_DEPTH_MAX: usize = 1000;

/// A whole site at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// The product.
    pub about: About,
    /// Datacenters. A standalone ESXi host has one.
    pub datacenters: Vec<Datacenter>,
    /// Clusters, and hosts without one.
    pub compute_resources: Vec<ComputeResource>,
    /// ESXi hosts.
    pub hosts: Vec<Host>,
    /// Resource pools, the hidden root of each compute resource included.
    pub resource_pools: Vec<ResourcePool>,
    /// Folders.
    pub folders: Vec<Folder>,
    /// Datastores with who mounts them.
    pub datastores: Vec<DatastoreInfo>,
    /// Networks and distributed port groups.
    pub networks: Vec<NetworkInfo>,
    /// Virtual machines, templates included.
    pub machines: Vec<VirtualMachine>,
}

/// The objects of a site with their properties, by which [`Inventory`] is made.
pub(super) type Objects = BTreeMap<MoRef, Object>;

/// A type of objects and the properties that are read of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) paths: &'static [&'static str],
}

/// What is read. A distributed port group is a network too, and is read as both.
pub(super) static KINDS: [Kind; 9] = [
    Kind { name: "Datacenter", paths: &["name", "parent", "vmFolder"] },
    Kind { name: "Folder", paths: &["name", "parent"] },
    Kind { name: "ComputeResource", paths: &["name", "parent", "resourcePool"] },
    Kind { name: "ResourcePool", paths: &["name", "parent", "owner"] },
    places::HOST,
    places::DATASTORE,
    Kind { name: "Network", paths: &["name"] },
    Kind { name: "DistributedVirtualPortgroup", paths: &["name", "key", "config.distributedVirtualSwitch"] },
    machine::VIRTUAL_MACHINE,
];
/// Distributed switches are read for their uuid, by which cards are connected to them.
pub(super) static SWITCH: Kind = Kind { name: "DistributedVirtualSwitch", paths: &["uuid"] };

impl Session {
    /// Reads everything.
    pub(super) fn objects(&self) -> Result<Objects, VimError> {
        let mut objects = Objects::new();
        for kind in KINDS.iter().chain([&SWITCH]) {
            for object in self.list_kind(kind)? {
                merge(&mut objects, object);
            }
        }
        Ok(objects)
    }

    fn list_kind(&self, kind: &Kind) -> Result<Vec<Object>, VimError> {
        match self.list(kind.name, kind.paths) {
            // A standalone host has no distributed switches, and may not know the word.
            Err(error) if error.is("InvalidArgument") && kind.name.starts_with("Distributed") => {
                Ok(Vec::new())
            }
            result => result,
        }
    }

    /// The product with its licence, as far as the account may see that.
    pub(super) fn about(&self) -> Result<About, VimError> {
        let login = self.login()?;
        let licences =
            login.manager("licenseManager").and_then(|manager| self.object(&manager, &["licenses"]));
        Ok(About::read(login.about(), licences.ok().as_ref()))
    }

    /// All networks there are.
    pub(super) fn networks(&self) -> Result<Vec<NetworkInfo>, VimError> {
        let mut objects = Objects::new();
        for kind in KINDS
            .iter()
            .filter(|kind| ["Network", "DistributedVirtualPortgroup"].contains(&kind.name))
            .chain([&SWITCH])
        {
            for object in self.list_kind(kind)? {
                merge(&mut objects, object);
            }
        }
        Ok(places::networks(&objects))
    }
}

/// Adds what has been read of an object to what is known of it.
pub(super) fn merge(objects: &mut Objects, object: Object) {
    match objects.get_mut(&object.reference) {
        Some(known) => {
            known.properties.extend(object.properties);
            known.denied.extend(object.denied);
        }
        None => {
            objects.insert(object.reference.clone(), object);
        }
    }
}

impl Inventory {
    pub(super) fn of(about: About, objects: &Objects) -> Self {
        Self {
            about,
            datacenters: of_kinds(objects, &["Datacenter"], Datacenter::read),
            compute_resources: of_kinds(
                objects,
                &["ComputeResource", "ClusterComputeResource"],
                ComputeResource::read,
            ),
            hosts: of_kinds(objects, &["HostSystem"], Host::read),
            resource_pools: of_kinds(objects, &["ResourcePool", "VirtualApp"], ResourcePool::read),
            folders: of_kinds(objects, &["Folder", "StoragePod"], Folder::read),
            datastores: of_kinds(objects, &["Datastore"], DatastoreInfo::read),
            networks: places::networks(objects),
            machines: of_kinds(objects, &["VirtualMachine"], VirtualMachine::read),
        }
    }

    /// The machine with this managed object id.
    #[must_use]
    pub fn machine(&self, id: &str) -> Option<&VirtualMachine> {
        self.machines.iter().find(|machine| machine.object.id == id)
    }

    /// The datacenter that a host, folder or datacenter is in.
    #[must_use]
    pub fn datacenter_of(&self, object: &MoRef) -> Option<&Datacenter> {
        self.way_up(object).find_map(|at| self.datacenters.iter().find(|one| one.object == *at))
    }

    /// Whether an object is another one, or below it.
    pub(super) fn is_below(&self, object: &MoRef, top: &MoRef) -> bool {
        self.way_up(object).any(|at| at == top)
    }

    /// An object and all above it, through compute resources and folders.
    fn way_up<'a>(&'a self, object: &'a MoRef) -> impl Iterator<Item = &'a MoRef> {
        std::iter::successors(Some(object), |at| self.parent_of(at)).take(TREE_DEPTH_MAX)
    }

    fn parent_of(&self, object: &MoRef) -> Option<&MoRef> {
        let hosts = self.hosts.iter().map(|one| (&one.object, &one.parent));
        let computes = self.compute_resources.iter().map(|one| (&one.object, &one.parent));
        let folders = self.folders.iter().map(|one| (&one.object, &one.parent));
        let mut all = hosts.chain(computes).chain(folders);
        all.find(|(one, _)| *one == object).and_then(|(_, parent)| parent.as_ref())
    }

    /// The datastores that a host can write now.
    pub fn datastores_of<'a>(&'a self, host: &'a MoRef) -> impl Iterator<Item = &'a DatastoreInfo> {
        self.datastores.iter().filter(move |datastore| datastore.is_writable_by(host))
    }
}

fn of_kinds<T>(objects: &Objects, kinds: &[&str], read: impl Fn(&Object) -> T) -> Vec<T> {
    objects.values().filter(|object| kinds.contains(&object.reference.kind.as_str())).map(read).collect()
}

/// A name as people know it.
pub(super) fn decoded_name(name: &str) -> String {
    // `%` last, or an escaped escape would be taken for one.
    ["%2f", "%2F"]
        .iter()
        .fold(name.to_owned(), |name, code| name.replace(code, "/"))
        .replace("%5c", "\\")
        .replace("%5C", "\\")
        .replace("%25", "%")
}

/// A name as the API wants it.
pub(super) fn encoded_name(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5c")
}

#[cfg(test)]
mod tests;
