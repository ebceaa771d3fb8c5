//! `switchback token` and `switchback passphrase`: who may use the API, and how components join.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::confirm::ConfirmArgs;
use super::render::{self, Field, plain};
use super::session::{self, SessionArgs, WaitArgs};
use crate::client::path::{self, text_at};
use crate::client::{Reply, Token};

const LIST: &[Field] = &[plain("NAME", &["/name"]), plain("ROLE", &["/properties/role"])];

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// List the tokens; their secrets are kept nowhere
    List,
    /// Make a token; its secret is shown this once
    Create {
        /// Its name: whose it is, as jobs and the audit log will tell
        token: String,
        /// What its holder may do
        #[arg(long, value_enum)]
        role: AccessRole,
        /// Write the secret to this new file, which only its owner can read, instead of showing it
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Delete a token: its holder is refused from then on
    Delete {
        /// Its name
        token: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AccessRole {
    /// Look
    Reader,
    /// Look; fail over, commit, run plans, manage jobs
    Operator,
    /// All of it
    Contributor,
}

#[derive(Debug, Args)]
pub(crate) struct PassphraseArgs {
    #[command(flatten)]
    session: SessionArgs,
}

pub(crate) fn run(args: &TokenArgs) -> anyhow::Result<ExitCode> {
    session::run(&args.session, async |session| {
        let client = &session.client;
        let id = |token: &str| client.id(&format!("{}/{}", path::TOKENS, path::encode(token)));
        match &args.command {
            TokenCommand::List => {
                Ok(session.print_list(LIST, &client.list(&client.id(path::TOKENS), &[], None).await?))
            }
            TokenCommand::Create { token, role, file } => {
                let file = file.as_deref().map(secret_file).transpose()?;
                let body = json!({"properties": {"role": format!("{role:?}")}});
                let made = match client.put(&id(token), &body).await? {
                    Reply::Done(made) => made,
                    Reply::Started(_) => bail!("the server did not make the token at once"),
                };
                let secret = Token::new(text_at(&made, "/properties/secret"))
                    .context("the server's answer has no secret")?;
                match file {
                    Some((mut file, path)) => {
                        writeln!(file, "{}", secret.reveal()).and_then(|()| file.sync_all()).with_context(
                            || {
                                format!(
                                    "the secret could not be written to {}; delete the token",
                                    path.display()
                                )
                            },
                        )?;
                        println!("the token {token} is made; its secret is in {}", path.display());
                    }
                    None if session.is_for_people() => println!("{}", secret.reveal()),
                    None => print!("{}", render::json(&made)),
                }
                Ok(ExitCode::SUCCESS)
            }
            TokenCommand::Delete { token, confirm } => {
                confirm.confirm(&format!("The holder of the token {token} will be refused from now on."))?;
                let reply = client.delete(&id(token)).await?;
                session.conclude(reply, WaitArgs::default(), &format!("the token {token} is deleted")).await
            }
        }
    })
}

/// A new file, made before the token is: one that cannot be made must not cost a secret.
fn secret_file(path: &Path) -> anyhow::Result<(std::fs::File, &Path)> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    Ok((file.with_context(|| format!("the new file {} cannot be made", path.display()))?, path))
}

/// Prints the passphrase with which components join. The server records who saw it.
pub(crate) fn passphrase(args: &PassphraseArgs) -> anyhow::Result<ExitCode> {
    session::run(&args.session, async |session| {
        let reply = session.client.post(&session.client.id(path::PASSPHRASE), None).await?;
        let Reply::Done(answer) = reply else { bail!("the server did not show the passphrase at once") };
        if session.is_for_people() {
            println!("{}", text_at(&answer, "/passphrase"));
        } else {
            print!("{}", render::json(&answer));
        }
        Ok(ExitCode::SUCCESS)
    })
}
