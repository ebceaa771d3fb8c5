//! `switchback site add NAME --azure FILE`: an Azure site's settings, and as whom it is entered.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use switchback_model::azure::{AzureIdentity, AzureKind, AzureSettings};

#[derive(Debug, Args)]
pub(super) struct AzureArgs {
    /// It is entered as the identity that Azure gives to the virtual machine that the configuration server runs in; of several, with this client id
    #[arg(long, requires = "azure", conflicts_with_all = ["local", "vsphere", "physical"], value_name = "CLIENT_ID", num_args = 0..=1, default_missing_value = "")]
    managed_identity: Option<String>,
    /// It is entered as a service principal that this file proves, as Kubernetes makes one (an absolute path); with --tenant and --client
    #[arg(long, requires_all = ["azure", "tenant", "client"], conflicts_with_all = ["local", "vsphere", "physical"], value_name = "FILE")]
    workload_identity: Option<PathBuf>,
    /// The service principal's tenant
    #[arg(long, requires = "workload_identity", value_name = "ID")]
    tenant: Option<String>,
    /// The service principal's application
    #[arg(long, requires = "workload_identity", value_name = "ID")]
    client: Option<String>,
    /// The account with the SAS of the container (`switchback account add NAME --kind azure-sas`) [default: the container is entered as the site is]
    #[arg(long, requires = "azure", conflicts_with_all = ["local", "vsphere", "physical"], value_name = "NAME")]
    container_account: Option<String>,
}

impl AzureArgs {
    /// What the site with the settings in a file is. `account`: that of a service principal.
    pub(super) fn properties(&self, file: &Path, account: Option<&str>) -> anyhow::Result<Value> {
        let identity = match (account, &self.managed_identity, &self.workload_identity) {
            (Some(account), None, None) => AzureIdentity::ServicePrincipal { account: account.parse()? },
            (None, Some(client), None) => {
                AzureIdentity::ManagedIdentity { client: Some(client.clone()).filter(|id| !id.is_empty()) }
            }
            (None, None, Some(token_file)) => AzureIdentity::WorkloadIdentity {
                tenant: self.tenant.clone().unwrap_or_default(),
                client: self.client.clone().unwrap_or_default(),
                token_file: token_file.clone(),
            },
            _ => bail!(
                "as whom is Azure to be asked? Give one of --account NAME (a service principal: `switchback account add NAME --kind azure`), \
                 --managed-identity and --workload-identity FILE"
            ),
        };
        let container_account = self.container_account.as_ref().map(|name| name.parse()).transpose()?;
        let mut properties = json!(AzureKind { settings: read(file)?, identity, container_account });
        properties["kind"] = "azure".into();
        Ok(properties)
    }
}

fn read(file: &Path) -> anyhow::Result<AzureSettings> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    // The parser's words show the line, its number and what is wrong with it.
    toml::from_str(&text).with_context(|| format!("{} is not the settings of an Azure site", file.display()))
}
