//! What the API is told when it starts, and its limits.

use std::sync::Arc;
use std::time::Duration;

use switchback_disk::Clock;
use switchback_identity::Authority;

use crate::arm::Vault;
use crate::clients::ClientLimits;
use crate::sign_in::SignInLimits;

/// What the API needs beside the control plane.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// The vault that everything is in.
    pub vault: Vault,
    /// `https://HOST:PORT` that links begin with. `None`: what the client asked for (its `Host` header).
    pub public_url: Option<String>,
    /// The program's version, shown by `GET /`.
    pub build: String,
    /// Whose passphrase is shown to Contributors: with it components enrol here. `None`: this server enrols none.
    pub authority: Option<Arc<Authority>>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// See there.
    pub limits: ApiLimits,
}

/// Limits on what clients can ask of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiLimits {
    /// Bytes of a request's body. The largest that make sense are recovery plans.
    pub body_len_max: usize,
    /// From a request's head to its answer. Work that takes longer is a job.
    pub request_time_max: Duration,
    /// For a request's body to arrive.
    pub body_time_max: Duration,
    /// Requests in hand; more are refused with 429.
    pub requests_max: usize,
    /// Requests that are in the control plane at a time; more wait.
    pub blocking_max: usize,
    /// Elements of a page of a list.
    pub page_len_max: usize,
    /// Of these requests, what one client may ask.
    pub client: ClientLimits,
    /// How issuers of tokens are asked.
    pub sign_in: SignInLimits,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self {
            body_len_max: 1 << 20,
            request_time_max: Duration::from_secs(60),
            body_time_max: Duration::from_secs(20),
            requests_max: 128,
            blocking_max: 16,
            page_len_max: 200,
            client: ClientLimits::default(),
            sign_in: SignInLimits::default(),
        }
    }
}
