//! What a vSphere site is told: where it is, who Switchback is there, where new machines go, and how disks are reached.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::soap::{Trust, VimError};

/// The settings of a vSphere site. Without secrets: these are [`Credentials`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VsphereSettings {
    /// `https://HOST[:PORT]/sdk` of a vCenter or a standalone ESXi host, 6.5 or newer.
    pub url: String,
    /// By what that server is known.
    pub trust: Trust,
    /// Where machines are made.
    #[serde(default)]
    pub placement: Placement,
    /// Where datastores are mounted on the master targets: directories by the datastores' names. A disk elsewhere is reached when it is attached to the
    /// master target's virtual machine.
    #[serde(default)]
    pub datastore_directories: BTreeMap<String, PathBuf>,
    /// Waits and lengths.
    #[serde(default)]
    pub limits: Limits,
}

/// Where machines are made, by names as the vSphere Client shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Placement {
    /// The ESXi host: the master target's. `None`: the one there is.
    pub host: Option<String>,
    /// The resource pool. `None`: the root of the host or its cluster.
    pub resource_pool: Option<String>,
    /// The folder. `None`: the datacenter's own.
    pub folder: Option<String>,
}

/// How long things may take, and how much is asked at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Seconds until a request is answered.
    pub request_seconds: u64,
    /// Seconds for which reading is tried again while the server cannot be reached.
    pub patience_seconds: u64,
    /// Seconds until a task is over. Merging a snapshot of a busy machine takes hours.
    pub task_seconds: u64,
    /// Objects in one page of the inventory.
    pub page_objects_max: u32,
    /// Seconds for which the server holds back its answer while nothing changes.
    pub watch_seconds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_seconds: 60,
            patience_seconds: 30,
            task_seconds: 3600,
            page_objects_max: 100,
            watch_seconds: 30,
        }
    }
}

impl Limits {
    pub(super) fn request(&self) -> Duration {
        Duration::from_secs(self.request_seconds)
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(self.patience_seconds)
    }

    pub(super) fn task(&self) -> Duration {
        Duration::from_secs(self.task_seconds)
    }

    pub(super) fn check(&self) -> Result<(), VimError> {
        let counts = [
            self.request_seconds,
            self.task_seconds,
            self.page_objects_max.into(),
            self.watch_seconds.into(),
        ];
        if counts.contains(&0) {
            let problem = "of the limits only `patience-seconds` may be 0";
            return Err(VimError::Settings(problem.to_owned()));
        }
        Ok(())
    }
}

/// Who Switchback is at a site. The memory of the password is cleared when this goes; that of a login under way is left to the HTTP library.
#[derive(Clone)]
pub struct Credentials {
    user: String,
    password: Zeroizing<String>,
}

impl Credentials {
    /// An account, `NAME@DOMAIN` or a local one.
    #[must_use]
    pub fn new(user: impl Into<String>, password: impl Into<Zeroizing<String>>) -> Self {
        Self { user: user.into(), password: password.into() }
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_settings_are_settings() {
        let guide = include_str!("../../../../docs/vsphere-site.md");
        let block = guide.split("```").nth(1).and_then(|block| block.strip_prefix("toml")).unwrap();
        let settings: VsphereSettings = toml::from_str(block).unwrap();
        assert_eq!(settings.limits, Limits::default(), "the limits that are shown are the defaults");
        assert!(settings.placement.folder.is_some() && settings.datastore_directories.len() == 1);
        let fingerprint =
            block.replace("authority =", "# authority =").replace("# fingerprint = \"AB:CD:…\"", &{
                format!("fingerprint = \"{}\"", vec!["AB"; 32].join(":"))
            });
        let settings: VsphereSettings = toml::from_str(&fingerprint).unwrap();
        assert!(matches!(settings.trust, Trust::Fingerprint(_)));
    }

    #[test]
    fn credentials_show_nothing() {
        let credentials = Credentials::new("replication@vsphere.local", "secret".to_owned());
        let shown = format!("{credentials:?} {credentials:#?}");
        assert!(!shown.contains("secret") && !shown.contains("replication"), "{shown}");
    }

    #[test]
    fn settings_are_read_from_toml() {
        let fingerprint = "ab".repeat(32);
        let settings: VsphereSettings = toml::from_str(&format!(
            "url = \"vcenter\"\n[trust]\nfingerprint = \"{fingerprint}\"\n[placement]\nhost = \"esx1\"\n\
             [datastore-directories]\n\"NFS 1\" = \"/mnt/nfs1\"\n[limits]\npatience-seconds = 0\n"
        ))
        .unwrap();
        assert_eq!(settings.placement.host.as_deref(), Some("esx1"));
        assert_eq!(settings.limits, Limits { patience_seconds: 0, ..Limits::default() });
        assert_eq!(
            toml::from_str::<VsphereSettings>(&toml::to_string(&settings).unwrap()).unwrap(),
            settings
        );
        let wrong =
            toml::from_str::<VsphereSettings>("url = \"v\"\n[trust]\nfingerprint = \"ab\"\n").unwrap_err();
        assert!(wrong.to_string().contains("64 hexadecimal digits"), "{wrong}");
        let everything = toml::from_str::<VsphereSettings>("url = \"v\"\n");
        assert!(everything.is_err(), "nothing is trusted by itself");
    }
}
