//! `switchback machine protect`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use super::super::session::{Session, WaitArgs};
use super::find_at_site;
use crate::client::path::{self, id_of, text_at};

#[derive(Debug, Args)]
pub(crate) struct ProtectArgs {
    /// The machine at its site: its name or id there
    machine: String,
    /// The protection group
    #[arg(long)]
    group: String,
    /// The protected machine's name [default: the machine's]
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// The process server at the machine's site [default: the one there is]
    #[arg(long, value_name = "NAME")]
    process_server: Option<String>,
    /// The master target at the other site [default: the one there is]
    #[arg(long, value_name = "NAME")]
    master_target: Option<String>,
    /// The datastore at the other site [default: the one there is]
    #[arg(long, value_name = "NAME")]
    datastore: Option<String>,
    /// What a network card gets at the other site, in the order of the cards: dhcp, untouched, or
    /// ADDRESS/PREFIX(,gateway=ADDRESS)(,dns=ADDRESS)… [default: dhcp]
    #[arg(long, value_name = "SETTINGS", value_parser = interface)]
    nic: Vec<Value>,
    /// At Azure: the size of its virtual machine [default: the smallest of the site's sizes that suffices]
    #[arg(long, value_name = "Standard_…")]
    size: Option<String>,
    /// At Azure: the availability zone, 1 to 3 [default: the site's]
    #[arg(long, conflicts_with = "availability_set")]
    zone: Option<String>,
    /// At Azure: the id of an availability set [default: the site's]
    #[arg(long, value_name = "ID")]
    availability_set: Option<String>,
    /// At Azure: the id of a network security group for its cards [default: the site's]
    #[arg(long, value_name = "ID")]
    security_group: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

pub(super) async fn run(session: &Session, args: &ProtectArgs) -> anyhow::Result<ExitCode> {
    let client = &session.client;
    let group = client.get(&client.id(&format!("{}/{}", path::GROUPS, path::encode(&args.group)))).await?;
    if text_at(&group, "/properties/towards") != "away" {
        let twin = text_at(&group, "/properties/twin");
        bail!(
            "{} is a failback group; machines are protected with {twin}, and come into it by a reprotect",
            args.group
        );
    }
    let site = text_at(&group, "/properties/sourceSite");
    let machine = find_at_site(session, site, &args.machine).await?;
    let containers = format!("{}/{}/replicationProtectionContainers", path::FABRICS, path::encode(site));
    let containers = client.list(&client.id(&containers), &[], None).await?;
    let Some(container) = containers.first().map(id_of) else {
        bail!("the site {site} shows no container for protected machines");
    };
    let id = path::encode(text_at(&machine, "/name"));
    let name = args.name.as_deref().unwrap_or_else(|| text_at(&machine, "/properties/friendlyName"));
    let policy = client.id(&format!("replicationPolicies/{}", path::encode(text_at(&group, "/name"))));
    let body = json!({"properties": {
        "policyId": policy,
        "protectableItemId": format!("{container}/replicationProtectableItems/{id}"),
        "providerSpecificDetails": details(args),
    }});
    let reply =
        client.put(&format!("{container}/replicationProtectedItems/{}", path::encode(name)), &body).await?;
    session.conclude(reply, args.wait, &format!("{name} is protected")).await
}

fn details(args: &ProtectArgs) -> Value {
    let mut details = json!({"instanceType": "InMageAzureV2"});
    let said = [
        ("processServerId", &args.process_server),
        ("masterTargetId", &args.master_target),
        ("datastoreName", &args.datastore),
    ];
    for (field, value) in said {
        if let Some(value) = value {
            details[field] = value.as_str().into();
        }
    }
    if !args.nic.is_empty() {
        details["nics"] = args.nic.clone().into();
    }
    let wishes = [
        ("size", &args.size),
        ("zone", &args.zone),
        ("availabilitySet", &args.availability_set),
        ("securityGroup", &args.security_group),
    ];
    for (field, value) in wishes.into_iter().filter_map(|(field, value)| Some((field, value.as_ref()?))) {
        details["machine"][field] = value.as_str().into();
    }
    details
}

/// Settings of an interface, in the API's shape.
fn interface(text: &str) -> Result<Value, String> {
    match text {
        "dhcp" | "untouched" => return Ok(json!({"kind": text})),
        _ => {}
    }
    let mut parts = text.split(',');
    let address = parts.next().unwrap_or_default();
    let is_address = |text: &str| text.parse::<std::net::IpAddr>().is_ok();
    let is_network = address.split_once('/').is_some_and(|(address, prefix)| {
        let bits = if address.contains(':') { 128 } else { 32 };
        is_address(address) && prefix.parse::<u8>().is_ok_and(|prefix| prefix <= bits)
    });
    if !is_network {
        return Err("dhcp, untouched, or ADDRESS/PREFIX[,gateway=ADDRESS][,dns=ADDRESS]…".into());
    }
    let (mut gateway, mut name_servers) = (None, Vec::new());
    for part in parts {
        match part.split_once('=') {
            Some(("gateway", value)) if is_address(value) && gateway.is_none() => gateway = Some(value),
            Some(("dns", value)) if is_address(value) => name_servers.push(value),
            _ => return Err(format!("{part:?} is neither gateway=ADDRESS nor dns=ADDRESS")),
        }
    }
    Ok(json!({"kind": "static", "address": address, "gateway": gateway, "name_servers": name_servers}))
}

#[cfg(test)]
mod tests {
    use switchback_model::component::InterfaceSettings;

    use super::interface;

    #[test]
    fn settings_of_an_interface_are_what_the_server_reads() {
        let read =
            |text: &str| serde_json::from_value::<InterfaceSettings>(interface(text).unwrap()).unwrap();
        assert_eq!(read("dhcp"), InterfaceSettings::Dhcp);
        assert_eq!(read("untouched"), InterfaceSettings::Untouched);
        assert_eq!(
            read("10.2.0.11/24,gateway=10.2.0.1,dns=10.2.0.2,dns=fd00::1"),
            InterfaceSettings::Static {
                address: "10.2.0.11/24".into(),
                gateway: Some("10.2.0.1".into()),
                name_servers: vec!["10.2.0.2".into(), "fd00::1".into()],
            }
        );
        for bad in
            ["", "10.2.0.11", "10.2.0.11/33", "10.2.0/24", "10.2.0.11/24,gateway=x", "10.2.0.11/24,mtu=9000"]
        {
            assert!(interface(bad).is_err(), "{bad:?}");
        }
    }
}
