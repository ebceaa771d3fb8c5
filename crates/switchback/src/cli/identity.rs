//! `switchback identity` and `switchback enrol`: founding a site, and joining one.

use std::io::{BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use switchback_disk::SystemClock;
use switchback_identity::{Authority, EnrolmentSecret, PeerIdentity, Role};
use switchback_transport::EnrolConfig;

use super::network::{IdentityArgs, default_name, runtime};

/// More than any file with a passphrase has.
const PASSPHRASE_FILE_LEN_MAX: u64 = 4096;
pub(super) const ENROL_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// Make this host the authority of a new site, and a target in it
    Init {
        #[command(flatten)]
        identity: IdentityArgs,
        /// This host's name in the site [default: its host name]
        #[arg(long)]
        name: Option<String>,
    },
    /// Print the passphrase with which others join
    Passphrase {
        #[command(flatten)]
        identity: IdentityArgs,
        /// Make a new one first; who has joined stays
        #[arg(long)]
        rotate: bool,
    },
    /// Print the certificate of the site's authority, by which users know the configuration server (`switchback profile add --ca-file`)
    Certificate {
        #[command(flatten)]
        identity: IdentityArgs,
    },
    /// Make a key for encryption at rest, in a new file that only its owner can read
    StorageKey {
        /// The file
        file: PathBuf,
    },
    /// Show who this host is
    Show {
        #[command(flatten)]
        identity: IdentityArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct EnrolArgs {
    /// HOST:PORT of the site's authority: its configuration server, or a `switchback receive` without one
    address: String,
    #[command(flatten)]
    identity: IdentityArgs,
    /// This host's name in the site [default: its host name]
    #[arg(long)]
    name: Option<String>,
    /// What this host is to be: source (a mobility agent), process-server or target (a master target)
    #[arg(long, default_value = "source")]
    role: Role,
    /// Read the passphrase from this file instead of asking for it
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

pub(crate) fn run(command: &IdentityCommand) -> anyhow::Result<ExitCode> {
    match command {
        IdentityCommand::Init { identity, name } => {
            let name = named(name.as_deref())?;
            let volume = identity.create()?;
            let authority = Authority::create(volume.clone(), Arc::new(SystemClock))?;
            let own = PeerIdentity { role: Role::Target, name: name.parse()? };
            authority.issue(&own)?.store(&*volume)?;
            println!(
                "This host is now {own}, and the authority of its site, in {}.",
                identity.directory().display()
            );
            println!(
                "`switchback receive` lets others send to it. They join with `switchback enrol HOST:9443` and the"
            );
            println!("passphrase that `switchback identity passphrase` prints.");
        }
        IdentityCommand::Passphrase { identity, rotate } => {
            let Some(authority) = identity.authority()? else {
                bail!(
                    "the site's authority is not on this host; ask for the passphrase where `identity init` was run"
                );
            };
            let passphrase = if *rotate { authority.rotate_passphrase()? } else { authority.passphrase()? };
            println!("{}", *passphrase.reveal());
        }
        IdentityCommand::Certificate { identity } => {
            let (credentials, _) = identity.credentials()?;
            let certificate = credentials.current().authority().to_vec();
            print!("{}", pem::encode(&pem::Pem::new("CERTIFICATE", certificate)));
        }
        IdentityCommand::StorageKey { file } => {
            crate::storage_key::create(file)?;
            println!(
                "A new key is in {}. Keep a copy elsewhere: what it encrypts is lost without it.",
                file.display()
            );
        }
        IdentityCommand::Show { identity } => {
            let (credentials, _) = identity.credentials()?;
            println!("{}", credentials.current().identity());
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn enrol(args: &EnrolArgs) -> anyhow::Result<ExitCode> {
    let identity = PeerIdentity { role: args.role, name: named(args.name.as_deref())?.parse()? };
    let volume = args.identity.create()?;
    let runtime = runtime()?;
    let config = EnrolConfig {
        address: args.address.clone(),
        secret: secret(args.passphrase_file.as_deref())?,
        identity,
        timeout: ENROL_TIMEOUT,
        clock: Arc::new(SystemClock),
        runtime: runtime.handle().clone(),
    };
    let credentials = switchback_transport::enrol(&config)?;
    credentials.store(&*volume)?;
    println!("this host is now {} at the site of {}", credentials.identity(), args.address);
    Ok(ExitCode::SUCCESS)
}

fn named(name: Option<&str>) -> anyhow::Result<String> {
    name.map_or_else(default_name, |name| Ok(name.into()))
}

/// A passphrase or a ticket, from a file, a terminal or a pipe; never from an argument, which everybody on the host could read.
pub(super) fn secret(file: Option<&Path>) -> anyhow::Result<EnrolmentSecret> {
    let mut text = zeroize::Zeroizing::new(String::new());
    match file {
        Some(path) => {
            let file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
            file.take(PASSPHRASE_FILE_LEN_MAX).read_to_string(&mut text)?;
        }
        None => {
            if std::io::stdin().is_terminal() {
                eprint!("Passphrase of the site: ");
            }
            std::io::stdin().lock().take(PASSPHRASE_FILE_LEN_MAX).read_line(&mut text)?;
        }
    }
    Ok(text.trim().parse()?)
}
