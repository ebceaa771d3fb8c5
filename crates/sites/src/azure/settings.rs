//! What an Azure site is told: where it is, where replicas are, what machines get; and how long things may take.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::AzureError;

/// The settings of an Azure site. Without secrets: these are [`AzureCredentials`](super::AzureCredentials).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
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

/// What machines get, unless their own plan says something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
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
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
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
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
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

impl AzureLimits {
    pub(super) fn request(&self) -> Duration {
        Duration::from_secs(self.request_seconds)
    }

    pub(super) fn operation(&self) -> Duration {
        Duration::from_secs(self.operation_seconds)
    }

    pub(super) fn pause_max(&self) -> Duration {
        Duration::from_secs(self.pause_seconds_max)
    }
}

impl AzureSettings {
    pub(super) fn check(&self) -> Result<(), AzureError> {
        let wrong = |key: &str, problem: &str| Err(AzureError::Settings(format!("`{key}` {problem}")));
        for (key, value) in [
            ("subscription", &self.subscription),
            ("resource-group", &self.resource_group),
            ("region", &self.region),
        ] {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '(' | ')');
            if value.is_empty() || !value.chars().all(fits) {
                return wrong(key, &format!("cannot be {value:?}"));
            }
        }
        if self.container.contains(['?', '#', '@']) {
            return wrong("container", "has a SAS or an account in it: give that as the site's credentials");
        }
        for (key, value) in [
            ("container", &self.container),
            ("cloud.resource-manager", &self.cloud.resource_manager),
            ("cloud.authority", &self.cloud.authority),
        ] {
            if !is_safe(value) {
                return wrong(key, &format!("must be an https:// address, {value:?} is none"));
            }
        }
        for id in self.networks.iter().chain([&self.storage_account]) {
            if !id.to_lowercase().starts_with("/subscriptions/") {
                return wrong(
                    "networks",
                    &format!("and `storage-account` are ids that begin with /subscriptions/, {id:?} is none"),
                );
            }
        }
        if self.machines.zone.is_some() && self.machines.availability_set.is_some() {
            return wrong("machines.zone", "and an availability set exclude each other");
        }
        if self.machines.sizes.is_empty() {
            return wrong("machines.sizes", "must name one at least");
        }
        let AzureLimits { request_seconds, operation_seconds, tries_max, .. } = self.limits;
        if request_seconds == 0 || operation_seconds == 0 || tries_max == 0 {
            return wrong("limits", "must not be 0, but for `pause-seconds-max`");
        }
        Ok(())
    }

    /// The last part of the container's address: its name.
    pub(super) fn container_name(&self) -> &str {
        self.container.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }
}

/// Tokens and a SAS go to nobody who could be somebody else. This host itself cannot.
fn is_safe(address: &str) -> bool {
    let Ok(url) = url::Url::parse(address) else { return false };
    let is_local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    url.has_host() && (url.scheme() == "https" || url.scheme() == "http" && is_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> AzureSettings {
        toml::from_str(
            r#"
subscription = "6f1d2c3b-0000-4000-8000-5b0a11ab0001"
resource-group = "Recovery"
region = "westeurope"
container = "https://switchbackreplicas.blob.core.windows.net/replicas"
storage-account = "/subscriptions/6f1d2c3b-0000-4000-8000-5b0a11ab0001/resourceGroups/Recovery/providers/Microsoft.Storage/storageAccounts/switchbackreplicas"
"#,
        )
        .unwrap()
    }

    #[test]
    fn settings_are_read_and_written() {
        let settings = settings();
        settings.check().unwrap();
        assert_eq!(settings.container_name(), "replicas");
        assert_eq!(settings.cloud.resource_manager, "https://management.azure.com");
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<AzureSettings>(&text).unwrap(), settings);
    }

    #[test]
    fn the_documented_settings_are_settings() {
        let guide = include_str!("../../../../docs/azure-site.md");
        let block = guide.split("```").nth(1).and_then(|block| block.strip_prefix("toml")).unwrap();
        let settings: AzureSettings = toml::from_str(block).unwrap();
        settings.check().unwrap();
        assert_eq!(settings.limits, AzureLimits::default(), "the limits that are shown are the defaults");
        assert_eq!(settings.cloud, Cloud::default());
        assert!(settings.machines.sizes.iter().all(|size| MachineSettings::default().sizes.contains(size)));
    }

    #[test]
    fn wrong_settings_name_their_key() {
        let refused = |change: &dyn Fn(&mut AzureSettings), told: &str| {
            let mut settings = settings();
            change(&mut settings);
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
            assert!(!error.contains("secret"), "{error}");
        };
        refused(&|one| one.region = "west europe".into(), "`region`");
        refused(&|one| one.container.push_str("?sig=secret"), "`container` has a SAS");
        refused(&|one| one.container = "http://elsewhere/replicas".into(), "`container` must be an https://");
        refused(&|one| one.cloud.authority = "http://10.0.0.1".into(), "`cloud.authority`");
        refused(&|one| one.networks = vec!["net".into()], "`networks`");
        refused(&|one| one.machines.sizes.clear(), "`machines.sizes`");
        refused(&|one| one.limits.tries_max = 0, "`limits`");
        refused(
            &|one| {
                one.machines.zone = Some("1".into());
                one.machines.availability_set = Some("/subscriptions/x".into());
            },
            "exclude each other",
        );
    }
}
