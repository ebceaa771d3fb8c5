//! `switchback network-mapping`: which network at the one site corresponds to which at the other.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::confirm::ConfirmArgs;
use super::render::{Field, plain};
use super::session::{self, SessionArgs, WaitArgs};
use crate::client::path;

const LIST: &[Field] = &[
    plain("SITE", &["/properties/site"]),
    plain("NETWORK", &["/properties/network"]),
    plain("OTHER SITE", &["/properties/targetSite"]),
    plain("NETWORK THERE", &["/properties/targetNetwork"]),
    plain("TEST NETWORK THERE", &["/properties/testNetwork"]),
];

#[derive(Debug, Args)]
pub(crate) struct NetworkMappingArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: NetworkMappingCommand,
}

#[derive(Debug, Subcommand)]
enum NetworkMappingCommand {
    /// List the network mappings
    List,
    /// Say which network corresponds to one
    Set {
        /// The site
        site: String,
        /// The network at that site
        network: String,
        /// The other site
        target_site: String,
        /// The network there
        target_network: String,
        /// The network there for test failovers [default: none, they are not connected]
        #[arg(long, value_name = "NETWORK")]
        test_network: Option<String>,
    },
    /// Remove a mapping: network cards of that network are then left unconnected at a failover
    Remove {
        /// The site
        site: String,
        /// The network at that site
        network: String,
        /// The other site
        target_site: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

pub(crate) fn run(args: &NetworkMappingArgs) -> anyhow::Result<ExitCode> {
    session::run(&args.session, async |session| {
        let client = &session.client;
        let id = |site: &str, network: &str, target: &str| {
            let [site, network, target] = [site, network, target].map(path::encode);
            client.id(&format!("{}/{site}/networks/{network}/mappings/{target}", path::SITES))
        };
        match &args.command {
            NetworkMappingCommand::List => {
                Ok(session
                    .print_list(LIST, &client.list(&client.id(path::NETWORK_MAPPINGS), &[], None).await?))
            }
            NetworkMappingCommand::Set { site, network, target_site, target_network, test_network } => {
                let properties = json!({"targetNetwork": target_network, "testNetwork": test_network});
                let reply =
                    client.put(&id(site, network, target_site), &json!({"properties": properties})).await?;
                let done = format!("{network} at {site} is {target_network} at {target_site}");
                session.conclude(reply, WaitArgs::default(), &done).await
            }
            NetworkMappingCommand::Remove { site, network, target_site, confirm } => {
                let id = id(site, network, target_site);
                client.get(&id).await?;
                confirm.confirm(&format!(
                    "Network cards of {network} at {site} will be left unconnected when their machine comes up at {target_site}."
                ))?;
                let reply = client.delete(&id).await?;
                session.conclude(reply, WaitArgs::default(), "the mapping is removed").await
            }
        }
    })
}
