//! `switchback alerts`: who is told of what is not well, by e-mail and webhooks, and when.
//!
//! Passwords and keys come from a terminal, standard input or a file, never from an argument, which everybody on the host could read.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use switchback_model::duration;
use zeroize::Zeroizing;

use super::backup::passphrase;
use super::confirm::{ConfirmArgs, ask_secret};
use super::render::{Field, count, plain, time};
use super::session::{self, Session, SessionArgs, WaitArgs, read_authority};
use crate::client::Reply;
use crate::client::path::{self, text_at};

const LIST: &[Field] = &[
    plain("NAME", &["/name"]),
    plain("TO", &["/shown/to"]),
    plain("FROM SEVERITY", &["/properties/severityMin"]),
    plain("EVERY", &["/shown/interval"]),
    time("LAST SENT", &["/properties/sent"]),
    count("FAILURES", &["/properties/failures"]),
    plain("FAILURE", &["/properties/failure/message"]),
];
const POLICY: &[Field] = &[plain("Delay", &["/shown/delay"]), plain("Reminder after", &["/shown/reminder"])];

#[derive(Debug, Args)]
pub(crate) struct AlertsArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: AlertsCommand,
}

#[derive(Debug, Subcommand)]
enum AlertsCommand {
    /// List where alerts go, and how that gets on
    List,
    /// Send alerts by e-mail, or change how: what is not given is as a new one has it
    Mail(MailArgs),
    /// Send alerts as webhooks, or change how: what is not given is as a new one has it
    Webhook(WebhookArgs),
    /// Send a test, and say why it did not get there
    Test {
        /// The destination's name
        destination: String,
    },
    /// Send no more alerts there
    Remove {
        /// The destination's name
        destination: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Show or change when alerts are sent
    Policy {
        /// What is over sooner is told to nobody
        #[arg(long, value_name = "TIME", value_parser = duration::parse)]
        delay: Option<u64>,
        /// Tell again of what lasts so long; 0: never
        #[arg(long, value_name = "TIME", value_parser = duration::parse)]
        remind_after: Option<u64>,
    },
}

#[derive(Debug, Args)]
struct CommonArgs {
    /// Its name
    destination: String,
    /// Leave out what is less serious
    #[arg(long, value_enum, default_value = "warning")]
    severity: Severity,
    /// At most one message in so long; what gathers meanwhile goes together
    #[arg(long, default_value = "1m", value_name = "TIME", value_parser = duration::parse)]
    interval: u64,
    /// The certificate of the authority of the other side's TLS (PEM) [default: those of the configuration server's host]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct MailArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// The mail server
    #[arg(long, value_name = "NAME")]
    host: String,
    /// Its port [default: 587; 465 for tls, 25 for none]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// How the connection is kept from others
    #[arg(long, value_enum, default_value = "starttls")]
    security: Security,
    /// Who logs in; asks for the password
    #[arg(long)]
    user: Option<String>,
    /// Read the password from this file instead of asking for it
    #[arg(long, value_name = "FILE", requires = "user", conflicts_with = "keep_secret")]
    password_file: Option<PathBuf>,
    /// Keep the password that the destination has
    #[arg(long)]
    keep_secret: bool,
    /// Whom mail is from
    #[arg(long, value_name = "ADDRESS")]
    from: String,
    /// Who gets it. May be given several times
    #[arg(long = "to", required = true, value_name = "ADDRESS")]
    recipients: Vec<String>,
}

#[derive(Debug, Args)]
struct WebhookArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Where to: <https://…>
    #[arg(long)]
    url: String,
    /// Take http, for an address on the configuration server's own host
    #[arg(long)]
    allow_plain_loopback: bool,
    /// Read the key that requests are signed with from this file instead of asking for it
    #[arg(long, value_name = "FILE", conflicts_with = "keep_secret")]
    key_file: Option<PathBuf>,
    /// Keep the key that the destination has
    #[arg(long)]
    keep_secret: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Severity {
    /// Good to know
    Info,
    /// Will become a problem
    Warning,
    /// Is one
    Critical,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Security {
    /// In clear first, then TLS
    Starttls,
    /// TLS from the start
    Tls,
    /// None: a relay that takes mail without a login
    None,
}

impl CommonArgs {
    fn properties(
        &self,
        way: &str,
        mut of_way: Value,
        secret: Option<&Zeroizing<String>>,
    ) -> anyhow::Result<Value> {
        of_way["authority"] = json!(self.ca_file.as_deref().map(read_authority).transpose()?);
        let mut properties = json!({
            "severityMin": format!("{:?}", self.severity), "intervalS": self.interval / 1000,
            "secret": secret.map(|secret| secret.as_str()),
        });
        properties[way] = of_way;
        Ok(json!({ "properties": properties }))
    }
}

/// Of a file, or asked for.
fn secret(file: Option<&PathBuf>, prompt: &str) -> anyhow::Result<Zeroizing<String>> {
    file.map_or_else(|| Ok(ask_secret(prompt)?), |file| passphrase(file))
}

impl MailArgs {
    fn body(&self) -> anyhow::Result<Value> {
        let (security, port) = match self.security {
            Security::Starttls => ("starttls", 587),
            Security::Tls => ("tls", 465),
            Security::None => ("none", 25),
        };
        let is_asked = self.user.is_some() && !self.keep_secret;
        let password = is_asked.then(|| secret(self.password_file.as_ref(), "Password: "));
        let password = password.transpose().context("reading the password")?;
        let mail = json!({
            "host": self.host, "port": self.port.unwrap_or(port), "security": security, "user": self.user,
            "from": self.from, "recipients": self.recipients,
        });
        self.common.properties("mail", mail, password.as_ref())
    }
}

impl WebhookArgs {
    fn body(&self) -> anyhow::Result<Value> {
        let key = (!self.keep_secret).then(|| secret(self.key_file.as_ref(), "Key: "));
        let key = key.transpose().context("reading the key")?;
        let hook = json!({ "url": self.url, "allowPlainLoopback": self.allow_plain_loopback });
        self.common.properties("webhook", hook, key.as_ref())
    }
}

/// What takes more than a pointer.
fn shown(destination: &Value) -> Value {
    let of = |pointer: &str| destination.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let recipients = destination.pointer("/properties/mail/recipients").and_then(Value::as_array);
    let to = match recipients {
        Some(all) => all.iter().map(|one| text_at(one, "")).collect::<Vec<_>>().join(", "),
        None => text_at(destination, "/properties/webhook/url").to_owned(),
    };
    json!({ "to": to, "interval": duration::show(of("/properties/intervalS") * 1000) })
}

fn shown_policy(policy: &Value) -> Value {
    let of = |pointer: &str| policy.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let reminder = match of("/properties/remindAfterS") {
        0 => "never".to_owned(),
        seconds => duration::show(seconds * 1000),
    };
    json!({ "delay": duration::show(of("/properties/delayS") * 1000), "reminder": reminder })
}

fn done(reply: Reply) -> anyhow::Result<Value> {
    match reply {
        Reply::Done(answer) => Ok(answer),
        Reply::Started(_) => bail!("the server did not answer at once"),
    }
}

pub(crate) fn run(args: &AlertsArgs) -> anyhow::Result<ExitCode> {
    session::run(&args.session, async |session| {
        let client = &session.client;
        let id = |name: &str| client.id(&format!("{}/{}", path::ALERT_DESTINATIONS, path::encode(name)));
        let set = async |name: &str, body: anyhow::Result<Value>| {
            let made = done(client.put(&id(name), &body?).await?)?;
            Ok(session.print_list_as(LIST, &[made], shown))
        };
        match &args.command {
            AlertsCommand::List => {
                let all = client.list(&client.id(path::ALERT_DESTINATIONS), &[], None).await?;
                Ok(session.print_list_as(LIST, &all, shown))
            }
            AlertsCommand::Mail(args) => set(&args.common.destination, args.body()).await,
            AlertsCommand::Webhook(args) => set(&args.common.destination, args.body()).await,
            AlertsCommand::Test { destination } => {
                let reply = client.post(&format!("{}/test", id(destination)), None).await?;
                let message = format!("{destination} has taken a test");
                session.conclude(reply, WaitArgs::default(), &message).await
            }
            AlertsCommand::Remove { destination, confirm } => {
                confirm.confirm(&format!("No more alerts will be sent to {destination}."))?;
                let reply = client.delete(&id(destination)).await?;
                let message = format!("no more alerts are sent to {destination}");
                session.conclude(reply, WaitArgs::default(), &message).await
            }
            AlertsCommand::Policy { delay, remind_after } => policy(&session, *delay, *remind_after).await,
        }
    })
}

async fn policy(
    session: &Session,
    delay: Option<u64>,
    remind_after: Option<u64>,
) -> anyhow::Result<ExitCode> {
    let id = session.client.id(path::ALERT_POLICY);
    let mut policy = session.client.get(&id).await?;
    if delay.is_some() || remind_after.is_some() {
        let mut properties = policy["properties"].clone();
        for (name, value) in [("delayS", delay), ("remindAfterS", remind_after)] {
            if let Some(value) = value {
                properties[name] = (value / 1000).into();
            }
        }
        policy = done(session.client.put(&id, &json!({ "properties": properties })).await?)?;
    }
    Ok(session.print_as(POLICY, &policy, shown_policy))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{shown, shown_policy};

    #[test]
    fn destinations_and_the_policy_are_shown_in_a_line() {
        let mail = json!({ "properties": { "mail": { "recipients": ["a@x", "b@x"] }, "intervalS": 90 } });
        assert_eq!(shown(&mail), json!({ "to": "a@x, b@x", "interval": "90s" }));
        let hook = json!({ "properties": { "webhook": { "url": "https://x/" }, "intervalS": 0 } });
        assert_eq!(shown(&hook), json!({ "to": "https://x/", "interval": "0s" }));
        let policy = json!({ "properties": { "delayS": 60, "remindAfterS": 0 } });
        assert_eq!(shown_policy(&policy), json!({ "delay": "1m", "reminder": "never" }));
    }
}
