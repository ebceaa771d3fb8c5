//! What is read of Azure's resources: the few parts that matter here. Everything may be missing.

use serde::Deserialize;
use std::collections::BTreeMap;

/// A virtual machine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Vm {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) properties: VmProperties,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct VmProperties {
    pub(super) vm_id: String,
    pub(super) provisioning_state: String,
    pub(super) hardware_profile: HardwareProfile,
    pub(super) storage_profile: StorageProfile,
    pub(super) network_profile: NetworkProfile,
    pub(super) instance_view: Option<InstanceView>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct HardwareProfile {
    pub(super) vm_size: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct StorageProfile {
    pub(super) os_disk: AttachedDisk,
    pub(super) data_disks: Vec<AttachedDisk>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct AttachedDisk {
    pub(super) lun: u32,
    pub(super) managed_disk: Option<Reference>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NetworkProfile {
    pub(super) network_interfaces: Vec<Reference>,
}

/// The id of another resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Reference {
    pub(super) id: String,
}

/// How a virtual machine is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct InstanceView {
    pub(super) statuses: Vec<StatusCode>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct StatusCode {
    pub(super) code: String,
}

impl Vm {
    /// The word behind `PowerState/`; empty: it is not known.
    pub(super) fn power_state(&self) -> &str {
        let statuses = self.properties.instance_view.as_ref().map(|view| view.statuses.as_slice());
        let mut codes = statuses.unwrap_or_default().iter();
        codes.find_map(|status| status.code.strip_prefix("PowerState/")).unwrap_or_default()
    }

    /// It has no processor: nothing of it can write its disks. What is not known may run.
    pub(super) fn is_surely_off(&self) -> bool {
        matches!(self.power_state(), "stopped" | "deallocated")
    }

    /// Its disks in the order of their places: the system's, then by LUN.
    pub(super) fn disk_ids(&self) -> Vec<String> {
        let storage = &self.properties.storage_profile;
        let mut data: Vec<&AttachedDisk> = storage.data_disks.iter().collect();
        data.sort_by_key(|disk| disk.lun);
        let all = std::iter::once(&storage.os_disk).chain(data);
        all.filter_map(|disk| Some(disk.managed_disk.as_ref()?.id.clone())).collect()
    }
}

/// A managed disk.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ManagedDisk {
    pub(super) id: String,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) properties: DiskProperties,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct DiskProperties {
    pub(super) provisioning_state: String,
    pub(super) disk_size_bytes: u64,
    pub(super) unique_id: String,
    #[serde(rename = "hyperVGeneration")]
    pub(super) generation: String,
}

/// A network card.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct NetworkInterface {
    pub(super) id: String,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) properties: CardProperties,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct CardProperties {
    pub(super) provisioning_state: String,
    pub(super) mac_address: Option<String>,
    pub(super) ip_configurations: Vec<IpConfiguration>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct IpConfiguration {
    pub(super) properties: IpProperties,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct IpProperties {
    pub(super) subnet: Reference,
    #[serde(rename = "privateIPAddress")]
    pub(super) address: Option<String>,
}

impl NetworkInterface {
    pub(super) fn subnet(&self) -> &str {
        self.properties.ip_configurations.first().map_or("", |one| &one.properties.subnet.id)
    }

    /// As machines write it: lower case, colons. Azure chooses it when the card's machine is first started.
    pub(super) fn mac(&self) -> String {
        self.properties.mac_address.as_deref().unwrap_or_default().replace('-', ":").to_lowercase()
    }
}

/// A virtual network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct VirtualNetwork {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) location: String,
    pub(super) properties: NetworkProperties,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct NetworkProperties {
    pub(super) subnets: Vec<Subnet>,
}

/// A subnet.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Subnet {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) properties: SubnetProperties,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SubnetProperties {
    pub(super) address_prefix: Option<String>,
    pub(super) address_prefixes: Vec<String>,
    pub(super) ip_configurations: Vec<Reference>,
    pub(super) delegations: Vec<serde_json::Value>,
}

impl Subnet {
    pub(super) fn prefix(&self) -> &str {
        let properties = &self.properties;
        let first = properties.address_prefixes.first().map(String::as_str);
        properties.address_prefix.as_deref().or(first).unwrap_or_default()
    }
}

/// A size of virtual machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Size {
    pub(super) name: String,
    pub(super) number_of_cores: u32,
    #[serde(rename = "memoryInMB")]
    pub(super) memory_mib: u32,
    pub(super) max_data_disk_count: u32,
}

/// How much of a quota is used.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Usage {
    pub(super) current_value: u64,
    pub(super) limit: u64,
    pub(super) name: UsageName,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct UsageName {
    pub(super) value: String,
}

/// What an account may do.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Permission {
    pub(super) actions: Vec<String>,
    pub(super) not_actions: Vec<String>,
}
