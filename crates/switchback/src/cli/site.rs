//! `switchback site`: the places that machines run at.

mod add;
mod azure;
mod create;
mod prices;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::confirm::ConfirmArgs;
use super::render::{Field, bytes, plain};
use super::session::{self, Session, SessionArgs, WaitArgs};
use crate::client::path::{self, text_at};

const SITE: &[Field] = &[
    plain("NAME", &["/name"]),
    plain("KIND", &["/properties/kind"]),
    plain(
        "WHERE",
        &[
            "/properties/directory",
            "/properties/url",
            "/properties/comesHomeTo",
            "/properties/settings/container",
        ],
    ),
    plain("HEALTH", &["/shown/health"]),
    plain("PROCESS SERVERS", &["/shown/processServers"]),
    plain("MASTER TARGETS", &["/shown/masterTargets"]),
    plain("REASONS", &["/shown/reasons"]),
];
const NETWORKS: &[Field] =
    &[plain("NETWORK", &["/name"]), plain("DESCRIPTION", &["/properties/description"])];
const DATASTORES: &[Field] = &[
    plain("DATASTORE", &["/name"]),
    bytes("CAPACITY", &["/properties/capacityBytes"]),
    bytes("FREE", &["/properties/freeBytes"]),
];

#[derive(Debug, Args)]
pub(crate) struct SiteArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: SiteCommand,
}

#[derive(Debug, Subcommand)]
enum SiteCommand {
    /// List the sites
    List,
    /// Show a site and how the components that serve it are
    Show {
        /// The site
        site: String,
    },
    /// Make a local site in a directory of this host, for its configuration server
    Create(create::CreateArgs),
    /// Say which table of prices this host's configuration server uses for `machine cost`; with --init make one to be edited
    Prices(prices::PricesArgs),
    /// Make a site known
    Add {
        /// Its name
        site: String,
        #[command(flatten)]
        kind: Box<add::KindArgs>,
    },
    /// Forget a site; its machines stay as they are
    Remove {
        /// The site
        site: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// List the networks of a site
    Networks {
        /// The site
        site: String,
    },
    /// List the datastores of a site
    Datastores {
        /// The site
        site: String,
    },
}

pub(crate) fn run(args: &SiteArgs) -> anyhow::Result<ExitCode> {
    // Those that ask no server.
    match &args.command {
        SiteCommand::Create(args) => return create::run(args),
        SiteCommand::Prices(args) => return prices::run(args),
        _ => {}
    }
    session::run(&args.session, async |session| {
        let client = &session.client;
        let id = |site: &str, rest: &str| client.id(&format!("{}/{}{rest}", path::SITES, path::encode(site)));
        match &args.command {
            SiteCommand::List => {
                let mut sites = client.list(&client.id(path::SITES), &[], None).await?;
                if session.is_for_people() {
                    for site in &mut sites {
                        site["shown"] = serving(&session, site).await?;
                    }
                }
                Ok(session.print_list(&SITE[..6], &sites))
            }
            SiteCommand::Show { site } => {
                let mut site = client.get(&id(site, "")).await?;
                if session.is_for_people() {
                    site["shown"] = serving(&session, &site).await?;
                }
                Ok(session.print(SITE, &site))
            }
            SiteCommand::Create(args) => create::run(args),
            SiteCommand::Prices(args) => prices::run(args),
            SiteCommand::Add { site, kind } => {
                let body = json!({"properties": kind.properties()?});
                let reply = client.put(&id(site, ""), &body).await?;
                session.conclude(reply, WaitArgs::default(), &format!("the site {site} is known")).await
            }
            SiteCommand::Remove { site, confirm } => {
                let found = client.get(&id(site, "")).await?;
                let site = text_at(&found, "/name");
                confirm
                    .confirm(&format!("The site {site} will be forgotten; its machines stay as they are."))?;
                let reply = client.delete(&id(site, "")).await?;
                session.conclude(reply, WaitArgs::default(), &format!("the site {site} is forgotten")).await
            }
            SiteCommand::Networks { site } => {
                Ok(session.print_list(NETWORKS, &client.list(&id(site, "/networks"), &[], None).await?))
            }
            SiteCommand::Datastores { site } => {
                Ok(session.print_list(DATASTORES, &client.list(&id(site, "/datastores"), &[], None).await?))
            }
        }
    })
}

/// What serves a site and how that is: the contract's fabric tells.
async fn serving(session: &Session, site: &Value) -> anyhow::Result<Value> {
    let id = format!("{}/{}", path::FABRICS, path::encode(text_at(site, "/name")));
    let fabric = session.client.get(&session.client.id(&id)).await?;
    let names = |pointer: &str, title: &str| {
        let servers = fabric.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        let named = servers.map(|server| text_at(server, title).to_owned());
        named.collect::<Vec<_>>().join(",")
    };
    let errors =
        fabric.pointer("/properties/healthErrorDetails").and_then(Value::as_array).into_iter().flatten();
    let reasons: Vec<_> = errors.map(|error| text_at(error, "/errorMessage")).collect();
    Ok(json!({
        "health": text_at(&fabric, "/properties/health"),
        "processServers": names("/properties/customDetails/processServers", "/friendlyName"),
        "masterTargets": names("/properties/customDetails/masterTargetServers", "/name"),
        "reasons": reasons.join("\n"),
    }))
}
