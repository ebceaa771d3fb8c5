//! E-mail, by SMTP (RFC 5321), with STARTTLS or TLS from the start.
//!
//! Invariants: with `starttls` and `tls` nothing but the greeting crosses the network in clear, and the certificate is checked; a recipient that the server
//! refuses keeps nobody else from mail. A message has the same Message-ID each time it is sent, so that programs can tell it.

use std::net::ToSocketAddrs;
use std::time::{Duration, SystemTime};

use lettre::Transport as _;
use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::{Error as SmtpError, SmtpTransport};
use zeroize::Zeroizing;

use super::delivery::{DeliveryError, printable};
use super::destination::mailbox;
use super::{AlertMessage, MailSecurity, MailWay};
use crate::https::root_of;

/// For each answer of the server.
const LIMIT: Duration = Duration::from_secs(20);

pub(super) fn send(
    way: &MailWay,
    password: Option<&Zeroizing<String>>,
    message: &AlertMessage,
) -> Result<(), DeliveryError> {
    let recipients: Vec<Mailbox> = way
        .recipients
        .iter()
        .map(|address| mailbox(address))
        .collect::<Result<_, _>>()
        .map_err(|error| DeliveryError(error.error))?;
    if recipients.is_empty() {
        return Err(DeliveryError::new(
            "alerts.no-recipients",
            "nobody is to get mail",
            "the destination has no recipients",
            "name some: `switchback alerts mail … --to ADDRESS`",
        ));
    }
    let to = format!("{}:{}", way.host, way.port);
    let transport = transport(way, password).map_err(|error| explain(&to, way, &error))?;
    // Told apart from what the connection may die of.
    (way.host.as_str(), way.port)
        .to_socket_addrs()
        .map_err(|error| DeliveryError::of_connection(&to, &format!("lookup: {error}")))?;
    match transport.send(&composed(way, &recipients, message)?) {
        Ok(_) => Ok(()),
        // One that is refused ends the whole: the others get theirs one by one.
        Err(error) if error.is_permanent() && recipients.len() > 1 && !is_login(&error) => {
            one_by_one(&transport, way, &recipients, message).map_err(|error| explain(&to, way, &error))
        }
        Err(error) => Err(explain(&to, way, &error)),
    }
}

/// Done when anybody got it; what was refused is logged, as trying again would send it again to those who have it.
fn one_by_one(
    transport: &SmtpTransport,
    way: &MailWay,
    recipients: &[Mailbox],
    message: &AlertMessage,
) -> Result<(), SmtpError> {
    let mut refused = None;
    let mut delivered = false;
    for recipient in recipients {
        let Ok(mail) = composed(way, std::slice::from_ref(recipient), message) else { continue };
        match transport.send(&mail) {
            Ok(_) => delivered = true,
            Err(error) => {
                tracing::warn!(%recipient, error = printable(&root_of(&error)), "an alert was refused for a recipient");
                refused = Some(error);
            }
        }
    }
    match refused {
        Some(error) if !delivered => Err(error),
        _ => Ok(()),
    }
}

fn transport(way: &MailWay, password: Option<&Zeroizing<String>>) -> Result<SmtpTransport, SmtpError> {
    let tls = match way.security {
        MailSecurity::Starttls => Tls::Required(trusted(way)?),
        MailSecurity::Tls => Tls::Wrapper(trusted(way)?),
        MailSecurity::None => Tls::None,
    };
    let builder = SmtpTransport::builder_dangerous(&way.host).port(way.port).tls(tls).timeout(Some(LIMIT));
    Ok(match (&way.user, password) {
        (Some(user), Some(password)) => {
            builder.credentials(Credentials::new(user.clone(), password.to_string())).build()
        }
        _ => builder.build(),
    })
}

fn trusted(way: &MailWay) -> Result<TlsParameters, SmtpError> {
    let mut builder = TlsParameters::builder(way.host.clone());
    if let Some(pem) = &way.authority {
        builder = builder.certificate_store(CertificateStore::None);
        builder = builder.add_root_certificate(Certificate::from_pem(pem.as_bytes())?);
    }
    builder.build_rustls()
}

fn composed(way: &MailWay, to: &[Mailbox], message: &AlertMessage) -> Result<Message, DeliveryError> {
    let from = mailbox(&way.from).map_err(|error| DeliveryError(error.error))?;
    let domain = from.email.domain().to_owned();
    let date = SystemTime::UNIX_EPOCH + Duration::from_millis(message.time.0);
    let builder = Message::builder()
        .from(from)
        .subject(&message.subject)
        .date(date)
        .message_id(Some(format!("<{}@{domain}>", message.id)));
    let builder = to.iter().fold(builder, |builder, to| builder.to(to.clone()));
    builder.header(ContentType::TEXT_PLAIN).body(message.text.clone()).map_err(|error| {
        DeliveryError::new(
            "alerts.mail",
            format!("the mail cannot be written: {error}"),
            "",
            "check the addresses",
        )
    })
}

/// RFC 4954, section 6: what servers answer to a login that they do not take.
fn is_login(error: &SmtpError) -> bool {
    error
        .status()
        .is_some_and(|code| ["530", "534", "535", "538", "454"].contains(&code.to_string().as_str()))
}

fn explain(to: &str, way: &MailWay, error: &SmtpError) -> DeliveryError {
    let detail = printable(&root_of(error));
    if is_login(error) {
        return DeliveryError::new(
            "alerts.login-refused",
            format!("{to} refuses the login of {}: {detail}", way.user.as_deref().unwrap_or("nobody")),
            "the password has changed, or the server wants a login and none is given",
            "set user and password again: `switchback alerts mail`",
        );
    }
    if error.status().is_some() {
        return DeliveryError::new(
            "alerts.refused",
            format!("{to} does not take the mail: {detail}"),
            "it does not take mail from that sender, or does not know a recipient",
            "check sender and recipients",
        );
    }
    if error.is_client() {
        return DeliveryError::new(
            "alerts.mail",
            format!("{to} and this server do not get on: {detail}"),
            "the server offers no STARTTLS, or no way of logging in that is known here",
            "check the security: `tls` for port 465, `starttls` for 587",
        );
    }
    DeliveryError::of_connection(to, &detail)
}
