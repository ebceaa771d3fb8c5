//! `switchback profile`: which configuration servers this user knows.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::confirm::ConfirmArgs;
use super::render::{self, Field, plain};
use super::session::{self, SessionArgs};
use crate::client::profiles::{self, Profile, Profiles};
use crate::client::{Client, Endpoint, Token};

const LIST: &[Field] =
    &[plain("PROFILE", &["/name"]), plain("SERVER", &["/server"]), plain("DEFAULT", &["/default"])];

#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: ProfileCommand,
}

#[derive(Debug, Subcommand)]
enum ProfileCommand {
    /// Add a profile, or replace one: --server, --ca-file, and --token-file or the token on standard input
    Add {
        /// Its name; the first one becomes the default
        name: String,
        /// Store it without trying it
        #[arg(long)]
        no_check: bool,
    },
    /// List the profiles
    List,
    /// Make a profile the default
    Use {
        /// Its name
        name: String,
    },
    /// Remove a profile with its token
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

pub(crate) fn run(args: &ProfileArgs) -> anyhow::Result<ExitCode> {
    let directory = profiles::directory(|name| std::env::var(name).ok())?;
    match &args.command {
        ProfileCommand::Add { name, no_check } => {
            check_name(name)?;
            let profile = profile(&args.session)?;
            if !no_check {
                check(&profile)?;
            }
            let server = profile.server.clone();
            let stored = profiles::update(&directory, |all| {
                all.profiles.insert(name.clone(), profile);
                all.default.get_or_insert_with(|| name.clone());
            })?;
            let is_default = if stored.default.as_ref() == Some(name) { ", the default" } else { "" };
            println!("the profile {name} ({server}{is_default}) is stored in {}", directory.display());
        }
        ProfileCommand::List => {
            print!("{}", render::list(args.session.format(), LIST, &listed(&profiles::load(&directory)?)));
        }
        ProfileCommand::Use { name } => {
            find(&profiles::load(&directory)?, name)?;
            profiles::update(&directory, |all| all.default = Some(name.clone()))?;
            println!("{name} is the default profile");
        }
        ProfileCommand::Remove { name, confirm } => {
            find(&profiles::load(&directory)?, name)?;
            confirm.confirm(&format!(
                "The profile {name} will be removed with its token, which is stored nowhere else here."
            ))?;
            profiles::update(&directory, |all| {
                all.profiles.remove(name);
                if all.default.as_ref() == Some(name) {
                    all.default = None;
                }
            })?;
            println!(
                "the profile {name} is removed; its token is still good: `switchback token delete` ends that"
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn find(profiles: &Profiles, name: &str) -> anyhow::Result<()> {
    if profiles.profiles.contains_key(name) {
        return Ok(());
    }
    bail!("there is no profile {name:?}; `switchback profile list` shows those there are")
}

/// Profiles without their secrets.
fn listed(profiles: &Profiles) -> Vec<Value> {
    let is_default = |name: &String| profiles.default.as_ref() == Some(name);
    let shown = |(name, profile): (&String, &Profile)| json!({"name": name, "server": profile.server, "default": if is_default(name) { "yes" } else { "" }});
    profiles.profiles.iter().map(shown).collect()
}

fn check_name(name: &str) -> anyhow::Result<()> {
    let is_plain = !name.is_empty()
        && name.len() <= 64
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if is_plain { Ok(()) } else { bail!("a profile's name has up to 64 letters, digits, `-`, `_` and `.`") }
}

fn profile(args: &SessionArgs) -> anyhow::Result<Profile> {
    let (server, ca_file, token_file) = args.given();
    let server =
        server.context("which server? Give its address with --server https://HOST[:PORT]")?.to_owned();
    let ca_file = ca_file.context(
        "which authority? Give the certificate of the server's authority with --ca-file (`switchback identity certificate` prints it on the \
         configuration server's host)",
    )?;
    let authority = session::read_authority(ca_file)?;
    let token = match token_file {
        Some(file) => session::read_token(file)?,
        None => {
            use std::io::IsTerminal;
            if std::io::stdin().is_terminal() {
                eprint!("Token: ");
            }
            Token::read_line(std::io::stdin().lock())?
        }
    };
    Ok(Profile { server, authority, token: token.reveal().to_owned() })
}

/// A profile that does not work is better found now than on the worst day of the year.
fn check(profile: &Profile) -> anyhow::Result<()> {
    let endpoint = Endpoint {
        server: profile.server.clone(),
        authority: profile.authority.clone(),
        token: Token::new(&profile.token)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::new(endpoint)?;
        client.discover().await?;
        // Anybody may ask for the vault; what is in it tells whether the token is good.
        client.list(&client.id(crate::client::path::SITES), &[], Some(1)).await
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Profile, Profiles, listed};

    #[test]
    fn a_list_of_profiles_has_no_secrets() {
        let mut all = Profiles { default: Some("a".into()), ..Profiles::default() };
        let profile =
            Profile { server: "https://cs".into(), authority: "pem".into(), token: "secret".into() };
        all.profiles.insert("a".into(), profile);
        let shown = serde_json::to_string(&listed(&all)).unwrap();
        assert_eq!(shown, r#"[{"default":"yes","name":"a","server":"https://cs"}]"#);
    }
}
