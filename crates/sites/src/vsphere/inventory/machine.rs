//! Virtual machines: what they are made of and how they are.

use std::collections::BTreeMap;

use super::{Kind, decoded_name};
use crate::vsphere::properties::Object;
use crate::vsphere::soap::{MoRef, Node};

pub(in crate::vsphere) const VIRTUAL_MACHINE: Kind = Kind {
    name: "VirtualMachine",
    paths: &[
        "name",
        "parent",
        "config.extraConfig",
        "config.files.vmPathName",
        "config.firmware",
        "config.guestId",
        "config.hardware.device",
        "config.hardware.memoryMB",
        "config.hardware.numCPU",
        "config.instanceUuid",
        "config.template",
        "config.uuid",
        "guest.hostName",
        "guest.net",
        "guest.toolsRunningStatus",
        "resourcePool",
        "runtime.connectionState",
        "runtime.host",
        "runtime.powerState",
        "snapshot",
    ],
};

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualMachine {
    /// It.
    pub object: MoRef,
    /// Its name.
    pub name: String,
    /// SMBIOS system UUID, lower case with dashes.
    pub system_uuid: String,
    /// The server's id of it: a copy has another one.
    pub instance_uuid: String,
    /// How it boots.
    pub firmware: Firmware,
    /// It cannot run.
    pub is_template: bool,
    /// Its description's file: `[DATASTORE] DIRECTORY/NAME.vmx`.
    pub file: String,
    /// The guest's operating system, by vSphere's name.
    pub guest_kind: String,
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory_mib: u32,
    /// Whether it runs.
    pub power: VmPower,
    /// The server knows how it is; else what is here is what it last knew.
    pub is_connected: bool,
    /// Its ESXi host.
    pub host: Option<MoRef>,
    /// Its resource pool. A template has none.
    pub resource_pool: Option<MoRef>,
    /// The folder it is in.
    pub folder: Option<MoRef>,
    /// What its guest tells.
    pub guest: Guest,
    /// Disk controllers, by key.
    pub controllers: Vec<Controller>,
    /// Disks, by controller and unit: the order in which a guest finds them.
    pub disks: Vec<VirtualDisk>,
    /// Network cards, in order.
    pub cards: Vec<NetworkCard>,
    /// Snapshots, each behind the one it was taken above.
    pub snapshots: Vec<Snapshot>,
    /// Advanced settings, by lower-case names.
    pub extra: BTreeMap<String, String>,
    /// What the account may not read of it, by vSphere's names of properties: then what is here is not the whole.
    pub unreadable: Vec<String>,
}

/// Whether a virtual machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmPower {
    /// Off.
    Off,
    /// On.
    On,
    /// Its memory is on disk, and its disks are as the guest does not expect anybody to touch them.
    Suspended,
}

/// How a virtual machine boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// BIOS.
    Bios,
    /// UEFI.
    Efi,
}

/// What VMware Tools tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guest {
    /// They run: the guest can be asked to shut down.
    pub tools_run: bool,
    /// The guest's host name.
    pub host_name: Option<String>,
    /// Addresses of all cards.
    pub addresses: Vec<String>,
}

/// A controller of disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// Its key.
    pub key: i32,
    /// vSphere's type: `ParaVirtualSCSIController`, `VirtualIDEController`, …
    pub kind: String,
    /// Which of its kind.
    pub bus: i32,
}

/// A virtual disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualDisk {
    /// Its key.
    pub key: i32,
    /// Its controller's key.
    pub controller_key: i32,
    /// Where at the controller.
    pub unit: i32,
    /// vSphere's type of what is behind it: `VirtualDiskFlatVer2BackingInfo`, …
    pub backing: String,
    /// The file that is written now: `[DATASTORE] DIRECTORY/NAME.vmdk`.
    pub file: String,
    /// The file at the bottom: the same, unless there are snapshots.
    pub base_file: String,
    /// Where its file is.
    pub datastore: Option<MoRef>,
    /// Its UUID as the server writes it, by which a guest with `disk.EnableUUID` knows it.
    pub uuid: Option<String>,
    /// Bytes.
    pub size: u64,
    /// `persistent`, `independent_persistent`, …
    pub mode: String,
    /// Takes room as it is written.
    pub is_thin: bool,
}

/// A virtual network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkCard {
    /// Its key.
    pub key: i32,
    /// MAC address, lower case with colons.
    pub mac: String,
    /// What it is connected to.
    pub network: NetworkBacking,
    /// It is connected when the machine starts.
    pub starts_connected: bool,
    /// As the server told it, for changing it.
    pub(in crate::vsphere) device: Node,
}

/// What a network card is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkBacking {
    /// A host's network.
    Standard {
        /// Its name as the card knows it.
        name: String,
        /// The network, if the server tells.
        network: Option<MoRef>,
    },
    /// A distributed port group.
    Distributed {
        /// The port group's key.
        key: String,
    },
    /// Something else, or nothing.
    Other,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// It.
    pub object: MoRef,
    /// Its name, not necessarily unique.
    pub name: String,
    /// The one it was taken above.
    pub parent: Option<MoRef>,
    /// The machine stands above this one now.
    pub is_current: bool,
}

impl VirtualMachine {
    pub(in crate::vsphere) fn read(object: &Object) -> Self {
        let devices = || object.list("config.hardware.device");
        let mut controllers: Vec<_> = devices().filter_map(Controller::read).collect();
        controllers.sort_by_key(|controller| controller.key);
        let mut disks: Vec<_> = devices().filter_map(VirtualDisk::read).collect();
        disks.sort_by_key(|disk| (disk.controller_key, disk.unit));
        let mut cards: Vec<_> = devices().filter_map(NetworkCard::read).collect();
        cards.sort_by_key(|card| card.key);
        let option =
            |option: &Node| Some((option.text_at("key")?.to_ascii_lowercase(), option.owned_at("value")));
        Self {
            object: object.reference.clone(),
            name: decoded_name(&object.owned("name")),
            system_uuid: object.owned("config.uuid").to_ascii_lowercase(),
            instance_uuid: object.owned("config.instanceUuid").to_ascii_lowercase(),
            firmware: if object.text("config.firmware") == Some("efi") {
                Firmware::Efi
            } else {
                Firmware::Bios
            },
            is_template: object.is_true("config.template"),
            file: object.owned("config.files.vmPathName"),
            guest_kind: object.owned("config.guestId"),
            cpus: object.number("config.hardware.numCPU").unwrap_or(0),
            memory_mib: object.number("config.hardware.memoryMB").unwrap_or(0),
            power: match object.text("runtime.powerState") {
                Some("poweredOff") => VmPower::Off,
                Some("suspended") => VmPower::Suspended,
                // What is not known may run.
                _ => VmPower::On,
            },
            is_connected: object.text("runtime.connectionState").is_none_or(|state| state == "connected"),
            host: object.reference_at("runtime.host"),
            resource_pool: object.reference_at("resourcePool"),
            folder: object.reference_at("parent"),
            guest: Guest::read(object),
            controllers,
            disks,
            cards,
            snapshots: snapshots(object.get("snapshot")),
            // A server may have a setting twice; the last one counts.
            extra: object.list("config.extraConfig").filter_map(option).collect(),
            unreadable: object.denied.iter().cloned().collect(),
        }
    }

    /// Nothing of it can write its disks.
    #[must_use]
    pub fn is_surely_off(&self) -> bool {
        self.power == VmPower::Off && self.is_connected
    }

    /// Its guest knows its disks by their UUIDs.
    #[must_use]
    pub fn knows_disk_uuids(&self) -> bool {
        self.extra.get("disk.enableuuid").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

impl Guest {
    fn read(object: &Object) -> Self {
        Self {
            tools_run: object.text("guest.toolsRunningStatus") == Some("guestToolsRunning"),
            host_name: object.text("guest.hostName").filter(|name| !name.is_empty()).map(str::to_owned),
            addresses: object
                .list("guest.net")
                .flat_map(|card| card.all("ipAddress"))
                .map(|address| address.text.clone())
                .collect(),
        }
    }
}

impl Controller {
    fn read(device: &Node) -> Option<Self> {
        // SCSI of all makes, SATA, IDE, NVMe: what disks are at. Others have a bus number, too, but no disks.
        let kind = &device.xsi_type;
        let has_disks = ["SCSI", "SAS", "AHCI", "SATA", "IDE", "NVME", "LsiLogic", "BusLogic"];
        if !kind.ends_with("Controller") || !has_disks.iter().any(|word| kind.contains(word)) {
            return None;
        }
        Some(Self { key: device.number_at("key")?, kind: kind.clone(), bus: device.number_at("busNumber")? })
    }
}

impl VirtualDisk {
    fn read(device: &Node) -> Option<Self> {
        let backing = device.at("backing").filter(|_| device.xsi_type == "VirtualDisk")?;
        let mut base = backing;
        while let Some(parent) = base.at("parent") {
            base = parent;
        }
        let kib = || device.number_at::<u64>("capacityInKB")?.checked_mul(1024);
        Some(Self {
            key: device.number_at("key")?,
            controller_key: device.number_at("controllerKey").unwrap_or(0),
            unit: device.number_at("unitNumber").unwrap_or(0),
            backing: backing.xsi_type.clone(),
            file: backing.owned_at("fileName"),
            base_file: base.owned_at("fileName"),
            datastore: backing.reference_at("datastore"),
            uuid: backing.text_at("uuid").filter(|uuid| !uuid.is_empty()).map(str::to_owned),
            size: device.number_at("capacityInBytes").or_else(kib).unwrap_or(0),
            mode: backing.owned_at("diskMode"),
            is_thin: backing.is_true_at("thinProvisioned"),
        })
    }
}

impl NetworkCard {
    fn read(device: &Node) -> Option<Self> {
        // Cards alone have a MAC address.
        let mac = device.text_at("macAddress")?.to_ascii_lowercase();
        let network = match device.at("backing") {
            Some(backing) if backing.xsi_type == "VirtualEthernetCardNetworkBackingInfo" => {
                NetworkBacking::Standard {
                    name: decoded_name(&backing.owned_at("deviceName")),
                    network: backing.reference_at("network"),
                }
            }
            Some(backing) if backing.at("port").is_some() => {
                NetworkBacking::Distributed { key: backing.owned_at("port.portgroupKey") }
            }
            _ => NetworkBacking::Other,
        };
        Some(Self {
            key: device.number_at("key")?,
            mac,
            network,
            starts_connected: device.is_true_at("connectable.startConnected"),
            device: device.clone(),
        })
    }
}

fn snapshots(info: Option<&Node>) -> Vec<Snapshot> {
    let Some(info) = info else { return Vec::new() };
    let current = info.reference_at("currentSnapshot");
    let mut found = Vec::new();
    let mut left: Vec<(Option<MoRef>, &Node)> =
        info.all("rootSnapshotList").map(|tree| (None, tree)).collect();
    while let Some((parent, tree)) = left.pop() {
        let Some(object) = tree.reference_at("snapshot") else { continue };
        left.extend(tree.all("childSnapshotList").map(|child| (Some(object.clone()), child)));
        let is_current = current.as_ref() == Some(&object);
        found.push(Snapshot { object, name: decoded_name(&tree.owned_at("name")), parent, is_current });
    }
    found
}
