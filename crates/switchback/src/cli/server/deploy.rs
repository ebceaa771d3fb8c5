//! `switchback server deploy` and `retire`: process servers that the configuration server makes at a site, and removes again.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::super::confirm::ConfirmArgs;
use super::super::session::{Session, WaitArgs};
use crate::client::path;

/// A public key is one line; the longest that Azure takes has a few kilobytes.
const KEY_LEN_MAX: u64 = 16 << 10;

#[derive(Debug, Args)]
pub(super) struct DeployArgs {
    /// Its name: lower-case letters, digits and dashes
    #[arg(id = "component", value_name = "NAME")]
    name: String,
    /// The site it is made at and serves: one of Azure
    #[arg(long)]
    site: String,
    /// The network it is in, as `switchback network list` shows it
    #[arg(long, value_name = "VNET/SUBNET")]
    network: String,
    /// Its address there, for good; taken ones are refused, with free ones named
    #[arg(long, value_name = "ADDRESS")]
    address: Ipv4Addr,
    /// Its size, as Azure names it
    #[arg(long, default_value = "Standard_D4s_v5", value_name = "SIZE")]
    size: String,
    /// The name of its administrator, who enters by SSH
    #[arg(long, value_name = "USER")]
    administrator: String,
    /// The administrator's public key, as ssh-keygen writes it (….pub)
    #[arg(long, value_name = "FILE")]
    ssh_key_file: PathBuf,
    /// Where it reaches the configuration server [default: where this command reaches it]
    #[arg(long, value_name = "HOST:PORT")]
    configuration_server: Option<String>,
    /// The port on which it takes data
    #[arg(long, default_value_t = 9443, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The size of its disk, which holds what could not be delivered yet, in GiB
    #[arg(long, default_value_t = 64, value_name = "GIB", value_parser = clap::value_parser!(u32).range(1..=32_767))]
    disk: u32,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(super) struct RetireArgs {
    /// Its name
    #[arg(id = "component", value_name = "NAME")]
    name: String,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

pub(super) async fn deploy(session: &Session, args: &DeployArgs) -> anyhow::Result<ExitCode> {
    let reply = session.client.put(&id(session, &args.name), &body(args)?).await?;
    let done = format!("the process server {} reports from {}", args.name, args.site);
    session.conclude(reply, args.wait, &done).await
}

pub(super) async fn retire(session: &Session, args: &RetireArgs) -> anyhow::Result<ExitCode> {
    let name = &args.name;
    args.confirm.confirm(&format!(
        "The process server {name} will be removed: its virtual machine, its network card and its disk are deleted."
    ))?;
    let reply = session.client.delete(&id(session, name)).await?;
    session.conclude(reply, args.wait, &format!("the process server {name} is removed")).await
}

fn id(session: &Session, name: &str) -> String {
    session.client.id(&format!("{}/{}", path::DEPLOYED_SERVERS, path::encode(name)))
}

fn body(args: &DeployArgs) -> anyhow::Result<Value> {
    let mut properties = Map::new();
    for (name, value) in [
        ("site", json!(args.site)),
        ("network", json!(args.network)),
        ("address", json!(args.address)),
        ("size", json!(args.size)),
        ("administrator", json!(args.administrator)),
        ("sshKey", json!(public_key(&args.ssh_key_file)?)),
        ("port", json!(args.port)),
        ("diskGib", json!(args.disk)),
    ] {
        properties.insert(name.into(), value);
    }
    if let Some(server) = &args.configuration_server {
        properties.insert("configurationServer".into(), json!(server));
    }
    Ok(json!({ "properties": properties }))
}

/// A private key that was named by mistake goes nowhere.
fn public_key(file: &Path) -> anyhow::Result<String> {
    let shown = file.display();
    let len = std::fs::metadata(file).with_context(|| format!("reading {shown}"))?.len();
    if len > KEY_LEN_MAX {
        bail!("{shown} is too long for a public key: name the file that ends with .pub");
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {shown}"))?;
    let line = text.trim();
    if line.contains("PRIVATE KEY") || line.contains('\n') || !line.starts_with("ssh-") {
        bail!(
            "{shown} is no public key: name the file that ends with .pub; it has one line that begins with ssh-"
        );
    }
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::public_key;

    #[test]
    fn a_private_key_is_not_sent_anywhere() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            public_key(&file)
        };
        assert_eq!(read("ssh-ed25519 AAAA anna@example\n").unwrap(), "ssh-ed25519 AAAA anna@example");
        let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1\n-----END OPENSSH PRIVATE KEY-----\n";
        for wrong in [private, "ssh-rsa AAAA\nssh-rsa BBBB\n", "", &"x".repeat(20_000)] {
            let said = read(wrong).unwrap_err().to_string();
            assert!(said.contains(".pub") && !said.contains("b3BlbnNzaC1"), "{said}");
        }
    }
}
