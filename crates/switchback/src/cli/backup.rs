//! `switchback backup`: backups of the configuration server: when, where to, and whether they are whole.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use switchback_control::backup::format::{Identities, inspect, needs_passphrase, new_identity};
use switchback_control::backup::restore::prepare;
use switchback_disk::{Clock, SystemClock};
use switchback_model::duration;
use zeroize::Zeroizing;

use super::confirm::ConfirmArgs;
use super::machine::messages;
use super::render::{self, Field, bytes, plain, time};
use super::session::{self, Session, SessionArgs};
use crate::client::Reply;
use crate::client::path::{self, text_at};

/// More than any identity file or passphrase has.
const SECRET_LEN_MAX: u64 = 64 << 10;

const LIST: &[Field] = &[
    plain("NAME", &["/name"]),
    time("MADE", &["/properties/made"]),
    plain("REASON", &["/properties/reason"]),
    bytes("SIZE", &["/properties/bytes"]),
];
const SHOW: &[Field] = &[
    plain("Destination", &["/properties/policy/destination"]),
    plain("Recipients", &["/shown/recipients"]),
    plain("Continuous", &["/properties/policy/continuous"]),
    plain("Every", &["/shown/every"]),
    plain("Kept", &["/shown/kept"]),
    time("Last success", &["/properties/lastSuccess/made"]),
    plain("Age", &["/shown/age"]),
    plain("Health", &["/properties/health"]),
    plain("Reasons", &["/shown/reasons"]),
];

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: BackupCommand,
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    /// Make a backup now
    Now,
    /// List the backups, and how old the last one is
    List,
    /// Show where backups go, when, and how they stand
    Show,
    /// Say where backups go, and when; what is not said stays as it is
    Schedule(ScheduleArgs),
    /// Make no more backups; those that were made stay
    Stop {
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Check a backup: by the server (its checksum), or with the identity here, all of it
    Verify {
        /// Its name, or with --identity the path of its file
        backup: String,
        #[command(flatten)]
        identity: IdentityArgs,
    },
    /// Make an identity, which opens backups, in a new file; its public key is printed, for `schedule --recipient`
    Keygen {
        /// The new file. Keep it where the configuration server is not, and a copy
        file: PathBuf,
        /// Protect it with the passphrase in this file
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct ScheduleArgs {
    /// An absolute path on the configuration server (a mounted share), or the URL of an object store: s3://BUCKET/PREFIX, az://CONTAINER/PREFIX
    #[arg(long, value_name = "PLACE")]
    to: Option<String>,
    /// A public key (age1…) that backups are encrypted to; again for each other one
    #[arg(long = "recipient", value_name = "KEY")]
    recipients: Vec<String>,
    /// After each change
    #[arg(long)]
    continuous: Option<bool>,
    /// A backup every so often: 1d, 6h; 0s: none
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    every: Option<u64>,
    /// How many of the newest are kept
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// For how many hours one of each hour is kept
    #[arg(long, value_name = "N")]
    keep_hours: Option<u32>,
    /// For how many days one of each day is kept
    #[arg(long, value_name = "N")]
    keep_days: Option<u32>,
}

#[derive(Debug, Args)]
struct IdentityArgs {
    /// The identity, to check everything that is in it
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// The identity's passphrase is in this file [default: it is asked for]
    #[arg(long, value_name = "FILE", requires = "identity")]
    passphrase_file: Option<PathBuf>,
}

/// The identity that opens a backup.
#[derive(Debug, Args)]
pub(crate) struct IdentityFileArgs {
    /// The identity that opens the backup (`switchback backup keygen` made it, or age-keygen)
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// The identity's passphrase is in this file [default: it is asked for]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl IdentityFileArgs {
    pub(crate) fn read(&self) -> anyhow::Result<Identities> {
        identities(&self.identity, self.passphrase_file.as_deref())
    }
}

fn secret(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut contents = Zeroizing::new(Vec::new());
    let file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    file.take(SECRET_LEN_MAX)
        .read_to_end(&mut contents)
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(contents)
}

/// The first line of a file that holds a secret.
pub(super) fn passphrase(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let contents = secret(path)?;
    let text = std::str::from_utf8(&contents).with_context(|| format!("{} is no text", path.display()))?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

fn identities(file: &Path, passphrase_file: Option<&Path>) -> anyhow::Result<Identities> {
    let contents = secret(file)?;
    let phrase = match passphrase_file {
        Some(path) => Some(passphrase(path)?),
        None if needs_passphrase(&contents) => {
            Some(super::confirm::ask_secret("Passphrase of the identity: ")?)
        }
        None => None,
    };
    Identities::read(&contents, phrase.as_ref()).with_context(|| format!("reading {}", file.display()))
}

pub(crate) fn run(args: &BackupArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        BackupCommand::Keygen { file, passphrase_file } => return keygen(file, passphrase_file.as_deref()),
        BackupCommand::Verify {
            backup,
            identity: IdentityArgs { identity: Some(identity), passphrase_file },
        } => {
            return verify_here(backup, identity, passphrase_file.as_deref());
        }
        _ => {}
    }
    session::run(&args.session, async |session| {
        let client = &session.client;
        let id = client.id(path::BACKUP);
        match &args.command {
            BackupCommand::Now => {
                let Reply::Done(made) = client.post(&format!("{id}/run"), None).await? else {
                    bail!("the server did not make the backup at once")
                };
                Ok(session.print_list(LIST, &[made]))
            }
            BackupCommand::List => list(&session, &id).await,
            BackupCommand::Show => Ok(session.print(SHOW, &shown(client.get(&id).await?))),
            BackupCommand::Schedule(schedule) => {
                let before = client.get(&id).await?;
                let body = json!({"properties": {"policy": policy(&before, schedule)?}});
                let Reply::Done(after) = client.put(&id, &body).await? else {
                    bail!("the server did not answer at once")
                };
                Ok(session.print(SHOW, &shown(after)))
            }
            BackupCommand::Stop { confirm } => {
                confirm.confirm("The configuration server will not be backed up any more.")?;
                let reply = client.delete(&id).await?;
                session.conclude(reply, session::WaitArgs::default(), "no more backups are made").await
            }
            BackupCommand::Verify { backup, .. } => {
                let at = format!("{id}/backups/{}/verify", path::encode(backup));
                let Reply::Done(header) = client.post(&at, None).await? else {
                    bail!("the server did not answer at once")
                };
                Ok(session.print_list(LIST, &[header]))
            }
            BackupCommand::Keygen { .. } => Ok(ExitCode::SUCCESS),
        }
    })
}

async fn list(session: &Session, id: &str) -> anyhow::Result<ExitCode> {
    let backups = session.client.list(&format!("{id}/backups"), &[], None).await?;
    let code = session.print_list(LIST, &backups);
    if session.is_for_people() {
        let status = shown(session.client.get(id).await?);
        println!("last success: {}", text_at(&status, "/shown/age"));
        let reasons = text_at(&status, "/shown/reasons");
        if !reasons.is_empty() {
            println!("{}", render::printable(reasons));
        }
    }
    Ok(code)
}

/// The policy that is there, changed as was said.
fn policy(before: &Value, said: &ScheduleArgs) -> anyhow::Result<Value> {
    let mut policy = before.pointer("/properties/policy").filter(|policy| !policy.is_null()).cloned().unwrap_or_else(
        || json!({"continuous": true, "everyMs": 86_400_000, "keep": {"last": 24, "hours": 24, "days": 30}}),
    );
    let mut set = |pointer: &str, value: Option<Value>| {
        if let (Some(place), Some(value)) = (policy.pointer_mut(pointer), value) {
            *place = value;
        }
    };
    set("/continuous", said.continuous.map(Value::from));
    set("/everyMs", said.every.map(Value::from));
    set("/keep/last", said.keep_last.map(Value::from));
    set("/keep/hours", said.keep_hours.map(Value::from));
    set("/keep/days", said.keep_days.map(Value::from));
    if let Some(to) = &said.to {
        policy["destination"] = json!(to);
    }
    if !said.recipients.is_empty() {
        policy["recipients"] = json!(said.recipients);
    }
    if policy.get("destination").is_none() || policy.get("recipients").is_none() {
        bail!(
            "the first time, --to and --recipient are needed: `switchback backup keygen FILE` makes a key and prints its public half"
        );
    }
    Ok(policy)
}

/// With what people read.
fn shown(mut status: Value) -> Value {
    let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64);
    let every = number("/properties/policy/everyMs").unwrap_or(0);
    let keep =
        ["last", "hours", "days"].map(|name| number(&format!("/properties/policy/keep/{name}")).unwrap_or(0));
    let age =
        number("/properties/lastSuccess/ageSeconds").map_or("never".into(), |age| format!("{age} s ago"));
    let recipients = status.pointer("/properties/policy/recipients").and_then(Value::as_array);
    let recipients: Vec<_> = recipients.into_iter().flatten().filter_map(Value::as_str).collect();
    let kept = match keep[0] {
        0 => String::new(),
        last => format!("the last {last}, one an hour for {} hours, one a day for {} days", keep[1], keep[2]),
    };
    let shown = json!({
        "every": if every == 0 { "-".into() } else { duration::show(every) },
        "kept": kept,
        "age": age,
        "recipients": recipients.join(", "),
        "reasons": messages(&status, "/properties/reasons"),
    });
    status["shown"] = shown;
    status
}

fn keygen(file: &Path, passphrase_file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let phrase = passphrase_file.map(passphrase).transpose()?;
    let (contents, public) = new_identity(phrase.as_ref())?;
    let write = || {
        let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        open.write_all(&contents)?;
        open.sync_all()?;
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(parent)?.sync_all()
    };
    write().with_context(|| format!("writing the new file {}", file.display()))?;
    println!("{public}");
    eprintln!(
        "The identity is in {}. Without it no backup can be opened: keep it, and a copy, away from",
        file.display()
    );
    eprintln!("the configuration server.");
    Ok(ExitCode::SUCCESS)
}

/// As a restore does, but for the writing.
fn verify_here(file: &str, identity: &Path, passphrase_file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {file}"))?;
    let inspected = inspect(&bytes).with_context(|| format!("checking {file}"))?;
    let contents =
        inspected.open(&identities(identity, passphrase_file)?).with_context(|| format!("opening {file}"))?;
    let header = inspected.header;
    let prepared =
        prepare(header, contents, SystemClock.now()).with_context(|| format!("checking {file}"))?;
    println!(
        "{file} is whole and can be restored: {} records, {} files",
        prepared.header.records.values().sum::<u64>(),
        prepared.header.files
    );
    Ok(ExitCode::SUCCESS)
}
