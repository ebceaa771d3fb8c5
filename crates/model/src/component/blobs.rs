//! Where a replica in page blobs is, how its master target gets in, and which way it is to take there.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ReadinessCheck;
use crate::azure::NetworkPath;

/// A text that is shown to nobody. `Debug` hides it; written as it is, it goes between components alone, whose connections are encrypted both ways
/// authenticated, and to no disk.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// For whom it is meant.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A folder of a container: of one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobPlace {
    /// `https://ACCOUNT.blob.core.windows.net/CONTAINER`.
    pub container: String,
    /// The folder in it, without `/` before or behind.
    pub folder: String,
    /// How to get in. `None`: not known any more, since it is kept on no disk; the configuration server tells it again.
    #[serde(default)]
    pub access: Option<BlobAccess>,
}

/// A container that a master target writes, or may have to, and the way that is to lead there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoragePath {
    /// As in [`BlobPlace::container`].
    pub container: String,
    /// The way that was chosen for its site.
    pub path: NetworkPath,
}

/// What a master target has found of a way, from where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoragePathFound {
    /// Which was looked at.
    pub storage: StoragePath,
    /// How that came out.
    pub check: ReadinessCheck,
}

impl StoragePathFound {
    /// Code and title of its check.
    pub const CHECK: (&str, &str) =
        ("master-target.network-path", "The way from the master target to storage is the chosen one");
}

/// How a container is entered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum BlobAccess {
    /// A shared access signature.
    Sas {
        /// The query, without `?`.
        sas: Secret,
    },
    /// The identity of the Azure machine that the master target runs in.
    ManagedIdentity {
        /// Of several, the one with this client id.
        client: Option<String>,
    },
    /// An application with a secret.
    ServicePrincipal {
        /// The tenant's id.
        tenant: String,
        /// The application's id.
        client: String,
        /// Its secret.
        secret: Secret,
    },
    /// An application that a file on the master target's host proves.
    WorkloadIdentity {
        /// The tenant's id.
        tenant: String,
        /// The application's id.
        client: String,
        /// The file.
        token_file: PathBuf,
    },
}
