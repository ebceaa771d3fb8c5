//! Webhooks: a POST of JSON that its receiver can tell from anybody else's.
//!
//! ```text
//! Switchback-Timestamp: 1700000000                                  seconds since 1970 when it was sent
//! Switchback-Signature: sha256=HEX of HMAC-SHA256(key, TIMESTAMP "." BODY)      RFC 2104
//! ```
//! The receiver computes the same over the bytes that it got, compares in constant time, and takes nothing whose time is minutes away. Any 2xx means that
//! it has the alerts. Invariants: https (or this very host), no redirects followed; what it answers is not read, so that nothing inside a network can be
//! read through this.

use std::time::Duration;

use aws_lc_rs::hmac;
use switchback_model::UnixMillis;
use switchback_sites::trace_context;
use url::Url;
use zeroize::Zeroizing;

use super::delivery::DeliveryError;
use super::{AlertMessage, WebhookWay};
use crate::https::{Plain, client, root_of};

/// When it was sent.
pub const TIMESTAMP_HEADER: &str = "Switchback-Timestamp";
/// Who sent it.
pub const SIGNATURE_HEADER: &str = "Switchback-Signature";
/// For one request.
const LIMIT: Duration = Duration::from_secs(15);

/// The signature's header for a body that is sent at a time.
#[must_use]
pub fn signature(key: &[u8], time: UnixMillis, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    context.update(format!("{}.", time.0 / 1000).as_bytes());
    context.update(body);
    let hex: String = context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

pub(super) fn send(
    way: &WebhookWay,
    key: Option<&Zeroizing<String>>,
    message: &AlertMessage,
) -> Result<(), DeliveryError> {
    let url =
        Url::parse(&way.url).map_err(|error| DeliveryError::of_connection(&way.url, &error.to_string()))?;
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let to = format!("{host}:{port}");
    let failed = |detail: String| DeliveryError::of_connection(&to, &detail);
    let plain =
        if url.scheme() == "http" && way.allow_plain_loopback { Plain::OnThisHost } else { Plain::Never };
    let client = client(way.authority.as_deref(), LIMIT, plain).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(error.to_string()))?;
    let key = key.map(|key| key.as_bytes()).unwrap_or_default();
    let request = client
        .post(url)
        .header("Content-Type", "application/json")
        .header(TIMESTAMP_HEADER, (message.time.0 / 1000).to_string())
        .header(SIGNATURE_HEADER, signature(key, message.time, message.json.as_bytes()))
        .body(message.json.clone());
    let request = trace_context::current()
        .into_iter()
        .fold(request, |request, (name, value)| request.header(name, value));
    let response = runtime
        .block_on(async { request.send().await })
        .map_err(|error| failed(if error.is_timeout() { "it timed out".into() } else { root_of(&error) }))?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    if status.is_redirection() {
        return Err(DeliveryError::new(
            "alerts.redirected",
            format!("{to} answers with {status}: redirects are not followed"),
            "the address is an old one, or somebody wants the alerts elsewhere",
            "give the address that it leads to, if that is where alerts are to go",
        ));
    }
    Err(DeliveryError::new(
        "alerts.refused",
        format!("{to} answers with {status}"),
        "the receiver does not know the address or the signature, or has trouble of its own",
        "look at the receiver's log; check address and key",
    ))
}
