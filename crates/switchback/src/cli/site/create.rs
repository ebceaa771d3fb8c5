//! `switchback site create`: makes a local site's directory on this host. Everything else that can be set is in its `site.toml` (`docs/local-site.md`).

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};
use switchback_sites::{LocalSite, SiteSettings};

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The site's directory, made if need be
    directory: PathBuf,
    /// Where machines' disks are; a relative directory is one of the site's
    #[arg(long, value_name = "NAME=DIRECTORY", default_value = "main=disks", value_parser = pair)]
    datastore: Vec<(String, String)>,
    /// A network that leads out by address translation, with these addresses: uplink=10.1.0.0/24
    #[arg(long, value_name = "NAME=CIDR", value_parser = pair)]
    user_network: Vec<(String, String)>,
    /// A switch between all machines of this host whose networks name the same segment: lan=home-lan
    #[arg(long, value_name = "NAME=SEGMENT", value_parser = pair)]
    segment: Vec<(String, String)>,
    /// A bridge of this host: office=br0
    #[arg(long, value_name = "NAME=BRIDGE", value_parser = pair)]
    bridge: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.into(), value.into())),
        _ => Err("NAME=VALUE".into()),
    }
}

pub(super) fn run(args: &CreateArgs) -> anyhow::Result<ExitCode> {
    let site = LocalSite::create(&args.directory, &settings(args)?)?;
    let directory = site.directory().display();
    println!(
        "The site is in {directory}; its settings are in site.toml there, its machines below machines/."
    );
    println!(
        "Make it known to the configuration server of this host: `switchback site add NAME --local {directory}`"
    );
    Ok(ExitCode::SUCCESS)
}

fn settings(args: &CreateArgs) -> anyhow::Result<SiteSettings> {
    let datastores: Map<String, Value> =
        args.datastore.iter().map(|(name, directory)| (name.clone(), directory.as_str().into())).collect();
    let mut networks = Map::new();
    let kinds = [
        ("user", "cidr", &args.user_network),
        ("segment", "segment", &args.segment),
        ("bridge", "bridge", &args.bridge),
    ];
    for (kind, field, named) in kinds {
        for (name, value) in named {
            anyhow::ensure!(!networks.contains_key(name), "there are two networks called {name:?}");
            let mut network = json!({"kind": kind});
            network[field] = value.as_str().into();
            networks.insert(name.clone(), network);
        }
    }
    serde_json::from_value(json!({"datastores": datastores, "networks": networks}))
        .context("the site's settings")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{CreateArgs, run, settings};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        create: CreateArgs,
    }

    fn parse(line: &str) -> Result<CreateArgs, clap::Error> {
        Line::try_parse_from(["create"].into_iter().chain(line.split(' '))).map(|line| line.create)
    }

    #[test]
    fn a_site_is_made_once_and_is_the_same_the_second_time() {
        let place = tempfile::tempdir().unwrap();
        let line = format!(
            "{}/home --user-network uplink=10.1.0.0/24 --segment lan=home-lan",
            place.path().display()
        );
        for _ in 0..2 {
            run(&parse(&line).unwrap()).unwrap();
        }
        let text = std::fs::read_to_string(place.path().join("home/site.toml")).unwrap();
        assert!(text.contains("home-lan") && text.contains("10.1.0.0/24"), "{text}");
        assert!(place.path().join("home/disks").is_dir());
        let other = parse(&format!("{line} --datastore other=disks2")).unwrap();
        assert!(run(&other).is_err(), "another site must not take its place");
    }

    #[test]
    fn what_makes_no_site_is_refused() {
        assert!(parse("/x --segment lan").is_err());
        let twice = parse("/x --segment lan=a --bridge lan=b").unwrap();
        assert!(settings(&twice).unwrap_err().to_string().contains("lan"));
    }
}
