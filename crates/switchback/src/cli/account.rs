//! `switchback account`: run-as accounts, under which the configuration server works in other systems.
//!
//! A password comes from a terminal, standard input or a file, never from an argument, which everybody on the host could read.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use zeroize::Zeroizing;

use super::backup::passphrase;
use super::confirm::{ConfirmArgs, ask_secret};
use super::render::{Field, plain, time};
use super::session::{self, SessionArgs, WaitArgs};
use crate::client::Reply;
use crate::client::path;

const LIST: &[Field] = &[
    plain("NAME", &["/name"]),
    plain("KIND", &["/properties/kind"]),
    plain("USER", &["/properties/user"]),
    time("CHANGED", &["/properties/changed"]),
];

#[derive(Debug, Args)]
pub(crate) struct AccountArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: AccountCommand,
}

#[derive(Debug, Subcommand)]
enum AccountCommand {
    /// List the accounts; their passwords are shown to nobody
    List,
    /// Make an account known
    Add {
        /// Its name
        account: String,
        /// What it is for
        #[arg(long, value_enum, default_value = "vsphere")]
        kind: AccountKind,
        /// The user there
        #[arg(long)]
        user: String,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Change an account's password
    Rotate {
        /// Its name
        account: String,
        /// Another user
        #[arg(long)]
        user: Option<String>,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Try whether an account is good for what it is for
    Test {
        /// Its name
        account: String,
    },
    /// Forget an account
    Remove {
        /// Its name
        account: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AccountKind {
    /// vCenter or a standalone ESXi host
    Vsphere,
    /// A service principal of Azure: the user is CLIENT_ID@TENANT_ID, the password its secret
    Azure,
    /// What opens a container of Azure: the password is a SAS, the user a name for people
    AzureSas,
}

impl AccountKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Vsphere => "vsphere",
            Self::Azure => "azure",
            Self::AzureSas => "azure-sas",
        }
    }
}

#[derive(Debug, Args)]
struct PasswordArgs {
    /// Read the password from this file instead of asking for it
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl PasswordArgs {
    fn read(&self) -> anyhow::Result<Zeroizing<String>> {
        self.password_file
            .as_deref()
            .map_or_else(|| Ok(ask_secret("Password: ")?), |file: &Path| passphrase(file))
    }
}

pub(crate) fn run(args: &AccountArgs) -> anyhow::Result<ExitCode> {
    session::run(&args.session, async |session| {
        let client = &session.client;
        let id = |account: &str| client.id(&format!("{}/{}", path::ACCOUNTS, path::encode(account)));
        let done = |reply: Reply| match reply {
            Reply::Done(answer) => Ok(answer),
            Reply::Started(_) => bail!("the server did not answer at once"),
        };
        match &args.command {
            AccountCommand::List => {
                Ok(session.print_list(LIST, &client.list(&client.id(path::ACCOUNTS), &[], None).await?))
            }
            AccountCommand::Add { account, kind, user, password } => {
                let password = password.read().context("reading the password")?;
                let body =
                    json!({"properties": {"kind": kind.as_str(), "user": user, "password": *password}});
                Ok(session.print_list(LIST, &[done(client.put(&id(account), &body).await?)?]))
            }
            AccountCommand::Rotate { account, user, password } => {
                let password = password.read().context("reading the password")?;
                let body = json!({"properties": {"user": user, "password": *password}});
                let reply = client.post(&format!("{}/rotate", id(account)), Some(&body)).await?;
                Ok(session.print_list(LIST, &[done(reply)?]))
            }
            AccountCommand::Test { account } => {
                let reply = client.post(&format!("{}/test", id(account)), None).await?;
                session.conclude(reply, WaitArgs::default(), &format!("{account} is good")).await
            }
            AccountCommand::Remove { account, confirm } => {
                confirm.confirm(&format!(
                    "The account {account} will be forgotten; what works with it will fail."
                ))?;
                let reply = client.delete(&id(account)).await?;
                session
                    .conclude(reply, WaitArgs::default(), &format!("the account {account} is forgotten"))
                    .await
            }
        }
    })
}
