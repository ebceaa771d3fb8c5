//! What an Azure site is told: where it is, where replicas are, what machines get, as whom it is entered; and how long things may take.
//!
//! What it is: plain data, as users write it (TOML), and as it is stored and shown (JSON), under the same keys. What it never does: hold a secret; check more
//! than its shape (the site does, when it is opened).

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ObjectName;

/// An Azure site, and as whom it is entered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AzureKind {
    /// Where it is, what machines get.
    pub settings: AzureSettings,
    /// As whom Resource Manager is asked, and storage when there is no `container_account`.
    pub identity: AzureIdentity,
    /// The account ([`crate::AccountKind::AzureSas`]) whose password is the SAS that opens the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_account: Option<ObjectName>,
}

/// As whom an Azure site is entered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum AzureIdentity {
    /// A service principal.
    ServicePrincipal {
        /// The account ([`crate::AccountKind::Azure`]) with its secret.
        account: ObjectName,
    },
    /// The identity that Azure gives to the virtual machine that Switchback runs in.
    ManagedIdentity {
        /// The client id of one assigned by the user; `None`: the machine's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<String>,
    },
    /// A service principal that a file proves, as Kubernetes makes one.
    WorkloadIdentity {
        /// The tenant's id.
        tenant: String,
        /// The application's id.
        client: String,
        /// The file with the federated token, an absolute path.
        token_file: PathBuf,
    },
}

/// The settings of an Azure site. Without secrets: an account has them ([`AzureKind`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AzureSettings {
    /// The subscription's id.
    pub subscription: String,
    /// The resource group that machines, disks and cards are made in.
    pub resource_group: String,
    /// The region, `westeurope`: of the resource group's machines, the storage account and the virtual networks.
    pub region: String,
    /// The container of the replicas, `https://ACCOUNT.blob.core.windows.net/CONTAINER`, without a SAS.
    pub container: String,
    /// The id of its storage account, which Azure wants to know to import a disk from it.
    pub storage_account: String,
    /// Which way replicas are to take to the storage account.
    #[serde(default)]
    pub storage_path: NetworkPath,
    /// The ids of the virtual networks that may be used. None: all of the resource group in the region.
    #[serde(default)]
    pub networks: Vec<String>,
    /// What machines get.
    #[serde(default)]
    pub machines: MachineSettings,
    /// Which cloud it is.
    #[serde(default)]
    pub cloud: Cloud,
    /// Waits.
    #[serde(default)]
    pub limits: AzureLimits,
}

/// A way to a storage account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetworkPath {
    /// Its public endpoint, over the internet or a VPN.
    #[default]
    PublicEndpoint,
    /// A private endpoint in a virtual network.
    PrivateEndpoint,
    /// An ExpressRoute circuit.
    ExpressRoute {
        /// Of which peering.
        peering: Peering,
    },
}

/// A peering of an ExpressRoute circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peering {
    /// To virtual networks: a private endpoint is needed there.
    Private,
    /// To public endpoints.
    Microsoft,
}

impl fmt::Display for NetworkPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PublicEndpoint => "public endpoint",
            Self::PrivateEndpoint => "private endpoint",
            Self::ExpressRoute { peering: Peering::Private } => "ExpressRoute, private peering",
            Self::ExpressRoute { peering: Peering::Microsoft } => "ExpressRoute, Microsoft peering",
        })
    }
}

/// What machines get, unless their own plan says something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MachineSettings {
    /// The sizes that may be chosen. The smallest that has the processors, the memory and room for the disks is.
    pub sizes: Vec<String>,
    /// The kind of managed disks.
    pub disk_kind: String,
    /// An availability zone, `1` to `3`.
    pub zone: Option<String>,
    /// The id of an availability set. Not with a zone.
    pub availability_set: Option<String>,
    /// The id of a network security group for every card.
    pub security_group: Option<String>,
    /// Tags of everything that is made.
    pub tags: BTreeMap<String, String>,
}

impl Default for MachineSettings {
    fn default() -> Self {
        let family =
            |letter: char| [2, 4, 8, 16, 32, 48, 64, 96].map(|cores| format!("Standard_{letter}{cores}s_v5"));
        Self {
            sizes: family('D').into_iter().chain(family('E')).collect(),
            disk_kind: "StandardSSD_LRS".into(),
            zone: None,
            availability_set: None,
            security_group: None,
            tags: BTreeMap::new(),
        }
    }
}

/// The addresses of a cloud: Azure's own, a sovereign one, or an emulator's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cloud {
    /// Resource Manager.
    pub resource_manager: String,
    /// Who gives tokens to service principals.
    pub authority: String,
    /// Who gives tokens to managed identities: a virtual machine's metadata service.
    pub metadata: String,
    /// For what a token of Resource Manager is asked.
    pub manager_audience: String,
    /// For what a token of storage is asked.
    pub storage_audience: String,
    /// A PEM file with the authorities that may have issued the servers' certificates. `None`: those that this host trusts.
    pub certificates: Option<PathBuf>,
}

impl Default for Cloud {
    fn default() -> Self {
        Self {
            resource_manager: "https://management.azure.com".into(),
            authority: "https://login.microsoftonline.com".into(),
            metadata: "http://169.254.169.254".into(),
            manager_audience: "https://management.azure.com".into(),
            storage_audience: "https://storage.azure.com".into(),
            certificates: None,
        }
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AzureLimits {
    /// Seconds until a request is answered.
    pub request_seconds: u64,
    /// Seconds until an operation is over: the import of a disk, the start of a machine.
    pub operation_seconds: u64,
    /// How many times a request is sent at most, when Azure throttles, fails or does not answer.
    pub tries_max: u32,
    /// Seconds that are waited at most before it is sent again, whatever `Retry-After` says.
    pub pause_seconds_max: u64,
}

impl Default for AzureLimits {
    fn default() -> Self {
        Self { request_seconds: 60, operation_seconds: 3600, tries_max: 6, pause_seconds_max: 120 }
    }
}

/// What was chosen for the virtual machine to come, instead of what the site's settings say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MachinePlan {
    /// `Standard_…`.
    pub size: Option<String>,
    /// `1` to `3`.
    pub zone: Option<String>,
    /// The id of an availability set. Not with a zone.
    pub availability_set: Option<String>,
    /// The id of a network security group for its cards.
    pub security_group: Option<String>,
    /// Addresses of its cards, by position. Without one, Azure chooses.
    pub addresses: Vec<Option<Ipv4Addr>>,
    /// Its operating system is Windows.
    pub is_windows: bool,
}

impl AzureLimits {
    /// Until a request is answered.
    #[must_use]
    pub fn request(&self) -> Duration {
        Duration::from_secs(self.request_seconds)
    }

    /// Until an operation is over.
    #[must_use]
    pub fn operation(&self) -> Duration {
        Duration::from_secs(self.operation_seconds)
    }

    /// Before a request is sent again.
    #[must_use]
    pub fn pause_max(&self) -> Duration {
        Duration::from_secs(self.pause_seconds_max)
    }
}

impl AzureSettings {
    /// The last part of the container's address: its name.
    #[must_use]
    pub fn container_name(&self) -> &str {
        self.container.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }
}
