//! Sites opened, with the accounts they are entered with.
//!
//! What it is: from what is stored of a site to the [`Site`](switchback_sites::Site) itself, and to what a master target needs to get into its container.
//! What it never does: keep a secret; each is decrypted when it is needed ([`Control::account_secret`]) and handed on.

use std::sync::Arc;

use switchback_model::azure::{AzureIdentity, AzureKind};
use switchback_model::component::{BlobAccess, BlobPlace, Secret};
use switchback_model::{AccountKind, ObjectName, Site, SiteKind, VsphereKind};
use switchback_sites::azure::{AzureCredentials, Identity};
use switchback_sites::vsphere::{Credentials, Limits, Placement, Trust, VsphereSettings, VsphereSite};
use switchback_sites::{AzureSite, LocalSite};
use zeroize::Zeroizing;

use crate::physical::PhysicalSite;
use crate::{Control, ControlError, ErrorKind};

/// With what a site is entered. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub enum SiteCredentials {
    /// It needs nothing.
    Nothing,
    /// A vCenter's or ESXi host's.
    Vsphere(Credentials),
    /// Azure's.
    Azure(AzureCredentials),
}

/// Containers that sites have, by their address, and how they are entered.
pub(crate) type Containers = Vec<(String, BlobAccess)>;

/// Opens a site as its kind says.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when it cannot be reached.
pub fn open_site(
    kind: &SiteKind,
    credentials: SiteCredentials,
) -> Result<Arc<dyn switchback_sites::Site>, ControlError> {
    match (kind, credentials) {
        (SiteKind::Local { directory }, _) => Ok(Arc::new(LocalSite::open(directory)?)),
        (SiteKind::Vsphere(vsphere), SiteCredentials::Vsphere(credentials)) => {
            Ok(Arc::new(VsphereSite::open(settings_of(vsphere)?, credentials)?.kept_current()?))
        }
        (SiteKind::Azure(azure), SiteCredentials::Azure(credentials)) => {
            Ok(Arc::new(AzureSite::open(azure.settings.clone(), credentials)?))
        }
        _ => Err(ControlError::new(
            ErrorKind::Invalid,
            "site.unknown-kind",
            "this build does not know sites of that kind",
        )),
    }
}

/// Where the disks with these addresses are, if they are blobs in one of the containers.
pub(crate) fn blob_place(containers: &Containers, targets: &[std::path::PathBuf]) -> Option<BlobPlace> {
    let first = targets.first()?.to_str()?;
    containers.iter().find_map(|(container, access)| {
        let (folder, _) = first.strip_prefix(container.as_str())?.strip_prefix('/')?.rsplit_once('/')?;
        Some(BlobPlace { container: container.clone(), folder: folder.into(), access: Some(access.clone()) })
    })
}

fn accounts_of(kind: &SiteKind) -> Vec<&ObjectName> {
    match kind {
        SiteKind::Vsphere(vsphere) => vec![&vsphere.account],
        SiteKind::Azure(azure) => {
            let own = match &azure.identity {
                AzureIdentity::ServicePrincipal { account } => Some(account),
                _ => None,
            };
            own.into_iter().chain(&azure.container_account).collect()
        }
        _ => Vec::new(),
    }
}

impl Control {
    /// Opens a site with the account it is to be entered with.
    pub(crate) fn open_site(&self, kind: &SiteKind) -> Result<Arc<dyn switchback_sites::Site>, ControlError> {
        let credentials = match kind {
            SiteKind::Physical { .. } => return Ok(Arc::new(PhysicalSite::new(Arc::downgrade(&self.inner)))),
            SiteKind::Vsphere(vsphere) => {
                let (account, password) = self.secret_of(&vsphere.account, AccountKind::Vsphere)?;
                SiteCredentials::Vsphere(Credentials::new(account, password))
            }
            SiteKind::Azure(azure) => SiteCredentials::Azure(self.azure_credentials(azure)?),
            _ => SiteCredentials::Nothing,
        };
        (self.inner.config.opener)(kind, credentials)
    }

    /// The sites that are entered with an account.
    pub(crate) fn sites_with(&self, account: &ObjectName) -> Result<Vec<Site>, ControlError> {
        let mut sites = self.sites()?;
        sites.retain(|site| accounts_of(&site.kind).contains(&account));
        Ok(sites)
    }

    /// The user and the password of an account, which must be of the kind that its site needs.
    fn secret_of(
        &self,
        name: &ObjectName,
        kind: AccountKind,
    ) -> Result<(String, Zeroizing<String>), ControlError> {
        let (account, password) = self.account_secret(name)?;
        if account.kind == kind {
            return Ok((account.user, password));
        }
        let message = format!("the account {name} is of the kind {}, {} is needed", account.kind, kind);
        Err(ControlError::new(ErrorKind::Invalid, "account.wrong-kind", message)
            .remedy(format!("make one: `switchback account add NAME --kind {kind}`")))
    }

    fn azure_credentials(&self, azure: &AzureKind) -> Result<AzureCredentials, ControlError> {
        let identity = match azure.identity.clone() {
            AzureIdentity::ServicePrincipal { account } => {
                let (tenant, client, secret) = self.principal(&account)?;
                Identity::ClientSecret { tenant, client, secret }
            }
            AzureIdentity::ManagedIdentity { client } => Identity::ManagedIdentity { client },
            AzureIdentity::WorkloadIdentity { tenant, client, token_file } => {
                Identity::WorkloadIdentity { tenant, client, token_file }
            }
        };
        Ok(AzureCredentials { identity, container_sas: self.container_sas(azure)? })
    }

    /// Tenant, application and secret of a service principal.
    fn principal(&self, account: &ObjectName) -> Result<(String, String, Zeroizing<String>), ControlError> {
        let (user, secret) = self.secret_of(account, AccountKind::Azure)?;
        let parts = user.split_once('@').filter(|(client, tenant)| !client.is_empty() && !tenant.is_empty());
        let (client, tenant) = parts.ok_or_else(|| {
            let message = format!("the user of the account {account}, {user:?}, names no service principal");
            ControlError::new(ErrorKind::Invalid, "account.invalid", message)
                .remedy("it is CLIENT_ID@TENANT_ID: `switchback account rotate NAME --user …`")
        })?;
        Ok((tenant.to_owned(), client.to_owned(), secret))
    }

    fn container_sas(&self, azure: &AzureKind) -> Result<Option<Zeroizing<String>>, ControlError> {
        let Some(account) = &azure.container_account else { return Ok(None) };
        let (_, sas) = self.secret_of(account, AccountKind::AzureSas)?;
        Ok(Some(Zeroizing::new(sas.trim().trim_start_matches('?').to_owned())))
    }

    /// The containers of all sites. One whose account cannot be used is left out, and logged: other sites' machines go on.
    pub(crate) fn containers(&self) -> Result<Containers, ControlError> {
        let mut containers = Vec::new();
        for site in self.sites()? {
            let SiteKind::Azure(azure) = &site.kind else { continue };
            match self.blob_access(azure) {
                Ok(access) => {
                    containers.push((azure.settings.container.trim_end_matches('/').to_owned(), access));
                }
                Err(error) => tracing::error!(site = %site.name, %error, "its container cannot be entered"),
            }
        }
        Ok(containers)
    }

    /// How a master target gets into an Azure site's container.
    fn blob_access(&self, azure: &AzureKind) -> Result<BlobAccess, ControlError> {
        let plain = |secret: Zeroizing<String>| Secret::new(secret.as_str().to_owned());
        if let Some(sas) = self.container_sas(azure)? {
            return Ok(BlobAccess::Sas { sas: plain(sas) });
        }
        Ok(match azure.identity.clone() {
            AzureIdentity::ServicePrincipal { account } => {
                let (tenant, client, secret) = self.principal(&account)?;
                BlobAccess::ServicePrincipal { tenant, client, secret: plain(secret) }
            }
            AzureIdentity::ManagedIdentity { client } => BlobAccess::ManagedIdentity { client },
            AzureIdentity::WorkloadIdentity { tenant, client, token_file } => {
                BlobAccess::WorkloadIdentity { tenant, client, token_file }
            }
        })
    }
}

fn settings_of(vsphere: &VsphereKind) -> Result<VsphereSettings, ControlError> {
    let invalid = |message: String| ControlError::new(ErrorKind::Invalid, "site.invalid", message);
    let trust = match (&vsphere.fingerprint, &vsphere.authority) {
        (Some(fingerprint), None) => Trust::Fingerprint(fingerprint.parse().map_err(invalid)?),
        (None, Some(authority)) => Trust::AuthorityPem(authority.clone()),
        _ => {
            let message = "a vCenter or ESXi host is known by its certificate's fingerprint, or by its authority's certificate: give one of them";
            return Err(invalid(message.into()));
        }
    };
    Ok(VsphereSettings {
        url: vsphere.url.clone(),
        trust,
        placement: Placement {
            host: vsphere.host.clone(),
            resource_pool: vsphere.resource_pool.clone(),
            folder: vsphere.folder.clone(),
        },
        datastore_directories: vsphere.datastore_directories.clone(),
        limits: Limits::default(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use switchback_model::component::BlobAccess;

    use super::blob_place;

    #[test]
    fn disks_are_found_in_the_container_that_they_are_in() {
        let access = |client: &str| BlobAccess::ManagedIdentity { client: Some(client.into()) };
        let containers = ["https://a/c", "https://a/c2"].map(|url| (url.to_owned(), access(url))).to_vec();
        let find = |target: &str| blob_place(&containers, &[PathBuf::from(target)]);
        let place = find("https://a/c2/replicas/web01/disk-0.vhd").unwrap();
        assert_eq!((place.container.as_str(), place.folder.as_str()), ("https://a/c2", "replicas/web01"));
        assert_eq!(place.access, Some(access("https://a/c2")), "not the one whose name it begins with");
        for elsewhere in ["/dev/sdb", "https://b/c/replicas/web01/disk-0.vhd", "https://a/c/disk-0.vhd"] {
            assert_eq!(find(elsewhere), None, "{elsewhere}");
        }
        assert_eq!(blob_place(&containers, &[]), None);
    }
}
