//! What kind of site is made known, and how it is reached.

use std::path::PathBuf;

use anyhow::bail;
use clap::{ArgGroup, Args};
use serde_json::{Map, Value, json};

use super::super::session::read_authority;
use super::azure::AzureArgs;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("kind").required(true)))]
pub(super) struct KindArgs {
    /// QEMU machines described in this directory of the configuration server's host (an absolute path there)
    #[arg(long, group = "kind", value_name = "DIRECTORY")]
    local: Option<PathBuf>,
    /// A vCenter or a standalone ESXi host, 6.5 or newer: HOST, or https://HOST:PORT/sdk
    #[arg(long, group = "kind", requires = "account", value_name = "HOST")]
    vsphere: Option<String>,
    /// The run-as account with which it is entered (`switchback account add`)
    #[arg(long, conflicts_with_all = ["local", "physical"], requires = "kind", value_name = "NAME")]
    account: Option<String>,
    /// It is known by its certificate's SHA-256 fingerprint
    #[arg(long, requires = "vsphere", conflicts_with_all = ["authority", "local", "physical", "azure"], value_name = "HEX")]
    fingerprint: Option<String>,
    /// It is known by the authority (PEM) that issued its certificate
    #[arg(long, requires = "vsphere", conflicts_with_all = ["local", "physical", "azure"], value_name = "FILE")]
    authority: Option<PathBuf>,
    /// The ESXi host that machines are made on: the master target's [default: the one there is]
    #[arg(long, requires = "vsphere", conflicts_with_all = ["local", "physical", "azure"], value_name = "NAME")]
    host: Option<String>,
    /// The resource pool they are made in [default: the root]
    #[arg(long, requires = "vsphere", conflicts_with_all = ["local", "physical", "azure"], value_name = "NAME")]
    resource_pool: Option<String>,
    /// The folder they are made in [default: the datacenter's own]
    #[arg(long, requires = "vsphere", conflicts_with_all = ["local", "physical", "azure"], value_name = "NAME")]
    folder: Option<String>,
    /// Physical servers: those from which mobility agents report, and that no other site has
    #[arg(long, group = "kind")]
    physical: bool,
    /// The site at which physical servers are made as virtual machines when they come home [default: none, they can only leave]
    #[arg(long, conflicts_with_all = ["local", "vsphere"], value_name = "SITE")]
    comes_home_to: Option<String>,
    /// A datastore that the master targets have mounted, and where; again for each
    #[arg(long, requires = "vsphere", conflicts_with_all = ["local", "physical", "azure"], value_name = "DATASTORE=DIRECTORY", value_parser = mounted)]
    datastore_directory: Vec<(String, PathBuf)>,
    /// A resource group of Azure: a file with its settings (TOML, see docs/azure-site.md)
    #[arg(long, group = "kind", value_name = "FILE")]
    azure: Option<PathBuf>,
    #[command(flatten)]
    at_azure: AzureArgs,
}

fn mounted(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((datastore, directory)) if !datastore.is_empty() && directory.starts_with('/') => {
            Ok((datastore.to_owned(), PathBuf::from(directory)))
        }
        _ => Err("it is DATASTORE=DIRECTORY, with an absolute path".into()),
    }
}

impl KindArgs {
    /// As the API takes them.
    pub(super) fn properties(&self) -> anyhow::Result<Value> {
        if self.physical {
            return Ok(json!({"kind": "physical", "comesHomeTo": self.comes_home_to}));
        }
        if let Some(file) = &self.azure {
            return self.at_azure.properties(file, self.account.as_deref());
        }
        let Some(url) = &self.vsphere else { return Ok(json!({"kind": "local", "directory": self.local})) };
        if self.fingerprint.is_none() && self.authority.is_none() {
            bail!(
                "give --fingerprint or --authority: nothing is trusted by itself. ESXi shows the fingerprint in its console; a vCenter's authority is at \
                 https://{url}/certs/download.zip"
            );
        }
        let mut properties = Map::new();
        let mut put = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                properties.insert(key.into(), value.into());
            }
        };
        put("kind", Some("vsphere"));
        put("url", Some(url));
        put("account", self.account.as_deref());
        put("fingerprint", self.fingerprint.as_deref());
        put("authority", self.authority.as_deref().map(read_authority).transpose()?.as_deref());
        put("host", self.host.as_deref());
        put("resourcePool", self.resource_pool.as_deref());
        put("folder", self.folder.as_deref());
        let directories = self.datastore_directory.iter();
        let directories: Map<_, _> =
            directories.map(|(datastore, at)| (datastore.clone(), json!(at))).collect();
        if !directories.is_empty() {
            properties.insert("datastoreDirectories".into(), directories.into());
        }
        Ok(properties.into())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::KindArgs;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        kind: KindArgs,
    }

    fn parse(line: &str) -> Result<KindArgs, clap::Error> {
        Line::try_parse_from(["add"].into_iter().chain(line.split(' '))).map(|line| line.kind)
    }

    #[test]
    fn a_vcenter_is_named_with_what_is_to_be_known_of_it() {
        let line = "--vsphere vc.example --account vc --fingerprint ab --host esx1 --datastore-directory nfs=/mnt/nfs";
        assert_eq!(
            parse(line).unwrap().properties().unwrap(),
            json!({
                "kind": "vsphere", "url": "vc.example", "account": "vc", "fingerprint": "ab", "host": "esx1",
                "datastoreDirectories": {"nfs": "/mnt/nfs"},
            })
        );
        let unknown = parse("--vsphere vc --account vc").unwrap().properties().unwrap_err();
        assert!(unknown.to_string().contains("nothing is trusted by itself"), "{unknown}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let settings = "subscription='s'\nresourceGroup='g'\nregion='r'\ncontainer='https://a/c'\nstorageAccount='/subscriptions/s'\n";
        std::fs::write(file.path(), settings).unwrap();
        let azure = format!("--azure {}", file.path().display());
        let nobody = parse(&azure).unwrap().properties().unwrap_err().to_string();
        assert!(nobody.contains("--managed-identity"), "{nobody}");
        let whole =
            parse(&format!("{azure} --account dr --container-account sas")).unwrap().properties().unwrap();
        assert_eq!(whole["identity"], json!({"kind": "service-principal", "account": "dr"}));
        assert_eq!((&whole["kind"], &whole["containerAccount"]), (&json!("azure"), &json!("sas")));
        assert_eq!(whole["settings"]["resourceGroup"], "g");
        std::fs::write(file.path(), "subscription = 's'\nresource-group = 'g'\n").unwrap();
        let unknown =
            format!("{:#}", parse(&format!("{azure} --managed-identity")).unwrap().properties().unwrap_err());
        assert!(unknown.contains("resource-group") && unknown.contains("line 2"), "{unknown}");
        for bad in [
            "--local /a --managed-identity",
            "--azure f --fingerprint ab",
            "--azure f --workload-identity /t",
            "--vsphere vc",
            "--account vc",
            "--local /a --vsphere vc --account vc",
            "--local /a --fingerprint ab",
            "--vsphere vc --account vc --datastore-directory nfs",
            "--physical --local /a",
            "--local /a --comes-home-to vc",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            parse("--local /a").unwrap().properties().unwrap(),
            json!({"kind": "local", "directory": "/a"})
        );
        assert_eq!(
            parse("--physical --comes-home-to vc").unwrap().properties().unwrap(),
            json!({"kind": "physical", "comesHomeTo": "vc"})
        );
    }
}
