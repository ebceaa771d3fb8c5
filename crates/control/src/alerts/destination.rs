//! Where alerts go, and what is taken for it.
//!
//! Invariants: a password crosses no network in clear; a webhook is asked by https, or by http on this very host where that was said; what is kept in
//! clear says nothing secret (addresses have no user in them).

use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};
use switchback_model::{ObjectName, Severity};
use url::{Host, Url};
use zeroize::Zeroizing;

use super::invalid;
use crate::{ControlError, https};

/// Recipients of mail at most.
const RECIPIENTS_MAX: usize = 50;
/// Longest address, host or user in bytes.
const TEXT_LEN_MAX: usize = 320;
/// Longest secret in bytes; shortest key of a webhook.
const SECRET_LEN_MAX: usize = 1024;
const KEY_LEN_MIN: usize = 16;
/// Longest authority, PEM, in bytes.
const AUTHORITY_LEN_MAX: usize = 64 << 10;
/// Longest interval in seconds: a day.
const INTERVAL_S_MAX: u64 = 24 * 3600;

/// Where alerts go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertDestination {
    /// Its name.
    pub name: ObjectName,
    /// What is less serious is not sent there.
    pub severity_min: Severity,
    /// Seconds between two messages at least; what gathers meanwhile goes together.
    pub interval_s: u64,
    /// How.
    pub way: AlertWay,
}

/// How alerts are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlertWay {
    /// By e-mail.
    Mail(MailWay),
    /// By an HTTP request.
    Webhook(WebhookWay),
}

/// A mail server, and who gets mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MailWay {
    /// Name or address.
    pub host: String,
    /// Its port: 587 for submission with STARTTLS, 465 with TLS from the start (RFC 8314).
    pub port: u16,
    /// How the connection is kept from others.
    pub security: MailSecurity,
    /// Who logs in; `None`: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whom mail is from.
    pub from: String,
    /// Who gets it; nobody: none is sent.
    pub recipients: Vec<String>,
    /// Certificates, PEM, that the server's TLS is checked by. `None`: this host's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

/// How the connection to a mail server is kept from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MailSecurity {
    /// It begins in clear and must go on with TLS (RFC 3207).
    Starttls,
    /// TLS from the start.
    Tls,
    /// It is not: a relay that takes mail without a login.
    None,
}

/// A receiver of webhooks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookWay {
    /// Where to; https.
    pub url: String,
    /// http is taken, for an address on this very host.
    #[serde(default)]
    pub allow_plain_loopback: bool,
    /// Certificates, PEM, that its TLS is checked by. `None`: this host's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

impl AlertWay {
    /// To what a secret belongs.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Mail(mail) => {
                let user = mail.user.as_deref().unwrap_or_default();
                format!("{user}@{}:{}/{:?}", mail.host, mail.port, mail.security)
            }
            Self::Webhook(hook) => hook.url.clone(),
        }
    }

    pub(super) fn takes_secret(&self) -> bool {
        match self {
            Self::Mail(mail) => mail.user.is_some(),
            Self::Webhook(_) => true,
        }
    }
}

impl AlertDestination {
    /// Whether it makes sense.
    pub(super) fn check(&self, secret: Option<&Zeroizing<String>>) -> Result<(), ControlError> {
        if self.interval_s > INTERVAL_S_MAX {
            return Err(invalid(format!("the interval is {INTERVAL_S_MAX} seconds at most")));
        }
        let authority = match &self.way {
            AlertWay::Mail(mail) => {
                mail.check()?;
                &mail.authority
            }
            AlertWay::Webhook(hook) => {
                hook.check()?;
                &hook.authority
            }
        };
        if let Some(pem) = authority {
            if pem.len() > AUTHORITY_LEN_MAX {
                return Err(invalid(format!("the authority is over {AUTHORITY_LEN_MAX} bytes")));
            }
            https::roots(Some(pem)).map_err(invalid)?;
        }
        let Some(secret) = secret else { return Ok(()) };
        let shortest = if matches!(self.way, AlertWay::Webhook(_)) { KEY_LEN_MIN } else { 1 };
        if !(shortest..=SECRET_LEN_MAX).contains(&secret.len()) {
            return Err(invalid(format!("the secret must have {shortest} to {SECRET_LEN_MAX} bytes")));
        }
        Ok(())
    }
}

fn text(what: &str, text: &str) -> Result<(), ControlError> {
    if text.is_empty() || text.len() > TEXT_LEN_MAX || text.chars().any(|c| c.is_control() || c == ' ') {
        return Err(invalid(format!(
            "{what} is from 1 to {TEXT_LEN_MAX} bytes without blanks and control characters"
        )));
    }
    Ok(())
}

/// Whether a host is this very one, by what it is called and not by what a name server says.
fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
        Host::Domain(name) => *name == "localhost",
    }
}

pub(super) fn mailbox(address: &str) -> Result<Mailbox, ControlError> {
    address.parse().map_err(|error| invalid(format!("{address:?} is no address for e-mail: {error}")))
}

impl MailWay {
    fn check(&self) -> Result<(), ControlError> {
        text("the mail server", &self.host)?;
        let is_local = Host::parse(&self.host).is_ok_and(|host| match &host {
            Host::Domain(name) => is_loopback(&Host::Domain(name)),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        });
        if let Some(user) = &self.user {
            text("the user", user)?;
            if self.security == MailSecurity::None && !is_local {
                return Err(invalid(format!("the password of {user} would cross the network in clear"))
                    .remedy("use starttls (port 587) or tls (port 465); or a relay that takes mail without a login"));
            }
        }
        if self.recipients.len() > RECIPIENTS_MAX {
            return Err(invalid(format!("mail has {RECIPIENTS_MAX} recipients at most: use a list")));
        }
        for address in self.recipients.iter().chain([&self.from]) {
            if address.len() > TEXT_LEN_MAX {
                return Err(invalid(format!("an address has {TEXT_LEN_MAX} bytes at most")));
            }
            mailbox(address)?;
        }
        Ok(())
    }
}

impl WebhookWay {
    fn check(&self) -> Result<(), ControlError> {
        text("the webhook's address", &self.url)?;
        let wrong = |why: &str| invalid(format!("the webhook's address {why}"));
        let url = Url::parse(&self.url).map_err(|error| wrong(&format!("is none: {error}")))?;
        let host = url.host().ok_or_else(|| wrong("names no host"))?;
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(wrong("has a user or a fragment in it"));
        }
        match url.scheme() {
            "https" => Ok(()),
            "http" if self.allow_plain_loopback && is_loopback(&host) => Ok(()),
            _ => Err(wrong("is not of https").remedy(
                "use https; http is taken for 127.0.0.1, [::1] and localhost where that is allowed by allowPlainLoopback",
            )),
        }
    }
}
