//! Where machines run and where their disks lie.

use super::{Kind, Objects, decoded_name, of_kinds};
use crate::vsphere::properties::Object;
use crate::vsphere::soap::{MoRef, Node};

pub(super) const HOST: Kind = Kind {
    name: "HostSystem",
    paths: &[
        "name",
        "parent",
        "config.product.fullName",
        "datastore",
        "network",
        "runtime.connectionState",
        "runtime.inMaintenanceMode",
        "runtime.powerState",
    ],
};

pub(super) const DATASTORE: Kind = Kind {
    name: "Datastore",
    paths: &[
        "name",
        "host",
        "summary.accessible",
        "summary.capacity",
        "summary.freeSpace",
        "summary.maintenanceMode",
        "summary.type",
        "summary.url",
    ],
};

/// The product at the other end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// `VMware vCenter Server 7.0.3 build-…`.
    pub full_name: String,
    /// A vCenter; else a standalone ESXi host.
    pub is_vcenter: bool,
    /// Of the API: `6.5`, `7.0.3.0`.
    pub api_version: String,
    /// The server's own id.
    pub instance_uuid: String,
    /// The licences' editions, `esxBasic` for the free one; none when the account may not see them.
    pub editions: Vec<String>,
}

impl About {
    pub(super) fn read(about: Option<&Node>, licences: Option<&Object>) -> Self {
        let text = |path| about.map_or_else(String::new, |about| about.owned_at(path));
        let licences = licences.into_iter().flat_map(|licences| licences.list("licenses"));
        Self {
            full_name: text("fullName"),
            is_vcenter: text("apiType") == "VirtualCenter",
            api_version: text("apiVersion"),
            instance_uuid: text("instanceUuid"),
            editions: licences.map(|licence| licence.owned_at("editionKey")).collect(),
        }
    }

    /// The free edition of ESXi, going by its licence: a hint. [`VsphereSite::refuses_changes`](crate::VsphereSite::refuses_changes) is the proof.
    #[must_use]
    pub fn looks_free(&self) -> bool {
        !self.is_vcenter && self.editions.iter().any(|edition| edition == "esxBasic")
    }
}

/// A datacenter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datacenter {
    /// It.
    pub object: MoRef,
    /// Its name.
    pub name: String,
    /// The folder it is in.
    pub parent: Option<MoRef>,
    /// The folder its machines are below.
    pub machine_folder: Option<MoRef>,
}

impl Datacenter {
    pub(super) fn read(object: &Object) -> Self {
        Self {
            object: object.reference.clone(),
            name: decoded_name(&object.owned("name")),
            parent: object.reference_at("parent"),
            machine_folder: object.reference_at("vmFolder"),
        }
    }
}

/// A cluster, or what stands in its place for a host without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComputeResource {
    /// It.
    pub object: MoRef,
    /// Its name.
    pub name: String,
    /// The folder it is in.
    pub parent: Option<MoRef>,
    /// The root of its resource pools.
    pub root_pool: Option<MoRef>,
}

impl ComputeResource {
    pub(super) fn read(object: &Object) -> Self {
        Self {
            object: object.reference.clone(),
            name: decoded_name(&object.owned("name")),
            parent: object.reference_at("parent"),
            root_pool: object.reference_at("resourcePool"),
        }
    }

    /// It is a cluster.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.object.kind == "ClusterComputeResource"
    }
}

/// A resource pool or vApp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourcePool {
    /// It.
    pub object: MoRef,
    /// Its name.
    pub name: String,
    /// The pool or compute resource it is in.
    pub parent: Option<MoRef>,
    /// The compute resource it takes from.
    pub owner: Option<MoRef>,
}

impl ResourcePool {
    pub(super) fn read(object: &Object) -> Self {
        Self {
            object: object.reference.clone(),
            name: decoded_name(&object.owned("name")),
            parent: object.reference_at("parent"),
            owner: object.reference_at("owner"),
        }
    }
}

/// A folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// It.
    pub object: MoRef,
    /// Its name.
    pub name: String,
    /// The folder or datacenter it is in.
    pub parent: Option<MoRef>,
}

impl Folder {
    pub(super) fn read(object: &Object) -> Self {
        Self {
            object: object.reference.clone(),
            name: decoded_name(&object.owned("name")),
            parent: object.reference_at("parent"),
        }
    }
}

/// An ESXi host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// It.
    pub object: MoRef,
    /// Its name: what it was added under.
    pub name: String,
    /// Its compute resource.
    pub parent: Option<MoRef>,
    /// `VMware ESXi 7.0.3 build-…`.
    pub product: String,
    /// The vCenter reaches it.
    pub is_connected: bool,
    /// In maintenance mode: nothing starts there.
    pub is_in_maintenance: bool,
    /// What it mounts, whether accessible or not.
    pub datastores: Vec<MoRef>,
    /// The networks machines there can be connected to.
    pub networks: Vec<MoRef>,
}

impl Host {
    pub(super) fn read(object: &Object) -> Self {
        Self {
            object: object.reference.clone(),
            name: decoded_name(&object.owned("name")),
            parent: object.reference_at("parent"),
            product: object.owned("config.product.fullName"),
            is_connected: object.text("runtime.connectionState") == Some("connected"),
            is_in_maintenance: object.is_true("runtime.inMaintenanceMode"),
            datastores: object.list("datastore").map(Node::reference).collect(),
            networks: object.list("network").map(Node::reference).collect(),
        }
    }
}

/// A datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatastoreInfo {
    /// It.
    pub object: MoRef,
    /// Its name, which paths of disks begin with.
    pub name: String,
    /// `VMFS`, `NFS`, `NFS41`, `vsan`, …
    pub kind: String,
    /// Where its hosts have it.
    pub url: String,
    /// Bytes.
    pub capacity: u64,
    /// Bytes.
    pub free: u64,
    /// At least one host reaches it.
    pub is_accessible: bool,
    /// Not in maintenance mode, nor entering it.
    pub is_in_service: bool,
    /// Who mounts it.
    pub mounts: Vec<Mount>,
}

/// A host's mount of a datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The host.
    pub host: MoRef,
    /// The host reaches it now.
    pub is_accessible: bool,
    /// It may be written.
    pub is_writable: bool,
}

impl DatastoreInfo {
    pub(in crate::vsphere) fn read(object: &Object) -> Self {
        let mount = |mount: &Node| {
            let said = |name: &str| mount.text_at(&format!("mountInfo.{name}"));
            Some(Mount {
                host: mount.reference_at("key")?,
                // Older hosts do not tell the first.
                is_accessible: said("accessible") != Some("false") && said("mounted") != Some("false"),
                is_writable: said("accessMode") == Some("readWrite"),
            })
        };
        Self {
            object: object.reference.clone(),
            name: decoded_name(&object.owned("name")),
            kind: object.owned("summary.type"),
            url: object.owned("summary.url"),
            capacity: object.number("summary.capacity").unwrap_or(0),
            free: object.number("summary.freeSpace").unwrap_or(0),
            is_accessible: object.is_true("summary.accessible"),
            is_in_service: object.text("summary.maintenanceMode").is_none_or(|mode| mode == "normal"),
            mounts: object.list("host").filter_map(mount).collect(),
        }
    }

    /// The host reaches it and may write it.
    #[must_use]
    pub fn is_writable_by(&self, host: &MoRef) -> bool {
        let of_host = self.mounts.iter().find(|mount| mount.host == *host);
        of_host.is_some_and(|mount| mount.is_accessible && mount.is_writable)
    }
}

/// A network or distributed port group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkInfo {
    /// It.
    pub object: MoRef,
    /// Its name.
    pub name: String,
    /// Of a distributed port group: its key, and the uuid of its switch.
    pub distributed: Option<(String, String)>,
}

pub(super) fn networks(objects: &Objects) -> Vec<NetworkInfo> {
    of_kinds(objects, &["Network", "DistributedVirtualPortgroup", "OpaqueNetwork"], |object| {
        let switch = object.reference_at("config.distributedVirtualSwitch");
        let uuid = switch.and_then(|switch| objects.get(&switch)?.text("uuid").map(str::to_owned));
        NetworkInfo {
            object: object.reference.clone(),
            name: decoded_name(&object.owned("name")),
            distributed: object.text("key").map(|key| (key.to_owned(), uuid.unwrap_or_default())),
        }
    })
}
